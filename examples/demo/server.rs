//! The server with timeouts, for one connection, on each runtime.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpListener;

use futures_util::{Sink, Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{
    CloseHandshake, CloseReason, Error, Metered, TimeoutConfig, TimeoutSocket, Timer, runtime,
};

use crate::{Narrator, now};

#[derive(Clone, Copy)]
pub enum Runtime {
    Tokio,
    Smol,
    AsyncStd,
}

/// What the server does for a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Sends each message back.
    Echo,
    /// Sends data without end, and reads nothing.
    Push,
}

/// How a connection ended, as the server knows it, and when.
#[derive(Clone, Debug)]
pub struct Report {
    pub ended: Ended,
    /// When the server detected it.
    pub at: Instant,
    /// When it passed the last push to the socket.
    pub last_push: Option<Instant>,
}

/// How a connection ended, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the policy.
    Verdict(CloseReason, CloseHandshake),
    /// By the client, with a closing handshake.
    Cleanly,
    /// By a failure of the socket.
    Failed,
}

/// Serves the first client that connects, and reports how the connection ended.
///
/// Must be polled on the runtime of `narrator`: see [`Runtime::spawn`].
pub async fn serve(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    narrator: Narrator,
    report: watch::Sender<Option<Report>>,
) {
    let mut last_push = None;
    let ended = match narrator.runtime {
        Runtime::Tokio => on_tokio(listener, config, serves, narrator, &mut last_push).await,
        Runtime::Smol => on_smol(listener, config, serves, narrator, &mut last_push).await,
        Runtime::AsyncStd => on_async_std(listener, config, serves, narrator, &mut last_push).await,
    };
    match &ended {
        Ok(()) => narrator.say("server: the client closed the connection"),
        // The `Display` of a verdict would include the connection's status.
        Err(Error::Verdict(verdict)) => {
            let (reason, closing) = (verdict.reason, verdict.close_handshake);
            narrator.say(format_args!(
                "server: {reason}, {} ({closing})",
                reason.text()
            ));
        }
        Err(error) => narrator.say(format_args!("server: {error}")),
    }
    let ended = match ended {
        Ok(()) => Ended::Cleanly,
        Err(Error::Verdict(verdict)) => Ended::Verdict(verdict.reason, verdict.close_handshake),
        Err(_) => Ended::Failed,
    };
    let at = now();
    report.send_replace(Some(Report {
        ended,
        at,
        last_push,
    }));
}

async fn on_tokio(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    narrator: Narrator,
    last_push: &mut Option<Instant>,
) -> Result<(), Error<tungstenite::Error>> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let (tcp, _) = listener.accept().await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let transport = Metered::socket(tcp);
    let meter = transport.meter();
    let handshake =
        tokio_tungstenite::accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = runtime::tokio::open(config, handshake);
    let opening = opening.with_meter(meter).with_label(narrator.to_string());
    converse(opening.await?, serves, last_push).await
}

async fn on_smol(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    narrator: Narrator,
    last_push: &mut Option<Instant>,
) -> Result<(), Error<tungstenite::Error>> {
    let listener = smol::net::TcpListener::try_from(listener).map_err(failed)?;
    let (tcp, _) = listener.accept().await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let transport = Metered::socket(tcp);
    let meter = transport.meter();
    let handshake =
        async_tungstenite::accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = runtime::smol::open(config, handshake);
    let opening = opening.with_meter(meter).with_label(narrator.to_string());
    converse(opening.await?, serves, last_push).await
}

async fn on_async_std(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    narrator: Narrator,
    last_push: &mut Option<Instant>,
) -> Result<(), Error<tungstenite::Error>> {
    let listener = async_std::net::TcpListener::from(listener);
    let (tcp, _) = listener.accept().await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let transport = Metered::new(tcp);
    let meter = transport.meter();
    let handshake =
        async_tungstenite::accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = runtime::async_std::open(config, handshake);
    let opening = opening.with_meter(meter).with_label(narrator.to_string());
    converse(opening.await?, serves, last_push).await
}

/// Serves an open socket, in the same way on every runtime.
async fn converse<S, T>(
    mut socket: TimeoutSocket<S, T>,
    serves: Serves,
    last_push: &mut Option<Instant>,
) -> Result<(), Error<tungstenite::Error>>
where
    S: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin,
    T: Timer + Unpin,
{
    if serves == Serves::Push {
        loop {
            *last_push = Some(now());
            socket.send(Message::binary(vec![0; 64 << 10])).await?;
        }
    }
    while let Some(message) = socket.next().await {
        let message = message?;
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            // Once the connection is closing, sends fail, but the client's last messages may
            // arrive, and the stream returns how the connection ended.
            let _ = socket.send(message).await;
        }
    }
    Ok(())
}

fn failed(error: io::Error) -> Error<tungstenite::Error> {
    Error::Socket(error.into())
}

impl Runtime {
    pub const ALL: [Self; 3] = [Self::Tokio, Self::Smol, Self::AsyncStd];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
            Self::AsyncStd => "async-std",
        }
    }

    /// Starts a task on this runtime. On tokio the caller must be inside the runtime; the others
    /// have a global one.
    pub fn spawn(self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Tokio => drop(tokio::spawn(task)),
            Self::Smol => smol::spawn(task).detach(),
            Self::AsyncStd => drop(async_std::task::spawn(task)),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(reason, closing) => write!(f, "{reason}, {closing}"),
            Self::Cleanly => f.write_str("closed by the client"),
            Self::Failed => f.write_str("socket error"),
        }
    }
}
