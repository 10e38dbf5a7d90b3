//! Compares three servers: what `timeout(next())`, `interval` with `select!`, and this crate do
//! about peers that misbehave, and about healthy ones.
//!
//! ```text
//! cargo run --example compare
//! ```
//!
//! Prints the table of the README: when each server ends the connection, with undesirable outcomes
//! in bold. Real WebSockets run on simulated time, so it takes a few seconds. Each server echoes,
//! and closes the connection when it receives `bye`. A peer may be silent for 60 s, and the servers
//! that ping do so every 25 s.

#![expect(
    clippy::disallowed_methods,
    reason = "servers written by hand keep time"
)]

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, interval, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream, accept_async, accept_async_with_config, client_async, tungstenite,
};
use tungstenite::{Bytes, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Metered, TimeoutConfig};

type Failure = Box<dyn Error + Send + Sync>;

const SECOND: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(60);
const PING_INTERVAL: Duration = Duration::from_secs(25);
const PING: Message = Message::Ping(Bytes::new());

/// A connection that is still open at this age counts as staying open.
const WATCHED: Duration = Duration::from_secs(600);

/// The frozen server is not polled between these ages.
const FROZEN: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(165));

/// Two tasks: one begins to send, the other pings, and then the peer makes room.
const SEND_AT: Duration = Duration::from_millis(24_800);
const ROOM_AT: Duration = Duration::from_millis(25_500);

fn main() -> Result<(), Failure> {
    println!("| the peer | `timeout(next())` | `interval` + `select!` | ws-timeout |");
    println!("|---|---|---|---|");
    for (peer, text) in PEERS {
        let [timeout, interval, guarded] =
            [Server::Timeout, Server::Interval, Server::Guarded].map(|server| cell(server, peer));
        println!("| {text} | {} | {} | {} |", timeout?, interval?, guarded?);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Server {
    Timeout,
    Interval,
    Guarded,
}

#[derive(Clone, Copy, PartialEq)]
enum Peer {
    Vanishes,
    NeverReads,
    SlowHandshake,
    LosesClose,
    Floods,
    // All others are healthy.
    Quiet,
    Uploads,
    OutlivesStall,
    MakesRoom,
}

const PEERS: [(Peer, &str); 9] = [
    (Peer::Vanishes, "vanishes"),
    (Peer::NeverReads, "never reads your reply of 1 MiB"),
    (
        Peer::SlowHandshake,
        "sends a byte of its handshake every 15 s",
    ),
    (Peer::LosesClose, "does not answer your Close frame"),
    (Peer::Floods, "sends 100 pings a second"),
    (
        Peer::Quiet,
        "is healthy, and sends nothing but answers to pings",
    ),
    (Peer::Uploads, "is healthy, and uploads a message for 2 min"),
    (
        Peer::OutlivesStall,
        "is healthy; your process is stopped for 2 min",
    ),
    (
        Peer::MakesRoom,
        "is healthy; one task pings while another waits to send",
    ),
];

impl Peer {
    /// Connects and behaves; returns only if the connection has ended.
    async fn run(self, mut stream: DuplexStream) -> Result<(), Failure> {
        if self == Self::SlowHandshake {
            stream.write_all(b"GET / HTTP/1.1\r\nCookie: ").await?;
            loop {
                stream.write_all(b"x").await?;
                sleep(15 * SECOND).await;
            }
        }
        let (mut socket, _) = client_async("ws://localhost/", stream).await?;
        match self {
            Self::Vanishes => std::future::pending().await,
            Self::NeverReads => {
                socket.send(large()).await?;
                std::future::pending().await
            }
            Self::LosesClose => {
                socket.send(Message::text("bye")).await?;
                socket.get_mut().read_to_end(&mut Vec::new()).await?;
                Ok(())
            }
            Self::Floods => talk(socket, PING, SECOND / 100).await,
            Self::Uploads => {
                // A binary frame of a client, with a mask of zeros: two minutes of 8 KiB a second.
                let chunk = [7; 8192];
                let length = 120 * chunk.len() as u64;
                let header = [&[0x82, 0xFF], &length.to_be_bytes()[..], &[0; 4]].concat();
                socket.get_mut().write_all(&header).await?;
                for _ in 0..120 {
                    socket.get_mut().write_all(&chunk).await?;
                    sleep(SECOND).await;
                }
                talk(socket, Message::text("hello"), 40 * SECOND).await
            }
            Self::MakesRoom => {
                sleep_until(Instant::now() + ROOM_AT).await;
                while socket.next().await.transpose()?.is_some() {}
                Ok(())
            }
            Self::Quiet => {
                while socket.next().await.transpose()?.is_some() {}
                Ok(())
            }
            Self::SlowHandshake | Self::OutlivesStall => {
                talk(socket, Message::text("hello"), 40 * SECOND).await
            }
        }
    }
}

/// Reads, which also answers pings, and sends a message regularly.
async fn talk(
    mut socket: WebSocketStream<DuplexStream>,
    message: Message,
    period: Duration,
) -> Result<(), Failure> {
    let mut ticks = interval_at(Instant::now() + period, period);
    loop {
        tokio::select! {
            received = socket.next() => if received.transpose()?.is_none() { return Ok(()) },
            _ = ticks.tick() => socket.send(message.clone()).await?,
        }
    }
}

fn large() -> Message {
    Message::binary(vec![7; 1 << 20])
}

/// What a server does with a peer, in words.
fn cell(server: Server, peer: Peer) -> Result<String, Failure> {
    // `select!` polls in a random order, so a stall can have two outcomes.
    let runs = if peer == Peer::OutlivesStall { 20 } else { 1 };
    let ends = (0..runs)
        .map(|_| watch(server, peer))
        .collect::<Result<Vec<_>, Failure>>()?;
    let is_healthy = peer as u8 >= Peer::Quiet as u8;
    let all_ended = ends.iter().all(Option::is_some);
    Ok(match (ends.iter().flatten().next(), peer) {
        (None, Peer::MakesRoom) => "**send hangs**".to_string(),
        (Some(_), Peer::MakesRoom) => "send returns".to_string(),
        (None, _) if is_healthy => "stays".to_string(),
        (None, _) => "**still open**".to_string(),
        (Some(_), _) if !all_ended => "**may end**".to_string(),
        (Some(age), _) if is_healthy => format!("**ends after {} s**", age.as_secs()),
        (Some(age), _) => format!("ends after {} s", age.as_secs()),
    })
}

/// Runs a server and a peer. Returns the age at which the server ended the connection, or for
/// `MakesRoom` at which its send returned.
fn watch(server: Server, peer: Peer) -> Result<Option<Duration>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let (ours, theirs) = duplex(64 << 10);
        tokio::spawn(peer.run(theirs));
        let start = Instant::now();
        // In a task, which is polled only if something wakes it.
        let task = match (peer, server) {
            (Peer::MakesRoom, Server::Guarded) => tokio::spawn(guarded_halves(ours)),
            (Peer::MakesRoom, _) => tokio::spawn(shared_sink(ours, server)),
            (Peer::OutlivesStall, _) => tokio::spawn(freeze(serve(server, ours))),
            _ => tokio::spawn(serve(server, ours)),
        };
        let ended = timeout(WATCHED, task).await;
        Ok(ended.ok().map(|_| start.elapsed()))
    })
}

/// Does not poll `server` while it is frozen, as if its process were stopped.
async fn freeze<F: Future>(server: F) -> F::Output {
    let start = Instant::now();
    let mut server = pin!(server);
    let mut thaw = pin!(sleep_until(start + FROZEN.1));
    poll_fn(|cx| {
        if thaw.as_mut().poll(cx).is_pending() && start.elapsed() >= FROZEN.0 {
            return Poll::Pending;
        }
        server.as_mut().poll(cx)
    })
    .await
}

async fn serve(server: Server, stream: DuplexStream) -> Result<(), Failure> {
    match server {
        Server::Timeout => {
            let mut socket = accept_async(stream).await?;
            while let Some(message) = timeout(SILENCE, socket.next()).await? {
                answer(&mut socket, message?).await?;
            }
        }
        Server::Interval => {
            let mut socket = accept_async(stream).await?;
            let (mut ticks, mut last_received) = (interval(PING_INTERVAL), Instant::now());
            loop {
                tokio::select! {
                    message = socket.next() => {
                        last_received = Instant::now();
                        let Some(message) = message else { break };
                        answer(&mut socket, message?).await?;
                    }
                    _ = ticks.tick() => {
                        if last_received.elapsed() > SILENCE {
                            break;
                        }
                        socket.send(PING).await?;
                    }
                }
            }
        }
        Server::Guarded => {
            let stream = Metered::new(stream);
            let meter = stream.meter();
            let handshake = accept_async_with_config(stream, Some(tungstenite_config()));
            let mut socket = open(config()?, handshake).with_meter(meter).await?;
            while let Some(message) = socket.next().await {
                answer(&mut socket, message?).await?;
            }
        }
    }
    Ok(())
}

/// The defaults, with no lifetime, and without jitter so that each run gives the same figures.
fn config() -> Result<TimeoutConfig, Failure> {
    let limits = TimeoutConfig::builder().no_connection_timeout().jitter(0.0);
    Ok(limits.build()?)
}

async fn answer<S, E>(socket: &mut S, message: Message) -> Result<(), E>
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Unpin,
{
    match message {
        Message::Text(text) if text == "bye" => socket.close().await,
        Message::Text(_) | Message::Binary(_) => socket.send(message).await,
        _ => Ok(()),
    }
}

/// By hand: the writing task and the reading task, which pings, share the sink. Returns when the
/// send does.
async fn shared_sink(stream: DuplexStream, server: Server) -> Result<(), Failure> {
    let (sink, mut stream) = accept_async(stream).await?.split();
    let sink = Arc::new(Mutex::new(sink));
    let pings = sink.clone();
    tokio::spawn(async move {
        let mut ticks = interval(PING_INTERVAL);
        loop {
            tokio::select! {
                message = timeout(SILENCE, stream.next()) => {
                    if !matches!(message, Ok(Some(Ok(_)))) { break }
                }
                _ = ticks.tick(), if server == Server::Interval => {
                    if send(&pings, PING).await.is_err() { break }
                }
            }
        }
    });
    sleep(SEND_AT).await;
    Ok(send(&sink, large()).await?)
}

/// Sends through a sink that several tasks poll.
async fn send<S: Sink<Message> + Unpin>(sink: &Mutex<S>, message: Message) -> Result<(), S::Error> {
    let lock = || sink.lock().unwrap_or_else(PoisonError::into_inner);
    poll_fn(|cx| lock().poll_ready_unpin(cx)).await?;
    lock().start_send_unpin(message)?;
    poll_fn(|cx| lock().poll_flush_unpin(cx)).await
}

/// With the crate: two halves of one socket. Returns when the send does.
async fn guarded_halves(stream: DuplexStream) -> Result<(), Failure> {
    let (mut sink, mut stream) = open(config()?, accept_async(stream)).await?.split();
    tokio::spawn(async move { while let Some(Ok(_)) = stream.next().await {} });
    sleep(SEND_AT).await;
    Ok(sink.send(large()).await?)
}
