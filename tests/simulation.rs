//! The socket on a simulated runtime: threads that block, a process that is suspended in any call,
//! a reactor that needs many turns to notice everything, a transport that is full at times. A peer
//! that does everything in time is never disconnected, and a dead one is disconnected within its
//! bound, with few polls.
//!
//! A million cases take a quarter of a minute:
//!
//! ```sh
//! PROPTEST_CASES=500000 cargo test --release --test simulation
//! ```

mod common;
#[path = "common/replayed.rs"]
mod replayed;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use common::off;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use replayed::assert_replays;
use tungstenite::{Error as WsError, Message};
use ws_timeout::{
    Error, Phase, PongEvidence, Received, Recorder, TimeoutConfigBuilder, TimeoutSocket, Timeouts,
    Timestamp, Trace,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

const PING_INTERVAL: Duration = SECOND;
const PONG_TIMEOUT: Duration = SECOND;
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

const MESSAGE_TIMEOUT: Duration = Duration::from_millis(700);

/// The longest time for which the transport is full while the peer is alive.
const FULL: Duration = Duration::from_millis(699);

/// The longest time for which the process is suspended or a thread is blocked.
const BLOCK: Duration = Duration::from_millis(1500);

/// How late each turn may be apart from that.
const LATE: Duration = Duration::from_millis(3);

/// How long a connection is watched.
const WATCHED: Duration = Duration::from_secs(12);

proptest! {
    #![proptest_config(config())]

    /// Guards rules 11 and 27.
    #[test]
    fn a_punctual_peer_is_never_disconnected(mut plan in plan()) {
        let mut run = Simulation::new(&mut plan, None);
        while run.now() < WATCHED {
            run.turn(&mut plan);
            prop_assert!(run.end.is_none(), "at {:?}: {:?}", run.now(), run.end);
        }
        assert_replays(&run.trace().to_string());
    }

    /// Guards rule 27.
    #[test]
    fn a_dead_peer_is_disconnected_in_time_with_few_polls(mut plan in plan(), dies in 0_u32..6000) {
        let dies = dies * MS;
        let mut run = Simulation::new(&mut plan, Some(dies));
        while run.now() < dies {
            run.turn(&mut plan);
            prop_assert!(run.end.is_none(), "at {:?}: {:?}", run.now(), run.end);
        }
        let tolerance = run.socket.config().stall_tolerance().unwrap_or_default();
        let turns = (LATE + MS) * (2 * plan.turns + 10);
        let bound = run.socket.config().detection_bound().unwrap();
        let verdict = run.now() + bound + plan.align * 2 + tolerance * 2 + turns;
        let end = verdict + CLOSE_TIMEOUT + tolerance + turns;
        run.polls = 0;
        while run.end.is_none() {
            run.turn(&mut plan);
            let (now, status) = (run.now(), run.socket.status());
            prop_assert!(status.phase != Phase::Open || now <= verdict, "{now:?}, later than {verdict:?}: {status}");
            prop_assert!(now <= end, "{now:?}, later than {end:?}: {status}");
        }
        let most = 200 + 10 * plan.turns;
        prop_assert!(run.polls < most, "{} polls", run.polls);
        assert_replays(&run.trace().to_string());
    }
}

/// Some thousand cases, or the number in `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_set { default.cases } else { 2000 },
        failure_persistence: None,
        ..default
    }
}

/// The parameters of a case, and the draws that it makes as it runs.
#[derive(Debug)]
struct Plan {
    turns: u32,
    align: Duration,
    message_timeout: bool,
    /// Whether there are pings. If not, the peer must send something of its own accord.
    asks: bool,
    /// Whether there is a limit on silence besides the pings, which just allows an answer to each.
    silence_too: bool,
    heartbeat: bool,
    only_pongs_count: bool,
    tolerance: Option<u32>,
    draws: Vec<u16>,
    next: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let turns = prop_oneof![Just(1), Just(3), Just(16)];
    let align = prop_oneof![Just(Duration::ZERO), Just(100 * MS)];
    let flags = any::<[bool; 5]>();
    let tolerance = proptest::option::of(1_u32..2000);
    let draws = vec(any::<u16>(), 50..500);
    (turns, align, flags, tolerance, draws).prop_map(|(turns, align, flags, tolerance, draws)| {
        let [
            message_timeout,
            asks,
            silence_too,
            heartbeat,
            only_pongs_count,
        ] = flags;
        Plan {
            turns,
            align,
            message_timeout,
            asks,
            silence_too,
            heartbeat,
            only_pongs_count,
            tolerance,
            draws,
            next: 0,
        }
    })
}

impl Plan {
    fn config(&self) -> TimeoutConfigBuilder {
        let mut config = off().close_timeout(CLOSE_TIMEOUT);
        if self.message_timeout {
            config = config.message_timeout(MESSAGE_TIMEOUT);
        }
        if self.asks {
            config = config
                .ping_interval(PING_INTERVAL)
                .pong_timeout(PONG_TIMEOUT);
            if let (true, Some(tolerance)) = (self.silence_too, self.tolerance) {
                // A ping may leave this late, and the peer answers it in time.
                config = config.idle_timeout(PING_INTERVAL + tolerance * MS + PONG_TIMEOUT);
            }
        } else {
            config = config.idle_timeout(IDLE_TIMEOUT);
        }
        if self.heartbeat {
            config = config.heartbeat_interval(300 * MS);
        }
        if self.only_pongs_count {
            config = config.pong_evidence(PongEvidence::Pong);
        }
        match self.tolerance {
            Some(tolerance) => config.stall_tolerance(tolerance * MS),
            None => config,
        }
    }

    fn below(&mut self, end: u32) -> u32 {
        let draw = self.draws[self.next % self.draws.len()];
        self.next += 1;
        u32::from(draw) * end / (u32::from(u16::MAX) + 1)
    }

    fn one_in(&mut self, many: u32) -> bool {
        // Shrunk draws make nothing happen.
        self.below(many) == many - 1
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most * self.below(1001) / 1000
    }

    /// The same, but half of the time almost `most`.
    fn delay(&mut self, most: Duration) -> Duration {
        if self.one_in(2) {
            most - self.up_to(50 * MS)
        } else {
            self.up_to(most)
        }
    }
}

/// A connection, its two tasks and their runtime.
struct Simulation {
    world: Shared,
    socket: TimeoutSocket<Wire, Alarm>,
    reader: Arc<Woken>,
    writer: Arc<Woken>,
    sending: Sending,
    /// When the peer last sent something of its own accord.
    last_sent: Duration,
    recorder: Recorder,
    end: Option<Error<WsError>>,
    polls: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Sending {
    Nothing,
    Wants,
    Flushes,
}

impl Simulation {
    fn new(plan: &mut Plan, dies: Option<Duration>) -> Self {
        let world = Shared::default();
        world.lock().turns = plan.turns;
        world.lock().answers_in = plan.delay(PONG_TIMEOUT - MS);
        world.lock().dies = dies;
        let config = plan.config().build().unwrap();
        let recorder = Recorder::new();
        let timeouts = Timeouts::new(config).with_observer(recorder.clone());
        let socket = TimeoutSocket::new(timeouts, Alarm(world.clone()), Wire(world.clone()));
        let reader = Arc::new(Woken::default());
        reader.0.store(true, Ordering::Relaxed);
        Self {
            world,
            recorder,
            socket: socket.with_timer_slack(plan.align),
            reader,
            writer: Arc::default(),
            sending: Sending::Nothing,
            last_sent: Duration::ZERO,
            end: None,
            polls: 0,
        }
    }

    fn now(&self) -> Duration {
        self.world.lock().now
    }

    /// The policy's calls and answers, up to now or to the end.
    fn trace(&self) -> Trace {
        let ended = self.recorder.verdicts().pop();
        ended.or_else(|| self.recorder.trace(1)).unwrap()
    }

    fn is_dead(&self) -> bool {
        self.world.lock().dies_within(Duration::ZERO)
    }

    /// Polls the tasks that were woken, then lets the reactor wait for something and turn.
    fn turn(&mut self, plan: &mut Plan) {
        self.may_block(plan);
        if plan.one_in(40) {
            self.socket.set_config(plan.config().build().unwrap());
        }
        if plan.one_in(10) {
            self.world.lock().held_up = plan.up_to(LATE);
        }
        if self.reader.0.swap(false, Ordering::Relaxed) {
            self.read(plan);
        }
        if self.sending == Sending::Nothing && plan.one_in(4) && self.end.is_none() {
            self.sending = Sending::Wants;
            self.writer.0.store(true, Ordering::Relaxed);
        }
        self.may_block(plan);
        if self.writer.0.swap(false, Ordering::Relaxed) && self.sending != Sending::Nothing {
            if plan.one_in(10) {
                self.sending = Sending::Nothing; // dropped, as a `select!` does
            } else {
                self.send();
            }
        }
        self.peer_acts(plan);
        self.may_block(plan);
        let is_idle = ![&self.reader, &self.writer]
            .iter()
            .any(|task| task.0.load(Ordering::Relaxed));
        let late = plan.up_to(LATE);
        self.world.lock().turn(is_idle, late);
    }

    /// The peer sends and accepts what it will from now on.
    fn peer_acts(&mut self, plan: &mut Plan) {
        let is_dead = self.is_dead();
        let mut world = self.world.lock();
        let now = world.now;
        if is_dead {
            let dies = world.dies.unwrap();
            world.coming.retain(|&(at, _)| at < dies);
            world.room_at = world.room_at.filter(|&at| at < dies);
            return;
        }
        world.answers_in = plan.delay(PONG_TIMEOUT - MS);
        if plan.asks && plan.one_in(20) {
            let at = now + plan.up_to(SECOND);
            world.coming.push_back((at, Message::text("data")));
        }
        if !plan.asks && world.coming.is_empty() {
            self.last_sent += plan.delay(IDLE_TIMEOUT - MS);
            world
                .coming
                .push_back((self.last_sent, Message::text("data")));
        }
        let nothing_waits = world.held.is_empty() && self.sending == Sending::Nothing;
        if nothing_waits && !world.full && plan.one_in(8) {
            world.full = true;
            world.room_at = Some(now + plan.delay(FULL));
        }
    }

    /// Makes a thread return late to a reactor with much to report, or schedules a suspension of
    /// the process in the middle of its work.
    fn may_block(&mut self, plan: &mut Plan) {
        if self.world.lock().dies_within(2 * BLOCK) {
            self.world.lock().suspension = None;
        } else if plan.one_in(30) {
            let length = plan.up_to(BLOCK);
            self.world.lock().suspension = Some((plan.below(12), length));
        } else if plan.one_in(30) {
            let length = plan.up_to(BLOCK);
            let mut world = self.world.lock();
            // What the kernel has already queued keeps its place.
            if world.next_coming().is_none_or(|at| at > world.now) {
                world.backlog = plan.below(plan.turns);
            }
            world.now += length;
        }
    }

    fn read(&mut self, plan: &mut Plan) {
        while self.end.is_none() {
            self.polls += 1;
            match self.poll_recv(plan) {
                Poll::Pending => return,
                Poll::Ready(Ok(Received::Message(_))) => {}
                Poll::Ready(Ok(Received::TimedOut)) => {
                    self.reader.0.store(true, Ordering::Relaxed);
                    return;
                }
                Poll::Ready(Ok(Received::Closed)) => self.end = Some(Error::Closed),
                Poll::Ready(Err(error)) => self.end = Some(error),
            }
        }
    }

    /// Polls a future that is kept, or one with a limit that is dropped, as a `select!` does.
    fn poll_recv(&mut self, plan: &mut Plan) -> Poll<Result<Received<Message>, Error<WsError>>> {
        let waker = Waker::from(self.reader.clone());
        let cx = &mut Context::from_waker(&waker);
        if plan.one_in(6) {
            let within = plan.up_to(4 * MS);
            return pin!(self.socket.recv_timeout(within)).poll_unpin(cx);
        }
        self.socket.poll_next_unpin(cx).map(|read| match read {
            Some(Ok(message)) => Ok(Received::Message(message)),
            Some(Err(error)) => Err(error),
            None => Ok(Received::Closed),
        })
    }

    fn send(&mut self) {
        let waker = Waker::from(self.writer.clone());
        let cx = &mut Context::from_waker(&waker);
        self.polls += 1;
        match self.poll_send(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.sending = Sending::Nothing,
            // The stream returns it too, once the closing handshake is over.
            Poll::Ready(Err(_)) if self.is_dead() => self.sending = Sending::Nothing,
            Poll::Ready(Err(error)) => self.end = Some(error),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error<WsError>>> {
        if self.sending == Sending::Wants {
            ready!(self.socket.poll_ready_unpin(cx))?;
            self.socket.start_send_unpin(Message::text("data"))?;
            self.sending = Sending::Flushes;
        }
        self.socket.poll_flush_unpin(cx)
    }
}

#[derive(Default)]
struct World {
    now: Duration,
    /// The number of further calls after which the process is suspended, and for how long.
    suspension: Option<(u32, Duration)>,
    alarm: Option<Duration>,
    rings: bool,
    alarm_waker: Option<Waker>,
    /// The time of the latest turn.
    turned: Duration,
    /// How long the thread is delayed before it sets the next alarm, while others continue.
    held_up: Duration,
    /// The number of turns in which the reactor notices everything.
    turns: u32,
    /// Turns in which it notices other sockets.
    backlog: u32,
    /// What arrives and when, whether the reactor has noticed it or not.
    coming: VecDeque<(Duration, Message)>,
    readable: VecDeque<Message>,
    reader: Option<Waker>,
    /// Whether the socket knows of no room, and when there will be some.
    full: bool,
    room_at: Option<Duration>,
    writer: Option<Waker>,
    held: Vec<Message>,
    /// How long the peer takes to answer a ping from now on.
    answers_in: Duration,
    /// When the peer dies.
    dies: Option<Duration>,
}

impl World {
    fn dies_within(&self, length: Duration) -> bool {
        self.dies.is_some_and(|dies| self.now + length >= dies)
    }

    /// When the kernel has, or had, something to report to the reactor.
    fn next_coming(&self) -> Option<Duration> {
        let coming = self.coming.iter().map(|&(at, _)| at);
        coming.chain(self.room_at).min()
    }

    /// A turn of the reactor, which waits for something to do if the tasks have nothing.
    fn turn(&mut self, waits: bool, late: Duration) {
        let alarm = self.alarm.filter(|_| !self.rings);
        let next = self.next_coming().into_iter().chain(alarm).min();
        if waits && self.backlog == 0 {
            self.now = self.now.max(next.unwrap_or(self.now + SECOND));
        }
        self.now += late;
        let now = self.now;
        if self.backlog > 0 {
            self.backlog -= 1;
        } else {
            let (arrived, coming): (Vec<_>, Vec<_>) =
                self.coming.drain(..).partition(|&(at, _)| at <= now);
            self.coming.extend(coming);
            if !arrived.is_empty() {
                self.readable
                    .extend(arrived.into_iter().map(|(_, message)| message));
                self.reader.take().into_iter().for_each(Waker::wake);
            }
            if self.room_at.take_if(|at| *at <= now).is_some() {
                self.full = false;
                self.writer.take().into_iter().for_each(Waker::wake);
            }
        }
        self.turned = now;
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.rings = true;
            self.alarm_waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Locks the world for a call of the socket, before which the process may be suspended.
    fn call(&self) -> MutexGuard<'_, World> {
        let mut world = self.lock();
        match world.suspension.take() {
            Some((0, length)) => world.now += length,
            Some((calls, length)) => world.suspension = Some((calls - 1, length)),
            None => {}
        }
        world
    }
}

struct Alarm(Shared);

impl ws_timeout::Timer for Alarm {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        Timestamp::from_duration(self.0.call().now)
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, at: Timestamp) {
        let at = at.saturating_duration_since(Timestamp::ZERO);
        let mut world = self.0.call();
        let held_up = std::mem::take(&mut world.held_up);
        if !held_up.is_zero() {
            world.turn(false, held_up);
        }
        world.alarm = Some(at);
        world.rings = at <= world.turned;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut world = self.0.call();
        if world.rings {
            world.rings = false;
            world.alarm = None;
            return Poll::Ready(());
        }
        world.alarm_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }

    fn reactor_turns(&self) -> u32 {
        self.0.lock().turns
    }

    fn time_suspended(&self) -> Duration {
        Duration::ZERO
    }
}

struct Wire(Shared);

impl Stream for Wire {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut world = self.0.call();
        if let Some(message) = world.readable.pop_front() {
            return Poll::Ready(Some(Ok(message)));
        }
        world.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Sink<Message> for Wire {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), WsError> {
        self.0.lock().held.push(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut world = self.0.call();
        if world.full {
            world.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now = world.now;
        let answers_at = now + world.answers_in;
        let is_answered = world.dies.is_none_or(|dies| answers_at < dies);
        for message in std::mem::take(&mut world.held) {
            if let (Message::Ping(payload), true) = (message, is_answered) {
                world.coming.push_back((answers_at, Message::Pong(payload)));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}

/// Whether a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
