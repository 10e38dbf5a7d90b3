//! A ping and its pong on quiet connections, with the crate and with what people write by hand.
//!
//! A thousand tasks share one thread and its timers, on the real clock. They begin one after the
//! other, so about ten pings are due in each millisecond. The streams cost nothing, and each pong
//! arrives at a separate wake-up.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tungstenite::{Bytes, Error, Message};
use ws_timeout::TimeoutConfig;
use ws_timeout::runtime::tokio::wrap;

const CONNECTIONS: u32 = 1000;
const EACH: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(60);
const PING: Message = Message::Ping(Bytes::new());

/// How the connections are kept alive.
#[derive(Clone, Copy)]
pub enum Keeper {
    /// The crate, with a ping interval and no timer slack, as by hand.
    TimeoutSocket,
    /// `select!` between the next message and an interval.
    Interval,
    /// The same with intervals up to a tenth shorter, like the crate's jitter.
    Jitter,
}

/// Runs all connections until they have answered `times` pings. Returns how many they answered.
pub async fn ping(keeper: Keeper, times: u64) -> u64 {
    let config = TimeoutConfig::builder().ping_interval(EACH).build();
    let config = Arc::new(config.expect("the configuration is valid"));
    let pings = times / u64::from(CONNECTIONS);
    let answered = Arc::<AtomicU64>::default();
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let config = config.clone();
            let quiet = Quiet::new(pings, answered.clone());
            tokio::spawn(async move {
                sleep(EACH / CONNECTIONS * number).await;
                match keeper {
                    Keeper::TimeoutSocket => {
                        let mut socket = wrap(config, quiet).with_timer_slack(Duration::ZERO);
                        while let Some(Ok(_)) = socket.next().await {}
                    }
                    Keeper::Interval => select_interval(quiet).await,
                    Keeper::Jitter => select_jitter(quiet, number).await,
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no connection panics");
    }
    answered.load(Ordering::Relaxed)
}

async fn select_interval(mut socket: Quiet) {
    let mut ticks = interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_inbound = now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(_)) = message else { break };
                last_inbound = now();
            }
            _ = ticks.tick() => {
                if now() - last_inbound > LIMIT || socket.send(PING).await.is_err() {
                    break;
                }
            }
        }
    }
}

async fn select_jitter(mut socket: Quiet, seed: u32) {
    let mut random = seed;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        now() + EACH - EACH.mul_f64(f64::from(random) / f64::from(u32::MAX) / 10.0)
    };
    let mut tick = pin!(sleep_until(next()));
    let mut last_inbound = now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(_)) = message else { break };
                last_inbound = now();
            }
            () = tick.as_mut() => {
                tick.as_mut().reset(next());
                if now() - last_inbound > LIMIT || socket.send(PING).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// A socket that answers `pings` pings, each at a separate wake-up, and then ends.
struct Quiet {
    left: u64,
    answered: Arc<AtomicU64>,
    pong: Option<Bytes>,
    has_arrived: bool,
}

impl Quiet {
    fn new(pings: u64, answered: Arc<AtomicU64>) -> Self {
        Self {
            left: pings,
            answered,
            pong: None,
            has_arrived: false,
        }
    }
}

impl Stream for Quiet {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.pong.is_some() && !self.has_arrived {
            self.has_arrived = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(pong) = self.pong.take() else {
            return Poll::Pending;
        };
        self.left -= 1;
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.has_arrived = false;
        Poll::Ready(Some(Ok(Message::Pong(pong))))
    }
}

impl Sink<Message> for Quiet {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        if let Message::Ping(payload) = message {
            self.pong = Some(payload);
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "these loops are what users write"
)]
fn now() -> Instant {
    Instant::now()
}
