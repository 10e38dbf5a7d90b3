//! The text of reports, for the log and for tracing: their levels, words and key-values.
//!
//! Each is decided in one place: [`level`], `Display` of [`Report`], and [`Fields`]. [`Log`] here
//! and `Tracing` in `tracing.rs` only pass them on. A peer or a user may have chosen labels and
//! errors, so both are escaped: neither can begin a new line.

use std::borrow::Cow;
use std::fmt;
use std::string::ToString;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::vec::Vec;

use log::kv::{self, Source, Value, VisitSource};
use log::{Level, Record, info, log, warn};

use crate::config::TimeoutConfig;
use crate::env::UnknownVariable;
use crate::error::{CloseHandshake, PeerClose};
use crate::observer::{Connection, Observer, Report};
use crate::socket::Link;
use crate::time::Plain;

pub(crate) const TARGET: &str = "ws_timeout";

/// Sends a report to the observer of a connection, or to the log if it has none.
pub(crate) fn send(link: Option<&Link>, label: Option<&str>, report: &Report<'_>) {
    let connection = match link {
        Some(link) => link.connection(label),
        None => Connection {
            id: 0,
            label,
            #[cfg(feature = "tracing")]
            span: None,
        },
    };
    match link.and_then(Link::observer) {
        Some(observer) => observer.report(&connection, report),
        None => Log.report(&connection, report),
    }
}

/// Logs the limits of a server, and the settings among them that are probably mistakes, once per
/// process: a router may apply the same configuration to many routes.
pub(crate) fn limits(config: &TimeoutConfig) {
    static LOGGED: Mutex<Vec<TimeoutConfig>> = Mutex::new(Vec::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.contains(config) {
        return;
    }
    logged.push(*config);
    drop(logged);
    let limits = std::format!("{config}").replace('\n', " ");
    info!(target: TARGET, event = "limits"; "limits: {limits}");
    for warning in config.warnings() {
        warn!(target: TARGET, event = "warning"; "{warning}");
    }
}

/// Logs variables that name no setting: `warn` if one is probably misspelled, else `info`.
pub(crate) fn unknown_variables(unknown: &[UnknownVariable]) {
    for variable in unknown {
        let level = match variable.nearest() {
            Some(_) => Level::Warn,
            None => Level::Info,
        };
        let variable = OneLine(variable);
        log!(target: TARGET, level, event = "unknown_variable"; "{variable}");
    }
}

/// The default observer: one line of the `log` crate for each report.
///
/// A line is the connection's label, a colon and the report's `Display`. The
/// [crate's documentation](crate#the-log) lists the levels and the key-values.
///
/// To keep the log, call it from your own observer; see [`Observer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Observer for Log {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let level = level(report);
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let fields = Fields::new(connection, report);
        log::logger().log(
            &Record::builder()
                .target(TARGET)
                .level(level)
                .module_path_static(Some(module_path!()))
                .key_values(&fields)
                .args(format_args!("{}: {report}", fields.label))
                .build(),
        );
    }
}

/// Returns the level of a report: `Warn`, `Info` or `Debug`, the only levels that `Tracing` emits.
pub(crate) const fn level(report: &Report<'_>) -> Level {
    match report {
        Report::Verdict { verdict, .. } if !verdict.reason.is_planned() => Level::Warn,
        // Usual ends: the peer closed, or the program did with an ordinary code.
        Report::Closed {
            verdict: None,
            started_locally: false,
            ..
        }
        | Report::Closed {
            verdict: None,
            close_code: None | Some(1000 | 1001),
            ..
        } => Level::Debug,
        Report::Verdict { .. }
        | Report::Closed { .. }
        | Report::Resumed { .. }
        | Report::SendError { .. }
        | Report::ReceiveError { .. }
        | Report::HandshakeError { .. }
        | Report::Dropped { .. } => Level::Info,
        Report::Opened { .. }
        | Report::Ping { .. }
        | Report::Pong { .. }
        | Report::Grace { .. } => Level::Debug,
    }
}

/// The key-values of a report. Those that do not apply to it are `None`.
pub(crate) struct Fields<'a> {
    pub(crate) event: &'static str,
    pub(crate) label: Cow<'a, str>,
    pub(crate) id: Option<u64>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) limit_ms: Option<u64>,
    pub(crate) limit_per_s: Option<u32>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) code: Option<u16>,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) detection_bound_ms: Option<u64>,
    pub(crate) suspended_ms: Option<u64>,
    pub(crate) metered: Option<bool>,
    pub(crate) error: Option<OneLine<&'a dyn fmt::Display>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(connection: &Connection<'a>, report: &Report<'a>) -> Self {
        let mut fields = Self {
            event: report.name(),
            label: one_line(connection.label.unwrap_or("-")),
            id: Some(connection.id).filter(|&id| id != 0),
            reason: None,
            limit_ms: None,
            limit_per_s: None,
            age_ms: None,
            code: None,
            rtt_us: None,
            detection_bound_ms: None,
            suspended_ms: None,
            metered: None,
            error: None,
        };
        match *report {
            Report::Opened {
                config,
                slack,
                metered,
            } => {
                fields.detection_bound_ms = bound(config, slack).map(millis);
                fields.metered = Some(metered);
            }
            Report::Pong { rtt } => {
                let micros = rtt.map(|rtt| rtt.latest.as_micros());
                fields.rtt_us = micros.and_then(|micros| micros.try_into().ok());
            }
            Report::Resumed { suspended } => fields.suspended_ms = Some(millis(suspended)),
            Report::HandshakeError { error } | Report::SendError { error } => {
                fields.error = Some(OneLine(error));
            }
            Report::ReceiveError { error, status } => {
                fields.error = Some(OneLine(error));
                fields.age_ms = Some(millis(status.age));
            }
            Report::Verdict { verdict, config } => {
                fields.reason = Some(verdict.reason.name());
                fields.limit_ms = verdict.limit.map(millis);
                fields.limit_per_s = verdict.rate();
                fields.age_ms = Some(millis(verdict.status.age));
                let is_sent = verdict.close_handshake != CloseHandshake::NotSent;
                fields.code = config.close_code(verdict.reason).filter(|_| is_sent);
            }
            Report::Closed {
                verdict,
                peer_close,
                status,
                ..
            } => {
                fields.reason = verdict.map(|verdict| verdict.reason.name());
                fields.age_ms = Some(millis(status.age));
                fields.code = match verdict {
                    Some(_) => None,
                    None => peer_close.and_then(|close| close.code),
                };
            }
            Report::Grace { status } | Report::Dropped { status } => {
                fields.age_ms = Some(millis(status.age));
            }
            Report::Ping { .. } => {}
        }
        fields
    }
}

impl Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let pairs = [
            ("event", Some(Value::from(self.event))),
            ("label", Some(Value::from(&*self.label))),
            ("id", self.id.map(Value::from)),
            ("reason", self.reason.map(Value::from)),
            ("limit_ms", self.limit_ms.map(Value::from)),
            ("limit_per_s", self.limit_per_s.map(Value::from)),
            ("age_ms", self.age_ms.map(Value::from)),
            ("code", self.code.map(Value::from)),
            ("rtt_us", self.rtt_us.map(Value::from)),
            (
                "detection_bound_ms",
                self.detection_bound_ms.map(Value::from),
            ),
            ("suspended_ms", self.suspended_ms.map(Value::from)),
            ("metered", self.metered.map(Value::from)),
            ("error", self.error.as_ref().map(Value::from_display)),
        ];
        for (key, value) in pairs {
            if let Some(value) = value {
                visitor.visit_pair(key.into(), value)?;
            }
        }
        Ok(())
    }
}

/// Writes the report in one line, as in the log after the connection's label.
impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Opened {
                config,
                slack,
                metered,
            } => {
                match bound(config, slack) {
                    Some(bound) => write!(
                        f,
                        "opened; a dead peer will be detected within {}",
                        Plain(bound)
                    )?,
                    None => f.write_str("opened; a dead peer may stay undetected")?,
                }
                match config.message_timeout() {
                    Some(limit) if !metered => write!(
                        f,
                        "; without a meter each message must be written within {}, however large",
                        Plain(limit)
                    ),
                    _ => Ok(()),
                }
            }
            Self::HandshakeError { error } => {
                write!(f, "the opening handshake failed: {}", OneLine(error))
            }
            Self::Ping { id } => write!(f, "ping {:016x}", u64::from_be_bytes(id.payload())),
            Self::Pong { rtt } => {
                let latest = rtt.map_or(Duration::ZERO, |rtt| rtt.latest);
                write!(f, "pong after {}", Plain(latest))
            }
            Self::Grace { status } => write!(
                f,
                "this process stalled, so the peer gets a grace: {status}"
            ),
            Self::Resumed { suspended } => write!(
                f,
                "probing the peer after a suspension of {}",
                Plain(suspended)
            ),
            Self::SendError { error } => write!(f, "send error: {}", OneLine(error)),
            Self::ReceiveError { error, status } => {
                write!(f, "receive error: {}: {status}", OneLine(error))
            }
            Self::Verdict { verdict, .. } => verdict.fmt(f),
            Self::Closed {
                verdict,
                started_locally,
                close_code,
                peer_close,
                status,
            } => {
                let age = Plain(status.age);
                if let Some(verdict) = verdict {
                    let (reason, outcome) = (verdict.reason, verdict.close_handshake);
                    return write!(f, "ended after {age}: {reason}, {outcome}");
                }
                write!(f, "closed after {age}")?;
                match (started_locally, peer_close) {
                    (true, Some(PeerClose { code })) => write!(
                        f,
                        " by this side {}; the peer answered {}",
                        WithCode(close_code),
                        WithCode(*code)
                    ),
                    (true, None) => write!(
                        f,
                        " by this side {}, without a Close frame from the peer",
                        WithCode(close_code)
                    ),
                    (false, Some(PeerClose { code })) => {
                        write!(f, " by the peer {}", WithCode(*code))
                    }
                    (false, None) => f.write_str(" without a Close frame from the peer"),
                }
            }
            Self::Dropped { status } => write!(
                f,
                "dropped by the program after {}: {status}",
                Plain(status.age)
            ),
        }
    }
}

/// Writes `with code 1000` or `without a code`.
struct WithCode(Option<u16>);

impl fmt::Display for WithCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(code) => write!(f, "with code {code}"),
            None => f.write_str("without a code"),
        }
    }
}

/// Returns the longest time to detect a dead peer: both the ping and the verdict can be late by the
/// slack.
fn bound(config: &TimeoutConfig, slack: Duration) -> Option<Duration> {
    let bound = config.detection_bound()?;
    Some(bound.saturating_add(slack.saturating_mul(2)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Escapes a text as [`OneLine`] does, if necessary.
fn one_line(text: &str) -> Cow<'_, str> {
    match text.contains(is_unsafe) {
        true => Cow::Owned(OneLine(text).to_string()),
        false => Cow::Borrowed(text),
    }
}

/// Escapes characters that could begin a new line, or hide or reorder text on a terminal.
pub(crate) struct OneLine<T>(T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for part in text.split_inclusive(is_unsafe) {
                    let last = part.chars().next_back().filter(|&char| is_unsafe(char));
                    let plain = part.len() - last.map_or(0, char::len_utf8);
                    self.0.write_str(&part[..plain])?;
                    if let Some(last) = last {
                        write!(self.0, "{}", last.escape_default())?;
                    }
                }
                Ok(())
            }
        }

        fmt::Write::write_fmt(&mut Escape(f), format_args!("{}", self.0))
    }
}

/// Returns whether this is a control character, a line or paragraph separator, or a bidirectional
/// formatting character.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::{OneLine, one_line};

    /// Guards rule 22.
    #[test]
    fn characters_that_could_begin_a_line_are_escaped() {
        assert_eq!(OneLine("Zoë: a\\b").to_string(), "Zoë: a\\b");
        assert_eq!(one_line("Zoë: a\\b"), "Zoë: a\\b");
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(
            OneLine("bob\nWARN\r\u{1b}[2K\u{2028}x\u{202e}").to_string(),
            "bob\\nWARN\\r\\u{1b}[2K\\u{2028}x\\u{202e}"
        );
    }
}
