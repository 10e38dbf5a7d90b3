//! A peer that sends faster than the program reads, and what its backlog proves.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncReadExt;
use tungstenite::Message;
use ws_timeout::{CloseReason, Metered, PongEvidence};

use crate::common::off;
use crate::world::{Guarded, MS, SECOND, Shared, awaiting_a_pong, data, read_on, reason, waits};

/// A peer that sends faster than the program reads: its unanswered ping times out after 32 MiB,
/// because by then everything that had arrived by the deadline has been read.
/// Guards rule 2.
#[test]
fn a_peer_that_keeps_its_reader_busy_still_times_out() {
    const MIB: usize = 1 << 20;
    let busy = |metered: bool, pong_after: usize| {
        let shared = Shared::default();
        let config = off()
            .ping_interval(SECOND)
            .pong_timeout(SECOND)
            .pong_evidence(PongEvidence::Pong);
        let mut socket = awaiting_a_pong(&shared, config);
        let mut io = Metered::new(tokio::io::repeat(0));
        if metered {
            socket = socket.with_meter(io.meter());
        }
        shared.at(2 * SECOND);
        let payload = vec![0; if metered { 1 } else { MIB }];
        for read in 0..50 {
            if read == pong_after {
                let pong = shared.pong();
                shared.world().incoming.push_back(pong);
            }
            let message = Message::binary(payload.clone());
            shared.world().incoming.push_back(message);
            if metered {
                let mut buffer = vec![0; MIB + 2];
                smol::block_on(io.read_exact(&mut buffer)).unwrap();
            }
            match read_on(&mut socket) {
                Some(Some(Ok(_))) => {}
                read_error => {
                    assert_eq!(reason(read_error), CloseReason::PongTimeout);
                    return Some(read);
                }
            }
        }
        None
    };
    for metered in [false, true] {
        assert_eq!(busy(metered, 50), Some(33), "metered: {metered}");
        // A live peer whose pong is behind all of that.
        assert_eq!(busy(metered, 32), None, "metered: {metered}");
    }
}

/// The sending half decides its own deadlines, no matter what the reading half has left unread.
/// Guards rule 2.
#[test]
fn a_trickle_of_input_does_not_hold_off_the_verdict_on_a_write() {
    let shared = Shared::default();
    shared.world().turns_needed = 3;
    let config = off().message_timeout(SECOND).min_data_rate(1000);
    let mut io = Metered::new(tokio::io::repeat(0));
    let mut socket = shared.socket(config).with_meter(io.meter());
    // The receive clock allows five seconds at first, then a byte per millisecond: it has always
    // just expired, and three turns would be needed to prove it.
    smol::block_on(io.read_exact(&mut [0])).unwrap();
    waits(&mut socket);
    shared.at(5 * SECOND - MS);
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    let start = shared.world().now;
    loop {
        let now = shared.world().now + MS;
        shared.at(now);
        if now > 5 * SECOND + MS {
            smol::block_on(io.read_exact(&mut [0])).unwrap();
        }
        if let Some(read) = socket.next().now_or_never() {
            assert_eq!(reason(Some(read)), CloseReason::MessageTimeout);
            break;
        }
        assert!(now < start + 1100 * MS, "held off");
    }
}

/// Guards rules 2 and 4.
#[test]
fn a_peer_that_never_pauses_does_not_hold_off_the_verdict_on_a_write() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().message_timeout(SECOND));
    waits(&mut socket);
    shared.world().full = true;
    assert!(socket.send(data()).now_or_never().is_none());
    for millis in 0..=1000 {
        shared.world().incoming.push_back(data());
        shared.at(millis * MS);
        let read = smol::block_on(socket.next());
        assert!(matches!(read, Some(Ok(_))), "{read:?}");
    }
    shared.world().incoming.push_back(data());
    let read = smol::block_on(socket.next());
    assert_eq!(reason(Some(read)), CloseReason::MessageTimeout);
}

/// The peer sends messages of a MiB, and the verdict comes after `mebibytes` of them.
#[track_caller]
fn assert_verdict_after(shared: &Shared, socket: &mut Guarded, mebibytes: usize) {
    for read in 0..=mebibytes {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        match read_on(socket) {
            Some(Some(Ok(_))) => {}
            end => {
                assert_eq!(reason(end), CloseReason::PongTimeout);
                assert_eq!(read, mebibytes);
                return;
            }
        }
    }
    panic!("no verdict after {mebibytes} MiB");
}

/// 32 MiB prove what had arrived when the first of them was read, and nothing later.
/// Guards rule 2.
#[test]
fn a_backlog_proves_what_had_arrived_when_it_began() {
    let shared = Shared::default();
    let config = off()
        .heartbeat_interval(500 * MS)
        .pong_evidence(PongEvidence::Pong);
    let mut socket = awaiting_a_pong(&shared, config);
    // The alarm fires half a second before the pong is due.
    shared.at(SECOND + 500 * MS);
    for _ in 0..32 {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        assert!(matches!(socket.next().now_or_never(), Some(Some(Ok(_)))));
    }
    shared.at(2 * SECOND);
    assert_verdict_after(&shared, &mut socket, 34);
}

/// Guards rule 2.
#[test]
fn a_backlog_that_was_read_to_its_end_is_not_part_of_the_next() {
    let shared = Shared::default();
    let config = off().pong_evidence(PongEvidence::Pong);
    let mut socket = awaiting_a_pong(&shared, config);
    shared.at(2 * SECOND);
    for _ in 0..20 {
        let message = Message::binary(vec![0; 1 << 20]);
        shared.world().incoming.push_back(message);
        assert!(matches!(socket.next().now_or_never(), Some(Some(Ok(_)))));
    }
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    shared.world().incoming.push_back(Message::Ping("x".into()));
    assert!(socket.next().now_or_never().is_some());
    waits(&mut socket);
    // The next ping is in flight, and its pong is due in a second.
    assert_eq!(socket.status().ping_unanswered, Some(Duration::ZERO));
    shared.at(3 * SECOND);
    assert_verdict_after(&shared, &mut socket, 33);
}
