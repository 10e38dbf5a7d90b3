//! The state of a policy as a value, for logs, metrics and debuggers.

use core::fmt;
use core::time::Duration;

use crate::event::{CloseReason, Phase};
use crate::rtt::Rtt;
use crate::time::{Plain, Timestamp};

/// The state of a policy at one instant, returned by
/// [`TimeoutPolicy::status`](crate::TimeoutPolicy::status).
///
/// Every duration is measured up to [`Status::at`]. `Display` writes one line for a log; with
/// feature `json`, `Serialize` writes an object for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The instant of this status.
    pub at: Timestamp,
    /// The phase of the connection.
    pub phase: Phase,
    /// The first reason that the policy gave for ending the connection.
    pub cause: Option<CloseReason>,
    /// Time since the connection opened, or in phase `Opening` since the handshake began.
    pub age: Duration,
    /// How long the closing handshake has been in progress; `None` if it has not begun, or is over.
    pub closing: Option<Duration>,
    /// Time since something was last received, less the time for which the peer is excused.
    ///
    /// The peer is excused for the time until the transport last accepted bytes ahead of a waiting
    /// ping, and for the delay of a ping that was requested or flushed late.
    pub silent: Duration,
    /// Time since all pending writes were last flushed.
    pub since_flush: Duration,
    /// Time since data was last transferred in either direction.
    pub since_data: Duration,
    /// How long a requested ping has been waiting to be flushed, measured from the request or from
    /// when the transport last accepted bytes. `None` if no ping is waiting.
    pub ping_unsent: Option<Duration>,
    /// How long a ping has been unanswered, measured from when it was flushed, or from when the
    /// transport last accepted bytes ahead of it. `None` if no ping is unanswered.
    pub ping_unanswered: Option<Duration>,
    /// Whether the `message_timeout` timer of a write is running.
    pub write_waiting: bool,
    /// The bytes received of an incomplete message; 0 if there is none.
    pub partial_bytes: u64,
    /// The number of pings requested; the latest may not have been sent yet.
    pub pings_sent: u64,
    /// The number of pongs that gave a round-trip time; other pongs are not counted.
    pub pongs_received: u64,
    /// The round-trip estimate; `None` before the first sample.
    pub rtt: Option<Rtt>,
    /// The time until the stall grace ends; `None` if none is running.
    pub grace_left: Option<Duration>,
    /// Every deadline that is set.
    pub deadlines: Deadlines,
}

/// Writes one line: the phase and the age, the last receipt and flush, then what is unusual, then
/// the time left until each deadline.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };

        write!(f, "{}, age {}", self.phase, Plain(self.age))?;
        if let Some(cause) = self
            .cause
            .filter(|&cause| self.phase != Phase::Aborted(cause))
        {
            write!(f, ", cause {cause}")?;
        }
        if let Some(closing) = self.closing {
            write!(f, "; closing for {}", Plain(closing))?;
        }
        write!(
            f,
            "; silent for {}, last flush {} ago",
            Plain(self.silent),
            Plain(self.since_flush)
        )?;
        if let Some(waiting) = self.ping_unsent {
            write!(f, "; ping unsent for {}", Plain(waiting))?;
        }
        if let Some(waiting) = self.ping_unanswered {
            write!(f, "; ping unanswered for {}", Plain(waiting))?;
        }
        if self.write_waiting {
            f.write_str("; write waiting")?;
        }
        if self.partial_bytes > 0 {
            let (bytes, s) = (self.partial_bytes, plural(self.partial_bytes));
            write!(f, "; {bytes} byte{s} of an incomplete message")?;
        }
        write!(
            f,
            "; {} ping{}, {} pong{}",
            self.pings_sent,
            plural(self.pings_sent),
            self.pongs_received,
            plural(self.pongs_received)
        )?;
        if let Some(rtt) = self.rtt {
            write!(f, ", rtt {}", Plain(rtt.smoothed))?;
        }
        if let Some(left) = self.grace_left {
            write!(f, "; grace ends in {}", Plain(left))?;
        }
        for (kind, at) in self.deadlines.iter() {
            if at > self.at {
                let left = Plain(at.saturating_duration_since(self.at));
                write!(f, "; {kind} in {left}")?;
            } else {
                let late = Plain(self.at.saturating_duration_since(at));
                write!(f, "; {kind} overdue by {late}")?;
            }
        }
        Ok(())
    }
}

/// Writes an object with every duration in seconds. `deadlines` contains the time left until each
/// deadline, negative if it is overdue.
#[cfg(feature = "json")]
impl serde::Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let seconds = |duration: Duration| duration.as_secs_f64();
        let mut object = serializer.serialize_struct("Status", 16)?;
        object.serialize_field("phase", &self.phase)?;
        object.serialize_field("cause", &self.cause)?;
        object.serialize_field("age", &seconds(self.age))?;
        object.serialize_field("closing", &self.closing.map(seconds))?;
        object.serialize_field("silent", &seconds(self.silent))?;
        object.serialize_field("since_flush", &seconds(self.since_flush))?;
        object.serialize_field("since_data", &seconds(self.since_data))?;
        object.serialize_field("ping_unsent", &self.ping_unsent.map(seconds))?;
        object.serialize_field("ping_unanswered", &self.ping_unanswered.map(seconds))?;
        object.serialize_field("write_waiting", &self.write_waiting)?;
        object.serialize_field("partial_bytes", &self.partial_bytes)?;
        object.serialize_field("pings_sent", &self.pings_sent)?;
        object.serialize_field("pongs_received", &self.pongs_received)?;
        object.serialize_field("rtt_us", &self.rtt)?;
        object.serialize_field("grace_left", &self.grace_left.map(seconds))?;
        object.serialize_field("deadlines", &DeadlinesLeft(self))?;
        object.end()
    }
}

/// The time left until each deadline, in seconds.
#[cfg(feature = "json")]
struct DeadlinesLeft<'a>(&'a Status);

#[cfg(feature = "json")]
impl serde::Serialize for DeadlinesLeft<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let now = self.0.at;
        serializer.collect_map(self.0.deadlines.iter().map(|(kind, at)| {
            (
                kind,
                at.saturating_duration_since(now).as_secs_f64()
                    - now.saturating_duration_since(at).as_secs_f64(),
            )
        }))
    }
}

/// The deadlines that are set, in the order in which a poll checks them. A deadline that a stall
/// grace covers has the instant at which the grace ends.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// Room for as many as can be set in one phase.
    rows: [Option<(DeadlineKind, Timestamp)>; 10],
}

impl Deadlines {
    /// Iterates over the deadlines, each with its instant.
    pub fn iter(&self) -> impl Iterator<Item = (DeadlineKind, Timestamp)> + '_ {
        self.rows.iter().copied().flatten()
    }

    /// Returns the instant of a deadline; `None` if it is not set.
    pub fn get(&self, kind: DeadlineKind) -> Option<Timestamp> {
        self.iter().find(|&(of, _)| of == kind).map(|(_, at)| at)
    }

    pub(crate) fn push(&mut self, kind: DeadlineKind, at: Timestamp) {
        if let Some(free) = self.rows.iter_mut().find(|row| row.is_none()) {
            *free = Some((kind, at));
        }
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The kinds of deadlines. The [specification](crate::spec#deadlines) has the table of all
/// deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum DeadlineKind {
    /// Abort the opening handshake (`handshake_timeout`).
    Handshake,
    /// Abort the closing handshake (`close_timeout`).
    Close,
    /// Close at the maximum lifetime (`connection_timeout`).
    Connection,
    /// Close as scheduled by [`Event::Drain`](crate::Event::Drain).
    Drain,
    /// Abort because a write is blocked (`message_timeout`).
    Write,
    /// Abort because a requested ping is blocked (`message_timeout`, or `pong_timeout` if that is
    /// off).
    PingWrite,
    /// Abort because the peer sends pings too fast (`max_ping_rate`).
    PingFlood,
    /// Abort because a message arrives too slowly (`min_data_rate`).
    Receive,
    /// Abort because an [`Event::Probe`](crate::Event::Probe) is unanswered.
    Probe,
    /// Abort because a ping is unanswered (`pong_timeout`).
    Pong,
    /// Close because the connection is idle (`idle_timeout`).
    Idle,
    /// Send the next ping (`ping_interval`).
    NextPing,
}

impl fmt::Display for DeadlineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake",
            Self::Close => "close",
            Self::Connection => "connection",
            Self::Drain => "drain",
            Self::Write => "write",
            Self::PingWrite => "ping write",
            Self::PingFlood => "ping flood",
            Self::Receive => "receive",
            Self::Probe => "probe",
            Self::Pong => "pong",
            Self::Idle => "idle",
            Self::NextPing => "next ping",
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;
    use crate::rtt::RttEstimator;

    const SECOND: Duration = Duration::from_secs(1);

    fn quiet() -> Status {
        let mut deadlines = Deadlines::default();
        deadlines.push(DeadlineKind::Pong, Timestamp::from_millis(92_500));
        deadlines.push(DeadlineKind::Idle, Timestamp::from_millis(69_965));
        Status {
            at: Timestamp::from_secs(70),
            phase: Phase::Open,
            cause: None,
            age: Duration::from_nanos(60_035_633_000),
            closing: None,
            silent: Duration::from_nanos(60_035_999_999),
            since_flush: 37 * SECOND,
            since_data: 60 * SECOND,
            ping_unsent: None,
            ping_unanswered: None,
            write_waiting: false,
            partial_bytes: 0,
            pings_sent: 0,
            pongs_received: 2,
            rtt: None,
            grace_left: None,
            deadlines,
        }
    }

    #[test]
    fn a_quiet_connection_is_one_short_line() {
        assert_eq!(
            quiet().to_string(),
            "open, age 60.035 s; silent for 60.035 s, last flush 37 s ago; 0 pings, 2 pongs; \
             pong in 22.5 s; idle overdue by 35 ms"
        );
    }

    #[test]
    fn status_display_names_unusual_states() {
        let status = Status {
            phase: Phase::Closing,
            cause: Some(CloseReason::IdleTimeout),
            closing: Some(4 * SECOND),
            ping_unsent: Some(SECOND),
            ping_unanswered: Some(2 * SECOND),
            write_waiting: true,
            partial_bytes: 1,
            pings_sent: 1,
            rtt: Some(RttEstimator::first(40_000).estimate()),
            grace_left: Some(3 * SECOND),
            deadlines: Deadlines::default(),
            ..quiet()
        };
        assert_eq!(
            status.to_string(),
            "closing, age 60.035 s, cause idle_timeout; closing for 4 s; silent for 60.035 s, last flush 37 s ago; \
             ping unsent for 1 s; ping unanswered for 2 s; write waiting; \
             1 byte of an incomplete message; 1 ping, 2 pongs, rtt 40 ms; grace ends in 3 s"
        );
    }

    #[test]
    fn the_reason_of_an_abort_is_not_repeated_as_its_cause() {
        let aborted = |cause| {
            let phase = Phase::Aborted(CloseReason::CloseTimeout);
            let cause = Some(cause);
            Status {
                phase,
                cause,
                ..quiet()
            }
            .to_string()
        };
        let line = aborted(CloseReason::CloseTimeout);
        assert!(
            line.starts_with("aborted (close_timeout), age 60.035 s; "),
            "{line}"
        );
        let line = aborted(CloseReason::Drain);
        assert!(
            line.starts_with("aborted (close_timeout), age 60.035 s, cause drain; "),
            "{line}"
        );
    }
}
