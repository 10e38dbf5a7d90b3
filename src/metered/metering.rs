//! Turns a meter's counts into events for the policy.

use std::sync::atomic::Ordering;

use super::{Answers, Meter, flag};
use crate::event::Event;
use crate::time::Timestamp;

/// The meter below the socket, and how much of its counts the policy has seen.
#[derive(Debug)]
pub(crate) struct Metering {
    meter: Meter,
    /// The count at which the incomplete message began; see [`Self::count`].
    began: usize,
    /// The bytes of the incomplete message that were last reported to the policy.
    partial: usize,
    /// The count of bytes read at the last report to the policy.
    reported_read: usize,
    /// The count of bytes written at the last report.
    written: usize,
    /// The instant up to which the kernel's answers are evidence. `None` while it is not asked.
    covered: Option<Timestamp>,
}

impl Metering {
    /// Attaches to `meter`, and counts from now on.
    pub(crate) fn new(meter: Meter) -> Self {
        let mut this = Self {
            began: 0,
            partial: 0,
            reported_read: 0,
            covered: None,
            written: meter.counts.written.load(Ordering::Relaxed),
            meter,
        };
        this.whole_message();
        this.meter.set(flag::ATTACHED);
        this
    }

    /// Records that a whole data message was received, so the next bytes begin a new one. The
    /// library reads ahead of the messages, so this may miss the first bytes of the next message,
    /// which favours the peer.
    #[inline]
    pub(crate) fn whole_message(&mut self) {
        self.partial = 0;
        if self.is_tls() {
            self.began = self.count();
            self.reported_read = self.read();
        } else {
            self.began = self.read();
        }
    }

    /// Records that a control frame was received, whose wire size is not part of a message. This
    /// assumes a masking key, which only a client's frames have, so a client undercounts a message
    /// by four bytes for each control frame within it. If it did not, a server would count the keys
    /// of pings as an incomplete message that never continues.
    ///
    /// Returns whether the bytes that were reported as an incomplete message were the start of this
    /// frame.
    pub(crate) fn control_frame(&mut self, payload: usize) -> bool {
        const MAX_CONTROL_HEADER: usize = 6;
        let wire = payload.saturating_add(MAX_CONTROL_HEADER);
        let was_counted = (1..=wire).contains(&self.partial);
        if was_counted {
            self.partial = 0;
        }
        let counted = self.count().wrapping_sub(self.began);
        self.began = self.began.wrapping_add(wire.min(counted));
        self.reported_read = self.read();
        was_counted
    }

    /// Returns whether bytes have arrived that were not reported to the policy.
    #[inline]
    pub(crate) fn has_unreported(&self) -> bool {
        if self.is_tls() {
            self.total() != self.partial || self.read() != self.reported_read
        } else {
            self.read().wrapping_sub(self.began) != self.partial
        }
    }

    /// Does the same as [`Self::take_unreported`] while there may be more to read, so that the bytes may
    /// belong to a whole message. They count towards an incomplete message if there is one,
    /// otherwise only as proof of life.
    pub(crate) fn take_unreported_while_unread(&mut self) -> Option<Event> {
        if self.partial > 0 {
            return self.take_unreported();
        }
        let has_read = self.read() != self.reported_read;
        self.reported_read = self.read();
        has_read.then_some(Event::Pong(None))
    }

    /// Returns the event for the bytes that have arrived, if any. TLS bytes that are part of no
    /// message are proof of life, like a pong.
    pub(crate) fn take_unreported(&mut self) -> Option<Event> {
        let total = self.total();
        if total == 0 {
            self.began = self.count();
        }
        let moved = total != self.partial;
        let has_read = self.is_tls() && self.read() != self.reported_read;
        self.partial = total;
        self.reported_read = self.read();
        if moved {
            let total = total as u64;
            Some(Event::RecvPartial { total })
        } else {
            has_read.then_some(Event::Pong(None))
        }
    }

    /// Returns the number of bytes of the incomplete message. A meter that is only below TLS cannot
    /// see where a message begins, and assumes that one has begun while a record is incomplete.
    fn total(&self) -> usize {
        let counted = self.count().wrapping_sub(self.began);
        let incomplete = self.meter.counts.incomplete.load(Ordering::Relaxed);
        match (self.is_tls(), self.meter.has(flag::PLAINTEXT)) {
            (false, _) => counted,
            (true, true) => counted.wrapping_add(incomplete),
            (true, false) if incomplete == 0 => 0,
            (true, false) => counted,
        }
    }

    /// Returns the count that grows with messages.
    fn count(&self) -> usize {
        match self.meter.has(flag::PLAINTEXT) {
            true => self.meter.counts.plaintext.load(Ordering::Relaxed),
            false => self.read(),
        }
    }

    #[inline]
    fn is_tls(&self) -> bool {
        self.meter.has(flag::TLS | flag::PLAINTEXT)
    }

    /// Returns the number of bytes read. It wraps around.
    #[inline]
    pub(crate) fn read(&self) -> usize {
        self.meter.counts.read.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes written since the last call.
    pub(crate) fn progress(&mut self) -> u64 {
        let written = self.meter.counts.written.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.written, written);
        written.wrapping_sub(before) as u64
    }

    /// Returns whether reads and writes can ask the kernel.
    pub(crate) fn can_ask(&self) -> bool {
        self.meter.can_ask()
    }

    /// Makes reads and writes ask the kernel from now on, or stops this if `at` is `None`. `at` is
    /// the instant that the alarm was set to when it last fired. Clears the answers.
    pub(crate) fn ask(&mut self, at: Option<Timestamp>) {
        self.meter.ask(at.is_some());
        self.covered = at;
    }

    /// Returns the instant up to which the kernel's answers are evidence.
    pub(crate) fn covered(&self) -> Option<Timestamp> {
        self.covered
    }

    /// Returns whether the last read yielded to other tasks, and so proves nothing.
    pub(crate) fn has_yielded(&self) -> bool {
        self.meter.has(flag::YIELDED)
    }

    pub(crate) fn answers(&self) -> Answers {
        self.meter.answers()
    }
}
