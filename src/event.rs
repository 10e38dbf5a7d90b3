//! What goes into a policy and what comes out.

use core::fmt;
use core::time::Duration;

use crate::seed::PingId;
use crate::time::Timestamp;

/// Something that happened. See each variant for what it does while the connection is open; an event
/// that does not fit the phase is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// The opening handshake is done: every clock of the open connection starts.
    Opened,
    /// A whole data message came.
    Recv,
    /// Bytes came of a message or frame that is not whole.
    RecvPartial {
        /// How many so far; 0 if none is begun. More than before is a sign of life, and moves the
        /// receive clock; less only lowers the total.
        total: u64,
    },
    /// The peer's ping.
    Ping,
    /// A pong. `None` if its payload is no [`PingId`].
    Pong(Option<PingId>),
    /// A write waits for the transport: the write clock starts, unless it runs.
    SendStart,
    /// The transport took some bytes of what waits, but not all.
    SendProgress {
        /// How many; 0 is no event.
        bytes: u64,
    },
    /// Everything handed over is flushed, a data message among it.
    SendOk,
    /// Everything handed over is flushed, with control frames only.
    Flushed,
    /// The ping that was asked for is flushed, with all before it: the wait for its pong begins.
    PingSent(PingId),
    /// The caller doubts the link (a resume, a change of network): the peer must answer soon.
    Probe {
        /// How soon, from now; of several the nearest counts, and 0 is a verdict at once.
        within: Duration,
    },
    /// This side wants to be rid of the connection.
    Drain {
        /// It closes after a part of this that is drawn from the seed; of several the nearest counts.
        within: Duration,
    },
    /// This side begins a closing handshake on its own account.
    CloseStart,
    /// The peer's Close frame came.
    PeerClose,
    /// The transport is gone.
    Closed,
    /// Time passed.
    Tick,
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write a ping with [`PingId::payload`], flush, and then observe [`Event::PingSent`]. Said once a
    /// ping. Poll again.
    SendPing(PingId),
    /// Begin the closing handshake, with the reason's code; the policy is `Closing` from here. Said at
    /// most once. Poll again.
    Close(CloseReason),
    /// Drop the transport now; a Close frame goes out only if it can be written at once. Said at every
    /// later poll.
    Abort(CloseReason),
    /// Nothing to do.
    Idle {
        /// Until then, or until the next event if `None`. Always later than the `now` of the poll.
        until: Option<Timestamp>,
    },
}

/// How far a connection has come. Phases only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Phase {
    /// The opening handshake is under way.
    Opening,
    /// The connection is open.
    Open,
    /// The closing handshake is under way, begun by either side.
    Closing,
    /// The transport is gone.
    Closed,
    /// The policy told its driver to drop the transport.
    Aborted(CloseReason),
}

/// Why the policy ended a connection. Its names are those of the limits.
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
    /// The connection reached the end of its life.
    ConnectionTimeout,
    /// A write, or a ping that was asked for, waited longer than `message_timeout`.
    MessageTimeout,
    /// There was silence for `idle_timeout`.
    IdleTimeout,
    /// A ping or probe was not answered in time.
    PongTimeout,
    /// The closing handshake took longer than `close_timeout`.
    CloseTimeout,
    /// A message trickled in more slowly than `min_data_rate`.
    SlowReceive,
    /// The peer pinged faster than `max_ping_rate`.
    PingFlood,
    /// This side asked the connection to go.
    Drain,
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
    /// The code of the Close frame that tells the peer; `None` where none is sent.
    ///
    /// A drain can be configured to send 1012 instead: see
    /// [`TimeoutConfig::close_code`](crate::TimeoutConfig::close_code).
    pub const fn code(self) -> Option<u16> {
        match self {
            // "1001 indicates that an endpoint is "going away"" (RFC 6455, 7.4.1)
            Self::IdleTimeout | Self::ConnectionTimeout | Self::Drain => Some(1001),
            // "1011 indicates that a server is terminating the connection because it encountered an
            // unexpected condition that prevented it from fulfilling the request"
            Self::PongTimeout => Some(1011),
            // "1008 indicates that an endpoint is terminating the connection because it has received a
            // message that violates its policy"
            Self::SlowReceive | Self::PingFlood => Some(1008),
            Self::MessageTimeout | Self::HandshakeTimeout | Self::CloseTimeout => None,
        }
    }

    /// Whether this side meant the connection to end, because it has lived its life or was asked to go.
    /// Every other reason is trouble.
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

    /// The name as the configuration has it, such as `pong_timeout`.
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

    /// What to say to the peer: the text of the Close frame, at most 123 bytes.
    pub const fn text(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "the opening handshake took too long",
            Self::ConnectionTimeout => "the connection reached its maximum lifetime",
            Self::MessageTimeout => "a write made no progress for too long",
            Self::IdleTimeout => "received no data for too long",
            Self::PongTimeout => "a ping was not answered in time",
            Self::CloseTimeout => "the closing handshake took too long",
            Self::SlowReceive => "a message arrived too slowly",
            Self::PingFlood => "too many pings",
            Self::Drain => "this endpoint is going away",
        }
    }
}

/// The [`name`](CloseReason::name).
impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
