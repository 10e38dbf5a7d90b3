//! Generates cases from bytes, for the property tests, the fuzz target and its seed files. A case
//! is a configuration and a sequence of calls.
//!
//! Every byte string is a case. Instants are relative to the policy's deadlines, so that random
//! bytes hit deadlines exactly, or miss them by one nanosecond.

use std::time::Duration;

use ws_timeout::{
    Action, CloseReason, DeadlineKind, Event, IdleScope, Phase, PingId, PongEvidence,
    TimeoutConfig, TimeoutPolicy, Timestamp,
};

// The reference takes its imports from here.
#[path = "../../src/policy/model/reference.rs"]
mod reference;

use super::{Oracle, as_array};
use reference::{Limits, Reference};

/// The number of configurations that `set_config` chooses from. A case starts with the first.
pub(crate) const CONFIGS: usize = 3;

/// The number of bytes of a step.
pub(crate) const STEP: usize = 5;

/// The number of bytes before the steps.
pub(crate) const HEADER: usize = 8 + 2 + CONFIGS * Recipe::SIZE;

/// The maximum number of steps of a case.
const MAX_STEPS: usize = 512;

/// The maximum number of steps once the connection is no longer open.
const STEPS_AFTER_END: usize = 20;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) opening: bool,
    /// Whether to skip most steps that would end the connection: random calls end it soon, and
    /// calls on an ended connection test little.
    pub(crate) careful: bool,
    /// See [`start`].
    pub(crate) start: u8,
    pub(crate) recipes: [Recipe; CONFIGS],
    pub(crate) steps: Vec<Step>,
}

/// A configuration in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Recipe {
    /// Handshake, heartbeat, connection, message, idle, ping, pong, close, stall: see
    /// [`Recipe::length`].
    pub(crate) lengths: [u8; 9],
    /// See [`rate`].
    pub(crate) min_data_rate: u8,
    pub(crate) max_ping_rate: u8,
    /// In 510ths, so 255 is the maximum, one half.
    pub(crate) jitter: u8,
    /// Bits 0 and 1: defaults or preset. Bit 2: scope `messages`. Bit 3: evidence `pong`. Bits 4
    /// and 5: how many more limits are off, out of four. Bits 6 and 7: whether all durations have
    /// units of the same size.
    pub(crate) choices: u8,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) when: When,
    pub(crate) what: What,
}

/// An instant, relative to that of the previous call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    Same,
    /// This many 256ths of the way to the next deadline.
    OnTheWay(u8),
    /// At one of the deadlines, the next one first.
    At(u8),
    Before(u8),
    After(u8),
    /// As late as `stall_tolerance` allows, or one nanosecond later.
    Tolerated(u8),
    Stalled(u8),
    /// Later by a [`Recipe::length`].
    Later(u8),
    Earlier(u8),
    /// This long before the last representable instant.
    BeforeTheLast(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    Poll,
    PollUnread,
    Observe(RelativeEvent),
    Handle(RelativeEvent),
    SetConfig(u8),
}

/// An event, relative to earlier events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RelativeEvent {
    Opened,
    Recv,
    /// The total, relative to the previous one: see [`amount`].
    More(u8),
    Less(u8),
    Total(u8),
    /// This many together.
    Pings(u8),
    /// The pong of the latest ping, of one before it, of the one to come, or of none.
    Pong,
    PongBefore(u8),
    PongNext,
    PongForeign,
    SendStart,
    SendProgress(u8),
    SendOk,
    Flushed,
    PingSent,
    PingSentBefore(u8),
    PingSentNext,
    /// Within a [`Recipe::length`].
    Probe(u8),
    Drain(u8),
    CloseStart,
    PeerClose,
    Closed,
    Tick,
}

/// A call to the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Poll,
    PollUnread,
    Observe(Event),
    Handle(Event),
    SetConfig(TimeoutConfig),
}

impl Case {
    /// Panics if the policy differs from the reference or from the oracle. Returns the number of
    /// calls.
    pub(crate) fn agrees(&self) -> usize {
        self.compare(Models::new(self, true))
    }

    /// The same without the slow oracle.
    pub(crate) fn agrees_with_the_reference(&self) -> usize {
        self.compare(Models::new(self, false))
    }

    fn compare(&self, mut models: Models) -> usize {
        let mut failing = FailingCase {
            config: self.recipes[0].config(),
            calls: Vec::new(),
        };
        self.play(|_, now, call, action, policy| {
            failing.calls.push((now, call, action));
            models.follow(now, call, action, policy);
        })
    }

    /// Makes the calls to a policy and passes each to `visit`: the policy before, the call, its
    /// result, the policy after. Returns the number of calls.
    pub(crate) fn play(
        &self,
        visit: impl FnMut(&TimeoutPolicy, Timestamp, Call, Option<Action>, &TimeoutPolicy),
    ) -> usize {
        self.play_with(|_| None, visit)
    }

    /// Like [`Case::play`], but before each call first makes the calls that `first` returns for
    /// that call's instant.
    pub(crate) fn play_with(
        &self,
        mut first: impl FnMut(Timestamp) -> Option<(Timestamp, Call)>,
        mut visit: impl FnMut(&TimeoutPolicy, Timestamp, Call, Option<Action>, &TimeoutPolicy),
    ) -> usize {
        let mut policy = self.policy();
        let mut steps_after_end = 0;
        let mut calls = 0;
        let mut make = |policy: &mut TimeoutPolicy, now, call| {
            let before = policy.clone();
            let action = make(policy, now, call);
            visit(&before, now, call, action, policy);
            calls += 1;
        };
        for step in &self.steps {
            let careful = self.careful && !step.is_bold();
            if careful && step.what.is_deadly() {
                continue;
            }
            for call in 0..step.what.times() {
                let when = if call == 0 { step.when } else { When::Same };
                let mut now = self.instant(when, &policy);
                if careful {
                    now = now.min(before_the_end(&policy));
                }
                while let Some((now, call)) = first(now) {
                    make(&mut policy, now, call);
                }
                let call = self.call(step.what, &policy);
                make(&mut policy, now, call);
            }
            if !matches!(policy.phase(), Phase::Opening | Phase::Open) {
                steps_after_end += 1;
            }
            if steps_after_end > STEPS_AFTER_END {
                break;
            }
        }
        calls
    }

    /// Returns the calls that [`Case::play`] makes.
    pub(crate) fn trace(&self) -> Vec<(Timestamp, Call)> {
        let mut trace = Vec::new();
        self.play(|_, now, call, _, _| trace.push((now, call)));
        trace
    }

    pub(crate) fn policy(&self) -> TimeoutPolicy {
        let config = self.recipes[0].config();
        if self.opening {
            TimeoutPolicy::opening(config, self.seed, start(self.start))
        } else {
            TimeoutPolicy::new(config, self.seed, start(self.start))
        }
    }

    pub(crate) fn instant(&self, when: When, policy: &TimeoutPolicy) -> Timestamp {
        let latest = latest(policy);
        let now = latest.as_nanos();
        let tolerance = policy.config().stall_tolerance().map_or(0, saturated);
        let length = |code| self.recipes[0].length(code).map_or(0, saturated);
        Timestamp::from_nanos(match when {
            When::Same => now,
            When::OnTheWay(part) => {
                let ahead = deadline(policy, latest, 0) - now;
                now + (u128::from(ahead) * u128::from(part) / 256) as u64
            }
            When::At(which) => deadline(policy, latest, which),
            When::Before(which) => deadline(policy, latest, which).saturating_sub(1),
            When::After(which) => deadline(policy, latest, which).saturating_add(1),
            When::Tolerated(which) => deadline(policy, latest, which).saturating_add(tolerance),
            When::Stalled(which) => deadline(policy, latest, which)
                .saturating_add(tolerance)
                .saturating_add(1),
            When::Later(code) => now.saturating_add(length(code)),
            When::Earlier(code) => now.saturating_sub(length(code)),
            When::BeforeTheLast(code) => Timestamp::MAX.as_nanos() - length(code).min(u64::MAX - 1),
        })
    }

    pub(crate) fn call(&self, what: What, policy: &TimeoutPolicy) -> Call {
        match what {
            What::Poll => Call::Poll,
            What::PollUnread => Call::PollUnread,
            What::Observe(relative) => Call::Observe(self.event(relative, policy)),
            What::Handle(relative) => Call::Handle(self.event(relative, policy)),
            What::SetConfig(which) => {
                Call::SetConfig(self.recipes[usize::from(which) % CONFIGS].config())
            }
        }
    }

    fn event(&self, relative: RelativeEvent, policy: &TimeoutPolicy) -> Event {
        let latest = policy.pings_sent();
        let total = policy.status(Timestamp::ZERO).partial_bytes;
        let before = |back: u8| policy.ping_id(latest.saturating_sub(u64::from(back) + 1));
        let within = |code| self.recipes[0].length(code).unwrap_or(Duration::ZERO);
        match relative {
            RelativeEvent::Opened => Event::Opened,
            RelativeEvent::Recv => Event::Recv,
            RelativeEvent::More(code) => Event::RecvPartial {
                total: total.saturating_add(amount(code)),
            },
            RelativeEvent::Less(code) => Event::RecvPartial {
                total: total.saturating_sub(amount(code)),
            },
            RelativeEvent::Total(code) => Event::RecvPartial {
                total: amount(code),
            },
            RelativeEvent::Pings(_) => Event::Ping,
            RelativeEvent::Pong => Event::Pong(Some(policy.ping_id(latest))),
            RelativeEvent::PongBefore(back) => Event::Pong(Some(before(back))),
            RelativeEvent::PongNext => Event::Pong(Some(policy.ping_id(latest + 1))),
            RelativeEvent::PongForeign => Event::Pong(None),
            RelativeEvent::SendStart => Event::SendStart,
            RelativeEvent::SendProgress(code) => Event::SendProgress {
                bytes: amount(code),
            },
            RelativeEvent::SendOk => Event::SendOk,
            RelativeEvent::Flushed => Event::Flushed,
            RelativeEvent::PingSent => Event::PingSent(policy.ping_id(latest)),
            RelativeEvent::PingSentBefore(back) => Event::PingSent(before(back)),
            RelativeEvent::PingSentNext => Event::PingSent(policy.ping_id(latest + 1)),
            RelativeEvent::Probe(code) => Event::Probe {
                within: within(code),
            },
            RelativeEvent::Drain(code) => Event::Drain {
                within: within(code),
            },
            RelativeEvent::CloseStart => Event::CloseStart,
            RelativeEvent::PeerClose => Event::PeerClose,
            RelativeEvent::Closed => Event::Closed,
            RelativeEvent::Tick => Event::Tick,
        }
    }

    pub(crate) fn decode(data: &[u8]) -> Self {
        let mut header = [0; HEADER];
        let given = data.len().min(HEADER);
        header[..given].copy_from_slice(&data[..given]);
        let (seed, rest) = header.split_first_chunk().expect("the header is longer");
        let (&[manner, start], rest) = rest.split_first_chunk().expect("the header is longer");
        let recipe = |which: usize| Recipe::decode(&rest[which * Recipe::SIZE..]);
        Self {
            seed: u64::from_le_bytes(*seed),
            opening: manner % 4 == 1,
            careful: manner % 16 >= 4,
            start,
            recipes: std::array::from_fn(recipe),
            steps: data[given..]
                .chunks_exact(STEP)
                .take(MAX_STEPS)
                .map(Step::decode)
                .collect(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut data = self.seed.to_le_bytes().to_vec();
        let manner = u8::from(self.opening) + 4 * u8::from(self.careful);
        data.extend([manner, self.start]);
        data.extend(self.recipes.iter().flat_map(Recipe::encode));
        data.extend(self.steps.iter().flat_map(Step::encode));
        data
    }
}

impl Recipe {
    pub(crate) const SIZE: usize = 13;

    /// Codes of lengths.
    pub(crate) const OFF: u8 = 0;
    pub(crate) const DEFAULT: u8 = 1;

    /// The defaults.
    pub(crate) const DEFAULTS: Self = Self {
        lengths: [Self::DEFAULT; 9],
        min_data_rate: 1,
        max_ping_rate: 1,
        jitter: 0,
        choices: 0,
    };

    /// The code of 1 to 32 seconds.
    pub(crate) const fn secs(seconds: u8) -> u8 {
        assert!(0 < seconds && seconds <= 32);
        (4 << 5) | (seconds - 1)
    }

    /// Returns the duration for a code. Small codes are the interesting durations; the others are a
    /// unit and its multiple.
    pub(crate) fn length(&self, code: u8) -> Option<Duration> {
        const UNITS: [u64; 7] = [
            1_000_000,
            10_000_000,
            100_000_000,
            1_000_000_000,
            5_000_000_000,
            60_000_000_000,
            3_600_000_000_000,
        ];
        Some(match code {
            Self::OFF | Self::DEFAULT => return None,
            2 => Duration::from_nanos(u64::MAX - 2),
            3 => Duration::from_nanos(u64::MAX - 1),
            4 => Duration::from_nanos(u64::MAX),
            5 => Duration::MAX,
            6 => Duration::from_nanos(u64::MAX / 2),
            7 => Duration::from_nanos(u64::MAX / 2 + 1),
            8..32 => Duration::from_nanos(u64::from(code) - 7),
            _ => {
                let unit = usize::from(code >> 5) - 1;
                let unit = match self.choices >> 6 {
                    0 => UNITS[unit],
                    size => UNITS[usize::from(size) + unit % 2],
                };
                Duration::from_nanos(unit * (u64::from(code & 31) + 1))
            }
        })
    }

    pub(crate) fn config(&self) -> TimeoutConfig {
        let preset = match self.choices & 3 {
            0 => TimeoutConfig::DEFAULT,
            1 => TimeoutConfig::development(),
            2 => TimeoutConfig::production(),
            _ => TimeoutConfig::high_latency(),
        };
        let mut builder = preset
            .to_builder()
            .jitter(f64::from(self.jitter) / 510.0)
            .idle_scope(if self.choices & 4 == 0 {
                IdleScope::Inbound
            } else {
                IdleScope::Messages
            })
            .pong_evidence(if self.choices & 8 == 0 {
                PongEvidence::Any
            } else {
                PongEvidence::Pong
            });
        let sparse = (self.choices >> 4) & 3;
        let setting = |code: u8, one_more: u8| match self.length(code) {
            _ if sparse > 0 && code % 4 < sparse + one_more => Setting::Off,
            Some(length) => Setting::Is(length),
            None if code == Self::OFF => Setting::Off,
            None => Setting::Default,
        };
        macro_rules! set {
            ($($place:literal $limit:ident $off:ident,)*) => {
                // The connection's lifetime is off more often, so that more cases last longer.
                $(builder = match setting(self.lengths[$place], u8::from($place == 2)) {
                    Setting::Off => builder.$off(),
                    Setting::Default => builder,
                    Setting::Is(length) => builder.$limit(length),
                };)*
            };
        }
        set! {
            0 handshake_timeout no_handshake_timeout,
            1 heartbeat_interval no_heartbeat_interval,
            2 connection_timeout no_connection_timeout,
            3 message_timeout no_message_timeout,
            4 idle_timeout no_idle_timeout,
            5 ping_interval no_ping_interval,
            6 pong_timeout no_pong_timeout,
            8 stall_tolerance no_stall_tolerance,
        }
        if let Some(length) = self.length(self.lengths[7]) {
            builder = builder.close_timeout(length);
        }
        builder = match rate(self.min_data_rate, 240) {
            Some(rate) => builder.min_data_rate(rate),
            None => builder.no_min_data_rate(),
        };
        builder = match rate(self.max_ping_rate, 20) {
            Some(rate) => builder.max_ping_rate(rate),
            None => builder.no_max_ping_rate(),
        };
        builder.build().expect("no code is a length of zero")
    }

    fn decode(data: &[u8]) -> Self {
        let (lengths, rest) = data.split_first_chunk().expect("a recipe is longer");
        let (&[min_data_rate, max_ping_rate, jitter, choices], _) =
            rest.split_first_chunk().expect("a recipe is longer");
        Self {
            lengths: *lengths,
            min_data_rate,
            max_ping_rate,
            jitter,
            choices,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let rest = [
            self.min_data_rate,
            self.max_ping_rate,
            self.jitter,
            self.choices,
        ];
        [&self.lengths[..], &rest].concat()
    }
}

enum Setting {
    Off,
    Default,
    Is(Duration),
}

/// A value, and how many of the 256 bytes represent it.
type Weighted<T> = (u8, T);

type ToWhen = fn(u8) -> When;
type ToWhat = fn(u8, u8) -> What;
type ToRelativeEvent = fn(u8) -> RelativeEvent;

const WHENS: [Weighted<ToWhen>; 10] = [
    (64, |_| When::Same),
    (64, When::OnTheWay),
    (40, When::At),
    (20, When::Before),
    (12, When::After),
    (6, When::Tolerated),
    (16, When::Stalled),
    (22, When::Later),
    (11, When::Earlier),
    (1, When::BeforeTheLast),
];

const WHATS: [Weighted<ToWhat>; 5] = [
    (112, |kind, code| {
        What::Observe(RelativeEvent::decode(kind, code))
    }),
    (60, |kind, code| {
        What::Handle(RelativeEvent::decode(kind, code))
    }),
    (52, |_, _| What::Poll),
    (28, |_, _| What::PollUnread),
    (4, |_, code| What::SetConfig(code)),
];

const RELATIVE_EVENTS: [Weighted<ToRelativeEvent>; 23] = [
    (16, |_| RelativeEvent::Recv),
    (20, RelativeEvent::More),
    (6, RelativeEvent::Less),
    (6, RelativeEvent::Total),
    (16, RelativeEvent::Pings),
    (22, |_| RelativeEvent::Pong),
    (5, RelativeEvent::PongBefore),
    (2, |_| RelativeEvent::PongNext),
    (5, |_| RelativeEvent::PongForeign),
    (28, |_| RelativeEvent::SendStart),
    (26, RelativeEvent::SendProgress),
    (20, |_| RelativeEvent::SendOk),
    (16, |_| RelativeEvent::Flushed),
    (30, |_| RelativeEvent::PingSent),
    (3, RelativeEvent::PingSentBefore),
    (2, |_| RelativeEvent::PingSentNext),
    (10, RelativeEvent::Probe),
    (3, RelativeEvent::Drain),
    (1, |_| RelativeEvent::CloseStart),
    (1, |_| RelativeEvent::PeerClose),
    (1, |_| RelativeEvent::Closed),
    (13, |_| RelativeEvent::Tick),
    (4, |_| RelativeEvent::Opened),
];

impl Step {
    /// Whether the step may end the connection even in a careful case.
    pub(crate) fn is_bold(&self) -> bool {
        let code = self.when.code().or(self.what.code());
        code.is_some_and(|code| code % 128 == 5)
    }

    fn decode(data: &[u8]) -> Self {
        let [when, instant, what, kind, code] =
            data.try_into().expect("a step has that many bytes");
        Self {
            when: pick(&WHENS, when)(instant),
            what: pick(&WHATS, what)(kind, code),
        }
    }

    fn encode(&self) -> [u8; STEP] {
        let bytes = || 0..=u8::MAX;
        let instant = self.when.code().unwrap_or(0);
        let code = self.what.code().unwrap_or(0);
        let when = bytes()
            .find(|&when| pick(&WHENS, when)(instant) == self.when)
            .expect("every instant has a byte");
        let (what, kind) = bytes()
            .flat_map(|what| bytes().map(move |kind| (what, kind)))
            .find(|&(what, kind)| pick(&WHATS, what)(kind, code) == self.what)
            .expect("every call has two bytes");
        [when, instant, what, kind, code]
    }
}

impl When {
    fn code(self) -> Option<u8> {
        match self {
            Self::Same => None,
            Self::OnTheWay(code)
            | Self::At(code)
            | Self::Before(code)
            | Self::After(code)
            | Self::Tolerated(code)
            | Self::Stalled(code)
            | Self::Later(code)
            | Self::Earlier(code)
            | Self::BeforeTheLast(code) => Some(code),
        }
    }
}

impl What {
    fn code(self) -> Option<u8> {
        match self {
            Self::Poll | Self::PollUnread => None,
            Self::SetConfig(code) => Some(code),
            Self::Observe(relative) | Self::Handle(relative) => relative.code(),
        }
    }

    pub(crate) fn is_deadly(self) -> bool {
        match self {
            Self::Observe(relative) | Self::Handle(relative) => matches!(
                relative,
                RelativeEvent::CloseStart
                    | RelativeEvent::PeerClose
                    | RelativeEvent::Closed
                    | RelativeEvent::Drain(_)
                    | RelativeEvent::Pings(128..)
            ),
            _ => false,
        }
    }

    /// The number of calls. Pings come in bursts too, or no peer would ever flood.
    fn times(self) -> u8 {
        match self {
            Self::Observe(RelativeEvent::Pings(times))
            | Self::Handle(RelativeEvent::Pings(times)) => 1 + times % 4 / 3 * (times / 2),
            _ => 1,
        }
    }
}

impl RelativeEvent {
    fn decode(kind: u8, code: u8) -> Self {
        pick(&RELATIVE_EVENTS, kind)(code)
    }

    fn code(self) -> Option<u8> {
        match self {
            Self::More(code)
            | Self::Less(code)
            | Self::Total(code)
            | Self::Pings(code)
            | Self::PongBefore(code)
            | Self::SendProgress(code)
            | Self::PingSentBefore(code)
            | Self::Probe(code)
            | Self::Drain(code) => Some(code),
            _ => None,
        }
    }
}

pub(crate) fn make(policy: &mut TimeoutPolicy, now: Timestamp, call: Call) -> Option<Action> {
    match call {
        Call::Poll => return Some(policy.poll(now)),
        Call::PollUnread => return Some(policy.poll_unread(now)),
        Call::Handle(event) => return Some(policy.handle(now, event)),
        Call::Observe(event) => policy.observe(now, event),
        Call::SetConfig(config) => policy.set_config(now, config),
    }
    None
}

/// The latest instant that the policy has seen.
pub(crate) fn latest(policy: &TimeoutPolicy) -> Timestamp {
    policy.status(Timestamp::ZERO).at
}

/// Returns one of the deadlines after `now`: the next one if `which` is odd. Returns `now` if there
/// is none.
fn deadline(policy: &TimeoutPolicy, now: Timestamp, which: u8) -> u64 {
    let deadlines = policy.status(now).deadlines;
    let ahead = || deadlines.iter().map(|(_, at)| at).filter(|&at| at > now);
    let chosen = if which & 1 == 0 {
        ahead().nth(usize::from(which / 2) % ahead().count().max(1))
    } else {
        ahead().min()
    };
    chosen.unwrap_or(now).as_nanos()
}

/// The last instant before a verdict is due, or the latest instant seen if one is already due.
pub(crate) fn before_the_end(policy: &TimeoutPolicy) -> Timestamp {
    let status = policy.status(Timestamp::ZERO);
    let [ping, idle] =
        [DeadlineKind::NextPing, DeadlineKind::Idle].map(|kind| status.deadlines.get(kind));
    // Silence does not end a connection if the ping row comes first: a late poll requests the ping
    // and excuses the peer.
    let ping_first = policy.config().idle_scope() == IdleScope::Inbound
        && ping.zip(idle).is_some_and(|(ping, idle)| ping < idle);
    let deadly = |kind| match kind {
        DeadlineKind::NextPing | DeadlineKind::Close => false,
        DeadlineKind::Idle => !ping_first,
        _ => true,
    };
    let end = status
        .deadlines
        .iter()
        .filter(|&(kind, _)| deadly(kind))
        .map(|(_, at)| Timestamp::from_nanos(at.as_nanos().saturating_sub(1)))
        .min();
    end.map_or(Timestamp::MAX, |end| end.max(status.at))
}

/// When the policy is created: mostly at the origin.
fn start(code: u8) -> Timestamp {
    Timestamp::from_nanos(match code {
        250 => 1,
        251 => 1_700_000_000_000_000_000,
        252 => u64::MAX / 2,
        253 => u64::MAX - 3_600_000_000_000,
        254 => u64::MAX - 2_000_000_000,
        255 => u64::MAX,
        _ => 0,
    })
}

fn rate(code: u8, default: u32) -> Option<u32> {
    Some(match code {
        0 => return None,
        1 => default,
        2..32 => u32::from(code) - 1,
        32..64 => 1 << (code - 32),
        64..96 => u32::MAX >> (code - 64),
        96..160 => u32::from(code % 4) + 1,
        160..224 => u32::from(code - 159) * 25,
        _ => return None,
    })
}

fn amount(code: u8) -> u64 {
    match code {
        0..64 => u64::from(code),
        64..128 => 1 << (code - 64),
        128..240 => u64::from(code - 127) * 100,
        _ => u64::MAX - u64::from(255 - code),
    }
}

fn pick<T: Copy>(table: &[Weighted<T>], byte: u8) -> T {
    let mut left = u32::from(byte);
    for &(weight, value) in table {
        match left.checked_sub(u32::from(weight)) {
            Some(rest) => left = rest,
            None => return value,
        }
    }
    panic!("the table adds up to less than 256")
}

fn saturated(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Prints the calls of a failing case.
struct FailingCase {
    config: TimeoutConfig,
    calls: Vec<(Timestamp, Call, Option<Action>)>,
}

impl Drop for FailingCase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.config);
            for (now, call, action) in &self.calls {
                eprintln!("{now:?} {call:?} {action:?}");
            }
        }
    }
}

/// The models that a policy is compared with.
struct Models {
    limits: Limits,
    reference: Reference,
    oracle: Option<Oracle>,
    calls: u64,
}

impl Models {
    fn new(case: &Case, with_oracle: bool) -> Self {
        let policy = case.policy();
        let (config, seed) = (policy.config(), case.seed);
        let (now, phase) = (start(case.start), policy.phase());
        let models = Self {
            limits: Limits::new(config),
            reference: Reference::new(seed, now, phase),
            oracle: with_oracle.then(|| Oracle::new(*config, seed, now, phase)),
            calls: 0,
        };
        models.check(now, &policy);
        models
    }

    /// Makes the same call as to the policy, and compares the results of all queries.
    fn follow(
        &mut self,
        now: Timestamp,
        call: Call,
        action: Option<Action>,
        policy: &TimeoutPolicy,
    ) {
        if let Call::SetConfig(config) = call {
            self.limits = Limits::new(&config);
        }
        let (limits, reference) = (&self.limits, &mut self.reference);
        let expected = match call {
            Call::Poll => Some(reference.poll(limits, now)),
            Call::PollUnread => Some(reference.poll_unread(limits, now)),
            Call::Observe(event) => {
                reference.observe(limits, now, event);
                None
            }
            Call::Handle(event) => {
                reference.observe(limits, now, event);
                Some(reference.poll(limits, now))
            }
            Call::SetConfig(_) => {
                reference.set_config(limits, now);
                None
            }
        };
        assert_eq!(action, expected, "the reference: {call:?} at {now}");
        if let Some(oracle) = &mut self.oracle {
            let expected = match call {
                Call::Poll => Some(oracle.poll(now)),
                Call::PollUnread => Some(oracle.poll_unread(now)),
                Call::Observe(event) => {
                    oracle.observe(now, event);
                    None
                }
                Call::Handle(event) => {
                    oracle.observe(now, event);
                    Some(oracle.poll(now))
                }
                Call::SetConfig(config) => {
                    oracle.set_config(now, config);
                    None
                }
            };
            assert_eq!(action, expected, "the oracle: {call:?} at {now}");
        }
        self.calls += 1;
        self.check(now, policy);
    }

    fn check(&self, now: Timestamp, policy: &TimeoutPolicy) {
        if let Err(what) = self.reference.compare(&self.limits, policy) {
            panic!(
                "the reference differs: {what}\n{policy:?}\n{:?}",
                self.reference
            );
        }
        if let Some(oracle) = &self.oracle {
            // Queries may be about any instant: this one, an earlier and a later one.
            let queried_at = match self.calls % 4 {
                0 => Timestamp::ZERO,
                1 => oracle.next_deadline().unwrap_or(Timestamp::MAX),
                _ => now,
            };
            check(oracle, policy, queried_at);
        }
    }
}

fn check(oracle: &Oracle, policy: &TimeoutPolicy, now: Timestamp) {
    use DeadlineKind as Kind;

    assert_eq!(
        policy.next_deadline(),
        oracle.next_deadline(),
        "next_deadline"
    );
    assert_eq!(policy.phase(), oracle.phase(), "phase");
    assert_eq!(policy.cause(), oracle.cause(), "cause");
    assert_eq!(policy.rtt().map(as_array), oracle.rtt(), "rtt");
    assert_eq!(policy.pings_sent(), oracle.pings_sent(), "pings_sent");
    assert_eq!(
        policy.pongs_received(),
        oracle.pongs_received(),
        "pongs_received"
    );
    let next = oracle.pings_sent() + 1;
    assert_eq!(policy.ping_id(next), oracle.ping_id(next), "ping_id");

    let is_due = |kind| oracle.is_due(kind, now);
    assert_eq!(policy.age(now), oracle.age(now), "age");
    assert_eq!(policy.is_idle(now), is_due(Kind::Idle), "is_idle");
    assert_eq!(
        policy.is_pong_overdue(now),
        is_due(Kind::Pong),
        "is_pong_overdue"
    );
    assert_eq!(
        policy.should_ping(now),
        is_due(Kind::NextPing),
        "should_ping"
    );
    assert_eq!(
        policy.is_expired(now),
        is_due(Kind::Connection),
        "is_expired"
    );
    assert_eq!(
        policy.remaining_lifetime(now),
        oracle.remaining_lifetime(now),
        "remaining_lifetime"
    );

    let status = policy.status(now);
    // The specification does not say in which order a `Status` lists them.
    let expected = oracle.deadlines(now);
    for &(kind, at) in &expected {
        assert_eq!(status.deadlines.get(kind), Some(at), "the deadline {kind}");
    }
    assert_eq!(status.deadlines.iter().count(), expected.len());
    assert_eq!(status.phase, oracle.phase());
    assert_eq!(status.cause, oracle.cause());
    assert_eq!(status.age, oracle.age(now));
    assert_eq!(status.closing, oracle.closing(now));
    assert_eq!(status.rtt.map(as_array), oracle.rtt());
    assert_eq!(status.pings_sent, oracle.pings_sent());
    assert_eq!(status.pongs_received, oracle.pongs_received());
    if oracle.phase() == Phase::Open {
        assert_eq!(status.silent, oracle.silent(now), "silent");
        assert_eq!(status.since_flush, oracle.since_flush(now), "since_flush");
        assert_eq!(status.since_data, oracle.since_data(now), "since_data");
        assert_eq!(status.ping_unsent, oracle.ping_unsent(now), "ping_unsent");
        assert_eq!(
            status.ping_unanswered,
            oracle.ping_unanswered(now),
            "ping_unanswered"
        );
        assert_eq!(
            status.write_waiting,
            oracle.write_waiting(),
            "write_waiting"
        );
        assert_eq!(
            status.partial_bytes,
            oracle.partial_total(),
            "partial_bytes"
        );
        assert_eq!(status.grace_left, oracle.grace_left(now), "grace_left");
    }
}
