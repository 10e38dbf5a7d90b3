//! The clock and the timer: everything that the socket needs from a runtime.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::suspension;
use crate::time::Timestamp;

/// The clock of a [`TimeoutSocket`](crate::TimeoutSocket), and its only timer.
///
/// [`runtime`](crate::runtime) implements it for tokio, smol and async-std. Any other runtime needs
/// about 30 lines:
///
/// ```
/// use std::pin::Pin;
/// use std::task::{Context, Poll};
/// use std::time::{Duration, Instant};
/// use ws_timeout::{Timer, Timestamp};
///
/// struct AsyncIo {
///     origin: Instant,
///     timer: async_io::Timer,
/// }
///
/// impl Timer for AsyncIo {
///     type Instant = Instant;
///
///     fn now(&self) -> Instant {
///         Instant::now()
///     }
///
///     fn timestamp(&self, at: Instant) -> Timestamp {
///         Timestamp::from_duration(at.saturating_duration_since(self.origin))
///     }
///
///     fn instant(&self, at: Timestamp) -> Instant {
///         self.origin + Duration::from_nanos(at.as_nanos())
///     }
///
///     fn set(&mut self, at: Instant) {
///         self.timer.set_at(at);
///     }
///
///     fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
///         Future::poll(Pin::new(&mut self.timer), cx).map(drop)
///     }
/// }
/// ```
///
/// Tests can use `testing::ManualTimer` (feature `testing`), whose time they advance.
pub trait Timer {
    /// An instant of the runtime's clock, such as `std::time::Instant`; [`Timestamp`] if it has
    /// none.
    ///
    /// A [`TimeoutSocket`](crate::TimeoutSocket) compares instants at each message, and converts
    /// one only when the policy needs it.
    type Instant: Copy + Ord + Send + Sync + Unpin + 'static;

    /// Reads the runtime's clock, which must never run backwards.
    fn now(&self) -> Self::Instant;

    /// Returns the time from a fixed origin to `at`.
    ///
    /// [`with_timer_slack`](crate::TimeoutSocket::with_timer_slack) rounds up to multiples of the
    /// slack since the origin, so only timers with the same origin share a wake-up.
    fn timestamp(&self, at: Self::Instant) -> Timestamp;

    /// Returns the first instant whose [`timestamp`](Self::timestamp) is `at` or later. `at` is at
    /// most a day ahead.
    ///
    /// A coarse clock rounds up here. If it rounded down, its timer would fire before the deadline,
    /// and be set to the same instant again and again until the clock moves on.
    fn instant(&self, at: Timestamp) -> Self::Instant;

    /// Sets the timer to `at`, replacing the previous setting. `at` is at most a day ahead. The
    /// timer may fire late, but never early.
    fn set(&mut self, at: Self::Instant);

    /// Returns `Ready` once for each time that the timer was set, when it has fired.
    ///
    /// After `Ready` it is not polled again until it is set again. While it is `Pending`, it is
    /// polled again only after it has woken the task.
    ///
    /// Where the runtime caches the readiness of sockets, as tokio does, the timer must fire only
    /// once the reactor has turned at or after the instant that it was set to. When a blocked
    /// thread resumes, a timer that only compares clocks would fire before the reactor has seen the
    /// bytes in the kernel. If one turn may not reach every socket, see [`turns`](Self::turns).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns how many times the timer must fire before a read sees everything that had arrived by
    /// the instant that the timer was first set to.
    ///
    /// Before a verdict on the peer, the socket sets the timer that many times, a millisecond
    /// apart, unless it can [ask the kernel](crate::Metered::socket) itself. The default, 1, is
    /// enough if each read asks the kernel.
    fn turns(&self) -> u32 {
        1
    }

    /// Returns whether the runtime still lets the task do I/O. If so, a read or write that just
    /// returned `Pending` lacked bytes or room.
    fn has_budget(&self) -> bool {
        true
    }

    /// Returns the slack of a socket that sets none with
    /// [`with_timer_slack`](crate::TimeoutSocket::with_timer_slack): how late its timer may fire.
    ///
    /// By default 10 ms: short compared with the usual limits, and the timers of thousands of idle
    /// connections then cause about 100 wake-ups per second. Limits of a few milliseconds need a
    /// shorter slack.
    fn default_slack(&self) -> Duration {
        Duration::from_millis(10)
    }

    /// Returns how long the machine has been suspended since any fixed instant. When this grows by
    /// more than five seconds, the socket probes the peer; see `resume_probe` in the configuration.
    ///
    /// By default, the difference of two clocks of the kernel, one of which stops during
    /// suspension: `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC` on Linux and Android, `CLOCK_MONOTONIC`
    /// and `CLOCK_UPTIME_RAW` on Apple systems. Elsewhere it is zero, and the socket detects no
    /// resume. Setting the time of day has no effect.
    fn time_suspended(&self) -> Duration {
        suspension::time_suspended()
    }
}

/// Returns `at`, or a day after `now` if that is earlier: timers are never set further ahead.
pub(crate) fn within_a_day(now: Timestamp, at: Timestamp) -> Timestamp {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    at.min(now.checked_add(DAY).unwrap_or(Timestamp::MAX))
}
