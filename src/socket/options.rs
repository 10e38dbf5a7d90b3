//! What a program can ask of a socket beside its configuration.

use std::boxed::Box;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::TryStream;

use super::TimeoutSocket;
#[cfg(doc)]
use crate::config::TimeoutConfig;
use crate::message::Heartbeat;
use crate::metered::{Meter, Metering};
use crate::timer::Timer;

/// What the builders set.
pub(super) struct Options<S: TryStream> {
    pub(super) metering: Option<Metering>,
    /// What is sent in place of Ping frames.
    pub(super) heartbeat: Option<Box<Heartbeat<S::Ok>>>,
    /// What the peer sends in place of Ping frames.
    pub(super) replies: Option<Box<Heartbeat<S::Ok>>>,
    /// How late a timer may fire so that many fire together.
    pub(super) slack: Duration,
    pub(super) label: Option<Arc<str>>,
    pub(super) shutdown: Option<Shutdown<S>>,
}

type Shutdown<S> = fn(&mut S, &mut Context<'_>) -> Poll<io::Result<()>>;

impl<S: TryStream, T: Timer> TimeoutSocket<S, T> {
    /// Names the connection, by its user or its number, in every line of the log. Control characters
    /// are escaped there.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.options_mut().label = Some(label.into());
        self
    }

    /// Reports the bytes that `meter` counts below the socket to the policy.
    ///
    /// Without a meter the policy sees whole messages only. A large message that takes longer than
    /// `idle_timeout` or `pong_timeout` to arrive is silence, and one that trickles in is not noticed. A
    /// large write to a slow reader has `message_timeout` in all instead of without progress.
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.options_mut().metering = Some(Metering::new(meter));
        self
    }

    /// Sends messages in place of Ping frames.
    ///
    /// [`Heartbeat::ping`] goes out when a ping is due. Each [`Heartbeat::pong`] that comes answers the
    /// ping that is out; the stream does not yield it. All other data passes.
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat<S::Ok>) -> Self {
        self.options_mut().heartbeat = Some(Box::new(heartbeat));
        self
    }

    /// Replies to the peer's own heartbeat: for each [`Heartbeat::ping`] that comes, a
    /// [`Heartbeat::pong`] goes out. The stream does not yield the ping.
    ///
    /// To the policy it is a Ping frame: a sign of life, but no activity, and limited by
    /// `max_ping_rate`. Of several that come while the transport takes nothing, the latest gets a reply.
    pub fn with_heartbeat_replies(mut self, heartbeat: Heartbeat<S::Ok>) -> Self {
        self.options_mut().replies = Some(Box::new(heartbeat));
        self
    }

    /// Shuts the transport down when the closing handshake is done, before the inner socket is dropped.
    ///
    /// A TLS stream sends `close_notify` then, without which the peer cannot tell the end of the connection
    /// from an attack (RFC 8446, 6.1). It is part of the closing handshake, which `close_timeout` bounds.
    /// After an abort or a failure there is none. An error of the shutdown is ignored: everything has
    /// been said.
    ///
    /// ```
    /// # use std::pin::Pin;
    /// # use tokio::io::{AsyncRead, AsyncWrite};
    /// # use tokio_tungstenite::WebSocketStream;
    /// # use ws_timeout::{TimeoutSocket, runtime::tokio::Timer};
    /// # fn example<IO: AsyncRead + AsyncWrite + Unpin>(
    /// #     socket: TimeoutSocket<WebSocketStream<IO>, Timer>,
    /// # ) -> TimeoutSocket<WebSocketStream<IO>, Timer> {
    /// socket.with_shutdown(|inner, cx| Pin::new(inner.get_mut()).poll_shutdown(cx))
    /// # }
    /// ```
    pub fn with_shutdown(
        mut self,
        shutdown: fn(&mut S, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Self {
        self.options_mut().shutdown = Some(shutdown);
        self
    }

    /// Allows timers to fire up to `slack` late, and never early, so that many connections share a
    /// wake-up. On a server with thousands of quiet connections the wake-up is most of the cost of a
    /// ping. The default is zero.
    ///
    /// Pings, lifetimes, verdicts and the end of a closing handshake come later by as much, and
    /// [`detection_bound`](TimeoutConfig::detection_bound) twice as much. More than half of
    /// `stall_tolerance` counts as half of it, or our own lateness would be taken for a stall. Limits
    /// given to a single call are not affected.
    pub fn with_timer_slack(mut self, slack: Duration) -> Self {
        // Zero is the default, and needs no allocation.
        if !slack.is_zero() || self.options.is_some() {
            self.options_mut().slack = slack;
        }
        self
    }

    fn options_mut(&mut self) -> &mut Options<S> {
        self.options.get_or_insert_with(|| {
            Box::new(Options {
                metering: None,
                heartbeat: None,
                replies: None,
                slack: Duration::ZERO,
                label: None,
                shutdown: None,
            })
        })
    }

    pub(super) fn label_or_dash(&self) -> &str {
        self.label().unwrap_or("-")
    }

    #[inline]
    pub(super) fn metering(&mut self) -> Option<&mut Metering> {
        self.options.as_mut()?.metering.as_mut()
    }

    /// Whether messages serve as heartbeat, in either direction.
    #[inline]
    pub(super) fn has_app_heartbeat(&self) -> bool {
        let options = self.options.as_ref();
        options.is_some_and(|options| options.heartbeat.is_some() || options.replies.is_some())
    }

    /// How late the alarm may fire.
    pub(super) fn slack(&self) -> Duration {
        let slack = self
            .options
            .as_ref()
            .map_or(Duration::ZERO, |options| options.slack);
        let most = self.policy.config().stall_tolerance().map(|most| most / 2);
        most.map_or(slack, |most| slack.min(most))
    }
}
