//! The parts that other processes play.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ws_timeout::{Recorder, TimeoutConfig, Timeouts};

use crate::evidence::Verdict;
use crate::host::{Host, Runtime};
use crate::{End, Ours, guarded, peers};

/// A client that answers pings, and prints a line once it has answered three.
pub fn client() {
    let mut socket = peers::handshake(TcpStream::connect(variable("ADDRESS")).unwrap());
    let mut pings = 0;
    while let Ok(message) = socket.read() {
        socket.flush().unwrap();
        pings += u32::from(message.is_ping());
        if pings == 3 {
            eprintln!("answered");
        }
    }
}

/// A server on the runtime that the variable names, with its limits from the environment. It prints
/// where it listens, and how each of its connections ended: for a timeout the silence, the age of
/// the unanswered ping, the port of the peer, the number of pings and the time. With `RECORD` it
/// adds the trace.
pub fn server() {
    crate::crowd::open_many_files();
    let runtime = Runtime::named(&variable("RUNTIME"));
    let config = Arc::new(TimeoutConfig::from_env().unwrap().config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    eprintln!("{}", listener.local_addr().unwrap());
    let host = Host::start(runtime);
    let records = std::env::var_os("RECORD").is_some();
    thread::scope(|scope| {
        scope.spawn(|| obey(&host));
        for tcp in listener.incoming() {
            let (tcp, config) = (tcp.unwrap(), config.clone());
            host.spawn(async move {
                let port = tcp.peer_addr().map_or(0, |peer| peer.port());
                let mut timeouts = Timeouts::new(config);
                let recorder = Recorder::new();
                if records {
                    timeouts = timeouts.with_observer(recorder.clone());
                }
                match guarded(runtime, tcp, Ours::Echo, &timeouts).await {
                    End::TimedOut(verdict) => {
                        let (reason, verdict) = (verdict.reason, Verdict::new(port, &verdict));
                        let traces = recorder.verdicts().into_iter();
                        let traces: String = traces.map(|trace| trace.to_string()).collect();
                        eprintln!("{reason} {verdict}{}", traces.replace('\n', " "));
                    }
                    other => eprintln!("{other:?}"),
                }
            });
        }
    });
}

/// Blocks every thread of the server's runtime for N ms at each line `block N`.
fn obey(host: &Host) {
    for order in io::stdin().lines().map_while(Result::ok) {
        let length = order.strip_prefix("block ").map(str::parse);
        let length = Duration::from_millis(length.expect("no such order").unwrap());
        host.block(length, || ());
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}
