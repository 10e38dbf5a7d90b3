//! The driver: the whole state of a socket, and the operations that need all of it.

use std::boxed::Box;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use super::alarm::Alarm;
use super::evidence::Backlog;
use super::fairness::MAX_MESSAGES_BEFORE_YIELD;
use super::heartbeat::Heartbeats;
use super::link::Link;
use super::options::Options;
use super::outbox::Outbox;
use super::teardown::Teardown;
use super::wakers::Wakers;
use crate::config::TimeoutConfig;
use crate::error::Error;
use crate::event::{Event, Phase};
use crate::message::{Message, MessageKind};
use crate::metered::Metering;
use crate::observer::{Report, Step};
use crate::policy::{Horizon, TimeoutPolicy};
use crate::report;
use crate::status::Status;
use crate::time::Timestamp;
use crate::timer::Timer;

/// The inner socket, its policy, and everything between them.
pub(super) struct Driver<S: TryStream, T: Timer> {
    /// `None` once the connection has ended.
    pub(super) inner: Option<Heartbeats<S>>,
    pub(super) policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    pub(super) alarm: Alarm<T>,
    /// How far our evidence reaches. See [`evidence`](super::evidence).
    pub(super) horizon: Horizon,
    pub(super) backlog: Backlog,
    pub(super) wakers: Wakers,
    pub(super) outbox: Outbox<S::Ok>,
    pub(super) teardown: Teardown<S::Error>,
    /// Whether the next pass must poll the policy. See the table in
    /// [`event_loop`](super::event_loop).
    pub(super) needs_poll: bool,
    /// Whether data messages may be heartbeats.
    pub(super) has_heartbeat: bool,
    /// How many more messages may be read in this turn. See [`fairness`](super::fairness).
    pub(super) reads_left: u8,
    /// Whether the inner stream has ended. Writes may still be pending.
    pub(super) read_eof: bool,
    /// Whether the transport is being shut down.
    pub(super) is_shutting_down: bool,
    pub(super) open_logged: bool,
    /// `None` until a builder sets one.
    pub(super) options: Option<Box<Options<S>>>,
    /// `None` for a socket without handles that is on no list.
    pub(super) link: Option<Arc<Link>>,
}

impl<S: TryStream, T: Timer> Driver<S, T> {
    pub(super) fn new(
        policy: TimeoutPolicy<Arc<TimeoutConfig>>,
        alarm: Alarm<T>,
        wakers: Wakers,
        link: Option<Arc<Link>>,
        socket: S,
    ) -> Self {
        Self {
            inner: Some(Heartbeats::new(socket)),
            policy,
            horizon: Horizon::default(),
            backlog: Backlog::NONE,
            alarm,
            wakers,
            outbox: Outbox::new(),
            teardown: Teardown::new(),
            needs_poll: true,
            has_heartbeat: false,
            reads_left: MAX_MESSAGES_BEFORE_YIELD,
            read_eof: false,
            is_shutting_down: false,
            open_logged: false,
            options: None,
            link,
        }
    }

    /// Returns the instant until which a data message only needs to be recorded. `None` if a
    /// message may need more than that: the policy must be polled, a ping is due or in flight, a
    /// cold clock may run, messages may be heartbeats, or the connection is ending.
    pub(super) fn calm_until(&self) -> Option<T::Instant> {
        let calm = !self.needs_poll
            && !self.has_heartbeat
            && !self.teardown.has_refusal()
            && self.policy.is_calm();
        let alarm = self.alarm.set_to().filter(|_| calm)?;
        Some(self.alarm.timer().instant(alarm))
    }

    /// Records an event, and requests a poll of the policy if a deadline may now be nearer than the
    /// alarm.
    #[inline]
    pub(super) fn observe(&mut self, now: Timestamp, event: Event) {
        let only_later = matches!(event, Event::Recv | Event::SendOk | Event::Flushed)
            && !self.policy.traffic_moves_deadlines_nearer(now);
        self.record(now, event);
        self.needs_poll = self.needs_poll || (!only_later && self.alarm_is_late());
    }

    /// Records an event that moves no deadline nearer.
    pub(super) fn record(&mut self, now: Timestamp, event: Event) {
        self.trace(now, &Step::Observed(event));
        self.policy.observe(now, event);
    }

    /// Returns whether the alarm fires too late for the next deadline.
    fn alarm_is_late(&self) -> bool {
        let next = self.policy.next_deadline();
        let latest = next.and_then(|at| at.checked_add(self.slack()));
        latest.is_some_and(|latest| self.alarm.set_to().is_none_or(|alarm| latest < alarm))
    }

    #[inline]
    pub(super) fn clock_has_reached_alarm(&self, now: Timestamp) -> bool {
        self.alarm.set_to().is_some_and(|at| at <= now)
    }

    /// Returns whether the sending half needs no further checks. Usually true, and cheap to
    /// compute.
    pub(super) fn is_free_to_send(&self) -> bool {
        self.policy.phase() == Phase::Open && !self.teardown.has_refusal()
    }

    /// Returns how late the alarm may fire.
    pub(super) fn slack(&self) -> Duration {
        let configured = self.options.as_ref().and_then(|options| options.slack);
        let common = || self.link.as_ref().and_then(|link| link.common()?.slack());
        let slack = configured.or_else(common);
        let slack = slack.unwrap_or_else(|| self.alarm.timer().default_slack());
        let most = self.policy.config().stall_tolerance().map(|most| most / 2);
        most.map_or(slack, |most| slack.min(most))
    }

    #[inline]
    pub(super) fn metering(&mut self) -> Option<&mut Metering> {
        self.options.as_mut()?.metering.as_mut()
    }

    pub(super) fn label(&self) -> Option<&str> {
        self.options.as_ref()?.label.as_deref()
    }

    pub(super) fn report(&self, report: Report<'_>) {
        report::send(self.link.as_deref(), self.label(), &report);
    }

    /// Passes a call to the policy to the observer if it wants steps, until the end.
    #[inline]
    pub(super) fn trace(&self, at: Timestamp, step: &Step<'_>) {
        if self.link.is_some() {
            self.trace_to_observer(at, step);
        }
    }

    #[cold]
    #[inline(never)]
    fn trace_to_observer(&self, at: Timestamp, step: &Step<'_>) {
        if let Some(link) = self.link.as_ref().filter(|_| self.inner.is_some()) {
            link.step(self.label(), self.policy.latest(at), step);
        }
    }

    /// Returns a snapshot from `policy`, which may have recorded more than the driver's own.
    pub(super) fn status_of(
        &self,
        policy: &TimeoutPolicy<Arc<TimeoutConfig>>,
        now: Timestamp,
    ) -> Status {
        let mut status = policy.status(now);
        // The policy does not know of a send that exceeded the limit of its call.
        let verdict = self.teardown.verdict();
        let reason = verdict.map(|verdict| verdict.reason);
        status.cause = status.cause.or(reason);
        status
    }

    pub(super) fn status_at(&self, now: Timestamp) -> Status {
        self.status_of(&self.policy, now)
    }

    /// Returns the link to the socket's handles, and creates it if there is none.
    pub(super) fn link(&mut self) -> Arc<Link> {
        if let Some(link) = &self.link {
            return link.clone();
        }
        let link = Link::new(self.alarm.waker().clone(), None);
        if let Some(label) = self
            .options
            .as_ref()
            .and_then(|options| options.label.clone())
        {
            link.set_label(label);
        }
        if let Some(close) = self.teardown.peer_close() {
            link.set_peer_close(close);
        }
        if self.inner.is_none() {
            link.end(self.status_at(self.alarm.now()));
        }
        self.link.insert(link).clone()
    }

    /// Takes the inner socket, because the program drops the socket or takes it apart, and reports
    /// that. Returns `None` if the connection has ended.
    pub(super) fn leave(&mut self) -> Option<Heartbeats<S>> {
        let inner = self.inner.take()?;
        if self.open_logged {
            let status = &self.status_at(self.alarm.now());
            self.report(Report::Dropped { status });
        }
        Some(inner)
    }

    /// Ends the link: removes the connection from the list and informs its handles. Called once the
    /// transport is dropped.
    pub(super) fn end_link(&self) {
        if let Some(link) = &self.link {
            link.end(self.status_at(self.alarm.now()));
        }
    }
}

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Accepts a message from the program.
    #[inline(never)]
    pub(super) fn start_send(&mut self, message: M) -> Result<(), Error<E>> {
        self.check_can_send()?;
        let data = match message.kind() {
            MessageKind::Data => true,
            MessageKind::Ping(_) | MessageKind::Pong(_) => false,
            MessageKind::Close(_) => {
                self.begin_close(message);
                return Ok(());
            }
        };
        self.hand_over(message, data)
    }

    /// Passes a message to the inner sink, or keeps it if another message took its reserved place.
    #[inline(always)]
    pub(super) fn hand_over(&mut self, message: M, data: bool) -> Result<(), Error<E>> {
        match &mut self.inner {
            Some(inner) if self.outbox.has_place() => {
                let given = inner.start_send(message);
                self.outbox.on_given(data, given.is_ok());
                given.map_err(Error::Socket)
            }
            // A ping or a reply has taken the reserved place.
            _ => self.outbox.displace(message).map_err(|_| Error::NotReady),
        }
    }
}
