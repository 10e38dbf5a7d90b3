//! An implementation of the specification as queries over a log.
//!
//! The oracle keeps a line for every call and nothing else: no clock, no state of a ping, no
//! counter. It computes every answer from the log each time, by the rules of `docs/SPEC.md`, which
//! the comments cite. It was written from that page alone, shares no code with the policy, and is
//! deliberately simple and slow.

pub(crate) mod case;

use std::time::Duration;

use ws_timeout::{
    Action, CloseReason, DeadlineKind, Event, IdleScope, Phase, PingId, PongEvidence, Rtt,
    TimeoutConfig, Timestamp,
};

/// An instant or a duration in nanoseconds, wide enough that no sum or product can overflow.
type Nanos = i128;

/// A deadline past this instant never expires (SPEC T-4).
const LAST: Nanos = (1 << 64) - 2;

const SECOND: Nanos = 1_000_000_000;

pub(crate) struct Oracle {
    seed: u64,
    /// Every configuration so far, the latest last.
    configs: Vec<TimeoutConfig>,
    log: Vec<Line>,
}

/// A call, and its effect.
struct Line {
    at: Nanos,
    /// The index of the configuration from this line on.
    config: usize,
    /// The phase from this line on.
    phase: Phase,
    what: What,
    effect: Effect,
}

enum What {
    Created,
    /// An event that fits its phase.
    Event(Event),
    /// A call that only advances the clock: an ignored event, or a poll that finds nothing to do.
    TimePassed,
    Configured,
    /// A poll requested the ping with this number.
    Requested(u64),
    /// A poll returned this verdict.
    Verdict(CloseReason),
    /// A poll began a grace.
    Grace,
}

/// The effect of an event, from the table of events (SPEC E-1 to E-16).
#[derive(Clone, Copy, Default)]
struct Effect {
    inbound: bool,
    activity: bool,
    flush: bool,
    /// The peer is excused up to this instant.
    excused: Option<Nanos>,
    write_clock_stops: bool,
    receive_clock_stops: bool,
    /// The clock of the outstanding ping restarts.
    ping_restarts: bool,
    /// The outstanding ping is flushed, counts as flushed now, or was sent, as its pong proves.
    ping_flushed: bool,
    /// A `Probe`'s deadline moves later by this.
    probe_moves_by: Nanos,
    /// A ping in flight becomes `Quiet`.
    ping_becomes_quiet: bool,
    probe_answered: bool,
    /// A `Probe` makes a ping due immediately.
    ping_due: bool,
    /// A round-trip time in microseconds.
    sample: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Ping {
    Quiet,
    Requested { at: Nanos },
    InFlight { since: Nanos },
}

/// A row of the table of deadlines whose deadline is set.
struct Row {
    kind: DeadlineKind,
    deadline: Nanos,
    on_expiry: OnExpiry,
    peer: bool,
    unread: bool,
}

enum OnExpiry {
    Abort(CloseReason),
    Close(CloseReason),
    SendPing,
}

impl Line {
    /// Whether the clock of a ping restarted in flight.
    fn restarts_in_flight(&self) -> bool {
        self.effect.ping_restarts && self.effect.ping_flushed
    }
}

impl Oracle {
    /// SPEC P-2.
    pub(crate) fn new(config: TimeoutConfig, seed: u64, now: Timestamp, phase: Phase) -> Self {
        let created = Line {
            at: nanos(now),
            config: 0,
            phase,
            what: What::Created,
            effect: Effect::default(),
        };
        Self {
            seed,
            configs: vec![config],
            log: vec![created],
        }
    }

    pub(crate) fn observe(&mut self, now: Timestamp, event: Event) {
        let now = self.clamp(now);
        let phase = match (self.phase(), event) {
            (Phase::Closed | Phase::Aborted(_), _) => None,
            // SPEC E-15.
            (_, Event::Closed) => Some(Phase::Closed),
            // SPEC E-44.
            (Phase::Opening, Event::Opened) => Some(Phase::Open),
            (Phase::Opening, _) => None,
            // SPEC E-46.
            (Phase::Closing, _) => None,
            // SPEC E-45.
            (Phase::Open, Event::Opened) => None,
            (Phase::Open, Event::CloseStart | Event::PeerClose) => Some(Phase::Closing),
            (Phase::Open, _) => Some(Phase::Open),
            (phase, _) => panic!("{phase:?} is not in the specification"),
        };
        let effect = match (self.phase(), phase) {
            (Phase::Open, Some(Phase::Open)) => self.effect(now, event),
            (_, Some(_)) => Some(Effect::default()),
            (_, None) => None,
        };
        match (phase, effect) {
            (Some(phase), Some(effect)) => self.write(now, phase, What::Event(event), effect),
            _ => self.write(now, self.phase(), What::TimePassed, Effect::default()),
        }
    }

    pub(crate) fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        let effect = Effect {
            // SPEC S-27.
            ping_becomes_quiet: config.pong_timeout().is_none(),
            // SPEC S-28.
            write_clock_stops: config.message_timeout().is_none(),
            receive_clock_stops: config.min_data_rate().is_none(),
            ..Effect::default()
        };
        self.configs.push(config);
        let now = self.clamp(now);
        self.write(now, self.phase(), What::Configured, effect);
    }

    pub(crate) fn poll(&mut self, now: Timestamp) -> Action {
        self.decide(now, true)
    }

    /// SPEC I-5.
    pub(crate) fn poll_unread(&mut self, now: Timestamp) -> Action {
        self.decide(now, false)
    }

    fn decide(&mut self, now: Timestamp, all_read: bool) -> Action {
        let now = self.clamp(now);
        self.write(now, self.phase(), What::TimePassed, Effect::default());
        match self.phase() {
            // SPEC A-8.
            Phase::Aborted(reason) => return Action::Abort(reason),
            Phase::Closed => return Action::Idle { until: None },
            _ => {}
        }
        // SPEC D-13, D-14.
        let rows = self.rows(now);
        for row in rows.iter().filter(|row| all_read || !row.unread) {
            if self.begins_grace(now, row, &rows) {
                self.write(now, self.phase(), What::Grace, Effect::default());
            }
            if self
                .effective_deadline(row)
                .is_some_and(|deadline| deadline <= now)
            {
                return self.expire(now, row);
            }
        }
        let earliest = rows
            .iter()
            .filter(|row| all_read || !row.unread)
            .filter_map(|row| self.effective_deadline(row))
            .min();
        // SPEC S-2, T-4.
        let heartbeat = in_nanos(self.config().heartbeat_interval())
            .map(|interval| now + interval)
            .filter(|&cap| cap <= LAST && self.phase() == Phase::Open);
        let until = earliest.into_iter().chain(heartbeat).min();
        Action::Idle {
            until: until.map(timestamp),
        }
    }

    fn expire(&mut self, now: Nanos, row: &Row) -> Action {
        match row.on_expiry {
            OnExpiry::SendPing => {
                let number = self.pings_sent() + 1;
                let effect = self.requested_late(now, row.deadline);
                self.write(now, self.phase(), What::Requested(number), effect);
                Action::SendPing(self.ping_id(number))
            }
            OnExpiry::Close(reason) => {
                self.write(
                    now,
                    Phase::Closing,
                    What::Verdict(reason),
                    Effect::default(),
                );
                Action::Close(reason)
            }
            OnExpiry::Abort(reason) => {
                let phase = Phase::Aborted(reason);
                self.write(now, phase, What::Verdict(reason), Effect::default());
                Action::Abort(reason)
            }
        }
    }

    /// SPEC I-8 to I-10.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.rows(self.latest())
            .iter()
            .filter_map(|row| self.effective_deadline(row))
            .min()
            .map(timestamp)
    }

    /// Every deadline that is set, in the table's order, with the latest grace applied.
    pub(crate) fn deadlines(&self, now: Timestamp) -> Vec<(DeadlineKind, Timestamp)> {
        self.rows(self.clamp(now))
            .iter()
            .filter_map(|row| Some((row.kind, timestamp(self.effective_deadline(row)?))))
            .collect()
    }

    /// Whether the deadline of that kind has expired at `now`, ignoring any grace.
    pub(crate) fn is_due(&self, kind: DeadlineKind, now: Timestamp) -> bool {
        let now = self.clamp(now);
        self.phase() == Phase::Open
            && self
                .rows(now)
                .iter()
                .any(|row| row.kind == kind && row.deadline <= now)
    }

    pub(crate) fn remaining_lifetime(&self, now: Timestamp) -> Option<Duration> {
        let now = self.clamp(now);
        let rows = self.rows(now);
        let end = rows
            .iter()
            .find(|row| row.kind == DeadlineKind::Connection)?;
        Some(duration((end.deadline - now).max(0)))
    }

    pub(crate) fn age(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.opened())
    }

    pub(crate) fn closing(&self, now: Timestamp) -> Option<Duration> {
        let is_closing = self.phase() == Phase::Closing;
        is_closing.then(|| duration(self.clamp(now) - self.closing_began()))
    }

    pub(crate) fn silent(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_inbound_or_excused())
    }

    pub(crate) fn since_flush(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_flush())
    }

    pub(crate) fn since_data(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_activity())
    }

    pub(crate) fn ping_unsent(&self, now: Timestamp) -> Option<Duration> {
        match self.ping() {
            Ping::Requested { at } => Some(duration(self.clamp(now) - at)),
            _ => None,
        }
    }

    pub(crate) fn ping_unanswered(&self, now: Timestamp) -> Option<Duration> {
        match self.ping() {
            Ping::InFlight { since } => Some(duration(self.clamp(now) - since)),
            _ => None,
        }
    }

    pub(crate) fn write_waiting(&self) -> bool {
        self.write_clock().is_some()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.last_line().phase
    }

    /// SPEC A-11.
    pub(crate) fn cause(&self) -> Option<CloseReason> {
        self.log.iter().find_map(|line| match line.what {
            What::Verdict(reason) => Some(reason),
            _ => None,
        })
    }

    pub(crate) fn pings_sent(&self) -> u64 {
        self.log
            .iter()
            .rev()
            .find_map(|line| match line.what {
                What::Requested(number) => Some(number),
                _ => None,
            })
            .unwrap_or(0)
    }

    pub(crate) fn pongs_received(&self) -> u64 {
        self.samples().count() as u64
    }

    /// Latest, min, smoothed, variation (SPEC K-12 to K-14).
    pub(crate) fn rtt(&self) -> Option<[u64; 4]> {
        let mut samples = self.samples().map(u128::from);
        let first = samples.next()?;
        let (mut latest, mut min, mut smoothed, mut variation) = (first, first, first, first / 2);
        for sample in samples {
            latest = sample;
            min = min.min(sample);
            variation = (3 * variation + smoothed.abs_diff(sample)) / 4;
            smoothed = (7 * smoothed + sample) / 8;
        }
        Some([latest, min, smoothed, variation].map(|micros| micros as u64))
    }

    /// SPEC K-3.
    pub(crate) fn ping_id(&self, number: u64) -> PingId {
        let bits = mix(self
            .seed
            .wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        PingId::from_payload(&bits.to_be_bytes()).expect("eight bytes are an id")
    }

    /// The column "effect" of the table of events; `None` if the event is ignored.
    fn effect(&self, now: Nanos, event: Event) -> Option<Effect> {
        let nothing = Effect::default();
        Some(match event {
            // SPEC E-2.
            Event::Recv => Effect {
                activity: true,
                receive_clock_stops: true,
                ..self.inbound()
            },
            // SPEC E-19 to E-22.
            Event::RecvPartial { total } if total > self.partial_total() => Effect {
                activity: true,
                ..self.inbound()
            },
            Event::RecvPartial { total } => Effect {
                receive_clock_stops: total == 0,
                ..nothing
            },
            Event::Ping => self.inbound(),
            Event::Pong(id) => self.pong(now, id),
            Event::SendStart => nothing,
            // SPEC E-29.
            Event::SendProgress { bytes: 0 } => return None,
            Event::SendProgress { .. } => Effect {
                activity: true,
                ..self.progress(now)
            },
            // SPEC E-8.
            Event::SendOk => Effect {
                write_clock_stops: true,
                flush: true,
                activity: true,
                ..self.progress(now)
            },
            // SPEC E-9.
            Event::Flushed => Effect {
                write_clock_stops: true,
                flush: true,
                ..self.progress(now)
            },
            // SPEC E-10, E-30.
            Event::PingSent(id) if self.is_requested(id) => Effect {
                write_clock_stops: true,
                flush: true,
                ping_flushed: true,
                // SPEC E-49.
                excused: self.flushed_late(now),
                // SPEC E-36.
                probe_moves_by: self.since_ping_clock(now),
                ping_becomes_quiet: self.config().pong_timeout().is_none(),
                ..nothing
            },
            // SPEC E-31.
            Event::PingSent(_) => return None,
            // SPEC E-41.
            Event::Probe { .. } => Effect {
                ping_due: self.ping() == Ping::Quiet,
                ..nothing
            },
            Event::Drain { .. } => nothing,
            Event::Tick => return None,
            Event::Opened | Event::CloseStart | Event::PeerClose | Event::Closed => nothing,
            event => panic!("{event:?} is not in the specification"),
        })
    }

    /// SPEC E-17, E-18.
    fn inbound(&self) -> Effect {
        let answers = self.config().pong_evidence() == PongEvidence::Any;
        Effect {
            inbound: true,
            ping_becomes_quiet: answers,
            probe_answered: answers,
            ..Effect::default()
        }
    }

    /// SPEC E-32 to E-35.
    fn progress(&self, now: Nanos) -> Effect {
        let in_flight = match self.ping() {
            Ping::Requested { .. } => false,
            Ping::InFlight { .. } if self.write_clock().is_some() => true,
            Ping::InFlight { .. } | Ping::Quiet => return Effect::default(),
        };
        Effect {
            excused: Some(now),
            ping_restarts: true,
            ping_flushed: in_flight,
            // SPEC E-36.
            probe_moves_by: self.since_ping_clock(now),
            ..Effect::default()
        }
    }

    /// How much later a `Probe`'s deadline moves (SPEC E-36).
    fn since_ping_clock(&self, now: Nanos) -> Nanos {
        match self.ping() {
            Ping::Quiet => 0,
            Ping::Requested { at } => now - at,
            Ping::InFlight { since } => now - since,
        }
    }

    /// SPEC E-37, E-38.
    fn requested_late(&self, now: Nanos, deadline: Nanos) -> Effect {
        let first = self.last_flushed_ping() <= self.last_inbound_or_excused();
        Effect {
            excused: self.excuse(now, deadline).filter(|_| first),
            ..Effect::default()
        }
    }

    /// SPEC E-49.
    fn flushed_late(&self, now: Nanos) -> Option<Nanos> {
        let took = self.since_ping_clock(now);
        let tolerance = in_nanos(self.config().stall_tolerance())?;
        (took > tolerance).then(|| self.excuse(now, now - took))?
    }

    /// The instant up to which the peer is excused if its silence since `since` is excused (SPEC
    /// E-38).
    fn excuse(&self, now: Nanos, since: Nanos) -> Option<Nanos> {
        let last = self.last_inbound_or_excused();
        let excuse = now - last.max(since);
        (excuse > 0).then_some(last + excuse)
    }

    fn pong(&self, now: Nanos, id: Option<PingId>) -> Effect {
        let latest = self.pings_sent();
        let of_the_latest = |id| latest > 0 && id == Some(self.ping_id(latest));
        let repeated = self
            .since_request()
            .iter()
            .any(|line| matches!(line.what, What::Event(Event::Pong(id)) if of_the_latest(id)));
        // SPEC K-9.
        if !of_the_latest(id) || repeated {
            return self.inbound();
        }
        // SPEC K-5.
        let answered = Effect {
            ping_becomes_quiet: true,
            probe_answered: true,
            ..self.inbound()
        };
        let lines = self.since_request();
        match lines.iter().find(|line| line.effect.ping_flushed) {
            // SPEC K-10, K-11.
            Some(flushed) => Effect {
                sample: (!lines.iter().any(Line::restarts_in_flight))
                    .then(|| ((now - flushed.at) / 1000) as u64),
                ..answered
            },
            // SPEC K-7.
            None => Effect {
                flush: true,
                ping_flushed: true,
                ..answered
            },
        }
    }

    fn is_requested(&self, id: PingId) -> bool {
        matches!(self.ping(), Ping::Requested { .. }) && id == self.ping_id(self.pings_sent())
    }

    /// SPEC K-1, K-2.
    fn ping(&self) -> Ping {
        let lines = self.since_request();
        let Some(request) = lines.first() else {
            return Ping::Quiet;
        };
        let latest = |is: fn(&Line) -> bool| lines.iter().rev().find(|&line| is(line));
        let Some(flushed) = lines.iter().position(|line| line.effect.ping_flushed) else {
            let restarted = latest(|line| line.effect.ping_restarts);
            return Ping::Requested {
                at: restarted.unwrap_or(request).at,
            };
        };
        if lines[flushed..]
            .iter()
            .any(|line| line.effect.ping_becomes_quiet)
        {
            return Ping::Quiet;
        }
        // SPEC E-34.
        let flushed_again = latest(Line::restarts_in_flight);
        Ping::InFlight {
            since: flushed_again.unwrap_or(&lines[flushed]).at,
        }
    }

    /// Returns the log from where the latest ping was requested; empty if none was.
    fn since_request(&self) -> &[Line] {
        self.since_last(|line| matches!(line.what, What::Requested(_)))
            .unwrap_or(&[])
    }

    fn rows(&self, now: Nanos) -> Vec<Row> {
        let mut rows = Vec::with_capacity(10);
        self.rows_of_the_phase(now, &mut |kind, deadline, on_expiry, peer, unread| {
            // SPEC T-4.
            if let Some(deadline) = deadline.filter(|&deadline| deadline <= LAST) {
                rows.push(Row {
                    kind,
                    deadline,
                    on_expiry,
                    peer,
                    unread,
                });
            }
        });
        rows
    }

    /// The table of deadlines, row by row: deadline, action, about the peer, unread.
    fn rows_of_the_phase(
        &self,
        now: Nanos,
        row: &mut dyn FnMut(DeadlineKind, Option<Nanos>, OnExpiry, bool, bool),
    ) {
        use CloseReason as Reason;
        use DeadlineKind as Kind;
        use OnExpiry::{Abort, Close, SendPing};

        let config = self.config();
        let after = |start: Nanos, limit: Option<Duration>| Some(start + in_nanos(limit)?);
        match self.phase() {
            Phase::Opening => {
                let deadline = after(self.opened(), config.handshake_timeout());
                let on_expiry = Abort(Reason::HandshakeTimeout);
                row(Kind::Handshake, deadline, on_expiry, true, false);
            }
            Phase::Closing => {
                let deadline = after(self.closing_began(), Some(config.close_timeout()));
                row(
                    Kind::Close,
                    deadline,
                    Abort(Reason::CloseTimeout),
                    true,
                    false,
                );
            }
            Phase::Open => {
                let end = self
                    .less_jitter(config.connection_timeout(), 0)
                    .map(|lifetime| self.opened() + lifetime);
                let on_expiry = Close(Reason::ConnectionTimeout);
                row(Kind::Connection, end, on_expiry, false, false);

                row(
                    Kind::Drain,
                    self.drain(),
                    Close(Reason::Drain),
                    false,
                    false,
                );

                let on_expiry = Abort(Reason::MessageTimeout);
                row(Kind::Write, self.write_clock(), on_expiry, true, false);

                // SPEC D-6, D-17.
                let ping_write = match self.ping() {
                    Ping::Requested { at } => {
                        after(at, config.message_timeout().or(config.pong_timeout()))
                    }
                    _ => None,
                };
                let on_expiry = Abort(Reason::MessageTimeout);
                row(Kind::PingWrite, ping_write, on_expiry, true, false);

                let on_expiry = Abort(Reason::PingFlood);
                row(Kind::PingFlood, self.flooded(), on_expiry, false, false);

                let on_expiry = Abort(Reason::SlowReceive);
                row(Kind::Receive, self.receive_clock(), on_expiry, true, true);

                // SPEC D-19.
                let bounded = config.message_timeout().or(config.pong_timeout());
                let waits = matches!(self.ping(), Ping::Requested { .. }) && bounded.is_some();
                let probe = self.probe().filter(|_| !waits);
                let on_expiry = Abort(Reason::PongTimeout);
                row(Kind::Probe, probe, on_expiry, true, true);

                let pong = match self.ping() {
                    Ping::InFlight { since } => after(since, config.pong_timeout()),
                    _ => None,
                };
                row(Kind::Pong, pong, Abort(Reason::PongTimeout), true, true);

                // SPEC D-20.
                let quiet_since = match config.idle_scope() {
                    IdleScope::Inbound => self.last_inbound_or_excused(),
                    IdleScope::Messages => self.last_activity(),
                    scope => panic!("{scope:?} is not in the specification"),
                };
                let idle = after(quiet_since, config.idle_timeout());
                let next_ping = self.next_ping(now);
                // SPEC D-13.
                let ping_first = config.idle_scope() == IdleScope::Inbound
                    && next_ping.zip(idle).is_some_and(|(ping, idle)| ping < idle);
                if ping_first {
                    row(Kind::NextPing, next_ping, SendPing, false, false);
                }
                row(Kind::Idle, idle, Close(Reason::IdleTimeout), true, true);
                if !ping_first {
                    row(Kind::NextPing, next_ping, SendPing, false, false);
                }
            }
            _ => {}
        }
    }

    /// SPEC D-21 to D-24.
    fn next_ping(&self, now: Nanos) -> Option<Nanos> {
        if self.ping() != Ping::Quiet {
            return None;
        }
        let lines = self.since_request_or_start();
        let is_probed = lines.iter().any(|line| line.effect.ping_due);
        let probed = is_probed.then_some(now);
        let flushed = self.last_flushed_ping();
        let from = match self.config().pong_evidence() {
            PongEvidence::Any => self.last_inbound().min(self.last_flush()).max(flushed),
            PongEvidence::Pong => flushed,
            evidence => panic!("{evidence:?} is not in the specification"),
        };
        let interval = self.config().ping_interval();
        let interval = self.less_jitter(interval, self.pings_sent() + 1);
        interval
            .map(|interval| from + interval)
            .into_iter()
            .chain(probed)
            .min()
    }

    /// Returns the log from the latest request of a ping, or all of it if there was none.
    fn since_request_or_start(&self) -> &[Line] {
        match self.since_request() {
            [] => &self.log,
            lines => lines,
        }
    }

    /// SPEC D-18, E-40.
    fn probe(&self) -> Option<Nanos> {
        let unanswered = self
            .since_last(|line| line.effect.probe_answered)
            .unwrap_or(&self.log);
        let deadlines = unanswered.iter().enumerate().filter_map(|(place, line)| {
            let What::Event(Event::Probe { within }) = line.what else {
                return None;
            };
            let later = unanswered[place..].iter();
            let moved: Nanos = later.map(|line| line.effect.probe_moves_by).sum();
            Some(line.at + saturated(within) + moved)
        });
        deadlines.min()
    }

    /// SPEC E-43.
    fn drain(&self) -> Option<Nanos> {
        let part = Nanos::from(mix(self.seed ^ mix(u64::MAX)) >> 32);
        self.log
            .iter()
            .filter_map(|line| match line.what {
                What::Event(Event::Drain { within }) => {
                    Some(line.at + ((saturated(within) * part) >> 32))
                }
                _ => None,
            })
            .min()
    }

    /// SPEC D-7, E-25, E-26.
    fn flooded(&self) -> Option<Nanos> {
        let mut credit = 0;
        for line in &self.log {
            let What::Event(Event::Ping) = line.what else {
                continue;
            };
            if let Some(rate) = self.configs[line.config].max_ping_rate() {
                credit = (credit.max(line.at) + SECOND / Nanos::from(rate)).min(LAST);
                if credit - line.at > 60 * SECOND {
                    return Some(line.at);
                }
            }
        }
        None
    }

    /// SPEC E-27, E-28.
    fn write_clock(&self) -> Option<Nanos> {
        let lines = self
            .since_last(|line| line.effect.write_clock_stops)
            .unwrap_or(&self.log);
        let mut clock: Option<Nanos> = None;
        for line in lines {
            let config = &self.configs[line.config];
            let Some(timeout) = in_nanos(config.message_timeout()) else {
                continue;
            };
            clock = match line.what {
                What::Event(Event::SendStart) => clock.or(Some(line.at + timeout)),
                What::Event(Event::SendProgress { bytes }) => clock.map(|clock| {
                    let full = line.at + timeout;
                    match config.min_data_rate() {
                        Some(rate) => full.min(clock + time_for(bytes, rate)),
                        None => full,
                    }
                }),
                _ => clock,
            }
            .filter(|&clock| clock <= LAST);
        }
        clock
    }

    /// SPEC E-23, E-24.
    fn receive_clock(&self) -> Option<Nanos> {
        let begin = self
            .log
            .iter()
            .rposition(|line| line.effect.receive_clock_stops)
            .unwrap_or(0);
        let mut total = partial_total(&self.log[..=begin]);
        let mut clock: Option<Nanos> = None;
        for line in &self.log[begin + 1..] {
            let What::Event(Event::RecvPartial { total: now_total }) = line.what else {
                continue;
            };
            let grew = now_total.checked_sub(total).filter(|&grew| grew > 0);
            let rate = self.configs[line.config].min_data_rate();
            if let (Some(grew), Some(rate)) = (grew, rate) {
                let before = clock.unwrap_or(line.at + 5 * SECOND);
                clock = Some((before + time_for(grew, rate)).min(line.at + 30 * SECOND))
                    .filter(|&clock| clock <= LAST);
            }
            total = now_total;
        }
        clock
    }

    pub(crate) fn partial_total(&self) -> u64 {
        partial_total(&self.log)
    }

    /// SPEC G-2, G-5, G-6.
    fn begins_grace(&self, now: Nanos, row: &Row, rows: &[Row]) -> bool {
        let Some(tolerance) = in_nanos(self.config().stall_tolerance()) else {
            return false;
        };
        let is_covered = |row: &Row| row.peer && self.grace().is_some_and(|g| row.deadline <= g);
        let expired_again = |row: &Row| self.effective_deadline(row).is_some_and(|at| at <= now);
        row.peer
            && now - row.deadline > tolerance
            && !is_covered(row)
            && !rows.iter().any(|row| is_covered(row) && expired_again(row))
    }

    /// SPEC G-3.
    fn effective_deadline(&self, row: &Row) -> Option<Nanos> {
        match (self.grace(), in_nanos(self.config().stall_tolerance())) {
            (Some(begin), Some(tolerance)) if row.peer && row.deadline <= begin => {
                Some(begin + tolerance).filter(|&end| end <= LAST)
            }
            _ => Some(row.deadline),
        }
    }

    /// Returns when the latest grace began. Entering a phase ends it (SPEC G-9).
    fn grace(&self) -> Option<Nanos> {
        self.log
            .iter()
            .rev()
            .take_while(|line| line.phase == self.phase())
            .find(|line| matches!(line.what, What::Grace))
            .map(|line| line.at)
    }

    /// Returns how much of a grace is left.
    pub(crate) fn grace_left(&self, now: Timestamp) -> Option<Duration> {
        let end = self.grace()? + in_nanos(self.config().stall_tolerance())?;
        let left = end - self.clamp(now);
        (left > 0 && end <= LAST).then(|| duration(left))
    }

    /// Shortens a limit by a random part (SPEC S-13), drawn from the seed and the ping's number
    /// (SPEC S-30); 0 stands for the connection's lifetime.
    fn less_jitter(&self, limit: Option<Duration>, number: u64) -> Option<Nanos> {
        let limit = in_nanos(limit)?;
        let billionths = (self.config().jitter() * 1e9).round() as Nanos;
        let draw = Nanos::from(mix(self.seed ^ mix(number)) >> 48);
        let part = ((billionths * draw) << 16) / SECOND;
        Some(limit - ((limit * part) >> 32))
    }

    fn last_inbound(&self) -> Nanos {
        self.last(|line| line.effect.inbound)
    }

    /// The later of last inbound and last excused.
    fn last_inbound_or_excused(&self) -> Nanos {
        let mut excused = self.log.iter().filter_map(|line| line.effect.excused);
        self.last_inbound().max(excused.next_back().unwrap_or(0))
    }

    /// The last ping flushed; before the first, the opening (SPEC D-23).
    fn last_flushed_ping(&self) -> Nanos {
        self.last(|line| line.effect.ping_flushed)
    }

    fn last_activity(&self) -> Nanos {
        self.last(|line| line.effect.activity)
    }

    fn last_flush(&self) -> Nanos {
        self.last(|line| line.effect.flush)
    }

    /// Returns the instant of the last line for which `was` holds. All clocks start when the
    /// connection opens (SPEC E-48).
    fn last(&self, was: impl Fn(&Line) -> bool) -> Nanos {
        let line = self.log.iter().rev().find(|line| was(line));
        line.map_or_else(|| self.opened(), |line| line.at)
    }

    /// The log from the last line for which `is` holds.
    fn since_last(&self, is: impl Fn(&Line) -> bool) -> Option<&[Line]> {
        let last = self.log.iter().rposition(is)?;
        Some(&self.log[last..])
    }

    /// Returns when the connection opened; if it never did, when the policy was created.
    fn opened(&self) -> Nanos {
        let opened = self.log.iter().find(|line| line.phase == Phase::Open);
        opened.unwrap_or(&self.log[0]).at
    }

    fn closing_began(&self) -> Nanos {
        let closing = self.log.iter().find(|line| line.phase == Phase::Closing);
        closing.expect("asked while `Closing` only").at
    }

    fn samples(&self) -> impl Iterator<Item = u64> + '_ {
        self.log.iter().filter_map(|line| line.effect.sample)
    }

    fn config(&self) -> &TimeoutConfig {
        &self.configs[self.last_line().config]
    }

    /// SPEC T-2.
    fn clamp(&self, now: Timestamp) -> Nanos {
        self.latest().max(nanos(now))
    }

    fn latest(&self) -> Nanos {
        self.last_line().at
    }

    fn last_line(&self) -> &Line {
        self.log.last().expect("the first line is the creation")
    }

    fn write(&mut self, at: Nanos, phase: Phase, what: What, effect: Effect) {
        self.log.push(Line {
            at,
            config: self.configs.len() - 1,
            phase,
            what,
            effect,
        });
    }
}

/// Returns the bytes received so far of an incomplete message or frame (SPEC E-3).
fn partial_total(log: &[Line]) -> u64 {
    log.iter()
        .rev()
        .find_map(|line| match line.what {
            What::Event(Event::RecvPartial { total }) => Some(total),
            What::Event(Event::Recv) => Some(0),
            _ => None,
        })
        .unwrap_or(0)
}

/// How long the bytes may take at that rate (SPEC T-6).
fn time_for(bytes: u64, rate: u32) -> Nanos {
    Nanos::from(bytes) * SECOND / Nanos::from(rate)
}

pub(crate) fn as_array(rtt: Rtt) -> [u64; 4] {
    [rtt.latest, rtt.min, rtt.smoothed, rtt.variation].map(|length| length.as_micros() as u64)
}

/// The finalizer of splitmix64.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn in_nanos(limit: Option<Duration>) -> Option<Nanos> {
    limit.map(saturated)
}

fn saturated(length: Duration) -> Nanos {
    length.as_nanos().min(u128::from(u64::MAX)) as Nanos
}

fn nanos(at: Timestamp) -> Nanos {
    Nanos::from(at.as_nanos())
}

fn timestamp(at: Nanos) -> Timestamp {
    Timestamp::from_nanos(u64::try_from(at).expect("a deadline that comes is representable"))
}

fn duration(length: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(length).expect("time does not run back"))
}
