//! What is drawn from a policy's seed: the marks of pings, the jitter, the instant of a drain.

/// The mark of one ping: 64 bits mixed from the policy's seed and the ping's number.
///
/// It tells the pongs of one connection apart. It is no secret and proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PingId(u64);

impl PingId {
    pub(crate) const fn new(seed: u64, number: u64) -> Self {
        Self(mix(seed.wrapping_add(number.wrapping_mul(GOLDEN))))
    }

    /// What the ping frame carries.
    pub const fn payload(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The mark that a pong carries; `None` if its payload is not 8 bytes long. Whether a ping of this
    /// connection has that mark, its policy knows.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        payload
            .try_into()
            .ok()
            .map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

/// The part of the jitter that shortens the wait for ping `number`, or for 0 the connection's life.
pub(crate) const fn jitter_draw(seed: u64, number: u64) -> u16 {
    (mix(seed ^ mix(number)) >> 48) as u16
}

/// The part of `within` after which a drain closes.
pub(crate) const fn drain_draw(seed: u64) -> u32 {
    (mix(seed ^ mix(u64::MAX)) >> 32) as u32
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of splitmix64: a bijection that spreads every bit over all.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
