//! A socket's constructors, and the builders that set its options.

use std::boxed::Box;
use std::fmt;
use std::future::Future;
use std::io;
use std::string::String;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::TryStream;

use super::alarm::Alarm;
use super::driver::Driver;
use super::link::Link;
use super::wakers::Wakers;
use super::{Opening, TimeoutSocket, Timeouts, random_seed};
#[cfg(doc)]
use crate::config::TimeoutConfig;
#[cfg(doc)]
use crate::error::Error;
use crate::message::Message;
use crate::metered::{Meter, Metering};
use crate::policy::TimeoutPolicy;
use crate::timer::Timer;

/// The options that builders set.
pub(super) struct Options<S> {
    pub(super) metering: Option<Metering>,
    /// How late the timer may fire so that many fire together. `None` uses the timer's default.
    pub(super) slack: Option<Duration>,
    pub(super) label: Option<Arc<str>>,
    pub(super) shutdown: Option<Shutdown<S>>,
}

type Shutdown<S> = fn(&mut S, &mut Context<'_>) -> Poll<io::Result<()>>;

impl<S: TryStream, T: Timer> TimeoutSocket<S, T> {
    /// Wraps `socket`, whose opening handshake is complete, with `timer` as its clock and timer.
    ///
    /// The modules in [`runtime`](crate::runtime) have a shorter function, `wrap`, for each
    /// runtime.
    pub fn new(timeouts: impl Into<Timeouts>, timer: T, socket: S) -> Self {
        let (config, common) = timeouts.into().into_parts();
        let (now, seed) = (timer.timestamp(timer.now()), random_seed());
        let wakers = Wakers::new();
        let alarm = Alarm::new(timer, wakers.alarm_waker());
        let link = common.map(|common| Link::new(alarm.waker().clone(), Some(common)));
        if let Some(link) = &link {
            link.created(now, &config, seed, false);
        }
        let policy = TimeoutPolicy::new(config, seed, now);
        Self::with_driver(Driver::new(policy, alarm, wakers, link, socket))
    }

    /// Runs `handshake` under `handshake_timeout`, measured from this call, and wraps the socket
    /// that it returns. The modules in [`runtime`](crate::runtime) have a shorter function, `open`.
    ///
    /// The future must read and write the transport itself. If another task did so, input that has
    /// arrived could be unread when the limit expires.
    ///
    /// # Errors
    /// Returns [`Error::Verdict`] if the handshake takes longer than `handshake_timeout`; the
    /// handshake and its transport are then dropped. Returns [`Error::Socket`] if the handshake
    /// fails.
    pub fn open<E, F>(timeouts: impl Into<Timeouts>, timer: T, handshake: F) -> Opening<F, T>
    where
        F: Future<Output = Result<S, E>>,
        E: fmt::Display,
    {
        Opening::new(timeouts.into(), timer, Box::pin(handshake))
    }

    /// Sets the connection's name in the log, for example its user's name. The log escapes control
    /// characters in it.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        let label = label.into();
        self.set_option(|options| options.label = Some(label.clone()));
        if let Some(link) = &self.fast.driver().link {
            link.set_label(label);
        }
        self
    }

    /// Sets the meter of the transport below the socket, so that the policy sees its bytes.
    ///
    /// Without a meter, the policy sees only whole messages. Until a large message is complete, it
    /// counts as silence, so it must not take longer than `idle_timeout` or `pong_timeout`, and
    /// `min_data_rate` does not apply to it. A large write to a slow reader must complete within
    /// `message_timeout`, even while it makes progress.
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.set_option(|options| options.metering = Some(Metering::new(meter)));
        self
    }

    /// Sends the text `ping` in place of Ping frames, and treats each text `pong` as the answer to
    /// the latest ping.
    ///
    /// The default is Ping frames, which every WebSocket peer, including a browser, answers without
    /// help from its program. Use messages if the peer's program must see the heartbeat, or if a
    /// proxy drops control frames. The stream does not yield the pongs, and yields all other
    /// messages.
    ///
    /// In Engine.IO, the transport of Socket.IO, the server pings with `2` and the client answers
    /// `3`:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tokio_tungstenite::WebSocketStream;
    /// # use tungstenite::{Message, protocol::Role};
    /// # use ws_timeout::{TimeoutConfig, runtime::tokio::wrap};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (ours, peers) = tokio::io::duplex(1024);
    /// # let at_server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
    /// # let at_client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
    /// # let second = Duration::from_secs(1);
    /// # let config = TimeoutConfig::builder().ping_interval(second).build()?;
    /// # let quiet = TimeoutConfig::builder().no_ping_interval().build()?;
    /// let mut server = wrap(config, at_server).with_text_heartbeat("2", "3");
    /// let mut client = wrap(quiet, at_client).with_text_heartbeat_replies("2", "3");
    /// # let until = 5 * second / 2;
    /// # let _ = tokio::join!(server.recv_timeout(until), client.recv_timeout(until));
    /// assert_eq!(server.status().pongs_received, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_text_heartbeat(self, ping: impl Into<String>, pong: impl Into<String>) -> Self
    where
        S::Ok: Message + PartialEq + Send + Sync + 'static,
    {
        let (ping, pong) = (ping.into(), S::Ok::text(pong.into()));
        self.with_heartbeat(
            move |_| S::Ok::text(ping.clone()),
            move |message, latest| (*message == pong).then_some(latest),
        )
    }

    /// Replies to each text `ping` of the peer with the text `pong`. The stream does not yield the
    /// pings. See [`with_heartbeat_replies`](Self::with_heartbeat_replies).
    pub fn with_text_heartbeat_replies(
        self,
        ping: impl Into<String>,
        pong: impl Into<String>,
    ) -> Self
    where
        S::Ok: Message + PartialEq + Send + Sync + 'static,
    {
        let (ping, pong) = (S::Ok::text(ping.into()), pong.into());
        self.with_heartbeat_replies(move |message| {
            (*message == ping).then(|| S::Ok::text(pong.clone()))
        })
    }

    /// Sends the messages that `ping` creates in place of Ping frames, and treats those that `pong`
    /// recognises as their answers.
    ///
    /// `ping` creates each ping from its number, which is 1 for the first. If the inner sink
    /// refuses a ping, the socket calls `ping` again with the same number.
    ///
    /// `pong` gets each data message and the number of the latest ping. If the message is a pong,
    /// `pong` returns the number of the ping that it answers: the number in the message, or that of
    /// the latest ping if the message contains none. For any other message it returns `None`. It
    /// sees every data message, so it should reject most of them without parsing.
    ///
    /// The stream does not yield pongs. As with frames, the first pong of the latest ping measures
    /// the round-trip time; other pongs only prove that the peer is alive.
    ///
    /// For example, a client of a Phoenix server, whose reply repeats the reference of the
    /// heartbeat:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tokio_tungstenite::WebSocketStream;
    /// # use tungstenite::{Message, protocol::Role};
    /// # use ws_timeout::{TimeoutConfig, runtime::tokio::wrap};
    /// use serde_json::{Value, json};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (ours, peers) = tokio::io::duplex(1024);
    /// # let at_server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
    /// # let at_client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
    /// # let second = Duration::from_secs(1);
    /// # let config = TimeoutConfig::builder().ping_interval(second).build()?;
    /// # let quiet = TimeoutConfig::builder().no_ping_interval().build()?;
    /// let mut client = wrap(config, at_client).with_heartbeat(
    ///     |number| Message::text(format!(r#"[null,"{number}","phoenix","heartbeat",{{}}]"#)),
    ///     |message, _| {
    ///         let text = message.to_text().ok().filter(|text| text.contains("\"phoenix\""))?;
    ///         let [_, reference, topic, event, _]: [Value; 5] = serde_json::from_str(text).ok()?;
    ///         let is_pong = topic == "phoenix" && event == "phx_reply";
    ///         reference.as_str().filter(|_| is_pong)?.parse().ok()
    ///     },
    /// );
    /// // The other side, for clients such as `phoenix.js`:
    /// let mut server = wrap(quiet, at_server).with_heartbeat_replies(|message| {
    ///     let text = message.to_text().ok().filter(|text| text.contains("\"phoenix\""))?;
    ///     let [_, reference, topic, event, _]: [Value; 5] = serde_json::from_str(text).ok()?;
    ///     let payload = json!({ "status": "ok", "response": {} });
    ///     let pong = json!([null, reference, "phoenix", "phx_reply", payload]);
    ///     (topic == "phoenix" && event == "heartbeat").then(|| Message::text(pong.to_string()))
    /// });
    /// # let until = 5 * second / 2;
    /// # let _ = tokio::join!(client.recv_timeout(until), server.recv_timeout(until));
    /// assert_eq!(client.status().pongs_received, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_heartbeat(
        mut self,
        ping: impl FnMut(u64) -> S::Ok + Send + Sync + 'static,
        pong: impl FnMut(&S::Ok, u64) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        self.fast.drive(|driver| {
            if let Some(inner) = &mut driver.inner {
                inner.set_pings(ping, pong);
            }
            driver.has_heartbeat = true;
        });
        self
    }

    /// Replies to the peer's heartbeat with the messages that `reply` creates.
    ///
    /// `reply` gets each data message. If the message is a ping, `reply` returns the pong. For any
    /// other message it returns `None`. It sees every data message, so it should reject most of
    /// them without parsing.
    ///
    /// The stream does not yield the pings. The policy treats them like Ping frames: they prove
    /// that the peer is alive, do not count as data, and `max_ping_rate` limits them. If several
    /// pings arrive while the transport accepts nothing, only the latest gets a reply. A message
    /// that could be a ping or a pong counts as a pong while one is awaited.
    ///
    /// For example, both sides of GraphQL over WebSocket, where a pong may omit the payload:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tokio_tungstenite::WebSocketStream;
    /// # use tungstenite::{Message, protocol::Role};
    /// # use ws_timeout::{TimeoutConfig, runtime::tokio::wrap};
    /// use serde_json::{Value, json};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (ours, peers) = tokio::io::duplex(1024);
    /// # let at_server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
    /// # let at_client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
    /// # let second = Duration::from_secs(1);
    /// # let config = TimeoutConfig::builder().ping_interval(second).build()?;
    /// # let quiet = TimeoutConfig::builder().no_ping_interval().build()?;
    /// let mut client = wrap(quiet, at_client).with_heartbeat_replies(|message| {
    ///     let text = message.to_text().ok().filter(|text| text.contains("\"ping\""))?;
    ///     let mut message: Value = serde_json::from_str(text).ok()?;
    ///     if message["type"] != "ping" {
    ///         return None;
    ///     }
    ///     message["type"] = "pong".into();
    ///     Some(Message::text(message.to_string()))
    /// });
    /// let mut server = wrap(config, at_server).with_heartbeat(
    ///     |number| Message::text(json!({ "type": "ping", "payload": { "n": number } }).to_string()),
    ///     |message, latest| {
    ///         let text = message.to_text().ok().filter(|text| text.contains("\"pong\""))?;
    ///         let pong: Value = serde_json::from_str(text).ok()?;
    ///         (pong["type"] == "pong").then(|| pong["payload"]["n"].as_u64().unwrap_or(latest))
    ///     },
    /// );
    /// # let until = 5 * second / 2;
    /// # let _ = tokio::join!(server.recv_timeout(until), client.recv_timeout(until));
    /// assert_eq!(server.status().pongs_received, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_heartbeat_replies(
        mut self,
        reply: impl FnMut(&S::Ok) -> Option<S::Ok> + Send + Sync + 'static,
    ) -> Self {
        self.fast.drive(|driver| {
            if let Some(inner) = &mut driver.inner {
                inner.set_reply(reply);
            }
            driver.has_heartbeat = true;
        });
        self
    }

    /// Sets a function that shuts down the transport after the closing handshake, before the socket
    /// drops it.
    ///
    /// A TLS stream then sends `close_notify`, without which the peer cannot tell the end of the
    /// connection from an attack (RFC 8446, 6.1). `close_timeout` limits the shutdown together with
    /// the closing handshake. After an abort or a failure, there is no shutdown. The socket ignores
    /// an error of the shutdown, since both Close frames have passed.
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
        self.set_option(|options| options.shutdown = Some(shutdown));
        self
    }

    /// Allows the timer to fire up to `slack` late, and never early, so that many connections share
    /// a wake-up. On a server with thousands of quiet connections, the wake-up is most of the cost
    /// of a ping.
    ///
    /// The default is 10 ms ([`Timer::default_slack`]). Set zero for limits of a few milliseconds,
    /// and in tests that assert exact times: timers fire at fixed multiples of the slack, so the
    /// delay differs from run to run.
    ///
    /// Pings, lifetimes, verdicts and the end of a closing handshake can be up to `slack` late. A
    /// dead peer is detected up to twice `slack` after
    /// [`detection_bound`](TimeoutConfig::detection_bound). The slack is capped at half of
    /// `stall_tolerance`, so that it never counts as a stall. It does not affect the limit of a
    /// single call, such as `send_timeout`.
    pub fn with_timer_slack(mut self, slack: Duration) -> Self {
        self.set_option(|options| options.slack = Some(slack));
        self
    }

    fn set_option(&mut self, set: impl FnOnce(&mut Options<S>)) {
        self.fast.drive(|driver| {
            // With a shorter slack, the alarm may have to fire earlier.
            driver.needs_poll = true;
            set(driver.options.get_or_insert_with(|| {
                Box::new(Options {
                    metering: None,
                    slack: None,
                    label: None,
                    shutdown: None,
                })
            }));
        });
    }
}
