//! A server on tokio that keeps the timeouts of all connections in one task.
//!
//! ```text
//! cargo run --example fleet_tokio
//! cargo run --example client -- ws://ADDRESS
//! ```
//!
//! Each connection has its own task, which reports its events to the task in `timers.rs` and
//! carries out the actions that come back. The server prints what its clients send. The limits
//! come from the environment.

mod timers;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, channel};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, Event, PingId, TimeoutConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Arc::new(TimeoutConfig::from_env()?.config);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}", listener.local_addr()?);
    let (accepted, connections) = channel(16);
    tokio::spawn(timers::run(connections, config));
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => accepted.send(tcp).await?,
            Err(error) => {
                // With too many open files, some must close first.
                println!("not accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The task of a connection. Returns when it has ended.
async fn serve(
    tcp: TcpStream,
    config: &TimeoutConfig,
    report: impl Fn(Event),
    mut actions: UnboundedReceiver<Action>,
) {
    let opened = tokio::select! {
        opened = accept_async_with_config(tcp, Some(tungstenite_config())) => opened,
        _ = actions.recv() => return, // `handshake_timeout` has expired
    };
    let Ok(socket) = opened else { return };
    report(Event::Opened);
    let (mut sink, mut stream) = socket.split();
    // What to report once everything is flushed.
    let mut unflushed = None;
    loop {
        tokio::select! {
            message = stream.next() => report(match message {
                Some(Ok(Message::Ping(_))) => Event::Ping,
                Some(Ok(Message::Pong(payload))) => Event::Pong(PingId::from_payload(&payload)),
                Some(Ok(Message::Close(_))) => Event::PeerClose,
                Some(Ok(message)) => {
                    println!("received {message}");
                    Event::Recv
                }
                Some(Err(_)) | None => return,
            }),
            Ok(()) = sink.flush(), if unflushed.is_some() => {
                unflushed.take().into_iter().for_each(&report);
            }
            Some(action) = actions.recv() => {
                let (message, event) = match action {
                    Action::SendPing(id) => {
                        let payload = id.payload().to_vec().into();
                        (Message::Ping(payload), Event::PingSent(id))
                    }
                    Action::Close(reason) | Action::Abort(reason) => {
                        println!("closing a connection: {reason}");
                        let frame = config.close_code(reason).map(|code| CloseFrame {
                            code: code.into(),
                            reason: reason.text().into(),
                        });
                        (Message::Close(frame), Event::Flushed)
                    }
                    Action::Idle { .. } => continue,
                };
                // This does not wait for room: `message_timeout` limits how long the ping waits.
                let _ = sink.send(message).now_or_never();
                if matches!(action, Action::Abort(_)) {
                    return;
                }
                unflushed = Some(event);
            }
        }
    }
}
