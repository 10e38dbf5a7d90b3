//! The input and output of a policy.
//!
//! The driver of a connection reports each [`Event`] when it happens. Polling the policy returns an
//! [`Action`], which the driver carries out. A [`Phase`] is a stage of the connection, and a
//! [`CloseReason`] says why the policy ended the connection.

use core::fmt;
use core::time::Duration;

use crate::seed::PingId;
use crate::time::Timestamp;

/// Something that happened on a connection, reported to
/// [`TimeoutPolicy::observe`](crate::TimeoutPolicy::observe).
///
/// Each variant describes its effect while the connection is open. The policy ignores an event that
/// does not fit its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// The opening handshake completed. Starts the timers of an open connection.
    Opened,
    /// A whole data message was received.
    Recv,
    /// Bytes of an incomplete message or frame were received.
    RecvPartial {
        /// The bytes received so far; 0 if no message is incomplete.
        ///
        /// An increase counts as something received and extends the deadline that `min_data_rate`
        /// sets. A decrease only lowers the total.
        total: u64,
    },
    /// A ping was received.
    Ping,
    /// A pong was received. `None` if its payload is not a [`PingId`].
    ///
    /// `max_ping_rate` does not limit pongs. A driver may observe one that answers no ping as
    /// [`Ping`](Self::Ping), as the socket does.
    Pong(Option<PingId>),
    /// A write is waiting for the transport. Starts the `message_timeout` timer, unless it is
    /// running.
    SendStart,
    /// The transport accepted some of the bytes that are waiting, but not all.
    SendProgress {
        /// The bytes accepted since the last report. 0 has no effect.
        bytes: u64,
    },
    /// All pending writes were flushed, including at least one data message. Stops the
    /// `message_timeout` timer.
    SendOk,
    /// All pending writes were flushed, all of them control frames. Stops the `message_timeout`
    /// timer.
    ///
    /// If the requested ping was the only one, observe [`PingSent`](Self::PingSent) alone.
    Flushed,
    /// The requested ping and everything before it were flushed. Starts the `pong_timeout` timer.
    ///
    /// Observe it with the time after the flush. If that is later than the request by more than
    /// `stall_tolerance`, the process may have been suspended in between, and the peer's silence in
    /// that time does not count.
    PingSent(PingId),
    /// Requires proof of life within `within`, for example after a suspend or a network change.
    ///
    /// Requests a ping immediately, unless one is already waiting or unanswered. Expires as
    /// [`CloseReason::PongTimeout`].
    Probe {
        /// How soon the peer must answer, measured from this event.
        ///
        /// The earliest of several deadlines counts. 0 expires immediately.
        within: Duration,
    },
    /// Schedules a graceful close at a random point within `within`, for example at shutdown.
    Drain {
        /// The longest wait, measured from this event. The policy's seed determines the point.
        ///
        /// The earliest of several points counts. 0 closes immediately.
        within: Duration,
    },
    /// This side started a closing handshake, for example because the application closed the
    /// connection.
    CloseStart,
    /// The peer's Close frame was received.
    PeerClose,
    /// The transport is closed.
    Closed,
    /// Time passed. Has no effect.
    Tick,
}

/// What the driver must do next, returned by [`TimeoutPolicy::poll`](crate::TimeoutPolicy::poll).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write a ping with [`PingId::payload`], flush it, observe [`Event::PingSent`], and poll
    /// again.
    ///
    /// Returned once for each ping.
    SendPing(PingId),
    /// Start the closing handshake with
    /// [`TimeoutConfig::close_code`](crate::TimeoutConfig::close_code), and poll again.
    ///
    /// Returned at most once. The policy is in [`Phase::Closing`] from then on.
    Close(CloseReason),
    /// Drop the transport now. If the reason has a close code, first send a Close frame with it,
    /// provided that the frame can be written immediately.
    ///
    /// Every later poll returns the same action.
    Abort(CloseReason),
    /// Do nothing now.
    Idle {
        /// When to poll again, unless an event comes first. `None`: not before the next event.
        ///
        /// Always later than the `now` of the poll.
        until: Option<Timestamp>,
    },
}

/// The phase of a connection. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Phase {
    /// The opening handshake is in progress.
    Opening,
    /// The connection is open.
    Open,
    /// The closing handshake is in progress, started by either side.
    Closing,
    /// The transport is closed.
    Closed,
    /// The policy returned [`Action::Abort`] with this reason.
    Aborted(CloseReason),
}

/// Why the policy ended a connection. Most reasons have the name of the limit that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum CloseReason {
    /// The opening handshake took longer than `handshake_timeout`.
    HandshakeTimeout,
    /// The connection reached its maximum lifetime, `connection_timeout` less jitter.
    ConnectionTimeout,
    /// A write, or a requested ping, waited longer than `message_timeout` without progress.
    MessageTimeout,
    /// `idle_timeout` expired: nothing was received, or in scope `messages` no data was
    /// transferred.
    IdleTimeout,
    /// The peer did not answer a ping within `pong_timeout`, or a probe in time.
    PongTimeout,
    /// The closing handshake took longer than `close_timeout`.
    CloseTimeout,
    /// A message arrived more slowly than `min_data_rate`.
    SlowReceive,
    /// The peer sent pings faster than `max_ping_rate`.
    PingFlood,
    /// A scheduled close was due: see [`Event::Drain`].
    Drain,
}

impl Event {
    /// Returns the name in snake case, such as `send_ok`, for traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Recv => "recv",
            Self::RecvPartial { .. } => "recv_partial",
            Self::Ping => "ping",
            Self::Pong(_) => "pong",
            Self::SendStart => "send_start",
            Self::SendProgress { .. } => "send_progress",
            Self::SendOk => "send_ok",
            Self::Flushed => "flushed",
            Self::PingSent(_) => "ping_sent",
            Self::Probe { .. } => "probe",
            Self::Drain { .. } => "drain",
            Self::CloseStart => "close_start",
            Self::PeerClose => "peer_close",
            Self::Closed => "closed",
            Self::Tick => "tick",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening => f.write_str("opening"),
            Self::Open => f.write_str("open"),
            Self::Closing => f.write_str("closing"),
            Self::Closed => f.write_str("closed"),
            Self::Aborted(reason) => write!(f, "aborted ({reason})"),
        }
    }
}

impl CloseReason {
    /// Returns the code of the Close frame for this reason, or `None` if no Close frame is sent.
    ///
    /// A drain can be configured to send 1012 instead of 1001:
    /// [`TimeoutConfig::close_code`](crate::TimeoutConfig::close_code) returns the code that
    /// applies.
    pub const fn code(self) -> Option<u16> {
        match self {
            // "1001 indicates that an endpoint is "going away"" (RFC 6455, 7.4.1)
            Self::IdleTimeout | Self::ConnectionTimeout | Self::Drain => Some(1001),
            // "1011 indicates that a server is terminating the connection because it encountered an
            // unexpected condition that prevented it from fulfilling the request"
            Self::PongTimeout => Some(1011),
            // "1008 indicates that an endpoint is terminating the connection because it has
            // received a message that violates its policy"
            Self::SlowReceive | Self::PingFlood => Some(1008),
            Self::MessageTimeout | Self::HandshakeTimeout | Self::CloseTimeout => None,
        }
    }

    /// Returns whether the close was planned: a drain, or the end of the connection's lifetime.
    /// Every other reason is a failure.
    ///
    /// ```
    /// use ws_timeout::CloseReason;
    ///
    /// assert!(CloseReason::ConnectionTimeout.is_planned() && CloseReason::Drain.is_planned());
    /// assert!(!CloseReason::IdleTimeout.is_planned());
    /// ```
    pub const fn is_planned(self) -> bool {
        matches!(self, Self::ConnectionTimeout | Self::Drain)
    }

    /// Returns the name, such as `pong_timeout`, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "handshake_timeout",
            Self::ConnectionTimeout => "connection_timeout",
            Self::MessageTimeout => "message_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::PongTimeout => "pong_timeout",
            Self::CloseTimeout => "close_timeout",
            Self::SlowReceive => "slow_receive",
            Self::PingFlood => "ping_flood",
            Self::Drain => "drain",
        }
    }

    /// Returns the text of the Close frame, at most 123 bytes.
    pub const fn text(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "the opening handshake took too long",
            Self::ConnectionTimeout => "the connection reached its maximum lifetime",
            Self::MessageTimeout => "a write made no progress for too long",
            Self::IdleTimeout => "the connection was idle for too long",
            Self::PongTimeout => "a ping was not answered in time",
            Self::CloseTimeout => "the closing handshake took too long",
            Self::SlowReceive => "a message arrived too slowly",
            Self::PingFlood => "too many pings",
            Self::Drain => "this endpoint is going away",
        }
    }
}

/// Writes the [`name`](CloseReason::name).
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
