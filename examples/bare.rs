//! The policy without a runtime: a client in a plain loop around a `TcpStream` and tungstenite.
//!
//! ```text
//! cargo run --example echo -- --addr 127.0.0.1:8080
//! cargo run --example bare -- ws://127.0.0.1:8080
//! ```
//!
//! Sends back what it receives. The limits come from the environment. Copy [`drive`]. It sees whole
//! messages only: to detect one that trickles in, count bytes under tungstenite and observe
//! `Event::RecvPartial`.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind::WouldBlock;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::{Message, WebSocket, client::client_with_config, protocol::CloseFrame};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, CloseReason, Event, PingId, TimeoutConfig, TimeoutPolicy, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .ok_or("usage: bare ws://HOST:PORT")?;
    let host = url.trim_start_matches("ws://").trim_end_matches('/');
    let config = TimeoutConfig::from_env()?.config;
    let tcp = TcpStream::connect(host)?;
    tcp.set_nodelay(true)?;
    // This limits each read of the handshake. To limit all of it: `TimeoutPolicy::opening`.
    tcp.set_read_timeout(config.handshake_timeout())?;
    let (mut ws, _) = client_with_config(&url, tcp, Some(tungstenite_config()))?;
    println!("connected");
    println!("ended: {:?}", drive(&mut ws, config));
    Ok(())
}

/// Answers each message until a limit expires. Then drop `ws`.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn drive(ws: &mut WebSocket<TcpStream>, config: TimeoutConfig) -> tungstenite::Result<CloseReason> {
    ws.get_ref().set_nonblocking(true)?;
    let start = Instant::now();
    let now = || Timestamp::from_duration(start.elapsed());
    let mut policy = TimeoutPolicy::new(config, RandomState::new().hash_one(start), now());
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

        // 3. Decide. While input may be unread, only what no input could overturn.
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
                    return Ok(policy.cause().unwrap_or(reason));
                }
            }
            // 4. Wait for input until the deadline, or only briefly while a flush waits.
            Action::Idle { until } if all_read => {
                let moment = Duration::from_millis(1);
                let wait = until.map(|until| until.saturating_duration_since(now()).max(moment));
                ws.get_ref().set_nonblocking(false)?;
                ws.get_ref()
                    .set_read_timeout(if waits { Some(moment) } else { wait })?;
                let _ = ws.get_ref().peek(&mut [0]); // if this fails, so does the next read
                ws.get_ref().set_nonblocking(true)?;
            }
            Action::Idle { .. } => {}
        }
    }
}

/// Returns `None` if the transport is not ready. What tungstenite could not write stays buffered.
fn ready<T>(result: tungstenite::Result<T>) -> tungstenite::Result<Option<T>> {
    match result {
        Err(tungstenite::Error::Io(error)) if error.kind() == WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
