//! What the explorations must reach for their results to mean something.

use std::vec::Vec;

use super::reference::{Limits, NEVER, Ping, Reference};
use crate::event::{Action, CloseReason, Phase};
use crate::seed::PingId;
use crate::status::DeadlineKind;

/// An action that a poll returned, without the ID of a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    unread: bool,
    phase: Phase,
    action: Action,
}

impl Outcome {
    /// Returns `None` for `Idle`, and for an `Abort` that is repeated.
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

    /// Returns every outcome that a policy can have.
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
        let outcome = |unread| {
            move |(phase, action)| Self {
                unread,
                phase,
                action,
            }
        };
        let read = either.into_iter().chain(drained).map(outcome(false));
        read.chain(either.into_iter().map(outcome(true))).collect()
    }
}

/// A rule that applies so rarely that the worlds might never reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// A ping is requested late, and the peer is excused.
    RequestedLate,
    /// A ping is flushed late, and the peer is excused.
    FlushedLate,
    /// A ping is requested although the idle row is due.
    RequestedBeforeIdle,
    /// A ping's clock restarts before the ping is flushed.
    RestartedRequested,
    /// A ping's clock restarts in flight.
    RestartedInFlight,
    /// A ping whose clock restarted in flight is answered, and gives no round-trip time.
    RoundTripVoid,
    /// A probe's deadline moves later.
    ProbeMoved,
    /// A probe's deadline passes while its ping waits.
    ProbeWaits,
    GraceBegan,
}

impl Rule {
    pub(super) const ALL: [Self; 9] = [
        Self::RequestedLate,
        Self::FlushedLate,
        Self::RequestedBeforeIdle,
        Self::RestartedRequested,
        Self::RestartedInFlight,
        Self::RoundTripVoid,
        Self::ProbeMoved,
        Self::ProbeWaits,
        Self::GraceBegan,
    ];

    /// Returns the rules that a step from one state to another applied.
    pub(super) fn used(
        limits: &Limits,
        before: &Reference,
        after: &Reference,
        action: Option<Action>,
    ) -> impl Iterator<Item = Self> {
        let requested = matches!(action, Some(Action::SendPing(_)));
        let idle = matches!(action, Some(Action::Idle { .. }));
        let idle_due = before.deadline(limits, DeadlineKind::Idle) <= after.now;
        let excused = after.last_excused > before.last_excused;
        let flushed = before.ping_flushed < after.ping_flushed
            && matches!(before.ping, Ping::Requested { .. })
            && !matches!(after.ping, Ping::Requested { .. });
        let answered = before.pong_awaited && !after.pong_awaited && after.phase == Phase::Open;
        let restarted = match (before.ping, after.ping) {
            (Ping::Requested { at }, Ping::Requested { at: then }) if at < then => {
                Some(Self::RestartedRequested)
            }
            (Ping::InFlight { since }, Ping::InFlight { since: then }) if since < then => {
                Some(Self::RestartedInFlight)
            }
            _ => None,
        };
        let moved = before.probe < after.probe && after.probe != NEVER;
        let ping_waits = matches!(after.ping, Ping::Requested { .. });
        let grace = after.grace.is_some() && after.grace != before.grace;
        [
            (requested && excused).then_some(Self::RequestedLate),
            (flushed && excused).then_some(Self::FlushedLate),
            (requested && idle_due).then_some(Self::RequestedBeforeIdle),
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
