//! The socket that keeps its policy: what it is, and the traits it has.

mod calls;
mod ending;
mod judging;
mod opening;
mod reading;
mod writing;

pub use calls::Received;

use std::boxed::Box;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::{FusedStream, Stream, TryStream};
use futures_util::sink::Sink;
use futures_util::task::ArcWake;

use crate::config::TimeoutConfig;
use crate::error::{Error, Verdict};
use crate::event::Event;
use crate::message::{Heartbeat, Message, MessageKind};
use crate::metered::{Meter, Metering};
use crate::policy::TimeoutPolicy;
use crate::report;
use crate::status::Status;
use crate::time::Timestamp;
use crate::timer::Timer;

/// A WebSocket that keeps its timeouts. **Keep reading from it**: silence is judged and pongs are seen
/// only while someone polls the reading half, so a program that only sends must poll that too.
///
/// Wraps any `Stream + Sink` of WebSocket messages (tokio-tungstenite, async-tungstenite, …) and is
/// itself one, so `StreamExt::split` works on it (the halves are a plain stream and sink, without the
/// calls below). Made by the functions in
/// [`runtime`](crate::runtime). No task is spawned.
///
/// What differs from the socket inside:
///
/// * A verdict of the policy arrives as [`Error::Verdict`], from a send at once. If it begins a closing
///   handshake, the stream first hands over what the peer still sends; if it aborts, what had not been
///   read goes with the transport. The stream ends after it.
/// * The first pong that names our latest ping is taken out of the stream, and so is the peer's answer to
///   a Close frame that the policy sent. All else passes untouched.
/// * When the stream ends the socket inside is dropped, and with it the transport.
/// * If a write fails, the stream goes on for at most `close_timeout`, since the peer's last words may
///   still be on their way.
///
/// Dropping the future of a receive loses nothing; a message whose send was dropped leaves whole or
/// not at all.
#[must_use = "a socket does nothing unless it is polled"]
pub struct TimeoutSocket<S: TryStream, T: Timer> {
    /// `None` once the connection has ended.
    inner: Option<S>,
    policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    timer: T,
    /// When the alarm will ring; `None` if it is not set.
    alarm: Option<Timestamp>,
    /// What the alarm was set to when it last rang, until the reading half has judged by it.
    rang: Option<Timestamp>,
    /// How often it has rung, all in all.
    rings: u32,
    /// Since when the peer is in doubt.
    doubt: Option<Doubt>,
    /// Whether there is something to look at with the next message: a deadline may have come nearer since
    /// the alarm was set, or something waits for room that the program will not flush.
    stale: bool,
    bell: Arc<Bell>,
    /// What `bell.tasks.reader` holds.
    reader: Waker,
    /// A message that was promised a place which a ping then took.
    slot: Option<Box<S::Ok>>,
    /// Whether the socket inside has said that it can take a message, and none was given to it since.
    ready: bool,
    /// What was given to the socket inside and not flushed since.
    unflushed: Unflushed,
    /// Whether the latest ping is still to be given to the socket inside.
    ping_owed: bool,
    /// Whether an answer to the peer's own heartbeat is.
    answer_owed: bool,
    /// Whether the stream inside has ended. What was written before that may still have to leave.
    read_to_end: bool,
    /// Whether the stream has said how it ended.
    told: bool,
    /// `None` until there is something of it.
    ending: Option<Box<Ending<S::Ok, S::Error>>>,
    /// `None` where nothing was asked for.
    extras: Option<Box<Extras<S::Ok>>>,
    /// By how much the clock of the day was ahead of the timer's when last all was read after a ring.
    wall_ahead: Timestamp,
    announced: bool,
}

/// What else a socket was asked for.
#[derive(Debug)]
struct Extras<M> {
    meter: Option<Metering>,
    /// How the peer is asked, if not by Ping frames.
    asks: Option<Box<Heartbeat<M>>>,
    /// What the peer asks, if not by Ping frames alone.
    answers: Option<Box<Heartbeat<M>>>,
    /// How late an alarm may ring so that many ring together.
    align: Duration,
    label: Option<Arc<str>>,
}

impl<M> Extras<M> {
    const NONE: Self = Self {
        meter: None,
        asks: None,
        answers: None,
        align: Duration::ZERO,
        label: None,
    };

    #[inline(never)]
    fn speaks(&self) -> bool {
        self.asks.is_some() || self.answers.is_some()
    }

    fn label_or_dash(this: Option<&Self>) -> &str {
        this.and_then(|extras| extras.label.as_deref())
            .unwrap_or("-")
    }
}

/// The first ring of the alarm after which something is due that another turn of the reactor may still answer.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// Its number.
    ring: u32,
    /// What the alarm was set to.
    at: Timestamp,
}

/// What was given to the socket inside and not flushed since.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    data: bool,
    control: bool,
    ping: bool,
}

/// What there is once a connection ends, or one of its halves.
#[derive(Debug)]
struct Ending<M, E> {
    verdict: Option<Verdict>,
    farewell: Farewell<M>,
    peer_close: Option<PeerClose>,
    /// Why a promised message was not taken when it came to it, for the task that sends.
    refused: Option<Error<E>>,
    write_side: WriteSide<E>,
}

impl<M, E> Ending<M, E> {
    const NONE: Self = Self {
        verdict: None,
        farewell: Farewell::None,
        peer_close: None,
        refused: None,
        write_side: WriteSide::Sound,
    };
}

/// Our own Close frame.
#[derive(Debug)]
enum Farewell<M> {
    /// There is none.
    None,
    /// To be written when all else has left: on a full buffer tungstenite would lose it for good.
    Owed(M),
    /// Given to the socket inside, not flushed.
    Written,
    /// Flushed.
    Sent,
}

/// The writing side of the socket inside.
#[derive(Debug)]
enum WriteSide<E> {
    Sound,
    /// It failed, so the connection is over; the error, unless the task that sends was told.
    Failed(Option<E>),
}

/// Why something was not written.
#[derive(Debug)]
enum WriteError<E> {
    /// The socket inside did not take a message. It may take others.
    Refused(E),
    /// It could not flush, so it never will.
    Broken(E),
}

/// The peer's Close frame.
#[derive(Clone, Copy, Debug)]
struct PeerClose {
    code: Option<u16>,
}

/// The tasks of the two halves. The writing side of the socket inside knows no other waker, so neither half
/// can put out the waker of the other.
#[derive(Debug)]
struct Tasks {
    reader: Task,
    writer: Task,
}

/// What the alarm wakes, so that it is told apart from the transport.
#[derive(Debug)]
struct Bell {
    tasks: Arc<Tasks>,
    /// Whether the alarm has woken them since it was last asked: without that it cannot have rung.
    rang: AtomicBool,
}

/// The task that polls one half. The lock is taken when another one does, and to wake it.
#[derive(Debug)]
struct Task(Mutex<Waker>);

impl Tasks {
    fn new() -> Self {
        Self {
            reader: Task::new(),
            writer: Task::new(),
        }
    }

    fn wake_both(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl Bell {
    #[inline]
    fn rang(&self) -> bool {
        self.rang.load(Ordering::Acquire)
    }

    /// Whether the alarm has woken them since the last call.
    fn take_ring(&self) -> bool {
        // A load is much less than a swap, and the answer is mostly no.
        self.rang() && self.rang.swap(false, Ordering::AcqRel)
    }
}

impl ArcWake for Tasks {
    fn wake_by_ref(tasks: &Arc<Self>) {
        tasks.wake_both();
    }
}

impl ArcWake for Bell {
    fn wake_by_ref(bell: &Arc<Self>) {
        bell.rang.store(true, Ordering::Release);
        bell.tasks.wake_both();
    }
}

impl Task {
    fn new() -> Self {
        Self(Mutex::new(Waker::noop().clone()))
    }

    /// Makes the task of `cx` the one to wake; whether that is another. If so, what it waits for may have
    /// come before.
    fn register(&self, cx: &Context<'_>) -> bool {
        let another = !self.lock().will_wake(cx.waker());
        if another {
            let new = cx.waker().clone();
            let old = std::mem::replace(&mut *self.lock(), new);
            // With the lock free again: the last of a task may own what wakes this one.
            drop(old);
        }
        another
    }

    /// The same where the one to wake is known without the lock.
    #[inline]
    fn register_in_place_of(&self, known: &mut Waker, cx: &Context<'_>) -> bool {
        let another = !known.will_wake(cx.waker());
        if another {
            known.clone_from(cx.waker());
            self.register(cx);
        }
        another
    }

    fn wake(&self) {
        let waker = self.lock().clone();
        waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Waker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: TryStream, T: Timer> TimeoutSocket<S, T> {
    /// Guards `socket`, whose opening handshake is done, with the clock and alarm of `timer`.
    ///
    /// The functions in [`runtime`](crate::runtime) are shorter.
    pub fn new(config: impl Into<Arc<TimeoutConfig>>, timer: T, socket: S) -> Self {
        let policy = TimeoutPolicy::new(config.into(), random_seed(), timer.now());
        Self::with_policy(policy, timer, socket)
    }

    /// Runs `handshake` under `handshake_timeout`, and guards the socket that comes out.
    ///
    /// What fails before there is a socket to name is in the log under the label `-`.
    ///
    /// # Errors
    /// [`Error::Verdict`] if the handshake took too long, counted from this call; it is dropped then, and
    /// with it the transport.
    /// [`Error::Socket`] with whatever it ended in.
    pub fn open<E, F>(
        config: impl Into<Arc<TimeoutConfig>>,
        timer: T,
        handshake: F,
    ) -> impl Future<Output = Result<Self, Error<E>>>
    where
        F: Future<Output = Result<S, E>>,
        E: fmt::Display,
    {
        let policy = TimeoutPolicy::opening(config.into(), random_seed(), timer.now());
        // A task is for all its life as large as it ever gets, and handshakes are large.
        opening::run_handshake(policy, timer, Box::pin(handshake))
    }

    fn with_policy(policy: TimeoutPolicy<Arc<TimeoutConfig>>, timer: T, socket: S) -> Self {
        Self {
            wall_ahead: judging::wall_ahead(&timer, timer.now()),
            inner: Some(socket),
            policy,
            timer,
            alarm: None,
            rang: None,
            rings: 0,
            doubt: None,
            stale: true,
            bell: Arc::new(Bell {
                tasks: Arc::new(Tasks::new()),
                rang: AtomicBool::new(false),
            }),
            reader: Waker::noop().clone(),
            slot: None,
            ready: false,
            unflushed: Unflushed::default(),
            ping_owed: false,
            answer_owed: false,
            read_to_end: false,
            told: false,
            ending: None,
            extras: None,
            announced: false,
        }
    }

    /// Names the connection, by its user or its number, in every line of the log.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.extras().label = Some(label.into());
        self
    }

    /// Tells the policy of the bytes that `meter` counts below the socket.
    ///
    /// Without it the policy sees whole messages only: a large one that takes longer than
    /// `idle_timeout` or `pong_timeout` to arrive is silence, one that trickles is not noticed, and a
    /// large write to a slow reader has `message_timeout` in all instead of without progress.
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.extras().meter = Some(Metering::new(meter));
        self
    }

    /// Asks for signs of life by messages of one's own in place of Ping frames.
    ///
    /// [`Heartbeat::ping`] goes out when a ping is due, and each [`Heartbeat::pong`] that comes is taken
    /// out of the stream and answers the ping that is out. All other data passes, also meanwhile.
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat<S::Ok>) -> Self {
        self.extras().asks = Some(Box::new(heartbeat));
        self
    }

    /// Answers the peer's own heartbeat: each [`Heartbeat::ping`] that comes is taken out of the stream,
    /// and a [`Heartbeat::pong`] goes out.
    ///
    /// To the policy it is a Ping frame: a sign of life, but no activity, and `max_ping_rate` limits it.
    /// Of several that come while the transport takes nothing, the latest is answered.
    pub fn with_heartbeat_replies(mut self, heartbeat: Heartbeat<S::Ok>) -> Self {
        self.extras().answers = Some(Box::new(heartbeat));
        self
    }

    /// Lets each look at the deadlines come up to `align` late, and never early, so that those of many
    /// connections come together: on a server with thousands of quiet ones most of the cost of a ping is
    /// the wake-up, which they then share. The default is zero: as soon as something is due.
    ///
    /// Pings, lifetimes, verdicts and the end of a closing handshake come later by as much, and
    /// [`detection_bound`](TimeoutConfig::detection_bound) twice as much. More than half of
    /// `stall_tolerance` counts as half of it, or our own lateness would be taken for a stall. Limits
    /// given to a single call are kept as they are.
    pub fn with_timer_slack(mut self, align: Duration) -> Self {
        // Zero is the default, and needs no extras.
        if !align.is_zero() || self.extras.is_some() {
            self.extras().align = align;
        }
        self
    }

    /// What is known of the connection now.
    pub fn status(&self) -> Status {
        self.status_at(self.timer.now())
    }

    fn status_at(&self, now: Timestamp) -> Status {
        let mut status = self.policy.status(now);
        // Of a send that took longer than its caller allowed the policy does not know.
        let verdict = self.ending().verdict.as_ref();
        let reason = verdict.map(|verdict| verdict.reason);
        status.cause = status.cause.or(reason);
        status
    }

    /// The socket inside, such as to ask the transport for its address; `None` once the connection has
    /// ended.
    pub fn get_ref(&self) -> Option<&S> {
        self.inner.as_ref()
    }

    /// The name given by [`with_label`](Self::with_label).
    pub fn label(&self) -> Option<&str> {
        self.extras.as_ref()?.label.as_deref()
    }

    /// The configuration in force.
    pub fn config(&self) -> &TimeoutConfig {
        self.policy.config()
    }

    /// Changes the limits of the living connection; see [`TimeoutPolicy::set_config`].
    pub fn set_config(&mut self, config: impl Into<Arc<TimeoutConfig>>) {
        self.policy.set_config(self.timer.now(), config.into());
        self.stale = true;
        self.bell.tasks.wake_both();
    }

    /// Doubts the link, after a resume or a change of network: the peer must answer within `within`.
    pub fn probe(&mut self, within: Duration) {
        self.observe(self.timer.now(), Event::Probe { within });
        self.bell.tasks.wake_both();
    }

    /// Asks the connection to go, after a random part of `within`, so that the connections of a server
    /// that shuts down do not all go at once. It closes with [`CloseReason::Drain`](crate::CloseReason::Drain).
    ///
    /// Like [`probe`](Self::probe), [`status`](Self::status) and [`set_config`](Self::set_config) this needs
    /// the whole socket; the halves of `StreamExt::split` do not have it. A task that keeps the socket
    /// whole can wait for a message, for something to send and for the word to drain, all in one
    /// `tokio::select!`: dropping the future of a receive loses nothing.
    pub fn drain(&mut self, within: Duration) {
        self.observe(self.timer.now(), Event::Drain { within });
        self.bell.tasks.wake_both();
    }

    #[inline]
    fn observe(&mut self, now: Timestamp, event: Event) {
        // Whole messages only move deadlines away, unless one answers a ping: the next ping may be
        // due before the pong would have been. Or unless a grace runs: what it put off until its end
        // counts from the message again.
        let only_later = matches!(event, Event::Recv | Event::SendOk | Event::Flushed)
            && !self.policy.traffic_moves_deadlines_nearer(now);
        self.policy.observe(now, event);
        self.stale = self.stale || (!only_later && self.alarm_is_late());
    }

    /// Whether the alarm, if any, rings too late for what comes next.
    fn alarm_is_late(&self) -> bool {
        let next = self.policy.next_deadline();
        let latest = next.and_then(|at| at.checked_add(self.align()));
        latest.is_some_and(|latest| self.alarm.is_none_or(|alarm| latest < alarm))
    }

    /// How late an alarm may ring.
    fn align(&self) -> Duration {
        let asked = self.extras.as_ref().map(|extras| extras.align);
        let most = self.policy.config().stall_tolerance().map(|most| most / 2);
        asked.map_or(Duration::ZERO, |asked| {
            most.map_or(asked, |most| asked.min(most))
        })
    }

    fn label_or_dash(&self) -> &str {
        Extras::label_or_dash(self.extras.as_deref())
    }

    #[inline]
    fn ending(&self) -> &Ending<S::Ok, S::Error> {
        self.ending.as_deref().unwrap_or(&Ending::NONE)
    }

    fn ending_mut(&mut self) -> &mut Ending<S::Ok, S::Error> {
        self.ending.get_or_insert_with(|| Box::new(Ending::NONE))
    }

    fn extras(&mut self) -> &mut Extras<S::Ok> {
        self.extras.get_or_insert_with(|| Box::new(Extras::NONE))
    }

    /// Whether there is a heartbeat in messages, of either side.
    #[inline]
    fn speaks(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.speaks())
    }

    #[inline]
    fn meter(&mut self) -> Option<&mut Metering> {
        self.extras.as_mut()?.meter.as_mut()
    }
}

impl<S, T, M, E> Stream for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    type Item = Result<M, Error<E>>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_recv(cx)
    }
}

impl<S, T, M, E> FusedStream for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    fn is_terminated(&self) -> bool {
        self.told
    }
}

impl<S, T, M, E> Sink<M> for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
    Self: Unpin,
{
    type Error = Error<E>;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.may_send_more()?;
        if this.ready && this.slot.is_none() {
            return Poll::Ready(Ok(()));
        }
        this.make_room(cx)
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.may_send_more()?;
        let data = match message.kind() {
            MessageKind::Data => true,
            MessageKind::Ping(_) | MessageKind::Pong(_) => false,
            MessageKind::Close(_) => {
                this.begin_close(message);
                return Ok(());
            }
        };
        if let Some(inner) = this
            .inner
            .as_mut()
            .filter(|_| this.ready && this.slot.is_none())
        {
            this.ready = false;
            Pin::new(inner).start_send(message).map_err(Error::Socket)?;
        } else {
            // A ping has taken the place that was promised.
            this.slot = Some(Box::new(message));
        }
        this.unflushed.data |= data;
        this.unflushed.control |= !data;
        Ok(())
    }

    /// Almost every message has the short way.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        if this.unflushed_is_plain() {
            match this.flush_inner() {
                Poll::Ready(Ok(())) if this.only_observes_flush() => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    let now = this.timer.now();
                    return Poll::Ready(this.wrote(now, Err(WriteError::Broken(error))));
                }
                // `flush_all` tries again, and registers the task.
                _ => {}
            }
        }
        this.flush_all(cx)
    }

    /// Begins the closing handshake with an empty Close frame, unless it has begun, and flushes that.
    /// Its end is seen by whoever reads.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.begin_close(M::close(None, ""));
        self.poll_flush(cx)
    }
}

impl<S: TryStream, T: Timer> Drop for TimeoutSocket<S, T> {
    fn drop(&mut self) {
        if self.inner.is_some() && self.announced {
            report::dropped(self.label_or_dash(), &self.status());
        }
    }
}

impl<S: TryStream, T: Timer + fmt::Debug> fmt::Debug for TimeoutSocket<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutSocket")
            .field("policy", &self.policy)
            .field("timer", &self.timer)
            .field("label", &self.label())
            .field("verdict", &self.ending().verdict)
            .finish_non_exhaustive()
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(0_u64)
}
