//! Before a verdict a socket asks the kernel, and so reads input and uses room that the runtime
//! does not know of.
#![cfg(unix)]

mod common;
#[path = "common/exact.rs"]
mod exact;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use common::off;
use exact::wrap;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, advance};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::{Timer, open};
use ws_timeout::{
    CloseReason, Error, Metered, PongEvidence, TimeoutConfigBuilder, TimeoutSocket, Verdict,
};

type Inner = WebSocketStream<Metered<Unaware>>;
type Guarded = TimeoutSocket<Inner, Timer>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A socket whose runtime never learns that there is something to read.
struct Unaware {
    socket: UnixStream,
    /// Whether each read returns a message of a peer that never pauses, and nothing from the
    /// socket.
    endless: bool,
    /// Whether the runtime learns of room.
    knows_room: bool,
}

impl AsFd for Unaware {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Unaware {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.endless {
            return Poll::Pending;
        }
        // An empty text message, masked.
        buf.put_slice(&[0x81, 0x80, 0, 0, 0, 0]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Unaware {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.knows_room {
            return Poll::Pending;
        }
        Poll::Ready(io::Write::write(&mut self.socket, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Unaware {
    const READS_NOTHING: fn(UnixStream) -> Self = |socket| Self {
        socket,
        endless: false,
        knows_room: true,
    };
    const WRITES_NOTHING: fn(UnixStream) -> Self = |socket| Self {
        socket,
        endless: false,
        knows_room: false,
    };
    const READS_ENDLESSLY: fn(UnixStream) -> Self = |socket| Self {
        socket,
        endless: true,
        knows_room: true,
    };
}

/// A guarded server, and its client.
async fn pair(
    config: TimeoutConfigBuilder,
    unaware: fn(UnixStream) -> Unaware,
) -> (Guarded, WebSocket<UnixStream>) {
    let (server, client) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let transport = Metered::socket(unaware(server));
    let meter = transport.meter();
    let server =
        WebSocketStream::from_raw_socket(transport, Role::Server, Some(tungstenite_config())).await;
    let client = WebSocket::from_raw_socket(client, Role::Client, None);
    let config = config.build().unwrap();
    (wrap(config, server).with_meter(meter), client)
}

fn timed_out<T: std::fmt::Debug>(result: Result<T, Error<WsError>>) -> Verdict {
    match result {
        Err(Error::Verdict(verdict)) => verdict,
        other => panic!("no verdict but {other:?}"),
    }
}

/// Asserts that it took `expected`, plus the millisecond that tokio's timer adds, but no turns of
/// the reactor.
#[track_caller]
fn took(since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    assert!(
        elapsed >= expected && elapsed <= expected + 3 * MS,
        "took {elapsed:?} instead of {expected:?}"
    );
}

#[expect(clippy::disallowed_methods, reason = "the tests are about this clock")]
fn now() -> Instant {
    Instant::now()
}

fn pings() -> TimeoutConfigBuilder {
    off().ping_interval(SECOND).pong_timeout(2 * SECOND)
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_runtime_does_not_know_of_counts() {
    let (mut server, mut client) = pair(pings(), Unaware::READS_NOTHING).await;
    let start = now();
    let peer = std::thread::spawn(move || {
        assert!(matches!(client.read(), Ok(Message::Ping(_))));
        client.flush().unwrap();
        client
    });
    tokio::select! {
        biased;
        verdict = server.recv() => panic!("{verdict:?}"),
        () = tokio::time::sleep(1500 * MS) => {}
    }
    let client = peer.join().unwrap();
    let verdict = timed_out(server.recv().await);
    assert_eq!(verdict.status.pongs_received, 1, "{verdict}");
    // The answer was read when the first verdict was due, and the next ping requested at once.
    took(start, 5 * SECOND);
    drop(client);
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_times_out_without_delay() {
    let (mut server, _client) = pair(pings(), Unaware::READS_NOTHING).await;
    let start = now();
    let verdict = timed_out(server.recv().await);
    assert_eq!(verdict.reason, CloseReason::PongTimeout);
    took(start, 3 * SECOND);
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_the_runtime_does_not_know_of_counts() {
    let (opening, mut client) = opening(Unaware::READS_NOTHING);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    let start = now();
    let socket = opening.await.unwrap();
    took(start, SECOND);
    assert_eq!(socket.status().age, Duration::ZERO);
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_missing_handshake_times_out_without_delay() {
    let (opening, _client) = opening(Unaware::READS_NOTHING);
    let start = now();
    let verdict = timed_out(opening.await);
    assert_eq!(verdict.reason, CloseReason::HandshakeTimeout);
    took(start, SECOND);
}

/// The handshake may be waiting for something other than the transport.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_read_times_out_after_turns() {
    let (server, _client) = UnixStream::pair().unwrap();
    let meter = Metered::socket(Unaware::READS_NOTHING(server)).meter();
    let handshake = std::future::pending::<Result<Inner, WsError>>();
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let opening = open(config, handshake).with_meter(meter);
    let start = now();
    let verdict = timed_out(opening.await);
    assert_eq!(verdict.reason, CloseReason::HandshakeTimeout);
    assert!(start.elapsed() >= SECOND + 15 * MS);
}

/// A server's opening handshake, with a timeout of a second, and the transport of its client.
fn opening(
    unaware: fn(UnixStream) -> Unaware,
) -> (
    impl Future<Output = Result<Guarded, Error<WsError>>>,
    UnixStream,
) {
    let (server, client) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let transport = Metered::socket(unaware(server));
    let meter = transport.meter();
    let handshake = tokio_tungstenite::accept_async(transport);
    let config = off().handshake_timeout(SECOND).build().unwrap();
    (open(config, handshake).with_meter(meter), client)
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn room_that_the_runtime_does_not_know_of_is_used() {
    let config = off().message_timeout(SECOND);
    let (mut server, mut client) = pair(config, Unaware::WRITES_NOTHING).await;
    let start = now();
    server.send(Message::text("hello")).await.unwrap();
    took(start, SECOND);
    assert_eq!(client.read().unwrap(), Message::text("hello"));
}

/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_times_out_without_delay() {
    const LARGE: usize = 16 << 20;
    let config = off().message_timeout(SECOND);
    let (mut server, client) = pair(config, Unaware::WRITES_NOTHING).await;
    let start = now();
    let verdict = timed_out(server.send(Message::binary(vec![0; LARGE])).await);
    assert_eq!(verdict.reason, CloseReason::MessageTimeout);
    // After a second the kernel accepts more, and after another second it accepts nothing.
    took(start, 2 * SECOND);
    drop(client);
}

/// Once as many bytes have been read as had arrived, the backlog has been read.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn a_peer_that_never_pauses_times_out_once_its_backlog_is_read() {
    let config = pings().pong_evidence(PongEvidence::Pong);
    let (mut server, mut client) = pair(config, Unaware::READS_ENDLESSLY).await;
    client.send(Message::text("x".repeat(100))).unwrap();
    let start = now();
    let mut messages_after = 0;
    let verdict = loop {
        advance(MS).await;
        match server.next().await {
            Some(Ok(_)) => messages_after += u32::from(start.elapsed() > 3 * SECOND),
            Some(Err(error)) => break timed_out::<()>(Err(error)),
            None => panic!("no verdict"),
        }
    };
    assert_eq!(verdict.reason, CloseReason::PongTimeout);
    // There are 106 bytes, and each message has six.
    assert!((17..40).contains(&messages_after), "{messages_after}");
}

/// Fragments of one message fill the kernel's buffer, and the runtime knows of none of them.
/// Guards rule 23.
#[tokio::test(start_paused = true)]
async fn a_transport_that_asks_the_kernel_yields_too() {
    const READ_BUFFER: u64 = 4096;
    let (mut server, client) = pair(pings(), Unaware::READS_NOTHING).await;
    let mut raw = client.get_ref().try_clone().unwrap();
    raw.set_nonblocking(true).unwrap();
    let fragment =
        |opcode: u8| [&[opcode, 0x80 | 126, 3, 232, 0, 0, 0, 0], &[7; 1000][..]].concat();
    let mut written = 0;
    let mut opcode = 2;
    while let Ok(some) = io::Write::write(&mut raw, &fragment(opcode)) {
        opcode = 0;
        written += some as u64;
    }
    let meter = server.get_ref().unwrap().get_ref().meter();
    let mut most = 0;
    while meter.read() < written {
        advance(MS).await;
        let before = meter.read();
        let read = server.next().now_or_never();
        assert!(read.is_none(), "{read:?}");
        most = most.max(meter.read() - before);
    }
    assert_eq!(most, 4 * READ_BUFFER);
}

/// After the receive clock has expired, one read finds enough bytes for twelve seconds, and the
/// next a ping.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn bytes_that_were_read_before_a_ping_count() {
    let (server, _client) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let reads = Arc::<Mutex<VecDeque<Vec<u8>>>>::default();
    let transport = Metered::socket(Script {
        socket: server,
        reads: reads.clone(),
    });
    let meter = transport.meter();
    let server = WebSocketStream::from_raw_socket(transport, Role::Server, None).await;
    let config = off().min_data_rate(240).build().unwrap();
    let mut server = wrap(config, server).with_meter(meter);
    let fragment = |opcode: u8, length: u16| {
        let [high, low] = length.to_be_bytes();
        let head = [opcode, 0x80 | 126, high, low, 0, 0, 0, 0];
        [&head[..], &vec![7; length.into()]].concat()
    };
    reads.lock().unwrap().push_back(fragment(2, 200));
    assert!(server.next().now_or_never().is_none());
    advance(5 * SECOND).await;
    reads.lock().unwrap().push_back(fragment(0, 3000));
    let ping = vec![0x89, 0x80, 0, 0, 0, 0];
    reads.lock().unwrap().push_back(ping);
    advance(SECOND).await;
    tokio::task::yield_now().await;
    for _ in 0..50 {
        match server.next().now_or_never() {
            None => advance(MS).await,
            Some(Some(Ok(message))) => assert!(message.is_ping()),
            end => panic!("{end:?}"),
        }
    }
    assert_eq!(server.status().partial_bytes, 3216);
}

/// A socket without data, whose runtime finds these bytes, one chunk per read.
struct Script {
    socket: UnixStream,
    reads: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reads.lock().unwrap().pop_front() {
            None => Poll::Pending,
            Some(bytes) => {
                buf.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(io::Write::write(&mut self.socket, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// With TLS there is a second meter above, which must not count the backlog as read.
/// Guards rule 2.
#[tokio::test(start_paused = true)]
async fn an_answer_behind_a_backlog_counts_with_two_meters() {
    let (server, client) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    let below = Metered::socket(Unaware::READS_NOTHING(server));
    let meter = below.meter();
    let above = Metered::plaintext(below, &meter);
    let settings = Some(tungstenite_config());
    let server = WebSocketStream::from_raw_socket(above, Role::Server, settings).await;
    let config = pings().pong_evidence(PongEvidence::Pong).build().unwrap();
    let mut server = wrap(config, server).with_meter(meter);
    let mut client = WebSocket::from_raw_socket(client, Role::Client, None);
    assert!(server.next().now_or_never().is_none());
    advance(SECOND + MS).await;
    assert!(server.next().now_or_never().is_none());
    let Ok(Message::Ping(ping)) = client.read() else {
        panic!("no ping");
    };
    let fragment =
        |opcode: u8| [&[opcode, 0x80 | 126, 3, 232, 0, 0, 0, 0], &[7; 1000][..]].concat();
    let fragments = [fragment(2), fragment(0).repeat(59)].concat();
    io::Write::write_all(client.get_mut(), &fragments).unwrap();
    client.send(Message::Pong(ping)).unwrap();
    advance(2 * SECOND).await;
    for _ in 0..100 {
        advance(MS).await;
        let read = server.next().now_or_never();
        assert!(read.is_none(), "{read:?}");
    }
    assert_eq!(server.status().pongs_received, 1);
}
