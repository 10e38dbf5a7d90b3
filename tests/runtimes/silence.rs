//! Peers that fall silent, or whose pongs prove nothing.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ws_timeout::{CloseHandshake, CloseReason, PongEvidence};

use crate::evidence::say;
use crate::host::Host;
use crate::peers::{CLOSE, PING, PONG, bare, frame, payload, until_dropped};
use crate::{
    End, MS, Ours, PATIENCE, SECOND, SILENCE, connection, contract, limits, on_each_runtime,
};

#[test]
fn a_silent_peer_is_disconnected() {
    contract(
        Ours::Echo,
        limits().build().unwrap(),
        |tcp| until_dropped(bare(tcp)),
        |end| end.is(CloseReason::PongTimeout, CloseHandshake::Sent, SILENCE),
    );
}

/// Prints how long after its deadline each verdict comes.
#[test]
fn many_silent_peers_time_out_promptly() {
    const PEERS: usize = 200;
    on_each_runtime(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let host = Host::start(runtime);
        let config = Arc::new(limits().build().unwrap());
        let (ended, ends) = mpsc::channel();
        let peers: Vec<TcpStream> = (0..PEERS)
            .map(|_| {
                let peer = TcpStream::connect(address).unwrap();
                let (tcp, _) = listener.accept().unwrap();
                let (ended, config) = (ended.clone(), config.clone());
                host.spawn(async move {
                    let end = connection(runtime, tcp, Ours::Echo, config).await;
                    ended.send(end).unwrap();
                });
                bare(peer)
            })
            .collect();
        drop(ended);
        let mut late: Vec<Duration> = ends
            .iter()
            .map(|end| match end {
                End::TimedOut(verdict) if verdict.reason == CloseReason::PongTimeout => {
                    verdict.status.ping_unanswered.unwrap() - config.pong_timeout().unwrap()
                }
                end => panic!("{end:?}"),
            })
            .collect();
        assert_eq!(late.len(), PEERS);
        drop(peers);
        late.sort();
        let quartiles: Vec<Duration> = (0..=4).map(|n| late[(PEERS - 1) * n / 4]).collect();
        say(&format!("{runtime}: verdicts late by {quartiles:.1?}"));
        assert!(late[PEERS - 1] <= PATIENCE, "{quartiles:?}");
    });
}

/// Sends one pong after another with this payload, until the server has dropped the transport.
fn pongs(mut tcp: TcpStream, payload: &[u8]) {
    while tcp.write_all(&frame(PONG, payload)).is_ok() {
        thread::park_timeout(50 * MS);
    }
}

#[test]
fn an_unsolicited_pong_answers_no_ping() {
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
fn a_pong_that_comes_before_the_ping_does_not_answer_it() {
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

/// If everything received is a sign of life, so are such pongs.
#[test]
fn an_unsolicited_pong_is_a_sign_of_life() {
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
