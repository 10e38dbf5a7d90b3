//! The world of a socket: a scripted transport, and a clock and a timer that the test moves.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tungstenite::{Error as WsError, Message};
use ws_timeout::{CloseReason, Error, TimeoutConfigBuilder, TimeoutSocket, Timestamp};

pub type Guarded = TimeoutSocket<Wire, Hand>;
pub type Read = Result<Message, Error<WsError>>;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);

/// The state of the transport, the clock and the alarm, which the test sets.
#[derive(Default)]
pub struct World {
    pub now: Duration,
    /// How long the machine has been suspended.
    pub suspended: Duration,
    pub alarm: Option<Duration>,
    pub alarms_set: u32,
    /// How long the thread is delayed before it sets the next alarm.
    pub held_up: Duration,
    pub alarm_waker: Option<Waker>,
    /// The number of turns in which the reactor notices everything, if one is not enough.
    pub turns_needed: u32,
    /// Whether the reactor turns, so that an alarm that is due fires.
    pub turns: bool,
    /// What only that turn makes visible: messages, and room to write.
    pub unseen: VecDeque<Message>,
    pub unseen_room: bool,
    pub incoming: VecDeque<Message>,
    /// How often the transport was read, and how often it had a message.
    pub polls: u32,
    pub reads: u32,
    /// Whether the alarm fires during a read.
    pub fires_during_read: bool,
    pub ended: bool,
    /// Whether the transport accepts nothing.
    pub full: bool,
    /// Whether the inner sink has no room for a message either.
    pub no_place: bool,
    /// Whether there is room at the next try, without a wake-up.
    pub room_without_wake: bool,
    /// The message that the transport never accepts.
    pub refuses: Option<Message>,
    /// Whether it accepts no ping for now.
    pub refuses_pings: bool,
    /// Whether every write fails.
    pub broken: bool,
    /// Whether every read fails.
    pub fails: bool,
    /// Whether it has promised room for a message.
    pub promised: bool,
    pub held: Vec<Message>,
    pub sent: Vec<Message>,
    pub write_waker: Option<Waker>,
    /// How long the process is suspended before the next flush.
    pub suspended_before_flush: Duration,
    pub dropped: bool,
    /// How much was unread when the transport was dropped.
    pub unread: usize,
}

#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<World>>);

impl Shared {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub fn socket(&self, config: TimeoutConfigBuilder) -> Guarded {
        self.world().turns = true;
        TimeoutSocket::new(
            config.build().unwrap(),
            Hand(self.clone()),
            Wire(self.clone()),
        )
    }

    pub fn at(&self, now: Duration) {
        let mut world = self.world();
        world.now = now;
        let rings = world.turns && world.alarm.is_some_and(|alarm| alarm <= now);
        let waker = world.alarm_waker.take_if(|_| rings);
        drop(world);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The pong to the latest ping that was sent.
    pub fn pong(&self) -> Message {
        let world = self.world();
        let ping = world.sent.iter().rev().find_map(|message| match message {
            Message::Ping(payload) => Some(payload.clone()),
            _ => None,
        });
        Message::Pong(ping.unwrap())
    }
}

/// A transport of messages.
pub struct Wire(pub Shared);

impl Stream for Wire {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut world = self.0.world();
        world.polls += 1;
        if std::mem::take(&mut world.fires_during_read) {
            let alarm = world.alarm.unwrap();
            drop(world);
            self.0.at(alarm);
            world = self.0.world();
        }
        match world.incoming.pop_front() {
            Some(message) => {
                world.reads += 1;
                Poll::Ready(Some(Ok(message)))
            }
            None if world.fails => Poll::Ready(Some(Err(WsError::AttackAttempt))),
            None if world.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Sink<Message> for Wire {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut world = self.0.world();
        if world.broken {
            return Poll::Ready(Err(WsError::AttackAttempt));
        }
        if world.no_place {
            world.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        world.promised = true;
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), WsError> {
        let mut world = self.0.world();
        let promised = std::mem::take(&mut world.promised);
        assert!(promised, "there is no room for {message:?}");
        let refused = world.refuses_pings && message.is_ping();
        if refused || world.refuses.as_ref() == Some(&message) {
            return Err(WsError::AttackAttempt);
        }
        world.held.push(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut world = self.0.world();
        let suspended = std::mem::take(&mut world.suspended_before_flush);
        world.now += suspended;
        if world.broken {
            return Poll::Ready(Err(WsError::AttackAttempt));
        }
        if world.full {
            world.full = !world.room_without_wake;
            world.write_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let held = std::mem::take(&mut world.held);
        world.sent.extend(held);
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let mut world = self.0.world();
        world.dropped = true;
        world.unread = world.incoming.len();
    }
}

/// A clock and an alarm that the test moves.
pub struct Hand(pub Shared);

impl ws_timeout::Timer for Hand {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        Timestamp::from_duration(self.0.world().now)
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, at: Timestamp) {
        let mut world = self.0.world();
        let held_up = std::mem::take(&mut world.held_up);
        world.now += held_up;
        world.alarm = Some(at.saturating_duration_since(Timestamp::ZERO));
        world.alarms_set += 1;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut world = self.0.world();
        if world.turns && world.alarm.is_some_and(|alarm| alarm <= world.now) {
            world.alarm = None;
            let unseen = std::mem::take(&mut world.unseen);
            world.incoming.extend(unseen);
            world.full &= !world.unseen_room;
            return Poll::Ready(());
        }
        world.alarm_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }

    fn reactor_turns(&self) -> u32 {
        self.0.world().turns_needed
    }

    fn time_suspended(&self) -> Duration {
        self.0.world().suspended
    }
}

/// Whether a task was woken.
#[derive(Default)]
pub struct Woken(pub AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
pub fn waits(socket: &mut Guarded) {
    let read = socket.next().now_or_never();
    assert!(read.is_none(), "{read:?}");
}

/// Returns the next message, even if the task must yield first.
pub fn read_on(socket: &mut Guarded) -> Option<Option<Read>> {
    let first = socket.next().now_or_never();
    first.or_else(|| socket.next().now_or_never())
}

#[track_caller]
pub fn reason<M: std::fmt::Debug>(read: Option<Option<Result<M, Error<WsError>>>>) -> CloseReason {
    match read {
        Some(Some(Err(Error::Verdict(verdict)))) => verdict.reason,
        other => panic!("no verdict: {other:?}"),
    }
}

pub fn data() -> Message {
    Message::text("data")
}

/// Returns a socket whose ping was sent after a second of quiet, at second one, and must be
/// answered by second two.
pub fn awaiting_a_pong(shared: &Shared, config: TimeoutConfigBuilder) -> Guarded {
    let mut socket = shared.socket(config.ping_interval(SECOND).pong_timeout(SECOND));
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().ping_unanswered, Some(Duration::ZERO));
    socket
}

/// The peer sends so fast that the reading half always finds something.
#[track_caller]
pub fn reads_one_of_a_stream(shared: &Shared, socket: &mut Guarded) {
    shared.world().incoming.push_back(data());
    let read = socket.next().now_or_never().unwrap().unwrap();
    assert_eq!(read.unwrap(), data());
}

/// Returns what becomes due after a second, when there is no room, and is sent between two messages
/// once there is room.
#[track_caller]
pub fn leaves_when_there_is_room(config: TimeoutConfigBuilder) -> Message {
    let shared = Shared::default();
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    reads_one_of_a_stream(&shared, &mut socket);
    assert_eq!(shared.world().sent, []);
    shared.world().full = false;
    reads_one_of_a_stream(&shared, &mut socket);
    shared.world().sent[0].clone()
}

/// A heartbeat of numbered pings, and the pongs that name theirs.
pub fn numbered(socket: Guarded) -> Guarded {
    socket.with_heartbeat(
        |number| Message::text(format!("ping {number}")),
        |message, _| message.to_text().ok()?.strip_prefix("pong ")?.parse().ok(),
    )
}

/// Replies to numbered pings.
pub fn replying(socket: Guarded) -> Guarded {
    socket.with_heartbeat_replies(|message| {
        let number = message.to_text().ok()?.strip_prefix("ping ")?;
        Some(Message::text(format!("pong {number}")))
    })
}

/// Counts wake-ups.
#[derive(Default)]
pub struct Wakeups(pub AtomicU32);

impl Wake for Wakeups {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that both reads and writes, on an executor that polls it whenever it is woken while the
/// clock stands still.
pub struct Executor {
    pub wakeups: Arc<Wakeups>,
    pub waker: Waker,
}

impl Executor {
    pub fn new() -> Self {
        let wakeups = Arc::new(Wakeups::default());
        let waker = Waker::from(wakeups.clone());
        Self { wakeups, waker }
    }

    pub fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    /// Makes the task send something that has to wait, so that it is registered as the writer too.
    pub fn send_that_waits(&self, shared: &Shared, socket: &mut Guarded) {
        let cx = &mut self.context();
        assert!(socket.poll_next_unpin(cx).is_pending());
        shared.world().full = true;
        socket.start_send_unpin(data()).unwrap();
        assert!(socket.poll_flush_unpin(cx).is_pending());
        shared.world().full = false;
        assert!(socket.poll_flush_unpin(cx).is_ready());
    }

    /// Polls until the task sleeps.
    #[track_caller]
    pub fn run(&self, mut poll: impl FnMut(&mut Context<'_>) -> bool) {
        self.wakeups.0.store(1, Ordering::Relaxed);
        let mut polls = 0;
        while self.wakeups.0.swap(0, Ordering::Relaxed) > 0 {
            polls += 1;
            assert!(polls < 10, "a busy loop");
            assert!(poll(&mut self.context()), "the task is done");
        }
    }
}
