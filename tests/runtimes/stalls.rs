//! Blocked threads of our own, which must not disconnect a healthy peer.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{CloseReason, TimeoutConfigBuilder, Timeouts};

use crate::evidence::{Account, Verdict, monotonic, say};
use crate::host::{Host, Role, Runtime};
use crate::peers::{self, crowd::Client};
use crate::{End, MS, Ours, SECOND, connection, limits, on_each_runtime};

/// How many connections stay open through each block, each at a different phase.
const TRIES: usize = 200;

/// How many sockets tokio's reactor notices in one turn: so few that these connections take as many
/// turns as thousands do with the default.
const EVENTS: usize = 16;

const PONG_TIMEOUT: Duration = Duration::from_millis(400);

/// How long written bytes may take to arrive.
const MAX_TRANSIT: Duration = Duration::from_millis(50);

/// At most one in this many clients may answer late, or the test shows nothing.
const CLIENTS_PER_LATE_ANSWER: usize = 100;

/// Guards rule 2.
#[test]
fn healthy_peers_survive_blocked_threads() {
    block_all(limits);
}

#[test]
fn blocked_threads_disconnect_no_healthy_peer_with_a_short_stall_tolerance() {
    block_all(|| limits().stall_tolerance(50 * MS));
}

/// While all threads are blocked, the peer answers our Close frame, behind data.
/// Guards rule 2.
#[test]
fn an_answer_to_our_close_counts_after_a_block() {
    on_each_runtime(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (blocks, blocked) = channel();
        let peer = thread::spawn(move || {
            let mut socket = peers::handshake(TcpStream::connect(address).unwrap());
            blocked.recv().unwrap();
            thread::park_timeout(50 * MS);
            for _ in 0..3 {
                socket.send(Message::text("data")).unwrap();
            }
            while socket.read().is_ok() {}
        });
        let (tcp, _) = listener.accept().unwrap();
        // Without pings, the alarm is set for the closing handshake, after a second.
        let config = limits().no_ping_interval().stall_tolerance(3 * SECOND);
        let timeouts = Timeouts::new(config.build().unwrap());
        let host = Host::start(runtime);
        let (closes, closing) = channel();
        let (ended, end) = channel();
        host.spawn(async move {
            let settings = tungstenite_config();
            let opening = runtime.open(Role::Server, settings, &timeouts, tcp);
            let mut socket = opening.await.unwrap();
            socket.send(Message::Close(None)).await.unwrap();
            closes.send(()).unwrap();
            let mut messages = 0;
            let result = loop {
                match socket.next().await {
                    Some(Ok(_)) => messages += 1,
                    Some(Err(error)) => break Err(error),
                    None => break Ok(messages),
                }
            };
            ended.send(result).unwrap();
        });
        closing.recv().unwrap();
        blocks.send(()).unwrap();
        host.block(1200 * MS, || ());
        // The data, and the peer's Close frame.
        assert_eq!(end.recv_timeout(20 * SECOND).unwrap().unwrap(), 4);
        peer.join().unwrap();
    });
}

/// Blocks all threads of each runtime for 1.1, 1.5 and 3 pong timeouts.
#[track_caller]
fn block_all(limits: fn() -> TimeoutConfigBuilder) {
    on_each_runtime(|runtime| {
        let config = limits()
            .ping_interval(PONG_TIMEOUT)
            .pong_timeout(PONG_TIMEOUT)
            .jitter(0.5);
        let mut trial = Trial::begin(runtime, config);
        trial.all_answer(1);
        for tenths in [11, 15, 30] {
            let news = trial.news.clone();
            trial
                .host
                .block(PONG_TIMEOUT * tenths / 10, move || news.notify_waiters());
            trial.all_answer(2);
        }
    });
}

/// A runtime with the server's end of many connections.
struct Trial {
    host: Host,
    /// Wakes all their tasks. When a block is over, they run before the reactor has turned: the
    /// readiness that the runtime has cached does not show what has arrived.
    news: Arc<Notify>,
    notes: Receiver<Note>,
    /// How many pings each of the live clients has answered, by their ports.
    pongs: HashMap<u16, u32>,
    /// For connections that have ended: the account of one side, if the other's is missing.
    ended: HashMap<u16, (Account, io::Error)>,
    disconnected: HashMap<u16, End>,
    late: usize,
}

/// A note from either side.
enum Note {
    Opened(u16),
    Answered(u16),
    /// From the client, with the reason.
    Ended(Account, io::Error),
    /// From the server, whose clock was created just after this instant.
    Disconnected(u16, End),
}

impl Trial {
    /// Connects healthy peers on a thread of their own.
    fn begin(runtime: Runtime, config: TimeoutConfigBuilder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, notes) = channel();
        let say = sender.clone();
        thread::spawn(move || clients(address, &say));

        let host = Host::start_with_events(runtime, EVENTS);
        // Without a heartbeat, the alarm is set for the pong. With one, some sockets are about to
        // poll without a reason from the peer when the block begins.
        let seldom = Arc::new(config.no_heartbeat_interval().build().unwrap());
        let often = Arc::new(config.heartbeat_interval(PONG_TIMEOUT / 4).build().unwrap());
        let news = Arc::new(Notify::new());
        for number in 0..TRIES {
            let (tcp, peer) = listener.accept().unwrap();
            let config = if number % 2 == 0 { &seldom } else { &often };
            let (config, news, say) = (config.clone(), news.clone(), sender.clone());
            host.spawn(async move {
                let mut connection = pin!(connection(runtime, tcp, Ours::Echo, config));
                loop {
                    let notified = pin!(news.notified());
                    if let Either::Left((end, _)) = select(connection.as_mut(), notified).await {
                        // The test may be over.
                        let _ = say.send(Note::Disconnected(peer.port(), end));
                        break;
                    }
                }
            });
        }
        let mut trial = Self {
            host,
            news,
            notes,
            pongs: HashMap::new(),
            ended: HashMap::new(),
            disconnected: HashMap::new(),
            late: 0,
        };
        trial.listen_until("all are open", |trial| {
            trial.pongs.len() + trial.late == TRIES
        });
        trial
    }

    /// Waits until each live client has answered this many more pings.
    #[track_caller]
    fn all_answer(&mut self, pings: u32) {
        self.listen_until("all notes are received", |_| true);
        for pongs in self.pongs.values_mut() {
            *pongs = 0;
        }
        self.listen_until("all answer", |trial| {
            trial.pongs.values().all(|&pongs| pongs >= pings)
        });
    }

    /// Receives notes until `is_so` holds and none are queued. Compares the accounts of connections
    /// that ended.
    #[track_caller]
    fn listen_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = monotonic() + 20 * SECOND;
        loop {
            let note = match self.notes.try_recv() {
                Ok(note) => note,
                Err(_) if self.ended.is_empty() && self.disconnected.is_empty() && is_so(self) => {
                    return;
                }
                Err(_) => {
                    let left = until.saturating_sub(monotonic());
                    self.notes.recv_timeout(left).unwrap_or_else(|_| {
                        let Self {
                            pongs,
                            ended,
                            disconnected,
                            ..
                        } = self;
                        panic!("did not hold in time: {what}: {pongs:?} {ended:?} {disconnected:?}")
                    })
                }
            };
            let port = match note {
                Note::Opened(port) => {
                    self.pongs.insert(port, 0);
                    continue;
                }
                Note::Answered(port) => {
                    *self.pongs.get_mut(&port).unwrap() += 1;
                    continue;
                }
                Note::Ended(account, why) => {
                    let port = account.port;
                    self.ended.insert(port, (account, why));
                    port
                }
                Note::Disconnected(port, end) => {
                    self.disconnected.insert(port, end);
                    port
                }
            };
            if self.ended.contains_key(&port) && self.disconnected.contains_key(&port) {
                self.compare_accounts(port);
            }
        }
    }

    /// Compares the accounts of both sides of a connection that has ended.
    #[track_caller]
    fn compare_accounts(&mut self, port: u16) {
        let (account, why) = self.ended.remove(&port).unwrap();
        match self.disconnected.remove(&port).unwrap() {
            End::TimedOut(verdict) if verdict.reason == CloseReason::PongTimeout => {
                let verdict = Verdict::new(port, &verdict);
                assert!(
                    !verdict.is_wrong(&account, PONG_TIMEOUT, MAX_TRANSIT),
                    "a live client was lost: {verdict:?} {account:?} {why}"
                );
                say(&format!("a client answered late: {verdict:?} {account:?}"));
            }
            other => panic!("{other:?} {account:?} {why}"),
        }
        self.pongs.remove(&port);
        self.late += 1;
        assert!(
            self.late * CLIENTS_PER_LATE_ANSWER <= TRIES,
            "void, this machine is too busy: {} of {TRIES} clients answered late, for which the server is not to blame",
            self.late
        );
    }
}

/// Peers that answer each ping, some at once and some after half the pong timeout, so there are
/// always pings in flight of every age up to that.
fn clients(address: SocketAddr, say: &Sender<Note>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..TRIES {
            let delay = PONG_TIMEOUT / 2 * number as u32 / TRIES as u32;
            clients.spawn(answer_pings(address, delay, say.clone()));
        }
        clients.join_all().await;
    });
}

/// Answers pings until the connection ends or the test is over.
async fn answer_pings(address: SocketAddr, delay: Duration, say: Sender<Note>) {
    let mut client = Client::open(address).await.unwrap();
    let mut account = Account::new(&client);
    let mut sent = say.send(Note::Opened(account.port));
    while sent.is_ok() {
        if let Err(why) = answer(&mut client, &mut account, delay).await {
            let _ = say.send(Note::Ended(account, why));
            break;
        }
        sent = say.send(Note::Answered(account.port));
    }
}

async fn answer(client: &mut Client, account: &mut Account, delay: Duration) -> io::Result<()> {
    let payload = account.read_ping(client).await?;
    tokio::time::sleep(delay).await;
    account.answer(client, &payload).await
}
