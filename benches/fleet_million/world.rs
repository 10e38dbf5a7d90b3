//! The connections and their made-up time.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use ws_timeout::Timestamp;

use crate::keepers::{Keeper, Ping};

/// How many looks at what is due there are in a second, at most.
const MOST_LOOKS: u32 = 1000;

/// How many messages a look finds, at least: with fewer, what is measured would be the reading of the
/// processor time.
const LEAST_MESSAGES: u32 = 128;

/// How long after its ping a pong comes, in milliseconds; it is found at the next look.
const ROUND_TRIP: u32 = 40;

/// Over how many seconds the connections come, so that they do not ping in step.
const ARRIVAL: u32 = 25;

/// Seconds until everything goes its regular way.
const WARM_UP: u32 = 60;

pub struct World<K: Keeper> {
    keeper: K,
    connections: u32,
    /// By their numbers.
    handles: Vec<K::Handle>,
    /// The order in which the messages of this second fall on connections.
    order: Vec<K::Handle>,
    dice: u64,
    /// How many looks there are in a second.
    looks: u32,
    look: u64,
    /// The pings whose pongs are under way, for each look to come.
    pongs: VecDeque<Vec<(K::Handle, [u8; 8])>>,
    asked: Vec<Ping>,
    spent: Spent,
    /// How long it takes to read the processor time, which is no part of what is spent.
    reading: Duration,
}

/// Processor time of what is measured, and how often it was done.
#[derive(Default)]
struct Spent {
    on_messages: Duration,
    on_the_rest: Duration,
    /// How often the processor time was read for each of the two.
    looks: u32,
    messages: u64,
    pings: u64,
}

/// What the timeouts cost.
pub struct Cost {
    /// Of one core, in percent.
    pub share: f64,
    pub nanos_a_message: f64,
    pub nanos_a_ping: f64,
    /// At most, for each connection.
    pub bytes: u64,
    pub messages: u64,
    pub pings: u64,
}

impl<K: Keeper> World<K> {
    /// Measures what the timeouts of so many connections cost, over so many seconds.
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

    /// A world in which everything goes its regular way, with nothing spent yet.
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
        let looks = (connections / LEAST_MESSAGES).clamp(1, MOST_LOOKS);
        let round_trip = (looks * ROUND_TRIP).div_ceil(1000) as usize;
        Self {
            keeper: K::new(connections),
            connections,
            handles: Vec::with_capacity(connections as usize),
            order: Vec::with_capacity(connections as usize),
            dice: 1,
            looks,
            look: 0,
            pongs: vec![Vec::new(); round_trip].into(),
            asked: Vec::new(),
            spent: Spent::default(),
            reading: reading(),
        }
    }

    /// Lets come who comes in this second.
    fn arrive(&mut self, second: u32) {
        let until = u64::from(self.connections) * u64::from(second + 1) / u64::from(ARRIVAL);
        for id in self.handles.len() as u32..until as u32 {
            let handle = self.keeper.insert(id, self.now());
            self.handles.push(handle);
            self.order.push(handle);
        }
    }

    /// Lets a second pass. Gives the processor time that was spent so far.
    pub fn second(&mut self) -> Duration {
        self.shuffle();
        let looks = self.looks;
        let part =
            |part: u32| (self.order.len() as u64 * u64::from(part) / u64::from(looks)) as usize;
        let parts: Vec<_> = (0..looks).map(|look| part(look)..part(look + 1)).collect();
        parts.into_iter().for_each(|part| self.look(part));
        let (on_messages, on_the_rest) = self.spent.without_readings(self.reading);
        on_messages + on_the_rest
    }

    /// Hands the messages and pongs over that came since the last look, and what is due.
    fn look(&mut self, came: Range<usize>) {
        self.look += 1;
        let now = self.now();
        let pongs = self.pongs.pop_front().unwrap_or_default();
        self.spent.messages += came.len() as u64;

        let begin = processor_time();
        for &connection in &self.order[came] {
            self.keeper.message(connection, now);
        }
        let between = processor_time();
        for &(connection, payload) in &pongs {
            self.keeper.pong(connection, payload, now);
        }
        self.keeper.poll(now, &mut self.asked);
        let end = processor_time();

        self.spent.looks += 1;
        self.spent.on_messages += between - begin;
        self.spent.on_the_rest += end - between;
        self.spent.pings += self.asked.len() as u64;
        let mut next = pongs;
        next.clear();
        next.extend(
            self.asked
                .drain(..)
                .map(|(id, payload)| (self.handles[id as usize], payload)),
        );
        self.pongs.push_back(next);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.look * 1_000_000_000 / u64::from(self.looks))
    }

    /// Draws the order anew.
    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            self.dice ^= self.dice << 13;
            self.dice ^= self.dice >> 7;
            self.dice ^= self.dice << 17;
            let other = (u128::from(self.dice) * (last as u128 + 1)) >> 64;
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

    /// What was spent, less the readings of the processor time, of which one falls into each part.
    fn without_readings(&self, reading: Duration) -> (Duration, Duration) {
        let readings = reading * self.looks;
        (
            self.on_messages.saturating_sub(readings),
            self.on_the_rest.saturating_sub(readings),
        )
    }
}

/// How long it takes to read the processor time.
fn reading() -> Duration {
    const READINGS: u32 = 100_000;
    let begin = processor_time();
    for _ in 1..READINGS {
        processor_time();
    }
    (processor_time() - begin) / READINGS
}

/// What this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
