//! When each slot is polled.
//!
//! A hashed timer wheel. Its buckets, each for one tick of 34 ms, are used round and round. A timer
//! that lies beyond the last bucket goes into one of the last buckets instead; it fires there early
//! and is set again.
//!
//! When a tick comes, its bucket is sorted and emptied from the earliest entry. A timer that is
//! set within the current tick goes into a heap.
//!
//! Setting a timer again, or cancelling it, leaves its old entry where it is. A [`Place`] for each
//! slot says which entry is valid; the others are stale, and are skipped when they come up.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::hint::black_box;
use core::mem;

use super::slots::Table;
use crate::time::{Timestamp, earlier};

const TICK_BITS: u32 = 25; // 34 ms
const OFFSET_BITS: u32 = 21; // 16 ns
const STEP_BITS: u32 = TICK_BITS - OFFSET_BITS;
const BUCKETS: usize = 1024; // 34 s

/// How many of the last buckets share the timers beyond them. In a single bucket, one call would
/// work off all of these timers, in every round.
const FAR_BUCKETS: u64 = 256; // 9 s

/// How many stale entries are never worth a compaction.
pub(super) const SPARE_ENTRIES: usize = 1024;

/// One timer for each slot.
pub(super) struct Wheel {
    /// The current tick. Its bucket, and those of all ticks before it, are empty.
    tick: u64,
    buckets: Vec<Vec<Entry>>,
    /// A bit for each bucket, set if it holds entries.
    occupied: [u64; BUCKETS / 64],
    /// How many entries all buckets hold.
    in_buckets: usize,
    /// The entries from the bucket of the current tick that have not fired, the earliest last.
    current: Vec<Entry>,
    /// How many of those were prefetched.
    prefetched: usize,
    /// The entries that were added to the current tick after its bucket was emptied.
    near: BinaryHeap<Reverse<(Timestamp, u32)>>,
    /// The slot that fires before all others, and the instant in its place.
    first: Option<(Timestamp, u32)>,
    places: Table<Place, 2048>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            tick: 0,
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            occupied: [0; BUCKETS / 64],
            in_buckets: 0,
            current: Vec::new(),
            prefetched: 0,
            near: BinaryHeap::new(),
            first: None,
            places: Table::new(),
        }
    }

    /// Makes room for the first slot that has none.
    pub(super) fn make_room(&mut self, slot: u32) {
        self.places.make_room(slot, || Place::NONE);
    }

    /// Sets the timer of a slot to `at`, or as far in that direction as the wheel reaches.
    pub(super) fn set(&mut self, slot: u32, at: Timestamp) {
        let place = self.insert(slot, at);
        self.set_place(slot, place);
    }

    /// Makes a slot, the last that fired, fire again before all others.
    pub(super) fn set_first(&mut self, slot: u32, now: Timestamp) {
        let last = instant(self.tick, (1 << TICK_BITS) - 1);
        let at = now.min(last);
        self.first = Some((at, slot));
        self.set_place(slot, Place::near(at));
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        self.set_place(slot, Place::NONE);
    }

    /// Returns whether the timer of a slot, if it were set to `at`, would fire earlier than it
    /// does.
    pub(super) fn would_fire_earlier(&self, slot: u32, at: Timestamp) -> bool {
        self.fires_at(self.place(slot))
            .is_none_or(|fires_at| self.clamp(slot, at) < fires_at)
    }

    /// Returns a slot whose timer fires.
    #[inline]
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<u32> {
        if let Some((at, slot)) = self.first.take() {
            if self.place(slot) == Place::near(at) {
                return Some(slot);
            }
        }
        loop {
            while let Some(&entry) = self.current.last() {
                if entry.at(self.tick) > now {
                    break;
                }
                self.current.pop();
                self.prefetched = self.prefetched.saturating_sub(1);
                if self.place(entry.slot) == Place::bucket(self.tick, entry.offset) {
                    return Some(entry.slot);
                }
            }
            while let Some(&Reverse((at, slot))) = self.near.peek() {
                if at > now {
                    break;
                }
                self.near.pop();
                if self.place(slot) == Place::near(at) {
                    return Some(slot);
                }
            }
            if !self.advance(tick_of(now)) {
                return None;
            }
        }
    }

    /// Returns when the next entry fires, which may be a stale one.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        if let Some((at, _)) = self.first {
            return Some(at);
        }
        let current = self.current.last().map(|entry| entry.at(self.tick));
        let near = self.near.peek().map(|&Reverse((at, _))| at);
        earlier(current, near).or_else(|| self.next_occupied().map(start_of))
    }

    /// Returns some of the slots that fire next, if those it returned before have all fired.
    pub(super) fn prefetch_next(&mut self) -> impl Iterator<Item = u32> + '_ {
        const SOME: usize = 16;
        if self.prefetched == 0 {
            self.prefetched = self.current.len().min(SOME);
            self.current.iter().rev().take(SOME)
        } else {
            [].iter().rev().take(0)
        }
        .map(|entry| {
            black_box(self.places.get(entry.slot));
            entry.slot
        })
    }

    /// Returns how many entries there are, with the stale ones.
    pub(super) fn entries(&self) -> usize {
        self.in_buckets + self.current.len() + self.near.len()
    }

    /// Removes stale and duplicate entries.
    #[cold]
    pub(super) fn compact(&mut self) {
        let place = |slot| self.places.get(slot).copied();
        let keep_valid = |entries: &mut Vec<Entry>, tick| {
            entries.sort_unstable_by_key(|&entry| Reverse(entry));
            entries.dedup();
            entries.retain(|entry| place(entry.slot) == Some(Place::bucket(tick, entry.offset)));
            entries.shrink_to_fit();
        };
        keep_valid(&mut self.current, self.tick);
        self.prefetched = 0;
        self.in_buckets = 0;
        for (tick, bucket) in (0..).zip(&mut self.buckets) {
            keep_valid(bucket, tick);
            self.in_buckets += bucket.len();
        }
        let mut near = mem::take(&mut self.near).into_vec();
        near.sort_unstable();
        near.dedup();
        near.retain(|&Reverse((at, slot))| place(slot) == Some(Place::near(at)));
        self.near = near.into();
    }

    fn place(&self, slot: u32) -> Place {
        self.places.get(slot).map_or(Place::NONE, |&place| place)
    }

    fn set_place(&mut self, slot: u32, value: Place) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = value;
        }
    }

    /// Adds an entry and returns its place.
    fn insert(&mut self, slot: u32, at: Timestamp) -> Place {
        let at = self.clamp(slot, at);
        let (tick, offset) = (tick_of(at), offset_of(at));
        if tick == self.tick {
            self.near.push(Reverse((at, slot)));
            return Place::near(at);
        }
        let index = (tick % BUCKETS as u64) as usize;
        if let (Some(bucket), Some(word)) = (
            self.buckets.get_mut(index),
            self.occupied.get_mut(index / 64),
        ) {
            if bucket.len() == bucket.capacity() {
                bucket.reserve_exact(4 + bucket.len() / 4); // all the buckets together are large
            }
            bucket.push(Entry { offset, slot });
            self.in_buckets += 1;
            *word |= 1 << (index % 64);
        }
        Place::bucket(tick, offset)
    }

    /// Returns `at`, or the instant nearest to it to which the timer of this slot can be set.
    fn clamp(&self, slot: u32, at: Timestamp) -> Timestamp {
        let last = self.tick + BUCKETS as u64 - 1;
        if at < start_of(last) {
            at.max(start_of(self.tick))
        } else {
            start_of(last - u64::from(slot) % FAR_BUCKETS)
        }
    }

    /// Returns when the entry at a place fires.
    fn fires_at(&self, place: Place) -> Option<Timestamp> {
        if place == Place::NONE {
            return None;
        }
        if place.0 & Place::NEAR != 0 {
            return Some(instant(self.tick, place.0 - Place::NEAR));
        }
        let bucket = u64::from(place.0 >> OFFSET_BITS);
        let ticks = bucket.wrapping_sub(self.tick) % BUCKETS as u64;
        let offset = place.0 % (1 << OFFSET_BITS);
        Some(instant(self.tick + ticks, offset << STEP_BITS))
    }

    /// Moves on to the next tick whose bucket holds entries, or to `end` if there is none before
    /// it. Returns false if `end` has come already.
    fn advance(&mut self, end: u64) -> bool {
        const ROUND: u64 = BUCKETS as u64;
        if end <= self.tick {
            return false;
        }
        // One round reaches every bucket, so after a long time the others are skipped.
        let rounds = (end - self.tick) / ROUND;
        self.tick += rounds.saturating_sub(1) * ROUND;

        match self.next_occupied() {
            Some(tick) if tick <= end => {
                self.tick = tick;
                let index = (tick % BUCKETS as u64) as usize;
                if let (Some(bucket), Some(word)) = (
                    self.buckets.get_mut(index),
                    self.occupied.get_mut(index / 64),
                ) {
                    self.current = mem::take(bucket);
                    self.prefetched = 0;
                    self.in_buckets -= self.current.len();
                    *word &= !(1 << (index % 64));
                }
                self.current.sort_unstable_by_key(|&entry| Reverse(entry));
            }
            _ => self.tick = end,
        }
        true
    }

    /// Returns the next tick whose bucket holds entries.
    fn next_occupied(&self) -> Option<u64> {
        const WORDS: usize = BUCKETS / 64;
        let from = self.tick + 1;
        let first = (from % BUCKETS as u64) as usize;
        let before_first = (1 << (first % 64)) - 1;
        (0..=WORDS).find_map(|step| {
            let word = (first / 64 + step) % WORDS;
            let bits = match step {
                0 => self.occupied[word] & !before_first,
                WORDS => self.occupied[word] & before_first,
                _ => self.occupied[word],
            };
            let bucket = word * 64 + bits.trailing_zeros() as usize;
            let ticks = bucket.wrapping_sub(first) % BUCKETS;
            (bits != 0).then_some(from + ticks as u64)
        })
    }
}

/// A timer in the bucket of a tick.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Since the start of the tick, in steps of 16 nanoseconds, rounded down.
    offset: u32,
    slot: u32,
}

impl Entry {
    fn at(self, tick: u64) -> Timestamp {
        instant(tick, self.offset << STEP_BITS)
    }
}

/// Which entry of a slot is valid.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    const NONE: Self = Self(u32::MAX);
    const NEAR: u32 = 1 << 31;

    /// In the heap, for that nanosecond of the current tick.
    fn near(at: Timestamp) -> Self {
        Self(Self::NEAR | (at.as_nanos() % (1 << TICK_BITS)) as u32)
    }

    /// In the bucket of a tick, at that offset.
    fn bucket(tick: u64, offset: u32) -> Self {
        Self(((tick % BUCKETS as u64) as u32) << OFFSET_BITS | offset)
    }
}

fn offset_of(at: Timestamp) -> u32 {
    (at.as_nanos() % (1 << TICK_BITS)) as u32 >> STEP_BITS
}

fn tick_of(at: Timestamp) -> u64 {
    at.as_nanos() >> TICK_BITS
}

fn start_of(tick: u64) -> Timestamp {
    instant(tick, 0)
}

/// Returns the instant that many nanoseconds into a tick.
fn instant(tick: u64, nanos: u32) -> Timestamp {
    let start = tick.saturating_mul(1 << TICK_BITS);
    Timestamp::from_nanos(start.saturating_add(nanos.into()))
}

#[cfg(test)]
mod tests;
