//! When a driver with a single timer should poll next.

use super::state::{Ping, State};
use crate::config::TimeoutConfig;
use crate::event::Phase;
use crate::time::{Timestamp, earlier};

impl State {
    /// Returns the earlier of `next`, the earliest deadline of the table, and the instant at which
    /// the next ping would be due if the outstanding one were answered now. Ignores that ping if it
    /// would be due immediately. With this wake-up, an answer usually brings no deadline nearer, so
    /// the driver need not reset its timer.
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
