//! Which nodes are equivalent, because they make the same decisions from then on.
//!
//! A key contains what still matters of a policy and its reference, with times relative to now.
//! Ages that matter are exact, since the lateness of a poll is measured from them.

use super::claims::History;
use super::explore::Node;
use super::reference::{NEVER, Nanos, Ping, Reference};
use super::world::{Group, World};
use crate::event::{CloseReason, Event, Phase};
use crate::policy::state;
use crate::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    policy: Relevant,
    reference: Relevant,
    history: History,
    config: usize,
}

impl Key {
    /// Returns `None` for a node that is not explored because something in it is too old.
    pub(super) fn new(node: &Node, world: &World) -> Option<Self> {
        Some(Self {
            policy: Facts::of_policy(node, world).relevant(world)?,
            reference: Facts::of_reference(&node.reference).relevant(world)?,
            history: node.history,
            config: node.config,
        })
    }
}

/// The facts that matter, in units from now. `None` if a fact does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Relevant {
    phase: Phase,
    cause: Option<CloseReason>,
    grace: Units,
    /// Since the phase began.
    age: Units,
    open: Option<RelevantWhileOpen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RelevantWhileOpen {
    silence: Units,
    /// Whether the last ping was flushed before `silence` began.
    unrequested: bool,
    quiet: Units,
    inbound: Units,
    flush: Units,
    ping_flushed: Units,
    ping: u8,
    ping_clock: Units,
    pings: u8,
    flags: [bool; 4],
    partial: u8,
    /// Write, receive, probe, drain.
    deadlines: [Units; 4],
    credit: u8,
}

type Units = Option<u8>;

/// What a policy or the reference remembers.
struct Facts {
    now: Nanos,
    phase: Phase,
    cause: Option<CloseReason>,
    opened: Nanos,
    closing_began: Nanos,
    inbound: Nanos,
    /// The later of last inbound and last excused.
    inbound_or_excused: Nanos,
    flush: Nanos,
    data: Nanos,
    ping_flushed: Nanos,
    ping: Ping,
    pings: u64,
    pong_awaited: bool,
    /// Whether a pong now would give a round-trip time.
    round_trip: bool,
    ping_due: bool,
    flooded: bool,
    /// How near the peer's pings are to a flood.
    credit: u8,
    partial: u64,
    write: Nanos,
    receive: Nanos,
    probe: Nanos,
    drain: Nanos,
    grace: Option<Nanos>,
}

impl Facts {
    fn of_policy(node: &Node, world: &World) -> Self {
        let policy = &node.policy;
        let state = &policy.state;
        let now = policy.now;
        let nanos = |at: Timestamp| at.as_nanos();
        let deadline = |at: Option<Timestamp>| at.map_or(NEVER, nanos);
        let since = nanos(state.ping_since);
        let ping = match state.ping {
            state::Ping::Quiet => Ping::Quiet,
            state::Ping::Requested => Ping::Requested { at: since },
            state::Ping::InFlight => Ping::InFlight { since },
        };
        // Two fields are private to the state. Derive them from the effects of events.
        let round_trip = state.pong_awaited && {
            let mut answered = policy.clone();
            answered.observe(now, Event::Pong(Some(policy.ping_id(state.pings))));
            answered.pongs_received() > policy.pongs_received()
        };
        let mut credit = 0;
        if world.any(|limits| limits.max_ping_rate.is_some()) {
            let mut pinged = policy.clone();
            while pinged.state.flooded_at().is_none() && pinged.phase() == Phase::Open {
                pinged.observe(now, Event::Ping);
                credit += 1;
            }
        }
        Self {
            now: nanos(now),
            phase: policy.phase(),
            cause: policy.cause(),
            opened: nanos(state.opened),
            closing_began: deadline(state.close_at),
            inbound: nanos(state.last_inbound),
            inbound_or_excused: nanos(state.last_inbound),
            flush: nanos(state.last_flush),
            data: nanos(state.last_data),
            ping_flushed: since,
            ping,
            pings: state.pings,
            pong_awaited: state.pong_awaited,
            round_trip,
            ping_due: state.ping_due,
            flooded: state.flooded_at().is_some(),
            credit,
            partial: state.partial,
            write: deadline(state.write_deadline),
            receive: deadline(state.receive_deadline),
            probe: deadline(state.probe_deadline),
            drain: deadline(state.close_at),
            grace: state.grace.map(nanos),
        }
    }

    fn of_reference(reference: &Reference) -> Self {
        let requested = matches!(reference.ping, Ping::Requested { .. });
        let credit = reference.ping_credit.saturating_sub(reference.now);
        Self {
            now: reference.now,
            phase: reference.phase,
            cause: reference.cause,
            opened: reference.opened,
            closing_began: reference.closing_began,
            inbound: reference.last_inbound,
            inbound_or_excused: reference.last_inbound.max(reference.last_excused),
            flush: reference.last_flush,
            data: reference.last_data,
            ping_flushed: reference.ping_flushed,
            ping: reference.ping,
            pings: reference.pings,
            pong_awaited: reference.pong_awaited,
            round_trip: reference.pong_awaited && !requested && !reference.round_trip_void,
            ping_due: reference.ping_due,
            flooded: reference.flooded != NEVER,
            credit: (credit / 1_000_000_000) as u8,
            partial: reference.partial,
            write: reference.write_clock,
            receive: reference.receive_clock,
            probe: reference.probe,
            drain: reference.drain,
            grace: reference.grace,
        }
    }

    fn relevant(&self, world: &World) -> Option<Relevant> {
        let grace = self.grace.filter(|&began| self.grace_matters(world, began));
        let (began, matters) = match self.phase {
            Phase::Opening => (self.opened, world.any(|limits| limits.handshake.is_some())),
            Phase::Open => (self.opened, world.any(|limits| limits.connection.is_some())),
            Phase::Closing => (self.closing_began, true),
            Phase::Closed | Phase::Aborted(_) => (0, false),
        };
        Some(Relevant {
            phase: self.phase,
            cause: self.cause,
            grace: self.age(world, grace.is_some(), grace.unwrap_or(0))?,
            age: self.age(world, matters, began)?,
            open: match self.phase {
                Phase::Open => Some(self.relevant_while_open(world)?),
                _ => None,
            },
        })
    }

    fn relevant_while_open(&self, world: &World) -> Option<RelevantWhileOpen> {
        let requested = matches!(self.ping, Ping::Requested { .. });
        let idle =
            |inbound| world.any(|limits| limits.idle.is_some() && limits.inbound_scope == inbound);

        // The start of the next ping's interval. A requested ping will be flushed later than all of
        // these.
        let pings = world.any(|limits| limits.ping.is_some()) && !requested;
        let any = pings && world.any(|limits| limits.any_evidence);
        let strict = pings && world.any(|limits| !limits.any_evidence);
        let flushed = self.ping_flushed;
        let last = self.inbound.min(self.flush) <= flushed;

        let (ping, clock, matters) = match self.ping {
            Ping::Quiet => (0, 0, false),
            Ping::Requested { at } => {
                let bounded = world.any(|limits| limits.message.or(limits.pong).is_some());
                let exact = bounded || world.group == Group::Probe;
                // These matter: whether the ping takes too long, and how long the peer was silent
                // meanwhile (SPEC E-49).
                let tolerances = world
                    .limits
                    .iter()
                    .filter_map(|limits| limits.stall_tolerance);
                let longest = tolerances.max().filter(|_| idle(true));
                let at = match longest {
                    Some(longest) if !exact => {
                        let long_ago = self.now.saturating_sub(longest + world.unit);
                        at.max(long_ago.min(self.inbound_or_excused))
                    }
                    _ => at,
                };
                (1, at, exact || longest.is_some())
            }
            Ping::InFlight { since } => (2, since, true),
        };
        let mut deadlines = [None; 4];
        for (deadline, at) in [self.write, self.receive, self.probe, self.drain]
            .into_iter()
            .enumerate()
        {
            deadlines[deadline] = self.offset(world, at)?;
        }
        Some(RelevantWhileOpen {
            silence: self.age(world, idle(true), self.inbound_or_excused)?,
            unrequested: idle(true) && !requested && flushed <= self.inbound_or_excused,
            quiet: self.age(world, idle(false), self.data)?,
            inbound: self.age(world, any && self.inbound > flushed, self.inbound)?,
            flush: self.age(world, any && self.flush > flushed, self.flush)?,
            ping_flushed: self.age(world, strict || any && last, flushed)?,
            ping,
            ping_clock: self.age(world, matters, clock)?,
            pings: match world.any(|limits| limits.jitter > 0) {
                true => self.pings as u8,
                false => 0,
            },
            flags: [
                self.pong_awaited,
                self.round_trip,
                self.ping_due,
                self.flooded,
            ],
            partial: self.partial as u8,
            deadlines,
            credit: if self.flooded { 0 } else { self.credit },
        })
    }

    /// Returns whether a grace covers a peer deadline, or still could.
    fn grace_matters(&self, world: &World, began: Nanos) -> bool {
        let covers = |from: Nanos, limit: Option<Nanos>| {
            limit.is_some_and(|limit| from.saturating_add(limit) <= began)
        };
        let clocks = [self.write, self.receive, self.probe];
        began == self.now
            || world.any(|limits| match self.phase {
                Phase::Opening => covers(self.opened, limits.handshake),
                Phase::Closing => covers(self.closing_began, Some(limits.close)),
                Phase::Open => {
                    let quiet_since = match limits.inbound_scope {
                        true => self.inbound_or_excused,
                        false => self.data,
                    };
                    let ping = match self.ping {
                        Ping::Quiet => false,
                        Ping::Requested { at } => covers(at, limits.message.or(limits.pong)),
                        Ping::InFlight { since } => covers(since, limits.pong),
                    };
                    ping || covers(quiet_since, limits.idle) || clocks.iter().any(|&at| at <= began)
                }
                Phase::Closed | Phase::Aborted(_) => false,
            })
    }

    /// Returns the time since `at`, if it matters. `None` if that is too long.
    fn age(&self, world: &World, matters: bool, at: Nanos) -> Option<Units> {
        if !matters {
            return Some(None);
        }
        let units = (self.now - at) / world.unit;
        (units <= world.max_age).then_some(Some(units as u8))
    }

    /// Returns a deadline that will expire, relative to now. `None` if it expired too long ago.
    fn offset(&self, world: &World, at: Nanos) -> Option<Units> {
        if at == NEVER {
            return Some(None);
        }
        let units = (at / world.unit + world.max_age).checked_sub(self.now / world.unit)?;
        Some(Some(u8::try_from(units).ok()?))
    }
}
