//! The socket that keeps its policy.

use std::boxed::Box;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use futures_core::{FusedStream, Stream, TryStream};
use futures_util::sink::Sink;
use futures_util::task::AtomicWaker;

use crate::config::TimeoutConfig;
use crate::error::{Closing, Error, Verdict};
use crate::event::{Action, CloseReason, Event, Phase};
use crate::message::{Heartbeat, Kind, Message};
use crate::metered::{Meter, Metering};
use crate::policy::{Judged, TimeoutPolicy};
use crate::report;
use crate::seed::PingId;
use crate::status::Status;
use crate::time::{Timestamp, earlier};
use crate::timer::Timer;

/// A WebSocket that keeps its timeouts. **Keep reading from it**: silence is judged and pongs are seen
/// only while someone polls the reading half, so a program that only sends must poll that too.
///
/// Wraps any `Stream + Sink` of WebSocket messages (tokio-tungstenite, async-tungstenite, …) and is
/// itself one, so `StreamExt::split` works on it. Made by the functions in
/// [`runtime`](crate::runtime). No task is spawned.
///
/// What differs from the socket inside:
///
/// * A verdict of the policy arrives as [`Error::TimedOut`], from a send at once. If it begins a closing
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
    /// Whether a deadline may have come nearer since the alarm was set.
    stale: bool,
    tasks: Arc<Tasks>,
    /// Wakes both tasks. The alarm and the writing side of the socket inside know no other waker, so
    /// neither half can put out the waker of the other.
    both: Waker,
    /// A message that was promised a place which a ping then took.
    slot: Option<S::Ok>,
    /// Whether the socket inside has said that it can take a message, and none was given to it since.
    ready: bool,
    /// What was given to the socket inside and not flushed since.
    unflushed: Unflushed,
    /// A ping that is still to be given to the socket inside.
    ping: Option<PingId>,
    farewell: Farewell<S::Ok>,
    peer_close: Option<PeerClose>,
    /// Whether the stream inside has ended. What was written before that may still have to leave.
    read_to_end: bool,
    /// Why a promised message was not taken when it came to it, for the task that sends.
    refused: Option<S::Error>,
    write_side: WriteSide<S::Error>,
    verdict: Option<Verdict>,
    /// Whether the stream has said how it ended.
    told: bool,
    meter: Option<Metering>,
    heartbeat: Option<Box<Heartbeat<S::Ok>>>,
    label: Option<Arc<str>>,
    /// By how much the clock of the day was ahead of the timer's when the alarm last rang.
    wall_ahead: Duration,
    announced: bool,
}

/// What was given to the socket inside and not flushed since.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    data: bool,
    control: bool,
    ping: Option<PingId>,
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

/// The tasks of the two halves.
#[derive(Debug, Default)]
struct Tasks {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
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
    /// # Errors
    /// [`Error::TimedOut`] if the handshake took too long, counted from this call; it is dropped then.
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
        run_handshake(policy, timer, handshake)
    }

    fn with_policy(policy: TimeoutPolicy<Arc<TimeoutConfig>>, timer: T, socket: S) -> Self {
        let tasks = Arc::new(Tasks::default());
        Self {
            wall_ahead: timer
                .wall()
                .saturating_sub(timer.now().since(Timestamp::ZERO)),
            inner: Some(socket),
            policy,
            timer,
            alarm: None,
            rang: None,
            stale: true,
            both: Waker::from(tasks.clone()),
            tasks,
            slot: None,
            ready: false,
            unflushed: Unflushed::default(),
            ping: None,
            farewell: Farewell::None,
            peer_close: None,
            read_to_end: false,
            refused: None,
            write_side: WriteSide::Sound,
            verdict: None,
            told: false,
            meter: None,
            heartbeat: None,
            label: None,
            announced: false,
        }
    }

    /// Names the connection, by its user or its number, in every line of the log.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Tells the policy of the bytes that `meter` counts below the socket.
    ///
    /// Without it the policy sees whole messages only: a large one that takes longer than
    /// `idle_timeout` or `pong_timeout` to arrive is silence, one that trickles is not noticed, and a
    /// large write to a slow reader has `message_timeout` in all instead of without progress.
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.meter = Some(Metering::new(meter));
        self
    }

    /// Asks for signs of life by messages of one's own in place of Ping frames.
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat<S::Ok>) -> Self {
        self.heartbeat = Some(Box::new(heartbeat));
        self
    }

    /// What is known of the connection now.
    pub fn status(&self) -> Status {
        self.policy.status(self.timer.now())
    }

    /// The name given by [`with_label`](Self::with_label).
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// The configuration in force.
    pub fn config(&self) -> &TimeoutConfig {
        self.policy.config()
    }

    /// Changes the limits of the living connection; see [`TimeoutPolicy::set_config`].
    pub fn set_config(&mut self, config: impl Into<Arc<TimeoutConfig>>) {
        self.policy.set_config(self.timer.now(), config.into());
        self.stale = true;
        self.both.wake_by_ref();
    }

    /// Doubts the link, after a resume or a change of network: the peer must answer within `within`.
    pub fn probe(&mut self, within: Duration) {
        self.observe(self.timer.now(), Event::Probe { within });
        self.both.wake_by_ref();
    }

    /// Asks the connection to go, after a random part of `within`, so that the connections of a server
    /// that shuts down do not all go at once. It closes with [`CloseReason::Drain`].
    ///
    /// Like [`probe`](Self::probe), [`status`](Self::status) and [`set_config`](Self::set_config) this needs
    /// the whole socket; the halves of `StreamExt::split` do not have it. A task that keeps the socket
    /// whole can wait for a message, for something to send and for the word to drain, all in one
    /// `tokio::select!`: dropping the future of a receive loses nothing.
    pub fn drain(&mut self, within: Duration) {
        self.observe(self.timer.now(), Event::Drain { within });
        self.both.wake_by_ref();
    }

    fn observe(&mut self, now: Timestamp, event: Event) {
        // Whole messages only move deadlines away, unless one answers a ping: the next ping may be
        // due before the pong would have been.
        let only_later = matches!(event, Event::Recv | Event::SendOk | Event::Flushed);
        self.stale |= !only_later || self.policy.awaits_answer();
        self.policy.observe(now, event);
    }

    fn label_or_dash(&self) -> &str {
        self.label.as_deref().unwrap_or("-")
    }
}

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// The next message; `None` when the connection has ended without a verdict or failure.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the policy ended the connection, [`Error::Socket`] when the socket
    /// inside failed; `None` follows either.
    pub async fn recv(&mut self) -> Result<Option<M>, Error<E>>
    where
        Self: Unpin,
    {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx))
            .await
            .transpose()
    }

    /// Closes the connection: sends a Close frame with `code` and as much of `reason` as fits, and
    /// reads until the peer has answered or left. Data that still comes is dropped.
    ///
    /// Takes at most `close_timeout` (and up to `stall_tolerance` if this process stalls). Gives the
    /// code of the peer's Close frame, if there was one. On a connection that has ended it does
    /// nothing.
    ///
    /// # Errors
    /// [`Error::CloseCode`] for a code that can never be sent; [`Error::TimedOut`] if the peer did not
    /// answer in time, or the policy had ended the connection before; [`Error::Socket`] if the socket
    /// inside failed.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<Option<u16>, Error<E>>
    where
        Self: Unpin,
    {
        if !can_be_sent(code) {
            return Err(Error::CloseCode(code));
        }
        self.begin_close(M::close(Some(code), reason));
        while self.recv().await?.is_some() {}
        Ok(self.peer_close.and_then(|close| close.code))
    }

    // ---- reading ----

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, Error<E>>>> {
        self.tasks.reader.register(cx.waker());
        loop {
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(self.end_of_stream());
            };
            let read = if self.read_to_end {
                Poll::Ready(None)
            } else {
                Pin::new(inner).poll_next(cx)
            };
            match read {
                Poll::Ready(Some(Ok(message))) => {
                    let now = self.timer.now();
                    let passes_on = self.received(now, &message);
                    // A ring that was taken just before this message has left no alarm.
                    let alarm = self.alarm.or(self.rang);
                    if self.stale || alarm.is_some_and(|alarm| alarm <= now) {
                        self.look_between(now);
                    }
                    if passes_on {
                        return Poll::Ready(Some(Ok(message)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(self.transport_ended(Some(error)));
                }
                Poll::Ready(None) if !self.reply_waits() => {
                    return Poll::Ready(self.transport_ended(None));
                }
                // What had arrived when the alarm rang is to be read before anything is judged.
                Poll::Pending | Poll::Ready(None) if self.alarm_rings() => {}
                Poll::Pending | Poll::Ready(None) => {
                    self.all_is_read();
                    if self.inner.is_some() && self.rang.is_none() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Whether the stream has ended before our answer to the peer's Close, and what was written before
    /// that, could leave. (tungstenite's server ends its stream as soon as the answer is in its buffer.)
    fn reply_waits(&mut self) -> bool {
        self.read_to_end = true;
        while self.peer_close.is_some() && self.owes() {
            match self.write_out(self.timer.now()) {
                // What else is owed can still leave.
                Poll::Ready(Err(WriteError::Refused(error))) => self.refused = Some(error),
                done => return done.is_pending(),
            }
        }
        false
    }

    /// Tells the policy of a message; whether it is handed on.
    fn received(&mut self, now: Timestamp, message: &M) -> bool {
        match message.kind() {
            Kind::Data => {
                if let Some(metering) = &mut self.meter {
                    metering.whole_message();
                }
                let pong = self
                    .heartbeat
                    .as_ref()
                    .is_some_and(|heartbeat| heartbeat.pong == *message);
                if pong {
                    self.observe(now, Event::RecvPartial { total: 0 });
                    self.pong(now, self.policy.latest_ping());
                } else {
                    self.observe(now, Event::Recv);
                }
                !pong
            }
            Kind::Ping(payload) => {
                self.control_frame(payload.len());
                self.observe(now, Event::Ping);
                // tungstenite has queued the pong.
                self.unflushed.control = true;
                true
            }
            Kind::Pong(payload) => {
                self.control_frame(payload.len());
                let id = PingId::from_payload(payload);
                let ours = id.is_some_and(|id| self.policy.awaits_pong(id));
                self.pong(now, id);
                !ours
            }
            Kind::Close(code) => {
                self.peer_close = Some(PeerClose { code });
                self.ping = None;
                if matches!(self.farewell, Farewell::Owed(_)) {
                    // The frames have crossed; the reply does for ours.
                    self.farewell = Farewell::None;
                }
                self.observe(now, Event::PeerClose);
                // tungstenite has queued the reply.
                self.unflushed.control = true;
                self.verdict.is_none()
            }
        }
    }

    fn pong(&mut self, now: Timestamp, id: Option<PingId>) {
        let before = self.policy.pongs_received();
        self.observe(now, Event::Pong(id));
        if self.policy.pongs_received() > before {
            report::pong(self.label_or_dash(), self.policy.rtt());
        }
    }

    fn control_frame(&mut self, payload: usize) {
        if let Some(metering) = &mut self.meter {
            metering.control_frame(payload);
        }
    }

    /// A pass in which nothing was left to read.
    fn all_is_read(&mut self) {
        let counted = self.meter.as_mut().and_then(Metering::partial_total);
        if !(self.rang.is_some() || self.stale || counted.is_some() || self.owes()) {
            return;
        }
        let now = self.timer.now();
        if let Some(total) = counted {
            self.observe(now, Event::RecvPartial { total });
        }
        self.act_before_judging(now);
        if self.rang.is_some() {
            self.look(now, Judged::All);
        } else if self.stale {
            self.look(now, Judged::AllButUnread);
        }
    }

    /// Between two messages, once the clock has reached the alarm: a peer that never pauses must meet
    /// its lifetime all the same.
    fn look_between(&mut self, now: Timestamp) {
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.alarm_rings();
        }
        self.act_before_judging(now);
        self.look(now, Judged::AllButUnread);
    }

    /// Ends the connection because the socket inside has ended or failed.
    fn transport_ended(&mut self, error: Option<E>) -> Option<Result<M, Error<E>>> {
        let now = self.timer.now();
        self.observe(now, Event::Closed);
        if let Some(verdict) = &mut self.verdict {
            verdict.closing = match (self.peer_close, &self.farewell) {
                (Some(_), _) => Closing::Answered,
                (None, Farewell::Sent) => Closing::Ignored,
                _ => Closing::Unwritten,
            };
        }
        // An error that follows a Close frame, the peer's or our own, is a clean end: both are done.
        let closed = self.peer_close.is_some() || matches!(self.farewell, Farewell::Sent);
        let error = error.filter(|_| !closed && self.verdict.is_none());
        match &error {
            Some(error) => {
                report::receive_error(self.label_or_dash(), error, &self.policy.status(now))
            }
            None => self.report_end(now),
        }
        self.end();
        match error {
            Some(error) => {
                self.told = true;
                Some(Err(Error::Socket(error)))
            }
            None => self.end_of_stream(),
        }
    }

    /// What the stream says once the connection has ended: the verdict, or that a write failed, once.
    fn end_of_stream(&mut self) -> Option<Result<M, Error<E>>> {
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        match (&self.verdict, &mut self.write_side) {
            (Some(verdict), _) => Some(Err(Error::TimedOut(verdict.clone()))),
            (None, WriteSide::Failed(_)) if self.peer_close.is_some() => None,
            (None, WriteSide::Failed(error)) => {
                Some(Err(error.take().map_or(Error::Closed, Error::Socket)))
            }
            (None, WriteSide::Sound) => None,
        }
    }

    // ---- writing ----

    /// Writes and flushes what can be, in order: the promised message, a ping, what the socket inside
    /// holds, and when that has left our Close frame.
    fn write_out(&mut self, now: Timestamp) -> Poll<Result<(), WriteError<E>>> {
        let done = self.try_to_write_out(now);
        if done.is_pending() {
            self.write_waits(now, false);
        }
        done
    }

    fn try_to_write_out(&mut self, now: Timestamp) -> Poll<Result<(), WriteError<E>>> {
        use WriteError::{Broken, Refused};

        // A full buffer may refuse a ping, and take it once it is flushed.
        let mut ping_tries = 2;
        loop {
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(Ok(()));
            };
            let mut inner = Pin::new(inner);
            let cx = &mut Context::from_waker(&self.both);

            if !self.ready && (self.slot.is_some() || self.ping.is_some()) {
                ready!(inner.as_mut().poll_ready(cx)).map_err(Broken)?;
                self.ready = true;
            }
            if let Some(message) = self.slot.take() {
                self.ready = false;
                inner.start_send(message).map_err(Refused)?;
                continue;
            }
            if let Some(id) = self.ping.filter(|_| ping_tries > 0) {
                self.ready = false;
                let message = match &self.heartbeat {
                    Some(heartbeat) => heartbeat.ping.clone(),
                    None => M::ping(id.payload()),
                };
                ping_tries -= 1;
                if inner.as_mut().start_send(message).is_ok() {
                    self.unflushed.ping = self.ping.take();
                }
            }
            ready!(inner.as_mut().poll_flush(cx)).map_err(Broken)?;
            if self.ping.is_some() && ping_tries > 0 {
                continue;
            }

            if matches!(self.farewell, Farewell::Owed(_)) {
                ready!(inner.as_mut().poll_ready(cx)).map_err(Broken)?;
                if let Farewell::Owed(frame) = std::mem::replace(&mut self.farewell, Farewell::None)
                {
                    self.ready = false;
                    inner.start_send(frame).map_err(Refused)?;
                    self.farewell = Farewell::Written;
                }
                continue;
            }
            if matches!(self.farewell, Farewell::Written) {
                self.farewell = Farewell::Sent;
            }
            self.flushed(now);
            return Poll::Ready(Ok(()));
        }
    }

    /// Whether anything waits to be written or flushed.
    fn owes(&self) -> bool {
        let Unflushed {
            data,
            control,
            ping,
        } = self.unflushed;
        data || control
            || ping.is_some()
            || self.slot.is_some()
            || self.ping.is_some()
            || matches!(self.farewell, Farewell::Owed(_) | Farewell::Written)
    }

    /// Everything that the socket inside held has left.
    fn flushed(&mut self, now: Timestamp) {
        let Unflushed {
            data,
            control,
            ping,
        } = std::mem::take(&mut self.unflushed);
        if data {
            self.observe(now, Event::SendOk);
        } else if control {
            self.observe(now, Event::Flushed);
        }
        if let Some(id) = ping {
            self.observe(now, Event::PingSent(id));
            report::ping(self.label_or_dash(), id);
        }
        if let Some(metering) = &mut self.meter {
            metering.progress();
        }
    }

    /// The transport takes no more for now.
    fn write_waits(&mut self, now: Timestamp, message_waits: bool) {
        if let Some(bytes) = self
            .meter
            .as_mut()
            .map(Metering::progress)
            .filter(|&bytes| bytes > 0)
        {
            self.observe(now, Event::SendProgress { bytes });
        }
        // A ping that waits alone has a deadline of its own.
        if message_waits || self.unflushed.data || self.unflushed.control || self.slot.is_some() {
            self.observe(now, Event::SendStart);
        }
    }

    /// Tries what is owed before the policy judges that it could not be done.
    fn act_before_judging(&mut self, now: Timestamp) {
        if !self.owes() {
            return self.room_before_judging(now);
        }
        loop {
            match self.write_out(now) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(WriteError::Refused(error))) => {
                    report::send_error(self.label_or_dash(), &error);
                    self.refused = Some(error);
                    self.tasks.writer.wake();
                }
                Poll::Ready(Err(WriteError::Broken(error))) => {
                    self.write_broke(now, Err(error));
                    break;
                }
            }
        }
        // A task that waits for this flush did not see it.
        self.tasks.writer.wake();
    }

    /// A send that waited for room may have been given up, and its clock runs on.
    fn room_before_judging(&mut self, now: Timestamp) {
        let Some(inner) = self.inner.as_mut().filter(|_| self.policy.write_waits()) else {
            return;
        };
        match Pin::new(inner).poll_ready(&mut Context::from_waker(&self.both)) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.ready = true;
                self.observe(now, Event::Flushed);
                self.tasks.writer.wake();
            }
            Poll::Ready(Err(error)) => {
                self.write_broke(now, Err(error));
                self.tasks.writer.wake();
            }
        }
    }

    /// Nothing more can be written, so the connection is over. What the peer has still sent, its Close
    /// frame above all, is worth reading, for as long as a closing handshake may take.
    fn write_broke(&mut self, now: Timestamp, error: Result<(), E>) {
        if matches!(self.write_side, WriteSide::Sound) {
            if let Err(error) = &error {
                report::send_error(self.label_or_dash(), error);
            }
            self.write_side = WriteSide::Failed(error.err());
        }
        self.unflushed = Unflushed::default();
        self.ping = None;
        self.observe(now, Event::CloseStart);
    }

    /// What the task that sends is told of a write.
    fn told_of_write(
        &mut self,
        now: Timestamp,
        done: Result<(), WriteError<E>>,
    ) -> Result<(), Error<E>> {
        match done {
            Ok(()) => Ok(()),
            Err(WriteError::Refused(error)) => Err(Error::Socket(error)),
            Err(WriteError::Broken(error)) => {
                report::send_error(self.label_or_dash(), &error);
                self.write_broke(now, Ok(()));
                self.tasks.reader.wake();
                Err(Error::Socket(error))
            }
        }
    }

    /// A pass of the sending half, which has just found that the transport takes no more. `Ready` if
    /// the connection has ended, or a second try went through.
    fn sending_half_waits(&mut self, now: Timestamp) -> Poll<Result<(), Error<E>>> {
        let rings = self.alarm_rings();
        let again = if rings {
            self.write_out(now)
        } else {
            Poll::Pending
        };
        if rings || self.stale {
            self.look(now, Judged::AllButUnread);
        }
        match (again, self.may_send()) {
            (Poll::Ready(done), _) => Poll::Ready(self.told_of_write(now, done)),
            (Poll::Pending, Err(error)) => Poll::Ready(Err(error)),
            (Poll::Pending, Ok(())) => Poll::Pending,
        }
    }

    /// Sends fail at once with the verdict, from when it is given.
    fn may_send(&self) -> Result<(), Error<E>> {
        match (&self.verdict, &self.inner) {
            (Some(verdict), _) => Err(Error::TimedOut(verdict.clone())),
            (None, None) => Err(Error::Closed),
            (None, Some(_)) => Ok(()),
        }
    }

    /// What the sending half is told once a write has failed, whoever met it: why, then that it is over.
    fn write_side_is_sound(&mut self) -> Result<(), Error<E>> {
        match &mut self.write_side {
            WriteSide::Sound => Ok(()),
            WriteSide::Failed(error) => Err(error.take().map_or(Error::Closed, Error::Socket)),
        }
    }

    /// Nothing may follow our own Close frame.
    fn may_send_more(&mut self) -> Result<(), Error<E>> {
        self.may_send()?;
        self.write_side_is_sound()?;
        match (self.refused.take(), &self.farewell) {
            (Some(error), _) => Err(Error::Socket(error)),
            (None, Farewell::None) => Ok(()),
            (None, _) => Err(Error::Closed),
        }
    }

    /// Begins a closing handshake on the user's account.
    fn begin_close(&mut self, frame: M) {
        if self.policy.phase() == Phase::Open {
            self.observe(self.timer.now(), Event::CloseStart);
            self.ping = None;
            self.farewell = Farewell::Owed(frame);
            // Whoever fed the frame may never flush it.
            self.tasks.reader.wake();
        }
    }

    // ---- judging ----

    /// Whether the alarm has just rung.
    fn alarm_rings(&mut self) -> bool {
        if self.alarm.is_none()
            || self
                .timer
                .poll(&mut Context::from_waker(&self.both))
                .is_pending()
        {
            return false;
        }
        self.rang = self.alarm.take().map(|alarm| alarm.min(self.timer.now()));
        let now = self.timer.now();
        let ahead = self.timer.wall().saturating_sub(now.since(Timestamp::ZERO));
        let asleep = ahead.saturating_sub(self.wall_ahead);
        self.wall_ahead = ahead;
        if asleep > RESUME && self.policy.config().pong_timeout().is_some() {
            report::resumed(self.label_or_dash(), asleep);
            self.observe(
                now,
                Event::Probe {
                    within: RESUME_PROBE,
                },
            );
        }
        true
    }

    /// Asks the policy, does what it says, and sets the alarm for what comes next. `whose` is what the
    /// half that looks could judge.
    ///
    /// A peer's deadline is judged only if the alarm, set no later than that, has rung, since until the
    /// reactor has turned what arrived in time is invisible. If it has not, the alarm is set a
    /// millisecond ahead. What is not about the peer goes by the clock alone.
    fn look(&mut self, now: Timestamp, whose: Judged) {
        let due = self.policy.peer_is_due_after(None, now, whose);
        let seen = self.rang.is_some() && !self.policy.peer_is_due_after(self.rang, now, whose);
        let unseen = self.policy.peer_is_due_after(self.rang, now, Judged::All);
        let judged = if due && seen && self.has_budget() {
            whose
        } else {
            Judged::Ours
        };
        let again_soon = unseen || (due && judged == Judged::Ours);
        if whose == Judged::All {
            self.rang = None;
        }
        let grace = self.policy.grace();
        while self.inner.is_some() {
            // What was known when a verdict was given is known no more after it.
            let due = self.policy.next_deadline().filter(|&at| at <= now);
            let before = due.map(|_| self.policy.status(now));
            match self.policy.decide(now, judged) {
                Action::SendPing(id) => {
                    self.ping = Some(id);
                    self.act_before_judging(now);
                }
                Action::Close(reason) => self.close_with(now, reason, before),
                Action::Abort(reason) => self.abort(now, reason, before),
                Action::Idle { until } => {
                    let soon = now.checked_add(A_MOMENT).filter(|_| again_soon);
                    let next = earlier(until, self.policy.next_deadline_after(now));
                    self.set_alarm(earlier(soon, next));
                    break;
                }
            }
        }
        self.stale = false;
        if self.policy.grace() != grace && self.policy.grace().is_some() {
            report::grace(self.label_or_dash(), &self.policy.status(now));
        }
        if !self.announced {
            self.announced = true;
            report::opened(self.label_or_dash(), self.policy.config());
        }
    }

    /// Whether what was just tried could have gone through: tokio answers `Pending` to everything once a
    /// task has done much in one turn. Asking takes the alarm.
    fn has_budget(&mut self) -> bool {
        self.alarm = None;
        self.timer.has_budget(&mut Context::from_waker(&self.both))
    }

    /// Moves the alarm nearer, never further away: when it rings early, one looks again.
    fn set_alarm(&mut self, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.timer.set(at);
            self.alarm = Some(at);
            if self
                .timer
                .poll(&mut Context::from_waker(&self.both))
                .is_ready()
            {
                self.rang = self.alarm.take().map(|alarm| alarm.min(self.timer.now()));
                self.both.wake_by_ref();
            }
        }
    }

    // ---- ending ----

    /// Begins the closing handshake that the policy asks for.
    fn close_with(&mut self, now: Timestamp, reason: CloseReason, status: Option<Status>) {
        self.give_verdict(now, reason, Closing::UnderWay, status);
        self.ping = None;
        self.farewell = Farewell::Owed(self.close_frame(reason));
        self.act_before_judging(now);
        self.tasks.writer.wake();
    }

    /// Drops the transport, after one try at a Close frame.
    fn abort(&mut self, now: Timestamp, reason: CloseReason, status: Option<Status>) {
        let both_closed = self.peer_close.is_some() && !self.owes();
        let failed = matches!(self.write_side, WriteSide::Failed(_));
        if reason == CloseReason::CloseTimeout && (both_closed || failed) && self.verdict.is_none()
        {
            // Both Close frames have passed, and a client has waited for its server to hang up; or the
            // error of a write is the end, and all that time went to the peer's last words.
            self.report_end(now);
            return self.end();
        }
        let closing = match &self.farewell {
            Farewell::Sent if self.peer_close.is_some() => Closing::Answered,
            // The frames have crossed, and the reply went out for ours.
            Farewell::None if both_closed => Closing::Answered,
            Farewell::None if self.policy.config().close_code(reason).is_some() => {
                self.ping = None;
                self.farewell = Farewell::Owed(self.close_frame(reason));
                match self.write_out(now) {
                    Poll::Ready(Ok(())) => {
                        self.read_off();
                        Closing::Told
                    }
                    _ => Closing::Unwritten,
                }
            }
            Farewell::Sent => Closing::Ignored,
            _ => Closing::Unwritten,
        };
        self.give_verdict(now, reason, closing, status);
        self.report_end(now);
        self.end();
    }

    fn close_frame(&self, reason: CloseReason) -> M {
        M::close(self.policy.config().close_code(reason), reason.text())
    }

    /// Takes unread input out of the kernel: with it there, dropping the transport would send a reset,
    /// which can overtake the Close frame.
    fn read_off(&mut self) {
        const MOST: usize = 64;
        let Some(inner) = &mut self.inner else { return };
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MOST {
            if !matches!(
                Pin::new(&mut *inner).poll_next(cx),
                Poll::Ready(Some(Ok(_)))
            ) {
                break;
            }
        }
    }

    /// The first verdict is the cause, and stays; how the closing went stands beside it.
    fn give_verdict(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        closing: Closing,
        status: Option<Status>,
    ) {
        if let Some(verdict) = &mut self.verdict {
            verdict.closing = closing;
            return;
        }
        let status = Box::new(status.unwrap_or_else(|| self.policy.status(now)));
        let verdict = Verdict {
            reason,
            status,
            closing,
        };
        report::verdict(self.label_or_dash(), &verdict, self.policy.config());
        self.verdict = Some(verdict);
    }

    fn report_end(&self, now: Timestamp) {
        report::closed(
            self.label_or_dash(),
            self.verdict.as_ref(),
            self.peer_close.map(|close| close.code),
            &self.policy.status(now),
        );
    }

    /// Drops the socket inside, there and then: the other half may be held for long.
    fn end(&mut self) {
        self.inner = None;
        self.slot = None;
        self.alarm = None;
        self.rang = None;
        self.both.wake_by_ref();
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

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.may_send_more()?;
        if this.ready && this.slot.is_none() {
            return Poll::Ready(Ok(()));
        }
        this.tasks.writer.register(cx.waker());
        loop {
            // A write that waited may be through: nobody else might say so.
            if this.slot.is_some() || this.ping.is_some() || this.policy.write_waits() {
                let now = this.timer.now();
                match this.write_out(now) {
                    Poll::Ready(done) => this.told_of_write(now, done)?,
                    Poll::Pending if this.slot.is_some() => ready!(this.sending_half_waits(now))?,
                    Poll::Pending => {}
                }
                this.may_send()?;
            }
            let Some(inner) = &mut this.inner else {
                return Poll::Ready(Err(Error::Closed));
            };
            let now = this.timer.now();
            if let Poll::Ready(done) =
                Pin::new(inner).poll_ready(&mut Context::from_waker(&this.both))
            {
                this.ready = done.is_ok();
                return Poll::Ready(this.told_of_write(now, done.map_err(WriteError::Broken)));
            }
            this.write_waits(now, true);
            ready!(this.sending_half_waits(now))?;
        }
    }

    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.may_send_more()?;
        let data = match message.kind() {
            Kind::Data => true,
            Kind::Ping(_) | Kind::Pong(_) => false,
            Kind::Close(_) => {
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
            this.slot = Some(message);
        }
        this.unflushed.data |= data;
        this.unflushed.control |= !data;
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        if let Some(error) = this.refused.take() {
            return Poll::Ready(Err(Error::Socket(error)));
        }
        if this.verdict.is_none() {
            this.write_side_is_sound()?;
        }
        match this.may_send() {
            Err(Error::Closed) if !this.owes() => return Poll::Ready(Ok(())),
            may => may?,
        }
        this.tasks.writer.register(cx.waker());
        let now = this.timer.now();
        match this.write_out(now) {
            Poll::Ready(done) => {
                let told = this.told_of_write(now, done);
                // A program that only sends must meet its lifetime too.
                if this.stale || this.alarm.is_some_and(|alarm| alarm <= now) {
                    this.look_between(now);
                }
                Poll::Ready(told)
            }
            Poll::Pending => this.sending_half_waits(now),
        }
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
            .field("label", &self.label)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

/// The least difference between the clocks that counts as a resume.
const RESUME: Duration = Duration::from_secs(5);

/// How soon the peer must answer after a resume.
const RESUME_PROBE: Duration = Duration::from_secs(10);

/// How long to wait for the reactor to turn.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Runs the opening handshake until it is done or too late.
async fn run_handshake<S, T, E, F>(
    mut policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    mut timer: T,
    handshake: F,
) -> Result<TimeoutSocket<S, T>, Error<E>>
where
    S: TryStream,
    T: Timer,
    F: Future<Output = Result<S, E>>,
    E: fmt::Display,
{
    let mut handshake = pin!(handshake);
    let mut alarm = None;
    let done = poll_fn(|cx| {
        let mut rang = None;
        loop {
            if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(|error| {
                    report::handshake_failed(&error);
                    Error::Socket(error)
                }));
            }
            let now = timer.now();
            if rang.is_some() || alarm.is_none() {
                let due = policy.peer_is_due_after(None, now, Judged::All);
                let seen = rang.is_some() && !policy.peer_is_due_after(rang, now, Judged::All);
                let unseen = due && !(seen && timer.has_budget(cx));
                let judged = if unseen { Judged::Ours } else { Judged::All };
                let status = policy.status(now);
                match policy.decide(now, judged) {
                    Action::Abort(reason) => {
                        let verdict = Verdict {
                            reason,
                            status: Box::new(status),
                            closing: Closing::Unwritten,
                        };
                        report::verdict("-", &verdict, policy.config());
                        return Poll::Ready(Err(Error::TimedOut(verdict)));
                    }
                    _ => {
                        alarm = if unseen {
                            now.checked_add(A_MOMENT)
                        } else {
                            policy.next_deadline()
                        }
                    }
                }
                let Some(at) = alarm else {
                    return Poll::Pending;
                };
                timer.set(at);
            }
            ready!(timer.poll(cx));
            rang = alarm.take();
        }
    });
    let socket = done.await?;
    policy.observe(timer.now(), Event::Opened);
    Ok(TimeoutSocket::with_policy(policy, timer, socket))
}

/// "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
/// endpoint", 1006 and 1015 likewise (RFC 6455, 7.4.1); 1004 and what is not registered mean nothing.
fn can_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    RandomState::new().hash_one(0_u64)
}
