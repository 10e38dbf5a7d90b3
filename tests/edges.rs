//! Both sides of each deadline, stalls, and the ends of the ranges.

mod common;

use std::time::Duration;

use common::off;
use ws_timeout::{
    Action, CloseReason, DeadlineKind, Event, Phase, TimeoutConfig, TimeoutConfigBuilder,
    TimeoutPolicy, Timestamp,
};

const NANOSECOND: Duration = Duration::from_nanos(1);
const TOLERANCE: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

/// A row of the table of deadlines, and a way to reach it.
struct Row {
    kind: DeadlineKind,
    peer: bool,
    unread: bool,
    config: TimeoutConfigBuilder,
    opening: bool,
    /// Each is observed and then polled, until `Idle`.
    events: Vec<(Timestamp, Event)>,
    /// If it is not `Tick`, this event comes at the deadline and sets it.
    last: Event,
    /// `None`: any instant in the second before, since it is random.
    deadline: Option<Timestamp>,
    due: Action,
}

fn rows() -> Vec<Row> {
    use Action::{Abort, Close};
    use CloseReason as Reason;
    use DeadlineKind as Kind;
    use Event::{CloseStart, Drain, Ping, PingSent, Probe, RecvPartial, SendStart, Tick};

    let row = |kind, due, config: TimeoutConfigBuilder, events, deadline| Row {
        kind,
        peer: true,
        unread: false,
        config,
        opening: false,
        events,
        last: Tick,
        deadline: Some(deadline),
        due,
    };
    let id = |number| TimeoutPolicy::new(TimeoutConfig::DEFAULT, SEED, ms(0)).ping_id(number);
    let pings = off().ping_interval(secs(5));
    let reason = Reason::HandshakeTimeout;
    let handshake = off().handshake_timeout(secs(10));
    let handshake = row(
        Kind::Handshake,
        Abort(reason),
        handshake,
        vec![],
        ms(10_000),
    );
    let reason = Reason::CloseTimeout;
    let close = off().close_timeout(secs(5));
    let begun = vec![(ms(1_000), CloseStart)];
    let close = row(Kind::Close, Abort(reason), close, begun, ms(6_000));
    let reason = Reason::ConnectionTimeout;
    let lifetime = off().connection_timeout(secs(300));
    let lifetime = row(
        Kind::Connection,
        Close(reason),
        lifetime,
        vec![],
        ms(300_000),
    );
    let drained = vec![(ms(1_000), Drain { within: secs(1) })];
    let drain = row(Kind::Drain, Close(Reason::Drain), off(), drained, ms(2_000));
    let reason = Reason::MessageTimeout;
    let write = off().message_timeout(secs(1));
    let write = row(
        Kind::Write,
        Abort(reason),
        write,
        vec![(ms(3_000), SendStart)],
        ms(4_000),
    );
    let config = pings.message_timeout(secs(1));
    let asked = vec![(ms(5_000), Tick)];
    let ping_write = row(
        Kind::PingWrite,
        Abort(reason),
        config,
        asked.clone(),
        ms(6_000),
    );
    let flooding = vec![(ms(1_999), Ping); 60];
    let reason = Reason::PingFlood;
    let flood = row(
        Kind::PingFlood,
        Abort(reason),
        off().max_ping_rate(1),
        flooding,
        ms(2_000),
    );
    let begun = vec![(ms(2_000), RecvPartial { total: 1_000 })];
    let reason = Reason::SlowReceive;
    let receive = off().min_data_rate(1_000);
    let receive = row(Kind::Receive, Abort(reason), receive, begun, ms(8_000));
    let reason = Reason::PongTimeout;
    let probed = vec![
        (ms(1_000), Probe { within: secs(4) }),
        (ms(1_000), PingSent(id(1))),
    ];
    let probe = row(Kind::Probe, Abort(reason), off(), probed, ms(5_000));
    let flushed = [asked, vec![(ms(5_500), PingSent(id(1)))]].concat();
    let pong = row(
        Kind::Pong,
        Abort(reason),
        pings.pong_timeout(secs(2)),
        flushed,
        ms(7_500),
    );
    let reason = Reason::IdleTimeout;
    let idle = off().idle_timeout(secs(60));
    let idle = row(Kind::Idle, Close(reason), idle, vec![], ms(60_000));
    let next_ping = row(
        Kind::NextPing,
        Action::SendPing(id(1)),
        pings,
        vec![],
        ms(5_000),
    );
    vec![
        Row {
            opening: true,
            ..handshake
        },
        close,
        Row {
            peer: false,
            ..lifetime
        },
        Row {
            peer: false,
            deadline: None,
            ..drain
        },
        write,
        ping_write,
        Row {
            peer: false,
            last: Ping,
            ..flood
        },
        Row {
            unread: true,
            ..receive
        },
        Row {
            unread: true,
            ..probe
        },
        Row {
            unread: true,
            ..pong
        },
        Row {
            unread: true,
            ..idle
        },
        Row {
            peer: false,
            ..next_ping
        },
    ]
}

impl Row {
    /// The policy just before its deadline, and the deadline.
    fn ready(&self, config: TimeoutConfigBuilder) -> (TimeoutPolicy, Timestamp) {
        let config = config.build().unwrap();
        let start = if self.opening {
            TimeoutPolicy::opening
        } else {
            TimeoutPolicy::new
        };
        let mut policy = start(config, SEED, ms(0));
        for &(now, event) in &self.events {
            policy.observe(now, event);
            while !matches!(policy.poll(now), Action::Idle { .. }) {}
        }
        let deadline = self.deadline.unwrap_or_else(|| {
            let drawn = policy.status(ms(0)).deadlines.get(self.kind).unwrap();
            assert!(ms(1_000) < drawn && drawn < ms(2_000));
            drawn
        });
        (policy, deadline)
    }

    fn with_tolerance(&self) -> TimeoutConfigBuilder {
        self.config.stall_tolerance(TOLERANCE)
    }

    /// Returns what a poll before the deadline returns: the deadline, unless `last` sets it.
    fn until(&self, deadline: Timestamp) -> Action {
        Action::Idle {
            until: (self.last == Event::Tick).then_some(deadline),
        }
    }
}

#[test]
fn there_is_a_row_for_each_deadline() {
    use DeadlineKind as Kind;
    let kinds: Vec<_> = rows().iter().map(|row| row.kind).collect();
    let expected = [
        Kind::Handshake,
        Kind::Close,
        Kind::Connection,
        Kind::Drain,
        Kind::Write,
        Kind::PingWrite,
        Kind::PingFlood,
        Kind::Receive,
        Kind::Probe,
        Kind::Pong,
        Kind::Idle,
        Kind::NextPing,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_message_counts_only_while_the_connection_is_open() {
    let config = off().build().unwrap();
    let mut closing = TimeoutPolicy::new(config, SEED, ms(0));
    closing.observe(ms(1_000), Event::CloseStart);
    for mut policy in [TimeoutPolicy::opening(config, SEED, ms(0)), closing] {
        policy.observe(ms(2_000), Event::Recv);
        let status = policy.status(ms(2_000));
        assert_eq!(
            (status.silent, status.since_data),
            (secs(2), secs(2)),
            "{status}"
        );
    }
}

#[test]
fn a_deadline_expires_at_its_nanosecond_and_not_before() {
    for row in rows() {
        let (mut policy, deadline) = row.ready(row.config);
        let before = policy.poll(nanoseconds_before(deadline, 1));
        assert_eq!(before, row.until(deadline), "{}", row.kind);
        let verdict = policy.handle(deadline, row.last);
        assert_eq!(verdict, row.due, "{}", row.kind);
    }
}

#[test]
fn deadlines_about_the_peer_wait_for_unread_input() {
    for row in rows() {
        let (mut policy, deadline) = row.ready(row.config);
        policy.observe(deadline, row.last);
        let verdict = policy.poll_unread(deadline);
        if row.unread {
            assert_eq!(verdict, Action::Idle { until: None }, "{}", row.kind);
            assert_eq!(policy.next_deadline(), Some(deadline), "{}", row.kind);
            assert_eq!(policy.poll(deadline), row.due, "{}", row.kind);
        } else {
            assert_eq!(verdict, row.due, "{}", row.kind);
        }
    }
}

#[test]
fn a_poll_within_the_tolerance_decides() {
    for row in rows() {
        let (mut policy, deadline) = row.ready(row.with_tolerance());
        policy.observe(deadline, row.last);
        let late = deadline.checked_add(TOLERANCE).unwrap();
        assert_eq!(policy.poll(late), row.due, "{}", row.kind);
    }
}

#[test]
fn a_later_poll_begins_a_grace_for_the_peer() {
    for row in rows().iter().filter(|row| row.peer) {
        let (mut policy, deadline) = row.ready(row.with_tolerance());
        let late = deadline.checked_add(TOLERANCE + NANOSECOND).unwrap();
        let end = late.checked_add(TOLERANCE).unwrap();
        let grace = Action::Idle { until: Some(end) };
        assert_eq!(policy.poll(late), grace, "{}", row.kind);
        assert_eq!(policy.next_deadline(), Some(end), "{}", row.kind);
        assert_eq!(
            policy.poll(nanoseconds_before(end, 1)),
            grace,
            "{}",
            row.kind
        );
        assert_eq!(policy.poll(end), row.due, "{}", row.kind);
    }
}

#[test]
fn a_deadline_gets_only_one_grace_however_late_the_poll() {
    for row in rows().iter().filter(|row| row.peer) {
        let (mut policy, deadline) = row.ready(row.with_tolerance());
        let late = deadline.checked_add(HOUR).unwrap();
        assert!(
            matches!(policy.poll(late), Action::Idle { .. }),
            "{}",
            row.kind
        );
        let later = late.checked_add(HOUR).unwrap();
        assert_eq!(policy.poll(later), row.due, "{}", row.kind);
    }
}

#[test]
fn our_own_deadlines_have_no_grace() {
    for row in rows().iter().filter(|row| !row.peer) {
        let (mut policy, deadline) = row.ready(row.with_tolerance());
        policy.observe(deadline, row.last);
        let late = deadline.checked_add(HOUR).unwrap();
        assert_eq!(policy.poll(late), row.due, "{}", row.kind);
    }
}

#[test]
fn without_a_tolerance_a_late_poll_decides() {
    for row in rows() {
        let (mut policy, deadline) = row.ready(row.config);
        policy.observe(deadline, row.last);
        let late = deadline.checked_add(HOUR).unwrap();
        assert_eq!(policy.poll(late), row.due, "{}", row.kind);
    }
}

#[test]
fn poll_unread_begins_no_grace_for_a_deadline_about_the_peer() {
    for row in rows().iter().filter(|row| row.unread) {
        let (mut policy, deadline) = row.ready(row.with_tolerance());
        let late = deadline.checked_add(HOUR).unwrap();
        assert_eq!(policy.poll_unread(late), Action::Idle { until: None });
        assert_eq!(policy.next_deadline(), Some(deadline), "{}", row.kind);
    }
}

#[test]
fn one_grace_covers_all_that_was_overdue_together() {
    let mut policy = waits_for_peer_and_transport();
    assert_eq!(policy.poll(ms(104_000)), idle_until(107_000));
    let deadlines = policy.status(ms(104_000)).deadlines;
    for kind in [DeadlineKind::Write, DeadlineKind::Idle] {
        assert_eq!(deadlines.get(kind), Some(ms(107_000)), "{kind}");
    }
    let verdict = Action::Abort(CloseReason::MessageTimeout);
    assert_eq!(policy.poll(ms(107_000)), verdict);
}

#[test]
fn no_grace_begins_while_a_deadline_that_had_one_is_overdue() {
    let verdict = Action::Abort(CloseReason::MessageTimeout);
    let polls = [TimeoutPolicy::poll, TimeoutPolicy::poll_unread];
    for poll in polls {
        let mut policy = waits_for_peer_and_transport();
        assert_eq!(policy.poll(ms(64_000)), idle_until(67_000));
        assert_eq!(poll(&mut policy, ms(104_000)), verdict);

        // Once something was received from the peer, nothing that had a grace is due.
        let mut policy = waits_for_peer_and_transport();
        assert_eq!(policy.poll(ms(64_000)), idle_until(67_000));
        policy.observe(ms(104_000), Event::Recv);
        assert_eq!(poll(&mut policy, ms(104_000)), idle_until(107_000));
    }
}

#[test]
fn turning_the_tolerance_off_ends_a_grace() {
    let mut policy = waits_for_peer_and_transport();
    assert_eq!(policy.poll(ms(64_000)), idle_until(67_000));
    let without = policy.config().to_builder().no_stall_tolerance();
    policy.set_config(ms(64_000), without.build().unwrap());
    let verdict = Action::Close(CloseReason::IdleTimeout);
    assert_eq!(policy.poll(ms(64_000)), verdict);
}

/// A silent peer is due at 60 s, a write at 100 s.
fn waits_for_peer_and_transport() -> TimeoutPolicy {
    let config = off()
        .idle_timeout(secs(60))
        .message_timeout(secs(100))
        .stall_tolerance(TOLERANCE);
    let mut policy = TimeoutPolicy::new(config.build().unwrap(), SEED, ms(0));
    policy.observe(ms(0), Event::SendStart);
    policy
}

fn idle_until(millis: u64) -> Action {
    Action::Idle {
        until: Some(ms(millis)),
    }
}

#[test]
fn a_ping_due_a_nanosecond_before_the_peer_is_idle_comes_first() {
    for (early, asks_first) in [(0, false), (1, true)] {
        let ping = secs(60) - NANOSECOND * early;
        let config = off().ping_interval(ping).idle_timeout(secs(60));
        let mut policy = TimeoutPolicy::new(config.build().unwrap(), SEED, ms(0));
        let action = policy.poll(ms(70_000));
        if asks_first {
            assert_eq!(action, Action::SendPing(policy.ping_id(1)));
            let deadline = ms(70_000).checked_add(NANOSECOND);
            assert_eq!(policy.poll(ms(70_000)), Action::Idle { until: deadline });
        } else {
            assert_eq!(action, Action::Close(CloseReason::IdleTimeout));
        }
    }
}

#[test]
fn a_ping_excuses_the_peer_for_the_time_by_which_it_was_late() {
    for late in [Duration::ZERO, NANOSECOND, TOLERANCE, HOUR] {
        let config = off().ping_interval(secs(25)).idle_timeout(secs(60));
        let mut policy = TimeoutPolicy::new(config.build().unwrap(), SEED, ms(0));
        let now = ms(25_000).checked_add(late).unwrap();
        assert_eq!(policy.poll(now), Action::SendPing(policy.ping_id(1)));
        policy.observe(now, Event::PingSent(policy.ping_id(1)));
        let deadline = ms(60_000).checked_add(late).unwrap();
        let next = policy.status(now).deadlines;
        assert_eq!(next.get(DeadlineKind::Idle), Some(deadline), "{late:?}");
    }
}

#[test]
fn only_a_write_that_had_to_wait_excuses_the_peer() {
    for (waited, deadline) in [(false, ms(7_000)), (true, ms(8_000))] {
        let config = off()
            .message_timeout(secs(5))
            .ping_interval(secs(5))
            .pong_timeout(secs(2));
        let mut policy = TimeoutPolicy::new(config.build().unwrap(), SEED, ms(0));
        assert_eq!(policy.poll(ms(5_000)), Action::SendPing(policy.ping_id(1)));
        policy.observe(ms(5_000), Event::PingSent(policy.ping_id(1)));
        if waited {
            policy.observe(ms(5_500), Event::SendStart);
        }
        policy.observe(ms(6_000), Event::SendOk);
        let before = policy.poll(nanoseconds_before(deadline, 1));
        assert_eq!(
            before,
            Action::Idle {
                until: Some(deadline)
            },
            "{waited}"
        );
        let verdict = Action::Abort(CloseReason::PongTimeout);
        assert_eq!(policy.poll(deadline), verdict, "{waited}");
    }
}

#[test]
fn time_never_runs_backwards() {
    let config = off().idle_timeout(secs(60)).build().unwrap();
    let mut policy = TimeoutPolicy::new(config, SEED, ms(50_000));
    // An ignored event advances the clock too.
    policy.observe(ms(70_000), Event::Opened);
    policy.observe(ms(1), Event::Recv);
    let until = Some(ms(130_000));
    assert_eq!(policy.poll(ms(2)), Action::Idle { until });
    assert_eq!(policy.status(ms(3)).at, ms(70_000));
    assert_eq!(policy.age(ms(4)), secs(20));

    let before = policy.clone();
    assert!(policy.is_idle(ms(130_000)));
    assert!(policy.status(Timestamp::MAX).deadlines.iter().count() > 0);
    assert_eq!(policy, before, "a question leaves no trace");
    assert_eq!(policy.poll(ms(5)), Action::Idle { until });
}

#[test]
fn the_nearest_of_several_drains_or_probes_counts() {
    let deadline = |events: &[Event]| {
        let mut policy = TimeoutPolicy::new(off().build().unwrap(), SEED, ms(0));
        for &event in events {
            policy.observe(ms(0), event);
        }
        let deadlines = policy.status(ms(0)).deadlines;
        deadlines
            .get(DeadlineKind::Drain)
            .or(deadlines.get(DeadlineKind::Probe))
    };
    for event in [
        |within| Event::Drain { within },
        |within| Event::Probe { within },
    ] {
        let nearest = deadline(&[event(secs(5))]);
        assert!(nearest.is_some_and(|at| at > ms(0) && at <= ms(5_000)));
        assert_eq!(deadline(&[event(secs(5)), event(secs(20))]), nearest);
        assert_eq!(deadline(&[event(secs(20)), event(secs(5))]), nearest);
    }
}

#[test]
fn a_burst_of_one_minutes_allowance_is_accepted_and_no_more() {
    for (early, flood) in [(0, false), (1, true)] {
        let config = off().max_ping_rate(1).build().unwrap();
        let mut policy = TimeoutPolicy::new(config, SEED, ms(0));
        for _ in 0..60 {
            assert_eq!(
                policy.handle(ms(0), Event::Ping),
                Action::Idle { until: None }
            );
        }
        let now = nanoseconds_before(ms(1_000), early);
        let flooded = policy.handle(now, Event::Ping) == Action::Abort(CloseReason::PingFlood);
        assert_eq!(flooded, flood, "{early} ns early");
    }
}

#[test]
fn a_deadline_at_the_start_of_a_grace_is_covered_by_it() {
    let config = off()
        .message_timeout(secs(1))
        .idle_timeout(secs(10))
        .stall_tolerance(TOLERANCE);
    let mut policy = TimeoutPolicy::new(config.build().unwrap(), SEED, ms(0));
    policy.observe(ms(0), Event::SendStart);
    assert_eq!(
        policy.poll(ms(10_000)),
        Action::Idle {
            until: Some(ms(13_000))
        }
    );
    assert_eq!(
        policy.poll(ms(13_000)),
        Action::Abort(CloseReason::MessageTimeout)
    );
}

#[test]
fn entering_a_phase_forgets_the_grace() {
    let config = off().handshake_timeout(secs(10)).stall_tolerance(TOLERANCE);
    let mut policy = TimeoutPolicy::opening(config.build().unwrap(), SEED, ms(0));
    assert_eq!(
        policy.poll(ms(14_000)),
        Action::Idle {
            until: Some(ms(17_000))
        }
    );
    policy.observe(ms(14_000), Event::Opened);
    let probe = Event::Probe {
        within: Duration::ZERO,
    };
    assert_eq!(
        policy.handle(ms(14_000), probe),
        Action::Abort(CloseReason::PongTimeout)
    );
}

#[test]
fn the_last_instant() {
    assert_eq!(Timestamp::from_nanos(u64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::from_nanos(u64::MAX - 1), Timestamp::MAX);
    assert_eq!(Timestamp::MAX.checked_add(NANOSECOND), None);

    // A limit that starts there never expires.
    let never = Action::Idle { until: None };
    for start in [TimeoutPolicy::new, TimeoutPolicy::opening] {
        let mut policy = start(TimeoutConfig::DEFAULT, SEED, Timestamp::MAX);
        assert_eq!(policy.poll(Timestamp::MAX), never);
        let events = [
            Event::Opened,
            Event::SendStart,
            Event::RecvPartial { total: u64::MAX },
            Event::SendProgress { bytes: u64::MAX },
            Event::CloseStart,
        ];
        for event in events {
            assert_eq!(policy.handle(Timestamp::MAX, event), never, "{event:?}");
            assert_eq!(policy.next_deadline(), None, "{event:?}");
        }
    }

    // The last deadline that expires, and the first that does not.
    for (length, until) in [(5, Some(Timestamp::MAX)), (6, None)] {
        let config = off()
            .idle_timeout(Duration::from_nanos(length))
            .build()
            .unwrap();
        let start = nanoseconds_before(Timestamp::MAX, 5);
        let mut policy = TimeoutPolicy::new(config, SEED, start);
        assert_eq!(policy.poll(start), Action::Idle { until });
        let last = policy.poll(Timestamp::MAX);
        assert_eq!(matches!(last, Action::Close(_)), until.is_some());
    }

    // A poll straight from the origin to the last instant.
    let mut policy = TimeoutPolicy::new(TimeoutConfig::DEFAULT, SEED, Timestamp::ZERO);
    let verdict = policy.poll(Timestamp::MAX);
    assert_eq!(verdict, Action::Close(CloseReason::ConnectionTimeout));
}

#[test]
fn the_longest_limits_never_expire() {
    let limit = Duration::MAX;
    let config = off()
        .handshake_timeout(limit)
        .heartbeat_interval(limit)
        .connection_timeout(limit)
        .message_timeout(limit)
        .idle_timeout(limit)
        .ping_interval(limit)
        .pong_timeout(limit)
        .close_timeout(limit)
        .stall_tolerance(limit)
        .build()
        .unwrap();
    let events = [
        Event::Opened,
        Event::SendStart,
        Event::Probe { within: limit },
        Event::SendProgress { bytes: 1 },
        Event::CloseStart,
    ];
    let mut policy = TimeoutPolicy::opening(config, SEED, Timestamp::ZERO);
    for event in events {
        policy.observe(Timestamp::ZERO, event);
        while !matches!(policy.poll(ms(1)), Action::Idle { .. }) {}
        assert_eq!(
            policy.poll(Timestamp::MAX),
            Action::Idle { until: None },
            "{event:?}"
        );
    }
}

#[test]
fn a_wait_of_zero_is_a_verdict_at_once() {
    let new = || TimeoutPolicy::new(off().build().unwrap(), SEED, ms(0));
    let within = Duration::ZERO;
    let probed = new().handle(ms(7), Event::Probe { within });
    assert_eq!(probed, Action::Abort(CloseReason::PongTimeout));
    let drained = new().handle(ms(7), Event::Drain { within });
    assert_eq!(drained, Action::Close(CloseReason::Drain));

    // Input received at the deadline counts, if it is observed before the poll.
    let mut policy = new();
    policy.observe(ms(7), Event::Probe { within });
    policy.observe(ms(7), Event::Recv);
    assert!(matches!(policy.poll(ms(7)), Action::SendPing(_)));
    assert_eq!(policy.poll(ms(7)), Action::Idle { until: None });
}

#[test]
fn a_limit_of_zero_is_refused() {
    let zero = Duration::ZERO;
    let refused = [
        off().handshake_timeout(zero),
        off().heartbeat_interval(zero),
        off().connection_timeout(zero),
        off().message_timeout(zero),
        off().idle_timeout(zero),
        off().ping_interval(zero),
        off().pong_timeout(zero),
        off().close_timeout(zero),
        off().stall_tolerance(zero),
        off().min_data_rate(0),
        off().max_ping_rate(0),
    ];
    for builder in refused {
        assert!(builder.build().is_err(), "{builder:?}");
    }
}

#[test]
fn the_shortest_limits() {
    let config = off()
        .connection_timeout(NANOSECOND * 9)
        .idle_timeout(NANOSECOND * 3)
        .ping_interval(NANOSECOND)
        .pong_timeout(NANOSECOND)
        .jitter(0.5)
        .build()
        .unwrap();
    let at = Timestamp::from_nanos;
    let mut policy = TimeoutPolicy::new(config, SEED, at(0));
    assert_eq!(policy.poll(at(0)), Action::Idle { until: Some(at(1)) });
    assert_eq!(policy.poll(at(1)), Action::SendPing(policy.ping_id(1)));
    policy.observe(at(1), Event::PingSent(policy.ping_id(1)));
    assert_eq!(policy.poll(at(1)), Action::Idle { until: Some(at(2)) });
    assert_eq!(policy.poll(at(2)), Action::Abort(CloseReason::PongTimeout));
}

#[test]
fn with_every_limit_off_nothing_is_ever_due() {
    let config = off().build().unwrap();
    let never = Action::Idle { until: None };
    for start in [TimeoutPolicy::new, TimeoutPolicy::opening] {
        let mut policy = start(config, SEED, Timestamp::ZERO);
        let events = [
            Event::Tick,
            Event::SendStart,
            Event::SendProgress { bytes: 1 },
            Event::RecvPartial { total: 1 },
            Event::Ping,
        ];
        for event in events {
            assert_eq!(policy.handle(ms(1), event), never, "{event:?}");
        }
        assert_eq!(policy.poll(Timestamp::MAX), never);
        assert_eq!(policy.next_deadline(), None);
    }
}

#[test]
fn jitter_shortens_by_up_to_its_fraction_and_never_lengthens() {
    let interval = Duration::from_secs(100);
    let drawn = |jitter: f64, seed: u64| {
        let config = off()
            .ping_interval(interval)
            .connection_timeout(interval)
            .jitter(jitter)
            .build()
            .unwrap();
        let deadlines = TimeoutPolicy::new(config, seed, ms(0))
            .status(ms(0))
            .deadlines;
        [DeadlineKind::NextPing, DeadlineKind::Connection].map(|kind| {
            deadlines
                .get(kind)
                .unwrap()
                .saturating_duration_since(Timestamp::ZERO)
                .as_secs_f64()
                / 100.0
        })
    };
    for place in 0..2 {
        let all: Vec<_> = (0..1_000).map(|seed| drawn(0.5, seed)[place]).collect();
        assert!(all.iter().all(|part| (0.5..=1.0).contains(part)));
        for tenth in 5..10 {
            let range = f64::from(tenth) / 10.0..f64::from(tenth + 1) / 10.0;
            let hits = all.iter().filter(|part| range.contains(part)).count();
            assert!((100..300).contains(&hits), "{hits} of 1000 in {range:?}");
        }
        assert!((0..1_000).all(|seed| drawn(0.0, seed)[place] == 1.0));
    }

    for accepted in [0.0, 1e-9, 0.5] {
        assert!(off().jitter(accepted).build().is_ok(), "{accepted}");
    }
    for refused in [-1e-9, 0.500_000_001, f64::NAN, f64::INFINITY] {
        assert!(off().jitter(refused).build().is_err(), "{refused}");
    }
}

#[test]
fn evidence_at_a_deadline_wins() {
    let config = off().idle_timeout(secs(60)).build().unwrap();
    let mut policy = TimeoutPolicy::new(config, SEED, ms(0));
    let until = Some(ms(120_000));
    assert_eq!(
        policy.handle(ms(60_000), Event::Recv),
        Action::Idle { until }
    );
    assert_eq!(policy.phase(), Phase::Open);
}

const SEED: u64 = 3;

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nanoseconds_before(at: Timestamp, nanos: u64) -> Timestamp {
    Timestamp::from_nanos(at.as_nanos() - nanos)
}
