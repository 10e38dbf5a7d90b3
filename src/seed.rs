//! What a policy's seed determines: ping IDs, jitter and the drain time.
//!
//! Each value depends only on the seed and a number, so a recorded trace replays.

/// The ID of a ping: 64 bits, mixed from the policy's seed and the ping's number.
///
/// The pings of one connection have different IDs, so the ID in a pong says which ping it answers.
/// An ID is not a secret and does not authenticate the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PingId(u64);

impl PingId {
    pub(crate) const fn new(seed: u64, number: u64) -> Self {
        Self(mix(seed.wrapping_add(number.wrapping_mul(GOLDEN))))
    }

    /// Returns the payload of the ping frame.
    pub const fn payload(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Returns the ID in the payload of a pong, or `None` if the payload is not 8 bytes long.
    ///
    /// The policy checks whether a ping of its connection has this ID.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        payload
            .try_into()
            .ok()
            .map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

/// Returns the part of the jitter, in 65536ths, that shortens the interval before ping `number`, or
/// for 0 the connection's lifetime.
pub(crate) const fn jitter_draw(seed: u64, number: u64) -> u16 {
    (mix(seed ^ mix(number)) >> 48) as u16
}

/// Returns the part of `within`, in 2⁻³² units, after which a drain closes.
pub(crate) const fn drain_draw(seed: u64) -> u32 {
    (mix(seed ^ mix(u64::MAX)) >> 32) as u32
}

pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finalizer of splitmix64: a bijection in which each input bit affects every output bit.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_gives_back_the_id_of_its_ping() {
        for number in 1..=3 {
            let id = PingId::new(7, number);
            assert_eq!(PingId::from_payload(&id.payload()), Some(id), "{number}");
        }
    }

    /// Recorded traces contain payloads, so the IDs must not change. With seed 1234567, the first
    /// three outputs of splitmix64 are widely published.
    #[test]
    fn ids_are_the_outputs_of_splitmix64() {
        let published: [u64; 3] = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        for (number, output) in (1..).zip(published) {
            let id = PingId::new(1_234_567, number);
            assert_eq!(id.payload(), output.to_be_bytes(), "{number}");
        }
    }

    #[test]
    fn a_payload_of_another_length_is_not_an_id() {
        let payload = [PingId::new(7, 1).payload(), [0; 8]].concat();
        assert_eq!(PingId::from_payload(&[]), None);
        assert_eq!(PingId::from_payload(&payload[..7]), None);
        assert_eq!(PingId::from_payload(&payload[..9]), None);
    }
}
