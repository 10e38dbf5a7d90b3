//! Instants and durations as plain numbers.
//!
//! Nothing here panics or wraps: a sum past the last representable instant is `None`, which the
//! policy treats like a limit that is off, and everything else saturates.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

/// A limit in whole nanoseconds; `None` if it is off.
pub(crate) type Limit = Option<NonZeroU64>;

/// An instant, in nanoseconds since an origin that the caller chooses.
///
/// The policy reads no clock: its driver passes the time with each call. The origin can be any
/// instant, such as the start of the process, the creation of the connection, or zero in a test.
/// All timestamps given to one policy must have the same origin.
///
/// [`Timestamp::MAX`], the last representable instant, is 2⁶⁴ − 2 nanoseconds (584 years) after the
/// origin. (An `Option<Timestamp>` is no larger than a `Timestamp`, since `None` takes the
/// remaining value.)
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::Timestamp;
///
/// let opened = Timestamp::from_millis(1_500);
/// let deadline = opened.checked_add(Duration::from_secs(2)).unwrap();
/// assert_eq!(deadline.as_nanos(), 3_500_000_000);
/// assert_eq!(deadline.saturating_duration_since(opened), Duration::from_secs(2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The last representable instant.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// Returns the instant `nanos` nanoseconds after the origin. `u64::MAX` gives
    /// [`Timestamp::MAX`].
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// Returns the instant `seconds` seconds after the origin, at most [`Timestamp::MAX`].
    pub const fn from_secs(seconds: u64) -> Self {
        Self::from_nanos(seconds.saturating_mul(1_000_000_000))
    }

    /// Returns the instant `millis` milliseconds after the origin, at most [`Timestamp::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// Returns the instant `duration` after the origin, at most [`Timestamp::MAX`].
    #[inline]
    pub const fn from_duration(duration: Duration) -> Self {
        Self::from_nanos(saturating_nanos(duration))
    }

    /// Returns the instant `duration` after the origin, for a duration that a clock of this process
    /// has measured. It cannot overflow within 584 years.
    #[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
    #[inline]
    pub(crate) const fn from_uptime(duration: Duration) -> Self {
        let seconds = duration.as_secs().wrapping_mul(1_000_000_000);
        Self::from_nanos(seconds.wrapping_add(duration.subsec_nanos() as u64))
    }

    /// Returns the nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Returns the instant `duration` after this one, or `None` if that is past [`Timestamp::MAX`].
    pub const fn checked_add(self, duration: Duration) -> Option<Self> {
        self.after(saturating_nanos(duration))
    }

    /// Returns the time from `earlier` to this instant, or zero if `earlier` is later.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same as [`Timestamp::saturating_duration_since`], in nanoseconds.
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// The same as [`Timestamp::checked_add`], in nanoseconds.
    pub(crate) const fn after(self, nanos: u64) -> Option<Self> {
        match self.0.checked_add(nanos) {
            Some(at) => Some(Self(at)),
            None => None,
        }
    }

    /// Returns the deadline of `limit`, measured from this instant. `None` if the limit is off, or
    /// its deadline past [`Timestamp::MAX`].
    pub(crate) const fn deadline(self, limit: Limit) -> Option<Self> {
        match limit {
            Some(nanos) => self.after(nanos.get()),
            None => None,
        }
    }
}

/// Writes the time since the origin, such as `1.5s`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.as_nanos()))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({self})")
    }
}

/// Returns `duration` in nanoseconds, at most `u64::MAX`: a deadline that far away never comes.
#[inline]
pub(crate) const fn saturating_nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// Writes a duration in readable form: `60.035 s`, `37.5 ms`, `12 us`, with at most three decimals,
/// rounded down.
pub(crate) struct Plain(pub(crate) Duration);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let (whole, thousandths, unit) = if self.0.as_secs() > 0 || nanos == 0 {
            (self.0.as_secs(), nanos / 1_000_000, "s")
        } else if nanos >= 1_000_000 {
            (u64::from(nanos / 1_000_000), nanos / 1_000 % 1_000, "ms")
        } else {
            (u64::from(nanos / 1_000), nanos % 1_000, "us")
        };
        match thousandths {
            0 => write!(f, "{whole} {unit}"),
            part if part % 100 == 0 => write!(f, "{whole}.{} {unit}", part / 100),
            part if part % 10 == 0 => write!(f, "{whole}.{:02} {unit}", part / 10),
            part => write!(f, "{whole}.{part:03} {unit}"),
        }
    }
}

/// Returns the earlier of two deadlines. `None` means never.
#[inline]
pub(crate) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    // Without a branch: `None` counts as 0, which wraps to the largest number when decremented.
    let rank = |at: Option<Timestamp>| at.map_or(0, |at| at.0.get()).wrapping_sub(1);
    NonZeroU64::new(rank(a).min(rank(b)).wrapping_add(1)).map(Timestamp)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn an_instant_reads_as_the_time_since_the_origin() {
        let at = Timestamp::from_millis(1500);
        assert_eq!(std::format!("{at} {at:?}"), "1.5s Timestamp(1.5s)");
    }

    /// A second is the shortest duration that is rounded to milliseconds.
    #[test]
    fn a_duration_displays_in_readable_form() {
        for (nanos, written) in [
            (0, "0 s"),
            (999, "0.999 us"),
            (12_000, "12 us"),
            (37_461_999, "37.461 ms"),
            (300_000_000, "300 ms"),
            (1_000_999_999, "1 s"),
            (60_035_633_000, "60.035 s"),
            (37_500_000_000, "37.5 s"),
            (37_250_000_000, "37.25 s"),
            (300_000_000_000, "300 s"),
        ] {
            assert_eq!(Plain(Duration::from_nanos(nanos)).to_string(), written);
        }
    }

    #[test]
    fn a_duration_past_the_last_nanosecond_saturates() {
        let longest = Duration::from_nanos(u64::MAX);
        let nano = Duration::from_nanos(1);
        assert_eq!(saturating_nanos(longest - nano), u64::MAX - 1);
        for duration in [longest, longest + nano, longest + longest, Duration::MAX] {
            assert_eq!(saturating_nanos(duration), u64::MAX, "{duration:?}");
        }
    }
}
