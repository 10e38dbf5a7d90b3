//! What goes out: in order, flushed, and in whose name.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::sink::Sink;
use futures_util::task::waker_ref;

use super::{Extras, Farewell, TimeoutSocket, Unflushed, WriteError, WriteSide};
use crate::error::Error;
use crate::event::{Event, Phase};
use crate::message::Message;
use crate::metered::Metering;
use crate::policy::Horizon;
use crate::report;
use crate::time::Timestamp;
use crate::timer::Timer;

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Writes and flushes what can be, in order: the promised message, a ping, what the socket inside
    /// holds, and when that has left our Close frame.
    pub(super) fn write_out(&mut self, now: Timestamp) -> Poll<Result<(), WriteError<E>>> {
        let done = self.try_to_write_out(now);
        if done.is_pending() {
            self.write_waits(now, false);
        }
        done
    }

    pub(super) fn try_to_write_out(&mut self, now: Timestamp) -> Poll<Result<(), WriteError<E>>> {
        use WriteError::{Broken, Refused};

        // A full buffer may refuse a heartbeat, and take it once it is flushed.
        let mut tries = 2;
        loop {
            let heartbeat = self.heartbeat().filter(|_| tries > 0);
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(Ok(()));
            };
            let mut inner = Pin::new(inner);
            let waker = waker_ref(&self.bell.tasks);
            let cx = &mut Context::from_waker(&waker);

            if !self.ready && (self.slot.is_some() || heartbeat.is_some()) {
                ready!(inner.as_mut().poll_ready(cx)).map_err(Broken)?;
                self.ready = true;
            }
            if let Some(message) = self.slot.take() {
                self.ready = false;
                inner.start_send(*message).map_err(Refused)?;
                continue;
            }
            if let Some(message) = heartbeat {
                self.ready = false;
                match inner.as_mut().start_send(message) {
                    Ok(()) if std::mem::take(&mut self.answer_owed) => {
                        self.unflushed.control = true;
                        continue;
                    }
                    Ok(()) => self.unflushed.ping = std::mem::take(&mut self.ping_owed),
                    Err(error) if tries == 1 && self.answer_owed => {
                        // It would be refused for ever, and keep our own ping behind it.
                        self.answer_owed = false;
                        report::send_error(Extras::label_or_dash(self.extras.as_deref()), &error);
                        tries = 2;
                    }
                    Err(_) => tries -= 1,
                }
            }
            ready!(inner.as_mut().poll_flush(cx)).map_err(Broken)?;
            if (self.ping_owed || self.answer_owed) && tries > 0 {
                continue;
            }

            if let Some(ending) = &mut self.ending {
                if matches!(ending.farewell, Farewell::Owed(_)) {
                    ready!(inner.as_mut().poll_ready(cx)).map_err(Broken)?;
                    let farewell = &mut ending.farewell;
                    if let Farewell::Owed(frame) = std::mem::replace(farewell, Farewell::None) {
                        self.ready = false;
                        inner.start_send(frame).map_err(Refused)?;
                        ending.farewell = Farewell::Written;
                    }
                    continue;
                }
                if matches!(ending.farewell, Farewell::Written) {
                    ending.farewell = Farewell::Sent;
                }
            }
            self.flushed(now);
            return Poll::Ready(Ok(()));
        }
    }

    /// Waits until the socket inside takes a message.
    pub(super) fn make_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error<E>>> {
        loop {
            // A write that waited may be through: nobody else might say so.
            if self.slot.is_some() || self.asks_or_answers() || self.policy.write_clock_runs() {
                let now = self.timer.now();
                match self.write_out(now) {
                    Poll::Ready(done) => self.told_of_write(done)?,
                    Poll::Pending if self.bell.tasks.writer.register(cx) => continue,
                    Poll::Pending if self.slot.is_some() => ready!(self.sending_half_waits(now))?,
                    Poll::Pending => {}
                }
                self.may_send()?;
            }
            let Some(inner) = &mut self.inner else {
                return Poll::Ready(Err(Error::Closed));
            };
            let waker = waker_ref(&self.bell.tasks);
            if let Poll::Ready(done) = Pin::new(inner).poll_ready(&mut Context::from_waker(&waker))
            {
                self.ready = done.is_ok();
                return Poll::Ready(self.told_of_write(done.map_err(WriteError::Broken)));
            }
            if self.bell.tasks.writer.register(cx) {
                continue;
            }
            let now = self.timer.now();
            self.write_waits(now, true);
            ready!(self.sending_half_waits(now))?;
        }
    }

    /// Writes and flushes all that there is, and looks at what is due.
    #[inline(never)]
    pub(super) fn flush_all(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error<E>>> {
        if !self.may_flush()? {
            return Poll::Ready(Ok(()));
        }
        loop {
            let now = self.timer.now();
            match self.write_out(now) {
                Poll::Ready(done) => {
                    return Poll::Ready(self.wrote(now, done));
                }
                Poll::Pending if self.bell.tasks.writer.register(cx) => {}
                Poll::Pending => return self.sending_half_waits(now),
            }
        }
    }

    /// What the task that sends is told of a write, after a look: a program that only sends must meet its
    /// lifetime too.
    pub(super) fn wrote(
        &mut self,
        now: Timestamp,
        done: Result<(), WriteError<E>>,
    ) -> Result<(), Error<E>> {
        let told = self.told_of_write(done);
        if self.stale || self.alarm.is_some_and(|alarm| alarm <= now) {
            self.look_between(now);
        }
        told
    }

    /// Whether messages of the program are all that there is to flush.
    #[inline]
    pub(super) fn unflushed_is_plain(&self) -> bool {
        self.unflushed.data
            && !(self.unflushed.control || self.unflushed.ping || self.asks_or_answers())
            && self.slot.is_none()
            && self.is_free_to_send()
            && !self.stale
    }

    /// Flushes the socket inside, and nothing else.
    #[inline]
    pub(super) fn flush_inner(&mut self) -> Poll<Result<(), E>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        let waker = waker_ref(&self.bell.tasks);
        Pin::new(inner).poll_flush(&mut Context::from_waker(&waker))
    }

    /// Tells the policy that messages have left, if that is all there is to do at it; whether it was.
    #[inline]
    pub(super) fn only_observes_flush(&mut self) -> bool {
        let now = self.timer.now();
        let done =
            self.alarm.is_some_and(|alarm| now < alarm) && self.policy.try_observe_send_fast(now);
        if done {
            self.unflushed.data = false;
            if self.extras.is_some() {
                self.forget_progress();
            }
        }
        done
    }

    /// The bytes of what has left are no progress of what comes.
    #[inline(never)]
    fn forget_progress(&mut self) {
        if let Some(metering) = self.meter() {
            metering.progress();
        }
    }

    /// Whether anything waits to be written or flushed.
    pub(super) fn owes(&self) -> bool {
        self.unflushed.data || self.slot.is_some() || self.owes_by_itself()
    }

    /// Whether something does that the program knows nothing of, and so will not flush.
    pub(super) fn owes_by_itself(&self) -> bool {
        self.unflushed.control
            || self.unflushed.ping
            || self.asks_or_answers()
            || self.owes_farewell()
    }

    /// Whether a heartbeat, or an answer to the peer's, is to be given to the socket inside.
    pub(super) fn asks_or_answers(&self) -> bool {
        self.ping_owed || self.answer_owed
    }

    /// The next of these; answers come first.
    fn heartbeat(&self) -> Option<M> {
        let extras = self.extras.as_ref();
        if self.answer_owed {
            return Some(extras?.answers.as_ref()?.pong.clone());
        }
        let id = self.policy.latest_ping().filter(|_| self.ping_owed)?;
        Some(match extras.and_then(|extras| extras.asks.as_ref()) {
            Some(asks) => asks.ping.clone(),
            None => M::ping(id.payload()),
        })
    }

    #[inline]
    fn owes_farewell(&self) -> bool {
        let ending = self.ending.as_ref();
        ending
            .is_some_and(|ending| matches!(ending.farewell, Farewell::Owed(_) | Farewell::Written))
    }

    /// Gives up what is not worth saying on a connection that ends.
    pub(super) fn drop_heartbeats(&mut self) {
        self.ping_owed = false;
        self.answer_owed = false;
    }

    /// Everything that the socket inside held has left.
    pub(super) fn flushed(&mut self, now: Timestamp) {
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
        // While the latest is still to be given to the socket inside, it was an earlier one that left.
        let latest = self.policy.latest_ping();
        if let Some(id) = latest.filter(|_| ping && !self.ping_owed) {
            self.observe(now, Event::PingSent(id));
            report::ping(self.label_or_dash(), id);
        }
        self.forget_progress();
    }

    /// The transport takes no more for now.
    pub(super) fn write_waits(&mut self, now: Timestamp, message_waits: bool) {
        if let Some(bytes) = self
            .meter()
            .map(Metering::progress)
            .filter(|&bytes| bytes > 0)
        {
            self.observe(now, Event::SendProgress { bytes });
        }
        // A ping that waits alone has a deadline of its own.
        let held = self.slot.is_some() || self.answer_owed;
        if message_waits || self.unflushed.data || self.unflushed.control || held {
            self.observe(now, Event::SendStart);
        }
    }

    /// Tries what is owed before the policy judges that it could not be done.
    pub(super) fn act_before_judging(&mut self, now: Timestamp) {
        if !self.owes() {
            return self.room_before_judging(now);
        }
        loop {
            match self.write_out(now) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(WriteError::Refused(error))) => {
                    report::send_error(self.label_or_dash(), &error);
                    self.ending_mut().refused = Some(Error::Socket(error));
                    self.bell.tasks.writer.wake();
                }
                Poll::Ready(Err(WriteError::Broken(error))) => {
                    self.write_broke(now, Err(error));
                    break;
                }
            }
        }
        // A task that waits for this flush did not see it.
        self.bell.tasks.writer.wake();
    }

    /// A send that waited for room may have been given up, and its clock runs on.
    pub(super) fn room_before_judging(&mut self, now: Timestamp) {
        let Some(inner) = self
            .inner
            .as_mut()
            .filter(|_| self.policy.write_clock_runs())
        else {
            return;
        };
        let waker = waker_ref(&self.bell.tasks);
        match Pin::new(inner).poll_ready(&mut Context::from_waker(&waker)) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.ready = true;
                self.observe(now, Event::Flushed);
                self.bell.tasks.writer.wake();
            }
            Poll::Ready(Err(error)) => {
                self.write_broke(now, Err(error));
                self.bell.tasks.writer.wake();
            }
        }
    }

    /// Nothing more can be written, so the connection is over. What the peer has still sent, its Close
    /// frame above all, is worth reading, for as long as a closing handshake may take.
    pub(super) fn write_broke(&mut self, now: Timestamp, error: Result<(), E>) {
        if matches!(self.ending().write_side, WriteSide::Sound) {
            if let Err(error) = &error {
                report::send_error(self.label_or_dash(), error);
            }
            self.ending_mut().write_side = WriteSide::Failed(error.err());
        }
        self.unflushed = Unflushed::default();
        self.drop_heartbeats();
        self.observe(now, Event::CloseStart);
    }

    /// What the task that sends is told of a write.
    #[inline]
    pub(super) fn told_of_write(
        &mut self,
        done: Result<(), WriteError<E>>,
    ) -> Result<(), Error<E>> {
        done.map_err(|error| self.told_of_failure(error))
    }

    #[cold]
    fn told_of_failure(&mut self, error: WriteError<E>) -> Error<E> {
        match error {
            WriteError::Refused(error) => Error::Socket(error),
            WriteError::Broken(error) => {
                report::send_error(self.label_or_dash(), &error);
                self.write_broke(self.timer.now(), Ok(()));
                self.bell.tasks.reader.wake();
                Error::Socket(error)
            }
        }
    }

    /// A pass of the sending half, which has just found that the transport takes no more. `Ready` if
    /// the connection has ended, or a second try went through.
    pub(super) fn sending_half_waits(&mut self, now: Timestamp) -> Poll<Result<(), Error<E>>> {
        let rings = self.alarm_rings();
        let again = if rings {
            self.write_out(now)
        } else {
            Poll::Pending
        };
        if rings || self.stale {
            self.look(now, Horizon::UNREAD);
        }
        match (again, self.may_send()) {
            (Poll::Ready(done), _) => Poll::Ready(self.told_of_write(done)),
            (Poll::Pending, Err(error)) => Poll::Ready(Err(error)),
            (Poll::Pending, Ok(())) => Poll::Pending,
        }
    }

    /// Sends fail at once with the verdict, from when it is given.
    pub(super) fn may_send(&self) -> Result<(), Error<E>> {
        match (&self.ending().verdict, &self.inner) {
            (Some(verdict), _) => Err(Error::Verdict(verdict.clone())),
            (None, None) => Err(Error::Closed),
            (None, Some(_)) => Ok(()),
        }
    }

    /// What the sending half is told once a write has failed, whoever met it: why, then that it is over.
    pub(super) fn write_side_is_sound(&mut self) -> Result<(), Error<E>> {
        match self.ending.as_mut().map(|ending| &mut ending.write_side) {
            None | Some(WriteSide::Sound) => Ok(()),
            Some(WriteSide::Failed(error)) => {
                Err(error.take().map_or(Error::Closed, Error::Socket))
            }
        }
    }

    /// Why a promised message was not taken, once.
    fn take_refusal(&mut self) -> Option<Error<E>> {
        self.ending.as_mut()?.refused.take()
    }

    /// Whether nothing stands in the way of the sending half: the rule, and cheap to see.
    #[inline]
    fn is_free_to_send(&self) -> bool {
        let ending = self.ending.as_ref();
        self.policy.phase() == Phase::Open && ending.is_none_or(|ending| ending.refused.is_none())
    }

    /// "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455, 5.5.1),
    /// and the answer to the peer's is one too.
    #[inline]
    pub(super) fn may_send_more(&mut self) -> Result<(), Error<E>> {
        if self.is_free_to_send() {
            return Ok(());
        }
        Err(self.why_not_to_send())
    }

    /// What stands in the way.
    #[cold]
    fn why_not_to_send(&mut self) -> Error<E> {
        match self.may_send().and_then(|()| self.write_side_is_sound()) {
            Ok(()) => self.take_refusal().unwrap_or(Error::Closed),
            Err(error) => error,
        }
    }

    /// Whether there is something to flush; after the end, whether all had left.
    #[inline]
    pub(super) fn may_flush(&mut self) -> Result<bool, Error<E>> {
        if self.is_free_to_send() {
            return Ok(true);
        }
        if let Some(error) = self.take_refusal() {
            return Err(error);
        }
        if self.ending().verdict.is_none() {
            self.write_side_is_sound()?;
        }
        match self.may_send() {
            Err(Error::Closed) if !self.owes() => Ok(false),
            may => may.map(|()| true),
        }
    }

    /// Begins a closing handshake on the user's account.
    pub(super) fn begin_close(&mut self, frame: M) {
        if self.policy.phase() == Phase::Open {
            self.observe(self.timer.now(), Event::CloseStart);
            self.drop_heartbeats();
            self.ending_mut().farewell = Farewell::Owed(frame);
            // Whoever fed the frame may never flush it.
            self.bell.tasks.reader.wake();
        }
    }
}
