//! This crate's fleet: one thread, `mio` and non-blocking tungstenite, as in
//! `benches/fleet_mio.rs`.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use tokio_tungstenite::tungstenite::handshake::server::{NoCallback, ServerHandshake};
use tokio_tungstenite::tungstenite::handshake::{HandshakeError, MidHandshake};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Action, Event, Fleet, FleetKey, PingId, TimeoutConfig, Timestamp};

use crate::{Outcome, ours};

/// Polls the fleet at its deadlines, or at the next multiple of `align` if that is not zero.
pub fn serve(ping: Duration, align: Duration) -> Outcome {
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    println!("listening on {}", listener.local_addr()?.port());
    let poll = Poll::new()?;
    listener.register(poll.registry(), LISTENER, Interest::READABLE)?;
    let mut server = Server {
        poll,
        more: false,
        listener,
        config: Arc::new(ours::config(ping)?),
        fleet: Fleet::new(),
        connections: Vec::new(),
        start: Instant::now(),
        seeds: 0,
    };
    let mut events = Events::with_capacity(1024);
    loop {
        server.turn(&mut events, align)?;
    }
}

const LISTENER: Token = Token(usize::MAX);

struct Server {
    poll: Poll,
    /// Whether the poller may have further events.
    more: bool,
    listener: TcpListener,
    config: Arc<TimeoutConfig>,
    fleet: Fleet,
    /// Indexed by [`FleetKey::index`].
    connections: Vec<Option<Connection>>,
    start: Instant,
    seeds: u64,
}

struct Connection {
    key: FleetKey,
    socket: Socket,
    /// The ping in the socket's buffer.
    unflushed: Option<PingId>,
}

enum Socket {
    Opening(Option<MidHandshake<ServerHandshake<Transport, NoCallback>>>),
    Open(WebSocket<Transport>),
}

impl Server {
    /// Waits, reads everything that has arrived, then polls the fleet if a deadline had passed
    /// before the wait.
    fn turn(&mut self, events: &mut Events, align: Duration) -> Outcome {
        let asked = self.now();
        let due = self.fleet.next_deadline().map(|due| aligned(due, align));
        let wait = match due {
            _ if self.more => Some(Duration::ZERO),
            due => due.map(|due| due.saturating_duration_since(asked)),
        };
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let at_once = wait.is_some_and(|wait| wait.is_zero());
        let now = if at_once { asked } else { self.now() };
        for event in events.iter() {
            if event.token() == LISTENER {
                self.accept(now)?;
            } else {
                self.proceed(event.token().0, now);
            }
        }
        self.more = events.iter().count() == events.capacity();
        if due.is_some_and(|due| due <= asked) && !self.more {
            while let Some((key, action)) = self.fleet.poll(now) {
                self.act(key, action, now);
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
            stream.register(self.poll.registry(), Token(key.index()), both)?;
            let transport = Transport {
                stream,
                is_drained: false,
            };
            let socket =
                match tungstenite::accept_with_config(transport, Some(tungstenite_config())) {
                    Ok(socket) => {
                        self.fleet.observe(key, now, Event::Opened);
                        Socket::Open(socket)
                    }
                    Err(HandshakeError::Interrupted(handshake)) => Socket::Opening(Some(handshake)),
                    Err(HandshakeError::Failure(_)) => {
                        self.fleet.remove(key);
                        continue;
                    }
                };
            if self.connections.len() <= key.index() {
                self.connections.resize_with(key.index() + 1, || None);
            }
            self.connections[key.index()] = Some(Connection {
                key,
                socket,
                unflushed: None,
            });
        }
    }

    fn proceed(&mut self, index: usize, now: Timestamp) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        let key = connection.key;
        let mut observe = |event| {
            self.fleet.observe(key, now, event);
        };
        if connection.proceed(&mut observe).is_err() {
            self.disconnect(key);
        }
    }

    fn act(&mut self, key: FleetKey, action: Action, now: Timestamp) {
        let Some(connection) = &mut self.connections[key.index()] else {
            return;
        };
        match (action, &mut connection.socket) {
            (Action::SendPing(id), Socket::Open(socket)) => {
                // If it blocks, it is flushed when there is room. An error shows in the next read.
                connection.unflushed = Some(id);
                let ping = Message::Ping(id.payload().to_vec().into());
                if socket.send(ping).is_ok() {
                    connection.unflushed = None;
                    self.fleet.observe(key, now, Event::PingSent(id));
                }
            }
            (Action::Close(_), Socket::Open(socket)) => {
                // If it blocks, it is flushed when there is room, or aborted.
                let _ = socket.close(None);
            }
            (Action::Abort(_), _) => self.disconnect(key),
            _ => {}
        }
    }

    fn disconnect(&mut self, key: FleetKey) {
        self.fleet.remove(key);
        self.connections[key.index()] = None;
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.start.elapsed().as_nanos() as u64)
    }
}

impl Connection {
    /// Continues the handshake, then reads and flushes, until each would block. Fails if the
    /// connection has ended.
    fn proceed(&mut self, observe: &mut impl FnMut(Event)) -> tungstenite::Result<()> {
        if let Socket::Opening(handshake) = &mut self.socket {
            let Some(mut begun) = handshake.take() else {
                return Err(tungstenite::Error::ConnectionClosed);
            };
            begun.get_mut().get_mut().is_drained = false;
            match begun.handshake() {
                Ok(socket) => self.socket = Socket::Open(socket),
                Err(HandshakeError::Interrupted(further)) => {
                    *handshake = Some(further);
                    return Ok(());
                }
                Err(HandshakeError::Failure(error)) => return Err(error),
            }
            observe(Event::Opened);
        }
        let Socket::Open(socket) = &mut self.socket else {
            return Ok(());
        };
        socket.get_mut().is_drained = false;
        while let Some(message) = unless_blocked(socket.read())? {
            observe(match &message {
                Message::Ping(_) => Event::Ping,
                Message::Pong(payload) => Event::Pong(PingId::from_payload(payload)),
                Message::Close(_) => Event::PeerClose,
                _ => Event::Recv,
            });
            if message.is_text() && unless_blocked(socket.send(message))?.is_some() {
                observe(Event::SendOk);
            }
        }
        if unless_blocked(socket.flush())?.is_some()
            && let Some(id) = self.unflushed.take()
        {
            observe(Event::PingSent(id));
        }
        Ok(())
    }
}

/// After a short read, does not ask the kernel again until the poller reports input.
struct Transport {
    stream: TcpStream,
    is_drained: bool,
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_drained {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = self.stream.read(buffer)?;
        self.is_drained = 0 < read && read < buffer.len();
        Ok(read)
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn unless_blocked<T>(done: tungstenite::Result<T>) -> tungstenite::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the next multiple of `align`.
fn aligned(due: Timestamp, align: Duration) -> Timestamp {
    match align.as_nanos() as u64 {
        0 => due,
        align => Timestamp::from_nanos(due.as_nanos().div_ceil(align) * align),
    }
}
