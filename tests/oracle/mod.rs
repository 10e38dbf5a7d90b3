//! The specification once more, as questions to a log.
//!
//! The oracle keeps a line for every call and nothing else: no clock, no state of a ping, no counter.
//! Whatever it has to say it reads out of the log anew each time, in the words of `docs/SPEC.md`, which
//! the comments quote. It was written from that page alone, shares no code with the policy, and is slow
//! on purpose.

pub(crate) mod case;

use std::time::Duration;

use ws_timeout::{
    Action, CloseReason, DeadlineKind, Event, IdleScope, Phase, PingId, PongEvidence, Rtt,
    TimeoutConfig, Timestamp,
};

/// An instant or a length in nanoseconds, wide enough that no sum or product can overflow.
type Nanos = i128;

/// "A deadline past the last representable instant never comes."
const LAST: Nanos = (1 << 64) - 2;

const SECOND: Nanos = 1_000_000_000;

pub(crate) struct Oracle {
    seed: u64,
    /// Every configuration that was ever in force, the latest last.
    configs: Vec<TimeoutConfig>,
    log: Vec<Line>,
}

/// What one call was, and what it meant.
struct Line {
    at: Nanos,
    /// Which of the configurations was in force from this line on.
    config: usize,
    /// The phase from this line on.
    phase: Phase,
    what: What,
    meaning: Meaning,
}

enum What {
    Created,
    /// An event that fits its phase.
    Event(Event),
    /// A call that only says what time it is: an ignored event, or a poll that finds nothing to do.
    Look,
    Configured,
    /// `poll` asked for the ping of this number.
    Asked(u64),
    /// `poll` gave this verdict.
    Gave(CloseReason),
    /// `poll` began a grace.
    Grace,
}

/// The words with which the table of events says what an event does.
#[derive(Clone, Copy, Default)]
struct Meaning {
    heard: bool,
    active: bool,
    sent: bool,
    /// "The peer is excused", up to this instant.
    excused: Option<Nanos>,
    write_clock_stops: bool,
    receive_clock_stops: bool,
    /// "Its clock restarts": that of the ping which is out.
    ping_restarts: bool,
    /// The ping which is out "is flushed", "counts as flushed now", or its pong "proves that the
    /// ping left".
    ping_flushed: bool,
    /// "A `Probe`'s deadline moves on by" this.
    probe_moves: Nanos,
    /// A ping in flight is in flight no longer.
    ping_settled: bool,
    probe_answered: bool,
    /// "A ping is due at once."
    ping_wanted: bool,
    /// A round-trip time in microseconds.
    sample: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Ping {
    Quiet,
    Asked { at: Nanos },
    InFlight { since: Nanos },
}

/// A row of the table of deadlines whose deadline stands.
struct Row {
    kind: DeadlineKind,
    deadline: Nanos,
    due: Due,
    peer: bool,
    unread: bool,
}

enum Due {
    Abort(CloseReason),
    Close(CloseReason),
    SendPing,
}

impl Line {
    /// "a ping whose clock restarted in flight"
    fn restarts_in_flight(&self) -> bool {
        self.meaning.ping_restarts && self.meaning.ping_flushed
    }
}

impl Oracle {
    /// "`TimeoutPolicy::new` starts `Open`, `TimeoutPolicy::opening` starts `Opening`."
    pub(crate) fn new(config: TimeoutConfig, seed: u64, now: Timestamp, phase: Phase) -> Self {
        let created = Line {
            at: nanos(now),
            config: 0,
            phase,
            what: What::Created,
            meaning: Meaning::default(),
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
            // "`Closed`: enters `Closed`, from any phase but `Aborted`"
            (_, Event::Closed) => Some(Phase::Closed),
            // "in `Opening` all but `Opened` and `Closed`" are ignored
            (Phase::Opening, Event::Opened) => Some(Phase::Open),
            (Phase::Opening, _) => None,
            // "in `Closing` all but `Closed`"
            (Phase::Closing, _) => None,
            // "`Opened` while `Open`"
            (Phase::Open, Event::Opened) => None,
            (Phase::Open, Event::CloseStart | Event::PeerClose) => Some(Phase::Closing),
            (Phase::Open, _) => Some(Phase::Open),
            (phase, _) => panic!("{phase:?} is not in the specification"),
        };
        let meaning = match (self.phase(), phase) {
            (Phase::Open, Some(Phase::Open)) => self.meaning(now, event),
            (_, Some(_)) => Some(Meaning::default()),
            (_, None) => None,
        };
        match (phase, meaning) {
            (Some(phase), Some(meaning)) => self.write(now, phase, What::Event(event), meaning),
            _ => self.write(now, self.phase(), What::Look, Meaning::default()),
        }
    }

    pub(crate) fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        let meaning = Meaning {
            // "A ping in flight becomes `Quiet` if `pong_timeout` goes off."
            ping_settled: config.pong_timeout().is_none(),
            // "Turning `message_timeout` off stops the write clock, turning `min_data_rate` off the
            // receive clock."
            write_clock_stops: config.message_timeout().is_none(),
            receive_clock_stops: config.min_data_rate().is_none(),
            ..Meaning::default()
        };
        self.configs.push(config);
        let now = self.clamp(now);
        self.write(now, self.phase(), What::Configured, meaning);
    }

    pub(crate) fn poll(&mut self, now: Timestamp) -> Action {
        self.decide(now, true)
    }

    /// "`poll_unread(now)` is `poll` without the four rows marked *unread*, neither judged nor in its
    /// `until`."
    pub(crate) fn poll_unread(&mut self, now: Timestamp) -> Action {
        self.decide(now, false)
    }

    fn decide(&mut self, now: Timestamp, all_read: bool) -> Action {
        let now = self.clamp(now);
        self.write(now, self.phase(), What::Look, Meaning::default());
        match self.phase() {
            // "`Abort(reason)`: said at every later poll"
            Phase::Aborted(reason) => return Action::Abort(reason),
            Phase::Closed => return Action::Idle { until: None },
            _ => {}
        }
        // "In this order; the first that is due decides."
        let rows = self.rows(now);
        for row in rows.iter().filter(|row| all_read || !row.unread) {
            if self.deserves_a_grace(now, row, &rows) {
                self.write(now, self.phase(), What::Grace, Meaning::default());
            }
            if self.with_grace(row).is_some_and(|deadline| deadline <= now) {
                return self.give(now, row);
            }
        }
        let earliest = rows
            .iter()
            .filter(|row| all_read || !row.unread)
            .filter_map(|row| self.with_grace(row))
            .min();
        // "caps `Idle { until }` at `now` + this, while `Open`"; "it counts as off, and so does a cap"
        let heartbeat = length(self.config().heartbeat_interval())
            .map(|interval| now + interval)
            .filter(|&cap| cap <= LAST && self.phase() == Phase::Open);
        let until = earliest.into_iter().chain(heartbeat).min();
        Action::Idle {
            until: until.map(timestamp),
        }
    }

    fn give(&mut self, now: Nanos, row: &Row) -> Action {
        match row.due {
            Due::SendPing => {
                let number = self.pings_sent() + 1;
                let meaning = self.asked_late(now, row.deadline);
                self.write(now, self.phase(), What::Asked(number), meaning);
                Action::SendPing(self.ping_id(number))
            }
            Due::Close(reason) => {
                self.write(now, Phase::Closing, What::Gave(reason), Meaning::default());
                Action::Close(reason)
            }
            Due::Abort(reason) => {
                let phase = Phase::Aborted(reason);
                self.write(now, phase, What::Gave(reason), Meaning::default());
                Action::Abort(reason)
            }
        }
    }

    /// "the earliest deadline of the table, a running grace included, whether past or not; for a
    /// `Probe` without a ping the latest instant seen; `None` in the final phases"
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.rows(self.latest())
            .iter()
            .filter_map(|row| self.with_grace(row))
            .min()
            .map(timestamp)
    }

    /// Every deadline that stands, in the table's order, a grace included.
    pub(crate) fn deadlines(&self, now: Timestamp) -> Vec<(DeadlineKind, Timestamp)> {
        self.rows(self.clamp(now))
            .iter()
            .filter_map(|row| Some((row.kind, timestamp(self.with_grace(row)?))))
            .collect()
    }

    /// Whether that deadline is due at `now`, grace aside.
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

    pub(crate) fn silent(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_heard_or_excused())
    }

    pub(crate) fn since_sent(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_sent())
    }

    pub(crate) fn since_active(&self, now: Timestamp) -> Duration {
        duration(self.clamp(now) - self.last_active())
    }

    pub(crate) fn ping_unsent(&self, now: Timestamp) -> Option<Duration> {
        match self.ping() {
            Ping::Asked { at } => Some(duration(self.clamp(now) - at)),
            _ => None,
        }
    }

    pub(crate) fn ping_unanswered(&self, now: Timestamp) -> Option<Duration> {
        match self.ping() {
            Ping::InFlight { since } => Some(duration(self.clamp(now) - since)),
            _ => None,
        }
    }

    pub(crate) fn write_waits(&self) -> bool {
        self.write_clock().is_some()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.last_line().phase
    }

    /// "`cause()` is the first reason given"
    pub(crate) fn cause(&self) -> Option<CloseReason> {
        self.log.iter().find_map(|line| match line.what {
            What::Gave(reason) => Some(reason),
            _ => None,
        })
    }

    pub(crate) fn pings_sent(&self) -> u64 {
        self.log
            .iter()
            .rev()
            .find_map(|line| match line.what {
                What::Asked(number) => Some(number),
                _ => None,
            })
            .unwrap_or(0)
    }

    pub(crate) fn pongs_received(&self) -> u64 {
        self.samples().count() as u64
    }

    /// "the first sample R sets R and R/2", then "`variation := (3·variation + |smoothed − sample|) /
    /// 4`, then `smoothed := (7·smoothed + sample) / 8`": latest, min, smoothed, variation.
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

    /// "64 bits mixed from the seed and the ping's number"
    pub(crate) fn ping_id(&self, number: u64) -> PingId {
        let bits = mix(self
            .seed
            .wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        PingId::from_payload(&bits.to_be_bytes()).expect("eight bytes are an id")
    }

    /// The column "effect while `Open`"; `None` if the event is ignored.
    fn meaning(&self, now: Nanos, event: Event) -> Option<Meaning> {
        let nothing = Meaning::default();
        Some(match event {
            // "heard; active; nothing partial is left"
            Event::Recv => Meaning {
                active: true,
                receive_clock_stops: true,
                ..self.heard()
            },
            // "more than before: heard, active, [..] less: the total is lowered and nothing is heard;
            // the same: nothing; 0: nothing partial is left"
            Event::RecvPartial { total } if total > self.partial_total() => Meaning {
                active: true,
                ..self.heard()
            },
            Event::RecvPartial { total } => Meaning {
                receive_clock_stops: total == 0,
                ..nothing
            },
            Event::Ping => self.heard(),
            Event::Pong(id) => self.pong(now, id),
            Event::SendStart => nothing,
            // "0 is no event"
            Event::SendProgress { bytes: 0 } => return None,
            Event::SendProgress { .. } => Meaning {
                active: true,
                ..self.progress(now)
            },
            // "the write clock stops; sent; active; progress"
            Event::SendOk => Meaning {
                write_clock_stops: true,
                sent: true,
                active: true,
                ..self.progress(now)
            },
            // "the write clock stops; sent; progress"
            Event::Flushed => Meaning {
                write_clock_stops: true,
                sent: true,
                ..self.progress(now)
            },
            // "the write clock stops; sent; the pong clock starts (with `pong_timeout` off the ping is
            // `Quiet`)"
            Event::PingSent(id) if self.is_asked(id) => Meaning {
                write_clock_stops: true,
                sent: true,
                ping_flushed: true,
                // "and when it is flushed, a `Probe`'s deadline moves on"
                probe_moves: self.since_ping_clock(now),
                ping_settled: self.config().pong_timeout().is_none(),
                ..nothing
            },
            // "for any other ping: ignored"
            Event::PingSent(_) => return None,
            // "a ping is due at once if none is out"
            Event::Probe { .. } => Meaning {
                ping_wanted: self.ping() == Ping::Quiet,
                ..nothing
            },
            Event::Drain { .. } => nothing,
            Event::Tick => return None,
            Event::Opened | Event::CloseStart | Event::PeerClose | Event::Closed => nothing,
            event => panic!("{event:?} is not in the specification"),
        })
    }

    /// "the silence clock restarts; with `pong_evidence = any` a ping in flight is answered, and a
    /// `Probe` too"
    fn heard(&self) -> Meaning {
        let answers = self.config().pong_evidence() == PongEvidence::Any;
        Meaning {
            heard: true,
            ping_settled: answers,
            probe_answered: answers,
            ..Meaning::default()
        }
    }

    /// "while a ping is `Asked`, its clock restarts and the peer is excused [..] While a ping is
    /// `InFlight` and the write clock runs (before the event), the same holds [..] the ping then
    /// counts as flushed now [..] A write that leaves at once excuses nothing."
    fn progress(&self, now: Nanos) -> Meaning {
        let in_flight = match self.ping() {
            Ping::Asked { .. } => false,
            Ping::InFlight { .. } if self.write_clock().is_some() => true,
            Ping::InFlight { .. } | Ping::Quiet => return Meaning::default(),
        };
        Meaning {
            excused: Some(now),
            ping_restarts: true,
            ping_flushed: in_flight,
            // "Each time a ping's clock restarts [..] a `Probe`'s deadline moves on"
            probe_moves: self.since_ping_clock(now),
            ..Meaning::default()
        }
    }

    /// "the time since the ping was asked for, flushed or last restarted, whichever is latest"
    fn since_ping_clock(&self, now: Nanos) -> Nanos {
        match self.ping() {
            Ping::Quiet => 0,
            Ping::Asked { at } => now - at,
            Ping::InFlight { since } => now - since,
        }
    }

    /// "when a poll says `SendPing` later than the ping was due, and no ping was flushed since the
    /// peer was last heard or excused, the peer is excused for as much: last heard or excused,
    /// whichever is later, moves on by the time from the later of that and the ping's deadline to
    /// now"
    fn asked_late(&self, now: Nanos, deadline: Nanos) -> Meaning {
        let last = self.last_heard_or_excused();
        let excuse = now - last.max(deadline);
        let first = self.last_flushed_ping() <= last;
        Meaning {
            excused: (first && excuse > 0).then_some(last + excuse),
            ..Meaning::default()
        }
    }

    fn pong(&self, now: Nanos, id: Option<PingId>) -> Meaning {
        let latest = self.pings_sent();
        let of_the_latest = |id| latest > 0 && id == Some(self.ping_id(latest));
        let repeated = self
            .since_asked()
            .iter()
            .any(|line| matches!(line.what, What::Event(Event::Pong(id)) if of_the_latest(id)));
        // "Any other pong, a repeated one too, is only heard."
        if !of_the_latest(id) || repeated {
            return self.heard();
        }
        // "The first pong of the latest ping answers it and a `Probe`"
        let answered = Meaning {
            ping_settled: true,
            probe_answered: true,
            ..self.heard()
        };
        let lines = self.since_asked();
        match lines.iter().find(|line| line.meaning.ping_flushed) {
            // "from `PingSent` to the first pong of that id, also when other evidence answered the
            // ping first, until the next ping is asked for; none for a ping whose clock restarted
            // in flight", "in whole microseconds"
            Some(flushed) => Meaning {
                sample: (!lines.iter().any(Line::restarts_in_flight))
                    .then(|| ((now - flushed.at) / 1000) as u64),
                ..answered
            },
            // "still `Asked`, it proves that the ping left: `Quiet`, counts as sent and flushed now,
            // gives no round-trip time, leaves the write clock alone"
            None => Meaning {
                sent: true,
                ping_flushed: true,
                ..answered
            },
        }
    }

    fn is_asked(&self, id: PingId) -> bool {
        matches!(self.ping(), Ping::Asked { .. }) && id == self.ping_id(self.pings_sent())
    }

    /// "A ping is `Quiet`, `Asked { at }` (returned by `poll`, not flushed yet) or `InFlight { since
    /// }`. There is never more than one."
    fn ping(&self) -> Ping {
        let lines = self.since_asked();
        let Some(asked) = lines.first() else {
            return Ping::Quiet;
        };
        let latest = |is: fn(&Line) -> bool| lines.iter().rev().find(|&line| is(line));
        let Some(flushed) = lines.iter().position(|line| line.meaning.ping_flushed) else {
            let restarted = latest(|line| line.meaning.ping_restarts);
            return Ping::Asked {
                at: restarted.unwrap_or(asked).at,
            };
        };
        if lines[flushed..]
            .iter()
            .any(|line| line.meaning.ping_settled)
        {
            return Ping::Quiet;
        }
        // "the ping then counts as flushed now"
        let flushed_again = latest(Line::restarts_in_flight);
        Ping::InFlight {
            since: flushed_again.unwrap_or(&lines[flushed]).at,
        }
    }

    /// The log from where the latest ping was asked for; empty if none was.
    fn since_asked(&self) -> &[Line] {
        self.since_last(|line| matches!(line.what, What::Asked(_)))
            .unwrap_or(&[])
    }

    fn rows(&self, now: Nanos) -> Vec<Row> {
        let mut rows = Vec::with_capacity(10);
        self.rows_of_the_phase(now, &mut |kind, deadline, due, peer, unread| {
            // "A deadline past the last representable instant never comes: it counts as off."
            if let Some(deadline) = deadline.filter(|&deadline| deadline <= LAST) {
                rows.push(Row {
                    kind,
                    deadline,
                    due,
                    peer,
                    unread,
                });
            }
        });
        rows
    }

    /// The table of deadlines, row by row: deadline, what is due, peer, unread.
    fn rows_of_the_phase(
        &self,
        now: Nanos,
        row: &mut dyn FnMut(DeadlineKind, Option<Nanos>, Due, bool, bool),
    ) {
        use CloseReason as Reason;
        use DeadlineKind as Kind;
        use Due::{Abort, Close, SendPing};

        let config = self.config();
        let after = |start: Nanos, limit: Option<Duration>| Some(start + length(limit)?);
        match self.phase() {
            Phase::Opening => {
                let deadline = after(self.opened(), config.handshake_timeout());
                let due = Abort(Reason::HandshakeTimeout);
                row(Kind::Handshake, deadline, due, true, false);
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
                    .map(|life| self.opened() + life);
                let due = Close(Reason::ConnectionTimeout);
                row(Kind::Connection, end, due, false, false);

                row(
                    Kind::Drain,
                    self.drain(),
                    Close(Reason::Drain),
                    false,
                    false,
                );

                let due = Abort(Reason::MessageTimeout);
                row(Kind::Write, self.write_clock(), due, true, false);

                // "ping asked + (`message_timeout`, or if it is off in the configuration
                // `pong_timeout`)"
                let ping_write = match self.ping() {
                    Ping::Asked { at } => {
                        after(at, config.message_timeout().or(config.pong_timeout()))
                    }
                    _ => None,
                };
                let due = Abort(Reason::MessageTimeout);
                row(Kind::PingWrite, ping_write, due, true, false);

                let due = Abort(Reason::PingFlood);
                row(Kind::PingFlood, self.flooded(), due, false, false);

                let due = Abort(Reason::SlowReceive);
                row(Kind::Receive, self.receive_clock(), due, true, true);

                // "not while its ping is `Asked`, [..] unless both limits named there are off"
                let bounded = config.message_timeout().or(config.pong_timeout());
                let waits = matches!(self.ping(), Ping::Asked { .. }) && bounded.is_some();
                let probe = self.probe().filter(|_| !waits);
                let due = Abort(Reason::PongTimeout);
                row(Kind::Probe, probe, due, true, true);

                let pong = match self.ping() {
                    Ping::InFlight { since } => after(since, config.pong_timeout()),
                    _ => None,
                };
                row(Kind::Pong, pong, Abort(Reason::PongTimeout), true, true);

                // "the later of last heard and last excused (scope `messages`: last active) +
                // `idle_timeout`"
                let quiet_since = match config.idle_scope() {
                    IdleScope::Inbound => self.last_heard_or_excused(),
                    IdleScope::Messages => self.last_active(),
                    scope => panic!("{scope:?} is not in the specification"),
                };
                let idle = after(quiet_since, config.idle_timeout());
                let next_ping = self.next_ping(now);
                // "but that a ping whose deadline is earlier than that of the idle row (scope
                // `inbound`) comes before it"
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

    /// "no ping out: `ping_interval` (less jitter) from max(min(last heard, last sent), last ping
    /// flushed), with `pong_evidence = pong` from the last ping flushed (before the first: the
    /// opening); at once if a `Probe` made one due (until it is asked for), if that is earlier"
    fn next_ping(&self, now: Nanos) -> Option<Nanos> {
        if self.ping() != Ping::Quiet {
            return None;
        }
        let not_asked_since = self.not_asked_since();
        let wanted = not_asked_since.iter().any(|line| line.meaning.ping_wanted);
        let at_once = wanted.then_some(now);
        let flushed = self.last_flushed_ping();
        let from = match self.config().pong_evidence() {
            PongEvidence::Any => self.last_heard().min(self.last_sent()).max(flushed),
            PongEvidence::Pong => flushed,
            evidence => panic!("{evidence:?} is not in the specification"),
        };
        let interval = self.config().ping_interval();
        let interval = self.less_jitter(interval, self.pings_sent() + 1);
        interval
            .map(|interval| from + interval)
            .into_iter()
            .chain(at_once)
            .min()
    }

    /// The log from the latest asking on, or all of it.
    fn not_asked_since(&self) -> &[Line] {
        match self.since_asked() {
            [] => &self.log,
            lines => lines,
        }
    }

    /// "the peer must answer by now + `within` (of several, the nearest)", "(moved on as above),
    /// until answered"
    fn probe(&self) -> Option<Nanos> {
        let unanswered = self
            .since_last(|line| line.meaning.probe_answered)
            .unwrap_or(&self.log);
        let deadlines = unanswered.iter().enumerate().filter_map(|(place, line)| {
            let What::Event(Event::Probe { within }) = line.what else {
                return None;
            };
            let later = unanswered[place..].iter();
            let moved: Nanos = later.map(|line| line.meaning.probe_moves).sum();
            Some(line.at + saturated(within) + moved)
        });
        deadlines.min()
    }

    /// "it closes at now + a part of `within` drawn from the seed (0 gives now; of several, the
    /// nearest)"
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

    /// "the ping that made the peer flood": "`credit := max(credit, now) + 1 s / max_ping_rate`; when
    /// `credit - now > 60 s` the peer floods, and stays so"
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

    /// "`SendStart`: the write clock starts at `now + message_timeout`, unless it runs";
    /// "`SendProgress`: a running write clock moves to min(itself + bytes · 1 s / `min_data_rate`, now
    /// + `message_timeout`), with the rate off to now + `message_timeout`"
    fn write_clock(&self) -> Option<Nanos> {
        let lines = self
            .since_last(|line| line.meaning.write_clock_stops)
            .unwrap_or(&self.log);
        let mut clock: Option<Nanos> = None;
        for line in lines {
            let config = &self.configs[line.config];
            let Some(timeout) = length(config.message_timeout()) else {
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

    /// "Receive clock, while `min_data_rate` is on: begins at now + 5 s; then n, what the total grew
    /// by (from 0 at first), moves it to min(itself + n · 1 s / `min_data_rate`, now + 30 s)."
    fn receive_clock(&self) -> Option<Nanos> {
        let begin = self
            .log
            .iter()
            .rposition(|line| line.meaning.receive_clock_stops)
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

    /// "for which no grace has begun at or after `d`", "with `now - d > stall_tolerance`", and "no
    /// grace begins while a *peer* deadline that had one is due again [..] For this, *unread* rows
    /// count under `poll_unread` as well"
    fn deserves_a_grace(&self, now: Nanos, row: &Row, rows: &[Row]) -> bool {
        let Some(tolerance) = length(self.config().stall_tolerance()) else {
            return false;
        };
        let had_one = |row: &Row| row.peer && self.grace().is_some_and(|g| row.deadline <= g);
        let due_again = |row: &Row| self.with_grace(row).is_some_and(|at| at <= now);
        row.peer
            && now - row.deadline > tolerance
            && !had_one(row)
            && !rows.iter().any(|row| had_one(row) && due_again(row))
    }

    /// "A *peer* deadline at or before the begin of the latest grace counts as that begin +
    /// `stall_tolerance`."
    fn with_grace(&self, row: &Row) -> Option<Nanos> {
        match (self.grace(), length(self.config().stall_tolerance())) {
            (Some(begin), Some(tolerance)) if row.peer && row.deadline <= begin => {
                Some(begin + tolerance).filter(|&end| end <= LAST)
            }
            _ => Some(row.deadline),
        }
    }

    /// The begin of the latest grace. "Entering a phase forgets the grace."
    fn grace(&self) -> Option<Nanos> {
        self.log
            .iter()
            .rev()
            .take_while(|line| line.phase == self.phase())
            .find(|line| matches!(line.what, What::Grace))
            .map(|line| line.at)
    }

    /// What is left of a grace.
    pub(crate) fn grace_left(&self, now: Timestamp) -> Option<Duration> {
        let end = self.grace()? + length(self.config().stall_tolerance())?;
        let left = end - self.clamp(now);
        (left > 0 && end <= LAST).then(|| duration(left))
    }

    /// "shortens each ping interval and the connection's life by a random part of up to this
    /// fraction", the part being drawn "from the policy's seed and the ping's number alone"; 0 is the
    /// number of the connection's life
    fn less_jitter(&self, limit: Option<Duration>, number: u64) -> Option<Nanos> {
        let limit = length(limit)?;
        let billionths = (self.config().jitter() * 1e9).round() as Nanos;
        let draw = Nanos::from(mix(self.seed ^ mix(number)) >> 48);
        let part = ((billionths * draw) << 16) / SECOND;
        Some(limit - ((limit * part) >> 32))
    }

    fn last_heard(&self) -> Nanos {
        self.last(|line| line.meaning.heard)
    }

    /// "last heard or excused, whichever is later"
    fn last_heard_or_excused(&self) -> Nanos {
        let mut excused = self.log.iter().filter_map(|line| line.meaning.excused);
        self.last_heard().max(excused.next_back().unwrap_or(0))
    }

    /// "last ping flushed", "before the first: the opening"
    fn last_flushed_ping(&self) -> Nanos {
        self.last(|line| line.meaning.ping_flushed)
    }

    fn last_active(&self) -> Nanos {
        self.last(|line| line.meaning.active)
    }

    fn last_sent(&self) -> Nanos {
        self.last(|line| line.meaning.sent)
    }

    /// When that last was so; "every clock starts" when the connection opens.
    fn last(&self, was: impl Fn(&Line) -> bool) -> Nanos {
        let line = self.log.iter().rev().find(|line| was(line));
        line.map_or_else(|| self.opened(), |line| line.at)
    }

    /// The log from the last line of that kind on.
    fn since_last(&self, is: impl Fn(&Line) -> bool) -> Option<&[Line]> {
        let last = self.log.iter().rposition(is)?;
        Some(&self.log[last..])
    }

    /// When the connection opened; while it never did, when the policy was created.
    fn opened(&self) -> Nanos {
        let opened = self.log.iter().find(|line| line.phase == Phase::Open);
        opened.unwrap_or(&self.log[0]).at
    }

    fn closing_began(&self) -> Nanos {
        let closing = self.log.iter().find(|line| line.phase == Phase::Closing);
        closing.expect("asked while `Closing` only").at
    }

    fn samples(&self) -> impl Iterator<Item = u64> + '_ {
        self.log.iter().filter_map(|line| line.meaning.sample)
    }

    fn config(&self) -> &TimeoutConfig {
        &self.configs[self.last_line().config]
    }

    /// "A `now` earlier than one already seen [..] counts as the latest seen."
    fn clamp(&self, now: Timestamp) -> Nanos {
        self.latest().max(nanos(now))
    }

    fn latest(&self) -> Nanos {
        self.last_line().at
    }

    fn last_line(&self) -> &Line {
        self.log.last().expect("the first line is the creation")
    }

    fn write(&mut self, at: Nanos, phase: Phase, what: What, meaning: Meaning) {
        self.log.push(Line {
            at,
            config: self.configs.len() - 1,
            phase,
            what,
            meaning,
        });
    }
}

/// "bytes received so far of a message or frame that is not whole"
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

/// "bytes · 1 s / `min_data_rate`"; "products come before quotients, quotients round down"
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

fn length(limit: Option<Duration>) -> Option<Nanos> {
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
