//! The errors of a [`TimeoutSocket`](crate::TimeoutSocket).

use std::boxed::Box;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::TimeoutConfig;
use crate::event::{CloseReason, Phase};
use crate::status::{DeadlineKind, Status};
use crate::time::Plain;

/// An error of a [`TimeoutSocket`](crate::TimeoutSocket).
///
/// A Close frame from the peer is not an error: the stream ends with `None`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error<E> {
    /// The policy ended the connection: a limit expired, or the connection reached its lifetime or
    /// was drained.
    Verdict(Verdict),
    /// The inner socket failed.
    Socket(E),
    /// The connection has ended, or is closing.
    ///
    /// A send returns this if the connection ended without a verdict, or if the program or the peer
    /// started the closing handshake. Nothing was sent. The stream returns it after a
    /// failed write whose error a send has already returned.
    Closed,
    /// `start_send` was called before `poll_ready` returned `Ready`. The message was not sent.
    NotReady,
    /// A Close frame must not contain this code (RFC 6455, 7.4). Nothing was sent.
    CloseCode(u16),
    /// The value cannot be serialized as JSON. Nothing was sent.
    #[cfg(feature = "json")]
    Json(serde_json::Error),
}

/// The reason why the policy ended a connection, and the state at that time. `Display` writes one
/// line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// The reason, which usually names the limit that expired first.
    pub reason: CloseReason,
    /// The limit that was exceeded, as configured or as passed to a call such as `send_timeout`.
    /// `None` if the limit is not a duration, and for a probe.
    pub limit: Option<Duration>,
    /// The state of the connection at the verdict.
    pub status: Box<Status>,
    /// The outcome of the closing handshake.
    pub close_handshake: CloseHandshake,
    pub(crate) is_limit_of_call: bool,
    pub(crate) rate: Option<NonZeroU32>,
}

/// The peer's Close frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerClose {
    /// The code of the frame, or `None` if it had no code.
    pub code: Option<u16>,
}

/// The outcome of the closing handshake after a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseHandshake {
    /// The closing handshake is in progress.
    InProgress,
    /// The peer answered our Close frame.
    Answered,
    /// The peer did not answer our Close frame within `close_timeout`, or disconnected without an
    /// answer.
    Unanswered,
    /// A Close frame was sent, and the transport was dropped without waiting for the answer.
    Sent,
    /// No Close frame was sent: the reason has no code, or the frame could not be written.
    NotSent,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Socket(error) => error.fmt(f),
            Self::Closed => f.write_str("the connection is closed or closing"),
            Self::NotReady => f.write_str("start_send was called before poll_ready returned Ready"),
            Self::CloseCode(code) => write!(
                f,
                "close code {code} must not be sent: expected 1000 to 1003, 1007 to 1014 or 3000 to 4999"
            ),
            #[cfg(feature = "json")]
            Self::Json(error) => write!(f, "the value cannot be serialized as JSON: {error}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // `Display` has already written the inner error.
            Self::Socket(error) => error.source(),
            _ => None,
        }
    }
}

impl Verdict {
    /// Returns the limit that was passed to a call such as `send_timeout`, or `None` if a
    /// configured limit expired.
    pub fn call_limit(&self) -> Option<Duration> {
        self.limit.filter(|_| self.is_limit_of_call)
    }

    /// Returns the limit that was exceeded, if it is a rate: bytes per second for
    /// [`SlowReceive`](CloseReason::SlowReceive), pings per second for
    /// [`PingFlood`](CloseReason::PingFlood).
    pub fn rate(&self) -> Option<u32> {
        self.rate.map(NonZeroU32::get)
    }

    pub(crate) fn new(
        reason: CloseReason,
        config: &TimeoutConfig,
        status: Status,
        close_handshake: CloseHandshake,
    ) -> Self {
        let mut verdict = Self {
            reason,
            limit: config.limit_of(reason),
            rate: match reason {
                CloseReason::SlowReceive => config.min_data_rate,
                CloseReason::PingFlood => config.max_ping_rate,
                _ => None,
            },
            is_limit_of_call: false,
            status: Box::new(status),
            close_handshake,
        };
        if verdict.is_probe_timeout() {
            verdict.limit = None;
        }
        verdict
    }

    /// Returns how long ago a deadline expired, if it has.
    fn overdue(&self, kind: DeadlineKind) -> Option<Duration> {
        let at = self.status.deadlines.get(kind)?;
        let has_expired = at <= self.status.at;
        has_expired.then(|| self.status.at.saturating_duration_since(at))
    }

    /// Returns whether the unanswered ping was that of a probe, which has its own limit.
    fn is_probe_timeout(&self) -> bool {
        self.reason == CloseReason::PongTimeout && self.overdue(DeadlineKind::Probe).is_some()
    }

    /// Writes the measured values, in words.
    fn write_measured(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        match self.reason {
            CloseReason::HandshakeTimeout => {
                let age = Plain(status.age);
                write!(f, "the opening handshake was incomplete after {age}")
            }
            CloseReason::ConnectionTimeout => write!(f, "open for {}", Plain(status.age)),
            CloseReason::IdleTimeout if Some(status.silent) >= self.limit => {
                write!(f, "received nothing for {}", Plain(status.silent))
            }
            CloseReason::IdleTimeout => {
                let quiet = Plain(status.since_data);
                write!(f, "no message in either direction for {quiet}")
            }
            CloseReason::MessageTimeout if self.is_limit_of_call => {
                f.write_str("a send did not complete in time")
            }
            CloseReason::MessageTimeout => {
                let is_blocked_write = self.overdue(DeadlineKind::Write).is_some();
                match status.ping_unsent.filter(|_| !is_blocked_write) {
                    Some(unsent) => write!(f, "a ping waited {} to be written", Plain(unsent)),
                    // A grace, progress and changed limits move the deadline, so the start of the
                    // write is unknown.
                    None => f.write_str("a write made too little progress"),
                }
            }
            CloseReason::PongTimeout if self.is_probe_timeout() => {
                f.write_str("a probe was not answered in time")
            }
            CloseReason::PongTimeout => {
                let unanswered = Plain(status.ping_unanswered.unwrap_or_default());
                write!(f, "ping unanswered for {unanswered}")
            }
            CloseReason::CloseTimeout => {
                let closing = Plain(status.closing.unwrap_or_default());
                write!(f, "the closing handshake was incomplete after {closing}")
            }
            CloseReason::SlowReceive => f.write_str("a message arrived too slowly"),
            CloseReason::PingFlood => f.write_str("the peer sent too many pings"),
            CloseReason::Drain => f.write_str("requested by this program"),
        }
    }

    /// Writes the limit that was exceeded.
    fn write_limit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.limit, self.rate()) {
            (Some(limit), _) => {
                let note = match self.reason {
                    _ if self.is_limit_of_call => ", set by the caller",
                    CloseReason::ConnectionTimeout if self.status.age < limit => ", less jitter",
                    _ => "",
                };
                write!(f, " (limit {}{note})", Plain(limit))
            }
            (None, Some(rate)) => {
                let unit = match self.reason {
                    CloseReason::SlowReceive => "byte",
                    _ => "ping",
                };
                write!(
                    f,
                    " (limit {rate} {unit}{} per second)",
                    plural(rate.into())
                )
            }
            (None, None) => Ok(()),
        }
    }
}

/// Writes the outcome of the closing handshake, the reason, the measured value, its limit, and
/// other parts of the state.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        write!(f, "{}: {}: ", self.close_handshake, self.reason)?;
        self.write_measured(f)?;
        self.write_limit(f)?;
        let is_written = self.reason == CloseReason::PongTimeout && !self.is_probe_timeout();
        if let Some(waiting) = status.ping_unanswered.filter(|_| !is_written) {
            write!(f, "; ping unanswered for {}", Plain(waiting))?;
        }
        if status.partial_bytes > 0 {
            let (bytes, s) = (status.partial_bytes, plural(status.partial_bytes));
            write!(f, "; {bytes} byte{s} of an incomplete message")?;
        }
        if status.phase == Phase::Opening {
            return Ok(());
        }
        if self.reason != CloseReason::ConnectionTimeout {
            write!(f, "; age {}", Plain(status.age))?;
        }
        let (pings, pongs) = (status.pings_sent, status.pongs_received);
        write!(
            f,
            "; {pings} ping{}, {pongs} pong{}",
            plural(pings),
            plural(pongs)
        )?;
        if let Some(rtt) = status.rtt {
            write!(f, ", rtt {}", Plain(rtt.smoothed))?;
        }
        Ok(())
    }
}

const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl std::error::Error for Verdict {}

impl fmt::Display for CloseHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProgress => "closing",
            Self::Answered => "close answered",
            Self::Unanswered => "close unanswered",
            Self::Sent => "aborted after a Close frame",
            Self::NotSent => "aborted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each item of the stream has room for a verdict.
    #[test]
    fn a_verdict_is_small() {
        assert_eq!(size_of::<Verdict>(), 32);
    }
}
