//! The loop that drives the policy.
//!
//! Each pass of either half goes through the same steps, in this order:
//!
//! 1. Poll the alarm. If it fired, more may be visible to the reads and writes of this pass.
//! 2. Read (the reading half), or try to send for the program (the sending half).
//! 3. Drain the outbox, so that no write that can complete is still pending when the policy
//!    decides.
//! 4. Advance the horizon: for writes, and if step 2 found nothing, for reads.
//! 5. Poll the policy and carry out its actions, until it has nothing to do. The policy decides
//!    each peer deadline only up to the horizon.
//! 6. Arm the alarm for the next deadline, or for the next turn of the reactor if an expired
//!    deadline is beyond the horizon.
//!
//! A pass skips steps 3 to 6 if they would do nothing:
//!
//! | `needs_poll` because | set by | cleared by |
//! |---|---|---|
//! | a deadline may be nearer than the alarm | `observe`, `set_config`, an option, a new socket | step 6 |
//! | a Close frame is queued, or a handle waits for a status | `begin_close`, `carry_out_requests` | step 6 |
//! | the alarm has fired | step 1, or step 6 if it fires at once | step 6, once a read has found nothing since |
//! | a write is pending that the program will not flush | step 6 | step 6, once it is flushed |
//!
//! | a pass of | polls the policy if |
//! |---|---|
//! | the reading half, with a message | `needs_poll`, the clock has reached the alarm, or a write is pending that the program will not flush |
//! | the reading half, with nothing to read | `needs_poll` |
//! | the reading half, while it must not read | `needs_poll`, or the clock has reached the alarm |
//! | the sending half | `needs_poll`, or the clock has reached the alarm |

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use super::Driver;
use super::alarm::aligned;
use super::evidence::Input;
use super::fairness::MAX_MESSAGES_BEFORE_YIELD;
use crate::error::Error;
use crate::event::Event;
use crate::message::Message;
use crate::observer::{Report, Step};
use crate::policy::Decision;
use crate::time::{Timestamp, earlier};
use crate::timer::Timer;

/// The most messages that one poll may read without returning one to the program. More would keep
/// the thread from other tasks.
const MAX_CONSUMED_PER_POLL: u32 = 64;

/// The shortest suspension of the machine after which the socket probes the peer.
const SUSPENSION: Duration = Duration::from_secs(5);

/// The event that the sending half is waiting for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Room for a message.
    Room,
    /// A complete flush.
    Flush,
}

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Runs a pass of the reading half, starting from the result of its first read.
    #[inline(never)]
    pub(super) fn poll_recv_slow(
        &mut self,
        first: Poll<Option<Result<M, E>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<M, Error<E>>>> {
        self.wakers.register_reader(cx);
        let mut first = Some(first);
        for _ in 0..MAX_CONSUMED_PER_POLL {
            let read = first.take().unwrap_or_else(|| {
                self.poll_alarm();
                self.poll_inner(cx)
            });
            if self.inner.is_none() {
                return Poll::Ready(self.teardown.end_of_stream().map(Err));
            }
            match read {
                Poll::Ready(Some(Ok(message))) => {
                    let now = self.alarm.now();
                    self.count_backlog(&message);
                    let forward = self.on_message(now, &message);
                    // Send a reply before the program gets the message, which may keep it busy.
                    if self.needs_poll
                        || self.clock_has_reached_alarm(now)
                        || self.outbox.has_unprompted_writes()
                    {
                        self.flush_before_deciding(cx);
                        self.advance_horizon(now, Input::MoreToRead);
                        self.poll_policy(now, cx);
                    }
                    if forward {
                        self.reads_left = self.reads_left.saturating_sub(1);
                        return Poll::Ready(Some(Ok(message)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(self.transport_ended(Some(error)).map(Err));
                }
                Poll::Ready(None) if !self.end_must_wait(cx) => {
                    return Poll::Ready(self.transport_ended(None).map(Err));
                }
                Poll::Ready(None) | Poll::Pending => {
                    self.reads_left = MAX_MESSAGES_BEFORE_YIELD;
                    self.on_input_drained(cx);
                    let can_end = self.read_eof
                        && !self.outbox.has_pending_writes()
                        && !self.is_shutting_down;
                    // If the alarm fired during the read, it woke the task that was registered then,
                    // perhaps not this one, so this task must not sleep yet.
                    let fired = self.alarm.has_fired() || self.alarm.may_have_fired();
                    let waits = self.has_yielded() || !fired;
                    if self.inner.is_some() && !can_end && waits {
                        return Poll::Pending;
                    }
                }
            }
        }
        // This is not a read that found nothing: there may be more to read.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    #[inline]
    pub(super) fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, E>>> {
        match &mut self.inner {
            Some(inner) if !self.read_eof => inner.poll_next(cx),
            _ => Poll::Ready(None),
        }
    }

    /// Runs steps 3 to 6 of a pass that found nothing to read.
    fn on_input_drained(&mut self, cx: &mut Context<'_>) {
        let nothing_waits = !self.alarm.has_fired() && !self.outbox.has_pending_writes();
        if !self.needs_poll && nothing_waits && !self.has_unreported_bytes() {
            return;
        }
        let now = self.alarm.now();
        let drained = !self.has_yielded();
        if drained && self.alarm.has_fired() {
            self.alarm.on_empty_read();
            self.probe_after_suspension(now);
        }
        match drained {
            true => self.observe_unreported(now),
            false => self.observe_unreported_while_unread(now),
        }
        self.flush_before_deciding(cx);
        if self.needs_poll {
            let input = if drained {
                Input::Drained
            } else {
                Input::MoreToRead
            };
            self.advance_horizon(now, input);
            self.poll_policy(now, cx);
        }
    }

    /// Runs a pass of the sending half.
    #[inline(never)]
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        want: Want,
    ) -> Poll<Result<(), Error<E>>> {
        self.wakers.register_writer(cx);
        // Run steps 3 to 6 only once per pass. A ping can take the place that was just reserved, so
        // with a sink that refuses pings this loop would never end.
        let mut polled = false;
        loop {
            self.poll_alarm();
            let now = self.alarm.now();
            let tried = match want {
                Want::Room => self.reserve(cx),
                Want::Flush => self.drain_outbox(cx).map_ok(drop),
            };
            let done = tried.map(|done| self.map_write_error(done));
            if !polled && (self.needs_poll || self.clock_has_reached_alarm(now)) {
                polled = true;
                if want == Want::Room || done.is_ready() {
                    self.flush_before_deciding(cx);
                }
                self.advance_horizon(now, Input::NotReading);
                self.poll_policy(now, cx);
            }
            match (done, want) {
                (Poll::Ready(Ok(())), Want::Room) => {
                    self.check_can_send()?;
                    if self.outbox.has_place() {
                        return Poll::Ready(Ok(()));
                    }
                    // A ping has just taken the place.
                }
                (Poll::Ready(done), _) => return Poll::Ready(done),
                (Poll::Pending, _) => {
                    self.check_not_ended()?;
                    if self.alarm.may_have_fired() {
                        // Yield instead of looping: if the task has spent its budget, tokio's timer
                        // wakes it immediately, but it can make progress only in another poll.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Runs step 1: polls the alarm, and carries out the requests of handles.
    #[inline]
    pub(super) fn poll_alarm(&mut self) {
        if self.alarm.may_have_fired() {
            if self.alarm.poll_fired() {
                self.on_alarm_fired();
            }
            if self.link.is_some() {
                self.carry_out_requests();
            }
        }
    }

    /// Runs steps 5 and 6: polls the policy, carries out its actions, and arms the alarm.
    pub(super) fn poll_policy(&mut self, now: Timestamp, cx: &mut Context<'_>) {
        if !self.open_logged {
            self.open_logged = true;
            let metered = self.metering().is_some();
            self.report(Report::Opened {
                config: self.policy.config(),
                slack: self.slack(),
                metered,
            });
        }
        let grace = self.policy.grace();
        let visible = self.alarm.visible();
        while self.inner.is_some() {
            // A write may have taken a long time.
            let now = self.policy.latest(now);
            let mut status = None;
            let snapshot = |known| status = Some(known);
            let decision = self.policy.decide(now, self.horizon, visible, snapshot);
            self.trace_decision(now, decision);
            match decision {
                Decision::SendPing => {
                    self.outbox.queue_ping();
                    self.flush_before_deciding(cx);
                }
                Decision::Close(reason) => self.close_for(now, reason, status, cx),
                Decision::Abort(reason) => self.abort_for(now, reason, status, cx),
                Decision::Wait { until, unproven } => {
                    let fired =
                        self.alarm.has_fired() && self.alarm.last_fired_for() > self.horizon.read;
                    let undrained = fired || visible > self.horizon.read;
                    if unproven.is_none() && !undrained {
                        self.set_asks_kernel(false);
                    }
                    self.needs_poll = undrained || self.outbox.has_unprompted_writes();
                    let slack = self.slack();
                    let next = until.map(|at| aligned(at, slack));
                    let turn = self.alarm.make_visible(now, unproven);
                    self.arm(now, earlier(turn, next));
                    break;
                }
            }
        }
        if self.policy.grace() != grace && self.policy.grace().is_some() {
            let status = &self.policy.status(now);
            self.report(Report::Grace { status });
        }
        if let Some(link) = &self.link {
            link.answer_status_requests(|| self.status_at(now));
        }
    }

    #[inline]
    fn trace_decision(&self, now: Timestamp, decision: Decision) {
        if self.link.is_some() {
            let (horizon, action) = (self.horizon, self.policy.action_of(decision));
            self.trace(now, &Step::Polled { horizon, action });
        }
    }

    /// Probes the peer after a resume: the connection may be lost although no deadline has expired.
    /// Runs when there is nothing to read, since input from before the suspension proves nothing
    /// about the time after it.
    fn probe_after_suspension(&mut self, now: Timestamp) {
        let suspended = self.alarm.suspended_for();
        let within = self.policy.config().resume_probe_within();
        if let Some(within) = within.filter(|_| suspended > SUSPENSION) {
            self.report(Report::Resumed { suspended });
            self.observe(now, Event::Probe { within });
        }
    }
}

impl<S: TryStream, T: Timer> Driver<S, T> {
    /// Runs step 6. The alarm only moves nearer; if it fires early, the policy is polled again.
    pub(super) fn arm(&mut self, now: Timestamp, at: Option<Timestamp>) {
        if at.is_some_and(|at| self.alarm.set_no_later_than(now, at)) {
            self.on_alarm_fired();
            self.wakers.wake_both();
        }
    }
}
