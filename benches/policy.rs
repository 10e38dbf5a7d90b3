//! The policy of one connection, compared with hand-written code in one run.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::Criterion;
use tokio::time::Sleep;
use ws_timeout::{Event, TimeoutConfig, TimeoutPolicy, Timestamp};

fn main() {
    let state = size_of::<TimeoutPolicy<&TimeoutConfig>>() - size_of::<&TimeoutConfig>();
    println!("state of one policy: {state} bytes");
    let mut criterion = Criterion::default().configure_from_args();
    a_message(&mut criterion);
    a_poll(&mut criterion);
    criterion.final_summary();
}

static CONFIG: TimeoutConfig = TimeoutConfig::DEFAULT;

/// The cost of a message.
fn a_message(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a message");

    let mut policy = TimeoutPolicy::new(&CONFIG, 1, Timestamp::ZERO);
    let mut nanos = 0;
    group.bench_function("policy, observed", |bencher| {
        bencher.iter(|| {
            nanos += 1;
            policy.observe(Timestamp::from_nanos(nanos), black_box(Event::Recv));
        });
    });
    group.bench_function("policy, observed and polled", |bencher| {
        bencher.iter(|| {
            nanos += 1;
            policy.handle(Timestamp::from_nanos(nanos), black_box(Event::Recv))
        });
    });

    let origin = now();
    let mut policy = TimeoutPolicy::new(&CONFIG, 1, Timestamp::ZERO);
    group.bench_function("policy, one clock read, observed", |bencher| {
        bencher.iter(|| {
            let now = Timestamp::from_duration(now().duration_since(origin));
            policy.observe(now, black_box(Event::Recv));
        });
    });
    group.bench_function("policy, one clock read, observed and polled", |bencher| {
        bencher.iter(|| {
            let now = Timestamp::from_duration(now().duration_since(origin));
            policy.handle(now, black_box(Event::Recv))
        });
    });

    let mut naive = Naive::new();
    group.bench_function(
        "struct of Instants, reads the clock and checks the deadlines",
        |bencher| {
            bencher.iter(|| {
                naive.update_activity(now());
                naive.is_due(now())
            });
        },
    );
    group.bench_function(
        "struct of Instants, one clock read, checks the deadlines",
        |bencher| {
            bencher.iter(|| {
                let now = now();
                naive.update_activity(now);
                naive.is_due(now)
            });
        },
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O can be built");
    let entered = runtime.enter();
    let mut sleep = Box::pin(tokio::time::sleep(IDLE));
    group.bench_function("tokio Sleep, reset and polled", |bencher| {
        bencher.iter(|| {
            sleep.as_mut().reset((now() + IDLE).into());
            is_over(sleep.as_mut())
        });
    });
    let mut last_inbound = now();
    group.bench_function("tokio Sleep, reset when it fires", |bencher| {
        bencher.iter(|| {
            last_inbound = black_box(now());
            is_over(sleep.as_mut())
        });
    });
    drop(entered);
    group.finish();
}

/// The cost of a poll when nothing is due.
fn a_poll(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a poll with nothing due");
    let mut policy = TimeoutPolicy::new(&CONFIG, 1, Timestamp::ZERO);
    let mut nanos = 0;
    group.bench_function("policy, polled", |bencher| {
        bencher.iter(|| {
            nanos += 1;
            policy.poll(Timestamp::from_nanos(nanos))
        });
    });
    let naive = black_box(Naive::new());
    let now = now();
    group.bench_function("struct of Instants", |bencher| {
        bencher.iter(|| naive.is_due(black_box(now)));
    });
    group.finish();
}

const IDLE: Duration = Duration::from_secs(60);

/// Typical hand-written timeouts.
struct Naive {
    opened: Instant,
    active: Instant,
    last_ping: Instant,
    last_pong: Instant,
    connection_timeout: Duration,
    idle_timeout: Duration,
    ping_interval: Duration,
    pong_timeout: Duration,
}

impl Naive {
    fn new() -> Self {
        let now = now();
        Self {
            opened: now,
            active: now,
            last_ping: now,
            last_pong: now,
            connection_timeout: Duration::from_secs(300),
            idle_timeout: IDLE,
            ping_interval: Duration::from_secs(25),
            pong_timeout: IDLE,
        }
    }

    fn update_activity(&mut self, now: Instant) {
        self.active = now;
    }

    fn is_due(&self, now: Instant) -> bool {
        let pong_overdue = self.last_pong < self.last_ping
            && now.duration_since(self.last_ping) > self.pong_timeout;
        now.duration_since(self.opened) > self.connection_timeout
            || now.duration_since(self.active) > self.idle_timeout
            || now.duration_since(self.last_ping) > self.ping_interval
            || pong_overdue
    }
}

fn is_over(sleep: Pin<&mut Sleep>) -> bool {
    sleep
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the hand-written code reads the clock"
)]
fn now() -> Instant {
    Instant::now()
}
