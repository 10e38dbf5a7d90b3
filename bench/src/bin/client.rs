//! Very many clients in one light process, which answers pings and counts.
//!
//! ```text
//! client PORT CONNECTIONS SECONDS [MESSAGES]
//! ```
//!
//! Connects at random instants of so many seconds, as users do who know nothing of each other, and says
//! `connected`. (Were they even, those that begin a whole number of ping intervals apart would be pinged
//! together by a server with fixed intervals, and share its wake-ups.) Then each line on its standard input is
//! answered: `count` by the number of pings answered so far, and `go` by `done` when MESSAGES have gone
//! to the server and back, shared by all connections, one at a time on each.
//!
//! It speaks no more of WebSocket than that takes, so that it is not what is measured. Its masks are zero,
//! and a server that hangs up makes it fail.

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

/// A text message of eleven bytes, masked by zeroes.
const MESSAGE: &[u8] = b"\x81\x8b\0\0\0\0hello there";

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

fn main() -> ExitCode {
    let arguments: Vec<u64> = std::env::args()
        .skip(1)
        .map_while(|argument| argument.parse().ok())
        .collect();
    let (port, connections, seconds, messages) = match arguments[..] {
        [port, connections, seconds] => (port, connections, seconds, 0),
        [port, connections, seconds, messages] => (port, connections, seconds, messages),
        _ => {
            eprintln!("usage: client PORT CONNECTIONS SECONDS [MESSAGES]");
            return ExitCode::from(2);
        }
    };
    let over = Duration::from_secs(seconds);
    match Clients::new(port as u16, connections as usize, over, messages).and_then(Clients::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Clients {
    port: u16,
    /// When each is to connect, counted from the start.
    arrivals: Vec<Duration>,
    poll: Poll,
    clients: Vec<Client>,
    open: usize,
    pings: Arc<AtomicU64>,
    /// Messages still to be sent, and messages still to come back.
    to_send: u64,
    to_come: u64,
}

struct Client {
    stream: TcpStream,
    state: State,
    /// The begin of something that is not whole.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting,
    Upgrading,
    Open,
}

impl Clients {
    fn new(port: u16, wanted: usize, over: Duration, messages: u64) -> io::Result<Self> {
        // The same ones each time.
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
            to_send: messages,
            to_come: messages,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let waker = Waker::new(self.poll.registry(), GO)?;
        let pings = self.pings.clone();
        thread::spawn(move || obey(&pings, &waker));

        let began = Instant::now();
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let due = self.due(began.elapsed());
            while self.clients.len() < due {
                self.connect()?;
            }
            let wait = (due < self.arrivals.len()).then_some(Duration::from_millis(1));
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                if event.token() == GO {
                    for client in 0..self.clients.len() {
                        self.send_next(client)?;
                    }
                } else {
                    self.serve(event.token().0, &mut buffer)?;
                }
            }
        }
    }

    /// How many clients there should be by now.
    fn due(&self, elapsed: Duration) -> usize {
        self.arrivals.partition_point(|&arrival| arrival <= elapsed)
    }

    fn connect(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(([127, 0, 0, 1], self.port).into())?;
        let token = Token(self.clients.len());
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, token, interests)?;
        self.clients.push(Client {
            stream,
            state: State::Connecting,
            partial: Vec::new(),
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
            // It is written to no more than it reads, so it never waits for room.
            let registry = self.poll.registry();
            registry.reregister(&mut client.stream, Token(at), Interest::READABLE)?;
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
        let joined;
        let mut rest = arrived;
        if !self.clients[at].partial.is_empty() {
            let mut partial = std::mem::take(&mut self.clients[at].partial);
            partial.extend_from_slice(arrived);
            joined = partial;
            rest = &joined;
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
                    TEXT => {
                        self.to_come -= 1;
                        if self.to_come == 0 {
                            println!("done");
                        }
                        self.send_next(at)?;
                    }
                    other => {
                        let what = format!("the server sent a frame that begins with {other:#x}");
                        return Err(io::Error::other(what));
                    }
                }
                rest = after;
            }
        }
        self.clients[at].partial = rest.to_vec();
        Ok(())
    }

    fn answer(&mut self, at: usize, payload: &[u8]) -> io::Result<()> {
        let mut pong = [0; 131];
        pong[0] = 0x8a;
        pong[1] = 0x80 | payload.len() as u8;
        pong[6..6 + payload.len()].copy_from_slice(payload);
        self.clients[at]
            .stream
            .write_all(&pong[..6 + payload.len()])?;
        self.pings.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn send_next(&mut self, at: usize) -> io::Result<()> {
        if self.to_send > 0 {
            self.to_send -= 1;
            self.clients[at].stream.write_all(MESSAGE)?;
        }
        Ok(())
    }
}

/// The first byte of a frame, its payload, and what follows it.
type Frame<'a> = (u8, &'a [u8], &'a [u8]);

/// The first frame, if it is whole.
fn frame(bytes: &[u8]) -> io::Result<Option<Frame<'_>>> {
    let &[kind, length, ref rest @ ..] = bytes else {
        return Ok(None);
    };
    if length > 125 {
        return Err(io::Error::other("the server sent a large or masked frame"));
    }
    Ok(rest
        .split_at_checked(length.into())
        .map(|(payload, after)| (kind, payload, after)))
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}

/// Answers what the standard input asks, and ends the process with it.
fn obey(pings: &AtomicU64, waker: &Waker) {
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
