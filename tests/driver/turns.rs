//! How many turns the reactor gets before the socket decides.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_util::{FutureExt, StreamExt};
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::{CloseReason, TimeoutSocket};

use crate::common::off;
use crate::world::{
    Guarded, Hand, MS, Read, SECOND, Shared, Wire, awaiting_a_pong, data, reason, waits,
};

/// Lets the reactor turn `turns` times, a millisecond apart, and returns what a read finds after
/// the last.
fn turn(shared: &Shared, socket: &mut Guarded, turns: u32) -> Option<Option<Read>> {
    let mut read = None;
    for _ in 0..turns {
        assert!(read.is_none(), "{read:?}");
        let now = shared.world().now + MS;
        let alarm = shared.world().alarm;
        assert!(alarm.is_some_and(|alarm| alarm <= now), "{alarm:?}");
        shared.at(now);
        read = socket.next().now_or_never();
    }
    read
}

/// Guards rule 2.
#[test]
fn a_verdict_comes_after_enough_turns_of_the_reactor() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = awaiting_a_pong(&shared, off());
    // The first fire is that of the deadline. The last of the turns makes the pong visible.
    shared.at(2 * SECOND - MS);
    assert!(turn(&shared, &mut socket, 2).is_none());
    let pong = shared.pong();
    shared.world().unseen.push_back(pong);
    assert!(turn(&shared, &mut socket, 1).is_none());
    assert_eq!(socket.status().pongs_received, 1);

    // The turns for one ping do not count for the next, and a poll by the sending half costs none.
    while socket.status().pings_sent < 2 {
        let alarm = shared.world().alarm;
        shared.at(alarm.unwrap());
        waits(&mut socket);
    }
    let due = shared.world().now + SECOND;
    shared.at(due - MS);
    for _ in 0..2 {
        let now = shared.world().now + MS;
        shared.at(now);
        socket.send(data()).now_or_never().unwrap().unwrap();
        waits(&mut socket);
    }
    let read = turn(&shared, &mut socket, 1);
    assert_eq!(reason(read), CloseReason::PongTimeout);
}

/// Guards rule 2.
#[test]
fn the_turns_for_one_deadline_do_not_count_for_another() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = awaiting_a_pong(&shared, off().message_timeout(998 * MS));
    shared.at(SECOND + 4 * MS);
    socket.send(data()).now_or_never().unwrap().unwrap(); // so the next ping is far
    shared.world().full = true;
    let late = socket.send(data()).now_or_never(); // by second 2.002
    assert!(late.is_none());
    for turn in 0..2 {
        shared.at(2 * SECOND + turn * MS);
        waits(&mut socket);
    }
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
    shared.at(2 * SECOND + MS);
    let read = turn(&shared, &mut socket, 3);
    assert_eq!(reason(read), CloseReason::MessageTimeout);
}

/// Guards rules 1 and 2.
#[test]
fn the_turns_before_an_answer_do_not_count_after_a_block() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let mut socket = shared.socket(off().idle_timeout(2 * SECOND));
    waits(&mut socket);
    for turn in 0..2 {
        shared.at(2 * SECOND + turn * MS);
        waits(&mut socket);
    }
    shared.world().incoming.push_back(data());
    assert!(socket.next().now_or_never().is_some());
    let due = shared.world().now + 2 * SECOND;
    let mut turns = 0;
    while !shared.world().sent.iter().any(Message::is_close) {
        shared.at(due + turns * MS);
        waits(&mut socket);
        turns += 1;
    }
    // The first fire is that of an alarm that was set before.
    assert_eq!(turns, 4);
}

/// Guards rules 2 and 7.
#[test]
fn a_send_times_out_after_enough_turns_of_the_reactor() {
    for of_its_own in [true, false] {
        let shared = Shared::default();
        shared.world().turns_needed = 3;
        let limit = if of_its_own { 9 * SECOND } else { SECOND };
        let mut socket = shared.socket(off().message_timeout(limit));
        shared.world().full = true;
        let mut send = pin!(socket.send_text_timeout("x", 10 * SECOND - limit));
        assert!(send.as_mut().now_or_never().is_none());
        for late in 0..2 {
            shared.at(SECOND + late * MS);
            let sent = send.as_mut().now_or_never();
            assert!(sent.is_none(), "{late} {sent:?}");
        }
        shared.at(SECOND + 2 * MS);
        let sent = send.now_or_never();
        assert_eq!(
            reason(sent.map(Some)),
            CloseReason::MessageTimeout,
            "{of_its_own}"
        );
    }
}

/// Guards rule 2.
#[test]
fn a_handshake_times_out_after_enough_turns_of_the_reactor() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    for late in 0..2 {
        shared.at(SECOND + late * MS);
        assert!(opening.as_mut().now_or_never().is_none(), "{late}");
    }
    shared.at(SECOND + 2 * MS);
    let opened = opening.now_or_never().map(|opened| Some(opened.map(drop)));
    assert_eq!(reason(opened), CloseReason::HandshakeTimeout);
}

/// Guards rule 2.
#[test]
fn a_handshake_gets_all_its_turns_again_after_a_grace() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    shared.world().turns = true;
    let config = off().handshake_timeout(SECOND).stall_tolerance(SECOND);
    let config = config.build().unwrap();
    let handshake = std::future::pending::<Result<Wire, WsError>>();
    let mut opening = pin!(TimeoutSocket::open(config, Hand(shared.clone()), handshake));
    assert!(opening.as_mut().now_or_never().is_none());
    // A stall, whose third turn begins a grace; and another one when that is over.
    for begin in [5 * SECOND, 12 * SECOND] {
        for turn in 0..3 {
            shared.at(begin + turn * MS);
            let opened = opening.as_mut().now_or_never();
            assert!(opened.is_none() || (begin > 10 * SECOND && turn == 2));
        }
    }
    let alarm = shared.world().alarm;
    assert!(alarm.is_none(), "no verdict in the third turn: {alarm:?}");
}

/// A dozen healthy peers, whose messages wait in the kernel while the thread is blocked beyond
/// their limit. In one turn the reactor notices one socket.
/// Guards rule 2.
#[test]
fn tokio_learns_of_every_socket_before_a_verdict() {
    use std::io::Write;
    use tokio_tungstenite::WebSocketStream;

    const MASKED_TEXT: [u8; 7] = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_io_events_per_tick(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = off().idle_timeout(SECOND).build().unwrap();
        let (mut clients, mut sockets) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            clients.push(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_nonblocking(true).unwrap();
            let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
            let socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
            sockets.push(ws_timeout::runtime::tokio::wrap(config, socket));
        }
        // The first events of a socket are about room to write.
        for _ in 0..20 {
            for socket in &mut sockets {
                assert!(socket.next().now_or_never().is_none());
            }
            tokio::time::sleep(MS).await;
        }

        for client in &mut clients {
            client.write_all(&MASKED_TEXT).unwrap();
        }
        std::thread::park_timeout(1200 * MS);
        poll_fn(|cx| {
            sockets.retain_mut(|socket| {
                let read = socket.poll_next_unpin(cx);
                let cause = socket.status().cause;
                assert_eq!(cause, None, "a healthy peer was cut off: {read:?}");
                read.is_pending()
            });
            if sockets.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    });
}
