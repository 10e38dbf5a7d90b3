//! The read path: reports received messages to the policy, and decides which the stream yields.

use std::fmt;

use futures_core::Stream;
use futures_util::sink::Sink;

use super::Driver;
use super::heartbeat::Heartbeat;
use crate::error::{Error, PeerClose};
use crate::event::Event;
use crate::message::{Message, MessageKind};
use crate::metered::Metering;
use crate::observer::Report;
use crate::seed::PingId;
use crate::time::Timestamp;
use crate::timer::Timer;

impl<S, T, M, E> Driver<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Reports a message to the policy. Returns whether the stream yields it.
    pub(super) fn on_message(&mut self, now: Timestamp, message: &M) -> bool {
        let inner = self.inner.as_mut();
        if let Some(heartbeat) = inner.and_then(|inner| inner.recognise(message)) {
            self.on_heartbeat(now, heartbeat);
            return false;
        }
        match message.kind() {
            MessageKind::Data => {
                self.on_whole_message();
                self.observe(now, Event::Recv);
                true
            }
            MessageKind::Ping(payload) => {
                self.on_control_frame(now, payload.len());
                self.observe(now, Event::Ping);
                self.outbox.on_inner_reply_queued(payload.len());
                if self.outbox.is_choked() {
                    self.reads_left = 0;
                }
                true
            }
            MessageKind::Pong(payload) => {
                self.on_control_frame(now, payload.len());
                let id = PingId::from_payload(payload);
                let ours = id.is_some_and(|id| self.policy.awaits_pong(id));
                if ours {
                    self.on_pong(now, id);
                } else {
                    // The policy counts it as a ping: proof of life, limited by `max_ping_rate`.
                    self.observe(now, Event::Ping);
                }
                !ours
            }
            MessageKind::Close(code) => {
                let lost = self.outbox.on_peer_close();
                let ours = self.teardown.verdict().is_some();
                self.teardown.set_peer_close(PeerClose { code });
                if let Some(link) = &self.link {
                    link.set_peer_close(PeerClose { code });
                }
                if lost && !ours {
                    self.teardown.set_refusal(Error::Closed);
                }
                self.observe(now, Event::PeerClose);
                // Sends fail from now on.
                self.wakers.wake_writer();
                !ours
            }
        }
    }

    /// Reports a message that serves as a Ping or Pong frame. Its bytes do not count as part of a
    /// message.
    fn on_heartbeat(&mut self, now: Timestamp, heartbeat: Heartbeat) {
        self.on_whole_message();
        self.observe(now, Event::RecvPartial { total: 0 });
        match heartbeat {
            Heartbeat::Ping => {
                self.observe(now, Event::Ping);
                self.outbox.on_heartbeat_reply_queued();
            }
            Heartbeat::Pong(Some(id)) if self.policy.awaits_pong(id) => self.on_pong(now, Some(id)),
            Heartbeat::Pong(_) => self.observe(now, Event::Ping),
        }
    }

    fn on_pong(&mut self, now: Timestamp, id: Option<PingId>) {
        let before = self.policy.pongs_received();
        self.observe(now, Event::Pong(id));
        if self.policy.pongs_received() > before {
            let rtt = self.policy.rtt();
            self.report(Report::Pong { rtt });
        }
    }

    #[inline]
    pub(super) fn on_whole_message(&mut self) {
        if let Some(metering) = self.metering() {
            metering.whole_message();
        }
    }

    fn on_control_frame(&mut self, now: Timestamp, payload: usize) {
        let metering = self.metering();
        if metering.is_some_and(|metering| metering.control_frame(payload)) {
            self.observe(now, Event::RecvPartial { total: 0 });
        }
    }

    /// Returns whether bytes of an incomplete message have arrived that were not reported.
    #[inline(never)]
    pub(super) fn has_unreported_bytes(&mut self) -> bool {
        self.metering()
            .is_some_and(|metering| Metering::has_unreported(metering))
    }
}
