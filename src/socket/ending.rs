//! Carries out verdicts, and ends the connection.

use std::fmt;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use futures_util::sink::Sink;

use super::Driver;
use crate::error::{CloseHandshake, Error, Verdict};
use crate::event::{CloseReason, Event, Phase};
use crate::message::{Message, close_message};
use crate::observer::Report;
use crate::status::Status;
use crate::time::Timestamp;
use crate::timer::Timer;

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Starts the closing handshake that the policy requests.
    pub(super) fn close_for(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        status: Option<Status>,
        cx: &Context<'_>,
    ) {
        self.give_verdict(now, reason, CloseHandshake::InProgress, status);
        self.outbox.queue_close(self.close_frame(reason));
        self.flush_before_deciding(cx);
        self.wakers.wake_writer();
    }

    /// Drops the transport. If the reason has a code, first tries once to write a Close frame.
    pub(super) fn abort_for(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        status: Option<Status>,
        cx: &Context<'_>,
    ) {
        let peer_closed = self.teardown.peer_close().is_some();
        let both_closed = peer_closed && !self.outbox.has_pending_writes();
        let clean = both_closed || self.teardown.write_failed();
        if reason == CloseReason::CloseTimeout && clean && self.teardown.verdict().is_none() {
            // Both Close frames have passed, and a client has waited for its server to disconnect;
            // or a write failed, and the socket has read the peer's last messages meanwhile.
            self.report_end(now);
            return self.end();
        }
        let has_code = self.policy.config().close_code(reason).is_some();
        let outcome = if self.outbox.is_closing() {
            match (self.outbox.is_close_flushed(), peer_closed) {
                (true, true) => CloseHandshake::Answered,
                (true, false) => CloseHandshake::Unanswered,
                (false, _) => CloseHandshake::NotSent,
            }
        } else if both_closed {
            // The frames crossed, and the reply was sent in place of our frame.
            CloseHandshake::Answered
        } else if has_code && self.write_close_at_once(reason, cx) {
            self.discard_unread();
            CloseHandshake::Sent
        } else {
            CloseHandshake::NotSent
        };
        self.give_verdict(now, reason, outcome, status);
        self.report_end(now);
        self.end();
    }

    /// Tries once to write and flush a Close frame. Returns whether it was flushed.
    fn write_close_at_once(&mut self, reason: CloseReason, cx: &Context<'_>) -> bool {
        self.outbox.queue_close(self.close_frame(reason));
        let drained = self.drain_outbox(cx);
        matches!(drained, Poll::Ready(Ok(_))) && self.outbox.is_close_flushed()
    }

    fn close_frame(&self, reason: CloseReason) -> M {
        close_message(self.policy.config().close_code(reason), reason.text())
    }

    /// Discards input that is unread in the kernel. Otherwise, dropping the transport would send a
    /// reset, which can overtake the Close frame.
    fn discard_unread(&mut self) {
        const MOST: usize = 64;
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MOST {
            let Some(inner) = &mut self.inner else { return };
            let read = inner.poll_next(cx);
            if !matches!(read, Poll::Ready(Some(Ok(_)))) && !self.has_yielded() {
                break;
            }
        }
    }

    /// Drops the transport because a send exceeded the limit of its call.
    pub(super) fn abort_send(&mut self, now: Timestamp, within: Duration) {
        let status = self.policy.status(now);
        let verdict = Verdict {
            limit: Some(within),
            is_limit_of_call: true,
            ..self.verdict(CloseReason::MessageTimeout, status, CloseHandshake::NotSent)
        };
        self.report_verdict(&verdict);
        self.teardown.set_verdict(verdict);
        self.observe(now, Event::Closed);
        self.report_end(now);
        self.end();
    }

    /// Reports and records the verdict. If there is one already, only records the outcome of the
    /// closing handshake: the first verdict is the cause.
    fn give_verdict(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        outcome: CloseHandshake,
        status: Option<Status>,
    ) {
        if self.teardown.verdict().is_some() {
            return self.teardown.set_close_handshake(outcome);
        }
        let status = status.unwrap_or_else(|| self.policy.status(now));
        let verdict = self.verdict(reason, status, outcome);
        self.report_verdict(&verdict);
        self.teardown.set_verdict(verdict);
    }

    /// Ends the connection because the inner stream has ended or failed. Returns the stream's last
    /// error, if any.
    pub(super) fn transport_ended(&mut self, error: Option<E>) -> Option<Error<E>> {
        let now = self.alarm.now();
        self.observe(now, Event::Closed);
        let peer_closed = self.teardown.peer_close().is_some();
        let close_flushed = self.outbox.is_close_flushed();
        self.teardown
            .set_close_handshake(match (peer_closed, close_flushed) {
                (true, _) => CloseHandshake::Answered,
                (false, true) => CloseHandshake::Unanswered,
                (false, false) => CloseHandshake::NotSent,
            });
        // An error after a Close frame, the peer's or our own, is a clean end: nothing is left to
        // transfer.
        let clean = peer_closed || close_flushed || self.teardown.verdict().is_some();
        match error.filter(|_| !clean) {
            Some(error) => {
                let status = &self.policy.status(now);
                self.report(Report::ReceiveError {
                    error: &error,
                    status,
                });
                self.end();
                Some(self.teardown.report_error(error))
            }
            None => {
                self.report_end(now);
                self.end();
                self.teardown.end_of_stream()
            }
        }
    }

    /// Returns whether the connection must wait although the inner stream has ended: for the flush
    /// of our answer to the peer's Close frame, for which a tungstenite server does not wait, or
    /// for the transport to shut down.
    pub(super) fn end_must_wait(&mut self, cx: &Context<'_>) -> bool {
        self.read_eof = true;
        self.is_shutting_down = false;
        if self.policy.phase() != Phase::Closing || self.teardown.write_failed() {
            return false;
        }
        let reply = self.teardown.peer_close().is_some() && self.outbox.has_pending_writes();
        if reply && self.drain_outbox(cx).is_pending() {
            return true;
        }
        let shutdown = self.options.as_ref().and_then(|options| options.shutdown);
        if let (Some(shutdown), Some(inner)) = (shutdown, &mut self.inner) {
            let done = self
                .wakers
                .with_write_waker(cx, |cx| shutdown(inner.get_mut(), cx));
            self.is_shutting_down = done.is_pending();
        }
        self.is_shutting_down
    }

    fn verdict(&self, reason: CloseReason, status: Status, outcome: CloseHandshake) -> Verdict {
        Verdict::new(reason, self.policy.config(), status, outcome)
    }

    fn report_verdict(&self, verdict: &Verdict) {
        let config = self.policy.config();
        self.report(Report::Verdict { verdict, config });
    }

    fn report_end(&self, now: Timestamp) {
        self.report(Report::Closed {
            verdict: self.teardown.verdict(),
            started_locally: self.outbox.is_closing(),
            close_code: self.teardown.close_code(),
            peer_close: self.teardown.peer_close().as_ref(),
            status: &self.status_at(now),
        });
    }

    /// Drops the inner socket immediately: the program may keep the other half for a long time.
    fn end(&mut self) {
        self.inner = None;
        self.alarm.clear();
        self.end_link();
        self.wakers.wake_both();
    }
}
