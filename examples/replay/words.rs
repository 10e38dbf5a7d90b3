//! Verdicts, durations and limits in plain words.

use std::time::Duration;

use ws_timeout::{CloseReason, DeadlineKind, Event, IdleScope, Status, TimeoutConfig, Timestamp};

use crate::story::{Moment, What};

/// Returns why the policy ends a connection, with the measured value and its limit.
///
/// `before` is the status that led to the verdict, `config` the limits then, and `moments` the
/// events before it.
pub fn why(
    reason: CloseReason,
    before: &Status,
    config: &TimeoutConfig,
    moments: &[Moment],
) -> String {
    let now = before.at;
    let length = |since: Timestamp| now.saturating_duration_since(since);
    let expired = |kind| before.deadlines.get(kind).is_some_and(|at| at <= now);
    let ping = format!("ping {}", before.pings_sent);
    let (what, measured, limit) = match reason {
        CloseReason::HandshakeTimeout => {
            let limit = limit(config.handshake_timeout());
            (
                "the opening handshake was incomplete after".into(),
                before.age,
                limit,
            )
        }
        CloseReason::ConnectionTimeout => {
            let jitter = if config.jitter() > 0.0 {
                ", less jitter"
            } else {
                ""
            };
            let limit = limit(config.connection_timeout()) + jitter;
            ("open for".into(), before.age, limit)
        }
        CloseReason::MessageTimeout if expired(DeadlineKind::Write) => {
            let start = since(moments, |status| status.write_waiting).unwrap_or(now);
            let progress = moments.iter().rev().find(|moment| {
                matches!(moment.what, What::Event(Event::SendProgress { bytes: 1.. }))
            });
            let progress = length(progress.map_or(start, |moment| moment.at.max(start)));
            if config
                .message_timeout()
                .is_some_and(|limit| progress < limit)
            {
                let limit = rate(config.min_data_rate(), "byte");
                ("a write was too slow for".into(), length(start), limit)
            } else {
                let limit = limit(config.message_timeout());
                ("a write made no progress for".into(), progress, limit)
            }
        }
        CloseReason::MessageTimeout => {
            let limit = limit(config.message_timeout().or(config.pong_timeout()));
            let waited = before.ping_unsent.unwrap_or_default();
            (ping + " could not be written for", waited, limit)
        }
        CloseReason::IdleTimeout => {
            let limit = limit(config.idle_timeout());
            match config.idle_scope() {
                IdleScope::Messages => ("no data either way for".into(), before.since_data, limit),
                _ => ("received nothing for".into(), before.silent, limit),
            }
        }
        CloseReason::PongTimeout => {
            let unanswered = before.ping_unanswered;
            let probe = asked(moments, DeadlineKind::Probe);
            match probe.filter(|_| expired(DeadlineKind::Probe)) {
                Some((at, within)) => {
                    let ago = length(at);
                    let measured = unanswered.map_or(ago, |unanswered| unanswered.min(ago));
                    ("a probe unanswered for".into(), measured, span(within))
                }
                None => {
                    let limit = limit(config.pong_timeout());
                    (
                        ping + " unanswered for",
                        unanswered.unwrap_or_default(),
                        limit,
                    )
                }
            }
        }
        CloseReason::CloseTimeout => {
            let closing = before.closing.unwrap_or_default();
            let limit = span(config.close_timeout());
            (
                "the closing handshake was incomplete after".into(),
                closing,
                limit,
            )
        }
        CloseReason::SlowReceive => {
            // Only the end of a long message counts.
            let recent = now.as_nanos().saturating_sub(30_000_000_000);
            let start = since(moments, |status| status.partial_bytes > 0).unwrap_or(now);
            let from = start.max(Timestamp::from_nanos(recent));
            let had = moments
                .iter()
                .rev()
                .find(|moment| moment.at <= from && from > start);
            let had = had.map_or(0, |moment| moment.status.partial_bytes);
            let bytes = count(before.partial_bytes.saturating_sub(had), "byte");
            let limit = rate(config.min_data_rate(), "byte");
            (
                format!("received {bytes} of a message in"),
                length(from),
                limit,
            )
        }
        CloseReason::PingFlood => {
            let pings = moments.iter().filter(|moment| {
                matches!(moment.what, What::Event(Event::Ping))
                    && length(moment.at) <= Duration::from_secs(60)
            });
            let pings: Vec<_> = pings.map(|moment| length(moment.at)).collect();
            let what = format!("received {} in", count(pings.len() as u64, "ping"));
            let measured = pings.first().copied().unwrap_or_default();
            (
                what,
                measured,
                rate(config.max_ping_rate(), "ping") + " on average",
            )
        }
        CloseReason::Drain => {
            let drain = asked(moments, DeadlineKind::Drain);
            let (at, within) = drain.unwrap_or((now, Duration::ZERO));
            ("waited to drain for".into(), length(at), span(within))
        }
        _ => (reason.text().into(), before.age, "unknown".into()),
    };
    let grace = moments.iter().rev().find_map(|moment| match moment.what {
        What::Grace { until } => Some((until, until.saturating_duration_since(moment.at))),
        _ => None,
    });
    let decided = |until| {
        before
            .deadlines
            .iter()
            .any(|(_, at)| at == until && at <= now)
    };
    let after = grace.filter(|&(until, _)| decided(until));
    let after = after.map(|(_, grace)| format!(", after a grace of {}", span(grace)));
    let after = after.unwrap_or_default();
    format!("{what} {} (limit {limit}){after}", span(measured))
}

/// Returns since when something holds of the status, if it holds now.
fn since(moments: &[Moment], holds: impl Fn(&Status) -> bool) -> Option<Timestamp> {
    let held = moments
        .iter()
        .rev()
        .take_while(|moment| holds(&moment.status));
    held.last().map(|moment| moment.at)
}

/// Returns when the earliest of the probes or drains to expire came, and the limit that it set.
fn asked(moments: &[Moment], kind: DeadlineKind) -> Option<(Timestamp, Duration)> {
    // A ping that waits to be written hides the deadline of its probe.
    let since = since(moments, |status| {
        status.deadlines.get(kind).is_some() || status.ping_unsent.is_some()
    })?;
    let moments = moments.iter().filter(|moment| moment.at >= since);
    let asked = moments.filter_map(|moment| match (&moment.what, kind) {
        (What::Event(Event::Probe { within }), DeadlineKind::Probe)
        | (What::Event(Event::Drain { within }), DeadlineKind::Drain) => Some((moment.at, *within)),
        _ => None,
    });
    asked.min_by_key(|(at, within)| at.checked_add(*within))
}

/// Returns a duration, such as `60.035 s` or `39 ms`.
pub fn span(length: Duration) -> String {
    let (value, unit) = match length.as_nanos() {
        0 | 1_000_000_000.. => (length.as_secs_f64(), "s"),
        1_000_000.. => (length.as_secs_f64() * 1e3, "ms"),
        _ => (length.as_secs_f64() * 1e6, "µs"),
    };
    format!("{} {unit}", short(value))
}

/// Returns a limit, or `off`.
pub fn limit(limit: Option<Duration>) -> String {
    limit.map_or("off".into(), span)
}

/// Returns a rate, such as `240 bytes a second`, or `off`.
pub fn rate(rate: Option<u32>, noun: &str) -> String {
    rate.map_or("off".into(), |rate| count(rate.into(), noun) + " a second")
}

/// Returns a duration in seconds, however short, such as `0.039 s`.
pub fn seconds(length: Duration) -> String {
    format!("{} s", short(length.as_secs_f64()))
}

/// Formats with at most three decimals, and no more than are needed.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// Returns a count, such as `1 ping` or `2 pings`.
pub fn count(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}
