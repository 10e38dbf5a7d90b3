//! The policy without a runtime: a plain loop around a `TcpStream` and tungstenite.
//!
//! ```text
//! cargo run --example bare
//! ```
//!
//! The client answers three pings, and then none. Copy [`drive`]. It sees whole messages only: to
//! detect one that trickles in, count bytes under tungstenite and observe `Event::RecvPartial`.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind::WouldBlock;
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, Event, PingId, TimeoutConfig, TimeoutPolicy, Timestamp};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let client = thread::spawn(move || {
        let (mut ws, _) = tungstenite::client("ws://localhost/", TcpStream::connect(address)?)?;
        ws.send(Message::text("hello"))?;
        println!("client: received {}", ws.read()?);
        for _ in 0..3 {
            while !ws.read()?.is_ping() {}
            ws.flush()?; // the pong
        }
        Ok::<_, Failure>(ws)
    });

    // The opening handshake blocks and has no limit here: see `TimeoutPolicy::opening`.
    let (tcp, _) = listener.accept()?;
    tcp.set_nodelay(true)?;
    let mut ws = tungstenite::accept_with_config(tcp, Some(tungstenite_config()))?;
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(300))
        .pong_timeout(Duration::from_millis(700))
        .build()?;
    let mut policy = TimeoutPolicy::new(config, RandomState::new().hash_one(()), now());
    if let Err(error) = drive(&mut ws, &mut policy) {
        println!("server: {error}");
        policy.observe(now(), Event::Closed);
    }
    println!("server: {}", policy.status(now()));

    // The Close frame is behind the ping that the client left unread.
    let mut client = client.join().map_err(|_| "the client panicked")??;
    loop {
        if let Message::Close(frame) = client.read()? {
            let code = frame.map(|frame| u16::from(frame.code));
            println!("client: received the close code {code:?}");
            return Ok(());
        }
    }
}

/// Echoes until the policy returns `Abort` or the connection fails. Then drop it.
fn drive(ws: &mut WebSocket<TcpStream>, policy: &mut TimeoutPolicy) -> tungstenite::Result<()> {
    ws.get_ref().set_nonblocking(true)?;
    // What to observe once everything is flushed, and the ping to observe after it.
    let (mut pending, mut ping) = (None, None);
    loop {
        // 1. Flush. A write counts once it is flushed, and `message_timeout` limits one that waits.
        let waits = pending.is_some() || ping.is_some();
        if waits && !written(ws.flush())? {
            policy.observe(now(), Event::SendStart);
        } else {
            if let Some(event) = pending.take() {
                policy.observe(now(), event);
            }
            if let Some(id) = ping.take() {
                policy.observe(now(), Event::PingSent(id));
                println!("server: sent ping {}", policy.pings_sent());
            }
        }

        // 2. Read. When nothing is left, all that had arrived by `at` has been read.
        let at = now();
        let mut all_read = false;
        match ws.read() {
            Ok(Message::Ping(_)) => {
                policy.observe(now(), Event::Ping);
                pending.get_or_insert(Event::Flushed); // tungstenite has queued the pong
            }
            Ok(Message::Pong(payload)) => {
                policy.observe(now(), Event::Pong(PingId::from_payload(&payload)));
            }
            Ok(Message::Close(_)) => policy.observe(now(), Event::PeerClose),
            Ok(data) => {
                policy.observe(now(), Event::Recv);
                // Nothing may follow our Close frame.
                if ws.can_write() {
                    written(ws.write(data))?;
                    pending = Some(Event::SendOk);
                }
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == WouldBlock => all_read = true,
            Err(error) => return Err(error),
        }

        // 3. Decide. While input may be unread, only what no input could overturn.
        let action = match all_read {
            true => policy.poll(at),
            false => policy.poll_unread(at),
        };
        match action {
            Action::SendPing(id) => {
                written(ws.write(Message::Ping(id.payload().to_vec().into())))?;
                ping = Some(id);
            }
            Action::Close(reason) | Action::Abort(reason) => {
                if let Some(code) = policy.config().close_code(reason) {
                    let (code, reason) = (code.into(), reason.text().into());
                    written(ws.close(Some(CloseFrame { code, reason })))?;
                    pending.get_or_insert(Event::Flushed);
                }
                if matches!(action, Action::Abort(_)) {
                    return Ok(());
                }
            }
            // 4. Wait for input until the deadline, or only briefly if a write waits for room.
            Action::Idle { until } if all_read => {
                let waits = pending.is_some() || ping.is_some();
                let briefly = waits.then_some(Duration::from_millis(1));
                let wait = until.map(|until| until.saturating_duration_since(at));
                ws.get_ref().set_nonblocking(false)?;
                ws.get_ref().set_read_timeout(briefly.or(wait))?;
                let _ = ws.get_ref().peek(&mut [0]); // if this fails, so does the next read
                ws.get_ref().set_nonblocking(true)?;
            }
            Action::Idle { .. } => {}
        }
    }
}

/// Returns whether everything was written. The rest stays in tungstenite's buffer.
fn written(result: tungstenite::Result<()>) -> tungstenite::Result<bool> {
    match result {
        Err(tungstenite::Error::Io(error)) if error.kind() == WouldBlock => Ok(false),
        result => result.map(|()| true),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Timestamp {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Timestamp::from_duration(START.elapsed())
}
