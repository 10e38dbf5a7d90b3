//! How a connection is closed, dropped and reported.

use std::boxed::Box;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_core::Stream;
use futures_util::sink::Sink;

use super::{Farewell, TimeoutSocket, WriteSide};
use crate::error::{CloseHandshake, Verdict};
use crate::event::{CloseReason, Event};
use crate::message::Message;
use crate::report;
use crate::status::Status;
use crate::time::Timestamp;
use crate::timer::Timer;

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Begins the closing handshake that the policy asks for.
    pub(super) fn close_with(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        status: Option<Status>,
    ) {
        self.give_verdict(now, reason, CloseHandshake::UnderWay, status);
        self.drop_heartbeats();
        self.ending_mut().farewell = Farewell::Owed(self.close_frame(reason));
        self.act_before_judging(now);
        self.bell.tasks.writer.wake();
    }

    /// Drops the transport, after one try at a Close frame.
    pub(super) fn abort(&mut self, now: Timestamp, reason: CloseReason, status: Option<Status>) {
        let ending = self.ending();
        let both_closed = ending.peer_close.is_some() && !self.owes();
        let failed = matches!(ending.write_side, WriteSide::Failed(_));
        let passed = both_closed || failed;
        if reason == CloseReason::CloseTimeout && passed && ending.verdict.is_none() {
            // Both Close frames have passed, and a client has waited for its server to hang up; or the
            // error of a write is the end, and all that time went to the peer's last words.
            self.report_end(now);
            return self.end();
        }
        let closing = match &ending.farewell {
            Farewell::Sent if ending.peer_close.is_some() => CloseHandshake::Answered,
            // The frames have crossed, and the reply went out for ours.
            Farewell::None if both_closed => CloseHandshake::Answered,
            Farewell::None if self.policy.config().close_code(reason).is_some() => {
                self.drop_heartbeats();
                self.ending_mut().farewell = Farewell::Owed(self.close_frame(reason));
                match self.write_out(now) {
                    Poll::Ready(Ok(())) => {
                        self.read_off();
                        CloseHandshake::Sent
                    }
                    _ => CloseHandshake::NotSent,
                }
            }
            Farewell::Sent => CloseHandshake::Unanswered,
            _ => CloseHandshake::NotSent,
        };
        self.give_verdict(now, reason, closing, status);
        self.report_end(now);
        self.end();
    }

    pub(super) fn close_frame(&self, reason: CloseReason) -> M {
        M::close(self.policy.config().close_code(reason), reason.text())
    }

    /// Takes unread input out of the kernel: with it there, dropping the transport would send a reset,
    /// which can overtake the Close frame.
    pub(super) fn read_off(&mut self) {
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

    /// Drops the transport because a message did not leave in the time that its sender gave it.
    pub(super) fn give_up_sending(&mut self, now: Timestamp, within: Duration) {
        let verdict = Verdict {
            reason: CloseReason::MessageTimeout,
            within: Some(within),
            status: Box::new(self.policy.status(now)),
            close_handshake: CloseHandshake::NotSent,
        };
        let config = self.policy.config();
        report::verdict(self.label_or_dash(), &verdict, config);
        self.ending_mut().verdict = Some(verdict);
        self.observe(now, Event::Closed);
        self.report_end(now);
        self.end();
    }

    /// The first verdict is the cause, and stays; how the closing went stands beside it.
    pub(super) fn give_verdict(
        &mut self,
        now: Timestamp,
        reason: CloseReason,
        closing: CloseHandshake,
        status: Option<Status>,
    ) {
        if let Some(verdict) = &mut self.ending_mut().verdict {
            verdict.close_handshake = closing;
            return;
        }
        let verdict = Verdict {
            reason,
            within: None,
            status: Box::new(status.unwrap_or_else(|| self.policy.status(now))),
            close_handshake: closing,
        };
        report::verdict(self.label_or_dash(), &verdict, self.policy.config());
        self.ending_mut().verdict = Some(verdict);
    }

    pub(super) fn report_end(&self, now: Timestamp) {
        let ending = self.ending();
        report::closed(
            self.label_or_dash(),
            ending.verdict.as_ref(),
            !matches!(ending.farewell, Farewell::None),
            ending.peer_close.map(|close| close.code),
            &self.status_at(now),
        );
    }

    /// Drops the socket inside, there and then: the other half may be held for long.
    pub(super) fn end(&mut self) {
        self.inner = None;
        self.slot = None;
        self.alarm = None;
        self.rang = None;
        self.bell.tasks.wake_both();
    }
}
