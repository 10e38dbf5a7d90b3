//! When a driver that keeps one timer should poll next.

use super::state::{Ping, State};
use crate::config::TimeoutConfig;
use crate::event::Phase;
use crate::time::{Timestamp, earlier};

impl State {
    /// Moves `next`, the earliest deadline of the table, forward to the ping that would be due if
    /// the one that is out were answered now, unless that is due at once. An answer then usually
    /// brings no deadline nearer, and a driver need not reset its timer.
    pub(crate) fn next_wakeup(
        &self,
        now: Timestamp,
        config: &TimeoutConfig,
        next: Option<Timestamp>,
    ) -> Option<Timestamp> {
        if self.ping == Ping::Quiet || self.phase != Phase::Open {
            return next;
        }
        let after_answer = self.next_ping(now, config);
        earlier(next, after_answer.filter(|&at| at > now))
    }
}
