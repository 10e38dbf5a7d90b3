//! The link between a meter's counts and the policy.

use std::sync::atomic::Ordering;

use super::{Answers, Meter, flag};
use crate::event::Event;
use crate::time::Timestamp;

/// The meter under the socket, and how much of its counts the policy has seen.
#[derive(Debug)]
pub(crate) struct Metering {
    meter: Meter,
    /// The count at which the incomplete message began; see [`Self::count`].
    began: usize,
    /// The total last reported to the policy.
    partial: usize,
    /// The count of bytes read when the policy last received a report of them.
    reported_read: usize,
    /// The count of bytes written at the last report.
    written: usize,
    /// The instant up to which the kernel's answers cover input and room. `None` while it is not
    /// asked.
    covered: Option<Timestamp>,
}

impl Metering {
    /// Counts from now on.
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

    /// Records that a whole data message was received: the next bytes begin a new one. The library
    /// reads the transport ahead of the messages, so this may miss the first bytes of the next one,
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

    /// Records that a control frame was received: its wire size is not part of a message. This
    /// assumes a masking key, which only a client's frames have. So a client undercounts a message
    /// by four bytes for each control frame within it. Without the assumption, a server would take
    /// the keys of pings for an incomplete message that never continues.
    ///
    /// Returns whether the bytes that the policy took for an incomplete message were the start of
    /// this frame.
    pub(crate) fn control_frame(&mut self, payload: usize) -> bool {
        const HEADER_AND_MASK: usize = 6;
        let wire = payload.saturating_add(HEADER_AND_MASK);
        let was_begun = (1..=wire).contains(&self.partial);
        if was_begun {
            self.partial = 0;
        }
        let counted = self.count().wrapping_sub(self.began);
        self.began = self.began.wrapping_add(wire.min(counted));
        self.reported_read = self.read();
        was_begun
    }

    /// Whether bytes have arrived that were not reported to the policy.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        if self.is_tls() {
            self.total() != self.partial || self.read() != self.reported_read
        } else {
            self.read().wrapping_sub(self.began) != self.partial
        }
    }

    /// Like [`Self::news`], while there may be more to read, so that the bytes may belong to a
    /// whole message. They count towards an incomplete message if there is one, and otherwise only
    /// as proof of life.
    pub(crate) fn news_of_begun(&mut self) -> Option<Event> {
        if self.partial > 0 {
            return self.news();
        }
        let has_read = self.read() != self.reported_read;
        self.reported_read = self.read();
        has_read.then_some(Event::Pong(None))
    }

    /// Returns the event for the bytes that have arrived. TLS bytes that are part of no message are
    /// proof of life, as a pong is.
    pub(crate) fn news(&mut self) -> Option<Event> {
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

    /// Returns the bytes of the incomplete message. A meter below TLS alone cannot see where a
    /// message begins: there, one has begun while a record is incomplete.
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

    /// The count that grows with messages.
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

    /// Returns the bytes written since the last call.
    pub(crate) fn progress(&mut self) -> u64 {
        let written = self.meter.counts.written.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.written, written);
        written.wrapping_sub(before) as u64
    }

    /// Whether reads and writes can ask the kernel.
    pub(crate) fn can_ask(&self) -> bool {
        self.meter.can_ask()
    }

    /// Makes reads and writes ask the kernel from now on, or stops that if `None`. `at` is the
    /// instant that the alarm was set to when it last fired. Clears the answers.
    pub(crate) fn ask(&mut self, at: Option<Timestamp>) {
        self.meter.ask(at.is_some());
        self.covered = at;
    }

    /// The instant that the kernel's answers cover.
    pub(crate) fn covered(&self) -> Option<Timestamp> {
        self.covered
    }

    /// Whether the last read yielded to other tasks, and so proves nothing.
    pub(crate) fn has_yielded(&self) -> bool {
        self.meter.has(flag::YIELDED)
    }

    pub(crate) fn answers(&self) -> Answers {
        self.meter.answers()
    }
}
