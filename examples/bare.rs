//! The policy without a runtime: a plain loop around a `TcpStream` and blocking tungstenite.
//!
//! ```text
//! cargo run --example bare
//! ```
//!
//! The client answers three pings, and then none. The example prints what happens, and the state of
//! the policy at the end.
//!
//! Copy [`serve`] and [`drive`]. They see whole messages only: to detect one that trickles in,
//! count bytes under tungstenite and observe `Event::RecvPartial`.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{
    Action, CloseReason, Event, PingId, Status, TimeoutConfig, TimeoutPolicy, Timestamp,
};

const CONFIG: TimeoutConfig = match TimeoutConfig::builder()
    .ping_interval(Duration::from_millis(300))
    .pong_timeout(Duration::from_millis(700))
    .build()
{
    Ok(config) => config,
    Err(_) => panic!("a limit of zero does not compile"),
};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (served, is_served) = mpsc::channel();
    let client = thread::spawn(move || client(address, &is_served));

    let status = serve(listener.accept()?.0, &CONFIG)?;
    println!("server: {status}");
    drop(served);
    let code = client.join().map_err(|_| "the client panicked")??;
    println!("client: received the close code {code:?}");
    Ok(())
}

/// Echoes until the connection ends, and returns the policy's last status.
///
/// tungstenite's opening handshake blocks and has no limit here: see [`TimeoutPolicy::opening`].
fn serve(tcp: TcpStream, config: &TimeoutConfig) -> Result<Status, Failure> {
    tcp.set_nodelay(true)?;
    let mut ws = tungstenite::accept_with_config(tcp, Some(tungstenite_config()))?;
    let clock = Clock::start();
    let mut policy = TimeoutPolicy::new(config, seed(), clock.now());
    match drive(&mut ws, &mut policy, &clock) {
        Ok(reason) => {
            println!("server: {reason}");
            // Sent if that needs no waiting; then the socket is dropped.
            if reason.code().is_some() {
                let _ = ws.close(Some(close_frame(reason)));
            }
        }
        Err(tungstenite::Error::ConnectionClosed) => policy.observe(clock.now(), Event::Closed),
        Err(error) => return Err(error.into()),
    }
    Ok(policy.status(clock.now()))
}

/// Runs the connection until the policy returns `Abort` or the connection ends without it.
fn drive(
    ws: &mut WebSocket<TcpStream>,
    policy: &mut TimeoutPolicy<&TimeoutConfig>,
    clock: &Clock,
) -> tungstenite::Result<CloseReason> {
    // A write blocks this loop only briefly. A later flush writes the rest.
    const MOMENT: Duration = Duration::from_millis(1);
    ws.get_ref().set_write_timeout(Some(MOMENT))?;

    // The event to observe when all pending writes are flushed, and the ping among them.
    let mut pending: Option<Event> = None;
    let mut ping: Option<PingId> = None;
    let mut read_all = false;
    loop {
        // 1. Flush pending writes. A ping counts as sent once it is flushed, not before.
        if let Some(event) = pending {
            if written(ws.flush())? {
                pending = None;
                policy.observe(clock.now(), event);
                if let Some(id) = ping.take() {
                    policy.observe(clock.now(), Event::PingSent(id));
                    println!("server: sent ping {}", policy.pings_sent());
                }
            } else {
                policy.observe(clock.now(), Event::SendStart);
            }
        }

        // 2. Decide. While input may be unread, only what no input could change.
        let now = clock.now();
        let action = if read_all {
            policy.poll(now)
        } else {
            policy.poll_unread(now)
        };
        let until = match action {
            Action::SendPing(id) => {
                written(ws.write(Message::Ping(id.payload().to_vec().into())))?;
                ping = Some(id);
                pending = pending.or(Some(Event::Flushed));
                continue;
            }
            Action::Close(reason) => {
                written(ws.close(Some(close_frame(reason))))?;
                pending = pending.or(Some(Event::Flushed));
                continue;
            }
            Action::Abort(reason) => return Ok(reason),
            Action::Idle { until } => until,
        };

        // 3. Read until the next deadline, or only for a moment if there is more to read or write.
        let wait = if read_all && pending.is_none() {
            until.map(|until| until.saturating_duration_since(now))
        } else {
            Some(MOMENT)
        };
        ws.get_ref().set_read_timeout(wait)?;
        let read = ws.read();
        let now = clock.now();
        read_all = false;
        match read {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                policy.observe(now, Event::Recv);
                written(ws.write(message))?;
                pending = Some(Event::SendOk);
            }
            Ok(Message::Ping(_)) => {
                // tungstenite has queued the pong; a flush sends it.
                policy.observe(now, Event::Ping);
                pending = pending.or(Some(Event::Flushed));
            }
            Ok(Message::Pong(payload)) => {
                policy.observe(now, Event::Pong(PingId::from_payload(&payload)));
            }
            Ok(Message::Close(_)) => policy.observe(now, Event::PeerClose),
            Ok(Message::Frame(_)) => {}
            Err(error) if timed_out(&error) => read_all = true,
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether everything was written; the rest waits in tungstenite's buffer.
fn written(result: tungstenite::Result<()>) -> tungstenite::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if timed_out(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether a read or write only timed out.
fn timed_out(error: &tungstenite::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error, tungstenite::Error::Io(error) if matches!(error.kind(), WouldBlock | TimedOut))
}

/// Answers three pings, ignores the rest until the server is done, and returns the code of its
/// Close frame.
fn client(server: SocketAddr, is_served: &mpsc::Receiver<()>) -> Result<Option<u16>, Failure> {
    let (mut ws, _) = tungstenite::client("ws://localhost/", TcpStream::connect(server)?)?;
    ws.send(Message::text("hello"))?;
    println!("client: received {}", ws.read()?);
    for _ in 0..3 {
        while !ws.read()?.is_ping() {}
        ws.flush()?;
    }
    println!("client: answered three pings");

    // Fails once the server has dropped its sender.
    let _ = is_served.recv();
    loop {
        match ws.read() {
            Ok(Message::Close(frame)) => return Ok(frame.map(|frame| frame.code.into())),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
}

fn close_frame(reason: CloseReason) -> CloseFrame {
    CloseFrame {
        code: reason.code().unwrap_or(1000).into(),
        reason: reason.text().into(),
    }
}

/// Returns a random number.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

/// Timestamps since the start of the connection.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(instant())
    }

    fn now(&self) -> Timestamp {
        let since = instant().saturating_duration_since(self.0);
        Timestamp::ZERO.checked_add(since).unwrap_or(Timestamp::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn instant() -> Instant {
    Instant::now()
}
