//! This crate, with a task for each connection.

use std::sync::Arc;
use std::time::Duration;

use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::{open, wrap};
use ws_timeout::{ConfigError, Metered, TimeoutConfig};

use crate::{Echo, Outcome, Work, accept, listen};

pub const SLACK: Duration = Duration::from_millis(125);

/// `wrap` around each socket.
pub async fn task(ping: Duration, work: impl Work) -> Outcome {
    let config = Arc::new(config(ping)?);
    accept(move |socket| work.clone().run(wrap(config.clone(), socket))).await
}

/// The same with another timer slack.
pub async fn task_with_slack(ping: Duration, slack: Duration) -> Outcome {
    let config = Arc::new(config(ping)?);
    accept(move |socket| Echo.run(wrap(config.clone(), socket).with_timer_slack(slack))).await
}

/// The server of the README.
pub async fn metered(ping: Duration, work: impl Work) -> Outcome {
    let config = Arc::new(config(ping)?);
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (config, work) = (config.clone(), work.clone());
        tokio::spawn(async move {
            let stream = Metered::socket(stream);
            let meter = stream.meter();
            let handshake = accept_async_with_config(stream, Some(tungstenite_config()));
            let opening = open(config, handshake).with_meter(meter);
            let Ok(socket) = opening.await else { return };
            work.run(socket).await;
        });
    }
}

/// The defaults, except for `ping_interval`, and without a `connection_timeout`.
pub fn config(ping: Duration) -> Result<TimeoutConfig, ConfigError> {
    TimeoutConfig::builder()
        .ping_interval(ping)
        .no_connection_timeout()
        .build()
}
