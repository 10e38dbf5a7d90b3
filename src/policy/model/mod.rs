//! A model checker for the policy: every sequence of calls, with small limits.
//!
//! # Theory of operation
//!
//! In a [`World`] limits are a few units of time long, and everything happens at whole units: a
//! unit passes, an event is observed, the policy is polled. A [`Node`](explore::Node) is a state of
//! the world. It holds a real policy and the [`Reference`](reference::Reference), a second
//! implementation of the specification, and every step is a call to both. [`explore`] visits,
//! breadth first, all nodes that steps lead to.
//!
//! Many nodes decide the same from here on, such as those that differ only in the time that has
//! passed. They have one [`Key`](key::Key), and the search continues from the first of them only.
//! So it terminates, although it covers sequences of any length. To find a key that leaves out too
//! much, some nodes that share a key take all steps side by side.
//!
//! A world fails if policy and reference differ or if one of the [`claims`] does not hold. Then the
//! test prints the steps that lead there, and no fewer steps lead to a failure.
//!
//! The test also fails if it shows less than it should:
//!
//! * a verdict, or a rule that is hard to reach, was [never reached](coverage);
//! * there are 5 % fewer states than [recorded];
//! * the longest silence before a verdict, with no poll late, is not exactly `detection_bound()`.
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
//! `MODEL=sample` and `MODEL=seventh` choose a slice whatever the profile.

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

use coverage::{Rule, Verdict};
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
        // Of groups that are smaller than a step, the slice contains one world. Polls may be late
        // in worlds with an odd number.
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
    verdicts: HashSet<Verdict>,
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

    /// Returns how many states the worlds of a slice have.
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

/// Fails if no world has reached some verdict, or has put some rule to use.
fn check_reached(runs: &[Run]) {
    let found = || runs.iter().flat_map(|run| &run.found);
    let verdicts: HashSet<_> = found().flat_map(|(.., found)| &found.verdicts).collect();
    for verdict in Verdict::all() {
        assert!(verdicts.contains(&verdict), "never reached: {verdict:?}");
    }
    assert_eq!(verdicts.len(), Verdict::all().len(), "{verdicts:?}");
    let rules: HashSet<_> = found().flat_map(|(.., found)| &found.rules).collect();
    for rule in Rule::ALL {
        assert!(rules.contains(&rule), "never put to use: {rule:?}");
    }
}

/// Fails if there are 5 % fewer states than recorded.
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
