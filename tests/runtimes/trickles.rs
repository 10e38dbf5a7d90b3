//! Peers that send or read too little: nothing, a byte now and then, or just enough.

use std::io::Write;
use std::thread;

use ws_timeout::{CloseHandshake, CloseReason};

use crate::peers::{CLOSE, PONG, REQUEST, bare, frame, until_dropped};
use crate::{End, MS, Ours, PATIENCE, SECOND, contract, limits};

#[test]
fn a_missing_handshake_times_out() {
    contract(
        Ours::Echo,
        limits().build().unwrap(),
        until_dropped,
        |end| {
            end.is(
                CloseReason::HandshakeTimeout,
                CloseHandshake::NotSent,
                SECOND,
            )
        },
    );
}

#[test]
fn a_trickling_handshake_times_out() {
    let peer = |mut tcp: std::net::TcpStream| {
        // Without the last byte, or the handshake might complete in time.
        for byte in &REQUEST[..REQUEST.len() - 1] {
            if tcp.write_all(&[*byte]).is_err() {
                break;
            }
            thread::park_timeout(20 * MS);
        }
        until_dropped(tcp);
    };
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        end.is(
            CloseReason::HandshakeTimeout,
            CloseHandshake::NotSent,
            SECOND,
        )
    });
}

#[test]
fn a_trickling_frame_is_aborted() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        tcp.write_all(&[0x82, 0xFE, 3, 232, 0, 0, 0, 0]).unwrap();
        while tcp.write_all(&[0]).is_ok() {
            thread::park_timeout(200 * MS);
        }
    };
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        matches!(end, End::TimedOut(verdict) if verdict.reason == CloseReason::SlowReceive
            && (5 * SECOND..=5 * SECOND + PATIENCE).contains(&verdict.status.age))
    });
}

#[test]
fn a_large_message_at_a_steady_rate_arrives() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        tcp.write_all(&[0x82, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0])
            .unwrap();
        for _ in 0..25 {
            thread::park_timeout(100 * MS);
            tcp.write_all(&vec![7; 0xFFFF / 25]).unwrap();
        }
        tcp.write_all(&[7; 0xFFFF % 25]).unwrap();
        tcp.write_all(&frame(CLOSE, &[3, 232])).unwrap();
        until_dropped(tcp);
    };
    // The message takes 2.5 seconds, in which no pong can arrive.
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        matches!(end, End::Closed(Some(1000), _))
    });
}

#[test]
fn a_peer_that_never_reads_is_disconnected() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        // It keeps its end open until the server's is closed, which a write then detects.
        tcp.set_write_timeout(Some(10 * SECOND)).unwrap();
        while tcp.write_all(&frame(PONG, &[])).is_ok() {
            thread::park_timeout(20 * MS);
        }
    };
    contract(Ours::Push, limits().build().unwrap(), peer, |end| {
        end.is(CloseReason::MessageTimeout, CloseHandshake::NotSent, SECOND)
    });
}
