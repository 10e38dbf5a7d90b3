//! The limits of single calls, and changes to an open connection: a configuration, a probe, a
//! drain.

use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use super::driver::Driver;
use crate::config::TimeoutConfig;
use crate::error::Error;
use crate::event::Event;
use crate::message::{Message, close_message};
use crate::observer::Step;
use crate::time::Timestamp;
use crate::timer::Timer;

impl<S: TryStream, T: Timer> Driver<S, T> {
    /// Returns whether the limit of a receive has expired, after a try that returned nothing. It
    /// has if the alarm fired at or past the deadline, and a later read found nothing. That is
    /// enough, since a message that becomes visible a turn of the reactor later is not lost. Sets
    /// the alarm if the limit has not expired.
    pub(super) fn poll_recv_limit(&mut self, deadline: Option<Timestamp>) -> bool {
        let Some(deadline) = deadline else {
            return false;
        };
        let now = self.alarm.now();
        let drained = self.alarm.last_fired_for() >= Some(deadline) && !self.alarm.has_fired();
        // While the socket does not read, it can receive nothing.
        let choked = self.outbox.is_choked();
        if deadline <= now && (choked || (drained && self.alarm.timer().has_budget())) {
            return true;
        }
        let turn = self.alarm.next_turn(now);
        self.arm(now, Some(deadline.max(turn)));
        false
    }

    /// Returns whether the limit of a send has expired, after a try that did not complete it. As
    /// with every limit on the peer, the horizon must have reached the deadline. Sets the alarm if
    /// the limit has not expired.
    fn poll_send_limit(&mut self, deadline: Option<Timestamp>) -> bool {
        let Some(deadline) = deadline else {
            return false;
        };
        let now = self.alarm.now();
        if deadline > now {
            self.arm(now, Some(deadline));
            return false;
        }
        if self.horizon.written >= Some(deadline) {
            return true;
        }
        let turn = self.alarm.make_visible(now, Some(deadline));
        self.arm(now, turn);
        false
    }

    pub(super) fn set_config(&mut self, config: Arc<TimeoutConfig>) {
        let now = self.alarm.now();
        self.trace(now, &Step::Configured(&config));
        self.policy.set_config(now, config);
        // A shorter limit may put a deadline in the past, and input from after that deadline may be
        // unread.
        self.horizon.read = None;
        self.needs_poll = true;
        self.wakers.wake_both();
    }

    /// Leaves the probe to the next pass, which also sends the ping: the peer's time must not begin
    /// before that.
    pub(super) fn request_probe(&mut self, within: Duration) {
        self.link().probe(within);
        self.needs_poll = true;
    }

    fn probe(&mut self, within: Duration) {
        self.observe(self.alarm.now(), Event::Probe { within });
        self.needs_poll = true;
    }

    pub(super) fn drain(&mut self, within: Duration) {
        self.observe(self.alarm.now(), Event::Drain { within });
        self.wakers.wake_both();
    }
}

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Carries out the requests of handles.
    #[cold]
    pub(super) fn carry_out_requests(&mut self) {
        let Some(link) = self.link.clone() else {
            return;
        };
        let (requests, wants_status) = link.take_requests();
        if let Some(config) = requests.config {
            self.set_config(config);
        }
        if let Some(within) = requests.probe {
            self.probe(within);
        }
        if let Some(within) = requests.drain {
            self.drain(within);
        }
        if let Some((code, reason)) = requests.close {
            self.begin_close(close_message(Some(code), &reason));
        }
        // The pass answers the status requests at its end.
        self.needs_poll = self.needs_poll || wants_status;
    }

    /// Aborts the connection if a message was not sent within `within`, that is by `deadline`.
    pub(super) fn enforce_send_limit(
        &mut self,
        deadline: Option<Timestamp>,
        within: Duration,
    ) -> Poll<Result<(), Error<E>>> {
        if !self.poll_send_limit(deadline) {
            return Poll::Pending;
        }
        self.abort_send(self.alarm.now(), within);
        Poll::Ready(self.check_not_ended())
    }
}
