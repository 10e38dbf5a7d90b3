//! The loop that drives the policy, from the opening handshake to a verdict.

use std::io::{self, ErrorKind::WouldBlock};
use std::net::TcpStream;
use std::time::Duration;

use tungstenite::{HandshakeError, Message, WebSocket, client::client_with_config};
use tungstenite::{Result as WsResult, protocol::CloseFrame};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, Event, PingId, TimeoutPolicy, Timestamp};

use crate::now;

/// Opens the WebSocket, within `handshake_timeout`.
pub fn open(
    url: &str,
    tcp: TcpStream,
    policy: &mut TimeoutPolicy,
) -> WsResult<WebSocket<TcpStream>> {
    tcp.set_nonblocking(true)?;
    let mut at = now();
    let mut handshake = client_with_config(url, tcp, Some(tungstenite_config()));
    loop {
        let rest = match handshake {
            Ok((ws, _)) => {
                policy.observe(now(), Event::Opened);
                return Ok(ws);
            }
            Err(HandshakeError::Failure(error)) => return Err(error),
            Err(HandshakeError::Interrupted(rest)) => rest,
        };
        // Everything that had arrived by `at` has been read.
        let Action::Idle { until } = policy.poll(at) else {
            return Err(tungstenite::Error::ConnectionClosed);
        };
        wait(rest.get_ref().get_ref(), until)?;
        at = now();
        handshake = rest.handshake();
    }
}

/// Answers each message until a limit expires. Then drop `ws`.
pub fn converse(ws: &mut WebSocket<TcpStream>, policy: &mut TimeoutPolicy) -> WsResult<()> {
    // What to observe once everything is flushed, and the ping to observe after it.
    let (mut sent, mut ping) = (None, None);
    loop {
        // 1. Flush. `message_timeout` limits a flush that has to wait.
        let waits = (sent.is_some() || ping.is_some()) && ready(ws.flush())?.is_none();
        if waits {
            policy.observe(now(), Event::SendStart);
        } else {
            let flushed = sent.take().into_iter().chain(ping.take());
            flushed.for_each(|event| policy.observe(now(), event));
        }

        // 2. Read. If nothing is left, everything that had arrived by `at` has been read.
        let at = now();
        let message = ready(ws.read())?;
        let all_read = message.is_none();
        match message {
            Some(Message::Ping(_)) => {
                policy.observe(now(), Event::Ping);
                sent.get_or_insert(Event::Flushed); // tungstenite has queued the pong
            }
            Some(Message::Pong(payload)) => {
                policy.observe(now(), Event::Pong(PingId::from_payload(&payload)));
            }
            Some(Message::Close(_)) => policy.observe(now(), Event::PeerClose),
            Some(data) => {
                policy.observe(now(), Event::Recv);
                if ws.can_write() {
                    ready(ws.write(data))?;
                    sent = Some(Event::SendOk);
                }
            }
            None => {}
        }

        // 3. Decide. While input may be unread, allow only what no input could overturn.
        let action = match all_read {
            true => policy.poll(at),
            false => policy.poll_unread(at),
        };
        match action {
            Action::SendPing(id) => {
                ready(ws.write(Message::Ping(id.payload().to_vec().into())))?;
                ping = Some(Event::PingSent(id));
            }
            Action::Close(reason) | Action::Abort(reason) => {
                if let Some(code) = policy.config().close_code(reason) {
                    let (code, reason) = (code.into(), reason.text().into());
                    ready(ws.close(Some(CloseFrame { code, reason })))?;
                    sent.get_or_insert(Event::Flushed);
                }
                if matches!(action, Action::Abort(_)) {
                    return Ok(());
                }
            }
            // 4. Wait for input until the deadline, or only briefly while a flush waits.
            Action::Idle { .. } if waits => wait(ws.get_ref(), Some(now()))?,
            Action::Idle { until } if all_read => wait(ws.get_ref(), until)?,
            Action::Idle { .. } => {}
        }
    }
}

/// Waits for input until `until`, but for at least a millisecond.
fn wait(tcp: &TcpStream, until: Option<Timestamp>) -> io::Result<()> {
    let least = Duration::from_millis(1);
    let time = until.map(|until| until.saturating_duration_since(now()).max(least));
    tcp.set_nonblocking(false)?;
    tcp.set_read_timeout(time)?;
    let _ = tcp.peek(&mut [0]); // if this fails, so does the next read
    tcp.set_nonblocking(true)
}

/// Returns `None` if the transport is not ready. What tungstenite could not write stays buffered.
fn ready<T>(result: WsResult<T>) -> WsResult<Option<T>> {
    match result {
        Err(tungstenite::Error::Io(error)) if error.kind() == WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
