//! The round-trip estimator of RFC 6298.

use core::time::Duration;

/// The round-trip time of pings, smoothed as RFC 6298 specifies, in whole microseconds.
///
/// A sample is the time from when a ping was flushed to the first pong that carries its ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rtt {
    /// The latest sample.
    pub latest: Duration,
    /// The smallest sample of this connection.
    pub min: Duration,
    /// The smoothed round-trip time (`SRTT`).
    pub smoothed: Duration,
    /// The round-trip time variation (`RTTVAR`).
    pub variation: Duration,
}

/// Writes an object with all four values in microseconds.
#[cfg(feature = "json")]
impl serde::Serialize for Rtt {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut object = serializer.serialize_struct("Rtt", 4)?;
        object.serialize_field("latest", &micros(self.latest))?;
        object.serialize_field("min", &micros(self.min))?;
        object.serialize_field("smoothed", &micros(self.smoothed))?;
        object.serialize_field("variation", &micros(self.variation))?;
        object.end()
    }
}

/// An [`Rtt`] as the policy stores it: in microseconds, at half the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RttEstimator {
    latest: u64,
    min: u64,
    smoothed: u64,
    variation: u64,
}

impl RttEstimator {
    /// "When the first RTT measurement R is made, the host MUST set SRTT <- R, RTTVAR <- R/2"
    /// (RFC 6298, 2.2).
    pub(crate) const fn first(sample: u64) -> Self {
        Self {
            latest: sample,
            min: sample,
            smoothed: sample,
            variation: sample / 2,
        }
    }

    /// "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|,
    /// SRTT <- (1 - alpha) * SRTT + alpha * R'" with alpha 1/8 and beta 1/4, in this order
    /// (RFC 6298, 2.3). A sample is at most 2⁶⁴/1000, so nothing here overflows.
    pub(crate) const fn next(self, sample: u64) -> Self {
        Self {
            latest: sample,
            min: if sample < self.min { sample } else { self.min },
            smoothed: (7 * self.smoothed + sample) / 8,
            variation: (3 * self.variation + self.smoothed.abs_diff(sample)) / 4,
        }
    }

    pub(crate) const fn estimate(self) -> Rtt {
        Rtt {
            latest: Duration::from_micros(self.latest),
            min: Duration::from_micros(self.min),
            smoothed: Duration::from_micros(self.smoothed),
            variation: Duration::from_micros(self.variation),
        }
    }
}
