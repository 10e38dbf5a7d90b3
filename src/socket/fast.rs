//! Fast paths: most messages only need to be recorded.
//!
//! The socket is *calm* if every data message, received or flushed, only needs to be recorded until
//! the alarm fires; see [`Driver::calm_until`]. A message then costs one comparison with the clock.
//! Its time is stored, and the policy records the message, now *deferred*, before anything else
//! happens. Other modules can change the driver only through [`FastPath::drive`], so none can
//! forget to record the deferred messages or to end the calm.

use std::fmt;
use std::task::{Context, Poll, ready};

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use super::driver::Driver;
use super::event_loop::Want;
use super::fairness::MAX_MESSAGES_BEFORE_YIELD;
use super::output::WriteError;
use crate::error::Error;
use crate::event::Event;
use crate::message::{Message, MessageKind};
use crate::status::Status;
use crate::timer::Timer;

/// A driver, and the fast paths around it.
pub(super) struct FastPath<S: TryStream, T: Timer> {
    /// The instant until which the socket is calm; `None` if it is not.
    calm_until: Option<T::Instant>,
    deferred: Deferred<T::Instant>,
    driver: Driver<S, T>,
}

/// The times of the messages that the policy has yet to record.
struct Deferred<I> {
    /// When a message was last received.
    received: Option<I>,
    /// When messages were last flushed.
    flushed: Option<I>,
}

impl<S: TryStream, T: Timer> FastPath<S, T> {
    pub(super) fn new(driver: Driver<S, T>) -> Self {
        Self {
            calm_until: None,
            deferred: Deferred {
                received: None,
                flushed: None,
            },
            driver,
        }
    }

    /// Returns the driver, whose policy may lack the deferred messages.
    pub(super) fn driver(&self) -> &Driver<S, T> {
        &self.driver
    }

    /// Records the deferred messages, runs `call` on the driver, and then checks again whether the
    /// socket is calm.
    pub(super) fn drive<R>(&mut self, call: impl FnOnce(&mut Driver<S, T>) -> R) -> R {
        self.calm_until = None;
        let driver = &mut self.driver;
        for (at, event) in self.deferred.events() {
            if let Some(at) = at {
                let at = driver.alarm.timer().timestamp(at);
                driver.record(at, event);
            }
        }
        self.deferred.received = None;
        self.deferred.flushed = None;
        let done = call(driver);
        self.calm_until = driver.calm_until();
        done
    }

    pub(super) fn status(&self) -> Status {
        let driver = &self.driver;
        let mut policy = driver.policy.clone();
        for (at, event) in self.deferred.events() {
            if let Some(at) = at {
                policy.observe(driver.alarm.timer().timestamp(at), event);
            }
        }
        driver.status_of(&policy, driver.alarm.now())
    }
}

impl<S, T, M, E> FastPath<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Runs a pass of the reading half.
    #[inline]
    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, Error<E>>>> {
        if self.driver.reads_left == 0 || self.driver.alarm.may_have_fired() {
            ready!(self.poll_before_read(cx));
        }
        match self.driver.poll_inner(cx) {
            Poll::Ready(Some(Ok(message))) if self.try_defer_received(&message) => {
                self.driver.reads_left -= 1;
                Poll::Ready(Some(Ok(message)))
            }
            Poll::Pending if self.can_park(cx) => {
                self.driver.reads_left = MAX_MESSAGES_BEFORE_YIELD;
                Poll::Pending
            }
            read => self.drive(|driver| driver.poll_recv_slow(read, cx)),
        }
    }

    /// Waits while the task must not read. Then polls the alarm, and carries out the requests of
    /// handles.
    #[cold]
    #[inline(never)]
    fn poll_before_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(|driver| {
            if driver.reads_left == 0 {
                ready!(driver.poll_read_allowance(cx));
            }
            driver.poll_alarm();
            Poll::Ready(())
        })
    }

    /// Defers a message if it only needs to be recorded. Returns whether it did.
    #[inline]
    fn try_defer_received(&mut self, message: &M) -> bool {
        let Some(calm_until) = self.calm_until else {
            return false;
        };
        let now = self.driver.alarm.timer().now();
        let defers = now < calm_until && matches!(message.kind(), MessageKind::Data);
        if defers {
            self.deferred.received = Some(now);
            if self.driver.options.is_some() {
                self.driver.on_whole_message();
            }
        }
        defers
    }

    /// Returns whether the task can wait without a pass, after a read that found nothing.
    #[inline]
    fn can_park(&mut self, cx: &Context<'_>) -> bool {
        let driver = &mut self.driver;
        self.calm_until.is_some()
            && driver.wakers.knows_reader(cx)
            && !driver.outbox.has_pending_writes()
            && !(driver.options.is_some() && driver.has_unreported_bytes())
    }

    #[inline]
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error<E>>> {
        if let Some(done) = self.try_reserve(cx) {
            return Poll::Ready(done);
        }
        self.drive(|driver| {
            driver.check_can_send()?;
            driver.poll_send(cx, Want::Room)
        })
    }

    /// Polls the inner sink for room, if there is nothing else to do. Returns `None` to leave it to
    /// the driver.
    #[inline]
    fn try_reserve(&mut self, cx: &mut Context<'_>) -> Option<Result<(), Error<E>>> {
        let driver = &mut self.driver;
        if self.calm_until.is_none() || driver.alarm.may_have_fired() {
            return None;
        }
        if driver.outbox.has_place() {
            return Some(Ok(()));
        }
        // A pending write may have completed.
        if driver.outbox.has_displaced() || driver.policy.write_clock_runs() {
            return None;
        }
        match driver.poll_room_inner(cx) {
            Poll::Ready(Ok(())) => Some(Ok(())),
            Poll::Ready(Err(error)) => Some(self.fail_write(error)),
            // The driver polls again, with the task registered.
            Poll::Pending => None,
        }
    }

    #[inline]
    pub(super) fn start_send(&mut self, message: M) -> Result<(), Error<E>> {
        let is_calm = self.calm_until.is_some();
        if is_calm && matches!(message.kind(), MessageKind::Data) {
            return self.driver.hand_over(message, true);
        }
        self.drive(|driver| driver.start_send(message))
    }

    #[inline]
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error<E>>> {
        if let Some(done) = self.try_flush(cx) {
            return Poll::Ready(done);
        }
        self.drive(|driver| match driver.check_can_flush()? {
            true => driver.poll_send(cx, Want::Flush),
            false => Poll::Ready(Ok(())),
        })
    }

    /// Flushes the program's messages, if there is nothing else to do. Returns `None` to leave it
    /// to the driver.
    #[inline]
    fn try_flush(&mut self, cx: &mut Context<'_>) -> Option<Result<(), Error<E>>> {
        let calm_until = self.calm_until?;
        let driver = &mut self.driver;
        if !driver.outbox.is_plain_data() {
            return None;
        }
        match driver.poll_flush_inner(cx) {
            Poll::Ready(Ok(())) => {
                let now = driver.alarm.timer().now();
                if now >= calm_until {
                    return None;
                }
                self.deferred.flushed = Some(now);
                driver.outbox.on_flushed();
                if driver.options.is_some() {
                    driver.forget_progress();
                }
                Some(Ok(()))
            }
            Poll::Ready(Err(error)) => Some(self.fail_write(error)),
            Poll::Pending => None,
        }
    }

    #[cold]
    fn fail_write(&mut self, error: E) -> Result<(), Error<E>> {
        self.drive(|driver| driver.map_write_error(Err(WriteError::Broken(error))))
    }
}

impl<I: Copy + Ord> Deferred<I> {
    /// Returns the events that the policy has yet to record, earlier first.
    #[inline]
    fn events(&self) -> [(Option<I>, Event); 2] {
        let mut events = [(self.received, Event::Recv), (self.flushed, Event::SendOk)];
        if self.flushed < self.received {
            events.reverse();
        }
        events
    }
}
