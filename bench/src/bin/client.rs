//! Many clients in one lightweight process, which answers pings and counts them.
//!
//! ```text
//! client PORT CONNECTIONS SECONDS [echo|rate|broadcast MESSAGES BYTES]
//! ```
//!
//! The clients connect at random instants within SECONDS, as independent users do. (At regular
//! instants, a server with fixed intervals would ping many of them together, in one wake-up.) Once
//! all are connected, the process prints `connected`. Then it answers each line of its standard
//! input: `count` with the number of pings answered so far, and `go` with `done` once it has
//! exchanged MESSAGES of BYTES each:
//!
//! * `echo`: to the server and back, divided among all connections, one at a time on each;
//! * `rate`: to the server on the first connection, 100,000 a second or as many as it accepts; the
//!   server returns the last;
//! * `broadcast`: to the server on the first connection and back on all, one at a time.
//!
//! It implements only as much of WebSocket as this needs, so that it costs little itself. Its masks
//! are zero. It fails if the server hangs up.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const GO: Token = Token(usize::MAX);

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// Messages a second.
const RATE: f64 = 100_000.0;

/// The server echoes text, and only reads binary messages.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(clients) = clients(&arguments) else {
        eprintln!("usage: client PORT CONNECTIONS SECONDS [echo|rate|broadcast MESSAGES BYTES]");
        return ExitCode::from(2);
    };
    match clients.and_then(Clients::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the arguments.
fn clients(arguments: &[String]) -> Option<io::Result<Clients>> {
    let [port, wanted, seconds, talk @ ..] = arguments else {
        return None;
    };
    let talk = match talk {
        [] => None,
        [kind, messages, bytes] => Some(Talk::new(
            kind,
            messages.parse().ok()?,
            bytes.parse().ok()?,
        )?),
        _ => return None,
    };
    let over = Duration::from_secs(seconds.parse().ok()?);
    Some(Clients::new(
        port.parse().ok()?,
        wanted.parse().ok()?,
        over,
        talk,
    ))
}

/// What the clients send at each `go`.
struct Talk {
    kind: Kind,
    messages: u64,
    /// What a connection sends, repeatedly, and the length of one message in it.
    frames: Vec<u8>,
    frame: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Echo,
    Rate,
    Broadcast,
}

impl Talk {
    fn new(kind: &str, messages: u64, bytes: usize) -> Option<Self> {
        let kind = match kind {
            "echo" => Kind::Echo,
            "rate" => Kind::Rate,
            "broadcast" => Kind::Broadcast,
            _ => return None,
        };
        let text = masked(TEXT, bytes);
        let frame = text.len();
        let mut frames = Vec::new();
        if kind == Kind::Rate {
            frames = masked(BINARY, bytes).repeat(messages.checked_sub(1)? as usize);
        }
        frames.extend(text);
        Some(Self {
            kind,
            messages,
            frames,
            frame,
        })
    }
}

/// Returns a message with a mask of zeros.
fn masked(kind: u8, bytes: usize) -> Vec<u8> {
    let mut frame = vec![kind];
    match bytes {
        0..126 => frame.push(0x80 | bytes as u8),
        126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.resize(frame.len() + bytes, b'x');
    frame
}

struct Clients {
    port: u16,
    /// When each client connects, from the start.
    arrivals: Vec<Duration>,
    poll: Poll,
    clients: Vec<Client>,
    open: usize,
    pings: Arc<AtomicU64>,
    talk: Option<Talk>,
    /// The messages that are not sent yet, and those that have not come back yet.
    to_send: u64,
    to_come: u64,
    /// When the sending at a fixed rate began, while it lasts.
    paced_since: Option<Instant>,
}

struct Client {
    stream: TcpStream,
    state: State,
    /// The beginning of an incomplete frame or response.
    partial: Vec<u8>,
    pongs: Vec<u8>,
    /// The position in [`Talk::frames`] from which it writes, and how many bytes.
    position: usize,
    unsent: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting,
    Upgrading,
    Open,
}

impl Clients {
    fn new(port: u16, wanted: usize, over: Duration, talk: Option<Talk>) -> io::Result<Self> {
        // The same in each run.
        let mut random = StdRng::seed_from_u64(1);
        let mut arrivals: Vec<_> = (0..wanted).map(|_| over.mul_f64(random.random())).collect();
        arrivals.sort_unstable();
        Ok(Self {
            port,
            arrivals,
            poll: Poll::new()?,
            clients: Vec::with_capacity(wanted),
            open: 0,
            pings: Arc::default(),
            talk,
            to_send: 0,
            to_come: 0,
            paced_since: None,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let waker = Waker::new(self.poll.registry(), GO)?;
        let pings = self.pings.clone();
        thread::spawn(move || answer_input(&pings, &waker));

        let began = Instant::now();
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let due = self.due(began.elapsed());
            while self.clients.len() < due {
                self.connect()?;
            }
            let wait = if self.paced_since.is_some() {
                Some(Duration::ZERO)
            } else {
                (due < self.arrivals.len()).then_some(Duration::from_millis(1))
            };
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                if event.token() == GO {
                    self.begin()?;
                } else {
                    self.write(event.token().0)?;
                    self.serve(event.token().0, &mut buffer)?;
                }
            }
            self.send_what_is_due()?;
        }
    }

    /// Returns how many clients should have connected by now.
    fn due(&self, elapsed: Duration) -> usize {
        self.arrivals.partition_point(|&arrival| arrival <= elapsed)
    }

    fn connect(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(([127, 0, 0, 1], self.port).into())?;
        stream.set_nodelay(true)?;
        let token = Token(self.clients.len());
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, token, interests)?;
        self.clients.push(Client {
            stream,
            state: State::Connecting,
            partial: Vec::new(),
            pongs: Vec::new(),
            position: 0,
            unsent: 0,
        });
        Ok(())
    }

    fn serve(&mut self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        let client = &mut self.clients[at];
        if client.state == State::Connecting {
            if let Some(error) = client.stream.take_error()? {
                return Err(error);
            }
            match client.stream.write_all(UPGRADE) {
                Err(error) if is_not_yet(&error) => return Ok(()),
                written => written?,
            }
            client.state = State::Upgrading;
        }
        loop {
            match self.clients[at].stream.read(buffer) {
                Ok(0) => return Err(io::Error::other("the server hung up")),
                Ok(read) => {
                    let whole = read < buffer.len();
                    self.take(at, &buffer[..read])?;
                    if whole {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, at: usize, arrived: &[u8]) -> io::Result<()> {
        let mut partial = std::mem::take(&mut self.clients[at].partial);
        let mut rest = arrived;
        if !partial.is_empty() {
            partial.extend_from_slice(arrived);
            rest = &partial;
        }
        if self.clients[at].state == State::Upgrading
            && let Some(end) = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n")
        {
            if !rest.starts_with(b"HTTP/1.1 101") {
                return Err(io::Error::other("the server refused the upgrade"));
            }
            rest = &rest[end + 4..];
            self.clients[at].state = State::Open;
            self.open += 1;
            if self.open == self.arrivals.len() {
                println!("connected");
            }
        }
        if self.clients[at].state == State::Open {
            while let Some((kind, payload, after)) = frame(rest)? {
                match kind {
                    PING => self.answer(at, payload)?,
                    TEXT => self.came_back(at)?,
                    other => {
                        let what = format!("the server sent a frame that begins with {other:#x}");
                        return Err(io::Error::other(what));
                    }
                }
                rest = after;
            }
        }
        // A large message arrives in many parts: do not copy it for each.
        self.clients[at].partial = if rest.len() == partial.len() {
            partial
        } else {
            rest.to_vec()
        };
        Ok(())
    }

    fn answer(&mut self, at: usize, payload: &[u8]) -> io::Result<()> {
        let pongs = &mut self.clients[at].pongs;
        pongs.extend([0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        pongs.extend_from_slice(payload);
        self.pings.fetch_add(1, Ordering::Relaxed);
        self.write(at)
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(talk) = &self.talk else {
            return Ok(());
        };
        self.to_send = talk.messages;
        self.to_come = talk.messages;
        match talk.kind {
            Kind::Echo => {
                for client in 0..self.clients.len() {
                    self.send(client, 1)?;
                }
            }
            Kind::Rate => {
                self.to_come = 1;
                self.paced_since = Some(Instant::now());
            }
            Kind::Broadcast => {
                self.to_come *= self.clients.len() as u64;
                self.send(0, 1)?;
            }
        }
        Ok(())
    }

    fn came_back(&mut self, at: usize) -> io::Result<()> {
        self.to_come -= 1;
        if self.to_come == 0 {
            println!("done");
        }
        match self.talk.as_ref().map(|talk| talk.kind) {
            Some(Kind::Echo) => self.send(at, 1),
            Some(Kind::Broadcast) if self.to_come.is_multiple_of(self.clients.len() as u64) => {
                self.send(0, 1)
            }
            _ => Ok(()),
        }
    }

    fn send_what_is_due(&mut self) -> io::Result<()> {
        if let (Some(since), Some(talk)) = (self.paced_since, &self.talk) {
            let due = (since.elapsed().as_secs_f64() * RATE) as u64;
            self.send(0, due.saturating_sub(talk.messages - self.to_send))?;
            if self.to_send == 0 {
                self.paced_since = None;
            }
        }
        Ok(())
    }

    /// Sends at most `messages` of those that are not sent yet.
    fn send(&mut self, at: usize, messages: u64) -> io::Result<()> {
        let messages = messages.min(self.to_send);
        self.to_send -= messages;
        let frame = self.talk.as_ref().map_or(0, |talk| talk.frame);
        self.clients[at].unsent += messages as usize * frame;
        self.write(at)
    }

    /// Writes as much as there is room for. Pongs go between messages.
    fn write(&mut self, at: usize) -> io::Result<()> {
        let client = &mut self.clients[at];
        let (frames, frame) = match &self.talk {
            Some(talk) => (&talk.frames[..], talk.frame),
            None => (&[][..], 1),
        };
        loop {
            let is_pong = !client.pongs.is_empty() && client.position.is_multiple_of(frame);
            let bytes = if is_pong {
                &client.pongs[..]
            } else {
                let end = frames.len().min(client.position + client.unsent);
                &frames[client.position..end]
            };
            if bytes.is_empty() {
                return Ok(());
            }
            match client.stream.write(bytes) {
                Ok(written) if is_pong => drop(client.pongs.drain(..written)),
                Ok(written) => {
                    client.unsent -= written;
                    client.position = (client.position + written) % frames.len();
                }
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The first byte of a frame, its payload, and what follows it.
type Frame<'a> = (u8, &'a [u8], &'a [u8]);

/// Returns the first frame if it is complete.
fn frame(bytes: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let (head, length) = match *bytes {
        [_, length @ 0..126, ..] => (2, length.into()),
        [_, 126, a, b, ..] => (4, u16::from_be_bytes([a, b]).into()),
        [_, 127, a, b, c, d, e, f, g, h, ..] => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        [_, 128..=255, ..] => return Err(io::Error::other("the server sent a masked frame")),
        _ => return Ok(None),
    };
    Ok(bytes[head..]
        .split_at_checked(length as usize)
        .map(|(payload, after)| (bytes[0], payload, after)))
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}

/// Answers the standard input, and ends the process at its end.
fn answer_input(pings: &AtomicU64, waker: &Waker) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        if line == "go" {
            if waker.wake().is_err() {
                break;
            }
        } else {
            println!("{}", pings.load(Ordering::Relaxed));
        }
    }
    std::process::exit(0);
}
