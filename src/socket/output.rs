//! The write path: drains the outbox, and reports the results to the policy and the sending half.
//!
//! A report to the policy contains the time after the write, not before it: the process may have
//! been suspended in between, and a peer cannot answer a ping that was not sent yet.

use std::fmt;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::sink::Sink;

use super::Driver;
use super::heartbeat::Heartbeats;
use super::outbox::{Buffered, Item, Step};
use crate::error::Error;
use crate::event::{Event, Phase};
use crate::message::{Message, MessageKind};
use crate::metered::Metering;
use crate::observer::Report;
use crate::timer::Timer;

/// The reason why a write failed.
#[derive(Debug)]
pub(super) enum WriteError<E> {
    /// The inner sink refused a message, but may accept others.
    Refused(E),
    /// The inner sink failed permanently.
    Broken(E),
}

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Writes and flushes as much as possible. Returns `Ready` once nothing more can be written,
    /// with whether anything was flushed.
    pub(super) fn drain_outbox(&mut self, cx: &Context<'_>) -> Poll<Result<bool, WriteError<E>>> {
        let done = self.try_drain_outbox(cx);
        if done.is_pending() {
            self.on_write_pending(false);
        }
        done
    }

    fn try_drain_outbox(&mut self, cx: &Context<'_>) -> Poll<Result<bool, WriteError<E>>> {
        self.outbox.begin_drain();
        let mut any_sent = false;
        while self.inner.is_some() {
            match self.outbox.next() {
                Step::AwaitRoom => ready!(self.poll_room(cx)).map_err(WriteError::Broken)?,
                Step::Give(item) => self.give(item)?,
                Step::Flush => {
                    ready!(self.poll_reply(cx)).map_err(WriteError::Broken)?;
                    ready!(self.poll_flush_inner(cx)).map_err(WriteError::Broken)?;
                    let sent = self.outbox.on_flushed();
                    any_sent |= sent != Buffered::default();
                    self.on_flushed(sent);
                }
                Step::Done => break,
            }
        }
        Poll::Ready(Ok(any_sent))
    }

    /// Passes the item to the inner sink, which has room for it.
    fn give(&mut self, item: Item) -> Result<(), WriteError<E>> {
        let message = match item {
            Item::Displaced => self.outbox.take_displaced(),
            Item::Close => self.outbox.take_close(),
            Item::Ping => self.ping(),
        };
        let (Some(inner), Some(message)) = (&mut self.inner, message) else {
            self.outbox.on_refused(item);
            return Ok(());
        };
        let data = matches!(message.kind(), MessageKind::Data);
        let given = match item {
            Item::Close => inner.start_close(message),
            Item::Displaced | Item::Ping => inner.start_send(message),
        };
        match given {
            Ok(()) => self.outbox.on_taken(item, data),
            Err(error) if self.outbox.on_refused(item) => return Err(WriteError::Refused(error)),
            Err(_) => {}
        }
        Ok(())
    }

    fn ping(&mut self) -> Option<M> {
        let id = self.policy.latest_ping();
        Some(self.inner.as_mut()?.ping(id))
    }

    /// Waits until the inner sink has room for a message.
    pub(super) fn reserve(&mut self, cx: &Context<'_>) -> Poll<Result<(), WriteError<E>>> {
        // A write that was waiting may have completed, and nothing else may detect that.
        if self.outbox.has_displaced() || self.outbox.has_ping() || self.policy.write_clock_runs() {
            match self.drain_outbox(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if self.outbox.has_displaced() => return Poll::Pending,
                _ => {}
            }
        }
        if self.outbox.has_place() {
            return Poll::Ready(Ok(()));
        }
        let room = self.poll_room(cx);
        if room.is_pending() {
            self.on_write_pending(true);
        }
        room.map_err(WriteError::Broken)
    }

    /// Waits until the inner sink has accepted the reply that the layer below has queued, if any,
    /// and has room for a message.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), E>> {
        ready!(self.poll_reply(cx))?;
        self.poll_room_inner(cx)
    }

    /// Waits until the inner sink has accepted the reply that the layer below has queued, if any.
    fn poll_reply(&mut self, cx: &Context<'_>) -> Poll<Result<(), E>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        self.wakers.with_write_waker(cx, |cx| inner.poll_reply(cx))
    }

    #[inline]
    pub(super) fn poll_room_inner(&mut self, cx: &Context<'_>) -> Poll<Result<(), E>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        let room = self.wakers.with_write_waker(cx, |cx| inner.poll_ready(cx));
        if matches!(room, Poll::Ready(Ok(()))) {
            self.outbox.on_room();
        }
        room
    }

    #[inline]
    pub(super) fn poll_flush_inner(&mut self, cx: &Context<'_>) -> Poll<Result<(), E>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Ok(()));
        };
        self.wakers.with_write_waker(cx, |cx| inner.poll_flush(cx))
    }

    /// Runs step 3 of a pass: tries the pending writes before the policy decides that they are
    /// blocked.
    pub(super) fn flush_before_deciding(&mut self, cx: &Context<'_>) {
        while self.outbox.has_pending_writes() {
            match self.drain_outbox(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(any_sent)) => {
                    if any_sent {
                        // A task that is waiting for this flush does not know of it yet.
                        return self.wakers.wake_writer();
                    }
                    break;
                }
                Poll::Ready(Err(WriteError::Refused(error))) => {
                    self.report(Report::SendError { error: &error });
                    self.teardown.set_refusal(Error::Socket(error));
                    self.wakers.wake_writer();
                }
                Poll::Ready(Err(WriteError::Broken(error))) => {
                    self.on_write_broken(Some(error));
                    return self.wakers.wake_writer();
                }
            }
        }
        self.recheck_room(cx);
    }

    /// Rechecks room on behalf of a send that was dropped while it waited, and whose write clock
    /// still runs.
    fn recheck_room(&mut self, cx: &Context<'_>) {
        if !self.policy.write_clock_runs() {
            return;
        }
        match self.poll_room(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.observe(self.alarm.now(), Event::Flushed);
                self.wakers.wake_writer();
            }
            Poll::Ready(Err(error)) => {
                self.on_write_broken(Some(error));
                self.wakers.wake_writer();
            }
        }
    }

    /// Reports that the inner sink is flushed, so the messages in `sent` have left.
    fn on_flushed(&mut self, sent: Buffered) {
        if sent != Buffered::default() {
            let now = self.alarm.now();
            if sent.data {
                self.observe(now, Event::SendOk);
            } else if sent.control {
                self.observe(now, Event::Flushed);
            }
            // If the latest ping is still waiting, an earlier one was sent.
            if sent.ping && !self.outbox.has_ping() {
                let id = self.policy.latest_ping();
                self.observe(now, Event::PingSent(id));
                self.report(Report::Ping { id });
            }
        }
        let refusal = self.inner.as_mut().and_then(Heartbeats::take_refusal);
        if let Some(error) = refusal {
            self.report(Report::SendError { error: &error });
        }
        self.forget_progress();
    }

    /// Reports that the transport accepts no more bytes for now. `message_waits` says whether a
    /// message is waiting for room.
    fn on_write_pending(&mut self, message_waits: bool) {
        let now = self.alarm.now();
        let bytes = self.metering().map_or(0, Metering::progress);
        if bytes > 0 {
            self.outbox.on_progress(bytes);
            self.observe(now, Event::SendProgress { bytes });
        }
        // A ping that is the only pending write has its own deadline.
        let Buffered { data, control, .. } = self.outbox.buffered();
        if message_waits || data || control || self.outbox.has_displaced() {
            self.observe(now, Event::SendStart);
        }
    }

    /// Discards the count of bytes written so far, so that they do not count as progress of a later
    /// write.
    #[inline]
    pub(super) fn forget_progress(&mut self) {
        if let Some(metering) = self.metering() {
            metering.progress();
        }
    }

    /// Handles a failed write. The connection is over, but the socket still reads the peer's last
    /// messages, in particular its Close frame, for as long as a closing handshake may take.
    /// `error` is for the sending half; `None` if that has it already.
    fn on_write_broken(&mut self, error: Option<E>) {
        if let Some(error) = error.as_ref().filter(|_| !self.teardown.write_failed()) {
            self.report(Report::SendError { error });
        }
        self.teardown.set_write_failure(error);
        self.outbox.on_broken();
        self.observe(self.alarm.now(), Event::CloseStart);
    }

    // ---- errors of the sending half ----

    #[inline]
    pub(super) fn map_write_error(
        &mut self,
        done: Result<(), WriteError<E>>,
    ) -> Result<(), Error<E>> {
        done.map_err(|error| self.on_send_failed(error))
    }

    #[cold]
    fn on_send_failed(&mut self, error: WriteError<E>) -> Error<E> {
        match error {
            WriteError::Refused(error) => Error::Socket(error),
            WriteError::Broken(error) => {
                self.report(Report::SendError { error: &error });
                self.on_write_broken(None);
                self.wakers.wake_reader();
                Error::Socket(error)
            }
        }
    }

    /// Returns an error if there is a verdict, or if the connection has ended.
    pub(super) fn check_not_ended(&self) -> Result<(), Error<E>> {
        match (self.teardown.verdict(), &self.inner) {
            (Some(verdict), _) => Err(Error::Verdict(verdict.clone())),
            (None, None) => Err(Error::Closed),
            (None, Some(_)) => Ok(()),
        }
    }

    /// Returns an error if nothing may be sent any more.
    ///
    /// "The application MUST NOT send any more data frames after sending a Close frame" (RFC 6455,
    /// 5.5.1), and the answer to the peer's Close frame is a Close frame too.
    #[inline]
    pub(super) fn check_can_send(&mut self) -> Result<(), Error<E>> {
        if self.is_free_to_send() {
            return Ok(());
        }
        Err(self.send_error())
    }

    #[cold]
    fn send_error(&mut self) -> Error<E> {
        if let Err(error) = self.check_not_ended() {
            return error;
        }
        let failure = self.teardown.take_write_failure();
        failure
            .or_else(|| self.teardown.take_refusal())
            .unwrap_or(Error::Closed)
    }

    /// Returns whether there may be anything to flush. After the end, returns an error unless
    /// everything was sent.
    pub(super) fn check_can_flush(&mut self) -> Result<bool, Error<E>> {
        if self.is_free_to_send() {
            return Ok(true);
        }
        if let Some(error) = self.teardown.take_refusal() {
            return Err(error);
        }
        if self.teardown.verdict().is_none() {
            if let Some(error) = self.teardown.take_write_failure() {
                return Err(error);
            }
        }
        match self.check_not_ended() {
            Err(Error::Closed) if !self.outbox.has_pending_writes() => Ok(false),
            checked => checked.map(|()| true),
        }
    }

    /// Starts the closing handshake for the program.
    pub(super) fn begin_close(&mut self, frame: M) {
        if self.policy.phase() == Phase::Open {
            self.observe(self.alarm.now(), Event::CloseStart);
            if let MessageKind::Close(Some(code)) = frame.kind() {
                self.teardown.set_close_code(code);
            }
            self.outbox.queue_close(frame);
            self.needs_poll = true;
            // A program that passes the frame to the sink may never flush it.
            self.wakers.wake_reader();
        }
    }
}
