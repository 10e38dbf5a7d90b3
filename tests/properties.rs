//! The policy does what the reference and the oracle do, and each claim of `docs/SPEC.md` holds.
//!
//! To make ten million random calls, which takes less than a minute on two cores:
//!
//! ```sh
//! ORACLE_STEPS=10000000 cargo test --release --test properties policy_equals_oracle -- --nocapture
//! ```
//!
//! The cases are the same in each run. `ORACLE_TIMES=100` in its place gives each property a
//! hundred times as many random ones.
//!
//! Claim C1 has its own test binary, `no_alloc`, because it counts allocations.

mod common;
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod oracle;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::off;
use oracle::case::{Call, Case, HEADER, Recipe, RelativeEvent, STEP, What, When, latest, make};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use ws_timeout::{
    Action, CloseReason, DeadlineKind, Event, IdleScope, Phase, PingId, PongEvidence,
    TimeoutConfig, TimeoutPolicy, Timestamp,
};

#[test]
fn policy_equals_oracle() {
    match std::env::var("ORACLE_STEPS") {
        Ok(calls) => random_calls(calls.parse().expect("ORACLE_STEPS is a number")),
        Err(_) => for_all(256, any_case(), |case| {
            case.agrees();
        }),
    }
}

/// Makes this many random calls, on all cores.
fn random_calls(wanted: u64) {
    let calls = AtomicU64::new(0);
    let cases = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while calls.load(Ordering::Relaxed) < wanted {
                    let case = cases.fetch_add(1, Ordering::Relaxed);
                    let made = Case::decode(&random_bytes(case)).agrees();
                    calls.fetch_add(made as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let (calls, cases) = (calls.into_inner(), cases.into_inner());
    println!("policy, reference and oracle agreed on {calls} calls in {cases} cases");
}

/// Returns the bytes of the case with this number.
fn random_bytes(number: u64) -> Vec<u8> {
    let mut dice = Dice::new(number);
    (0..HEADER + 400 * STEP)
        .map(|_| dice.below(256) as u8)
        .collect()
}

/// SPEC C2.
#[test]
fn c2_one_close_then_the_same_abort_forever() {
    let order = |phase| match phase {
        Phase::Opening => 0,
        Phase::Open => 1,
        Phase::Closing => 2,
        _ => 3,
    };
    for_all(256, any_case(), |case| {
        let mut closes = 0;
        let mut aborted = None;
        case.play(|before, _, _, action, after| {
            assert!(order(before.phase()) <= order(after.phase()));
            if order(before.phase()) == 3 {
                assert_eq!(before.phase(), after.phase());
            }
            match action {
                Some(Action::Close(_)) => closes += 1,
                Some(Action::Abort(reason)) => {
                    assert_eq!(*aborted.get_or_insert(reason), reason);
                    assert_eq!(after.phase(), Phase::Aborted(reason));
                }
                Some(action) => assert_eq!(aborted, None, "{action:?} after an abort"),
                None => {}
            }
            assert!(closes <= 1);
        });
    });
}

/// SPEC C3.
#[test]
fn c3_something_is_decided_at_until_and_nothing_before() {
    for_all(256, any_case(), |case| {
        case.play(|_, _, call, action, after| {
            let Some(Action::Idle { until }) = action else {
                return;
            };
            let now = latest(after);
            let at = |instant| poll_again(&mut after.clone(), instant, call);
            let is_idle = |action| matches!(action, Action::Idle { .. });
            let Some(until) = until else {
                assert!(
                    is_idle(at(Timestamp::MAX)),
                    "nothing ever comes after `None`"
                );
                return;
            };
            assert!(until > now);
            assert!(is_idle(at(Timestamp::from_nanos(until.as_nanos() - 1))));
            let heartbeat = after.config().heartbeat_interval();
            if after.phase() == Phase::Open
                && heartbeat == Some(until.saturating_duration_since(now))
            {
                return;
            }
            let mut then = after.clone();
            let decided = !is_idle(poll_again(&mut then, until, call));
            let grace = then.status(until).grace_left;
            assert!(decided || grace.is_some() && grace == then.config().stall_tolerance());
        });
    });
}

/// SPEC C4.
#[test]
fn c4_a_repeated_poll_changes_nothing() {
    for_all(256, any_case(), |case| {
        case.play(|_, now, call, action, after| {
            if let Some(idle @ Action::Idle { .. }) = action {
                let mut again = after.clone();
                assert_eq!(poll_again(&mut again, now, call), idle);
                assert_eq!(&again, after);
            }
        });
    });
}

/// SPEC C5.
#[test]
fn c5_polls_with_nothing_due_change_nothing() {
    for_all(256, (any_case(), any::<u64>()), |(case, seed)| {
        let mut dice = Dice::new(seed);
        let mut plain = case.policy();
        let mut polled = case.policy();
        let mut last = latest(&plain);
        for (now, call) in case.trace() {
            let now = now.max(last);
            for _ in 0..dice.below(3) {
                let ahead = now.as_nanos() - last.as_nanos();
                let at = Timestamp::from_nanos(last.as_nanos() + dice.up_to(ahead));
                if polled.next_deadline().is_none_or(|due| due > at) {
                    let call =
                        dice.one_of(&[Call::Poll, Call::PollUnread, Call::Observe(Event::Tick)]);
                    make(&mut polled, at, call);
                }
            }
            assert_eq!(make(&mut polled, now, call), make(&mut plain, now, call));
            last = now;
        }
    });
}

/// SPEC C6.
#[test]
fn c6_pings_are_rare_and_single() {
    for_all(
        256,
        calls_but(|what| is_set_config(what) || is_probe(what)),
        |case| {
            let config = case.recipes[0].config();
            let mut asked = Vec::new();
            let mut out = None;
            case.play(|before, _, call, action, after| {
                if let (Some(event), Phase::Open) = (event_of(call), before.phase()) {
                    let answer = match config.pong_evidence() {
                        PongEvidence::Any => is_heard(event, before),
                        _ => false,
                    };
                    out = match (out, event) {
                        (Some((id, _)), Event::Pong(Some(pong))) if pong == id => None,
                        (Some((id, _)), Event::PingSent(sent)) if sent == id => {
                            config.pong_timeout().map(|_| (id, true))
                        }
                        (Some((_, true)), _) if answer => None,
                        (out, _) => out,
                    };
                }
                if let Some(Action::SendPing(id)) = action {
                    assert_eq!(out, None, "a second ping goes out");
                    out = Some((id, false));
                    asked.push(latest(after));
                }
            });
            let interval = config.ping_interval().map_or(0, nanos);
            let shortest = interval - (interval as f64 * config.jitter()).ceil() as u128;
            for (from, &first) in asked.iter().enumerate() {
                for (more, last) in asked[from..].iter().enumerate() {
                    assert!(
                        more as u128 * shortest <= last.saturating_duration_since(first).as_nanos()
                    );
                }
            }
        },
    );
}

/// SPEC C7.
#[test]
fn c7_a_peer_that_answers_is_never_aborted() {
    /// The latest ping, from when a poll requested it.
    #[derive(Clone, Copy)]
    struct Latest {
        id: PingId,
        /// The last instant at which the peer may answer; `None` until the ping is flushed.
        answer_by: Option<Timestamp>,
        answered: bool,
    }

    let unfit = |what: What| is_set_config(what) || is_probe(what) || what.is_deadly();
    for_all(512, (calls_but(unfit), any::<u64>()), |(mut case, seed)| {
        // Calls that avoid the verdicts of this policy would avoid a wrong one too.
        case.careful = false;
        let config = case.recipes[0].config();
        let (evidence, timeout) = (config.pong_evidence(), config.pong_timeout());
        let ping = std::cell::Cell::new(None::<Latest>);
        let now = std::cell::Cell::new(Timestamp::ZERO);
        let mut dice = Dice::new(seed);
        let mut write_ends = None;
        let answer = |next: Timestamp| {
            if let Some(event) = write_ends.take() {
                return Some((now.get(), Call::Observe(event)));
            }
            let Latest {
                id,
                answer_by,
                answered,
            } = ping.get()?;
            let answer_by = answer_by.filter(|&by| !answered && by <= next)?;
            let time_left = answer_by.saturating_duration_since(now.get()).as_nanos() as u64;
            let when = Timestamp::from_nanos(now.get().as_nanos() + dice.all_or_less(time_left));
            // A write that has to wait, and is then sent, gives the peer more time.
            if dice.below(2) == 0 {
                write_ends = Some(dice.one_of(&[Event::SendOk, Event::Flushed]));
                return Some((when, Call::Observe(Event::SendStart)));
            }
            let event = match evidence {
                PongEvidence::Pong => Event::Pong(Some(id)),
                _ => dice.one_of(&[Event::Recv, Event::Ping, Event::Pong(None)]),
            };
            Some((when, Call::Observe(event)))
        };
        case.play_with(answer, |before, _, call, action, after| {
            now.set(latest(after));
            if let (Some(event), Some(mut latest)) = (event_of(call), ping.get()) {
                let fits = match (event, evidence) {
                    (Event::Pong(id), PongEvidence::Pong) => id == Some(latest.id),
                    (_, PongEvidence::Pong) => false,
                    (event, _) => {
                        is_heard(event, before) && latest.answer_by.is_some()
                            || event == Event::Pong(Some(latest.id))
                    }
                };
                latest.answered |= fits;
                let by = timeout.and_then(|timeout| now.get().checked_add(timeout));
                if event == Event::PingSent(latest.id) && !latest.answered {
                    latest.answer_by = latest.answer_by.or(by);
                }
                // The ping counts as flushed now (SPEC E-34).
                if latest.answer_by.is_some() && restarts_ping_in_flight(event, before) {
                    latest.answer_by = by;
                }
                ping.set(Some(latest));
            }
            match action {
                Some(Action::SendPing(id)) => {
                    ping.set(Some(Latest {
                        id,
                        answer_by: None,
                        answered: false,
                    }));
                }
                Some(Action::Abort(reason)) => assert_ne!(reason, CloseReason::PongTimeout),
                _ => {}
            }
        });
    });
}

/// SPEC C8; the bound counts from where SPEC S-25 says.
#[test]
fn c8_a_silent_peer_is_detected_in_time() {
    for_all(512, (tame_config(), any::<u64>()), |(config, seed)| {
        let Some(bound) = config.detection_bound() else {
            return;
        };
        let tolerance = config.stall_tolerance().unwrap_or_default();
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        for _ in 0..dice.below(40) {
            driver.step_with_peer(&mut dice);
        }
        if driver.policy.phase() != Phase::Open {
            return;
        }
        let slow = tolerance + Duration::from_nanos(1);
        driver.slowness = dice.below(2) * slow.as_nanos() as u64;
        let mut open = Patience::new(driver.now, bound + 2 * tolerance);
        let mut closing: Option<Patience> = None;
        while !driver.is_over() {
            let before = driver.policy.clone();
            let (event, late) = driver.step_alone(&mut dice);
            let waits = before.status(Timestamp::ZERO).ping_unsent.is_some();
            if waits && is_progress(event) || restarts_ping_in_flight(event, &before) {
                open = Patience::new(driver.now, bound + 2 * tolerance);
            }
            match driver.policy.phase() {
                Phase::Open => open.still_waits(driver.now, late),
                phase => match &mut closing {
                    Some(closing) if phase == Phase::Closing => {
                        closing.still_waits(driver.now, late);
                    }
                    Some(closing) => closing.ends(driver.now, late),
                    None => {
                        open.ends(driver.now, late);
                        let bound = config.close_timeout() + tolerance;
                        closing = Some(Patience::new(driver.now, bound));
                    }
                },
            }
        }
    });
}

/// How long something may take, without the lateness of polls.
struct Patience {
    since: Timestamp,
    bound: Duration,
    late: Duration,
}

impl Patience {
    fn new(since: Timestamp, bound: Duration) -> Self {
        Self {
            since,
            bound,
            late: Duration::ZERO,
        }
    }

    /// The event has not come by `now`, so its time must not be over.
    fn still_waits(&mut self, now: Timestamp, late: Duration) {
        self.late += late;
        assert!(now.saturating_duration_since(self.since) < self.bound + self.late);
    }

    fn ends(&mut self, now: Timestamp, late: Duration) {
        self.late += late;
        assert!(now.saturating_duration_since(self.since) <= self.bound + self.late);
    }
}

/// SPEC C9, for sends that complete at once and those that wait.
#[test]
fn c9_sends_that_are_flushed_at_once_delay_no_verdict() {
    use DeadlineKind as Kind;
    let sends = [
        Event::SendProgress { bytes: 1 },
        Event::SendOk,
        Event::Flushed,
    ];
    for_all(256, calls_but(is_set_config), |case| {
        case.play(|_, _, _, _, policy| {
            let before = policy.status(Timestamp::ZERO);
            let config = policy.config();
            if before.phase != Phase::Open || config.idle_scope() != IdleScope::Inbound {
                return;
            }
            let now = before.at;
            let anew = |limit: Option<Duration>| limit.and_then(|limit| now.checked_add(limit));
            for (send, has_to_wait) in sends
                .into_iter()
                .flat_map(|send| [(send, false), (send, true)])
            {
                let mut then = policy.clone();
                if has_to_wait {
                    then.observe(now, Event::SendStart);
                }
                let restarts = restarts_ping_in_flight(send, &then);
                then.observe(now, send);
                let after = then.status(now).deadlines;
                if before.ping_unsent.is_some() || restarts {
                    assert_eq!(after.get(Kind::Idle), anew(config.idle_timeout()));
                } else {
                    for kind in [Kind::Idle, Kind::Pong, Kind::Probe] {
                        assert_eq!(after.get(kind), before.deadlines.get(kind), "{kind}");
                    }
                }
                if restarts {
                    assert_eq!(after.get(Kind::Pong), anew(config.pong_timeout()));
                }
            }
        });
    });
}

/// The same, from the first silence to the verdict.
#[test]
fn c9_a_busy_sender_detects_a_silent_peer_no_later() {
    for_all(256, (tame_config(), any::<u64>()), |(config, seed)| {
        let config = config
            .to_builder()
            .idle_scope(IdleScope::Inbound)
            .build()
            .expect("sound");
        let ping = config.ping_interval().zip(config.pong_timeout());
        let bound = config
            .idle_timeout()
            .into_iter()
            .chain(ping.map(|(ping, pong)| ping + pong));
        let Some(bound) = bound.min() else {
            return;
        };
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        let silent_since = driver.now;
        while driver.policy.phase() == Phase::Open {
            driver.handle(driver.now, dice.one_of(&[Event::SendOk, Event::Flushed]));
            driver.flush();
            let until = driver.until.expect("a verdict is to come");
            let ahead = until.saturating_duration_since(driver.now).as_nanos() as u64;
            let next = driver.now.as_nanos() + 1 + dice.up_to(ahead - 1);
            driver.handle(Timestamp::from_nanos(next), Event::Tick);
            driver.flush();
            let waited = driver.now.saturating_duration_since(silent_since);
            let over = driver.policy.phase() != Phase::Open;
            assert!(waited < bound || over && waited == bound);
        }
    });
}

/// SPEC C9, for a transport that accepts too few bytes: while a ping waits behind the write, and
/// while one is in flight.
#[test]
fn c9_a_transport_that_takes_too_few_bytes_is_ended() {
    let cases = (2_u32..100_000, 10_u64..60_000, any::<bool>(), any::<u64>());
    for_all(128, cases, |(rate, timeout, in_flight, seed)| {
        let timeout = Duration::from_millis(timeout);
        let config = off()
            .message_timeout(timeout)
            .min_data_rate(rate)
            .ping_interval(timeout)
            .pong_timeout(timeout)
            .idle_timeout(timeout * 2);
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config.build().expect("sound"), seed);
        if in_flight {
            driver.handle(Timestamp::from_duration(timeout), Event::Tick);
            driver.flush();
        }
        let start = driver.now;
        driver.handle(start, Event::SendStart);
        let mut taken = 0;
        while driver.policy.phase() == Phase::Open {
            // At no more than half the minimum rate, bytes extend the deadline by at most half
            // of the time that passes.
            let waited = driver.now.saturating_duration_since(start);
            assert!(
                waited < timeout * 2,
                "the transport stays open for {waited:?}"
            );
            let allowed = (waited.as_nanos() * u128::from(rate) / 2_000_000_000) as u64 - taken;
            let bytes = dice.up_to(allowed);
            taken += bytes;
            driver.handle(driver.now, Event::SendProgress { bytes });
            let until = driver.until.map_or(0, |until| {
                until.saturating_duration_since(driver.now).as_nanos() as u64
            });
            let next = driver.now.as_nanos() + dice.up_to(until).max(1);
            driver.handle(Timestamp::from_nanos(next), Event::Tick);
        }
        let cause = driver.policy.cause();
        let waits_for_pong = in_flight && cause == Some(CloseReason::PongTimeout);
        assert!(waits_for_pong || cause == Some(CloseReason::MessageTimeout));
    });
}

/// SPEC C10.
#[test]
fn c10_no_traffic_outlives_the_connection_timeout() {
    for_all(256, calls_but(is_set_config), |case| {
        let lifetime = case.recipes[0].config().connection_timeout();
        let mut opened = (!case.opening).then(|| latest(&case.policy()));
        case.play(|before, _, _, action, after| {
            if before.phase() == Phase::Opening && after.phase() == Phase::Open {
                opened = Some(latest(after));
            }
            let end = opened.and_then(|opened| opened.checked_add(lifetime?));
            let (Some(end), Phase::Open, Some(action)) = (end, after.phase(), action) else {
                return;
            };
            assert!(latest(after) < end, "{action:?} while the time is over");
            if let Action::Idle { until } = action {
                assert!(until.is_some_and(|until| until <= end));
            }
        });
    });
}

/// SPEC C11.
#[test]
fn c11_every_limited_phase_ends() {
    const MOST_POLLS: usize = 1_000;
    for_all(
        256,
        (tame_case(), any::<bool>(), any::<u64>()),
        |(case, peer_lives, seed)| {
            let mut dice = Dice::new(seed);
            let mut policy = case.policy();
            for (now, call) in case.trace() {
                make(&mut policy, now, call);
            }
            let config = *policy.config();
            let phase = policy.phase();
            let ends = match phase {
                Phase::Opening => config.handshake_timeout().is_some(),
                Phase::Open => {
                    config.connection_timeout().is_some()
                        || !peer_lives && config.detection_bound().is_some()
                }
                Phase::Closing => true,
                _ => false,
            };
            let mut polls = 0;
            let mut now = latest(&policy);
            while ends && policy.phase() == phase {
                polls += 1;
                assert!(polls < MOST_POLLS, "{phase:?} never ends");
                if peer_lives {
                    policy.observe(now, Event::Recv);
                    policy.observe(now, Event::Pong(Some(policy.ping_id(policy.pings_sent()))));
                }
                let until = match policy.poll(now) {
                    Action::Idle { until } => until.expect("it ends"),
                    Action::SendPing(id) => {
                        if dice.below(2) == 0 {
                            policy.observe(now, Event::PingSent(id));
                        }
                        continue;
                    }
                    Action::Close(_) | Action::Abort(_) => continue,
                };
                // Polls may be a nanosecond apart, and a peer that answers may be pinged each
                // millisecond.
                let next = policy.next_deadline().map_or(until, |due| due.max(until));
                let left = policy.remaining_lifetime(next).unwrap_or_default();
                let late = dice.up_to(left.as_nanos() as u64 / 8) * u64::from(peer_lives);
                now = Timestamp::from_nanos(next.as_nanos() + late);
            }
        },
    );
}

/// SPEC C12.
#[test]
fn c12_nothing_that_a_peer_sends_delays_other_verdicts() {
    use DeadlineKind as Kind;
    const OTHER: [Kind; 7] = [
        Kind::Handshake,
        Kind::Close,
        Kind::Connection,
        Kind::Drain,
        Kind::Write,
        Kind::PingWrite,
        Kind::PingFlood,
    ];
    for_all(256, calls_but(is_set_config), |case| {
        case.play(|_, now, _, _, policy| {
            let before = policy.status(now);
            for sent in everything_but_a_close(policy) {
                let asked = before.ping_unsent.is_some();
                if asked && sent == Event::Pong(Some(policy.ping_id(policy.pings_sent()))) {
                    continue;
                }
                let mut other = policy.clone();
                other.observe(now, sent);
                let after = other.status(now);
                for kind in OTHER {
                    let (before, after) = (before.deadlines.get(kind), after.deadlines.get(kind));
                    let kept = before.is_none() || after.is_some() && after <= before;
                    assert!(kept, "{sent:?} moves {kind:?} from {before:?} to {after:?}");
                }
            }
        });
    });
}

/// The same for whole connections, stalls included, where nothing depends on input from the peer.
#[test]
fn c12_a_talking_peer_is_ended_as_soon_as_a_silent_one() {
    for_all(
        256,
        (
            calls_but(|what| is_set_config(what) || is_probe(what)),
            any::<u64>(),
        ),
        |(case, seed)| {
            let deaf = case.recipes[0]
                .config()
                .to_builder()
                .no_idle_timeout()
                .no_ping_interval()
                .no_min_data_rate()
                .no_max_ping_rate()
                .build()
                .expect("sound");
            let start = || {
                let (make, now) = if case.opening {
                    (
                        TimeoutPolicy::opening as fn(_, _, _) -> _,
                        latest(&case.policy()),
                    )
                } else {
                    (
                        TimeoutPolicy::new as fn(_, _, _) -> _,
                        latest(&case.policy()),
                    )
                };
                make(deaf, case.seed, now)
            };
            let (mut silent, mut talking): (TimeoutPolicy, TimeoutPolicy) = (start(), start());
            let mut dice = Dice::new(seed);
            for (now, call) in case.trace() {
                if event_of(call).is_some_and(is_of_the_peer) {
                    continue;
                }
                for _ in 0..dice.below(3) {
                    let sent = dice.one_of(&everything_but_a_close(&talking));
                    talking.observe(now, sent);
                    silent.observe(now, Event::Tick);
                }
                assert_eq!(make(&mut talking, now, call), make(&mut silent, now, call));
            }
        },
    );
}

/// SPEC C14. With `pong_evidence = pong` the peer answers with the pong.
#[test]
fn c14_a_peer_that_answers_is_never_idle_however_late_the_polls_are() {
    for_all(512, (asking_config(), any::<u64>()), |(config, seed)| {
        let [idle, ping] = [config.idle_timeout(), config.ping_interval()].map(Option::unwrap);
        let within = config.pong_timeout().unwrap_or(idle).min(idle - ping);
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        let mut answer = None::<(Timestamp, Event)>;
        for _ in 0..60 {
            let next = driver.next_poll(&mut dice);
            if let Some((at, event)) = answer.take_if(|(at, _)| *at <= next) {
                // The driver reads it when it arrives, or before it polls.
                driver.policy.observe(dice.one_of(&[at, next]), event);
            }
            // The resume that made a poll late may cause the driver to probe.
            let probe = Event::Probe {
                within: Duration::from_secs(1 << 40),
            };
            driver.handle(
                next,
                dice.one_of(&[Event::Tick, Event::SendOk, Event::Flushed, probe]),
            );
            if let Some(id) = driver.unsent {
                driver.flush();
                let after = dice.all_or_less(within.as_nanos() as u64);
                let at = next.checked_add(Duration::from_nanos(after));
                let event = match config.pong_evidence() {
                    PongEvidence::Pong => Event::Pong(Some(id)),
                    _ => dice.one_of(&[Event::Recv, Event::Pong(None), Event::Pong(Some(id))]),
                };
                answer = answer.or(Some((at.expect("far from the last instant"), event)));
            }
            assert_ne!(driver.policy.cause(), Some(CloseReason::IdleTimeout));
        }
    });
}

/// SPEC C14. The process is suspended between the request of a ping and its flush.
#[test]
fn c14_a_peer_that_answers_is_never_idle_however_late_the_flushes_are() {
    let late = Cell::new(0);
    for_all(512, (asking_config(), any::<u64>()), |(config, seed)| {
        let limits = [
            config.idle_timeout(),
            config.ping_interval(),
            config.stall_tolerance(),
        ];
        let [Some(idle), Some(ping), Some(tolerance)] = limits else {
            return;
        };
        let within = idle.saturating_sub(ping + tolerance);
        let within = within.min(config.pong_timeout().unwrap_or(idle));
        if within.is_zero() {
            return;
        }
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        for _ in 0..40 {
            let Some(until) = driver.until else { break };
            if driver.unsent.is_none() {
                driver.handle(until, Event::Tick);
                continue;
            }
            let most = 2 * dice.one_of(&[idle, tolerance]).as_nanos() as u64;
            let took = dice.all_or_less(most);
            let took = dice.one_of(&[0, took]);
            late.set(late.get() + u32::from(took > 0));
            driver.now = Timestamp::from_nanos(driver.now.as_nanos() + took);
            driver.flush();
            assert_ne!(driver.policy.cause(), Some(CloseReason::IdleTimeout));
            // The driver reads the answer when it arrives, or before it polls.
            let after = dice.all_or_less(within.as_nanos() as u64);
            driver.now = Timestamp::from_nanos(driver.now.as_nanos() + after);
            let id = driver.policy.ping_id(driver.policy.pings_sent());
            driver.handle(driver.now, Event::Pong(Some(id)));
            assert_ne!(driver.policy.cause(), Some(CloseReason::IdleTimeout));
        }
    });
    assert!(late.get() > 100, "only {} flushes were late", late.get());
}

/// Late polls excuse a dead peer for no longer than their lateness.
#[test]
fn c14_a_dead_peer_ends_in_its_bound_however_late_the_polls_are() {
    for_all(512, (asking_config(), any::<u64>()), |(config, seed)| {
        let bound = config.detection_bound().expect("the idle limit is on");
        let tolerance = config.stall_tolerance().unwrap_or_default();
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        // The peer's last message may arrive while a ping is overdue.
        let last = driver.next_poll(&mut dice);
        driver.policy.observe(last, Event::Recv);
        driver.now = last;
        driver.until = driver.until.max(Some(last));
        let mut open = Patience::new(last, bound + 2 * tolerance);
        while driver.policy.phase() == Phase::Open {
            let next = driver.next_poll(&mut dice);
            let own = dice.one_of(&[Event::Tick, Event::SendOk, Event::Flushed]);
            let late = driver.handle(next, own);
            driver.flush();
            match driver.policy.phase() {
                Phase::Open => open.still_waits(next, late),
                _ => open.ends(next, late),
            }
        }
    });
}

/// SPEC C15, for a missing pong or an unanswered probe.
#[test]
fn c15_no_pong_timeout_before_the_ping_is_flushed() {
    for_all(256, calls_but(is_set_config), |case| {
        case.play(|_, _, _, _, policy| {
            let status = policy.status(Timestamp::ZERO);
            let config = policy.config();
            let bounded = config.message_timeout().or(config.pong_timeout()).is_some();
            if status.phase != Phase::Open || status.ping_unsent.is_none() || !bounded {
                return;
            }
            let missing = Action::Abort(CloseReason::PongTimeout);
            for (kind, at) in status.deadlines.iter() {
                let mut then = policy.clone();
                // If the first poll begins a grace, the second one ends it.
                for at in [at, Timestamp::MAX] {
                    assert_ne!(then.poll(at), missing, "at {at}, {kind}");
                }
            }
        });
    });
}

/// The same behind an upload: a `Probe` that made its ping due counts from the flush of that ping,
/// or from the last progress of a write that has to wait.
#[test]
fn c15_a_probe_starts_when_its_ping_is_flushed() {
    let limit = || proptest::option::of(1_u64..10_000);
    let cases = (limit(), limit(), 1_u64..10_000, any::<u64>());
    for_all(512, cases, |(message, pong, within, seed)| {
        let [message, pong] = [message, pong].map(|limit| limit.map(Duration::from_millis));
        let within = Duration::from_millis(within);
        let config = off();
        let config = message.map_or(config, |limit| config.message_timeout(limit));
        let config = pong.map_or(config, |limit| config.pong_timeout(limit));
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config.build().expect("sound"), seed);
        driver.handle(driver.now, Event::SendStart);
        driver.handle(driver.now, Event::Probe { within });
        // When the ping was requested or flushed, or when its clock last restarted.
        let mut since = driver.now;
        while driver.policy.phase() == Phase::Open {
            let before = driver.policy.clone();
            let event = match (dice.below(8), driver.unsent) {
                (0, Some(id)) => Event::PingSent(id),
                (1, _) => Event::SendStart,
                (2..5, _) => Event::SendProgress { bytes: 100_000 },
                (5, None) => dice.one_of(&[Event::SendOk, Event::Flushed]),
                _ => Event::Tick,
            };
            let until = driver.until.expect("the probe is bounded");
            let ahead = until.saturating_duration_since(driver.now).as_nanos() as u64;
            let next = Timestamp::from_nanos(driver.now.as_nanos() + dice.all_or_less(ahead));
            let left = matches!(event, Event::PingSent(_));
            if left {
                driver.unsent = None;
            }
            driver.handle(next, event);
            let restarts = driver.unsent.is_some() && is_progress(event);
            if left || restarts || restarts_ping_in_flight(event, &before) {
                since = next;
            }
            let waited = next.saturating_duration_since(since);
            let may_wait = match (driver.unsent, message, pong) {
                (None, _, pong) => pong.map_or(within, |pong| pong.min(within)),
                (Some(_), None, None) => within,
                (Some(_), ..) => Duration::MAX,
            };
            let over = driver.policy.cause() == Some(CloseReason::PongTimeout);
            let stuck = driver.policy.cause() == Some(CloseReason::MessageTimeout);
            assert!(
                stuck || over == (waited >= may_wait),
                "{waited:?} of {may_wait:?}"
            );
        }
    });
}

/// SPEC C15, for silence: the time by which the first ping of a silence was overdue does not count.
#[test]
fn c15_silence_does_not_count_while_its_first_ping_is_overdue() {
    for_all(512, (asking_config(), any::<u64>()), |(config, seed)| {
        let idle = config.idle_timeout().expect("it is on");
        let mut dice = Dice::new(seed);
        let mut driver = Driver::new(config, seed);
        let mut last_received = driver.now;
        let (mut asked, mut overdue) = (false, Duration::ZERO);
        for _ in 0..200 {
            if driver.policy.phase() != Phase::Open {
                return;
            }
            let next = driver.next_poll(&mut dice);
            let event = match dice.below(12) {
                0 => Event::Recv,
                1..4 => Event::SendOk,
                4 => Event::Flushed,
                _ => Event::Tick,
            };
            driver.policy.observe(next, event);
            if event == Event::Recv {
                (last_received, asked, overdue) = (next, false, Duration::ZERO);
            }
            let ping = driver
                .policy
                .status(next)
                .deadlines
                .get(DeadlineKind::NextPing);
            if let Some(due) = ping.filter(|_| !asked) {
                overdue = next.saturating_duration_since(due.max(last_received));
            }
            driver.handle(next, Event::Tick);
            asked |= driver.unsent.is_some();
            driver.flush();
            if driver.policy.cause() == Some(CloseReason::IdleTimeout) {
                let silent = next.saturating_duration_since(last_received);
                assert!(
                    silent >= idle + overdue,
                    "{overdue:?} of {silent:?} do not count"
                );
            }
        }
    });
}

/// SPEC C13.
#[test]
fn c13_a_trace_replays_and_shifts() {
    for_all(256, (tame_case(), 0..u64::MAX / 4), |(case, shift)| {
        let later = |at: Timestamp| Timestamp::from_nanos(at.as_nanos() + shift);
        let moved = |action| match action {
            Action::Idle { until } => Action::Idle {
                until: until.map(later),
            },
            action => action,
        };
        let mut first = Vec::new();
        case.play(|_, now, call, action, after| {
            first.push((now, call, action, after.next_deadline()));
        });
        let config = *case.policy().config();
        let begin = latest(&case.policy());
        let start = if case.opening {
            TimeoutPolicy::opening
        } else {
            TimeoutPolicy::new
        };
        let mut again = start(config, case.seed, begin);
        let mut shifted = start(config, case.seed, later(begin));
        for (now, call, action, next) in first {
            assert_eq!(make(&mut again, now, call), action);
            assert_eq!(make(&mut shifted, later(now), call), action.map(moved));
            assert_eq!(shifted.next_deadline(), next.map(later));
        }
    });
}

// ---- cases ----

/// Checks `number` values, the same in each run; with `ORACLE_TIMES`, that many times more random
/// ones.
fn for_all<S: Strategy>(number: u32, values: S, check: impl Fn(S::Value)) {
    let config = |times| Config {
        failure_persistence: None,
        ..Config::with_cases(number * times)
    };
    let mut runner = match std::env::var("ORACLE_TIMES") {
        Ok(times) => TestRunner::new(config(times.parse().expect("ORACLE_TIMES is a number"))),
        Err(_) => {
            let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config(1), rng)
        }
    };
    let outcome = runner.run(&values, |value| {
        check(value);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn any_case() -> impl Strategy<Value = Case> {
    let header = vec(any::<u8>(), HEADER);
    let steps = vec(any::<[u8; STEP]>(), 0..400);
    (header, steps).prop_map(|(header, steps)| Case::decode(&[header, steps.concat()].concat()))
}

fn calls_but(unfit: impl Fn(What) -> bool) -> impl Strategy<Value = Case> {
    any_case().prop_map(move |mut case| {
        case.steps.retain(|step| !unfit(step.what));
        case
    })
}

/// Far from the last representable instant, and under one configuration.
fn tame_case() -> impl Strategy<Value = Case> {
    const FIRST_OF_A_UNIT: u8 = 32;
    calls_but(is_set_config).prop_map(|mut case| {
        case.start = 0;
        for code in &mut case.recipes[0].lengths {
            if *code < FIRST_OF_A_UNIT {
                *code %= Recipe::DEFAULT + 1;
            }
        }
        case.steps.retain(|step| match (step.when, step.what) {
            (When::BeforeTheLast(_) | When::Later(..FIRST_OF_A_UNIT), _) => false,
            (_, What::Observe(relative) | What::Handle(relative)) => !matches!(
                relative,
                RelativeEvent::Probe(..FIRST_OF_A_UNIT) | RelativeEvent::Drain(..FIRST_OF_A_UNIT)
            ),
            _ => true,
        });
        case
    })
}

/// A configuration for such a case, without heartbeats and without pings that need no answer, which
/// would only add calls.
fn tame_config() -> impl Strategy<Value = TimeoutConfig> {
    tame_case().prop_map(|case| {
        let config = case.recipes[0].config();
        let quiet = config.to_builder().no_heartbeat_interval();
        let quiet = match config.pong_timeout() {
            Some(_) => quiet,
            None => quiet.no_ping_interval(),
        };
        quiet.build().expect("still sound")
    })
}

/// Configurations of scope `inbound` that ping a silent peer before it is idle. `idle_timeout` is
/// at most 21 times `ping_interval`, because without a `pong_timeout` the pings continue until
/// then.
fn asking_config() -> impl Strategy<Value = TimeoutConfig> {
    let limits = (tame_config(), 1_u64..100_000_000_000, 1_u64..=20 * 256);
    limits.prop_map(|(config, ping, more)| {
        let more = (ping * more / 256).max(1);
        let asking = config
            .to_builder()
            .no_connection_timeout()
            .idle_scope(IdleScope::Inbound)
            .ping_interval(Duration::from_nanos(ping))
            .idle_timeout(Duration::from_nanos(ping + more));
        asking.build().expect("still sound")
    })
}

fn is_set_config(what: What) -> bool {
    matches!(what, What::SetConfig(_))
}

fn is_probe(what: What) -> bool {
    matches!(
        what,
        What::Observe(RelativeEvent::Probe(_)) | What::Handle(RelativeEvent::Probe(_))
    )
}

fn event_of(call: Call) -> Option<Event> {
    match call {
        Call::Observe(event) | Call::Handle(event) => Some(event),
        Call::Poll | Call::PollUnread | Call::SetConfig(_) => None,
    }
}

fn is_of_the_peer(event: Event) -> bool {
    matches!(
        event,
        Event::Recv | Event::RecvPartial { .. } | Event::Ping | Event::Pong(_) | Event::PeerClose
    )
}

fn is_heard(event: Event, policy: &TimeoutPolicy) -> bool {
    match event {
        Event::RecvPartial { total } => total > policy.status(Timestamp::ZERO).partial_bytes,
        Event::Recv | Event::Ping | Event::Pong(_) => true,
        _ => false,
    }
}

/// SPEC E-7 to E-9, E-29.
fn is_progress(event: Event) -> bool {
    match event {
        Event::SendProgress { bytes } => bytes > 0,
        Event::SendOk | Event::Flushed => true,
        _ => false,
    }
}

/// SPEC E-33.
fn restarts_ping_in_flight(event: Event, before: &TimeoutPolicy) -> bool {
    let status = before.status(Timestamp::ZERO);
    is_progress(event) && status.write_waiting && status.ping_unanswered.is_some()
}

fn everything_but_a_close(policy: &TimeoutPolicy) -> [Event; 7] {
    let total = policy.status(Timestamp::ZERO).partial_bytes;
    let latest = policy.pings_sent();
    [
        Event::Recv,
        Event::RecvPartial {
            total: total.saturating_add(1),
        },
        Event::RecvPartial { total: 0 },
        Event::Ping,
        Event::Pong(None),
        Event::Pong(Some(policy.ping_id(latest))),
        Event::Pong(Some(policy.ping_id(latest + 1))),
    ]
}

/// Repeats the poll of the call.
fn poll_again(policy: &mut TimeoutPolicy, now: Timestamp, call: Call) -> Action {
    match call {
        Call::PollUnread => policy.poll_unread(now),
        _ => policy.poll(now),
    }
}

fn nanos(length: Duration) -> u128 {
    length.as_nanos()
}

// ---- a driver of a connection ----

/// Drives a policy as an adapter would: polls after each event and at each `until`, and carries out
/// the actions.
struct Driver {
    policy: TimeoutPolicy,
    now: Timestamp,
    until: Option<Timestamp>,
    /// The ping that is to be written.
    unsent: Option<PingId>,
    /// How late each poll is; a slow host must disconnect its dead peers too.
    slowness: u64,
}

impl Driver {
    fn new(config: TimeoutConfig, seed: u64) -> Self {
        let now = Timestamp::ZERO;
        let mut driver = Self {
            policy: TimeoutPolicy::new(config, seed, now),
            now,
            until: None,
            unsent: None,
            slowness: 0,
        };
        driver.handle(now, Event::Tick);
        driver
    }

    /// Returns how late the poll was.
    fn handle(&mut self, now: Timestamp, event: Event) -> Duration {
        let late = self
            .until
            .map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        self.now = now;
        self.policy.observe(now, event);
        self.until = loop {
            match self.policy.poll(now) {
                Action::SendPing(id) => self.unsent = Some(id),
                Action::Close(_) => {}
                Action::Abort(_) => break None,
                Action::Idle { until } => break until,
            }
        };
        late
    }

    /// Writes the ping at once.
    fn flush(&mut self) {
        if let Some(id) = self.unsent.take() {
            self.handle(self.now, Event::PingSent(id));
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.policy.phase(), Phase::Closed | Phase::Aborted(_))
    }

    /// Returns when the driver polls next: on time, early with something to send, or late.
    fn next_poll(&self, dice: &mut Dice) -> Timestamp {
        let config = self.policy.config();
        let idle = config.idle_timeout().unwrap_or_default().as_nanos() as u64;
        let tolerance = config.stall_tolerance().unwrap_or_default().as_nanos() as u64;
        let now = self.now.as_nanos();
        let until = self.until.map_or(now, Timestamp::as_nanos);
        Timestamp::from_nanos(match dice.below(8) {
            0..3 => until,
            3..5 => now + dice.up_to(until - now),
            5 => until + dice.up_to(1_000_000),
            6 => until + tolerance + dice.below(2),
            _ => until + dice.up_to(2 * idle),
        })
    }

    /// Takes a step at whose end the peer sends something.
    fn step_with_peer(&mut self, dice: &mut Dice) {
        self.step_alone(dice);
        let pong = Event::Pong(Some(self.policy.ping_id(self.policy.pings_sent())));
        let sent = [pong, Event::Recv, Event::Ping, Event::Pong(None)];
        self.handle(self.now, dice.one_of(&sent));
    }

    /// Takes a step without a peer: polls when due, or too late, or has something to send before.
    /// Returns the event, and how late its poll was.
    fn step_alone(&mut self, dice: &mut Dice) -> (Event, Duration) {
        let until = self.until.map_or(self.now.as_nanos(), Timestamp::as_nanos);
        let ahead = until - self.now.as_nanos();
        let event = match (dice.below(12), self.unsent) {
            (0..3, Some(id)) => {
                self.unsent = None;
                Event::PingSent(id)
            }
            (3..5, _) => Event::SendStart,
            (5, _) => Event::SendProgress {
                bytes: 1 + dice.below(1000),
            },
            (6, None) => Event::SendOk,
            (7, None) => Event::Flushed,
            _ => Event::Tick,
        };
        let next = match dice.below(8) {
            0 => until + dice.up_to(20_000_000_000),
            1 => until + dice.up_to(1_000_000),
            _ if event == Event::Tick => until + self.slowness,
            _ => self.now.as_nanos() + dice.up_to(ahead),
        };
        let late = self.handle(Timestamp::from_nanos(next), event);
        (event, late)
    }
}

/// Cheap random numbers, determined by the seed of a case.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x ^ (x >> 32)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(end)) >> 64) as u64
    }

    fn up_to(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(end) => self.below(end),
            None => self.roll(),
        }
    }

    fn all_or_less(&mut self, most: u64) -> u64 {
        match self.below(2) {
            0 => most,
            _ => self.up_to(most),
        }
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
