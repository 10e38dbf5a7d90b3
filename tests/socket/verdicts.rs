//! Which verdict comes, when, and what it contains.

use std::future::pending;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseHandshake, CloseReason, Error, Received, TimeoutConfig};

use crate::support::{
    Client, MS, SECOND, bare, metered, now, pair, read_until_end, timed_out, took,
};

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_disconnected_when_its_pong_is_overdue() {
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
async fn a_live_peer_reaches_its_lifetime_and_no_other_limit() {
    let config = TimeoutConfig::builder().jitter(0.0);
    let (mut server, client) = pair(config, 1024).await;
    let client = tokio::spawn(read_until_end(client));
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
async fn a_receive_returns_a_message_a_timeout_the_end_or_a_verdict() {
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
async fn a_program_that_only_sends_reaches_its_lifetime() {
    let (server, client) = pair(bare().connection_timeout(SECOND), 1024).await;
    let client = tokio::spawn(read_until_end(client));
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
    assert!(verdict.status.write_waiting);
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
async fn the_opening_handshake_has_a_deadline() {
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

/// Uses the default timer slack.
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
    let client = tokio::spawn(read_until_end(client));
    assert!(server.recv().now_or_never().is_none());
    server.drain(10 * SECOND);
    let start = now();
    assert_eq!(timed_out(server.recv().await).reason, CloseReason::Drain);
    assert!(start.elapsed() < 10 * SECOND);
    assert_eq!(client.await.unwrap(), Some(1001));
}

#[tokio::test(start_paused = true)]
async fn a_probe_must_be_answered_in_time() {
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
async fn a_trickling_message_is_aborted() {
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
    // Five seconds at first, and a tenth of a second for each of at most fifteen bytes.
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

/// Each of these is due before the reading half first polls, so no alarm was ever set for it.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_at_the_first_poll_is_decided() {
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

    // The sending half polls first, and leaves silence to the reading half.
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
