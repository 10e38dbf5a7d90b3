//! Threads of our own that are blocked, which costs no healthy peer its connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use ws_timeout::TimeoutConfigBuilder;

use crate::host::{Host, Runtime};
use crate::peers::crowd::Client;
use crate::{End, MS, Ours, SECOND, connection, limits, on_each_runtime};

/// So many connections live through each block, each at a phase of its own.
const TRIES: usize = 200;

const PONG_TIMEOUT: Duration = Duration::from_millis(400);

#[test]
fn blocked_threads_cost_no_healthy_peer() {
    block_all(limits);
}

#[test]
fn blocked_threads_cost_no_healthy_peer_though_little_is_tolerated() {
    block_all(|| limits().stall_tolerance(50 * MS));
}

/// Blocks all threads of each runtime for 1.1, 1.5 and 3 pong timeouts.
#[track_caller]
fn block_all(limits: fn() -> TimeoutConfigBuilder) {
    on_each_runtime(|runtime| {
        let config = limits()
            .ping_interval(PONG_TIMEOUT)
            .pong_timeout(PONG_TIMEOUT)
            .jitter(0.5);
        let Blockable {
            host,
            news,
            pongs,
            ends,
        } = serve(runtime, config);
        all_answer(&pongs, 1);
        for tenths in [11, 15, 30] {
            let news = news.clone();
            host.block(PONG_TIMEOUT * tenths / 10, move || news.notify_waiters());
            all_answer(&pongs, 2);
            let ended: Vec<End> = ends.try_iter().collect();
            assert!(ended.is_empty(), "after {tenths} tenths: {ended:?}");
        }
    });
}

/// A runtime with the server's end of many connections.
struct Blockable {
    host: Host,
    /// Wakes all their tasks. When a block is over, they go on before the reactor has had its turn: what the
    /// runtime has cached of the sockets does not show what has arrived.
    news: Arc<Notify>,
    /// The numbers of those that answer a ping, or that cannot.
    pongs: Receiver<(usize, io::Result<()>)>,
    ends: Receiver<End>,
}

/// Connects healthy peers on a thread of their own.
fn serve(runtime: Runtime, config: TimeoutConfigBuilder) -> Blockable {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (answered, pongs) = channel();
    thread::spawn(move || clients(address, &answered));

    let host = Host::start(runtime);
    // Without a heartbeat, the alarm that is set is that of the pong. With one, some are about to look for no
    // reason of the peer's when the block begins.
    let seldom = Arc::new(config.no_heartbeat_interval().build().unwrap());
    let often = Arc::new(config.heartbeat_interval(PONG_TIMEOUT / 4).build().unwrap());
    let news = Arc::new(Notify::new());
    let (ended, ends) = channel();
    for number in 0..TRIES {
        let (tcp, _) = listener.accept().unwrap();
        let config = if number % 2 == 0 { &seldom } else { &often };
        let (config, news, ended) = (config.clone(), news.clone(), ended.clone());
        host.spawn(async move {
            let mut connection = pin!(connection(runtime, tcp, Ours::Echo, config));
            loop {
                let heard = pin!(news.notified());
                if let Either::Left((end, _)) = select(connection.as_mut(), heard).await {
                    // The test may be over.
                    let _ = ended.send(end);
                    break;
                }
            }
        });
    }
    Blockable {
        host,
        news,
        pongs,
        ends,
    }
}

/// Peers that answer each ping, some at once and some after half the pong timeout: so there are always pings
/// in flight of every age up to that.
fn clients(address: SocketAddr, answered: &Sender<(usize, io::Result<()>)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for number in 0..TRIES {
            let delay = PONG_TIMEOUT / 2 * number as u32 / TRIES as u32;
            let answered = answered.clone();
            clients.spawn(async move {
                let end = answer_each(address, delay, || answered.send((number, Ok(()))));
                let _ = answered.send((number, end.await));
            });
        }
        clients.join_all().await;
    });
}

/// Answers pings until the connection ends, or nobody wants to hear of it.
async fn answer_each<E>(
    address: SocketAddr,
    delay: Duration,
    answered: impl Fn() -> Result<(), E>,
) -> io::Result<()> {
    let mut client = Client::open(address).await?;
    loop {
        let payload = client.ping().await?;
        tokio::time::sleep(delay).await;
        client.pong(&payload).await?;
        if answered().is_err() {
            return Ok(());
        }
    }
}

/// Waits until each has answered this many pings from now on.
#[track_caller]
fn all_answer(pongs: &Receiver<(usize, io::Result<()>)>, most: u32) {
    while pongs.try_recv().is_ok() {}
    let mut answers = [0; TRIES];
    while answers.iter().any(|&answers| answers < most) {
        let (number, answered) = pongs.recv_timeout(20 * SECOND).expect("all answer");
        answered.unwrap_or_else(|error| panic!("the peer {number} was let go: {error}"));
        answers[number] += 1;
    }
}
