//! A socket split in two: one task reads, another writes.
//!
//! ```text
//! cargo run --example split
//! ```
//!
//! The reading task receives the pongs, detects silence and ends the connection, so it must keep
//! polling. The peer here answers twice and then falls silent.

use std::error::Error as StdError;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async_with_config, tungstenite};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::{Timer, open};
use ws_timeout::{Error, TimeoutConfig, TimeoutSocket};

type Failure = Box<dyn StdError + Send + Sync>;
type Socket = TimeoutSocket<WebSocketStream<TcpStream>, Timer>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let config = TimeoutConfig::client()
        .to_builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let tcp = TcpStream::connect(listener.local_addr()?).await?;
    tokio::spawn(peer(listener));
    let handshake = client_async_with_config("ws://localhost/", tcp, Some(tungstenite_config()));
    let handshake = async { handshake.await.map(|(socket, _)| socket) };
    let (sink, stream) = open(config, handshake).await?.split();

    // Each part of the program that sends gets a clone of `outbox`.
    let (outbox, messages) = mpsc::channel(16);
    let (ending, ended) = oneshot::channel();
    let reader = tokio::spawn(read(stream, ending));
    let writer = tokio::spawn(write(sink, messages, ended));

    outbox.send(Message::text("one")).await?;
    outbox.send(Message::text("two")).await?;
    outbox.closed().await;
    println!("main: the outbox is closed");
    reader.await?;
    writer.await?;
    Ok(())
}

/// Reads until the connection has ended. The writing task then sees that `_ending` is dropped.
async fn read(mut stream: SplitStream<Socket>, _ending: oneshot::Sender<()>) {
    while let Some(message) = stream.next().await {
        match message {
            Ok(message) => println!("reader: got {message}"),
            // The transport is already dropped. After an error the stream ends.
            Err(Error::Verdict(verdict)) => println!("reader: {}", verdict.reason),
            Err(error) => println!("reader: {error}"),
        }
    }
}

/// Writes messages until the connection has ended. The reading task keeps reading after a failed
/// send: the peer's last messages may arrive, and the stream returns how the connection ended.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut messages: mpsc::Receiver<Message>,
    mut ended: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    if let Err(error) = sink.send(message).await {
                        println!("writer: not sent: {error}");
                        break;
                    }
                }
                None => {
                    // All senders are gone. The reading task receives the answer to the Close
                    // frame.
                    let _ = sink.close().await;
                    break;
                }
            },
            _ = &mut ended => {
                println!("writer: the connection has ended");
                break;
            }
        }
    }
}

/// Answers two messages, then stops reading and so answers no pings.
async fn peer(listener: TcpListener) -> Result<(), Failure> {
    let (tcp, _) = listener.accept().await?;
    let mut socket = accept_async(tcp).await?;
    for _ in 0..2 {
        let message = socket.next().await.ok_or("no message")??;
        socket.send(message).await?;
    }
    std::future::pending().await
}
