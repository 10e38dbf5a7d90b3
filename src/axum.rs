//! Support for axum 0.8: an extractor whose sockets have timeouts, and a listener that counts
//! bytes.
//!
//! axum's `WebSocket` is a `Stream + Sink` whose messages implement [`Message`](crate::Message). If
//! you already have one, you need only one line:
//! `let mut socket = runtime::tokio::wrap(&timeouts, socket)`.
//!
//! If you extract [`TimeoutUpgrade`] in place of `WebSocketUpgrade`, it also takes the timeouts
//! from the request, limits the buffers, labels the connection with its peer's address, and sets
//! the socket's meter. A complete server:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::extract::ws::WebSocket;
//! use axum::response::Response;
//! use axum::routing::any;
//! use axum::{Extension, Router};
//! use tokio::net::TcpListener;
//! use ws_timeout::axum::{MeteredListener, Peer, TimeoutUpgrade};
//! use ws_timeout::runtime::tokio::Timer;
//! use ws_timeout::{TimeoutConfig, TimeoutSocket, Timeouts};
//!
//! async fn handler(upgrade: TimeoutUpgrade) -> Response {
//!     upgrade.on_upgrade(echo)
//! }
//!
//! async fn echo(mut socket: TimeoutSocket<WebSocket, Timer>) {
//!     while let Ok(Some(message)) = socket.recv().await {
//!         let _ = socket.send(message).await; // if it fails, `recv` returns why
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let timeouts = Timeouts::new(TimeoutConfig::production());
//!     let slow = timeouts.config().to_builder();
//!     let slow = slow.message_timeout(Duration::from_secs(8)).build()?;
//!     let app = Router::new()
//!         .route("/ws", any(handler))
//!         .route("/ws/slow", any(handler).layer(Extension(timeouts.with_config(slow))))
//!         .layer(Extension(timeouts.clone()));
//!
//!     let listener = MeteredListener(TcpListener::bind("127.0.0.1:8080").await?);
//!     axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
//!         .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
//!         .await?;
//!     timeouts.drain(Duration::from_secs(10)).await; // closes the sockets, which axum does not
//!     Ok(())
//! }
//! ```
//!
//! With feature `tower`, you can write `.layer(timeouts.clone())` in place of
//! `.layer(Extension(…))`; it also logs the limits.
//!
//! # HTTP/2
//!
//! Over HTTP/2, the sockets of a client share one TCP connection, so they have no meter: it would
//! count the bytes of all of them. Each write must then complete within `message_timeout`, however
//! large the message.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::string::ToString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use ::axum::extract::FromRequestParts;
use ::axum::extract::connect_info::{ConnectInfo, Connected};
use ::axum::extract::ws::rejection::WebSocketUpgradeRejection;
use ::axum::extract::ws::{DefaultOnFailedUpgrade, OnFailedUpgrade, WebSocket, WebSocketUpgrade};
use ::axum::http::request::Parts;
use ::axum::http::{Extensions, Version};
use ::axum::response::Response;
use ::axum::serve::{IncomingStream, Listener};
use ::tokio::net::TcpStream;

use crate::config::TimeoutConfig;
use crate::message::limit_buffers;
use crate::metered::{Meter, Metered};
use crate::runtime::tokio::{Timer, open};
use crate::socket::{TimeoutSocket, Timeouts};

/// An extractor that replaces `WebSocketUpgrade`, and opens a socket with timeouts.
///
/// It takes the timeouts from the request's extension [`Timeouts`], or else from its extension
/// `Arc<TimeoutConfig>` or `TimeoutConfig`, or else uses [`TimeoutConfig::DEFAULT`]. Without an
/// extension [`Timeouts`], the socket still has limits, but no list contains the connection, and
/// you cannot drain it.
///
/// It sets the buffer sizes of [`limit_buffers`]. If the request has a `ConnectInfo` of [`Peer`] or
/// `SocketAddr`, it sets the peer's address as the label; with [`Peer`], it also sets the meter,
/// except over HTTP/2.
///
/// ```
/// use axum::response::Response;
/// use ws_timeout::axum::TimeoutUpgrade;
///
/// async fn handler(upgrade: TimeoutUpgrade) -> Response {
///     let upgrade = upgrade.map(|upgrade| upgrade.protocols(["graphql-transport-ws"]));
///     upgrade.with_label("user 7").on_upgrade(|mut socket| async move {
///         let protocol = socket.get_ref().and_then(|socket| socket.protocol()).cloned();
///         let greeting = format!("you speak {protocol:?}");
///         let _ = socket.send_text(greeting).await;
///         while let Ok(Some(_message)) = socket.recv().await {}
///     })
/// }
/// # let _: axum::Router = axum::Router::new().route("/ws", axum::routing::any(handler));
/// ```
#[must_use = "the WebSocket opens only if you return the response of `on_upgrade`"]
pub struct TimeoutUpgrade<F = DefaultOnFailedUpgrade> {
    upgrade: WebSocketUpgrade<F>,
    timeouts: Timeouts,
    label: Option<Arc<str>>,
    meter: Option<Meter>,
}

impl<S: Send + Sync> FromRequestParts<S> for TimeoutUpgrade {
    type Rejection = WebSocketUpgradeRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await?;
        let extensions = &parts.extensions;
        let peer = extensions.get().map(|ConnectInfo::<Peer>(peer)| peer);
        let address = peer.map(|peer| &peer.address);
        let address = address.or_else(|| extensions.get().map(|ConnectInfo(address)| address));
        Ok(Self {
            upgrade: limit_buffers(upgrade),
            timeouts: timeouts_of(extensions),
            label: address.map(|address| address.to_string().into()),
            meter: peer
                .filter(|_| parts.version < Version::HTTP_2)
                .map(|peer| peer.meter.clone()),
        })
    }
}

fn timeouts_of(extensions: &Extensions) -> Timeouts {
    if let Some(timeouts) = extensions.get::<Timeouts>() {
        return timeouts.clone();
    }
    match extensions.get::<Arc<TimeoutConfig>>() {
        Some(config) => config.clone().into(),
        None => {
            let config = extensions.get::<TimeoutConfig>().copied();
            config.unwrap_or(TimeoutConfig::DEFAULT).into()
        }
    }
}

impl<F> TimeoutUpgrade<F> {
    /// Returns the limits that the socket will have.
    pub fn config(&self) -> &Arc<TimeoutConfig> {
        self.timeouts.config()
    }

    /// Sets other limits for this connection alone; see [`Timeouts::with_config`].
    pub fn with_config(mut self, config: impl Into<Arc<TimeoutConfig>>) -> Self {
        self.timeouts = self.timeouts.with_config(config);
        self
    }

    /// Sets the connection's name in the log, as [`TimeoutSocket::with_label`] does.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Changes the inner upgrade, for example its protocols, its buffers or its
    /// `on_failed_upgrade`.
    pub fn map<G>(
        self,
        change: impl FnOnce(WebSocketUpgrade<F>) -> WebSocketUpgrade<G>,
    ) -> TimeoutUpgrade<G> {
        let Self {
            upgrade,
            timeouts,
            label,
            meter,
        } = self;
        TimeoutUpgrade {
            upgrade: change(upgrade),
            timeouts,
            label,
            meter,
        }
    }

    /// Returns the response that upgrades the connection. After the upgrade, axum runs `callback`
    /// in a new task, as with [`WebSocketUpgrade::on_upgrade`].
    ///
    /// From this call on, the connection is on the list of its [`Timeouts`], so a drain waits for
    /// an upgrade in progress.
    #[must_use = "to set up the connection, this response must be returned"]
    pub fn on_upgrade<C, Fut>(self, callback: C) -> Response
    where
        C: FnOnce(TimeoutSocket<WebSocket, Timer>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
        F: OnFailedUpgrade,
    {
        let upgraded = Arc::new(Mutex::new(None));
        let slot = upgraded.clone();
        let handshake = poll_fn(move |_| match lock(&slot).take() {
            Some(socket) => Poll::Ready(Ok::<_, Infallible>(socket)),
            None => Poll::Pending,
        });
        let mut opening = open(self.timeouts, handshake);
        if let Some(label) = self.label {
            opening = opening.with_label(label);
        }
        if let Some(meter) = self.meter {
            opening = opening.with_meter(meter);
        }
        // If the upgrade fails, axum drops this closure and the `Opening` in it, which leaves the
        // list.
        self.upgrade.on_upgrade(|socket| async move {
            *lock(&upgraded) = Some(socket);
            if let Ok(socket) = opening.await {
                callback(socket).await;
            }
        })
    }
}

fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F> fmt::Debug for TimeoutUpgrade<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutUpgrade")
            .field("timeouts", &self.timeouts)
            .field("label", &self.label)
            .field("meter", &self.meter)
            .finish_non_exhaustive()
    }
}

/// A listener for [`axum::serve`](::axum::serve()) that wraps each connection in a
/// [`Metered::socket`].
///
/// The inner listener is a `TcpListener`, or the listener that `tap_io` returns.
///
/// [`TimeoutUpgrade`] finds the meter if you serve `into_make_service_with_connect_info::<Peer>()`.
/// Your own listener, for example for TLS, can do the same: [`Metered`] explains where to put the
/// wrappers. In the callback, pass the meter to [`with_meter`](TimeoutSocket::with_meter).
#[derive(Debug)]
pub struct MeteredListener<L>(pub L);

impl<L: Listener<Io = TcpStream>> Listener for MeteredListener<L> {
    type Io = Metered<TcpStream>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = self.0.accept().await;
        (Metered::socket(stream), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// The peer of a connection that a [`MeteredListener`] accepted. Extract it as `ConnectInfo<Peer>`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer {
    /// The address of the peer, or of a proxy in front of it.
    pub address: SocketAddr,
    /// The byte counts of the TCP connection, which several sockets share over HTTP/2.
    pub meter: Meter,
}

impl<L> Connected<IncomingStream<'_, MeteredListener<L>>> for Peer
where
    L: Listener<Io = TcpStream, Addr = SocketAddr>,
{
    fn connect_info(stream: IncomingStream<'_, MeteredListener<L>>) -> Self {
        Self {
            address: *stream.remote_addr(),
            meter: stream.io().meter(),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use ::axum::serve::{Listener, ListenerExt};
    use ::tokio::net::{TcpListener, TcpStream};

    use super::MeteredListener;

    #[tokio::test]
    async fn the_kernel_can_be_asked_behind_tap_io() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tapped = MeteredListener(listener.tap_io(|tcp| drop(tcp.set_nodelay(true))));
        let client = TcpStream::connect(address).await.unwrap();
        let (transport, peer) = tapped.accept().await;
        assert!(transport.meter().can_ask());
        assert_eq!(peer, client.local_addr().unwrap());
    }
}
