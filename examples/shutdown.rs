//! Graceful shutdown of a server: on Ctrl-C or SIGTERM it closes its connections, but not all at
//! once.
//!
//! ```text
//! cargo run --example shutdown
//! cargo run --example client -- ws://ADDRESS
//! ```
//!
//! Runs an echo server on a free port, which it prints. At a signal it refuses new connections and
//! closes the open ones with code 1001 ("going away"), each at a random point within ten seconds,
//! so that the clients do not all reach the next server together. It exits when the last connection
//! has ended: `close_timeout` limits the wait for a client that does not answer the Close frame,
//! and `handshake_timeout` the wait for a client that does not complete its handshake. An argument
//! replaces the ten seconds; the limits come from the environment.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use env_logger::Env;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Metered, TimeoutConfig, Timeouts};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let seconds = std::env::args().nth(1).map(|text| text.parse());
    let seconds = seconds
        .unwrap_or(Ok(10))
        .map_err(|_| "usage: shutdown [SECONDS]")?;
    let timeouts = Timeouts::new(TimeoutConfig::from_env()?.config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let signal = stop_signal()?;
    println!("listening on ws://{}", listener.local_addr()?);

    let closed = serve(listener, &timeouts, Duration::from_secs(seconds), signal).await;
    println!("connections closed: {closed}");
    Ok(())
}

/// Serves until `shutdown` is ready, then closes all connections. Returns how many there were.
pub async fn serve(
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
            // Nothing can be sent once the connection closes, but the peer's last messages may
            // arrive.
            if let Err(error) = socket.send(message).await {
                log::debug!("{peer}: not echoed: {error}");
            }
        }
    }
}

/// Completes at Ctrl-C or SIGTERM. From this call on, neither kills the process.
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
