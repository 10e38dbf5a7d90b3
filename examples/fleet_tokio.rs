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
use std::time::Duration;

use futures_util::future::OptionFuture;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use ws_timeout::{Action, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

/// What a connection reports to the timer task.
enum News {
    Opened(UnboundedSender<Action>, oneshot::Sender<FleetKey>),
    Received(FleetKey, Event),
    PingSent(FleetKey, PingId),
    Ended(FleetKey),
}

/// The timer task. Returns when no connection is left, and none can open.
async fn keep_time(config: TimeoutConfig, mut reports: UnboundedReceiver<News>) {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    let start = Instant::now();
    let elapsed = || Timestamp::from_duration(start.elapsed());
    let mut fleet = Fleet::new();
    let mut connections: HashMap<FleetKey, UnboundedSender<Action>> = HashMap::new();
    loop {
        let mut news = Vec::new();
        let due = fleet
            .next_deadline()
            .map(|due| start + Duration::from_nanos(due.as_nanos()));
        let expired = tokio::select! {
            count = reports.recv_many(&mut news, 1024) => if count > 0 { false } else { return },
            Some(()) = OptionFuture::from(due.map(sleep_until)) => true,
        };
        let now = elapsed();
        if expired {
            // Before a deadline counts, the connections read what has arrived. A turn of tokio's
            // reactor reports at most 1024 sockets, and after a blocked thread there may be more.
            for _ in 0..16 {
                sleep(Duration::from_millis(1)).await;
            }
            news.extend(std::iter::from_fn(|| reports.try_recv().ok()));
        }
        // What arrived counts before the poll. A ping counts as sent only after it: the wait for
        // its pong must not begin before the flush.
        for news in &news {
            if let News::Received(key, event) = *news {
                fleet.observe(key, now, event);
            }
        }
        if expired {
            while let Some((key, action)) = fleet.poll(now) {
                let _ = connections[&key].send(action);
            }
        }
        for news in news {
            match news {
                News::Opened(actions, reply) => {
                    let seed = fleet.len() as u64; // in a real server, a random number
                    let key = fleet.insert(&config, seed, elapsed());
                    connections.insert(key, actions);
                    let _ = reply.send(key);
                }
                News::Received(..) => {}
                News::PingSent(key, id) => _ = fleet.observe(key, elapsed(), Event::PingSent(id)),
                News::Ended(key) => {
                    fleet.remove(key);
                    connections.remove(&key);
                }
            }
        }
    }
}

/// The task of a connection. Returns the verdict if a timeout ended it.
async fn serve(stream: DuplexStream, timers: UnboundedSender<News>) -> Option<Action> {
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let (mut sink, mut stream) = socket.split();
    let (actions, mut to_do) = unbounded_channel();
    let (reply, key) = oneshot::channel();
    timers.send(News::Opened(actions, reply)).ok()?;
    let key = key.await.ok()?;
    let mut unsent = None;
    let verdict = loop {
        tokio::select! {
            message = stream.next() => {
                let event = match message {
                    Some(Ok(Message::Pong(payload))) => Event::Pong(PingId::from_payload(&payload)),
                    Some(Ok(Message::Ping(_))) => Event::Ping,
                    Some(Ok(Message::Close(_))) => Event::PeerClose,
                    Some(Ok(_)) => Event::Recv,
                    Some(Err(_)) | None => break None,
                };
                timers.send(News::Received(key, event)).ok()?;
            }
            // A ping that waits for room is limited by `message_timeout`.
            Ok(()) = sink.flush(), if unsent.is_some() => {
                timers.send(News::PingSent(key, unsent.take()?)).ok()?;
            }
            Some(action) = to_do.recv() => match action {
                Action::SendPing(id) => {
                    let _ = sink.feed(Message::Ping(id.payload().to_vec().into())).await;
                    unsent = Some(id);
                }
                verdict => break Some(verdict),
            },
        }
    };
    let _ = timers.send(News::Ended(key));
    verdict
}

#[tokio::main]
async fn main() -> Result<(), ws_timeout::ConfigError> {
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(3))
        .build()?;
    let (timers, news) = unbounded_channel();
    tokio::spawn(keep_time(config, news));

    let (mut lively, mut silent) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let (here, there) = duplex(4096);
        let connection = tokio::spawn(serve(here, timers.clone()));
        let client = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
        if number % 2 == 0 {
            tokio::spawn(client.count()); // tungstenite answers the pings
            lively.push(connection);
        } else {
            silent.push((connection, client));
        }
    }
    for (number, (connection, _client)) in silent.into_iter().enumerate() {
        println!(
            "silent client {number}: {:?}",
            connection.await.ok().flatten()
        );
    }
    let stayed = lively.iter().filter(|task| !task.is_finished()).count();
    println!("{stayed} of 10 clients that answer are still connected");
    Ok(())
}
