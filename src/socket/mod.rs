//! [`TimeoutSocket`]: the type, its accessors, and the traits that it implements.
//!
//! A [`TimeoutSocket`] is a [`Driver`] behind fast paths. The driver's state is in values with
//! their own tests, and a single loop works on them:
//!
//! | module | what it holds |
//! |---|---|
//! | [`alarm`] | the timer, and the horizon that it proves when it fires |
//! | [`outbox`] | the write queue: ordering and retries |
//! | [`teardown`] | how the connection ends, and which half reports it |
//! | [`heartbeat`] | the layer below: messages that serve as Ping and Pong frames |
//! | [`wakers`] | the tasks to wake |
//! | [`driver`] | all of the above in one value |
//! | [`event_loop`] | the loop that drives it: read, write, decide, arm |
//! | [`evidence`] | the evidence for a verdict: the horizon, the kernel's answers, the backlog |
//! | [`fairness`] | when to stop reading, for other tasks or for a peer that does not read |
//! | [`fast`] | the fast paths, which skip the loop for most messages |
//! | [`input`], [`output`] | handling received messages; draining the outbox |
//! | [`ending`] | carrying out a close or an abort |
//! | [`options`], [`calls`], [`open`] | constructors and builders; calls with a future; opening handshakes |
//! | [`limits`] | limits of single calls; a new configuration, a probe, a drain |
//! | [`handle`], [`link`], [`timeouts`] | requests from other tasks; all connections of a server |

// First, so that the constructors and the builders open the page of `TimeoutSocket` in rustdoc.
mod options;

mod alarm;
mod calls;
mod driver;
mod ending;
mod event_loop;
mod evidence;
mod fairness;
mod fast;
mod handle;
mod heartbeat;
mod input;
mod limits;
mod link;
mod open;
mod outbox;
mod output;
mod teardown;
mod timeouts;
mod wakers;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::{FusedStream, Stream, TryStream};
use futures_util::sink::Sink;

use crate::config::TimeoutConfig;
use crate::error::{Error, PeerClose};
use crate::message::{Message, close_message};
use crate::status::Status;
use crate::timer::Timer;

pub use calls::Received;
use driver::Driver;
use fast::FastPath;
pub use handle::Handle;
use heartbeat::Heartbeats;
pub(crate) use link::Link;
pub use open::Opening;
pub use timeouts::Timeouts;

/// A WebSocket that enforces timeouts.
///
/// **Keep reading from it**: it detects silence and receives pongs only while a task polls the
/// reading half. A program that only sends must poll the reading half too.
///
/// A `TimeoutSocket` wraps any `Stream + Sink` of WebSocket messages, such as those of
/// tokio-tungstenite and async-tungstenite, and is the same `Stream + Sink` itself; its errors are
/// [`ws_timeout::Error`](Error). `StreamExt::split` works on it; the halves are a plain stream and
/// a plain sink, without the methods below. It spawns no tasks.
///
/// The functions in [`runtime`](crate::runtime) create one:
///
/// ```
/// # use tokio_tungstenite::WebSocketStream;
/// # use tungstenite::protocol::Role;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (ours, peers) = tokio::io::duplex(1024);
/// # let stream = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
/// # let _silent_peer = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
/// use ws_timeout::{CloseReason, Error, TimeoutConfig, runtime::tokio::wrap};
///
/// let mut socket = wrap(TimeoutConfig::default(), stream);
/// socket.send_text("hello").await?;
/// let error = socket.recv().await.unwrap_err(); // the peer is silent
/// let Error::Verdict(verdict) = error else { panic!() };
/// assert_eq!(verdict.reason, CloseReason::IdleTimeout);
/// # Ok(())
/// # }
/// ```
///
/// It differs from the inner socket as follows:
///
/// * When the policy ends the connection, the stream yields [`Error::Verdict`] and then `None`.
///   Sends immediately fail with the same verdict. If the policy closes the connection, the stream
///   first yields everything that the peer still sends. If the policy aborts the connection, unread
///   input is lost.
/// * The stream does not yield the first pong with the ID of our latest ping, the peer's answer to
///   the policy's Close frame, or the messages of a heartbeat
///   ([`with_heartbeat`](Self::with_heartbeat) and similar). It yields everything else unchanged.
/// * When the stream ends, it drops the inner socket, and with it the transport.
/// * When a write fails, the stream continues for at most `close_timeout`, since the peer's last
///   messages may still arrive.
///
/// Receiving is cancel safe: dropping the future loses no message. If you drop the future of a
/// send, the message is sent whole or not at all.
///
/// # Busy peers
///
/// Before a verdict that blames the peer, the socket must have read everything that had arrived by
/// the deadline. A peer that sends faster than the program reads could delay the verdict forever.
/// So once the socket has read another 32 MiB, the largest receive buffer that Linux allows by
/// default, everything from before the deadline counts as read. The socket counts the
/// [meter's](Self::with_meter) bytes or, without a meter, each message's payload plus two bytes.
/// Over a [`Metered::socket`](crate::Metered::socket), it asks the kernel how much has arrived
/// instead.
#[must_use = "a socket does nothing unless it is polled"]
pub struct TimeoutSocket<S: TryStream, T: Timer> {
    fast: FastPath<S, T>,
}

impl<S: TryStream, T: Timer> TimeoutSocket<S, T> {
    fn with_driver(driver: Driver<S, T>) -> Self {
        Self {
            fast: FastPath::new(driver),
        }
    }

    /// Returns a snapshot of the connection's state.
    pub fn status(&self) -> Status {
        self.fast.status()
    }

    /// Returns a reference to the inner socket, for example to get the transport's address, or
    /// `None` once the connection has ended.
    pub fn get_ref(&self) -> Option<&S> {
        self.fast.driver().inner.as_ref().map(Heartbeats::get_ref)
    }

    /// Stops enforcing timeouts and returns the inner socket, or `None` once the connection has
    /// ended.
    ///
    /// The inner socket keeps what it has buffered. A message, ping or reply that is waiting for
    /// room in it is lost.
    pub fn into_inner(mut self) -> Option<S> {
        self.fast.drive(|driver| {
            let inner = driver.leave()?;
            driver.end_link();
            Some(inner.into_inner())
        })
    }

    /// Returns the name set by [`with_label`](Self::with_label), if any.
    pub fn label(&self) -> Option<&str> {
        self.fast.driver().label()
    }

    /// Returns the peer's Close frame, or `None` if none was received. This also works after the
    /// connection has ended.
    pub fn peer_close(&self) -> Option<PeerClose> {
        self.fast.driver().teardown.peer_close()
    }

    /// Returns the current configuration.
    pub fn config(&self) -> &TimeoutConfig {
        self.fast.driver().policy.config()
    }
}

impl<S, T, M, E> Stream for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    type Item = Result<M, Error<E>>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().fast.poll_recv(cx)
    }
}

impl<S, T, M, E> FusedStream for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    fn is_terminated(&self) -> bool {
        self.fast.driver().teardown.is_terminated()
    }
}

impl<S, T, M, E> Sink<M> for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    type Error = Error<E>;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().fast.poll_ready(cx)
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), Self::Error> {
        self.get_mut().fast.start_send(message)
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().fast.poll_flush(cx)
    }

    /// Starts the closing handshake with an empty Close frame, unless it has started already, and
    /// flushes the frame. The stream ends when the handshake does, so keep reading.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let frame = close_message(None, "");
        self.fast.drive(|driver| driver.begin_close(frame));
        self.poll_flush(cx)
    }
}

impl<S: TryStream, T: Timer> Drop for TimeoutSocket<S, T> {
    fn drop(&mut self) {
        self.fast.drive(|driver| {
            if let Some(inner) = driver.leave() {
                drop(inner);
                driver.end_link();
            }
        });
    }
}

impl<S: TryStream, T: Timer + fmt::Debug> fmt::Debug for TimeoutSocket<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.fast.driver();
        f.debug_struct("TimeoutSocket")
            .field("policy", &driver.policy)
            .field("timer", driver.alarm.timer())
            .field("label", &driver.label())
            .field("verdict", &driver.teardown.verdict())
            .finish_non_exhaustive()
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(0_u64)
}
