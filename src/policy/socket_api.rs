//! The policy's private interface, for the socket. The decision itself is made in
//! `State::next_action` and `State::first_expired`.

use core::borrow::Borrow;

use super::TimeoutPolicy;
use super::deadlines::{Horizon, Party};
use super::state::Ping;
use crate::config::TimeoutConfig;
use crate::event::{Action, CloseReason};
use crate::seed::PingId;
use crate::status::Status;
use crate::time::{Timestamp, earlier};

/// The policy's decision for a driver with a [`Horizon`]. The driver carries out any decision but
/// `Wait`, and then decides again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    SendPing,
    Close(CloseReason),
    Abort(CloseReason),
    /// Nothing to do.
    Wait {
        /// When to decide again; always later than now.
        until: Option<Timestamp>,
        /// The earliest expired peer deadline that neither the horizon nor `visible` has reached:
        /// the alarm must fire again for it. A deadline up to `visible` needs only another read or
        /// write.
        unproven: Option<Timestamp>,
    },
}

impl<C: Borrow<TimeoutConfig>> TimeoutPolicy<C> {
    /// Decides as [`poll`](Self::poll) does, up to the horizon. A read or write that begins now sees
    /// everything that had arrived by `visible`. `before_verdict` gets the status that leads to a
    /// verdict.
    pub(crate) fn decide(
        &mut self,
        now: Timestamp,
        horizon: Horizon,
        visible: Option<Timestamp>,
        before_verdict: impl FnOnce(Status),
    ) -> Decision {
        let now = self.advance_clock(now);
        let config = self.config.borrow();
        let snapshot = |state: &super::State| before_verdict(state.status(now, config, now));
        match self.state.next_action(now, config, horizon, snapshot) {
            Ok(Action::SendPing(_)) => return Decision::SendPing,
            Ok(Action::Close(reason)) => return Decision::Close(reason),
            Ok(Action::Abort(reason)) => return Decision::Abort(reason),
            Ok(Action::Idle { .. }) | Err(_) => {}
        }
        let mut next = self.state.heartbeat(now, config);
        let mut unproven = None;
        let plain = self.state.deadlines_without_table(config);
        let plain = plain.map(|(others, ping)| earlier(others, ping));
        if let Some(pending) = plain.filter(|at| at.is_none_or(|at| at > now)) {
            next = earlier(next, pending);
        } else {
            self.state.each_deadline::<false>(now, config, |row| {
                let at = self.state.effective_deadline(config, &row);
                if at.is_some_and(|at| at > now) {
                    next = earlier(next, at);
                } else if at > visible && !horizon.covers(row.party, at) {
                    unproven = earlier(unproven, at);
                }
            });
        }
        Decision::Wait {
            until: self.state.next_wakeup(now, config, next),
            unproven,
        }
    }

    /// Returns the public form of a decision that was just made.
    pub(crate) fn action_of(&self, decision: Decision) -> Action {
        match decision {
            Decision::SendPing => Action::SendPing(self.latest_ping()),
            Decision::Close(reason) => Action::Close(reason),
            Decision::Abort(reason) => Action::Abort(reason),
            Decision::Wait { until, .. } => Action::Idle { until },
        }
    }

    /// Returns whether a peer deadline has expired.
    pub(crate) fn peer_deadline_has_expired(&self, now: Timestamp) -> bool {
        self.has_expired_about(now, |party| party != Party::Local)
    }

    /// Whether a deadline that unread input could move has expired.
    pub(crate) fn unread_deadline_has_expired(&self, now: Timestamp) -> bool {
        self.has_expired_about(now, |party| party == Party::PeerUnread)
    }

    fn has_expired_about(&self, now: Timestamp, about: impl Fn(Party) -> bool) -> bool {
        let config = self.config.borrow();
        let plain = self.state.deadlines_without_table(config);
        // The next ping is not about the peer.
        if plain.is_some_and(|(others, _)| others.is_none_or(|at| at > now)) {
            return false;
        }
        let mut expired = false;
        self.state.each_deadline::<false>(now, config, |row| {
            let at = self.state.effective_deadline(config, &row);
            expired |= about(row.party) && at.is_some_and(|at| at <= now);
        });
        expired
    }

    /// Returns the ID of the latest ping that was requested.
    pub(crate) fn latest_ping(&self) -> PingId {
        self.state.latest_ping()
    }

    /// Whether a pong with this ID would be the first of the latest ping.
    pub(crate) fn awaits_pong(&self, id: PingId) -> bool {
        self.state.pong_awaited && self.latest_ping() == id
    }

    /// Whether the write clock runs.
    pub(crate) fn write_clock_runs(&self) -> bool {
        self.state.write_deadline.is_some()
    }

    /// When the latest grace began.
    pub(crate) fn grace(&self) -> Option<Timestamp> {
        self.state.grace
    }

    /// Whether a message or a flush can bring a deadline nearer at `now`. A message that answers
    /// the ping in flight starts the wait for the next ping, and one during a grace moves a
    /// deadline that the grace postponed.
    #[inline]
    pub(crate) fn traffic_moves_deadlines_nearer(&self, now: Timestamp) -> bool {
        !self.state.is_plain() && (self.state.ping == Ping::InFlight || self.in_grace(now))
    }

    #[cold]
    fn in_grace(&self, now: Timestamp) -> bool {
        let end = self.state.grace_end(self.config.borrow());
        end.is_some_and(|end| now < end)
    }

    /// Whether whole messages only move deadlines later, so that it is enough to record the latest
    /// one in each direction.
    pub(crate) fn is_calm(&self) -> bool {
        self.state.is_plain() && self.state.ping == Ping::Quiet
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::event::{Event, Phase};

    /// Covers every state that three events, with polls in between, can lead to.
    #[test]
    fn while_calm_recording_the_latest_message_of_each_direction_is_enough() {
        let at = Timestamp::from_secs;
        let config = TimeoutConfig::default();
        let within = Duration::from_secs(1);
        let events = [
            Event::Tick,
            Event::Recv,
            Event::RecvPartial { total: 9 },
            Event::Ping,
            Event::Pong(Some(PingId::new(1, 1))),
            Event::SendStart,
            Event::SendProgress { bytes: 9 },
            Event::Flushed,
            Event::PingSent(PingId::new(1, 1)),
            Event::Probe { within },
            Event::Drain { within },
            Event::CloseStart,
        ];
        let (mut calm, mut others) = (0, 0);
        let pairs = events.map(|first| events.map(|second| (first, second)));
        for (first, second) in pairs.into_iter().flatten() {
            for (third, then) in events.iter().flat_map(|&event| [(event, 3), (event, 26)]) {
                let mut policy = TimeoutPolicy::new(&config, 1, at(0));
                policy.handle(at(1), first);
                policy.handle(at(2), second);
                policy.handle(at(then), third);
                if !policy.is_calm() {
                    others += 1;
                    continue;
                }
                calm += 1;
                let mut latest = policy.clone();
                let mut next = policy.next_deadline();
                for (seconds, event) in [
                    (27, Event::SendOk),
                    (28, Event::Recv),
                    (29, Event::SendOk),
                    (30, Event::Recv),
                ] {
                    policy.observe(at(seconds), event);
                    assert!(policy.is_calm());
                    let moved = policy.next_deadline();
                    assert!(moved.is_none_or(|at| next.is_some_and(|before| before <= at)));
                    next = moved;
                }
                latest.observe(at(29), Event::SendOk);
                latest.observe(at(30), Event::Recv);
                assert_eq!(policy, latest, "{first:?}, {second:?}, {third:?}");
            }
        }
        assert!(calm > 100 && others > 100, "{calm} and {others}");
    }

    #[test]
    fn the_status_of_a_verdict_is_the_state_that_led_to_it() {
        let at = Timestamp::from_secs;
        let config = TimeoutConfig::builder()
            .no_ping_interval()
            .jitter(0.0)
            .build()
            .unwrap();
        let mut policy = TimeoutPolicy::new(&config, 1, at(0));
        let mut status = None;
        let decision = policy.decide(at(60), Horizon::EVERYTHING, None, |known| {
            status = Some(known)
        });
        assert_eq!(decision, Decision::Close(CloseReason::IdleTimeout));
        let status = status.unwrap();
        assert_eq!((status.phase, status.cause), (Phase::Open, None));
    }

    /// The policy may give a verdict on a stalled write before it may give one on silence, and reports the
    /// earliest deadline that lies beyond the horizon.
    /// Guards rule 2.
    #[test]
    fn a_horizon_covers_each_row_separately() {
        let at = Timestamp::from_secs;
        let config = TimeoutConfig::builder()
            .jitter(0.0)
            .no_stall_tolerance()
            .no_ping_interval()
            .idle_timeout(Duration::from_secs(4))
            .message_timeout(Duration::from_secs(6))
            .build()
            .unwrap();
        let decide = |horizon| {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            policy.observe(at(0), Event::SendStart);
            policy.decide(at(7), horizon, horizon.written, |_| {})
        };
        let horizon = |read, written| Horizon {
            read: Some(at(read)),
            written: Some(at(written)),
        };
        let heartbeat = Some(at(37));
        let wait = |unproven| Decision::Wait {
            until: heartbeat,
            unproven: Some(at(unproven)),
        };
        let abort = Decision::Abort(CloseReason::MessageTimeout);
        let close = Decision::Close(CloseReason::IdleTimeout);
        assert_eq!(decide(horizon(3, 3)), wait(4));
        assert_eq!(decide(horizon(3, 5)), wait(6));
        assert_eq!(decide(horizon(4, 5)), close);
        assert_eq!(decide(horizon(3, 6)), abort);
        assert_eq!(decide(horizon(7, 7)), abort, "the table's order decides");
    }
}
