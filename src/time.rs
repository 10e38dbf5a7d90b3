//! Instants as plain numbers.

use core::fmt;
use core::num::NonZeroU64;
use core::time::Duration;

/// A length of time in whole nanoseconds, or `None` where it is switched off.
pub(crate) type Limit = Option<NonZeroU64>;

/// An instant: nanoseconds since an origin that the caller picks.
///
/// The policy reads no clock. Whoever drives it says what time it is, in nanoseconds since whatever
/// instant suits: the creation of the connection, the start of the process, zero in a test. All
/// timestamps given to one policy must share one origin.
///
/// The last representable instant is [`Timestamp::MAX`], 2⁶⁴ − 2 nanoseconds (584 years) after the
/// origin. (The one value above it is what makes `Option<Timestamp>` no larger than a `Timestamp`.)
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

    /// The instant `nanos` nanoseconds after the origin; `u64::MAX` gives [`Timestamp::MAX`].
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// The instant `seconds` seconds after the origin, at most [`Timestamp::MAX`].
    pub const fn from_secs(seconds: u64) -> Self {
        Self::from_nanos(seconds.saturating_mul(1_000_000_000))
    }

    /// The instant `millis` milliseconds after the origin, at most [`Timestamp::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_nanos(millis.saturating_mul(1_000_000))
    }

    /// The instant `length` after the origin, at most [`Timestamp::MAX`].
    #[inline]
    pub const fn from_duration(length: Duration) -> Self {
        Self::from_nanos(saturating_nanos(length))
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// This instant moved on by `length`, or `None` where that is past [`Timestamp::MAX`].
    pub const fn checked_add(self, length: Duration) -> Option<Self> {
        self.after(saturating_nanos(length))
    }

    /// How long before this instant `earlier` was; zero if it was not.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// [`Timestamp::saturating_duration_since`] in nanoseconds.
    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// This instant moved on by `nanos`, or `None` where that is past the last representable one.
    pub(crate) const fn after(self, nanos: u64) -> Option<Self> {
        match self.0.checked_add(nanos) {
            Some(at) => Some(Self(at)),
            None => None,
        }
    }

    /// The deadline that `limit` sets from here: `None` if it is off or would never come.
    pub(crate) const fn deadline(self, limit: Limit) -> Option<Self> {
        match limit {
            Some(nanos) => self.after(nanos.get()),
            None => None,
        }
    }
}

/// The length since the origin, such as `1.5s`.
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

/// `length` in nanoseconds; what does not fit is so long that it never ends.
#[inline]
pub(crate) const fn saturating_nanos(length: Duration) -> u64 {
    let nanos = length.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

/// `length` for a line of the log: milliseconds tell enough of seconds, microseconds of what is shorter.
pub(crate) const fn brief(length: Duration) -> Duration {
    let nanos = length.subsec_nanos();
    let step = if length.as_secs() > 0 {
        1_000_000
    } else {
        1000
    };
    Duration::new(length.as_secs(), nanos - nanos % step)
}

/// The earlier of two deadlines, of which `None` never comes.
#[inline]
pub(crate) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    // Less one, the number 0 that stands for `None` is the last of all: no branch is needed.
    let rank = |at: Option<Timestamp>| at.map_or(0, |at| at.0.get()).wrapping_sub(1);
    NonZeroU64::new(rank(a).min(rank(b)).wrapping_add(1)).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_past_the_last_nanosecond_saturates() {
        let longest = Duration::from_nanos(u64::MAX);
        let nano = Duration::from_nanos(1);
        assert_eq!(saturating_nanos(longest - nano), u64::MAX - 1);
        for length in [longest, longest + nano, longest + longest, Duration::MAX] {
            assert_eq!(saturating_nanos(length), u64::MAX, "{length:?}");
        }
    }
}
