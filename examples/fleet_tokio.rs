//! The timers of all connections in one task, on tokio.
//!
//! ```text
//! cargo run --example fleet_tokio
//! ```
//!
//! Each connection has its own task, which reports its events to the timer task and carries out the
//! actions that it returns. Half of the twenty clients here answer no pings; the program exits when
//! they are disconnected.

use std::collections::HashMap;
use std::future::pending;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use ws_timeout::{Action, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

/// What a connection reports to the timer task.
enum News {
    Opened(mpsc::UnboundedSender<Action>, oneshot::Sender<FleetKey>),
    Happened(FleetKey, Event),
    Ended(FleetKey),
}

/// The timer task.
async fn keep_time(config: Arc<TimeoutConfig>, mut news: mpsc::UnboundedReceiver<News>) {
    let start = now();
    let elapsed = || Timestamp::from_nanos((now() - start).as_nanos() as u64);
    let mut fleet = Fleet::new();
    let mut connections = HashMap::new();
    loop {
        let due = fleet.next_deadline();
        let timer = async {
            match due {
                Some(due) => {
                    tokio::time::sleep_until(start + due.saturating_duration_since(Timestamp::ZERO))
                        .await
                }
                None => pending().await,
            }
        };
        let next = tokio::select! {
            next = news.recv() => match next {
                Some(next) => Some(next),
                None => return, // no connection is left, and none can open
            },
            () = timer => None,
        };
        let expired = next.is_none();
        let now = elapsed();
        if expired {
            // Before a deadline counts, the connections read what has arrived. A turn of tokio's
            // reactor reports at most 1024 sockets, and after a blocked thread there may be more.
            for _ in 0..16 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for this in next
            .into_iter()
            .chain(iter::from_fn(|| news.try_recv().ok()))
        {
            match this {
                News::Opened(actions, reply) => {
                    let seed = fleet.len() as u64; // in a real server, a random number
                    let key = fleet.insert(config.clone(), seed, now);
                    connections.insert(key, actions);
                    let _ = reply.send(key);
                }
                News::Happened(key, event) => _ = fleet.observe(key, now, event),
                News::Ended(key) => {
                    fleet.remove(key);
                    connections.remove(&key);
                }
            }
        }
        if !expired {
            continue;
        }
        while let Some((key, action)) = fleet.poll(now) {
            if let Some(connection) = connections.get(&key) {
                let _ = connection.send(action);
            }
        }
    }
}

/// The task of a connection. Returns the verdict if a timeout ended it.
async fn serve(stream: DuplexStream, timers: mpsc::UnboundedSender<News>) -> Option<Action> {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let (actions, mut to_do) = mpsc::unbounded_channel();
    let (reply, key) = oneshot::channel();
    timers.send(News::Opened(actions, reply)).ok()?;
    let key = key.await.ok()?;
    let tell = |event| _ = timers.send(News::Happened(key, event));
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
                    // A ping that waits for room is limited by `message_timeout`.
                    let ping = Message::Ping(id.payload().to_vec().into());
                    if socket.send(ping).await.is_ok() {
                        tell(Event::PingSent(id));
                    }
                }
                verdict => break Some(verdict),
            },
        }
    };
    let _ = timers.send(News::Ended(key));
    reason
}

#[tokio::main]
async fn main() {
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(3))
        .build()
        .expect("no limit is zero");
    let (timers, news) = mpsc::unbounded_channel();
    tokio::spawn(keep_time(Arc::new(config), news));

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
    for (number, (connection, _client)) in silent.into_iter().enumerate() {
        let verdict = connection.await.ok().flatten();
        println!("silent client {number}: {verdict:?}");
    }
    let stayed = lively.iter().filter(|connection| !connection.is_finished());
    println!(
        "{} of 10 clients that answer are still connected",
        stayed.count()
    );
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
