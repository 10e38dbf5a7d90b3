//! The grace that a peer gets after a stall of our own.
//!
//! A process that was stopped, or a thread that was blocked, finds every deadline expired when it
//! resumes. That time is not the peer's fault. So a poll that finds a peer deadline overdue by more
//! than `stall_tolerance` gives no verdict on it. Instead it begins a grace of that length, in
//! which the driver reads what the peer sent meanwhile. One grace covers everything that was
//! overdue. The same deadline never gets a second grace, so a host that is always slow still
//! disconnects dead peers.
//!
//! A ping that is requested or flushed late excuses the peer too, without a grace: see
//! [`State::request_ping`].

use core::num::NonZeroU64;

use super::deadlines::{Deadline, Horizon, Party};
use super::state::State;
use crate::config::TimeoutConfig;
use crate::time::Timestamp;

impl State {
    /// Returns when a row expires, with the latest grace applied (SPEC G-3).
    #[inline(always)]
    pub(super) fn effective_deadline(
        &self,
        config: &TimeoutConfig,
        row: &Deadline,
    ) -> Option<Timestamp> {
        match self.grace_of(config, row) {
            Some((began, tolerance)) => began.deadline(Some(tolerance)),
            None => row.at,
        }
    }

    /// Returns when the grace that covers a row began, and its length.
    #[inline(always)]
    fn grace_of(&self, config: &TimeoutConfig, row: &Deadline) -> Option<(Timestamp, NonZeroU64)> {
        if row.party == Party::Local || !self.cold_armed {
            return None;
        }
        let began = self.grace?;
        let covered = row.at? <= began;
        config
            .stall_tolerance
            .filter(|_| covered)
            .map(|tolerance| (began, tolerance))
    }

    /// Returns the row that decides: the first expired row of the table that the horizon covers and
    /// no new grace postpones (SPEC D-14, G-2). Also returns whether a grace begins.
    #[cold]
    pub(super) fn first_expired(
        &self,
        now: Timestamp,
        config: &TimeoutConfig,
        horizon: Horizon,
    ) -> (Option<Deadline>, bool) {
        let late_beyond_tolerance = |row: &Deadline| match (row.at, config.stall_tolerance) {
            (Some(at), Some(tolerance)) => now.nanos_since(at) > tolerance.get(),
            _ => false,
        };
        let expired = |row: &Deadline| self.effective_deadline(config, row).filter(|&at| at <= now);

        // While a row that a grace covered has expired again, no other grace begins (SPEC G-5, G-6).
        let mut expired_again = false;
        if self.cold_armed {
            self.each_deadline::<false>(now, config, |row| {
                expired_again |= self.grace_of(config, &row).is_some() && expired(&row).is_some();
            });
        }

        let mut grace_begins = false;
        let mut first = None;
        self.each_deadline::<true>(now, config, |row| {
            let at = expired(&row);
            if first.is_some() || at.is_none() || !horizon.covers(row.party, at) {
                return;
            }
            let about_peer = row.party != Party::Local;
            let postponed = about_peer && grace_begins;
            let gets_grace = about_peer && !expired_again && late_beyond_tolerance(&row);
            grace_begins |= gets_grace;
            if !postponed && !gets_grace {
                first = Some(row);
            }
        });
        (first, grace_begins)
    }

    pub(super) fn begin_grace(&mut self, now: Timestamp) {
        self.grace = Some(now);
        self.cold_armed = true;
    }

    /// Returns when the latest grace ends.
    pub(super) fn grace_end(&self, config: &TimeoutConfig) -> Option<Timestamp> {
        self.grace
            .and_then(|began| began.deadline(config.stall_tolerance))
    }
}
