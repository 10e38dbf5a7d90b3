//! Peers that fall silent, or whose pongs prove nothing.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use ws_timeout::{CloseHandshake, CloseReason, PongEvidence};

use crate::peers::{CLOSE, PING, PONG, bare, frame, payload, until_dropped};
use crate::{End, MS, Ours, SECOND, SILENCE, contract, limits};

#[test]
fn a_silent_peer_is_let_go() {
    contract(
        Ours::Echo,
        limits().build().unwrap(),
        |tcp| until_dropped(bare(tcp)),
        |end| end.is(CloseReason::PongTimeout, CloseHandshake::Sent, SILENCE),
    );
}

/// Sends one pong after another with this payload, until the server has dropped the transport.
fn pongs(mut tcp: TcpStream, payload: &[u8]) {
    while tcp.write_all(&frame(PONG, payload)).is_ok() {
        thread::park_timeout(50 * MS);
    }
}

#[test]
fn a_pong_that_was_not_asked_for_answers_no_ping() {
    let config = limits().pong_evidence(PongEvidence::Pong);
    contract(
        Ours::Echo,
        config.build().unwrap(),
        |tcp| pongs(bare(tcp), b""),
        |end| end.is(CloseReason::PongTimeout, CloseHandshake::Sent, SILENCE),
    );
}

#[test]
fn a_wrong_pong_answers_no_ping() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        let mut ping = payload(&mut tcp, PING).unwrap();
        ping[0] ^= 1;
        pongs(tcp, &ping);
    };
    let config = limits().pong_evidence(PongEvidence::Pong);
    contract(Ours::Echo, config.build().unwrap(), peer, |end| {
        end.is(CloseReason::PongTimeout, CloseHandshake::Sent, SILENCE)
    });
}

#[test]
fn the_pong_of_an_earlier_ping_answers_no_other() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        let first = payload(&mut tcp, PING).unwrap();
        pongs(tcp, &first);
    };
    let config = limits().pong_evidence(PongEvidence::Pong);
    contract(Ours::Echo, config.build().unwrap(), peer, |end| {
        // The first ping was answered, the second was not.
        end.is(
            CloseReason::PongTimeout,
            CloseHandshake::Sent,
            SILENCE + 200 * MS,
        ) && matches!(end, End::TimedOut(verdict) if verdict.status.pongs_received == 1
                && verdict.status.pings_sent == 2)
    });
}

#[test]
fn a_pong_that_comes_before_the_ping_answers_it_in_no_way() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        tcp.write_all(&frame(PONG, b"too soon").repeat(100))
            .unwrap();
        until_dropped(tcp);
    };
    for evidence in [PongEvidence::Any, PongEvidence::Pong] {
        let config = limits().pong_evidence(evidence);
        contract(Ours::Echo, config.build().unwrap(), peer, |end| {
            end.is(CloseReason::PongTimeout, CloseHandshake::Sent, SILENCE)
        });
    }
}

/// Where all that is heard is a sign of life, such pongs are one too.
#[test]
fn a_pong_that_was_not_asked_for_is_a_sign_of_life() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        for _ in 0..60 {
            tcp.write_all(&frame(PONG, b"")).unwrap();
            thread::park_timeout(50 * MS);
        }
        tcp.write_all(&frame(CLOSE, &[3, 232])).unwrap();
        until_dropped(tcp);
    };
    let config = limits().pong_evidence(PongEvidence::Any);
    contract(
        Ours::Echo,
        config.build().unwrap(),
        peer,
        |end| matches!(end, End::Closed(Some(1000), age) if *age >= 3 * SECOND),
    );
}
