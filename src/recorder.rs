//! Records the calls to each connection's policy, and the actions that it returned, for replay.

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::string::{String, ToString};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec::Vec;

use crate::config::{DrainCode, IdleScope, PongEvidence, TimeoutConfig};
use crate::event::{Action, CloseReason, Event};
use crate::observer::{Connection, Observer, Report, Step};
use crate::policy::Horizon;
use crate::seed::PingId;
use crate::status::Status;
use crate::time::{Timestamp, saturating_nanos};

/// An observer that records each connection, so that you can replay the verdict.
///
/// The recorder keeps the [`Trace`] of each open connection: the policy's seed and every call to
/// it, with times in nanoseconds. After the end, it keeps the traces of the last 16 connections
/// that a verdict ended; a drain or the end of a lifetime does not displace another verdict. Traces
/// contain times, limits and the labels of connections, but no messages.
///
/// A trace is a conformance case. Write it to a file; in this crate's repository,
/// `cargo run --example replay -- --check FILE` repeats the calls and compares every action.
///
/// A step takes 40 bytes. It is a call to the policy, not a message: an idle connection takes about
/// eight steps per ping. Recording stops after 4096 steps, which an idle connection reaches after
/// hours. A trace that was [truncated](Trace::is_truncated) in this way lacks the verdict.
/// [`with_max_steps`](Self::with_max_steps) sets another limit. All connections share a lock, which
/// each step takes.
///
/// Clones share their traces. Use a separate recorder for each
/// [`Timeouts::new`](crate::Timeouts::new), since each numbers its connections from 1. An observer
/// replaces the log; to keep the log, use both:
///
/// ```
/// use ws_timeout::{Log, Recorder, TimeoutConfig, Timeouts};
///
/// let recorder = Recorder::new();
/// let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer((Log, recorder.clone()));
/// // …
/// for trace in recorder.verdicts() {
///     std::fs::write(format!("incident-{}.json", trace.id()), trace.to_string())?;
/// }
/// # drop(timeouts);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Recorder {
    max_steps: usize,
    traces: Arc<Mutex<Traces>>,
}

#[derive(Debug, Default)]
struct Traces {
    open: BTreeMap<u64, Trace>,
    /// Oldest first.
    verdicts: VecDeque<Trace>,
}

/// The number of traces to keep of ended connections.
const MAX_VERDICTS: usize = 16;

/// The calls to one connection's policy, and the actions that it returned. `Display` writes a file
/// of conformance cases, in JSON.
#[derive(Clone, Debug)]
pub struct Trace {
    id: u64,
    label: Option<String>,
    start: Timestamp,
    seed: u64,
    opening: bool,
    config: TimeoutConfig,
    steps: Vec<(Timestamp, Recorded)>,
    is_truncated: bool,
    reason: Option<CloseReason>,
    /// The state at the end; `None` while the connection is open.
    end: Option<Status>,
}

#[derive(Clone, Debug)]
enum Recorded {
    Observed(Event),
    Configured(Box<TimeoutConfig>),
    Polled(Horizon, Action),
}

impl Recorder {
    /// Creates a recorder that keeps at most 4096 steps of each connection.
    pub fn new() -> Self {
        Self {
            max_steps: 4096,
            traces: Arc::default(),
        }
    }

    /// Sets the number of steps to keep of each connection. Longer traces are [truncated](Trace::is_truncated).
    #[must_use]
    pub fn with_max_steps(mut self, steps: usize) -> Self {
        self.max_steps = steps;
        self
    }

    /// Returns the trace of the open connection with this [number](crate::Handle::id), up to its
    /// latest step.
    pub fn trace(&self, id: u64) -> Option<Trace> {
        self.lock().open.get(&id).cloned()
    }

    /// Returns the traces of the last 16 connections that a verdict ended, oldest first.
    pub fn verdicts(&self) -> Vec<Trace> {
        self.lock().verdicts.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Traces {
    /// Keeps a trace, and drops the oldest if there are too many. A planned end does not displace
    /// another verdict, or a draining server would lose the failures before the drain.
    fn keep(&mut self, trace: Trace) {
        let is_planned = |trace: &Trace| trace.reason.is_some_and(CloseReason::is_planned);
        if self.verdicts.len() >= MAX_VERDICTS {
            let oldest = match self.verdicts.iter().position(is_planned) {
                Some(planned) => planned,
                None if is_planned(&trace) => return,
                None => 0,
            };
            self.verdicts.remove(oldest);
        }
        self.verdicts.push_back(trace);
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Recorder {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let (reason, is_of_a_call, status) = match *report {
            Report::Closed {
                verdict: Some(verdict),
                status,
                ..
            } => (verdict.reason, verdict.is_limit_of_call, status),
            // `Closed` does not follow a failed handshake.
            Report::Verdict { verdict, .. } if verdict.reason == CloseReason::HandshakeTimeout => {
                (verdict.reason, false, &*verdict.status)
            }
            // Nor does it follow a verdict that a send returned, if the program then dropped the
            // socket.
            Report::Dropped { status } => match status.cause {
                Some(cause) => (cause, false, status),
                None => return,
            },
            _ => return,
        };
        let mut traces = self.lock();
        let Some(mut trace) = traces.open.remove(&connection.id) else {
            return;
        };
        trace.update_label(connection);
        trace.reason = Some(reason);
        let mut end = *status;
        // The policy sets the cause, but does not know the limit of a call. The status of a failed
        // handshake is from before its verdict.
        end.cause = match reason {
            _ if is_of_a_call => None,
            CloseReason::HandshakeTimeout => Some(CloseReason::HandshakeTimeout),
            _ => end.cause,
        };
        trace.end = Some(end);
        traces.keep(trace);
    }

    fn step(&self, connection: &Connection<'_>, at: Timestamp, step: &Step<'_>) {
        let mut traces = self.lock();
        let recorded = match *step {
            Step::Created {
                config,
                seed,
                opening,
            } => {
                let trace = Trace {
                    id: connection.id,
                    label: None,
                    start: at,
                    seed,
                    opening,
                    config: *config,
                    steps: Vec::new(),
                    is_truncated: false,
                    reason: None,
                    end: None,
                };
                traces.open.insert(connection.id, trace);
                return;
            }
            Step::Ended => {
                traces.open.remove(&connection.id);
                return;
            }
            Step::Observed(event) => Recorded::Observed(event),
            Step::Configured(config) => Recorded::Configured(Box::new(*config)),
            Step::Polled { horizon, action } => Recorded::Polled(horizon, action),
        };
        if let Some(trace) = traces.open.get_mut(&connection.id) {
            trace.update_label(connection);
            match trace.steps.len() < self.max_steps {
                true => trace.steps.push((at, recorded)),
                false => trace.is_truncated = true,
            }
        }
    }

    fn wants_steps(&self) -> bool {
        true
    }
}

impl Trace {
    /// Returns the number of the connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the name set by [`TimeoutSocket::with_label`](crate::TimeoutSocket::with_label), if
    /// any.
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Returns the reason of the verdict, or `None` while the connection is open.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// Returns whether the last steps are missing because the trace reached its limit.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Updates the label, which may be set or changed after the connection began.
    fn update_label(&mut self, connection: &Connection<'_>) {
        if self.label.as_deref() != connection.label && connection.label.is_some() {
            self.label = connection.label.map(ToString::to_string);
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = self.label.as_deref().unwrap_or("-");
        let reason = self.reason.map_or("open", CloseReason::name);
        let name = std::format!("connection {} ({label}): {reason}", self.id);
        let name = Text(&name);
        let cut = if self.is_truncated { ", truncated" } else { "" };
        write!(
            f,
            r#"[{{"name": {name}, "why": "recorded from a socket{cut}", "#
        )?;
        write!(
            f,
            r#""config": {}, "seed": {}, "#,
            Config(&self.config),
            self.seed
        )?;
        write!(f, r#""start_ns": {}, "#, self.start.as_nanos())?;
        write!(f, r#""opening": {}, "steps": ["#, self.opening)?;
        let mut pings = Pings {
            seed: self.seed,
            count: 0,
        };
        for (index, (at, step)) in self.steps.iter().enumerate() {
            f.write_str(if index > 0 { ",\n" } else { "\n" })?;
            write!(f, r#"{{"at_ns": {}, "#, at.as_nanos())?;
            match step {
                Recorded::Observed(event) => {
                    pings.write_event(f, event)?;
                    f.write_str(r#", "polls": false}"#)?;
                }
                Recorded::Configured(config) => write!(
                    f,
                    r#""event": "set_config", "config": {}, "polls": false}}"#,
                    Config(config)
                )?,
                Recorded::Polled(horizon, action) => {
                    let Horizon { read, written } = *horizon;
                    let (read, written) = (Nanos(read), Nanos(written));
                    write!(
                        f,
                        r#""event": "tick", "horizon": {{"read_ns": {read}, "written_ns": {written}}}, "expect": ["#
                    )?;
                    pings.write_action(f, action)?;
                    f.write_str("]}")?;
                }
            }
        }
        f.write_str("\n]")?;
        if let Some(end) = self.end.filter(|_| !self.is_truncated) {
            let (sent, received) = (end.pings_sent, end.pongs_received);
            write!(
                f,
                r#", "final": {{"pings_sent": {sent}, "pongs_received": {received}, "#
            )?;
            match end.cause {
                Some(cause) => write!(f, r#""cause": "{cause}", "rtt_us": "#)?,
                None => f.write_str(r#""cause": null, "rtt_us": "#)?,
            }
            match end.rtt {
                Some(rtt) => write!(
                    f,
                    r#"{{"latest": {}, "min": {}, "smoothed": {}, "variation": {}}}}}"#,
                    rtt.latest.as_micros(),
                    rtt.min.as_micros(),
                    rtt.smoothed.as_micros(),
                    rtt.variation.as_micros()
                )?,
                None => f.write_str("null}")?,
            }
        }
        f.write_str("}]\n")
    }
}

/// Converts the IDs of a connection's pings to numbers.
struct Pings {
    seed: u64,
    /// How many pings the policy has requested.
    count: u64,
}

impl Pings {
    /// Returns the number of the ping with this ID; 0 if there is none.
    fn number(&self, id: PingId) -> u64 {
        let mut numbers = (1..=self.count).rev();
        let found = numbers.find(|&number| PingId::new(self.seed, number) == id);
        found.unwrap_or(0)
    }

    fn write_event(&self, f: &mut fmt::Formatter<'_>, event: &Event) -> fmt::Result {
        let name = event.name();
        write!(f, r#""event": "{name}""#)?;
        match *event {
            Event::RecvPartial { total } => write!(f, r#", "total": {total}"#),
            Event::SendProgress { bytes } => write!(f, r#", "bytes": {bytes}"#),
            Event::Pong(id) => {
                let number = id.map_or(0, |id| self.number(id));
                write!(f, r#", "ping": {number}"#)
            }
            Event::PingSent(id) => write!(f, r#", "ping": {}"#, self.number(id)),
            Event::Probe { within } | Event::Drain { within } => {
                write!(f, r#", "within_ms": {}"#, Millis(within))
            }
            _ => Ok(()),
        }
    }

    fn write_action(&mut self, f: &mut fmt::Formatter<'_>, action: &Action) -> fmt::Result {
        match *action {
            Action::SendPing(_) => {
                self.count += 1;
                write!(f, r#"{{"send_ping": {}}}"#, self.count)
            }
            Action::Close(reason) => write!(f, r#"{{"close": "{reason}"}}"#),
            Action::Abort(reason) => write!(f, r#"{{"abort": "{reason}"}}"#),
            Action::Idle { until: None } => f.write_str(r#"{"idle_ms": null}"#),
            Action::Idle { until: Some(at) } => match (at.as_nanos(), 1_000_000) {
                (nanos, milli) if nanos % milli == 0 => {
                    write!(f, r#"{{"idle_ms": {}}}"#, nanos / milli)
                }
                (nanos, _) => write!(f, r#"{{"idle_ns": {nanos}}}"#),
            },
        }
    }
}

/// Writes a configuration as its differences from the defaults without jitter.
struct Config<'a>(&'a TimeoutConfig);

impl fmt::Display for Config<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, default) = (self.0, TimeoutConfig::DEFAULT);
        let mut text = String::from("{");
        let mut put = |name: &str, value: &dyn fmt::Display| {
            let comma = if text.len() > 1 { ", " } else { "" };
            write!(text, r#"{comma}"{name}": {value}"#)
        };
        macro_rules! limits {
            ($as:path: $($limit:ident)*) => { $(
                if config.$limit() != default.$limit() {
                    match config.$limit() {
                        Some(limit) => put(stringify!($limit), &$as(limit))?,
                        None => put(stringify!($limit), &"null")?,
                    }
                }
            )* };
        }
        limits!(Millis: handshake_timeout heartbeat_interval connection_timeout message_timeout);
        limits!(Millis: idle_timeout ping_interval pong_timeout stall_tolerance resume_probe);
        limits!(core::convert::identity: min_data_rate max_ping_rate);
        if config.close_timeout() != default.close_timeout() {
            put("close_timeout", &Millis(config.close_timeout()))?;
        }
        if config.jitter() > 0.0 {
            put("jitter", &config.jitter())?;
        }
        if config.idle_scope() == IdleScope::Messages {
            put("idle_scope", &Text("messages"))?;
        }
        if config.pong_evidence() == PongEvidence::Pong {
            put("pong_evidence", &Text("pong"))?;
        }
        if config.drain_code() == DrainCode::ServiceRestart {
            put("drain_code", &1012)?;
        }
        write!(f, "{text}}}")
    }
}

/// Writes a duration in milliseconds, or in nanoseconds if it is not a whole number of
/// milliseconds.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The policy treats every longer duration like the longest one.
        let nanos = saturating_nanos(self.0);
        match nanos % 1_000_000 {
            0 => write!(f, "{}", nanos / 1_000_000),
            _ => write!(f, r#"{{"ns": {nanos}}}"#),
        }
    }
}

struct Nanos(Option<Timestamp>);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{}", at.as_nanos()),
            None => f.write_str("null"),
        }
    }
}

/// A JSON string.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                char if char.is_control() => write!(f, "\\u{:04x}", u32::from(char))?,
                char => f.write_char(char)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_as_much_memory_as_documented() {
        assert_eq!(size_of::<(Timestamp, Recorded)>(), 40);
    }

    #[test]
    fn a_label_cannot_end_its_string() {
        assert_eq!(
            Text("a\"b\\\n\u{1f600}").to_string(),
            "\"a\\\"b\\\\\\u000a\u{1f600}\""
        );
    }
}
