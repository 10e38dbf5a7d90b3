//! Configurations with small limits, and the steps to take in each.

use core::time::Duration;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::reference::{Limits, NEVER, Nanos, Reference};
use crate::config::{IdleScope, PongEvidence, TimeoutConfig, TimeoutConfigBuilder};
use crate::event::{Event, Phase};
use crate::time::Timestamp;

pub(super) struct World {
    pub(super) group: Group,
    /// The limits that differ from world to world.
    pub(super) name: String,
    /// Every limit is a multiple of this.
    pub(super) unit: Nanos,
    pub(super) seed: u64,
    /// The phase at the start.
    pub(super) phase: Phase,
    /// The configuration at the start, and those that `Step::SetConfig` chooses from.
    pub(super) configs: Vec<TimeoutConfig>,
    pub(super) limits: Vec<Limits>,
    /// How many units a poll may be late.
    pub(super) max_late: u8,
    pub(super) steps: Vec<Step>,
    /// States in which something that matters is older than this many units are not explored. Such
    /// states exist only if a probe can be postponed repeatedly, or if a changed configuration
    /// makes old facts matter.
    pub(super) max_age: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    /// The limits on writes, pings and silence, in every combination.
    Base,
    /// A connection with a limited lifetime.
    Connection,
    /// Probes.
    Probe,
    /// Drains.
    Drain,
    /// Messages that arrive in parts, with `min_data_rate`.
    Receive,
    /// Messages that arrive in parts, without `min_data_rate`.
    Partial,
    /// Writes with `min_data_rate`.
    Write,
    /// A peer that pings too fast.
    Flood,
    /// `heartbeat_interval`.
    Heartbeat,
    /// The opening handshake.
    Opening,
    /// Jitter that is turned off and on.
    Jitter,
    /// Limits that change.
    SetConfig,
}

impl Group {
    pub(super) const ALL: [Self; 12] = [
        Self::Base,
        Self::Connection,
        Self::Probe,
        Self::Drain,
        Self::Receive,
        Self::Partial,
        Self::Write,
        Self::Flood,
        Self::Heartbeat,
        Self::Opening,
        Self::Jitter,
        Self::SetConfig,
    ];
}

/// What a world tries in each state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// A unit of time passes.
    Wait,
    Poll,
    PollUnread,
    Observe(Event),
    /// The peer sends this many pings together.
    Pings(u32),
    /// The pong of the latest ping, or of the one before it.
    PongOfLatest,
    PongOfEarlier,
    /// The flush of the latest ping, or of the one before it.
    LatestSent,
    EarlierSent,
    /// The connection switches to the configuration with that index.
    SetConfig(usize),
}

/// Limits in units; 0 is off.
#[derive(Clone, Copy, Debug)]
struct Settings {
    handshake: u64,
    connection: u64,
    message: u64,
    idle: u64,
    ping: u64,
    pong: u64,
    stall: u64,
    scope: IdleScope,
    evidence: PongEvidence,
    late: u8,
}

const SECOND: Nanos = 1_000_000_000;

/// Returns the worlds of a group.
pub(super) fn worlds(group: Group) -> Vec<World> {
    match group {
        Group::Jitter => jitter_worlds(),
        Group::SetConfig => set_config_worlds(),
        _ => combinations(group)
            .into_iter()
            .map(|settings| world(group, settings))
            .collect(),
    }
}

/// Returns the combinations of limits that a group explores.
fn combinations(group: Group) -> Vec<Settings> {
    use IdleScope::{Inbound, Messages};
    use PongEvidence::{Any, Pong};

    macro_rules! vary {
        ($($field:ident: $values:expr;)*) => {{
            let mut all = Vec::from([Settings::OFF]);
            $(all = all
                .iter()
                .flat_map(|&settings| $values.map(|$field| Settings { $field, ..settings }))
                .collect();)*
            all
        }};
    }
    match group {
        Group::Base => vary! {
            message: [0, 1, 2];
            idle: [0, 2, 3];
            ping: [0, 1, 2];
            pong: [0, 1, 2];
            stall: [0, 1];
            scope: [Inbound, Messages];
            evidence: [Any, Pong];
            late: [0, 3];
        },
        Group::Connection => vary! {
            connection: [5];
            message: [0, 1];
            idle: [0, 3];
            ping: [0, 1];
            pong: [0, 1];
            stall: [0, 1];
            evidence: [Any, Pong];
            late: [0, 3];
        },
        Group::Probe => vary! {
            message: [0, 1];
            idle: [0, 3];
            ping: [0, 2];
            pong: [0, 1];
            stall: [0, 1];
            evidence: [Any, Pong];
            late: [0, 2];
        },
        Group::Drain | Group::Heartbeat => vary! {
            message: [1];
            idle: [0, 2];
            ping: [0, 1];
            pong: [0, 1];
            stall: [0, 1];
            late: [0, 2];
        },
        Group::Receive => vary! {
            idle: [0, 2];
            stall: [0, 1];
            ping: [0, 1];
            late: [0, 2];
        },
        Group::Partial => vary! {
            idle: [0, 2];
            ping: [0, 1];
            stall: [0, 1];
            scope: [Inbound, Messages];
            late: [0, 2];
        },
        Group::Write => vary! {
            message: [1, 2];
            idle: [0, 2];
            ping: [0, 1];
            pong: [0, 1];
            stall: [0, 1];
            scope: [Inbound, Messages];
            late: [0, 2];
        },
        Group::Flood => vary! {
            idle: [0, 1];
            stall: [0, 1];
            ping: [0, 1];
            late: [0, 2];
        },
        Group::Opening => vary! {
            stall: [0, 1];
            late: [0, 2];
            handshake: [0, 2];
        },
        Group::Jitter | Group::SetConfig => Vec::new(),
    }
}

fn world(group: Group, settings: Settings) -> World {
    let mut world = World::new(group, settings, SECOND);
    let builder = settings.builder(SECOND);
    let within = |units| Duration::from_nanos(units * SECOND);
    let builder = match group {
        Group::Probe => {
            let probes = [0, 1, 2].map(|units| Event::Probe {
                within: within(units),
            });
            world.observe(probes);
            builder
        }
        Group::Drain => {
            let drains = [0, 2, 5].map(|units| Event::Drain {
                within: within_that_drains_after(world.seed, units * SECOND),
            });
            world.observe(drains);
            builder
        }
        Group::Receive => {
            world.observe([0, 1, 60].map(|total| Event::RecvPartial { total }));
            builder.min_data_rate(1)
        }
        Group::Partial => {
            world.observe([0, 1, 2].map(|total| Event::RecvPartial { total }));
            builder
        }
        Group::Write => {
            world.observe([Event::SendProgress { bytes: 60 }]);
            builder.min_data_rate(1)
        }
        Group::Flood => {
            world.steps.push(Step::Pings(58));
            builder.max_ping_rate(1)
        }
        Group::Heartbeat => builder.heartbeat_interval(within(1)),
        Group::Opening => {
            world.phase = Phase::Opening;
            builder
        }
        _ => builder,
    };
    world.finish([builder])
}

/// A unit is a nanosecond here, so the jitter shortens limits by whole units.
fn jitter_worlds() -> Vec<World> {
    let mut all = Vec::new();
    for seed in 1..=6 {
        for evidence in [PongEvidence::Any, PongEvidence::Pong] {
            let settings = Settings {
                handshake: 0,
                connection: 8,
                message: 1,
                idle: 5,
                ping: 4,
                pong: 1,
                stall: 1,
                scope: IdleScope::Inbound,
                evidence,
                late: 1,
            };
            let mut world = World::new(Group::Jitter, settings, 1);
            world.seed = seed;
            world.name = format!("seed {seed}, {}", world.name);
            let builder = settings.builder(1);
            all.push(world.finish([0.5, 0.0].map(|jitter| builder.jitter(jitter))));
        }
    }
    all
}

fn set_config_worlds() -> Vec<World> {
    let usual = Settings {
        handshake: 0,
        connection: 0,
        message: 1,
        idle: 3,
        ping: 1,
        pong: 1,
        stall: 1,
        scope: IdleScope::Inbound,
        evidence: PongEvidence::Any,
        late: 2,
    };
    let strict = Settings {
        evidence: PongEvidence::Pong,
        ..usual
    };
    let mut all = Vec::new();
    for one in [usual, strict] {
        let others = [
            Settings { message: 0, ..one },
            Settings { idle: 0, ..one },
            Settings { idle: 2, ..one },
            Settings { ping: 0, ..one },
            Settings { ping: 2, ..one },
            Settings { pong: 0, ..one },
            Settings { stall: 0, ..one },
            Settings {
                connection: 4,
                ..one
            },
            Settings {
                message: 0,
                pong: 0,
                ..one
            },
            Settings {
                scope: IdleScope::Messages,
                ..one
            },
            match one.evidence {
                PongEvidence::Any => strict,
                PongEvidence::Pong => usual,
            },
        ];
        for other in others {
            let mut world = World::new(Group::SetConfig, one, SECOND);
            world.name = format!("{}; {}", world.name, other.name());
            world.max_age = 6;
            all.push(world.finish([one, other].map(|settings| settings.builder(SECOND))));
        }
    }
    all
}

impl World {
    fn new(group: Group, settings: Settings, unit: Nanos) -> Self {
        let mut world = Self {
            group,
            name: settings.name(),
            unit,
            seed: 7,
            phase: Phase::Open,
            configs: Vec::new(),
            limits: Vec::new(),
            max_late: settings.late,
            steps: Vec::from([
                Step::Wait,
                Step::Poll,
                Step::PollUnread,
                Step::PongOfLatest,
                Step::PongOfEarlier,
                Step::LatestSent,
                Step::EarlierSent,
            ]),
            max_age: 12,
        };
        world.observe([
            Event::Recv,
            Event::Ping,
            Event::Pong(None),
            Event::SendStart,
            Event::SendProgress { bytes: 1 },
            Event::SendOk,
            Event::Flushed,
            Event::CloseStart,
            Event::PeerClose,
            Event::Closed,
            Event::Opened,
        ]);
        world
    }

    fn observe<const N: usize>(&mut self, events: [Event; N]) {
        self.steps.extend(events.map(Step::Observe));
    }

    fn finish<const N: usize>(mut self, builders: [TimeoutConfigBuilder; N]) -> Self {
        let config = |builder: TimeoutConfigBuilder| builder.build().expect("no limit is zero");
        self.configs = builders.map(config).to_vec();
        self.limits = self.configs.iter().map(Limits::new).collect();
        if N > 1 {
            self.steps.extend((0..N).map(Step::SetConfig));
        }
        self
    }

    /// Returns whether `is` holds for any of the configurations.
    pub(super) fn any(&self, is: impl Fn(&Limits) -> bool) -> bool {
        self.limits.iter().any(is)
    }

    /// Returns whether the configuration stays the same, as most claims require.
    pub(super) fn is_constant(&self) -> bool {
        self.limits.len() == 1
    }

    /// Returns a limit in units.
    pub(super) fn units(&self, limit: Option<Nanos>) -> Option<u64> {
        limit.map(|nanos| nanos / self.unit)
    }

    /// Returns the longest silence before a verdict, in units. `None` if polls may be late, or the
    /// connection's lifetime ends first.
    pub(super) fn exact_bound(&self) -> Option<u64> {
        let lifetime = self.units(self.limits[0].connection);
        self.bound()
            .filter(|_| self.is_constant() && self.max_late == 0)
            .filter(|&bound| lifetime.is_none_or(|lifetime| lifetime > bound))
    }

    /// Returns `detection_bound()` in units.
    pub(super) fn bound(&self) -> Option<u64> {
        let bound = self.configs[0].detection_bound()?;
        Some(bound.as_nanos() as u64 / self.unit)
    }
}

impl Settings {
    const OFF: Self = Self {
        handshake: 0,
        connection: 0,
        message: 0,
        idle: 0,
        ping: 0,
        pong: 0,
        stall: 0,
        scope: IdleScope::Inbound,
        evidence: PongEvidence::Any,
        late: 0,
    };

    fn builder(&self, unit: Nanos) -> TimeoutConfigBuilder {
        let limit = |units: u64| (units > 0).then(|| Duration::from_nanos(units * unit));
        let builder = TimeoutConfig::builder()
            .jitter(0.0)
            .close_timeout(Duration::from_nanos(unit))
            .no_min_data_rate()
            .no_max_ping_rate()
            .no_heartbeat_interval()
            .idle_scope(self.scope)
            .pong_evidence(self.evidence);
        macro_rules! set {
            ($($units:ident $on:ident $off:ident;)*) => {{
                $(let builder = match limit(self.$units) {
                    Some(length) => builder.$on(length),
                    None => builder.$off(),
                };)*
                builder
            }};
        }
        set! {
            handshake handshake_timeout no_handshake_timeout;
            connection connection_timeout no_connection_timeout;
            message message_timeout no_message_timeout;
            idle idle_timeout no_idle_timeout;
            ping ping_interval no_ping_interval;
            pong pong_timeout no_pong_timeout;
            stall stall_tolerance no_stall_tolerance;
        }
    }

    fn name(&self) -> String {
        format!("{self:?}")
    }
}

/// Returns the `within` of a drain that closes after exactly `wait`, given the seed.
fn within_that_drains_after(seed: u64, wait: Nanos) -> Duration {
    let limits = Limits::new(&TimeoutConfig::DEFAULT);
    let drains_after = |within| {
        let mut reference = Reference::new(seed, Timestamp::ZERO, Phase::Open);
        let within = Duration::from_nanos(within);
        reference.observe(&limits, Timestamp::ZERO, Event::Drain { within });
        reference.drain
    };
    let (mut low, mut high) = (0, NEVER / 2);
    while low < high {
        let middle = low + (high - low) / 2;
        if drains_after(middle) < wait {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    assert_eq!(drains_after(low), wait);
    Duration::from_nanos(low)
}
