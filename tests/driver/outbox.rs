//! The write path: what is flushed, in which order, and what is tried again.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tungstenite::Message;
use ws_timeout::{CloseReason, Error, IdleScope, Metered, Phase};

use crate::common::off;
use crate::world::{
    Guarded, MS, SECOND, Shared, data, leaves_when_there_is_room, reads_one_of_a_stream, reason,
    replying, waits,
};

/// Guards rule 6.
#[test]
fn pending_writes_are_flushed_before_deciding() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    waits(&mut socket);
    shared.world().full = false;
    shared.at(5 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rule 6.
#[test]
fn the_sending_half_tries_again_when_the_alarm_has_fired() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().full = true;
    {
        let mut sending = pin!(socket.send(data()));
        assert!(sending.as_mut().now_or_never().is_none());
        shared.world().unseen_room = true;
        shared.at(SECOND);
        sending.now_or_never().unwrap().unwrap();
    }
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rule 11.
#[test]
fn a_ping_counts_from_its_flush_though_the_process_was_suspended_before_it() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .idle_timeout(3 * SECOND)
        .stall_tolerance(SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    // The limit on silence expires in the meantime, by less than the tolerance.
    shared.world().suspended_before_flush = 2500 * MS;
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().silent, SECOND);
    shared.at(5400 * MS);
    waits(&mut socket);
    assert_eq!(socket.status().phase, Phase::Open);
    shared.at(5500 * MS);
    waits(&mut socket);
    assert_eq!(socket.status().cause, Some(CloseReason::IdleTimeout));
}

/// Guards rule 11.
#[test]
fn a_write_counts_from_its_flush_though_the_process_was_suspended_before_it() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND).stall_tolerance(SECOND));
    waits(&mut socket);
    shared.world().full = true;
    shared.world().suspended_before_flush = 1500 * MS;
    assert!(socket.send(data()).now_or_never().is_none());
    shared.at(1500 * MS);
    waits(&mut socket);
    shared.at(2499 * MS);
    waits(&mut socket);
    shared.at(2500 * MS);
    assert_eq!(
        reason(socket.next().now_or_never()),
        CloseReason::MessageTimeout
    );
}

/// Guards rule 11.
#[test]
fn a_write_counts_as_sent_once_it_is_flushed() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let mut socket = shared.socket(config.message_timeout(60 * SECOND));
    shared.world().full = true;
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    // The ping is in a buffer: the wait for its pong begins at the flush.
    assert_eq!(shared.world().held.len(), 1);
    shared.at(4 * SECOND);
    assert!(socket.send(data()).now_or_never().is_none());
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.ping_unsent, status.ping_unanswered),
        (Some(3 * SECOND), None)
    );
    assert_eq!(status.since_flush, 4 * SECOND);
    shared.world().full = false;
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.ping_unsent, status.ping_unanswered),
        (None, Some(Duration::ZERO))
    );
    assert_eq!(status.since_flush, Duration::ZERO);
}

/// Guards rule 11.
#[test]
fn the_reply_to_a_ping_is_flushed_and_is_not_activity() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(SECOND);
    {
        let mut world = shared.world();
        world.incoming.push_back(Message::Ping("hello".into()));
        // As tungstenite does when it reads the ping.
        world.held.push(Message::Pong("hello".into()));
    }
    assert!(socket.next().now_or_never().is_some());
    // The program may take a long time to handle the message.
    assert_eq!(shared.world().sent, [Message::Pong("hello".into())]);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.since_flush, status.since_data),
        (Duration::ZERO, SECOND)
    );
}

/// Guards rules 4, 6 and 11.
#[test]
fn a_write_that_waited_for_room_is_sent_though_the_peer_never_pauses() {
    assert!(leaves_when_there_is_room(off().ping_interval(SECOND)).is_ping());

    // The reply to the peer's ping.
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(10 * SECOND));
    waits(&mut socket);
    let (ping, pong) = (Message::Ping("x".into()), Message::Pong("x".into()));
    shared.world().full = true;
    shared.world().incoming.push_back(ping);
    shared.world().held.push(pong.clone());
    assert!(socket.next().now_or_never().is_some());
    reads_one_of_a_stream(&shared, &mut socket);
    assert_eq!(shared.world().sent, []);
    shared.world().full = false;
    reads_one_of_a_stream(&shared, &mut socket);
    assert_eq!(shared.world().sent, [pong]);
}

/// Guards rule 11.
#[test]
fn a_refused_ping_does_not_count_as_sent() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    // It was accepted, and is answered before its flush is complete.
    let Message::Ping(payload) = shared.world().held[0].clone() else {
        panic!()
    };
    shared.world().incoming.push_back(Message::Pong(payload));
    waits(&mut socket);
    shared.world().refuses_pings = true;
    socket.probe(100 * SECOND);
    waits(&mut socket);
    shared.world().full = false;
    shared.at(SECOND + MS);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(shared.world().sent.len(), 1, "{status}");
    assert_eq!(status.ping_unanswered, None, "{status}");
    assert!(status.ping_unsent.is_some(), "{status}");
}

/// Guards rule 10.
#[test]
fn a_displaced_message_that_is_refused_fails_the_flush() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.at(SECOND);
    waits(&mut socket);
    // The ping has taken the reserved room.
    shared.world().refuses = Some(data());
    socket.start_send_unpin(data()).unwrap();
    waits(&mut socket);
    let result = socket.flush().now_or_never();
    assert!(matches!(result, Some(Err(Error::Socket(_)))), "{result:?}");
    let sent = socket.send(Message::text("next")).now_or_never();
    assert!(matches!(sent, Some(Ok(()))), "{sent:?}");
}

/// Guards rule 11.
#[test]
fn the_bytes_of_a_sent_message_are_not_progress_of_the_next() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::sink());
    let config = off().ping_interval(SECOND).message_timeout(60 * SECOND);
    let mut socket = shared.socket(config).with_meter(io.meter());
    waits(&mut socket);
    io.write_all(b"data").now_or_never().unwrap().unwrap();
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(status.ping_unsent, Some(Duration::ZERO));
    assert_eq!(status.since_data, SECOND);
}

/// A program may reserve room and send later. The reply must not wait for that.
/// Guards rule 10.
#[test]
fn a_message_keeps_its_place_behind_a_reply_that_took_it() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 1")]);
    socket.start_send_unpin(data()).unwrap();
    socket.flush().now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [Message::text("pong 1"), data()]);
}

/// Guards rule 11.
#[test]
fn a_message_does_not_overtake_a_reply() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    shared.world().no_place = false;
    socket.send(data()).now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [Message::text("pong 1"), data()]);
}

/// Guards rule 11.
#[test]
fn an_answer_that_is_refused_does_not_hold_up_our_own_ping() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).message_timeout(SECOND);
    let mut socket = shared
        .socket(config)
        .with_text_heartbeat_replies("ping", "pong");
    shared.world().refuses = Some(Message::text("pong"));
    shared.world().incoming.push_back(Message::text("ping"));
    waits(&mut socket);
    shared.at(2 * SECOND);
    waits(&mut socket);
    assert!(shared.world().sent.iter().any(Message::is_ping));
    shared.at(4 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().cause, None);
}

/// Guards rule 10.
#[test]
fn a_second_start_send_without_poll_ready_is_refused_and_the_first_message_leaves() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    socket.start_send_unpin(Message::text("one")).unwrap();
    let second = socket.start_send_unpin(Message::text("two"));
    assert!(matches!(second, Err(Error::NotReady)), "{second:?}");
    socket.flush().now_or_never().unwrap().unwrap();
    socket
        .send(Message::text("three"))
        .now_or_never()
        .unwrap()
        .unwrap();
    let sent = [Message::text("one"), Message::text("three")];
    assert_eq!(shared.world().sent, sent);
}

/// Guards rule 6.
#[test]
fn a_send_goes_through_while_the_ping_is_refused() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .message_timeout(SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().refuses_pings = true;
    shared.at(SECOND);
    waits(&mut socket);
    socket.send(data()).now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rule 11.
#[test]
fn a_message_that_the_inner_sink_refused_is_not_activity() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().refuses = Some(data());
    shared.at(SECOND);
    let sent = socket.send(data()).now_or_never();
    assert!(matches!(sent, Some(Err(Error::Socket(_)))), "{sent:?}");
    waits(&mut socket);
    assert_eq!(socket.status().since_data, SECOND);
}

/// Guards rule 10.
#[test]
fn a_promise_of_room_is_kept_though_the_policy_is_polled_first() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    let config = off().build().unwrap();
    socket.set_config(config);
    // The transport only asks for room again once it has accepted a message.
    shared.world().no_place = true;
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    assert!(matches!(ready, Some(Ok(()))), "{ready:?}");
}

/// Each message has its own write clock, even if the program never flushes.
/// Guards rule 6.
#[test]
fn a_program_that_never_flushes_has_a_write_clock_for_each_wait() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let room = |there: bool| {
        let mut world = shared.world();
        world.full = !there;
        world.no_place = !there;
    };
    let feed = |socket: &mut Guarded| socket.feed(data()).now_or_never();
    assert!(feed(&mut socket).unwrap().is_ok());
    room(false);
    assert!(feed(&mut socket).is_none());
    shared.at(900 * MS);
    room(true);
    assert!(feed(&mut socket).unwrap().is_ok());
    room(false);
    assert!(feed(&mut socket).is_none());
    shared.at(SECOND + 899 * MS);
    assert!(feed(&mut socket).is_none());
    shared.at(SECOND + 900 * MS);
    let fed = feed(&mut socket);
    assert_eq!(reason(fed.map(Some)), CloseReason::MessageTimeout);
}

/// Guards rules 6 and 11.
#[test]
fn the_bytes_of_a_message_sent_after_a_wait_are_not_progress_of_the_next() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::sink());
    let config = off().ping_interval(SECOND).message_timeout(60 * SECOND);
    let mut socket = shared.socket(config).with_meter(io.meter());
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    io.write_all(b"data").now_or_never().unwrap().unwrap();
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(status.ping_unsent, Some(Duration::ZERO));
    assert_eq!(status.since_data, SECOND);
}

/// Guards rule 6.
#[test]
fn a_dropped_send_does_not_fail_a_flush_once_there_is_room() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().no_place = true;
    assert!(socket.feed(data()).now_or_never().is_none());
    shared.world().no_place = false;
    shared.at(SECOND);
    let flushed = socket.flush().now_or_never();
    assert!(matches!(flushed, Some(Ok(()))), "{flushed:?}");
    assert!(!socket.status().write_waiting);
}

#[test]
fn a_flush_of_nothing_is_not_activity() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(SECOND);
    socket.flush().now_or_never().unwrap().unwrap();
    assert_eq!(socket.status().since_data, SECOND);
}

/// Guards rule 10.
#[test]
fn a_displaced_message_that_is_refused_fails_the_next_send_though_the_peer_has_answered_since() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(60 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.at(SECOND);
    waits(&mut socket);
    // The ping has taken the reserved room.
    shared.world().refuses = Some(data());
    socket.start_send_unpin(data()).unwrap();
    waits(&mut socket);
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    let result = socket.send(Message::text("next")).now_or_never();
    assert!(matches!(result, Some(Err(Error::Socket(_)))), "{result:?}");
}
