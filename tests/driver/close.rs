//! How a connection ends: the Close frame, the closing handshake, and what happens to the
//! transport.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use futures_util::future::FusedFuture;
use futures_util::stream::FusedStream;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tungstenite::{Error as WsError, Message};
use ws_timeout::{CloseHandshake, CloseReason, Error, TimeoutSocket};

use crate::common::off;
use crate::world::{
    Hand, MS, SECOND, Shared, Wire, Woken, awaiting_a_pong, data, leaves_when_there_is_room,
    read_on, reads_one_of_a_stream, reason, replying, waits,
};

/// Guards rule 14.
#[test]
fn a_close_is_sent_though_the_peer_never_pauses() {
    assert!(leaves_when_there_is_room(off().connection_timeout(SECOND)).is_close());

    // A Close frame of the program, which did not flush it.
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    socket.start_send_unpin(Message::Close(None)).unwrap();
    reads_one_of_a_stream(&shared, &mut socket);
    assert!(shared.world().sent[0].is_close());
}

/// Guards rule 13.
#[test]
fn an_abort_sends_its_reason_if_it_can_and_drops_the_transport_of_held_halves() {
    for full in [false, true] {
        let shared = Shared::default();
        let (sink, mut stream) = awaiting_a_pong(&shared, off()).split();
        shared.world().full = full;
        shared.at(2 * SECOND);
        let Some(Some(Err(Error::Verdict(verdict)))) = stream.next().now_or_never() else {
            panic!("no verdict");
        };
        let outcome = if full {
            CloseHandshake::NotSent
        } else {
            CloseHandshake::Sent
        };
        assert_eq!(
            (verdict.reason, verdict.close_handshake),
            (CloseReason::PongTimeout, outcome)
        );
        let world = shared.world();
        assert!(world.dropped);
        assert_eq!(world.sent.iter().any(Message::is_close), !full);
        drop(world);
        drop((sink, stream));
    }
}

/// With unread input the kernel sends a reset, which can overtake the Close frame.
/// Guards rule 13.
#[test]
fn unread_input_is_read_before_the_transport_is_dropped() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().max_ping_rate(1));
    let flood = (0..100).map(|_| Message::Ping("x".into()));
    shared.world().incoming.extend(flood);
    let end = loop {
        match read_on(&mut socket) {
            Some(Some(Ok(_))) => {}
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::PingFlood);
    let world = shared.world();
    assert!(world.sent.iter().any(Message::is_close));
    assert!(world.reads < 100 || world.unread == 0);
    assert_eq!((world.dropped, world.unread), (true, 0));
}

/// Guards rule 15.
#[test]
fn a_client_waits_for_its_server_to_hang_up_and_then_ends_cleanly() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().close_timeout(2 * SECOND));
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(
        socket
            .next()
            .now_or_never()
            .unwrap()
            .unwrap()
            .unwrap()
            .is_close()
    );
    waits(&mut socket);
    shared.at(2 * SECOND - MS);
    waits(&mut socket);
    assert!(!shared.world().dropped);
    shared.at(2 * SECOND);
    let end = socket.next().now_or_never();
    assert!(matches!(end, Some(None)), "{end:?}");
    assert!(shared.world().dropped);
}

/// "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455,
/// 5.5.1), and the answer to the peer's is one.
/// Guards rule 15.
#[test]
fn nothing_is_sent_once_the_peer_has_closed() {
    for our_own_waits in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        waits(&mut socket);
        let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
        ready.unwrap().unwrap();
        if our_own_waits {
            shared.world().full = true;
            socket.feed(data()).now_or_never().unwrap().unwrap();
            let closing = SinkExt::close(&mut socket).now_or_never();
            assert!(closing.is_none());
        }
        shared.world().incoming.push_back(Message::Close(None));
        assert!(socket.next().now_or_never().is_some());
        shared.world().full = false;
        assert!(matches!(
            socket.start_send_unpin(data()),
            Err(Error::Closed)
        ));
        let sent = socket.send(data()).now_or_never();
        assert!(matches!(sent, Some(Err(Error::Closed))), "{sent:?}");
        SinkExt::close(&mut socket).now_or_never().unwrap().unwrap();
        assert_eq!(shared.world().sent.len(), usize::from(our_own_waits));
        assert!(shared.world().held.is_empty());
    }
}

/// Guards rule 15.
#[test]
fn a_message_that_the_close_of_the_peer_overtakes_does_not_follow_it() {
    for verdict in [false, true] {
        let shared = Shared::default();
        let config = off()
            .ping_interval(SECOND)
            .idle_timeout(2 * SECOND)
            .close_timeout(2 * SECOND);
        let mut socket = shared.socket(config);
        waits(&mut socket);
        let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
        ready.unwrap().unwrap();
        shared.at(SECOND);
        waits(&mut socket);
        // The ping has taken the reserved room.
        shared.world().no_place = true;
        socket.start_send_unpin(data()).unwrap();
        if verdict {
            shared.at(2 * SECOND);
            waits(&mut socket);
        }
        shared.world().incoming.push_back(Message::Close(None));
        assert_eq!(socket.next().now_or_never().is_none(), verdict);
        shared.world().no_place = false;
        match socket.flush().now_or_never() {
            Some(Err(Error::Closed)) if !verdict => {
                socket.flush().now_or_never().unwrap().unwrap();
            }
            Some(Err(Error::Verdict(_))) if verdict => {}
            other => panic!("{other:?}"),
        }
        waits(&mut socket);
        let world = shared.world();
        assert!(world.held.is_empty());
        assert_eq!(world.sent.len(), 1);
        assert!(world.sent[0].is_ping());
    }
}

/// Guards rule 15.
#[test]
fn a_writer_that_waits_for_room_learns_that_the_peer_has_closed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().full = true;
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    writer.0.store(false, Ordering::Relaxed);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(socket.next().now_or_never().is_some());
    assert!(writer.0.load(Ordering::Relaxed));
    let outcome = socket.poll_ready_unpin(cx);
    assert!(
        matches!(outcome, Poll::Ready(Err(Error::Closed))),
        "{outcome:?}"
    );
}

/// The wake-up for it may have gone to the task that polled before.
#[test]
fn the_stream_ends_once_a_second_try_has_sent_the_reply_to_a_close() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    {
        let mut world = shared.world();
        world.incoming.push_back(Message::Close(None));
        world.held.push(Message::Close(None));
        world.ended = true;
        world.full = true;
    }
    assert!(socket.next().now_or_never().is_some());
    shared.world().room_without_wake = true;
    let end = socket.next().now_or_never();
    assert!(matches!(end, Some(None)), "{end:?}");
    assert_eq!(shared.world().sent.len(), 1);
}

/// Guards rule 12.
#[test]
fn a_stream_is_terminated_once_it_has_returned_none() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.at(3 * SECOND);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
    assert!(!socket.is_terminated());
    assert!(socket.next().now_or_never().unwrap().is_none());
    assert!(socket.is_terminated());
}

/// The failure begins the time for the peer's last messages, which the reading half has to end.
/// Guards rule 12.
#[test]
fn a_reader_that_waits_learns_that_a_write_has_failed() {
    for flush in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().close_timeout(2 * SECOND));
        let reader = Arc::new(Woken::default());
        let waker = Waker::from(reader.clone());
        let cx = &mut Context::from_waker(&waker);
        assert!(socket.poll_next_unpin(cx).is_pending());
        if flush {
            socket.feed(data()).now_or_never().unwrap().unwrap();
        }
        shared.world().broken = true;
        let sent = if flush {
            socket.flush().now_or_never()
        } else {
            socket.feed(data()).now_or_never()
        };
        assert!(matches!(sent, Some(Err(Error::Socket(_)))), "{sent:?}");
        assert!(reader.0.load(Ordering::Relaxed), "the reader sleeps on");
        assert!(socket.poll_next_unpin(cx).is_pending());
        shared.at(2 * SECOND);
        let read = socket.next().now_or_never();
        assert!(matches!(read, Some(Some(Err(Error::Closed)))), "{read:?}");
    }
}

/// Guards rule 12.
#[test]
fn a_writer_that_waits_for_room_learns_that_the_policy_closes() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(SECOND));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().full = true;
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    // The alarm wakes the sending half first, which leaves silence to the reading half.
    shared.at(SECOND);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    writer.0.store(false, Ordering::Relaxed);
    waits(&mut socket);
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
    let result = socket.poll_ready_unpin(cx);
    assert!(
        matches!(result, Poll::Ready(Err(Error::Verdict(_)))),
        "{result:?}"
    );
}

/// Guards rule 14.
#[test]
fn a_close_frame_waits_until_the_buffer_is_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    shared.world().full = true;
    socket.feed(data()).now_or_never().unwrap().unwrap();
    // The sink promises room for a message, but has none for a Close frame.
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    let close = SinkExt::close(&mut socket).now_or_never();
    assert!(close.is_none(), "{close:?}");
    assert_eq!(shared.world().held, [data()]);
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data(), Message::Close(None)]);
}

/// Guards rule 15.
#[test]
fn no_heartbeat_follows_a_close_frame() {
    // A ping that the sink refuses waits, and a Close frame leaves: ours, then the reply to the
    // peer's.
    for peer_closes in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().ping_interval(SECOND));
        waits(&mut socket);
        shared.world().refuses_pings = true;
        shared.at(SECOND);
        waits(&mut socket);
        if peer_closes {
            shared.world().incoming.push_back(Message::Close(None));
            assert!(socket.next().now_or_never().is_some());
        } else {
            SinkExt::close(&mut socket).now_or_never().unwrap().unwrap();
        }
        shared.world().refuses_pings = false;
        waits(&mut socket);
        let _ = socket.flush().now_or_never();
        let sent = shared.world().sent.clone();
        assert!(!sent.iter().any(Message::is_ping), "{sent:?}");
    }

    // The peer's heartbeat arrives after our Close frame was sent.
    let shared = Shared::default();
    let mut socket = shared
        .socket(off().connection_timeout(SECOND))
        .with_text_heartbeat_replies("ping", "pong");
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    shared.world().incoming.push_back(Message::text("ping"));
    waits(&mut socket);
    let world = shared.world();
    assert_eq!(world.sent.len(), 1, "{:?}", world.sent);
    assert!(world.sent[0].is_close());
}

/// Guards rule 15.
#[test]
fn no_reply_follows_the_close_of_the_peer() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(socket.next().now_or_never().is_some());
    shared.world().no_place = false;
    waits(&mut socket);
    let _ = socket.flush().now_or_never();
    assert_eq!(shared.world().sent, []);
}

/// Guards rule 13.
#[test]
fn a_handshake_that_times_out_drops_its_transport() {
    let shared = Shared::default();
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let wire = Wire(shared.clone());
    let handshake = async move {
        std::future::pending::<()>().await;
        Ok::<Wire, WsError>(wire)
    };
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    shared.at(SECOND);
    let opened = opening.as_mut().now_or_never();
    let opened = opened.map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
    assert!(shared.world().dropped && opening.is_terminated());
}

/// The peer's Close frame arrived in time, behind data that is read one message per pass.
/// Guards rule 2.
#[test]
fn an_answer_to_our_close_counts_though_data_is_read_before_it() {
    let shared = Shared::default();
    let config = off().close_timeout(SECOND).stall_tolerance(SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    let sent = socket.send(Message::Close(None)).now_or_never();
    sent.unwrap().unwrap();
    waits(&mut socket);
    shared.world().incoming = [data(), data(), Message::Close(None)].into();
    shared.world().ended = true;
    shared.at(1200 * MS);
    for expected in [data(), data(), Message::Close(None)] {
        let read = socket.next().now_or_never().unwrap().unwrap();
        assert_eq!(read.unwrap(), expected);
    }
    assert!(socket.next().now_or_never().unwrap().is_none());
}

/// A peer that does not answer our Close frame, and sends so much that every read finds something.
/// Guards rules 2 and 14.
#[test]
fn a_close_has_a_deadline_though_the_peer_never_pauses() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().close_timeout(SECOND));
    waits(&mut socket);
    let sent = socket.send(Message::Close(None)).now_or_never();
    sent.unwrap().unwrap();
    waits(&mut socket);
    shared.at(SECOND);
    let large = Message::binary(vec![0; 1 << 20]);
    let mut reads = 0;
    let verdict = loop {
        shared.world().incoming.push_back(large.clone());
        match read_on(&mut socket) {
            Some(Some(Ok(_))) => reads += 1,
            other => break reason(other),
        }
        assert!(reads < 40, "no verdict after {reads} MiB");
    };
    assert_eq!(verdict, CloseReason::CloseTimeout);
    assert!(reads >= 32, "a verdict after {reads} MiB");
}
