//! A second implementation of the specification, with one field for each fact that it names.
//!
//! The reference is written from docs/SPEC.md alone and shares no code with the policy. The policy
//! merges fields, omits rows and skips work to be small and fast; the reference does none of that.
//! Each poll builds the whole table and checks its rows in order.
//!
//! It uses only public types, which the parent module imports, so that tests and fuzz targets
//! outside this crate can include this file.

use core::borrow::Borrow;
use core::time::Duration;

use super::{
    Action, CloseReason, DeadlineKind, Event, IdleScope, Phase, PingId, PongEvidence,
    TimeoutConfig, TimeoutPolicy, Timestamp,
};

/// An instant or a duration, in nanoseconds.
pub(super) type Nanos = u64;

/// A deadline that never expires, because its limit is off or it is past the last representable
/// instant.
pub(super) const NEVER: Nanos = u64::MAX;

const SECOND: Nanos = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Reference {
    seed: u64,
    /// The latest instant seen.
    pub(super) now: Nanos,
    pub(super) phase: Phase,
    pub(super) cause: Option<CloseReason>,
    /// While `Opening`, when the policy was created.
    pub(super) opened: Nanos,
    pub(super) last_inbound: Nanos,
    pub(super) last_excused: Nanos,
    pub(super) last_flush: Nanos,
    pub(super) last_data: Nanos,
    /// When the last ping was flushed; before the first, the opening.
    pub(super) ping_flushed: Nanos,
    pub(super) ping: Ping,
    /// How many pings were requested.
    pub(super) pings: u64,
    /// Whether a probe made a ping due that has not been requested yet.
    pub(super) ping_due: bool,
    /// Whether the first pong of the latest ping is still to come.
    pub(super) pong_awaited: bool,
    /// Whether the latest ping's clock restarted in flight.
    pub(super) round_trip_void: bool,
    /// How many pongs gave a round-trip time.
    pub(super) pongs: u64,
    /// Latest, min, smoothed, variation, in microseconds.
    round_trip: [u64; 4],
    pub(super) write_clock: Nanos,
    pub(super) partial: u64,
    pub(super) receive_clock: Nanos,
    pub(super) probe: Nanos,
    pub(super) drain: Nanos,
    pub(super) closing_began: Nanos,
    pub(super) ping_credit: Nanos,
    /// When the peer's pings became a flood.
    pub(super) flooded: Nanos,
    /// When the latest grace of this phase began.
    pub(super) grace: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    Quiet,
    Requested { at: Nanos },
    InFlight { since: Nanos },
}

impl Reference {
    pub(super) fn new(seed: u64, now: Timestamp, phase: Phase) -> Self {
        let now = now.as_nanos();
        Self {
            seed,
            now,
            phase,
            cause: None,
            opened: now,
            last_inbound: now,
            last_excused: now,
            last_flush: now,
            last_data: now,
            ping_flushed: now,
            ping: Ping::Quiet,
            pings: 0,
            ping_due: false,
            pong_awaited: false,
            round_trip_void: false,
            pongs: 0,
            round_trip: [0; 4],
            write_clock: NEVER,
            partial: 0,
            receive_clock: NEVER,
            probe: NEVER,
            drain: NEVER,
            closing_began: NEVER,
            ping_credit: now,
            flooded: NEVER,
            grace: None,
        }
    }

    pub(super) fn observe(&mut self, limits: &Limits, now: Timestamp, event: Event) {
        self.advance_clock(now);
        match (self.phase, event) {
            (Phase::Closed | Phase::Aborted(_), _) => {}
            (_, Event::Closed) => self.enter(Phase::Closed),
            (Phase::Opening, Event::Opened) => {
                *self = Self::new(self.seed, Timestamp::from_nanos(self.now), Phase::Open);
            }
            (Phase::Open, event) => self.observe_while_open(limits, event),
            _ => {}
        }
    }

    fn observe_while_open(&mut self, limits: &Limits, event: Event) {
        let now = self.now;
        let write_waiting = self.write_clock != NEVER;
        match event {
            Event::Recv => {
                self.on_inbound(limits);
                self.last_data = now;
                self.partial = 0;
                self.receive_clock = NEVER;
            }
            Event::RecvPartial { total } => {
                if total > self.partial {
                    self.on_inbound(limits);
                    self.last_data = now;
                    if let Some(rate) = limits.min_data_rate {
                        if self.receive_clock == NEVER {
                            self.receive_clock = after(now, 5 * SECOND);
                        }
                        let grew_by = total - self.partial;
                        let moved = after(self.receive_clock, time_at_rate(grew_by, rate));
                        self.receive_clock = moved.min(after(now, 30 * SECOND));
                    }
                }
                if total == 0 {
                    self.receive_clock = NEVER;
                }
                self.partial = total;
            }
            Event::Ping => {
                self.on_inbound(limits);
                if let (Some(rate), NEVER) = (limits.max_ping_rate, self.flooded) {
                    let credit = after(self.ping_credit.max(now), time_at_rate(1, rate));
                    self.ping_credit = credit.min(Timestamp::MAX.as_nanos());
                    if self.ping_credit - now > 60 * SECOND {
                        self.flooded = now;
                    }
                }
            }
            Event::Pong(id) => {
                self.on_inbound(limits);
                if self.pong_awaited && id == Some(self.latest_ping()) {
                    self.on_first_pong();
                }
            }
            Event::SendStart if write_waiting => {}
            Event::SendStart => self.write_clock = deadline(now, limits.message),
            Event::SendProgress { bytes: 0 } => {}
            Event::SendProgress { bytes } => {
                self.last_data = now;
                if write_waiting {
                    let cap = deadline(now, limits.message);
                    self.write_clock = match limits.min_data_rate {
                        Some(rate) => after(self.write_clock, time_at_rate(bytes, rate)).min(cap),
                        None => cap,
                    };
                }
                self.on_progress(write_waiting);
            }
            Event::SendOk => {
                self.write_clock = NEVER;
                self.last_flush = now;
                self.last_data = now;
                self.on_progress(write_waiting);
            }
            Event::Flushed => {
                self.write_clock = NEVER;
                self.last_flush = now;
                self.on_progress(write_waiting);
            }
            Event::PingSent(id) => match self.ping {
                Ping::Requested { at } if id == self.latest_ping() => {
                    // SPEC E-49.
                    if limits.stall_tolerance.is_some_and(|most| now - at > most) {
                        self.excuse(at);
                    }
                    self.write_clock = NEVER;
                    self.last_flush = now;
                    self.ping_flushed = now;
                    self.move_probe(now - at);
                    self.ping = match limits.pong {
                        Some(_) => Ping::InFlight { since: now },
                        None => Ping::Quiet,
                    };
                }
                _ => {}
            },
            Event::Probe { within } => {
                self.probe = self.probe.min(after(now, nanos(within)));
                self.ping_due |= self.ping == Ping::Quiet;
            }
            Event::Drain { within } => {
                let part = mix(self.seed ^ mix(u64::MAX)) >> 32;
                let wait = (u128::from(nanos(within)) * u128::from(part)) >> 32;
                self.drain = self.drain.min(after(now, wait as Nanos));
            }
            Event::CloseStart | Event::PeerClose => {
                self.enter(Phase::Closing);
                self.closing_began = now;
            }
            _ => {}
        }
    }

    /// SPEC E-17, E-18.
    fn on_inbound(&mut self, limits: &Limits) {
        self.last_inbound = self.now;
        if limits.any_evidence {
            self.probe = NEVER;
            if matches!(self.ping, Ping::InFlight { .. }) {
                self.ping = Ping::Quiet;
            }
        }
    }

    /// SPEC K-5 to K-7.
    fn on_first_pong(&mut self) {
        self.pong_awaited = false;
        self.probe = NEVER;
        if matches!(self.ping, Ping::Requested { .. }) {
            self.last_flush = self.now;
            self.ping_flushed = self.now;
        } else if !self.round_trip_void {
            self.take_sample((self.now - self.ping_flushed) / 1000);
        }
        self.ping = Ping::Quiet;
    }

    fn take_sample(&mut self, sample: u64) {
        let [_, min, smoothed, variation] = self.round_trip;
        self.round_trip = match self.pongs {
            0 => [sample, sample, sample, sample / 2],
            _ => [
                sample,
                min.min(sample),
                (7 * smoothed + sample) / 8,
                (3 * variation + smoothed.abs_diff(sample)) / 4,
            ],
        };
        self.pongs += 1;
    }

    /// SPEC E-32 to E-34.
    fn on_progress(&mut self, write_waited: bool) {
        let now = self.now;
        match self.ping {
            Ping::Requested { at } => {
                self.ping = Ping::Requested { at: now };
                self.move_probe(now - at);
            }
            Ping::InFlight { since } if write_waited => {
                self.ping = Ping::InFlight { since: now };
                self.ping_flushed = now;
                self.round_trip_void = true;
                self.move_probe(now - since);
            }
            _ => return,
        }
        self.last_excused = now;
    }

    fn move_probe(&mut self, by: Nanos) {
        self.probe = after(self.probe, by);
    }

    /// Call this together with the policy's `set_config`, with the new limits.
    pub(super) fn set_config(&mut self, limits: &Limits, now: Timestamp) {
        self.advance_clock(now);
        if limits.pong.is_none() && matches!(self.ping, Ping::InFlight { .. }) {
            self.ping = Ping::Quiet;
        }
        if limits.message.is_none() {
            self.write_clock = NEVER;
        }
        if limits.min_data_rate.is_none() {
            self.receive_clock = NEVER;
        }
    }

    pub(super) fn poll(&mut self, limits: &Limits, now: Timestamp) -> Action {
        self.decide(limits, now, false)
    }

    pub(super) fn poll_unread(&mut self, limits: &Limits, now: Timestamp) -> Action {
        self.decide(limits, now, true)
    }

    fn decide(&mut self, limits: &Limits, now: Timestamp, unread: bool) -> Action {
        self.advance_clock(now);
        if let Phase::Aborted(reason) = self.phase {
            return Action::Abort(reason);
        }
        let rows = self.rows(limits);
        // No grace begins while a covered row has expired again (SPEC G-5). Rows marked *unread*
        // count here in both kinds of poll (SPEC G-6).
        let expired_again = rows.iter().any(|row| {
            self.is_covered(limits, row) && self.effective_deadline(limits, row) <= self.now
        });
        let decided = || rows.iter().filter(|row| !(unread && row.unread));

        for row in decided() {
            let late = row.peer
                && row.at < self.now
                && limits
                    .stall_tolerance
                    .is_some_and(|tolerance| self.now - row.at > tolerance);
            if late && !expired_again && !self.is_covered(limits, row) {
                self.grace = Some(self.now);
            }
            if self.effective_deadline(limits, row) <= self.now {
                return self.expire(row);
            }
        }
        let next = decided()
            .map(|row| self.effective_deadline(limits, row))
            .min();
        let cap = match self.phase {
            Phase::Open => deadline(self.now, limits.heartbeat),
            _ => NEVER,
        };
        Action::Idle {
            until: instant(next.unwrap_or(NEVER).min(cap)),
        }
    }

    fn expire(&mut self, row: &Row) -> Action {
        match row.on_expiry {
            OnExpiry::SendPing => {
                self.request_ping(row.at);
                Action::SendPing(self.latest_ping())
            }
            OnExpiry::Close(reason) => {
                self.cause = self.cause.or(Some(reason));
                self.enter(Phase::Closing);
                self.closing_began = self.now;
                Action::Close(reason)
            }
            OnExpiry::Abort(reason) => {
                self.cause = self.cause.or(Some(reason));
                self.enter(Phase::Aborted(reason));
                Action::Abort(reason)
            }
        }
    }

    /// Requests the ping that was due at `due` (SPEC E-37, E-38).
    fn request_ping(&mut self, due: Nanos) {
        if self.ping_flushed <= self.last_inbound.max(self.last_excused) {
            self.excuse(due);
        }
        self.pings += 1;
        self.ping = Ping::Requested { at: self.now };
        self.ping_due = false;
        self.pong_awaited = true;
        self.round_trip_void = false;
    }

    /// SPEC E-38.
    fn excuse(&mut self, since: Nanos) {
        let last = self.last_inbound.max(self.last_excused);
        let since = since.max(last);
        if since < self.now {
            self.last_excused = last + (self.now - since);
        }
    }

    /// SPEC G-9.
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.grace = None;
    }

    /// Whether the latest grace covers a row (SPEC G-3).
    fn is_covered(&self, limits: &Limits, row: &Row) -> bool {
        row.peer
            && limits.stall_tolerance.is_some()
            && self.grace.is_some_and(|began| row.at <= began)
    }

    /// When a row expires, with the latest grace applied.
    pub(super) fn effective_deadline(&self, limits: &Limits, row: &Row) -> Nanos {
        match self.grace {
            Some(began) if self.is_covered(limits, row) => deadline(began, limits.stall_tolerance),
            _ => row.at,
        }
    }

    /// The earliest deadline of the table, with the latest grace applied.
    pub(super) fn next_deadline(&self, limits: &Limits) -> Option<Timestamp> {
        let rows = self.rows(limits);
        let next = rows
            .iter()
            .map(|row| self.effective_deadline(limits, row))
            .min();
        instant(next.unwrap_or(NEVER))
    }

    /// When a deadline expires, ignoring any grace; `NEVER` if it is not set.
    pub(super) fn deadline(&self, limits: &Limits, kind: DeadlineKind) -> Nanos {
        let rows = self.rows(limits);
        let row = rows.iter().find(|row| row.kind == kind && row.at != NEVER);
        row.map_or(NEVER, |row| row.at)
    }

    /// The table, in the order in which a poll checks its rows. Deadlines that are not set are
    /// `NEVER`.
    fn rows(&self, limits: &Limits) -> [Row; 10] {
        use CloseReason as Why;
        use DeadlineKind as Kind;
        use OnExpiry::{Abort, Close, SendPing};

        let none = Row::local(Kind::Connection, NEVER, SendPing);
        let mut rows = [none; 10];
        match self.phase {
            Phase::Opening => {
                let at = deadline(self.opened, limits.handshake);
                rows[0] = Row::peer(Kind::Handshake, at, Abort(Why::HandshakeTimeout));
            }
            Phase::Closing => {
                let at = after(self.closing_began, limits.close);
                rows[0] = Row::peer(Kind::Close, at, Abort(Why::CloseTimeout));
            }
            Phase::Open => {
                let connection = self.less_jitter(limits, limits.connection, 0);
                let ping_write = limits.message.or(limits.pong);
                let (requested, in_flight) = match self.ping {
                    Ping::Quiet => (NEVER, NEVER),
                    Ping::Requested { at } => (deadline(at, ping_write), NEVER),
                    Ping::InFlight { since } => (NEVER, deadline(since, limits.pong)),
                };
                let bounded = matches!(self.ping, Ping::Requested { .. }) && ping_write.is_some();
                let probe = if bounded { NEVER } else { self.probe };
                let idle = match limits.inbound_scope {
                    true => self.last_inbound.max(self.last_excused),
                    false => self.last_data,
                };
                let idle = deadline(idle, limits.idle);
                let ping = self.next_ping(limits);
                rows = [
                    Row::local(
                        Kind::Connection,
                        deadline(self.opened, connection),
                        Close(Why::ConnectionTimeout),
                    ),
                    Row::local(Kind::Drain, self.drain, Close(Why::Drain)),
                    Row::peer(Kind::Write, self.write_clock, Abort(Why::MessageTimeout)),
                    Row::peer(Kind::PingWrite, requested, Abort(Why::MessageTimeout)),
                    Row::local(Kind::PingFlood, self.flooded, Abort(Why::PingFlood)),
                    Row::unread(Kind::Receive, self.receive_clock, Abort(Why::SlowReceive)),
                    Row::unread(Kind::Probe, probe, Abort(Why::PongTimeout)),
                    Row::unread(Kind::Pong, in_flight, Abort(Why::PongTimeout)),
                    Row::unread(Kind::Idle, idle, Close(Why::IdleTimeout)),
                    Row::local(Kind::NextPing, ping, SendPing),
                ];
                if limits.inbound_scope && ping < idle {
                    rows.swap(8, 9);
                }
            }
            _ => {}
        }
        rows
    }

    fn next_ping(&self, limits: &Limits) -> Nanos {
        if self.ping != Ping::Quiet {
            return NEVER;
        }
        let from = match limits.any_evidence {
            true => self
                .last_inbound
                .min(self.last_flush)
                .max(self.ping_flushed),
            false => self.ping_flushed,
        };
        let interval = self.less_jitter(limits, limits.ping, self.pings.wrapping_add(1));
        let usual = deadline(from, interval);
        match self.ping_due {
            true => usual.min(self.now),
            false => usual,
        }
    }

    /// Shortens a limit by a random part (SPEC S-13), which depends on the seed and the ping's
    /// number (SPEC S-30), or 0 for the connection's lifetime.
    fn less_jitter(&self, limits: &Limits, limit: Option<Nanos>, number: u64) -> Option<Nanos> {
        let draw = mix(self.seed ^ mix(number)) >> 48;
        let part = ((limits.jitter * draw) << 16) / 1_000_000_000;
        limit.map(|limit| limit - ((u128::from(limit) * u128::from(part)) >> 32) as Nanos)
    }

    pub(super) fn latest_ping(&self) -> PingId {
        let number = self.pings.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let bits = mix(self.seed.wrapping_add(number));
        PingId::from_payload(&bits.to_be_bytes()).expect("eight bytes are an ID")
    }

    /// SPEC T-2.
    fn advance_clock(&mut self, now: Timestamp) {
        self.now = self.now.max(now.as_nanos());
    }

    /// Compares the results of all queries of a policy. The error names the first difference.
    pub(super) fn compare<C: Borrow<TimeoutConfig>>(
        &self,
        limits: &Limits,
        policy: &TimeoutPolicy<C>,
    ) -> Result<(), &'static str> {
        let now = Timestamp::from_nanos(self.now);
        let status = policy.status(now);
        let since = |at: Nanos| Duration::from_nanos(self.now - at);
        let (requested, in_flight) = match self.ping {
            Ping::Quiet => (None, None),
            Ping::Requested { at } => (Some(since(at)), None),
            Ping::InFlight { since: at } => (None, Some(since(at))),
        };
        let grace_left = self
            .grace
            .map(|began| deadline(began, limits.stall_tolerance))
            .filter(|&end| end > self.now && end != NEVER)
            .map(|end| Duration::from_nanos(end - self.now));
        let round_trip = policy.rtt().map(|rtt| {
            [rtt.latest, rtt.min, rtt.smoothed, rtt.variation].map(|length| length.as_micros())
        });
        let expected = (self.pongs > 0).then_some(self.round_trip.map(u128::from));
        let rows = self.rows(limits);
        let deadlines = rows.iter().filter_map(|row| {
            let at = instant(self.effective_deadline(limits, row))?;
            Some((row.kind, at))
        });

        let open = self.phase == Phase::Open;
        let last = self.last_inbound.max(self.last_excused);
        for (agrees, what) in [
            (
                policy.next_deadline() == self.next_deadline(limits),
                "next deadline",
            ),
            (status.deadlines.iter().eq(deadlines), "deadlines"),
            (policy.phase() == self.phase, "phase"),
            (policy.cause() == self.cause, "cause"),
            (policy.age(now) == since(self.opened), "age"),
            (policy.pings_sent() == self.pings, "pings sent"),
            (policy.pongs_received() == self.pongs, "pongs received"),
            (round_trip == expected, "round-trip time"),
            (!open || status.silent == since(last), "silence"),
            (
                !open || status.since_flush == since(self.last_flush),
                "time since the last flush",
            ),
            (
                !open || status.since_data == since(self.last_data),
                "time since the last data",
            ),
            (
                !open || status.ping_unsent == requested,
                "time of a requested ping",
            ),
            (
                !open || status.ping_unanswered == in_flight,
                "time of a ping in flight",
            ),
            (
                !open || status.write_waiting == (self.write_clock != NEVER),
                "whether a write waits",
            ),
            (
                !open || status.partial_bytes == self.partial,
                "partial bytes",
            ),
            (!open || status.grace_left == grace_left, "grace left"),
        ] {
            if !agrees {
                return Err(what);
            }
        }
        Ok(())
    }
}

/// The limits of a configuration in nanoseconds; `None` if a limit is off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) handshake: Option<Nanos>,
    pub(super) heartbeat: Option<Nanos>,
    pub(super) connection: Option<Nanos>,
    pub(super) message: Option<Nanos>,
    pub(super) idle: Option<Nanos>,
    pub(super) ping: Option<Nanos>,
    pub(super) pong: Option<Nanos>,
    pub(super) close: Nanos,
    pub(super) stall_tolerance: Option<Nanos>,
    pub(super) min_data_rate: Option<u32>,
    pub(super) max_ping_rate: Option<u32>,
    /// In billionths.
    pub(super) jitter: u64,
    pub(super) inbound_scope: bool,
    pub(super) any_evidence: bool,
}

impl Limits {
    pub(super) fn new(config: &TimeoutConfig) -> Self {
        Self {
            handshake: config.handshake_timeout().map(nanos),
            heartbeat: config.heartbeat_interval().map(nanos),
            connection: config.connection_timeout().map(nanos),
            message: config.message_timeout().map(nanos),
            idle: config.idle_timeout().map(nanos),
            ping: config.ping_interval().map(nanos),
            pong: config.pong_timeout().map(nanos),
            close: nanos(config.close_timeout()),
            stall_tolerance: config.stall_tolerance().map(nanos),
            min_data_rate: config.min_data_rate(),
            max_ping_rate: config.max_ping_rate(),
            jitter: (config.jitter() * 1e9 + 0.5) as u64,
            inbound_scope: config.idle_scope() == IdleScope::Inbound,
            any_evidence: config.pong_evidence() == PongEvidence::Any,
        }
    }
}

/// A row of the table of deadlines.
#[derive(Clone, Copy)]
pub(super) struct Row {
    kind: DeadlineKind,
    at: Nanos,
    on_expiry: OnExpiry,
    peer: bool,
    unread: bool,
}

#[derive(Clone, Copy)]
enum OnExpiry {
    SendPing,
    Close(CloseReason),
    Abort(CloseReason),
}

impl Row {
    fn local(kind: DeadlineKind, at: Nanos, on_expiry: OnExpiry) -> Self {
        Self {
            kind,
            at,
            on_expiry,
            peer: false,
            unread: false,
        }
    }

    fn peer(kind: DeadlineKind, at: Nanos, on_expiry: OnExpiry) -> Self {
        Self {
            peer: true,
            ..Self::local(kind, at, on_expiry)
        }
    }

    fn unread(kind: DeadlineKind, at: Nanos, on_expiry: OnExpiry) -> Self {
        Self {
            unread: true,
            ..Self::peer(kind, at, on_expiry)
        }
    }
}

fn after(at: Nanos, length: Nanos) -> Nanos {
    at.saturating_add(length)
}

fn deadline(from: Nanos, limit: Option<Nanos>) -> Nanos {
    limit.map_or(NEVER, |limit| after(from, limit))
}

fn instant(at: Nanos) -> Option<Timestamp> {
    (at != NEVER).then(|| Timestamp::from_nanos(at))
}

fn nanos(length: Duration) -> Nanos {
    Nanos::try_from(length.as_nanos()).unwrap_or(Nanos::MAX)
}

/// SPEC T-6.
fn time_at_rate(bytes: u64, rate: u32) -> Nanos {
    let nanos = u128::from(bytes) * u128::from(SECOND) / u128::from(rate);
    Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
}

/// The finalizer of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
