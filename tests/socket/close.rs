//! The closing handshake, begun by either side.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{CloseHandshake, CloseReason, Error, TimeoutConfig};

use crate::exact::wrap;
use crate::support::{MS, SECOND, bare, frame, now, over, pair, read_until_end, timed_out, took};

/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn a_close_that_is_ignored_has_a_deadline_and_keeps_its_cause() {
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
async fn sends_fail_at_once_while_the_close_is_awaited_and_reads_continue() {
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
        (CloseReason::ConnectionTimeout, CloseHandshake::InProgress)
    );
    client
        .send(Message::text("still on its way"))
        .await
        .unwrap();
    read_until_end(client).await;
    let (data, verdict, end) = reader.await.unwrap();
    assert_eq!(data.unwrap().unwrap(), Message::text("still on its way"));
    assert_eq!(
        timed_out(verdict.unwrap()).close_handshake,
        CloseHandshake::Answered
    );
    assert!(end.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_close_by_the_peer_is_a_clean_end() {
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
async fn a_reset_is_an_error_of_the_socket_and_not_a_timeout() {
    let (mut server, client) = pair(TimeoutConfig::builder(), 1024).await;
    drop(client);
    assert!(matches!(server.recv().await, Err(Error::Socket(_))));
    assert!(matches!(server.recv().await, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn our_own_close_is_answered_with_the_code_of_the_peer() {
    let (mut server, client) = pair(bare(), 1024).await;
    let client = tokio::spawn(read_until_end(client));
    assert!(matches!(
        server.close(1005, "").await,
        Err(Error::CloseCode(1005))
    ));
    assert_eq!(server.close(4000, "enough").await.unwrap(), Some(4000));
    assert_eq!(client.await.unwrap(), Some(4000));
    assert_eq!(server.close(1000, "again").await.unwrap(), Some(4000));
}

#[tokio::test(start_paused = true)]
async fn our_own_close_has_a_deadline() {
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
async fn a_close_behind_a_full_buffer_has_a_deadline() {
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

/// tungstenite drops a Close frame permanently if its buffer has no room for it.
/// Guards rules 11 and 14.
#[tokio::test(start_paused = true)]
async fn a_close_frame_is_sent_once_there_is_room_for_it() {
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

/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn pending_writes_are_sent_before_the_reply_to_a_close() {
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
async fn a_peer_that_closes_and_does_not_read_has_a_deadline() {
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
async fn a_close_that_was_not_flushed_is_sent_by_the_reader() {
    let (server, client) = pair(bare(), 1024).await;
    let client = tokio::spawn(read_until_end(client));
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

/// The reading half detects the end while the sending half waits on a transport that stays full.
/// Guards rule 12.
#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_learns_of_the_end() {
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
    let result = tokio::time::timeout(SECOND, writer).await.unwrap().unwrap();
    assert!(matches!(result, Err(Error::Closed)), "{result:?}");
}
