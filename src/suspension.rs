//! Measures how long the machine has been suspended, as the difference between two kernel clocks,
//! one of which stops during a suspension.
//!
//! The time of day cannot replace either clock, since it jumps when someone sets it.

use std::time::Duration;

/// The longest time that one reading of the clocks may take before they are read again. If the
/// thread was stopped in between, the result could be too small by that time, and the next result
/// would look like a suspension.
const MAX_READ_TIME: Duration = Duration::from_millis(100);

/// Returns how long the machine has been suspended since some fixed instant, or zero where the
/// kernel has no such clocks.
pub(crate) fn time_suspended() -> Duration {
    loop {
        let before = clocks::awake();
        let total = clocks::total();
        let after = clocks::awake();
        if after.saturating_sub(before) < MAX_READ_TIME {
            return total.saturating_sub(after);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod clocks {
    use std::time::Duration;

    use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};

    /// Returns the time since boot, including suspensions.
    pub(super) fn total() -> Duration {
        read(DynamicClockId::Boottime)
    }

    /// Returns the time since boot, excluding suspensions.
    pub(super) fn awake() -> Duration {
        read(DynamicClockId::Known(ClockId::Monotonic))
    }

    /// Reads a clock, or returns zero if the kernel lacks it. `clock_gettime` would panic.
    fn read(clock: DynamicClockId<'_>) -> Duration {
        let time = clock_gettime_dynamic(clock).ok();
        time.and_then(|time| time.try_into().ok())
            .unwrap_or_default()
    }
}

#[cfg(target_vendor = "apple")]
mod clocks {
    use std::time::{Duration, Instant};

    use rustix::time::{ClockId, DynamicClockId, clock_gettime_dynamic};

    use crate::runtime::origin;

    /// Returns the time since boot. On these systems, `CLOCK_MONOTONIC` includes suspensions.
    pub(super) fn total() -> Duration {
        let since_boot = clock_gettime_dynamic(DynamicClockId::Known(ClockId::Monotonic)).ok();
        since_boot
            .and_then(|time| time.try_into().ok())
            .unwrap_or_default()
    }

    /// Returns the time since the origin, excluding suspensions. `Instant` is `CLOCK_UPTIME_RAW`,
    /// which rustix does not read.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(super) fn awake() -> Duration {
        Instant::now().saturating_duration_since(origin())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod clocks {
    use std::time::Duration;

    pub(super) fn total() -> Duration {
        Duration::ZERO
    }

    pub(super) fn awake() -> Duration {
        Duration::ZERO
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    /// The time of day counts from 1970, so it exceeds the time since boot by decades.
    /// Guards rule 19.
    #[test]
    fn the_time_of_day_is_not_used() {
        let suspended = time_suspended();
        let since_boot: Duration = clock_gettime(ClockId::Boottime).try_into().unwrap();
        assert!(suspended <= since_boot, "{suspended:?} of {since_boot:?}");
    }

    /// Guards rule 19.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "time has to pass")]
    fn a_machine_that_runs_is_not_suspended() {
        const NAP: Duration = Duration::from_millis(200);
        let suspended = time_suspended();
        std::thread::sleep(NAP);
        let more = time_suspended().saturating_sub(suspended);
        assert!(more < NAP, "{more:?}");
    }
}
