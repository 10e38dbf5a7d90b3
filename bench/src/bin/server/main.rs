//! An echo server for each way to keep connections alive, on one thread.
//!
//! ```text
//! server STACK PING_SECONDS [broadcast]
//! ```
//!
//! With `broadcast`, it sends each text to all connections instead.
//!
//! Listens on a free port of the loopback and prints `listening on PORT`. `bench/run` measures the
//! CPU time and the memory of the process from outside.

mod actix;
mod axum;
mod broadcast;
mod by_hand;
mod fleet;
mod floor;
mod jsonrpsee;
mod ours;

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use ws_timeout::message::tungstenite_config;

type Outcome = Result<(), Box<dyn Error>>;
type Socket = WebSocketStream<TcpStream>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let named = match arguments[..] {
        [stack, seconds] => Some((stack, seconds.parse(), false)),
        [stack, seconds, "broadcast"] => Some((stack, seconds.parse(), true)),
        _ => None,
    };
    let Some((stack, Ok(seconds), is_broadcast)) = named else {
        eprintln!("usage: server STACK PING_SECONDS [broadcast]");
        return ExitCode::from(2);
    };
    let ping = Duration::from_secs(seconds);
    let served = if is_broadcast {
        broadcast::serve(stack, ping)
    } else {
        serve(stack, ping)
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server {stack}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(stack: &str, ping: Duration) -> Outcome {
    match stack {
        "floor" => floor::serve(ping),
        "fleet" => fleet::serve(ping, Duration::ZERO),
        "fleet, 125 ms" => fleet::serve(ping, ours::SLACK),
        "actix-ws" => actix::serve(ping),
        "axum" => on_tokio(axum::serve(ping)),
        "jsonrpsee" => on_tokio(jsonrpsee::serve(ping)),
        "bare" => on_tokio(accept(echo)),
        "bare, one timer" => on_tokio(beside_a_timer(ping, accept(echo))),
        "task" => on_tokio(ours::task(ping, Echo)),
        "task, no slack" => on_tokio(ours::task_with_slack(ping, Duration::ZERO)),
        "task, 125 ms" => on_tokio(ours::task_with_slack(ping, ours::SLACK)),
        "task, metered" => on_tokio(ours::metered(ping, Echo)),
        "interval" => on_tokio(accept(move |socket| by_hand::interval(socket, ping))),
        "interval, jitter" => on_tokio(accept(move |socket| by_hand::jittered(socket, ping))),
        "two tasks" => on_tokio(accept(move |socket| by_hand::two_tasks(socket, ping))),
        "timeout(next)" => on_tokio(accept(move |socket| by_hand::timeout_next(socket, ping))),
        _ => Err("no such stack".into()),
    }
}

fn on_tokio(server: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(server)
}

/// Runs the server beside an interval: a server that does anything periodically has such a timer,
/// which limits how long it sleeps.
async fn beside_a_timer(each: Duration, server: impl Future<Output = Outcome>) -> Outcome {
    let mut ticks = tokio::time::interval(each);
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
        }
    });
    server.await
}

async fn listen() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?.port());
    Ok(listener)
}

/// A task for each connection of tokio-tungstenite, with a read buffer of 4 KiB.
async fn accept<F, R>(serve: F) -> Outcome
where
    F: Fn(Socket) -> R,
    F: Clone + 'static + Send,
    R: Future<Output = ()> + Send,
{
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let serve = serve.clone();
        tokio::spawn(async move {
            if let Ok(socket) = accept_async_with_config(stream, Some(tungstenite_config())).await {
                serve(socket).await;
            }
        });
    }
}

/// What a server does on a socket, with or without timeouts, until it ends.
trait Work: Clone + Send + 'static {
    fn run<S, E>(self, socket: S) -> impl Future<Output = ()> + Send
    where
        S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Send + Unpin,
        E: Send;
}

#[derive(Clone, Copy)]
struct Echo;

impl Work for Echo {
    fn run<S, E>(self, socket: S) -> impl Future<Output = ()> + Send
    where
        S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Send + Unpin,
        E: Send,
    {
        echo(socket)
    }
}

/// Echoes text, without timeouts.
async fn echo<S, E>(mut socket: S)
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Unpin,
{
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() && socket.send(message).await.is_err() {
            break;
        }
    }
}
