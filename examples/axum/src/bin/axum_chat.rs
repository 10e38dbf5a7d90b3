//! A chat: what one client says, all clients receive.
//!
//! ```text
//! cargo run --package axum-examples -- 127.0.0.1:8080
//! ```
//!
//! The limits come from the environment; a client at `/ws/slow` may read nothing for eight seconds.
//! At Ctrl-C or SIGTERM the server takes no new clients, closes all connections over five seconds,
//! and exits.
//!
//! `/trace` returns the trace of the last connection that a limit ended; a public server should
//! restrict it to its operators. `cargo run --example replay -- --check FILE` replays the trace,
//! `--mermaid` and `--svg` draw it.

use std::error::Error;
use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use axum::routing::{any, get};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::{self, Sender};
use ws_timeout::axum::{MeteredListener, Peer, TimeoutUpgrade};
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::{Log, Recorder, TimeoutSocket, Timeouts, Trace};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let recorder = Recorder::new();
    let timeouts = Timeouts::from_env()?.with_observer((Log, recorder.clone()));
    let config = *timeouts.config().as_ref();
    let slow = config.to_builder().message_timeout(Duration::from_secs(8));
    let slow = timeouts.with_config(slow.build()?);
    let app = Router::new()
        .route("/ws", any(join))
        .route("/ws/slow", any(join).layer(slow))
        .route("/trace", get(trace).with_state(recorder))
        .layer(timeouts.clone()) // `Extension(timeouts.clone())` also works, but logs no limits
        .with_state(broadcast::channel(256).0);

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    let stop = stop.shared();
    let listener = MeteredListener(TcpListener::bind(address).await?);
    println!("listening on ws://{}/ws", listener.0.local_addr()?);
    let server = axum::serve(listener, app.into_make_service_with_connect_info::<Peer>());
    let server = tokio::spawn(server.with_graceful_shutdown(stop.clone()).into_future());
    stop.await;

    let drained = timeouts.drain(Duration::from_secs(5));
    let all = async { (server.await, drained.await) };
    // A request that does not end must not keep the process from exiting.
    let bound = Duration::from_secs(6) + config.close_timeout();
    if tokio::time::timeout(bound, all).await.is_err() {
        log::warn!(
            "no longer waiting for {} WebSockets and for requests",
            timeouts.len()
        );
    }
    Ok(())
}

/// The latest connection that a limit ended, or nothing.
async fn trace(State(recorder): State<Recorder>) -> String {
    let verdicts = recorder.verdicts();
    verdicts.last().map(Trace::to_string).unwrap_or_default()
}

async fn join(State(room): State<Sender<Message>>, upgrade: TimeoutUpgrade) -> Response {
    upgrade.on_upgrade(|socket| chat(socket, room))
}

/// Reads until the connection ends, and writes in another task.
async fn chat(socket: TimeoutSocket<WebSocket, Timer>, room: Sender<Message>) {
    let (mut sink, mut stream) = socket.split();
    let mut messages = room.subscribe();
    let writer = tokio::spawn(async move {
        loop {
            // The error is `Lagged`: the client was too slow, and has missed some.
            let Ok(message) = messages.recv().await else {
                continue;
            };
            if sink.send(message).await.is_err() {
                break; // the reader learns why
            }
        }
    });
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Text(_) = message {
            let _ = room.send(message);
        }
    }
    writer.abort();
}
