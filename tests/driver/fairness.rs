//! When the socket stops reading: to let other tasks run, or because the peer does not read its
//! pongs.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::{CloseReason, Metered, PongEvidence, TimeoutConfigBuilder, TimeoutSocket};

use crate::common::off;
use crate::world::{
    Guarded, Hand, MS, SECOND, Shared, Woken, awaiting_a_pong, data, reason, waits,
};

/// The socket yields after 32 messages, even though there are more, among them the answer to the ping.
/// Guards rule 23.
#[test]
fn a_task_that_always_finds_a_message_yields_without_a_verdict() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().pong_evidence(PongEvidence::Pong));
    let pong = shared.pong();
    shared.world().incoming.extend(vec![data(); 40]);
    shared.world().incoming.push_back(pong);
    shared.at(2 * SECOND);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut messages = 0;
    while let Poll::Ready(read) = socket.poll_next_unpin(&mut cx) {
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
        messages += 1;
    }
    assert_eq!(messages, 32);
    assert!(woken.0.load(Ordering::Relaxed), "no task polls it again");
    while let Poll::Ready(read) = socket.poll_next_unpin(&mut cx) {
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
        messages += 1;
    }
    assert_eq!(messages, 40);
    assert_eq!(socket.status().pongs_received, 1);
}

/// A metered transport yields after four reads, which may all be part of one message.
/// Guards rule 23.
#[test]
fn a_metered_transport_yields_without_a_verdict() {
    let shared = Shared::default();
    let mut io = Metered::new(tokio::io::repeat(0));
    let mut socket = awaiting_a_pong(&shared, off()).with_meter(io.meter());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut buffer = [0; 10];
    let mut reads = 0;
    while pin!(io.read(&mut buffer)).poll(&mut cx).is_ready() {
        reads += 1;
    }
    assert_eq!(reads, 4);
    assert!(woken.0.load(Ordering::Relaxed), "no task polls it again");
    // The bytes that it has counted are a sign of life at second two, and the next ping goes out.
    shared.at(2 * SECOND);
    waits(&mut socket);
    shared.at(3 * SECOND);
    waits(&mut socket);
    assert!(socket.status().cause.is_none());
    // Over a transport that has not yielded, the same poll is a verdict.
    socket = socket.with_meter(Metered::new(()).meter());
    let read = socket.next().now_or_never();
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 24.
#[test]
fn nothing_is_read_from_a_peer_that_does_not_read_its_pongs() {
    const PINGS: usize = 3000;
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    let read_all = |socket: &mut Guarded| {
        while let Some(read) = socket.next().now_or_never() {
            assert!(matches!(read, Some(Ok(_))), "{read:?}");
        }
    };
    shared.world().incoming.extend(vec![ping; PINGS]);
    shared.world().full = true;
    for _ in 0..PINGS {
        read_all(&mut socket);
    }
    // 256 KiB of pongs, of 131 bytes each at most.
    let reads = shared.world().reads as usize;
    assert!((2000..2010).contains(&reads), "{reads}");

    shared.world().full = false;
    for _ in 0..PINGS {
        read_all(&mut socket);
    }
    assert_eq!(shared.world().reads as usize, PINGS);
}

/// Guards rule 24.
#[test]
fn a_peer_that_does_not_read_its_pongs_is_disconnected() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 3000]);
    shared.world().full = true;
    // Until the socket stops reading.
    for _ in 0..3000 {
        let _ = socket.next().now_or_never();
    }
    assert!(!shared.world().incoming.is_empty());
    let read = loop {
        let now = shared.world().now + MS;
        shared.at(now);
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => assert!(now < 5 * SECOND, "it stays"),
            read => break read,
        }
    };
    assert_eq!(reason(read), CloseReason::MessageTimeout);
}

/// Guards rule 24.
#[test]
fn pongs_that_answer_nothing_are_limited_like_pings() {
    let shared = Shared::default();
    let mut socket = awaiting_a_pong(&shared, off().max_ping_rate(1));
    // The pong that answers is not counted.
    let pong = shared.pong();
    shared.world().incoming.push_back(pong.clone());
    waits(&mut socket);
    for pongs in 1.. {
        shared.world().incoming.push_back(pong.clone());
        match smol::block_on(socket.next()) {
            // The last of them brings the verdict.
            Some(Ok(_)) => assert!(pongs <= 61, "{pongs} pongs"),
            read => {
                assert_eq!(reason(Some(read)), CloseReason::PingFlood);
                assert_eq!(pongs, 62);
                break;
            }
        }
    }
}

/// A byte transport that cannot ask the kernel.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<VecDeque<u8>>>);

impl Bytes {
    fn arrive(&self, bytes: impl IntoIterator<Item = u8>) {
        self.0.lock().unwrap().extend(bytes);
    }

    fn unread(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut left = self.0.lock().unwrap();
        if left.is_empty() {
            return Poll::Pending;
        }
        let some = left.len().min(buf.remaining());
        buf.put_slice(&left.drain(..some).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Bytes {
    /// A metered server over this transport.
    fn socket(
        &self,
        shared: &Shared,
        config: TimeoutConfigBuilder,
        gives_meter: bool,
    ) -> TimeoutSocket<WebSocketStream<Metered<Self>>, Hand> {
        shared.world().turns = true;
        let transport = Metered::new(self.clone());
        let meter = transport.meter();
        let settings = Some(ws_timeout::message::tungstenite_config());
        let socket = WebSocketStream::from_raw_socket(transport, Role::Server, settings);
        let config = config.build().unwrap();
        let socket = TimeoutSocket::new(config, Hand(shared.clone()), smol::block_on(socket));
        match gives_meter {
            true => socket.with_meter(meter),
            false => socket,
        }
    }
}

/// A masked binary message of `length` bytes.
fn binary(length: u16) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(vec![7; length.into()]);
    frame
}

/// The request arrives in time and takes more reads than a turn allows, and the thread is blocked
/// past the deadline.
/// Guards rule 23.
#[test]
fn a_handshake_that_has_arrived_and_takes_many_reads_is_not_too_late() {
    let shared = Shared::default();
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).stall_tolerance(SECOND);
    let bytes = Bytes::default();
    let handshake = tokio_tungstenite::accept_async(Metered::new(bytes.clone()));
    let opening = TimeoutSocket::open(config.build().unwrap(), Hand(shared.clone()), handshake);
    let mut opening = pin!(opening);
    assert!(opening.as_mut().now_or_never().is_none());
    let cookie = "x".repeat(20_000);
    bytes.arrive(
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Cookie: {cookie}\r\n\r\n"
        )
        .into_bytes(),
    );
    for late in 0..100 {
        shared.at(1500 * MS + late * MS);
        if let Some(opened) = opening.as_mut().now_or_never() {
            assert!(opened.is_ok(), "{:?}", opened.map(drop));
            return;
        }
    }
    panic!("it does not open");
}

/// This holds whether or not the socket was given the meter.
/// Guards rule 23.
#[test]
fn a_message_that_has_arrived_and_takes_many_reads_is_not_silence() {
    for gives_meter in [true, false] {
        let shared = Shared::default();
        let bytes = Bytes::default();
        let config = off().idle_timeout(SECOND).stall_tolerance(SECOND);
        let mut socket = bytes.socket(&shared, config, gives_meter);
        assert!(socket.next().now_or_never().is_none());
        bytes.arrive(binary(40_000));
        let read = (0..100).find_map(|late| {
            shared.at(1500 * MS + late * MS);
            socket.next().now_or_never()
        });
        assert!(matches!(read, Some(Some(Ok(_)))), "{gives_meter}: {read:?}");
        assert_eq!(socket.status().cause, None, "{gives_meter}");
    }
}

/// Guards rule 13.
#[test]
fn unread_input_is_read_though_the_transport_yields() {
    let shared = Shared::default();
    let bytes = Bytes::default();
    let mut socket = bytes.socket(&shared, off().max_ping_rate(1), true);
    bytes.arrive([0x89, 0x80, 0, 0, 0, 0].repeat(70));
    bytes.arrive(binary(5000).repeat(10));
    let end = loop {
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => {}
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::PingFlood);
    assert_eq!(bytes.unread(), 0);
}

/// What the peer sent before is read before a verdict on its silence.
/// Guards rule 24.
#[test]
fn a_peer_that_dies_with_its_pongs_unread_is_detected_without_a_message_timeout() {
    let shared = Shared::default();
    let config = off().idle_timeout(10 * SECOND).close_timeout(5 * SECOND);
    let mut socket = shared.socket(config);
    let ping = Message::Ping(vec![7; 125].into());
    shared.world().incoming.extend(vec![ping; 2100]);
    shared.world().full = true;
    let end = loop {
        let now = shared.world().now + 10 * MS;
        shared.at(now);
        match socket.next().now_or_never() {
            Some(Some(Ok(_))) | None => assert!(now < 60 * SECOND, "it stays"),
            end => break end,
        }
    };
    assert_eq!(reason(end), CloseReason::IdleTimeout);
}

/// Guards rule 24.
#[test]
fn pongs_in_text_that_answer_nothing_are_limited_like_pings() {
    let shared = Shared::default();
    let config = off().max_ping_rate(1);
    let mut socket = shared.socket(config).with_text_heartbeat("ping", "pong");
    for pongs in 1..100 {
        shared.world().incoming.push_back(Message::text("pong"));
        if let Some(read) = socket.next().now_or_never() {
            assert_eq!(reason(Some(read)), CloseReason::PingFlood);
            assert_eq!(pongs, 61);
            return;
        }
    }
    panic!("no verdict");
}

/// At each yield a different part of a frame is left over.
/// Guards rule 23.
#[test]
fn a_peer_that_pings_without_pause_has_not_begun_a_message() {
    let shared = Shared::default();
    let bytes = Bytes::default();
    let mut socket = bytes.socket(&shared, off().min_data_rate(240), true);
    let ping = [&[0x89, 0x80 | 125, 0, 0, 0, 0], &[7; 125][..]].concat();
    for tenth in 0..100 {
        shared.at(100 * MS * tenth);
        bytes.arrive(ping.repeat(400));
        for _ in 0..300 {
            match socket.next().now_or_never() {
                None | Some(Some(Ok(Message::Ping(_)))) => {}
                end => panic!("{end:?} after {tenth} tenths of a second"),
            }
        }
    }
    assert_eq!(socket.status().partial_bytes, 0);
}
