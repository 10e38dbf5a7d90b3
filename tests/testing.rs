//! The tools for users' tests: a timer that the test moves drives real sockets, and failures that
//! proptest finds with `Arbitrary` shrink to something readable.

mod common;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use common::off;
use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRng, TestRunner};
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use ws_timeout::testing::ManualTimer;
use ws_timeout::{CloseReason, Error, TimeoutConfig, TimeoutSocket, Timer, Timestamp};

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);

type Socket = TimeoutSocket<WebSocketStream<DuplexStream>, ManualTimer>;

fn raw(stream: DuplexStream, role: Role) -> WebSocketStream<DuplexStream> {
    let socket = WebSocketStream::from_raw_socket(stream, role, None);
    socket.now_or_never().unwrap()
}

fn pair(timer: &ManualTimer, config: TimeoutConfig) -> (Socket, WebSocketStream<DuplexStream>) {
    let (ours, theirs) = duplex(4096);
    let ours = TimeoutSocket::new(config, timer.clone(), raw(ours, Role::Server));
    (ours, raw(theirs, Role::Client))
}

#[track_caller]
fn waits(socket: &mut Socket) {
    let read = socket.next().now_or_never();
    assert!(read.is_none(), "{read:?}");
}

#[track_caller]
fn reason(socket: &mut Socket) -> CloseReason {
    match socket.next().now_or_never() {
        Some(Some(Err(Error::Verdict(verdict)))) => verdict.reason,
        other => panic!("no verdict: {other:?}"),
    }
}

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_timer_fires_once_when_its_instant_has_come_and_wakes_its_task() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let cx = &mut Context::from_waker(&waker);
    let woken = || wakes.0.swap(0, Ordering::Relaxed);

    let hand = ManualTimer::new();
    let mut timer = hand.clone();
    assert_eq!(timer.poll(cx), Poll::Pending, "it is not set");
    timer.set(Timestamp::from_secs(2));
    assert_eq!(timer.poll(cx), Poll::Pending);
    assert_eq!(hand.until_next_fire(), Some(2 * SECOND));
    hand.advance(2 * SECOND - NANO);
    assert_eq!((woken(), timer.poll(cx)), (0, Poll::Pending));
    assert_eq!(hand.until_next_fire(), Some(NANO));
    hand.advance(NANO);
    assert_eq!(hand.until_next_fire(), Some(Duration::ZERO));
    assert_eq!((woken(), timer.poll(cx)), (1, Poll::Ready(())));
    assert_eq!(
        (hand.until_next_fire(), timer.poll(cx)),
        (None, Poll::Pending)
    );

    timer.set(timer.now());
    assert_eq!(timer.poll(cx), Poll::Ready(()), "it is set to now");
    hand.advance(Duration::MAX);
    assert_eq!((woken(), timer.now()), (0, Timestamp::MAX));
}

#[test]
fn a_clone_is_another_timer_on_the_same_clock() {
    let cx = &mut Context::from_waker(Waker::noop());
    let hand = ManualTimer::new();
    let (mut first, mut second) = (hand.clone(), hand.clone());
    first.set(Timestamp::from_secs(1));
    second.set(Timestamp::from_secs(2));
    assert!(first.poll(cx).is_pending() && second.poll(cx).is_pending());
    hand.advance(SECOND);
    assert!(first.poll(cx).is_ready() && second.poll(cx).is_pending());
    assert_eq!(hand.until_next_fire(), Some(SECOND));
    drop(second);
    assert_eq!(hand.until_next_fire(), None);
}

/// Dropping the waker of a task may drop the task, and with it another timer.
#[test]
fn a_waker_that_owns_a_timer_does_not_deadlock_the_clock() {
    struct Owner(#[expect(dead_code, reason = "it is dropped")] ManualTimer);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }
    let hand = ManualTimer::new();
    let owner = || Waker::from(Arc::new(Owner(hand.clone())));
    let wait = |timer: &mut ManualTimer| {
        timer.set(Timestamp::MAX);
        for _ in 0..2 {
            assert!(timer.poll(&mut Context::from_waker(&owner())).is_pending());
        }
    };
    let (mut first, mut second) = (hand.clone(), hand.clone());
    wait(&mut first);
    wait(&mut first);
    drop(first);
    wait(&mut second);
    hand.advance(Duration::MAX);
}

#[test]
fn limits_expire_to_the_nanosecond() {
    let timer = ManualTimer::new();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let (mut socket, mut peer) = pair(&timer, config.build().unwrap());
    waits(&mut socket);
    timer.advance(SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().pings_sent, 1);
    // The peer reads the ping and answers it; the second one stays unanswered.
    assert!(peer.next().now_or_never().is_some());
    assert!(peer.next().now_or_never().is_none());
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
    timer.advance(SECOND);
    waits(&mut socket);
    timer.advance(SECOND - NANO);
    waits(&mut socket);
    timer.advance(NANO);
    assert_eq!(reason(&mut socket), CloseReason::PongTimeout);
}

#[test]
fn buffered_input_counts_however_late_the_poll() {
    let timer = ManualTimer::new();
    let config = off().ping_interval(SECOND).pong_timeout(SECOND);
    let (mut socket, mut peer) = pair(&timer, config.build().unwrap());
    waits(&mut socket);
    timer.advance(SECOND);
    waits(&mut socket);
    timer.advance(100 * SECOND);
    assert!(peer.next().now_or_never().is_some());
    assert!(peer.next().now_or_never().is_none());
    waits(&mut socket);
    assert_eq!(socket.status().pongs_received, 1);
}

#[test]
fn a_long_step_begins_a_grace_and_a_short_one_does_not() {
    let config = off()
        .idle_timeout(60 * SECOND)
        .stall_tolerance(3 * SECOND)
        .build()
        .unwrap();
    let after = |step| {
        let timer = ManualTimer::new();
        let (mut socket, peer) = pair(&timer, config);
        waits(&mut socket);
        timer.advance(step);
        waits(&mut socket);
        (timer, socket, peer)
    };
    let (_, socket, _peer) = after(63 * SECOND);
    assert_eq!(socket.status().cause, Some(CloseReason::IdleTimeout));

    let (timer, mut socket, _peer) = after(63 * SECOND + NANO);
    assert_eq!(socket.status().cause, None);
    assert_eq!(socket.status().grace_left, Some(3 * SECOND));
    assert_eq!(timer.until_next_fire(), Some(3 * SECOND));
    timer.advance(3 * SECOND);
    waits(&mut socket);
    assert_eq!(socket.status().cause, Some(CloseReason::IdleTimeout));
}

#[test]
fn a_suspended_machine_makes_its_sockets_probe_their_peers() {
    let timer = ManualTimer::new();
    let config = off().heartbeat_interval(SECOND).resume_probe(10 * SECOND);
    let (mut socket, _peer) = pair(&timer, config.build().unwrap());
    waits(&mut socket);
    timer.suspend(6 * SECOND);
    assert_eq!(timer.now(), Timestamp::ZERO);
    timer.advance(SECOND);
    waits(&mut socket);
    timer.advance(10 * SECOND - NANO);
    waits(&mut socket);
    timer.advance(NANO);
    assert_eq!(reason(&mut socket), CloseReason::PongTimeout);
}

/// Only the timer wakes these tasks.
#[test]
fn two_tasks_of_an_executor_share_a_clock() {
    let timer = ManualTimer::new();
    let ends = RefCell::new(Vec::new());
    let executor = smol::LocalExecutor::new();
    let mut peers = Vec::new();
    for seconds in [2, 1] {
        let config = off().idle_timeout(seconds * SECOND).close_timeout(SECOND);
        let (mut socket, peer) = pair(&timer, config.build().unwrap());
        peers.push(peer);
        let ends = &ends;
        let task = async move {
            let _ = socket.next().await;
            ends.borrow_mut().push((seconds, socket.status().age));
        };
        executor.spawn(task).detach();
    }
    while executor.try_tick() {}
    for _ in 0..10 {
        timer.advance(timer.until_next_fire().unwrap_or_default());
        while executor.try_tick() {}
    }
    assert_eq!(ends.take(), [(1, 2 * SECOND), (2, 3 * SECOND)]);
}

#[test]
fn a_failing_case_shrinks_to_the_defaults_except_for_what_matters() {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let of = |bytes: &[u8]| TimeoutConfig::arbitrary(&mut Unstructured::new(bytes)).unwrap();
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let failed = runner.run(&bytes, |bytes| {
        prop_assert!(of(&bytes).idle_timeout().is_some());
        Ok(())
    });
    let Err(TestError::Fail(_, bytes)) = failed else {
        panic!("{failed:?}");
    };
    let expected = TimeoutConfig::builder().no_idle_timeout().build().unwrap();
    assert_eq!(of(&bytes), expected, "{bytes:?}");
}
