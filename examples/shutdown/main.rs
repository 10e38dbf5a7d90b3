//! Graceful shutdown of a whole server: on Ctrl-C or SIGTERM its connections close, but not all at once.
//!
//! ```text
//! cargo run --example shutdown -- --within 10
//! ```
//!
//! An echo server. At a signal it refuses new connections and closes those it has with code 1001 ("going
//! away"), each at a random point within ten seconds, so that the clients do not all come to the next server
//! together. It ends when the last connection has ended: `close_timeout` limits the wait for a client that
//! does not answer the Close frame, `handshake_timeout` that for a client that never completes its handshake.
//! `--addr HOST:PORT` sets the address, by default a free port of 127.0.0.1; the limits come from the
//! environment.
//!
//! ```text
//! cargo run --example shutdown -- --connections 10000
//! ```
//!
//! rehearses it, with clients in a child process: see `rehearsal.rs`.

mod arguments;
mod rehearsal;

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use arguments::Task;
use env_logger::Env;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Metered, Timeouts};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let task = match arguments::parse() {
        Ok(task) => task,
        Err(problem) => {
            eprintln!("shutdown: {problem}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Serve(address, limits, within) => run(&address, Timeouts::new(limits), within).await,
        Task::Rehearse(clients, limits, within) => rehearsal::run(clients, limits, within).await,
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

async fn run(address: &str, timeouts: Timeouts, within: Duration) -> Result<(), Failure> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let signal = stop_signal()?;
    println!("listening on ws://{}", listener.local_addr()?);

    let closed = serve(listener, &timeouts, within, signal).await;
    println!("{closed} connections have closed");
    Ok(())
}

/// Serves until `shutdown` is ready, then closes all connections. Returns how many there were.
async fn serve(
    listener: TcpListener,
    timeouts: &Timeouts,
    within: Duration,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => {
                    tokio::spawn(converse(tcp, peer, timeouts.clone()));
                }
                Err(error) => {
                    // With too many open files, some must close first.
                    log::error!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    let open = timeouts.len();
    timeouts.drain(within).await;
    open
}

/// Echoes until the connection ends. The log says why it did.
async fn converse(tcp: TcpStream, peer: SocketAddr, timeouts: Timeouts) {
    let transport = Metered::socket(tcp);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = open(timeouts, handshake).with_meter(meter);
    let Ok(mut socket) = opening.with_label(peer.to_string()).await else {
        return;
    };
    while let Ok(Some(message)) = socket.recv().await {
        if message.is_text() || message.is_binary() {
            // Nothing can be sent once the connection closes, but the peer's last messages may arrive.
            if let Err(error) = socket.send(message).await {
                log::debug!("{peer}: not echoed: {error}");
            }
        }
    }
}

/// Is ready at Ctrl-C or SIGTERM. From this call on, neither kills the process.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
