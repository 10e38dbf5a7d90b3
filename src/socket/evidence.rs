//! The evidence that a verdict requires if it blames the peer.
//!
//! A read that finds nothing, or a write that finds no room, shows only what the runtime believes.
//! The socket's [`Horizon`](crate::Horizon) is the instant up to which that is proved true. It advances to
//!
//! * the last fire of the alarm, if the kernel itself was [asked](crate::Metered::socket) since and
//!   had no input or room either;
//! * the instant up to which everything is [visible](super::alarm), after a read or write that
//!   began later and found nothing;
//! * the same instant, once so much was read that nothing older can be unread.

use futures_core::TryStream;

use super::Driver;
use crate::event::Phase;
use crate::message::Message;
use crate::metered::{Answers, Metering};
use crate::time::Timestamp;
use crate::timer::Timer;

/// The most bytes that can have arrived unread: the largest receive buffer that Linux allows by
/// default.
const MAX_BACKLOG: usize = 32 << 20;

/// Counts the bytes read from a peer whose input never ends.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The instant up to which everything was visible when the count began. Once `MAX_BACKLOG`
    /// bytes have been read since, all of that has been read. `None` if nothing is counted.
    visible: Option<Timestamp>,
    /// The bytes read since then; with a meter, the meter's count at that time.
    bytes: usize,
}

/// What a pass knows of the peer's input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// A read found nothing.
    Drained,
    /// There may be more to read, and this half will read it.
    MoreToRead,
    /// This half is not reading: it only sends, or it waits until the peer reads.
    NotReading,
}

impl Backlog {
    pub(super) const NONE: Self = Self {
        visible: None,
        bytes: 0,
    };
}

impl<S: TryStream, T: Timer> Driver<S, T> {
    /// Handles a fire of the alarm. If a verdict may follow, reads and writes from now on ask the
    /// kernel.
    #[inline(never)]
    pub(super) fn on_alarm_fired(&mut self) {
        self.needs_poll = true;
        let asks = self.outbox.has_pending_writes()
            || self.policy.write_clock_runs()
            || self.policy.peer_deadline_has_expired(self.alarm.now());
        self.set_asks_kernel(asks);
    }

    /// Sets whether the next reads and writes ask the kernel.
    pub(super) fn set_asks_kernel(&mut self, asks: bool) {
        let fire = self.alarm.last_fired_for();
        let metering = self.metering().filter(|metering| metering.can_ask());
        if let Some(metering) = metering {
            metering.ask(fire.filter(|_| asks));
        }
    }

    /// Reports the bytes that have arrived of an incomplete message.
    pub(super) fn observe_unreported(&mut self, now: Timestamp) {
        if let Some(event) = self.metering().and_then(Metering::take_unreported) {
            self.observe(now, event);
        }
    }

    /// Reports the bytes that have arrived while there may be more to read.
    pub(super) fn observe_unreported_while_unread(&mut self, now: Timestamp) {
        if let Some(event) = self
            .metering()
            .and_then(Metering::take_unreported_while_unread)
        {
            self.observe(now, event);
        }
    }

    /// Advances the horizon after a pass that tried every write.
    ///
    /// The attempts prove nothing if the task has used its budget: tokio then returns `Pending` to
    /// every read and write.
    pub(super) fn advance_horizon(&mut self, now: Timestamp, input: Input) {
        let drained = input == Input::Drained;
        // The peer's Close frame may still be behind this message. So while we wait for it, only a
        // read that finds nothing is evidence, not a write.
        let awaits_close = input == Input::MoreToRead && self.policy.phase() == Phase::Closing;
        let writes = self.outbox.has_pending_writes() || self.policy.write_clock_runs();
        if let Some(metering) = self.metering() {
            let covered = metering.covered();
            let Answers { no_input, no_room } = metering.answers();
            if no_input {
                self.observe_unreported_while_unread(now);
                self.horizon.read = self.horizon.read.max(covered);
            }
            if no_room || !writes {
                let written = if awaits_close {
                    self.horizon.read
                } else {
                    covered
                };
                self.horizon.written = self.horizon.written.max(written);
            }
        }
        let visible = match awaits_close {
            true => self.horizon.read,
            false => self.alarm.visible(),
        };
        let advances = visible > self.horizon.written || (drained && visible > self.horizon.read);
        if !advances {
            return;
        }
        if self.alarm.timer().has_budget() {
            self.horizon.written = self.horizon.written.max(visible);
            if drained {
                self.horizon.read = self.horizon.read.max(visible);
            }
        } else {
            // With a new budget the task tries again.
            self.wakers.wake_both();
        }
    }

    /// Counts the bytes read while something visible may be unread. After `MAX_BACKLOG`, everything
    /// that was visible when the count began has been read.
    pub(super) fn count_backlog(&mut self, message: &S::Ok)
    where
        S::Ok: Message,
    {
        let visible = self.alarm.visible();
        if visible <= self.horizon.read {
            self.backlog = Backlog::NONE;
            return;
        }
        let metered = self.metering().map(|metering| metering.read());
        let least = message.payload_len().saturating_add(2);
        let backlog = &mut self.backlog;
        if backlog.visible.is_none() {
            backlog.visible = visible;
            backlog.bytes = metered.unwrap_or(0);
            return;
        }
        let read = match metered {
            Some(now) => now.wrapping_sub(backlog.bytes),
            None => {
                backlog.bytes = backlog.bytes.saturating_add(least);
                backlog.bytes
            }
        };
        if read >= MAX_BACKLOG {
            self.horizon.read = self.horizon.read.max(backlog.visible);
            self.backlog = Backlog::NONE;
        }
    }
}
