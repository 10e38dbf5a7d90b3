//! Handles to sockets that other tasks own, and the connections of a whole server.
#![expect(
    clippy::disallowed_methods,
    reason = "tokio's paused clock measures a drain"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join_all, pending};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::time::{Instant, advance, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open, wrap};
use ws_timeout::{
    CloseReason, Connection, Error, Log, Observer, Phase, Report, TimeoutConfig, TimeoutSocket,
    Timeouts,
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

#[tokio::test(start_paused = true)]
async fn a_handle_reaches_a_reader_that_waits_after_a_split() {
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

#[tokio::test(start_paused = true)]
async fn a_handle_made_after_the_end_knows_how_it_was() {
    let (mut socket, mut client) = pair(TimeoutConfig::default()).await;
    client.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    let handle = socket.handle();
    assert!(handle.has_ended());
    assert_eq!(handle.status().await.phase, Phase::Closed);
    assert_eq!(handle.peer_close().unwrap().code, None);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_never_answered_ends_with_the_socket() {
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

    // Whoever comes now is drained too.
    let (socket, client) = pair(&timeouts).await;
    answers(client);
    let late = tokio::spawn(read_to_end(socket));
    timeout(11 * SECOND, timeouts.drain(10 * SECOND))
        .await
        .unwrap();
    assert_eq!(reason(late.await.unwrap()), Some(CloseReason::Drain));
}

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
        let name = format!("{} {label} {}", connection.id, report.name());
        self.0.lock().unwrap().push(name);
        Log.report(connection, report);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_gets_what_the_log_would() {
    let names = Names::default();
    let config = TimeoutConfig::builder()
        .idle_timeout(30 * SECOND)
        .build()
        .unwrap();
    let timeouts = Timeouts::new(config).with_observer(names.clone());
    let (socket, client) = pair(&timeouts).await;
    let socket = socket.with_label("silent");
    let end = read_to_end(socket).await;
    assert_eq!(reason(end), Some(CloseReason::IdleTimeout));
    drop(client);
    let (socket, _client) = pair(&timeouts).await;
    drop(socket);
    let seen = std::mem::take(&mut *names.0.lock().unwrap());
    assert_eq!(
        seen,
        [
            "1 silent opened",
            "1 silent ping",
            "1 silent verdict",
            "1 silent closed"
        ]
    );
}
