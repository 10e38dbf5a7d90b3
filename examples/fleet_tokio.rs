//! One task for the timers of all connections, under tokio: `cargo run --example fleet_tokio`.
//!
//! Each connection has its own task as usual. It tells the task of the timers what happens, and is told
//! what to do. Half of the clients here fall silent; the program ends when those were let go.

use std::collections::HashMap;
use std::future::pending;
use std::iter;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use ws_timeout::{Action, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

/// What a connection says to the timers.
enum Told {
    Opened(mpsc::UnboundedSender<Action>, oneshot::Sender<FleetKey>),
    Happened(FleetKey, Event),
    Ended(FleetKey),
}

/// The task of the timers.
async fn keep_time(config: Arc<TimeoutConfig>, mut told: mpsc::UnboundedReceiver<Told>) {
    let start = now();
    let elapsed = || Timestamp::from_nanos((now() - start).as_nanos() as u64);
    let mut fleet = Fleet::new();
    let mut connections = HashMap::new();
    loop {
        let due = fleet.next_deadline();
        let alarm = async {
            match due {
                Some(due) => {
                    tokio::time::sleep_until(start + due.saturating_duration_since(Timestamp::ZERO))
                        .await
                }
                None => pending().await,
            }
        };
        let next = tokio::select! {
            next = told.recv() => match next {
                Some(next) => Some(next),
                None => return, // all connections have ended, and nobody opens one
            },
            () = alarm => None,
        };
        let rings = next.is_none();
        let now = elapsed();
        if rings {
            // Whoever has something to read reads it, and tells, before what is due by now is judged. Of at
            // most 1024 sockets tokio hears in one turn of its reactor, and after a blocked thread there may be
            // more.
            for _ in 0..16 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for this in next
            .into_iter()
            .chain(iter::from_fn(|| told.try_recv().ok()))
        {
            match this {
                Told::Opened(actions, reply) => {
                    let seed = fleet.len() as u64; // in a real server, a random number
                    let key = fleet.insert(config.clone(), seed, now);
                    connections.insert(key, actions);
                    let _ = reply.send(key);
                }
                Told::Happened(key, event) => _ = fleet.observe(key, now, event),
                Told::Ended(key) => {
                    fleet.remove(key);
                    connections.remove(&key);
                }
            }
        }
        if !rings {
            continue;
        }
        while let Some((key, action)) = fleet.poll(now) {
            if let Some(connection) = connections.get(&key) {
                let _ = connection.send(action);
            }
        }
    }
}

/// The task of a connection. Gives the reason if it was a timeout that ended it.
async fn serve(stream: DuplexStream, timers: mpsc::UnboundedSender<Told>) -> Option<Action> {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let (actions, mut to_do) = mpsc::unbounded_channel();
    let (reply, key) = oneshot::channel();
    timers.send(Told::Opened(actions, reply)).ok()?;
    let key = key.await.ok()?;
    let tell = |event| _ = timers.send(Told::Happened(key, event));
    let reason = loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Pong(payload))) => tell(Event::Pong(PingId::from_payload(&payload))),
                Some(Ok(Message::Ping(_))) => tell(Event::Ping),
                Some(Ok(Message::Close(_))) => tell(Event::PeerClose),
                Some(Ok(_)) => tell(Event::Recv),
                Some(Err(_)) | None => break None,
            },
            Some(action) = to_do.recv() => match action {
                Action::SendPing(id) => {
                    // A ping is small: where it does not fit, `message_timeout` runs. Read on meanwhile.
                    let ping = Message::Ping(id.payload().to_vec().into());
                    if socket.send(ping).await.is_ok() {
                        tell(Event::PingSent(id));
                    }
                }
                verdict => break Some(verdict),
            },
        }
    };
    let _ = timers.send(Told::Ended(key));
    reason
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(argument) = std::env::args_os().nth(1) {
        eprintln!(
            "fleet_tokio: {} is no argument\nusage: fleet_tokio",
            argument.to_string_lossy()
        );
        return ExitCode::from(2);
    }
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(3))
        .build()
        .expect("the configuration has a meaning");
    let (timers, told) = mpsc::unbounded_channel();
    tokio::spawn(keep_time(Arc::new(config), told));

    let (mut lively, mut silent) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let (here, there) = duplex(4096);
        let connection = tokio::spawn(serve(here, timers.clone()));
        let mut client = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
        if number % 2 == 0 {
            // tungstenite answers the pings.
            tokio::spawn(async move { while let Some(Ok(_)) = client.next().await {} });
            lively.push(connection);
        } else {
            silent.push((connection, client));
        }
    }
    let mut let_go = 0;
    for (number, (connection, _client)) in silent.into_iter().enumerate() {
        let verdict = connection.await.ok().flatten();
        match verdict {
            Some(verdict) => println!("silent client {number}: let go, {verdict:?}"),
            None => println!("silent client {number}: ended, but not by a timeout"),
        }
        let_go += usize::from(verdict.is_some());
    }
    let lost = lively
        .iter()
        .filter(|connection| connection.is_finished())
        .count();
    println!("let go: {let_go} of 10 that were silent, {lost} of 10 that answer");
    ExitCode::from(u8::from(let_go != 10 || lost != 0))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, and the clock is its"
)]
fn now() -> Instant {
    Instant::now()
}
