//! Handles to sockets that other tasks own, the connections of a server, and what observers
//! receive.
#![expect(
    clippy::disallowed_methods,
    reason = "tokio's paused clock measures a drain"
)]

mod common;
#[path = "common/replayed.rs"]
mod replayed;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::off;
use futures_util::future::{join_all, pending, poll_fn, ready};
use futures_util::{FutureExt, SinkExt, StreamExt};
use replayed::{assert_replays, cases};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open, wrap};
use ws_timeout::{
    CloseReason, Connection, DrainCode, Error, Event, IdleScope, Log, Observer, Phase,
    PongEvidence, Recorder, Report, Status, Step, TimeoutConfig, TimeoutSocket, Timeouts,
    Timestamp,
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

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_wakes_the_reading_half_after_a_split() {
    let (mut socket, client) = pair(TimeoutConfig::default()).await;
    answers(client);
    let handle = socket.handle();
    let (_writer, reader) = socket.split();
    let reading = tokio::spawn(read_to_end(reader));
    advance(7 * SECOND).await;

    let status = handle.status().await;
    assert_eq!((status.phase, status.age), (Phase::Open, 7 * SECOND));
    let left = handle.remaining_lifetime().await.unwrap();
    assert!(left <= 293 * SECOND && left >= 263 * SECOND, "{left:?}");

    handle.probe(3 * SECOND).unwrap();
    assert_eq!(handle.status().await.pings_sent, 1);
    handle
        .set_config(
            TimeoutConfig::builder()
                .connection_timeout(60 * SECOND)
                .build()
                .unwrap(),
        )
        .unwrap();
    assert!(handle.remaining_lifetime().await.unwrap() <= 53 * SECOND);

    handle.drain(SECOND).unwrap();
    assert_eq!(reason(reading.await.unwrap()), Some(CloseReason::Drain));
    assert!(handle.has_ended());
    let status = handle.status().await;
    assert_eq!(
        (status.phase, status.cause),
        (Phase::Closed, Some(CloseReason::Drain))
    );
    assert!(handle.drain(SECOND).is_err() && handle.close(1000, "").is_err());
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_reaches_a_task_that_only_sends() {
    let (mut socket, client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let (mut writer, _reader) = socket.split();
    let sending = tokio::spawn(async move {
        // The peer does not read, so this waits for room.
        while writer.send(Message::binary(vec![0; 1000])).await.is_ok() {}
    });
    // The first answer comes before the first message.
    assert!(!handle.status().await.write_waits);
    assert!(handle.status().await.write_waits);
    drop(client);
    sending.await.unwrap();
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_closes_with_code_and_reason_and_knows_the_code_of_the_peer() {
    let (mut socket, mut client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    assert!(matches!(
        handle.close(1005, ""),
        Err(Error::CloseCode(1005))
    ));
    let reading = tokio::spawn(read_to_end(socket));
    assert_eq!(handle.peer_close(), None);
    handle.close(4001, "bye").unwrap();
    handle.close(4002, "too late").unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else {
        panic!("no Close frame");
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4001, "bye")
    );
    assert!(client.next().await.is_none());
    assert!(reading.await.unwrap().is_none());
    assert_eq!(handle.peer_close().unwrap().code, Some(4001));
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_made_after_the_end_knows_how_it_ended() {
    let (mut socket, mut client) = pair(TimeoutConfig::default()).await;
    socket = socket.with_label("late");
    client.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    let handle = socket.handle();
    assert_eq!(handle.label().as_deref(), Some("late"));
    assert!(handle.has_ended());
    assert_eq!(handle.status().await.phase, Phase::Closed);
    assert_eq!(handle.peer_close().unwrap().code, None);
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn an_unanswered_status_request_ends_with_the_socket() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let mut asked = Box::pin(handle.status());
    assert!(
        asked.as_mut().now_or_never().is_none(),
        "nobody polls the socket"
    );
    drop(socket);
    assert_eq!(asked.await.phase, Phase::Open);
    assert!(handle.has_ended());
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn a_server_knows_its_connections_and_drains_them() {
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_timer_slack(Duration::ZERO);
    let slow = TimeoutConfig::high_latency();
    for number in 0..100 {
        let endpoint = match number % 2 {
            0 => timeouts.clone(),
            _ => timeouts.with_config(slow),
        };
        let (socket, client) = pair(&endpoint).await;
        answers(client);
        let socket = socket.with_label(number.to_string());
        tokio::spawn(async move {
            let (_writer, reader) = socket.split();
            read_to_end(reader).await
        });
    }
    assert_eq!(timeouts.len(), 100);
    advance(SECOND).await;
    let handles = timeouts.handles();
    let statuses = join_all(handles.iter().map(|handle| handle.status())).await;
    assert!(statuses.iter().all(|status| status.age == SECOND));
    let labels: Vec<_> = handles.iter().filter_map(|handle| handle.label()).collect();
    assert_eq!((labels.len(), &*labels[99]), (100, "99"));

    let begun = Instant::now();
    timeouts.drain(10 * SECOND).await;
    assert!(timeouts.is_empty());
    let took = begun.elapsed();
    assert!(took > 9 * SECOND && took <= 10 * SECOND, "{took:?}");

    // A connection that begins now is drained too.
    let (socket, client) = pair(&timeouts).await;
    answers(client);
    let late = timeout(10 * SECOND, read_to_end(socket)).await;
    assert_eq!(reason(late.unwrap()), Some(CloseReason::Drain));
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_connection_wakes_each_task_that_drains_once() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let sockets = [pair(&timeouts).await, pair(&timeouts).await];
    let wakers = [counting(), counting()];
    let mut drains = [(); 2].map(|()| timeouts.drain(SECOND).boxed());
    for (drain, (waker, _)) in drains.iter_mut().zip(&wakers) {
        assert!(!poll_with(waker, drain));
        assert!(!poll_with(waker, drain));
    }
    for (socket, _client) in sockets {
        assert!(wakers.iter().all(|(_, woken)| *woken.lock().unwrap() == 0));
        drop(socket);
    }
    assert!(wakers.iter().all(|(_, woken)| *woken.lock().unwrap() == 1));
    for (drain, (waker, _)) in drains.iter_mut().zip(&wakers) {
        assert!(poll_with(waker, drain));
    }
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_shortest_of_several_drains_of_a_server_counts() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    drop(timeouts.drain(Duration::ZERO));
    drop(timeouts.drain(1000 * SECOND));
    let (socket, client) = pair(&timeouts).await;
    answers(client);
    let end = timeout(SECOND, read_to_end(socket)).await.unwrap();
    assert_eq!(reason(end), Some(CloseReason::Drain));
}

/// Guards rules 25 and 26.
#[tokio::test(start_paused = true)]
async fn a_handshake_is_on_the_list_and_drained_once_it_is_done() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let (server, client) = duplex(4096);
    let opening = open(&timeouts, tokio_tungstenite::accept_async(server)).with_label("late");
    assert_eq!(timeouts.len(), 1);
    let mut opening = tokio::spawn(opening);
    let [handle] = timeouts.handles().try_into().unwrap();
    assert_eq!(handle.status().await.phase, Phase::Opening);
    assert_eq!(handle.label().as_deref(), Some("late"));
    let drained = tokio::spawn(timeouts.drain(SECOND));
    advance(2 * SECOND).await;
    assert!((&mut opening).now_or_never().is_none());
    let (client, _) = tokio_tungstenite::client_async("ws://localhost/", client)
        .await
        .unwrap();
    answers(client);
    let socket = opening.await.unwrap().unwrap();
    assert_eq!(reason(read_to_end(socket).await), Some(CloseReason::Drain));
    drained.await.unwrap();

    // A handshake that fails, or is dropped, is off the list.
    let (server, client) = duplex(4096);
    drop(client);
    open(&timeouts, tokio_tungstenite::accept_async(server))
        .await
        .unwrap_err();
    assert!(timeouts.is_empty());
    drop(open(
        &timeouts,
        pending::<Result<Client, tungstenite::Error>>(),
    ));
    assert!(timeouts.is_empty());
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

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn an_observer_gets_what_the_log_would() {
    let names = Names::default();
    let config = TimeoutConfig::builder()
        .idle_timeout(30 * SECOND)
        .build()
        .unwrap();
    let observer = (names.clone(), Recorder::new());
    let timeouts = Timeouts::new(config).with_observer(observer);
    let (socket, client) = pair(&timeouts).await;
    let socket = socket.with_label("silent");
    let end = read_to_end(socket).await;
    assert_eq!(reason(end), Some(CloseReason::IdleTimeout));
    drop(client);
    // A socket that was never polled has not opened.
    let (socket, _client) = pair(&timeouts).await;
    drop(socket);
    let (mut socket, _client) = pair(&timeouts).await;
    assert!(socket.next().now_or_never().is_none());
    drop(socket);
    let failed = ready(Err::<Client, _>(tungstenite::Error::ConnectionClosed));
    let opening = open(&timeouts, failed).with_label("bad");
    assert!(opening.await.is_err());
    let seen = std::mem::take(&mut *names.0.lock().unwrap());
    assert_eq!(
        seen,
        [
            "1 silent opened, slack 0ns",
            "1 silent ping",
            "1 silent verdict",
            "1 silent closed",
            "3 - opened, slack 0ns",
            "3 - dropped",
            "4 bad handshake_error"
        ]
    );
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

type Question = Pin<Box<dyn Future<Output = Status> + Send>>;

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

/// The steps that [`request_everything`] causes, in order.
const EVERYTHING: [&str; 4] = ["close within 7s", "probe 2s", "drain 1s", "close_start"];

fn request_everything(handle: &ws_timeout::Handle) {
    handle.close(4001, "first").unwrap();
    handle.close(4002, "second").unwrap();
    for within in [3, 1, 2] {
        handle.drain(within * SECOND).unwrap();
        handle.probe((within + 1) * SECOND).unwrap();
    }
    handle.set_config(close_within(6)).unwrap();
    handle.set_config(close_within(7)).unwrap();
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn either_half_carries_requests_out_in_order() {
    for sends in [false, true] {
        let steps = Steps::default();
        let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
        let (mut socket, mut client) = pair(&timeouts).await;
        let handle = socket.handle();
        let mut pass = async || match sends {
            false => assert!(socket.next().now_or_never().is_none()),
            true => drop(poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never()),
        };
        pass().await;
        request_everything(&handle);
        assert_eq!(steps.take(), ["created, opening: false"]);
        let mut status = pin!(handle.status());
        assert!(status.as_mut().now_or_never().is_none());
        pass().await;
        let carried_out = steps.take();
        assert_eq!(carried_out[..4], EVERYTHING);
        let status = status
            .as_mut()
            .now_or_never()
            .expect("answered by the same pass");
        assert_eq!(status.phase, Phase::Closing);
        // Once only, whatever else is requested.
        let mut again = pin!(handle.status());
        assert!(again.as_mut().now_or_never().is_none());
        pass().await;
        assert_eq!(steps.take(), [""; 0]);
        let frame = loop {
            match client.next().now_or_never().unwrap() {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        };
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (4001, "first")
        );
    }
}

/// Guards rules 25 and 27.
#[tokio::test(start_paused = true)]
async fn requests_during_the_handshake_are_carried_out_after_it() {
    for polled in [false, true] {
        let steps = Steps::default();
        let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
        let (server, _client) = duplex(4096);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let (done, handshake) = oneshot::channel();
        let handshake = handshake.map(|_| Ok::<_, tungstenite::Error>(server));
        let mut opening = open(&timeouts, handshake);
        let (waker, woken) = counting();
        assert!(!poll_with(&waker, &mut opening));
        let [handle] = timeouts.handles().try_into().unwrap();
        request_everything(&handle);
        assert!(*woken.lock().unwrap() > 0);
        let mut status = handle.status().boxed();
        assert!(!poll_with(Waker::noop(), &mut status));
        if polled {
            // This consumes the wake-up, and answers.
            assert!(!poll_with(&waker, &mut opening));
            assert!(poll_with(Waker::noop(), &mut status));
        }
        done.send(()).unwrap();
        let mut socket = opening.now_or_never().unwrap().unwrap();
        assert_eq!(steps.take(), ["created, opening: true", "opened"]);
        assert!(socket.next().now_or_never().is_none());
        assert_eq!(steps.take()[..4], EVERYTHING);
        if !polled {
            assert_eq!(status.await.phase, Phase::Closing);
        }
    }
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn after_the_end_each_request_fails() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    assert!(!handle.has_ended());
    drop(socket);
    assert!(handle.has_ended());
    let requests = [
        handle.close(1000, ""),
        handle.drain(SECOND),
        handle.probe(SECOND),
        handle.set_config(TimeoutConfig::default()),
    ];
    for request in requests {
        assert!(matches!(request, Err(Error::Closed)));
    }
    assert_eq!(handle.remaining_lifetime().await, None);
}

/// Other threads make requests while a pass is under way; here the observer does.
///
/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_status_includes_what_was_requested_before_it() {
    let steps = Steps::default();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
    let (mut socket, _client) = pair(&timeouts).await;
    let handle = socket.handle();
    let later: Arc<Mutex<Option<Question>>> = Arc::default();
    *steps.hook.lock().unwrap() = Some(Box::new({
        let (handle, later) = (handle.clone(), later.clone());
        move |step| {
            let mut later = later.lock().unwrap();
            if step == "polled" && later.is_none() {
                assert_eq!(timeouts.len(), 1);
                assert!(format!("{timeouts:?}").contains("len: 1"));
                assert!(format!("{handle:?}").contains("has_ended: false"));
                handle.probe(SECOND).unwrap();
                let mut question = handle.status().boxed();
                assert!(!poll_with(Waker::noop(), &mut question));
                *later = Some(question);
            }
        }
    }));
    let mut first = handle.status().boxed();
    assert!(!poll_with(Waker::noop(), &mut first));
    assert!(socket.next().now_or_never().is_none());
    assert!(first.now_or_never().is_some());
    let later = later.lock().unwrap().take().unwrap();
    assert_eq!(later.now_or_never().unwrap().pings_sent, 1);
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn an_answer_wakes_the_task_that_last_polled_the_status_request() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let ((waker, woken), (other_waker, other_woken)) = (counting(), counting());
    let [mut moved, mut kept, mut dropped] = [(); 3].map(|()| handle.status().boxed());
    let (socket_waker, socket_woken) = counting();
    assert!(!poll_with(&socket_waker, &mut socket.next()));
    for question in [&mut moved, &mut kept, &mut dropped] {
        assert!(!poll_with(&waker, question));
    }
    assert_eq!(*socket_woken.lock().unwrap(), 3);
    assert!(!poll_with(&other_waker, &mut moved));
    drop(dropped);
    assert_eq!(
        *socket_woken.lock().unwrap(),
        3,
        "only a new question needs a pass"
    );
    assert!(socket.next().now_or_never().is_none());
    assert_eq!(
        (*woken.lock().unwrap(), *other_woken.lock().unwrap()),
        (1, 1)
    );
    assert!(poll_with(&waker, &mut kept) && poll_with(&waker, &mut moved));

    // A dropped status request keeps no waker, even if no task polls the socket.
    let marker = Arc::new(());
    let held = marker.clone();
    let waker = OnWake::waker(move || _ = &held);
    let mut question = handle.status().boxed();
    assert!(!poll_with(&waker, &mut question));
    drop(waker);
    assert_eq!(Arc::strong_count(&marker), 2);
    drop(question);
    assert_eq!(Arc::strong_count(&marker), 1);

    // The end answers all of them, and holds no lock while it wakes tasks.
    let woken = Arc::new(Mutex::new(0));
    let (counted, asked) = (woken.clone(), handle.clone());
    let waker = OnWake::waker(move || *counted.lock().unwrap() += u32::from(asked.has_ended()));
    let mut last = handle.status().boxed();
    assert!(!poll_with(&waker, &mut last));
    drop(socket);
    assert_eq!(*woken.lock().unwrap(), 1);
    assert!(poll_with(&waker, &mut last));
}

/// A task that runs as soon as it is woken, as on another thread.
struct ReadsAtOnce(Mutex<Guarded>);

impl ReadsAtOnce {
    fn read(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        // A wake while it runs needs no second run here.
        if let Ok(mut socket) = self.0.try_lock() {
            // It ends when the client is dropped.
            let _ = poll_with(&waker, &mut socket.next());
        }
    }
}

impl Wake for ReadsAtOnce {
    fn wake(self: Arc<Self>) {
        self.read();
    }
}

/// Guards rule 25.
#[tokio::test]
async fn a_status_that_is_answered_at_once_wakes_its_task() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    Arc::new(ReadsAtOnce(Mutex::new(socket))).read();
    let (waker, woken) = counting();
    let mut status = handle.status().boxed();
    let is_ready = poll_with(&waker, &mut status);
    assert!(is_ready || *woken.lock().unwrap() > 0);
    assert!(is_ready || poll_with(&waker, &mut status));
}

/// Guards rule 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_status_request_of_another_thread_is_lost() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let reading = tokio::spawn(async move { socket.next().await.is_none() });
    let asking = [(); 2].map(|()| {
        let handle = handle.clone();
        tokio::spawn(async move {
            for _ in 0..10_000 {
                handle.status().await;
            }
        })
    });
    timeout(10 * SECOND, join_all(asking))
        .await
        .expect("each is answered");
    reading.abort();
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_transports_are_gone_before_the_list_is_empty() {
    let timeouts = Timeouts::new(close_within(1));
    for is_read in [true, false] {
        let (server, mut client) = duplex(4096);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let socket = wrap(&timeouts, server);
        let gone = Arc::new(Mutex::new(None));
        let (seen, listed) = (gone.clone(), timeouts.clone());
        let waker = OnWake::waker(move || {
            // Ready if the other end is dropped.
            let read = client.read_to_end(&mut Vec::new()).now_or_never();
            *seen.lock().unwrap() = Some(read.is_some() && listed.is_empty());
        });
        let mut drained = timeouts.drain(Duration::ZERO).boxed();
        assert!(!poll_with(&waker, &mut drained));
        match is_read {
            true => assert_eq!(reason(read_to_end(socket).await), Some(CloseReason::Drain)),
            false => drop(socket),
        }
        assert_eq!(*gone.lock().unwrap(), Some(true));
    }

    struct OnDrop(Timeouts);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            assert_eq!(self.0.len(), 1);
        }
    }
    let transport = OnDrop(timeouts.clone());
    let handshake = async move {
        let _transport = transport;
        pending::<Result<Client, tungstenite::Error>>().await
    };
    let mut opening = open(&timeouts, handshake);
    assert!(!poll_with(Waker::noop(), &mut opening));
    drop(opening);
    assert!(timeouts.is_empty());
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn the_end_is_the_last_step_of_each_connection() {
    type Handshake = WebSocketStream<DuplexStream>;
    let steps = Steps::default();
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let timeouts = timeouts.with_observer((steps.clone(), recorder.clone()));
    let mut id = 0;
    let mut ended = |last: Option<&str>| {
        id += 1;
        let steps = steps.take();
        let end = steps.iter().position(|step| step == "ended").unwrap();
        assert_eq!(end, steps.len() - 1, "{steps:?}");
        assert_eq!(last, steps[1..end].last().map(String::as_str));
        assert!(recorder.trace(id).is_none() && recorder.trace(id + 1).is_none());
    };

    let (socket, _client) = pair(&timeouts).await;
    assert!(recorder.trace(1).is_some());
    drop(socket);
    ended(None);

    let (mut socket, _client) = pair(&timeouts).await;
    assert!(socket.next().now_or_never().is_none());
    assert!(socket.into_inner().is_some());
    ended(None);

    drop(open(
        &timeouts,
        pending::<Result<Handshake, tungstenite::Error>>(),
    ));
    ended(None);

    let failed = ready(Err::<Handshake, _>(tungstenite::Error::ConnectionClosed));
    assert!(open(&timeouts, failed).await.is_err());
    ended(None);

    let (mut socket, client) = pair(&timeouts).await;
    drop(client);
    assert!(socket.next().await.unwrap().is_err());
    ended(Some("closed"));

    let (mut socket, mut client) = pair(&timeouts).await;
    client.close(None).await.unwrap();
    let handle = socket.handle();
    while socket.next().await.is_some() {}
    socket.set_config(TimeoutConfig::default());
    socket.probe(SECOND);
    drop(socket);
    assert!(handle.has_ended());
    ended(Some("closed"));
    assert!(recorder.verdicts().is_empty());
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

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn every_verdict_leaves_a_trace_that_replays() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let reasons = end_in_many_ways(&timeouts).await;
    assert_eq!(
        reasons,
        [
            CloseReason::IdleTimeout,
            CloseReason::ConnectionTimeout,
            CloseReason::MessageTimeout,
            CloseReason::HandshakeTimeout
        ]
    );
    let traces = recorder.verdicts();
    for (index, trace) in traces.iter().enumerate() {
        assert_replays(&trace.to_string());
        assert_eq!(
            (trace.id(), trace.reason()),
            (index as u64 + 1, Some(reasons[index]))
        );
        assert!(!trace.is_cut() && recorder.trace(trace.id()).is_none());
    }
    let labels: Vec<_> = traces.iter().map(|trace| trace.label()).collect();
    assert_eq!(labels, [Some("a \"b\" \\ \n c"), None, None, Some("late")]);
    let [case] = cases::read(&traces[0].to_string())
        .unwrap()
        .try_into()
        .ok()
        .unwrap();
    assert_eq!(case.name, "connection 1 (a \"b\" \\ \n c): idle_timeout");
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_verdict_that_a_send_returned_leaves_a_trace_though_the_socket_is_dropped() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let (mut socket, _client) = pair(&timeouts).await;
    assert!(timeout(SECOND, socket.next()).await.is_err());
    socket.drain(Duration::ZERO);
    assert!(socket.next().now_or_never().is_none());
    let sent = socket.send(Message::text("late")).await;
    assert_eq!(reason(sent.err()), Some(CloseReason::Drain));
    drop(socket);
    let traces = recorder.verdicts();
    assert_eq!(traces.len(), 1);
    assert_eq!(traces[0].reason(), Some(CloseReason::Drain));
    assert_replays(&traces[0].to_string());
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn the_trace_of_an_open_connection_has_its_label_and_the_longest_lengths() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let (socket, _client) = pair(&timeouts).await;
    let mut socket = socket.with_label("user 7");
    for within in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        socket.drain(within);
        socket.probe(within);
    }
    assert!(socket.next().now_or_never().is_none());
    let trace = recorder.trace(1).unwrap();
    assert_eq!(trace.label(), Some("user 7"));
    assert_replays(&trace.to_string());
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_recorder_keeps_the_first_steps_and_the_last_verdicts() {
    let steps = |trace: &ws_timeout::Trace| trace.to_string().matches("at_ns").count();
    let config = off().idle_timeout(SECOND).build().unwrap();
    let timeouts = Timeouts::new(config);
    let recorder = Recorder::new();
    let observed = timeouts.clone().with_observer(recorder.clone());
    read_to_end(pair(&observed).await.0).await;
    let all = steps(&recorder.verdicts()[0]);
    assert!(all > 3);
    for (most, is_cut) in [(all, false), (all - 1, true)] {
        let recorder = Recorder::new().with_max_steps(most);
        let observed = timeouts.clone().with_observer(recorder.clone());
        for _ in 0..18 {
            let (mut socket, _client) = pair(&observed).await;
            let id = socket.handle().id();
            read_to_end(socket).await;
            assert_eq!(recorder.verdicts().last().unwrap().id(), id);
        }
        let traces = recorder.verdicts();
        assert_eq!(traces.len(), 16);
        assert!(
            traces
                .windows(2)
                .all(|pair| pair[0].id() + 1 == pair[1].id())
        );
        for trace in &traces {
            assert_eq!((trace.is_cut(), steps(trace)), (is_cut, most));
            assert_eq!(trace.to_string().contains("final"), !is_cut);
            assert_eq!(trace.to_string().contains(", cut"), is_cut);
            assert_replays(&trace.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_displace_failures() {
    let recorder = Recorder::new();
    let config = off().idle_timeout(SECOND).build().unwrap();
    let timeouts = Timeouts::new(config).with_observer(recorder.clone());
    let reasons = || -> Vec<_> {
        let traces = recorder.verdicts();
        traces.iter().filter_map(|trace| trace.reason()).collect()
    };
    let end = async |drains| {
        let (mut socket, client) = pair(&timeouts).await;
        if drains {
            answers(client);
            socket.drain(Duration::ZERO);
        }
        read_to_end(socket).await;
    };
    end(false).await;
    for _ in 0..20 {
        end(true).await;
    }
    assert_eq!(reasons()[0], CloseReason::IdleTimeout);
    assert_eq!(reasons()[1..], [CloseReason::Drain; 15]);
    for _ in 0..15 {
        end(false).await;
    }
    assert_eq!(reasons(), [CloseReason::IdleTimeout; 16]);
    end(true).await;
    assert_eq!(reasons(), [CloseReason::IdleTimeout; 16]);
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_trace_contains_the_whole_configuration() {
    let defaults = TimeoutConfig::builder().jitter(0.0);
    let odd = Duration::from_nanos(7_654_321);
    let on = defaults
        .handshake_timeout(11 * SECOND)
        .heartbeat_interval(31 * SECOND)
        .connection_timeout(301 * SECOND)
        .message_timeout(odd)
        .idle_timeout(61 * SECOND)
        .ping_interval(26 * SECOND)
        .pong_timeout(59 * SECOND)
        .close_timeout(SECOND)
        .stall_tolerance(4 * SECOND)
        .resume_probe(29 * SECOND)
        .min_data_rate(241)
        .max_ping_rate(21)
        .jitter(0.25)
        .idle_scope(IdleScope::Messages)
        .pong_evidence(PongEvidence::Pong)
        .drain_code(DrainCode::ServiceRestart);
    for config in [defaults, off(), on] {
        let config = config.build().unwrap();
        let recorder = Recorder::new();
        let (_socket, _client) = pair(Timeouts::new(config).with_observer(recorder.clone())).await;
        let text = recorder.trace(1).unwrap().to_string();
        let case = cases::read(&text).unwrap().remove(0);
        let mut read = None;
        case.run_on(|config, opening| case.policy(*read.insert(config), opening))
            .unwrap();
        assert_eq!(read, Some(config));
    }
}

/// Keeps nothing, and fails if it receives a step.
struct WithoutSteps;

impl Observer for WithoutSteps {
    fn report(&self, _: &Connection<'_>, _: &Report<'_>) {}

    fn step(&self, _: &Connection<'_>, _: Timestamp, _: &Step<'_>) {
        panic!("it does not want steps");
    }
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn an_observer_is_given_steps_only_if_it_wants_them() {
    for both in [false, true] {
        let recorder = Recorder::new();
        let timeouts = Timeouts::new(TimeoutConfig::default());
        let timeouts = match both {
            false => timeouts.with_observer(WithoutSteps),
            true => timeouts.with_observer((WithoutSteps, recorder.clone())),
        };
        let (socket, _client) = pair(&timeouts).await;
        read_to_end(socket).await;
        assert_eq!(recorder.verdicts().len(), usize::from(both));
    }
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_endpoints_of_a_server_share_all_but_the_limits() {
    let names = Names::default();
    let timeouts = Timeouts::new(close_within(2))
        .with_observer(names.clone())
        .with_timer_slack(SECOND / 4);
    let endpoint = timeouts.with_config(close_within(3));
    assert_eq!(endpoint.config().close_timeout(), 3 * SECOND);
    let (server, _client) = duplex(4096);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut socket = wrap(&endpoint, server);
    assert_eq!(socket.config().close_timeout(), 3 * SECOND);
    assert!(socket.next().now_or_never().is_none());
    // The slack of a socket takes precedence.
    let (mut other, _other_client) = pair(&timeouts).await;
    assert!(other.next().now_or_never().is_none());
    assert_eq!((timeouts.len(), endpoint.len()), (2, 2));
    assert_eq!(timeouts.clone().with_timer_slack(SECOND).len(), 2);
    let ids: Vec<_> = endpoint
        .handles()
        .iter()
        .map(|handle| handle.id())
        .collect();
    assert_eq!(ids, [1, 2]);
    let seen = names.0.lock().unwrap().join(", ");
    assert_eq!(seen, "1 - opened, slack 250ms, 2 - opened, slack 0ns");
    drop((socket, other));
    assert!(timeouts.is_empty());
    // A configuration alone has no list, until something is set that connections share.
    let begun = Timeouts::from(close_within(2)).with_timer_slack(SECOND);
    let (_socket, _client) = pair(&begun).await;
    assert_eq!(begun.len(), 1);
    let alone = Timeouts::from(close_within(2));
    let (_socket, _client) = pair(&alone).await;
    assert!(alone.is_empty() && alone.handles().is_empty());
    alone.drain(SECOND).await;
}
