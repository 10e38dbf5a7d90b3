//! The conformance cases: their format, and a runner that plays them through a policy, or through
//! anything that decides like one.
//!
//! `README.md` in `tests/conformance/` describes the format. The tests `conformance` and `fleet`
//! and the example `replay` share this module.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use ws_timeout::{
    Action, CloseReason, DrainCode, Event, Horizon, IdleScope, PingId, PongEvidence, Status,
    TimeoutConfig, TimeoutPolicy, Timestamp,
};

/// Plays a case: one connection.
pub trait Player {
    fn observe(&mut self, now: Timestamp, event: Event);
    fn set_config(&mut self, now: Timestamp, config: TimeoutConfig);
    fn poll(&mut self, now: Timestamp, unread: bool) -> Action;
    /// Polls up to a horizon; `None` if the player cannot.
    fn poll_up_to(&mut self, _now: Timestamp, _horizon: Horizon) -> Option<Action> {
        None
    }
    fn summary(&self) -> Summary;
    fn ping_id(&self, number: u64) -> PingId;
}

/// The state that `final` of a case is compared with.
pub struct Summary {
    pub pings_sent: u64,
    pub pongs_received: u64,
    pub cause: Option<CloseReason>,
    /// Latest, min, smoothed and variation, in microseconds.
    pub rtt_us: Option<[u64; 4]>,
}

impl From<Status> for Summary {
    fn from(status: Status) -> Self {
        let rtt_us = status.rtt.map(|rtt| {
            [rtt.latest, rtt.min, rtt.smoothed, rtt.variation]
                .map(|length| length.as_micros() as u64)
        });
        Self {
            pings_sent: status.pings_sent,
            pongs_received: status.pongs_received,
            cause: status.cause,
            rtt_us,
        }
    }
}

impl Player for TimeoutPolicy {
    fn observe(&mut self, now: Timestamp, event: Event) {
        self.observe(now, event);
    }

    fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        self.set_config(now, config);
    }

    fn poll(&mut self, now: Timestamp, unread: bool) -> Action {
        if unread {
            self.poll_unread(now)
        } else {
            self.poll(now)
        }
    }

    fn poll_up_to(&mut self, now: Timestamp, horizon: Horizon) -> Option<Action> {
        Some(self.poll_up_to(now, horizon))
    }

    fn summary(&self) -> Summary {
        self.status(Timestamp::ZERO).into()
    }

    fn ping_id(&self, number: u64) -> PingId {
        self.ping_id(number)
    }
}

/// One case of a file.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    config: Map<String, Value>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    start_ns: u64,
    #[serde(default)]
    opening: bool,
    steps: Vec<Step>,
    #[serde(rename = "final", default)]
    end: Value,
}

/// One event, or change of the configuration, and the polls after it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at_ms: Option<u64>,
    at_ns: Option<u64>,
    event: String,
    ping: Option<u64>,
    total: Option<u64>,
    bytes: Option<u64>,
    within_ms: Option<Value>,
    config: Option<Map<String, Value>>,
    #[serde(default)]
    unread: bool,
    polls: Option<bool>,
    horizon: Option<UpTo>,
    #[serde(default)]
    expect: Vec<Value>,
}

/// How far a socket had evidence.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpTo {
    read_ns: Option<u64>,
    written_ns: Option<u64>,
}

/// The outcome of a case.
#[derive(Serialize)]
pub struct Outcome<'a> {
    name: &'a str,
    /// For each step, the actions in order.
    actions: Vec<Vec<Value>>,
    #[serde(rename = "final")]
    end: Value,
}

/// Parses the cases of a file, or returns what is wrong with it.
pub fn read(text: &str) -> Result<Vec<Case>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl Case {
    /// Plays the case through a policy, or returns what in it cannot be understood.
    pub fn run(&self) -> Result<Outcome<'_>, String> {
        self.run_on(|config, opening| self.policy(config, opening))
    }

    /// Returns the policy with which the case begins.
    pub fn policy(&self, config: TimeoutConfig, opening: bool) -> TimeoutPolicy {
        let start = if opening {
            TimeoutPolicy::opening
        } else {
            TimeoutPolicy::new
        };
        start(config, self.seed, Timestamp::from_nanos(self.start_ns))
    }

    /// Plays the case through the player that `start` returns for a configuration, and for whether
    /// the case begins with the opening handshake. Unless the case was recorded, it begins at the
    /// origin, with the seed 0.
    pub fn run_on<P: Player>(
        &self,
        start: impl FnOnce(TimeoutConfig, bool) -> P,
    ) -> Result<Outcome<'_>, String> {
        let mut player = start(config(&self.config)?, self.opening);
        let mut actions = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let done = step
                .run(&mut player)
                .map_err(|error| format!("step {index}: {error}"))?;
            actions.push(done);
        }
        Ok(Outcome {
            name: &self.name,
            actions,
            end: end(&player.summary()),
        })
    }

    /// Returns whether a step polls while input may be unread.
    #[allow(dead_code, reason = "a fleet never does")]
    pub fn polls_unread(&self) -> bool {
        self.steps.iter().any(|step| step.unread)
    }

    /// Returns the differences between the outcome and what the case expects, a line each.
    pub fn differences(&self, outcome: &Outcome) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, (step, actions)) in self.steps.iter().zip(&outcome.actions).enumerate() {
            if &step.expect != actions {
                lines.push(format!(
                    "step {index} at {}, {}: expected {}, got {}",
                    step.written_at(),
                    step.event,
                    json!(step.expect),
                    json!(actions)
                ));
            }
        }
        // A trace that was cut has no end.
        if !self.end.is_null() && self.end != outcome.end {
            lines.push(format!("final: expected {}, got {}", self.end, outcome.end));
        }
        lines
    }
}

impl Step {
    fn run(&self, player: &mut impl Player) -> Result<Vec<Value>, String> {
        let now = self.at()?;
        match self.event.as_str() {
            "set_config" => player.set_config(now, config(need("config", self.config.as_ref())?)?),
            _ => player.observe(now, self.event(player)?),
        }
        let mut actions = Vec::new();
        if self.polls == Some(false) {
            return Ok(actions);
        }
        if let Some(up_to) = self.horizon {
            let mut horizon = Horizon::default();
            horizon.read = up_to.read_ns.map(Timestamp::from_nanos);
            horizon.written = up_to.written_ns.map(Timestamp::from_nanos);
            let action = player.poll_up_to(now, horizon);
            let action = action.ok_or("this player polls up to no horizon")?;
            return Ok(vec![encode(action, player)]);
        }
        loop {
            let action = player.poll(now, self.unread);
            actions.push(encode(action, player));
            if matches!(action, Action::Idle { .. } | Action::Abort(_)) {
                return Ok(actions);
            }
        }
    }

    fn at(&self) -> Result<Timestamp, String> {
        match (self.at_ms, self.at_ns) {
            (Some(millis), None) => Ok(Timestamp::from_millis(millis)),
            (None, Some(nanos)) => Ok(Timestamp::from_nanos(nanos)),
            _ => Err("expected at_ms or at_ns".to_string()),
        }
    }

    fn written_at(&self) -> String {
        match (self.at_ms, self.at_ns) {
            (Some(millis), _) => format!("{millis} ms"),
            (None, nanos) => format!("{} ns", nanos.unwrap_or(0)),
        }
    }

    fn event(&self, player: &impl Player) -> Result<Event, String> {
        let ping = || need("ping", self.ping);
        let within = || millis("within_ms", need("within_ms", self.within_ms.as_ref())?);
        Ok(match self.event.as_str() {
            "opened" => Event::Opened,
            "recv" => Event::Recv,
            "recv_partial" => Event::RecvPartial {
                total: need("total", self.total)?,
            },
            "ping" => Event::Ping,
            "pong" => Event::Pong(match ping()? {
                0 => None,
                number => Some(player.ping_id(number)),
            }),
            "send_start" => Event::SendStart,
            "send_progress" => Event::SendProgress {
                bytes: need("bytes", self.bytes)?,
            },
            "send_ok" => Event::SendOk,
            "flushed" => Event::Flushed,
            "ping_sent" => Event::PingSent(player.ping_id(ping()?)),
            "probe" => Event::Probe { within: within()? },
            "drain" => Event::Drain { within: within()? },
            "close_start" => Event::CloseStart,
            "peer_close" => Event::PeerClose,
            "closed" => Event::Closed,
            "tick" => Event::Tick,
            other => return Err(format!("no event is called {other:?}")),
        })
    }
}

/// Returns the configuration that differs from the defaults by `changes`, without jitter.
fn config(changes: &Map<String, Value>) -> Result<TimeoutConfig, String> {
    let mut builder = TimeoutConfig::builder().jitter(0.0);
    for (key, value) in changes {
        macro_rules! limit {
            ($set:ident, $off:ident) => {
                if value.is_null() {
                    builder.$off()
                } else {
                    builder.$set(millis(key, value)?)
                }
            };
        }
        builder = match key.as_str() {
            "handshake_timeout" => limit!(handshake_timeout, no_handshake_timeout),
            "heartbeat_interval" => limit!(heartbeat_interval, no_heartbeat_interval),
            "connection_timeout" => limit!(connection_timeout, no_connection_timeout),
            "message_timeout" => limit!(message_timeout, no_message_timeout),
            "idle_timeout" => limit!(idle_timeout, no_idle_timeout),
            "ping_interval" => limit!(ping_interval, no_ping_interval),
            "pong_timeout" => limit!(pong_timeout, no_pong_timeout),
            "stall_tolerance" => limit!(stall_tolerance, no_stall_tolerance),
            "close_timeout" => builder.close_timeout(millis(key, value)?),
            "min_data_rate" if value.is_null() => builder.no_min_data_rate(),
            "min_data_rate" => builder.min_data_rate(rate(key, value)?),
            "max_ping_rate" if value.is_null() => builder.no_max_ping_rate(),
            "max_ping_rate" => builder.max_ping_rate(rate(key, value)?),
            "resume_probe" => limit!(resume_probe, no_resume_probe),
            "jitter" => builder.jitter(need("jitter", value.as_f64())?),
            "drain_code" if value == 1012 => builder.drain_code(DrainCode::ServiceRestart),
            "idle_scope" if value == "inbound" => builder.idle_scope(IdleScope::Inbound),
            "idle_scope" if value == "messages" => builder.idle_scope(IdleScope::Messages),
            "pong_evidence" if value == "any" => builder.pong_evidence(PongEvidence::Any),
            "pong_evidence" if value == "pong" => builder.pong_evidence(PongEvidence::Pong),
            _ => return Err(format!("the configuration cannot have {key} = {value}")),
        };
    }
    builder.build().map_err(|error| error.to_string())
}

fn millis(key: &str, value: &Value) -> Result<Duration, String> {
    let nanos = value.get("ns").and_then(Value::as_u64);
    let length = value.as_u64().map(Duration::from_millis);
    let length = length.or(nanos.map(Duration::from_nanos));
    length.ok_or_else(|| format!("{key} = {value} is no number of milliseconds"))
}

fn rate(key: &str, value: &Value) -> Result<u32, String> {
    let rate = value.as_u64().and_then(|rate| rate.try_into().ok());
    rate.ok_or_else(|| format!("{key} = {value} is no rate"))
}

fn need<T>(name: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("{name} is missing"))
}

fn encode(action: Action, player: &impl Player) -> Value {
    match action {
        Action::SendPing(id) => json!({ "send_ping": number_of(id, player) }),
        Action::Close(reason) => json!({ "close": reason.name() }),
        Action::Abort(reason) => json!({ "abort": reason.name() }),
        Action::Idle { until: None } => json!({ "idle_ms": null }),
        Action::Idle { until: Some(at) } if at.as_nanos() % 1_000_000 == 0 => {
            json!({ "idle_ms": at.as_nanos() / 1_000_000 })
        }
        Action::Idle { until: Some(at) } => json!({ "idle_ns": at.as_nanos() }),
    }
}

/// Returns the number of a ping, or `null` for an ID that none of the player's pings has.
fn number_of(id: PingId, player: &impl Player) -> Option<u64> {
    (1..=player.summary().pings_sent).find(|&number| player.ping_id(number) == id)
}

fn end(summary: &Summary) -> Value {
    let rtt_us = summary.rtt_us.map(|[latest, min, smoothed, variation]| {
        json!({ "latest": latest, "min": min, "smoothed": smoothed, "variation": variation })
    });
    json!({
        "pings_sent": summary.pings_sent,
        "pongs_received": summary.pongs_received,
        "cause": summary.cause.map(|reason| reason.name()),
        "rtt_us": rtt_us,
    })
}
