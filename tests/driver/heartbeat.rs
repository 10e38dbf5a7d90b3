//! Messages that serve as Ping and Pong frames.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use futures_util::{FutureExt, StreamExt};
use tungstenite::Message;

use crate::common::off;
use crate::world::{
    MS, SECOND, Shared, Woken, data, numbered, reads_one_of_a_stream, replying, waits,
};

/// Guards rule 11.
#[test]
fn the_reply_to_a_heartbeat_is_sent_before_data_is_returned() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off().idle_timeout(10 * SECOND))
        .with_text_heartbeat_replies("ping", "pong");
    waits(&mut socket);
    let ping = Message::text("ping");
    shared.world().incoming.extend([ping, data()]);
    assert_eq!(
        socket.next().now_or_never().unwrap().unwrap().unwrap(),
        data()
    );
    assert_eq!(shared.world().sent, [Message::text("pong")]);
}

/// A peer that repeats a word of the heartbeat must not occupy the task forever.
/// Guards rule 20.
#[test]
fn a_poll_takes_a_bounded_number_of_heartbeats() {
    for word in ["ping", "pong"] {
        let shared = Shared::default();
        let socket = shared.socket(off()).with_text_heartbeat("ping", "pong");
        let mut socket = socket.with_text_heartbeat_replies("ping", "pong");
        let words = (0..10_000).map(|_| Message::text(word));
        shared.world().incoming.extend(words);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut polls = 0;
        loop {
            polls += 1;
            let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
            assert!(read.is_pending());
            if !woken.0.swap(false, Ordering::Relaxed) {
                break;
            }
        }
        assert_eq!(shared.world().reads, 10_000, "it sleeps before all is read");
        assert!(polls > 100, "{polls} polls");
    }
}

/// Guards rule 20.
#[test]
fn a_message_that_is_both_ping_and_pong_is_a_ping_unless_a_pong_is_awaited() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let socket = shared.socket(config).with_text_heartbeat("hb", "hb");
    let mut socket = socket.with_text_heartbeat_replies("hb", "hb");
    shared.world().incoming.push_back(Message::text("hb"));
    waits(&mut socket);
    let sent = shared.world().sent.clone();
    assert_eq!(sent, [Message::text("hb")]);
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pings_sent, 1);
    shared.world().incoming.push_back(Message::text("hb"));
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
    assert_eq!(shared.world().sent.len(), 2);
}

/// Guards rule 20.
#[test]
fn a_pong_answers_the_ping_that_it_names() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = numbered(shared.socket(config));
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    // A message counts as the first pong, which arrives after the second ping.
    reads_one_of_a_stream(&shared, &mut socket);
    waits(&mut socket);
    shared.at(2 * SECOND);
    waits(&mut socket);
    let pings = ["ping 1", "ping 2"].map(Message::text);
    assert_eq!(shared.world().sent, pings);
    for (pong, received) in [("pong 1", 0), ("pong 2", 1), ("pong 2", 1), ("pong 9", 1)] {
        shared.at(2 * SECOND + 10 * MS);
        shared.world().incoming.push_back(Message::text(pong));
        waits(&mut socket);
        assert_eq!(socket.status().pongs_received, received, "{pong}");
    }
    let rtt = socket.status().rtt.map(|rtt| rtt.latest);
    assert_eq!(rtt, Some(10 * MS));
}

/// Guards rule 20.
#[test]
fn a_pong_before_the_first_ping_answers_nothing() {
    let shared = Shared::default();
    let (seen, sees) = std::sync::mpsc::channel();
    let mut socket = shared.socket(off()).with_heartbeat(
        |_| Message::text("ping"),
        move |_, latest| {
            seen.send(latest).ok()?;
            Some(latest)
        },
    );
    shared.world().incoming.push_back(Message::text("pong"));
    waits(&mut socket);
    let latest = sees.try_recv();
    assert_eq!((latest, socket.status().pongs_received), (Ok(0), 0));
}

/// Guards rule 20.
#[test]
fn a_ping_that_was_refused_keeps_its_number() {
    let shared = Shared::default();
    let mut socket = numbered(shared.socket(off().ping_interval(SECOND)));
    waits(&mut socket);
    shared.world().refuses = Some(Message::text("ping 1"));
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().sent, []);
    shared.world().refuses = None;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("ping 1")]);
    assert_eq!(socket.status().pings_sent, 1);
}

/// Guards rule 20.
#[test]
fn the_latest_of_several_pings_gets_a_reply_once_there_is_room() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off().message_timeout(SECOND)));
    waits(&mut socket);
    shared.world().no_place = true;
    let pings = (1..=3).map(|number| Message::text(format!("ping {number}")));
    shared.world().incoming.extend(pings);
    waits(&mut socket);
    assert!(socket.status().write_waiting);
    shared.world().no_place = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 3")]);
    assert!(!socket.status().write_waiting);
}

/// Guards rules 11 and 20.
#[test]
fn a_reply_that_a_full_buffer_refused_is_sent_after_the_flush() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    {
        let mut world = shared.world();
        world.full = true;
        world.refuses = Some(Message::text("pong 1"));
        world.incoming.push_back(Message::text("ping 1"));
    }
    waits(&mut socket);
    // Makes room, for the reply too.
    shared.world().full = false;
    shared.world().refuses = None;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 1")]);
}
