//! Peers that ping without pause. The server is a separate process, so that its CPU time and memory
//! can be measured.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::host::Runtime;
use crate::peers::{PING, PONG, bare, frame};
use crate::process::Process;
use crate::{MS, SECOND, on_each_runtime};

#[test]
fn a_peer_that_pings_without_pause_is_answered_at_constant_cost() {
    const PINGS: u32 = 100_000;
    on_each_runtime(|runtime| {
        let server = serve(
            runtime,
            &[("WS_MAX_PING_RATE", "off"), ("WS_PING_INTERVAL", "0.2")],
        );
        let mut peer = Flooder::open(&server.line());
        let floods = [(); 2].map(|()| {
            let before = server.cpu();
            peer.flood(PINGS);
            (server.cpu() - before, server.memory())
        });
        let [(first, memory), (second, memory_then)] = floods;
        assert!(first / PINGS < MS / 10, "{:?} a ping", first / PINGS);
        assert!(second < first * 3 / 2, "{first:?}, and then {second:?}");
        assert!(
            memory_then <= memory + 512,
            "{memory} KiB, and then {memory_then}"
        );

        // The flood pauses, and the server only pings now and then.
        let before = server.cpu();
        for _ in 0..5 {
            peer.answer();
        }
        let paused = server.cpu() - before;
        assert!(paused < 20 * MS, "{paused:?} for five pings");
        assert!(server.unread_lines().is_empty());
    });
}

#[test]
fn a_peer_that_exceeds_max_ping_rate_is_disconnected() {
    on_each_runtime(|runtime| {
        let server = serve(runtime, &[("WS_MAX_PING_RATE", "20")]);
        let peer = Flooder::open(&server.line());
        let sent = peer.flood_unread();
        // The pings of one minute are allowed at once.
        assert!(sent > 60 * 20, "{sent} pings");
        let end = server.line();
        assert!(end.starts_with("ping_flood "), "{end}");
    });
}

/// The server reads no more from it once 256 KiB of pongs are waiting.
#[test]
fn a_peer_that_pings_without_pause_and_never_reads_is_disconnected() {
    const MOST_KIB: u64 = 1024;
    on_each_runtime(|runtime| {
        let server = serve(
            runtime,
            &[("WS_MAX_PING_RATE", "off"), ("WS_MESSAGE_TIMEOUT", "3")],
        );
        let peer = Flooder::open(&server.line());
        let memory = server.memory();
        let sent = peer.flood_unread();
        let end = server.line();
        assert!(end.starts_with("message_timeout "), "{end}");
        let taken = server.most_memory() - memory;
        assert!(taken < MOST_KIB, "{taken} KiB for {sent} pings");
    });
}

fn serve(runtime: Runtime, limits: &[(&str, &str)]) -> Process {
    let runtime = runtime.to_string();
    Process::start("server", &[&[("RUNTIME", &*runtime)], limits].concat())
}

/// A client that floods its server, and reads the answers.
struct Flooder {
    tcp: TcpStream,
    read: BufReader<TcpStream>,
}

impl Flooder {
    fn open(address: &str) -> Self {
        let tcp = bare(TcpStream::connect(address).unwrap());
        tcp.set_read_timeout(Some(20 * SECOND)).unwrap();
        let read = BufReader::new(tcp.try_clone().unwrap());
        Self { tcp, read }
    }

    /// Sends this many pings, as fast as possible, and reads the pong of each.
    fn flood(&mut self, pings: u32) {
        let mut tcp = self.tcp.try_clone().unwrap();
        let writer = thread::spawn(move || {
            for first in (0..pings).step_by(100) {
                let some = first..pings.min(first + 100);
                let frames = some.flat_map(|number| frame(PING, &number.to_be_bytes()));
                tcp.write_all(&frames.collect::<Vec<u8>>()).unwrap();
            }
        });
        for number in 0..pings {
            assert_eq!(self.next(PONG), number.to_be_bytes());
        }
        writer.join().unwrap();
    }

    /// Sends long pings, and reads nothing, until the server has disconnected. Returns how many it
    /// sent.
    fn flood_unread(mut self) -> usize {
        const SOME: usize = 100;
        let pings = frame(PING, &[0; 125]).repeat(SOME);
        let mut sent = 0;
        while self.tcp.write_all(&pings).is_ok() {
            sent += SOME;
        }
        sent
    }

    /// Waits for a ping of the server, and answers it.
    fn answer(&mut self) {
        let payload = self.next(PING);
        self.tcp.write_all(&frame(PONG, &payload)).unwrap();
    }

    /// Returns the payload of the next frame with this opcode.
    fn next(&mut self, opcode: u8) -> Vec<u8> {
        loop {
            let mut head = [0; 2];
            self.read.read_exact(&mut head).unwrap();
            let mut payload = vec![0; head[1].into()];
            self.read.read_exact(&mut payload).unwrap();
            if head[0] == 0x80 | opcode {
                return payload;
            }
        }
    }
}
