//! The table of deadlines, and the folds over it.

use core::num::NonZeroU64;

use super::state::{Ping, State};
use crate::config::{Billionths, IdleScope, PongEvidence, TimeoutConfig};
use crate::event::{Action, CloseReason, Phase};
use crate::status::{DeadlineKind, Status};
use crate::time::{Limit, Timestamp, earlier};

/// A row of the table.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) kind: DeadlineKind,
    /// When it expires, ignoring any grace; `None` if it is not set.
    pub(super) at: Option<Timestamp>,
    pub(super) on_expiry: OnExpiry,
    pub(super) party: Party,
}

/// What happens when a deadline expires.
#[derive(Clone, Copy)]
pub(super) enum OnExpiry {
    SendPing,
    Close(CloseReason),
    Abort(CloseReason),
}

/// The party that a deadline is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// This side, or something that the peer did rather than failed to do. A late poll begins no
    /// grace.
    Local,
    /// The peer. A late poll begins a grace.
    Peer,
    /// The peer, but unread input could still move the deadline (*unread* in the specification): a
    /// poll acts on it only after that input has been read.
    PeerUnread,
}

/// How far a driver's evidence reaches, for
/// [`TimeoutPolicy::poll_up_to`](crate::TimeoutPolicy::poll_up_to).
///
/// A poll acts on a peer deadline only if it expired at or before the horizon. The default covers
/// no such deadline. A runtime may cache the readiness of a transport, so a read that found nothing
/// does not prove that nothing had arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Horizon {
    /// The instant up to which everything that had arrived has been read and observed; `None` if
    /// there is none. It limits the verdicts on slow messages, probes, pongs and silence.
    pub read: Option<Timestamp>,
    /// The instant up to which every possible write has been tried; `None` if there is none. It
    /// limits the other verdicts that blame the peer: those on writes and on both handshakes.
    pub written: Option<Timestamp>,
}

impl Horizon {
    /// Covers every deadline, as for [`TimeoutPolicy::poll`](crate::TimeoutPolicy::poll).
    pub const EVERYTHING: Self = Self {
        read: Some(Timestamp::MAX),
        written: Some(Timestamp::MAX),
    };

    /// For a driver that may still have input to read:
    /// [`TimeoutPolicy::poll_unread`](crate::TimeoutPolicy::poll_unread).
    pub const UNREAD: Self = Self {
        read: None,
        written: Some(Timestamp::MAX),
    };

    /// Returns whether a poll may act on a row that is about `party` and expires at `at`.
    #[inline(always)]
    pub(super) fn covers(self, party: Party, at: Option<Timestamp>) -> bool {
        match party {
            Party::Local => true,
            Party::Peer => at <= self.written,
            Party::PeerUnread => at <= self.read,
        }
    }
}

impl State {
    /// Visits the rows of the table in the order in which a poll checks them (SPEC D-1 to D-12). A
    /// row whose deadline is not set is `None` or left out.
    ///
    /// A fold whose result does not depend on the order passes `false` for `ORDERED`, which skips
    /// the check whether the ping row comes before the idle row.
    ///
    /// `deadlines_unless_cold` and `earliest_of_pings` duplicate some of these rows: change all three.
    #[rustfmt::skip]
    #[inline(always)]
    pub(super) fn each_deadline<const ORDERED: bool>(&self, now: Timestamp, config: &TimeoutConfig, mut visit: impl FnMut(Deadline)) {
        use CloseReason::*;
        use DeadlineKind as Kind;
        use OnExpiry::*;
        use Party::*;

        let mut row = |kind, at, on_expiry, party| visit(Deadline { kind, at, on_expiry, party });

        match self.phase {
            // The columns: kind, when it expires, what then happens, whom it is about.
            Phase::Opening => {
                row(Kind::Handshake,  self.opened.deadline(config.handshake_timeout),    Abort(HandshakeTimeout),  Peer);
            }
            Phase::Closing => {
                let limit = Some(config.close_timeout);
                row(Kind::Close,      self.close_at.and_then(|at| at.deadline(limit)),   Abort(CloseTimeout),      Peer);
            }
            Phase::Open => {
                let requested = (self.ping == Ping::Requested).then_some(self.ping_since);
                let in_flight = (self.ping == Ping::InFlight).then_some(self.ping_since);
                let pong = config.pong_timeout;
                let ping_write = if config.message_timeout.is_some() { config.message_timeout } else { pong };
                let lifetime = shortened(config.connection_timeout, config.jitter, self.lifetime_draw);
                let idle = self.idle_since(config).deadline(config.idle_timeout);
                let ping = if self.ping == Ping::Quiet { self.next_ping(now, config) } else { None };

                row(Kind::Connection, self.opened.deadline(lifetime),                    Close(ConnectionTimeout), Local);
                if self.cold_armed {
                    row(Kind::Drain,  self.close_at,                                     Close(Drain),             Local);
                }
                row(Kind::Write,      self.write_deadline,                               Abort(MessageTimeout),    Peer);
                row(Kind::PingWrite,  requested.and_then(|at| at.deadline(ping_write)),  Abort(MessageTimeout),    Peer);
                if self.cold_armed {
                    // The row above limits the wait of a requested ping, unless both of its limits
                    // are off.
                    let is_limited = requested.is_some() && ping_write.is_some();
                    let probe = self.probe_deadline.filter(|_| !is_limited);
                    row(Kind::PingFlood, self.flooded_at(),                              Abort(PingFlood),         Local);
                    row(Kind::Receive,   self.receive_deadline,                          Abort(SlowReceive),       PeerUnread);
                    row(Kind::Probe,     probe,                                          Abort(PongTimeout),       PeerUnread);
                }
                row(Kind::Pong,       in_flight.and_then(|at| at.deadline(pong)),        Abort(PongTimeout),       PeerUnread);

                // A ping comes before a verdict on silence (SPEC D-13).
                let inbound = config.idle_scope == IdleScope::Inbound;
                let ping_first = ORDERED && inbound && ping.is_some() && ping < idle;
                let ping = (Kind::NextPing,  ping,                                       SendPing,                 Local);
                let idle = (Kind::Idle,      idle,                                       Close(IdleTimeout),       PeerUnread);
                for (kind, at, on_expiry, party) in if ping_first { [ping, idle] } else { [idle, ping] } {
                    row(kind, at, on_expiry, party);
                }
            }
            Phase::Closed | Phase::Aborted(_) => {}
        }
    }

    #[inline(always)]
    fn idle_since(&self, config: &TimeoutConfig) -> Timestamp {
        match config.idle_scope {
            IdleScope::Inbound => self.last_inbound,
            IdleScope::Messages => self.last_data,
        }
    }

    /// Returns when the next ping is due, if no ping is outstanding. A `Probe` makes it due now,
    /// unless it was already due earlier (SPEC D-24). That instant matters, because the peer is
    /// excused for the delay since then.
    #[inline(always)]
    pub(super) fn next_ping(&self, now: Timestamp, config: &TimeoutConfig) -> Option<Timestamp> {
        let probed = (self.cold_armed && self.ping_due).then_some(now);
        earlier(probed, self.next_ordinary_ping(config))
    }

    #[inline(always)]
    fn next_ordinary_ping(&self, config: &TimeoutConfig) -> Option<Timestamp> {
        let quiet_since = match config.pong_evidence {
            PongEvidence::Any => self.last_inbound.min(self.last_flush).max(self.ping_since),
            PongEvidence::Pong => self.ping_since,
        };
        let interval = shortened(config.ping_interval, config.jitter, self.ping_draw);
        quiet_since.deadline(interval)
    }

    /// Returns the earliest deadline among the rows that the horizon covers.
    #[inline(always)]
    pub(crate) fn earliest(
        &self,
        now: Timestamp,
        config: &TimeoutConfig,
        horizon: Horizon,
    ) -> Option<Timestamp> {
        if self.phase == Phase::Open && !self.cold_armed {
            let (others, ping) = self.deadlines_unless_cold(config, horizon);
            earlier(others, ping)
        } else {
            self.earliest_of_table(now, config, horizon)
        }
    }

    /// Computes, without the table, the earliest covered deadline except the next ping's, and the
    /// next ping's. Requires an open connection with no cold clock armed.
    #[inline(always)]
    fn deadlines_unless_cold(
        &self,
        config: &TimeoutConfig,
        horizon: Horizon,
    ) -> (Option<Timestamp>, Option<Timestamp>) {
        let covered = |party, at: Option<Timestamp>| at.filter(|_| horizon.covers(party, at));
        let lifetime = shortened(config.connection_timeout, config.jitter, self.lifetime_draw);
        let write = covered(Party::Peer, self.write_deadline);
        let idle = self.idle_since(config).deadline(config.idle_timeout);
        let others = earlier(self.opened.deadline(lifetime), write);
        let others = earlier(others, covered(Party::PeerUnread, idle));
        let of_ping = match self.ping {
            Ping::Quiet => return (others, self.next_ordinary_ping(config)),
            Ping::Requested => {
                let limit = config.message_timeout.or(config.pong_timeout);
                covered(Party::Peer, self.ping_since.deadline(limit))
            }
            Ping::InFlight => {
                let pong = self.ping_since.deadline(config.pong_timeout);
                covered(Party::PeerUnread, pong)
            }
        };
        (earlier(others, of_ping), None)
    }

    /// Returns the earliest deadline except the next ping's, and the next ping's. Returns `None` if
    /// a cold clock may be running or the connection is not open: only the table can tell then.
    #[inline(never)]
    pub(super) fn deadlines_without_table(
        &self,
        config: &TimeoutConfig,
    ) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        let without_table = self.phase == Phase::Open && !self.cold_armed;
        without_table.then(|| self.deadlines_unless_cold(config, Horizon::EVERYTHING))
    }

    #[inline(never)]
    fn earliest_of_table(
        &self,
        now: Timestamp,
        config: &TimeoutConfig,
        horizon: Horizon,
    ) -> Option<Timestamp> {
        let mut next = None;
        self.each_deadline::<false>(now, config, |row| {
            let at = self.effective_deadline(config, &row);
            if horizon.covers(row.party, at) {
                next = earlier(next, at);
            }
        });
        next
    }

    /// Returns the deadline of one row, ignoring any grace.
    #[inline(always)]
    pub(super) fn deadline(
        &self,
        now: Timestamp,
        config: &TimeoutConfig,
        kind: DeadlineKind,
    ) -> Option<Timestamp> {
        let mut found = None;
        self.each_deadline::<false>(now, config, |row| {
            if row.kind == kind {
                found = row.at;
            }
        });
        found
    }

    /// Returns when `heartbeat_interval` ends a wait at the latest.
    pub(super) fn heartbeat(&self, now: Timestamp, config: &TimeoutConfig) -> Option<Timestamp> {
        now.deadline(config.heartbeat_interval)
            .filter(|_| self.phase == Phase::Open)
    }

    /// Takes the first row that has expired and acts on it, or returns the earliest deadline among
    /// the rows that the horizon covers. `before_verdict` sees the state that leads to a verdict.
    #[inline]
    pub(crate) fn next_action(
        &mut self,
        now: Timestamp,
        config: &TimeoutConfig,
        horizon: Horizon,
        before_verdict: impl FnOnce(&Self),
    ) -> Result<Action, Option<Timestamp>> {
        if let Phase::Aborted(reason) = self.phase {
            return Ok(Action::Abort(reason));
        }
        let is_pending = |at: Option<Timestamp>| at.is_none_or(|at| at > now);
        if self.phase == Phase::Open && !self.cold_armed {
            let (others, ping) = self.deadlines_unless_cold(config, horizon);
            let next = earlier(others, ping);
            if is_pending(next) {
                return Err(next);
            }
            if let Some(due) = ping.filter(|_| is_pending(others)) {
                return Ok(Action::SendPing(self.request_ping(now, due)));
            }
        } else {
            let next = self.earliest_of_table(now, config, horizon);
            if is_pending(next) {
                return Err(next);
            }
        }
        let (first, grace_begins) = self.first_expired(now, config, horizon);
        if first.is_some_and(|row| !matches!(row.on_expiry, OnExpiry::SendPing)) {
            before_verdict(self);
        }
        if grace_begins {
            self.begin_grace(now);
        }
        match first {
            Some(row) => Ok(self.expire(now, row)),
            None => Err(self.earliest(now, config, horizon)),
        }
    }

    fn expire(&mut self, now: Timestamp, row: Deadline) -> Action {
        match row.on_expiry {
            OnExpiry::SendPing => Action::SendPing(self.request_ping(now, row.at.unwrap_or(now))),
            OnExpiry::Close(reason) => {
                self.record_cause(reason);
                self.begin_closing(now);
                Action::Close(reason)
            }
            OnExpiry::Abort(reason) => {
                self.record_cause(reason);
                self.enter(Phase::Aborted(reason));
                Action::Abort(reason)
            }
        }
    }

    /// Returns a snapshot at `at`; `now` is the latest instant seen.
    pub(crate) fn status(&self, now: Timestamp, config: &TimeoutConfig, at: Timestamp) -> Status {
        let since = |earlier| at.saturating_duration_since(earlier);
        let mut status = Status {
            at,
            phase: self.phase,
            cause: self.cause,
            age: since(self.opened),
            closing: self
                .close_at
                .filter(|_| self.phase == Phase::Closing)
                .map(since),
            silent: since(self.last_inbound),
            since_flush: since(self.last_flush),
            since_data: since(self.last_data),
            ping_unsent: (self.ping == Ping::Requested).then(|| since(self.ping_since)),
            ping_unanswered: (self.ping == Ping::InFlight).then(|| since(self.ping_since)),
            write_waiting: self.write_deadline.is_some(),
            partial_bytes: self.partial,
            pings_sent: self.pings,
            pongs_received: self.pongs,
            rtt: self.rtt(),
            grace_left: self
                .grace_end(config)
                .map(|end| end.saturating_duration_since(at))
                .filter(|left| !left.is_zero()),
            deadlines: Default::default(),
        };
        self.each_deadline::<true>(now, config, |row| {
            if let Some(at) = self.effective_deadline(config, &row) {
                status.deadlines.push(row.kind, at);
            }
        });
        status
    }
}

/// Returns `limit` less the part of the jitter that was drawn.
#[inline(always)]
fn shortened(limit: Limit, jitter: Billionths, draw: u16) -> Limit {
    let fraction = (((u64::from(jitter) * u64::from(draw)) << 16) / 1_000_000_000) as u32;
    limit.and_then(|nanos| NonZeroU64::new(nanos.get() - fraction_of(nanos.get(), fraction)))
}

/// Returns `nanos` · `fraction` / 2³², rounded down.
#[inline(always)]
pub(super) fn fraction_of(nanos: u64, fraction: u32) -> u64 {
    ((u128::from(nanos) * u128::from(fraction)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::PongEvidence;
    use crate::event::Event;
    use crate::policy::TimeoutPolicy;
    use crate::random::{Random, for_each_case};

    fn config(random: &mut Random) -> TimeoutConfig {
        let mut limit = || {
            let is_on = random.percent(80);
            is_on.then(|| Duration::from_secs(random.within(1..100) as u64))
        };
        TimeoutConfig::builder()
            .maybe_connection_timeout(limit())
            .maybe_message_timeout(limit())
            .maybe_idle_timeout(limit())
            .maybe_ping_interval(limit())
            .maybe_pong_timeout(limit())
            .idle_scope(random.one_of(&[IdleScope::Inbound, IdleScope::Messages]))
            .pong_evidence(random.one_of(&[PongEvidence::Any, PongEvidence::Pong]))
            .jitter(f64::from(random.below(50)) / 100.0)
            .build()
            .unwrap_or(TimeoutConfig::DEFAULT)
    }

    #[test]
    fn deadlines_without_the_table_match_the_table() {
        const EVENTS: [Event; 7] = [
            Event::Recv,
            Event::Ping,
            Event::SendStart,
            Event::SendOk,
            Event::Flushed,
            Event::SendProgress { bytes: 9 },
            Event::Tick,
        ];
        for_each_case(10_000, |random| {
            let config = config(random);
            let mut proven = || {
                let is_proven = random.percent(50);
                is_proven.then(|| Timestamp::from_secs(random.within(0..200) as u64))
            };
            let horizon = Horizon {
                read: proven(),
                written: proven(),
            };
            let mut now = Timestamp::ZERO;
            let mut policy = TimeoutPolicy::new(&config, 1, now);
            for _ in 0..=random.below(11) {
                let step = Duration::from_millis(random.within(0..40_000) as u64);
                now = now.checked_add(step).unwrap();
                policy.observe(now, random.one_of(&EVENTS));
                let state = &policy.state;
                if state.phase == Phase::Open && !state.cold_armed {
                    let (others, ping) = state.deadlines_unless_cold(&config, horizon);
                    let of_table = state.earliest_of_table(now, &config, horizon);
                    assert_eq!(earlier(others, ping), of_table);
                    let in_table = state.deadline(now, &config, DeadlineKind::NextPing);
                    assert_eq!(ping, in_table);
                }
                if let Action::SendPing(id) = policy.poll(now) {
                    if random.percent(67) {
                        policy.observe(now, Event::PingSent(id));
                    }
                }
            }
        });
    }
}
