//! A peer whose process is stopped: its kernel still acknowledges what arrives.

use std::net::TcpListener;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ws_timeout::{CloseHandshake, CloseReason};

use crate::process::Process;
use crate::{MS, Ours, SILENCE, converse, limits, on_each_runtime};

#[test]
fn a_peer_that_is_stopped_is_disconnected() {
    on_each_runtime(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Process::start("client", &[("ADDRESS", &address)]);
        let stopped = thread::spawn(move || {
            client.expect("answered");
            let id = Pid::from_raw(client.id().try_into().unwrap());
            kill(id, Signal::SIGSTOP).unwrap();
            client
        });
        let config = limits().build().unwrap();
        let end = converse(runtime, &listener, Ours::Echo, config);
        // Three pings were answered, the fourth was not.
        assert!(
            end.is(
                CloseReason::PongTimeout,
                CloseHandshake::Sent,
                SILENCE + 600 * MS
            ),
            "{end:?}"
        );
        stopped.join().unwrap();
    });
}
