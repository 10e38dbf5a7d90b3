//! Blocked threads, over real sockets: they must not disconnect a healthy peer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Metered, Received};

use crate::exact::wrap;
use crate::support::{MS, bare, frame, over};

/// Twenty healthy peers, whose pongs wait in the kernel while the one thread of their server is
/// blocked beyond the pong timeout: the readiness that the runtime has cached does not show them.
/// Guards rule 2.
#[test]
fn a_blocked_thread_does_not_disconnect_a_healthy_peer() {
    const PEERS: usize = 20;
    let config = bare()
        .ping_interval(100 * MS)
        .pong_timeout(300 * MS)
        .no_stall_tolerance()
        .jitter(0.5);
    let config = config.build().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();

    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut clients = tokio::task::JoinSet::new();
            for _ in 0..PEERS {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let url = format!("ws://{address}");
                clients.spawn(async {
                    let (mut client, _) =
                        tokio_tungstenite::client_async(url, stream).await.unwrap();
                    while let Some(Ok(_)) = client.next().await {}
                });
            }
            clients.join_all().await;
        });
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut sockets = Vec::new();
        for _ in 0..PEERS {
            let (stream, _) = listener.accept().await.unwrap();
            let socket = open(config, tokio_tungstenite::accept_async(stream))
                .await
                .unwrap();
            sockets.push(socket);
        }
        for _ in 0..5 {
            // Right after some ping was flushed: its pong has not been read.
            poll_fn(|cx| {
                for socket in &mut sockets {
                    let ended = socket.poll_next_unpin(cx);
                    assert!(
                        ended.is_pending(),
                        "a healthy peer was disconnected: {ended:?}"
                    );
                }
                let in_flight = sockets
                    .iter()
                    .any(|socket| socket.status().ping_unanswered.is_some());
                if in_flight {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;

            #[expect(
                clippy::disallowed_methods,
                reason = "the blocked thread is what this is about"
            )]
            std::thread::sleep(Duration::from_millis(420));

            // The task continues before the reactor has turned.
            for socket in &mut sockets {
                let ended = socket.next().now_or_never();
                assert!(
                    ended.is_none(),
                    "a healthy peer was disconnected: {ended:?}"
                );
            }
        }
    });
    drop(runtime);
    clients.join().unwrap();
}

/// The same for a write: the peer has read everything while the thread was blocked, and the runtime
/// has not noticed the room.
/// Guards rule 6.
#[test]
fn a_blocked_thread_does_not_disconnect_a_peer_that_reads() {
    const LENGTH: usize = 15 << 20;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, may_go) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        may_go.recv().unwrap();
        std::io::copy(&mut tcp, &mut std::io::sink()).unwrap()
    });

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tcp, _) = listener.accept().unwrap();
        tcp.set_nonblocking(true).unwrap();
        let transport = Metered::new(tokio::net::TcpStream::from_std(tcp).unwrap());
        let meter = transport.meter();
        let config = bare().message_timeout(300 * MS).no_stall_tolerance();
        let mut server = over(config, transport).await.with_meter(meter);
        // Some traffic before: the reactor has turned since the socket's clock began.
        assert_eq!(
            server.recv_timeout(20 * MS).await.unwrap(),
            Received::TimedOut
        );

        let mut send = pin!(server.send(Message::binary(vec![0; LENGTH])));
        let first = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx))).await;
        assert!(first.is_pending(), "the transport accepted everything");
        go.send(()).unwrap();

        #[expect(
            clippy::disallowed_methods,
            reason = "the blocked thread is what this is about"
        )]
        std::thread::sleep(Duration::from_millis(420));

        // The task continues before the reactor has turned.
        let second = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx))).await;
        assert!(
            !matches!(second, Poll::Ready(Err(_))),
            "a peer that reads was disconnected: {second:?}"
        );
        if second.is_pending() {
            send.await.unwrap();
        }
    });
    drop(runtime);
    assert!(reader.join().unwrap() > LENGTH as u64);
}

/// Returns how many bytes a connection on this machine accepts before its peer reads.
fn window() -> usize {
    use std::io::Write;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _unread = listener.accept().unwrap();
    tcp.set_nonblocking(true).unwrap();
    let mut taken = 0;
    while let Ok(bytes) = tcp.write(&[0; 4096]) {
        taken += bytes;
    }
    taken
}

/// While this thread is blocked the peer makes room. What the reactor has not noticed does not
/// count against the peer, even if the caller allows no time at all.
#[test]
fn a_blocked_thread_does_not_time_out_a_send() {
    use std::io::Read;

    let size = window() * 5 / 4;
    for within in [200 * MS, Duration::ZERO] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (go, signal) = std::sync::mpsc::channel();
        let peer = std::thread::spawn(move || {
            let mut tcp = listener.accept().unwrap().0;
            signal.recv().unwrap();
            tcp.read_to_end(&mut Vec::new()).unwrap()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
            let mut server = wrap(bare().build().unwrap(), socket);
            let mut sending = pin!(server.send_text_timeout("x".repeat(size), within));
            assert!(sending.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
            go.send(()).unwrap();
            std::thread::park_timeout(400 * MS);
            sending.await.unwrap();
        });
        assert!(peer.join().unwrap() > size);
    }
}

/// While this thread is blocked a message arrives in time, which the reactor has not noticed.
/// Guards rule 2.
#[test]
fn a_blocked_thread_does_not_time_out_a_receive() {
    use std::io::Write;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut peer = listener.accept().unwrap().0;
        let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
        let mut server = wrap(bare().build().unwrap(), socket);
        {
            let mut receiving = pin!(server.recv_timeout(200 * MS));
            assert!(receiving.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
            peer.write_all(&frame(1, b"in time")).unwrap();
            std::thread::park_timeout(400 * MS);
            let received = receiving.await.unwrap();
            assert_eq!(received, Received::Message(Message::text("in time")));
        }
        // Anything that arrived before the call is in time, whatever the call allows.
        peer.write_all(&frame(1, b"before")).unwrap();
        std::thread::park_timeout(400 * MS);
        let received = server.recv_timeout(Duration::ZERO).await.unwrap();
        assert_eq!(received, Received::Message(Message::text("before")));
        let received = server.recv_timeout(Duration::ZERO).await.unwrap();
        assert_eq!(received, Received::TimedOut);
    });
}
