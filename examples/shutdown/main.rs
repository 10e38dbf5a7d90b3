//! Graceful shutdown of a whole server: on Ctrl-C or SIGTERM its connections go, but not all at once.
//!
//! ```text
//! cargo run --example shutdown -- --within 10
//! ```
//!
//! An echo server. Told to stop, it refuses new connections and closes those it has with code 1001
//! ("going away"), each at an instant of its own within ten seconds, so that the clients do not all
//! knock at the next server together. It ends when the last has gone: a client that does not answer
//! the Close frame is let go after `close_timeout`. `--addr HOST:PORT` is where it listens, by default a
//! free port of 127.0.0.1; the limits come from the environment.
//!
//! ```text
//! cargo run --example shutdown -- --connections 10000
//! ```
//!
//! is a rehearsal: clients in a child process, and as soon as all are there the server stops by itself.
//! It tells how evenly they went, and exits with 1 if that or anything else was not as it should be.
//!
//! [`serve`] and [`converse`] are what to copy; `rehearsal.rs` is the rehearsal.

mod rehearsal;

use std::error::Error;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Metered, Status, TimeoutConfig};

const USAGE: &str = "usage: shutdown [--within SECONDS] [--addr HOST:PORT | --connections NUMBER]";

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("shutdown: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let config = match TimeoutConfig::from_env() {
        Ok(loaded) => loaded.config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let done = match arguments.task {
        Task::Serve(address) => run(address, config, arguments.within).await,
        Task::Rehearse(clients) => rehearsal::run(clients, config, arguments.within).await,
        Task::BeClients(number, server) => rehearsal::be_clients(number, server).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shutdown: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the process is told to stop.
async fn run(address: String, config: TimeoutConfig, within: Duration) -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    // To change the code of the Close frame to 1012, "service restart":
    // `config.to_builder().drain_code(DrainCode::ServiceRestart).build()?`.
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("no listening on {address}: {error}"))?;
    let shutdown = told_to_stop()?;
    println!("listening on ws://{}", listener.local_addr()?);

    let ended = serve(listener, config, within, shutdown).await;
    println!("{} connections have gone", ended.len());
    Ok(())
}

/// Ends when the process gets Ctrl-C or, where there is such a thing, SIGTERM. From this call on neither
/// kills it.
#[cfg(unix)]
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Serves until `shutdown` is ready, then lets the connections go over the time `within`. Gives what
/// became of those that were still there.
async fn serve(
    listener: TcpListener,
    config: TimeoutConfig,
    within: Duration,
    shutdown: impl Future<Output = ()>,
) -> Vec<Ended> {
    let config = Arc::new(config);
    let (word, told) = watch::channel(None);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => {
                    connections.spawn(converse(tcp, peer, config.clone(), told.clone()));
                }
                Err(error) => {
                    // With too many open files, as a rule, some have to close first.
                    log::error!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            // A set keeps what is done until it is asked for it.
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    // Who comes now is refused, and finds another server.
    drop(listener);
    word.send_replace(Some(within));
    let mut ended = Vec::new();
    while let Some(done) = connections.join_next().await {
        // A task that panicked has said so itself, and must not keep the others from their end.
        ended.extend(done);
    }
    ended
}

/// How a connection ended.
struct Ended {
    /// What was known of it when it was asked to go, if it was.
    asked: Option<Status>,
    result: Result<(), ws_timeout::Error<tungstenite::Error>>,
}

/// One connection: waits for messages, and for the word that the server stops.
async fn converse(
    tcp: TcpStream,
    peer: SocketAddr,
    config: Arc<TimeoutConfig>,
    mut told: watch::Receiver<Option<Duration>>,
) -> Ended {
    let mut asked = None;
    let transport = Metered::socket(tcp);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = open(config, handshake)
        .with_meter(meter)
        .with_label(peer.to_string());
    let opened = tokio::select! {
        opened = opening => opened,
        // Whose handshake is not done has nothing to lose yet.
        _ = told.wait_for(Option::is_some) => return Ended { asked, result: Ok(()) },
    };
    let mut socket = match opened {
        Ok(socket) => socket,
        Err(error) => {
            let result = Err(error);
            return Ended { asked, result };
        }
    };
    let result = loop {
        tokio::select! {
            received = socket.recv() => match received {
                Ok(Some(message)) if message.is_text() || message.is_binary() => {
                    // Once the connection closes nothing can be sent, but the peer may still have
                    // something to say.
                    if let Err(error) = socket.send(message).await {
                        log::debug!("{peer}: not echoed: {error}");
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            // The socket is still to be read from: it closes when its time has come, and after that the
            // stream ends. The other branch may be dropped at any time, no message is lost by it.
            Ok(()) = told.changed() => {
                if let Some(within) = *told.borrow_and_update() {
                    socket.drain(within);
                    asked = Some(socket.status());
                }
            }
        }
    };
    Ended { asked, result }
}

struct Arguments {
    within: Duration,
    task: Task,
}

enum Task {
    Serve(String),
    Rehearse(usize),
    /// What the child process of a rehearsal does.
    BeClients(usize, SocketAddr),
}

impl Arguments {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self {
            within: Duration::from_secs(10),
            task: Task::Serve("127.0.0.1:0".into()),
        };
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or(format!("{flag} lacks its value"));
            match flag.as_str() {
                "--within" => arguments.within = seconds(&value()?)?,
                "--addr" => arguments.task = Task::Serve(host_and_port(value()?)?),
                "--connections" => arguments.task = Task::Rehearse(number(&value()?)?),
                "--clients" => {
                    let server = value()?;
                    let address = server
                        .parse()
                        .map_err(|_| format!("{server:?} is no address"))?;
                    arguments.task = Task::BeClients(number(&value()?)?, address);
                }
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

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds
        .filter(|length| !length.is_zero())
        .ok_or_else(|| format!("--within is {text:?}, expected a whole number from 1"))
}

fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|&number| number >= rehearsal::FEWEST)
        .ok_or_else(|| {
            let fewest = rehearsal::FEWEST;
            format!("--connections is {text:?}, expected a whole number from {fewest}")
        })
}
