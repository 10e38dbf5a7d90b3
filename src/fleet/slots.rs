//! The storage of a fleet's connections.
//!
//! Each connection has a slot, which a later connection reuses after the removal. A message, the
//! most frequent event, touches only the header of its slot. Headers are small, so much of their
//! table stays in the cache when all connections together do not fit.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;

use super::FleetKey;
use crate::policy::State;
use crate::time::Timestamp;

/// The connections of a fleet.
pub(super) struct Slots<C> {
    headers: Table<Header, 2048>,
    bodies: Table<Option<Body<C>>, 128>,
    /// How many slots were ever used.
    used: u32,
    /// Slots to reuse.
    free: Vec<u32>,
    len: usize,
}

impl<C> Slots<C> {
    pub(super) const fn new() -> Self {
        Self {
            headers: Table::new(),
            bodies: Table::new(),
            used: 0,
            free: Vec::new(),
            len: 0,
        }
    }

    /// Returns how many connections there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a connection. If there is no room for it, the key is stale.
    pub(super) fn insert(&mut self, body: Body<C>) -> FleetKey {
        let slot = self.free.pop().unwrap_or(self.used);
        let mut generation = 0;
        if slot == u32::MAX {
            return FleetKey { slot, generation };
        }
        if slot == self.used {
            self.headers.make_room(slot, || Header::VACANT);
            self.bodies.make_room(slot, || None);
            self.used += 1;
        }
        if let (Some(Header { tag, .. }), Some(place)) =
            (self.headers.get_mut(slot), self.bodies.get_mut(slot))
        {
            tag.0 |= Tag::IN_USE;
            generation = tag.generation();
            *place = Some(body);
            self.len += 1;
        }
        FleetKey { slot, generation }
    }

    /// Removes a connection. Returns false if the key is stale.
    pub(super) fn remove(&mut self, key: FleetKey) -> bool {
        if !self.contains(key) {
            return false;
        }
        if let (Some(Header { tag, .. }), Some(body)) = (
            self.headers.get_mut(key.slot),
            self.bodies.get_mut(key.slot),
        ) {
            *tag = tag.next();
            if tag.0 != 0 {
                self.free.push(key.slot);
            }
            *body = None;
        }
        self.len -= 1;
        true
    }

    pub(super) fn contains(&self, key: FleetKey) -> bool {
        let tag = self.headers.get(key.slot).map(|header| header.tag);
        tag.is_some_and(|tag| tag.generation() == key.generation && tag.in_use())
    }

    pub(super) fn body(&self, key: FleetKey) -> Option<&Body<C>> {
        self.bodies
            .get(key.slot)?
            .as_ref()
            .filter(|_| self.contains(key))
    }

    pub(super) fn body_mut(&mut self, key: FleetKey) -> Option<&mut Body<C>> {
        if !self.contains(key) {
            return None;
        }
        self.bodies.get_mut(key.slot)?.as_mut()
    }

    /// Stores the time of a message in the header, to be applied to the state later. Returns false,
    /// and stores nothing, if the state must record the message now or the key is stale.
    #[inline]
    pub(super) fn try_defer_message(&mut self, key: FleetKey, now: Timestamp) -> bool {
        match self.headers.get_mut(key.slot) {
            Some(header) if header.tag.0 == key.generation => {
                header.set_last_message(now);
                true
            }
            _ => false,
        }
    }

    /// Returns the time of the latest message that was deferred.
    pub(super) fn last_message(&self, slot: u32) -> Timestamp {
        let header = self.headers.get(slot);
        header.map_or(Timestamp::ZERO, Header::last_message)
    }

    /// Returns the connection in a slot, if there is one, with the deferred message applied.
    #[inline]
    pub(super) fn up_to_date(&mut self, slot: u32) -> Option<(&mut Header, &mut Body<C>)> {
        let header = self.headers.get_mut(slot)?;
        let body = self.bodies.get_mut(slot)?.as_mut()?;
        body.state.record_message(header.last_message());
        Some((header, body))
    }

    /// Brings everything that a poll reads of a connection into the cache. Several concurrent
    /// fetches take no longer than one.
    pub(super) fn prefetch(&self, slot: u32) {
        if let Some(Some(body)) = self.bodies.get(slot) {
            body.state.touch();
        }
        black_box(self.last_message(slot));
    }

    /// Returns the key of the connection in a slot, if there is one.
    pub(super) fn key(&self, slot: u32) -> Option<FleetKey> {
        let tag = self
            .headers
            .get(slot)
            .map(|header| header.tag)
            .filter(|tag| tag.in_use())?;
        let generation = tag.generation();
        Some(FleetKey { slot, generation })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = FleetKey> + '_ {
        (0..self.used).filter_map(|slot| self.key(slot))
    }
}

/// Everything about a connection except its latest messages. The fields that pings touch come
/// first.
#[repr(C)]
pub(super) struct Body<C> {
    pub(super) config: C,
    pub(super) state: State,
}

/// Everything about a connection that a message touches.
pub(super) struct Header {
    tag: Tag,
    /// The time of the latest message that was deferred, in nanoseconds, as two halves so that
    /// neither needs padding. It stays after it has been applied, since applying it again has no
    /// effect.
    last_message: [u32; 2],
}

impl Header {
    const VACANT: Self = Self {
        tag: Tag(0),
        last_message: [0; 2],
    };

    fn last_message(&self) -> Timestamp {
        let [low, high] = self.last_message.map(u64::from);
        Timestamp::from_nanos(high << 32 | low)
    }

    /// Decides whether messages may be deferred from now on. The state must be [up to
    /// date](Slots::up_to_date).
    #[inline]
    pub(super) fn update_tag(&mut self, state: &State) {
        self.tag.0 = match state.is_plain() {
            true => self.tag.generation(),
            false => self.tag.generation() | Tag::NEEDS_RECORD,
        };
    }

    /// Returns the key of the connection in this slot.
    #[inline]
    pub(super) fn key(&self, slot: u32) -> FleetKey {
        let generation = self.tag.generation();
        FleetKey { slot, generation }
    }

    #[inline]
    fn set_last_message(&mut self, at: Timestamp) {
        let nanos = at.as_nanos();
        self.last_message = [nanos as u32, (nanos >> 32) as u32];
    }
}

/// Whether a slot is in use, the generation of its connection, and whether messages may be
/// deferred. A slot that has used up its generations is never used again.
#[derive(Clone, Copy)]
struct Tag(u32);

impl Tag {
    const IN_USE: u32 = 1;
    /// The state must record each message immediately.
    const NEEDS_RECORD: u32 = 2;
    const GENERATION: u32 = 4;

    fn in_use(self) -> bool {
        self.0 & Self::IN_USE != 0
    }

    /// Returns the generation as in a key, with the bit `IN_USE`.
    fn generation(self) -> u32 {
        self.0 & !Self::NEEDS_RECORD
    }

    /// Returns the tag of the slot after its connection was removed.
    fn next(self) -> Self {
        Self(self.generation().wrapping_add(Self::GENERATION) & !Self::IN_USE)
    }
}

/// An array that grows a chunk at a time, without moving its elements.
pub(super) struct Table<T, const CHUNK: usize> {
    chunks: Vec<Box<[T; CHUNK]>>,
}

impl<T, const CHUNK: usize> Table<T, CHUNK> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        Some(&self.chunks.get(slot / CHUNK)?[slot % CHUNK])
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        Some(&mut self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK])
    }

    /// Makes room for the first slot that has none.
    pub(super) fn make_room(&mut self, slot: u32, vacant: impl FnMut() -> T) {
        if slot as usize / CHUNK == self.chunks.len() {
            let chunk = Vec::from_iter(core::iter::repeat_with(vacant).take(CHUNK));
            self.chunks.extend(Box::try_from(chunk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TimeoutConfig;
    use crate::fleet::Fleet;

    #[test]
    fn a_slot_with_no_generation_left_is_not_used_again() {
        let config = TimeoutConfig::DEFAULT;
        let mut fleet = Fleet::new();
        let first = fleet.insert(&config, 0, Timestamp::ZERO);
        let last = FleetKey {
            generation: !Tag::NEEDS_RECORD,
            ..first
        };
        fleet.slots.headers.get_mut(0).unwrap().tag = Tag(u32::MAX);
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
