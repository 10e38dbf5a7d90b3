//! What an exploration must reach, so that its results mean something.

use std::vec::Vec;

use super::reference::{Limits, NEVER, Ping, Reference};
use crate::event::{Action, CloseReason, Phase};
use crate::seed::PingId;
use crate::status::DeadlineKind;

/// An action that a poll returned, the ID of a ping aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Verdict {
    unread: bool,
    phase: Phase,
    action: Action,
}

impl Verdict {
    /// Returns `None` for an action that says nothing new.
    pub(super) fn new(unread: bool, phase: Phase, action: Action) -> Option<Self> {
        let action = match action {
            Action::SendPing(_) => Action::SendPing(PingId::new(0, 0)),
            Action::Idle { .. } => return None,
            action => action,
        };
        (!matches!(phase, Phase::Aborted(_))).then_some(Self {
            unread,
            phase,
            action,
        })
    }

    /// Returns every verdict that a policy can give.
    pub(super) fn all() -> Vec<Self> {
        use CloseReason::*;

        let either = [
            (Phase::Opening, Action::Abort(HandshakeTimeout)),
            (Phase::Open, Action::Close(ConnectionTimeout)),
            (Phase::Open, Action::Close(Drain)),
            (Phase::Open, Action::Abort(MessageTimeout)),
            (Phase::Open, Action::Abort(PingFlood)),
            (Phase::Open, Action::SendPing(PingId::new(0, 0))),
            (Phase::Closing, Action::Abort(CloseTimeout)),
        ];
        let drained = [
            (Phase::Open, Action::Abort(SlowReceive)),
            (Phase::Open, Action::Abort(PongTimeout)),
            (Phase::Open, Action::Close(IdleTimeout)),
        ];
        let verdict = |unread| {
            move |(phase, action)| Self {
                unread,
                phase,
                action,
            }
        };
        let read = either.into_iter().chain(drained).map(verdict(false));
        read.chain(either.into_iter().map(verdict(true))).collect()
    }
}

/// A rule that applies so rarely that the worlds might never reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// A ping is requested late, and the peer is excused.
    AskedLate,
    /// A ping is flushed late, and the peer is excused.
    FlushedLate,
    /// A ping is requested although the idle row is due.
    AskedBeforeIdle,
    /// A ping's clock restarts while it waits.
    RestartedAsked,
    /// A ping's clock restarts in flight.
    RestartedInFlight,
    /// A ping whose clock restarted in flight is answered, and gives no round-trip time.
    RoundTripVoid,
    /// A probe's deadline moves on.
    ProbeMoved,
    /// A probe's deadline passes while its ping waits.
    ProbeWaits,
    GraceBegan,
}

impl Rule {
    pub(super) const ALL: [Self; 9] = [
        Self::AskedLate,
        Self::FlushedLate,
        Self::AskedBeforeIdle,
        Self::RestartedAsked,
        Self::RestartedInFlight,
        Self::RoundTripVoid,
        Self::ProbeMoved,
        Self::ProbeWaits,
        Self::GraceBegan,
    ];

    /// Returns the rules that a step from one state to another put to use.
    pub(super) fn used(
        limits: &Limits,
        before: &Reference,
        after: &Reference,
        action: Option<Action>,
    ) -> impl Iterator<Item = Self> {
        let asked = matches!(action, Some(Action::SendPing(_)));
        let idle = matches!(action, Some(Action::Idle { .. }));
        let idle_due = before.deadline(limits, DeadlineKind::Idle) <= after.now;
        let excused = after.last_excused > before.last_excused;
        let flushed = before.ping_flushed < after.ping_flushed
            && matches!(before.ping, Ping::Asked { .. })
            && !matches!(after.ping, Ping::Asked { .. });
        let answered = before.pong_awaited && !after.pong_awaited && after.phase == Phase::Open;
        let restarted = match (before.ping, after.ping) {
            (Ping::Asked { at }, Ping::Asked { at: then }) if at < then => {
                Some(Self::RestartedAsked)
            }
            (Ping::InFlight { since }, Ping::InFlight { since: then }) if since < then => {
                Some(Self::RestartedInFlight)
            }
            _ => None,
        };
        let moved = before.probe < after.probe && after.probe != NEVER;
        let ping_waits = matches!(after.ping, Ping::Asked { .. });
        let grace = after.grace.is_some() && after.grace != before.grace;
        [
            (asked && excused).then_some(Self::AskedLate),
            (flushed && excused).then_some(Self::FlushedLate),
            (asked && idle_due).then_some(Self::AskedBeforeIdle),
            restarted,
            (answered && before.round_trip_void).then_some(Self::RoundTripVoid),
            moved.then_some(Self::ProbeMoved),
            (idle && ping_waits && after.probe <= after.now).then_some(Self::ProbeWaits),
            grace.then_some(Self::GraceBegan),
        ]
        .into_iter()
        .flatten()
    }
}
