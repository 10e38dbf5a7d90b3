//! All connections send to and receive from one tokio channel.

use std::time::{Duration, Instant};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::broadcast::{self, Sender};
use tokio_tungstenite::tungstenite::Message;

use crate::by_hand::{PING, limit, ticks};
use crate::{Outcome, Socket, Work, accept, on_tokio, ours};

pub fn serve(stack: &str, ping: Duration) -> Outcome {
    let room = Room(broadcast::channel(16).0);
    match stack {
        "bare" => on_tokio(accept(move |socket| room.clone().run(socket))),
        "task" => on_tokio(ours::task(ping, room)),
        "task, metered" => on_tokio(ours::metered(ping, room)),
        "interval" => on_tokio(accept(move |socket| interval(socket, ping, room.clone()))),
        _ => Err("no such stack with a broadcast".into()),
    }
}

#[derive(Clone)]
struct Room(Sender<Message>);

impl Work for Room {
    async fn run<S, E>(self, mut socket: S)
    where
        S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Send + Unpin,
        E: Send,
    {
        let mut room = self.0.subscribe();
        loop {
            tokio::select! {
                message = socket.next() => {
                    let Some(Ok(message)) = message else { break };
                    if message.is_text() && self.0.send(message).is_err() {
                        break;
                    }
                }
                message = room.recv() => {
                    let Ok(message) = message else { break };
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
            }
        }
    }
}

/// The same with an interval, as people write it.
async fn interval(mut socket: Socket, ping: Duration, Room(sender): Room) {
    let mut room = sender.subscribe();
    let mut ticks = ticks(ping);
    let mut last_inbound = Instant::now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                last_inbound = Instant::now();
                if message.is_text() && sender.send(message).is_err() {
                    break;
                }
            }
            message = room.recv() => {
                let Ok(message) = message else { break };
                if socket.send(message).await.is_err() {
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
