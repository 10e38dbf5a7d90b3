//! The fleet, and the hand-written code that it replaces.
//!
//! The hand-written code does less: it pings every 25 seconds, and disconnects a peer after 60
//! seconds of silence. It does not limit writes, slow messages or pings, and has no jitter, no
//! grace and no configuration.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Runtime};
use tokio::time::{Instant, Sleep};
use tokio_util::time::{DelayQueue, delay_queue};
use ws_timeout::{Action, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

/// A ping in flight: the number of its connection, and its payload.
pub type Ping = (u32, [u8; 8]);

const PING: u64 = 25_000_000_000;
const IDLE: u64 = 60_000_000_000;

/// Keeps the timeouts of all connections.
pub trait Keeper {
    const NAME: &str;

    /// What the reader of a connection uses to name it.
    type Handle: Copy;

    fn new(connections: u32) -> Self;

    /// Adds a connection. They are added in the order of their numbers, from 0.
    fn insert(&mut self, id: u32, now: Timestamp) -> Self::Handle;

    fn message(&mut self, connection: Self::Handle, now: Timestamp);

    fn pong(&mut self, connection: Self::Handle, payload: [u8; 8], now: Timestamp);

    /// Does what is due, and adds the pings to `pings`. They are flushed at once.
    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>);
}

// ---- ours ----

pub struct Fleets {
    fleet: Fleet,
    config: Arc<TimeoutConfig>,
}

impl Keeper for Fleets {
    const NAME: &str = "Fleet";

    type Handle = FleetKey;

    fn new(_: u32) -> Self {
        let config = TimeoutConfig::builder().no_connection_timeout().build();
        Self {
            fleet: Fleet::new(),
            config: Arc::new(config.expect("the configuration has a meaning")),
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> FleetKey {
        self.fleet.insert(self.config.clone(), id.into(), now)
    }

    #[inline]
    fn message(&mut self, key: FleetKey, now: Timestamp) {
        self.fleet.observe(key, now, Event::Recv);
    }

    fn pong(&mut self, key: FleetKey, payload: [u8; 8], now: Timestamp) {
        let pong = Event::Pong(PingId::from_payload(&payload));
        self.fleet.observe(key, now, pong);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        while let Some((key, action)) = self.fleet.poll(now) {
            let Action::SendPing(ping) = action else {
                panic!("{action:?} though all peers are alive");
            };
            self.fleet.observe(key, now, Event::PingSent(ping));
            pings.push((key.index() as u32, ping.payload()));
        }
    }
}

// ---- one timer for silence and one for the next ping ----

/// A timer of a connection: for silence, or for the next ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Idle(u32),
    Ping(u32),
}

pub struct Trees {
    timers: BTreeSet<(u64, Timer)>,
    idle_at: Vec<u64>,
}

impl Keeper for Trees {
    const NAME: &str = "BTreeSet, moved at each message";

    type Handle = u32;

    fn new(connections: u32) -> Self {
        Self {
            timers: BTreeSet::new(),
            idle_at: Vec::with_capacity(connections as usize),
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> u32 {
        let now = now.as_nanos();
        self.idle_at.push(now + IDLE);
        self.timers.insert((now + IDLE, Timer::Idle(id)));
        self.timers.insert((now + PING, Timer::Ping(id)));
        id
    }

    fn message(&mut self, id: u32, now: Timestamp) {
        let idle_at = &mut self.idle_at[id as usize];
        self.timers.remove(&(*idle_at, Timer::Idle(id)));
        *idle_at = now.as_nanos() + IDLE;
        self.timers.insert((*idle_at, Timer::Idle(id)));
    }

    fn pong(&mut self, id: u32, _: [u8; 8], now: Timestamp) {
        self.message(id, now);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        let now = now.as_nanos();
        while let Some(&first @ (at, timer)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.remove(&first);
            let Timer::Ping(id) = timer else {
                panic!("{timer:?} though all peers are alive");
            };
            pings.push((id, [0; 8]));
            self.timers.insert((now + PING, Timer::Ping(id)));
        }
    }
}

pub struct BinaryHeaps {
    timers: BinaryHeap<Reverse<(u64, Timer)>>,
    last_inbound: Vec<u64>,
}

impl Keeper for BinaryHeaps {
    const NAME: &str = "BinaryHeap, re-armed when it fires";

    type Handle = u32;

    fn new(connections: u32) -> Self {
        Self {
            timers: BinaryHeap::with_capacity(2 * connections as usize),
            last_inbound: Vec::with_capacity(connections as usize),
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> u32 {
        let now = now.as_nanos();
        self.last_inbound.push(now);
        self.timers.push(Reverse((now + IDLE, Timer::Idle(id))));
        self.timers.push(Reverse((now + PING, Timer::Ping(id))));
        id
    }

    fn message(&mut self, id: u32, now: Timestamp) {
        self.last_inbound[id as usize] = now.as_nanos();
    }

    fn pong(&mut self, id: u32, _: [u8; 8], now: Timestamp) {
        self.message(id, now);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        let now = now.as_nanos();
        while let Some(mut first) = self.timers.peek_mut() {
            let Reverse((at, timer)) = *first;
            if at > now {
                return;
            }
            let next = match timer {
                Timer::Idle(id) => self.last_inbound[id as usize] + IDLE,
                Timer::Ping(id) => {
                    pings.push((id, [0; 8]));
                    now + PING
                }
            };
            assert!(next > now, "{timer:?} though all peers are alive");
            *first = Reverse((next, timer));
        }
    }
}

/// Checks every connection once a second: cheap, and up to a second late.
pub struct Sweep {
    connections: Vec<Swept>,
    swept: u64,
}

struct Swept {
    last_inbound: u64,
    pinged: u64,
}

impl Keeper for Sweep {
    const NAME: &str = "a sweep over all once a second (a second late)";

    type Handle = u32;

    fn new(connections: u32) -> Self {
        Self {
            connections: Vec::with_capacity(connections as usize),
            swept: 0,
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> u32 {
        let (last_inbound, pinged) = (now.as_nanos(), now.as_nanos());
        self.connections.push(Swept {
            last_inbound,
            pinged,
        });
        id
    }

    fn message(&mut self, id: u32, now: Timestamp) {
        self.connections[id as usize].last_inbound = now.as_nanos();
    }

    fn pong(&mut self, id: u32, _: [u8; 8], now: Timestamp) {
        self.message(id, now);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        let now = now.as_nanos();
        if now - self.swept < 1_000_000_000 {
            return;
        }
        self.swept = now;
        for (id, connection) in self.connections.iter_mut().enumerate() {
            assert!(
                now - connection.last_inbound < IDLE,
                "{id} is idle though all peers are alive"
            );
            if now - connection.pinged >= PING {
                connection.pinged = now;
                pings.push((id as u32, [0; 8]));
            }
        }
    }
}

pub struct DelayQueues {
    queue: DelayQueue<Timer>,
    clock: PausedClock,
}

impl Keeper for DelayQueues {
    const NAME: &str = "tokio-util DelayQueue, reset at each message";

    type Handle = delay_queue::Key;

    fn new(connections: u32) -> Self {
        let clock = PausedClock::new();
        Self {
            queue: DelayQueue::with_capacity(2 * connections as usize),
            clock,
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> delay_queue::Key {
        let ping_at = self.clock.at(now, PING);
        self.queue.insert_at(Timer::Ping(id), ping_at);
        let idle_at = self.clock.at(now, IDLE);
        self.queue.insert_at(Timer::Idle(id), idle_at)
    }

    fn message(&mut self, idle: delay_queue::Key, now: Timestamp) {
        let at = self.clock.at(now, IDLE);
        self.queue.reset_at(&idle, at);
    }

    fn pong(&mut self, idle: delay_queue::Key, _: [u8; 8], now: Timestamp) {
        self.message(idle, now);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        self.clock.advance_to(now);
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(expired)) = self.queue.poll_expired(&mut context) {
            let timer = expired.into_inner();
            let Timer::Ping(id) = timer else {
                panic!("{timer:?} though all peers are alive");
            };
            pings.push((id, [0; 8]));
            let at = self.clock.at(now, PING);
            self.queue.insert_at(Timer::Ping(id), at);
        }
    }
}

pub struct Sleeps {
    connections: Vec<Connection>,
    woken: Arc<Mutex<Vec<u32>>>,
    clock: PausedClock,
}

struct Connection {
    idle: Pin<Box<Sleep>>,
    ping: Pin<Box<Sleep>>,
    waker: Waker,
}

impl Connection {
    /// Polls both timers with the waker of the connection. Returns whether a ping is due.
    fn wait(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        let idle = self.idle.as_mut().poll(&mut context);
        assert!(idle.is_pending(), "idle though all peers are alive");
        self.ping.as_mut().poll(&mut context).is_ready()
    }
}

struct Woken {
    id: u32,
    woken: Arc<Mutex<Vec<u32>>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let mut woken = self.woken.lock().expect("nobody panics with it");
        woken.push(self.id);
    }
}

impl Keeper for Sleeps {
    const NAME: &str = "two tokio Sleeps, one reset at each message";

    type Handle = u32;

    fn new(connections: u32) -> Self {
        Self {
            clock: PausedClock::new(),
            connections: Vec::with_capacity(connections as usize),
            woken: Arc::default(),
        }
    }

    fn insert(&mut self, id: u32, now: Timestamp) -> u32 {
        let sleep = |nanos| Box::pin(tokio::time::sleep_until(self.clock.at(now, nanos)));
        let mut waker = Waker::noop().clone();
        // Not counted: a task that waits has a waker anyway.
        allocation_counter::opt_out(|| {
            let woken = self.woken.clone();
            waker = Waker::from(Arc::new(Woken { id, woken }));
        });
        let mut connection = Connection {
            idle: sleep(IDLE),
            ping: sleep(PING),
            waker,
        };
        connection.wait();
        self.connections.push(connection);
        id
    }

    fn message(&mut self, id: u32, now: Timestamp) {
        let at = self.clock.at(now, IDLE);
        self.connections[id as usize].idle.as_mut().reset(at);
    }

    fn pong(&mut self, id: u32, _: [u8; 8], now: Timestamp) {
        self.message(id, now);
    }

    fn poll(&mut self, now: Timestamp, pings: &mut Vec<Ping>) {
        self.clock.advance_to(now);
        let mut woken = std::mem::take(&mut *self.woken.lock().expect("nobody panics with it"));
        for id in woken.drain(..) {
            let connection = &mut self.connections[id as usize];
            if connection.wait() {
                pings.push((id, [0; 8]));
                let at = self.clock.at(now, PING);
                connection.ping.as_mut().reset(at);
                connection.wait();
            }
        }
    }
}

/// tokio's clock, which only `advance_to` moves.
struct PausedClock {
    runtime: &'static Runtime,
    _entered: EnterGuard<'static>,
    origin: Instant,
    now: Timestamp,
}

impl PausedClock {
    fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can be built");
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        let entered = runtime.enter();
        Self {
            runtime,
            _entered: entered,
            origin: now_of_tokio(),
            now: Timestamp::ZERO,
        }
    }

    fn at(&self, now: Timestamp, later: u64) -> Instant {
        self.origin + Duration::from_nanos(now.as_nanos() + later)
    }

    fn advance_to(&mut self, now: Timestamp) {
        let pause = now.saturating_duration_since(self.now);
        self.now = now;
        self.runtime.block_on(tokio::time::advance(pause));
    }
}

#[expect(clippy::disallowed_methods, reason = "the origin of its paused clock")]
fn now_of_tokio() -> Instant {
    Instant::now()
}
