//! A TCP proxy that delays both directions, for links longer than the loopback.
//!
//! Each direction of a connection has a reading and a writing task with a bounded queue between
//! them. The reader stamps each chunk with the instant at which it may leave, the writer waits for
//! that instant. The end of a direction travels through the queue like a chunk. A full queue stops
//! the reader, so backpressure reaches the sender as it does through a router.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

use crate::evidence::monotonic;

/// The size of a chunk, in bytes.
const CHUNK: usize = 4096;

/// How many chunks a direction holds.
const CHUNKS: usize = 256;

/// A running proxy; its tasks belong to the current `LocalSet`.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Rc<Shared>,
}

struct Shared {
    server: SocketAddr,
    delay: Duration,
    /// By the client's port.
    links: RefCell<HashMap<u16, Rc<Link>>>,
    max_lateness: Cell<Duration>,
}

/// One proxied connection.
pub struct Link {
    /// The port by which the server knows the client.
    pub port: u16,
    muted: Cell<bool>,
    delivered: Cell<Duration>,
    hung_up: Cell<Option<Duration>>,
    hang_up: Notify,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

/// Bytes, or the end of the direction if there are none, and when they may leave.
type Chunk = (Duration, Vec<u8>);

impl Proxy {
    /// Starts a proxy that delays each direction by `delay`.
    pub async fn start(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Rc::new(Shared {
            server,
            delay,
            links: RefCell::default(),
            max_lateness: Cell::default(),
        });
        spawn_local(accept(listener, shared.clone()));
        Self { address, shared }
    }

    /// Returns the link of the client with this port, which must have received something.
    #[track_caller]
    pub fn link(&self, client: u16) -> Rc<Link> {
        self.shared.links.borrow()[&client].clone()
    }

    /// Returns by how much the latest chunk was late.
    pub fn max_lateness(&self) -> Duration {
        self.shared.max_lateness.get()
    }
}

impl Link {
    /// Drops everything that the client sends from now on.
    pub fn mute(&self) {
        self.muted.set(true);
    }

    /// Returns when the server was last sent anything.
    pub fn delivered(&self) -> Duration {
        self.delivered.get()
    }

    /// Waits until the server has closed its end, and returns when that was.
    pub async fn hung_up(&self) -> Duration {
        loop {
            match self.hung_up.get() {
                Some(at) => return at,
                None => self.hang_up.notified().await,
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        let (client, address) = listener.accept().await.unwrap();
        let server = TcpStream::connect(shared.server).await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let link = Rc::new(Link {
            port: server.local_addr().unwrap().port(),
            muted: Cell::default(),
            delivered: Cell::new(monotonic()),
            hung_up: Cell::default(),
            hang_up: Notify::new(),
        });
        shared
            .links
            .borrow_mut()
            .insert(address.port(), link.clone());
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        for (direction, from, to) in [
            (Direction::ToServer, from_client, to_server),
            (Direction::ToClient, from_server, to_client),
        ] {
            let (queue, queued) = mpsc::channel(CHUNKS);
            spawn_local(read(direction, from, queue, link.clone(), shared.delay));
            spawn_local(write(direction, queued, to, link.clone(), shared.clone()));
        }
    }
}

async fn read(
    direction: Direction,
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<Chunk>,
    link: Rc<Link>,
    delay: Duration,
) {
    loop {
        let mut chunk = vec![0; CHUNK];
        // A reset ends the direction too.
        let length = from.read(&mut chunk).await.unwrap_or(0);
        chunk.truncate(length);
        let now = monotonic();
        if direction == Direction::ToServer && length > 0 && link.muted.get() {
            continue;
        }
        if direction == Direction::ToClient && length == 0 {
            link.hung_up.set(Some(now));
            link.hang_up.notify_one();
        }
        if queue.send((now + delay, chunk)).await.is_err() || length == 0 {
            return;
        }
    }
}

async fn write(
    direction: Direction,
    mut queued: mpsc::Receiver<Chunk>,
    mut to: OwnedWriteHalf,
    link: Rc<Link>,
    shared: Rc<Shared>,
) {
    while let Some((leaves, chunk)) = queued.recv().await {
        tokio::time::sleep(leaves.saturating_sub(monotonic())).await;
        let lateness = monotonic().saturating_sub(leaves);
        shared
            .max_lateness
            .set(shared.max_lateness.get().max(lateness));
        // Dropping the writing half sends a FIN, and dropping the queue stops the reader.
        if chunk.is_empty() || to.write_all(&chunk).await.is_err() {
            return;
        }
        if direction == Direction::ToServer {
            link.delivered.set(monotonic());
        }
    }
}
