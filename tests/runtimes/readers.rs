//! Peers that read slowly and steadily. To run them for longer, with the kernel's default buffers:
//!
//! ```sh
//! READ_SECONDS=120 cargo test --release --test runtimes readers -- --nocapture
//! ```

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use ws_timeout::{CloseReason, TimeoutConfig};

use crate::peers::bare;
use crate::{End, MS, Ours, PATIENCE, SECOND, converse, limits, on_each_runtime};

/// In bytes a second.
#[derive(Clone, Copy)]
struct Rate(u32);

/// tokio learns of room once a third of the send buffer is free, which here takes longer than
/// `message_timeout`.
#[test]
fn a_steady_reader_stays_and_one_that_stops_is_disconnected() {
    match std::env::var("READ_SECONDS") {
        Err(_) => reads(Some(128 << 10), Rate(50_000), 4 * SECOND, || {
            limits().build().unwrap()
        }),
        Ok(seconds) => {
            let length = Duration::from_secs(seconds.parse().expect("READ_SECONDS is a number"));
            let lifetime = 10 * length;
            let config = move || {
                let config = TimeoutConfig::builder().connection_timeout(lifetime);
                config.build().unwrap()
            };
            thread::scope(|scope| {
                for rate in [1_000_000, 200_000, 50_000] {
                    scope.spawn(move || reads(None, Rate(rate), length, config));
                }
            });
        }
    }
}

/// Reads for `length`, then stops. `buffer` is the size of our send buffer.
fn reads(
    buffer: Option<usize>,
    rate: Rate,
    length: Duration,
    config: impl Fn() -> TimeoutConfig + Sync,
) {
    on_each_runtime(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if let Some(bytes) = buffer {
            // The sockets that it accepts get the same size.
            set_socket_send_buffer_size(&listener, bytes).unwrap();
        }
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let peer = thread::spawn(move || {
            let tcp = TcpStream::connect(address).unwrap();
            set_socket_recv_buffer_size(&tcp, 16 << 10).unwrap();
            let stopped_after = read_at(&mut bare(tcp.try_clone().unwrap()), rate, length);
            // It keeps its end open until ours is closed.
            assert!(stopped.recv().is_err());
            stopped_after
        });
        let end = converse(runtime, &listener, Ours::Push, config());
        drop(stop);
        let stopped_after = peer.join().unwrap();
        let End::TimedOut(verdict) = &end else {
            panic!("{end:?}");
        };
        let age = verdict.status.age;
        println!(
            "{runtime}, {} kB/s: {} after {age:.1?}",
            rate.0 / 1000,
            verdict.reason
        );
        assert_eq!(verdict.reason, CloseReason::MessageTimeout, "{verdict:?}");
        assert!(age >= stopped_after, "{verdict:?}");
        assert!(age <= stopped_after + SECOND + PATIENCE, "{verdict:?}");
    });
}

/// Returns how long it has read.
#[expect(clippy::disallowed_methods, reason = "the peer keeps time")]
fn read_at(tcp: &mut TcpStream, rate: Rate, length: Duration) -> Duration {
    let start = Instant::now();
    let mut buffer = vec![0; rate.0 as usize / 100];
    let mut read = 0;
    while start.elapsed() < length {
        let bytes = tcp.read(&mut buffer).unwrap();
        assert!(bytes > 0, "cut off after {:?}", start.elapsed());
        read += bytes;
        let due = Duration::from_secs_f64(read as f64 / f64::from(rate.0));
        thread::park_timeout(due.saturating_sub(start.elapsed()).max(MS));
    }
    start.elapsed()
}
