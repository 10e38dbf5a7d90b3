//! The state of a policy, and how events change it.

use core::num::{NonZeroU32, NonZeroU64, NonZeroU128};

use super::deadlines::fraction_of;
use crate::config::{PongEvidence, TimeoutConfig};
use crate::event::{CloseReason, Event, Phase};
use crate::rtt::{Rtt, RttEstimator};
use crate::seed::{PingId, drain_draw, jitter_draw};
use crate::time::{Timestamp, earlier, saturating_nanos};

/// Everything that a policy knows, except its configuration and the time.
///
/// A message or an expiry touches only the fields up to `ping_draw`. With the policy's `now` they
/// fill one cache line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct State {
    /// When the connection opened. While `Opening`, when the policy was created.
    pub(super) opened: Timestamp,
    /// The later of last inbound and last excused. One field is enough: while the ping is `Quiet`,
    /// the last excuse is no later than the last flush of a ping, so it does not change when the
    /// next ping is due.
    pub(super) last_inbound: Timestamp,
    /// When all pending writes were last flushed.
    pub(super) last_flush: Timestamp,
    /// When data was last transferred in either direction.
    pub(super) last_data: Timestamp,
    /// When the ping's clock started: when a `Requested` ping was requested, when an `InFlight`
    /// ping was flushed, or when the transport last accepted bytes ahead of either. For `Quiet`,
    /// when the last ping was flushed; before the first, when the connection opened.
    pub(super) ping_since: Timestamp,
    /// When the waiting write must have made progress (the write clock of the specification). `None`
    /// if no write is waiting or the limit is off.
    pub(super) write_deadline: Option<Timestamp>,
    pub(super) phase: Phase,
    pub(super) ping: Ping,
    /// Whether a cold clock may be running. Cold clocks are those that most connections rarely
    /// need: `probe_deadline`, `close_at`, `receive_deadline`, `grace`, `flooded` and `ping_due`.
    /// While this is false, none of them holds a deadline.
    pub(crate) cold_armed: bool,
    /// The part of the jitter that shortens the connection's lifetime, in 65536ths.
    pub(super) lifetime_draw: u16,
    /// The part of the jitter that shortens the wait for the next ping, in 65536ths.
    pub(super) ping_draw: u16,

    pub(super) seed: u64,
    /// How many pings were requested, which is also the number of the latest ping.
    pub(super) pings: u64,
    /// How many pongs gave a round-trip time.
    pub(super) pongs: u64,
    /// Meaningful once a pong was received.
    rtt: RttEstimator,
    /// Whether the first pong of the latest ping is still to come.
    pub(super) pong_awaited: bool,
    /// Whether a `Probe` made a ping due immediately.
    pub(super) ping_due: bool,
    /// Whether the clock of the latest ping restarted in flight, so that its pong would measure our
    /// own send queue.
    rtt_void: bool,
    flooded: bool,
    pub(super) cause: Option<CloseReason>,
    /// Bytes received of an incomplete message.
    pub(super) partial: u64,
    /// When the rest of the incomplete message is due (the receive clock of the specification).
    /// `None` if none is incomplete or the limit is off.
    pub(super) receive_deadline: Option<Timestamp>,
    /// When a `Probe` must have been answered.
    pub(super) probe_deadline: Option<Timestamp>,
    /// When this side closes because of a `Drain`. While `Closing`, when that phase began.
    pub(super) close_at: Option<Timestamp>,
    /// The instant by which the peer's pings so far would have been sent at exactly `max_ping_rate`
    /// (`credit` in SPEC E-25). After a flood, when the flood began.
    ping_credit: Timestamp,
    /// When the latest grace began.
    pub(super) grace: Option<Timestamp>,
}

/// The stage of the latest ping. `State::ping_since` holds when it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    /// No ping is outstanding.
    Quiet,
    /// Requested, not flushed yet.
    Requested,
    /// Flushed; its answer is awaited.
    InFlight,
}

impl State {
    pub(crate) fn new(seed: u64, now: Timestamp, phase: Phase) -> Self {
        Self {
            opened: now,
            last_inbound: now,
            last_flush: now,
            last_data: now,
            ping_since: now,
            write_deadline: None,
            phase,
            ping: Ping::Quiet,
            cold_armed: false,
            lifetime_draw: jitter_draw(seed, 0),
            ping_draw: jitter_draw(seed, 1),
            seed,
            pings: 0,
            pongs: 0,
            rtt: RttEstimator::first(0),
            pong_awaited: false,
            ping_due: false,
            rtt_void: false,
            flooded: false,
            cause: None,
            partial: 0,
            receive_deadline: None,
            probe_deadline: None,
            close_at: None,
            ping_credit: now,
            grace: None,
        }
    }

    // ---- events ----

    pub(crate) fn record(&mut self, now: Timestamp, config: &TimeoutConfig, event: Event) {
        match (self.phase, event) {
            (Phase::Closed | Phase::Aborted(_), _) => {}
            (_, Event::Closed) => self.enter(Phase::Closed),
            (Phase::Opening, Event::Opened) => self.open(now),
            (Phase::Open, event) => self.record_while_open(now, config, event),
            (Phase::Opening | Phase::Closing, _) => {}
        }
    }

    fn record_while_open(&mut self, now: Timestamp, config: &TimeoutConfig, event: Event) {
        match event {
            Event::Recv => {
                self.on_inbound(now, config);
                self.last_data = now;
                self.clear_partial();
            }
            Event::RecvPartial { total: 0 } => self.clear_partial(),
            Event::RecvPartial { total } => {
                if total > self.partial {
                    self.on_inbound(now, config);
                    self.last_data = now;
                    self.move_receive_clock(now, config, total - self.partial);
                }
                self.partial = total;
                self.cold_armed = true;
            }
            Event::Ping => {
                self.on_inbound(now, config);
                self.charge_ping(now, config);
            }
            Event::Pong(id) => {
                self.on_inbound(now, config);
                if self.pong_awaited && id == Some(self.latest_ping()) {
                    self.on_first_pong(now);
                }
            }
            Event::SendStart => {
                if self.write_deadline.is_none() {
                    self.write_deadline = now.deadline(config.message_timeout);
                }
            }
            Event::SendProgress { bytes: 0 } => {}
            Event::SendProgress { bytes } => {
                self.last_data = now;
                let had_to_wait = self.write_deadline.is_some();
                self.move_write_clock(now, config, bytes);
                self.on_progress(now, had_to_wait);
            }
            Event::SendOk => {
                let had_to_wait = self.write_deadline.is_some();
                self.record_flush(now);
                self.last_data = now;
                self.on_progress(now, had_to_wait);
            }
            Event::Flushed => {
                let had_to_wait = self.write_deadline.is_some();
                self.record_flush(now);
                self.on_progress(now, had_to_wait);
            }
            Event::PingSent(id) => {
                if self.ping == Ping::Requested && id == self.latest_ping() {
                    self.excuse_late_flush(now, config);
                    self.record_flush(now);
                    self.restart_ping_clock(now);
                    self.ping = match config.pong_timeout {
                        Some(_) => Ping::InFlight,
                        None => Ping::Quiet,
                    };
                }
            }
            Event::Probe { within } => {
                self.probe_deadline = earlier(self.probe_deadline, now.checked_add(within));
                self.ping_due |= self.ping == Ping::Quiet;
                self.cold_armed = true;
            }
            Event::Drain { within } => {
                let wait = fraction_of(saturating_nanos(within), drain_draw(self.seed));
                self.close_at = earlier(self.close_at, now.after(wait));
                self.cold_armed = true;
            }
            Event::CloseStart | Event::PeerClose => self.begin_closing(now),
            Event::Opened | Event::Closed | Event::Tick => {}
        }
    }

    /// See [`TimeoutPolicy::set_config`](super::TimeoutPolicy::set_config).
    pub(crate) fn follow_config(&mut self, config: &TimeoutConfig) {
        if config.pong_timeout.is_none() && self.ping == Ping::InFlight {
            self.ping = Ping::Quiet;
        }
        if config.message_timeout.is_none() {
            self.write_deadline = None;
        }
        if config.min_data_rate.is_none() {
            self.receive_deadline = None;
        }
    }

    /// Restarts the silence clock. With `pong_evidence = any`, also answers a ping and a probe
    /// (SPEC E-17, E-18).
    fn on_inbound(&mut self, now: Timestamp, config: &TimeoutConfig) {
        self.last_inbound = now;
        if config.pong_evidence == PongEvidence::Any {
            self.on_answer();
        }
    }

    fn on_answer(&mut self) {
        if self.ping == Ping::InFlight {
            self.ping = Ping::Quiet;
        }
        if self.cold_armed {
            self.probe_deadline = None;
        }
    }

    /// Records the first pong of the latest ping (SPEC K-5 to K-7). Takes no round-trip time if the
    /// ping's clock restarted in flight (SPEC K-11).
    fn on_first_pong(&mut self, now: Timestamp) {
        self.pong_awaited = false;
        self.on_answer();
        if self.ping == Ping::Requested {
            self.ping = Ping::Quiet;
            self.last_flush = now;
            self.ping_since = now;
        } else if !self.rtt_void {
            let sample = now.nanos_since(self.ping_since) / 1000;
            self.rtt = if self.pongs == 0 {
                RttEstimator::first(sample)
            } else {
                self.rtt.next(sample)
            };
            self.pongs = self.pongs.saturating_add(1);
        }
    }

    /// Restarts the clock of a delayed ping, and excuses the peer: the ping has not left, or the
    /// bytes that the kernel holds ahead of it are only now leaving (SPEC E-32 to E-35).
    fn on_progress(&mut self, now: Timestamp, had_to_wait: bool) {
        let is_delayed = had_to_wait && self.ping == Ping::InFlight;
        if self.ping == Ping::Requested || is_delayed {
            self.restart_ping_clock(now);
            self.last_inbound = now;
            self.rtt_void |= is_delayed;
        }
    }

    /// Restarts the ping's clock, and postpones a `Probe`'s deadline by the time that the clock
    /// showed (SPEC E-36).
    fn restart_ping_clock(&mut self, now: Timestamp) {
        if self.cold_armed {
            let waited = now.nanos_since(self.ping_since);
            self.probe_deadline = self.probe_deadline.and_then(|by| by.after(waited));
        }
        self.ping_since = now;
    }

    fn record_flush(&mut self, now: Timestamp) {
        self.write_deadline = None;
        self.last_flush = now;
    }

    // ---- clocks ----

    fn clear_partial(&mut self) {
        if self.cold_armed {
            self.partial = 0;
            self.receive_deadline = None;
            self.cold_armed = self.another_cold_clock_may_run();
        }
    }

    /// Whether a cold clock other than the receive clock could hold a deadline.
    fn another_cold_clock_may_run(&self) -> bool {
        self.probe_deadline.is_some()
            || self.close_at.is_some()
            || self.grace.is_some()
            || self.flooded
            || self.ping_due
    }

    /// Starts the receive clock if it is not running, and moves it by the time that the new bytes
    /// may take (SPEC E-23, E-24).
    fn move_receive_clock(&mut self, now: Timestamp, config: &TimeoutConfig, grew_by: u64) {
        const START: u64 = 5_000_000_000;
        const CAP: u64 = 30_000_000_000;
        if let Some(rate) = config.min_data_rate {
            let clock = self.receive_deadline.or(now.after(START));
            let moved = clock.and_then(|clock| clock.after(time_at_rate(grew_by, rate)));
            self.receive_deadline = earlier(moved, now.after(CAP));
        }
    }

    /// Moves a running write clock by the time that the bytes may take (SPEC E-28).
    fn move_write_clock(&mut self, now: Timestamp, config: &TimeoutConfig, bytes: u64) {
        let cap = now.deadline(config.message_timeout);
        self.write_deadline = match (self.write_deadline, config.min_data_rate) {
            (None, _) => None,
            (Some(clock), Some(rate)) => earlier(clock.after(time_at_rate(bytes, rate)), cap),
            (Some(_), None) => cap,
        };
    }

    /// Counts a ping of the peer against `max_ping_rate` (SPEC E-25, E-26).
    fn charge_ping(&mut self, now: Timestamp, config: &TimeoutConfig) {
        const BURST: u64 = 60_000_000_000;
        let Some(rate) = config.max_ping_rate else {
            return;
        };
        if self.flooded {
            return;
        }
        let credit = self
            .ping_credit
            .max(now)
            .after(time_at_rate(1, rate))
            .unwrap_or(Timestamp::MAX);
        self.flooded = credit.nanos_since(now) > BURST;
        self.ping_credit = if self.flooded { now } else { credit };
        self.cold_armed |= self.flooded;
    }

    /// Returns when the peer's pings became a flood.
    pub(super) fn flooded_at(&self) -> Option<Timestamp> {
        self.flooded.then_some(self.ping_credit)
    }

    // ---- pings ----

    /// Requests the next ping, which was due at `due`. Excuses the peer for the delay (SPEC E-37,
    /// E-38).
    pub(super) fn request_ping(&mut self, now: Timestamp, due: Timestamp) -> PingId {
        if self.ping_since <= self.last_inbound {
            self.excuse(now, due);
        }
        self.pings = self.pings.saturating_add(1);
        self.ping_due = false;
        self.pong_awaited = true;
        self.rtt_void = false;
        self.ping = Ping::Requested;
        self.ping_since = now;
        self.ping_draw = jitter_draw(self.seed, self.pings.saturating_add(1));
        self.latest_ping()
    }

    /// Excuses the peer for the time between the request of a ping and its flush, if this process
    /// may have been suspended in that time (SPEC E-49).
    #[inline]
    fn excuse_late_flush(&mut self, now: Timestamp, config: &TimeoutConfig) {
        let tolerance = config.stall_tolerance.map(NonZeroU64::get);
        let took = now.nanos_since(self.ping_since);
        if tolerance.is_some_and(|tolerance| took > tolerance) {
            self.excuse(now, self.ping_since);
        }
    }

    /// Excuses the peer for its silence since `since`: it had no ping to answer (SPEC E-38).
    fn excuse(&mut self, now: Timestamp, since: Timestamp) {
        let length = now.nanos_since(since.max(self.last_inbound));
        self.last_inbound = self.last_inbound.after(length).unwrap_or(now);
    }

    pub(super) fn ping_id(&self, number: u64) -> PingId {
        PingId::new(self.seed, number)
    }

    pub(super) fn latest_ping(&self) -> PingId {
        self.ping_id(self.pings)
    }

    pub(super) fn rtt(&self) -> Option<Rtt> {
        (self.pongs > 0).then(|| self.rtt.estimate())
    }

    // ---- phases ----

    fn open(&mut self, now: Timestamp) {
        self.enter(Phase::Open);
        self.opened = now;
        self.last_inbound = now;
        self.last_flush = now;
        self.last_data = now;
        self.ping_since = now;
    }

    pub(super) fn begin_closing(&mut self, now: Timestamp) {
        self.enter(Phase::Closing);
        self.close_at = Some(now);
    }

    /// Enters a phase, which ends the grace (SPEC G-9).
    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.grace = None;
    }

    pub(super) fn record_cause(&mut self, reason: CloseReason) {
        self.cause = self.cause.or(Some(reason));
    }

    // ---- fast paths: skip the state machine if a message only moves deadlines later ----

    /// Whether a whole message changes only the first cache line, as it usually does: the
    /// connection is open, no ping is in flight, and no cold clock may be running.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.phase == Phase::Open && self.ping != Ping::InFlight && !self.cold_armed
    }

    /// Records a whole message while the state [is plain](Self::is_plain).
    #[inline]
    pub(crate) fn record_message(&mut self, at: Timestamp) {
        self.last_inbound = self.last_inbound.max(at);
        self.last_data = self.last_data.max(at);
    }
}

/// Returns how long `bytes` take at `rate` per second, in nanoseconds, rounded down.
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

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;
    use crate::event::Action;
    use crate::policy::TimeoutPolicy;

    #[test]
    fn the_state_is_small_and_its_hot_part_is_one_cache_line() {
        assert_eq!(
            offset_of!(TimeoutPolicy<&TimeoutConfig>, state) + offset_of!(State, seed),
            64
        );
        let state = size_of::<TimeoutPolicy<&TimeoutConfig>>() - size_of::<&TimeoutConfig>();
        assert!(state <= 176, "the state takes {state} bytes");
    }

    /// The test replaces everything beyond the first cache line by garbage, so code that reads it
    /// would decide differently.
    #[test]
    fn a_message_and_an_expiry_touch_the_first_cache_line_only() {
        let at = Timestamp::from_millis;
        let config = TimeoutConfig::builder().jitter(0.0).build().unwrap();
        let spoil = |state: &mut State| {
            state.seed = 0xBAD;
            state.pings = 7;
            state.pongs = 9;
            state.rtt = RttEstimator::first(1);
            state.pong_awaited = true;
            state.ping_due = true;
            state.rtt_void = true;
            state.flooded = true;
            state.partial = 5;
            state.receive_deadline = Some(at(1));
            state.probe_deadline = Some(at(1));
            state.close_at = Some(at(1));
            state.ping_credit = at(1);
            state.grace = Some(at(0));
        };
        let until = |millis| Action::Idle {
            until: Some(at(millis)),
        };
        let steps = [
            (10, Event::Recv, until(25_000)),
            (20, Event::SendStart, until(1020)),
            (30, Event::SendOk, until(25_010)),
            (40, Event::Recv, until(25_030)),
            (24_000, Event::Tick, until(25_030)),
        ];
        for spoiled_before in 0..steps.len() {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            for (index, &(millis, event, expected)) in steps.iter().enumerate() {
                if index == spoiled_before {
                    spoil(&mut policy.state);
                }
                assert_eq!(policy.handle(at(millis), event), expected);
            }
            let mut spoiled = policy.clone();
            spoil(&mut spoiled.state);
            assert_eq!(policy, spoiled, "something was written there");
        }

        // The decision to end the connection reads no other line.
        for (millis, expected) in [
            (25_000, Action::SendPing(PingId::new(0xBAD, 8))),
            (300_000, Action::Close(CloseReason::ConnectionTimeout)),
        ] {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            spoil(&mut policy.state);
            assert_eq!(policy.poll(at(millis)), expected);
        }
    }

    /// Once a message is complete, the next one takes the fast path again, unless another cold
    /// clock may be running.
    #[test]
    fn cold_clocks_are_disarmed_once_none_may_run() {
        let at = Timestamp::from_secs;
        let config = TimeoutConfig::default();
        let within = core::time::Duration::from_secs(60);
        for (event, stays_armed) in [
            (Event::Tick, false),
            (Event::Probe { within }, true),
            (Event::Drain { within }, true),
        ] {
            let mut policy = TimeoutPolicy::new(&config, 1, at(0));
            assert!(policy.state.is_plain());
            policy.observe(at(1), event);
            policy.observe(at(1), Event::RecvPartial { total: 9 });
            assert!(!policy.state.is_plain());
            // Anything received answers a probe, whose ping is still due.
            policy.observe(at(2), Event::Recv);
            assert_eq!(policy.state.is_plain(), !stays_armed, "{event:?}");
        }
    }

    #[test]
    fn the_time_at_a_rate_is_exact_when_the_product_overflows() {
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        assert_eq!(time_at_rate(7, rate(2)), 3_500_000_000);
        assert_eq!(time_at_rate(1, rate(3)), 333_333_333);
        let bytes = u64::MAX / 1_000_000_000 + 1;
        assert_eq!(time_at_rate(bytes, rate(1_000_000_000)), bytes);
        assert_eq!(time_at_rate(u64::MAX, rate(1)), u64::MAX);
    }
}
