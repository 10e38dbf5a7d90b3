//! Sockets without timer slack, for tests that assert exact times.

use std::time::Duration;

use futures_util::TryStream;
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::{Message, TimeoutConfig, TimeoutSocket};

/// Wraps a socket without timer slack.
pub fn wrap<S: TryStream<Ok: Message>>(
    config: TimeoutConfig,
    socket: S,
) -> TimeoutSocket<S, Timer> {
    ws_timeout::runtime::tokio::wrap(config, socket).with_timer_slack(Duration::ZERO)
}
