//! Receives: what arrives, what times out, and what a spent budget must not affect.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::{FutureExt, SinkExt, StreamExt, TryFutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tungstenite::Message;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseReason, PongEvidence, Received, TimeoutConfig};

use crate::exact::wrap;
use crate::support::{MS, SECOND, bare, frame, now, over, pair, timed_out, took};

/// Guards rule 16.
#[tokio::test(start_paused = true)]
async fn a_receive_that_times_out_as_a_message_arrives_does_not_lose_it() {
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

/// tokio returns `Pending` to every read once a task has done much in one turn; the pong is there.
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
    // More than the turns after which everything that had arrived has been noticed.
    for _ in 0..20 {
        client.write_all(&frame(2, &[0; 4088])).await.unwrap();
    }
    client.write_all(&frame(0xA, &ping[2..])).await.unwrap();
    // The task resumes late, to a pong that arrived in time behind data.
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
            assert!(
                read.is_pending(),
                "a healthy peer was disconnected: {read:?}"
            );
            Poll::Ready(())
        })
        .await;
        tokio::time::sleep(2 * MS).await;
    }
    assert!(server.recv().now_or_never().is_none());
    assert_eq!(server.status().pongs_received, 1);
}

/// A message of this size takes more than one turn to read.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_spent_budget_does_not_time_out_a_receive() {
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
async fn a_receive_that_times_out_does_not_affect_the_limits_of_the_connection() {
    let (mut server, _client) = pair(bare().idle_timeout(2 * SECOND), 64).await;
    let start = now();
    let received = server.recv_timeout(SECOND).await.unwrap();
    assert_eq!(received, Received::TimedOut);
    took(start, SECOND);
    let end = tokio::time::timeout(10 * SECOND, server.next()).await;
    let end = end.expect("the verdict comes, and the end of its close");
    assert_eq!(timed_out(end.unwrap()).reason, CloseReason::IdleTimeout);
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

/// A program's main task, which tokio polls without a worker: it may do 128 operations in a turn,
/// and then everything is `Pending` until the next one.
/// Guards rule 2.
#[test]
fn a_main_task_that_spends_its_budget_continues() {
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

        // A handshake that begins with a spent budget.
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
