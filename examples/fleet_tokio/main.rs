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
#![expect(clippy::disallowed_methods, reason = "this is the clock")]

mod timers;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, channel};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, CloseReason, Event, PingId, TimeoutConfig};

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
    let Ok(peer) = tcp.peer_addr() else { return };
    let opened = tokio::select! {
        opened = accept_async_with_config(tcp, Some(tungstenite_config())) => opened,
        _ = actions.recv() => return, // `handshake_timeout` has expired
    };
    let Ok(socket) = opened else { return };
    report(Event::Opened);
    let (mut sink, mut stream) = socket.split();
    // What waits for room, and what to report once everything is flushed.
    let (mut outbox, mut unflushed) = (VecDeque::new(), None);
    loop {
        tokio::select! {
            message = stream.next() => report(match message {
                Some(Ok(Message::Ping(_))) => Event::Ping,
                Some(Ok(Message::Pong(payload))) => Event::Pong(PingId::from_payload(&payload)),
                Some(Ok(Message::Close(_))) => Event::PeerClose,
                Some(Ok(message)) => {
                    println!("{peer}: received {message}");
                    Event::Recv
                }
                Some(Err(_)) | None => return,
            }),
            Ok(()) = poll_fn(|cx| match outbox.is_empty() {
                true => sink.poll_flush_unpin(cx),
                false => sink.poll_ready_unpin(cx),
            }), if unflushed.is_some() || !outbox.is_empty() => match outbox.pop_front() {
                Some((message, event)) => {
                    let _ = sink.start_send_unpin(message); // if this fails, so does the read
                    unflushed = Some(event);
                }
                None => unflushed.take().into_iter().for_each(&report),
            },
            Some(action) = actions.recv() => match action {
                Action::SendPing(id) => {
                    let ping = Message::Ping(id.payload().to_vec().into());
                    outbox.push_back((ping, Event::PingSent(id)));
                }
                Action::Close(reason) => {
                    println!("{peer}: closing: {reason}");
                    let close = config.close_code(reason).map(|code| close(code, reason));
                    outbox.extend(close.map(|close| (close, Event::Flushed)));
                }
                Action::Abort(reason) => {
                    println!("{peer}: aborted: {reason}");
                    if let Some(code) = config.close_code(reason) {
                        let _ = sink.send(close(code, reason)).now_or_never(); // if there is room
                    }
                    return;
                }
                Action::Idle { .. } => {}
            },
        }
    }
}

fn close(code: u16, reason: CloseReason) -> Message {
    let (code, reason) = (code.into(), reason.text().into());
    Message::Close(Some(CloseFrame { code, reason }))
}
