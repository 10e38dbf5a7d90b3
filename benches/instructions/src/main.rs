//! Runs one operation a number of times, so that `.ci/instructions` can count its instructions.
//!
//! ```sh
//! instructions OPERATION TIMES
//! ```
//!
//! To add an operation, add it to `OPERATIONS`, and its ceiling to `ceilings.txt`.

#[path = "../../idioms/mod.rs"]
mod idioms;
mod ping;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use ws_timeout::{Action, Event, Fleet, PingId, TimeoutConfig, TimeoutPolicy, Timer, Timestamp};

use idioms::{Feed, Idiom, run_through};
use ping::Keeper;

type Operation = fn(u64);

const OPERATIONS: &[(&str, Operation)] = &[
    ("clock", clock),
    ("read_bare", |times| read(Idiom::Bare, times)),
    ("read_socket", |times| read(Idiom::TimeoutSocket, times)),
    ("read_metered", |times| read(Idiom::Metered, times)),
    ("read_timeout", |times| read(Idiom::TimeoutNext, times)),
    ("read_interval", |times| read(Idiom::Interval, times)),
    ("read_reset", |times| read(Idiom::SleepReset, times)),
    ("read_lazily", |times| read(Idiom::SleepLazy, times)),
    ("read_many_bare", |times| read_many(Idiom::Bare, times)),
    ("read_many_socket", |times| {
        read_many(Idiom::TimeoutSocket, times)
    }),
    ("read_many_timeout", |times| {
        read_many(Idiom::TimeoutNext, times)
    }),
    ("read_many_interval", |times| {
        read_many(Idiom::Interval, times)
    }),
    ("read_many_reset", |times| {
        read_many(Idiom::SleepReset, times)
    }),
    ("read_many_lazily", |times| {
        read_many(Idiom::SleepLazy, times)
    }),
    ("echo_bare", |times| echo(Idiom::Bare, times)),
    ("echo_socket", |times| echo(Idiom::TimeoutSocket, times)),
    ("echo_timeout", |times| echo(Idiom::TimeoutNext, times)),
    ("echo_interval", |times| echo(Idiom::Interval, times)),
    ("echo_reset", |times| echo(Idiom::SleepReset, times)),
    ("echo_lazily", |times| echo(Idiom::SleepLazy, times)),
    ("ping_socket", |times| ping(Keeper::TimeoutSocket, times)),
    ("ping_interval", |times| ping(Keeper::Interval, times)),
    ("ping_jitter", |times| ping(Keeper::Jitter, times)),
    ("policy_observe_recv", policy_observe_recv),
    ("policy_poll_nothing_due", policy_poll_nothing_due),
    ("fleet_observe_recv", fleet_observe_recv),
    ("fleet_poll_nothing_due", fleet_poll_nothing_due),
    ("fleet_ping_and_pong", fleet_ping_and_pong),
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let named = match &args[..] {
        [name, times] => OPERATIONS
            .iter()
            .find(|(known, _)| known == name)
            .zip(times.parse().ok()),
        _ => None,
    };
    let Some(((_, operation), times)) = named else {
        eprintln!(
            "instructions: expected an operation and a number, got {:?}",
            args.join(" ")
        );
        return ExitCode::from(2);
    };
    operation(times);
    ExitCode::SUCCESS
}

// ---- policy ----

static CONFIG: TimeoutConfig = TimeoutConfig::DEFAULT;

fn policy_observe_recv(times: u64) {
    let mut policy = black_box(TimeoutPolicy::new(&CONFIG, 1, at(0)));
    for nanos in 0..times {
        observe(&mut policy, at(nanos), Event::Recv);
    }
    black_box(policy);
}

fn policy_poll_nothing_due(times: u64) {
    let mut policy = black_box(TimeoutPolicy::new(&CONFIG, 1, at(0)));
    for nanos in 0..times {
        black_box(poll(&mut policy, at(nanos)));
    }
}

/// Not inlined, as in a program that calls it from many places: the event is not known beforehand.
#[inline(never)]
fn observe(policy: &mut TimeoutPolicy<&TimeoutConfig>, now: Timestamp, event: Event) {
    policy.observe(now, event);
}

#[inline(never)]
fn poll(policy: &mut TimeoutPolicy<&TimeoutConfig>, now: Timestamp) -> Action {
    policy.poll(now)
}

// ---- fleet ----

const CONNECTIONS: u64 = 1000;

fn fleet_observe_recv(times: u64) {
    let (mut fleet, keys) = fleet();
    for (nanos, &key) in (0..times).zip(keys.iter().cycle()) {
        black_box(fleet.observe(key, at(nanos), black_box(Event::Recv)));
    }
}

fn fleet_poll_nothing_due(times: u64) {
    let (mut fleet, _) = fleet();
    while fleet.poll(at(0)).is_some() {}
    for nanos in 0..times {
        black_box(fleet.poll(at(nanos)));
    }
}

/// The cost of an expiry: the ping that is due, its flush and its pong.
fn fleet_ping_and_pong(times: u64) {
    let (mut fleet, _) = fleet();
    let mut pings = 0;
    while pings < times {
        let now = fleet.next_deadline().expect("a ping is always to come");
        while let Some((key, action)) = fleet.poll(now) {
            let Action::SendPing(ping) = action else {
                panic!("{action:?} though all answer");
            };
            fleet.observe(key, now, Event::PingSent(ping));
            let pong = Event::Pong(PingId::from_payload(&ping.payload()));
            fleet.observe(key, now, pong);
            pings += 1;
        }
    }
}

fn fleet() -> (Fleet, Vec<ws_timeout::FleetKey>) {
    let config = TimeoutConfig::builder().no_connection_timeout().build();
    let config = Arc::new(config.expect("the configuration is valid"));
    let mut fleet = Fleet::new();
    let keys = (0..CONNECTIONS)
        .map(|seed| fleet.insert(config.clone(), seed, at(0)))
        .collect();
    (fleet, keys)
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

// ---- socket ----

/// Reading the clock, which each message needs.
fn clock(times: u64) {
    let timer = black_box(ws_timeout::runtime::tokio::Timer::new());
    for _ in 0..times {
        black_box(timer.now());
    }
}

/// Reads a message at each wake-up.
fn read(idiom: Idiom, times: u64) {
    through(idiom, Feed::new(times, 1), false, times);
}

/// Reads a thousand messages at each wake-up.
fn read_many(idiom: Idiom, times: u64) {
    through(idiom, Feed::new(times, 1000), false, times);
}

/// Reads a message at each wake-up and echoes it.
fn echo(idiom: Idiom, times: u64) {
    through(idiom, Feed::new(times, 1), true, times);
}

fn through(idiom: Idiom, feed: Feed, echo: bool, times: u64) {
    assert_eq!(run_through(&runtime(), idiom, feed, echo), times);
}

/// Sends a ping and receives its pong, on a thousand quiet connections.
fn ping(keeper: Keeper, times: u64) {
    assert_eq!(runtime().block_on(ping::ping(keeper, times)), times);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing to keep time")
}
