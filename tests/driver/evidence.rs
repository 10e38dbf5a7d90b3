//! What the socket must have read before it decides on the peer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tungstenite::Error as WsError;
use ws_timeout::{CloseReason, PongEvidence, TimeoutSocket, Timestamp};

use crate::common::off;
use crate::world::{Hand, MS, SECOND, Shared, Wire, Woken, awaiting_a_pong, data, reason, waits};

/// Guards rule 1.
#[test]
fn arrived_input_counts_however_late_the_poll() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    shared.at(5 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 2.
#[test]
fn a_verdict_needs_an_alarm_at_its_deadline_and_a_read_after_it() {
    for answered in [true, false] {
        let shared = Shared::default();
        // The alarm is set for a poll at second 1.9, and the thread resumes at second five.
        let mut socket = awaiting_a_pong(&shared, off().heartbeat_interval(900 * MS));
        shared.at(5 * SECOND);
        waits(&mut socket);
        let alarm = shared.world().alarm;
        assert!(
            alarm.is_some_and(|alarm| alarm <= 5 * SECOND + MS),
            "{alarm:?}"
        );
        // The reactor turns, and reports the input that was there all along, or none.
        if answered {
            let pong = shared.pong();
            shared.world().incoming.push_back(pong);
        }
        shared.at(5 * SECOND + MS);
        if answered {
            waits(&mut socket);
        } else {
            let read = socket.next().now_or_never();
            assert_eq!(reason(read), CloseReason::PongTimeout);
        }
    }
}

/// Guards rule 2.
#[test]
fn input_found_after_a_fire_is_read_before_deciding() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    shared.at(2 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 2.
#[test]
fn input_found_after_a_fire_between_messages_is_read_before_deciding() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    shared.world().fires_during_read = true;
    // From a different task than the one that the alarm wakes.
    let waker = Waker::from(Arc::new(Woken::default()));
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending(), "{read:?}");
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 2.
#[test]
fn an_alarm_costs_one_read() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    let polls = shared.world().polls;
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pings_sent, 1);
    assert_eq!(shared.world().polls - polls, 1);
}

/// Guards rules 2 and 4.
#[test]
fn between_messages_unread_input_holds_off_a_verdict() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().pong_evidence(PongEvidence::Pong));
    let pong = shared.pong();
    shared.world().incoming.extend([data(), data(), pong]);
    shared.at(5 * SECOND);
    for _ in 0..2 {
        assert_eq!(
            socket.next().now_or_never().unwrap().unwrap().unwrap(),
            data()
        );
    }
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rules 2 and 5.
#[test]
fn the_sending_half_does_not_decide_on_silence() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.world().full = true;
    shared.at(5 * SECOND);
    let sent = socket.send(data()).now_or_never();
    assert!(sent.is_none(), "{sent:?}");
    assert_eq!(
        reason(socket.next().now_or_never()),
        CloseReason::PongTimeout
    );
}

/// The pong has arrived but is unread when the limit becomes shorter.
/// Guards rule 5.
#[test]
fn a_limit_that_becomes_shorter_decides_only_after_a_read() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(SECOND)
        .ping_interval(SECOND)
        .pong_timeout(60 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    for second in 1..=10 {
        shared.at(second * SECOND);
        waits(&mut socket);
    }
    assert_eq!(socket.status().ping_unanswered, Some(9 * SECOND));
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    let shorter = config.pong_timeout(5 * SECOND).build().unwrap();
    socket.set_config(shorter);
    let sent = socket.send(data()).now_or_never();
    assert!(matches!(sent, Some(Ok(()))), "{sent:?}");
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// The timer of a runtime that stops the task when its budget is spent.
struct Stopping {
    hand: Hand,
    stops: Arc<AtomicBool>,
}

impl ws_timeout::Timer for Stopping {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        self.hand.now()
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, at: Timestamp) {
        self.hand.set(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.hand.poll(cx)
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }

    fn has_budget(&self) -> bool {
        !self.stops.load(Ordering::Relaxed)
    }
}

/// Guards rule 2.
#[test]
fn a_spent_budget_does_not_time_out_a_handshake() {
    let shared = Shared::default();
    shared.world().turns = true;
    let stops = Arc::new(AtomicBool::new(true));
    let timer = Stopping {
        hand: Hand(shared.clone()),
        stops: stops.clone(),
    };
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, timer, handshake));
    for late in 0..5 {
        assert!(opening.as_mut().now_or_never().is_none(), "{late}");
        shared.at(SECOND + late * MS);
    }
    stops.store(false, Ordering::Relaxed);
    let opened = opening.now_or_never().map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
}

/// The sending half leaves silence to the reading half, which decides without another fire.
/// Guards rule 5.
#[test]
fn a_fire_that_the_sending_half_has_taken_counts_for_the_reading_half() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 2.
#[test]
fn a_read_that_the_runtime_has_stopped_is_repeated() {
    let shared = Shared::default();
    shared.world().turns = true;
    let stops = Arc::new(AtomicBool::new(false));
    let timer = Stopping {
        hand: Hand(shared.clone()),
        stops: stops.clone(),
    };
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let mut socket = TimeoutSocket::new(config.build().unwrap(), timer, Wire(shared.clone()));
    for second in 0..2 {
        shared.at(second * SECOND);
        assert!(socket.next().now_or_never().is_none());
    }
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    stops.store(true, Ordering::Relaxed);
    assert!(socket.next().now_or_never().is_none());
    stops.store(false, Ordering::Relaxed);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// The policy records them later, in the order in which they happened.
/// Guards rules 1 and 2.
#[test]
fn the_status_includes_deferred_messages() {
    for sent_first in [true, false] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().idle_timeout(60 * SECOND));
        waits(&mut socket);
        for (now, sends) in [(SECOND, sent_first), (5 * SECOND, !sent_first)] {
            shared.at(now);
            if sends {
                socket.send(data()).now_or_never().unwrap().unwrap();
            } else {
                shared.world().incoming.push_back(data());
                assert!(socket.next().now_or_never().is_some());
            }
        }
        shared.at(6 * SECOND);
        let (sent, received) = match sent_first {
            true => (5 * SECOND, SECOND),
            false => (SECOND, 5 * SECOND),
        };
        for _ in 0..2 {
            let status = socket.status();
            assert_eq!(status.since_flush, sent);
            assert_eq!(status.silent, received);
            // This makes the policy record them.
            socket.probe(60 * SECOND);
        }
    }
}
