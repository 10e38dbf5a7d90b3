//! The guarded server, one connection at a time.

use std::fmt;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::accept_async_with_config;
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseReason, Closing, Error, Metered, TimeoutConfig};

use crate::{Voice, now};

/// What the server does for its client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Sends back what comes.
    Echo,
    /// Sends data without end, and reads nothing.
    Push,
}

/// What became of a connection, as the server knows it.
#[derive(Clone, Debug)]
pub struct Report {
    pub ended: Ended,
    /// When the server knew.
    pub at: Instant,
    /// When the last of what it pushed was given to the socket.
    pub last_push: Option<Instant>,
}

/// How a connection ended, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the policy.
    Verdict(CloseReason, Closing),
    /// By the client, with a closing handshake.
    Cleanly,
    /// By a failure of the socket.
    Failed,
}

/// Serves the first client that comes, and reports how it ended.
pub async fn serve(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    voice: Voice,
    report: watch::Sender<Option<Report>>,
) {
    let mut last_push = None;
    let ended = guard(listener, config, serves, voice, &mut last_push).await;
    match &ended {
        Ok(()) => voice.say("server: the client closed the connection"),
        // Shown whole, a verdict has the connection's status with it.
        Err(Error::TimedOut(verdict)) => {
            let (reason, closing) = (verdict.reason, verdict.closing);
            voice.say(format_args!(
                "server: {reason}, {} ({closing})",
                reason.text()
            ));
        }
        Err(error) => voice.say(format_args!("server: {error}")),
    }
    let ended = match ended {
        Ok(()) => Ended::Cleanly,
        Err(Error::TimedOut(verdict)) => Ended::Verdict(verdict.reason, verdict.closing),
        Err(_) => Ended::Failed,
    };
    let at = now();
    report.send_replace(Some(Report {
        ended,
        at,
        last_push,
    }));
}

async fn guard(
    listener: TcpListener,
    config: TimeoutConfig,
    serves: Serves,
    voice: Voice,
    last_push: &mut Option<Instant>,
) -> Result<(), Error<tungstenite::Error>> {
    let (tcp, _) = listener
        .accept()
        .await
        .map_err(|error| Error::Socket(error.into()))?;
    tcp.set_nodelay(true)
        .map_err(|error| Error::Socket(error.into()))?;
    let transport = Metered::new(tcp);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    let mut socket = open(config, handshake)
        .await?
        .with_meter(meter)
        .with_label(voice.name);

    if serves == Serves::Push {
        loop {
            *last_push = Some(now());
            socket.send(Message::binary(vec![0; 64 << 10])).await?;
        }
    }
    while let Some(message) = socket.next().await {
        let message = message?;
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            // Once the connection closes nothing can be sent, but the client may still have something
            // to say; how it ended, the stream tells.
            let _ = socket.send(message).await;
        }
    }
    Ok(())
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
