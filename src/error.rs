//! How a guarded connection fails.

use std::boxed::Box;
use std::fmt;
use std::time::Duration;

use crate::event::CloseReason;
use crate::status::Status;

/// Why a [`TimeoutSocket`](crate::TimeoutSocket) failed. A peer's Close and the end that follows are no error: the stream
/// ends with `None`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// The policy ended the connection.
    Verdict(Verdict),
    /// The socket inside failed.
    Socket(E),
    /// The connection had ended before without a verdict, or the closing handshake has begun, by either
    /// side: nothing can be sent. From the stream: it ended because a write failed, and the send was told why.
    Closed,
    /// `start_send` was called twice without `poll_ready` in between. The message was not taken.
    NotReady,
    /// This code can never be sent in a Close frame (RFC 6455, 7.4). Nothing was done.
    CloseCode(u16),
    /// The value has no form in JSON. Nothing was sent.
    #[cfg(feature = "json")]
    Json(serde_json::Error),
}

/// Why and in what state the policy ended a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The limit that was reached first.
    pub reason: CloseReason,
    /// How long it was, where it is not one of the configuration but of a single call.
    pub within: Option<Duration>,
    /// What was known when it was.
    pub status: Box<Status>,
    /// How the closing went.
    pub close_handshake: CloseHandshake,
}

/// The peer's Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerClose {
    /// Its code; `None` if it had none.
    pub code: Option<u16>,
}

/// How the closing handshake after a verdict went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseHandshake {
    /// It is under way.
    UnderWay,
    /// The peer answered our Close frame.
    Answered,
    /// The peer did not answer our Close frame within `close_timeout`, or left without an answer.
    Unanswered,
    /// A Close frame went out, and the transport was dropped with it.
    Sent,
    /// No Close frame went out: the reason has no code, or it could not be written.
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
                "{code} cannot be sent in a Close frame, accepted are 1000 to 1003, 1007 to 1014 and 3000 to 4999"
            ),
            #[cfg(feature = "json")]
            Self::Json(error) => write!(f, "the value cannot be sent as JSON: {error}"),
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

/// The limit that was reached, how the closing went, and the status then.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.reason)?;
        match self.within {
            Some(within) => write!(f, "a send was not done within the {within:?} it was given")?,
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
            Self::Unanswered => "close ignored",
            Self::Sent => "told and dropped",
            Self::NotSent => "dropped",
        })
    }
}
