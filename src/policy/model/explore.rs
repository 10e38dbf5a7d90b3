//! The breadth-first search through a world.

use std::collections::hash_map::Entry;
use std::format;
use std::string::String;
use std::vec::Vec;

use rustc_hash::FxHashMap;

use super::claims::{self, History, Poll, ensure};
use super::coverage::{Outcome, Rule};
use super::key::Key;
use super::reference::{Limits, Reference};
use super::world::{Step, World};
use super::{Found, TimeoutPolicy};
use crate::config::TimeoutConfig;
use crate::event::{Action, Event, Phase};
use crate::time::Timestamp;

/// A state of the world.
#[derive(Clone)]
pub(super) struct Node<'w> {
    pub(super) policy: TimeoutPolicy<&'w TimeoutConfig>,
    pub(super) reference: Reference,
    pub(super) history: History,
    /// The index of the current configuration.
    pub(super) config: usize,
}

/// Of the steps that lead to a known key, one in this many checks that the nodes are equivalent.
const CHECK_EVERY: usize = 64;

/// Takes every step from every node. Stops at the first failure.
pub(super) fn explore(world: &World) -> Found {
    let mut search = Search {
        world,
        nodes: Vec::new(),
        origins: Vec::new(),
        known: FxHashMap::default(),
        found: Found::default(),
    };
    if let Err(failure) = search.run() {
        search.found.failure = Some(failure);
    }
    search.found.states = search.nodes.len();
    search.found
}

struct Search<'w> {
    world: &'w World,
    nodes: Vec<Node<'w>>,
    /// For each node, the node from which it was first reached, and the step.
    origins: Vec<(usize, Step)>,
    known: FxHashMap<Key, usize>,
    found: Found,
}

impl<'w> Search<'w> {
    fn run(&mut self) -> Result<(), String> {
        let first = Node::first(self.world);
        let key = Key::new(&first, self.world).expect("nothing is too old");
        self.add(first, key, (0, Step::Wait));
        let mut index = 0;
        while let Some(node) = self.nodes.get(index) {
            let node = node.clone();
            claims::check(self.world, &node)
                .map_err(|failure| self.describe(failure, index, None))?;
            for &step in &self.world.steps {
                self.take(&node, index, step)
                    .map_err(|failure| self.describe(failure, index, Some(step)))?;
            }
            index += 1;
        }
        Ok(())
    }

    fn take(&mut self, node: &Node<'w>, index: usize, step: Step) -> Result<(), String> {
        let Some((next, _)) = node.step(self.world, step, &mut self.found)? else {
            return Ok(());
        };
        self.found.steps += 1;
        let Some(key) = Key::new(&next, self.world) else {
            self.found.beyond += 1;
            return Ok(());
        };
        match self.known.entry(key) {
            Entry::Vacant(_) => self.add(next, key, (index, step)),
            Entry::Occupied(known) if self.found.steps % CHECK_EVERY == 0 => {
                next.check_equivalence(&self.nodes[*known.get()], self.world)?;
            }
            Entry::Occupied(_) => {}
        }
        Ok(())
    }

    fn add(&mut self, node: Node<'w>, key: Key, origin: (usize, Step)) {
        self.known.insert(key, self.nodes.len());
        self.nodes.push(node);
        self.origins.push(origin);
    }

    fn describe(&self, failure: String, mut index: usize, last: Option<Step>) -> String {
        let mut steps = Vec::from_iter(last);
        while index > 0 {
            let (origin, step) = self.origins[index];
            steps.push(step);
            index = origin;
        }
        steps.reverse();
        let World { group, name, .. } = self.world;
        format!("{failure}\n  in {group:?}: {name}\n  after {steps:?}")
    }
}

impl<'w> Node<'w> {
    fn first(world: &'w World) -> Self {
        let start = Timestamp::from_nanos(1000 * world.unit);
        let config = &world.configs[0];
        let policy = match world.phase {
            Phase::Opening => TimeoutPolicy::opening(config, world.seed, start),
            _ => TimeoutPolicy::new(config, world.seed, start),
        };
        Self {
            policy,
            reference: Reference::new(world.seed, start, world.phase),
            history: History::new(),
            config: 0,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.policy.now
    }

    /// Returns the node that a step leads to, and the action if it was a poll; `None` if the step
    /// is not possible here.
    fn step(
        &self,
        world: &'w World,
        step: Step,
        found: &mut Found,
    ) -> Result<Option<(Self, Option<Action>)>, String> {
        let mut next = self.clone();
        let action = match step {
            Step::Wait => {
                if !next.wait(world) {
                    return Ok(None);
                }
                None
            }
            Step::Poll => Some(next.poll(world, false, found)?),
            Step::PollUnread => Some(next.poll(world, true, found)?),
            Step::SetConfig(config) => {
                next.set_config(world, config);
                None
            }
            _ => {
                let event = next.event(step).expect("every other step observes one");
                next.observe(world, step, event);
                None
            }
        };
        let (before, after) = (&self.reference, &next.reference);
        let limits = next.limits(world);
        found
            .rules
            .extend(Rule::used(limits, before, after, action));
        let expected = after.next_deadline(limits);
        ensure!(
            next.policy.next_deadline() == expected,
            "differs from the reference: next deadline is {:?}, expected {expected:?}",
            next.policy.next_deadline()
        );
        next.history.enter(before.phase, after.phase);
        claims::check_cold_clocks(&next.policy)?;
        claims::check_phases(before.phase, next.policy.phase(), action)?;
        Ok(Some((next, action)))
    }

    /// Lets a unit pass. Returns false if none may.
    fn wait(&mut self, world: &World) -> bool {
        let phase = self.policy.phase();
        if matches!(phase, Phase::Closed | Phase::Aborted(_)) {
            return false;
        }
        let overdue = self
            .policy
            .next_deadline()
            .is_some_and(|at| at <= self.now());
        if !self.history.wait(world, &self.reference, overdue) {
            return false;
        }
        let now = Timestamp::from_nanos(self.now().as_nanos() + world.unit);
        let limits = &world.limits[self.config];
        self.policy.observe(now, Event::Tick);
        self.reference.observe(limits, now, Event::Tick);
        true
    }

    fn observe(&mut self, world: &World, step: Step, event: Event) {
        let now = self.now();
        let limits = &world.limits[self.config];
        let times = match step {
            Step::Pings(times) => times,
            _ => 1,
        };
        for _ in 0..times {
            self.policy.observe(now, event);
            let before = self.reference;
            self.reference.observe(limits, now, event);
            self.history.observe(world, &before, &self.reference, event);
        }
    }

    fn poll(&mut self, world: &World, unread: bool, found: &mut Found) -> Result<Action, String> {
        let now = self.now();
        let limits = &world.limits[self.config];
        let before = self.reference;
        let (action, expected) = match unread {
            false => (self.policy.poll(now), self.reference.poll(limits, now)),
            true => (
                self.policy.poll_unread(now),
                self.reference.poll_unread(limits, now),
            ),
        };
        ensure!(
            action == expected,
            "differs from the reference: {action:?}, expected {expected:?}"
        );
        found
            .outcomes
            .extend(Outcome::new(unread, before.phase, action));
        let poll = Poll {
            action,
            unread,
            grace_begins: self.reference.grace != before.grace,
        };
        self.history.poll(world, &before, poll, &mut found.delay)?;
        Ok(action)
    }

    fn set_config(&mut self, world: &'w World, config: usize) {
        let now = self.now();
        self.config = config;
        self.policy.set_config(now, &world.configs[config]);
        self.reference.set_config(&world.limits[config], now);
    }

    /// Returns the event that a step observes here; `None` if it observes none.
    pub(super) fn event(&self, step: Step) -> Option<Event> {
        let number = self.policy.pings_sent();
        let latest = self.policy.ping_id(number);
        let earlier = self.policy.ping_id(number.wrapping_sub(1));
        Some(match step {
            Step::Observe(event) => event,
            Step::Pings(_) => Event::Ping,
            Step::PongOfLatest => Event::Pong(Some(latest)),
            Step::PongOfEarlier => Event::Pong(Some(earlier)),
            Step::LatestSent => Event::PingSent(latest),
            Step::EarlierSent => Event::PingSent(earlier),
            Step::Wait | Step::Poll | Step::PollUnread | Step::SetConfig(_) => return None,
        })
    }

    pub(super) fn limits<'a>(&self, world: &'a World) -> &'a Limits {
        &world.limits[self.config]
    }

    /// C13: nodes with the same key make the same decisions, shifted in time.
    fn check_equivalence(&self, other: &Self, world: &'w World) -> Result<(), String> {
        let mut ignored = Found::default();
        let since = |node: &Self, action| match action {
            Some(Action::Idle { until: Some(until) }) => Err(until.nanos_since(node.now())),
            Some(Action::SendPing(_)) => Ok(None),
            action => Ok(action),
        };
        for &step in &world.steps {
            let one = self.step(world, step, &mut ignored)?;
            let two = other.step(world, step, &mut ignored)?;
            let outcome = |node: &Option<(Self, Option<Action>)>| {
                let (node, action) = node.as_ref()?;
                Some((Key::new(node, world), since(node, *action)))
            };
            ensure!(
                outcome(&one) == outcome(&two),
                "C13: {step:?} gives different results\n  {:?}\n  {:?}",
                self.policy,
                other.policy
            );
        }
        Ok(())
    }
}
