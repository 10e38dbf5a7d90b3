//! Stops reading when it is time for other tasks to run, or until the peer reads too.
//!
//! A peer can send without pause, and not every runtime limits what a task does in one poll. So a
//! task yields after a number of messages, and a metered transport after a number of reads, which
//! may all be part of one message. Messages that the stream does not yield have a separate limit in
//! [`event_loop`](super::event_loop). A yield does not prove that the peer is silent.

use std::fmt;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::sink::Sink;

use super::Driver;
use super::evidence::Input;
use crate::message::Message;
use crate::timer::Timer;

/// How many messages the stream yields before it lets other tasks run.
pub(super) const MAX_MESSAGES_BEFORE_YIELD: u8 = 32;

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Returns `Ready` if the driver may read again, after it has read many messages in one turn,
    /// or has stopped because the peer does not read the replies that it causes. `Pending` does not
    /// prove that the peer is silent.
    #[cold]
    pub(super) fn poll_read_allowance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.outbox.is_choked() {
            self.wakers.register_reader(cx);
            self.poll_alarm();
            let now = self.alarm.now();
            self.flush_before_deciding(cx);
            if self.needs_poll || self.clock_has_reached_alarm(now) {
                self.advance_horizon(now, Input::NotReading);
                self.poll_policy(now, cx);
            }
            // A verdict on the peer's silence requires reading everything that it has sent.
            if self.policy.unread_deadline_has_expired(now) {
                self.outbox.forget_unflushed_replies();
            }
            if self.outbox.is_choked() && self.inner.is_some() {
                return Poll::Pending;
            }
            self.reads_left = MAX_MESSAGES_BEFORE_YIELD;
            return Poll::Ready(());
        }
        self.reads_left = MAX_MESSAGES_BEFORE_YIELD;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Returns whether the transport's last read yielded to other tasks. The task has then been
    /// woken again.
    pub(super) fn has_yielded(&mut self) -> bool {
        let read_eof = self.read_eof;
        self.metering()
            .is_some_and(|metering| metering.has_yielded() && !read_eof)
    }
}
