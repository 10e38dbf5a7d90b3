//! Reports about connections, as values for logs, metrics and recorders.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::TimeoutConfig;
use crate::error::{PeerClose, Verdict};
use crate::event::{Action, Event};
use crate::policy::Horizon;
use crate::rtt::Rtt;
use crate::seed::PingId;
use crate::status::Status;
use crate::time::Timestamp;

/// Receives reports about the connections of a [`Timeouts`](crate::Timeouts).
///
/// The task that polls the connection calls its methods, so they must return quickly, and must not
/// block or panic. If you set no observer, [`Log`](crate::Log) writes the reports to the `log`
/// crate. With feature `tracing`, the observer `Tracing` emits spans and events.
///
/// For example, an observer that counts verdicts (`examples/metrics.rs` counts more, and serves
/// `/metrics`):
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use ws_timeout::{Connection, Log, Observer, Report, TimeoutConfig, Timeouts};
///
/// #[derive(Default)]
/// struct Metrics {
///     idle: AtomicUsize,
///     other: AtomicUsize,
/// }
///
/// impl Observer for Metrics {
///     fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
///         if let Report::Verdict { verdict, .. } = report {
///             let count = match verdict.reason.name() {
///                 "idle_timeout" => &self.idle,
///                 _ => &self.other,
///             };
///             count.fetch_add(1, Ordering::Relaxed);
///         }
///         Log.report(connection, report); // keep the log
///     }
/// }
///
/// let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(Metrics::default());
/// # drop(timeouts);
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Handles a report about a connection.
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>);

    /// Handles a step: a call to the connection's policy, or the connection's end. By default it
    /// does nothing. Called only if [`wants_steps`](Self::wants_steps) returns true.
    fn step(&self, connection: &Connection<'_>, at: Timestamp, step: &Step<'_>) {
        let _ = (connection, at, step);
    }

    /// Returns whether to call [`step`](Self::step). The default is false. Called once for each
    /// connection, when it begins.
    fn wants_steps(&self) -> bool {
        false
    }
}

/// Reports to both observers, in order.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        self.0.report(connection, report);
        self.1.report(connection, report);
    }

    fn step(&self, connection: &Connection<'_>, at: Timestamp, step: &Step<'_>) {
        if self.0.wants_steps() {
            self.0.step(connection, at, step);
        }
        if self.1.wants_steps() {
            self.1.step(connection, at, step);
        }
    }

    fn wants_steps(&self) -> bool {
        self.0.wants_steps() || self.1.wants_steps()
    }
}

/// Reports to the shared observer. You can keep a clone, for example to read its counts.
impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        (**self).report(connection, report);
    }

    fn step(&self, connection: &Connection<'_>, at: Timestamp, step: &Step<'_>) {
        (**self).step(connection, at, step);
    }

    fn wants_steps(&self) -> bool {
        (**self).wants_steps()
    }
}

/// The connection that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Connection<'a> {
    /// The connection's number, unique among the connections of its [`Timeouts`](crate::Timeouts);
    /// 0 if it has none.
    pub id: u64,
    /// The name set by [`TimeoutSocket::with_label`](crate::TimeoutSocket::with_label), if any, not
    /// escaped. A user or a peer may have chosen it.
    pub label: Option<&'a str>,
    /// Where `Tracing` keeps the connection's span; `None` for a connection without an observer.
    #[cfg(feature = "tracing")]
    pub(crate) span: Option<&'a crate::tracing::ConnectionSpan>,
}

/// A report about a connection, passed to [`Observer::report`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Report<'a> {
    /// The socket was polled for the first time.
    #[non_exhaustive]
    Opened {
        /// The limits of the connection.
        config: &'a TimeoutConfig,
        /// How late the connection's timers may fire.
        slack: Duration,
        /// Whether a [`Meter`](crate::Meter) counts the connection's bytes.
        metered: bool,
    },
    /// The opening handshake failed with an error, not with a verdict.
    #[non_exhaustive]
    HandshakeError {
        /// The error of the handshake.
        error: &'a dyn fmt::Display,
    },
    /// A ping was flushed.
    #[non_exhaustive]
    Ping {
        /// The payload of the ping.
        id: PingId,
    },
    /// A pong was received that gave a round-trip time.
    #[non_exhaustive]
    Pong {
        /// The round-trip estimate that includes it.
        rtt: Option<Rtt>,
    },
    /// This process stalled, so the peer gets a grace instead of a verdict.
    #[non_exhaustive]
    Grace {
        /// The state of the connection.
        status: &'a Status,
    },
    /// The machine resumed from a suspension, and the socket probes the peer.
    #[non_exhaustive]
    Resumed {
        /// How long the machine was suspended.
        suspended: Duration,
    },
    /// The inner socket refused a message, or failed to write.
    #[non_exhaustive]
    SendError {
        /// The error of the inner socket.
        error: &'a dyn fmt::Display,
    },
    /// The inner socket failed to read. The connection has ended.
    #[non_exhaustive]
    ReceiveError {
        /// The error of the inner socket.
        error: &'a dyn fmt::Display,
        /// The state of the connection.
        status: &'a Status,
    },
    /// The policy ended the connection. [`Closed`](Self::Closed) follows, or
    /// [`Dropped`](Self::Dropped) if the program drops the socket first. No report follows a
    /// verdict on an opening handshake.
    #[non_exhaustive]
    Verdict {
        /// The verdict, with its reason, its limit and the state of the connection.
        verdict: &'a Verdict,
        /// The limits of the connection.
        config: &'a TimeoutConfig,
    },
    /// The connection has ended.
    #[non_exhaustive]
    Closed {
        /// The verdict, if the policy ended it.
        verdict: Option<&'a Verdict>,
        /// Whether this side began the closing handshake.
        started_locally: bool,
        /// The code of the program's Close frame; `None` if it sent none, or one without a code.
        close_code: Option<u16>,
        /// The peer's Close frame, if one was received.
        peer_close: Option<&'a PeerClose>,
        /// The state of the connection.
        status: &'a Status,
    },
    /// The program dropped the socket before the connection had ended.
    #[non_exhaustive]
    Dropped {
        /// The state of the connection.
        status: &'a Status,
    },
}

impl Report<'_> {
    /// Returns the variant's name in the log, such as `send_error`, for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::HandshakeError { .. } => "handshake_error",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Grace { .. } => "grace",
            Self::Resumed { .. } => "resumed",
            Self::SendError { .. } => "send_error",
            Self::ReceiveError { .. } => "receive_error",
            Self::Verdict { .. } => "verdict",
            Self::Closed { .. } => "closed",
            Self::Dropped { .. } => "dropped",
        }
    }
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// A call to a connection's policy, or the connection's end, passed to [`Observer::step`].
///
/// If you repeat a connection's calls on a new [`TimeoutPolicy`](crate::TimeoutPolicy), in order
/// and at the same instants, it returns the same actions.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The socket created the policy with [`TimeoutPolicy::new`](crate::TimeoutPolicy::new) or
    /// [`opening`](crate::TimeoutPolicy::opening). This is the first step of each connection.
    #[non_exhaustive]
    Created {
        /// The limits of the connection.
        config: &'a TimeoutConfig,
        /// The policy's seed.
        seed: u64,
        /// Whether the policy began in the opening phase.
        opening: bool,
    },
    /// The socket passed an event to [`TimeoutPolicy::observe`](crate::TimeoutPolicy::observe).
    Observed(Event),
    /// The socket passed new limits to
    /// [`TimeoutPolicy::set_config`](crate::TimeoutPolicy::set_config).
    Configured(&'a TimeoutConfig),
    /// The socket called [`TimeoutPolicy::poll_up_to`](crate::TimeoutPolicy::poll_up_to), which
    /// returned an action.
    #[non_exhaustive]
    Polled {
        /// The horizon that the socket passed: how far its evidence reached.
        horizon: Horizon,
        /// The action that the policy returned.
        action: Action,
    },
    /// The connection has ended, or its socket or handshake was dropped. This is the last step of
    /// each connection, and follows its last report.
    Ended,
}
