//! Pings and pongs as frames and as messages.

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::{Error as WsError, Message};
use ws_timeout::{CloseReason, Error, PongEvidence, Received, TimeoutSocket};

use crate::exact::wrap;
use crate::support::{
    Guarded, MS, SECOND, bare, frame, metered, now, pair, read_until_end, timed_out, took,
};

#[tokio::test(start_paused = true)]
async fn pongs_to_our_pings_are_filtered_out_and_all_else_passes() {
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
    let client = tokio::spawn(read_until_end(client));
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
async fn a_text_heartbeat_is_answered_in_text() {
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

/// Both sides of GraphQL over WebSocket: a payload may come with each message, and is returned with
/// a pong.
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
async fn a_heartbeat_longer_than_a_frame_is_not_an_incomplete_message() {
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
    // A heartbeat is a sign of life but not activity, like a Ping frame.
    let mut client = client.await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(2 * SECOND).await;
        client.send(Message::binary(vec![9])).await.unwrap();
        while client.next().await.is_some() {}
    });
    let verdict = timed_out(server.recv().await);
    took(start, 5 * SECOND);
    assert_eq!(verdict.reason, CloseReason::IdleTimeout);
    // The last heartbeat was received about a second before the verdict.
    let silent = verdict.status.silent;
    assert!(silent >= SECOND && silent <= SECOND + 40 * MS, "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_text_heartbeats_is_a_ping_flood() {
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
async fn both_sides_may_use_the_same_words() {
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
    // The side that pings first has sent and received: the other need not ping.
    let pings = server.status().pings_sent + status.pings_sent;
    let pongs = server.status().pongs_received + status.pongs_received;
    assert_eq!((pings, pongs), (10, 10));
}

/// A reply that the transport does not accept at once is sent when there is room, and its wait is
/// limited.
#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_room_and_has_a_deadline() {
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
