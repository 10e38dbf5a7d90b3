//! The crate, and what people write by hand to time out a WebSocket, over a stream that costs
//! nothing.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::runtime::Runtime;
use tokio::task::unconstrained;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tungstenite::{Error, Message};
use ws_timeout::runtime::tokio::wrap;
use ws_timeout::{Metered, TimeoutConfig};

/// A socket that yields `at_once` messages at each wake-up, and accepts everything that is sent.
pub struct Feed {
    left: u64,
    at_once: u64,
    until_pause: u64,
}

impl Feed {
    pub fn new(messages: u64, at_once: u64) -> Self {
        Self {
            left: messages,
            at_once,
            until_pause: at_once,
        }
    }
}

impl Stream for Feed {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.until_pause == 0 {
            self.until_pause = self.at_once;
            return Poll::Pending;
        }
        self.left -= 1;
        self.until_pause -= 1;
        Poll::Ready(Some(Ok(Message::text(std::hint::black_box("hello")))))
    }
}

impl Sink<Message> for Feed {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        std::hint::black_box(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }
}

/// A loop that reads, and echoes if requested, until the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idiom {
    /// No timeout at all.
    Bare,
    /// The crate, with its default limits.
    TimeoutSocket,
    /// The same with a meter and a label, as in the README.
    Metered,
    /// `timeout` around each receive, and around each send.
    TimeoutNext,
    /// `select!` between the next message and an interval that checks when the last one came.
    Interval,
    /// `select!` between the next message and a `Sleep` that each message resets.
    SleepReset,
    /// The same, but the `Sleep` is reset only when it fires too early.
    SleepLazy,
}

const LIMIT: Duration = Duration::from_secs(60);

/// Runs the loop over `feed` to its end, as a task. Returns the number of messages.
pub fn run_through(runtime: &Runtime, idiom: Idiom, feed: Feed, echo: bool) -> u64 {
    let task = runtime.spawn(async move {
        // Polled again at once, because the cost of a scheduler is not to be measured.
        let mut reading = pin!(unconstrained(run(idiom, feed, echo)));
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(read) = reading.as_mut().poll(cx) {
                    return Poll::Ready(read);
                }
            }
        })
        .await
    });
    runtime.block_on(task).unwrap_or(0)
}

async fn run(idiom: Idiom, feed: Feed, echo: bool) -> u64 {
    match idiom {
        Idiom::Bare => bare(feed, echo).await,
        Idiom::TimeoutSocket | Idiom::Metered => {
            let mut socket = wrap(TimeoutConfig::default(), feed);
            if idiom == Idiom::Metered {
                let meter = Metered::new(()).meter();
                socket = socket.with_meter(meter).with_label("user");
            }
            bare(socket, echo).await
        }
        Idiom::TimeoutNext => timeout_next(feed, echo).await,
        Idiom::Interval => select_interval(feed, echo).await,
        Idiom::SleepReset => sleep_reset(feed, echo).await,
        Idiom::SleepLazy => sleep_lazy(feed, echo).await,
    }
}

async fn bare<S, E>(mut socket: S, echo: bool) -> u64
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Unpin,
{
    let mut messages = 0;
    while let Some(Ok(message)) = socket.next().await {
        messages += 1;
        if echo && socket.send(message).await.is_err() {
            break;
        }
    }
    messages
}

async fn timeout_next(mut socket: Feed, echo: bool) -> u64 {
    let mut messages = 0;
    while let Ok(Some(Ok(message))) = timeout(LIMIT, socket.next()).await {
        messages += 1;
        if echo && !matches!(timeout(LIMIT, socket.send(message)).await, Ok(Ok(()))) {
            break;
        }
    }
    messages
}

async fn select_interval(mut socket: Feed, echo: bool) -> u64 {
    let mut messages = 0;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_inbound = now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                last_inbound = now();
                messages += 1;
                if echo && socket.send(message).await.is_err() {
                    break;
                }
            }
            _ = ticks.tick() => {
                if now() - last_inbound > LIMIT {
                    break;
                }
            }
        }
    }
    messages
}

async fn sleep_reset(mut socket: Feed, echo: bool) -> u64 {
    let mut messages = 0;
    let mut silence = pin!(sleep(LIMIT));
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                silence.as_mut().reset(now() + LIMIT);
                messages += 1;
                if echo && socket.send(message).await.is_err() {
                    break;
                }
            }
            () = &mut silence => break,
        }
    }
    messages
}

async fn sleep_lazy(mut socket: Feed, echo: bool) -> u64 {
    let mut messages = 0;
    let mut silence = pin!(sleep(LIMIT));
    let mut last_inbound = now();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                last_inbound = now();
                messages += 1;
                if echo && socket.send(message).await.is_err() {
                    break;
                }
            }
            () = &mut silence => {
                if now() - last_inbound >= LIMIT {
                    break;
                }
                silence.as_mut().reset(last_inbound + LIMIT);
            }
        }
    }
    messages
}

#[expect(
    clippy::disallowed_methods,
    reason = "these loops are what users write"
)]
fn now() -> Instant {
    Instant::now()
}
