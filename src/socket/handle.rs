//! A handle to a socket that another task owns, whole or split.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::string::ToString;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(doc)]
use super::TimeoutSocket;
use super::calls::can_be_sent;
use super::link::Link;
use crate::config::TimeoutConfig;
use crate::error::{Error, PeerClose};
use crate::status::{DeadlineKind, Status};

/// A handle to a [`TimeoutSocket`] that another task owns, returned by [`TimeoutSocket::handle`].
///
/// You can use it in any task, even after `StreamExt::split` and after the connection has ended.
/// Clones are handles to the same socket. A handle does not keep the connection open.
///
/// The task that polls the socket carries out the requests: immediately if it is waiting for a
/// message, or once an opening handshake in progress is complete. If no task polls the socket, a
/// request waits until one does.
///
/// ```
/// # use std::time::Duration;
/// # use futures_util::StreamExt;
/// # use tokio_tungstenite::WebSocketStream;
/// # use tungstenite::protocol::Role;
/// # use ws_timeout::{CloseReason, TimeoutConfig, runtime::tokio::wrap};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (ours, peers) = tokio::io::duplex(1024);
/// # let stream = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
/// # let client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
/// # tokio::spawn(async move { client.for_each(|_| async {}).await });
/// let mut socket = wrap(TimeoutConfig::default(), stream);
/// let handle = socket.handle();
/// let (_writer, mut reader) = socket.split();
/// let reading = tokio::spawn(async move { while let Some(Ok(_)) = reader.next().await {} });
///
/// assert_eq!(handle.status().await.pings_sent, 0);
/// handle.drain(Duration::from_secs(1))?;
/// reading.await?;
/// assert_eq!(handle.status().await.cause, Some(CloseReason::Drain));
/// assert!(handle.drain(Duration::ZERO).is_err(), "the connection has ended");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    pub(super) link: Arc<Link>,
}

impl Handle {
    /// Returns the connection's number, unique among the connections of its
    /// [`Timeouts`](crate::Timeouts); 0 if it has none.
    pub fn id(&self) -> u64 {
        self.link.id()
    }

    /// Returns the name set by [`TimeoutSocket::with_label`], if any.
    pub fn label(&self) -> Option<Arc<str>> {
        self.link.label()
    }

    /// Returns whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.link.has_ended()
    }

    /// Returns the peer's Close frame, or `None` if none was received. This also works after the
    /// connection has ended.
    pub fn peer_close(&self) -> Option<PeerClose> {
        self.link.peer_close()
    }

    /// Returns a snapshot of the connection's state. After the end, returns the last snapshot
    /// immediately.
    ///
    /// The future waits until a task polls the socket, so set a timeout if that task may be busy
    /// for a long time. **Never await it in the task that reads the socket**: that task would wait
    /// for itself forever. If you have the whole socket, call [`TimeoutSocket::status`].
    pub fn status(&self) -> impl Future<Output = Status> + Send + use<> {
        StatusRequest {
            link: self.link.clone(),
            number: None,
        }
    }

    /// Returns how much of the connection's lifetime is left, at least zero, or `None` if the
    /// lifetime is unlimited or the connection is not open.
    ///
    /// The future waits as [`status`](Self::status) does, so **never await it in the task that
    /// reads the socket**. If you have the whole socket, [`TimeoutSocket::status`] contains the
    /// same deadline.
    pub fn remaining_lifetime(&self) -> impl Future<Output = Option<Duration>> + Send + use<> {
        let (status, link) = (self.status(), self.link.clone());
        async move {
            let status = status.await;
            if link.has_ended() {
                return None;
            }
            let end = status.deadlines.get(DeadlineKind::Connection)?;
            Some(end.saturating_duration_since(status.at))
        }
    }

    /// Schedules a graceful close at a random point within `within`, as [`TimeoutSocket::drain`]
    /// does. The time is measured from when the socket's task carries out the request.
    ///
    /// # Errors
    /// Returns [`Error::Closed`] if the connection has ended.
    pub fn drain(&self, within: Duration) -> Result<(), Error<Infallible>> {
        or_closed(self.link.drain(within))
    }

    /// Requires proof of life within `within`, as [`TimeoutSocket::probe`] does. The time is
    /// measured from when the socket's task carries out the request.
    ///
    /// # Errors
    /// Returns [`Error::Closed`] if the connection has ended.
    pub fn probe(&self, within: Duration) -> Result<(), Error<Infallible>> {
        or_closed(self.link.probe(within))
    }

    /// Changes the limits of the connection, as [`TimeoutSocket::set_config`] does.
    ///
    /// # Errors
    /// Returns [`Error::Closed`] if the connection has ended.
    pub fn set_config(
        &self,
        config: impl Into<Arc<TimeoutConfig>>,
    ) -> Result<(), Error<Infallible>> {
        let config = config.into();
        or_closed(self.link.request(|requests| requests.config = Some(config)))
    }

    /// Starts the closing handshake with `code` and as much of `reason` as fits, unless it has
    /// started already. The stream ends at most `close_timeout` later.
    ///
    /// # Errors
    /// Returns [`Error::CloseCode`] if `code` must not be sent, and [`Error::Closed`] if the
    /// connection has ended.
    pub fn close(&self, code: u16, reason: &str) -> Result<(), Error<Infallible>> {
        if !can_be_sent(code) {
            return Err(Error::CloseCode(code));
        }
        let frame = (code, reason.to_string());
        or_closed(self.link.request(|requests| {
            requests.close.get_or_insert(frame);
        }))
    }
}

/// A pending request for the status of a connection.
struct StatusRequest {
    link: Arc<Link>,
    /// `None` until the first poll.
    number: Option<u64>,
}

impl Future for StatusRequest {
    type Output = Status;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Status> {
        let Self { link, number } = &mut *self;
        link.poll_status(number, cx)
    }
}

impl Drop for StatusRequest {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.link.forget_status_request(number);
        }
    }
}

/// Returns an error if a request was not accepted, because the connection has ended.
fn or_closed(accepted: bool) -> Result<(), Error<Infallible>> {
    match accepted {
        true => Ok(()),
        false => Err(Error::Closed),
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id())
            .field("label", &self.label())
            .field("has_ended", &self.has_ended())
            .finish()
    }
}
