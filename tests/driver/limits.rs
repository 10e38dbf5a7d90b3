//! The lifetime of a connection, the limits of single calls, and the probe after a suspension.

use std::pin::pin;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tungstenite::Message;
use ws_timeout::{CloseReason, DeadlineKind, Error, Received, Timestamp};

use crate::common::off;
use crate::world::{MS, SECOND, Shared, awaiting_a_pong, data, reason, waits};

/// Guards rule 19.
#[test]
fn input_from_before_a_resume_proves_nothing_about_the_link() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(60 * SECOND)
        .pong_timeout(60 * SECOND)
        .resume_probe(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().incoming.extend([data(), data()]);
    shared.world().suspended += 3600 * SECOND;
    shared.at(60 * SECOND);
    for _ in 0..2 {
        assert!(socket.next().now_or_never().is_some());
    }
    waits(&mut socket);
    let now = shared.world().now;
    shared.at(now + 10 * SECOND);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 17.
#[test]
fn a_message_is_read_only_when_requested() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.world().incoming.extend((0..10).map(|_| data()));
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    for read in 1..=10 {
        assert!(socket.next().now_or_never().is_some());
        socket.send(data()).now_or_never().unwrap().unwrap();
        assert_eq!(shared.world().reads, read);
    }
}

/// Guards rule 16.
#[test]
fn a_receive_does_not_time_out_behind_heartbeats_with_a_message_unread() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off())
        .with_text_heartbeat_replies("ping", "pong");
    let mut received = pin!(socket.recv_timeout(SECOND));
    assert!(received.as_mut().now_or_never().is_none());
    let words = std::iter::repeat_n(Message::text("ping"), 64);
    shared.world().incoming.extend(words.chain([data()]));
    shared.at(SECOND);
    assert!(received.as_mut().now_or_never().is_none());
    let message = received.now_or_never().unwrap().unwrap();
    assert_eq!(message, Received::Message(data()));
}

#[test]
fn a_program_that_only_sends_reaches_its_lifetime_though_the_alarm_fires_as_it_is_set() {
    let shared = Shared::default();
    let config = off()
        .connection_timeout(SECOND)
        .heartbeat_interval(999 * MS);
    let mut socket = shared.socket(config);
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().held_up = 2 * MS;
    shared.at(999 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.at(2 * SECOND);
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 4.
#[test]
fn a_program_that_only_sends_reaches_its_lifetime() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    for now in [0, 500, 999] {
        shared.at(now * MS);
        socket.send(data()).now_or_never().unwrap().unwrap();
    }
    shared.at(SECOND);
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

#[test]
fn a_send_timeout_is_the_cause_in_the_status_and_in_the_error() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    shared.world().full = true;
    {
        let mut send = pin!(socket.send_text_timeout("x", SECOND));
        assert!(send.as_mut().now_or_never().is_none());
        shared.at(SECOND);
        assert!(matches!(send.now_or_never(), Some(Err(Error::Verdict(_)))));
    }
    let cause = socket.status().cause;
    assert_eq!(cause, Some(CloseReason::MessageTimeout));
}

/// Guards rule 4.
#[test]
fn a_program_that_never_flushes_reaches_its_lifetime() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    for now in [0, 500, 999] {
        shared.at(now * MS);
        socket.feed(data()).now_or_never().unwrap().unwrap();
    }
    shared.at(SECOND);
    let fed = socket.feed(data()).now_or_never();
    assert_eq!(reason(fed.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 16.
#[test]
fn the_limit_of_a_call_starts_at_the_call() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(60 * SECOND));
    waits(&mut socket);
    {
        let mut receive = pin!(socket.recv_timeout(SECOND));
        shared.at(5 * SECOND);
        assert!(receive.as_mut().now_or_never().is_none());
        shared.at(5 * SECOND + 10 * MS);
        let received = receive.now_or_never().unwrap().unwrap();
        assert_eq!(received, Received::TimedOut);
    }
    shared.world().full = true;
    let mut send = pin!(socket.send_text_timeout("x", SECOND));
    shared.at(10 * SECOND);
    assert!(send.as_mut().now_or_never().is_none());
    shared.at(10 * SECOND + 10 * MS);
    let sent = send.now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::MessageTimeout);
}

/// Guards rules 3 and 4.
#[test]
fn a_program_that_only_sends_reaches_its_lifetime_though_the_alarm_never_fires() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().turns = false;
    shared.at(SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 19.
#[test]
fn a_resume_allows_no_longer_than_the_pong_timeout() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(SECOND)
        .pong_timeout(7 * SECOND)
        .resume_probe(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().suspended += 3600 * SECOND;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    let probe = (DeadlineKind::Probe, Timestamp::from_secs(8));
    assert!(status.deadlines.iter().any(|row| row == probe), "{status}");
}

/// If one turn of the reactor is not enough, the fire that shows a resume moves no horizon.
/// Guards rules 4 and 19.
#[test]
fn a_resume_is_detected_though_there_is_something_to_read() {
    for turns_needed in [1, 3] {
        let shared = Shared::default();
        shared.world().turns_needed = turns_needed;
        let config = off().heartbeat_interval(SECOND).resume_probe(10 * SECOND);
        let mut socket = shared.socket(config);
        waits(&mut socket);
        shared.world().suspended += 3600 * SECOND;
        shared.world().incoming.push_back(data());
        shared.at(SECOND);
        assert!(socket.next().now_or_never().is_some());
        waits(&mut socket);
        assert_eq!(socket.status().pings_sent, 1, "{turns_needed}");
    }
}

/// Guards rules 16 and 24.
#[test]
fn the_limit_of_a_receive_holds_while_nothing_is_read() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(600 * SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 2100]);
    shared.world().full = true;
    for _ in 0..5000 {
        let _ = socket.next().now_or_never();
    }
    let alarms = shared.world().alarms_set;
    let mut call = pin!(socket.recv_timeout(SECOND));
    for millis in 0..=1000 {
        shared.at(millis * MS);
        if let Some(done) = call.as_mut().now_or_never() {
            assert_eq!((millis, done.unwrap()), (1000, Received::TimedOut));
            assert!(shared.world().alarms_set - alarms <= 3);
            return;
        }
    }
    panic!("the receive did not time out");
}
