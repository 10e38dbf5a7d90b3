//! The policy without a runtime: a plain loop around a `TcpStream` and blocking tungstenite.
//!
//! ```text
//! cargo run --example bare
//! ```
//!
//! A server thread guards one connection; a client answers three pings and falls silent. Prints what
//! happens with times, and exits with 1 if the server does not let go of the client as it should.
//!
//! [`guard`] is the whole driver, and what to copy. It sees whole messages only: to notice one that
//! trickles in, count bytes under tungstenite and observe `Event::RecvPartial`.

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
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

/// How late the verdict may come on a machine that is busy with other things.
const ALLOWANCE: Duration = Duration::from_secs(1);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let clock = Clock::start();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (let_go, was_let_go) = mpsc::channel();

    let server = thread::spawn(move || {
        let ended = guard(listener.accept()?.0, &CONFIG, clock);
        // Whether the client goes on or not: this thread is done, and by that lets it go on.
        drop(let_go);
        ended
    });
    let seen = client(TcpStream::connect(address)?, &was_let_go, clock)?;
    let status = server.join().map_err(|_| "the server panicked")??;

    let limit = CONFIG.pong_timeout().unwrap_or_default();
    let waited = status.ping_unanswered.unwrap_or_default();
    let right = status.cause == Some(CloseReason::PongTimeout)
        && status.pongs_received == ANSWERS
        && (limit..=limit + ALLOWANCE).contains(&waited)
        && seen == CloseReason::PongTimeout.code();
    println!("the server knew: {status}");
    if right {
        println!("as it should be: the {limit:?} limit struck after {waited:?}, close code 1011");
        Ok(())
    } else {
        Err(format!("expected pong_timeout at {limit:?} and close code 1011, not {seen:?}").into())
    }
}

/// Echoes until the connection ends, and tells what the policy knew then.
///
/// The opening handshake is left to tungstenite, which blocks in it: see [`TimeoutPolicy::opening`].
fn guard(tcp: TcpStream, config: &TimeoutConfig, clock: Clock) -> Result<Status, Failure> {
    tcp.set_nodelay(true)?;
    let mut ws = tungstenite::accept_with_config(tcp, Some(tungstenite_config()))?;
    let mut policy = TimeoutPolicy::new(config, seed(), clock.now());
    match drive(&mut ws, &mut policy, clock) {
        Ok(reason) => {
            clock.say(format_args!("server: {reason}"));
            // The peer is told if that takes no waiting. Dropping the socket is what counts.
            if reason.code().is_some() {
                let _ = ws.close(Some(close_frame(reason)));
            }
        }
        Err(tungstenite::Error::ConnectionClosed) => policy.observe(clock.now(), Event::Closed),
        Err(error) => return Err(error.into()),
    }
    Ok(policy.status(clock.now()))
}

/// The driver's loop, until the policy says `Abort` or the connection ends by itself.
fn drive(
    ws: &mut WebSocket<TcpStream>,
    policy: &mut TimeoutPolicy<&TimeoutConfig>,
    clock: Clock,
) -> tungstenite::Result<CloseReason> {
    // A write gives up after a moment, so that a peer that takes nothing cannot hold up this loop;
    // what is left over goes out with a later flush.
    const MOMENT: Duration = Duration::from_millis(1);
    ws.get_ref().set_write_timeout(Some(MOMENT))?;

    // What there will be to observe when all that is owed has left, and the ping that is part of it.
    let mut owed: Option<Event> = None;
    let mut ping: Option<PingId> = None;
    let mut read_all = false;
    loop {
        // 1. Write what is owed. A ping counts as sent once it is flushed, not before.
        if let Some(event) = owed {
            if left(ws.flush())? {
                owed = None;
                policy.observe(clock.now(), event);
                if let Some(id) = ping.take() {
                    policy.observe(clock.now(), Event::PingSent(id));
                    clock.say(format_args!("server: ping {} is out", policy.pings_sent()));
                }
            } else {
                policy.observe(clock.now(), Event::SendStart);
            }
        }

        // 2. Decide. While something may be left to read, only what no input could overturn.
        let now = clock.now();
        let action = if read_all {
            policy.poll(now)
        } else {
            policy.poll_unread(now)
        };
        let until = match action {
            Action::SendPing(id) => {
                left(ws.write(Message::Ping(id.payload().to_vec().into())))?;
                ping = Some(id);
                owed = owed.or(Some(Event::Flushed));
                continue;
            }
            Action::Close(reason) => {
                left(ws.close(Some(close_frame(reason))))?;
                owed = owed.or(Some(Event::Flushed));
                continue;
            }
            Action::Abort(reason) => return Ok(reason),
            Action::Idle { until } => until,
        };

        // 3. Read until the next deadline; what is not all read or written is looked after soon.
        let wait = if read_all && owed.is_none() {
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
                left(ws.write(message))?;
                owed = Some(Event::SendOk);
            }
            Ok(Message::Ping(_)) => {
                // tungstenite has made the pong; a flush sends it.
                policy.observe(now, Event::Ping);
                owed = owed.or(Some(Event::Flushed));
            }
            Ok(Message::Pong(payload)) => {
                policy.observe(now, Event::Pong(PingId::from_payload(&payload)));
            }
            Ok(Message::Close(_)) => policy.observe(now, Event::PeerClose),
            Ok(Message::Frame(_)) => {}
            Err(error) if nothing_yet(&error) => read_all = true,
            Err(error) => return Err(error),
        }
    }
}

/// Whether all of it left; if not, it waits in tungstenite's buffer.
fn left(written: tungstenite::Result<()>) -> tungstenite::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if nothing_yet(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a read or write only ran out of its time.
fn nothing_yet(error: &tungstenite::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error, tungstenite::Error::Io(error) if matches!(error.kind(), WouldBlock | TimedOut))
}

/// How many pings the client answers before it falls silent.
const ANSWERS: u64 = 3;

/// Says something, answers a few pings, falls silent until the server has let go, and tells the close
/// code that it was sent.
fn client(
    tcp: TcpStream,
    was_let_go: &mpsc::Receiver<()>,
    clock: Clock,
) -> Result<Option<u16>, Failure> {
    let (mut ws, _) = tungstenite::client("ws://localhost/", tcp)?;
    ws.send(Message::text("hello"))?;
    clock.say(format_args!(
        "client: the echo is {:?}",
        ws.read()?.to_text()?
    ));
    for _ in 0..ANSWERS {
        while !ws.read()?.is_ping() {}
        ws.flush()?;
    }
    clock.say(format_args!(
        "client: answered {ANSWERS} pings, silent from here"
    ));

    // Comes back with an error when the server has dropped the other end.
    let _ = was_let_go.recv();
    let code = last_words(&mut ws);
    clock.say(format_args!(
        "client: the connection is gone, close code {code:?}"
    ));
    Ok(code)
}

/// The code of the Close frame that the server left behind.
fn last_words(ws: &mut WebSocket<TcpStream>) -> Option<u16> {
    loop {
        match ws.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn close_frame(reason: CloseReason) -> CloseFrame {
    CloseFrame {
        code: reason.code().unwrap_or(1000).into(),
        reason: reason.text().into(),
    }
}

/// A number that is another one in each run; `RandomState` is where the standard library has one.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

/// Timestamps since the start of the program.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(instant())
    }

    fn now(self) -> Timestamp {
        let since = instant().saturating_duration_since(self.0);
        Timestamp::ZERO.checked_add(since).unwrap_or(Timestamp::MAX)
    }

    fn say(self, what: std::fmt::Arguments<'_>) {
        let now = self.now().saturating_duration_since(Timestamp::ZERO);
        println!("{:>6.3} s  {what}", now.as_secs_f64());
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn instant() -> Instant {
    Instant::now()
}
