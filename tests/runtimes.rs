//! One contract for every runtime: a guarded server on a real socket, and peers that behave and misbehave,
//! each a thread with a blocking socket. Bounds in time are lower bounds, since a busy machine may be late
//! but a limit is never cut short; the verdict tells the rest.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tungstenite::{Message, WebSocket};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{CloseReason, Closing, Error, Metered, TimeoutConfig, TimeoutSocket, Timer};

type Failure = Error<tungstenite::Error>;

/// How a guarded connection ended, and at what age.
#[derive(Debug)]
enum End {
    Closed,
    Failed,
    TimedOut(CloseReason, Closing, Duration),
}

/// What the server does with its connection.
#[derive(Clone, Copy)]
enum Server {
    Echo,
    /// Sends without end.
    Push,
}

/// Serves one connection of the listener on a runtime.
type Serve = fn(TcpListener, TimeoutConfig, Server) -> End;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn on_tokio(listener: TcpListener, config: TimeoutConfig, server: Server) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(tokio_connection(listener, config, server))
}

fn on_tokio_with_threads(listener: TcpListener, config: TimeoutConfig, server: Server) -> End {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let served = runtime.spawn(tokio_connection(listener, config, server));
    runtime.block_on(served).unwrap()
}

async fn tokio_connection(listener: TcpListener, config: TimeoutConfig, server: Server) -> End {
    use tokio_tungstenite::accept_async_with_config;
    use ws_timeout::runtime::tokio::open;

    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let transport = Metered::new(listener.accept().await.unwrap().0);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    match open(config, handshake).await {
        Ok(socket) => converse(socket.with_meter(meter), server).await,
        Err(error) => end_of(error),
    }
}

fn on_smol(listener: TcpListener, config: TimeoutConfig, server: Server) -> End {
    use async_tungstenite::accept_async_with_config;
    use ws_timeout::runtime::smol::open;

    smol::block_on(async {
        let listener = smol::net::TcpListener::try_from(listener).unwrap();
        let transport = Metered::new(listener.accept().await.unwrap().0);
        let meter = transport.meter();
        let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
        match open(config, handshake).await {
            Ok(socket) => converse(socket.with_meter(meter), server).await,
            Err(error) => end_of(error),
        }
    })
}

fn on_async_std(listener: TcpListener, config: TimeoutConfig, server: Server) -> End {
    use async_tungstenite::accept_async_with_config;
    use ws_timeout::runtime::async_std::open;

    async_std::task::block_on(async {
        let listener = async_std::net::TcpListener::from(listener);
        let transport = Metered::new(listener.accept().await.unwrap().0);
        let meter = transport.meter();
        let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
        match open(config, handshake).await {
            Ok(socket) => converse(socket.with_meter(meter), server).await,
            Err(error) => end_of(error),
        }
    })
}

async fn converse<S, T>(mut socket: TimeoutSocket<S, T>, server: Server) -> End
where
    S: Stream<Item = Result<Message, tungstenite::Error>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin,
    T: Timer + Unpin,
{
    if let Server::Push = server {
        while socket.send(Message::binary(vec![0; 1 << 16])).await.is_ok() {}
    }
    while let Some(message) = socket.next().await {
        match message {
            Ok(message) if message.is_text() || message.is_binary() => {
                // Why a send failed, the stream tells.
                let _ = socket.send(message).await;
            }
            Ok(_) => {}
            Err(error) => return end_of(error),
        }
    }
    End::Closed
}

fn end_of(error: Failure) -> End {
    match error {
        Error::TimedOut(verdict) => {
            End::TimedOut(verdict.reason, verdict.closing, verdict.status.age)
        }
        _ => End::Failed,
    }
}

/// Plays `peer` against a server on each runtime; the rows run side by side.
#[track_caller]
fn contract(config: TimeoutConfig, server: Server, peer: fn(TcpStream), right: fn(&End) -> bool) {
    let runtimes: [(&str, Serve); 4] = [
        ("tokio, one thread", on_tokio),
        ("tokio, threads", on_tokio_with_threads),
        ("smol", on_smol),
        ("async-std", on_async_std),
    ];
    thread::scope(|scope| {
        for (name, serve) in runtimes {
            scope.spawn(move || {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let peer = thread::spawn(move || peer(TcpStream::connect(address).unwrap()));
                let end = serve(listener, config, server);
                assert!(right(&end), "{name}: {end:?}");
                peer.join().unwrap();
            });
        }
    });
}

fn limits() -> ws_timeout::TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .handshake_timeout(SECOND)
        .message_timeout(SECOND)
        .idle_timeout(30 * SECOND)
        .ping_interval(200 * MS)
        .pong_timeout(SECOND)
        .close_timeout(SECOND)
        .jitter(0.0)
}

fn handshake(tcp: TcpStream) -> WebSocket<TcpStream> {
    tungstenite::client("ws://localhost/", tcp).unwrap().0
}

/// Waits until the server has dropped the transport.
fn until_dropped(mut tcp: TcpStream) {
    let mut buffer = [0; 4096];
    while tcp.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

#[test]
fn a_living_peer_stays_and_closes() {
    let peer = |tcp| {
        let mut socket = handshake(tcp);
        socket.send(Message::text("hello")).unwrap();
        let mut pings = 0;
        let mut echoes = 0;
        while pings < 5 {
            match socket.read().unwrap() {
                Message::Ping(_) => pings += 1,
                Message::Text(text) => echoes += u32::from(text == "hello"),
                other => panic!("{other:?}"),
            }
            socket.flush().unwrap();
        }
        assert_eq!(echoes, 1);
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    };
    contract(limits().build().unwrap(), Server::Echo, peer, |end| {
        matches!(end, End::Closed)
    });
}

#[test]
fn a_silent_peer_is_let_go() {
    let peer = |tcp| until_dropped(handshake(tcp).get_ref().try_clone().unwrap());
    contract(
        limits().build().unwrap(),
        Server::Echo,
        peer,
        |end| matches!(end, End::TimedOut(CloseReason::PongTimeout, Closing::Told, age) if *age >= 1200 * MS),
    );
}

#[test]
fn a_peer_that_never_reads_is_let_go() {
    let peer = |tcp| {
        let socket = handshake(tcp);
        // It holds its end until the server's is gone, which a write then notices.
        let mut tcp = socket.get_ref().try_clone().unwrap();
        tcp.set_write_timeout(Some(10 * SECOND)).unwrap();
        while tcp.write_all(&[0x8A, 0x80, 0, 0, 0, 0]).is_ok() {
            thread::park_timeout(20 * MS);
        }
    };
    contract(
        limits().build().unwrap(),
        Server::Push,
        peer,
        |end| matches!(end, End::TimedOut(CloseReason::MessageTimeout, Closing::Unwritten, age) if *age >= SECOND),
    );
}

#[test]
fn a_peer_that_ignores_the_close_is_dropped() {
    let peer = |tcp| until_dropped(handshake(tcp).get_ref().try_clone().unwrap());
    let config = limits()
        .no_ping_interval()
        .idle_timeout(500 * MS)
        .build()
        .unwrap();
    contract(
        config,
        Server::Echo,
        peer,
        |end| matches!(end, End::TimedOut(CloseReason::IdleTimeout, Closing::Ignored, age) if *age >= 500 * MS),
    );
}

#[test]
fn a_handshake_that_never_comes_is_given_up() {
    contract(
        limits().build().unwrap(),
        Server::Echo,
        until_dropped,
        |end| matches!(end, End::TimedOut(CloseReason::HandshakeTimeout, Closing::Unwritten, age) if *age >= SECOND),
    );
}

#[test]
fn a_frame_that_trickles_is_cut_off() {
    let peer = |tcp| {
        let mut tcp = handshake(tcp).get_ref().try_clone().unwrap();
        tcp.write_all(&[0x82, 0xFE, 3, 232, 0, 0, 0, 0]).unwrap();
        while tcp.write_all(&[0]).is_ok() {
            thread::park_timeout(200 * MS);
        }
    };
    contract(
        limits().build().unwrap(),
        Server::Echo,
        peer,
        |end| matches!(end, End::TimedOut(CloseReason::SlowReceive, _, age) if *age >= 5 * SECOND),
    );
}

#[test]
fn an_end_without_a_close_is_a_failure_and_no_timeout() {
    let peer = |tcp| {
        let socket = handshake(tcp);
        socket.get_ref().shutdown(Shutdown::Both).unwrap();
    };
    contract(limits().build().unwrap(), Server::Echo, peer, |end| {
        matches!(end, End::Failed)
    });
}

#[test]
fn a_close_is_answered_and_the_transport_dropped_though_the_peer_keeps_it() {
    let peer = |tcp| {
        let mut tcp = handshake(tcp).get_ref().try_clone().unwrap();
        tcp.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 232]).unwrap();
        let mut wire = Vec::new();
        tcp.read_to_end(&mut wire).unwrap();
        assert!(wire.ends_with(&[0x88, 2, 3, 232]), "{wire:?}");
    };
    contract(limits().build().unwrap(), Server::Echo, peer, |end| {
        matches!(end, End::Closed)
    });
}

#[test]
fn a_large_message_at_a_steady_rate_arrives() {
    let peer = |tcp| {
        let mut tcp = handshake(tcp).get_ref().try_clone().unwrap();
        tcp.write_all(&[0x82, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0])
            .unwrap();
        for _ in 0..25 {
            thread::park_timeout(100 * MS);
            tcp.write_all(&vec![7; 0xFFFF / 25]).unwrap();
        }
        tcp.write_all(&[7; 0xFFFF % 25]).unwrap();
        tcp.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 232]).unwrap();
        until_dropped(tcp);
    };
    // It takes 2.5 seconds, in which no pong can come.
    contract(limits().build().unwrap(), Server::Echo, peer, |end| {
        matches!(end, End::Closed)
    });
}

#[test]
fn the_alarm_of_async_io_is_never_early_and_rings_once() {
    use std::future::poll_fn;
    use std::task::Poll;

    let mut timer = ws_timeout::runtime::smol::Timer::new();
    smol::block_on(async {
        for length in [0, 1, 30] {
            let at = timer.now().checked_add(length * MS).unwrap();
            timer.set(at);
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(timer.now() >= at);
        }
        // Set anew before it rang: only the later one rings.
        let start = timer.now();
        timer.set(start.checked_add(10 * MS).unwrap());
        poll_fn(|cx| {
            assert!(timer.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        timer.set(start.checked_add(50 * MS).unwrap());
        poll_fn(|cx| timer.poll(cx)).await;
        assert!(timer.now().since(start) >= 50 * MS);
    });
}
