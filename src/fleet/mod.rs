//! Many policies behind one deadline.
//!
//! # Theory of operation
//!
//! Each connection has a slot ([`slots`]), and each slot has one timer in a timer wheel
//! ([`wheel`]). A poll takes a slot whose timer fires, computes the connection's next action, and
//! sets the timer to the connection's next deadline.
//!
//! A deadline that moves later leaves the timer where it is. The timer then fires early, and the
//! poll finds nothing to do and sets it to the current deadline. Only a deadline that moves nearer
//! sets the timer immediately. So a message, which moves deadlines later, costs no timer operation.
//!
//! A message usually does not touch the connection's state either: while its only effect there
//! would be to move deadlines later, the slot's header keeps its time instead. Any call that needs
//! the state applies that time first.

mod slots;
mod wheel;

use alloc::sync::Arc;
use core::borrow::Borrow;
use core::fmt;

use slots::{Body, Slots};
use wheel::{SPARE_ENTRIES, Wheel};

use crate::config::TimeoutConfig;
use crate::event::{Action, Event, Phase};
use crate::policy::{Horizon, State};
use crate::status::Status;
use crate::time::Timestamp;

/// The timeouts of many connections, for a server with its own loop.
///
/// A fleet makes the same decisions as one [`TimeoutPolicy`](crate::TimeoutPolicy) per connection,
/// at the same instants. You call a single [`poll`](Self::poll) when
/// [`next_deadline`](Self::next_deadline) is reached. Observing a message is a store into one cache
/// line, not a timer operation. A connection takes about 200 bytes in total; its configuration is
/// shared.
///
/// The caller has the duties of a policy's driver: [`observe`](Self::observe) every event, read and
/// observe everything that has arrived before a poll, and carry out the actions. Two things differ.
/// All connections share the fleet's clock: a `now` earlier than the latest that any call has seen
/// counts as the latest. And `heartbeat_interval` has no effect, since a fleet polls a connection
/// only when something may be due.
///
/// ```
/// use std::sync::Arc;
/// use ws_timeout::{Action, Event, Fleet, Phase, TimeoutConfig, Timestamp};
///
/// let at = Timestamp::from_secs;
/// let config = Arc::new(TimeoutConfig::builder().jitter(0.0).build()?);
/// let mut fleet = Fleet::new();
/// let lively = fleet.insert(config.clone(), 1, at(0));
/// let silent = fleet.insert(config.clone(), 2, at(0));
///
/// fleet.observe(lively, at(5), Event::Recv);
/// fleet.observe(lively, at(5), Event::SendOk);
/// let Some((key, Action::SendPing(ping))) = fleet.poll(at(25)) else { panic!() };
/// assert_eq!(key, silent);
/// fleet.observe(silent, at(25), Event::PingSent(ping)); // when it has been flushed
/// assert_eq!(fleet.poll(at(25)), None);
///
/// fleet.remove(silent);
/// assert!(!fleet.observe(silent, at(26), Event::Recv), "that key is stale now");
/// assert_eq!(fleet.status(lively, at(26)).map(|status| status.phase), Some(Phase::Open));
/// # Ok::<(), ws_timeout::ConfigError>(())
/// ```
pub struct Fleet<C = Arc<TimeoutConfig>> {
    /// The latest instant seen by any call.
    now: Timestamp,
    slots: Slots<C>,
    wheel: Wheel,
}

/// The key of one connection in a [`Fleet`]. It becomes stale when the connection is removed, and
/// never refers to another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetKey {
    slot: u32,
    generation: u32,
}

impl FleetKey {
    /// Returns a small number that no other connection has while this one is in the fleet. Use it
    /// as an index into your own table, or as a poller's token. A later connection may reuse it
    /// after the removal.
    pub const fn index(self) -> usize {
        self.slot as usize
    }
}

impl<C: Borrow<TimeoutConfig>> Fleet<C> {
    /// Creates an empty fleet.
    pub fn new() -> Self {
        Self {
            now: Timestamp::ZERO,
            slots: Slots::new(),
            wheel: Wheel::new(),
        }
    }

    /// Adds a connection that opened at `now`.
    ///
    /// `seed` determines jitter, ping IDs and the drain time. Give each connection its own, or all
    /// of them ping in step.
    ///
    /// At most 2³² − 1 connections fit. A further one is not added, and its key is stale from the
    /// start.
    pub fn insert(&mut self, config: C, seed: u64, now: Timestamp) -> FleetKey {
        self.insert_in(Phase::Open, config, seed, now)
    }

    /// Adds a connection whose opening handshake begins at `now`. See [`insert`](Self::insert).
    pub fn insert_opening(&mut self, config: C, seed: u64, now: Timestamp) -> FleetKey {
        self.insert_in(Phase::Opening, config, seed, now)
    }

    fn insert_in(&mut self, phase: Phase, config: C, seed: u64, now: Timestamp) -> FleetKey {
        let now = self.advance_clock(now);
        let state = State::new(seed, now, phase);
        let key = self.slots.insert(Body { config, state });
        self.wheel.make_room(key.slot);
        self.reschedule(key.slot);
        key
    }

    /// Removes a connection. Returns false if the key is stale. The fleet keeps the memory for
    /// later connections.
    pub fn remove(&mut self, key: FleetKey) -> bool {
        let known = self.slots.remove(key);
        if known {
            self.wheel.cancel(key.slot);
        }
        known
    }

    /// Records what happened to a connection at `now`. Decides nothing. Returns false if the key is
    /// stale.
    #[inline]
    pub fn observe(&mut self, key: FleetKey, now: Timestamp, event: Event) -> bool {
        let now = self.advance_clock(now);
        if matches!(event, Event::Recv) && self.slots.try_defer_message(key, now) {
            return true;
        }
        let known = self.slots.contains(key);
        if known {
            self.record(key.slot, event);
        }
        known
    }

    #[inline(never)]
    fn record(&mut self, slot: u32, event: Event) {
        let now = self.now;
        let Some((header, Body { config, state })) = self.slots.up_to_date(slot) else {
            return;
        };
        let config = (*config).borrow();
        let (plain, cold_armed) = (state.is_plain(), state.cold_armed);
        state.record(now, config, event);
        // The driver flushed the ping of the last poll, so there is no need to poll the slot again
        // immediately.
        let was_requested = matches!(event, Event::PingSent(_)) && self.wheel.is_first(slot);
        let next = match event {
            _ if was_requested => state.earliest(now, config, Horizon::EVERYTHING),
            // Whole messages and flushes only move deadlines later if no ping is in flight and no
            // grace is running.
            Event::Recv | Event::SendOk | Event::Flushed if plain => None,
            // The flush of a ping and its pong bring only deadlines of pings nearer, if no grace is
            // running.
            Event::PingSent(_) | Event::Pong(_) if !cold_armed => {
                state.earliest_of_pings(now, config)
            }
            _ => state.earliest(now, config, Horizon::EVERYTHING),
        };
        let wake_at = state.next_wakeup(now, config, next);
        header.update_tag(state);
        match was_requested {
            true => self.set_timer(slot, wake_at),
            false => self.wake_by(slot, wake_at),
        }
    }

    /// Returns the next due action and its connection. Poll until `None`.
    ///
    /// Never returns [`Action::Idle`], and returns an [`Action::Abort`] once: an aborted connection
    /// has no more actions, and stays until you [remove](Self::remove) it. Connections that are due
    /// at the same time come in no particular order.
    pub fn poll(&mut self, now: Timestamp) -> Option<(FleetKey, Action)> {
        let now = self.advance_clock(now);
        loop {
            for slot in self.wheel.prefetch_next() {
                self.slots.prefetch(slot);
            }
            let slot = self.wheel.pop(now)?;
            let Some((header, Body { config, state })) = self.slots.up_to_date(slot) else {
                continue;
            };
            let config = (*config).borrow();
            let due = state.next_action(now, config, Horizon::EVERYTHING, |_| {});
            header.update_tag(state);
            let key = header.key(slot);
            match due {
                Ok(action) => {
                    match action {
                        Action::Abort(_) => self.set_timer(slot, None),
                        // Start the next poll with this slot: by then the driver may have carried
                        // out the action, and something else may be due.
                        _ => self.wheel.set_first(slot, now),
                    }
                    return Some((key, action));
                }
                Err(next) => {
                    let wake_at = state.next_wakeup(now, config, next);
                    self.set_timer(slot, wake_at);
                }
            }
        }
    }

    /// Returns when to poll next; `None` if nothing will ever be due.
    ///
    /// This is never later than the earliest deadline of a connection, or the latest instant seen
    /// if that deadline has passed. It may be early: distant, moved or removed deadlines are
    /// tracked approximately. Polling then is harmless. A connection whose next deadline is over
    /// half a minute away causes such a poll every 26 to 34 seconds, and a deadline that moves
    /// causes one at its old instant.
    ///
    /// A loop may poll later, for many deadlines together, so that pings share a wake-up as with
    /// `TimeoutSocket::with_timer_slack`. Every action is then that late, and a delay of more than
    /// `stall_tolerance` counts as a stall of this process.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.wheel.next_deadline()
    }

    /// Changes the limits of one connection at `now`, as
    /// [`TimeoutPolicy::set_config`](crate::TimeoutPolicy::set_config) does. Returns false if the
    /// key is stale.
    pub fn set_config(&mut self, key: FleetKey, now: Timestamp, config: C) -> bool {
        self.advance_clock(now);
        let Some(body) = self.slots.body_mut(key) else {
            return false;
        };
        body.config = config;
        if let Some((_, body)) = self.slots.up_to_date(key.slot) {
            body.state.follow_config(body.config.borrow());
        }
        self.reschedule(key.slot);
        true
    }

    /// Returns the current configuration of a connection; `None` if the key is stale.
    pub fn config(&self, key: FleetKey) -> Option<&TimeoutConfig> {
        Some(self.slots.body(key)?.config.borrow())
    }

    /// Returns a snapshot of everything the fleet knows of a connection at `now`; `None` if the key
    /// is stale.
    pub fn status(&self, key: FleetKey, now: Timestamp) -> Option<Status> {
        let body = self.slots.body(key)?;
        let mut state = body.state.clone();
        state.record_message(self.slots.last_message(key.slot));
        Some(state.status(self.now, body.config.borrow(), self.now.max(now)))
    }

    /// Returns whether the key belongs to a connection in the fleet.
    pub fn contains(&self, key: FleetKey) -> bool {
        self.slots.contains(key)
    }

    /// Iterates over the keys of all connections. Visits every slot that was ever used.
    pub fn keys(&self) -> impl Iterator<Item = FleetKey> + '_ {
        self.slots.keys()
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether the fleet is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Advances to `now` and returns the latest instant seen (SPEC T-2).
    fn advance_clock(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.now.max(now);
        self.now
    }

    /// Makes the timer of a connection fire earlier if necessary, after a change that may have
    /// moved any deadline.
    fn reschedule(&mut self, slot: u32) {
        let now = self.now;
        let wake_at = self.slots.up_to_date(slot).and_then(|(header, body)| {
            let (state, config) = (&body.state, body.config.borrow());
            header.update_tag(state);
            let next = state.earliest(now, config, Horizon::EVERYTHING);
            state.next_wakeup(now, config, next)
        });
        self.wake_by(slot, wake_at);
    }

    /// Makes the timer of a slot fire no later than `at`.
    fn wake_by(&mut self, slot: u32, at: Option<Timestamp>) {
        if at.is_some_and(|at| self.wheel.would_fire_earlier(slot, at)) {
            self.set_timer(slot, at);
        }
    }

    fn set_timer(&mut self, slot: u32, at: Option<Timestamp>) {
        match at {
            Some(at) => self.wheel.set(slot, at),
            None => self.wheel.cancel(slot),
        }
        if self.wheel.entries() > 2 * self.slots.len() + SPARE_ENTRIES {
            self.wheel.compact();
        }
    }
}

impl<C: Borrow<TimeoutConfig>> Default for Fleet<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> fmt::Debug for Fleet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("now", &self.now)
            .field("len", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::slots::Header;
    use super::*;

    #[test]
    fn a_connection_takes_196_bytes_and_its_entries_in_the_wheel() {
        let small = size_of::<Header>() + size_of::<Option<Timestamp>>();
        let large = size_of::<Option<Body<Arc<TimeoutConfig>>>>();
        assert_eq!(small + large, 196);
    }
}
