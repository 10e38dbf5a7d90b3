//! Handles to sockets that other tasks own, the connections of a server, and what observers
//! receive.
#![expect(
    clippy::disallowed_methods,
    reason = "tokio's paused clock measures a drain"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/replayed.rs"]
mod replayed;

mod observers;
mod requests;
mod server;
mod traces;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open, wrap};
use ws_timeout::{
    CloseReason, Connection, Error, Event, Log, Observer, Report, Step, TimeoutConfig,
    TimeoutSocket, Timeouts, Timestamp,
};

type Client = WebSocketStream<DuplexStream>;
type Guarded = TimeoutSocket<WebSocketStream<DuplexStream>, Timer>;

const SECOND: Duration = Duration::from_secs(1);

/// A socket, and its peer.
async fn pair(timeouts: impl Into<Timeouts>) -> (Guarded, Client) {
    let (server, client) = duplex(4096);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let socket = wrap(timeouts, server).with_timer_slack(Duration::ZERO);
    (socket, client)
}

/// A peer that reads, and so answers pings and Close frames, until the end.
fn answers(client: Client) {
    tokio::spawn(client.for_each(|_| async {}));
}

/// Reads to the end, and returns the last error.
async fn read_to_end(
    mut reader: impl futures_util::Stream<Item = Result<Message, Error<tungstenite::Error>>> + Unpin,
) -> Option<Error<tungstenite::Error>> {
    let mut last = None;
    while let Some(read) = reader.next().await {
        last = read.err();
    }
    last
}

fn reason(error: Option<Error<tungstenite::Error>>) -> Option<CloseReason> {
    match error {
        Some(Error::Verdict(verdict)) => Some(verdict.reason),
        _ => None,
    }
}

/// Keeps the names of the reports, with the label.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Vec<String>>>);

impl Observer for Names {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let label = connection.label.unwrap_or("-");
        let mut name = format!("{} {label} {}", connection.id, report.name());
        if let Report::Opened { slack, .. } = report {
            name += &format!(", slack {slack:?}");
        }
        self.0.lock().unwrap().push(name);
        Log.report(connection, report);
    }
}

/// What an observer does at each step, given the step's name.
type Hook = Box<dyn FnMut(&str) + Send>;

/// Keeps the names of the steps, and runs a hook at each.
#[derive(Clone, Default)]
struct Steps {
    seen: Arc<Mutex<Vec<String>>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Steps {
    /// The names of the steps since the last call, without the polls.
    fn take(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().filter(|name| name != "polled").collect()
    }
}

impl Observer for Steps {
    fn report(&self, _: &Connection<'_>, _: &Report<'_>) {}

    fn step(&self, _: &Connection<'_>, _: Timestamp, step: &Step<'_>) {
        let name = match *step {
            Step::Created { opening, .. } => format!("created, opening: {opening}"),
            Step::Observed(Event::Probe { within }) => format!("probe {within:?}"),
            Step::Observed(Event::Drain { within }) => format!("drain {within:?}"),
            Step::Observed(event) => event.name().to_owned(),
            Step::Configured(config) => format!("close within {:?}", config.close_timeout()),
            Step::Polled { .. } => "polled".to_owned(),
            Step::Ended => "ended".to_owned(),
            _ => "unknown".to_owned(),
        };
        self.seen.lock().unwrap().push(name.clone());
        if let Some(hook) = &mut *self.hook.lock().unwrap() {
            hook(&name);
        }
    }

    fn wants_steps(&self) -> bool {
        true
    }
}

/// Runs a function whenever it is woken.
struct OnWake<F>(Mutex<F>);

impl<F: FnMut() + Send + 'static> OnWake<F> {
    fn waker(wake: F) -> Waker {
        Arc::new(Self(Mutex::new(wake))).into()
    }
}

impl<F: FnMut() + Send> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0.lock().unwrap())();
    }
}

/// A waker, and how often it was woken.
fn counting() -> (Waker, Arc<Mutex<u32>>) {
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    let waker = OnWake::waker(move || *counted.lock().unwrap() += 1);
    (waker, count)
}

/// Polls with `waker`, and returns whether it is ready.
fn poll_with<F: Future + Unpin>(waker: &Waker, future: &mut F) -> bool {
    future
        .poll_unpin(&mut Context::from_waker(waker))
        .is_ready()
}

fn close_within(seconds: u32) -> TimeoutConfig {
    let config = TimeoutConfig::builder().close_timeout(seconds * SECOND);
    config.build().unwrap()
}

/// Runs connections that each end with a verdict, and returns the reasons.
async fn end_in_many_ways(timeouts: &Timeouts) -> Vec<CloseReason> {
    let (socket, client) = pair(timeouts).await;
    let socket = socket.with_label("a \"b\" \\ \n c");
    let mut reasons = vec![reason(read_to_end(socket).await).unwrap()];
    drop(client);

    // Pongs, a message each way, and other limits.
    let (mut socket, mut client) = pair(timeouts).await;
    client.send(Message::text("hello")).await.unwrap();
    assert!(socket.next().await.unwrap().is_ok());
    socket.send(Message::text("hello")).await.unwrap();
    answers(client);
    let handle = socket.handle();
    let reading = tokio::spawn(read_to_end(socket));
    tokio::time::sleep(100 * SECOND).await;
    assert!(handle.status().await.pongs_received > 1);
    handle.probe(Duration::from_nanos(2_500_000_000)).unwrap();
    let config = timeouts.config().to_builder();
    let config = config.no_idle_timeout().connection_timeout(200 * SECOND);
    handle.set_config(config.build().unwrap()).unwrap();
    reasons.push(reason(reading.await.unwrap()).unwrap());

    // The limit of a call.
    let (mut socket, _client) = pair(timeouts).await;
    let large = Message::binary(vec![0; 10_000]);
    let sent = socket.send_timeout(large, SECOND / 2).await;
    assert!(sent.is_err());
    reasons.push(reason(sent.err()).unwrap());

    let (server, _client) = duplex(4096);
    let opened = open(timeouts, tokio_tungstenite::accept_async(server)).with_label("late");
    reasons.push(reason(opened.await.err()).unwrap());
    reasons
}
