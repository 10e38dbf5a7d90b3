//! The state machine: what happened goes in, what to do comes out.
//!
//! [`TimeoutPolicy`] holds everything that is known of one connection's timing. What it decides is
//! written down, as prose and tables, in [`docs/SPEC.md`][spec]; the one table of deadlines there is
//! the function `each_deadline` here, row by row.
//!
//! [spec]: https://github.com/ws-timeout/ws-timeout/blob/main/docs/SPEC.md

use core::borrow::Borrow;
use core::num::{NonZeroU32, NonZeroU64, NonZeroU128};
use core::time::Duration;

use crate::config::{Billionths, IdleScope, PongEvidence, TimeoutConfig};
use crate::event::{Action, CloseReason, Event, Phase};
use crate::rtt::{Rtt, RttEstimator};
use crate::seed::{PingId, drain_draw, jitter_draw};
use crate::status::{DeadlineKind, Status};
use crate::time::{Limit, Timestamp, earlier, saturating_nanos};

/// The timeouts of one WebSocket connection, as a pure state machine.
///
/// Timestamped [`Event`]s go in, [`Action`]s come out. The policy reads no clock, does no I/O,
/// allocates nothing and never panics; the same calls give the same answers, so an incident that was
/// recorded can be replayed.
///
/// Duties of the caller:
///
/// * [`observe`](Self::observe) every event of the connection when it happens; above all
///   [`Event::PingSent`] when the ping has been *flushed*, and a write that waits as
///   [`Event::SendStart`].
/// * [`poll`](Self::poll) after events and when the `until` of the last [`Action::Idle`] has come; do
///   what it says and poll again, until it says `Idle` or `Abort`.
/// * Before a poll that could judge the peer, read and observe everything that has arrived. Whoever
///   cannot, polls with [`poll_unread`](Self::poll_unread). Where the runtime keeps what the kernel last
///   said of a socket, its reactor must have turned since the deadline, and as often as it takes to hear
///   of all: tokio's takes 1024 sockets a turn.
///
/// A poll that comes later than a deadline about the peer by more than `stall_tolerance` begins a grace
/// instead of a verdict, since the peer is not to blame for the time in which nobody looked. In a test
/// with made-up time, step to the deadline.
///
/// The configuration is held as any `C: Borrow<TimeoutConfig>`: by value, as `&TimeoutConfig`, or as
/// `Arc<TimeoutConfig>` where very many policies share one. The state itself takes 176 bytes.
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
/// // The peer says something, then falls silent.
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
    hot: Hot,
    cold: Cold,
    config: C,
}

/// What a message or an expiry touches: with the instant before it one cache line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hot {
    /// When the connection opened; while `Opening`, when the policy was created.
    opened: Timestamp,
    /// When the peer was last heard or excused, whichever is later. One field serves both: whenever a
    /// ping is `Quiet`, the last excuse is no later than the last flush of a ping, so it cannot reach
    /// the next ping's deadline.
    silent_since: Timestamp,
    /// When all that was handed over was last flushed.
    sent: Timestamp,
    /// When data last moved in either direction.
    active: Timestamp,
    /// When the ping was asked for, or the transport last took bytes since, while it is `Asked`; else
    /// when the last ping was flushed; before the first, when the connection opened.
    pinged: Timestamp,
    /// The write clock.
    write_by: Option<Timestamp>,
    phase: Phase,
    ping: Ping,
    /// Whether a clock of [`Cold`] may be running; while it is false, `Cold` holds no deadline.
    pub(crate) rare: bool,
    /// The part of the jitter that shortens the connection's life, in 65536ths.
    life_draw: u16,
    /// The part of the jitter that shortens the wait for the next ping, in 65536ths.
    ping_draw: u16,
}

/// What only pings, partial messages and rare events touch; what pings touch first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Cold {
    seed: u64,
    /// Pings asked for; the number of the latest ping.
    pings: u64,
    /// Pongs that gave a round-trip time.
    pongs: u64,
    /// Meaningful once there was a pong.
    rtt: RttEstimator,
    /// Whether the first pong of the latest ping is still to come.
    pong_awaited: bool,
    /// Whether a `Probe` made a ping due at once.
    ping_due: bool,
    flooded: bool,
    cause: Option<CloseReason>,
    /// Bytes received of what is not whole yet.
    partial: u64,
    /// The receive clock.
    receive_by: Option<Timestamp>,
    /// When a `Probe` must have been answered.
    probe_by: Option<Timestamp>,
    /// When this side closes because of a `Drain`; while `Closing`, when that began.
    close_at: Option<Timestamp>,
    /// The instant until which the peer's pings have used up their rate; once it floods, when it did.
    ping_credit: Timestamp,
    /// When the latest grace began.
    grace: Option<Timestamp>,
}

/// Where the latest ping is. Its instant is `Hot::pinged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    /// None is out.
    Quiet,
    /// Asked for, not flushed yet.
    Asked,
    /// Flushed; its answer is awaited.
    InFlight,
}

impl<C: Borrow<TimeoutConfig>> TimeoutPolicy<C> {
    /// A policy for a connection that is open since `now`.
    ///
    /// `seed` settles the random parts: jitter, the marks of pings, the instant of a drain. Give each
    /// connection its own, or all of them ping in step.
    pub fn new(config: C, seed: u64, now: Timestamp) -> Self {
        Self::starting(config, seed, now, Phase::Open)
    }

    /// A policy for a connection whose opening handshake begins at `now`.
    pub fn opening(config: C, seed: u64, now: Timestamp) -> Self {
        Self::starting(config, seed, now, Phase::Opening)
    }

    fn starting(config: C, seed: u64, now: Timestamp, phase: Phase) -> Self {
        Self {
            now,
            hot: Hot::new(seed, now, phase),
            cold: Cold::new(seed, now),
            config,
        }
    }

    /// Records what happened at `now`, and decides nothing.
    ///
    /// A `now` earlier than one already seen counts as the latest seen.
    #[inline]
    pub fn observe(&mut self, now: Timestamp, event: Event) {
        if event != Event::Recv || !self.observe_plain_recv(now) {
            self.see(now);
            self.parts().record(event);
        }
    }

    /// Decides what to do at `now`, for whoever has read and observed everything that had arrived.
    pub fn poll(&mut self, now: Timestamp) -> Action {
        self.decide(now, Judged::All)
    }

    /// [`poll`](Self::poll) without the verdicts that unread input could overturn (slow receive,
    /// probe, pong, idle): for the half that only sends, and between two messages.
    pub fn poll_unread(&mut self, now: Timestamp) -> Action {
        self.decide(now, Judged::AllButUnread)
    }

    /// [`observe`](Self::observe), then [`poll`](Self::poll).
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Action {
        self.observe(now, event);
        self.poll(now)
    }

    /// The earliest deadline of the table, whether past or not, a running grace included; `None` if
    /// there is none. `heartbeat_interval` is left out.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.view().earliest(Judged::All)
    }

    /// Changes the limits of the living connection at `now`.
    ///
    /// Clocks keep their starts, jitter its draws. With `pong_timeout` off a ping in flight is no
    /// longer awaited; with `message_timeout` off the write clock stops, with `min_data_rate` off the
    /// receive clock, and either begins anew with the next write or byte once its limit is on again.
    pub fn set_config(&mut self, now: Timestamp, config: C) {
        self.see(now);
        self.config = config;
        self.parts().follow_config();
    }

    /// The configuration in force.
    pub fn config(&self) -> &TimeoutConfig {
        self.config.borrow()
    }

    /// How far the connection has come.
    pub fn phase(&self) -> Phase {
        self.hot.phase
    }

    /// The first reason that the policy gave for ending the connection; a later
    /// `Abort(CloseTimeout)` does not replace it. `None` while there was none.
    pub fn cause(&self) -> Option<CloseReason> {
        self.cold.cause
    }

    /// The round-trip estimate; `None` before the first sample.
    pub fn rtt(&self) -> Option<Rtt> {
        self.cold.rtt()
    }

    /// How many pings were asked for.
    pub fn pings_sent(&self) -> u64 {
        self.cold.pings
    }

    /// How many pongs gave a round-trip time.
    pub fn pongs_received(&self) -> u64 {
        self.cold.pongs
    }

    /// The mark that the `number`th ping of this connection has or will have; the first is 1.
    pub fn ping_id(&self, number: u64) -> PingId {
        self.cold.ping_id(number)
    }

    /// How long the connection has been open at `now`, also after its end; while the opening handshake
    /// is under way, how long that has taken.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.latest(now).saturating_duration_since(self.hot.opened)
    }

    /// Whether `idle_timeout` is due at `now`. A stall grace is left aside, here and in the other
    /// questions; outside the phase `Open` the answer to each is no.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.view().is_due(DeadlineKind::Idle, self.latest(now))
    }

    /// Whether `pong_timeout` is due at `now` for a ping that was flushed.
    pub fn is_pong_overdue(&self, now: Timestamp) -> bool {
        self.view().is_due(DeadlineKind::Pong, self.latest(now))
    }

    /// Whether a ping is due at `now`.
    pub fn should_ping(&self, now: Timestamp) -> bool {
        self.view().is_due(DeadlineKind::NextPing, self.latest(now))
    }

    /// Whether the connection has reached the end of its life at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.view()
            .is_due(DeadlineKind::Connection, self.latest(now))
    }

    /// What is left of the connection's life at `now`, zero if nothing is; `None` if it is not limited,
    /// or the connection is not open.
    pub fn remaining_lifetime(&self, now: Timestamp) -> Option<Duration> {
        let end = self.view().deadline(DeadlineKind::Connection)?;
        Some(end.saturating_duration_since(self.latest(now)))
    }

    /// Everything that is known at `now`, for a log or a debugger.
    pub fn status(&self, now: Timestamp) -> Status {
        self.view().status(self.latest(now))
    }

    /// The mark of the latest ping that was asked for.
    #[cfg(feature = "socket")]
    pub(crate) fn latest_ping(&self) -> Option<PingId> {
        (self.cold.pings > 0).then(|| self.cold.latest_ping())
    }

    /// Whether a pong with this mark would be the first of the latest ping.
    #[cfg(feature = "socket")]
    pub(crate) fn awaits_pong(&self, id: PingId) -> bool {
        self.cold.pong_awaited && self.latest_ping() == Some(id)
    }

    /// Whether the write clock runs.
    #[cfg(feature = "socket")]
    pub(crate) fn write_waits(&self) -> bool {
        self.hot.write_by.is_some()
    }

    /// Records a whole message if that does nothing but move deadlines away; whether it did.
    #[inline]
    pub(crate) fn observe_plain_recv(&mut self, now: Timestamp) -> bool {
        let plain = self.hot.is_plain();
        if plain {
            let now = self.see(now);
            self.hot.take_message(now);
        }
        plain
    }

    /// Records that messages have left if that does nothing but move deadlines away; whether it did.
    #[cfg(any(test, feature = "socket"))]
    #[inline]
    pub(crate) fn observe_plain_send(&mut self, now: Timestamp) -> bool {
        let plain = self.hot.is_plain() && self.hot.ping == Ping::Quiet;
        if plain {
            let now = self.see(now);
            self.hot.send_messages(now);
        }
        plain
    }

    /// Whether a flushed ping waits for its answer, or a grace runs at `now`.
    #[cfg(feature = "socket")]
    #[inline]
    pub(crate) fn awaits_answer_or_in_grace(&self, now: Timestamp) -> bool {
        !self.hot.is_plain() && (self.hot.ping == Ping::InFlight || self.in_grace(now))
    }

    #[cfg(feature = "socket")]
    #[cold]
    fn in_grace(&self, now: Timestamp) -> bool {
        let end = (self.cold.grace).and_then(|began| began.deadline(self.config().stall_tolerance));
        end.is_some_and(|end| now < end)
    }

    /// When the latest grace began.
    #[cfg(feature = "socket")]
    pub(crate) fn grace(&self) -> Option<Timestamp> {
        self.cold.grace
    }

    /// Whether a deadline about the peer, of those that `judged` includes, is due at `now` and was not
    /// yet at `after`.
    #[cfg(feature = "socket")]
    pub(crate) fn peer_is_due_after(
        &self,
        after: Option<Timestamp>,
        now: Timestamp,
        judged: Judged,
    ) -> bool {
        let view = self.view();
        let mut due = false;
        view.each_deadline(|row| {
            let at = view
                .counts_as(&row)
                .filter(|_| row.whose != Whose::Ours && judged.includes(&row));
            due |= at.is_some_and(|at| at <= now && after.is_none_or(|after| at > after));
        });
        due
    }

    /// The earliest deadline of the table that is later than `now`, or that an answer to the ping that is
    /// out would leave.
    #[cfg(feature = "socket")]
    pub(crate) fn next_look_after(&self, now: Timestamp) -> Option<Timestamp> {
        let view = self.view();
        let mut next = None;
        view.each_deadline(|row| next = earlier(next, view.counts_as(&row).filter(|&at| at > now)));
        view.next_look(next)
    }

    #[inline]
    pub(crate) fn decide(&mut self, now: Timestamp, judged: Judged) -> Action {
        self.decide_telling(now, judged, |_| {})
    }

    /// [`decide`](Self::decide), with a last look before a verdict: what was known then is known no more
    /// after it.
    #[inline]
    pub(crate) fn decide_telling(
        &mut self,
        now: Timestamp,
        judged: Judged,
        before_verdict: impl FnOnce(View<'_>),
    ) -> Action {
        let now = self.see(now);
        match self.parts().due(judged, before_verdict) {
            Ok(action) => action,
            Err(next) if self.hot.phase == Phase::Open => {
                let look = now.deadline(self.config().heartbeat_interval);
                Action::Idle {
                    until: earlier(next, look),
                }
            }
            Err(next) => Action::Idle { until: next },
        }
    }

    fn see(&mut self, now: Timestamp) -> Timestamp {
        self.now = self.latest(now);
        self.now
    }

    fn latest(&self, now: Timestamp) -> Timestamp {
        self.now.max(now)
    }

    fn view(&self) -> View<'_> {
        View {
            now: self.now,
            hot: &self.hot,
            cold: &self.cold,
            config: self.config.borrow(),
        }
    }

    fn parts(&mut self) -> Parts<'_> {
        Parts {
            now: self.now,
            hot: &mut self.hot,
            cold: &mut self.cold,
            config: self.config.borrow(),
        }
    }
}

/// What a policy consists of, to be read, wherever its parts lie.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) now: Timestamp,
    pub(crate) hot: &'a Hot,
    pub(crate) cold: &'a Cold,
    pub(crate) config: &'a TimeoutConfig,
}

impl View<'_> {
    // ---- the table ----

    /// The one table of deadlines, in the order in which they decide; those that cannot come now are
    /// `None` or left out. [Normative: "Deadlines" in docs/SPEC.md]
    #[rustfmt::skip]
    #[inline(always)]
    fn each_deadline(&self, mut visit: impl FnMut(Row)) {
        use CloseReason::*;
        use DeadlineKind as Kind;
        use Due::*;
        use Whose::*;

        let config = self.config;
        let hot = self.hot;
        let mut row = |kind, at, gives, whose| visit(Row { kind, at, gives, whose });

        match hot.phase {
            //      deadline          due at                                             gives                     whose
            Phase::Opening => {
                row(Kind::Handshake,  hot.opened.deadline(config.handshake_timeout),     Abort(HandshakeTimeout),  Peer);
            }
            Phase::Closing => {
                let began = self.cold.close_at;
                let limit = Some(config.close_timeout);
                row(Kind::Close,      began.and_then(|at| at.deadline(limit)),           Abort(CloseTimeout),      Peer);
            }
            Phase::Open => {
                let rare = hot.rare.then_some(self.cold);
                let asked = (hot.ping == Ping::Asked).then_some(hot.pinged);
                let in_flight = (hot.ping == Ping::InFlight).then_some(hot.pinged);
                let quiet = hot.ping == Ping::Quiet;

                let pong = config.pong_timeout;
                let ping_write = if config.message_timeout.is_some() { config.message_timeout } else { pong };
                let life = shortened(config.connection_timeout, config.jitter, hot.life_draw);
                let idle_since = match config.idle_scope {
                    IdleScope::Inbound => hot.silent_since,
                    IdleScope::Messages => hot.active,
                };
                let quiet_since = match config.pong_evidence {
                    PongEvidence::Any => hot.silent_since.min(hot.sent).max(hot.pinged),
                    PongEvidence::Pong => hot.pinged,
                };
                let ping_at = if rare.is_some_and(|cold| cold.ping_due) {
                    Some(self.now)
                } else {
                    quiet_since.deadline(shortened(config.ping_interval, config.jitter, hot.ping_draw))
                };

                row(Kind::Connection, hot.opened.deadline(life),                         Close(ConnectionTimeout), Ours);
                row(Kind::Drain,      rare.and_then(|cold| cold.close_at),               Close(Drain),             Ours);
                row(Kind::Write,      hot.write_by,                                      Abort(MessageTimeout),    Peer);
                row(Kind::PingWrite,  asked.and_then(|at| at.deadline(ping_write)),      Abort(MessageTimeout),    Peer);
                row(Kind::PingFlood,  rare.and_then(Cold::flooded_at),                   Abort(PingFlood),         Ours);
                row(Kind::Receive,    rare.and_then(|cold| cold.receive_by),             Abort(SlowReceive),       Unread);
                row(Kind::Probe,      rare.and_then(|cold| cold.probe_by),               Abort(PongTimeout),       Unread);
                row(Kind::Pong,       in_flight.and_then(|at| at.deadline(pong)),        Abort(PongTimeout),       Unread);
                row(Kind::Idle,       idle_since.deadline(config.idle_timeout),          Close(IdleTimeout),       Unread);
                row(Kind::NextPing,   if quiet { ping_at } else { None },                SendPing,                 Ours);
            }
            Phase::Closed | Phase::Aborted(_) => {}
        }
    }

    /// The deadline of a row with the latest grace in account: "A *peer* deadline at or before the
    /// begin of the latest grace counts as that begin + `stall_tolerance`."
    #[inline(always)]
    fn counts_as(&self, row: &Row) -> Option<Timestamp> {
        match self.grace_of(row) {
            Some((began, tolerance)) => began.deadline(Some(tolerance)),
            None => row.at,
        }
    }

    /// The grace that a row had, and how long it was.
    #[inline(always)]
    fn grace_of(&self, row: &Row) -> Option<(Timestamp, NonZeroU64)> {
        if row.whose == Whose::Ours || !self.hot.rare {
            return None;
        }
        let began = self.cold.grace?;
        let had = row.at? <= began;
        self.config
            .stall_tolerance
            .filter(|_| had)
            .map(|tolerance| (began, tolerance))
    }

    /// The earliest deadline of the table among those that are judged.
    #[inline(always)]
    pub(crate) fn earliest(&self, judged: Judged) -> Option<Timestamp> {
        let mut next = None;
        self.each_deadline(|row| {
            if judged.includes(&row) {
                next = earlier(next, self.counts_as(&row));
            }
        });
        next
    }

    /// The earlier deadline of those which the flush of a ping and its pong bring nearer, if either does.
    #[cfg(feature = "alloc")]
    pub(crate) fn earliest_of_pings(&self) -> Option<Timestamp> {
        earlier(
            self.deadline(DeadlineKind::Pong),
            self.deadline(DeadlineKind::NextPing),
        )
    }

    /// When to look next: at `next`, which is the earliest deadline of the table, or at what an answer
    /// to the ping that is out would leave, if that comes earlier but not at once. So an answer, as a
    /// rule, brings nothing nearer.
    #[cfg(any(feature = "alloc", feature = "socket"))]
    pub(crate) fn next_look(&self, next: Option<Timestamp>) -> Option<Timestamp> {
        if self.hot.ping == Ping::Quiet {
            return next;
        }
        let mut hot = self.hot.clone();
        hot.ping = Ping::Quiet;
        let answered = View { hot: &hot, ..*self }.deadline(DeadlineKind::NextPing);
        earlier(next, answered.filter(|&at| at > self.now))
    }

    #[inline(always)]
    fn deadline(&self, kind: DeadlineKind) -> Option<Timestamp> {
        let mut found = None;
        self.each_deadline(|row| {
            if row.kind == kind {
                found = row.at;
            }
        });
        found
    }

    /// The first row of the table that is due, and whether a grace begins: rows that are overdue by our own
    /// fault are passed over.
    #[cold]
    fn judge(&self, judged: Judged) -> (Option<Row>, bool) {
        let now = self.now;
        let late_beyond_tolerance = |row: &Row| match (row.at, self.config.stall_tolerance) {
            (Some(at), Some(tolerance)) => now.nanos_since(at) > tolerance.get(),
            _ => false,
        };
        let is_due = |row: &Row| self.counts_as(row).is_some_and(|at| at <= now);

        // "No grace begins while a *peer* deadline that had one is due again."
        let mut spent = false;
        if self.hot.rare {
            self.each_deadline(|row| spent |= self.grace_of(&row).is_some() && is_due(&row));
        }

        let mut excused = false;
        let mut first = None;
        self.each_deadline(|row| {
            if first.is_some() || !judged.includes(&row) || !is_due(&row) {
                return;
            }
            let covered = row.whose != Whose::Ours && excused;
            let forgiven = row.whose != Whose::Ours && !spent && late_beyond_tolerance(&row);
            excused |= forgiven;
            if !covered && !forgiven {
                first = Some(row);
            }
        });
        (first, excused)
    }

    fn is_due(&self, kind: DeadlineKind, now: Timestamp) -> bool {
        self.deadline(kind).is_some_and(|at| at <= now)
    }

    /// See [`TimeoutPolicy::status`].
    pub(crate) fn status(&self, now: Timestamp) -> Status {
        let (hot, cold) = (self.hot, self.cold);
        let mut status = Status {
            at: now,
            phase: hot.phase,
            cause: cold.cause,
            age: now.saturating_duration_since(hot.opened),
            silent: now.saturating_duration_since(hot.silent_since),
            since_sent: now.saturating_duration_since(hot.sent),
            since_active: now.saturating_duration_since(hot.active),
            ping_unsent: (hot.ping == Ping::Asked)
                .then(|| now.saturating_duration_since(hot.pinged)),
            ping_unanswered: (hot.ping == Ping::InFlight)
                .then(|| now.saturating_duration_since(hot.pinged)),
            write_waits: hot.write_by.is_some(),
            partial_bytes: cold.partial,
            pings_sent: cold.pings,
            pongs_received: cold.pongs,
            rtt: cold.rtt(),
            grace_left: cold
                .grace
                .and_then(|began| began.deadline(self.config.stall_tolerance))
                .map(|end| end.saturating_duration_since(now))
                .filter(|left| !left.is_zero()),
            deadlines: Default::default(),
        };
        self.each_deadline(|row| {
            if let Some(at) = self.counts_as(&row) {
                status.deadlines.push(row.kind, at);
            }
        });
        status
    }
}

/// What a policy consists of, to be changed, wherever its parts lie. `now` is the latest instant seen.
pub(crate) struct Parts<'a> {
    pub(crate) now: Timestamp,
    pub(crate) hot: &'a mut Hot,
    pub(crate) cold: &'a mut Cold,
    pub(crate) config: &'a TimeoutConfig,
}

impl Parts<'_> {
    pub(crate) fn view(&self) -> View<'_> {
        View {
            now: self.now,
            hot: self.hot,
            cold: self.cold,
            config: self.config,
        }
    }

    // ---- deciding ----

    /// What is due now, or when something will be.
    #[inline]
    pub(crate) fn due(
        &mut self,
        judged: Judged,
        before_verdict: impl FnOnce(View<'_>),
    ) -> Result<Action, Option<Timestamp>> {
        if let Phase::Aborted(reason) = self.hot.phase {
            return Ok(Action::Abort(reason));
        }
        let next = self.view().earliest(judged);
        if next.is_none_or(|at| at > self.now) {
            return Err(next);
        }
        let (first, grace_begins) = self.view().judge(judged);
        if first.is_some_and(|row| !matches!(row.gives, Due::SendPing)) {
            before_verdict(self.view());
        }
        if grace_begins {
            self.cold.grace = Some(self.now);
            self.hot.rare = true;
        }
        match first {
            Some(row) => Ok(self.act(row.gives)),
            None => Err(self.view().earliest(judged)),
        }
    }

    fn act(&mut self, due: Due) -> Action {
        let now = self.now;
        match due {
            Due::SendPing => {
                self.cold.pings = self.cold.pings.saturating_add(1);
                self.cold.ping_due = false;
                self.cold.pong_awaited = true;
                self.hot.ping = Ping::Asked;
                self.hot.pinged = now;
                self.hot.ping_draw = jitter_draw(self.cold.seed, self.cold.pings.saturating_add(1));
                Action::SendPing(self.cold.latest_ping())
            }
            Due::Close(reason) => {
                self.give(reason);
                self.begin_closing(now);
                Action::Close(reason)
            }
            Due::Abort(reason) => {
                self.give(reason);
                self.enter(Phase::Aborted(reason));
                Action::Abort(reason)
            }
        }
    }

    fn give(&mut self, reason: CloseReason) {
        self.cold.cause = self.cold.cause.or(Some(reason));
    }

    // ---- observing ----

    pub(crate) fn record(&mut self, event: Event) {
        let now = self.now;
        match (self.hot.phase, event) {
            (Phase::Closed | Phase::Aborted(_), _) => {}
            (_, Event::Closed) => self.enter(Phase::Closed),
            (Phase::Opening, Event::Opened) => self.open(now),
            (Phase::Open, event) => self.observe_open(now, event),
            (Phase::Opening | Phase::Closing, _) => {}
        }
    }

    /// See [`TimeoutPolicy::set_config`].
    pub(crate) fn follow_config(&mut self) {
        if self.config.pong_timeout.is_none() && self.hot.ping == Ping::InFlight {
            self.hot.ping = Ping::Quiet;
        }
        if self.config.message_timeout.is_none() {
            self.hot.write_by = None;
        }
        if self.config.min_data_rate.is_none() {
            self.cold.receive_by = None;
        }
    }

    fn observe_open(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Recv => {
                self.heard(now);
                self.hot.active = now;
                self.nothing_partial();
            }
            Event::RecvPartial { total: 0 } => self.nothing_partial(),
            Event::RecvPartial { total } => {
                if total > self.cold.partial {
                    self.heard(now);
                    self.hot.active = now;
                    self.move_receive_clock(now, total - self.cold.partial);
                }
                self.cold.partial = total;
                self.hot.rare = true;
            }
            Event::Ping => {
                self.heard(now);
                self.charge_ping(now);
            }
            Event::Pong(id) => {
                self.heard(now);
                if self.cold.pong_awaited && id == Some(self.cold.latest_ping()) {
                    self.first_pong(now);
                }
            }
            Event::SendStart => {
                let limit = self.config.message_timeout;
                if self.hot.write_by.is_none() {
                    self.hot.write_by = now.deadline(limit);
                }
            }
            Event::SendProgress { bytes: 0 } => {}
            Event::SendProgress { bytes } => {
                self.hot.active = now;
                self.move_write_clock(now, bytes);
                self.progress(now);
            }
            Event::SendOk => {
                self.hot.send_messages(now);
                self.progress(now);
            }
            Event::Flushed => {
                self.flushed(now);
                self.progress(now);
            }
            Event::PingSent(id) => {
                if self.hot.ping == Ping::Asked && id == self.cold.latest_ping() {
                    self.flushed(now);
                    self.hot.pinged = now;
                    self.hot.ping = match self.config.pong_timeout {
                        Some(_) => Ping::InFlight,
                        None => Ping::Quiet,
                    };
                }
            }
            Event::Probe { within } => {
                self.cold.probe_by = earlier(self.cold.probe_by, now.checked_add(within));
                self.cold.ping_due |= self.hot.ping == Ping::Quiet;
                self.hot.rare = true;
            }
            Event::Drain { within } => {
                let wait = part_of(saturating_nanos(within), drain_draw(self.cold.seed));
                self.cold.close_at = earlier(self.cold.close_at, now.after(wait));
                self.hot.rare = true;
            }
            Event::CloseStart | Event::PeerClose => self.begin_closing(now),
            Event::Opened | Event::Closed | Event::Tick => {}
        }
    }

    /// "*Heard*: the silence clock restarts; with `pong_evidence = any` a ping in flight is answered,
    /// and a `Probe` too."
    fn heard(&mut self, now: Timestamp) {
        self.hot.silent_since = now;
        if self.config.pong_evidence == PongEvidence::Any {
            self.answered();
        }
    }

    fn answered(&mut self) {
        if self.hot.ping == Ping::InFlight {
            self.hot.ping = Ping::Quiet;
        }
        if self.hot.rare {
            self.cold.probe_by = None;
        }
    }

    /// The first pong of the latest ping: "in flight, the ping is `Quiet`; still `Asked`, it proves
    /// that the ping left".
    fn first_pong(&mut self, now: Timestamp) {
        self.cold.pong_awaited = false;
        self.answered();
        if self.hot.ping == Ping::Asked {
            self.hot.ping = Ping::Quiet;
            self.hot.sent = now;
            self.hot.pinged = now;
        } else {
            let sample = now.nanos_since(self.hot.pinged) / 1000;
            self.cold.rtt = if self.cold.pongs == 0 {
                RttEstimator::first(sample)
            } else {
                self.cold.rtt.next(sample)
            };
            self.cold.pongs = self.cold.pongs.saturating_add(1);
        }
    }

    /// "*Progress*: while a ping is `Asked`, its clock restarts and the peer is excused: it cannot
    /// answer a ping that has not left."
    fn progress(&mut self, now: Timestamp) {
        if self.hot.ping == Ping::Asked {
            self.hot.pinged = now;
            self.hot.silent_since = now;
        }
    }

    fn flushed(&mut self, now: Timestamp) {
        self.hot.write_by = None;
        self.hot.sent = now;
    }

    fn nothing_partial(&mut self) {
        if self.hot.rare {
            self.cold.partial = 0;
            self.cold.receive_by = None;
            self.hot.rare = self.cold.may_run();
        }
    }

    /// "Begins at now + 5 s; then n, what the total grew by, moves it to min(itself +
    /// n · 1 s / `min_data_rate`, now + 30 s)."
    fn move_receive_clock(&mut self, now: Timestamp, grew_by: u64) {
        const START: u64 = 5_000_000_000;
        const CAP: u64 = 30_000_000_000;
        if let Some(rate) = self.config.min_data_rate {
            let clock = self.cold.receive_by.or(now.after(START));
            let moved = clock.and_then(|clock| clock.after(time_at_rate(grew_by, rate)));
            self.cold.receive_by = earlier(moved, now.after(CAP));
        }
    }

    /// "A running write clock moves to min(itself + bytes · 1 s / `min_data_rate`, now +
    /// `message_timeout`), with the rate off to now + `message_timeout`."
    fn move_write_clock(&mut self, now: Timestamp, bytes: u64) {
        let config = self.config;
        let cap = now.deadline(config.message_timeout);
        self.hot.write_by = match (self.hot.write_by, config.min_data_rate) {
            (None, _) => None,
            (Some(clock), Some(rate)) => earlier(clock.after(time_at_rate(bytes, rate)), cap),
            (Some(_), None) => cap,
        };
    }

    /// "`credit := max(credit, now) + 1 s / max_ping_rate`; when `credit - now > 60 s` the peer floods,
    /// and stays so."
    fn charge_ping(&mut self, now: Timestamp) {
        const BURST: u64 = 60_000_000_000;
        let Some(rate) = self.config.max_ping_rate else {
            return;
        };
        if self.cold.flooded {
            return;
        }
        let credit = self
            .cold
            .ping_credit
            .max(now)
            .after(time_at_rate(1, rate))
            .unwrap_or(Timestamp::MAX);
        self.cold.flooded = credit.nanos_since(now) > BURST;
        self.cold.ping_credit = if self.cold.flooded { now } else { credit };
        self.hot.rare |= self.cold.flooded;
    }

    // ---- phases ----

    fn open(&mut self, now: Timestamp) {
        self.enter(Phase::Open);
        self.hot.opened = now;
        self.hot.silent_since = now;
        self.hot.sent = now;
        self.hot.active = now;
        self.hot.pinged = now;
    }

    fn begin_closing(&mut self, now: Timestamp) {
        self.enter(Phase::Closing);
        self.cold.close_at = Some(now);
    }

    /// "Entering a phase forgets the grace."
    fn enter(&mut self, phase: Phase) {
        self.hot.phase = phase;
        self.cold.grace = None;
    }
}

impl Hot {
    pub(crate) fn new(seed: u64, now: Timestamp, phase: Phase) -> Self {
        Self {
            opened: now,
            silent_since: now,
            sent: now,
            active: now,
            pinged: now,
            write_by: None,
            phase,
            ping: Ping::Quiet,
            rare: false,
            life_draw: jitter_draw(seed, 0),
            ping_draw: jitter_draw(seed, 1),
        }
    }

    /// Whether a whole message concerns nothing but what is here, as it mostly is: the connection is
    /// open, no ping is in flight, and no clock of [`Cold`] may be running.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.phase == Phase::Open && self.ping != Ping::InFlight && !self.rare
    }

    /// Brings what an expiry reads into the cache, wherever its lines begin.
    #[cfg(feature = "alloc")]
    #[inline]
    pub(crate) fn touch(&self, cold: &Cold) {
        core::hint::black_box((
            self.opened,
            self.write_by,
            self.phase,
            cold.seed,
            cold.pong_awaited,
        ));
    }

    /// Records a whole message where that [is plain](Self::is_plain). It does what it does to every
    /// open connection.
    #[inline]
    pub(crate) fn take_message(&mut self, at: Timestamp) {
        self.silent_since = self.silent_since.max(at);
        self.active = self.active.max(at);
    }

    /// Records that all messages have left.
    #[inline]
    fn send_messages(&mut self, at: Timestamp) {
        self.active = at;
        self.write_by = None;
        self.sent = at;
    }
}

impl Cold {
    pub(crate) fn new(seed: u64, now: Timestamp) -> Self {
        Self {
            seed,
            pings: 0,
            pongs: 0,
            rtt: RttEstimator::first(0),
            partial: 0,
            receive_by: None,
            probe_by: None,
            close_at: None,
            ping_credit: now,
            grace: None,
            flooded: false,
            ping_due: false,
            pong_awaited: false,
            cause: None,
        }
    }

    fn ping_id(&self, number: u64) -> PingId {
        PingId::new(self.seed, number)
    }

    fn latest_ping(&self) -> PingId {
        self.ping_id(self.pings)
    }

    fn rtt(&self) -> Option<Rtt> {
        (self.pongs > 0).then(|| self.rtt.estimate())
    }

    /// When the peer's pings became a flood.
    fn flooded_at(&self) -> Option<Timestamp> {
        self.flooded.then_some(self.ping_credit)
    }

    /// Whether anything here could be a deadline.
    fn may_run(&self) -> bool {
        self.partial > 0
            || self.probe_by.is_some()
            || self.close_at.is_some()
            || self.grace.is_some()
            || self.flooded
            || self.ping_due
    }
}

/// A row of the table of deadlines.
#[derive(Clone, Copy)]
struct Row {
    kind: DeadlineKind,
    at: Option<Timestamp>,
    gives: Due,
    whose: Whose,
}

/// What a row gives when it is due.
#[derive(Clone, Copy)]
enum Due {
    SendPing,
    Close(CloseReason),
    Abort(CloseReason),
}

/// Whom a row is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// This side, or what the peer did rather than failed to do: lateness excuses nothing.
    Ours,
    /// A verdict about the peer: a late look begins a grace.
    Peer,
    /// A verdict about the peer that unread input could overturn.
    Unread,
}

/// Which rows a poll judges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    All,
    AllButUnread,
    /// Only what is not about the peer: for a driver whose reactor has not turned.
    #[cfg(feature = "socket")]
    Ours,
}

impl Judged {
    #[inline(always)]
    fn includes(self, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::AllButUnread => row.whose != Whose::Unread,
            #[cfg(feature = "socket")]
            Self::Ours => row.whose == Whose::Ours,
        }
    }
}

/// How long `bytes` take at `rate` a second, in nanoseconds, rounded down.
fn time_at_rate(bytes: u64, rate: NonZeroU32) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    match bytes.checked_mul(SECOND) {
        Some(product) => product / NonZeroU64::from(rate),
        None => {
            let nanos = u128::from(bytes) * u128::from(SECOND) / NonZeroU128::from(rate);
            u64::try_from(nanos).unwrap_or(u64::MAX)
        }
    }
}

/// `limit` less the part of the jitter that was drawn.
#[inline(always)]
fn shortened(limit: Limit, jitter: Billionths, draw: u16) -> Limit {
    let part = (((u64::from(jitter) * u64::from(draw)) << 16) / 1_000_000_000) as u32;
    limit.and_then(|nanos| NonZeroU64::new(nanos.get() - part_of(nanos.get(), part)))
}

/// `part` 2³²nds of `nanos`, rounded down.
#[inline(always)]
fn part_of(nanos: u64, part: u32) -> u64 {
    ((u128::from(nanos) * u128::from(part)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_state_is_small_and_its_hot_part_one_cache_line() {
        assert_eq!(offset_of!(TimeoutPolicy<&TimeoutConfig>, cold), 64);
        let state = size_of::<TimeoutPolicy<&TimeoutConfig>>() - size_of::<&TimeoutConfig>();
        assert!(state <= 176, "the state takes {state} bytes");
    }

    /// With all that three events, and the looks between them, can make of a connection.
    #[test]
    fn a_message_that_leaves_the_short_way_is_a_send_like_any_other() {
        let at = Timestamp::from_secs;
        let config = TimeoutConfig::default();
        let events = [
            Event::Tick,
            Event::Recv,
            Event::RecvPartial { total: 9 },
            Event::Ping,
            Event::Pong(Some(PingId::new(1, 1))),
            Event::SendStart,
            Event::SendProgress { bytes: 9 },
            Event::Flushed,
            Event::PingSent(PingId::new(1, 1)),
            Event::Probe {
                within: Duration::from_secs(1),
            },
            Event::Drain {
                within: Duration::from_secs(1),
            },
            Event::CloseStart,
        ];
        let (mut short, mut long) = (0, 0);
        let pairs = events.map(|first| events.map(|second| (first, second)));
        for (first, second) in pairs.into_iter().flatten() {
            for (third, then) in events.iter().flat_map(|&event| [(event, 3), (event, 26)]) {
                let mut policy = TimeoutPolicy::new(&config, 1, at(0));
                policy.handle(at(1), first);
                policy.handle(at(2), second);
                policy.handle(at(then), third);
                let mut observed = policy.clone();
                observed.observe(at(27), Event::SendOk);
                if policy.observe_plain_send(at(27)) {
                    short += 1;
                    assert_eq!(policy, observed, "{first:?}, {second:?}, {third:?}");
                } else {
                    long += 1;
                }
            }
        }
        assert!(short > 100 && long > 100, "{short} and {long}");
    }

    /// What lies beyond the hot part is replaced by garbage, so whoever reads it decides differently.
    #[test]
    fn a_message_and_an_expiry_touch_the_hot_part_only() {
        let at = Timestamp::from_millis;
        let config = TimeoutConfig::builder().jitter(0.0).build().unwrap();
        let garbage = Cold {
            seed: 0xBAD,
            pings: 7,
            pongs: 9,
            rtt: RttEstimator::first(1),
            partial: 5,
            receive_by: Some(at(1)),
            probe_by: Some(at(1)),
            close_at: Some(at(1)),
            ping_credit: at(1),
            grace: Some(at(0)),
            flooded: true,
            ping_due: true,
            pong_awaited: true,
            cause: None,
        };
        let steps = [
            (
                10,
                Event::Recv,
                Action::Idle {
                    until: Some(at(25_000)),
                },
            ),
            (
                20,
                Event::SendStart,
                Action::Idle {
                    until: Some(at(1020)),
                },
            ),
            (
                30,
                Event::SendOk,
                Action::Idle {
                    until: Some(at(25_010)),
                },
            ),
            (
                40,
                Event::Recv,
                Action::Idle {
                    until: Some(at(25_030)),
                },
            ),
            (
                24_000,
                Event::Tick,
                Action::Idle {
                    until: Some(at(25_030)),
                },
            ),
        ];
        for messages in 0..=steps.len() {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            for (index, &(millis, event, expected)) in steps.iter().enumerate() {
                if index == messages {
                    policy.cold = garbage.clone();
                }
                assert_eq!(policy.handle(at(millis), event), expected);
            }
            if messages < steps.len() {
                assert_eq!(policy.cold, garbage);
            }
        }

        // An expiry that ends something reads no more than that to decide it.
        for (millis, expected) in [
            (25_000, Action::SendPing(PingId::new(0xBAD, 8))),
            (300_000, Action::Close(CloseReason::ConnectionTimeout)),
        ] {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            policy.cold = garbage.clone();
            assert_eq!(policy.poll(at(millis)), expected);
        }
    }
}
