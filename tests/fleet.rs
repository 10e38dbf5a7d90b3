//! A fleet decides what single policies decide, at the same instants.
//!
//! The cases are the same in each run. `FLEET_CASES=10000` in the environment checks each property
//! with that many random ones.

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../examples/replay/cases.rs"]
mod cases;
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod oracle;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oracle::case::{CONFIGS, Call, Case, HEADER, STEP, before_the_end, latest};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use ws_timeout::{
    Action, CloseReason, Event, Fleet, FleetKey, Phase, PingId, TimeoutConfig, TimeoutPolicy,
    Timestamp,
};

/// The most connections in a case.
const MOST: usize = 8;

/// Each case is a string of bytes for the calls, and one for their connections.
#[test]
fn a_fleet_decides_what_single_policies_decide() {
    let bytes = (
        vec(any::<u8>(), HEADER),
        vec(any::<[u8; STEP]>(), 0..300),
        vec(any::<u8>(), 300),
    );
    for_all(256, bytes, |(header, steps, whom)| {
        let case = Case::decode(&[header, steps.concat()].concat());
        let mut both = Both::new();
        let start = latest(&case.policy());
        both.insert(case.recipes[0].config(), case.seed, start, case.opening);
        for (step, whom) in case.steps.iter().zip(whom) {
            let which = usize::from(whom) % both.singles.len().max(1);
            match whom {
                200..220 if both.singles.len() < MOST => {
                    let config = case.recipes[usize::from(whom) % CONFIGS].config();
                    let seed = case.seed.wrapping_add(both.keys_given);
                    both.insert(config, seed, both.latest, whom % 2 == 0);
                    continue;
                }
                220..230 => {
                    both.remove(which);
                    continue;
                }
                230..235 => {
                    both.call_a_stale_key(which);
                    continue;
                }
                _ => {}
            }
            let Some(single) = both.singles.values().nth(which) else {
                continue;
            };
            let policy = &single.policy;
            let careful = case.careful && !step.is_bold();
            if careful && step.what.is_deadly() {
                continue;
            }
            let mut now = case.instant(step.when, policy);
            if careful {
                let ends = both.singles.values().filter(|single| single.is_open());
                now = ends.fold(now, |now, single| now.min(before_the_end(&single.policy)));
            }
            let call = case.call(step.what, policy);
            both.call(which, now, call);
            // Half of all pings are flushed at once.
            if matches!(call, Call::Poll | Call::PollUnread | Call::Handle(_)) {
                both.poll(now, whom % 2 == 0);
            }
        }
        both.walk(100);
    });
}

/// Many connections, and writes that bring deadlines nearer all the time: buckets overflow, and
/// stale entries are removed.
#[test]
fn a_crowd_decides_what_single_policies_decide() {
    for_all(2, any::<u64>(), |seed| {
        let mut dice = Dice(seed);
        let configs: Vec<TimeoutConfig> = [(25, 60, 1000), (2, 300, 50), (100, 40, 3)]
            .into_iter()
            .map(|(ping, idle, message)| {
                TimeoutConfig::builder()
                    .ping_interval(Duration::from_secs(ping))
                    .idle_timeout(Duration::from_secs(idle))
                    .message_timeout(Duration::from_millis(message))
                    .no_connection_timeout()
                    .build()
                    .unwrap()
            })
            .collect();
        let mut both = Both::new();
        for number in 0..100 {
            let config = configs[dice.below(3)];
            both.insert(config, seed ^ number, both.latest, false);
        }
        for _ in 0..20_000 {
            let which = dice.below(both.singles.len());
            let pause = [0, 10_000, 300_000, 8_000_000][dice.below(4)];
            let now = Timestamp::from_nanos(both.latest.as_nanos() + dice.below(pause + 1) as u64);
            let single = both.singles.values().nth(which).unwrap();
            if !single.is_open() {
                both.remove(which);
                both.insert(configs[dice.below(3)], dice.roll(), now, false);
                continue;
            }
            let latest_ping = single.policy.ping_id(single.policy.pings_sent());
            let events: &[Event] = match dice.below(20) {
                0..9 => &[Event::SendStart, Event::SendOk],
                9..14 => &[Event::Recv],
                14..17 => &[Event::Pong(Some(latest_ping))],
                17 => &[Event::RecvPartial { total: 10 }],
                18 => &[Event::SendStart],
                _ => &[Event::Tick],
            };
            for &event in events {
                both.call_quietly(which, now, Call::Observe(event));
            }
            match dice.below(200) {
                0..20 => both.poll(now, true),
                20 => {
                    both.remove(which);
                    both.insert(configs[dice.below(3)], dice.roll(), now, false);
                }
                21 => both.call_quietly(which, now, Call::SetConfig(configs[dice.below(3)])),
                22 => both.compare(),
                _ => {}
            }
        }
        both.compare();
        both.walk(300);
    });
}

#[test]
fn every_conformance_case_through_a_fleet_of_one() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let (mut played, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        for case in cases::read(&std::fs::read_to_string(&path).unwrap()).unwrap() {
            // A driver polls a fleet only after it has read everything.
            if case.polls_unread() {
                continue;
            }
            let outcome = case.run_on(FleetOfOne::new).unwrap();
            let differences = case.differences(&outcome).into_iter();
            wrong.extend(differences.map(|line| format!("{}: {line}", case.name)));
            played += 1;
        }
    }
    assert!(played > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_abort_comes_once_and_the_key_stays_until_it_is_removed() {
    let config = Arc::new(TimeoutConfig::DEFAULT);
    let mut fleet = Fleet::new();
    let key = fleet.insert_opening(config, 0, secs(0));
    let abort = Action::Abort(CloseReason::HandshakeTimeout);
    assert_eq!(fleet.poll(secs(10)), Some((key, abort)));
    assert_eq!(fleet.poll(secs(10)), None);
    assert_eq!(fleet.poll(secs(1000)), None);
    assert_eq!(fleet.next_deadline(), None);
    assert!(fleet.contains(key) && fleet.keys().eq([key]));
    assert!(fleet.remove(key) && !fleet.contains(key) && fleet.is_empty());
    assert!(!fleet.remove(key));
}

#[test]
fn next_deadline_has_passed_while_actions_are_left() {
    let config = TimeoutConfig::builder().jitter(0.0).build().unwrap();
    for connections in [1, 3] {
        let mut fleet = Fleet::<&TimeoutConfig>::default();
        for seed in 0..connections {
            fleet.insert(&config, seed, secs(0));
        }
        for _ in 0..connections {
            assert!(fleet.next_deadline().is_some_and(|next| next <= secs(25)));
            assert!(matches!(
                fleet.poll(secs(25)),
                Some((_, Action::SendPing(_)))
            ));
        }
        // A ping that was requested and not flushed expires after `message_timeout`.
        assert!(fleet.next_deadline().is_some_and(|next| next <= secs(26)));
        assert_eq!(fleet.poll(secs(25)), None);
        assert!(fleet.next_deadline() > Some(secs(25)));
    }
}

#[test]
fn the_flush_of_a_ping_can_bring_its_end_nearer() {
    let config = TimeoutConfig::builder()
        .message_timeout(Duration::from_secs(20))
        .pong_timeout(Duration::from_secs(5));
    let mut both = Both::new();
    both.insert(config.build().unwrap(), 0, secs(0), false);
    both.poll(secs(25), false);
    let ping = both.singles.values().next().unwrap().policy.ping_id(1);
    both.call(0, secs(26), Call::Observe(Event::PingSent(ping)));
    both.walk(3);
}

#[test]
fn a_pong_in_a_grace_can_bring_the_next_deadline_nearer() {
    let config = TimeoutConfig::builder()
        .idle_timeout(Duration::from_secs(1))
        .stall_tolerance(Duration::from_secs(3));
    let mut both = Both::new();
    both.insert(config.build().unwrap(), 0, secs(0), false);
    both.poll(secs(10), true);
    both.call(0, secs(11), Call::Observe(Event::Pong(None)));
    both.walk(3);
}

#[test]
fn a_slot_is_used_again_under_another_key() {
    let config = TimeoutConfig::DEFAULT;
    let mut fleet = Fleet::<&TimeoutConfig>::default();
    let first = fleet.insert(&config, 0, secs(0));
    fleet.remove(first);
    let second = fleet.insert(&config, 0, secs(0));
    assert_eq!(first.index(), second.index());
    assert_ne!(first, second);
    assert!(!fleet.contains(first) && fleet.contains(second));
    let third = fleet.insert(&config, 0, secs(0));
    assert_eq!([second, third].map(|key| key.index()), [0, 1]);
    assert_eq!(
        format!("{fleet:?}"),
        "Fleet { now: Timestamp(0ns), len: 2, .. }"
    );
}

#[test]
fn a_removed_connection_drops_its_configuration() {
    let config = Arc::new(TimeoutConfig::DEFAULT);
    let mut fleet = Fleet::new();
    let keys: Vec<_> = (0..10)
        .map(|seed| fleet.insert(config.clone(), seed, secs(0)))
        .collect();
    assert_eq!(Arc::strong_count(&config), 11);
    assert!(fleet.set_config(keys[0], secs(0), Arc::new(TimeoutConfig::production())));
    assert_eq!(Arc::strong_count(&config), 10);
    assert_eq!(fleet.config(keys[0]), Some(&TimeoutConfig::production()));
    keys.into_iter().for_each(|key| assert!(fleet.remove(key)));
    assert_eq!(Arc::strong_count(&config), 1);
}

/// A fleet, and a policy for each of its connections; each call is made to both.
struct Both {
    fleet: Fleet,
    singles: BTreeMap<FleetKey, Single>,
    removed: Vec<FleetKey>,
    keys_given: u64,
    latest: Timestamp,
}

struct Single {
    policy: TimeoutPolicy,
    aborted: bool,
}

impl Single {
    fn is_open(&self) -> bool {
        matches!(self.policy.phase(), Phase::Opening | Phase::Open)
    }
}

impl Both {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(),
            singles: BTreeMap::new(),
            removed: Vec::new(),
            keys_given: 0,
            latest: Timestamp::ZERO,
        }
    }

    fn insert(&mut self, config: TimeoutConfig, seed: u64, now: Timestamp, opening: bool) {
        self.latest = self.latest.max(now);
        let shared = Arc::new(config);
        let (key, policy) = if opening {
            let policy = TimeoutPolicy::opening(config, seed, self.latest);
            (self.fleet.insert_opening(shared, seed, now), policy)
        } else {
            let policy = TimeoutPolicy::new(config, seed, self.latest);
            (self.fleet.insert(shared, seed, now), policy)
        };
        self.keys_given += 1;
        let aborted = false;
        let before = self.singles.insert(key, Single { policy, aborted });
        assert!(before.is_none() && !self.removed.contains(&key));
        self.check_next_deadline();
    }

    fn key(&self, which: usize) -> Option<FleetKey> {
        self.singles.keys().nth(which).copied()
    }

    fn remove(&mut self, which: usize) {
        if let Some(key) = self.key(which) {
            assert!(self.fleet.remove(key));
            self.singles.remove(&key);
            self.removed.push(key);
            self.compare();
        }
    }

    fn call_a_stale_key(&mut self, which: usize) {
        let Some(&key) = self.removed.get(which) else {
            return;
        };
        let now = self.latest;
        assert!(!self.fleet.contains(key));
        assert!(!self.fleet.observe(key, now, Event::Recv));
        assert!(!self.fleet.observe(key, now, Event::Closed));
        let config = Arc::new(TimeoutConfig::development());
        assert!(!self.fleet.set_config(key, now, config));
        assert_eq!(self.fleet.status(key, now), None);
        assert_eq!(self.fleet.config(key), None);
        assert!(!self.fleet.remove(key));
        self.compare();
    }

    fn call(&mut self, which: usize, now: Timestamp, call: Call) {
        self.call_quietly(which, now, call);
        self.compare();
    }

    fn call_quietly(&mut self, which: usize, now: Timestamp, call: Call) {
        let Some(key) = self.key(which) else {
            return;
        };
        if matches!(call, Call::Poll | Call::PollUnread) {
            return;
        }
        self.latest = self.latest.max(now);
        let single = &mut self.singles.get_mut(&key).unwrap().policy;
        match call {
            Call::Poll | Call::PollUnread => {}
            Call::Observe(event) | Call::Handle(event) => {
                single.observe(self.latest, event);
                assert!(self.fleet.observe(key, now, event));
            }
            Call::SetConfig(config) => {
                single.set_config(self.latest, config);
                assert!(self.fleet.set_config(key, now, Arc::new(config)));
            }
        }
        self.check_next_deadline();
    }

    /// Polls both until nothing is due. If the pings are flushed at once, that is observed in
    /// between.
    fn poll(&mut self, now: Timestamp, flushes: bool) {
        self.latest = self.latest.max(now);
        let now_of_singles = self.latest;
        let mut expected = Vec::new();
        for (&key, single) in &mut self.singles {
            loop {
                let action = single.policy.poll(now_of_singles);
                match action {
                    Action::Idle { .. } => break,
                    Action::Abort(_) if single.aborted => break,
                    Action::SendPing(id) if flushes => {
                        single.policy.observe(now_of_singles, Event::PingSent(id));
                    }
                    _ => {}
                }
                expected.push((key, action));
                single.aborted |= matches!(action, Action::Abort(_));
            }
        }
        let mut decided = Vec::new();
        while let Some((key, action)) = self.fleet.poll(now) {
            if let (Action::SendPing(id), true) = (action, flushes) {
                assert!(self.fleet.observe(key, now, Event::PingSent(id)));
            }
            decided.push((key, action));
        }
        // The order of the connections is unspecified, the action of each is not.
        decided.sort_by_key(|&(key, _)| key);
        assert_eq!(decided, expected, "at {now}");
        assert_eq!(self.fleet.poll(now), None);
        let next = self.fleet.next_deadline();
        assert!(next.is_none_or(|next| next > self.latest), "{next:?}");
        self.compare();
    }

    /// Advances from each of the fleet's deadlines to the next.
    fn walk(&mut self, steps: usize) {
        self.poll(self.latest, true);
        for _ in 0..steps {
            match self.fleet.next_deadline() {
                Some(next) => self.poll(next, true),
                None => break,
            }
        }
    }

    fn compare(&mut self) {
        assert_eq!(self.fleet.len(), self.singles.len());
        assert_eq!(self.fleet.is_empty(), self.singles.is_empty());
        assert!(self.fleet.keys().all(|key| self.singles.contains_key(&key)));
        assert_eq!(self.fleet.keys().count(), self.singles.len());
        for (&key, single) in &mut self.singles {
            let policy = &mut single.policy;
            policy.observe(self.latest, Event::Tick); // its time is the fleet's
            assert_eq!(
                self.fleet.status(key, Timestamp::ZERO),
                Some(policy.status(Timestamp::ZERO))
            );
            assert_eq!(self.fleet.config(key), Some(policy.config()));
        }
        self.check_next_deadline();
    }

    fn check_next_deadline(&self) {
        let singles = self.singles.values();
        let earliest = singles
            .filter_map(|single| single.policy.next_deadline())
            .min();
        if let Some(earliest) = earliest {
            let next = self.fleet.next_deadline();
            assert!(
                next.is_some_and(|next| next <= earliest.max(self.latest)),
                "next poll at {next:?}, though something is due at {earliest}"
            );
        }
    }
}

/// Plays a conformance case. The policy supplies what a fleet does not return: `Idle`, and a
/// repeated `Abort`.
struct FleetOfOne {
    fleet: Fleet,
    key: FleetKey,
    policy: TimeoutPolicy,
}

impl FleetOfOne {
    fn new(config: TimeoutConfig, opening: bool) -> Self {
        let mut fleet = Fleet::new();
        let (shared, now) = (Arc::new(config), Timestamp::ZERO);
        let (key, policy) = if opening {
            let key = fleet.insert_opening(shared, 0, now);
            (key, TimeoutPolicy::opening(config, 0, now))
        } else {
            let key = fleet.insert(shared, 0, now);
            (key, TimeoutPolicy::new(config, 0, now))
        };
        Self { fleet, key, policy }
    }
}

impl cases::Player for FleetOfOne {
    fn observe(&mut self, now: Timestamp, event: Event) {
        assert!(self.fleet.observe(self.key, now, event));
        self.policy.observe(now, event);
    }

    fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        assert!(self.fleet.set_config(self.key, now, Arc::new(config)));
        self.policy.set_config(now, config);
    }

    fn poll(&mut self, now: Timestamp, _unread: bool) -> Action {
        let over = matches!(self.policy.phase(), Phase::Aborted(_));
        match (self.fleet.poll(now), self.policy.poll(now)) {
            (Some((_, action)), _) => action,
            (None, idle @ Action::Idle { .. }) => idle,
            (None, abort @ Action::Abort(_)) if over => abort,
            (None, action) => panic!("the fleet returns nothing, but {action:?} is due"),
        }
    }

    fn summary(&self) -> cases::Summary {
        let status = self.fleet.status(self.key, Timestamp::ZERO);
        status.expect("the key is not removed").into()
    }

    fn ping_id(&self, number: u64) -> PingId {
        self.policy.ping_id(number)
    }
}

fn for_all<S>(cases: u32, strategy: S, test: impl Fn(S::Value))
where
    S: Strategy,
    S::Value: Clone,
{
    let config = |cases| Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    let mut runner = match std::env::var("FLEET_CASES") {
        Ok(cases) => TestRunner::new(config(cases.parse().expect("a number"))),
        Err(_) => {
            let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            TestRunner::new_with_rng(config(cases), rng)
        }
    };
    let done = runner.run(&strategy, |input| {
        test(input);
        Ok(())
    });
    match done {
        Ok(()) => {}
        // Run it once more alone, for its own message and backtrace.
        Err(TestError::Fail(reason, input)) => {
            test(input);
            panic!("{reason}");
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// Cheap random numbers, determined by the seed of a case.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x ^ (x >> 32)
    }

    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.roll()) * end as u128) >> 64) as usize
    }
}

fn secs(seconds: u64) -> Timestamp {
    Timestamp::from_secs(seconds)
}
