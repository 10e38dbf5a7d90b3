//! Clocks: the common origin in a process, limits of days, a suspended machine, and a clock that
//! advances at each read.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::io::duplex;
use tokio_tungstenite::WebSocketStream;
use tungstenite::Error as WsError;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::testing::ManualTimer;
use ws_timeout::{CloseReason, Received, TimeoutSocket, Timestamp};

use crate::support::{Channel, Client, DAY, MS, Room, SECOND, bare, timed_out};

/// A clock that advances by a millisecond at each read, of a runtime that never gets its turn.
#[derive(Default)]
struct Hasty {
    millis: AtomicU64,
}

impl ws_timeout::Timer for Hasty {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.fetch_add(1, Ordering::Relaxed))
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, _: Timestamp) {}

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }
}

/// Guards rules 3 and 4.
#[test]
fn a_peer_that_never_pauses_reaches_its_lifetime() {
    let config = bare().connection_timeout(SECOND).build().unwrap();
    let room = Arc::new(Mutex::new(Room {
        is_there: true,
        awaited: None,
    }));
    let mut socket = TimeoutSocket::new(
        config,
        Hasty::default(),
        Channel {
            room,
            endless: true,
        },
    );
    let messages = (0..1100).take_while(|_| {
        let message = smol::block_on(socket.next());
        assert!(matches!(message, Some(Ok(_))), "{message:?}");
        socket.status().cause.is_none()
    });
    let messages = messages.count();
    assert!(messages < 1000, "it went on for {messages} messages");
    assert_eq!(socket.status().cause, Some(CloseReason::ConnectionTimeout));
}

/// Polls `future` from one firing of the timer to the next. Returns `None` after `within`.
fn run<T>(timer: &ManualTimer, within: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = within;
    loop {
        if let Some(output) = future.as_mut().now_or_never() {
            return Some(output);
        }
        let next = timer.until_next_fire();
        assert!(next <= Some(DAY), "an alarm more than a day ahead");
        let next = next.unwrap_or(Duration::MAX);
        timer.advance(next.min(left));
        if next > left {
            return None;
        }
        left -= next;
    }
}

/// Guards rule 19.
#[test]
fn a_resume_of_the_machine_probes_the_peer() {
    let limit = |seconds| Some(Duration::from_secs(seconds));
    for (seconds, probe, pong, answer_by) in [
        (6, limit(10), limit(60), limit(10)),
        (6, limit(10), None, limit(10)),
        (6, limit(10), limit(7), limit(7)),
        (6, None, limit(60), None),
        (4, limit(10), limit(60), None),
    ] {
        let (transport, _client) = duplex(1024);
        let transport = WebSocketStream::from_raw_socket(transport, Role::Server, None);
        let timer = ManualTimer::new();
        let config = bare()
            .heartbeat_interval(SECOND)
            .maybe_resume_probe(probe)
            .maybe_pong_timeout(pong);
        let mut server = TimeoutSocket::new(
            config.build().unwrap(),
            timer.clone(),
            transport.now_or_never().unwrap(),
        );
        assert!(run(&timer, 2500 * MS, server.recv()).is_none());
        timer.suspend(Duration::from_secs(seconds));
        let start = timer.now();
        let end = run(&timer, 30 * SECOND, server.recv());
        if let Some(answer_by) = answer_by {
            assert_eq!(timed_out(end.unwrap()).reason, CloseReason::PongTimeout);
            // Half a second to the next poll, and then the limit.
            let took = timer.now().saturating_duration_since(start);
            assert_eq!(took, 500 * MS + answer_by);
        } else {
            assert!(end.is_none(), "asleep for {seconds} s: {end:?}");
        }
    }
}

fn read_clock(timer: &impl ws_timeout::Timer) -> Timestamp {
    timer.timestamp(timer.now())
}

/// Otherwise their sockets would not fire together with timer slack.
#[test]
#[expect(clippy::disallowed_methods, reason = "time has to pass")]
fn timers_of_one_process_share_an_origin() {
    const NAP: Duration = Duration::from_millis(20);
    let first = Timer::new();
    std::thread::sleep(NAP);
    let before = read_clock(&first);
    let others = [
        read_clock(&Timer::new()),
        read_clock(&ws_timeout::runtime::smol::Timer::new()),
    ];
    let after = read_clock(&first);
    for other in others {
        assert!((before..=after).contains(&other), "{other}");
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "time has to pass")]
fn a_clock_that_was_paused_before_the_first_timer_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    std::thread::sleep(20 * MS);
    let _first = Timer::new();
    runtime.block_on(async {
        let timer = Timer::new();
        let start = read_clock(&timer);
        tokio::time::advance(MS).await;
        assert_eq!(read_clock(&timer).saturating_duration_since(start), MS);
    });
}

/// An alarm is set at most a day ahead, and then set again.
/// Guards rule 18.
#[test]
fn limits_of_days_expire_on_time() {
    let timer = ManualTimer::new();
    let since = |start| timer.now().saturating_duration_since(start);

    let (transport, _client) = duplex(1024);
    let transport = WebSocketStream::from_raw_socket(transport, Role::Server, None);
    let transport = transport.now_or_never().unwrap();
    let config = bare().idle_timeout(3 * DAY).build().unwrap();
    let mut server = TimeoutSocket::new(config, timer.clone(), transport);
    let start = timer.now();
    let end = run(&timer, 5 * DAY, server.recv_timeout(2 * DAY)).unwrap();
    assert_eq!(end.unwrap(), Received::TimedOut);
    assert_eq!(since(start), 2 * DAY);
    let end = run(&timer, 5 * DAY, server.recv()).unwrap();
    assert_eq!(timed_out(end).reason, CloseReason::IdleTimeout);
    assert_eq!(since(start), 3 * DAY + 5 * SECOND);

    let config = bare().handshake_timeout(5 * DAY / 2).build().unwrap();
    let start = timer.now();
    let handshake = pending::<Result<Client, WsError>>();
    let opening = TimeoutSocket::open(config, timer.clone(), handshake);
    let opened = run(&timer, 5 * DAY, opening).unwrap();
    assert_eq!(since(start), 5 * DAY / 2);
    assert_eq!(
        timed_out(opened.map(|_| ())).reason,
        CloseReason::HandshakeTimeout
    );
}
