//! An echo server with timeouts from the environment, on each runtime: for tests, and to try
//! settings on.
//!
//! ```text
//! WS_PING_INTERVAL=5 WS_PONG_TIMEOUT=10 cargo run --example echo -- --runtime tokio --addr 127.0.0.1:8080
//! ```
//!
//! `--runtime` is `tokio` (the default), `smol` or `async-std`. `--addr HOST:PORT` is the address
//! to listen on, by default a free port of 127.0.0.1. `--heartbeat text` pings the peer with text
//! messages, `ping` and `pong`, in place of frames; `engine.io` and `phoenix` are the heartbeats of
//! these protocols, so that their clients can connect. `--label NAME` names the connections in the
//! log: `NAME-1`, `NAME-2` and so on. The example `client` connects to it.
//!
//! The first line on standard output is the address, so that a script can wait for it. The log goes
//! to standard error; `RUST_LOG=ws_timeout=debug` shows each ping. It exits with 2 after a bad
//! environment or bad arguments.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Sink, Stream, StreamExt};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Error, Metered, TimeoutConfig, TimeoutSocket, Timer, runtime};

mod heartbeats;

use heartbeats::Heartbeat;

const USAGE: &str = "usage: echo [--runtime tokio|smol|async-std] [--addr HOST:PORT] \
                     [--heartbeat frame|text|engine.io|phoenix] [--label NAME]";

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

    let Err(error) = run(arguments, loaded.config);
    eprintln!("echo: {error}");
    ExitCode::FAILURE
}

fn run(arguments: Arguments, config: TimeoutConfig) -> io::Result<Infallible> {
    let address = &arguments.address;
    let listener = TcpListener::bind(address).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })?;
    let mut out = io::stdout();
    writeln!(out, "listening on ws://{}", listener.local_addr()?)?;
    out.flush()?;

    listener.set_nonblocking(true)?;
    let server = Arc::new(Server {
        config: Arc::new(config),
        heartbeat: arguments.heartbeat,
        label: arguments.label,
        connections: AtomicU64::new(0),
    });
    match arguments.runtime {
        Runtime::Tokio => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(on_tokio(listener, server))
        }
        Runtime::Smol => smol::block_on(on_smol(listener, server)),
        Runtime::AsyncStd => async_std::task::block_on(on_async_std(listener, server)),
    }
}

/// What all connections share.
struct Server {
    config: Arc<TimeoutConfig>,
    heartbeat: Heartbeat,
    label: String,
    connections: AtomicU64,
}

/// How long to wait if no connection can be accepted: with too many open files, some have to close
/// first.
const RESPITE: Duration = Duration::from_millis(100);

async fn on_tokio(listener: TcpListener, server: Arc<Server>) -> io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                // A socket that accepts no options is usually closed: its first read reports that.
                let _ = tcp.set_nodelay(true);
                let label = server.label(peer);
                let transport = Metered::socket(tcp);
                let meter = transport.meter();
                let handshake = tokio_tungstenite::accept_async_with_config(
                    transport,
                    Some(tungstenite_config()),
                );
                let opening = runtime::tokio::open(server.config.clone(), handshake)
                    .with_meter(meter)
                    .with_label(label.as_str());
                tokio::spawn(converse(opening, label, server.heartbeat));
            }
            Err(error) => {
                log::error!("accept: {error}");
                tokio::time::sleep(RESPITE).await;
            }
        }
    }
}

async fn on_smol(listener: TcpListener, server: Arc<Server>) -> io::Result<Infallible> {
    let listener = smol::net::TcpListener::try_from(listener)?;
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let _ = tcp.set_nodelay(true);
                let label = server.label(peer);
                let transport = Metered::socket(tcp);
                let meter = transport.meter();
                let handshake = async_tungstenite::accept_async_with_config(
                    transport,
                    Some(tungstenite_config()),
                );
                let opening = runtime::smol::open(server.config.clone(), handshake)
                    .with_meter(meter)
                    .with_label(label.as_str());
                smol::spawn(converse(opening, label, server.heartbeat)).detach();
            }
            Err(error) => {
                log::error!("accept: {error}");
                smol::Timer::after(RESPITE).await;
            }
        }
    }
}

async fn on_async_std(listener: TcpListener, server: Arc<Server>) -> io::Result<Infallible> {
    let listener = async_std::net::TcpListener::from(listener);
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let _ = tcp.set_nodelay(true);
                let label = server.label(peer);
                let transport = Metered::new(tcp);
                let meter = transport.meter();
                let handshake = async_tungstenite::accept_async_with_config(
                    transport,
                    Some(tungstenite_config()),
                );
                let opening = runtime::async_std::open(server.config.clone(), handshake)
                    .with_meter(meter)
                    .with_label(label.as_str());
                async_std::task::spawn(converse(opening, label, server.heartbeat));
            }
            Err(error) => {
                log::error!("accept: {error}");
                async_std::task::sleep(RESPITE).await;
            }
        }
    }
}

impl Server {
    /// The name of the next connection in the log.
    fn label(&self, peer: SocketAddr) -> String {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let label = format!("{}-{number}", self.label);
        log::info!("{label}: a connection from {peer}");
        label
    }
}

/// Echoes the data messages unchanged, until the connection ends. The crate logs how it ended.
async fn converse<S, T>(
    opening: impl Future<Output = Result<TimeoutSocket<S, T>, Error<tungstenite::Error>>>,
    label: String,
    heartbeat: Heartbeat,
) where
    S: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin,
    T: Timer + Unpin,
{
    let mut socket = match opening.await {
        Ok(socket) => heartbeat.at_server(socket),
        // The crate has logged why.
        Err(_) => return,
    };
    if let Some(greeting) = heartbeat.greeting(socket.config()) {
        if let Err(error) = socket.send(greeting).await {
            log::debug!("{label}: not greeted: {error}");
        }
    }
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            // Once the connection is closing nothing can be sent, but the peer may still send
            // something before it answers the Close frame: keep reading.
            if let Err(error) = socket.send(message).await {
                log::debug!("{label}: not echoed: {error}");
            }
        }
    }
}

struct Arguments {
    runtime: Runtime,
    address: String,
    heartbeat: Heartbeat,
    label: String,
}

#[derive(Clone, Copy)]
enum Runtime {
    Tokio,
    Smol,
    AsyncStd,
}

impl Arguments {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self {
            runtime: Runtime::Tokio,
            address: "127.0.0.1:0".into(),
            heartbeat: Heartbeat::Frame,
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
                "--heartbeat" => arguments.heartbeat = Heartbeat::named(&value()?)?,
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
        _ => Err(format!(
            "--addr is {address:?}, expected HOST:PORT with a port from 0 to 65535"
        )),
    }
}

impl Runtime {
    fn named(name: &str) -> Result<Self, String> {
        match name {
            "tokio" => Ok(Self::Tokio),
            "smol" => Ok(Self::Smol),
            "async-std" => Ok(Self::AsyncStd),
            _ => Err(format!(
                "--runtime is {name:?}, expected tokio, smol or async-std"
            )),
        }
    }
}
