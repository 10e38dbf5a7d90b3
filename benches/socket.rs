//! The time to read a message, and to read and echo one, with each way to time out a WebSocket; and
//! the time to read a frame with different read buffers of tungstenite. `cargo bench --bench
//! socket`.
//!
//! The stream below costs nothing, so this measures the loop itself and its wrappers.

mod idioms;

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::{FutureExt, StreamExt};
use idioms::{Feed, Idiom, run_through};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use ws_timeout::message::tungstenite_config;

const IDIOMS: [(&str, Idiom); 7] = [
    ("bare", Idiom::Bare),
    ("TimeoutSocket", Idiom::TimeoutSocket),
    ("TimeoutSocket, meter and label", Idiom::Metered),
    ("timeout(next)", Idiom::TimeoutNext),
    ("select! interval", Idiom::Interval),
    ("Sleep reset", Idiom::SleepReset),
    ("Sleep lazily reset", Idiom::SleepLazy),
];

/// In KiB. The last is tungstenite's own.
const READ_BUFFERS: [usize; 6] = [1, 2, 4, 8, 16, 128];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing to keep time");
    for (what, echo) in [("read", false), ("echo", true)] {
        for at_once in [1, 64] {
            let mut group = criterion.benchmark_group(format!("{what}, {at_once} a wake-up"));
            for (name, idiom) in IDIOMS {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    // In one run of the loop, so that its beginning and end hardly count.
                    bencher.iter_custom(|messages| {
                        let began = now();
                        let read = run_through(&runtime, idiom, Feed::new(messages, at_once), echo);
                        assert_eq!(read, messages);
                        now() - began
                    });
                });
            }
            group.finish();
        }
    }
    for (what, length) in [("a pong", 8), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let mut group = criterion.benchmark_group(format!("read buffer, {what}"));
        group.throughput(Throughput::Bytes(length as u64));
        for kib in READ_BUFFERS {
            group.bench_function(
                BenchmarkId::from_parameter(format!("{kib} KiB")),
                |bencher| {
                    let mut socket = repeating(length, kib << 10);
                    bencher.iter(|| read_one(&mut socket));
                },
            );
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("read buffer, 1 MiB over TCP");
    for kib in READ_BUFFERS {
        group.bench_function(
            BenchmarkId::from_parameter(format!("{kib} KiB")),
            |bencher| {
                bencher.iter_custom(|messages| read_over_tcp(messages, kib << 10));
            },
        );
    }
    group.finish();
    criterion.final_summary();
}

/// Returns a server whose client repeats one frame: a pong if it is short enough, or a message.
fn repeating(length: usize, read_buffer: usize) -> WebSocketStream<Repeats> {
    let transport = Repeats {
        frame: frame(length),
        read: 0,
    };
    let settings = tungstenite_config().read_buffer_size(read_buffer);
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(settings))
        .now_or_never()
        .expect("a socket without a handshake is there at once")
}

fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![if length < 126 { 0x8A } else { 0x82 }];
    match u8::try_from(length) {
        Ok(short) if short < 126 => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([1, 2, 3, 4]);
    frame.resize(frame.len() + length, 7);
    frame
}

/// Reads messages of 1 MiB from a thread that sends them over loopback. Returns how long that
/// takes.
fn read_over_tcp(messages: u64, read_buffer: usize) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("a listener has an address");
    let client = thread::spawn(move || {
        let mut tcp = TcpStream::connect(address).expect("the listener is there");
        let frame = frame(1 << 20);
        // Fails when the reader has read enough and hangs up.
        while tcp.write_all(&frame).is_ok() {}
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime can be built");
    let took = runtime.block_on(async {
        let (tcp, _) = listener.accept().expect("the client connects");
        tcp.set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let tcp = tokio::net::TcpStream::from_std(tcp).expect("the runtime has a reactor");
        let settings = tungstenite_config().read_buffer_size(read_buffer);
        let mut socket = WebSocketStream::from_raw_socket(tcp, Role::Server, Some(settings)).await;
        let began = now();
        for _ in 0..messages {
            let message = socket.next().await;
            assert!(matches!(message, Some(Ok(_))), "{message:?}");
        }
        now() - began
    });
    client.join().expect("the client ends");
    took
}

/// Reads a message, and then tries again and finds none, as a task does before it waits.
fn read_one(socket: &mut WebSocketStream<Repeats>) {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut messages = 0;
    while let Poll::Ready(message) = socket.poll_next_unpin(cx) {
        assert!(matches!(message, Some(Ok(_))), "{message:?}");
        messages += 1;
    }
    assert_eq!(messages, 1);
}

/// A transport that yields a frame, then `Pending` once, and then the frame again.
struct Repeats {
    frame: Vec<u8>,
    read: usize,
}

impl AsyncRead for Repeats {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.frame[self.read..];
        if left.is_empty() {
            self.read = 0;
            return Poll::Pending;
        }
        let length = left.len().min(buf.remaining());
        buf.put_slice(&left[..length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Repeats {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch needs a clock")]
fn now() -> Instant {
    Instant::now()
}
