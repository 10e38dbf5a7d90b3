//! The log: one function for each line, with its key-values.
//!
//! The target is `ws_timeout`. Routine is `debug`, open and close are `info`, a verdict is `warn` unless
//! it was planned. Labels and errors can hold what a peer or a user chose, so they are escaped: neither
//! can begin a line of its own.

use std::fmt;
use std::format;
use std::string::String;
use std::time::Duration;

use log::{Level, debug, info, log};

use crate::config::TimeoutConfig;
use crate::error::Verdict;
use crate::event::CloseReason;
use crate::rtt::Rtt;
use crate::seed::PingId;
use crate::status::Status;
use crate::time::brief;

const TARGET: &str = "ws_timeout";

pub(crate) fn opened(label: &str, config: &TimeoutConfig, slack: Duration, metered: bool) {
    let label = OneLine(label);
    // The ping can be late by the slack, and the verdict again.
    let bound = config
        .detection_bound()
        .map(|bound| bound.saturating_add(2 * slack));
    let write = config.message_timeout().filter(|_| !metered);
    let write = write.map_or(String::new(), |limit| {
        format!("; without a meter a message has {limit:?} to leave, however large")
    });
    match bound {
        Some(bound) => {
            info!(target: TARGET, event = "opened", label:% = label, metered, bound:? = bound; "{label}: opened, a silent peer is noticed within {bound:?}{write}");
        }
        None => {
            info!(target: TARGET, event = "opened", label:% = label, metered; "{label}: opened, a silent peer can stay unnoticed{write}");
        }
    }
}

pub(crate) fn ping(label: &str, id: PingId) {
    let label = OneLine(label);
    let id = u64::from_be_bytes(id.payload());
    debug!(target: TARGET, event = "ping", label:% = label; "{label}: ping {id:016x}");
}

pub(crate) fn pong(label: &str, rtt: Option<Rtt>) {
    let label = OneLine(label);
    let latest = rtt.map_or(Duration::ZERO, |rtt| rtt.latest);
    let rtt_us = u64::try_from(latest.as_micros()).unwrap_or(u64::MAX);
    debug!(target: TARGET, event = "pong", label:% = label, rtt_us; "{label}: pong after {latest:?}");
}

pub(crate) fn grace(label: &str, status: &Status) {
    let label = OneLine(label);
    debug!(target: TARGET, event = "stall grace", label:% = label; "{label}: this process was late, the peer has a grace: {status}");
}

pub(crate) fn resumed(label: &str, asleep: Duration) {
    let label = OneLine(label);
    info!(target: TARGET, event = "resumed", label:% = label, asleep:? = asleep; "{label}: probing after a suspension of {asleep:?}");
}

pub(crate) fn send_error(label: &str, error: &impl fmt::Display) {
    let label = OneLine(label);
    let error = OneLine(error);
    info!(target: TARGET, event = "send error", label:% = label, error:% = error; "{label}: send error: {error}");
}

pub(crate) fn receive_error(label: &str, error: &impl fmt::Display, status: &Status) {
    let label = OneLine(label);
    let error = OneLine(error);
    info!(target: TARGET, event = "receive error", label:% = label, error:% = error; "{label}: receive error: {error}: {status}");
}

pub(crate) fn handshake_failed(label: &str, error: &impl fmt::Display) {
    let label = OneLine(label);
    let error = OneLine(error);
    info!(target: TARGET, event = "handshake error", label:% = label, error:% = error; "{label}: the opening handshake failed: {error}");
}

pub(crate) fn dropped(label: &str, status: &Status) {
    let label = OneLine(label);
    let age = status.age;
    info!(target: TARGET, event = "dropped", label:% = label, age:? = age; "{label}: dropped by the program after {:?}: {status}", brief(age));
}

pub(crate) fn verdict(label: &str, verdict: &Verdict, config: &TimeoutConfig) {
    let label = OneLine(label);
    let level = if verdict.reason.is_planned() {
        Level::Info
    } else {
        Level::Warn
    };
    let limit = verdict.reason.name();
    let allowed = OrNone(verdict.within.or_else(|| limit_of(verdict.reason, config)));
    let code = OrNone(config.close_code(verdict.reason));
    let age = verdict.status.age;
    log!(
        target: TARGET, level, event = "verdict", label:% = label, limit, allowed:? = allowed, age:? = age, code:? = code;
        "{label}: {verdict}"
    );
}

pub(crate) fn closed(
    label: &str,
    verdict: Option<&Verdict>,
    begun_here: bool,
    peer_code: Option<Option<u16>>,
    status: &Status,
) {
    let label = OneLine(label);
    let age = status.age;
    match (verdict, peer_code) {
        (Some(verdict), _) => {
            let limit = verdict.reason.name();
            info!(
                target: TARGET, event = "closed", label:% = label, limit, age:? = age;
                "{label}: closed after {:?}: {limit}, {}", brief(age), verdict.close_handshake
            );
        }
        (None, Some(code)) => {
            let code = OrNone(code);
            let how = if begun_here {
                "by this side, the peer answered"
            } else {
                "by the peer"
            };
            info!(
                target: TARGET, event = "closed", label:% = label, age:? = age, code:? = code;
                "{label}: closed after {:?} {how} with code {code:?}", brief(age)
            );
        }
        (None, None) => {
            info!(target: TARGET, event = "closed", label:% = label, age:? = age; "{label}: closed after {:?}", brief(age));
        }
    }
}

/// The configured length of the limit that a reason names, where it is a length.
fn limit_of(reason: CloseReason, config: &TimeoutConfig) -> Option<Duration> {
    match reason {
        CloseReason::HandshakeTimeout => config.handshake_timeout(),
        CloseReason::ConnectionTimeout => config.connection_timeout(),
        CloseReason::MessageTimeout => config.message_timeout(),
        CloseReason::IdleTimeout => config.idle_timeout(),
        CloseReason::PongTimeout => config.pong_timeout(),
        CloseReason::CloseTimeout => Some(config.close_timeout()),
        CloseReason::SlowReceive | CloseReason::PingFlood | CloseReason::Drain => None,
    }
}

/// Escapes what could begin a new line, or hide or reorder text on a terminal.
struct OneLine<T>(T);

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

/// Control characters, the line and paragraph separators, and the marks that reorder text.
fn is_unsafe(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value as it is, or the word.
struct OrNone<T>(Option<T>);

impl<T: fmt::Debug> fmt::Debug for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::OneLine;

    #[test]
    fn what_could_begin_a_line_is_escaped() {
        assert_eq!(OneLine("Zoë: a\\b").to_string(), "Zoë: a\\b");
        assert_eq!(
            OneLine("bob\nWARN\r\u{1b}[2K\u{2028}x\u{202e}").to_string(),
            "bob\\nWARN\\r\\u{1b}[2K\\u{2028}x\\u{202e}"
        );
    }
}
