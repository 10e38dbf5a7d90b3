//! What the policy knows of a meter's counts.

use std::sync::atomic::Ordering;

use super::{Answers, Meter, flag};
use crate::event::Event;
use crate::time::Timestamp;

/// The meter under the socket, and what the policy knows of its counts.
#[derive(Debug)]
pub(crate) struct Metering {
    meter: Meter,
    /// The count at which the message that is not whole began; see [`Self::count`].
    began: usize,
    /// The total that the policy was last told.
    partial: usize,
    /// The count of bytes read when the policy last heard of any.
    heard: usize,
    /// The count of bytes written that the policy was last told.
    written: usize,
    /// The kernel shows what had arrived by then. `None` while it is not asked.
    asked: Option<Timestamp>,
}

impl Metering {
    /// Counts from now on.
    pub(crate) fn new(meter: Meter) -> Self {
        let mut this = Self {
            began: 0,
            partial: 0,
            heard: 0,
            asked: None,
            written: meter.counts.written.load(Ordering::Relaxed),
            meter,
        };
        this.whole_message();
        this.meter.set(flag::GUARDED);
        this
    }

    /// A whole data message was handed over: what comes next begins a new one. The transport is read
    /// ahead of the messages, so the first bytes of the next may be missed, which errs on the lenient
    /// side.
    #[inline]
    pub(crate) fn whole_message(&mut self) {
        self.partial = 0;
        if self.is_tls() {
            self.began = self.count();
            self.heard = self.read();
        } else {
            self.began = self.read();
        }
    }

    /// A control frame was handed over: its wire size is no part of a message. Whether it had a masking key
    /// is not known here: the frames of a client have one, those of a server have none. It is taken for
    /// granted, so a client counts four bytes of a message too few for each control frame that comes with
    /// it. Without, a server would take the keys of pings for a message that has begun, and never goes on.
    ///
    /// Returns whether what the policy took for a message that has begun was the begin of this frame.
    pub(crate) fn control_frame(&mut self, payload: usize) -> bool {
        const HEADER_AND_MASK: usize = 6;
        let wire = payload.saturating_add(HEADER_AND_MASK);
        let was_begun = (1..=wire).contains(&self.partial);
        if was_begun {
            self.partial = 0;
        }
        let counted = self.count().wrapping_sub(self.began);
        self.began = self.began.wrapping_add(wire.min(counted));
        self.heard = self.read();
        was_begun
    }

    /// Whether bytes have come of which the policy has not been told.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        if self.is_tls() {
            self.total() != self.partial || self.read() != self.heard
        } else {
            self.read().wrapping_sub(self.began) != self.partial
        }
    }

    /// The same while there may be more to read, so that bytes may be part of a message that is whole. They
    /// count for a message that has begun, and else as a sign of life.
    pub(crate) fn news_of_begun(&mut self) -> Option<Event> {
        if self.partial > 0 {
            return self.news();
        }
        let heard = self.read() != self.heard;
        self.heard = self.read();
        heard.then_some(Event::Pong(None))
    }

    /// What to tell the policy of bytes that have come. Those of TLS that are part of no message are a sign
    /// of life, as a pong is.
    pub(crate) fn news(&mut self) -> Option<Event> {
        let total = self.total();
        if total == 0 {
            self.began = self.count();
        }
        let moved = total != self.partial;
        let heard = self.is_tls() && self.read() != self.heard;
        self.partial = total;
        self.heard = self.read();
        if moved {
            let total = total as u64;
            Some(Event::RecvPartial { total })
        } else {
            heard.then_some(Event::Pong(None))
        }
    }

    /// Bytes of the message that is not whole. Below TLS alone it is not known where a message begins: then
    /// one has begun while a record is not whole.
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

    /// Bytes read in all. Wraps around.
    #[inline]
    pub(crate) fn read(&self) -> usize {
        self.meter.counts.read.load(Ordering::Relaxed)
    }

    /// The bytes written since the last call.
    pub(crate) fn progress(&mut self) -> u64 {
        let written = self.meter.counts.written.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.written, written);
        written.wrapping_sub(before) as u64
    }

    /// Whether the kernel can be asked what it has.
    pub(crate) fn can_ask(&self) -> bool {
        self.meter.can_ask()
    }

    /// Makes reads and writes ask the kernel from now on, or stops that if `None`. `at` is what the alarm was
    /// set to when it last fired. Forgets the answers.
    pub(crate) fn ask(&mut self, at: Option<Timestamp>) {
        self.meter.ask(at.is_some());
        self.asked = at;
    }

    /// The instant that the answers are about.
    pub(crate) fn asked(&self) -> Option<Timestamp> {
        self.asked
    }

    /// Whether the last read was put off to let other tasks run, so that nothing follows from it.
    pub(crate) fn has_yielded(&self) -> bool {
        self.meter.has(flag::YIELDED)
    }

    pub(crate) fn answers(&self) -> Answers {
        self.meter.answers()
    }
}
