//! The state machine of one connection, which turns timestamped events into actions.
//!
//! # Theory of operation
//!
//! A connection is `Opening`, `Open` or `Closing`, and finally `Closed` or `Aborted`; phases only
//! move forward. [`State`] records when things last happened: the last receipt, the last complete
//! flush, the flush of the latest ping. Events update these instants and decide nothing
//! ([`state`]).
//!
//! Most deadlines are not stored. They follow from the state, the configuration and the current
//! time, in one table ([`deadlines`]), which has the rows of the specification in the same order.
//! `poll`, `Idle { until }`, `next_deadline`, `status` and queries such as `is_idle` are all folds
//! over that table. A clock is *cold* if most connections rarely need it ([`State::cold_armed`]
//! lists them). While a connection is open and no cold clock may be running, straight-line code
//! computes the earliest deadline without the table; a test compares the two. If no ping is in
//! flight either, the connection is *plain*: a message only moves deadlines later.
//!
//! A poll takes the first row that has expired and acts on it. If a peer deadline expired long
//! before the poll, the process may have been stopped. The peer then gets a grace before a verdict;
//! `first_expired` in [`grace`] picks the row that decides.
//!
//! A driver cannot always prove that it has read everything. A [`Horizon`] says how far its
//! evidence reaches, and a poll acts on peer deadlines only up to that point.
//!
//! The [specification](crate::spec) says what this code does; comments cite its rules: `SPEC D-7`.

mod deadlines;
mod grace;
mod lookahead;
#[cfg(test)]
mod model;
#[cfg(feature = "alloc")]
mod prefetch;
#[cfg_attr(
    not(feature = "socket"),
    allow(dead_code, reason = "the socket uses it")
)]
mod socket_api;
mod state;

use core::borrow::Borrow;
use core::time::Duration;

use crate::config::TimeoutConfig;
use crate::event::{Action, CloseReason, Event, Phase};
use crate::rtt::Rtt;
use crate::seed::PingId;
use crate::status::{DeadlineKind, Status};
use crate::time::{Timestamp, earlier};

pub use deadlines::Horizon;
#[cfg(feature = "socket")]
pub(crate) use socket_api::Decision;
pub(crate) use state::State;

/// The timeouts of one WebSocket connection, as a pure state machine.
///
/// You pass it timestamped [`Event`]s, and it returns [`Action`]s. The policy reads no clock, does
/// no I/O, allocates nothing and never panics. The same calls give the same answers, so a recorded
/// incident can be replayed.
///
/// The driver, which is the code that calls the policy, has three duties:
///
/// * [`observe`](Self::observe) every event of the connection when it happens, in particular
///   [`Event::PingSent`] once the ping has been *flushed*, and [`Event::SendStart`] when a write
///   has to wait. For both, read the clock after the write: the process may have been suspended
///   just before it.
/// * [`poll`](Self::poll) after events, and when the `until` of the last [`Action::Idle`] is
///   reached. Carry out the action and poll again, until the action is `Idle` or `Abort`.
/// * Read and observe everything that has arrived before a poll that may end the connection because
///   of the peer. If that is not possible, poll with [`poll_unread`](Self::poll_unread). A runtime
///   that caches the readiness of sockets must have asked the kernel since the deadline, and often
///   enough to learn of every socket: tokio learns of at most 1024 each time it asks.
///
/// A poll that comes later than a peer deadline (one whose verdict blames the peer) by more than
/// `stall_tolerance` begins a grace instead of a verdict, since the stall is not the peer's fault.
/// In a test with simulated time, step to the deadline.
///
/// `C` is anything that borrows as [`TimeoutConfig`]: the value, `&TimeoutConfig`, or
/// `Arc<TimeoutConfig>` where many policies share one. The state itself takes 176 bytes.
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::{Action, CloseReason, Event, TimeoutConfig, TimeoutPolicy, Timestamp};
///
/// let at = Timestamp::from_millis;
/// let config = TimeoutConfig::builder()
///     .ping_interval(Duration::from_secs(20))
///     .pong_timeout(Duration::from_secs(10))
///     .jitter(0.0)
///     .build()?;
/// let mut policy = TimeoutPolicy::new(config, 0, at(0));
///
/// // The peer sends something, then falls silent.
/// assert_eq!(policy.handle(at(5_000), Event::Recv), Action::Idle { until: Some(at(20_000)) });
/// let Action::SendPing(ping) = policy.poll(at(20_000)) else { panic!() };
/// policy.observe(at(20_100), Event::PingSent(ping));
/// assert_eq!(policy.poll(at(20_100)), Action::Idle { until: Some(at(30_100)) });
/// assert_eq!(policy.poll(at(30_100)), Action::Abort(CloseReason::PongTimeout));
/// # Ok::<(), ws_timeout::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TimeoutPolicy<C = TimeoutConfig> {
    /// The latest instant seen by any call.
    now: Timestamp,
    state: State,
    config: C,
}

impl<C: Borrow<TimeoutConfig>> TimeoutPolicy<C> {
    /// Creates the policy of a connection that opened at `now`.
    ///
    /// `seed` determines jitter, ping IDs and the drain time. Give each connection its own, or all
    /// of them ping in step.
    pub fn new(config: C, seed: u64, now: Timestamp) -> Self {
        Self {
            now,
            state: State::new(seed, now, Phase::Open),
            config,
        }
    }

    /// Creates the policy of a connection whose opening handshake begins at `now`.
    pub fn opening(config: C, seed: u64, now: Timestamp) -> Self {
        Self {
            now,
            state: State::new(seed, now, Phase::Opening),
            config,
        }
    }

    /// Records what happened at `now`. Decides nothing.
    ///
    /// A `now` earlier than one already seen counts as the latest seen.
    #[inline]
    pub fn observe(&mut self, now: Timestamp, event: Event) {
        if event != Event::Recv || !self.try_observe_recv_fast(now) {
            let now = self.advance_clock(now);
            self.state.record(now, self.config.borrow(), event);
        }
    }

    /// Returns the next due action. Call this after reading all available input.
    pub fn poll(&mut self, now: Timestamp) -> Action {
        self.poll_without_lookahead(now, Horizon::EVERYTHING)
    }

    /// Like [`poll`](Self::poll), but without the verdicts that unread input could overturn: slow
    /// receive, probe, pong and idle. Call it from a half that only sends, and between two
    /// messages.
    pub fn poll_unread(&mut self, now: Timestamp) -> Action {
        self.poll_without_lookahead(now, Horizon::UNREAD)
    }

    /// Like [`poll`](Self::poll), for a driver whose evidence reaches only up to `horizon`: the
    /// policy acts on a peer deadline only if it expired at or before that.
    ///
    /// `Idle { until }` ignores deadlines that have expired beyond the horizon: poll again once the
    /// horizon has advanced. While a ping is outstanding, `until` may also be earlier than any
    /// deadline (SPEC I-13).
    ///
    /// ```
    /// use ws_timeout::{Action, CloseReason, Horizon, TimeoutConfig, TimeoutPolicy, Timestamp};
    ///
    /// let at = Timestamp::from_secs;
    /// let config = TimeoutConfig::builder().no_ping_interval().build()?;
    /// let mut policy = TimeoutPolicy::new(config, 0, at(0));
    /// let mut horizon = Horizon::default();
    /// // The idle timeout has expired after 60 s, but the last read was at 59 s.
    /// horizon.read = Some(at(59));
    /// assert!(matches!(policy.poll_up_to(at(60), horizon), Action::Idle { .. }));
    /// horizon.read = Some(at(60));
    /// assert_eq!(policy.poll_up_to(at(60), horizon), Action::Close(CloseReason::IdleTimeout));
    /// # Ok::<(), ws_timeout::ConfigError>(())
    /// ```
    pub fn poll_up_to(&mut self, now: Timestamp, horizon: Horizon) -> Action {
        let decision = self.decide(now, horizon, None, |_| {});
        self.action_of(decision)
    }

    /// Calls [`observe`](Self::observe), then [`poll`](Self::poll).
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Action {
        self.observe(now, event);
        self.poll(now)
    }

    /// Returns the earliest deadline, even if it has passed; `None` if none is set. A grace
    /// postpones the deadlines that it covers. `heartbeat_interval` does not count.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.state
            .earliest(self.now, self.config(), Horizon::EVERYTHING)
    }

    /// Changes the limits of the connection at `now`.
    ///
    /// Clocks keep their starts, and jitter keeps its draws. With `pong_timeout` off, the answer to
    /// a ping in flight is no longer awaited. With `message_timeout` off the write clock stops, and
    /// with `min_data_rate` off the receive clock; once the limit is on again, the clock starts
    /// with the next write or byte. A write that is waiting and a message that is arriving keep
    /// their deadlines until they make progress.
    pub fn set_config(&mut self, now: Timestamp, config: C) {
        self.advance_clock(now);
        self.config = config;
        self.state.follow_config(self.config.borrow());
    }

    /// Returns the current configuration.
    pub fn config(&self) -> &TimeoutConfig {
        self.config.borrow()
    }

    /// Returns the phase of the connection.
    pub fn phase(&self) -> Phase {
        self.state.phase
    }

    /// Returns the first reason that the policy gave for ending the connection, or `None`. A later
    /// `Abort(CloseTimeout)` does not replace it.
    pub fn cause(&self) -> Option<CloseReason> {
        self.state.cause
    }

    /// Returns the round-trip estimate, or `None` before the first sample.
    pub fn rtt(&self) -> Option<Rtt> {
        self.state.rtt()
    }

    /// Returns how many pings the policy has requested.
    pub fn pings_sent(&self) -> u64 {
        self.state.pings
    }

    /// Returns how many pongs gave a round-trip time.
    pub fn pongs_received(&self) -> u64 {
        self.state.pongs
    }

    /// Returns the ID that ping `number` of this connection has or will have; the first is 1.
    pub fn ping_id(&self, number: u64) -> PingId {
        self.state.ping_id(number)
    }

    /// Returns how long the connection has been open at `now`, even after it has ended. While
    /// `Opening`, how long the opening handshake has taken.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.latest(now)
            .saturating_duration_since(self.state.opened)
    }

    /// Returns whether `idle_timeout` has expired at `now`.
    ///
    /// This and the next three methods ignore a running grace, and return false unless the
    /// connection is `Open`.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.has_expired(DeadlineKind::Idle, now)
    }

    /// Returns whether `pong_timeout` has expired at `now` for a flushed ping.
    pub fn is_pong_overdue(&self, now: Timestamp) -> bool {
        self.has_expired(DeadlineKind::Pong, now)
    }

    /// Returns whether a ping is due at `now`.
    pub fn should_ping(&self, now: Timestamp) -> bool {
        self.has_expired(DeadlineKind::NextPing, now)
    }

    /// Returns whether the connection has reached its maximum lifetime at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.has_expired(DeadlineKind::Connection, now)
    }

    /// Returns how much of the connection's lifetime is left at `now`, at least zero; `None` if the
    /// lifetime is not limited or the connection is not open.
    pub fn remaining_lifetime(&self, now: Timestamp) -> Option<Duration> {
        let end = self.deadline(DeadlineKind::Connection)?;
        Some(end.saturating_duration_since(self.latest(now)))
    }

    /// Returns a snapshot of everything the policy knows at `now`, for a log or a debugger.
    pub fn status(&self, now: Timestamp) -> Status {
        self.state.status(self.now, self.config(), self.latest(now))
    }

    #[inline]
    fn poll_without_lookahead(&mut self, now: Timestamp, horizon: Horizon) -> Action {
        let now = self.advance_clock(now);
        let config = self.config.borrow();
        match self.state.next_action(now, config, horizon, |_| {}) {
            Ok(action) => action,
            Err(next) => Action::Idle {
                until: earlier(next, self.state.heartbeat(now, config)),
            },
        }
    }

    fn deadline(&self, kind: DeadlineKind) -> Option<Timestamp> {
        self.state.deadline(self.now, self.config(), kind)
    }

    fn has_expired(&self, kind: DeadlineKind, now: Timestamp) -> bool {
        self.deadline(kind).is_some_and(|at| at <= self.latest(now))
    }

    /// Advances to `now` and returns the latest instant seen (SPEC T-2).
    fn advance_clock(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.latest(now);
        self.now
    }

    /// Returns the later of `now` and the latest instant seen (SPEC T-2).
    pub(crate) fn latest(&self, now: Timestamp) -> Timestamp {
        self.now.max(now)
    }

    /// Records a whole message if that only moves deadlines away. Returns whether it did.
    #[inline]
    pub(crate) fn try_observe_recv_fast(&mut self, now: Timestamp) -> bool {
        let fast = self.state.is_plain();
        if fast {
            let now = self.advance_clock(now);
            self.state.record_message(now);
        }
        fast
    }
}
