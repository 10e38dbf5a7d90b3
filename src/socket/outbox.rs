//! The write queue: ordering and retries.
//!
//! The outbox is plain data, without a waker, a policy or a clock. The driver gets the
//! [`next`](Outbox::next) step, carries it out on the inner sink, and reports the result. The order
//! is: a message whose reserved place was taken, our ping, a flush of both, and finally our Close
//! frame. The Close frame waits for the flush because tungstenite drops it if its buffer is full,
//! and nothing may follow it.

use std::boxed::Box;

/// How many bytes of pongs may wait for a peer that does not read them before the socket stops
/// reading too.
const MAX_UNFLUSHED_REPLIES: usize = 256 << 10;

/// The queue of writes.
#[derive(Debug)]
pub(super) struct Outbox<M> {
    /// A message of the program, whose reserved place a ping or a reply took.
    displaced: Option<Box<M>>,
    /// Whether the inner sink has room for a message, and has been given none since.
    inner_ready: bool,
    /// The kinds of messages that the inner sink has accepted and not flushed.
    buffered: Buffered,
    ping: bool,
    close: CloseFrame<M>,
    /// Bytes of control frames that the inner sink itself has queued and not flushed.
    unflushed_replies: usize,
    /// Whether the inner sink failed, and nothing can be sent any more.
    broken: bool,
    /// Whether the current drain has yet to flush.
    must_flush: bool,
    /// How often the inner sink refused our ping in the current drain.
    refusals: u8,
}

/// The kinds of messages that the inner sink has accepted and not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Buffered {
    pub(super) data: bool,
    pub(super) control: bool,
    pub(super) ping: bool,
}

/// Our own Close frame.
#[derive(Debug)]
enum CloseFrame<M> {
    None,
    Queued(Box<M>),
    Written,
    Flushed,
}

/// The driver's next step with the inner sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait until the inner sink has room, then report [`Outbox::on_room`].
    AwaitRoom,
    /// Give it this item, then report [`Outbox::on_taken`] or [`Outbox::on_refused`].
    Give(Item),
    /// Flush it, then report [`Outbox::on_flushed`].
    Flush,
    /// Stop: nothing is waiting, or nothing can be done now.
    Done,
}

/// An item that the driver gives to the inner sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// [`Outbox::take_displaced`].
    Displaced,
    /// The latest ping.
    Ping,
    /// [`Outbox::take_close`].
    Close,
}

impl<M> Outbox<M> {
    pub(super) const fn new() -> Self {
        Self {
            displaced: None,
            inner_ready: false,
            buffered: Buffered {
                data: false,
                control: false,
                ping: false,
            },
            ping: false,
            close: CloseFrame::None,
            unflushed_replies: 0,
            broken: false,
            must_flush: false,
            refusals: 0,
        }
    }

    // ---- draining ----

    /// Begins a drain, which flushes the inner sink at least once.
    pub(super) fn begin_drain(&mut self) {
        self.must_flush = true;
        self.refusals = 0;
    }

    /// Returns the next step of the drain.
    pub(super) fn next(&self) -> Step {
        if self.broken {
            return Step::Done;
        }
        let item = match self {
            Self {
                displaced: Some(_), ..
            } => Item::Displaced,
            Self { ping: true, .. } if self.may_give_ping() => Item::Ping,
            _ if self.must_flush || self.buffered != Buffered::default() => return Step::Flush,
            Self {
                close: CloseFrame::Queued(_),
                ..
            } => Item::Close,
            _ => return Step::Done,
        };
        if self.inner_ready {
            Step::Give(item)
        } else {
            Step::AwaitRoom
        }
    }

    /// Returns whether to try the ping. A full buffer may refuse it and accept it after a flush, so
    /// there is a second try.
    fn may_give_ping(&self) -> bool {
        match self.refusals {
            0 => true,
            1 => !self.must_flush,
            _ => false,
        }
    }

    /// Records that the inner sink has room for a message.
    pub(super) fn on_room(&mut self) {
        self.inner_ready = true;
    }

    /// Records that the inner sink has accepted the item. `data` is false for a control frame.
    pub(super) fn on_taken(&mut self, item: Item, data: bool) {
        self.inner_ready = false;
        match item {
            Item::Displaced => self.count(data),
            Item::Ping => {
                self.ping = false;
                self.buffered.ping = true;
            }
            Item::Close => {
                self.close = CloseFrame::Written;
                self.must_flush = true;
            }
        }
    }

    /// Records that the inner sink has refused the item. Returns whether this is final: the item is
    /// lost, and the caller must report it.
    pub(super) fn on_refused(&mut self, item: Item) -> bool {
        self.inner_ready = false;
        match item {
            Item::Displaced | Item::Close => true,
            Item::Ping => {
                self.refusals += 1;
                self.must_flush = true;
                false
            }
        }
    }

    /// Records that the inner sink is flushed. Returns the kinds of messages that were sent.
    pub(super) fn on_flushed(&mut self) -> Buffered {
        self.must_flush = false;
        self.unflushed_replies = 0;
        if matches!(self.close, CloseFrame::Written) {
            self.close = CloseFrame::Flushed;
        }
        std::mem::take(&mut self.buffered)
    }

    pub(super) fn take_displaced(&mut self) -> Option<M> {
        self.displaced.take().map(|message| *message)
    }

    pub(super) fn take_close(&mut self) -> Option<M> {
        match std::mem::replace(&mut self.close, CloseFrame::None) {
            CloseFrame::Queued(frame) => Some(*frame),
            other => {
                self.close = other;
                None
            }
        }
    }

    // ---- queueing ----

    /// Returns whether the program may give a message to the inner sink directly.
    #[inline]
    pub(super) fn has_place(&self) -> bool {
        self.inner_ready && self.displaced.is_none()
    }

    /// Records that the program has given the inner sink a message, which it may have refused.
    #[inline]
    pub(super) fn on_given(&mut self, data: bool, taken: bool) {
        self.inner_ready = false;
        if taken {
            self.count(data);
        }
    }

    #[inline]
    fn count(&mut self, data: bool) {
        self.buffered.data |= data;
        self.buffered.control |= !data;
    }

    /// Keeps a message until there is room for it. Returns it if another is already kept.
    pub(super) fn displace(&mut self, message: M) -> Result<(), M> {
        if self.displaced.is_some() {
            return Err(message);
        }
        self.displaced = Some(Box::new(message));
        Ok(())
    }

    /// Records that the inner sink itself has queued a control frame with a payload of this many
    /// bytes: the pong to a ping, or the reply to a Close.
    pub(super) fn on_inner_reply_queued(&mut self, payload: usize) {
        const MAX_CONTROL_HEADER: usize = 6;
        self.buffered.control = true;
        self.unflushed_replies = self
            .unflushed_replies
            .saturating_add(MAX_CONTROL_HEADER + payload);
    }

    /// Records that the transport has accepted `bytes` of the inner sink's buffer.
    pub(super) fn on_progress(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.unflushed_replies = self.unflushed_replies.saturating_sub(bytes);
    }

    /// Allows the socket to read as much again from a peer that does not read.
    pub(super) fn forget_unflushed_replies(&mut self) {
        self.unflushed_replies = 0;
    }

    /// Records that the layer below has queued a reply, which may take the place that the inner
    /// sink has reserved.
    pub(super) fn on_heartbeat_reply_queued(&mut self) {
        self.inner_ready = false;
        self.buffered.control = true;
    }

    pub(super) fn queue_ping(&mut self) {
        self.ping = true;
    }

    /// Queues our Close frame. A ping is no longer worth sending before it.
    pub(super) fn queue_close(&mut self, frame: M) {
        self.ping = false;
        if matches!(self.close, CloseFrame::None) {
            self.close = CloseFrame::Queued(Box::new(frame));
        }
    }

    /// Records that the peer's Close frame was received, and that the inner sink has queued the
    /// reply. It replaces a Close frame of ours that is not written yet, and nothing may follow it.
    /// Returns whether a message was lost.
    pub(super) fn on_peer_close(&mut self) -> bool {
        self.ping = false;
        self.take_close();
        self.on_inner_reply_queued(2);
        self.displaced.take().is_some()
    }

    /// Records that the inner sink failed, and that nothing can be sent any more.
    pub(super) fn on_broken(&mut self) {
        self.broken = true;
        self.displaced = None;
        self.buffered = Buffered::default();
        self.unflushed_replies = 0;
        self.ping = false;
    }

    // ---- queries ----

    #[inline]
    pub(super) fn has_displaced(&self) -> bool {
        self.displaced.is_some()
    }

    /// Returns whether our latest ping is waiting to be given to the inner sink.
    #[inline]
    pub(super) fn has_ping(&self) -> bool {
        self.ping
    }

    /// Returns whether too many replies to the peer are waiting because it does not read them.
    pub(super) fn is_choked(&self) -> bool {
        self.unflushed_replies > MAX_UNFLUSHED_REPLIES
    }

    pub(super) fn buffered(&self) -> Buffered {
        self.buffered
    }

    /// Returns whether anything is waiting to be written or flushed.
    pub(super) fn has_pending_writes(&self) -> bool {
        !self.broken && (self.buffered.data || self.displaced.is_some() || self.is_unprompted())
    }

    /// Returns whether a write is pending that the program does not know of, and so will not flush.
    pub(super) fn has_unprompted_writes(&self) -> bool {
        !self.broken && self.is_unprompted()
    }

    fn is_unprompted(&self) -> bool {
        self.buffered.control
            || self.buffered.ping
            || self.ping
            || matches!(self.close, CloseFrame::Queued(_) | CloseFrame::Written)
    }

    /// Returns whether the only pending writes are the program's messages, waiting to be flushed.
    #[inline]
    pub(super) fn is_plain_data(&self) -> bool {
        const DATA: Buffered = Buffered {
            data: true,
            control: false,
            ping: false,
        };
        self.buffered == DATA && self.displaced.is_none() && !self.ping
    }

    /// Returns whether this side has begun to close the connection.
    pub(super) fn is_closing(&self) -> bool {
        !matches!(self.close, CloseFrame::None)
    }

    /// Returns whether our Close frame is flushed.
    pub(super) fn is_close_flushed(&self) -> bool {
        matches!(self.close, CloseFrame::Flushed)
    }
}

#[cfg(test)]
mod tests;
