//! What comes in, and how the stream ends.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::sink::Sink;

use super::{Farewell, PeerClose, TimeoutSocket, WriteSide};
use crate::error::{CloseHandshake, Error};
use crate::event::{Event, Phase};
use crate::message::{Message, MessageKind};
use crate::metered::Metering;
use crate::policy::Horizon;
use crate::report;
use crate::seed::PingId;
use crate::time::Timestamp;
use crate::timer::Timer;

/// How many messages that are not handed on one poll takes.
const MOST_KEPT: u32 = 64;

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// A pass of the reading half. Almost every message, and every wait, has the short way.
    #[inline]
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, Error<E>>>> {
        if self.bell.rang() {
            // Before the read, which is then one after the ring.
            self.alarm_rings();
        }
        match self.poll_inner(cx) {
            Poll::Ready(Some(Ok(message))) if self.only_observes(&message) => {
                Poll::Ready(Some(Ok(message)))
            }
            Poll::Pending if self.only_waits(cx) => Poll::Pending,
            read => self.go_on(read, cx),
        }
    }

    #[inline]
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, E>>> {
        match &mut self.inner {
            Some(inner) if !self.read_to_end => Pin::new(inner).poll_next(cx),
            _ => Poll::Ready(None),
        }
    }

    /// Tells the policy of a message, if that is all there is to do at it; whether it was.
    #[inline]
    fn only_observes(&mut self, message: &M) -> bool {
        if self.stale || self.speaks() || !matches!(message.kind(), MessageKind::Data) {
            return false;
        }
        let now = self.timer.now();
        let done =
            self.alarm.is_some_and(|alarm| now < alarm) && self.policy.try_observe_recv_fast(now);
        if done && self.extras.is_some() {
            self.whole_message();
        }
        done
    }

    /// Whether there is nothing to do but wait, where nothing was left to read. A ring since the look at
    /// the bell has woken this task, which looks again, unless it was another that waited.
    #[inline]
    fn only_waits(&mut self, cx: &Context<'_>) -> bool {
        let reader = &self.bell.tasks.reader;
        let another = reader.register_in_place_of(&mut self.reader, cx);
        let rings = self.rang.is_some() || (another && self.bell.rang());
        let moved = self.extras.is_some() && self.bytes_moved();
        !(rings || self.stale || moved || self.owes())
    }

    #[inline(never)]
    fn whole_message(&mut self) {
        if let Some(metering) = self.meter() {
            metering.whole_message();
        }
    }

    /// Whether bytes of a message that is not whole have come since the last look.
    #[inline(never)]
    fn bytes_moved(&mut self) -> bool {
        self.meter().is_some_and(|metering| metering.has_moved())
    }

    /// All that can come of what was read, until there is something to say.
    #[inline(never)]
    fn go_on(
        &mut self,
        read: Poll<Option<Result<M, E>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<M, Error<E>>>> {
        let mut first = Some(read);
        let mut kept = 0;
        loop {
            if self.inner.is_none() {
                return Poll::Ready(self.end_of_stream());
            }
            match first.take().unwrap_or_else(|| self.poll_inner(cx)) {
                Poll::Ready(Some(Ok(message))) => {
                    let now = self.timer.now();
                    let passes_on = self.received(now, &message);
                    // A ring that was taken just before this message has left no alarm.
                    let alarm = self.alarm.or(self.rang);
                    let rings = alarm.is_some_and(|alarm| alarm <= now);
                    // An answer leaves at once: who reads may be long at what is handed on. And what has
                    // waited for room leaves once there is some.
                    if self.stale || rings || self.owes_by_itself() {
                        self.look_between(now);
                    }
                    if passes_on {
                        return Poll::Ready(Some(Ok(message)));
                    }
                    kept += 1;
                    if kept == MOST_KEPT {
                        // Whoever keeps us busy with what is not handed on must not keep the task.
                        // Nothing is judged: not all is read.
                        self.bell
                            .tasks
                            .reader
                            .register_in_place_of(&mut self.reader, cx);
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(self.transport_ended(Some(error)));
                }
                Poll::Ready(None) if !self.reply_waits() => {
                    return Poll::Ready(self.transport_ended(None));
                }
                Poll::Pending | Poll::Ready(None) => {
                    self.bell
                        .tasks
                        .reader
                        .register_in_place_of(&mut self.reader, cx);
                    // What had arrived when the alarm rang is to be read before anything is judged.
                    if self.alarm_rings() {
                        continue;
                    }
                    self.all_is_read();
                    if self.read_to_end && !self.owes() {
                        // What the end waited for has left only now, and nothing more will wake us.
                        continue;
                    }
                    if self.inner.is_some() && self.rang.is_none() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Whether the stream has ended before our answer to the peer's Close, and what was written before
    /// that, could leave. (tungstenite's server ends its stream as soon as the answer is in its buffer.)
    pub(super) fn reply_waits(&mut self) -> bool {
        self.read_to_end = true;
        self.ending().peer_close.is_some()
            && self.owes()
            && self.write_out(self.timer.now()).is_pending()
    }

    /// Tells the policy of a message; whether it is handed on.
    pub(super) fn received(&mut self, now: Timestamp, message: &M) -> bool {
        match message.kind() {
            MessageKind::Data => {
                self.whole_message();
                if self.speaks() && self.is_heartbeat(now, message) {
                    return false;
                }
                self.observe(now, Event::Recv);
                true
            }
            MessageKind::Ping(payload) => {
                self.control_frame(payload.len());
                self.observe(now, Event::Ping);
                // tungstenite has queued the pong.
                self.unflushed.control = true;
                true
            }
            MessageKind::Pong(payload) => {
                self.control_frame(payload.len());
                let id = PingId::from_payload(payload);
                let ours = id.is_some_and(|id| self.policy.awaits_pong(id));
                self.pong(now, id);
                !ours
            }
            MessageKind::Close(code) => {
                self.drop_heartbeats();
                let promised = self.slot.take().is_some();
                let ending = self.ending_mut();
                ending.peer_close = Some(PeerClose { code });
                if matches!(ending.farewell, Farewell::Owed(_)) {
                    // The frames have crossed; the reply does for ours.
                    ending.farewell = Farewell::None;
                }
                if promised && ending.verdict.is_none() {
                    ending.refused = Some(Error::Closed);
                }
                self.observe(now, Event::PeerClose);
                // tungstenite has queued the reply.
                self.unflushed.control = true;
                // Nothing may follow the reply, and whoever waits to send is told.
                self.bell.tasks.writer.wake();
                self.ending().verdict.is_none()
            }
        }
    }

    /// Whether a data message is a word of the heartbeat, of which the policy is told then.
    #[inline(never)]
    fn is_heartbeat(&mut self, now: Timestamp, message: &M) -> bool {
        let Some(extras) = &self.extras else {
            return false;
        };
        let asks = extras.asks.as_ref();
        let answers = extras.answers.as_ref();
        let asks_us = answers.is_some_and(|answers| answers.ping == *message);
        let awaited = || {
            let ping = self.policy.latest_ping();
            ping.is_some_and(|id| self.policy.awaits_pong(id))
        };
        // Where one word is both, it is the answer while one is awaited.
        if asks.is_some_and(|asks| asks.pong == *message) && (!asks_us || awaited()) {
            self.observe(now, Event::RecvPartial { total: 0 });
            self.pong(now, self.policy.latest_ping());
            true
        } else if asks_us {
            self.observe(now, Event::RecvPartial { total: 0 });
            self.observe(now, Event::Ping);
            self.answer_owed = self.policy.phase() == Phase::Open;
            true
        } else {
            false
        }
    }

    pub(super) fn pong(&mut self, now: Timestamp, id: Option<PingId>) {
        let before = self.policy.pongs_received();
        self.observe(now, Event::Pong(id));
        if self.policy.pongs_received() > before {
            report::pong(self.label_or_dash(), self.policy.rtt());
        }
    }

    pub(super) fn control_frame(&mut self, payload: usize) {
        if let Some(metering) = self.meter() {
            metering.control_frame(payload);
        }
    }

    /// A pass in which nothing was left to read.
    pub(super) fn all_is_read(&mut self) {
        let counted = self.meter().and_then(Metering::partial_total);
        if !(self.rang.is_some() || self.stale || counted.is_some() || self.owes()) {
            return;
        }
        let now = self.timer.now();
        if self.rang.is_some() {
            self.doubt_after_a_resume(now);
        }
        if let Some(total) = counted {
            self.observe(now, Event::RecvPartial { total });
        }
        self.act_before_judging(now);
        if self.rang.is_some() {
            self.look(now, Horizon::EVERYTHING);
        } else if self.stale {
            self.look(now, Horizon::UNREAD);
        }
    }

    /// Between two messages, once the clock has reached the alarm: a peer that never pauses must meet
    /// its lifetime all the same.
    pub(super) fn look_between(&mut self, now: Timestamp) {
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.alarm_rings();
        }
        self.act_before_judging(now);
        self.look(now, Horizon::UNREAD);
    }

    /// Ends the connection because the socket inside has ended or failed.
    pub(super) fn transport_ended(&mut self, error: Option<E>) -> Option<Result<M, Error<E>>> {
        let now = self.timer.now();
        self.observe(now, Event::Closed);
        let ending = self.ending();
        let closing = match (ending.peer_close, &ending.farewell) {
            (Some(_), _) => CloseHandshake::Answered,
            (None, Farewell::Sent) => CloseHandshake::Unanswered,
            _ => CloseHandshake::NotSent,
        };
        // An error that follows a Close frame, the peer's or our own, is a clean end: both are done.
        let closed = ending.peer_close.is_some() || matches!(ending.farewell, Farewell::Sent);
        let verdict = (self.ending.as_mut()).and_then(|ending| ending.verdict.as_mut());
        let given = verdict.is_some();
        if let Some(verdict) = verdict {
            verdict.close_handshake = closing;
        }
        let error = error.filter(|_| !closed && !given);
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
    pub(super) fn end_of_stream(&mut self) -> Option<Result<M, Error<E>>> {
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        let ending = self.ending.as_mut()?;
        match (&ending.verdict, &mut ending.write_side) {
            (Some(verdict), _) => Some(Err(Error::Verdict(verdict.clone()))),
            (None, WriteSide::Failed(_)) if ending.peer_close.is_some() => None,
            (None, WriteSide::Failed(error)) => {
                Some(Err(error.take().map_or(Error::Closed, Error::Socket)))
            }
            (None, WriteSide::Sound) => None,
        }
    }
}
