//! Sends: what waits, what fails, and what is dropped.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{CloseHandshake, CloseReason, Error, Metered, TimeoutConfig};

use crate::exact::wrap;
use crate::support::{Channel, MS, Room, SECOND, bare, now, over, pair, timed_out, took};

#[tokio::test(start_paused = true)]
async fn a_ping_does_not_displace_the_waker_of_a_blocked_writer() {
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

#[tokio::test(start_paused = true)]
async fn a_large_write_does_not_time_out_while_its_bytes_move() {
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

/// `forward` flushes whenever it is polled: a flush that wakes its own task would loop forever.
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
async fn many_messages_under_backpressure_do_not_time_out_while_they_move() {
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

/// Guards rule 14.
#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_not_a_timeout() {
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

    // The sending half returns the reason, and the reading half ends.
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

/// A ping takes the room that was reserved for a message, and the peer's Close arrives before the
/// message can be sent: the next flush reports that.
/// Guards rule 10.
#[tokio::test(start_paused = true)]
async fn a_displaced_message_is_not_lost_silently() {
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
async fn a_flush_after_a_clean_end_succeeds() {
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

/// A lost write must not be reported as sent, even if the reader was the half that detected the
/// failure.
#[tokio::test(start_paused = true)]
async fn a_flush_or_close_after_a_loss_fails() {
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

/// Guards rule 6.
#[tokio::test(start_paused = true)]
async fn a_dropped_send_is_not_a_waiting_write() {
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
async fn a_value_that_json_cannot_express_is_not_sent_and_harms_nothing() {
    let (mut server, mut client) = pair(bare(), 1024).await;
    let no_keys = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = server.send_json(&no_keys).await.unwrap_err();
    assert!(matches!(error, Error::Json(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the value cannot be serialized as JSON: key must be a string"
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
    assert!(verdict.status.write_waiting, "{}", verdict.status);
    // The error of every later call, until the stream has returned it once.
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
async fn a_send_with_its_own_limit_still_obeys_those_of_the_connection() {
    let (mut server, _client) = pair(bare().message_timeout(SECOND), 64).await;
    let start = now();
    timed_out(
        server
            .send_text_timeout("x".repeat(1000), 60 * SECOND)
            .await,
    );
    took(start, SECOND);
}

/// The futures of the calls can be spawned, whatever is sent: the call serializes the value, so its
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
