//! The timer wheel: when each slot is polled.
//!
//! This is a hashed timer wheel. Its buckets, each for one tick of 34 ms, are used cyclically. A
//! timer beyond the last bucket goes into one of the last buckets instead, where it fires early and
//! is set again.
//!
//! When a tick comes, its bucket is sorted and emptied from the earliest entry. A timer that is
//! set within the current tick goes into a heap.
//!
//! Setting a timer again, or cancelling it, leaves its old entry where it is. The wheel keeps the
//! instant at which each slot fires; entries for other instants are stale, and are skipped when
//! they come up.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::hint::black_box;
use core::mem;

use super::slots::Table;
use crate::time::{Timestamp, earlier};

const TICK_BITS: u32 = 25; // 34 ms
const BUCKETS: usize = 1024; // 34 s

/// How many of the last buckets share the timers beyond them. With a single bucket, one call in
/// every round would process all of these timers.
const FAR_BUCKETS: u64 = 256; // 9 s

/// The initial capacity of a bucket. A buffer no larger than this is reused.
const MIN_CAPACITY: usize = 4;

/// A compaction is not worthwhile for fewer stale entries than this.
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
    /// The slot that fires before all others, and when.
    first: Option<(Timestamp, u32)>,
    /// When each slot fires.
    timers: Table<Option<Timestamp>, 1024>,
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
            timers: Table::new(),
        }
    }

    /// Makes room for the first slot that has none.
    pub(super) fn make_room(&mut self, slot: u32) {
        self.timers.make_room(slot, || None);
    }

    /// Sets the timer of a slot to `at`, or to the nearest instant that the wheel reaches.
    pub(super) fn set(&mut self, slot: u32, at: Timestamp) {
        self.first = self.first.filter(|&(_, first)| first != slot);
        let at = self.clamp(slot, at);
        self.insert(slot, at);
        self.set_timer(slot, Some(at));
    }

    /// Makes the slot that fired last fire again before all others.
    pub(super) fn set_first(&mut self, slot: u32, now: Timestamp) {
        let last = instant(self.tick, (1 << TICK_BITS) - 1);
        let at = now.min(last);
        self.first = Some((at, slot));
        self.set_timer(slot, Some(at));
    }

    /// Returns whether a slot fires before all others.
    pub(super) fn is_first(&self, slot: u32) -> bool {
        self.first.is_some_and(|(_, first)| first == slot)
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        self.set_timer(slot, None);
    }

    /// Returns whether the timer of a slot, if it were set to `at`, would fire earlier than it
    /// does.
    pub(super) fn would_fire_earlier(&self, slot: u32, at: Timestamp) -> bool {
        self.timer(slot)
            .is_none_or(|fires_at| self.clamp(slot, at) < fires_at)
    }

    /// Returns a slot whose timer has fired by `now`.
    #[inline]
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<u32> {
        if let Some((at, slot)) = self.first.take() {
            if self.timer(slot) == Some(at) {
                return Some(slot);
            }
        }
        loop {
            while let Some(&entry) = self.current.last() {
                let at = entry.at(self.tick);
                if at > now {
                    break;
                }
                self.current.pop();
                self.prefetched = self.prefetched.saturating_sub(1);
                if matches_timer(self.timer(entry.slot), at) {
                    return Some(entry.slot);
                }
            }
            while let Some(&Reverse((at, slot))) = self.near.peek() {
                if at > now {
                    break;
                }
                self.near.pop();
                if self.timer(slot) == Some(at) {
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

    /// Returns some of the slots that fire next, once all slots that it returned before have fired.
    pub(super) fn prefetch_next(&mut self) -> impl Iterator<Item = u32> + '_ {
        const SOME: usize = 16;
        if self.prefetched == 0 {
            self.prefetched = self.current.len().min(SOME);
            self.current.iter().rev().take(SOME)
        } else {
            [].iter().rev().take(0)
        }
        .map(|entry| {
            black_box(self.timers.get(entry.slot));
            entry.slot
        })
    }

    /// Returns the number of entries, including stale ones.
    pub(super) fn entries(&self) -> usize {
        self.in_buckets + self.current.len() + self.near.len()
    }

    /// Removes stale and duplicate entries.
    #[cold]
    pub(super) fn compact(&mut self) {
        let timers = &self.timers;
        let keep_valid = |entries: &mut Vec<Entry>, tick| {
            entries.sort_unstable_by_key(|&entry| Reverse(entry));
            entries.dedup();
            entries.retain(|entry| {
                matches_timer(timers.get(entry.slot).copied().flatten(), entry.at(tick))
            });
            entries.shrink_to_fit();
        };
        keep_valid(&mut self.current, self.tick);
        self.prefetched = 0;
        self.in_buckets = 0;
        for ticks in 1..BUCKETS as u64 {
            let tick = self.tick + ticks;
            let index = bucket_of(tick);
            if let (Some(bucket), Some(word)) = (
                self.buckets.get_mut(index),
                self.occupied.get_mut(index / 64),
            ) {
                keep_valid(bucket, tick);
                self.in_buckets += bucket.len();
                if bucket.is_empty() {
                    *word &= !(1 << (index % 64));
                }
            }
        }
        let mut near = mem::take(&mut self.near).into_vec();
        near.sort_unstable();
        near.dedup();
        near.retain(|&Reverse((at, slot))| timers.get(slot) == Some(&Some(at)));
        self.near = near.into();
    }

    fn timer(&self, slot: u32) -> Option<Timestamp> {
        *self.timers.get(slot)?
    }

    fn set_timer(&mut self, slot: u32, at: Option<Timestamp>) {
        if let Some(timer) = self.timers.get_mut(slot) {
            *timer = at;
        }
    }

    /// Adds an entry for an instant that the wheel reaches.
    fn insert(&mut self, slot: u32, at: Timestamp) {
        let tick = tick_of(at);
        if tick == self.tick {
            return self.near.push(Reverse((at, slot)));
        }
        let index = bucket_of(tick);
        if let (Some(bucket), Some(word)) = (
            self.buckets.get_mut(index),
            self.occupied.get_mut(index / 64),
        ) {
            if bucket.len() == bucket.capacity() {
                // Grow slowly, because there are many buckets.
                bucket.reserve_exact(MIN_CAPACITY + bucket.len() / 4);
            }
            let offset = offset_of(at);
            bucket.push(Entry { offset, slot });
            self.in_buckets += 1;
            *word |= 1 << (index % 64);
        }
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

    /// Advances to the next tick whose bucket holds entries, or to `end` if there is none before
    /// it. Returns false if `end` was already reached.
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
                let index = bucket_of(tick);
                if let (Some(bucket), Some(word)) = (
                    self.buckets.get_mut(index),
                    self.occupied.get_mut(index / 64),
                ) {
                    let emptied = mem::replace(&mut self.current, mem::take(bucket));
                    if emptied.capacity() <= MIN_CAPACITY {
                        *bucket = emptied;
                    }
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
    /// Nanoseconds since the start of the tick.
    offset: u32,
    slot: u32,
}

impl Entry {
    fn at(self, tick: u64) -> Timestamp {
        instant(tick, self.offset)
    }
}

/// Whether an entry belongs to a timer. After a long time without a poll, an entry comes up whole
/// rounds late.
fn matches_timer(timer: Option<Timestamp>, entry: Timestamp) -> bool {
    const ROUND: u64 = (BUCKETS as u64) << TICK_BITS;
    timer.is_some_and(|timer| (timer.as_nanos() ^ entry.as_nanos()) % ROUND == 0)
}

fn offset_of(at: Timestamp) -> u32 {
    (at.as_nanos() % (1 << TICK_BITS)) as u32
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

fn tick_of(at: Timestamp) -> u64 {
    at.as_nanos() >> TICK_BITS
}

fn start_of(tick: u64) -> Timestamp {
    instant(tick, 0)
}

/// Returns the instant `nanos` nanoseconds into a tick.
fn instant(tick: u64, nanos: u32) -> Timestamp {
    let start = tick.saturating_mul(1 << TICK_BITS);
    Timestamp::from_nanos(start.saturating_add(nanos.into()))
}

#[cfg(test)]
mod tests;
