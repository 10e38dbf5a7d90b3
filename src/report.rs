//! The log: one function for each line, with its key-values.
//!
//! The target is `ws_timeout`. Routine is `debug`, open and close are `info`, a verdict is `warn` unless
//! it was planned. Labels and errors can hold what a peer or a user chose, so they are escaped: neither
//! can begin a line of its own.

use std::fmt;
use std::format;
use std::string::String;
use std::time::Duration;

#[cfg(feature = "tower")]
use log::warn;
use log::{Level, debug, info, log};

use crate::config::TimeoutConfig;
use crate::error::{PeerClose, Verdict};
use crate::observer::{Connection, Observer, Report};
use crate::socket::Link;
use crate::time::Plain;

const TARGET: &str = "ws_timeout";

/// Sends a report to the observer of a connection, or to the log if it has none.
pub(crate) fn send(link: Option<&Link>, label: Option<&str>, report: &Report<'_>) {
    let connection = match link {
        Some(link) => link.connection(label),
        None => Connection { id: 0, label },
    };
    match link.and_then(Link::observer) {
        Some(observer) => observer.report(&connection, report),
        None => Log.report(&connection, report),
    }
}

/// Logs the limits of a server, and which of them are probably a mistake.
#[cfg(feature = "tower")]
pub(crate) fn limits(config: &TimeoutConfig) {
    info!(target: TARGET, event = "limits"; "limits: {config:?}");
    for warning in config.warnings() {
        warn!(target: TARGET, event = "warning"; "{warning}");
    }
}

/// The default observer: one line of the `log` crate for each report.
///
/// The target is `ws_timeout`. A verdict is `warn`, or `info` if it was planned (a lifetime, a drain). How a
/// connection with a verdict ended, errors, and sockets that the program dropped are `info`. What healthy
/// connections do is `debug`: opened, pings, pongs, graces, closed by either side.
///
/// Your own observer can call it to keep the log; see [`Observer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Observer for Log {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        let label = OneLine(connection.label.unwrap_or("-"));
        let event = report.name();
        match *report {
            Report::Opened {
                config,
                slack,
                metered,
            } => opened(&label, config, slack, metered),
            Report::Ping { id } => {
                let id = u64::from_be_bytes(id.payload());
                debug!(target: TARGET, event, label:% = label; "{label}: ping {id:016x}");
            }
            Report::Pong { rtt } => {
                let latest = rtt.map_or(Duration::ZERO, |rtt| rtt.latest);
                let rtt_us = u64::try_from(latest.as_micros()).unwrap_or(u64::MAX);
                debug!(target: TARGET, event, label:% = label, rtt_us; "{label}: pong after {}", Plain(latest));
            }
            Report::Grace { status } => {
                debug!(target: TARGET, event, label:% = label; "{label}: this process was late, so the peer gets a grace: {status}");
            }
            Report::Resumed { suspended } => {
                info!(target: TARGET, event, label:% = label, asleep:? = suspended; "{label}: probing the peer after a suspension of {}", Plain(suspended));
            }
            Report::SendError { error } => {
                let error = OneLine(error);
                info!(target: TARGET, event, label:% = label, error:% = error; "{label}: send error: {error}");
            }
            Report::ReceiveError { error, status } => {
                let error = OneLine(error);
                info!(target: TARGET, event, label:% = label, error:% = error; "{label}: receive error: {error}: {status}");
            }
            Report::HandshakeError { error } => {
                let error = OneLine(error);
                info!(target: TARGET, event, label:% = label, error:% = error; "{label}: the opening handshake failed: {error}");
            }
            Report::Dropped { status } => {
                let age = status.age;
                info!(target: TARGET, event, label:% = label, age:? = age; "{label}: dropped by the program after {}: {status}", Plain(age));
            }
            Report::Verdict { verdict, config } => {
                let level = match verdict.reason.is_planned() {
                    true => Level::Info,
                    false => Level::Warn,
                };
                let limit = verdict.reason.name();
                let allowed = OrNone(verdict.limit);
                let code = OrNone(config.close_code(verdict.reason));
                let age = verdict.status.age;
                log!(
                    target: TARGET, level, event, label:% = label, limit, allowed:? = allowed, age:? = age, code:? = code;
                    "{label}: {verdict}"
                );
            }
            Report::Closed {
                verdict,
                begun_here,
                peer_close,
                status,
            } => closed(&label, verdict, begun_here, peer_close, status.age),
        }
    }
}

fn opened(label: &OneLine<&str>, config: &TimeoutConfig, slack: Duration, metered: bool) {
    // The ping can be late by the slack, and the verdict again.
    let bound = config.detection_bound();
    let bound = bound.map(|bound| bound.saturating_add(2 * slack));
    let write = config.message_timeout().filter(|_| !metered);
    let write = write.map_or(String::new(), |limit| {
        let limit = Plain(limit);
        format!("; without a meter each message must be written within {limit}, however large")
    });
    match bound {
        Some(bound) => {
            let within = Plain(bound);
            debug!(target: TARGET, event = "opened", label:% = label, metered, bound:? = bound; "{label}: opened, a dead peer is detected within {within}{write}");
        }
        None => {
            debug!(target: TARGET, event = "opened", label:% = label, metered; "{label}: opened, a dead peer may stay undetected{write}");
        }
    }
}

fn closed(
    label: &OneLine<&str>,
    verdict: Option<&Verdict>,
    begun_here: bool,
    peer_close: Option<PeerClose>,
    age: Duration,
) {
    let after = Plain(age);
    match (verdict, peer_close) {
        (Some(verdict), _) => {
            let limit = verdict.reason.name();
            info!(
                target: TARGET, event = "closed", label:% = label, limit, age:? = age;
                "{label}: closed after {after}: {limit}, {}", verdict.close_handshake
            );
        }
        (None, Some(PeerClose { code })) => {
            let code = OrNone(code);
            let how = match begun_here {
                true => "by this side, the peer answered",
                false => "by the peer",
            };
            debug!(
                target: TARGET, event = "closed", label:% = label, age:? = age, code:? = code;
                "{label}: closed after {after} {how} with code {code:?}"
            );
        }
        (None, None) => {
            debug!(target: TARGET, event = "closed", label:% = label, age:? = age; "{label}: closed after {after}");
        }
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

    /// Guards rule 22.
    #[test]
    fn what_could_begin_a_line_is_escaped() {
        assert_eq!(OneLine("Zoë: a\\b").to_string(), "Zoë: a\\b");
        assert_eq!(
            OneLine("bob\nWARN\r\u{1b}[2K\u{2028}x\u{202e}").to_string(),
            "bob\\nWARN\\r\\u{1b}[2K\\u{2028}x\\u{202e}"
        );
    }
}
