//! Ten thousand real connections in one thread and one fleet: a server with `mio` and non-blocking
//! tungstenite. Its clients run in a child process. Half of them fall silent at once, as if their
//! network had failed.
//!
//! ```sh
//! cargo run --release --example fleet_mio
//! cargo run --release --example fleet_mio -- --connections 100
//! ```
//!
//! It ends when it has disconnected all silent clients, and all others have answered some pings. It
//! exits with 1 if that took too long, or if it disconnected a healthy client.

use std::collections::VecDeque;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::server::{NoCallback, ServerHandshake};
use tungstenite::{Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, CloseReason, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

type Failed = Box<dyn Error>;

const USAGE: &str = "usage: fleet_mio [--connections NUMBER]";

fn main() -> ExitCode {
    let task = match Task::parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(problem) => {
            eprintln!("fleet_mio: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Serve(connections) => serve(connections),
        Task::BeClients(number, server) => be_clients(number, server),
    };
    done.unwrap_or_else(|error| {
        eprintln!("fleet_mio: {error}");
        ExitCode::FAILURE
    })
}

enum Task {
    Serve(usize),
    /// The child process.
    BeClients(usize, SocketAddr),
}

impl Task {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut task = Self::Serve(10_000);
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or(format!("{flag} lacks its value"));
            match flag.as_str() {
                "--connections" => task = Self::Serve(number(&value()?)?),
                "--clients" => {
                    let server = value()?;
                    let address = server
                        .parse()
                        .map_err(|_| format!("{server:?} is no address"))?;
                    task = Self::BeClients(number(&value()?)?, address);
                }
                _ => return Err(format!("{flag} is no argument")),
            }
        }
        Ok(task)
    }
}

/// Parses the number of connections: at least one that falls silent and one that does not.
fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|&number| number >= 2)
        .ok_or_else(|| format!("--connections is {text:?}, expected a whole number from 2"))
}

fn serve(connections: usize) -> Result<ExitCode, Failed> {
    allow_files_for(connections)?;
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_secs(1))
        .pong_timeout(Duration::from_secs(5))
        .stall_tolerance(Duration::from_secs(1))
        .no_connection_timeout()
        .build()?;
    let mut server = Server::new(config)?;
    let mut clients = Clients::start(server.listener.local_addr()?, connections)?;
    let processor_time = processor_time();
    while !server.is_done(connections) {
        if clients.have_ended()? {
            return Err("the clients ended before the server".into());
        }
        server.turn()?;
    }
    let ok = server.report(connections, self::processor_time() - processor_time);
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

// ---- the server ----

const LISTENER: Token = Token(usize::MAX);

struct Server {
    poller: Poll,
    events: Events,
    /// Whether the poller may have further events.
    more: bool,
    /// The number of turns since a deadline passed.
    turns: usize,
    listener: TcpListener,
    config: Arc<TimeoutConfig>,
    fleet: Fleet,
    /// Indexed by [`FleetKey::index`].
    connections: Vec<Option<Connection>>,
    /// The pings that were flushed in this turn.
    sent: Vec<(FleetKey, PingId)>,
    start: Instant,
    seeds: u64,
    tally: Tally,
}

struct Connection {
    key: FleetKey,
    socket: Socket,
    /// The ping in the socket's buffer.
    unflushed: Option<PingId>,
    falls_silent: bool,
    pongs: u64,
    last_inbound: Timestamp,
}

enum Socket {
    Opening(Option<Handshake>),
    Open(WebSocket<TcpStream>),
}

type Handshake = tungstenite::handshake::MidHandshake<ServerHandshake<TcpStream, NoCallback>>;

#[derive(Default)]
struct Tally {
    opened: usize,
    pings: u64,
    /// How long each silent client had been silent when it was disconnected.
    silences: Vec<Duration>,
    lost: usize,
    /// The summed lateness of all polls.
    late: Duration,
}

impl Server {
    fn new(config: TimeoutConfig) -> io::Result<Self> {
        let poller = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        listener.register(poller.registry(), LISTENER, Interest::READABLE)?;
        Ok(Self {
            poller,
            events: Events::with_capacity(1024),
            more: false,
            turns: 0,
            listener,
            config: Arc::new(config),
            fleet: Fleet::new(),
            connections: Vec::new(),
            start: now(),
            seeds: 0,
            sent: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// One turn of the loop: waits, reads everything that has arrived, then polls the fleet if a
    /// deadline had passed before the wait.
    ///
    /// A deadline that passes during the wait is left to the next turn, which reads a pong that
    /// arrived in time but after the poller had returned.
    fn turn(&mut self) -> io::Result<()> {
        let asked = self.now();
        let due = self.fleet.next_deadline();
        let wait = match due {
            _ if self.more => Some(Duration::ZERO),
            due => due.map(|due| due.saturating_duration_since(asked)),
        };
        match self.poller.poll(&mut self.events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let at_once = wait.is_some_and(|wait| wait.is_zero());
        let now = if at_once { asked } else { self.now() };
        let ready: Vec<_> = self.events.iter().map(|event| event.token()).collect();
        for &token in &ready {
            if token == LISTENER {
                self.accept(now)?;
            } else {
                self.read(token.0, now);
            }
        }
        self.more = ready.len() == self.events.capacity();
        let Some(due) = due.filter(|&due| due <= asked) else {
            return Ok(());
        };
        self.turns += 1;
        // The poller returns sockets in the order in which they became ready, so after this many
        // turns it has returned all of them, even if there are always more.
        let all = self.turns * self.events.capacity() > self.fleet.len();
        if all || !self.more {
            self.turns = 0;
            self.tally.late += now.saturating_duration_since(due);
            while let Some((key, action)) = self.fleet.poll(now) {
                self.act(key, action);
            }
            // A ping counts from its flush, which may be later than this turn's time.
            let now = self.now();
            for (key, id) in self.sent.drain(..) {
                self.fleet.observe(key, now, Event::PingSent(id));
            }
        }
        Ok(())
    }

    fn accept(&mut self, now: Timestamp) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.seeds += 1;
            let key = self
                .fleet
                .insert_opening(self.config.clone(), self.seeds, now);
            let both = Interest::READABLE | Interest::WRITABLE;
            stream.register(self.poller.registry(), Token(key.index()), both)?;
            let accepted = tungstenite::accept_with_config(stream, Some(tungstenite_config()));
            let socket = match accepted {
                Ok(socket) => Socket::Open(socket),
                Err(HandshakeError::Interrupted(handshake)) => Socket::Opening(Some(handshake)),
                Err(HandshakeError::Failure(_)) => {
                    self.fleet.remove(key);
                    continue;
                }
            };
            if matches!(socket, Socket::Open(_)) {
                self.fleet.observe(key, now, Event::Opened);
                self.tally.opened += 1;
            }
            if self.connections.len() <= key.index() {
                self.connections.resize_with(key.index() + 1, || None);
            }
            self.connections[key.index()] = Some(Connection {
                key,
                socket,
                unflushed: None,
                falls_silent: false,
                pongs: 0,
                last_inbound: now,
            });
            self.read(key.index(), now);
        }
    }

    /// Reads everything that a connection has received, and flushes it.
    fn read(&mut self, index: usize, now: Timestamp) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let key = connection.key;
        let mut observe = |event| {
            self.fleet.observe(key, now, event);
        };
        let was_opening = matches!(connection.socket, Socket::Opening(_));
        let over = connection.proceed(now, &mut observe).is_err();
        if was_opening && matches!(connection.socket, Socket::Open(_)) {
            self.tally.opened += 1;
        }
        if over {
            observe(Event::Closed);
            self.disconnect(key);
        }
    }

    fn act(&mut self, key: FleetKey, action: Action) {
        let Some(connection) = self
            .connections
            .get_mut(key.index())
            .and_then(Option::as_mut)
        else {
            return;
        };
        match (action, &mut connection.socket) {
            (Action::SendPing(id), Socket::Open(socket)) => {
                self.tally.pings += 1;
                let ping = Message::Ping(id.payload().to_vec().into());
                // If it blocks, it is flushed when there is room. An error shows in the next read.
                connection.unflushed = Some(id);
                if socket.send(ping).is_ok() {
                    connection.unflushed = None;
                    self.sent.push((key, id));
                }
            }
            (Action::Close(reason), Socket::Open(socket)) => {
                let _ = socket.close(Some(close_frame(reason)));
            }
            (Action::Abort(_), _) => self.disconnect(key),
            _ => {}
        }
    }

    fn disconnect(&mut self, key: FleetKey) {
        self.fleet.remove(key);
        let now = self.now();
        let slot = self.connections.get_mut(key.index());
        let Some(connection) = slot.and_then(Option::take) else {
            return;
        };
        if connection.falls_silent {
            self.tally
                .silences
                .push(now.saturating_duration_since(connection.last_inbound));
        } else {
            self.tally.lost += 1;
        }
    }

    fn is_done(&self, connections: usize) -> bool {
        let mut left = self.connections.iter().flatten();
        self.tally.opened == connections
            && left.all(|connection| !connection.falls_silent && connection.pongs >= 3)
    }

    /// Prints the results. Returns whether they are as expected.
    fn report(&mut self, connections: usize, processor_time: Duration) -> bool {
        let Tally {
            pings, lost, late, ..
        } = self.tally;
        let silences = &mut self.tally.silences;
        silences.sort();
        let bound = self.config.detection_bound().unwrap_or_default();
        let tolerance = self.config.stall_tolerance().unwrap_or_default();
        let longest = silences.last().copied().unwrap_or_default();
        let median = silences
            .get(silences.len() / 2)
            .copied()
            .unwrap_or_default();
        let disconnected = silences.len();
        println!("connections            {connections:>9}");
        println!("fell silent            {:>9}", connections / 2);
        println!("  disconnected         {disconnected:>9}");
        println!("  after (median)       {:>9.3} s", median.as_secs_f64());
        println!("  after (longest)      {:>9.3} s", longest.as_secs_f64());
        println!("  bound                {:>9.3} s", bound.as_secs_f64());
        println!("answered and were lost {lost:>9}");
        println!("pings                  {pings:>9}");
        println!("polls late, summed     {:>9.3} s", late.as_secs_f64());
        let micros = processor_time.as_secs_f64() * 1e6 / pings.max(1) as f64;
        println!("CPU time per ping      {micros:>9.1} us, of the whole server");
        let in_time = longest <= bound + late + 2 * tolerance;
        disconnected == connections / 2 && lost == 0 && in_time
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos((now() - self.start).as_nanos() as u64)
    }
}

impl Connection {
    /// Continues the handshake, then reads and flushes, until each would block. Fails if the
    /// connection has ended.
    fn proceed(&mut self, now: Timestamp, observe: &mut impl FnMut(Event)) -> Result<(), Failed> {
        if let Socket::Opening(handshake) = &mut self.socket {
            match handshake.take().ok_or("the handshake failed")?.handshake() {
                Ok(socket) => self.socket = Socket::Open(socket),
                Err(HandshakeError::Interrupted(further)) => {
                    *handshake = Some(further);
                    return Ok(());
                }
                Err(HandshakeError::Failure(error)) => return Err(error.into()),
            }
            observe(Event::Opened);
        }
        let Socket::Open(socket) = &mut self.socket else {
            return Ok(());
        };
        while let Some(message) = unless_blocked(socket.read())? {
            self.last_inbound = now;
            match message {
                Message::Text(text) => {
                    self.falls_silent = text == "silent";
                    observe(Event::Recv);
                }
                Message::Ping(_) => observe(Event::Ping),
                Message::Pong(payload) => {
                    self.pongs += 1;
                    observe(Event::Pong(PingId::from_payload(&payload)));
                }
                Message::Close(_) => observe(Event::PeerClose),
                _ => observe(Event::Recv),
            }
        }
        if unless_blocked(socket.flush())?.is_some() {
            if let Some(id) = self.unflushed.take() {
                observe(Event::PingSent(id));
            }
        }
        Ok(())
    }
}

fn unless_blocked<T>(done: tungstenite::Result<T>) -> tungstenite::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn close_frame(reason: CloseReason) -> tungstenite::protocol::CloseFrame {
    tungstenite::protocol::CloseFrame {
        code: reason.code().unwrap_or(1000).into(),
        reason: reason.text().into(),
    }
}

// ---- the clients ----

/// The child process, which is killed when the server ends.
struct Clients(Child);

impl Clients {
    fn start(address: SocketAddr, count: usize) -> io::Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--clients", &address.to_string(), &count.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn have_ended(&mut self) -> io::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every other client announces that it falls silent, and does. The others answer until the server
/// ends.
fn be_clients(count: usize, address: SocketAddr) -> Result<ExitCode, Failed> {
    let mut poller = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut silent = Vec::new();
    let mut clients = Vec::new();
    let mut to_come: VecDeque<usize> = (0..count).collect();
    let mut left = 0;
    while left > 0 || !to_come.is_empty() {
        // A few at a time, so that the connected ones answer meanwhile.
        for number in to_come.drain(..to_come.len().min(50)) {
            let stream = std::net::TcpStream::connect(address)?;
            let url = format!("ws://{address}/");
            let (mut client, _) =
                tungstenite::client::client_with_config(url, stream, Some(tungstenite_config()))?;
            if number % 2 == 1 {
                client.send("silent".into())?;
                silent.push(client);
                continue;
            }
            client.send("lively".into())?;
            client.get_ref().set_nonblocking(true)?;
            let fd = rustix::fd::AsFd::as_fd(client.get_ref()).try_clone_to_owned()?;
            let mut source = TcpStream::from_std(fd.into());
            source.register(poller.registry(), Token(clients.len()), Interest::READABLE)?;
            clients.push(Some((client, source)));
            left += 1;
        }
        let wait = (!to_come.is_empty()).then_some(Duration::ZERO);
        match poller.poll(&mut events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let place = &mut clients[event.token().0];
            // tungstenite answers the pings.
            let gone = place.as_mut().is_some_and(|(client, _)| {
                loop {
                    match unless_blocked(client.read()) {
                        Ok(Some(_)) => {}
                        Ok(None) => break unless_blocked(client.flush()).is_err(),
                        Err(_) => break true,
                    }
                }
            });
            if gone {
                *place = None;
                left -= 1;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

// ---- the system ----

/// Raises the limit on open files of this process and its child, if the maximum is enough.
fn allow_files_for(connections: usize) -> Result<(), Failed> {
    // In the child, a silent client needs one and a lively one needs two.
    let needed = (connections as u64).saturating_mul(3) / 2 + 100;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Some(maximum) = maximum.filter(|&maximum| maximum < needed) {
        return Err(format!(
            "the limit of {maximum} open files is too low: {connections} connections need {needed}"
        )
        .into());
    }
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Returns the processor time of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
