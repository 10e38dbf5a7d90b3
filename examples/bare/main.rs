//! The policy without a runtime: a client in a plain loop around a `TcpStream` and tungstenite.
//!
//! ```text
//! cargo run --example echo -- --addr 127.0.0.1:8080
//! cargo run --example bare -- ws://127.0.0.1:8080
//! ```
//!
//! Sends back what it receives. The limits come from the environment. Copy `driver.rs`. Its policy
//! sees whole messages only, so each must be sent within `message_timeout`, and an incoming message
//! counts as silence until it is complete. To lift this, count bytes below tungstenite, and observe
//! `Event::SendProgress` and `Event::RecvPartial`.
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

mod driver;

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::Instant;

use ws_timeout::{TimeoutConfig, TimeoutPolicy, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1);
    let url = url.ok_or("usage: bare ws://HOST:PORT")?;
    let host = url.trim_start_matches("ws://").trim_end_matches('/');
    let config = TimeoutConfig::from_env()?.config;
    let tcp = TcpStream::connect(host)?;
    tcp.set_nodelay(true)?;
    let mut policy = TimeoutPolicy::opening(config, RandomState::new().hash_one(0), now());
    let end = driver::open(&url, tcp, &mut policy).and_then(|mut ws| {
        println!("connected");
        driver::converse(&mut ws, &mut policy)
    });
    match (policy.cause(), end) {
        // An error after a verdict is only its consequence.
        (Some(reason), _) => println!("ended by a limit: {reason}"),
        (None, end) => end?,
    }
    Ok(())
}

fn now() -> Timestamp {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Timestamp::from_duration(START.elapsed())
}
