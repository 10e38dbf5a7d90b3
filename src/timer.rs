//! The clock and the timer, which are all that the socket needs from a runtime.

use std::task::{Context, Poll};
use std::time::Duration;

use crate::suspension;
use crate::time::Timestamp;

/// The clock and the only timer of a [`TimeoutSocket`](crate::TimeoutSocket).
///
/// The module [`runtime`](crate::runtime) implements it for tokio, smol and async-std. Any other
/// runtime needs about 30 lines:
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
/// In tests, use `testing::ManualTimer` (feature `testing`), whose time the test advances.
pub trait Timer {
    /// An instant of the runtime's clock, such as `std::time::Instant`, or [`Timestamp`] if the
    /// runtime has no such type.
    ///
    /// A [`TimeoutSocket`](crate::TimeoutSocket) compares instants at each message, and converts an
    /// instant only when the policy needs it.
    type Instant: Copy + Ord + Send + Sync + Unpin + 'static;

    /// Reads the runtime's clock, which must never run backwards.
    fn now(&self) -> Self::Instant;

    /// Returns the time from a fixed origin to `at`.
    ///
    /// [`with_timer_slack`](crate::TimeoutSocket::with_timer_slack) rounds deadlines up to
    /// multiples of the slack since the origin, so only timers with the same origin share wake-ups.
    fn timestamp(&self, at: Self::Instant) -> Timestamp;

    /// Returns the first instant whose [`timestamp`](Self::timestamp) is `at` or later. `at` is at
    /// most a day ahead.
    ///
    /// If the clock is coarse, round up. If you rounded down, the timer would fire before the
    /// deadline, and the socket would set it to the same instant again and again until the clock
    /// advances.
    fn instant(&self, at: Timestamp) -> Self::Instant;

    /// Sets the timer to fire at `at`, replacing the previous setting. `at` is at most a day ahead.
    /// The timer may fire late, but never early.
    fn set(&mut self, at: Self::Instant);

    /// Polls the timer, and returns `Ready` when it has fired, once for each time that it was set.
    ///
    /// After `Ready`, the socket sets the timer again before it polls it again. After `Pending`,
    /// the socket polls it again only once the timer has woken the task.
    ///
    /// If the runtime caches the readiness of sockets, as tokio does, the reactor must ask the
    /// kernel at or after the instant that the timer was set to, and only then may the timer fire.
    /// Otherwise, when a blocked thread resumes, the timer could fire before the reactor has seen
    /// the bytes in the kernel. If one turn may not reach every socket, implement
    /// [`reactor_turns`](Self::reactor_turns).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns how many times the timer must fire before a read sees everything that had arrived by
    /// the instant that the timer was first set to.
    ///
    /// Before a verdict that blames the peer, the socket sets the timer that many times, a
    /// millisecond apart, unless it can [ask the kernel](crate::Metered::socket). The default is 1,
    /// which is enough if each read asks the kernel.
    fn reactor_turns(&self) -> u32 {
        1
    }

    /// Returns whether the runtime still lets the task do I/O in this poll. If so, a read or write
    /// that has just returned `Pending` really found no bytes or no room. The default is true, for
    /// runtimes without such a budget.
    fn has_budget(&self) -> bool {
        true
    }

    /// Returns how late the timer of a socket may fire, unless
    /// [`with_timer_slack`](crate::TimeoutSocket::with_timer_slack) sets another slack.
    ///
    /// The default is 10 ms, which is short compared with the usual limits. The timers of thousands
    /// of idle connections then cause about 100 wake-ups per second. Limits of a few milliseconds
    /// need a shorter slack.
    fn default_slack(&self) -> Duration {
        Duration::from_millis(10)
    }

    /// Returns how long the machine has been suspended in total, measured from any fixed instant.
    /// If this grows by more than five seconds, the socket probes the peer; see
    /// [`resume_probe`](crate::TimeoutConfigBuilder::resume_probe).
    ///
    /// The default is the difference between two kernel clocks, one of which stops during a
    /// suspension: `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC` on Linux and Android, `CLOCK_MONOTONIC`
    /// and `CLOCK_UPTIME_RAW` on Apple systems. On other systems it is zero, and the socket detects
    /// no resume. Setting the time of day has no effect.
    fn time_suspended(&self) -> Duration {
        suspension::time_suspended()
    }
}

/// Returns `at`, but at most a day after `now`: the socket never sets its timer further ahead.
pub(crate) fn within_a_day(now: Timestamp, at: Timestamp) -> Timestamp {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    at.min(now.checked_add(DAY).unwrap_or(Timestamp::MAX))
}
