//! The timer of a socket, and what its firing proves.
//!
//! A runtime may cache the readiness of a transport: after a blocked thread resumes, a read can
//! return `Pending` although the peer's answer has long been in the kernel. But a timer fires in
//! the same turn of the reactor that asks the kernel. So once a timer that was set to an instant
//! has fired, everything that had arrived by that instant is *visible*: any later read returns it.
//! If one turn does not reach every transport ([`Timer::reactor_turns`]), the timer must fire in that many
//! turns.
//!
//! What is visible becomes the socket's [`Horizon`](crate::Horizon) once a later read has found
//! nothing, or a later write no room; see [`evidence`](super::evidence).

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use futures_util::task::waker_ref;

use super::wakers::AlarmWaker;
use crate::time::{Timestamp, saturating_nanos};
use crate::timer::{Timer, within_a_day};

/// The time to allow for the next turn of the reactor.
const REACTOR_TURN: Duration = Duration::from_millis(1);

/// A timer that only ever moves nearer.
pub(super) struct Alarm<T> {
    timer: T,
    waker: Arc<AlarmWaker>,
    /// The instant that the timer is set to, unless it has fired since.
    set_to: Option<Timestamp>,
    /// The instant that it was set to when it last fired.
    last_fired_for: Option<Timestamp>,
    /// Whether it has fired since a read last found nothing.
    fired: bool,
    /// The instant up to which everything that had arrived is visible.
    visible: Option<Timestamp>,
    /// Counts the turns that will advance `visible`.
    count: Option<TurnCount>,
    /// How long the machine had been suspended at the last check, in nanoseconds.
    time_suspended: u64,
}

/// Successive turns of the reactor in which the timer fired.
#[derive(Clone, Copy)]
struct TurnCount {
    /// The instant that the timer was set to before the first of them.
    since: Timestamp,
    turns: u32,
}

impl<T: Timer> Alarm<T> {
    pub(super) fn new(timer: T, waker: Arc<AlarmWaker>) -> Self {
        Self {
            time_suspended: saturating_nanos(timer.time_suspended()),
            timer,
            waker,
            set_to: None,
            last_fired_for: None,
            fired: false,
            visible: None,
            count: None,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> Timestamp {
        self.timer.timestamp(self.timer.now())
    }

    pub(super) fn timer(&self) -> &T {
        &self.timer
    }

    #[inline]
    pub(super) fn set_to(&self) -> Option<Timestamp> {
        self.set_to
    }

    /// Returns the instant up to which everything that had arrived is visible to a read or write
    /// that begins now.
    #[inline]
    pub(super) fn visible(&self) -> Option<Timestamp> {
        self.visible
    }

    pub(super) fn last_fired_for(&self) -> Option<Timestamp> {
        self.last_fired_for
    }

    /// Returns whether the timer has fired since a read last found nothing.
    #[inline]
    pub(super) fn has_fired(&self) -> bool {
        self.fired
    }

    /// Unsets the timer.
    pub(super) fn clear(&mut self) {
        self.set_to = None;
        self.fired = false;
    }

    /// Records that a read found nothing.
    pub(super) fn on_empty_read(&mut self) {
        self.fired = false;
    }

    /// Returns the waker of the timer, which handles wake too.
    pub(super) fn waker(&self) -> &Arc<AlarmWaker> {
        &self.waker
    }

    /// Returns whether the timer may have fired since it was last polled.
    #[inline]
    pub(super) fn may_have_fired(&self) -> bool {
        self.waker.was_woken()
    }

    /// Polls the timer, if it has woken us. Returns whether it fired.
    pub(super) fn poll_fired(&mut self) -> bool {
        self.waker.take_woken() && self.set_to.is_some() && self.poll()
    }

    /// Sets the timer to `at`, unless it is set to an earlier instant. Returns whether it fired at
    /// once.
    pub(super) fn set_no_later_than(&mut self, now: Timestamp, at: Timestamp) -> bool {
        // When it fires early, the policy is polled and the timer is set again.
        let at = within_a_day(now, at);
        if self.set_to.is_some_and(|set_to| set_to <= at) {
            return false;
        }
        self.timer.set(self.timer.instant(at));
        self.set_to = Some(at);
        self.poll()
    }

    fn poll(&mut self) -> bool {
        let waker = waker_ref(&self.waker);
        let fires = self.timer.poll(&mut Context::from_waker(&waker)).is_ready();
        if let Some(at) = self.set_to.take_if(|_| fires) {
            self.last_fired_for = Some(at);
            self.fired = true;
            let count = self.count.get_or_insert(TurnCount {
                since: at,
                turns: 0,
            });
            count.turns += 1;
            if count.turns >= self.timer.reactor_turns() {
                self.visible = self.visible.max(Some(count.since));
                self.count = None;
            }
        }
        fires
    }

    /// Starts to make everything up to `deadline` visible. Returns when the timer must fire for
    /// that.
    pub(super) fn make_visible(
        &mut self,
        now: Timestamp,
        deadline: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let deadline = deadline?;
        if self.count.is_none_or(|count| count.since < deadline) {
            // Turns before the deadline prove nothing about it. The last turn counts unless it was
            // one of them.
            self.count = self
                .last_fired_for
                .filter(|&at| at >= deadline && self.visible < Some(deadline))
                .map(|since| TurnCount { since, turns: 1 });
        }
        Some(self.next_turn(now))
    }

    /// Returns when the reactor will have turned.
    pub(super) fn next_turn(&self, now: Timestamp) -> Timestamp {
        now.checked_add(REACTOR_TURN).unwrap_or(now)
    }

    /// Returns how long the machine was suspended since the last call.
    pub(super) fn suspended_for(&mut self) -> Duration {
        let total = saturating_nanos(self.timer.time_suspended());
        let suspended = total.saturating_sub(self.time_suspended);
        self.time_suspended = total;
        Duration::from_nanos(suspended)
    }
}

/// Returns `at`, rounded up to a multiple of `slack` since the origin, which the timers of a
/// runtime share.
pub(super) fn aligned(at: Timestamp, slack: Duration) -> Timestamp {
    let nanos = at
        .as_nanos()
        .checked_next_multiple_of(saturating_nanos(slack));
    nanos.map_or(at, Timestamp::from_nanos)
}
