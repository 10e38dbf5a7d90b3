//! What people write around tokio-tungstenite.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::Socket;

pub const PING: Message = Message::Ping(Bytes::new());

/// How long a peer may be silent.
pub fn limit(ping: Duration) -> Duration {
    ping + Duration::from_secs(60)
}

pub fn ticks(ping: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(ping);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// `select!` between the next message and an interval.
pub async fn interval(mut socket: Socket, ping: Duration) {
    let mut ticks = ticks(ping);
    let mut last_inbound = Instant::now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                last_inbound = Instant::now();
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
            _ = ticks.tick() => {
                if last_inbound.elapsed() > limit(ping) || socket.send(PING).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// The same, with each interval up to a tenth shorter, like the crate's jitter.
pub async fn jittered(mut socket: Socket, ping: Duration) {
    let next = || Instant::now() + ping.mul_f64(1.0 - rand::random_range(0.0..0.1));
    let mut tick = pin!(sleep_until(next().into()));
    let mut last_inbound = Instant::now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                last_inbound = Instant::now();
                if message.is_text() && socket.send(message).await.is_err() {
                    break;
                }
            }
            () = tick.as_mut() => {
                tick.as_mut().reset(next().into());
                if last_inbound.elapsed() > limit(ping) || socket.send(PING).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// A reading task, and a writing task that pings and sends what it receives from a channel.
pub async fn two_tasks(socket: Socket, ping: Duration) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outbox) = mpsc::channel(32);
    let writer = tokio::spawn(async move {
        let mut ticks = ticks(ping);
        loop {
            let message = tokio::select! {
                message = outbox.recv() => message,
                _ = ticks.tick() => Some(PING),
            };
            let Some(message) = message else { break };
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });
    while let Ok(Some(Ok(message))) = timeout(limit(ping), stream.next()).await {
        if message.is_text() && sender.send(message).await.is_err() {
            break;
        }
    }
    writer.abort();
}

/// `timeout` around each receive and each send, with a ping when nothing was received.
pub async fn timeout_next(mut socket: Socket, ping: Duration) {
    let mut asked = false;
    loop {
        match timeout(ping, socket.next()).await {
            Ok(Some(Ok(message))) => {
                asked = false;
                if message.is_text()
                    && !matches!(timeout(ping, socket.send(message)).await, Ok(Ok(())))
                {
                    break;
                }
            }
            Err(_) if !asked => {
                asked = true;
                if !matches!(timeout(ping, socket.send(PING)).await, Ok(Ok(()))) {
                    break;
                }
            }
            _ => break,
        }
    }
}
