//! Networks in which packets vanish silently. Each is the loopback of a network namespace that the
//! thread of a row enters, and that disappears with that thread, however it ends. Needs root, `ip`
//! and `nft`.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use ws_timeout::{CloseHandshake, CloseReason, PongEvidence, TimeoutConfigBuilder};

use crate::peers::{PING, PONG, bare, frame, payload};
use crate::{End, MS, Ours, SILENCE, converse, limits, on_each_runtime};

/// The packets that vanish.
#[derive(Clone, Copy)]
enum Lost {
    Both,
    /// What the server sends: its pings.
    Pings,
    /// What the peer sends: its answers.
    Answers,
}

/// What a peer does after the network is lost.
#[derive(Clone, Copy)]
enum Peer {
    Answers,
    /// It keeps sending pongs that answer nothing.
    Talks,
}

#[test]
fn a_peer_behind_a_black_hole_is_disconnected() {
    blackhole(Lost::Both, limits(), Peer::Answers);
}

#[test]
fn a_peer_that_receives_no_pings_is_disconnected() {
    blackhole(Lost::Pings, limits(), Peer::Answers);
}

#[test]
fn a_peer_that_talks_but_receives_no_pings_is_disconnected() {
    let config = limits().pong_evidence(PongEvidence::Pong);
    blackhole(Lost::Pings, config, Peer::Talks);
}

#[test]
fn a_peer_whose_answers_vanish_is_disconnected() {
    blackhole(Lost::Answers, limits(), Peer::Answers);
}

/// Lets the peer answer three pings, then drops the packets.
#[track_caller]
fn blackhole(lost: Lost, config: TimeoutConfigBuilder, peer: Peer) {
    let tried = thread::spawn(move || own_network().and_then(|()| vanish(lost, 1)));
    if let Err(why) = tried.join().unwrap() {
        let skipped = format!("skipped: no private network whose packets vanish, {why}\n");
        return io::stderr().write_all(skipped.as_bytes()).unwrap();
    }
    let config = config.build().unwrap();
    on_each_runtime(|runtime| {
        own_network().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (over, is_over) = channel::<()>();
        let peer = thread::spawn(move || {
            let mut tcp = bare(TcpStream::connect(address).unwrap());
            // Its data is sent although nothing is acknowledged.
            tcp.set_nodelay(true).unwrap();
            for _ in 0..3 {
                let ping = payload(&mut tcp, PING).unwrap();
                tcp.write_all(&frame(PONG, &ping)).unwrap();
            }
            vanish(lost, address.port()).unwrap();
            // The end of the connection does not get through either.
            while is_over.recv_timeout(50 * MS) == Err(RecvTimeoutError::Timeout) {
                if let Peer::Talks = peer {
                    tcp.write_all(&frame(PONG, b"")).unwrap();
                }
            }
        });
        let end = converse(runtime, &listener, Ours::Echo, config);
        drop(over);
        assert!(
            end.is(
                CloseReason::PongTimeout,
                CloseHandshake::Sent,
                SILENCE + 600 * MS
            ) && matches!(&end, End::TimedOut(verdict) if verdict.status.pongs_received == 3),
            "{end:?}"
        );
        peer.join().unwrap();
    });
}

/// Moves this thread, and all that it starts, into a network with only a loopback.
fn own_network() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"))?;
    run("ip", &["link", "set", "lo", "up"], "")
}

/// Drops packets to `port` on their way in, without a reply.
fn vanish(lost: Lost, port: u16) -> Result<(), String> {
    let to_server = format!("tcp dport {port} drop");
    let to_peer = format!("tcp sport {port} drop");
    let rules = match lost {
        Lost::Both => format!("{to_server}\n{to_peer}"),
        Lost::Pings => to_peer,
        Lost::Answers => to_server,
    };
    let hole = format!(
        "table ip hole {{
            chain in {{
                type filter hook input priority 0; policy accept;
                {rules}
            }}
        }}"
    );
    run("nft", &["-f", "-"], &hole)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let run = || {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().unwrap().write_all(input.as_bytes())?;
        child.wait_with_output()
    };
    match run() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
