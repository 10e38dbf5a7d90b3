//! What a policy knows, as a value.

use core::fmt;
use core::time::Duration;

use crate::policy::{CloseReason, DeadlineKind, Phase};
use crate::rtt::Rtt;
use crate::time::Timestamp;

/// Everything that a policy knew at one instant; made by
/// [`TimeoutPolicy::status`](crate::TimeoutPolicy::status).
///
/// Its `Display` is one line for a log. All lengths are measured up to [`Status::at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// The instant that this describes.
    pub at: Timestamp,
    /// How far the connection has come.
    pub phase: Phase,
    /// The first reason given for ending it.
    pub cause: Option<CloseReason>,
    /// Time since it opened; while opening, since the handshake began.
    pub age: Duration,
    /// Time since the peer was last heard, or excused because the transport was still taking bytes
    /// ahead of our ping.
    pub silent: Duration,
    /// Time since all that was handed over was last flushed.
    pub since_sent: Duration,
    /// Time since data last moved in either direction.
    pub since_active: Duration,
    /// How long a ping has waited to be flushed, since it was asked for or the transport last took
    /// bytes; `None` if none does.
    pub ping_unsent: Option<Duration>,
    /// How long the answer to a flushed ping has been awaited; `None` if none is.
    pub ping_unanswered: Option<Duration>,
    /// Whether a write waits for the transport under `message_timeout`.
    pub write_waits: bool,
    /// Bytes received of a message that is not whole yet.
    pub partial_bytes: u64,
    /// Pings asked for.
    pub pings_sent: u64,
    /// Pongs that gave a round-trip time.
    pub pongs_received: u64,
    /// The round-trip estimate.
    pub rtt: Option<Rtt>,
    /// What is left of a stall grace; `None` if none runs.
    pub grace_left: Option<Duration>,
    /// Every deadline that stands.
    pub deadlines: Deadlines,
}

/// The deadlines that stand, a stall grace included, in the order in which they decide.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// As many as the longest column of the table has rows.
    rows: [Option<(DeadlineKind, Timestamp)>; 10],
}

impl Deadlines {
    /// Each deadline with its instant.
    pub fn iter(&self) -> impl Iterator<Item = (DeadlineKind, Timestamp)> + '_ {
        self.rows.iter().copied().flatten()
    }

    /// The instant of one deadline; `None` if it does not stand.
    pub fn get(&self, kind: DeadlineKind) -> Option<Timestamp> {
        self.iter().find(|&(of, _)| of == kind).map(|(_, at)| at)
    }

    pub(crate) fn push(&mut self, kind: DeadlineKind, at: Timestamp) {
        if let Some(free) = self.rows.iter_mut().find(|row| row.is_none()) {
            *free = Some((kind, at));
        }
    }
}

impl fmt::Debug for Deadlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
