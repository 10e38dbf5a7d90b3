//! The expected end of each connection, computed from the limits of the configuration.

use std::time::Duration;

use tokio::time::Instant;
use ws_timeout::{CloseHandshake, CloseReason, TimeoutConfig};

use crate::clients::Seen;
use crate::server::{Ended, Report};

/// How late an event may be on a busy machine. Limits do not expire early, so there is no allowance
/// for that.
pub const ALLOWANCE: Duration = Duration::from_secs(1);

/// How long a trickling message has at first, at any configured rate.
const RECEIVE_START: Duration = Duration::from_secs(5);

/// How a client's connection should end.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub ended: Ended,
    /// The code of the Close frame that the client receives, and after how long.
    pub close: Option<(u16, Duration)>,
    /// The shortest time until the connection is gone.
    pub after: Duration,
}

impl Expected {
    /// A limit expires, and the client answers if the server waits for the answer to its Close
    /// frame.
    pub fn verdict(reason: CloseReason, config: &TimeoutConfig) -> Self {
        let after = limit(reason, config).expect("a limit that is off is not expected to expire");
        let close = config.close_code(reason).map(|code| (code, after));
        let closing = match (reason, close) {
            (_, None) => CloseHandshake::NotSent,
            (CloseReason::IdleTimeout | CloseReason::ConnectionTimeout, _) => {
                CloseHandshake::Answered
            }
            _ => CloseHandshake::Sent,
        };
        Self {
            ended: Ended::Verdict(reason, closing),
            close,
            after,
        }
    }

    /// A limit expires, and the client does not answer the Close frame: the first cause stays.
    pub fn ignored(reason: CloseReason, config: &TimeoutConfig) -> Self {
        let answered = Self::verdict(reason, config);
        Self {
            ended: Ended::Verdict(reason, CloseHandshake::Unanswered),
            after: answered.after + config.close_timeout(),
            ..answered
        }
    }

    /// No limit expires before the client closes the connection after `age`.
    pub fn closed_by_client(age: Duration) -> Self {
        const NORMAL: u16 = 1000;
        Self {
            ended: Ended::Cleanly,
            close: Some((NORMAL, age)),
            after: age,
        }
    }

    /// The connection breaks. No limit is involved, and the server detects it at once.
    pub fn failed() -> Self {
        Self {
            ended: Ended::Failed,
            close: None,
            after: Duration::ZERO,
        }
    }

    /// Returns the differences between the expected end and the actual one.
    pub fn wrong(&self, seen: &Seen, report: &Report) -> Vec<String> {
        let mut wrong = Vec::new();
        if report.ended != self.ended {
            wrong.push(format!("the server reported: {}", report.ended));
        }
        let start = start(seen, report);
        let mut check = |what, at: Instant, least| {
            let (after, most) = (at - start, least + seen.earned + ALLOWANCE);
            if !(least..=most).contains(&after) {
                wrong.push(format!(
                    "{what} after {after:?}, not within {least:?} to {most:?}"
                ));
            }
        };
        check("over for the server", report.at, self.after);
        if let Some(gone) = seen.gone {
            check("gone for the client", gone, self.after);
        }
        if let (Some((_, least)), Some((_, at))) = (self.close, seen.close) {
            check("the Close frame came", at, least);
        }
        let (code, expected) = (
            seen.close.map(|(code, _)| code),
            self.close.map(|(code, _)| code),
        );
        if code != expected {
            wrong.push(format!(
                "the client got the close code {code:?}, not {expected:?}"
            ));
        }
        wrong
    }
}

/// Returns the instant from which the limit counts, or one shortly before it. Only the server knows
/// when its last push was.
pub fn start(seen: &Seen, report: &Report) -> Instant {
    report.last_push.unwrap_or(seen.start)
}

/// Returns how long after its start each limit expires.
fn limit(reason: CloseReason, config: &TimeoutConfig) -> Option<Duration> {
    match reason {
        CloseReason::HandshakeTimeout => config.handshake_timeout(),
        CloseReason::ConnectionTimeout => config.connection_timeout(),
        CloseReason::MessageTimeout => config.message_timeout(),
        CloseReason::IdleTimeout => config.idle_timeout(),
        // Measured from the last receipt: the ping is sent first.
        CloseReason::PongTimeout => Some(config.ping_interval()? + config.pong_timeout()?),
        CloseReason::SlowReceive => config.min_data_rate().map(|_| RECEIVE_START),
        _ => None,
    }
}
