//! Random configurations.

use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::prelude::*;
use ws_timeout::{DrainCode, IdleScope, PongEvidence, TimeoutConfig};

/// Configurations whose limits are in the range that variables and files accept.
pub fn any_config() -> impl Strategy<Value = TimeoutConfig> {
    let length = || any_size(1_000_000..=1_000_000_000_000_000_000).prop_map(Duration::from_nanos);
    let rate = || any_size(1..=1_000_000_000).prop_map(|rate| Some(rate as u32));
    let lengths = proptest::collection::vec(proptest::option::weighted(0.8, length()), 9);
    let rates = [
        prop_oneof![rate(), Just(None)],
        prop_oneof![rate(), Just(None)],
    ];
    let jitter = (0..=500_000_000_u32).prop_map(|billionths| f64::from(billionths) / 1e9);
    (lengths, length(), rates, jitter, any::<[bool; 3]>()).prop_map(
        |(lengths, close, [data, pings], jitter, [messages, pong, restart])| {
            let mut builder = TimeoutConfig::builder()
                .maybe_handshake_timeout(lengths[0])
                .maybe_heartbeat_interval(lengths[1])
                .maybe_connection_timeout(lengths[2])
                .maybe_message_timeout(lengths[3])
                .maybe_idle_timeout(lengths[4])
                .maybe_ping_interval(lengths[5])
                .maybe_pong_timeout(lengths[6])
                .maybe_stall_tolerance(lengths[7])
                .maybe_resume_probe(lengths[8])
                .close_timeout(close)
                .maybe_min_data_rate(data)
                .maybe_max_ping_rate(pings)
                .jitter(jitter);
            if messages {
                builder = builder.idle_scope(IdleScope::Messages);
            }
            if pong {
                builder = builder.pong_evidence(PongEvidence::Pong);
            }
            if restart {
                builder = builder.drain_code(DrainCode::ServiceRestart);
            }
            builder.build().unwrap()
        },
    )
}

/// Numbers in this range, with each order of magnitude equally likely.
pub fn any_size(range: RangeInclusive<u64>) -> impl Strategy<Value = u64> {
    let (low, high) = range.into_inner();
    (low.ilog2()..=high.ilog2()).prop_flat_map(move |bits| {
        let most = (1 << bits) * 2 - 1;
        (1_u64 << bits).max(low)..=most.min(high)
    })
}
