//! Very many policies behind one deadline.
//!
//! Each connection waits in one place of a [`Wheel`] for its deadline. That this moved later is not told
//! to the wheel: when the place comes up the connection is looked at, and put where it belongs by then.
//! Only a deadline that moved nearer is told at once.
//!
//! Nor is a plain message told to the connection: its instant is noted, in a table that holds no more than
//! that takes, until something asks for more.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::cmp::Reverse;
use core::fmt;
use core::hint::black_box;
use core::mem;

use crate::config::TimeoutConfig;
use crate::event::{Action, Event, Phase};
use crate::policy::{Horizon, State};
use crate::status::Status;
use crate::time::{Timestamp, earlier};

/// The timeouts of very many connections, for a server with its own loop.
///
/// For each connection it decides what a [`TimeoutPolicy`](crate::TimeoutPolicy) of its own would, at
/// the same instants, and says so through one [`poll`](Self::poll) behind one
/// [`next_deadline`](Self::next_deadline). A message that came is a store into one cache line, not a
/// timer operation. A connection takes about 200 bytes, all in; its configuration is shared.
///
/// The duties of the caller are those of a policy's: [`observe`](Self::observe) every event, read and
/// observe everything that has arrived before a poll, and do what the poll says. Two things differ.
/// The time is the fleet's: a `now` earlier than one that any call has seen counts as the latest seen.
/// And `heartbeat_interval` means nothing here, for a connection is looked at when something may be
/// due.
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

/// Names one connection of a [`Fleet`]. Once that is removed its key is stale, and never names another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetKey {
    slot: u32,
    generation: u32,
}

impl FleetKey {
    /// A small number that no other connection has while this one is in the fleet: for a table beside
    /// the fleet, or as a poller's token. It is used again after the removal.
    pub const fn index(self) -> usize {
        self.slot as usize
    }
}

impl<C: Borrow<TimeoutConfig>> Fleet<C> {
    /// An empty fleet.
    pub fn new() -> Self {
        Self {
            now: Timestamp::ZERO,
            slots: Slots::new(),
            wheel: Wheel::new(),
        }
    }

    /// Adds a connection that is open since `now`.
    ///
    /// `seed` settles the random parts: jitter, ping IDs, the instant of a drain. Give each
    /// connection its own, or all of them ping in step.
    ///
    /// There is room for 2³² − 1 connections; one more is not added, and its key is stale from the start.
    pub fn insert(&mut self, config: C, seed: u64, now: Timestamp) -> FleetKey {
        self.starting(config, seed, now, Phase::Open)
    }

    /// Adds a connection whose opening handshake begins at `now`. See [`insert`](Self::insert).
    pub fn insert_opening(&mut self, config: C, seed: u64, now: Timestamp) -> FleetKey {
        self.starting(config, seed, now, Phase::Opening)
    }

    fn starting(&mut self, config: C, seed: u64, now: Timestamp, phase: Phase) -> FleetKey {
        let now = self.advance_clock(now);
        let state = State::new(seed, now, phase);
        let key = self.slots.insert(Body { config, state });
        self.settle(key.slot);
        key
    }

    /// Forgets a connection; says whether the key named one. Its memory is kept for those to come.
    pub fn remove(&mut self, key: FleetKey) -> bool {
        self.slots.remove(key)
    }

    /// Records what happened to a connection at `now`, and decides nothing. False if the key is stale.
    #[inline]
    pub fn observe(&mut self, key: FleetKey, now: Timestamp, event: Event) -> bool {
        let now = self.advance_clock(now);
        if matches!(event, Event::Recv) && self.slots.note_message(key, now) {
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
        let Some(Body { config, state }) = self.slots.caught_up(slot) else {
            return;
        };
        let config = (*config).borrow();
        let (plain, cold_armed) = (state.is_plain(), state.cold_armed);
        state.record(now, config, event);
        let next = match event {
            // Whole messages only move deadlines away where no ping is in flight and no grace runs.
            Event::Recv | Event::SendOk | Event::Flushed if plain => None,
            // What becomes of a ping brings only the deadlines of pings nearer, where no grace runs.
            Event::PingSent(_) | Event::Pong(_) if !cold_armed => {
                state.earliest_of_pings(now, config)
            }
            _ => state.earliest(now, config, Horizon::EVERYTHING),
        };
        let look_at = state.next_wakeup(now, config, next);
        self.slots.await_messages(slot);
        self.look_by(slot, look_at);
    }

    /// What is to be done at `now`: poll until `None`.
    ///
    /// It never says [`Action::Idle`], and an [`Action::Abort`] once; a connection that was aborted has
    /// nothing more to say, and is there until it is [removed](Self::remove). Connections that are due
    /// at once come in no particular order.
    pub fn poll(&mut self, now: Timestamp) -> Option<(FleetKey, Action)> {
        let now = self.advance_clock(now);
        loop {
            for slot in self.wheel.foresee() {
                self.slots.touch(slot);
            }
            let slot = self.wheel.next(now, &self.slots)?;
            let Some(Body { config, state }) = self.slots.caught_up(slot) else {
                continue;
            };
            let config = (*config).borrow();
            let due = state.next_action(now, config, Horizon::EVERYTHING, |_| {});
            match due {
                Ok(Action::Abort(_)) => self.arm(slot, None),
                // What comes next is seen when the driver, who may have done it by then, polls again.
                Ok(_) => self.slots.set_place(slot, self.wheel.put_again(slot, now)),
                Err(next) => {
                    let look_at = state.next_wakeup(now, config, next);
                    self.arm(slot, look_at);
                }
            }
            self.slots.await_messages(slot);
            if let (Ok(action), Some(key)) = (due, self.slots.key(slot)) {
                return Some((key, action));
            }
        }
    }

    /// When to poll next; `None` if nothing will ever be due.
    ///
    /// Never later than the earliest deadline of a connection, or if that is past than the latest instant
    /// seen. It can be earlier, for a deadline that is far away, has moved away, or was that of a connection
    /// that is gone, is known no more exactly than is needed; whoever polls then, to `None`, gets a later
    /// answer or none. A connection whose deadline is over half a minute away causes such a look at nothing
    /// every 26 to 34 seconds, and each causes one where its deadline was before it moved.
    ///
    /// A loop may poll later than this, and at the same instants for all that is due by then, so that pings
    /// share a wake-up as with `TimeoutSocket::with_timer_slack`: all that is
    /// due then comes late by as much, and later than `stall_tolerance` counts as a stall of our own.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.wheel.next_deadline()
    }

    /// Changes the limits of one living connection at `now`, as
    /// [`TimeoutPolicy::set_config`](crate::TimeoutPolicy::set_config) does. False if the key is stale.
    pub fn set_config(&mut self, key: FleetKey, now: Timestamp, config: C) -> bool {
        self.advance_clock(now);
        let Some(body) = self.slots.body_mut(key) else {
            return false;
        };
        body.config = config;
        if let Some(body) = self.slots.caught_up(key.slot) {
            body.state.follow_config(body.config.borrow());
        }
        self.settle(key.slot);
        true
    }

    /// The configuration in force for a connection; `None` if the key is stale.
    pub fn config(&self, key: FleetKey) -> Option<&TimeoutConfig> {
        Some(self.slots.body(key)?.config.borrow())
    }

    /// Everything that is known of a connection at `now`; `None` if the key is stale.
    pub fn status(&self, key: FleetKey, now: Timestamp) -> Option<Status> {
        let body = self.slots.body(key)?;
        let mut state = body.state.clone();
        state.record_message(self.slots.message(key.slot));
        Some(state.status(self.now, body.config.borrow(), self.now.max(now)))
    }

    /// Whether the key names a connection that was not removed.
    pub fn contains(&self, key: FleetKey) -> bool {
        self.slots.contains(key)
    }

    /// The keys of all connections; passes over the room of those that were removed.
    pub fn keys(&self) -> impl Iterator<Item = FleetKey> + '_ {
        self.slots.keys()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.slots.len
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn advance_clock(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.now.max(now);
        self.now
    }

    /// Sees to it that a connection of which anything may have changed is looked at in time.
    fn settle(&mut self, slot: u32) {
        let now = self.now;
        let look_at = self.slots.caught_up(slot).and_then(|body| {
            let (state, config) = (&body.state, body.config.borrow());
            state.next_wakeup(
                now,
                config,
                state.earliest(now, config, Horizon::EVERYTHING),
            )
        });
        self.slots.await_messages(slot);
        self.look_by(slot, look_at);
    }

    /// Sees to it that a connection is looked at no later than `at`.
    fn look_by(&mut self, slot: u32, at: Option<Timestamp>) {
        let place = self.slots.place(slot);
        if at.is_some_and(|at| self.wheel.is_nearer(slot, at, place)) {
            self.arm(slot, at);
        }
    }

    /// Puts a connection where it is looked at when `at` comes.
    fn arm(&mut self, slot: u32, at: Option<Timestamp>) {
        let place = match at {
            Some(at) => self.wheel.put(slot, at),
            None => Place::NOWHERE,
        };
        self.slots.set_place(slot, place);
        if self.wheel.entries() > 2 * self.slots.len + SPARE_ENTRIES {
            self.wheel.tidy(&self.slots);
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
            .field("len", &self.slots.len)
            .finish_non_exhaustive()
    }
}

// ---- where the connections lie ----

/// What each connection consists of. Most of what happens touches the notes only: a small table, of which
/// much is in the cache when all connections together are not.
struct Slots<C> {
    notes: Table<Note, 2048>,
    places: Table<Place, 2048>,
    bodies: Table<Option<Body<C>>, 128>,
    /// How many slots were ever used.
    used: u32,
    /// Slots to be used again.
    free: Vec<u32>,
    len: usize,
}

/// Whether a slot is in use, by which of all its connections, and what a message to that does.
/// A slot whose generations are used up is never used again.
#[derive(Clone, Copy)]
struct Mark(u32);

impl Mark {
    const IN_USE: u32 = 1;
    /// The connection must be told of each message at once.
    const TOLD: u32 = 2;
    const GENERATION: u32 = 4;

    fn in_use(self) -> bool {
        self.0 & Self::IN_USE != 0
    }

    /// That of the key.
    fn generation(self) -> u32 {
        self.0 & !Self::TOLD
    }

    fn next(self) -> Self {
        Self(self.generation().wrapping_add(Self::GENERATION) & !Self::IN_USE)
    }
}

/// All of a connection that a message touches.
struct Note {
    mark: Mark,
    /// The latest message that was noted, in nanoseconds, as two halves of which neither needs padding. To
    /// be told of one again does nothing to a connection.
    message: [u32; 2],
}

impl Note {
    const VACANT: Self = Self {
        mark: Mark(0),
        message: [0; 2],
    };

    fn message(&self) -> Timestamp {
        let [low, high] = self.message.map(u64::from);
        Timestamp::from_nanos(high << 32 | low)
    }

    #[inline]
    fn set_message(&mut self, at: Timestamp) {
        let nanos = at.as_nanos();
        self.message = [nanos as u32, (nanos >> 32) as u32];
    }
}

/// All that is known of a connection but its latest messages; what pings touch first.
#[repr(C)]
struct Body<C> {
    config: C,
    state: State,
}

impl<C> Slots<C> {
    const fn new() -> Self {
        Self {
            notes: Table::new(),
            places: Table::new(),
            bodies: Table::new(),
            used: 0,
            free: Vec::new(),
            len: 0,
        }
    }

    fn insert(&mut self, body: Body<C>) -> FleetKey {
        let slot = self.free.pop().unwrap_or(self.used);
        let mut generation = 0;
        if slot == u32::MAX {
            return FleetKey { slot, generation };
        }
        if slot == self.used {
            self.notes.make_room(slot, || Note::VACANT);
            self.places.make_room(slot, || Place::NOWHERE);
            self.bodies.make_room(slot, || None);
            self.used += 1;
        }
        if let (Some(Note { mark, .. }), Some(place)) =
            (self.notes.get_mut(slot), self.bodies.get_mut(slot))
        {
            mark.0 |= Mark::IN_USE;
            generation = mark.generation();
            *place = Some(body);
            self.len += 1;
        }
        FleetKey { slot, generation }
    }

    fn remove(&mut self, key: FleetKey) -> bool {
        if !self.contains(key) {
            return false;
        }
        if let (Some(Note { mark, .. }), Some(body)) =
            (self.notes.get_mut(key.slot), self.bodies.get_mut(key.slot))
        {
            *mark = mark.next();
            if mark.0 != 0 {
                self.free.push(key.slot);
            }
            *body = None;
        }
        self.set_place(key.slot, Place::NOWHERE);
        self.len -= 1;
        true
    }

    fn body(&self, key: FleetKey) -> Option<&Body<C>> {
        self.bodies
            .get(key.slot)?
            .as_ref()
            .filter(|_| self.contains(key))
    }

    fn body_mut(&mut self, key: FleetKey) -> Option<&mut Body<C>> {
        if !self.contains(key) {
            return None;
        }
        self.bodies.get_mut(key.slot)?.as_mut()
    }

    fn contains(&self, key: FleetKey) -> bool {
        let mark = self.notes.get(key.slot).map(|note| note.mark);
        mark.is_some_and(|mark| mark.generation() == key.generation && mark.in_use())
    }

    /// Notes a message, if that will do; false if the connection must be told, or there is none.
    #[inline]
    fn note_message(&mut self, key: FleetKey, now: Timestamp) -> bool {
        match self.notes.get_mut(key.slot) {
            Some(note) if note.mark.0 == key.generation => {
                note.set_message(now);
                true
            }
            _ => false,
        }
    }

    fn message(&self, slot: u32) -> Timestamp {
        let note = self.notes.get(slot);
        note.map_or(Timestamp::ZERO, Note::message)
    }

    /// The connection in a slot, if one is there, after it was told of the latest message.
    fn caught_up(&mut self, slot: u32) -> Option<&mut Body<C>> {
        let message = self.message(slot);
        let body = self.bodies.get_mut(slot)?.as_mut()?;
        body.state.record_message(message);
        Some(body)
    }

    /// Has a connection fetched from memory. Several at once take no longer than one.
    fn touch(&self, slot: u32) {
        if let Some(Some(body)) = self.bodies.get(slot) {
            body.state.touch();
        }
        black_box((self.place(slot), self.message(slot)));
    }

    /// Messages are noted from now on, if the connection needs not be told of them, which was told of
    /// all so far.
    fn await_messages(&mut self, slot: u32) {
        if let (Some(Note { mark, .. }), Some(Some(body))) =
            (self.notes.get_mut(slot), self.bodies.get(slot))
        {
            mark.0 = match body.state.is_plain() {
                true => mark.generation(),
                false => mark.generation() | Mark::TOLD,
            };
        }
    }

    /// Where the connection in a slot waits; nowhere if there is none.
    fn place(&self, slot: u32) -> Place {
        self.places.get(slot).map_or(Place::NOWHERE, |&place| place)
    }

    fn set_place(&mut self, slot: u32, value: Place) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = value;
        }
    }

    fn key(&self, slot: u32) -> Option<FleetKey> {
        let mark = self
            .notes
            .get(slot)
            .map(|note| note.mark)
            .filter(|mark| mark.in_use())?;
        let generation = mark.generation();
        Some(FleetKey { slot, generation })
    }

    fn keys(&self) -> impl Iterator<Item = FleetKey> + '_ {
        (0..self.used).filter_map(|slot| self.key(slot))
    }
}

/// An array that grows without moving what it holds, and by little at a time.
struct Table<T, const CHUNK: usize> {
    chunks: Vec<Box<[T; CHUNK]>>,
}

impl<T, const CHUNK: usize> Table<T, CHUNK> {
    const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    #[inline]
    fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        Some(&self.chunks.get(slot / CHUNK)?[slot % CHUNK])
    }

    #[inline]
    fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        Some(&mut self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK])
    }

    /// Makes room for the next slot.
    fn make_room(&mut self, slot: u32, vacant: impl FnMut() -> T) {
        if slot as usize / CHUNK == self.chunks.len() {
            let chunk = Vec::from_iter(core::iter::repeat_with(vacant).take(CHUNK));
            self.chunks.extend(Box::try_from(chunk));
        }
    }
}

// ---- when they are looked at ----

/// Which slot to look at when.
///
/// A ring of buckets, each for one tick; where a deadline lies beyond the ring, one of its last buckets
/// serves, and the look at that finds a deadline that is still far away. When a tick comes its bucket is
/// sorted. What is put into that tick later goes into a heap.
///
/// An entry counts while the connection's [`Place`] names it; otherwise it is stale, and skipped.
struct Wheel {
    /// The tick that has come: the buckets of all before it, and its own, have been emptied.
    tick: u64,
    buckets: Vec<Vec<Entry>>,
    /// A bit for each bucket in which something is.
    filled: [u64; BUCKETS / 64],
    /// How many entries are in all buckets.
    in_buckets: usize,
    /// What was in the bucket of the tick that has come, and is still to be looked at; the first last.
    current: Vec<Entry>,
    /// How many of those were foreseen.
    foreseen: usize,
    near: BinaryHeap<Reverse<(Timestamp, u32)>>,
    /// What is looked at once more before all else, and the instant in its place.
    again: Option<(Timestamp, u32)>,
}

/// When in the tick of its bucket a slot is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// In steps of 16 nanoseconds, rounded down.
    part: u32,
    slot: u32,
}

const TICK_BITS: u32 = 25; // 34 ms
const PART_BITS: u32 = 21; // 16 ns
const STEP_BITS: u32 = TICK_BITS - PART_BITS;
const BUCKETS: usize = 1024; // 34 s

/// Over how many buckets those are spread whose deadlines lie beyond the ring: in one they would all be looked
/// at in one call, lap after lap.
const LAST_BUCKETS: u64 = 256; // 9 s

/// Stale entries that are never worth tidying up.
const SPARE_ENTRIES: usize = 1024;

/// Which entry of a slot counts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const NOWHERE: Self = Self(u32::MAX);
    const NEAR: u32 = 1 << 31;

    /// In the heap, for that nanosecond of the tick that has come.
    fn near(at: Timestamp) -> Self {
        Self(Self::NEAR | (at.as_nanos() % (1 << TICK_BITS)) as u32)
    }

    /// In the bucket of a tick, for a part of it.
    fn bucket(tick: u64, part: u32) -> Self {
        Self(((tick % BUCKETS as u64) as u32) << PART_BITS | part)
    }
}

impl Wheel {
    fn new() -> Self {
        Self {
            tick: 0,
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            filled: [0; BUCKETS / 64],
            in_buckets: 0,
            current: Vec::new(),
            foreseen: 0,
            near: BinaryHeap::new(),
            again: None,
        }
    }

    /// Puts a slot where it is looked at when `at` comes.
    fn put(&mut self, slot: u32, at: Timestamp) -> Place {
        let at = self.within(slot, at);
        let (tick, part) = (tick_of(at), part_of(at));
        if tick == self.tick {
            self.near.push(Reverse((at, slot)));
            return Place::near(at);
        }
        let index = (tick % BUCKETS as u64) as usize;
        if let (Some(bucket), Some(word)) =
            (self.buckets.get_mut(index), self.filled.get_mut(index / 64))
        {
            if bucket.len() == bucket.capacity() {
                bucket.reserve_exact(4 + bucket.len() / 4); // all the buckets together are large
            }
            bucket.push(Entry { part, slot });
            self.in_buckets += 1;
            *word |= 1 << (index % 64);
        }
        Place::bucket(tick, part)
    }

    /// Puts the slot that was looked at last, at `now`, where it is looked at once more before all else.
    fn put_again(&mut self, slot: u32, now: Timestamp) -> Place {
        let last = instant(self.tick, (1 << TICK_BITS) - 1);
        let at = now.min(last);
        self.again = Some((at, slot));
        Place::near(at)
    }

    /// `at`, or the latest instant before it for which there is a place for this slot.
    fn within(&self, slot: u32, at: Timestamp) -> Timestamp {
        let last = self.tick + BUCKETS as u64 - 1;
        if at < start_of(last) {
            at.max(start_of(self.tick))
        } else {
            start_of(last - u64::from(slot) % LAST_BUCKETS)
        }
    }

    /// Whether a slot that is put for `at` is looked at before it is where it waits, at `place`.
    fn is_nearer(&self, slot: u32, at: Timestamp, place: Place) -> bool {
        self.looked_at(place)
            .is_none_or(|looked_at| self.within(slot, at) < looked_at)
    }

    /// When what waits there is looked at.
    fn looked_at(&self, place: Place) -> Option<Timestamp> {
        if place == Place::NOWHERE {
            return None;
        }
        if place.0 & Place::NEAR != 0 {
            return Some(instant(self.tick, place.0 - Place::NEAR));
        }
        let bucket = u64::from(place.0 >> PART_BITS);
        let ticks = bucket.wrapping_sub(self.tick) % BUCKETS as u64;
        let part = place.0 % (1 << PART_BITS);
        Some(instant(self.tick + ticks, part << STEP_BITS))
    }

    /// Some of the slots that are to be looked at next, those of before left out.
    fn foresee(&mut self) -> impl Iterator<Item = u32> + '_ {
        const SOME: usize = 16;
        if self.foreseen == 0 {
            self.foreseen = self.current.len().min(SOME);
            self.current.iter().rev().take(SOME)
        } else {
            [].iter().rev().take(0)
        }
        .map(|entry| entry.slot)
    }

    /// A slot to look at, of those for which it is time.
    fn next<C>(&mut self, now: Timestamp, slots: &Slots<C>) -> Option<u32> {
        if let Some((at, slot)) = self.again.take() {
            if slots.place(slot) == Place::near(at) {
                return Some(slot);
            }
        }
        loop {
            while let Some(&entry) = self.current.last() {
                if entry.at(self.tick) > now {
                    break;
                }
                self.current.pop();
                self.foreseen = self.foreseen.saturating_sub(1);
                if slots.place(entry.slot) == Place::bucket(self.tick, entry.part) {
                    return Some(entry.slot);
                }
            }
            while let Some(&Reverse((at, slot))) = self.near.peek() {
                if at > now {
                    break;
                }
                self.near.pop();
                if slots.place(slot) == Place::near(at) {
                    return Some(slot);
                }
            }
            if !self.advance(tick_of(now)) {
                return None;
            }
        }
    }

    /// Goes on to the next tick with something in its bucket, or to `end` if there is none before it.
    /// False if that has come already.
    fn advance(&mut self, end: u64) -> bool {
        const LAP: u64 = BUCKETS as u64;
        if end <= self.tick {
            return false;
        }
        // After a long time nothing is gained by going round more than twice.
        let laps = (end - self.tick) / LAP;
        self.tick += laps.saturating_sub(1) * LAP;

        match self.next_filled() {
            Some(tick) if tick <= end => {
                self.tick = tick;
                let index = (tick % BUCKETS as u64) as usize;
                if let (Some(bucket), Some(word)) =
                    (self.buckets.get_mut(index), self.filled.get_mut(index / 64))
                {
                    self.current = mem::take(bucket);
                    self.foreseen = 0;
                    self.in_buckets -= self.current.len();
                    *word &= !(1 << (index % 64));
                }
                self.current.sort_unstable_by_key(|&entry| Reverse(entry));
            }
            _ => self.tick = end,
        }
        true
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        if let Some((at, _)) = self.again {
            return Some(at);
        }
        let current = self.current.last().map(|entry| entry.at(self.tick));
        let near = self.near.peek().map(|&Reverse((at, _))| at);
        earlier(current, near).or_else(|| self.next_filled().map(start_of))
    }

    /// The next tick with something in its bucket.
    fn next_filled(&self) -> Option<u64> {
        const WORDS: usize = BUCKETS / 64;
        let from = self.tick + 1;
        let first = (from % BUCKETS as u64) as usize;
        let before_first = (1 << (first % 64)) - 1;
        (0..=WORDS).find_map(|step| {
            let word = (first / 64 + step) % WORDS;
            let bits = match step {
                0 => self.filled[word] & !before_first,
                WORDS => self.filled[word] & before_first,
                _ => self.filled[word],
            };
            let bucket = word * 64 + bits.trailing_zeros() as usize;
            let ticks = bucket.wrapping_sub(first) % BUCKETS;
            (bits != 0).then_some(from + ticks as u64)
        })
    }

    /// How many entries there are, stale ones too.
    fn entries(&self) -> usize {
        self.in_buckets + self.current.len() + self.near.len()
    }

    /// Throws out what is stale, and what is there twice.
    #[cold]
    fn tidy<C>(&mut self, slots: &Slots<C>) {
        let keep_one_of_each = |entries: &mut Vec<Entry>, tick| {
            entries.sort_unstable_by_key(|&entry| Reverse(entry));
            entries.dedup();
            entries.retain(|entry| slots.place(entry.slot) == Place::bucket(tick, entry.part));
            entries.shrink_to_fit();
        };
        keep_one_of_each(&mut self.current, self.tick);
        self.foreseen = 0;
        self.in_buckets = 0;
        for (tick, bucket) in (0..).zip(&mut self.buckets) {
            keep_one_of_each(bucket, tick);
            self.in_buckets += bucket.len();
        }
        let mut near = mem::take(&mut self.near).into_vec();
        near.sort_unstable();
        near.dedup();
        near.retain(|&Reverse((at, slot))| slots.place(slot) == Place::near(at));
        self.near = near.into();
    }
}

impl Entry {
    fn at(self, tick: u64) -> Timestamp {
        instant(tick, self.part << STEP_BITS)
    }
}

fn part_of(at: Timestamp) -> u32 {
    (at.as_nanos() % (1 << TICK_BITS)) as u32 >> STEP_BITS
}

fn tick_of(at: Timestamp) -> u64 {
    at.as_nanos() >> TICK_BITS
}

fn start_of(tick: u64) -> Timestamp {
    instant(tick, 0)
}

/// So many nanoseconds into a tick.
fn instant(tick: u64, nanos: u32) -> Timestamp {
    let start = tick.saturating_mul(1 << TICK_BITS);
    Timestamp::from_nanos(start.saturating_add(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many entries as there may be.
    fn bound(fleet: &Fleet<&TimeoutConfig>) -> usize {
        2 * (fleet.len() + 1) + SPARE_ENTRIES
    }

    #[test]
    fn a_connection_takes_as_much_as_three_cache_lines() {
        let small = size_of::<Note>() + size_of::<Place>();
        assert_eq!(
            small + size_of::<Option<Body<Arc<TimeoutConfig>>>>(),
            3 * 64
        );
    }

    /// Each write brings the deadline nearer and leaves an entry behind, which would be there for half a
    /// minute.
    #[test]
    fn entries_that_became_stale_are_thrown_out() {
        let config = TimeoutConfig::DEFAULT;
        let mut fleet = Fleet::new();
        let keys: Vec<_> = (0..100)
            .map(|seed| fleet.insert(&config, seed, Timestamp::ZERO))
            .collect();
        for millis in (0..60_000).step_by(20) {
            let now = Timestamp::from_millis(millis);
            for &key in &keys {
                fleet.observe(key, now, Event::SendStart);
                fleet.observe(key, now, Event::SendOk);
            }
            while let Some((key, action)) = fleet.poll(now) {
                if let Action::SendPing(ping) = action {
                    fleet.observe(key, now, Event::PingSent(ping));
                    fleet.observe(key, now, Event::Pong(Some(ping)));
                }
            }
            assert!(fleet.wheel.entries() <= bound(&fleet));
        }
    }

    #[test]
    fn entries_of_the_removed_are_thrown_out() {
        let config = TimeoutConfig::DEFAULT;
        let mut fleet = Fleet::new();
        for seed in 0..100_000 {
            let key = fleet.insert(&config, seed, Timestamp::ZERO);
            fleet.remove(key);
            assert!(fleet.wheel.entries() <= bound(&fleet));
        }
    }

    #[test]
    fn deadlines_that_are_far_away_are_not_looked_at_all_at_once() {
        const CONNECTIONS: usize = 10_000;
        let hour = core::time::Duration::from_secs(60 * 60);
        let config = TimeoutConfig::builder()
            .no_ping_interval()
            .no_connection_timeout()
            .idle_timeout(hour)
            .build()
            .unwrap();
        let mut fleet = Fleet::new();
        for seed in 0..CONNECTIONS as u64 {
            fleet.insert(&config, seed, Timestamp::ZERO);
        }
        let mut polls = 0;
        loop {
            let most = fleet.wheel.buckets.iter().map(Vec::len).max().unwrap_or(0);
            let fair = CONNECTIONS.div_ceil(LAST_BUCKETS as usize);
            assert!(most <= 8 * fair, "{most} in one bucket");
            let now = fleet.next_deadline().unwrap();
            if now.saturating_duration_since(Timestamp::ZERO) > hour / 2 {
                break;
            }
            assert_eq!(fleet.poll(now), None);
            polls += 1;
        }
        assert!(polls > LAST_BUCKETS);
    }

    #[test]
    fn a_slot_with_no_generation_left_is_not_used_again() {
        let config = TimeoutConfig::DEFAULT;
        let mut fleet = Fleet::new();
        let first = fleet.insert(&config, 0, Timestamp::ZERO);
        let last = FleetKey {
            generation: !Mark::TOLD,
            ..first
        };
        fleet.slots.notes.get_mut(0).unwrap().mark = Mark(u32::MAX);
        assert!(fleet.remove(last) && !fleet.contains(last));
        let next = fleet.insert(&config, 0, Timestamp::ZERO);
        assert_eq!(next.index(), 1);
        assert!(fleet.keys().eq([next]));
    }

    #[test]
    fn a_table_grows_over_many_chunks() {
        const CHUNK: usize = 256;
        let mut table = Table::<_, CHUNK>::new();
        for number in 0..3 * CHUNK as u32 {
            assert!(table.get(number).is_none() || number as usize % CHUNK > 0);
            table.make_room(number, || 0);
            *table.get_mut(number).unwrap() = number;
        }
        assert!((0..3 * CHUNK as u32).all(|number| table.get(number) == Some(&number)));
        assert!(table.get(3 * CHUNK as u32).is_none() && table.get_mut(u32::MAX).is_none());
    }
}
