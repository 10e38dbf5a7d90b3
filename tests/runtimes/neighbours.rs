//! Peers that send without pause, as many as the runtime has threads, and their neighbours: one
//! that sends messages, one that connects, and one that is silent. Beside other tests, each may
//! take a second longer, and longer still on a machine on which sleeping threads wake up late. To
//! run them alone, without that second:
//!
//! ```sh
//! NEIGHBOURS_ALONE=1 cargo test --release --test runtimes neighbours -- --test-threads 1 --nocapture
//! ```

#![expect(clippy::disallowed_methods, reason = "the peers keep time")]

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Message, WebSocket};

use crate::host::{RUNTIMES, Runtime};
use crate::peers::{PING, PONG, bare, frame, handshake, until_dropped};
use crate::process::Process;
use crate::{MS, SECOND};

/// When the silent peer is disconnected: the next ping, and the wait for its answer.
const SILENCE: Duration = Duration::from_millis(600);

#[test]
fn a_flood_of_pings_delays_no_neighbour() {
    flood(&[], &frame(PING, b"").repeat(4000));
}

#[test]
fn a_flood_of_pongs_delays_no_neighbour() {
    flood(&[], &frame(PONG, &[7; 125]).repeat(400));
}

#[test]
fn a_flood_of_messages_delays_no_neighbour() {
    flood(&[], &frame(0x2, b"x").repeat(4000));
}

/// All of this is one message, which never ends.
/// Guards rule 23.
#[test]
fn a_flood_of_fragments_delays_no_neighbour() {
    const NO_FIN: u8 = 0x80;
    let mut first = frame(0x2, b"a");
    let mut fragment = frame(0x0, b"");
    first[0] ^= NO_FIN;
    fragment[0] ^= NO_FIN;
    flood(&first, &fragment.repeat(10_000));
}

/// Sends `first`, and then `endless` again and again, to a server on each runtime in turn.
fn flood(first: &[u8], endless: &[u8]) {
    let alone = std::env::var_os("NEIGHBOURS_ALONE").is_some();
    for runtime in RUNTIMES {
        let name = runtime.to_string();
        let server = Process::start(
            "server",
            &[
                ("RUNTIME", &name),
                ("WS_PING_INTERVAL", "0.2"),
                ("WS_PONG_TIMEOUT", "0.4"),
                ("WS_STALL_TOLERANCE", "0.2"),
                ("WS_JITTER", "0"),
                ("WS_MAX_PING_RATE", "off"),
            ],
        );
        let address = server.line();
        let mut neighbour = handshake(TcpStream::connect(&address).unwrap());
        let attackers = attackers(runtime).map(|()| bare(TcpStream::connect(&address).unwrap()));
        let attackers: Vec<_> = attackers.collect();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let busy = scope.spawn(|| oversleeps(&over));
            for attacker in &attackers {
                scope.spawn(|| until_dropped(attacker.try_clone().unwrap()));
                scope.spawn(move || {
                    let mut attacker = attacker;
                    let mut sent = attacker.write_all(first);
                    while sent.is_ok() {
                        sent = attacker.write_all(endless);
                    }
                });
            }
            let silent = scope.spawn(|| {
                let start = Instant::now();
                until_dropped(bare(TcpStream::connect(&address).unwrap()));
                start.elapsed()
            });
            let stranger = scope.spawn(|| {
                let start = Instant::now();
                drop(handshake(TcpStream::connect(&address).unwrap()));
                start.elapsed()
            });
            let echo = slowest_echo(&mut neighbour, SECOND);
            let (stranger, silent) = (stranger.join().unwrap(), silent.join().unwrap());
            over.store(true, Ordering::Relaxed);
            for attacker in &attackers {
                // The server may have disconnected it.
                let _ = attacker.shutdown(std::net::Shutdown::Both);
            }
            let busy = busy.join().unwrap();
            println!(
                "{runtime}: echo {echo:.0?}, handshake {stranger:.0?}, silent peer disconnected after \
                 {silent:.0?}; a sleeping thread woke up to {busy:.0?} late"
            );
            let patience = match alone {
                true => 4 * busy,
                false => SECOND.max(30 * busy),
            };
            assert!(echo < 100 * MS + patience, "{echo:?}");
            assert!(stranger < 200 * MS + patience, "{stranger:?}");
            assert!(silent < SILENCE + 100 * MS + patience, "{silent:?}");
        });
    }
}

fn attackers(runtime: Runtime) -> impl Iterator<Item = ()> {
    let threads = match runtime {
        Runtime::Tokio | Runtime::Smol => 1,
        Runtime::TokioThreads => 2,
        Runtime::AsyncStd => thread::available_parallelism().map_or(1, usize::from),
    };
    std::iter::repeat_n((), threads)
}

/// Sends messages for `length`, and returns the slowest echo.
fn slowest_echo(socket: &mut WebSocket<TcpStream>, length: Duration) -> Duration {
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < length {
        let sent = Instant::now();
        socket.send(Message::text("hello")).unwrap();
        while !socket.read().unwrap().is_text() {}
        slowest = slowest.max(sent.elapsed());
        thread::park_timeout(20 * MS);
    }
    slowest
}

/// Returns how late a sleeping thread wakes up at worst, on a busy machine.
fn oversleeps(over: &AtomicBool) -> Duration {
    let mut worst = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        thread::park_timeout(MS);
        worst = worst.max(start.elapsed().saturating_sub(MS));
    }
    worst
}
