//! The round-trip estimate of RFC 6298.

/// Round-trip times of pings, in whole microseconds, smoothed after RFC 6298.
///
/// One sample runs from the flush of a ping to the first pong that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Rtt {
    /// The latest sample, in microseconds.
    pub latest: u64,
    /// The smallest sample of this connection, in microseconds.
    pub min: u64,
    /// `SRTT`: the smoothed round-trip time, in microseconds.
    pub smoothed: u64,
    /// `RTTVAR`: the smoothed variation, in microseconds.
    pub variation: u64,
}

impl Rtt {
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

    /// "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|, SRTT <- (1 - alpha) * SRTT + alpha * R'"
    /// with alpha 1/8 and beta 1/4, in this order (RFC 6298, 2.3). A sample is at most 2⁶⁴/1000, so
    /// nothing here overflows.
    pub(crate) const fn next(self, sample: u64) -> Self {
        Self {
            latest: sample,
            min: if sample < self.min { sample } else { self.min },
            smoothed: (7 * self.smoothed + sample) / 8,
            variation: (3 * self.variation + self.smoothed.abs_diff(sample)) / 4,
        }
    }
}
