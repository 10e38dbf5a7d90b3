//! A model checker for the policy: every sequence of calls, with small limits.
//!
//! # Theory of operation
//!
//! In a [`World`], limits are a few units of time long, and everything happens at whole units: a
//! unit passes, an event is observed, the policy is polled. A [`Node`](explore::Node) is a state of
//! the world. It holds a real policy and the [`Reference`](reference::Reference), a second
//! implementation of the specification, and every step calls both. [`explore`] visits all reachable
//! nodes, breadth first.
//!
//! Many nodes make the same decisions from then on, such as those that differ only in the time that
//! has passed. These share a [`Key`](key::Key), and the search continues only from the first of
//! them. So it terminates, although it covers sequences of any length. To detect a key that omits
//! too much, the search takes all steps from some pairs of nodes with the same key, and compares
//! the results.
//!
//! A world fails if policy and reference differ, or if one of the [`claims`] does not hold. Then
//! the test prints the shortest sequence of steps that leads to a failure.
//!
//! The test also fails if it covers less than it should:
//!
//! * an outcome, or a rule that rarely applies, was [never reached](coverage);
//! * there are at least 5 % fewer states than [recorded];
//! * the longest silence before a verdict, with every poll on time, is not exactly
//!   `detection_bound()`.
//!
//! # How to run it
//!
//! | command | worlds |
//! |---|---|
//! | `cargo test --lib policy::model` | a sample, in a few seconds |
//! | `cargo test --release --lib policy::model` | every seventh, in a quarter of a minute |
//! | `MODEL=all cargo test --release --lib policy::model` | all, in two minutes |
//! | `MODEL=record cargo test --release --lib policy::model -- --nocapture` | all; prints the table for `recorded.rs` |
//!
//! `MODEL=sample` and `MODEL=seventh` choose a slice in any build profile.

mod claims;
mod coverage;
mod explore;
mod key;
mod recorded;
mod reference;
mod world;

use core::fmt;
use std::collections::HashSet;
use std::string::String;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::vec::Vec;
use std::{env, println, thread};

use coverage::{Outcome, Rule};
use explore::explore;
use recorded::RECORDED;
use world::{Group, World, worlds};

// The reference takes its imports from here.
use super::TimeoutPolicy;
use crate::config::{IdleScope, PongEvidence, TimeoutConfig};
use crate::event::{Action, CloseReason, Event, Phase};
use crate::seed::PingId;
use crate::status::DeadlineKind;
use crate::time::Timestamp;

/// The worlds to explore.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slice {
    Sample,
    Seventh,
    All,
}

impl Slice {
    const EACH: [Self; 3] = [Self::Sample, Self::Seventh, Self::All];

    /// Returns whether the slice contains a world, given its number among the worlds of its group.
    fn contains(self, number: usize, worlds: usize) -> bool {
        let step = match self {
            Self::Sample => 163,
            Self::Seventh => 7,
            Self::All => 1,
        };
        // From a group that is smaller than a step, the slice contains one world. Worlds with an
        // odd number allow late polls.
        number % step == (step / 2).min((worlds / 2) | 1)
    }
}

#[test]
fn the_policy_equals_the_reference_and_keeps_its_claims() {
    let model = env::var("MODEL").ok();
    let slice = match model.as_deref() {
        Some("sample") => Slice::Sample,
        Some("seventh") => Slice::Seventh,
        Some("all" | "record") => Slice::All,
        Some(other) => panic!("MODEL={other}: expected sample, seventh, all or record"),
        None if cfg!(debug_assertions) => Slice::Sample,
        None => Slice::Seventh,
    };
    let runs = Group::ALL.map(|group| {
        let run = Run::new(group, slice);
        println!("{run}");
        run.check_worlds();
        run
    });
    check_reached(&runs);
    if model.as_deref() == Some("record") {
        print_record(&runs);
    } else {
        check_record(&runs, slice);
    }
}

/// The exploration of a group.
struct Run {
    group: Group,
    worlds: usize,
    /// The worlds that were explored, each with its number.
    found: Vec<(usize, World, Found)>,
}

/// What the exploration of a world found.
#[derive(Default)]
struct Found {
    states: usize,
    steps: usize,
    /// Steps to states in which something is too old to be explored.
    beyond: usize,
    /// The longest silence of a peer before a verdict, less the detection bound, in units.
    delay: Option<i64>,
    outcomes: HashSet<Outcome>,
    rules: HashSet<Rule>,
    failure: Option<String>,
}

impl Run {
    fn new(group: Group, slice: Slice) -> Self {
        let worlds = worlds(group);
        let count = worlds.len();
        let chosen = worlds.into_iter().enumerate();
        let chosen = Mutex::new(chosen.filter(|&(number, _)| slice.contains(number, count)));
        let found = Mutex::new(Vec::new());
        let failed = AtomicBool::new(false);
        let next = || match failed.load(Relaxed) {
            false => chosen.lock().unwrap().next(),
            true => None,
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some((number, world)) = next() {
                        let explored = explore(&world);
                        failed.fetch_or(explored.failure.is_some(), Relaxed);
                        found.lock().unwrap().push((number, world, explored));
                    }
                });
            }
        });
        Self {
            group,
            worlds: count,
            found: found.into_inner().unwrap(),
        }
    }

    /// Returns the number of states in the worlds of a slice.
    fn states(&self, slice: Slice) -> usize {
        self.found
            .iter()
            .filter(|(number, ..)| slice.contains(*number, self.worlds))
            .map(|(.., found)| found.states)
            .sum()
    }

    fn check_worlds(&self) {
        for (_, world, found) in &self.found {
            if let Some(failure) = &found.failure {
                panic!("{failure}");
            }
            assert!(
                found.beyond == 0 || matches!(self.group, Group::Probe | Group::SetConfig),
                "{} steps lead to states that are not explored\n  in {}",
                found.beyond,
                world.name
            );
            if let Some(bound) = world.exact_bound() {
                assert_eq!(
                    found.delay,
                    Some(0),
                    "the longest silence before a verdict, less the bound of {bound} units\n  in {}",
                    world.name
                );
            }
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |field: fn(&Found) -> usize| -> usize {
            self.found.iter().map(|(.., found)| field(found)).sum()
        };
        write!(
            f,
            "{:?}: {} of {} worlds, {} states, {} steps",
            self.group,
            self.found.len(),
            self.worlds,
            sum(|found| found.states),
            sum(|found| found.steps)
        )
    }
}

/// Fails if no world has reached some outcome, or has applied some rule.
fn check_reached(runs: &[Run]) {
    let found = || runs.iter().flat_map(|run| &run.found);
    let outcomes: HashSet<_> = found().flat_map(|(.., found)| &found.outcomes).collect();
    for outcome in Outcome::all() {
        assert!(outcomes.contains(&outcome), "never reached: {outcome:?}");
    }
    assert_eq!(outcomes.len(), Outcome::all().len(), "{outcomes:?}");
    let rules: HashSet<_> = found().flat_map(|(.., found)| &found.rules).collect();
    for rule in Rule::ALL {
        assert!(rules.contains(&rule), "never applied: {rule:?}");
    }
}

/// Fails if there are at least 5 % fewer states than recorded.
fn check_record(runs: &[Run], slice: Slice) {
    for (run, (group, recorded)) in runs.iter().zip(RECORDED) {
        assert_eq!(run.group, group);
        let (states, recorded) = (run.states(slice), recorded[slice as usize]);
        assert!(
            states * 100 > recorded * 95,
            "{group:?}: {states} states, {recorded} were recorded"
        );
    }
}

fn print_record(runs: &[Run]) {
    for run in runs {
        let states = Slice::EACH.map(|slice| run.states(slice));
        println!("    (Group::{:?}, {states:?}),", run.group);
    }
}
