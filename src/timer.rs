//! A clock and an alarm: all that the socket needs of a runtime.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use crate::time::Timestamp;

/// The clock and the one alarm of a [`TimeoutSocket`](crate::TimeoutSocket).
///
/// Implemented for each runtime in [`runtime`](crate::runtime); in tests, by a clock that is moved by
/// hand.
pub trait Timer {
    /// The time now on the runtime's own clock, since an origin that is fixed when this is made. Never
    /// runs back.
    fn now(&self) -> Timestamp;

    /// Sets the alarm to `at`, in place of what it was set to; at most a day ahead. It may ring later, but
    /// never earlier.
    fn set(&mut self, at: Timestamp);

    /// `Ready` when the alarm has rung, which is once for each time that it was set. Is not called
    /// again before it is set anew; and while it is `Pending`, once the connection is open, not before it has
    /// woken the task.
    ///
    /// Where the runtime keeps what the kernel last said of a socket, as tokio does, the alarm may ring
    /// only when the reactor has turned at or after the instant it was set to: a timer that compares
    /// clocks would say `Ready` after a blocked thread before the reactor knows of the bytes that wait in
    /// the kernel. If one turn may not bring all of them to light, see [`turns`](Self::turns).
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// How often the alarm must ring, set anew each time, until a read sees whatever had arrived on a
    /// socket by the instant to which it was set the first time.
    ///
    /// Before a peer is judged it rings so often, a millisecond apart. Once is enough where each read asks
    /// the kernel.
    fn turns(&self) -> u32 {
        1
    }

    /// Whether the runtime lets the task go on with its I/O, so that a read or write that was just
    /// `Pending` was so for want of bytes or room. Asked only when the alarm has rung; may unset it.
    fn has_budget(&mut self, cx: &mut Context<'_>) -> bool {
        let _ = cx;
        true
    }

    /// The time of day, since any fixed instant, on a clock that goes on while the machine is
    /// suspended. [`now`](Self::now) may stand still then, and the difference tells a resume.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> Duration {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// `at`, or a day from `now` if that is sooner: what an alarm can be set to. When it rings early, one looks
/// again.
pub(crate) fn within_a_day(now: Timestamp, at: Timestamp) -> Timestamp {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    at.min(now.checked_add(DAY).unwrap_or(Timestamp::MAX))
}
