//! How a guarded connection fails.

use std::boxed::Box;
use std::fmt;
use std::time::Duration;

use crate::config::TimeoutConfig;
use crate::event::{CloseReason, Phase};
use crate::status::{DeadlineKind, Status};
use crate::time::Plain;

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
    /// The limit that was exceeded, as configured or as passed to a call such as `send_timeout`; `None` if
    /// it is not a length of time.
    pub limit: Option<Duration>,
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

impl Verdict {
    pub(crate) fn new(
        reason: CloseReason,
        config: &TimeoutConfig,
        status: Status,
        close_handshake: CloseHandshake,
    ) -> Self {
        Self {
            reason,
            limit: config.limit_of(reason),
            within: None,
            status: Box::new(status),
            close_handshake,
        }
    }

    /// Writes what was measured, in words.
    fn write_measured(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        let overdue = |kind| {
            let at = status.deadlines.get(kind)?;
            let late = status.at.saturating_duration_since(at);
            self.limit?.checked_add(late)
        };
        match (self.reason, self.limit) {
            (CloseReason::HandshakeTimeout, Some(_)) => {
                write!(f, "the opening handshake took {}", Plain(status.age))
            }
            (CloseReason::ConnectionTimeout, Some(_)) => {
                write!(f, "open for {}, jitter included", Plain(status.age))
            }
            (CloseReason::IdleTimeout, Some(limit)) if status.silent >= limit => {
                write!(f, "received nothing for {}", Plain(status.silent))
            }
            (CloseReason::IdleTimeout, Some(_)) => {
                let quiet = Plain(status.since_active);
                write!(f, "no message in either direction for {quiet}")
            }
            (CloseReason::MessageTimeout, Some(_)) if self.within.is_some() => {
                f.write_str("a send did not complete within the limit of its caller")
            }
            (CloseReason::MessageTimeout | CloseReason::PongTimeout, Some(_)) => {
                match (status.ping_unsent, status.ping_unanswered) {
                    (Some(unsent), _) if !status.write_waits => {
                        write!(f, "a ping waited {} to be written", Plain(unsent))
                    }
                    (_, Some(unanswered)) if self.reason == CloseReason::PongTimeout => {
                        write!(f, "ping unanswered for {}", Plain(unanswered))
                    }
                    _ => match overdue(DeadlineKind::Write) {
                        Some(waited) => write!(f, "a write made no progress for {}", Plain(waited)),
                        None => f.write_str(self.reason.text()),
                    },
                }
            }
            _ => f.write_str(self.reason.text()),
        }
    }
}

/// Writes the outcome of the closing handshake, the limit, what was measured, and what else is known.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        write!(f, "{}: {}: ", self.close_handshake, self.reason)?;
        self.write_measured(f)?;
        if let Some(limit) = self.limit {
            write!(f, " (limit {})", Plain(limit))?;
        }
        let unanswered = status.ping_unanswered;
        if let Some(waiting) = unanswered.filter(|_| self.reason != CloseReason::PongTimeout) {
            write!(f, "; ping unanswered for {}", Plain(waiting))?;
        }
        if status.partial_bytes > 0 {
            let bytes = status.partial_bytes;
            write!(f, "; {bytes} bytes of an incomplete message")?;
        }
        if status.phase != Phase::Opening {
            let plural = |count| if count == 1 { "" } else { "s" };
            let (pings, pongs) = (status.pings_sent, status.pongs_received);
            write!(f, "; age {}", Plain(status.age))?;
            write!(
                f,
                "; {pings} ping{}, {pongs} pong{}",
                plural(pings),
                plural(pongs)
            )?;
        }
        if let Some(rtt) = status.rtt {
            write!(f, ", rtt {}", Plain(rtt.smoothed))?;
        }
        Ok(())
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
