//! A client that reconnects, with the delays of the crate `backon`.
//!
//! ```text
//! cargo run --example echo -- --addr 127.0.0.1:8080
//! WS_PRESET=client cargo run --example reconnect -- ws://127.0.0.1:8080
//! ```
//!
//! `ws-timeout` says how a connection ended; [`run`] decides whether and when to open the next.
//! Stop the server and start it again to see the delays. The limits come from the environment.

use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::TryFutureExt;
use tokio::time::sleep;
use tokio_tungstenite::{connect_async_with_config, tungstenite};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Error, TimeoutConfig, Timeouts};

type Failure = Box<dyn std::error::Error>;

/// The delays after failures.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(60))
    .with_max_times(10);

/// The delay while the server restarts, random so that its clients do not all return at once. It is
/// short for this example: the registry of close codes recommends 5 to 30 seconds.
const RESTART: ConstantBuilder = ConstantBuilder::new()
    .with_jitter()
    .with_delay(Duration::from_millis(100));

/// A connection on which something was received this long after it opened resets the delays.
const HEALTHY: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url = std::env::args().nth(1);
    let url = url.ok_or("usage: reconnect ws://HOST:PORT")?;
    let timeouts = Timeouts::new(TimeoutConfig::from_env()?.config);
    run(&url, &timeouts).await?;
    println!("the server is done");
    Ok(())
}

/// Connects again until the server is done or refuses.
async fn run(url: &str, timeouts: &Timeouts) -> Result<(), Failure> {
    let mut delays = BACKOFF.build();
    loop {
        let end = converse(url, timeouts, &mut delays).await;
        let restarts = matches!(end, Ok(Some(1012)));
        match end {
            Ok(Some(1000)) => return Ok(()),
            Ok(Some(code @ (1001 | 1012 | 1013))) => println!("the server will be back: {code}"),
            Ok(None) => println!("the server closed without a code"),
            // It would refuse the same bytes or the same password again.
            Ok(Some(code)) => return Err(format!("the server refuses: {code}").into()),
            Err(Error::Socket(tungstenite::Error::Http(response)))
                if response.status().is_client_error() =>
            {
                return Err(format!("the server refuses: {}", response.status()).into());
            }
            Err(Error::Verdict(verdict)) => println!("ended by a limit: {}", verdict.reason),
            // Refused, reset, unreachable.
            Err(error) => println!("failed: {error}"),
        }
        let delay = match restarts {
            true => RESTART.build().next(),
            false => delays.next(),
        };
        let delay = delay.ok_or("too many failures in a row")?;
        println!("the next try is in {delay:.1?}");
        sleep(delay).await;
    }
}

/// Runs one connection, and returns the code of the server's Close frame. If the connection was
/// healthy, the delays start again.
async fn converse(
    url: &str,
    timeouts: &Timeouts,
    delays: &mut ExponentialBackoff,
) -> Result<Option<u16>, Error<tungstenite::Error>> {
    // To add a meter, connect as the example `client` does.
    let handshake = connect_async_with_config(url, Some(tungstenite_config()), true);
    let handshake = handshake.map_ok(|(socket, _)| socket);
    let mut socket = open(timeouts, handshake).await?;
    println!("connected");
    let end = loop {
        match socket.recv().await {
            Ok(Some(Message::Text(text))) => println!("the server says {text}"),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(None),
            Err(error) => break Err(error),
        }
    };
    let status = socket.status();
    if status.age.saturating_sub(status.silent) >= HEALTHY {
        println!("that was a healthy connection: the delays start again");
        *delays = BACKOFF.build();
    }
    match (end, socket.peer_close()) {
        // After a verdict, the server's code is only its answer.
        (Ok(_) | Err(Error::Socket(_)), Some(close)) => Ok(close.code),
        (end, _) => end,
    }
}
