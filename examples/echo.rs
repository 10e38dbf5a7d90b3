//! An echo server that is guarded by the crate and configured from the environment.
//!
//! ```text
//! WS_PING_INTERVAL=5 WS_PONG_TIMEOUT=10 cargo run --example echo -- --runtime tokio
//! ```
//!
//! `--addr HOST:PORT` is where it listens, by default a free port of 127.0.0.1. `--heartbeat text` asks
//! the peer with text messages, `ping` and `pong`, in place of frames. `--label NAME` names the
//! connections in the log: `NAME-1`, `NAME-2` and so on.
//!
//! The first line on standard output tells the address, so that a script can wait for it. The log goes
//! to standard error; `RUST_LOG=ws_timeout=debug` shows each ping. A bad environment or bad arguments
//! end it with 2.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tungstenite::Message;
use ws_timeout::message::{Heartbeat, tungstenite_config};
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Error, Metered, TimeoutConfig};

const USAGE: &str =
    "usage: echo [--runtime tokio] [--addr HOST:PORT] [--heartbeat frame|text] [--label NAME]";

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("echo: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let loaded = match TimeoutConfig::from_env() {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    for unknown in &loaded.unknown {
        log::warn!("{unknown}");
    }
    for warning in loaded.config.warnings() {
        log::warn!("{warning}");
    }

    let Err(error) = match arguments.runtime {
        Runtime::Tokio => on_tokio(serve(arguments, loaded.config.into())),
    };
    eprintln!("echo: {error}");
    ExitCode::FAILURE
}

fn on_tokio(served: impl Future<Output = io::Result<Infallible>>) -> io::Result<Infallible> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(served)
}

async fn serve(arguments: Arguments, config: Arc<TimeoutConfig>) -> io::Result<Infallible> {
    let listener = TcpListener::bind(&arguments.address).await?;
    let mut out = io::stdout();
    writeln!(out, "listening on ws://{}", listener.local_addr()?)?;
    out.flush()?;

    let mut number = 0_u64;
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, as a rule: some have to close first.
                log::error!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        number += 1;
        let label = format!("{}-{number}", arguments.label);
        log::info!("{label}: a connection from {peer}");
        let config = config.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(tcp, config, arguments.heartbeat, &label).await {
                log::info!("{label}: the handshake failed: {error}");
            }
        });
    }
}

/// Echoes the data messages as they came, until the connection ends. How it ended, the crate logs.
async fn converse(
    tcp: TcpStream,
    config: Arc<TimeoutConfig>,
    asks: Asks,
    label: &str,
) -> Result<(), Error<tungstenite::Error>> {
    tcp.set_nodelay(true)
        .map_err(|error| Error::Socket(error.into()))?;
    let transport = Metered::new(tcp);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    let mut socket = open(config, handshake)
        .await?
        .with_meter(meter)
        .with_label(label);
    if let Asks::ByText = asks {
        socket = socket.with_heartbeat(Heartbeat::text());
    }
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            // Once the connection closes nothing can be sent, but the peer may still have something to
            // say before it answers the Close frame: read on.
            if let Err(error) = socket.send(message).await {
                log::debug!("{label}: not echoed: {error}");
            }
        }
    }
    Ok(())
}

struct Arguments {
    runtime: Runtime,
    address: String,
    heartbeat: Asks,
    label: String,
}

#[derive(Clone, Copy)]
enum Runtime {
    Tokio,
}

/// How the peer is asked for a sign of life.
#[derive(Clone, Copy)]
enum Asks {
    ByFrame,
    ByText,
}

impl Arguments {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self {
            runtime: Runtime::Tokio,
            address: "127.0.0.1:0".into(),
            heartbeat: Asks::ByFrame,
            label: "echo".into(),
        };
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(flag) = given.next() {
            let mut value = || {
                given
                    .next()
                    .ok_or_else(|| format!("{flag} lacks its value"))
            };
            match flag.as_str() {
                "--runtime" => arguments.runtime = Runtime::named(&value()?)?,
                "--addr" => arguments.address = host_and_port(value()?)?,
                "--heartbeat" => arguments.heartbeat = Asks::named(&value()?)?,
                "--label" => arguments.label = value()?,
                _ => return Err(format!("{flag} is no argument")),
            }
        }
        Ok(arguments)
    }
}

fn host_and_port(address: String) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(address),
        _ => Err(format!("--addr is {address:?}, accepted is HOST:PORT")),
    }
}

impl Runtime {
    fn named(name: &str) -> Result<Self, String> {
        match name {
            "tokio" => Ok(Self::Tokio),
            _ => Err(format!("--runtime is {name:?}, accepted is tokio")),
        }
    }
}

impl Asks {
    fn named(name: &str) -> Result<Self, String> {
        match name {
            "frame" => Ok(Self::ByFrame),
            "text" => Ok(Self::ByText),
            _ => Err(format!(
                "--heartbeat is {name:?}, accepted is frame or text"
            )),
        }
    }
}
