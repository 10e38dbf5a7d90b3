//! What the timer is set for, when it moves, and which tasks it wakes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use ws_timeout::{CloseReason, IdleScope};

use crate::common::off;
use crate::world::{Executor, Guarded, MS, SECOND, Shared, Woken, data, reason, waits};

/// Guards rules 1 and 7.
#[test]
fn a_message_does_not_touch_the_alarm() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(10 * SECOND));
    waits(&mut socket);
    assert_eq!(shared.world().alarms_set, 1);
    for millis in 1..=1000 {
        shared.at(millis * MS);
        shared.world().incoming.push_back(data());
        assert!(socket.next().now_or_never().is_some());
        waits(&mut socket);
    }
    assert_eq!(shared.world().alarms_set, 1);
    // It fires early, and is then set for the deadline, which has moved.
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11 * SECOND));
    shared.at(11 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().cause, Some(CloseReason::IdleTimeout));
}

/// A grace is longer than the limit that it postpones: once it is over, the limit counts from the
/// message.
/// Guards rule 7.
#[test]
fn a_message_in_a_grace_brings_the_alarm_nearer() {
    let shared = Shared::default();
    let config = off().idle_timeout(SECOND).stall_tolerance(3 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(13 * SECOND));
    shared.at(10_500 * MS);
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11_500 * MS));
}

#[test]
fn a_send_in_a_grace_brings_the_alarm_nearer() {
    let shared = Shared::default();
    let config = off().idle_timeout(SECOND).stall_tolerance(3 * SECOND);
    let mut socket = shared.socket(config.idle_scope(IdleScope::Messages));
    waits(&mut socket);
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(13 * SECOND));
    shared.at(10_500 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap();
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11_500 * MS));
}

/// When the late answer comes, the next ping is already due and no alarm is set for it.
#[test]
fn a_late_answer_to_a_ping_makes_the_next_one_due() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    for second in 1..=2 {
        shared.at(second * SECOND);
        waits(&mut socket);
    }
    assert_eq!(shared.world().alarm, Some(11 * SECOND));
    shared.at(3 * SECOND);
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    assert_eq!(socket.status().pings_sent, 2);
    assert_eq!(shared.world().sent.len(), 2);
}

/// The alarm is set once per ping: when the ping is sent, for the deadline that is left after its
/// answer.
/// Guards rule 7.
#[test]
fn the_answer_to_a_ping_does_not_touch_the_alarm() {
    for align in [Duration::ZERO, 125 * MS] {
        let shared = Shared::default();
        let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
        let mut socket = shared
            .socket(config.stall_tolerance(SECOND))
            .with_timer_slack(align);
        waits(&mut socket);
        for second in 1..=10 {
            shared.at(second * SECOND);
            waits(&mut socket);
            let pong = shared.pong();
            shared.at(second * SECOND + 30 * MS);
            shared.world().incoming.push_back(pong);
            waits(&mut socket);
            assert_eq!(socket.status().pongs_received, u64::from(second));
            assert_eq!(shared.world().alarm, Some((second + 1) * SECOND));
            assert_eq!(shared.world().alarms_set, second + 1);
        }
    }
}

/// Sockets that were created at different times, and one that is not aligned.
#[test]
fn aligned_alarms_fire_together_late_and_never_early() {
    let config = off().ping_interval(SECOND).stall_tolerance(SECOND);
    let aligned = |created: Duration, align| {
        let shared = Shared::default();
        shared.world().now = created;
        let mut socket = shared.socket(config).with_timer_slack(align);
        waits(&mut socket);
        let alarm = shared.world().alarm.unwrap();
        shared.at(alarm);
        waits(&mut socket);
        assert_eq!(socket.status().pings_sent, 1);
        alarm
    };
    assert_eq!(aligned(10 * MS, Duration::ZERO), 1010 * MS);
    assert_eq!(aligned(10 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(124 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(125 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(126 * MS, 125 * MS), 1250 * MS);
    // Half of the stall tolerance is the maximum.
    assert_eq!(aligned(10 * MS, 60 * SECOND), 1500 * MS);
}

/// Guards rule 9.
#[test]
fn a_send_that_waits_sets_the_alarm_of_the_reading_task_nearer() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(60 * SECOND).message_timeout(SECOND));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut reader = Context::from_waker(&waker);
    assert!(socket.poll_next_unpin(&mut reader).is_pending());
    assert_eq!(shared.world().alarm, Some(60 * SECOND));

    // The future of the send is dropped here: only the reading task can detect the timeout.
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    assert_eq!(shared.world().alarm, Some(SECOND));
    shared.at(SECOND);
    assert!(
        woken.0.load(Ordering::Relaxed),
        "the reading task sleeps on"
    );
    assert_eq!(
        reason(socket.next().now_or_never()),
        CloseReason::MessageTimeout
    );
}

/// Guards rule 9.
#[test]
fn a_probe_pings_at_once_though_timers_have_slack() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(60 * SECOND)
        .stall_tolerance(10 * SECOND);
    let mut socket = shared.socket(config).with_timer_slack(SECOND);
    let task = Executor::new();
    assert!(socket.poll_next_unpin(&mut task.context()).is_pending());
    shared.at(500 * MS);
    socket.handle().probe(200 * MS).unwrap();
    assert!(task.wakeups.0.load(Ordering::Relaxed) > 0);
    assert!(socket.poll_next_unpin(&mut task.context()).is_pending());
    let asked = socket.status().pings_sent;
    shared.at(SECOND);
    let read = socket.poll_next_unpin(&mut task.context());
    assert_eq!(asked, 1, "not asked, and closed: {read:?}");
}

/// The reader may be another task that shares the socket under a lock.
/// Guards rule 9.
#[test]
fn a_reader_that_waits_is_woken_by_every_call_that_changes_deadlines() {
    let calls: [fn(&mut Guarded); 3] = [
        |socket| socket.set_config(off().idle_timeout(SECOND).build().unwrap()),
        |socket| socket.probe(SECOND),
        |socket| socket.drain(SECOND),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        let reader = Arc::new(Woken::default());
        let waker = Waker::from(reader.clone());
        let cx = &mut Context::from_waker(&waker);
        assert!(socket.poll_next_unpin(cx).is_pending());
        assert_eq!(shared.world().alarm, None);
        call(&mut socket);
        assert!(reader.0.load(Ordering::Relaxed), "{index} wakes no task");
        assert!(socket.poll_next_unpin(cx).is_pending());
        assert!(shared.world().alarm.is_some(), "{index} sets no alarm");
    }
}

/// Guards rule 9.
#[test]
fn a_shorter_slack_moves_the_alarm() {
    let shared = Shared::default();
    let config = off().connection_timeout(1500 * MS);
    let mut socket = shared.socket(config).with_timer_slack(SECOND);
    waits(&mut socket);
    let mut socket = socket.with_timer_slack(Duration::ZERO);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(1500 * MS));
}

/// The thread is blocked between the call and the next pass.
/// Guards rule 25.
#[test]
fn a_probe_counts_from_the_pass_that_sends_its_ping() {
    let shared = Shared::default();
    let config = off().pong_timeout(10 * SECOND).stall_tolerance(SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    socket.probe(500 * MS);
    shared.at(SECOND);
    waits(&mut socket);
    shared.at(1499 * MS);
    waits(&mut socket);
    shared.at(1500 * MS);
    let verdict = reason(socket.next().now_or_never());
    assert_eq!(verdict, CloseReason::PongTimeout);
}
