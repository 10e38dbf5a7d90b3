//! Peers that end the connection in different ways, and peers that do not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use tungstenite::error::ProtocolError;
use ws_timeout::{CloseHandshake, CloseReason};

use crate::peers::{CLOSE, bare, frame, until_dropped};
use crate::{End, MS, Ours, PATIENCE, SECOND, contract, limits};

#[test]
fn a_peer_that_ignores_the_close_is_dropped() {
    let config = limits().no_ping_interval().idle_timeout(500 * MS);
    contract(
        Ours::Echo,
        config.build().unwrap(),
        |tcp| until_dropped(bare(tcp)),
        |end| {
            end.is(
                CloseReason::IdleTimeout,
                CloseHandshake::Unanswered,
                500 * MS,
            )
        },
    );
}

#[test]
fn an_end_without_a_close_is_a_failure_and_not_a_timeout() {
    let peer = |tcp| bare(tcp).shutdown(Shutdown::Both).unwrap();
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        use tungstenite::Error::Protocol;
        matches!(
            end,
            End::Socket(Protocol(ProtocolError::ResetWithoutClosingHandshake))
        )
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_reset_is_a_failure_and_not_a_timeout() {
    use nix::sys::socket::{setsockopt, sockopt::Linger};

    // With a linger time of zero, the kernel resets the connection when the socket is dropped.
    let peer = |tcp| {
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&bare(tcp), Linger, &at_once).unwrap();
    };
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        use std::io::ErrorKind::ConnectionReset;
        matches!(end, End::Socket(tungstenite::Error::Io(error)) if error.kind() == ConnectionReset)
    });
}

#[test]
fn a_close_is_answered_and_the_transport_dropped_though_the_peer_keeps_it() {
    let peer = |tcp| {
        let mut tcp = bare(tcp);
        tcp.write_all(&frame(CLOSE, &[3, 232])).unwrap();
        let mut wire = Vec::new();
        tcp.read_to_end(&mut wire).unwrap();
        assert!(wire.ends_with(&[0x88, 2, 3, 232]), "{wire:?}");
    };
    contract(
        Ours::Echo,
        limits().build().unwrap(),
        peer,
        |end| matches!(end, End::Closed(Some(1000), age) if *age <= PATIENCE),
    );
}

/// A client waits for its server to hang up, as RFC 6455 asks, but not forever.
#[test]
fn a_client_leaves_a_server_that_closes_and_keeps_the_transport() {
    let peer = |tcp: TcpStream| {
        let socket = tungstenite::accept(tcp).unwrap();
        let mut tcp = socket.get_ref().try_clone().unwrap();
        tcp.write_all(&[0x88, 2, 0x0F, 0xA1]).unwrap();
        let mut wire = Vec::new();
        tcp.read_to_end(&mut wire).unwrap();
        // A masked frame with the code and nothing else.
        let reply = wire.last_chunk::<8>().unwrap();
        assert!(reply.starts_with(&[0x88, 0x82]), "{wire:?}");
    };
    contract(
        Ours::Client,
        limits().build().unwrap(),
        peer,
        |end| matches!(end, End::Closed(Some(4001), age) if (SECOND..=SECOND + PATIENCE).contains(age)),
    );
}

#[test]
fn a_client_detects_a_silent_server() {
    let peer = |tcp: TcpStream| {
        let socket = tungstenite::accept(tcp).unwrap();
        until_dropped(socket.get_ref().try_clone().unwrap());
    };
    contract(Ours::Client, limits().build().unwrap(), peer, |end| {
        end.is(
            CloseReason::PongTimeout,
            CloseHandshake::Sent,
            crate::SILENCE,
        )
    });
}
