//! The claims of the specification, C1 to C15, each checked separately.
//!
//! Some hold at every node, however it was reached: [`check`]. The others depend on what happened
//! before, which a [`History`] records from events and actions, not from the policy's state.
//!
//! C1 needs no code, since a panic fails the test. C13 is checked with the keys of nodes.

use std::format;
use std::string::String;

use super::TimeoutPolicy;
use super::explore::Node;
use super::reference::{NEVER, Ping, Reference};
use super::world::{Group, Step, World};
use crate::config::{IdleScope, PongEvidence, TimeoutConfig};
use crate::event::{Action, CloseReason, Event, Phase};
use crate::status::DeadlineKind;
use crate::time::Timestamp;

macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}
pub(super) use ensure;

/// What the claims need to know about the past. Durations are in units.
///
/// To add few states, a duration stays zero if no claim needs it, and stops growing once more makes
/// no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct History {
    /// Since the connection opened; while it opens, since it was created.
    age: u8,
    /// Since the connection began to close.
    closing: u8,
    /// How late the next poll is.
    late: u8,
    /// How much of that has already been subtracted from `punctual_silence`.
    late_counted: u8,
    /// Since the last inbound event or the last bytes that excuse the peer, less the time for which
    /// SPEC E-49 excuses the peer.
    silence: u8,
    /// The same, less the lateness of polls.
    punctual_silence: u8,
    /// The part of `silence` in which the next ping was due and not requested.
    ping_missed: u8,
    /// Whether a ping was flushed during `silence`.
    ping_flushed: bool,
    /// Since the first flush of a ping after the last inbound event.
    first_flush: u8,
    /// Whether a ping was flushed since the last inbound event that was not flushed at once.
    slow_ping: bool,
    /// Whether the requested ping is waiting.
    ping_waits: bool,
    /// Since the last ping was requested.
    since_request: u8,
    /// Since the flush of a ping that is not answered yet.
    unanswered: u8,
    /// Whether a ping is outstanding.
    ping_outstanding: bool,
    /// Bytes of an incomplete message.
    partial: u8,
}

/// The duration since something that has not happened.
const NONE: u8 = u8::MAX;

impl History {
    pub(super) fn new() -> Self {
        Self {
            age: 0,
            closing: 0,
            late: 0,
            late_counted: 0,
            silence: 0,
            punctual_silence: 0,
            ping_missed: 0,
            ping_flushed: false,
            first_flush: NONE,
            slow_ping: false,
            ping_waits: false,
            since_request: NONE,
            unanswered: NONE,
            ping_outstanding: false,
            partial: 0,
        }
    }

    /// Lets a unit pass. Returns false if none may, because an overdue poll must come eventually.
    pub(super) fn wait(&mut self, world: &World, before: &Reference, overdue: bool) -> bool {
        if overdue {
            if self.late >= world.max_late {
                return false;
            }
            self.late += 1;
        }
        let age = |length: u8, limit: Option<u64>| match length {
            NONE => NONE,
            length => (length + 1).min(limit.unwrap_or(0) as u8),
        };
        match before.phase {
            Phase::Opening => {
                let limit = world.units(world.limits[0].handshake);
                self.age += u8::from(limit.is_some());
            }
            Phase::Closing => self.closing += 1,
            Phase::Open if world.is_constant() => {
                let claims = Claims::of(world);
                self.age = age(self.age, claims.connection);
                self.punctual_silence += u8::from(claims.bound.is_some());
                self.silence = age(self.silence, claims.idle.map(|idle| idle + 16));
                self.first_flush = age(self.first_flush, claims.answer);
                self.since_request = age(self.since_request, claims.ping);
                self.unanswered = age(self.unanswered, claims.pong);
                self.ping_waits =
                    claims.answer.is_some() && matches!(before.ping, Ping::Requested { .. });
                let due = before.deadline(&world.limits[0], DeadlineKind::NextPing) <= before.now;
                self.ping_missed += u8::from(due && !self.ping_flushed && claims.idle.is_some());
            }
            _ => {}
        }
        true
    }

    /// Records an event. `before` and `after` are the reference without it and with it.
    pub(super) fn observe(
        &mut self,
        world: &World,
        before: &Reference,
        after: &Reference,
        event: Event,
    ) {
        if before.phase == Phase::Opening && event == Event::Opened {
            *self = Self::new();
        }
        if before.phase != Phase::Open || !world.is_constant() {
            return;
        }
        let limits = &world.limits[0];
        let inbound = match event {
            Event::Recv | Event::Ping | Event::Pong(_) => true,
            Event::RecvPartial { total } => total > u64::from(self.partial),
            _ => false,
        };
        match event {
            Event::RecvPartial { total } => self.partial = total as u8,
            Event::Recv => self.partial = 0,
            _ => {}
        }
        let (requested, in_flight) = match before.ping {
            Ping::Quiet => (false, false),
            Ping::Requested { .. } => (true, false),
            Ping::InFlight { .. } => (false, true),
        };
        // The detection bound counts from inbound events, and from bytes that the transport
        // accepted while the ping was delayed (SPEC S-25).
        let progress = match event {
            Event::SendOk | Event::Flushed => true,
            Event::SendProgress { bytes } => bytes > 0,
            _ => false,
        };
        let write_waiting = before.write_clock != NEVER;
        let excuses = progress && (requested || in_flight && write_waiting);
        if inbound || excuses {
            self.punctual_silence = 0;
            self.late_counted = self.late;
            self.silence = 0;
            self.ping_missed = 0;
            self.ping_flushed = false;
        }
        if inbound {
            self.first_flush = NONE;
            self.slow_ping = false;
        }
        // Our own flush postpones the next ping, so no ping is overdue any more.
        let due = |reference: &Reference| reference.deadline(limits, DeadlineKind::NextPing);
        if progress && due(after) > due(before) {
            self.ping_missed = 0;
        }
        let first_pong = before.pong_awaited && event == Event::Pong(Some(before.latest_ping()));
        if first_pong || inbound && limits.any_evidence && in_flight {
            self.unanswered = NONE;
            self.ping_outstanding = false;
            self.ping_waits = false;
        }
        if requested && event == Event::PingSent(before.latest_ping()) {
            let claims = Claims::of(world);
            self.ping_flushed = claims.idle.is_some();
            if claims.answer.is_some() {
                self.slow_ping |= self.ping_waits;
                if self.first_flush == NONE {
                    self.first_flush = 0;
                }
            }
            self.ping_waits = false;
            if let Ping::Requested { at } = before.ping {
                self.flush_late(world, &claims, after.now - at);
            }
            match limits.pong {
                Some(_) => self.unanswered = 0,
                None => self.ping_outstanding = false,
            }
        }
    }

    /// Records the flush of a ping that took `took` units to be sent (SPEC E-49).
    fn flush_late(&mut self, world: &World, claims: &Claims, took: u64) {
        let took = took / world.unit;
        if claims.tolerance == 0 || took <= claims.tolerance {
            return;
        }
        self.silence -= (took as u8).min(self.silence - self.ping_missed);
        // The other bound contains this time (SPEC S-25).
        let idle_bounds = |bound| claims.pong_bound.is_none_or(|pong| bound < pong);
        if claims.bound.is_some_and(idle_bounds) {
            self.punctual_silence = 0;
            self.late_counted = self.late;
        }
    }

    /// Checks an action that a poll returned.
    pub(super) fn poll(
        &mut self,
        world: &World,
        before: &Reference,
        poll: Poll,
        delay: &mut Option<i64>,
    ) -> Result<(), String> {
        let Poll { action, unread, .. } = poll;
        let idle = matches!(action, Action::Idle { .. });
        // The lateness of a poll counts if the poll decides something, whatever its kind.
        let late = match !unread || !idle || poll.grace_begins {
            true => self.late - self.late_counted,
            false => 0,
        };
        self.late_counted += late;
        if !unread {
            self.late = 0;
            self.late_counted = 0;
        }
        match before.phase {
            Phase::Open if world.is_constant() => {
                self.punctual_silence = self.punctual_silence.saturating_sub(late);
                self.poll_while_open(world, before, poll, delay)
            }
            Phase::Opening => {
                let limits = &world.limits[0];
                let handshake = world.units(limits.handshake);
                self.age = self.age.saturating_sub(late);
                let tolerance = world.units(limits.stall_tolerance).unwrap_or(0);
                ensure!(
                    !idle || handshake.is_none_or(|limit| u64::from(self.age) < limit + tolerance),
                    "C11: still opening after {} units",
                    self.age
                );
                Ok(())
            }
            Phase::Closing if world.is_constant() => {
                let limits = &world.limits[0];
                self.closing = self.closing.saturating_sub(late);
                let tolerance = world.units(limits.stall_tolerance).unwrap_or(0);
                let limit = limits.close / world.unit + tolerance;
                let closing = u64::from(self.closing);
                ensure!(
                    closing < limit || !idle && closing == limit,
                    "C8: still closing after {closing} units"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn poll_while_open(
        &mut self,
        world: &World,
        before: &Reference,
        Poll { action, unread, .. }: Poll,
        delay: &mut Option<i64>,
    ) -> Result<(), String> {
        let claims = Claims::of(world);
        let reached = |length: u8, limit: Option<u64>| {
            length != NONE && limit.is_some_and(|limit| u64::from(length) >= limit)
        };
        ensure!(
            !reached(self.age, claims.connection)
                || action == Action::Close(CloseReason::ConnectionTimeout),
            "C10: {action:?} at the end of the connection's lifetime"
        );
        if let (Some(bound), false) = (claims.bound, unread) {
            let over = i64::from(self.punctual_silence) - bound as i64;
            let graces = 2 * claims.tolerance as i64;
            let decided = !matches!(action, Action::Idle { .. });
            ensure!(
                over < graces || decided && over == graces,
                "C8: {action:?} {over} units after the detection bound"
            );
            if decided && !matches!(action, Action::SendPing(_)) {
                *delay = (*delay).max(Some(over));
            }
        }
        match action {
            Action::SendPing(_) => {
                ensure!(!self.ping_outstanding, "C6: a second ping");
                let early = self.since_request != NONE && !reached(self.since_request, claims.ping);
                ensure!(
                    !early || world.group == Group::Probe,
                    "C6: a ping after {} units",
                    self.since_request
                );
                self.ping_outstanding = true;
                self.ping_waits = false;
                self.since_request = if claims.ping.is_some() { 0 } else { NONE };
                self.unanswered = NONE;
            }
            Action::Abort(CloseReason::PongTimeout) => {
                let waits = matches!(before.ping, Ping::Requested { .. });
                ensure!(
                    !waits || claims.message.or(claims.pong).is_none(),
                    "C15: an answer was due to a ping that waits"
                );
                ensure!(
                    reached(self.unanswered, claims.pong) || world.group == Group::Probe,
                    "C7: an answer was due after {} units",
                    self.unanswered
                );
            }
            Action::Close(CloseReason::IdleTimeout) if claims.idle.is_some() => {
                // With the tolerance off, C14 says nothing about a ping that had to wait.
                let answer = match (self.slow_ping, claims.tolerance) {
                    (true, 0) => Some(0),
                    (true, tolerance) => claims.answer.map(|limit| limit.saturating_sub(tolerance)),
                    (false, _) => claims.answer,
                };
                ensure!(
                    claims.answer.is_none() || reached(self.first_flush, answer) || self.ping_waits,
                    "C14: closed {} units after the flush of a ping",
                    self.first_flush
                );
                let counts = self.silence - self.ping_missed;
                ensure!(
                    reached(counts, claims.idle),
                    "C15: closed after {counts} units of silence in which no ping was missed"
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets what does not matter in a new phase.
    pub(super) fn enter(&mut self, before: Phase, after: Phase) {
        match after {
            Phase::Closing if before == after => {
                *self = Self {
                    closing: self.closing,
                    late: self.late,
                    late_counted: self.late_counted,
                    ..Self::new()
                };
            }
            Phase::Closing | Phase::Closed | Phase::Aborted(_) => *self = Self::new(),
            Phase::Opening | Phase::Open => {}
        }
    }
}

/// A call of `poll` or `poll_unread`.
#[derive(Clone, Copy)]
pub(super) struct Poll {
    pub(super) action: Action,
    pub(super) unread: bool,
    pub(super) grace_begins: bool,
}

/// The limits that the claims mention, in units. `None` if a limit is off, or if a claim does not
/// apply.
struct Claims {
    bound: Option<u64>,
    /// The second of the two bounds of SPEC S-24.
    pong_bound: Option<u64>,
    connection: Option<u64>,
    message: Option<u64>,
    ping: Option<u64>,
    pong: Option<u64>,
    /// In scope `inbound`.
    idle: Option<u64>,
    /// How long a peer has to answer a ping before it is closed for silence.
    answer: Option<u64>,
    tolerance: u64,
}

impl Claims {
    fn of(world: &World) -> Self {
        let limits = &world.limits[0];
        // These claims are about silence, pings and writes. In other groups they would only add
        // states.
        let silence = matches!(world.group, Group::Base | Group::Connection | Group::Write);
        let idle = limits.idle.filter(|_| silence && limits.inbound_scope);
        let idle = world.units(idle);
        let ping = world.units(limits.ping);
        let answer = match (idle, ping) {
            (Some(idle), Some(ping)) if idle > ping => Some(idle - ping),
            _ => None,
        };
        let (message, pong) = (world.units(limits.message), world.units(limits.pong));
        let pong_bound = match (ping, pong) {
            (Some(ping), Some(pong)) => Some(ping + message.unwrap_or(pong) + pong),
            _ => None,
        };
        Self {
            bound: world.bound(),
            pong_bound,
            connection: world.units(limits.connection),
            message,
            ping,
            pong,
            idle,
            answer,
            tolerance: world.units(limits.stall_tolerance).unwrap_or(0),
        }
    }
}

/// C2: phases only go forward, `Close` comes once, and `Abort` stays.
pub(super) fn check_phases(
    before: Phase,
    after: Phase,
    action: Option<Action>,
) -> Result<(), String> {
    let rank = |phase| match phase {
        Phase::Opening => 0,
        Phase::Open => 1,
        Phase::Closing => 2,
        Phase::Closed | Phase::Aborted(_) => 3,
    };
    ensure!(
        before == after || rank(before) < rank(after),
        "C2: {after:?} after {before:?}"
    );
    let fits = match action {
        Some(Action::Close(_)) => before == Phase::Open && after == Phase::Closing,
        Some(Action::Abort(reason)) => after == Phase::Aborted(reason),
        Some(_) => after == before && !matches!(after, Phase::Aborted(_)),
        None => true,
    };
    ensure!(fits, "C2: {action:?} leads from {before:?} to {after:?}");
    Ok(())
}

type Policy<'w> = TimeoutPolicy<&'w TimeoutConfig>;

/// Checks what must hold at a node, however it was reached.
pub(super) fn check(world: &World, node: &Node) -> Result<(), String> {
    let Node {
        policy, reference, ..
    } = node;
    if let Err(what) = reference.compare(node.limits(world), policy) {
        return Err(format!(
            "differs from the reference: {what}\n  {policy:?}\n  {reference:?}"
        ));
    }
    for unread in [false, true] {
        check_idle(policy, unread)?;
        check_no_effect(world, policy, unread)?;
    }
    check_events(world, node)?;
    check_own_sends(world, policy)
}

/// While `cold_armed` is false, no cold clock holds a deadline, because a poll then skips their
/// rows.
pub(super) fn check_cold_clocks(policy: &Policy) -> Result<(), String> {
    let state = &policy.state;
    let deadlines = [
        state.receive_deadline,
        state.probe_deadline,
        state.close_at,
        state.grace,
        state.flooded_at(),
    ];
    let runs = state.partial > 0 || state.ping_due || deadlines.iter().any(Option::is_some);
    ensure!(
        state.cold_armed || !runs || state.phase != Phase::Open,
        "a cold clock runs that is not armed: {state:?}"
    );
    Ok(())
}

/// C3: nothing is decided before `until`, and something at it. C4: the same poll again changes
/// nothing.
fn check_idle(policy: &Policy, unread: bool) -> Result<(), String> {
    let now = policy.now;
    let decides = |policy: &Policy, at| !is_idle(polled(policy, at, unread).1);
    let mut policy = policy.clone();
    let mut decided = 0;
    let last = loop {
        match poll(&mut policy, now, unread) {
            Action::SendPing(_) | Action::Close(_) => decided += 1,
            action => break action,
        }
        ensure!(decided <= 2, "more than a ping and a close at one instant");
    };
    let (again, action) = polled(&policy, now, unread);
    ensure!(
        action == last && again == policy,
        "C4: {action:?} after {last:?}"
    );
    let until = match last {
        Action::Idle { until: Some(until) } => until,
        Action::Idle { until: None } => {
            ensure!(!decides(&policy, Timestamp::MAX), "C3: not idle forever");
            return Ok(());
        }
        _ => return Ok(()),
    };
    ensure!(until > now, "C3: idle until {until} at {now}");
    let just_before = Timestamp::from_nanos(until.as_nanos() - 1);
    ensure!(!decides(&policy, just_before), "C3: not idle until {until}");

    let (then, action) = polled(&policy, until, unread);
    let grace_begins = then.state.grace == Some(until);
    let heartbeat = policy.state.heartbeat(now, policy.config) == Some(until);
    ensure!(
        !is_idle(action) || grace_begins || heartbeat,
        "C3: nothing happens at {until}"
    );
    Ok(())
}

/// C5: a poll or `Tick` at which nothing is due changes nothing but the time.
fn check_no_effect(world: &World, policy: &Policy, unread: bool) -> Result<(), String> {
    for at in [policy.now, later(policy, world)] {
        if policy.next_deadline().is_none_or(|deadline| deadline > at) {
            ensure!(
                polled(policy, at, unread).0 == observed(policy, at, Event::Tick),
                "C5: a poll has an effect"
            );
        }
    }
    Ok(())
}

/// Time that runs backwards, C5 for events, and C12: what the peer sends delays no verdict that
/// does not depend on inbound events.
fn check_events(world: &World, node: &Node) -> Result<(), String> {
    let policy = &node.policy;
    let now = policy.now;
    let earlier = Timestamp::from_nanos(now.as_nanos() - world.unit);
    let later = later(policy, world);
    let ticked = observed(policy, later, Event::Tick);
    let deadlines = policy.status(now).deadlines;
    for &step in &world.steps {
        let Some(event) = node.event(step) else {
            continue;
        };
        let after = observed(policy, now, event);
        ensure!(
            after == observed(policy, earlier, event),
            "{event:?} counts as earlier"
        );
        ensure!(
            observed(&ticked, later, event) == observed(policy, later, event),
            "C5: a tick before {event:?} has an effect"
        );
        if !is_inbound(event) || step == Step::PongOfLatest {
            continue;
        }
        let then = after.status(now).deadlines;
        let any = policy.config().pong_evidence() == PongEvidence::Any;
        for (kind, at) in deadlines.iter() {
            let depends = match kind {
                DeadlineKind::Receive | DeadlineKind::Idle | DeadlineKind::NextPing => true,
                DeadlineKind::Probe | DeadlineKind::Pong => any,
                _ => false,
            };
            ensure!(
                depends || then.get(kind).is_some_and(|then| then <= at),
                "C12: {event:?} delays {kind}"
            );
        }
    }
    Ok(())
}

/// C9: sends that do not have to wait delay no verdict that blames the peer, and `message_timeout`
/// ends a connection whose transport accepts too few bytes.
fn check_own_sends(world: &World, policy: &Policy) -> Result<(), String> {
    let now = policy.now;
    let status = policy.status(now);
    if status.phase != Phase::Open {
        return Ok(());
    }
    if status.write_waiting && world.limits[0].min_data_rate.is_some() {
        let after = observed(policy, now, Event::SendProgress { bytes: 1 });
        let deadline = |policy: &Policy| policy.status(now).deadlines.get(DeadlineKind::Write);
        let least = deadline(policy).map_or(0, |at| at.as_nanos() + world.unit);
        ensure!(
            deadline(&after).is_some_and(|at| at.as_nanos() <= least),
            "C9: a byte gives a write more than its time"
        );
    }
    let inbound = policy.config().idle_scope() == IdleScope::Inbound;
    if !inbound || status.write_waiting || status.ping_unsent.is_some() {
        return Ok(());
    }
    for sent in [Event::SendOk, Event::Flushed] {
        let then = observed(policy, now, sent).status(now).deadlines;
        for kind in [DeadlineKind::Idle, DeadlineKind::Pong, DeadlineKind::Probe] {
            ensure!(
                then.get(kind) == status.deadlines.get(kind),
                "C9: {sent:?} moves {kind}"
            );
        }
    }
    Ok(())
}

fn poll(policy: &mut Policy, now: Timestamp, unread: bool) -> Action {
    match unread {
        false => policy.poll(now),
        true => policy.poll_unread(now),
    }
}

fn polled<'w>(policy: &Policy<'w>, now: Timestamp, unread: bool) -> (Policy<'w>, Action) {
    let mut policy = policy.clone();
    let action = poll(&mut policy, now, unread);
    (policy, action)
}

fn observed<'w>(policy: &Policy<'w>, now: Timestamp, event: Event) -> Policy<'w> {
    let mut policy = policy.clone();
    policy.observe(now, event);
    policy
}

fn later(policy: &Policy, world: &World) -> Timestamp {
    Timestamp::from_nanos(policy.now.as_nanos() + world.unit)
}

fn is_idle(action: Action) -> bool {
    matches!(action, Action::Idle { .. })
}

fn is_inbound(event: Event) -> bool {
    matches!(
        event,
        Event::Recv | Event::RecvPartial { .. } | Event::Ping | Event::Pong(_)
    )
}
