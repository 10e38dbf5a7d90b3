//! One contract for every runtime: a `TimeoutSocket` over a real socket, and peers that behave and
//! misbehave, each in its own thread or process. A limit never expires early, and expires within
//! `PATIENCE` on a busy machine.

#![cfg_attr(
    not(target_os = "linux"),
    expect(
        dead_code,
        reason = "what needs other processes or networks needs Linux"
    )
)]

#[cfg(target_os = "linux")]
mod blackhole;
#[cfg(target_os = "linux")]
mod churn;
#[cfg(target_os = "linux")]
mod crowd;
mod ends;
#[cfg(unix)]
mod evidence;
#[cfg(target_os = "linux")]
mod floods;
mod host;
#[cfg(target_os = "linux")]
mod neighbours;
mod partition;
#[cfg(target_os = "linux")]
mod parts;
mod peers;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
mod readers;
#[path = "../common/replayed.rs"]
mod replayed;
mod silence;
#[cfg(unix)]
mod stalls;
#[cfg(target_os = "linux")]
mod stopped;
#[cfg(target_os = "linux")]
mod suspended;
mod trickles;

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{
    CloseHandshake, CloseReason, Error, Log, Recorder, TimeoutConfig, TimeoutConfigBuilder,
    Timeouts, Timer, Verdict,
};

use host::{Failure, Host, RUNTIMES, Role, Runtime};
use replayed::assert_replays;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// How late an event may be on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Our side and its behaviour.
#[derive(Clone, Copy)]
enum Ours {
    /// A server that echoes.
    Echo,
    /// A server that sends without end.
    Push,
    /// A client that echoes.
    Client,
}

/// How a connection of ours ended.
#[derive(Debug)]
enum End {
    /// Without error, at this age, with this code in the peer's Close frame.
    Closed(Option<u16>, Duration),
    /// The inner socket failed.
    Socket(tungstenite::Error),
    TimedOut(Verdict),
    /// With an error that no stream should return.
    #[expect(dead_code, reason = "shown by the `Debug` of a failing test")]
    Other(Failure),
}

impl End {
    /// Whether it is this verdict, at this age or a little later.
    fn is(&self, reason: CloseReason, closing: CloseHandshake, age: Duration) -> bool {
        match self {
            Self::TimedOut(verdict) => {
                verdict.reason == reason
                    && verdict.close_handshake == closing
                    && verdict.status.age >= age
                    && verdict.status.age <= age + PATIENCE
            }
            _ => false,
        }
    }
}

impl From<Failure> for End {
    fn from(error: Failure) -> Self {
        match error {
            Error::Verdict(verdict) => Self::TimedOut(verdict),
            Error::Socket(error) => Self::Socket(error),
            other => Self::Other(other),
        }
    }
}

/// Plays `peer` against our side on each runtime.
#[track_caller]
fn contract(ours: Ours, config: TimeoutConfig, peer: fn(TcpStream), right: fn(&End) -> bool) {
    on_each_runtime(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || peer(TcpStream::connect(address).unwrap()));
        let end = converse(runtime, &listener, ours, config);
        assert!(right(&end), "{end:?}");
        peer.join().unwrap();
    });
}

/// Runs `test` for each runtime, all in parallel; a panic names the runtime as the thread.
#[track_caller]
fn on_each_runtime(test: impl Fn(Runtime) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for runtime in RUNTIMES {
            thread::Builder::new()
                .name(runtime.to_string())
                .spawn_scoped(scope, move || test(runtime))
                .unwrap();
        }
    });
}

/// Plays our side of one connection of the listener.
fn converse(runtime: Runtime, listener: &TcpListener, ours: Ours, config: TimeoutConfig) -> End {
    let host = Host::start(runtime);
    let (tcp, _) = listener.accept().unwrap();
    let (ended, end) = mpsc::channel();
    let lifetime = config.connection_timeout().unwrap_or_default();
    host.spawn(async move {
        ended
            .send(connection(runtime, tcp, ours, config.into()).await)
            .unwrap();
    });
    end.recv_timeout(lifetime.max(20 * SECOND))
        .expect("the connection ends")
}

/// Our side of a connection, from the opening handshake to the end. A verdict must replay.
async fn connection(
    runtime: Runtime,
    tcp: TcpStream,
    ours: Ours,
    config: Arc<TimeoutConfig>,
) -> End {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(config).with_observer((Log, recorder.clone()));
    let end = guarded(runtime, tcp, ours, &timeouts).await;
    let traces = recorder.verdicts();
    for trace in &traces {
        assert_replays(&trace.to_string());
    }
    assert_eq!(traces.len(), usize::from(matches!(end, End::TimedOut(_))));
    end
}

async fn guarded(runtime: Runtime, tcp: TcpStream, ours: Ours, timeouts: &Timeouts) -> End {
    let (role, settings) = match ours {
        Ours::Echo | Ours::Push => (Role::Server, tungstenite_config()),
        Ours::Client => (Role::Client, tungstenite_config()),
    };
    let mut socket = match runtime.open(role, settings, timeouts, tcp).await {
        Ok(socket) => socket,
        Err(error) => return error.into(),
    };
    if let Ours::Push = ours {
        while socket.send(Message::binary(vec![0; 1 << 16])).await.is_ok() {}
    }
    let mut code = None;
    while let Some(message) = socket.next().await {
        match message {
            Ok(message) if message.is_text() || message.is_binary() => {
                // The stream returns why a send failed.
                let _ = socket.send(message).await;
            }
            Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
    End::Closed(code, socket.status().age)
}

fn limits() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .handshake_timeout(SECOND)
        .message_timeout(SECOND)
        .idle_timeout(30 * SECOND)
        .ping_interval(200 * MS)
        .pong_timeout(SECOND)
        .close_timeout(SECOND)
        .jitter(0.0)
}

/// When a silent peer is disconnected under [`limits`].
const SILENCE: Duration = Duration::from_millis(1200);

#[test]
fn a_live_peer_stays_and_closes() {
    let peer = |tcp| {
        let mut socket = peers::handshake(tcp);
        socket.send(Message::text("hello")).unwrap();
        let mut pings = 0;
        let mut echoes = 0;
        while pings < 5 {
            match socket.read().unwrap() {
                Message::Ping(_) => pings += 1,
                Message::Text(text) => echoes += u32::from(text == "hello"),
                other => panic!("{other:?}"),
            }
            socket.flush().unwrap();
        }
        assert_eq!(echoes, 1);
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    };
    contract(Ours::Echo, limits().build().unwrap(), peer, |end| {
        matches!(end, End::Closed(None, _))
    });
}

#[test]
fn the_alarm_of_async_io_is_never_early_and_fires_once() {
    use std::future::poll_fn;
    use std::task::Poll;

    let mut timer = ws_timeout::runtime::smol::Timer::new();
    smol::block_on(async {
        for length in [0, 1, 30] {
            let at = timer.now() + length * MS;
            timer.set(at);
            poll_fn(|cx| timer.poll(cx)).await;
            assert!(timer.now() >= at);
        }
        // Set again before it fired: only the later setting fires.
        let start = timer.now();
        timer.set(start + 10 * MS);
        poll_fn(|cx| {
            assert!(timer.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        timer.set(start + 50 * MS);
        poll_fn(|cx| timer.poll(cx)).await;
        assert!(timer.now() - start >= 50 * MS);
    });
}
