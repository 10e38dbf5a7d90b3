//! A clock and a timer: everything that the socket needs of a runtime.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use crate::time::Timestamp;

/// The clock and the one timer of a [`TimeoutSocket`](crate::TimeoutSocket).
///
/// [`runtime`](crate::runtime) implements it for each runtime. Any other runtime needs about 30 lines;
/// in tests, implement it on a clock that the test moves.
pub trait Timer {
    /// Returns the time on the runtime's own clock, since an origin that is fixed when this is made.
    /// Never runs back.
    fn now(&self) -> Timestamp;

    /// Sets the timer to `at`, at most a day ahead, in place of what it was set to. It may fire later, but
    /// never earlier.
    fn set(&mut self, at: Timestamp);

    /// Returns `Ready` once for each time that the timer was set, when it has fired.
    ///
    /// It is not polled again before it is set anew. While it is `Pending`, it is polled again only after
    /// it has woken the task.
    ///
    /// Where the runtime caches the readiness of sockets, as tokio does, the timer must fire only when the
    /// reactor has turned at or after the instant that it was set to. A timer that only compares clocks
    /// would fire after a blocked thread before the reactor knows of the bytes in the kernel. If one turn
    /// may not reach every socket, see [`turns`](Self::turns).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns how often the timer must fire, set anew each time, until a read sees whatever had arrived
    /// by the instant that it was first set to.
    ///
    /// Before a verdict on the peer it fires as often, a millisecond apart. Once is enough where each read
    /// asks the kernel.
    fn turns(&self) -> u32 {
        1
    }

    /// Returns whether the runtime lets the task go on with its I/O, so that a read or write that was just
    /// `Pending` lacked bytes or room. Called only after the timer has fired; may unset it.
    fn has_budget(&mut self, cx: &mut Context<'_>) -> bool {
        let _ = cx;
        true
    }

    /// Returns the time of day, since any fixed instant, on a clock that goes on while the machine is
    /// suspended. [`now`](Self::now) may stand still then; the difference shows a resume.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> Duration {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// `at`, or a day from `now` if that is sooner: the latest that a timer can be set to.
pub(crate) fn within_a_day(now: Timestamp, at: Timestamp) -> Timestamp {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    at.min(now.checked_add(DAY).unwrap_or(Timestamp::MAX))
}
