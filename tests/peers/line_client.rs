//! A client on each runtime, for tests: sends each line of its input, and prints a line for each
//! event. It stays connected while its input is open. `examples/client.rs` is a simple one.
//!
//! ```text
//! WS_PING_INTERVAL=5 WS_PONG_TIMEOUT=10 cargo run --example line_client -- --runtime tokio ws://127.0.0.1:8080
//! ```
//!
//! `--runtime` is `tokio` (the default), `smol` or `async-std`. `--heartbeat` is `frame` (the
//! default), `text`, `engine.io` or `phoenix`, for servers of these protocols. The last argument is
//! the address of the server, here that of the command in the example `echo`; there is no TLS here.
//!
//! At the end of its input it closes the connection, discards what still arrives, and exits with 0.
//! If there is no input, as in a service or after `</dev/null`, it does so at once. Prepend
//! `tail -f /dev/null |` for an input that stays open and is silent.
//!
//! The events are on standard output: `opened`, `received`, `closed`, or `failed` with the reason,
//! which may be a limit. The log goes to standard error; `RUST_LOG=ws_timeout=debug` shows each
//! ping. It exits with 1 if the connection failed, and with 2 after a bad environment or bad
//! arguments.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use futures_util::{Sink, Stream};
use tokio::sync::mpsc;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Request;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, Utf8Bytes};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Error, Meter, Metered, TimeoutConfig, TimeoutSocket, Timer, runtime};

mod heartbeats;

use heartbeats::Heartbeat;

const USAGE: &str = "usage: line_client [--runtime tokio|smol|async-std] \
                     [--heartbeat frame|text|engine.io|phoenix] ws://HOST:PORT/…";

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("line_client: {problem}\n{USAGE}");
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

    match run(arguments, loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Connection(error)) => {
            // The reader of the events may have gone.
            let _ = say(format_args!("failed: {error}"));
            ExitCode::FAILURE
        }
        Err(Failure::Io(error)) => {
            eprintln!("line_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, config: TimeoutConfig) -> Result<(), Failure> {
    let Arguments {
        runtime,
        heartbeat,
        address,
        request,
    } = arguments;
    let lines = lines_of_input();
    log::info!("connecting to {address}");
    match runtime {
        Runtime::Tokio => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(on_tokio(address, request, config, heartbeat, lines)),
        Runtime::Smol => smol::block_on(on_smol(address, request, config, heartbeat, lines)),
        Runtime::AsyncStd => {
            async_std::task::block_on(on_async_std(address, request, config, heartbeat, lines))
        }
    }
}

/// The lines that are typed. tokio's channels work on any runtime.
type Lines = mpsc::Receiver<String>;

/// Connecting is part of the handshake, so that `handshake_timeout` bounds both.
async fn on_tokio(
    address: String,
    request: Request,
    config: TimeoutConfig,
    heartbeat: Heartbeat,
    lines: Lines,
) -> Result<(), Failure> {
    let meter = Meter::default();
    let handshake = async {
        let tcp = tokio::net::TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let transport = Metered::socket(tcp).with_meter(&meter);
        let limits = Some(tungstenite_config());
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(request, transport, limits).await?;
        Ok(socket)
    };
    let opening = runtime::tokio::open(config, handshake);
    let socket = opening.with_meter(meter.clone()).await?;
    converse(heartbeat.at_client(socket), lines).await
}

async fn on_smol(
    address: String,
    request: Request,
    config: TimeoutConfig,
    heartbeat: Heartbeat,
    lines: Lines,
) -> Result<(), Failure> {
    let meter = Meter::default();
    let handshake = async {
        let tcp = smol::net::TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let transport = Metered::socket(tcp).with_meter(&meter);
        let limits = Some(tungstenite_config());
        let (socket, _) =
            async_tungstenite::client_async_with_config(request, transport, limits).await?;
        Ok(socket)
    };
    let opening = runtime::smol::open(config, handshake);
    let socket = opening.with_meter(meter.clone()).await?;
    converse(heartbeat.at_client(socket), lines).await
}

async fn on_async_std(
    address: String,
    request: Request,
    config: TimeoutConfig,
    heartbeat: Heartbeat,
    lines: Lines,
) -> Result<(), Failure> {
    let meter = Meter::default();
    let handshake = async {
        let tcp = async_std::net::TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let transport = Metered::new(tcp).with_meter(&meter);
        let limits = Some(tungstenite_config());
        let (socket, _) =
            async_tungstenite::client_async_with_config(request, transport, limits).await?;
        Ok(socket)
    };
    let opening = runtime::async_std::open(config, handshake);
    let socket = opening.with_meter(meter.clone()).await?;
    converse(heartbeat.at_client(socket), lines).await
}

/// Sends what is typed and prints what comes, until the connection ends.
async fn converse<S, T>(socket: TimeoutSocket<S, T>, mut lines: Lines) -> Result<(), Failure>
where
    S: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin,
    T: Timer + Unpin,
{
    let mut socket = socket.with_label("client");
    say(format_args!("opened"))?;
    loop {
        // Whichever is ready first, the other loses nothing.
        tokio::select! {
            received = socket.recv() => match received? {
                Some(Message::Text(text)) => say(format_args!("received {text}"))?,
                Some(Message::Binary(bytes)) => say(format_args!("received {} bytes", bytes.len()))?,
                Some(Message::Close(frame)) => say(format_args!("closed by the peer {}", Code(frame)))?,
                // Pings are answered by tungstenite, with the next read.
                Some(_) => {}
                None => return Ok(()),
            },
            line = lines.recv() => match line {
                // Keep reading after a failed send: the stream returns how the connection ended.
                Some(line) => if let Err(error) = socket.send(Message::text(line)).await {
                    log::info!("not sent: {error}");
                },
                None => {
                    let code = socket.close(1000, "").await?;
                    let frame = code.map(|code| CloseFrame { code: code.into(), reason: Utf8Bytes::default() });
                    say(format_args!("closed by this side, answered {}", Code(frame)))?;
                    return Ok(());
                }
            },
        }
    }
}

/// Reads the input in its own thread, since that can block and only ends with the program.
fn lines_of_input() -> Lines {
    let (send, receive) = mpsc::channel(1);
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receive
}

fn say(event: fmt::Arguments) -> io::Result<()> {
    writeln!(io::stdout(), "{event}")
}

/// Displays a Close frame.
struct Code(Option<CloseFrame>);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(frame) => write!(
                f,
                "with {} {:?}",
                u16::from(frame.code),
                frame.reason.as_str()
            ),
            None => f.write_str("without a code"),
        }
    }
}

enum Failure {
    Connection(Error<tungstenite::Error>),
    Io(io::Error),
}

impl From<Error<tungstenite::Error>> for Failure {
    fn from(error: Error<tungstenite::Error>) -> Self {
        Self::Connection(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Arguments {
    runtime: Runtime,
    heartbeat: Heartbeat,
    /// Host and port of the request.
    address: String,
    request: Request,
}

#[derive(Clone, Copy)]
enum Runtime {
    Tokio,
    Smol,
    AsyncStd,
}

impl Arguments {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut runtime = Runtime::Tokio;
        let mut heartbeat = Heartbeat::Frame;
        let mut url = None;
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--runtime" => {
                    let name = given.next().ok_or("--runtime lacks its value")?;
                    runtime = Runtime::named(&name)?;
                }
                "--heartbeat" => {
                    let name = given.next().ok_or("--heartbeat lacks its value")?;
                    heartbeat = Heartbeat::named(&name)?;
                }
                flag if flag.starts_with('-') => return Err(format!("{flag} is no argument")),
                _ if url.is_some() => return Err("there is more than one address".into()),
                _ => url = Some(argument),
            }
        }
        let url = url.ok_or("the address of the server is missing")?;
        let refused = |why: &dyn fmt::Display| format!("{url:?} is no address: {why}");
        let request = url
            .as_str()
            .into_client_request()
            .map_err(|error| refused(&error))?;
        let uri = request.uri();
        if uri.scheme_str() != Some("ws") {
            return Err(refused(&"expected ws://HOST:PORT/…"));
        }
        let host = uri.host().ok_or_else(|| refused(&"it has no host"))?;
        let host_and_port = uri
            .authority()
            .and_then(|all| all.as_str().rsplit('@').next());
        let port = match uri.port_u16() {
            Some(port) => port,
            None if host_and_port == Some(host) => 80,
            None => return Err(refused(&"expected a port from 0 to 65535")),
        };
        let address = format!("{host}:{port}");
        Ok(Self {
            runtime,
            heartbeat,
            address,
            request,
        })
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
