//! The configuration that most tests start from.

use ws_timeout::{TimeoutConfig, TimeoutConfigBuilder};

/// Every limit that can be off is off, and there is no jitter.
pub fn off() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .no_handshake_timeout()
        .no_heartbeat_interval()
        .no_connection_timeout()
        .no_message_timeout()
        .no_idle_timeout()
        .no_ping_interval()
        .no_pong_timeout()
        .no_stall_tolerance()
        .no_resume_probe()
        .no_min_data_rate()
        .no_max_ping_rate()
        .jitter(0.0)
}
