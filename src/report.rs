//! What goes into the log: one function a line, with its key-values.
//!
//! Everything has the target `ws_timeout`. Routine is `debug`, open and close are `info`, a verdict is
//! `warn` if it is about trouble.

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

pub(crate) fn opened(label: &str, config: &TimeoutConfig, metered: bool) {
    let write = config.message_timeout().filter(|_| !metered);
    let write = write.map_or(String::new(), |limit| {
        format!("; without a meter a message has {limit:?} to leave, however large")
    });
    match config.detection_bound() {
        Some(bound) => {
            info!(target: TARGET, event = "opened", label, metered, bound:? = bound; "{label}: opened, a silent peer is noticed within {bound:?}{write}");
        }
        None => {
            info!(target: TARGET, event = "opened", label, metered; "{label}: opened, a silent peer can stay unnoticed{write}");
        }
    }
}

pub(crate) fn ping(label: &str, id: PingId) {
    let id = u64::from_be_bytes(id.payload());
    debug!(target: TARGET, event = "ping", label; "{label}: ping {id:016x}");
}

pub(crate) fn pong(label: &str, rtt: Option<Rtt>) {
    let latest = rtt.map_or(Duration::ZERO, |rtt| rtt.latest);
    let rtt_us = u64::try_from(latest.as_micros()).unwrap_or(u64::MAX);
    debug!(target: TARGET, event = "pong", label, rtt_us; "{label}: pong after {latest:?}");
}

pub(crate) fn grace(label: &str, status: &Status) {
    debug!(target: TARGET, event = "stall grace", label; "{label}: this process was late, the peer has a grace: {status}");
}

pub(crate) fn resumed(label: &str, asleep: Duration) {
    info!(target: TARGET, event = "resumed", label, asleep:? = asleep; "{label}: probing after a suspension of {asleep:?}");
}

pub(crate) fn send_error(label: &str, error: &impl fmt::Display) {
    info!(target: TARGET, event = "send error", label, error:% = error; "{label}: send error: {error}");
}

pub(crate) fn receive_error(label: &str, error: &impl fmt::Display, status: &Status) {
    info!(target: TARGET, event = "receive error", label, error:% = error; "{label}: receive error: {error}: {status}");
}

pub(crate) fn handshake_failed(error: &impl fmt::Display) {
    info!(target: TARGET, event = "handshake error", label = "-", error:% = error; "-: the opening handshake failed: {error}");
}

pub(crate) fn dropped(label: &str, status: &Status) {
    let age = status.age;
    info!(target: TARGET, event = "dropped", label, age:? = age; "{label}: dropped by the program after {:?}: {status}", brief(age));
}

pub(crate) fn verdict(label: &str, verdict: &Verdict, config: &TimeoutConfig) {
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
        target: TARGET, level, event = "verdict", label, limit, allowed:? = allowed, age:? = age, code:? = code;
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
    let age = status.age;
    match (verdict, peer_code) {
        (Some(verdict), _) => {
            let limit = verdict.reason.name();
            info!(
                target: TARGET, event = "closed", label, limit, age:? = age;
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
                target: TARGET, event = "closed", label, age:? = age, code:? = code;
                "{label}: closed after {:?} {how} with code {code:?}", brief(age)
            );
        }
        (None, None) => {
            info!(target: TARGET, event = "closed", label, age:? = age; "{label}: closed after {:?}", brief(age));
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
