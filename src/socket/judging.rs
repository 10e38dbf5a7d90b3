//! When the policy is asked, and with what right.

use std::fmt;
use std::task::Context;
use std::time::Duration;

use futures_core::Stream;
use futures_util::sink::Sink;
use futures_util::task::waker_ref;

use super::{Doubt, TimeoutSocket};
use crate::event::{Action, Event};
use crate::message::Message;
use crate::policy::Horizon;
use crate::report;
use crate::time::{Timestamp, earlier};
use crate::timer::{Timer, within_a_day};

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Whether the alarm has just rung.
    pub(super) fn alarm_rings(&mut self) -> bool {
        if self.alarm.is_none()
            || !self.bell.take_ring()
            || self
                .timer
                .poll(&mut Context::from_waker(&waker_ref(&self.bell)))
                .is_pending()
        {
            return false;
        }
        self.rang = self.alarm.take();
        self.rings = self.rings.wrapping_add(1);
        true
    }

    /// Doubts the link if the machine was suspended since this was last asked. Asked when nothing is left to
    /// read: what came before a suspension tells nothing of the link after it.
    pub(super) fn doubt_after_a_resume(&mut self, now: Timestamp) {
        let ahead = wall_ahead(&self.timer, now);
        let asleep = ahead.saturating_duration_since(self.wall_ahead);
        self.wall_ahead = ahead;
        if asleep > RESUME && self.policy.config().pong_timeout().is_some() {
            report::resumed(self.label_or_dash(), asleep);
            let within = RESUME_PROBE;
            self.observe(now, Event::Probe { within });
        }
    }

    /// Asks the policy, does what it says, and sets the alarm for what comes next. `whose` is what the
    /// half that looks could judge.
    ///
    /// A peer's deadline is judged only if the alarm, set no earlier than that, has rung as often as the
    /// timer asks for, since until the reactor has turned what arrived in time is invisible. If it has
    /// not, the alarm is set a millisecond ahead. What is not about the peer goes by the clock alone.
    pub(super) fn look(&mut self, now: Timestamp, whose: Horizon) {
        let is_due = |after, whose| self.policy.peer_is_due_after(after, now, whose);
        let in_doubt = is_due(None, Horizon::EVERYTHING);
        let due = in_doubt && is_due(None, whose);
        let seen = (self.rang).filter(|&rang| due && !is_due(Some(rang), whose));
        let unseen = in_doubt && is_due(self.rang, Horizon::EVERYTHING);
        // What became due later has its turns anew.
        let same = |doubt: &Doubt| in_doubt && !is_due(Some(doubt.at), Horizon::EVERYTHING);
        let mut doubt = self.doubt.filter(same);
        let turns = self.timer.turns();
        let judged = if seen.is_some_and(|rang| self.all_is_seen(rang, &mut doubt, turns)) {
            doubt = None;
            whose
        } else {
            Horizon {
                read: None,
                written: None,
            }
        };
        self.doubt = doubt;
        let again_soon = unseen
            || (due
                && judged
                    == Horizon {
                        read: None,
                        written: None,
                    });
        if whose == Horizon::EVERYTHING {
            self.rang = None;
        }
        let grace = self.policy.grace();
        while self.inner.is_some() {
            let mut known = None;
            let tell = |status| known = Some(status);
            match self.policy.decide_telling(now, judged, tell) {
                Action::SendPing(_) => {
                    self.ping_owed = true;
                    self.act_before_judging(now);
                }
                Action::Close(reason) => self.close_with(now, reason, known),
                Action::Abort(reason) => self.abort(now, reason, known),
                Action::Idle { until } => {
                    let soon = now.checked_add(A_MOMENT).filter(|_| again_soon);
                    let next = earlier(until, self.policy.next_look_after(now));
                    let next = next.map(|at| self.aligned(now, at));
                    // What waits for room is tried again at the next message.
                    self.stale = self.owes_by_itself();
                    self.set_alarm(now, earlier(soon, next));
                    break;
                }
            }
        }
        if self.policy.grace() != grace && self.policy.grace().is_some() {
            report::grace(self.label_or_dash(), &self.policy.status(now));
        }
        if !self.announced {
            self.announced = true;
            let metered = self.meter().is_some();
            report::opened(self.label_or_dash(), self.policy.config(), metered);
        }
    }

    /// Whether what was just tried would have gone through if it could: the alarm, which was set to `rang`,
    /// has rung in `turns` turns of the reactor, of which the latest is the first unless there was a `doubt`,
    /// and the runtime lets the task go on: tokio answers `Pending` to everything once a task has done much
    /// in one turn. May take the alarm.
    pub(super) fn all_is_seen(
        &mut self,
        rang: Timestamp,
        doubt: &mut Option<Doubt>,
        turns: u32,
    ) -> bool {
        let first = doubt.get_or_insert(Doubt {
            ring: self.rings,
            at: rang,
        });
        if self.rings.wrapping_sub(first.ring) < turns.saturating_sub(1) {
            return false;
        }
        self.alarm = None;
        self.timer
            .has_budget(&mut Context::from_waker(&waker_ref(&self.bell)))
    }

    /// `at`, or the next instant after it at which the alarms of all connections may ring. The clock of
    /// the day is the one that they share.
    fn aligned(&self, now: Timestamp, at: Timestamp) -> Timestamp {
        let align = self.align();
        if align.is_zero() {
            return at;
        }
        let then = self
            .timer
            .wall()
            .saturating_add(at.saturating_duration_since(now));
        let past = then.as_nanos() % align.as_nanos();
        let late = align.as_nanos().wrapping_sub(past) % align.as_nanos();
        let late = Duration::from_nanos(u64::try_from(late).unwrap_or(0));
        at.checked_add(late).unwrap_or(at)
    }

    /// Moves the alarm nearer, never further away: when it rings early, one looks again.
    pub(super) fn set_alarm(&mut self, now: Timestamp, at: Option<Timestamp>) {
        let Some(at) = at.map(|at| within_a_day(now, at)) else {
            return;
        };
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.timer.set(at);
            self.alarm = Some(at);
            if self
                .timer
                .poll(&mut Context::from_waker(&waker_ref(&self.bell)))
                .is_ready()
            {
                self.rang = self.alarm.take();
                self.rings = self.rings.wrapping_add(1);
                self.stale = true;
                self.bell.tasks.wake_both();
            }
        }
    }
}

/// By how much the clock of the day is ahead of the timer's.
pub(super) fn wall_ahead(timer: &impl Timer, now: Timestamp) -> Timestamp {
    Timestamp::from_duration(
        timer
            .wall()
            .saturating_sub(now.saturating_duration_since(Timestamp::ZERO)),
    )
}

/// The least difference between the clocks that counts as a resume.
const RESUME: Duration = Duration::from_secs(5);

/// How soon the peer must answer after a resume.
const RESUME_PROBE: Duration = Duration::from_secs(10);

/// How long to wait for the reactor to turn.
pub(super) const A_MOMENT: Duration = Duration::from_millis(1);
