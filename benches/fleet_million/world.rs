//! The connections, on simulated time.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use ws_timeout::Timestamp;

use crate::keepers::{Keeper, Ping};

/// The most polls in a second.
const MAX_POLLS: u32 = 1000;

/// The fewest messages between two polls. With fewer, reading the processor time would dominate the
/// measurement.
const MIN_MESSAGES: u32 = 128;

/// How long after its ping a pong arrives, in milliseconds. The next poll finds it.
const ROUND_TRIP: u32 = 40;

/// The seconds over which the connections open, so that they do not ping in step.
const ARRIVAL: u32 = 25;

/// The seconds until the load is steady.
const WARM_UP: u32 = 60;

pub struct World<K: Keeper> {
    keeper: K,
    connections: u32,
    /// Indexed by the number of the connection.
    handles: Vec<K::Handle>,
    /// The order in which the connections receive messages in this second.
    order: Vec<K::Handle>,
    random: u64,
    /// The number of polls in a second.
    polls: u32,
    /// In polls, from the start.
    time: u64,
    /// The pongs that arrive before each of the next polls.
    pongs: VecDeque<Vec<(K::Handle, [u8; 8])>>,
    pings: Vec<Ping>,
    spent: Spent,
    /// How long it takes to read the processor time, which is subtracted.
    reading: Duration,
}

/// The processor time of what is measured, and the counts.
#[derive(Default)]
struct Spent {
    on_messages: Duration,
    on_the_rest: Duration,
    /// How often each of the two durations was measured.
    polls: u32,
    messages: u64,
    pings: u64,
}

/// What the timeouts cost.
pub struct Cost {
    /// In percent of one core.
    pub share: f64,
    pub nanos_a_message: f64,
    pub nanos_a_ping: f64,
    /// The most memory in use at any time, per connection.
    pub bytes: u64,
    pub messages: u64,
    pub pings: u64,
}

impl<K: Keeper> World<K> {
    /// Measures the cost of the timeouts of `connections` over `seconds`.
    pub fn measure(connections: u32, seconds: u32) -> Cost {
        let mut cost = None;
        let memory = allocation_counter::measure(|| {
            let mut world = Self::warm(connections);
            for _ in 0..seconds {
                world.second();
            }
            cost = Some(world.spent.over(seconds, world.reading));
        });
        let handles = 2 * u64::from(connections) * size_of::<K::Handle>() as u64;
        Cost {
            bytes: (memory.bytes_max - handles) / u64::from(connections),
            ..cost.expect("it was just measured")
        }
    }

    /// Returns a world under steady load, with nothing measured yet.
    pub fn warm(connections: u32) -> Self {
        let mut world = Self::new(connections);
        for second in 0..WARM_UP {
            if second < ARRIVAL {
                world.arrive(second);
            }
            world.second();
        }
        world.spent = Spent::default();
        world
    }

    fn new(connections: u32) -> Self {
        let polls = (connections / MIN_MESSAGES).clamp(1, MAX_POLLS);
        let round_trip = (polls * ROUND_TRIP).div_ceil(1000) as usize;
        Self {
            keeper: K::new(connections),
            connections,
            handles: Vec::with_capacity(connections as usize),
            order: Vec::with_capacity(connections as usize),
            random: 1,
            polls,
            time: 0,
            pongs: vec![Vec::new(); round_trip].into(),
            pings: Vec::new(),
            spent: Spent::default(),
            reading: reading(),
        }
    }

    /// Opens the connections of this second.
    fn arrive(&mut self, second: u32) {
        let until = u64::from(self.connections) * u64::from(second + 1) / u64::from(ARRIVAL);
        for id in self.handles.len() as u32..until as u32 {
            let handle = self.keeper.insert(id, self.now());
            self.handles.push(handle);
            self.order.push(handle);
        }
    }

    /// Lets a second pass. Returns the processor time spent so far.
    pub fn second(&mut self) -> Duration {
        self.shuffle();
        let polls = self.polls;
        let part =
            |part: u32| (self.order.len() as u64 * u64::from(part) / u64::from(polls)) as usize;
        let parts: Vec<_> = (0..polls).map(|poll| part(poll)..part(poll + 1)).collect();
        parts.into_iter().for_each(|part| self.poll(part));
        let (on_messages, on_the_rest) = self.spent.without_readings(self.reading);
        on_messages + on_the_rest
    }

    /// Reports what arrived since the last poll, and polls.
    fn poll(&mut self, received: Range<usize>) {
        self.time += 1;
        let now = self.now();
        let pongs = self.pongs.pop_front().unwrap_or_default();
        self.spent.messages += received.len() as u64;

        let begin = processor_time();
        for &connection in &self.order[received] {
            self.keeper.message(connection, now);
        }
        let between = processor_time();
        for &(connection, payload) in &pongs {
            self.keeper.pong(connection, payload, now);
        }
        self.keeper.poll(now, &mut self.pings);
        let end = processor_time();

        self.spent.polls += 1;
        self.spent.on_messages += between - begin;
        self.spent.on_the_rest += end - between;
        self.spent.pings += self.pings.len() as u64;
        let mut next = pongs;
        next.clear();
        next.extend(
            self.pings
                .drain(..)
                .map(|(id, payload)| (self.handles[id as usize], payload)),
        );
        self.pongs.push_back(next);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.time * 1_000_000_000 / u64::from(self.polls))
    }

    /// Shuffles the order of the messages.
    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let other = (u128::from(self.random) * (last as u128 + 1)) >> 64;
            self.order.swap(last, other as usize);
        }
    }
}

impl Spent {
    fn over(&self, seconds: u32, reading: Duration) -> Cost {
        let (on_messages, on_the_rest) = self.without_readings(reading);
        let nanos = |time: Duration, by: u64| time.as_nanos() as f64 / by.max(1) as f64;
        let all = on_messages + on_the_rest;
        Cost {
            share: 100.0 * all.as_secs_f64() / f64::from(seconds),
            nanos_a_message: nanos(on_messages, self.messages),
            nanos_a_ping: nanos(on_the_rest, self.pings),
            bytes: 0,
            messages: self.messages,
            pings: self.pings,
        }
    }

    /// Returns the two durations without the readings of the processor time, one in each part.
    fn without_readings(&self, reading: Duration) -> (Duration, Duration) {
        let readings = reading * self.polls;
        (
            self.on_messages.saturating_sub(readings),
            self.on_the_rest.saturating_sub(readings),
        )
    }
}

/// Measures how long it takes to read the processor time.
fn reading() -> Duration {
    const READINGS: u32 = 100_000;
    let begin = processor_time();
    for _ in 1..READINGS {
        processor_time();
    }
    (processor_time() - begin) / READINGS
}

/// Returns the processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
