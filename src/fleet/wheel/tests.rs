//! Which timers of a wheel fire when, and how many entries it holds.

use core::time::Duration;
use std::collections::BTreeSet;

use super::*;
use crate::config::TimeoutConfig;
use crate::event::{Action, Event};
use crate::fleet::Fleet;
use crate::random::{Random, for_each_case};

/// Asserts that the wheel holds few entries for the connections of a fleet.
#[track_caller]
fn assert_few_entries(fleet: &Fleet<&TimeoutConfig>) {
    let wheel = &fleet.wheel;
    let in_buckets: usize = wheel.buckets.iter().map(Vec::len).sum();
    let entries = in_buckets + wheel.current.len() + wheel.near.len();
    assert!(entries <= 2 * (fleet.len() + 1) + SPARE_ENTRIES);
}

/// Each write moves the deadline nearer and leaves a stale entry behind, which would stay for
/// half a minute.
#[test]
fn stale_entries_are_removed() {
    let config = TimeoutConfig::DEFAULT;
    let mut fleet = Fleet::new();
    let keys: Vec<_> = (0..100)
        .map(|seed| fleet.insert(&config, seed, Timestamp::ZERO))
        .collect();
    let mut pings = 0;
    for millis in (0..60_000).step_by(20) {
        let now = Timestamp::from_millis(millis);
        for &key in &keys {
            fleet.observe(key, now, Event::SendStart);
            fleet.observe(key, now, Event::SendOk);
        }
        while let Some((key, action)) = fleet.poll(now) {
            if let Action::SendPing(ping) = action {
                pings += 1;
                fleet.observe(key, now, Event::PingSent(ping));
                fleet.observe(key, now, Event::Pong(Some(ping)));
            }
        }
        assert_few_entries(&fleet);
    }
    // Every 22.5 to 25 seconds.
    assert_eq!(pings, 2 * keys.len());
}

#[test]
fn entries_of_removed_connections_are_removed() {
    let config = TimeoutConfig::DEFAULT;
    let mut fleet = Fleet::new();
    for seed in 0..100_000 {
        let key = fleet.insert(&config, seed, Timestamp::ZERO);
        fleet.remove(key);
        assert_few_entries(&fleet);
    }
}

#[test]
fn far_timers_do_not_fire_all_at_once() {
    const CONNECTIONS: usize = 10_000;
    let hour = Duration::from_secs(60 * 60);
    let config = TimeoutConfig::builder()
        .no_ping_interval()
        .no_connection_timeout()
        .idle_timeout(hour)
        .build()
        .unwrap();
    let mut fleet = Fleet::new();
    for seed in 0..CONNECTIONS as u64 {
        fleet.insert(&config, seed, Timestamp::ZERO);
    }
    let mut polls = 0;
    loop {
        let most = fleet.wheel.buckets.iter().map(Vec::len).max().unwrap_or(0);
        let fair = CONNECTIONS.div_ceil(FAR_BUCKETS as usize);
        assert!(most <= 8 * fair, "{most} in one bucket");
        let now = fleet.next_deadline().unwrap();
        if now.saturating_duration_since(Timestamp::ZERO) > hour / 2 {
            break;
        }
        assert_eq!(fleet.poll(now), None);
        polls += 1;
    }
    assert!(polls > FAR_BUCKETS);
}

#[derive(Clone, Copy, Debug)]
enum Call {
    /// Sets the timer of a slot to fire this many nanoseconds from now.
    Set(u32, i64),
    Cancel(u32),
    /// Polls this many nanoseconds from now. With a second value, the first slot that fires is made
    /// to fire again, and after the poll slot 0 is set to that many nanoseconds from then.
    Poll(i64, Option<i64>),
    Compact,
}

fn call(random: &mut Random) -> Call {
    match random.below(14) {
        0..6 => Call::Set(random.below(8), length(random)),
        6 => Call::Cancel(random.below(8)),
        7 => Call::Compact,
        _ => {
            let after = length(random);
            let is_set_again = random.percent(50);
            Call::Poll(after, is_set_again.then(|| length(random)))
        }
    }
}

/// Nanoseconds from now.
fn length(random: &mut Random) -> i64 {
    const TICK: i64 = 1 << TICK_BITS;
    match random.below(12) {
        0..3 => random.within(0..100),
        3..6 => random.within(0..3 * TICK),
        6 => random.within(-TICK..0),
        7..9 => random.within(0..40_000_000_000),
        9 => random.within(0..100 * 40_000_000_000),
        // Whole ticks, near the reach of the wheel too.
        _ => {
            let ticks = random.one_of(&[(0, 3), (764, 770), (1020, 1030)]);
            random.within(ticks.0..ticks.1) * TICK + random.within(-20..20)
        }
    }
}

/// Sets a timer, and returns when it fires.
fn set(wheel: &mut Wheel, slot: u32, at: Timestamp) -> Option<Timestamp> {
    wheel.set(slot, at);
    Some(fires_at(wheel.tick, slot, at))
}

fn after(now: Timestamp, nanos: i64) -> Timestamp {
    Timestamp::from_nanos(now.as_nanos().saturating_add_signed(nanos))
}

/// Returns when a timer that is set to `at` fires, in a wheel at `tick`: at that instant, or at the
/// first or last one that the wheel reaches.
fn fires_at(tick: u64, slot: u32, at: Timestamp) -> Timestamp {
    const TICK: u64 = 1 << 25;
    let reach = (tick + 1023) * TICK;
    match at.as_nanos() {
        nanos if nanos < reach => Timestamp::from_nanos(nanos.max(tick * TICK)),
        _ => Timestamp::from_nanos(reach - u64::from(slot) % 256 * TICK),
    }
}

#[test]
fn timers_fire_when_they_are_set_to() {
    for_each_case(2000, |random| {
        let mut wheel = Wheel::new();
        let mut timers = [None; 8];
        for slot in 0..8 {
            wheel.make_room(slot);
        }
        let mut now = Timestamp::from_secs(3);
        for _ in 0..=random.below(59) {
            match call(random) {
                Call::Set(slot, nanos) => {
                    let at = fires_at(wheel.tick, slot, after(now, nanos));
                    let earlier = timers[slot as usize].is_none_or(|timer| at < timer);
                    assert_eq!(wheel.would_fire_earlier(slot, after(now, nanos)), earlier);
                    timers[slot as usize] = set(&mut wheel, slot, after(now, nanos));
                }
                Call::Cancel(slot) => {
                    wheel.cancel(slot);
                    timers[slot as usize] = None;
                }
                Call::Compact => {
                    wheel.compact();
                    let is_set = timers.iter().any(Option::is_some);
                    assert_eq!(wheel.next_deadline().is_some(), is_set);
                }
                Call::Poll(nanos, again) => {
                    let nanos = nanos.max(0);
                    now = after(now, nanos);
                    let mut due: BTreeSet<u32> = (0..8)
                        .filter(|&slot| timers[slot as usize].is_some_and(|at| at <= now))
                        .collect();
                    let mut first = again.is_some();
                    while let Some(slot) = wheel.pop(now) {
                        assert!(due.remove(&slot), "{} fires", slot);
                        if first {
                            first = false;
                            wheel.set_first(slot, now);
                            assert!(!wheel.would_fire_earlier(slot, now));
                            let other = (slot + 1) % 8;
                            timers[other as usize] = set(&mut wheel, other, after(now, nanos + 1));
                            due.remove(&other);
                            // A wheel that lags behind may not reach as far.
                            due.extend(
                                timers[other as usize]
                                    .filter(|&at| at <= now)
                                    .map(|_| other),
                            );
                            assert!(wheel.is_first(slot) && !wheel.is_first(other));
                            assert_eq!(wheel.pop(now), Some(slot));
                            assert!(!wheel.is_first(slot));
                            // A timer that is set again no longer fires first.
                            wheel.set_first(slot, now);
                            timers[slot as usize] = set(&mut wheel, slot, after(now, nanos + 2));
                            assert!(!wheel.is_first(slot));
                            due.extend(timers[slot as usize].filter(|&at| at <= now).map(|_| slot));
                            continue;
                        }
                        wheel.cancel(slot);
                        timers[slot as usize] = None;
                    }
                    assert!(due.is_empty(), "{:?} do not fire", due);
                    let next = timers.iter().flatten().min();
                    let deadline = wheel.next_deadline();
                    assert!(next.is_none_or(|&at| deadline.is_some_and(|deadline| deadline <= at)));
                    assert!(deadline.is_none_or(|deadline| deadline > now));
                    if let Some(nanos) = again {
                        timers[0] = set(&mut wheel, 0, after(now, nanos));
                    }
                }
            }
        }
    });
}
