//! How a guarded connection fails.

use std::boxed::Box;
use std::fmt;
use std::time::Duration;

use crate::event::CloseReason;
use crate::status::Status;

/// Why a [`TimeoutSocket`](crate::TimeoutSocket) failed.
///
/// A Close frame from the peer is not an error: the stream ends with `None`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// The policy ended the connection: a limit expired, or it reached its lifetime or was drained.
    Verdict(Verdict),
    /// The inner socket failed.
    Socket(E),
    /// From a send: the connection ended without a verdict, or either side started the closing
    /// handshake. Nothing was sent. From the stream: a write failed, and a send has already returned
    /// the error.
    Closed,
    /// `start_send` was called twice without `poll_ready` in between. The message was not taken.
    NotReady,
    /// This code must not be sent in a Close frame (RFC 6455, 7.4). Nothing was done.
    CloseCode(u16),
    /// The value cannot be written as JSON. Nothing was sent.
    #[cfg(feature = "json")]
    Json(serde_json::Error),
}

/// Why the policy ended a connection, and in what state it was.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The limit that expired first.
    pub reason: CloseReason,
    /// The limit passed to a call such as `send_timeout`; `None` if a configured limit expired.
    pub within: Option<Duration>,
    /// The state that led to the verdict.
    pub status: Box<Status>,
    /// The outcome of the closing handshake.
    pub close_handshake: CloseHandshake,
}

/// The peer's Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerClose {
    /// Its code; `None` if it had none.
    pub code: Option<u16>,
}

/// The outcome of the closing handshake after a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseHandshake {
    /// The closing handshake is in progress.
    UnderWay,
    /// The peer answered our Close frame.
    Answered,
    /// The peer did not answer our Close frame within `close_timeout`, or left without an answer.
    Unanswered,
    /// A Close frame was sent, and the transport was dropped at once.
    Sent,
    /// No Close frame was sent: the reason has no code, or the frame could not be written.
    NotSent,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Socket(error) => error.fmt(f),
            Self::Closed => f.write_str("the connection is closed"),
            Self::NotReady => f.write_str("start_send was called before poll_ready was ready"),
            Self::CloseCode(code) => write!(
                f,
                "close code {code} must not be sent: expected 1000 to 1003, 1007 to 1014 or 3000 to 4999"
            ),
            #[cfg(feature = "json")]
            Self::Json(error) => write!(f, "the value cannot be written as JSON: {error}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The error itself is what this one displays.
            Self::Socket(error) => error.source(),
            _ => None,
        }
    }
}

/// The limit that expired, how the closing handshake went, and the status.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.reason)?;
        match self.within {
            Some(within) => write!(
                f,
                "a send did not complete within the {within:?} that its caller allowed"
            )?,
            None => f.write_str(self.reason.text())?,
        }
        write!(f, " ({}): {}", self.close_handshake, self.status)
    }
}

impl std::error::Error for Verdict {}

impl fmt::Display for CloseHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnderWay => "closing",
            Self::Answered => "close answered",
            Self::Unanswered => "close unanswered",
            Self::Sent => "close sent, dropped",
            Self::NotSent => "dropped",
        })
    }
}
