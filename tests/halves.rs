//! The two halves of a socket in two tasks on two threads, over channels that are mostly full: a
//! half that waits is woken, and everything that was sent arrives, in order. To run it for longer:
//! `HALVES_ROUNDS=100 cargo test --release --test halves`.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::{PollSendError, PollSender};
use tungstenite::Message;
use ws_timeout::TimeoutConfig;
use ws_timeout::runtime::tokio::wrap;

type Error = PollSendError<Message>;

const MESSAGES: u32 = 2000;

/// One end of two channels. Each wakes only the task that waits for it.
struct Ends {
    sending: PollSender<Message>,
    reading: mpsc::Receiver<Message>,
}

impl Ends {
    fn pair(capacity: usize) -> (Self, Self) {
        let (sending, far_reading) = mpsc::channel(capacity);
        let (far_sending, reading) = mpsc::channel(capacity);
        let ends = |sending, reading| Self {
            sending: PollSender::new(sending),
            reading,
        };
        (ends(sending, reading), ends(far_sending, far_reading))
    }
}

impl Stream for Ends {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reading.poll_recv(cx).map(|message| message.map(Ok))
    }
}

impl Sink<Message> for Ends {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sending.poll_ready_unpin(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        self.sending.start_send_unpin(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sending.poll_flush_unpin(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sending.poll_close_unpin(cx)
    }
}

/// Guards rules 8 and 10.
#[test]
fn halves_on_two_threads_wake_each_other_and_lose_nothing() {
    let rounds = std::env::var("HALVES_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    for round in 0..rounds {
        for capacity in [1, 2, 5] {
            // Without pings no alarm fires, which would hide a missing wake-up.
            for pings in [false, true] {
                runtime.block_on(talk(round, capacity, pings));
            }
        }
    }
}

async fn talk(round: u64, capacity: usize, pings: bool) {
    let config = TimeoutConfig::builder()
        .no_heartbeat_interval()
        .no_connection_timeout()
        .no_message_timeout()
        .no_idle_timeout()
        .no_pong_timeout();
    let config = if pings {
        config.ping_interval(Duration::from_millis(1))
    } else {
        config.no_ping_interval()
    };
    let (near, far) = Ends::pair(capacity);
    let socket = wrap(config.build().unwrap(), near);
    let (sending, reading) = socket.with_text_heartbeat_replies("?", "!").split();
    let (far_sending, far_reading) = far.split();
    let (far_has_read, far_reads) = oneshot::channel();
    let draining = tokio::spawn(async move {
        let mut far_reading = read(far_reading, Dice(round + 3)).await;
        far_has_read.send(()).unwrap();
        // A reply may come last.
        while far_reading.next().await.is_some() {}
    });
    let all = async {
        tokio::join!(
            tokio::spawn(send(sending, None, Dice(round))),
            tokio::spawn(read(reading, Dice(round + 1))),
            tokio::spawn(send(far_sending, Some("?"), Dice(round + 2))),
            far_reads,
        )
    };
    let Ok((sending, reading, far_sending, far_has_read)) =
        timeout(Duration::from_secs(5), all).await
    else {
        panic!("hangs: round {round}, room for {capacity}, pings {pings}");
    };
    // None of them is dropped before all are done.
    far_has_read.unwrap();
    drop((sending.unwrap(), reading.unwrap(), far_sending.unwrap()));
    draining.await.unwrap();
}

/// Sends numbers, some of them only fed, and `heartbeat` between some of them.
async fn send<S: Sink<Message, Error: std::fmt::Debug> + Unpin>(
    mut socket: S,
    heartbeat: Option<&str>,
    mut dice: Dice,
) -> S {
    for number in 0..MESSAGES {
        if let Some(heartbeat) = heartbeat.filter(|_| dice.throw(4) == 0) {
            socket.feed(Message::text(heartbeat)).await.unwrap();
        }
        let message = Message::text(number.to_string());
        if dice.throw(3) == 0 {
            socket.feed(message).await.unwrap();
        } else {
            socket.send(message).await.unwrap();
        }
        if dice.throw(7) == 0 {
            yield_now().await;
        }
    }
    socket.flush().await.unwrap();
    socket
}

/// Reads them, in bursts.
async fn read<S, E>(mut socket: S, mut dice: Dice) -> S
where
    S: Stream<Item = Result<Message, E>> + Unpin,
    E: std::fmt::Debug,
{
    let mut expected = 0;
    while expected < MESSAGES {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(reply) if reply == "!" => {}
            Message::Text(number) => {
                assert_eq!(number.as_str(), expected.to_string());
                expected += 1;
            }
            _ => {}
        }
        if dice.throw(20) == 0 {
            for _ in 0..dice.throw(30) {
                yield_now().await;
            }
        }
    }
    socket
}

/// Numbers that look random, by SplitMix64.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 33) as usize % sides
    }
}
