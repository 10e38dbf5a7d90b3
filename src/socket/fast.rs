//! Fast paths: skip the loop when it would do nothing. While something waits that the program does not
//! know of, such as a reply, `needs_poll` is set and the loop runs.

use std::fmt;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::sink::Sink;

use super::TimeoutSocket;
use super::output::WriteError;
use crate::error::Error;
use crate::message::{Message, MessageKind};
use crate::timer::Timer;

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Records a message, if that is all there is to do. Returns whether it did.
    #[inline]
    pub(super) fn try_recv_fast(&mut self, message: &M) -> bool {
        if self.needs_poll || self.has_heartbeat || !matches!(message.kind(), MessageKind::Data) {
            return false;
        }
        let now = self.alarm.now();
        let done = !self.alarm.is_reached(now) && self.policy.try_observe_recv_fast(now);
        if done && self.options.is_some() {
            self.on_whole_message();
        }
        done
    }

    /// Whether there is nothing to do but wait, where there was nothing to read.
    #[inline]
    pub(super) fn can_park(&mut self, cx: &Context<'_>) -> bool {
        let new_task = self.wakers.register_reader(cx);
        // The alarm may have woken the task that was registered before.
        let fired = new_task && self.alarm.may_have_fired();
        let moved = self.options.is_some() && self.has_partial_news();
        !(fired || self.needs_poll || moved || self.outbox.has_pending_writes())
    }

    /// Asks the inner sink for room, if that is all there is to do. `None` leaves it to the loop.
    #[inline]
    pub(super) fn try_reserve_fast(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Result<(), Error<E>>> {
        if self.needs_poll || self.alarm.may_have_fired() {
            return None;
        }
        if self.outbox.has_place() {
            return Some(Ok(()));
        }
        if self.outbox.has_displaced() || self.outbox.has_ping() || self.policy.write_clock_runs() {
            return None;
        }
        match self.poll_room_inner(cx) {
            Poll::Ready(done) => Some(self.map_write_error(done.map_err(WriteError::Broken))),
            // The loop asks again, and registers the task.
            Poll::Pending => None,
        }
    }

    /// Flushes the messages of the program, if that is all there is to do. `None` leaves it to the loop.
    #[inline]
    pub(super) fn try_flush_fast(&mut self, cx: &mut Context<'_>) -> Option<Result<(), Error<E>>> {
        if self.needs_poll || !self.outbox.is_plain_data() || !self.is_free_to_send() {
            return None;
        }
        match self.poll_flush_inner(cx) {
            Poll::Ready(Ok(())) => {
                let now = self.alarm.now();
                let done = !self.alarm.is_reached(now) && self.policy.try_observe_send_fast(now);
                if done {
                    self.outbox.on_flushed();
                    if self.options.is_some() {
                        self.forget_progress();
                    }
                }
                done.then_some(Ok(()))
            }
            Poll::Ready(Err(error)) => Some(self.map_write_error(Err(WriteError::Broken(error)))),
            Poll::Pending => None,
        }
    }
}
