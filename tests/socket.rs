//! The socket on tokio: its clock paused over an in-memory transport wherever that can show the thing,
//! a real socket where only that can.

mod common;
#[path = "common/exact.rs"]
mod exact;

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::off;
use exact::wrap;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt, TryFutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::{Timer, open};
use ws_timeout::testing::ManualTimer;
use ws_timeout::{
    CloseHandshake, CloseReason, Error, Metered, PongEvidence, Received, TimeoutConfig,
    TimeoutConfigBuilder, TimeoutSocket, Timestamp, Verdict,
};

type Guarded<IO = DuplexStream> = TimeoutSocket<WebSocketStream<IO>, Timer>;
type Client = WebSocketStream<DuplexStream>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything off but the closing handshake, which has five seconds, and the tolerance of stalls.
fn bare() -> TimeoutConfigBuilder {
    let tolerance = TimeoutConfig::DEFAULT.stall_tolerance().unwrap();
    off().stall_tolerance(tolerance)
}

/// A guarded server and its client over a pipe that holds `capacity` bytes each way.
async fn pair(config: TimeoutConfigBuilder, capacity: usize) -> (Guarded, Client) {
    let (server, client) = duplex(capacity);
    let server =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(tungstenite_config())).await;
    let client =
        WebSocketStream::from_raw_socket(client, Role::Client, Some(tungstenite_config())).await;
    (wrap(config.build().unwrap(), server), client)
}

/// A guarded and metered server, and the bare transport of its client.
async fn metered(config: TimeoutConfigBuilder) -> (Guarded<Metered<DuplexStream>>, DuplexStream) {
    let (server, client) = duplex(1 << 16);
    let server = Metered::new(server);
    let meter = server.meter();
    let server =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(tungstenite_config())).await;
    (
        wrap(config.build().unwrap(), server).with_meter(meter),
        client,
    )
}

/// tokio's clock, which is paused.
#[expect(clippy::disallowed_methods, reason = "the tests are about this clock")]
fn now() -> Instant {
    Instant::now()
}

fn timed_out<T: std::fmt::Debug>(result: Result<T, Error<WsError>>) -> Verdict {
    match result {
        Err(Error::Verdict(verdict)) => verdict,
        other => panic!("no verdict but {other:?}"),
    }
}

/// Asserts that `since` was `expected` ago, to the few milliseconds by which an alarm rings late, and those
/// in which the reactor turns before the peer is judged, twice at most.
#[track_caller]
fn took(since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    assert!(
        elapsed >= expected && elapsed <= expected + 40 * MS,
        "took {elapsed:?} instead of {expected:?}"
    );
}

/// Reads as a living client does, until the connection ends; gives the code of the Close frame.
async fn live(mut client: Client) -> Option<u16> {
    let mut code = None;
    while let Some(Ok(message)) = client.next().await {
        if let Message::Close(frame) = message {
            code = frame.map(|frame| frame.code.into());
        }
    }
    code
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_let_go_when_its_pong_is_overdue() {
    let config = bare().ping_interval(SECOND).pong_timeout(2 * SECOND);
    let (mut server, mut client) = metered(config).await;
    let start = now();
    let verdict = timed_out(server.recv().await);
    took(start, 3 * SECOND);
    assert_eq!(verdict.reason, CloseReason::PongTimeout);
    assert_eq!(verdict.close_handshake, CloseHandshake::Sent);
    let waited = verdict.status.ping_unanswered;
    assert!(
        waited.is_some_and(|waited| waited >= 2 * SECOND),
        "{verdict}"
    );
    assert!(matches!(server.recv().await, Ok(None)));
    // The transport is gone at once, with a ping and a Close frame of 1011 as its last bytes.
    let mut wire = Vec::new();
    client.read_to_end(&mut wire).await.unwrap();
    let reason = CloseReason::PongTimeout.text();
    assert_eq!(wire[..2], [0x89, 8]);
    assert_eq!(wire[10..14], [0x88, 2 + reason.len() as u8, 3, 243]);
    assert_eq!(&wire[14..], reason.as_bytes());
}

/// Guards rule 18.
#[tokio::test(start_paused = true)]
async fn a_living_peer_meets_its_lifetime_and_no_other_limit() {
    let config = TimeoutConfig::builder().jitter(0.0);
    let (mut server, client) = pair(config, 1024).await;
    let client = tokio::spawn(live(client));
    let start = now();
    let verdict = timed_out(server.recv().await);
    took(start, 300 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::ConnectionTimeout, CloseHandshake::Answered)
    );
    assert_eq!(
        verdict.status.pongs_received, 11,
        "a ping each 25 s: {verdict}"
    );
    assert_eq!(client.await.unwrap(), Some(1001));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_a_message_an_end_and_a_verdict_are_four_answers() {
    let (mut server, mut client) = pair(bare().idle_timeout(10 * SECOND), 1024).await;
    let start = now();
    assert_eq!(
        server.recv_timeout(SECOND).await.unwrap(),
        Received::TimedOut
    );
    took(start, SECOND);
    client.send(Message::text("in time")).await.unwrap();
    let message = Received::Message(Message::text("in time"));
    assert_eq!(server.recv_timeout(SECOND).await.unwrap(), message);
    assert_eq!(
        server.recv_timeout(Duration::ZERO).await.unwrap(),
        Received::TimedOut
    );
    client.close(None).await.unwrap();
    let close = Received::Message(Message::Close(None));
    assert_eq!(server.recv_timeout(SECOND).await.unwrap(), close);
    assert_eq!(server.recv_timeout(SECOND).await.unwrap(), Received::Closed);

    let (mut server, _client) = pair(bare().idle_timeout(SECOND), 1024).await;
    let start = now();
    let verdict = timed_out(server.recv_timeout(Duration::MAX).await);
    assert_eq!(verdict.reason, CloseReason::IdleTimeout);
    took(start, 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_only_sends_meets_its_lifetime() {
    let (server, client) = pair(bare().connection_timeout(SECOND), 1024).await;
    let client = tokio::spawn(live(client));
    let (mut sink, _stream) = server.split();
    let start = now();
    let verdict = loop {
        if let Err(Error::Verdict(verdict)) = sink.send(Message::text("news")).await {
            break verdict;
        }
        assert!(start.elapsed() < 2 * SECOND);
        tokio::time::sleep(10 * MS).await;
    };
    assert_eq!(verdict.reason, CloseReason::ConnectionTimeout);
    assert_eq!(
        client.now_or_never().map(Result::unwrap),
        None,
        "nobody reads the answer"
    );
}

/// Guards rules 5 and 9.
#[tokio::test(start_paused = true)]
async fn a_blocked_send_times_out_though_nobody_reads() {
    let (server, _client) = pair(bare().message_timeout(SECOND), 64).await;
    let (mut sink, _stream) = server.split();
    let start = now();
    let verdict = timed_out(sink.send(Message::binary(vec![0; 1000])).await);
    took(start, SECOND);
    assert_eq!(verdict.reason, CloseReason::MessageTimeout);
    assert!(verdict.status.write_waits);
}

/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn a_verdict_of_the_sending_half_reaches_a_reader_that_waits() {
    let (server, _client) = pair(bare().message_timeout(SECOND), 64).await;
    let (mut sink, mut stream) = server.split();
    let reader = tokio::spawn(async move { (stream.next().await, stream.next().await) });
    timed_out(sink.send(Message::binary(vec![0; 1000])).await);
    let (first, second) = reader.await.unwrap();
    assert_eq!(
        timed_out(first.unwrap()).reason,
        CloseReason::MessageTimeout
    );
    assert!(second.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_ping_does_not_put_out_the_waker_of_a_blocked_writer() {
    let (server, mut client) = pair(bare().ping_interval(SECOND), 64).await;
    let (mut sink, mut stream) = server.split();
    let writer = tokio::spawn(async move { sink.send(Message::binary(vec![0; 1000])).await });
    let reader = tokio::spawn(async move { stream.next().await.map(|_| ()) });
    // The writer is blocked and the reading half has tried its ping by now.
    tokio::time::sleep(2 * SECOND).await;
    assert!(!writer.is_finished());
    assert!(matches!(client.next().await, Some(Ok(Message::Binary(data))) if data.len() == 1000));
    tokio::time::timeout(SECOND, writer)
        .await
        .expect("the writer was woken")
        .unwrap()
        .unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Ping(_)))));
    reader.abort();
}

/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn a_close_that_is_ignored_is_bounded_and_keeps_its_cause() {
    let (mut server, client) =
        pair(bare().idle_timeout(SECOND).close_timeout(2 * SECOND), 1024).await;
    let start = now();
    let verdict = timed_out(server.recv().await);
    took(start, 3 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::IdleTimeout, CloseHandshake::Unanswered)
    );
    drop(client);
}

/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn sends_fail_at_once_while_the_close_is_awaited_and_reads_go_on() {
    let (server, mut client) = pair(bare().connection_timeout(SECOND), 1024).await;
    let (mut sink, mut stream) = server.split();
    let reader = tokio::spawn(async move {
        (
            stream.next().await,
            stream.next().await,
            stream.next().await,
        )
    });
    tokio::time::sleep(2 * SECOND).await;
    let verdict = timed_out(sink.send(Message::text("too late")).await);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::ConnectionTimeout, CloseHandshake::UnderWay)
    );
    client
        .send(Message::text("still on its way"))
        .await
        .unwrap();
    live(client).await;
    let (data, verdict, end) = reader.await.unwrap();
    assert_eq!(data.unwrap().unwrap(), Message::text("still on its way"));
    assert_eq!(
        timed_out(verdict.unwrap()).close_handshake,
        CloseHandshake::Answered
    );
    assert!(end.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_peer_is_a_clean_end() {
    let (mut server, mut client) = pair(TimeoutConfig::builder(), 1024).await;
    client.close(None).await.unwrap();
    assert!(matches!(
        server.recv().await,
        Ok(Some(Message::Close(None)))
    ));
    assert!(matches!(server.recv().await, Ok(None)));
    assert!(matches!(
        server.send(Message::text("late")).await,
        Err(Error::Closed)
    ));
    assert!(matches!(
        client.next().await,
        Some(Ok(Message::Close(None)))
    ));
    assert!(client.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_an_error_of_the_socket_and_no_timeout() {
    let (mut server, client) = pair(TimeoutConfig::builder(), 1024).await;
    drop(client);
    assert!(matches!(server.recv().await, Err(Error::Socket(_))));
    assert!(matches!(server.recv().await, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn our_own_close_is_answered_with_the_code_of_the_peer() {
    let (mut server, client) = pair(bare(), 1024).await;
    let client = tokio::spawn(live(client));
    assert!(matches!(
        server.close(1005, "").await,
        Err(Error::CloseCode(1005))
    ));
    assert_eq!(server.close(4000, "enough").await.unwrap(), Some(4000));
    assert_eq!(client.await.unwrap(), Some(4000));
    assert_eq!(server.close(1000, "again").await.unwrap(), Some(4000));
}

#[tokio::test(start_paused = true)]
async fn our_own_close_is_bounded() {
    let (mut server, _client) = pair(bare().close_timeout(2 * SECOND), 1024).await;
    let start = now();
    let verdict = timed_out(server.close(1000, "").await);
    took(start, 2 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::CloseTimeout, CloseHandshake::Unanswered)
    );
}

/// Guards rule 14.
#[tokio::test(start_paused = true)]
async fn a_close_behind_a_full_buffer_is_bounded() {
    let (server, _client) = pair(bare().close_timeout(2 * SECOND), 64).await;
    let (mut sink, mut stream) = server.split();
    assert!(
        sink.send(Message::binary(vec![0; 1000]))
            .now_or_never()
            .is_none()
    );
    let reader = tokio::spawn(async move { stream.next().await });
    let start = now();
    let verdict = timed_out(sink.close().await);
    took(start, 2 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::CloseTimeout, CloseHandshake::NotSent)
    );
    timed_out(reader.await.unwrap().unwrap());
}

/// tungstenite drops a Close frame for good if its buffer has no room for it.
/// Guards rules 11 and 14.
#[tokio::test(start_paused = true)]
async fn a_close_frame_goes_when_there_is_room_for_it() {
    let (server, client) = duplex(64);
    let small = tungstenite_config()
        .write_buffer_size(1000)
        .max_write_buffer_size(1010);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, Some(small)).await;
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut server = wrap(bare().build().unwrap(), server);
    let large = Message::binary(vec![0; 1000]);
    assert!(server.send(large.clone()).now_or_never().is_none());
    let reason = "x".repeat(123);
    let closing = tokio::spawn(async move { server.close(4000, &reason).await });
    tokio::time::sleep(MS).await;
    assert_eq!(client.next().await.unwrap().unwrap(), large);
    let close = client.next().await.unwrap().unwrap();
    assert!(
        matches!(&close, Message::Close(Some(frame)) if frame.reason.len() == 123),
        "{close:?}"
    );
    while client.next().await.is_some() {}
    assert_eq!(closing.await.unwrap().unwrap(), Some(4000));
}

/// Guards rule 16.
#[tokio::test(start_paused = true)]
async fn a_receive_that_is_over_as_a_message_comes_does_not_lose_it() {
    let (mut server, mut client) = pair(bare(), 1024).await;
    {
        let mut receiving = pin!(server.recv_timeout(SECOND));
        assert!(receiving.as_mut().now_or_never().is_none());
        tokio::time::advance(2 * SECOND).await;
        client.send(Message::text("late")).await.unwrap();
        if let Received::Message(message) = receiving.await.unwrap() {
            return assert_eq!(message, Message::text("late"));
        }
    }
    let message = server.recv_timeout(SECOND).await.unwrap();
    assert_eq!(message, Received::Message(Message::text("late")));
}

#[tokio::test(start_paused = true)]
async fn the_opening_handshake_is_bounded() {
    let config = TimeoutConfig::builder().build().unwrap();
    let start = now();
    let opened = open(config, pending::<Result<Client, WsError>>()).await;
    took(start, 10 * SECOND);
    assert_eq!(
        timed_out(opened.map(|_| ())).reason,
        CloseReason::HandshakeTimeout
    );
}

#[tokio::test(start_paused = true)]
async fn the_connection_opens_when_the_handshake_is_done() {
    let (server, _client) = duplex(1024);
    let config = bare().idle_timeout(5 * SECOND).build().unwrap();
    let mut server = open(config, async {
        tokio::time::sleep(3 * SECOND).await;
        Ok::<_, WsError>(WebSocketStream::from_raw_socket(server, Role::Server, None).await)
    })
    .await
    .unwrap()
    .with_timer_slack(Duration::ZERO);
    let start = now();
    assert_eq!(server.status().age, Duration::ZERO);
    let verdict = timed_out(server.recv().await);
    assert_eq!(verdict.reason, CloseReason::IdleTimeout);
    took(start, 10 * SECOND);
}

/// With the default timer slack.
#[tokio::test(start_paused = true)]
async fn connections_that_opened_apart_share_a_wake_up() {
    let config = bare().idle_timeout(5 * SECOND).no_stall_tolerance();
    let config = config.build().unwrap();
    let mut ages = Vec::new();
    let start = now();
    for _ in 0..2 {
        let (server, _client) = duplex(1024);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let mut server = ws_timeout::runtime::tokio::wrap(config, server);
        tokio::time::sleep(3 * MS).await;
        timed_out(server.recv().await);
        ages.push(start.elapsed().as_millis() % 10);
    }
    assert_eq!(ages[0], ages[1]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_within_its_time() {
    let (mut server, client) = pair(bare(), 1024).await;
    let client = tokio::spawn(live(client));
    assert!(server.recv().now_or_never().is_none());
    server.drain(10 * SECOND);
    let start = now();
    assert_eq!(timed_out(server.recv().await).reason, CloseReason::Drain);
    assert!(start.elapsed() < 10 * SECOND);
    assert_eq!(client.await.unwrap(), Some(1001));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_to_be_answered_in_its_time() {
    let (mut server, _client) = pair(bare(), 1024).await;
    assert!(server.recv().now_or_never().is_none());
    server.probe(3 * SECOND);
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::PongTimeout
    );
    took(start, 3 * SECOND);
}

/// Guards rule 9.
#[tokio::test(start_paused = true)]
async fn a_changed_configuration_reaches_a_reader_that_waits() {
    let (mut server, _client) = pair(bare(), 1024).await;
    assert!(server.recv().now_or_never().is_none());
    tokio::time::sleep(SECOND).await;
    server.set_config(bare().idle_timeout(3 * SECOND).build().unwrap());
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::IdleTimeout
    );
    took(start, 2 * SECOND + 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn own_pongs_are_taken_out_and_all_else_passes() {
    let (mut server, mut client) =
        pair(bare().ping_interval(SECOND).pong_timeout(SECOND), 1024).await;
    assert!(server.recv().now_or_never().is_none());
    client.send(Message::Pong("unasked".into())).await.unwrap();
    client.send(Message::Ping("hello".into())).await.unwrap();
    assert_eq!(
        server.recv().await.unwrap(),
        Some(Message::Pong("unasked".into()))
    );
    assert_eq!(
        server.recv().await.unwrap(),
        Some(Message::Ping("hello".into()))
    );
    assert!(server.recv().now_or_never().is_none());
    assert!(matches!(client.next().await, Some(Ok(Message::Pong(data))) if data == "hello"));
    let client = tokio::spawn(live(client));
    assert!(
        tokio::time::timeout(10 * SECOND, server.recv())
            .await
            .is_err()
    );
    assert!(server.status().pongs_received >= 9, "{}", server.status());
    client.abort();
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_text_is_answered_by_text() {
    let (server, mut client) = pair(bare().ping_interval(SECOND).pong_timeout(SECOND), 1024).await;
    let mut server = server.with_text_heartbeat("ping", "pong");
    let client = tokio::spawn(async move {
        let mut pings = 0;
        while let Some(Ok(message)) = client.next().await {
            assert_eq!(message, Message::text("ping"));
            pings += 1;
            if pings == 3 {
                client.send(Message::text("data")).await.unwrap();
            }
            if pings < 5 {
                client.send(Message::text("pong")).await.unwrap();
            } else {
                break;
            }
        }
        client
    });
    let start = now();
    assert_eq!(server.recv().await.unwrap(), Some(Message::text("data")));
    let verdict = timed_out(server.recv().await);
    took(start, 6 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.status.pongs_received),
        (CloseReason::PongTimeout, 4)
    );
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_large_message_are_signs_of_life() {
    let config = bare().idle_timeout(2 * SECOND).min_data_rate(10);
    let (mut server, mut client) = metered(config).await;
    let upload = tokio::spawn(async move {
        client
            .write_all(&[0x82, 0xFE, 3, 232, 0, 0, 0, 0])
            .await
            .unwrap();
        for _ in 0..50 {
            tokio::time::sleep(SECOND).await;
            client.write_all(&[7; 20]).await.unwrap();
        }
        client
    });
    let start = now();
    assert!(matches!(server.recv().await, Ok(Some(Message::Binary(data))) if data.len() == 1000));
    took(start, 50 * SECOND);
    drop(upload);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_is_cut_off() {
    let config = bare().idle_timeout(2 * SECOND).min_data_rate(10);
    let (mut server, mut client) = metered(config).await;
    let upload = tokio::spawn(async move {
        client
            .write_all(&[0x82, 0xFE, 3, 232, 0, 0, 0, 0])
            .await
            .unwrap();
        while client.write_all(&[7]).await.is_ok() {
            tokio::time::sleep(SECOND).await;
        }
        let mut end = Vec::new();
        client.read_to_end(&mut end).await.unwrap();
        end
    });
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::SlowReceive
    );
    let elapsed = start.elapsed();
    // Five seconds to begin with, and a tenth of a second for each of at most fifteen bytes.
    assert!(
        elapsed > 5 * SECOND && elapsed < 7 * SECOND,
        "took {elapsed:?}"
    );
    let end = upload.await.unwrap();
    assert_eq!(
        end[..4],
        [
            0x88,
            2 + CloseReason::SlowReceive.text().len() as u8,
            3,
            240
        ],
        "1008 on the wire"
    );
}

#[tokio::test(start_paused = true)]
async fn a_large_write_lives_while_its_bytes_move() {
    let (server, client) = duplex(100);
    let server = Metered::new(server);
    let meter = server.meter();
    let server =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(tungstenite_config())).await;
    let config = bare()
        .message_timeout(2 * SECOND)
        .min_data_rate(10)
        .build()
        .unwrap();
    let mut server = wrap(config, server).with_meter(meter);
    let mut client = client;
    let reader = tokio::spawn(async move {
        let mut buffer = [0; 100];
        for _ in 0..12 {
            tokio::time::sleep(SECOND).await;
            assert!(client.read(&mut buffer).await.unwrap() > 0);
        }
        pending::<()>().await;
    });
    let start = now();
    server.send(Message::binary(vec![0; 1000])).await.unwrap();
    assert!(start.elapsed() >= 9 * SECOND, "took {:?}", start.elapsed());
    let verdict = timed_out(server.send(Message::binary(vec![0; 1000])).await);
    assert_eq!(verdict.reason, CloseReason::MessageTimeout);
    reader.abort();
}

/// Guards rule 16.
#[tokio::test(start_paused = true)]
async fn a_dropped_receive_and_a_dropped_send_lose_nothing() {
    let (server, mut client) = pair(bare(), 64).await;
    let (mut sink, mut stream) = server.split();
    for number in 0..20 {
        let message = Message::binary(vec![number; 1000]);

        let upload = tokio::spawn({
            let message = message.clone();
            async move {
                client.send(message).await.unwrap();
                client
            }
        });
        let received = loop {
            // Dropped wherever the frame happens to be cut.
            if let Some(message) = stream.next().now_or_never() {
                break message;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(received.unwrap().unwrap(), message);
        client = upload.await.unwrap();

        assert!(sink.send(message.clone()).now_or_never().is_none());
        let rest = tokio::spawn(async move {
            sink.send(Message::text("behind it")).await.unwrap();
            sink
        });
        assert_eq!(client.next().await.unwrap().unwrap(), message);
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            Message::text("behind it")
        );
        sink = rest.await.unwrap();
    }
}

/// Twenty healthy peers, whose pongs wait in the kernel while the one thread of their server is blocked
/// beyond the pong timeout: what the runtime has cached of the sockets does not show them.
/// Guards rule 2.
#[test]
fn a_blocked_thread_does_not_cost_a_healthy_peer() {
    const PEERS: usize = 20;
    let config = bare()
        .ping_interval(100 * MS)
        .pong_timeout(300 * MS)
        .no_stall_tolerance()
        .jitter(0.5);
    let config = config.build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();

    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..PEERS {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let url = format!("ws://{address}");
                clients.spawn(async {
                    let (mut client, _) =
                        tokio_tungstenite::client_async(url, stream).await.unwrap();
                    while let Some(Ok(_)) = client.next().await {}
                });
            }
            clients.join_all().await;
        });
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut sockets = Vec::new();
        for _ in 0..PEERS {
            let (stream, _) = listener.accept().await.unwrap();
            let socket = open(config, tokio_tungstenite::accept_async(stream))
                .await
                .unwrap();
            sockets.push(socket);
        }
        for _ in 0..5 {
            // Right after some ping was flushed: its pong has not been read.
            poll_fn(|cx| {
                for socket in &mut sockets {
                    let ended = socket.poll_next_unpin(cx);
                    assert!(ended.is_pending(), "a healthy peer was let go: {ended:?}");
                }
                let in_flight = sockets
                    .iter()
                    .any(|socket| socket.status().ping_unanswered.is_some());
                if in_flight {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;

            #[expect(
                clippy::disallowed_methods,
                reason = "the blocked thread is what this is about"
            )]
            std::thread::sleep(Duration::from_millis(420));

            // The task goes on before the reactor has had its turn.
            for socket in &mut sockets {
                let ended = socket.next().now_or_never();
                assert!(ended.is_none(), "a healthy peer was let go: {ended:?}");
            }
        }
    });
    drop(runtime);
    clients.join().unwrap();
}

/// The same for a write: the peer has read all that was there while the thread was blocked, and the runtime
/// has not heard of the room.
/// Guards rule 6.
#[test]
fn a_blocked_thread_does_not_cost_a_peer_that_reads() {
    const LENGTH: usize = 15 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, may_go) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        may_go.recv().unwrap();
        std::io::copy(&mut tcp, &mut std::io::sink()).unwrap()
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_nonblocking(true).unwrap();
        let transport = Metered::new(tokio::net::TcpStream::from_std(tcp).unwrap());
        let meter = transport.meter();
        let config = bare().message_timeout(300 * MS).no_stall_tolerance();
        let mut server = over(config, transport).await.with_meter(meter);
        // Some life before: the reactor has turned since the socket's clock began.
        assert_eq!(
            server.recv_timeout(20 * MS).await.unwrap(),
            Received::TimedOut
        );

        let mut send = pin!(server.send(Message::binary(vec![0; LENGTH])));
        let first = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "the transport took it all");
        go.send(()).unwrap();

        #[expect(
            clippy::disallowed_methods,
            reason = "the blocked thread is what this is about"
        )]
        std::thread::sleep(Duration::from_millis(420));

        // The task goes on before the reactor has had its turn.
        let second = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx))).await;
        assert!(
            !matches!(second, Poll::Ready(Err(_))),
            "a peer that reads was let go: {second:?}"
        );
        if second.is_pending() {
            send.await.unwrap();
        }
    });
    drop(runtime);
    assert!(reader.join().unwrap() > LENGTH as u64);
}

/// A masked frame as a client puts it on the wire.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A guarded server over a transport of the caller's.
async fn over<IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    config: TimeoutConfigBuilder,
    transport: IO,
) -> Guarded<IO> {
    let socket =
        WebSocketStream::from_raw_socket(transport, Role::Server, Some(tungstenite_config())).await;
    wrap(config.build().unwrap(), socket)
}

/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn what_waits_to_be_written_leaves_before_the_reply_to_a_close() {
    for split in [false, true] {
        let (transport, mut client) = duplex(64);
        let mut server = over(bare(), transport).await;
        assert!(
            server
                .send(Message::binary(vec![0; 1000]))
                .now_or_never()
                .is_none()
        );
        let client = tokio::spawn(async move {
            client.write_all(&frame(8, &[3, 232])).await.unwrap();
            tokio::time::sleep(100 * MS).await;
            let mut wire = Vec::new();
            client.read_to_end(&mut wire).await.unwrap();
            wire
        });
        if split {
            let (_sink, mut stream) = server.split();
            while let Some(message) = stream.next().await {
                message.unwrap();
            }
        } else {
            while server.recv().await.unwrap().is_some() {}
        }
        let wire = client.await.unwrap();
        assert_eq!(wire.len(), 1004 + 4);
        assert_eq!(wire[1004..], [0x88, 2, 3, 232]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_and_does_not_read_is_bounded() {
    let (transport, mut client) = duplex(64);
    let mut server = over(bare().close_timeout(2 * SECOND), transport).await;
    assert!(
        server
            .send(Message::binary(vec![0; 1000]))
            .now_or_never()
            .is_none()
    );
    client.write_all(&frame(8, &[3, 232])).await.unwrap();
    assert!(server.recv().await.unwrap().unwrap().is_close());
    let start = now();
    let verdict = timed_out(server.recv().await);
    took(start, 2 * SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::CloseTimeout, CloseHandshake::NotSent)
    );
}

/// `forward` flushes whenever it is polled: a flush that wakes its own task would never rest.
/// Guards rule 21.
#[tokio::test(start_paused = true)]
async fn a_flush_does_not_wake_its_own_task() {
    let (server, _client) = pair(bare(), 1024).await;
    let (sink, _stream) = server.split();
    let source = futures_util::stream::pending::<Result<Message, Error<WsError>>>();
    let mut forward = pin!(source.forward(sink));
    let mut polls = 0;
    let counted = poll_fn(|cx| {
        polls += 1;
        assert!(polls < 10, "it spins");
        forward.as_mut().poll(cx)
    });
    assert!(tokio::time::timeout(SECOND, counted).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn many_messages_under_back_pressure_live_while_they_move() {
    let (transport, mut client) = duplex(4096);
    let mut server = over(bare().message_timeout(SECOND), transport).await;
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while client.read(&mut buffer).await.unwrap() > 0 {
            tokio::time::sleep(10 * MS).await;
        }
    });
    let messages = (0..2000).map(|_| Ok(Message::binary(vec![0; 1000])));
    let start = now();
    server
        .send_all(&mut futures_util::stream::iter(messages))
        .await
        .unwrap();
    assert!(
        start.elapsed() > 4 * SECOND,
        "the transport did not hold it up"
    );
    drop(server);
    reader.await.unwrap();
}

/// Each of these is due before the reading half first looks, so no alarm was ever set for it.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_past_at_the_first_look_is_judged() {
    let idle = bare()
        .no_stall_tolerance()
        .idle_timeout(500 * MS)
        .close_timeout(SECOND);

    let (mut server, _client) = pair(bare(), 1024).await;
    assert!(server.recv().now_or_never().is_none());
    tokio::time::sleep(SECOND).await;
    server.set_config(idle.build().unwrap());
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::IdleTimeout
    );
    took(start, SECOND);

    let (mut server, _client) = pair(bare(), 1024).await;
    assert!(server.recv().now_or_never().is_none());
    server.probe(Duration::ZERO);
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::PongTimeout
    );
    took(start, Duration::ZERO);

    let (mut server, _client) = pair(idle, 1024).await;
    tokio::time::sleep(2 * SECOND).await;
    let start = now();
    assert_eq!(
        timed_out(server.recv().await).reason,
        CloseReason::IdleTimeout
    );
    took(start, SECOND);

    // The sending half looks first, and leaves silence to the reading half.
    let (server, _client) = pair(idle, 1024).await;
    tokio::time::sleep(2 * SECOND).await;
    let (mut sink, mut stream) = server.split();
    sink.send(Message::text("news")).await.unwrap();
    let start = now();
    assert_eq!(
        timed_out(stream.next().await.unwrap()).reason,
        CloseReason::IdleTimeout
    );
    took(start, SECOND);
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_text_may_come_in_pieces() {
    let config = bare()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .min_data_rate(240);
    let (server, mut client) = metered(config).await;
    let mut server = server.with_text_heartbeat("ping", "pong");
    let client = tokio::spawn(async move {
        let mut ping = [0; 6];
        let (first, second) = (&frame(1, b"pong")[..5], &frame(1, b"pong")[5..]);
        client.read_exact(&mut ping).await.unwrap();
        client.write_all(first).await.unwrap();
        tokio::time::sleep(10 * MS).await;
        client.write_all(second).await.unwrap();
        while client.read_exact(&mut ping).await.is_ok() {
            client.write_all(&frame(1, b"pong")).await.unwrap();
        }
    });
    assert!(
        tokio::time::timeout(100 * SECOND, server.recv())
            .await
            .is_err(),
        "{}",
        server.status()
    );
    client.abort();
}

/// Both sides of GraphQL over WebSocket: a payload may come with each message, and goes back with a pong.
fn graphql<S, T>(socket: TimeoutSocket<S, T>) -> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<Message, WsError>> + Sink<Message, Error = WsError>,
    T: ws_timeout::Timer,
{
    let parse = |message: &Message| serde_json::from_str(message.to_text().ok()?).ok();
    let socket = socket.with_heartbeat_replies(move |message| {
        let mut message: serde_json::Value = parse(message)?;
        if message["type"] != "ping" {
            return None;
        }
        message["type"] = "pong".into();
        Some(Message::text(message.to_string()))
    });
    socket.with_heartbeat(
        |number| Message::text(format!(r#"{{"type":"ping","payload":{{"n":{number}}}}}"#)),
        move |message, latest| {
            let pong: serde_json::Value = parse(message)?;
            (pong["type"] == "pong").then(|| pong["payload"]["n"].as_u64().unwrap_or(latest))
        },
    )
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_longer_than_a_frame_is_no_message_that_has_begun() {
    let config = bare()
        .ping_interval(20 * SECOND)
        .pong_timeout(SECOND)
        .min_data_rate(240);
    let (server, mut client) = metered(config).await;
    let mut server = graphql(server);
    let client = tokio::spawn(async move {
        let mut received = [0; 256];
        loop {
            match client.read(&mut received).await {
                Ok(0) | Err(_) => break,
                Ok(read) if received[..read].windows(6).any(|word| word == b"\"ping\"") => {}
                // Our reply to the ping below.
                Ok(_) => continue,
            }
            for word in ["ping", "pong"] {
                let message = format!(r#"{{"type":"{word}","payload":{{"why":"{word:>60}"}}}}"#);
                client
                    .write_all(&frame(1, message.as_bytes()))
                    .await
                    .unwrap();
            }
        }
    });
    assert!(
        tokio::time::timeout(205 * SECOND, server.recv())
            .await
            .is_err(),
        "{}",
        server.status()
    );
    assert!(server.status().pongs_received >= 10, "{}", server.status());
    client.abort();
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn pongs_in_json_are_recognised_in_every_form() {
    for pong in [
        r#"{"type":"pong"}"#,
        r#"{"type":"pong","payload":null}"#,
        r#"{ "type": "pong" }"#,
        r#"{"type":"pong","payload":{"t":1}}"#,
        r#"{"payload":{"n":NUMBER},"type":"pong"}"#,
    ] {
        for evidence in [PongEvidence::Any, PongEvidence::Pong] {
            let config = bare()
                .ping_interval(SECOND)
                .pong_timeout(SECOND)
                .pong_evidence(evidence);
            let (server, mut client) = pair(config, 1024).await;
            let mut server = graphql(server);
            let client = tokio::spawn(async move {
                for number in 1_u32.. {
                    let Some(Ok(ping)) = client.next().await else {
                        break;
                    };
                    let expected = format!(r#"{{"type":"ping","payload":{{"n":{number}}}}}"#);
                    assert_eq!(ping, Message::text(expected));
                    tokio::time::sleep(100 * MS).await;
                    let pong = pong.replace("NUMBER", &number.to_string());
                    client.send(Message::text(pong)).await.unwrap();
                }
            });
            let received = server.recv_timeout(10 * SECOND + 500 * MS).await.unwrap();
            assert_eq!(received, Received::TimedOut, "{pong}");
            let status = server.status();
            assert_eq!(status.pongs_received, status.pings_sent, "{pong}");
            let rtt = status.rtt.map(|rtt| rtt.latest);
            assert!(
                rtt.is_some_and(|rtt| rtt >= 100 * MS && rtt < 110 * MS),
                "{rtt:?}"
            );
            client.abort();
        }
    }
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn pings_in_json_are_answered_with_what_they_contain() {
    let (server, mut client) = pair(bare(), 1024).await;
    let mut server = graphql(server);
    let client = tokio::spawn(async move {
        for (ping, pong) in [
            (r#"{"type":"ping"}"#, r#"{"type":"pong"}"#),
            (
                r#"{"type":"ping","payload":{"t":7}}"#,
                r#"{"payload":{"t":7},"type":"pong"}"#,
            ),
        ] {
            client.send(Message::text(ping)).await.unwrap();
            let answer = client.next().await.unwrap().unwrap();
            assert_eq!(answer, Message::text(pong));
        }
        let data = r#"{"type":"next","payload":{"type":"ping"}}"#;
        client.send(Message::text(data)).await.unwrap();
        client
    });
    let data = server.recv().await.unwrap().unwrap();
    assert!(data.to_text().unwrap().contains("next"), "{data:?}");
    drop(client);
}

/// tokio answers `Pending` to every read once a task has done much in one turn; the pong is there.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_spent_budget_is_not_taken_for_silence() {
    let config = bare()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .pong_evidence(PongEvidence::Pong);
    let (transport, mut client) = duplex(1 << 17);
    let mut server = over(config, transport).await;
    assert!(
        tokio::time::timeout(SECOND + 100 * MS, server.recv())
            .await
            .is_err()
    );
    let mut ping = [0; 10];
    client.read_exact(&mut ping).await.unwrap();
    // More than the turns after which all that had arrived has been seen.
    for _ in 0..20 {
        client.write_all(&frame(2, &[0; 4088])).await.unwrap();
    }
    client.write_all(&frame(0xA, &ping[2..])).await.unwrap();
    // The task comes back late, to a pong that was there in time behind data.
    tokio::time::sleep(SECOND).await;
    for _ in 0..20 {
        poll_fn(|cx| {
            let read = server.poll_next_unpin(cx);
            assert!(matches!(read, Poll::Ready(Some(Ok(_)))), "{read:?}");
            // A message keeps the task busy until its turn is used up.
            while tokio::task::coop::has_budget_remaining() {
                let _ = pin!(tokio::task::consume_budget()).poll(cx);
            }
            let read = server.poll_next_unpin(cx);
            assert!(read.is_pending(), "a healthy peer was let go: {read:?}");
            Poll::Ready(())
        })
        .await;
        tokio::time::sleep(2 * MS).await;
    }
    assert!(server.recv().now_or_never().is_none());
    assert_eq!(server.status().pongs_received, 1);
}

/// So large a message takes more than one turn to read.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_spent_budget_does_not_cost_a_receive_its_message() {
    const LENGTH: usize = 1 << 20;
    let (mut server, mut client) = pair(bare(), 2 * LENGTH).await;
    let mut receiving = pin!(server.recv_timeout(SECOND));
    assert!(receiving.as_mut().now_or_never().is_none());
    client.send(Message::binary(vec![0; LENGTH])).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    match receiving.await.unwrap() {
        Received::Message(message) => assert_eq!(message.len(), LENGTH),
        other => panic!("no message but {other:?}"),
    }
}

/// Guards rule 16.
#[tokio::test(start_paused = true)]
async fn a_receive_that_is_over_leaves_the_limits_of_the_connection() {
    let (mut server, _client) = pair(bare().idle_timeout(2 * SECOND), 64).await;
    let start = now();
    let received = server.recv_timeout(SECOND).await.unwrap();
    assert_eq!(received, Received::TimedOut);
    took(start, SECOND);
    let end = tokio::time::timeout(10 * SECOND, server.next()).await;
    let end = end.expect("the verdict comes, and the end of its close");
    assert_eq!(timed_out(end.unwrap()).reason, CloseReason::IdleTimeout);
}

/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn close_frames_may_cross() {
    for (role, other) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
        let (ours, theirs) = duplex(64);
        let ours = WebSocketStream::from_raw_socket(ours, role, Some(tungstenite_config())).await;
        let mut theirs =
            WebSocketStream::from_raw_socket(theirs, other, Some(tungstenite_config())).await;
        let (mut sink, mut stream) = wrap(bare().build().unwrap(), ours).split();
        assert!(
            sink.send(Message::binary(vec![0; 1000]))
                .now_or_never()
                .is_none()
        );
        let closing = tokio::spawn(async move { sink.close().await });
        tokio::time::sleep(10 * MS).await;
        theirs.close(None).await.unwrap();
        assert!(stream.next().await.unwrap().unwrap().is_close());
        let peer = tokio::spawn(async move { while let Some(Ok(_)) = theirs.next().await {} });
        closing.await.unwrap().unwrap();
        assert!(stream.next().await.is_none());
        peer.await.unwrap();
    }
}

/// Guards rule 14.
#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_no_timeout() {
    for config in [
        TimeoutConfig::builder().jitter(0.0),
        bare().ping_interval(SECOND),
    ] {
        let (read, _kept) = duplex(1024);
        let (write, gone) = duplex(1024);
        drop(gone);
        let mut server = over(
            config.close_timeout(2 * SECOND),
            tokio::io::join(read, write),
        )
        .await;
        let failure = server.recv().await;
        assert!(
            matches!(&failure, Err(Error::Socket(WsError::Io(_)))),
            "{failure:?}"
        );
        assert!(server.recv().await.unwrap().is_none());
    }

    // The half that sends is told why, the other that it is over.
    let (read, _kept) = duplex(1024);
    let (write, gone) = duplex(1024);
    drop(gone);
    let (mut sink, mut stream) = over(
        bare().close_timeout(2 * SECOND),
        tokio::io::join(read, write),
    )
    .await
    .split();
    let start = now();
    assert!(matches!(
        sink.send(Message::text("lost")).await,
        Err(Error::Socket(WsError::Io(_)))
    ));
    assert!(matches!(stream.next().await, Some(Err(Error::Closed))));
    took(start, 2 * SECOND);
    assert!(stream.next().await.is_none());
}

/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn a_peer_may_hang_up_on_our_close() {
    let (transport, mut client) = duplex(1024);
    let mut server = over(bare(), transport).await;
    let client = tokio::spawn(async move { client.read(&mut [0; 64]).await });
    assert_eq!(server.close(1000, "bye").await.unwrap(), None);
    assert!(client.await.unwrap().unwrap() > 0);
}

/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_behind_our_own_close() {
    let (mut server, mut client) = pair(bare(), 1024).await;
    server.feed(Message::Close(None)).await.unwrap();
    assert!(matches!(
        server.send(Message::text("too late")).await,
        Err(Error::Closed)
    ));
    server.flush().await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_close());
}

/// Guards rule 14.
#[tokio::test(start_paused = true)]
async fn a_close_that_was_only_fed_is_sent_by_the_reader() {
    let (server, client) = pair(bare(), 1024).await;
    let client = tokio::spawn(live(client));
    let server = Arc::new(Mutex::new(server));
    let reader = tokio::spawn({
        let server = server.clone();
        async move {
            let next = || poll_fn(|cx| server.lock().unwrap().poll_next_unpin(cx));
            while next().await.is_some() {}
        }
    });
    tokio::time::sleep(SECOND).await;
    let fed = server
        .lock()
        .unwrap()
        .feed(Message::Close(None))
        .now_or_never();
    fed.unwrap().unwrap();
    tokio::time::timeout(SECOND, reader).await.unwrap().unwrap();
    client.await.unwrap();
}

/// A ping takes the place that was promised to a message, and the peer's Close comes before the message
/// can go: whoever flushes is told.
/// Guards rule 10.
#[tokio::test(start_paused = true)]
async fn a_promised_message_is_not_lost_in_silence() {
    let (mut server, mut client) = pair(bare().ping_interval(SECOND), 1024).await;
    poll_fn(|cx| server.poll_ready_unpin(cx)).await.unwrap();
    assert!(
        tokio::time::timeout(1500 * MS, server.recv())
            .await
            .is_err()
    );
    assert_eq!(server.status().pings_sent, 1);
    server.start_send_unpin(Message::text("promised")).unwrap();
    client.close(None).await.unwrap();
    assert!(server.recv().await.unwrap().unwrap().is_close());
    assert!(matches!(server.flush().await, Err(Error::Closed)));
}

/// Guards rules 10 and 16.
#[tokio::test(start_paused = true)]
async fn a_message_keeps_its_place_behind_a_ping_that_took_it() {
    let (mut server, mut client) = pair(bare().ping_interval(SECOND), 1024).await;
    poll_fn(|cx| server.poll_ready_unpin(cx)).await.unwrap();
    assert!(
        tokio::time::timeout(1500 * MS, server.recv())
            .await
            .is_err()
    );
    server.start_send_unpin(Message::text("promised")).unwrap();
    server.send(Message::text("next")).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().is_ping());
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::text("promised")
    );
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("next"));
}

#[tokio::test(start_paused = true)]
async fn a_flush_after_the_end_has_nothing_to_say() {
    let (server, mut client) = pair(bare(), 1024).await;
    let (mut sink, mut stream) = server.split();
    sink.send(Message::text("all is flushed")).await.unwrap();
    client.close(None).await.unwrap();
    while stream.next().await.is_some() {}
    sink.flush().await.unwrap();
    sink.close().await.unwrap();
    assert!(matches!(
        sink.send(Message::text("late")).await,
        Err(Error::Closed)
    ));
}

/// Nothing may be said to have left that has not: not when the reader was the one to meet the failure.
#[tokio::test(start_paused = true)]
async fn a_flush_or_close_after_a_loss_says_so() {
    let (read, _kept) = duplex(1024);
    let (write, gone) = duplex(1024);
    drop(gone);
    let (mut sink, mut stream) = over(bare(), tokio::io::join(read, write)).await.split();
    poll_fn(|cx| sink.poll_ready_unpin(cx)).await.unwrap();
    sink.start_send_unpin(Message::binary(vec![0; 1000]))
        .unwrap();
    let _ = poll_fn(|cx| sink.poll_ready_unpin(cx)).await;
    assert!(stream.next().await.unwrap().is_err());
    assert!(sink.flush().await.is_err());
    assert!(sink.close().await.is_err());

    let (server, client) = pair(bare(), 64).await;
    let (mut sink, mut stream) = server.split();
    assert!(
        sink.send(Message::binary(vec![0; 1000]))
            .now_or_never()
            .is_none()
    );
    drop(client);
    assert!(stream.next().await.unwrap().is_err());
    assert!(sink.close().await.is_err());
}

/// A sink that has room when it is told, and nothing to flush, as channels do.
struct Channel {
    room: Arc<Mutex<Room>>,
    /// Whether there is always one more message to read.
    endless: bool,
}

#[derive(Default)]
struct Room {
    is_there: bool,
    awaited: Option<Waker>,
}

impl Stream for Channel {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.endless {
            Poll::Ready(Some(Ok(Message::text("on and on"))))
        } else {
            Poll::Pending
        }
    }
}

impl Sink<Message> for Channel {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut room = self.room.lock().unwrap();
        if room.is_there {
            return Poll::Ready(Ok(()));
        }
        room.awaited = Some(cx.waker().clone());
        Poll::Pending
    }

    fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), WsError> {
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}

/// Guards rule 6.
#[tokio::test(start_paused = true)]
async fn a_send_that_was_given_up_is_no_write_that_waits() {
    let room = Arc::new(Mutex::new(Room::default()));
    let config = bare().message_timeout(SECOND).build().unwrap();
    let mut socket = wrap(
        config,
        Channel {
            room: room.clone(),
            endless: false,
        },
    );
    assert!(
        tokio::time::timeout(100 * MS, socket.send(Message::text("x")))
            .await
            .is_err()
    );
    let awaited = {
        let mut room = room.lock().unwrap();
        room.is_there = true;
        room.awaited.take()
    };
    awaited.unwrap().wake();
    let end = tokio::time::timeout(10 * SECOND, socket.recv()).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_a_close_overtakes_does_not_hold_up_what_was_written_before() {
    let (transport, mut client) = duplex(64);
    let mut server = over(bare().ping_interval(SECOND), transport).await;
    assert!(
        server
            .send(Message::binary(vec![0; 1000]))
            .now_or_never()
            .is_none()
    );
    poll_fn(|cx| server.poll_ready_unpin(cx)).await.unwrap();
    assert!(
        tokio::time::timeout(1500 * MS, server.recv())
            .await
            .is_err()
    );
    assert_eq!(server.status().pings_sent, 1);
    server.start_send_unpin(Message::text("promised")).unwrap();
    let client = tokio::spawn(async move {
        client.write_all(&frame(8, &[3, 232])).await.unwrap();
        client.shutdown().await.unwrap();
        tokio::time::sleep(100 * MS).await;
        let mut wire = Vec::new();
        client.read_to_end(&mut wire).await.unwrap();
        wire.len()
    });
    tokio::time::sleep(10 * MS).await;
    assert!(server.recv().await.unwrap().unwrap().is_close());
    while server.recv().await.unwrap().is_some() {}
    assert!(matches!(server.flush().await, Err(Error::Closed)));
    assert_eq!(client.await.unwrap(), 1004 + 10 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_close_frame_that_crossed_a_verdict_answers_it() {
    let (ours, mut theirs) = duplex(64);
    let ours =
        WebSocketStream::from_raw_socket(ours, Role::Client, Some(tungstenite_config())).await;
    let config = bare()
        .idle_timeout(SECOND)
        .close_timeout(2 * SECOND)
        .build()
        .unwrap();
    let mut client = wrap(config, ours);
    assert!(
        client
            .send(Message::binary(vec![0; 1000]))
            .now_or_never()
            .is_none()
    );
    let server = tokio::spawn(async move {
        tokio::time::sleep(1100 * MS).await;
        theirs.write_all(&[0x88, 2, 3, 232]).await.unwrap();
        let mut wire = Vec::new();
        theirs.read_to_end(&mut wire).await.unwrap();
    });
    let verdict = timed_out(client.recv().await);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::IdleTimeout, CloseHandshake::Answered)
    );
    server.await.unwrap();
}

/// A clock that moves by a millisecond whenever it is read, of a runtime that never gets its turn.
#[derive(Default)]
struct Hasty {
    millis: AtomicU64,
}

impl ws_timeout::Timer for Hasty {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.fetch_add(1, Ordering::Relaxed))
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, _: Timestamp) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }
}

/// Guards rules 3 and 4.
#[test]
fn a_peer_that_never_pauses_meets_its_lifetime() {
    let config = bare().connection_timeout(SECOND).build().unwrap();
    let room = Arc::new(Mutex::new(Room {
        is_there: true,
        awaited: None,
    }));
    let mut socket = TimeoutSocket::new(
        config,
        Hasty::default(),
        Channel {
            room,
            endless: true,
        },
    );
    let messages = (0..1100).take_while(|_| {
        let message = smol::block_on(socket.next());
        assert!(matches!(message, Some(Ok(_))), "{message:?}");
        socket.status().cause.is_none()
    });
    let messages = messages.count();
    assert!(messages < 1000, "it went on for {messages} messages");
    assert_eq!(socket.status().cause, Some(CloseReason::ConnectionTimeout));
}

/// The reading half meets the end while the other waits on a transport that stays full.
/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_hears_of_the_end() {
    let (transport, mut client) = duplex(64);
    let (mut sink, mut stream) = over(bare(), transport).await.split();
    let writer = tokio::spawn(async move { sink.send(Message::binary(vec![0; 1000])).await });
    tokio::time::sleep(SECOND).await;
    // A client's frame without a mask is a violation of the protocol.
    client.write_all(&[0x82, 0]).await.unwrap();
    assert!(matches!(
        stream.next().await,
        Some(Err(Error::Socket(WsError::Protocol(_))))
    ));
    let told = tokio::time::timeout(SECOND, writer).await.unwrap().unwrap();
    assert!(matches!(told, Err(Error::Closed)), "{told:?}");
}

/// Polls `future` from one firing of the timer to the next. Returns `None` after `within`.
fn run<T>(timer: &ManualTimer, within: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = within;
    loop {
        if let Some(output) = future.as_mut().now_or_never() {
            return Some(output);
        }
        let next = timer.next_fire();
        assert!(next <= Some(DAY), "an alarm more than a day ahead");
        let next = next.unwrap_or(Duration::MAX);
        timer.advance(next.min(left));
        if next > left {
            return None;
        }
        left -= next;
    }
}

/// Guards rule 19.
#[test]
fn a_resume_of_the_machine_is_a_doubt_about_the_link() {
    let limit = |seconds| Some(Duration::from_secs(seconds));
    for (seconds, probe, pong, answer_by) in [
        (6, limit(10), limit(60), limit(10)),
        (6, limit(10), None, limit(10)),
        (6, limit(10), limit(7), limit(7)),
        (6, None, limit(60), None),
        (4, limit(10), limit(60), None),
    ] {
        let (transport, _client) = duplex(1024);
        let transport = WebSocketStream::from_raw_socket(transport, Role::Server, None);
        let timer = ManualTimer::new();
        let config = bare()
            .heartbeat_interval(SECOND)
            .maybe_resume_probe(probe)
            .maybe_pong_timeout(pong);
        let mut server = TimeoutSocket::new(
            config.build().unwrap(),
            timer.clone(),
            transport.now_or_never().unwrap(),
        );
        assert!(run(&timer, 2500 * MS, server.recv()).is_none());
        timer.suspend(Duration::from_secs(seconds));
        let start = timer.now();
        let end = run(&timer, 30 * SECOND, server.recv());
        if let Some(answer_by) = answer_by {
            assert_eq!(timed_out(end.unwrap()).reason, CloseReason::PongTimeout);
            // Half a second to the next poll, and then the limit.
            let took = timer.now().saturating_duration_since(start);
            assert_eq!(took, 500 * MS + answer_by);
        } else {
            assert!(end.is_none(), "asleep for {seconds} s: {end:?}");
        }
    }
}

fn read_clock(timer: &impl ws_timeout::Timer) -> Timestamp {
    timer.timestamp(timer.now())
}

/// Or their sockets would not fire together with timer slack.
#[test]
#[expect(clippy::disallowed_methods, reason = "time has to pass")]
fn timers_of_one_process_share_an_origin() {
    const NAP: Duration = Duration::from_millis(20);
    let first = Timer::new();
    std::thread::sleep(NAP);
    let before = read_clock(&first);
    let others = [
        read_clock(&Timer::new()),
        read_clock(&ws_timeout::runtime::smol::Timer::new()),
    ];
    let after = read_clock(&first);
    for other in others {
        assert!((before..=after).contains(&other), "{other}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "time has to pass")]
fn a_clock_that_was_paused_before_the_first_timer_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    std::thread::sleep(20 * MS);
    let _first = Timer::new();
    runtime.block_on(async {
        let timer = Timer::new();
        let start = read_clock(&timer);
        tokio::time::advance(MS).await;
        assert_eq!(read_clock(&timer).saturating_duration_since(start), MS);
    });
}

/// An alarm is set a day ahead at most, and looked at again.
/// Guards rule 18.
#[test]
fn limits_of_days_are_kept() {
    let timer = ManualTimer::new();
    let since = |start| timer.now().saturating_duration_since(start);

    let (transport, _client) = duplex(1024);
    let transport = WebSocketStream::from_raw_socket(transport, Role::Server, None);
    let transport = transport.now_or_never().unwrap();
    let config = bare().idle_timeout(3 * DAY).build().unwrap();
    let mut server = TimeoutSocket::new(config, timer.clone(), transport);
    let start = timer.now();
    let end = run(&timer, 5 * DAY, server.recv_timeout(2 * DAY)).unwrap();
    assert_eq!(end.unwrap(), Received::TimedOut);
    assert_eq!(since(start), 2 * DAY);
    let end = run(&timer, 5 * DAY, server.recv()).unwrap();
    assert_eq!(timed_out(end).reason, CloseReason::IdleTimeout);
    assert_eq!(since(start), 3 * DAY + 5 * SECOND);

    let config = bare().handshake_timeout(5 * DAY / 2).build().unwrap();
    let start = timer.now();
    let handshake = pending::<Result<Client, WsError>>();
    let opening = TimeoutSocket::open(config, timer.clone(), handshake);
    let opened = run(&timer, 5 * DAY, opening).unwrap();
    assert_eq!(since(start), 5 * DAY / 2);
    assert_eq!(
        timed_out(opened.map(|_| ())).reason,
        CloseReason::HandshakeTimeout
    );
}

#[tokio::test(start_paused = true)]
async fn text_binary_and_json_arrive() {
    let (mut server, mut client) = pair(bare(), 1024).await;
    server.send_text("hello").await.unwrap();
    server.send_text_timeout("again", SECOND).await.unwrap();
    server.send_binary([0, 255]).await.unwrap();
    server.send_binary_timeout(vec![7], SECOND).await.unwrap();
    server.send_json(&["a", "b"]).await.unwrap();
    let value = serde_json::json!({ "n": 1 });
    server.send_json_timeout(&value, SECOND).await.unwrap();
    for expected in [
        Message::text("hello"),
        Message::text("again"),
        Message::binary(vec![0, 255]),
        Message::binary(vec![7]),
        Message::text(r#"["a","b"]"#),
        Message::text(r#"{"n":1}"#),
    ] {
        assert_eq!(client.next().await.unwrap().unwrap(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_form_in_json_is_not_sent_and_costs_nothing() {
    let (mut server, mut client) = pair(bare(), 1024).await;
    let no_keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = server.send_json(&no_keys).await.unwrap_err();
    assert!(matches!(error, Error::Json(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the value cannot be written as JSON: key must be a string"
    );
    server.send_text("still here").await.unwrap();
    let message = client.next().await.unwrap().unwrap();
    assert_eq!(message, Message::text("still here"));
}

/// Guards rule 16.
#[tokio::test(start_paused = true)]
async fn a_send_that_takes_longer_than_its_caller_allows_ends_the_connection() {
    let (mut server, client) = pair(bare().message_timeout(60 * SECOND), 64).await;
    let start = now();
    let sent = server.send_text_timeout("x".repeat(1000), SECOND).await;
    let verdict = timed_out(sent);
    took(start, SECOND);
    assert_eq!(
        (verdict.reason, verdict.close_handshake),
        (CloseReason::MessageTimeout, CloseHandshake::NotSent)
    );
    assert!(verdict.status.write_waits, "{}", verdict.status);
    // What every later call says, until the stream has said it once.
    assert_eq!(
        timed_out(server.send_text("more").await).reason,
        verdict.reason
    );
    assert_eq!(timed_out(server.recv().await).reason, verdict.reason);
    assert_eq!(server.recv().await.unwrap(), None);
    assert!(client.collect::<Vec<_>>().await.last().unwrap().is_err());
}

/// Guards rule 7.
#[tokio::test(start_paused = true)]
async fn a_send_with_a_limit_of_its_own_still_meets_those_of_the_connection() {
    let (mut server, _client) = pair(bare().message_timeout(SECOND), 64).await;
    let start = now();
    timed_out(
        server
            .send_text_timeout("x".repeat(1000), 60 * SECOND)
            .await,
    );
    took(start, SECOND);
}

/// How many bytes a connection on this machine takes before somebody reads.
fn window() -> usize {
    use std::io::Write;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _unread = listener.accept().unwrap();
    tcp.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while let Ok(bytes) = tcp.write(&[0; 4096]) {
        taken += bytes;
    }
    taken
}

/// While this thread is blocked the peer makes room: what the reactor has not seen is not held against it,
/// even where the caller allows no time at all.
#[test]
fn a_blocked_thread_does_not_cost_a_send_with_a_limit_of_its_own() {
    use std::io::Read;

    let size = window() * 5 / 4;
    for within in [200 * MS, Duration::ZERO] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (go, told) = std::sync::mpsc::channel();
        let peer = std::thread::spawn(move || {
            let mut tcp = listener.accept().unwrap().0;
            told.recv().unwrap();
            tcp.read_to_end(&mut Vec::new()).unwrap()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
            let mut server = wrap(bare().build().unwrap(), socket);
            let mut sending = pin!(server.send_text_timeout("x".repeat(size), within));
            assert!(sending.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
            go.send(()).unwrap();
            std::thread::park_timeout(400 * MS);
            sending.await.unwrap();
        });
        assert!(peer.join().unwrap() > size);
    }
}

/// While this thread is blocked a message comes in good time, which the reactor has not seen.
/// Guards rule 2.
#[test]
fn a_blocked_thread_does_not_cost_a_receive_its_message() {
    use std::io::Write;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut peer = listener.accept().unwrap().0;
        let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
        let mut server = wrap(bare().build().unwrap(), socket);
        {
            let mut receiving = pin!(server.recv_timeout(200 * MS));
            assert!(receiving.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
            peer.write_all(&frame(1, b"in time")).unwrap();
            std::thread::park_timeout(400 * MS);
            let received = receiving.await.unwrap();
            assert_eq!(received, Received::Message(Message::text("in time")));
        }
        // What was there before the call is in time, whatever that allows.
        peer.write_all(&frame(1, b"before")).unwrap();
        std::thread::park_timeout(400 * MS);
        let received = server.recv_timeout(Duration::ZERO).await.unwrap();
        assert_eq!(received, Received::Message(Message::text("before")));
        let received = server.recv_timeout(Duration::ZERO).await.unwrap();
        assert_eq!(received, Received::TimedOut);
    });
}

/// Guards rule 20.
#[tokio::test(start_paused = true)]
async fn the_heartbeat_of_the_peer_is_answered_and_its_data_passes() {
    let config = bare()
        .idle_timeout(3 * SECOND)
        .idle_scope(ws_timeout::IdleScope::Messages);
    let (server, mut client) = pair(config, 1024).await;
    let mut server = server.with_heartbeat_replies(|message| {
        (*message == Message::binary(vec![9])).then(|| Message::binary(vec![10]))
    });
    let client = tokio::spawn(async move {
        for _ in 0..2 {
            client.send(Message::binary(vec![9])).await.unwrap();
            let answer = client.next().await.unwrap().unwrap();
            assert_eq!(answer, Message::binary(vec![10]));
            tokio::time::sleep(SECOND).await;
        }
        client.send(Message::text("data")).await.unwrap();
        client.send(Message::binary(vec![9])).await.unwrap();
        client.next().await.unwrap().unwrap();
        // The other dialect is data here.
        client.send(Message::text("ping")).await.unwrap();
        client
    });
    let start = now();
    for expected in ["data", "ping"] {
        let message = server.recv().await.unwrap();
        assert_eq!(message, Some(Message::text(expected)));
    }
    took(start, 2 * SECOND);
    // A heartbeat is a sign of life and no activity, as a Ping frame is.
    let mut client = client.await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(2 * SECOND).await;
        client.send(Message::binary(vec![9])).await.unwrap();
        while client.next().await.is_some() {}
    });
    let verdict = timed_out(server.recv().await);
    took(start, 5 * SECOND);
    assert_eq!(verdict.reason, CloseReason::IdleTimeout);
    // Known when the heartbeat came, and a whole turn of the limit ago.
    let silent = verdict.status.silent;
    assert!(silent >= SECOND && silent <= SECOND + 40 * MS, "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_heartbeats_in_text_is_a_flood() {
    let (server, mut client) = pair(bare().max_ping_rate(20), 1 << 16).await;
    let mut server = server.with_text_heartbeat_replies("ping", "pong");
    let client = tokio::spawn(async move {
        let mut answers = 0;
        while client.send(Message::text("ping")).await.is_ok() {
            answers += u32::from(matches!(client.next().await, Some(Ok(Message::Text(_)))));
        }
        answers
    });
    let verdict = timed_out(server.recv().await);
    assert_eq!(verdict.reason, CloseReason::PingFlood);
    assert!(client.await.unwrap() > 100);
}

#[tokio::test(start_paused = true)]
async fn both_sides_may_ask_in_the_same_words() {
    let config = bare().ping_interval(SECOND).pong_timeout(SECOND);
    let (server, client) = pair(config, 1024).await;
    let client = wrap(config.build().unwrap(), client);
    let both = |socket: Guarded| {
        socket
            .with_text_heartbeat("ping", "pong")
            .with_text_heartbeat_replies("ping", "pong")
    };
    let (mut server, mut client) = (both(server), both(client));
    let client = tokio::spawn(async move {
        let received = client.recv_timeout(10 * SECOND + 500 * MS).await.unwrap();
        assert_eq!(received, Received::TimedOut);
        (client.status(), client.close(1000, "").await)
    });
    assert_eq!(
        server.recv().await.unwrap(),
        Some(Message::Close(Some(tungstenite::protocol::CloseFrame {
            code: 1000.into(),
            reason: "".into()
        })))
    );
    assert_eq!(server.recv().await.unwrap(), None);
    let (status, closed) = client.await.unwrap();
    assert_eq!(closed.unwrap(), Some(1000));
    // Whoever asks first has spoken and been answered: the other need not ask.
    let pings = server.status().pings_sent + status.pings_sent;
    let pongs = server.status().pongs_received + status.pongs_received;
    assert_eq!((pings, pongs), (10, 10));
}

/// An answer that the transport does not take at once leaves when there is room, and is bounded meanwhile.
#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_room_and_is_bounded() {
    for reads in [true, false] {
        let (server, mut client) = pair(bare().message_timeout(SECOND), 64).await;
        let mut server = server.with_text_heartbeat_replies("ping", "pong");
        let large = Message::binary(vec![0; 100]);
        assert!(server.send(large.clone()).now_or_never().is_none());
        client.send(Message::text("ping")).await.unwrap();
        let start = now();
        let reading = tokio::spawn(async move { server.recv().await });
        if reads {
            assert_eq!(client.next().await.unwrap().unwrap(), large);
            let answer = client.next().await.unwrap().unwrap();
            assert_eq!(answer, Message::text("pong"));
            drop(client);
            assert!(matches!(reading.await.unwrap(), Err(Error::Socket(_))));
        } else {
            let verdict = timed_out(reading.await.unwrap());
            took(start, SECOND);
            assert_eq!(verdict.reason, CloseReason::MessageTimeout);
        }
    }
}

/// The futures of the calls can be spawned, whatever is sent: a value is serialized by the call, so its
/// future holds neither the value nor a borrow of it.
#[tokio::test]
async fn the_futures_of_the_calls_are_send_for_every_value() {
    fn is_send<T: Send>(_: T) {}
    let (mut socket, _client) = pair(bare(), 1024).await;
    is_send(socket.recv());
    is_send(socket.recv_timeout(SECOND));
    is_send(socket.send(Message::text("x")));
    is_send(socket.send_timeout(Message::text("x"), SECOND));
    is_send(socket.close(1000, "bye"));
    is_send(socket.send_json(&std::cell::Cell::new(1)));
    let temporary = socket.send_json_timeout(&String::from("temporary"), SECOND);
    is_send(temporary);
}

/// A program's main task, which tokio polls without a worker: it may do 128 operations in a turn, and
/// everything is `Pending` after that until the next one.
/// Guards rule 2.
#[test]
fn a_main_task_that_spends_its_budget_goes_on() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut server = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(_)) = server.next().await {}
        });
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let handshake = tokio_tungstenite::client_async("ws://localhost/", stream);
        let (client, _) = handshake.await.unwrap();
        let mut client = wrap(TimeoutConfig::default(), client);
        for _ in 0..1000 {
            client.send(Message::text("x")).await.unwrap();
        }

        // A handshake that begins with nothing left.
        while tokio::task::coop::has_budget_remaining() {
            poll_fn(|cx| {
                let _ = pin!(tokio::task::coop::consume_budget()).poll(cx);
                Poll::Ready(())
            })
            .await;
        }
        let (transport, _peer) = duplex(64);
        let handshake = tokio_tungstenite::client_async("ws://localhost/", transport);
        let config = bare().handshake_timeout(100 * MS).build().unwrap();
        let opened = open(config, handshake.map_ok(|(socket, _)| socket)).await;
        assert_eq!(timed_out(opened).reason, CloseReason::HandshakeTimeout);
    });
}
