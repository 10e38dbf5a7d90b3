//! [`TimeoutSocket`]: the type, its accessors, and the traits that it implements.
//!
//! A [`TimeoutSocket`] is a [`Driver`] behind fast paths. Its state is in values with their own
//! tests, and one loop works on them:
//!
//! | module | what it holds |
//! |---|---|
//! | [`alarm`] | the timer, and what its firing proves |
//! | [`outbox`] | the write queue: ordering and retries |
//! | [`teardown`] | how the connection ends, and which half reports it |
//! | [`heartbeat`] | the layer below: messages that serve as Ping and Pong frames |
//! | [`wakers`] | which tasks are woken |
//! | [`driver`] | all of the above in one value |
//! | [`event_loop`] | the loop that drives it: read, write, decide, arm |
//! | [`evidence`] | the evidence for a verdict: the horizon, the kernel's answers, the backlog |
//! | [`fairness`] | when to stop reading, for other tasks or for a peer that does not read |
//! | [`fast`] | the fast paths, which skip the loop for most messages |
//! | [`input`], [`output`] | what a received message means; how the outbox is drained |
//! | [`ending`] | carrying out a close or an abort |
//! | [`options`], [`calls`], [`open`] | constructors and builders; calls with a future; opening handshakes |
//! | [`limits`] | limits of such calls; a new configuration, a probe, a drain |
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

/// A WebSocket that enforces timeouts. **Keep reading from it**: it detects silence and receives
/// pongs only while a task polls the reading half, so a program that only sends must poll that too.
///
/// Wraps any `Stream + Sink` of WebSocket messages (tokio-tungstenite, async-tungstenite, …). You
/// get the same `Stream + Sink`; errors are [`ws_timeout::Error`](Error). `StreamExt::split` works
/// on it; the halves are a plain stream and sink, without the methods below. The functions in
/// [`runtime`](crate::runtime) create one. It spawns no task.
///
/// It differs from the inner socket:
///
/// * When the policy ends the connection, the stream yields [`Error::Verdict`] and then `None`.
///   Sends fail with it at once. If the policy closes the connection, the stream first yields what
///   the peer still sends. If the policy aborts it, unread input is lost with the transport.
/// * The stream does not yield the first pong that carries the ID of our latest ping, nor the
///   peer's answer to a Close frame of the policy, nor the messages of a heartbeat
///   ([`with_heartbeat`](Self::with_heartbeat) and similar). It yields everything else unchanged.
/// * When the stream ends, it drops the inner socket, and the transport with it.
/// * When a write fails, the stream continues for at most `close_timeout`, since the peer's last
///   messages may still be on their way.
///
/// Receiving is cancel safe: dropping the future loses no message. If the future of a send is
/// dropped, the message is sent whole or not at all.
///
/// # Busy peers
///
/// A verdict on the peer requires that everything that had arrived by the deadline was read. A peer
/// that sends faster than the program reads would delay the verdict without limit. So once the
/// socket has read another 32 MiB, the largest receive buffer that Linux allows by default,
/// everything from before the deadline counts as read. The socket counts the bytes of the
/// [meter](Self::with_meter), or without one each message's payload plus two bytes. Over a
/// [`Metered::socket`](crate::Metered::socket) it asks the kernel how much has arrived instead.
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

    /// Returns a snapshot of everything known about the connection.
    pub fn status(&self) -> Status {
        self.fast.status()
    }

    /// Returns the inner socket, for example to ask the transport for its address; `None` once the
    /// connection has ended.
    pub fn get_ref(&self) -> Option<&S> {
        self.fast.driver().inner.as_ref().map(Heartbeats::get_ref)
    }

    /// Stops enforcing timeouts and returns the inner socket; `None` once the connection has ended.
    /// What the inner socket has buffered stays there. A message, ping or reply that is waiting for
    /// room is lost.
    pub fn into_inner(mut self) -> Option<S> {
        self.fast.drive(|driver| {
            let inner = driver.leave()?;
            driver.end_link();
            Some(inner.into_inner())
        })
    }

    /// Returns the name given by [`with_label`](Self::with_label).
    pub fn label(&self) -> Option<&str> {
        self.fast.driver().label()
    }

    /// Returns the peer's Close frame, also after the end; `None` if none came.
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

    /// Starts the closing handshake with an empty Close frame, unless it has started, and flushes
    /// the frame. The stream ends when the handshake does.
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
