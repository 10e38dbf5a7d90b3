//! The rules of the socket that a scripted transport and a clock moved by hand show best, one by one. The
//! others have theirs in `socket.rs`; CONTRIBUTING.md lists which test guards which rule.

mod common;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::off;
use futures_util::future::FusedFuture;
use futures_util::stream::FusedStream;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::{
    CloseHandshake, CloseReason, DeadlineKind, Error, IdleScope, Metered, PongEvidence, Received,
    TimeoutConfigBuilder, TimeoutSocket, Timestamp,
};

type Guarded = TimeoutSocket<Wire, Hand>;
type Read = Result<Message, Error<WsError>>;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// What the test says of the transport, the clock and the alarm.
#[derive(Default)]
struct World {
    now: Duration,
    /// How long the machine has been suspended.
    suspended: Duration,
    alarm: Option<Duration>,
    alarms_set: u32,
    /// How long the thread is held up before it sets the next alarm.
    held_up: Duration,
    alarm_waker: Option<Waker>,
    /// In how many turns the reactor hears of everything, if one is not enough.
    turns_needed: u32,
    /// Whether the reactor has its turn, so that an alarm that is due rings.
    turns: bool,
    /// What only that turn brings to light: messages, and room to write.
    unseen: VecDeque<Message>,
    unseen_room: bool,
    incoming: VecDeque<Message>,
    /// How often it was asked for a message, and how often it had one.
    looks: u32,
    reads: u32,
    /// Whether the alarm rings while it is asked.
    rings_meanwhile: bool,
    ended: bool,
    /// Whether the transport takes nothing.
    full: bool,
    /// Whether it has no place for a message either.
    no_place: bool,
    /// Whether it has room at the next try, and wakes nobody for that.
    room_unsaid: bool,
    /// What the transport never takes.
    refuses: Option<Message>,
    /// Whether it takes no ping for now.
    refuses_pings: bool,
    /// Whether every write fails.
    broken: bool,
    /// Whether every read fails.
    fails: bool,
    /// Whether it has promised a place for a message.
    promised: bool,
    held: Vec<Message>,
    sent: Vec<Message>,
    write_waker: Option<Waker>,
    dropped: bool,
    /// What was unread when it was dropped.
    unread: usize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    fn socket(&self, config: TimeoutConfigBuilder) -> Guarded {
        self.world().turns = true;
        TimeoutSocket::new(
            config.build().unwrap(),
            Hand(self.clone()),
            Wire(self.clone()),
        )
    }

    fn at(&self, now: Duration) {
        let mut world = self.world();
        world.now = now;
        let rings = world.turns && world.alarm.is_some_and(|alarm| alarm <= now);
        let waker = world.alarm_waker.take_if(|_| rings);
        drop(world);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The pong to the latest ping that was sent.
    fn pong(&self) -> Message {
        let world = self.world();
        let ping = world.sent.iter().rev().find_map(|message| match message {
            Message::Ping(payload) => Some(payload.clone()),
            _ => None,
        });
        Message::Pong(ping.unwrap())
    }
}

/// A transport of messages.
struct Wire(Shared);

impl Stream for Wire {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut world = self.0.world();
        world.looks += 1;
        if std::mem::take(&mut world.rings_meanwhile) {
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
        assert!(promised, "there is no place for {message:?}");
        let refused = world.refuses_pings && message.is_ping();
        if refused || world.refuses.as_ref() == Some(&message) {
            return Err(WsError::AttackAttempt);
        }
        world.held.push(message);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut world = self.0.world();
        if world.broken {
            return Poll::Ready(Err(WsError::AttackAttempt));
        }
        if world.full {
            world.full = !world.room_unsaid;
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

/// A clock and an alarm moved by hand.
struct Hand(Shared);

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

    fn turns(&self) -> u32 {
        self.0.world().turns_needed
    }

    fn time_suspended(&self) -> Duration {
        self.0.world().suspended
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

#[track_caller]
fn waits(socket: &mut Guarded) {
    let read = socket.next().now_or_never();
    assert!(read.is_none(), "{read:?}");
}

/// The next message, where a task may have to yield first.
fn read_on(socket: &mut Guarded) -> Option<Option<Read>> {
    let first = socket.next().now_or_never();
    first.or_else(|| socket.next().now_or_never())
}

#[track_caller]
fn reason<M: std::fmt::Debug>(read: Option<Option<Result<M, Error<WsError>>>>) -> CloseReason {
    match read {
        Some(Some(Err(Error::Verdict(verdict)))) => verdict.reason,
        other => panic!("no verdict: {other:?}"),
    }
}

fn data() -> Message {
    Message::text("data")
}

/// A ping of a second's quiet is out since second one, and is to be answered by second two.
fn awaiting_a_pong(shared: &Shared, config: TimeoutConfigBuilder) -> Guarded {
    let mut socket = shared.socket(config.ping_interval(SECOND).pong_timeout(SECOND));
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().ping_unanswered, Some(Duration::ZERO));
    socket
}

/// Guards rule 1.
#[test]
fn what_has_arrived_counts_however_late_we_look() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    shared.at(5 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 2.
#[test]
fn the_peer_is_judged_by_an_alarm_no_earlier_than_its_deadline_and_a_read_after_it() {
    for answered in [true, false] {
        let shared = Shared::default();
        // The alarm is set for a look at second 1.9, and the thread comes back at second five.
        let mut socket = awaiting_a_pong(&shared, off().heartbeat_interval(900 * MS));
        shared.at(5 * SECOND);
        waits(&mut socket);
        let alarm = shared.world().alarm;
        assert!(
            alarm.is_some_and(|alarm| alarm <= 5 * SECOND + MS),
            "{alarm:?}"
        );
        // The reactor turns, and shows what was there all the time, or that nothing was.
        if answered {
            let pong = shared.pong();
            shared.world().incoming.push_back(pong);
        }
        shared.at(5 * SECOND + MS);
        if answered {
            waits(&mut socket);
        } else {
            let read = socket.next().now_or_never();
            assert_eq!(reason(read), CloseReason::PongTimeout);
        }
    }
}

/// Guards rule 2.
#[test]
fn what_the_ring_brings_to_light_is_read_before_anything_is_judged() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    shared.at(2 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 2.
#[test]
fn what_a_ring_in_the_middle_brings_to_light_is_read_before_anything_is_judged() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    shared.world().rings_meanwhile = true;
    // By another task than the one that the ring wakes.
    let waker = Waker::from(Arc::new(Woken::default()));
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending(), "{read:?}");
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rule 19.
#[test]
fn what_came_before_a_resume_says_nothing_of_the_link_after_it() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(60 * SECOND)
        .pong_timeout(60 * SECOND)
        .resume_probe(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().incoming.extend([data(), data()]);
    shared.world().suspended += 3600 * SECOND;
    shared.at(60 * SECOND);
    for _ in 0..2 {
        assert!(socket.next().now_or_never().is_some());
    }
    waits(&mut socket);
    let now = shared.world().now;
    shared.at(now + 10 * SECOND);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 2.
#[test]
fn an_alarm_costs_one_read() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    let looks = shared.world().looks;
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pings_sent, 1);
    assert_eq!(shared.world().looks - looks, 1);
}

/// Guards rules 2 and 8.
#[test]
fn a_task_that_takes_over_hears_the_ring_that_woke_the_other() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    shared.world().rings_meanwhile = true;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    let heard = socket.status().pings_sent == 1 || woken.0.load(Ordering::Relaxed);
    assert!(heard, "the ring is lost");
}

/// Lets the reactor turn so often, a millisecond apart, and gives what a read finds after the last.
fn turn(shared: &Shared, socket: &mut Guarded, turns: u32) -> Option<Option<Read>> {
    let mut read = None;
    for _ in 0..turns {
        assert!(read.is_none(), "{read:?}");
        let now = shared.world().now + MS;
        let alarm = shared.world().alarm;
        assert!(alarm.is_some_and(|alarm| alarm <= now), "{alarm:?}");
        shared.at(now);
        read = socket.next().now_or_never();
    }
    read
}

/// Guards rule 2.
#[test]
fn the_peer_is_judged_when_the_reactor_has_turned_often_enough() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = awaiting_a_pong(&shared, off());
    // The first ring is that of the deadline. The last of the turns brings the pong to light.
    shared.at(2 * SECOND - MS);
    assert!(turn(&shared, &mut socket, 2).is_none());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    assert!(turn(&shared, &mut socket, 1).is_none());
    assert_eq!(socket.status().pongs_received, 1);

    // The turns for one ping do not count for the next, nor does a look of whoever sends cost one.
    while socket.status().pings_sent < 2 {
        let alarm = shared.world().alarm;
        shared.at(alarm.unwrap());
        waits(&mut socket);
    }
    let due = shared.world().now + SECOND;
    shared.at(due - MS);
    for _ in 0..2 {
        let now = shared.world().now + MS;
        shared.at(now);
        socket.send(data()).now_or_never().unwrap().unwrap();
        waits(&mut socket);
    }
    let read = turn(&shared, &mut socket, 1);
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 2.
#[test]
fn the_turns_for_one_deadline_do_not_count_for_another() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = awaiting_a_pong(&shared, off().message_timeout(998 * MS));
    shared.at(SECOND + 4 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap(); // so the next ping is far
    shared.world().full = true;
    let late = socket.send(data()).now_or_never(); // by second 2.002
    assert!(late.is_none());
    for turn in 0..2 {
        shared.at(2 * SECOND + turn * MS);
        waits(&mut socket);
    }
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
    shared.at(2 * SECOND + MS);
    let read = turn(&shared, &mut socket, 3);
    assert_eq!(reason(read), CloseReason::MessageTimeout);
}

/// Guards rules 1 and 2.
#[test]
fn the_turns_before_an_answer_do_not_count_after_a_block() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = shared.socket(off().idle_timeout(2 * SECOND));
    waits(&mut socket);
    for turn in 0..2 {
        shared.at(2 * SECOND + turn * MS);
        waits(&mut socket);
    }
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    let due = shared.world().now + 2 * SECOND;
    let mut turns = 0;
    while !shared.world().sent.iter().any(Message::is_close) {
        shared.at(due + turns * MS);
        waits(&mut socket);
        turns += 1;
    }
    // The first ring is that of an alarm that was set before.
    assert_eq!(turns, 4);
}

/// Guards rules 2 and 7.
#[test]
fn a_send_is_given_up_when_the_reactor_has_turned_often_enough() {
    for of_its_own in [true, false] {
        let shared = Shared::default();
        shared.world().turns_needed = 3;
        let limit = if of_its_own { 9 * SECOND } else { SECOND };
        let mut socket = shared.socket(off().message_timeout(limit));
        shared.world().full = true;
        let mut send = pin!(socket.send_text_timeout("x", 10 * SECOND - limit));
        assert!(send.as_mut().now_or_never().is_none());
        for late in 0..2 {
            shared.at(SECOND + late * MS);
            let sent = send.as_mut().now_or_never();
            assert!(sent.is_none(), "{late} {sent:?}");
        }
        shared.at(SECOND + 2 * MS);
        let sent = send.now_or_never();
        assert_eq!(
            reason(sent.map(Some)),
            CloseReason::MessageTimeout,
            "{of_its_own}"
        );
    }
}

/// Guards rule 2.
#[test]
fn a_handshake_is_too_late_when_the_reactor_has_turned_often_enough() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    for late in 0..2 {
        shared.at(SECOND + late * MS);
        assert!(opening.as_mut().now_or_never().is_none(), "{late}");
    }
    shared.at(SECOND + 2 * MS);
    let opened = opening.now_or_never().map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
}

/// Guards rule 2.
#[test]
fn a_handshake_has_its_turns_anew_after_a_grace() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).stall_tolerance(SECOND);
    let config = config.build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    // A stall, of which the third turn begins a grace; and another when that is over.
    for begin in [5 * SECOND, 12 * SECOND] {
        for turn in 0..3 {
            shared.at(begin + turn * MS);
            let opened = opening.as_mut().now_or_never();
            assert!(opened.is_none() || (begin > 10 * SECOND && turn == 2));
        }
    }
    let alarm = shared.world().alarm;
    assert!(alarm.is_none(), "not judged in the third turn: {alarm:?}");
}

/// Guards rules 2 and 4.
#[test]
fn between_messages_what_is_unread_is_not_judged() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().pong_evidence(PongEvidence::Pong));
    let pong = shared.pong();
    shared.world().incoming.extend([data(), data(), pong]);
    shared.at(5 * SECOND);
    for _ in 0..2 {
        assert_eq!(
            socket.next().now_or_never().unwrap().unwrap().unwrap(),
            data()
        );
    }
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// Guards rules 2 and 5.
#[test]
fn the_sending_half_does_not_judge_silence() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.world().full = true;
    shared.at(5 * SECOND);
    let sent = socket.send(data()).now_or_never();
    assert!(sent.is_none(), "{sent:?}");
    assert_eq!(
        reason(socket.next().now_or_never()),
        CloseReason::PongTimeout
    );
}

/// Guards rule 6.
#[test]
fn what_is_owed_is_tried_before_it_is_judged() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    waits(&mut socket);
    shared.world().full = false;
    shared.at(5 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rule 6.
#[test]
fn the_sending_half_tries_again_when_the_alarm_has_rung() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().full = true;
    {
        let mut sending = pin!(socket.send(data()));
        assert!(sending.as_mut().now_or_never().is_none());
        shared.world().unseen_room = true;
        shared.at(SECOND);
        sending.now_or_never().unwrap().unwrap();
    }
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rules 1 and 7.
#[test]
fn a_message_does_not_touch_the_alarm() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(10 * SECOND));
    waits(&mut socket);
    assert_eq!(shared.world().alarms_set, 1);
    for millis in 1..=1000 {
        shared.at(millis * MS);
        shared.world().incoming.push_back(data());
        assert!(socket.next().now_or_never().is_some());
        waits(&mut socket);
    }
    assert_eq!(shared.world().alarms_set, 1);
    // It rings early, and is set for what has moved meanwhile.
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11 * SECOND));
    shared.at(11 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().cause, Some(CloseReason::IdleTimeout));
}

/// A grace is longer than the limit that it puts off: with it over, the limit counts from the message.
/// Guards rule 7.
#[test]
fn a_message_in_a_grace_brings_the_alarm_nearer() {
    let shared = Shared::default();
    let config = off().idle_timeout(SECOND).stall_tolerance(3 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(13 * SECOND));
    shared.at(10_500 * MS);
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11_500 * MS));
}

#[test]
fn a_send_in_a_grace_brings_the_alarm_nearer() {
    let shared = Shared::default();
    let config = off().idle_timeout(SECOND).stall_tolerance(3 * SECOND);
    let mut socket = shared.socket(config.idle_scope(IdleScope::Messages));
    waits(&mut socket);
    shared.at(10 * SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(13 * SECOND));
    shared.at(10_500 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap();
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(11_500 * MS));
}

/// By then the next ping is due, and no alarm is set for it.
#[test]
fn a_message_that_answers_a_ping_late_asks_for_the_next() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    for second in 1..=2 {
        shared.at(second * SECOND);
        waits(&mut socket);
    }
    assert_eq!(shared.world().alarm, Some(11 * SECOND));
    shared.at(3 * SECOND);
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    assert_eq!(socket.status().pings_sent, 2);
    assert_eq!(shared.world().sent.len(), 2);
}

/// The alarm is set once a ping: when that goes out, to what the answer will leave.
/// Guards rule 7.
#[test]
fn the_answer_to_a_ping_does_not_touch_the_alarm() {
    for align in [Duration::ZERO, 125 * MS] {
        let shared = Shared::default();
        let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
        let mut socket = shared
            .socket(config.stall_tolerance(SECOND))
            .with_timer_slack(align);
        waits(&mut socket);
        for second in 1..=10 {
            shared.at(second * SECOND);
            waits(&mut socket);
            let pong = shared.pong();
            shared.at(second * SECOND + 30 * MS);
            shared.world().incoming.push_back(pong);
            waits(&mut socket);
            assert_eq!(socket.status().pongs_received, u64::from(second));
            assert_eq!(shared.world().alarm, Some((second + 1) * SECOND));
            assert_eq!(shared.world().alarms_set, second + 1);
        }
    }
}

/// A transport keeps one waker for writing: that of the last who tried.
/// Guards rule 8.
#[test]
fn a_flush_of_the_reading_half_wakes_the_writer_too() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    let (writer, reader) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    shared.world().full = true;
    socket.start_send_unpin(data()).unwrap();
    let waker = Waker::from(writer.clone());
    let sent = socket.poll_flush_unpin(&mut Context::from_waker(&waker));
    assert!(sent.is_pending());
    let waker = Waker::from(reader.clone());
    shared.at(SECOND);
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    assert_eq!(
        shared.world().held.len(),
        2,
        "the reading half has tried its ping"
    );
    writer.0.store(false, Ordering::Relaxed);
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// A transport with one place for a waker, whoever polls it, and what it has to read.
#[derive(Clone, Default)]
struct OnePlace(Arc<Mutex<(Option<Waker>, VecDeque<Message>)>>);

impl Stream for OnePlace {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut place = self.0.lock().unwrap();
        place.0 = Some(cx.waker().clone());
        let message = place.1.pop_front();
        message.map_or(Poll::Pending, |message| Poll::Ready(Some(Ok(message))))
    }
}

impl Sink<Message> for OnePlace {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.poll_flush(cx)
    }

    fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), WsError> {
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.0.lock().unwrap().0 = Some(cx.waker().clone());
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}

/// Guards rule 8.
#[test]
fn a_transport_with_one_place_for_a_waker_wakes_the_reader_after_a_send() {
    let wire = OnePlace::default();
    let hand = Hand(Shared::default());
    let mut socket = TimeoutSocket::new(off().build().unwrap(), hand, wire.clone());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    socket.send(data()).now_or_never().unwrap().unwrap();
    let place = wire.0.lock().unwrap().0.take();
    wire.0.lock().unwrap().1.push_back(data());
    place.unwrap().wake();
    assert!(woken.0.load(Ordering::Relaxed), "the reader sleeps on");
}

/// Guards rule 8.
#[test]
fn a_writer_that_asks_for_a_place_and_then_flushes_is_woken_when_there_is_one() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let mut sending = Context::from_waker(&waker);
    shared.world().no_place = true;
    assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    assert!(socket.poll_flush_unpin(&mut sending).is_ready());
    writer.0.store(false, Ordering::Relaxed);
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// Guards rule 8.
#[test]
fn a_writer_that_waits_for_a_place_is_woken_though_the_reader_has_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let (writer, reader) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    shared.world().no_place = true;
    let waker = Waker::from(writer.clone());
    let mut sending = Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    let waker = Waker::from(reader.clone());
    shared.world().incoming.push_back(Message::Ping("x".into()));
    // Its answer is flushed at once.
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_ready());
    // Either it is woken now, or when there is a place.
    let woken = writer.0.swap(false, Ordering::Relaxed);
    if woken {
        assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    }
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// Sockets that were created at different times, and one that is not aligned.
#[test]
fn aligned_alarms_ring_together_late_and_never_early() {
    let config = off().ping_interval(SECOND).stall_tolerance(SECOND);
    let aligned = |created: Duration, align| {
        let shared = Shared::default();
        shared.world().now = created;
        let mut socket = shared.socket(config).with_timer_slack(align);
        waits(&mut socket);
        let alarm = shared.world().alarm.unwrap();
        shared.at(alarm);
        waits(&mut socket);
        assert_eq!(socket.status().pings_sent, 1);
        alarm
    };
    assert_eq!(aligned(10 * MS, Duration::ZERO), 1010 * MS);
    assert_eq!(aligned(10 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(124 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(125 * MS, 125 * MS), 1125 * MS);
    assert_eq!(aligned(126 * MS, 125 * MS), 1250 * MS);
    // Half of the stall tolerance at most.
    assert_eq!(aligned(10 * MS, 60 * SECOND), 1500 * MS);
}

/// Guards rule 9.
#[test]
fn a_send_that_waits_sets_the_alarm_of_the_reading_task_nearer() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(60 * SECOND).message_timeout(SECOND));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut reader = Context::from_waker(&waker);
    assert!(socket.poll_next_unpin(&mut reader).is_pending());
    assert_eq!(shared.world().alarm, Some(60 * SECOND));

    // The future of the send is dropped here: the reading task alone is left to notice.
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    assert_eq!(shared.world().alarm, Some(SECOND));
    shared.at(SECOND);
    assert!(
        woken.0.load(Ordering::Relaxed),
        "the reading task sleeps on"
    );
    assert_eq!(
        reason(socket.next().now_or_never()),
        CloseReason::MessageTimeout
    );
}

/// Guards rule 11.
#[test]
fn a_write_has_left_when_it_is_flushed_and_not_before() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let mut socket = shared.socket(config.message_timeout(60 * SECOND));
    shared.world().full = true;
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    // The ping is in a buffer: its answer is awaited from when it has left.
    assert_eq!(shared.world().held.len(), 1);
    shared.at(4 * SECOND);
    assert!(socket.send(data()).now_or_never().is_none());
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.ping_unsent, status.ping_unanswered),
        (Some(3 * SECOND), None)
    );
    assert_eq!(status.since_sent, 4 * SECOND);
    shared.world().full = false;
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.ping_unsent, status.ping_unanswered),
        (None, Some(Duration::ZERO))
    );
    assert_eq!(status.since_sent, Duration::ZERO);
}

/// Guards rule 11.
#[test]
fn the_answer_to_a_ping_is_flushed_and_no_message() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(SECOND);
    {
        let mut world = shared.world();
        world.incoming.push_back(Message::Ping("hello".into()));
        // As tungstenite does on reading it.
        world.held.push(Message::Pong("hello".into()));
    }
    assert!(socket.next().now_or_never().is_some());
    // Whoever has it may be long at it.
    assert_eq!(shared.world().sent, [Message::Pong("hello".into())]);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(
        (status.since_sent, status.since_active),
        (Duration::ZERO, SECOND)
    );
}

/// Guards rule 11.
#[test]
fn the_answer_to_a_heartbeat_leaves_before_data_is_handed_on() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off().idle_timeout(10 * SECOND))
        .with_text_heartbeat_replies("ping", "pong");
    waits(&mut socket);
    let ping = Message::text("ping");
    shared.world().incoming.extend([ping, data()]);
    assert_eq!(
        socket.next().now_or_never().unwrap().unwrap().unwrap(),
        data()
    );
    assert_eq!(shared.world().sent, [Message::text("pong")]);
}

/// The peer sends so fast that the reading half never finds nothing.
#[track_caller]
fn reads_one_of_a_stream(shared: &Shared, socket: &mut Guarded) {
    shared.world().incoming.push_back(data());
    let read = socket.next().now_or_never().unwrap().unwrap();
    assert_eq!(read.unwrap(), data());
}

/// What becomes due after a second, when there is no room, and leaves between two messages once there is.
#[track_caller]
fn leaves_when_there_is_room(config: TimeoutConfigBuilder) -> Message {
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

/// Guards rules 4, 6 and 11.
#[test]
fn what_has_waited_for_room_leaves_though_the_peer_never_pauses() {
    assert!(leaves_when_there_is_room(off().ping_interval(SECOND)).is_ping());

    // The answer to the peer's.
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(10 * SECOND));
    waits(&mut socket);
    let (ping, pong) = (Message::Ping("x".into()), Message::Pong("x".into()));
    shared.world().full = true;
    shared.world().incoming.push_back(ping);
    shared.world().held.push(pong.clone());
    assert!(socket.next().now_or_never().is_some());
    reads_one_of_a_stream(&shared, &mut socket);
    assert_eq!(shared.world().sent, []);
    shared.world().full = false;
    reads_one_of_a_stream(&shared, &mut socket);
    assert_eq!(shared.world().sent, [pong]);
}

/// Guards rule 11.
#[test]
fn a_ping_that_was_refused_has_not_left() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    // It has been taken, and is answered before its flush is done.
    let Message::Ping(payload) = shared.world().held[0].clone() else {
        panic!()
    };
    shared.world().incoming.push_back(Message::Pong(payload));
    waits(&mut socket);
    shared.world().refuses_pings = true;
    socket.probe(100 * SECOND);
    waits(&mut socket);
    shared.world().full = false;
    shared.at(SECOND + MS);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(shared.world().sent.len(), 1, "{status}");
    assert_eq!(status.ping_unanswered, None, "{status}");
    assert!(status.ping_unsent.is_some(), "{status}");
}

/// Guards rule 14.
#[test]
fn a_close_leaves_though_the_peer_never_pauses() {
    assert!(leaves_when_there_is_room(off().connection_timeout(SECOND)).is_close());

    // One of the program, which did not flush it.
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    socket.start_send_unpin(Message::Close(None)).unwrap();
    reads_one_of_a_stream(&shared, &mut socket);
    assert!(shared.world().sent[0].is_close());
}

/// Guards rule 13.
#[test]
fn an_abort_says_why_if_it_can_and_drops_the_transport_though_halves_are_held() {
    for full in [false, true] {
        let shared = Shared::default();
        let (sink, mut stream) = awaiting_a_pong(&shared, off()).split();
        shared.world().full = full;
        shared.at(2 * SECOND);
        let Some(Some(Err(Error::Verdict(verdict)))) = stream.next().now_or_never() else {
            panic!("no verdict");
        };
        let told = if full {
            CloseHandshake::NotSent
        } else {
            CloseHandshake::Sent
        };
        assert_eq!(
            (verdict.reason, verdict.close_handshake),
            (CloseReason::PongTimeout, told)
        );
        let world = shared.world();
        assert!(world.dropped);
        assert_eq!(world.sent.iter().any(Message::is_close), !full);
        drop(world);
        drop((sink, stream));
    }
}

/// With input unread the kernel sends a reset, which can overtake the Close frame.
/// Guards rule 13.
#[test]
fn what_is_there_is_read_before_the_transport_is_dropped() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().max_ping_rate(1));
    let flood = (0..100).map(|_| Message::Ping("x".into()));
    shared.world().incoming.extend(flood);
    let end = loop {
        match read_on(&mut socket) {
            Some(Some(Ok(_))) => {}
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::PingFlood);
    let world = shared.world();
    assert!(world.sent.iter().any(Message::is_close));
    assert!(world.reads < 100 || world.unread == 0);
    assert_eq!((world.dropped, world.unread), (true, 0));
}

/// Guards rule 15.
#[test]
fn a_server_that_does_not_hang_up_is_waited_for_and_then_it_is_a_clean_end() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().close_timeout(2 * SECOND));
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(
        socket
            .next()
            .now_or_never()
            .unwrap()
            .unwrap()
            .unwrap()
            .is_close()
    );
    waits(&mut socket);
    shared.at(2 * SECOND - MS);
    waits(&mut socket);
    assert!(!shared.world().dropped);
    shared.at(2 * SECOND);
    let end = socket.next().now_or_never();
    assert!(matches!(end, Some(None)), "{end:?}");
    assert!(shared.world().dropped);
}

/// "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455, 5.5.1), and the
/// answer to the peer's is one.
/// Guards rule 15.
#[test]
fn nothing_is_sent_once_the_peer_has_closed() {
    for our_own_waits in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        waits(&mut socket);
        let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
        ready.unwrap().unwrap();
        if our_own_waits {
            shared.world().full = true;
            socket.feed(data()).now_or_never().unwrap().unwrap();
            let closing = SinkExt::close(&mut socket).now_or_never();
            assert!(closing.is_none());
        }
        shared.world().incoming.push_back(Message::Close(None));
        assert!(socket.next().now_or_never().is_some());
        shared.world().full = false;
        assert!(matches!(
            socket.start_send_unpin(data()),
            Err(Error::Closed)
        ));
        let sent = socket.send(data()).now_or_never();
        assert!(matches!(sent, Some(Err(Error::Closed))), "{sent:?}");
        SinkExt::close(&mut socket).now_or_never().unwrap().unwrap();
        assert_eq!(shared.world().sent.len(), usize::from(our_own_waits));
        assert!(shared.world().held.is_empty());
    }
}

/// Guards rule 15.
#[test]
fn a_message_that_the_close_of_the_peer_overtakes_does_not_follow_it() {
    for verdict in [false, true] {
        let shared = Shared::default();
        let config = off()
            .ping_interval(SECOND)
            .idle_timeout(2 * SECOND)
            .close_timeout(2 * SECOND);
        let mut socket = shared.socket(config);
        waits(&mut socket);
        let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
        ready.unwrap().unwrap();
        shared.at(SECOND);
        waits(&mut socket);
        // The ping has taken the place.
        shared.world().no_place = true;
        socket.start_send_unpin(data()).unwrap();
        if verdict {
            shared.at(2 * SECOND);
            waits(&mut socket);
        }
        shared.world().incoming.push_back(Message::Close(None));
        assert_eq!(socket.next().now_or_never().is_none(), verdict);
        shared.world().no_place = false;
        match socket.flush().now_or_never() {
            Some(Err(Error::Closed)) if !verdict => {
                socket.flush().now_or_never().unwrap().unwrap();
            }
            Some(Err(Error::Verdict(_))) if verdict => {}
            other => panic!("{other:?}"),
        }
        waits(&mut socket);
        let world = shared.world();
        assert!(world.held.is_empty());
        assert_eq!(world.sent.len(), 1);
        assert!(world.sent[0].is_ping());
    }
}

/// Guards rule 10.
#[test]
fn a_promised_message_that_is_refused_fails_the_flush() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.at(SECOND);
    waits(&mut socket);
    // The ping has taken the place.
    shared.world().refuses = Some(data());
    socket.start_send_unpin(data()).unwrap();
    waits(&mut socket);
    let told = socket.flush().now_or_never();
    assert!(matches!(told, Some(Err(Error::Socket(_)))), "{told:?}");
    let sent = socket.send(Message::text("next")).now_or_never();
    assert!(matches!(sent, Some(Ok(()))), "{sent:?}");
}

/// Guards rule 15.
#[test]
fn a_writer_that_waits_for_room_hears_that_the_peer_has_closed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().full = true;
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    writer.0.store(false, Ordering::Relaxed);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(socket.next().now_or_never().is_some());
    assert!(writer.0.load(Ordering::Relaxed));
    let told = socket.poll_ready_unpin(cx);
    assert!(matches!(told, Poll::Ready(Err(Error::Closed))), "{told:?}");
}

/// Guards rule 17.
#[test]
fn a_message_is_read_when_it_is_asked_for() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.world().incoming.extend((0..10).map(|_| data()));
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    for read in 1..=10 {
        assert!(socket.next().now_or_never().is_some());
        socket.send(data()).now_or_never().unwrap().unwrap();
        assert_eq!(shared.world().reads, read);
    }
}

/// A task whose last reference is the waker in the socket. With it goes what wakes whoever waits to write.
#[derive(Default)]
struct OwnsTheOtherEnd(Mutex<Option<Waker>>);

impl Wake for OwnsTheOtherEnd {
    fn wake(self: Arc<Self>) {}
}

impl Drop for OwnsTheOtherEnd {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap()
            .take()
            .into_iter()
            .for_each(Waker::wake);
    }
}

/// Guards rule 8.
#[test]
fn a_half_that_changes_tasks_may_drop_the_old_task() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        let owner = Arc::new(OwnsTheOtherEnd::default());
        let old = Waker::from(owner.clone());
        let read = socket.poll_next_unpin(&mut Context::from_waker(&old));
        assert!(read.is_pending());
        shared.world().full = true;
        assert!(socket.send(data()).now_or_never().is_none());
        *owner.0.lock().unwrap() = shared.world().write_waker.take();
        drop((owner, old));
        let new = Waker::from(Arc::new(Woken::default()));
        let read = socket.poll_next_unpin(&mut Context::from_waker(&new));
        done.send(read.is_pending()).unwrap();
    });
    assert_eq!(wait.recv_timeout(5 * SECOND), Ok(true));
}

/// A peer that repeats a word of the heartbeat must not hold the task for ever.
/// Guards rule 20.
#[test]
fn a_poll_takes_a_bounded_number_of_heartbeats() {
    for word in ["ping", "pong"] {
        let shared = Shared::default();
        let socket = shared.socket(off()).with_text_heartbeat("ping", "pong");
        let mut socket = socket.with_text_heartbeat_replies("ping", "pong");
        let words = (0..10_000).map(|_| Message::text(word));
        shared.world().incoming.extend(words);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut polls = 0;
        loop {
            polls += 1;
            let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
            assert!(read.is_pending());
            if !woken.0.swap(false, Ordering::Relaxed) {
                break;
            }
        }
        assert_eq!(shared.world().reads, 10_000, "it sleeps before all is read");
        assert!(polls > 100, "{polls} polls");
    }
}

/// Guards rule 16.
#[test]
fn a_receive_does_not_time_out_behind_heartbeats_with_a_message_unread() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off())
        .with_text_heartbeat_replies("ping", "pong");
    let mut received = pin!(socket.recv_timeout(SECOND));
    assert!(received.as_mut().now_or_never().is_none());
    let words = std::iter::repeat_n(Message::text("ping"), 64);
    shared.world().incoming.extend(words.chain([data()]));
    shared.at(SECOND);
    assert!(received.as_mut().now_or_never().is_none());
    let message = received.now_or_never().unwrap().unwrap();
    assert_eq!(message, Received::Message(data()));
}

#[test]
fn who_only_sends_meets_the_lifetime_though_the_alarm_rings_as_it_is_set() {
    let shared = Shared::default();
    let config = off()
        .connection_timeout(SECOND)
        .heartbeat_interval(999 * MS);
    let mut socket = shared.socket(config);
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().held_up = 2 * MS;
    shared.at(999 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.at(2 * SECOND);
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 4.
#[test]
fn who_only_sends_meets_the_lifetime() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    for now in [0, 500, 999] {
        shared.at(now * MS);
        socket.send(data()).now_or_never().unwrap().unwrap();
    }
    shared.at(SECOND);
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 11.
#[test]
fn the_bytes_of_a_message_that_has_left_are_no_progress_of_the_next() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::sink());
    let config = off().ping_interval(SECOND).message_timeout(60 * SECOND);
    let mut socket = shared.socket(config).with_meter(io.meter());
    waits(&mut socket);
    io.write_all(b"data").now_or_never().unwrap().unwrap();
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(status.ping_unsent, Some(Duration::ZERO));
    assert_eq!(status.since_active, SECOND);
}

/// Guards rule 20.
#[test]
fn where_one_word_asks_and_answers_it_asks_unless_an_answer_is_awaited() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let socket = shared.socket(config).with_text_heartbeat("hb", "hb");
    let mut socket = socket.with_text_heartbeat_replies("hb", "hb");
    shared.world().incoming.push_back(Message::text("hb"));
    waits(&mut socket);
    let sent = shared.world().sent.clone();
    assert_eq!(sent, [Message::text("hb")]);
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pings_sent, 1);
    shared.world().incoming.push_back(Message::text("hb"));
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
    assert_eq!(shared.world().sent.len(), 2);
}

/// A heartbeat of numbered pings, and the pongs that name theirs.
fn numbered(socket: Guarded) -> Guarded {
    socket.with_heartbeat(
        |number| Message::text(format!("ping {number}")),
        |message, _| message.to_text().ok()?.strip_prefix("pong ")?.parse().ok(),
    )
}

/// Replies to numbered pings.
fn replying(socket: Guarded) -> Guarded {
    socket.with_heartbeat_replies(|message| {
        let number = message.to_text().ok()?.strip_prefix("ping ")?;
        Some(Message::text(format!("pong {number}")))
    })
}

/// Guards rule 20.
#[test]
fn a_pong_answers_the_ping_that_it_names() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(10 * SECOND);
    let mut socket = numbered(shared.socket(config));
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    // A message does for the first pong, which comes behind the second ping.
    reads_one_of_a_stream(&shared, &mut socket);
    waits(&mut socket);
    shared.at(2 * SECOND);
    waits(&mut socket);
    let pings = ["ping 1", "ping 2"].map(Message::text);
    assert_eq!(shared.world().sent, pings);
    for (pong, received) in [("pong 1", 0), ("pong 2", 1), ("pong 2", 1), ("pong 9", 1)] {
        shared.at(2 * SECOND + 10 * MS);
        shared.world().incoming.push_back(Message::text(pong));
        waits(&mut socket);
        assert_eq!(socket.status().pongs_received, received, "{pong}");
    }
    let rtt = socket.status().rtt.map(|rtt| rtt.latest);
    assert_eq!(rtt, Some(10 * MS));
}

/// Guards rule 20.
#[test]
fn before_the_first_ping_a_pong_answers_none() {
    let shared = Shared::default();
    let (seen, sees) = std::sync::mpsc::channel();
    let mut socket = shared.socket(off()).with_heartbeat(
        |_| Message::text("ping"),
        move |_, latest| {
            seen.send(latest).ok()?;
            Some(latest)
        },
    );
    shared.world().incoming.push_back(Message::text("pong"));
    waits(&mut socket);
    let latest = sees.try_recv();
    assert_eq!((latest, socket.status().pongs_received), (Ok(0), 0));
}

/// Guards rule 20.
#[test]
fn a_ping_that_was_refused_keeps_its_number() {
    let shared = Shared::default();
    let mut socket = numbered(shared.socket(off().ping_interval(SECOND)));
    waits(&mut socket);
    shared.world().refuses = Some(Message::text("ping 1"));
    shared.at(SECOND);
    waits(&mut socket);
    assert_eq!(shared.world().sent, []);
    shared.world().refuses = None;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("ping 1")]);
    assert_eq!(socket.status().pings_sent, 1);
}

/// Guards rule 20.
#[test]
fn of_several_pings_the_latest_gets_a_reply_once_there_is_room() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off().message_timeout(SECOND)));
    waits(&mut socket);
    shared.world().no_place = true;
    let pings = (1..=3).map(|number| Message::text(format!("ping {number}")));
    shared.world().incoming.extend(pings);
    waits(&mut socket);
    assert!(socket.status().write_waits);
    shared.world().no_place = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 3")]);
    assert!(!socket.status().write_waits);
}

/// Guards rules 11 and 20.
#[test]
fn a_reply_that_a_full_buffer_refused_leaves_when_that_is_flushed() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    {
        let mut world = shared.world();
        world.full = true;
        world.refuses = Some(Message::text("pong 1"));
        world.incoming.push_back(Message::text("ping 1"));
    }
    waits(&mut socket);
    // Room is made, for the reply too.
    shared.world().full = false;
    shared.world().refuses = None;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 1")]);
}

/// A program may ask for a place and send later; the reply must not wait for that.
/// Guards rule 10.
#[test]
fn a_message_keeps_its_place_behind_a_reply_that_took_it() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    assert_eq!(shared.world().sent, [Message::text("pong 1")]);
    socket.start_send_unpin(data()).unwrap();
    socket.flush().now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [Message::text("pong 1"), data()]);
}

/// Guards rule 11.
#[test]
fn a_message_does_not_overtake_a_reply() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    shared.world().no_place = false;
    socket.send(data()).now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [Message::text("pong 1"), data()]);
}

#[test]
fn a_send_given_up_is_the_cause_in_the_status_as_in_the_error() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    shared.world().full = true;
    {
        let mut send = pin!(socket.send_text_timeout("x", SECOND));
        assert!(send.as_mut().now_or_never().is_none());
        shared.at(SECOND);
        assert!(matches!(send.now_or_never(), Some(Err(Error::Verdict(_)))));
    }
    let cause = socket.status().cause;
    assert_eq!(cause, Some(CloseReason::MessageTimeout));
}

/// The wake-up for it may have gone to the task that polled before.
#[test]
fn an_end_that_waits_for_the_reply_comes_when_a_second_try_has_sent_it() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    {
        let mut world = shared.world();
        world.incoming.push_back(Message::Close(None));
        world.held.push(Message::Close(None));
        world.ended = true;
        world.full = true;
    }
    assert!(socket.next().now_or_never().is_some());
    shared.world().room_unsaid = true;
    let end = socket.next().now_or_never();
    assert!(matches!(end, Some(None)), "{end:?}");
    assert_eq!(shared.world().sent.len(), 1);
}

/// Guards rule 11.
#[test]
fn an_answer_that_is_refused_does_not_hold_up_our_own_ping() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).message_timeout(SECOND);
    let mut socket = shared
        .socket(config)
        .with_text_heartbeat_replies("ping", "pong");
    shared.world().refuses = Some(Message::text("pong"));
    shared.world().incoming.push_back(Message::text("ping"));
    waits(&mut socket);
    shared.at(2 * SECOND);
    waits(&mut socket);
    assert!(shared.world().sent.iter().any(Message::is_ping));
    shared.at(4 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().cause, None);
}

/// Counts wake-ups.
#[derive(Default)]
struct Wakeups(AtomicU32);

impl Wake for Wakeups {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that both reads and writes, on an executor that polls it as often as it is woken while the
/// clock stands still.
struct Executor {
    wakeups: Arc<Wakeups>,
    waker: Waker,
}

impl Executor {
    fn new() -> Self {
        let wakeups = Arc::new(Wakeups::default());
        let waker = Waker::from(wakeups.clone());
        Self { wakeups, waker }
    }

    fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    /// Has the task send something that has to wait, so that it is known as the writer too.
    fn send_that_waits(&self, shared: &Shared, socket: &mut Guarded) {
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
    fn run(&self, mut poll: impl FnMut(&mut Context<'_>) -> bool) {
        self.wakeups.0.store(1, Ordering::Relaxed);
        let mut polls = 0;
        while self.wakeups.0.swap(0, Ordering::Relaxed) > 0 {
            polls += 1;
            assert!(polls < 10, "a busy loop");
            assert!(poll(&mut self.context()), "the task is done");
        }
    }
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_while_its_ping_is_refused() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .message_timeout(SECOND);
    let mut socket = shared.socket(config);
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    shared.world().refuses_pings = true;
    shared.at(SECOND);
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_while_it_closes_on_a_broken_sink() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    shared.world().broken = true;
    let mut close = pin!(socket.close(1000, "bye"));
    task.run(|cx| close.as_mut().poll(cx).is_pending());
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_though_its_promised_message_meets_a_broken_sink() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND).pong_timeout(SECOND));
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    // A promise, whose place a ping takes.
    assert!(socket.poll_ready_unpin(&mut task.context()).is_ready());
    shared.at(SECOND + 500 * MS);
    let read = socket.poll_next_unpin(&mut task.context());
    assert!(read.is_pending());
    socket.start_send_unpin(data()).unwrap();
    shared.world().broken = true;
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
}

/// The transport gets the task's own waker, and a waker of both tasks only once there are two.
/// Guards rule 8.
#[test]
fn the_transport_gets_the_waker_of_the_only_task() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let (one, other) = (Executor::new(), Executor::new());
    let waker_after_a_write = |socket: &mut Guarded, task: &Executor| {
        shared.world().full = true;
        if socket.poll_ready_unpin(&mut task.context()).is_ready() {
            socket.start_send_unpin(data()).unwrap();
        }
        assert!(socket.poll_flush_unpin(&mut task.context()).is_pending());
        shared.world().write_waker.take().unwrap()
    };
    let read = socket.poll_next_unpin(&mut one.context());
    assert!(read.is_pending());
    let waker = waker_after_a_write(&mut socket, &one);
    assert!(waker.will_wake(&one.waker));

    let waker = waker_after_a_write(&mut socket, &other);
    for task in [&one, &other] {
        task.wakeups.0.store(0, Ordering::Relaxed);
    }
    waker.wake();
    for task in [&one, &other] {
        assert_eq!(task.wakeups.0.load(Ordering::Relaxed), 1);
    }
}

/// Guards rule 10.
#[test]
fn a_second_start_send_without_poll_ready_is_refused_and_the_first_message_leaves() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    socket.start_send_unpin(Message::text("one")).unwrap();
    let second = socket.start_send_unpin(Message::text("two"));
    assert!(matches!(second, Err(Error::NotReady)), "{second:?}");
    socket.flush().now_or_never().unwrap().unwrap();
    socket
        .send(Message::text("three"))
        .now_or_never()
        .unwrap()
        .unwrap();
    let sent = [Message::text("one"), Message::text("three")];
    assert_eq!(shared.world().sent, sent);
}

/// Guards rule 4.
#[test]
fn a_program_that_only_feeds_meets_its_lifetime() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    for now in [0, 500, 999] {
        shared.at(now * MS);
        socket.feed(data()).now_or_never().unwrap().unwrap();
    }
    shared.at(SECOND);
    let fed = socket.feed(data()).now_or_never();
    assert_eq!(reason(fed.map(Some)), CloseReason::ConnectionTimeout);
}

/// Guards rule 16.
#[test]
fn limits_of_single_calls_count_from_the_call() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(60 * SECOND));
    waits(&mut socket);
    {
        let mut receive = pin!(socket.recv_timeout(SECOND));
        shared.at(5 * SECOND);
        assert!(receive.as_mut().now_or_never().is_none());
        shared.at(5 * SECOND + 10 * MS);
        let received = receive.now_or_never().unwrap().unwrap();
        assert_eq!(received, Received::TimedOut);
    }
    shared.world().full = true;
    let mut send = pin!(socket.send_text_timeout("x", SECOND));
    shared.at(10 * SECOND);
    assert!(send.as_mut().now_or_never().is_none());
    shared.at(10 * SECOND + 10 * MS);
    let sent = send.now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::MessageTimeout);
}

/// Guards rule 12.
#[test]
fn a_stream_is_terminated_when_it_has_said_none_and_not_before() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.at(3 * SECOND);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
    assert!(!socket.is_terminated());
    assert!(socket.next().now_or_never().unwrap().is_none());
    assert!(socket.is_terminated());
}

/// A peer that sends faster than the program reads: its unanswered ping is judged after 32 MiB, for by
/// then everything that had arrived by the deadline is read.
/// Guards rule 2.
#[test]
fn a_peer_that_keeps_its_reader_busy_is_judged_all_the_same() {
    const MIB: usize = 1 << 20;
    let busy = |metered: bool, pong_after: usize| {
        let shared = Shared::default();
        let config = off()
            .ping_interval(SECOND)
            .pong_timeout(SECOND)
            .pong_evidence(PongEvidence::Pong);
        let mut socket = awaiting_a_pong(&shared, config);
        let mut io = Metered::new(tokio::io::repeat(0));
        if metered {
            socket = socket.with_meter(io.meter());
        }
        shared.at(2 * SECOND);
        let payload = vec![0; if metered { 1 } else { MIB }];
        for read in 0..50 {
            if read == pong_after {
                let pong = shared.pong();
                shared.world().incoming.push_back(pong);
            }
            let message = Message::binary(payload.clone());
            shared.world().incoming.push_back(message);
            if metered {
                let mut buffer = vec![0; MIB + 2];
                smol::block_on(io.read_exact(&mut buffer)).unwrap();
            }
            match read_on(&mut socket) {
                Some(Some(Ok(_))) => {}
                read_error => {
                    assert_eq!(reason(read_error), CloseReason::PongTimeout);
                    return Some(read);
                }
            }
        }
        None
    };
    for metered in [false, true] {
        assert_eq!(busy(metered, 50), Some(33), "metered: {metered}");
        // A living peer whose pong lies behind all of that.
        assert_eq!(busy(metered, 32), None, "metered: {metered}");
    }
}

/// The half that sends is judged by its own rows, whatever the reading half has not read.
/// Guards rule 2.
#[test]
fn a_trickle_of_input_does_not_hold_off_the_verdict_on_a_write() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let config = off().message_timeout(SECOND).min_data_rate(1000);
    let mut io = Metered::new(tokio::io::repeat(0));
    let mut socket = shared.socket(config).with_meter(io.meter());
    // Five seconds to begin with, then a byte a millisecond: the receive clock has always just expired,
    // and three turns would be needed to prove it.
    smol::block_on(io.read_exact(&mut [0])).unwrap();
    waits(&mut socket);
    shared.at(5 * SECOND - MS);
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    let start = shared.world().now;
    loop {
        let now = shared.world().now + MS;
        shared.at(now);
        if now > 5 * SECOND + MS {
            smol::block_on(io.read_exact(&mut [0])).unwrap();
        }
        if let Some(read) = socket.next().now_or_never() {
            assert_eq!(reason(Some(read)), CloseReason::MessageTimeout);
            break;
        }
        assert!(now < start + 1100 * MS, "held off");
    }
}

/// Guards rules 2 and 4.
#[test]
fn a_peer_that_never_pauses_does_not_hold_off_the_verdict_on_a_write() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    for millis in 0..=1000 {
        shared.world().incoming.push_back(data());
        shared.at(millis * MS);
        let read = smol::block_on(socket.next());
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
    }
    shared.world().incoming.push_back(data());
    let read = smol::block_on(socket.next());
    assert_eq!(reason(Some(read)), CloseReason::MessageTimeout);
}

/// Guards rule 6.
#[test]
fn a_send_goes_through_while_the_ping_is_refused() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .message_timeout(SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().refuses_pings = true;
    shared.at(SECOND);
    waits(&mut socket);
    socket.send(data()).now_or_never().unwrap().unwrap();
    assert_eq!(shared.world().sent, [data()]);
}

/// Guards rule 11.
#[test]
fn a_message_that_the_inner_sink_refused_is_no_activity() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().refuses = Some(data());
    shared.at(SECOND);
    let sent = socket.send(data()).now_or_never();
    assert!(matches!(sent, Some(Err(Error::Socket(_)))), "{sent:?}");
    waits(&mut socket);
    assert_eq!(socket.status().since_active, SECOND);
}

/// Guards rule 9.
#[test]
fn a_probe_asks_the_peer_at_once_though_timers_have_slack() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(60 * SECOND)
        .stall_tolerance(10 * SECOND);
    let mut socket = shared.socket(config).with_timer_slack(SECOND);
    let task = Executor::new();
    assert!(socket.poll_next_unpin(&mut task.context()).is_pending());
    shared.at(500 * MS);
    socket.probe(200 * MS);
    assert!(task.wakeups.0.load(Ordering::Relaxed) > 0);
    assert!(socket.poll_next_unpin(&mut task.context()).is_pending());
    let asked = socket.status().pings_sent;
    shared.at(SECOND);
    let read = socket.poll_next_unpin(&mut task.context());
    assert_eq!(asked, 1, "not asked, and closed: {read:?}");
}

/// Guards rule 10.
#[test]
fn a_promise_of_room_is_kept_though_the_policy_is_polled_first() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    let config = off().build().unwrap();
    socket.set_config(config);
    // The transport asks for room again only when it has taken a message.
    shared.world().no_place = true;
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    assert!(matches!(ready, Some(Ok(()))), "{ready:?}");
}

/// The answer has arrived, and is there to be read.
/// Guards rule 5.
#[test]
fn a_limit_that_becomes_shorter_decides_only_after_a_read() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(SECOND)
        .ping_interval(SECOND)
        .pong_timeout(60 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    for second in 1..=10 {
        shared.at(second * SECOND);
        waits(&mut socket);
    }
    assert_eq!(socket.status().ping_unanswered, Some(9 * SECOND));
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    let shorter = config.pong_timeout(5 * SECOND).build().unwrap();
    socket.set_config(shorter);
    let sent = socket.send(data()).now_or_never();
    assert!(matches!(sent, Some(Ok(()))), "{sent:?}");
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

/// The peer sends messages of a MiB, and the verdict comes after so many.
#[track_caller]
fn assert_verdict_after(shared: &Shared, socket: &mut Guarded, mebibytes: usize) {
    for read in 0..=mebibytes {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        match read_on(socket) {
            Some(Some(Ok(_))) => {}
            end => {
                assert_eq!(reason(end), CloseReason::PongTimeout);
                assert_eq!(read, mebibytes);
                return;
            }
        }
    }
    panic!("no verdict after {mebibytes} MiB");
}

/// 32 MiB prove what had arrived when the first of them was read, and nothing later.
/// Guards rule 2.
#[test]
fn a_backlog_proves_what_had_arrived_when_it_began() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(500 * MS)
        .pong_evidence(PongEvidence::Pong);
    let mut socket = awaiting_a_pong(&shared, config);
    // The alarm fires half a second before the pong is due.
    shared.at(SECOND + 500 * MS);
    for _ in 0..32 {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        assert!(matches!(socket.next().now_or_never(), Some(Some(Ok(_)))));
    }
    shared.at(2 * SECOND);
    assert_verdict_after(&shared, &mut socket, 34);
}

/// Guards rule 2.
#[test]
fn a_backlog_that_was_read_to_its_end_is_no_part_of_the_next() {
    let shared = Shared::default();
    let config = off().pong_evidence(PongEvidence::Pong);
    let mut socket = awaiting_a_pong(&shared, config);
    shared.at(2 * SECOND);
    for _ in 0..20 {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        assert!(matches!(socket.next().now_or_never(), Some(Some(Ok(_)))));
    }
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Ping("x".into()));
    assert!(socket.next().now_or_never().is_some());
    waits(&mut socket);
    // The next ping is out, and its pong is due in a second.
    assert_eq!(socket.status().ping_unanswered, Some(Duration::ZERO));
    shared.at(3 * SECOND);
    assert_verdict_after(&shared, &mut socket, 33);
}

/// A dozen healthy peers, whose messages wait in the kernel while the thread is blocked beyond their
/// limit. In one turn the reactor learns of one socket.
/// Guards rule 2.
#[test]
fn tokio_learns_of_every_socket_before_a_verdict() {
    use std::io::Write;
    use tokio_tungstenite::WebSocketStream;

    const MASKED_TEXT: [u8; 7] = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_io_events_per_tick(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = off().idle_timeout(SECOND).build().unwrap();
        let (mut clients, mut sockets) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            clients.push(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_nonblocking(true).unwrap();
            let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
            let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
            sockets.push(ws_timeout::runtime::tokio::wrap(config, socket));
        }
        // The first events of a socket are about room to write.
        for _ in 0..20 {
            for socket in &mut sockets {
                assert!(socket.next().now_or_never().is_none());
            }
            tokio::time::sleep(MS).await;
        }

        for client in &mut clients {
            client.write_all(&MASKED_TEXT).unwrap();
        }
        std::thread::park_timeout(1200 * MS);
        poll_fn(|cx| {
            sockets.retain_mut(|socket| {
                let read = socket.poll_next_unpin(cx);
                let cause = socket.status().cause;
                assert_eq!(cause, None, "a healthy peer was cut off: {read:?}");
                read.is_pending()
            });
            if sockets.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    });
}

/// A timer of a runtime that stops the task.
struct Stopping {
    hand: Hand,
    stops: Arc<AtomicBool>,
}

impl ws_timeout::Timer for Stopping {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        self.hand.now()
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, at: Timestamp) {
        self.hand.set(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.hand.poll(cx)
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }

    fn has_budget(&self) -> bool {
        !self.stops.load(Ordering::Relaxed)
    }
}

/// Guards rule 2.
#[test]
fn a_spent_budget_does_not_cost_a_handshake_its_time() {
    let shared = Shared::default();
    shared.world().turns = true;
    let stops = Arc::new(AtomicBool::new(true));
    let timer = Stopping {
        hand: Hand(shared.clone()),
        stops: stops.clone(),
    };
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, timer, handshake));
    for late in 0..5 {
        assert!(opening.as_mut().now_or_never().is_none(), "{late}");
        shared.at(SECOND + late * MS);
    }
    stops.store(false, Ordering::Relaxed);
    let opened = opening.now_or_never().map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
}

/// Guards rules 3 and 4.
#[test]
fn a_program_that_only_sends_meets_its_lifetime_though_the_alarm_never_fires() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().connection_timeout(SECOND));
    socket.send(data()).now_or_never().unwrap().unwrap();
    shared.world().turns = false;
    shared.at(SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    let sent = socket.send(data()).now_or_never();
    assert_eq!(reason(sent.map(Some)), CloseReason::ConnectionTimeout);
}

/// The write clock of a message that has left is not that of the next, though the program never flushes.
/// Guards rule 6.
#[test]
fn a_program_that_only_feeds_has_a_write_clock_for_each_wait() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let room = |there: bool| {
        let mut world = shared.world();
        world.full = !there;
        world.no_place = !there;
    };
    let feed = |socket: &mut Guarded| socket.feed(data()).now_or_never();
    assert!(feed(&mut socket).unwrap().is_ok());
    room(false);
    assert!(feed(&mut socket).is_none());
    shared.at(900 * MS);
    room(true);
    assert!(feed(&mut socket).unwrap().is_ok());
    room(false);
    assert!(feed(&mut socket).is_none());
    shared.at(SECOND + 899 * MS);
    assert!(feed(&mut socket).is_none());
    shared.at(SECOND + 900 * MS);
    let fed = feed(&mut socket);
    assert_eq!(reason(fed.map(Some)), CloseReason::MessageTimeout);
}

/// Guards rules 6 and 8.
#[test]
fn a_writer_that_waits_for_a_flush_is_woken_when_the_reader_has_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    shared.world().full = true;
    socket.start_send_unpin(data()).unwrap();
    let flushed = socket.poll_flush_unpin(&mut Context::from_waker(&waker));
    assert!(flushed.is_pending());
    // There is room, and the transport wakes nobody for it.
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// Guards rules 6 and 11.
#[test]
fn the_bytes_of_a_message_that_has_left_after_a_wait_are_no_progress_of_the_next() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::sink());
    let config = off().ping_interval(SECOND).message_timeout(60 * SECOND);
    let mut socket = shared.socket(config).with_meter(io.meter());
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    io.write_all(b"data").now_or_never().unwrap().unwrap();
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
    shared.world().full = true;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    assert_eq!(status.ping_unsent, Some(Duration::ZERO));
    assert_eq!(status.since_active, SECOND);
}

/// The failure begins the time for the peer's last messages, which the reading half has to end.
/// Guards rule 12.
#[test]
fn a_reader_that_waits_learns_that_a_write_has_failed() {
    for flush in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().close_timeout(2 * SECOND));
        let reader = Arc::new(Woken::default());
        let waker = Waker::from(reader.clone());
        let cx = &mut Context::from_waker(&waker);
        assert!(socket.poll_next_unpin(cx).is_pending());
        if flush {
            socket.feed(data()).now_or_never().unwrap().unwrap();
        }
        shared.world().broken = true;
        let sent = if flush {
            socket.flush().now_or_never()
        } else {
            socket.feed(data()).now_or_never()
        };
        assert!(matches!(sent, Some(Err(Error::Socket(_)))), "{sent:?}");
        assert!(reader.0.load(Ordering::Relaxed), "the reader sleeps on");
        assert!(socket.poll_next_unpin(cx).is_pending());
        shared.at(2 * SECOND);
        let read = socket.next().now_or_never();
        assert!(matches!(read, Some(Some(Err(Error::Closed)))), "{read:?}");
    }
}

/// Guards rule 12.
#[test]
fn a_writer_that_waits_for_room_learns_that_the_policy_closes() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().idle_timeout(SECOND));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().full = true;
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let cx = &mut Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    // The alarm wakes the sending half first, which leaves silence to the other.
    shared.at(SECOND);
    assert!(socket.poll_ready_unpin(cx).is_pending());
    writer.0.store(false, Ordering::Relaxed);
    waits(&mut socket);
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
    let result = socket.poll_ready_unpin(cx);
    assert!(
        matches!(result, Poll::Ready(Err(Error::Verdict(_)))),
        "{result:?}"
    );
}

/// Guards rule 14.
#[test]
fn a_close_frame_waits_until_the_buffer_is_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    shared.world().full = true;
    socket.feed(data()).now_or_never().unwrap().unwrap();
    // The sink promises a place, though not one for a Close frame.
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    let close = SinkExt::close(&mut socket).now_or_never();
    assert!(close.is_none(), "{close:?}");
    assert_eq!(shared.world().held, [data()]);
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data(), Message::Close(None)]);
}

/// Guards rule 19.
#[test]
fn a_resume_allows_no_longer_than_the_pong_timeout() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(SECOND)
        .pong_timeout(7 * SECOND)
        .resume_probe(10 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.world().suspended += 3600 * SECOND;
    shared.at(SECOND);
    waits(&mut socket);
    let status = socket.status();
    let probe = (DeadlineKind::Probe, Timestamp::from_secs(8));
    assert!(status.deadlines.iter().any(|row| row == probe), "{status}");
}

/// The sending half leaves silence to the reading half, which need not see another fire for it.
/// Guards rule 5.
#[test]
fn a_fire_that_the_sending_half_has_taken_counts_for_the_reading_half() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off());
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 2.
#[test]
fn a_read_that_the_runtime_has_stopped_is_made_up_for() {
    let shared = Shared::default();
    shared.world().turns = true;
    let stops = Arc::new(AtomicBool::new(false));
    let timer = Stopping {
        hand: Hand(shared.clone()),
        stops: stops.clone(),
    };
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let mut socket = TimeoutSocket::new(config.build().unwrap(), timer, Wire(shared.clone()));
    for second in 0..2 {
        shared.at(second * SECOND);
        assert!(socket.next().now_or_never().is_none());
    }
    shared.at(2 * SECOND);
    socket.send(data()).now_or_never().unwrap().unwrap();
    stops.store(true, Ordering::Relaxed);
    assert!(socket.next().now_or_never().is_none());
    stops.store(false, Ordering::Relaxed);
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Where one turn of the reactor is not enough, the fire that shows a resume moves no horizon.
/// Guards rules 4 and 19.
#[test]
fn a_resume_is_noticed_though_there_is_something_to_read() {
    for turns_needed in [1, 3] {
        let shared = Shared::default();
        shared.world().turns_needed = turns_needed;
        let config = off().heartbeat_interval(SECOND).resume_probe(10 * SECOND);
        let mut socket = shared.socket(config);
        waits(&mut socket);
        shared.world().suspended += 3600 * SECOND;
        shared.world().incoming.push_back(data());
        shared.at(SECOND);
        assert!(socket.next().now_or_never().is_some());
        waits(&mut socket);
        assert_eq!(socket.status().pings_sent, 1, "{turns_needed}");
    }
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_though_its_alarm_fires_as_it_is_set() {
    let shared = Shared::default();
    let config = off()
        .connection_timeout(SECOND)
        .heartbeat_interval(999 * MS);
    let mut socket = shared.socket(config);
    let task = Executor::new();
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
    shared.world().held_up = 2 * MS;
    shared.at(999 * MS);
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
    assert!(shared.world().sent.iter().any(Message::is_close));
}

/// The reader may be a task of its own that shares the socket under a lock.
/// Guards rule 9.
#[test]
fn a_reader_that_waits_is_woken_by_every_call_that_changes_deadlines() {
    let calls: [fn(&mut Guarded); 3] = [
        |socket| socket.set_config(off().idle_timeout(SECOND).build().unwrap()),
        |socket| socket.probe(SECOND),
        |socket| socket.drain(SECOND),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        let reader = Arc::new(Woken::default());
        let waker = Waker::from(reader.clone());
        let cx = &mut Context::from_waker(&waker);
        assert!(socket.poll_next_unpin(cx).is_pending());
        assert_eq!(shared.world().alarm, None);
        call(&mut socket);
        assert!(reader.0.load(Ordering::Relaxed), "{index} wakes nobody");
        assert!(socket.poll_next_unpin(cx).is_pending());
        assert!(shared.world().alarm.is_some(), "{index} sets no alarm");
    }
}

/// Guards rule 6.
#[test]
fn a_send_that_was_given_up_does_not_fail_a_flush_once_there_is_room() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    shared.world().no_place = true;
    assert!(socket.feed(data()).now_or_never().is_none());
    shared.world().no_place = false;
    shared.at(SECOND);
    let flushed = socket.flush().now_or_never();
    assert!(matches!(flushed, Some(Ok(()))), "{flushed:?}");
    assert!(!socket.status().write_waits);
}

/// Guards rule 15.
#[test]
fn no_heartbeat_follows_a_close_frame() {
    // A ping that the sink refuses waits, and a Close frame leaves: ours, then the reply to the peer's.
    for peer_closes in [false, true] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().ping_interval(SECOND));
        waits(&mut socket);
        shared.world().refuses_pings = true;
        shared.at(SECOND);
        waits(&mut socket);
        if peer_closes {
            shared.world().incoming.push_back(Message::Close(None));
            assert!(socket.next().now_or_never().is_some());
        } else {
            SinkExt::close(&mut socket).now_or_never().unwrap().unwrap();
        }
        shared.world().refuses_pings = false;
        waits(&mut socket);
        let _ = socket.flush().now_or_never();
        let sent = shared.world().sent.clone();
        assert!(!sent.iter().any(Message::is_ping), "{sent:?}");
    }

    // The peer's heartbeat comes when our Close frame has left.
    let shared = Shared::default();
    let mut socket = shared
        .socket(off().connection_timeout(SECOND))
        .with_text_heartbeat_replies("ping", "pong");
    waits(&mut socket);
    shared.at(SECOND);
    waits(&mut socket);
    shared.world().incoming.push_back(Message::text("ping"));
    waits(&mut socket);
    let world = shared.world();
    assert_eq!(world.sent.len(), 1, "{:?}", world.sent);
    assert!(world.sent[0].is_close());
}

/// Guards rule 15.
#[test]
fn no_reply_follows_the_close_of_the_peer() {
    let shared = Shared::default();
    let mut socket = replying(shared.socket(off()));
    waits(&mut socket);
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping 1"));
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Close(None));
    assert!(socket.next().now_or_never().is_some());
    shared.world().no_place = false;
    waits(&mut socket);
    let _ = socket.flush().now_or_never();
    assert_eq!(shared.world().sent, []);
}

/// The lines of the log about connections with a label of two lines.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

#[derive(Debug, Default)]
struct Line {
    event: String,
    texts: Vec<String>,
}

struct Collect;

impl log::Log for Collect {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = Line::default();
        record.key_values().visit(&mut line).unwrap();
        line.texts.push(record.args().to_string());
        if line.texts.iter().any(|text| text.contains("line two")) {
            LINES.lock().unwrap().push(line);
        }
    }

    fn flush(&self) {}
}

impl<'a> log::kv::VisitSource<'a> for Line {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'a>,
        value: log::kv::Value<'a>,
    ) -> Result<(), log::kv::Error> {
        if key.as_str() == "event" {
            self.event = value.to_string();
        }
        self.texts.push(value.to_string());
        Ok(())
    }
}

/// In every event about a connection.
/// Guards rule 22.
#[test]
fn a_label_cannot_begin_a_line_of_the_log() {
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .heartbeat_interval(SECOND)
        .stall_tolerance(SECOND)
        .resume_probe(SECOND);
    let begin = |shared: &Shared| {
        let mut socket = shared.socket(config).with_label("line one\nline two");
        waits(&mut socket);
        socket
    };

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.at(SECOND);
    waits(&mut socket);
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    shared.world().suspended += 3600 * SECOND;
    for second in [2, 30, 31, 33] {
        shared.at(second * SECOND);
        let _ = socket.next().now_or_never();
    }

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.world().broken = true;
    assert!(socket.send(data()).now_or_never().unwrap().is_err());
    drop(socket);

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.world().fails = true;
    assert!(socket.next().now_or_never().unwrap().unwrap().is_err());

    let lines = LINES.lock().unwrap();
    let mut events: Vec<_> = lines.iter().map(|line| line.event.as_str()).collect();
    events.sort_unstable();
    events.dedup();
    let all = [
        "closed",
        "dropped",
        "opened",
        "ping",
        "pong",
        "receive error",
        "resumed",
        "send error",
        "stall grace",
        "verdict",
    ];
    assert_eq!(events, all);
    for line in lines.iter() {
        let broken = line.texts.iter().any(|text| text.contains('\n'));
        assert!(!broken, "{line:?}");
    }
}

/// After 32 messages, though there are more, and though the answer to the ping is among those.
/// Guards rule 23.
#[test]
fn a_task_that_always_finds_a_message_yields_and_judges_nobody_by_that() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().pong_evidence(PongEvidence::Pong));
    let pong = shared.pong();
    shared.world().incoming.extend(vec![data(); 40]);
    shared.world().incoming.push_back(pong);
    shared.at(2 * SECOND);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut messages = 0;
    while let Poll::Ready(read) = socket.poll_next_unpin(&mut cx) {
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
        messages += 1;
    }
    assert_eq!(messages, 32);
    assert!(woken.0.load(Ordering::Relaxed), "nobody polls it again");
    while let Poll::Ready(read) = socket.poll_next_unpin(&mut cx) {
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
        messages += 1;
    }
    assert_eq!(messages, 40);
    assert_eq!(socket.status().pongs_received, 1);
}

/// After four reads, which may all be part of one message.
/// Guards rule 23.
#[test]
fn a_metered_transport_yields_and_nobody_is_judged_by_that() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::repeat(0));
    let mut socket = awaiting_a_pong(&shared, off()).with_meter(io.meter());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut buffer = [0; 10];
    let mut reads = 0;
    while pin!(io.read(&mut buffer)).poll(&mut cx).is_ready() {
        reads += 1;
    }
    assert_eq!(reads, 4);
    assert!(woken.0.load(Ordering::Relaxed), "nobody polls it again");
    // What it has counted is a sign of life at second two, and the next ping goes out.
    shared.at(2 * SECOND);
    waits(&mut socket);
    shared.at(3 * SECOND);
    waits(&mut socket);
    assert!(socket.status().cause.is_none());
    // Over a transport that has not yielded, the same look is a verdict.
    socket = socket.with_meter(Metered::new(()).meter());
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 24.
#[test]
fn nothing_is_read_of_a_peer_that_does_not_read_its_pongs() {
    const PINGS: usize = 3000;
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    let read_all = |socket: &mut Guarded| {
        while let Some(read) = socket.next().now_or_never() {
            assert!(matches!(read, Some(Ok(_))), "{read:?}");
        }
    };
    shared.world().incoming.extend(vec![ping; PINGS]);
    shared.world().full = true;
    for _ in 0..PINGS {
        read_all(&mut socket);
    }
    // 256 KiB of pongs, of 131 bytes each at most.
    let reads = shared.world().reads as usize;
    assert!((2000..2010).contains(&reads), "{reads}");

    shared.world().full = false;
    for _ in 0..PINGS {
        read_all(&mut socket);
    }
    assert_eq!(shared.world().reads as usize, PINGS);
}

/// Guards rule 24.
#[test]
fn a_peer_that_does_not_read_its_pongs_is_let_go() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 3000]);
    shared.world().full = true;
    // Until nothing more is read.
    for _ in 0..3000 {
        let _ = socket.next().now_or_never();
    }
    assert!(!shared.world().incoming.is_empty());
    let read = loop {
        let now = shared.world().now + MS;
        shared.at(now);
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => assert!(now < 5 * SECOND, "it stays"),
            read => break read,
        }
    };
    assert_eq!(reason(read), CloseReason::MessageTimeout);
}

/// Guards rule 24.
#[test]
fn pongs_that_answer_nothing_are_limited_like_pings() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().max_ping_rate(1));
    // The one that answers is free.
    let pong = shared.pong();
    shared.world().incoming.push_back(pong.clone());
    waits(&mut socket);
    for pongs in 1.. {
        shared.world().incoming.push_back(pong.clone());
        match smol::block_on(socket.next()) {
            // With the last of them comes the verdict.
            Some(Ok(_)) => assert!(pongs <= 61, "{pongs} pongs"),
            read => {
                assert_eq!(reason(Some(read)), CloseReason::PingFlood);
                assert_eq!(pongs, 62);
                break;
            }
        }
    }
}

/// A transport of bytes that asks no kernel.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<VecDeque<u8>>>);

impl Bytes {
    fn arrive(&self, bytes: impl IntoIterator<Item = u8>) {
        self.0.lock().unwrap().extend(bytes);
    }

    fn unread(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut left = self.0.lock().unwrap();
        if left.is_empty() {
            return Poll::Pending;
        }
        let some = left.len().min(buf.remaining());
        buf.put_slice(&left.drain(..some).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Bytes {
    /// A guarded server over this, metered.
    fn socket(
        &self,
        shared: &Shared,
        config: TimeoutConfigBuilder,
        gives_meter: bool,
    ) -> TimeoutSocket<WebSocketStream<Metered<Self>>, Hand> {
        shared.world().turns = true;
        let transport = Metered::new(self.clone());
        let meter = transport.meter();
        let settings = Some(ws_timeout::message::tungstenite_config());
        let socket = WebSocketStream::from_raw_socket(transport, Role::Server, settings);
        let config = config.build().unwrap();
        let socket = TimeoutSocket::new(config, Hand(shared.clone()), smol::block_on(socket));
        match gives_meter {
            true => socket.with_meter(meter),
            false => socket,
        }
    }
}

/// A masked binary message of so many bytes.
fn binary(length: u16) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(vec![7; length.into()]);
    frame
}

/// The request arrives in time and takes more reads than a turn has, and the thread is blocked past the
/// deadline.
/// Guards rule 23.
#[test]
fn a_handshake_that_has_arrived_is_not_too_late_because_it_takes_many_reads() {
    let shared = Shared::default();
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).stall_tolerance(SECOND);
    let bytes = Bytes::default();
    let handshake = tokio_tungstenite::accept_async(Metered::new(bytes.clone()));
    let opening = TimeoutSocket::open(config.build().unwrap(), Hand(shared.clone()), handshake);
    let mut opening = pin!(opening);
    assert!(opening.as_mut().now_or_never().is_none());
    let cookie = "x".repeat(20_000);
    bytes.arrive(
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Cookie: {cookie}\r\n\r\n"
        )
        .into_bytes(),
    );
    for late in 0..100 {
        shared.at(1500 * MS + late * MS);
        if let Some(opened) = opening.as_mut().now_or_never() {
            assert!(opened.is_ok(), "{:?}", opened.map(drop));
            return;
        }
    }
    panic!("it does not open");
}

/// Whether or not the socket was given the meter.
/// Guards rule 23.
#[test]
fn a_message_that_has_arrived_is_no_silence_because_it_takes_many_reads() {
    for gives_meter in [true, false] {
        let shared = Shared::default();
        let bytes = Bytes::default();
        let config = off().idle_timeout(SECOND).stall_tolerance(SECOND);
        let mut socket = bytes.socket(&shared, config, gives_meter);
        assert!(socket.next().now_or_never().is_none());
        bytes.arrive(binary(40_000));
        let read = (0..100).find_map(|late| {
            shared.at(1500 * MS + late * MS);
            socket.next().now_or_never()
        });
        assert!(matches!(read, Some(Some(Ok(_)))), "{gives_meter}: {read:?}");
        assert_eq!(socket.status().cause, None, "{gives_meter}");
    }
}

/// Guards rule 13.
#[test]
fn what_is_there_is_read_though_the_transport_yields() {
    let shared = Shared::default();
    let bytes = Bytes::default();
    let mut socket = bytes.socket(&shared, off().max_ping_rate(1), true);
    bytes.arrive([0x89, 0x80, 0, 0, 0, 0].repeat(70));
    bytes.arrive(binary(5000).repeat(10));
    let end = loop {
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => {}
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::PingFlood);
    assert_eq!(bytes.unread(), 0);
}

/// Guards rules 16 and 24.
#[test]
fn the_limit_of_a_receive_holds_while_nothing_is_read() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(600 * SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 2100]);
    shared.world().full = true;
    for _ in 0..5000 {
        let _ = socket.next().now_or_never();
    }
    let alarms = shared.world().alarms_set;
    let mut call = pin!(socket.recv_timeout(SECOND));
    for millis in 0..=1000 {
        shared.at(millis * MS);
        if let Some(done) = call.as_mut().now_or_never() {
            assert_eq!((millis, done.unwrap()), (1000, Received::TimedOut));
            assert!(shared.world().alarms_set - alarms <= 3);
            return;
        }
    }
    panic!("it goes on after a second");
}

/// What the peer has sent before is read when its silence is to be judged.
/// Guards rule 24.
#[test]
fn a_peer_that_dies_with_its_pongs_unread_is_noticed_without_a_message_timeout() {
    let shared = Shared::default();
    let config = off().idle_timeout(10 * SECOND).close_timeout(5 * SECOND);
    let mut socket = shared.socket(config);
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 2100]);
    shared.world().full = true;
    let end = loop {
        let now = shared.world().now + 10 * MS;
        shared.at(now);
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => assert!(now < 60 * SECOND, "it stays"),
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::IdleTimeout);
}

/// Guards rule 24.
#[test]
fn pongs_in_text_that_answer_nothing_are_limited_like_pings() {
    let shared = Shared::default();
    let config = off().max_ping_rate(1);
    let mut socket = shared.socket(config).with_text_heartbeat("ping", "pong");
    for pongs in 1..100 {
        shared.world().incoming.push_back(Message::text("pong"));
        if let Some(read) = socket.next().now_or_never() {
            assert_eq!(reason(Some(read)), CloseReason::PingFlood);
            assert_eq!(pongs, 61);
            return;
        }
    }
    panic!("no verdict");
}

/// Guards rule 8.
#[test]
fn a_reply_that_waits_for_room_is_sent_when_there_is_some() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off())
        .with_text_heartbeat_replies("ping", "pong");
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping"));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(socket.poll_next_unpin(&mut cx).is_pending());
    woken.0.store(false, Ordering::Relaxed);
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(woken.0.load(Ordering::Relaxed), "nobody is woken");
    assert!(socket.poll_next_unpin(&mut cx).is_pending());
    assert_eq!(shared.world().sent, [Message::text("pong")]);
}

#[test]
fn a_flush_of_nothing_is_no_activity() {
    let shared = Shared::default();
    let config = off()
        .idle_timeout(10 * SECOND)
        .idle_scope(IdleScope::Messages);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    shared.at(SECOND);
    socket.flush().now_or_never().unwrap().unwrap();
    assert_eq!(socket.status().since_active, SECOND);
}

/// At each yield a part of a frame is left over, and never the same.
/// Guards rule 23.
#[test]
fn a_peer_that_pings_without_pause_has_begun_no_message() {
    let shared = Shared::default();
    let bytes = Bytes::default();
    let mut socket = bytes.socket(&shared, off().min_data_rate(240), true);
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0], &[7; 125][..]].concat();
    for tenth in 0..100 {
        shared.at(100 * MS * tenth);
        bytes.arrive(ping.repeat(400));
        for _ in 0..300 {
            match socket.next().now_or_never() {
                None | Some(Some(Ok(Message::Ping(_)))) => {}
                end => panic!("{end:?} after {tenth} tenths of a second"),
            }
        }
    }
    assert_eq!(socket.status().partial_bytes, 0);
}

/// The policy records them later, in the order in which they happened.
/// Guards rules 1 and 2.
#[test]
fn the_status_includes_deferred_messages() {
    for sent_first in [true, false] {
        let shared = Shared::default();
        let mut socket = shared.socket(off().idle_timeout(60 * SECOND));
        waits(&mut socket);
        for (now, sends) in [(SECOND, sent_first), (5 * SECOND, !sent_first)] {
            shared.at(now);
            if sends {
                socket.send(data()).now_or_never().unwrap().unwrap();
            } else {
                shared.world().incoming.push_back(data());
                assert!(socket.next().now_or_never().is_some());
            }
        }
        shared.at(6 * SECOND);
        let (sent, received) = match sent_first {
            true => (5 * SECOND, SECOND),
            false => (SECOND, 5 * SECOND),
        };
        for _ in 0..2 {
            let status = socket.status();
            assert_eq!(status.since_sent, sent);
            assert_eq!(status.silent, received);
            // This makes the policy record them.
            socket.probe(60 * SECOND);
        }
    }
}

/// Guards rule 10.
#[test]
fn a_promised_message_that_is_refused_fails_the_next_send_though_the_peer_has_answered_since() {
    let shared = Shared::default();
    let config = off().ping_interval(SECOND).pong_timeout(60 * SECOND);
    let mut socket = shared.socket(config);
    waits(&mut socket);
    let ready = poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never();
    ready.unwrap().unwrap();
    shared.at(SECOND);
    waits(&mut socket);
    // The ping has taken the place.
    shared.world().refuses = Some(data());
    socket.start_send_unpin(data()).unwrap();
    waits(&mut socket);
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    let told = socket.send(Message::text("next")).now_or_never();
    assert!(matches!(told, Some(Err(Error::Socket(_)))), "{told:?}");
}

/// Guards rule 13.
#[test]
fn a_handshake_that_times_out_drops_its_transport() {
    let shared = Shared::default();
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let wire = Wire(shared.clone());
    let handshake = async move {
        std::future::pending::<()>().await;
        Ok::<Wire, WsError>(wire)
    };
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    shared.at(SECOND);
    let opened = opening.as_mut().now_or_never();
    let opened = opened.map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
    assert!(shared.world().dropped && opening.is_terminated());
}

/// Guards rule 9.
#[test]
fn a_shorter_slack_moves_the_alarm() {
    let shared = Shared::default();
    let config = off().connection_timeout(1500 * MS);
    let mut socket = shared.socket(config).with_timer_slack(SECOND);
    waits(&mut socket);
    let mut socket = socket.with_timer_slack(Duration::ZERO);
    waits(&mut socket);
    assert_eq!(shared.world().alarm, Some(1500 * MS));
}

/// What happens to a socket.
#[derive(Clone, Debug)]
enum Step {
    /// So many microseconds pass. Below: until the alarm, or until a nanosecond before it.
    Wait(u64),
    WaitForAlarm,
    WaitAlmostForAlarm,
    Arrives(Message),
    /// The answer to the latest ping.
    PongArrives,
    Recv,
    RecvTimeout(u64),
    Send,
    Feed,
    Flush,
    /// Whether the transport takes anything, and whether the inner sink has a place.
    Room(bool, bool),
    SetConfig(TimeoutConfigBuilder),
    Probe,
    Drain,
}

fn any_limits() -> impl Strategy<Value = TimeoutConfigBuilder> {
    let limit = || prop::option::weighted(0.7, prop::sample::select(vec![3, 20, 100, 350, 1000]));
    let limits = [(); 7].map(|()| limit());
    (limits, any::<bool>(), any::<bool>()).prop_map(|(limits, messages, pong)| {
        let limits = limits.map(|limit: Option<u64>| limit.map(Duration::from_millis));
        off()
            .maybe_heartbeat_interval(limits[0])
            .maybe_connection_timeout(limits[1].map(|limit| 5 * limit))
            .maybe_message_timeout(limits[2])
            .maybe_idle_timeout(limits[3])
            .maybe_ping_interval(limits[4])
            .maybe_pong_timeout(limits[5])
            .maybe_stall_tolerance(limits[6])
            .idle_scope([IdleScope::Inbound, IdleScope::Messages][usize::from(messages)])
            .pong_evidence([PongEvidence::Any, PongEvidence::Pong][usize::from(pong)])
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..100_000_u64).prop_map(Step::Wait),
        2 => Just(Step::WaitForAlarm),
        1 => Just(Step::WaitAlmostForAlarm),
        3 => Just(Step::Arrives(data())),
        1 => Just(Step::Arrives(Message::Ping("x".into()))),
        2 => Just(Step::PongArrives),
        6 => Just(Step::Recv),
        1 => (0..10_u64).prop_map(Step::RecvTimeout),
        3 => Just(Step::Send),
        1 => Just(Step::Feed),
        2 => Just(Step::Flush),
        2 => any::<(bool, bool)>().prop_map(|(room, place)| Step::Room(room, place)),
        1 => any_limits().prop_map(Step::SetConfig),
        1 => Just(Step::Probe),
        1 => Just(Step::Drain),
    ]
}

impl Step {
    /// Returns what the program sees of it.
    fn run(&self, shared: &Shared, socket: &mut Guarded) -> String {
        let alarm = shared.world().alarm;
        let now = shared.world().now;
        match self {
            Self::Wait(micros) => shared.at(now + Duration::from_micros(*micros)),
            Self::WaitForAlarm => shared.at(alarm.unwrap_or_default().max(now)),
            Self::WaitAlmostForAlarm => {
                let almost = alarm
                    .unwrap_or_default()
                    .saturating_sub(Duration::from_nanos(1));
                shared.at(almost.max(now));
            }
            Self::Arrives(message) => shared.world().incoming.push_back(message.clone()),
            Self::PongArrives => {
                let mut world = shared.world();
                let mut sent = world.sent.iter().rev();
                let ping = sent.find_map(|message| match message {
                    Message::Ping(payload) => Some(payload.clone()),
                    _ => None,
                });
                world.incoming.extend(ping.map(Message::Pong));
            }
            Self::Recv => return seen(socket.next().now_or_never()),
            Self::RecvTimeout(millis) => {
                let within = Duration::from_millis(*millis);
                return seen(socket.recv_timeout(within).now_or_never().map(Some));
            }
            Self::Send => return seen(SinkExt::send(socket, data()).now_or_never().map(Some)),
            Self::Feed => return seen(socket.feed(data()).now_or_never().map(Some)),
            Self::Flush => return seen(socket.flush().now_or_never().map(Some)),
            Self::Room(room, place) => {
                let mut world = shared.world();
                (world.full, world.no_place) = (!room, !place);
                let waker = world.write_waker.take_if(|_| *room && *place);
                drop(world);
                waker.into_iter().for_each(Waker::wake);
            }
            Self::SetConfig(config) => socket.set_config(config.build().unwrap()),
            Self::Probe => socket.probe(20 * MS),
            Self::Drain => socket.drain(Duration::ZERO),
        }
        String::new()
    }
}

/// Formats the result of a call, without the payloads of pings, which are random.
fn seen<T: Debug>(returned: Option<Option<Result<T, Error<WsError>>>>) -> String {
    match returned {
        Some(Some(Err(Error::Verdict(verdict)))) => {
            format!("{:?} {:?}", verdict.reason, verdict.close_handshake)
        }
        other => {
            let text = format!("{other:?}");
            let kind = text.split("ng(").next().unwrap_or_default();
            kind.to_owned()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// A socket whose messages may be heartbeats is never calm.
    /// Guards rule 4.
    #[test]
    fn a_calm_socket_behaves_like_one_that_is_never_calm(
        config in any_limits(),
        slack in prop::sample::select(vec![0, 10, 40]),
        turns in 0..3_u32,
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let (calm, other) = (Shared::default(), Shared::default());
        let slack = Duration::from_millis(slack);
        let [mut socket, mut heartbeats] = [&calm, &other].map(|shared| {
            shared.world().turns_needed = turns;
            shared.socket(config).with_timer_slack(slack)
        });
        heartbeats = heartbeats.with_heartbeat_replies(|_| None);
        for step in &steps {
            let told = step.run(&calm, &mut socket);
            prop_assert_eq!(told, step.run(&other, &mut heartbeats), "{:?}", step);
            let [status, expected] = [&socket, &heartbeats].map(|socket| format!("{:?}", socket.status()));
            prop_assert_eq!(status, expected, "after {:?}", step);
        }
    }
}
