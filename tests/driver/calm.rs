//! A socket that skips the loop while nothing can be due behaves like one that never does.

use std::fmt::Debug;
use std::task::Waker;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use tungstenite::{Error as WsError, Message};
use ws_timeout::{Error, IdleScope, PongEvidence, TimeoutConfigBuilder};

use crate::common::off;
use crate::world::{Guarded, MS, Shared, data};

/// A step of the case.
#[derive(Clone, Debug)]
enum Step {
    /// Waits this many microseconds.
    Wait(u64),
    /// Waits until the alarm.
    WaitForAlarm,
    /// Waits until a nanosecond before the alarm.
    WaitAlmostForAlarm,
    Arrives(Message),
    /// The answer to the latest ping.
    PongArrives,
    Recv,
    RecvTimeout(u64),
    Send,
    Feed,
    Flush,
    /// Whether the transport accepts anything, and whether the inner sink has room.
    Room(bool, bool),
    SetConfig(TimeoutConfigBuilder),
    Probe,
    Drain,
}

fn any_limits() -> impl Strategy<Value = TimeoutConfigBuilder> {
    let limit = || prop::option::weighted(0.7, prop::sample::select(vec![3, 20, 100, 350, 1000]));
    let limits = [(); 7].map(|()| limit());
    (limits, any::<bool>(), any::<bool>()).prop_map(|(limits, messages, pong)| {
        let limits = limits.map(|limit: Option<u64>| limit.map(Duration::from_millis));
        off()
            .maybe_heartbeat_interval(limits[0])
            .maybe_connection_timeout(limits[1].map(|limit| 5 * limit))
            .maybe_message_timeout(limits[2])
            .maybe_idle_timeout(limits[3])
            .maybe_ping_interval(limits[4])
            .maybe_pong_timeout(limits[5])
            .maybe_stall_tolerance(limits[6])
            .idle_scope([IdleScope::Inbound, IdleScope::Messages][usize::from(messages)])
            .pong_evidence([PongEvidence::Any, PongEvidence::Pong][usize::from(pong)])
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..100_000_u64).prop_map(Step::Wait),
        2 => Just(Step::WaitForAlarm),
        1 => Just(Step::WaitAlmostForAlarm),
        3 => Just(Step::Arrives(data())),
        1 => Just(Step::Arrives(Message::Ping("x".into()))),
        2 => Just(Step::PongArrives),
        6 => Just(Step::Recv),
        1 => (0..10_u64).prop_map(Step::RecvTimeout),
        3 => Just(Step::Send),
        1 => Just(Step::Feed),
        2 => Just(Step::Flush),
        2 => any::<(bool, bool)>().prop_map(|(room, place)| Step::Room(room, place)),
        1 => any_limits().prop_map(Step::SetConfig),
        1 => Just(Step::Probe),
        1 => Just(Step::Drain),
    ]
}

impl Step {
    /// Returns what the program sees of the step.
    fn run(&self, shared: &Shared, socket: &mut Guarded) -> String {
        let alarm = shared.world().alarm;
        let now = shared.world().now;
        match self {
            Self::Wait(micros) => shared.at(now + Duration::from_micros(*micros)),
            Self::WaitForAlarm => shared.at(alarm.unwrap_or_default().max(now)),
            Self::WaitAlmostForAlarm => {
                let almost = alarm
                    .unwrap_or_default()
                    .saturating_sub(Duration::from_nanos(1));
                shared.at(almost.max(now));
            }
            Self::Arrives(message) => shared.world().incoming.push_back(message.clone()),
            Self::PongArrives => {
                let mut world = shared.world();
                let mut sent = world.sent.iter().rev();
                let ping = sent.find_map(|message| match message {
                    Message::Ping(payload) => Some(payload.clone()),
                    _ => None,
                });
                world.incoming.extend(ping.map(Message::Pong));
            }
            Self::Recv => return seen(socket.next().now_or_never()),
            Self::RecvTimeout(millis) => {
                let within = Duration::from_millis(*millis);
                return seen(socket.recv_timeout(within).now_or_never().map(Some));
            }
            Self::Send => return seen(SinkExt::send(socket, data()).now_or_never().map(Some)),
            Self::Feed => return seen(socket.feed(data()).now_or_never().map(Some)),
            Self::Flush => return seen(socket.flush().now_or_never().map(Some)),
            Self::Room(room, place) => {
                let mut world = shared.world();
                (world.full, world.no_place) = (!room, !place);
                let waker = world.write_waker.take_if(|_| *room && *place);
                drop(world);
                waker.into_iter().for_each(Waker::wake);
            }
            Self::SetConfig(config) => socket.set_config(config.build().unwrap()),
            Self::Probe => socket.probe(20 * MS),
            Self::Drain => socket.drain(Duration::ZERO),
        }
        String::new()
    }
}

/// Formats the result of a call, without the payloads of pings, which are random.
fn seen<T: Debug>(returned: Option<Option<Result<T, Error<WsError>>>>) -> String {
    match returned {
        Some(Some(Err(Error::Verdict(verdict)))) => {
            format!("{:?} {:?}", verdict.reason, verdict.close_handshake)
        }
        other => {
            let text = format!("{other:?}");
            let kind = text.split("ng(").next().unwrap_or_default();
            kind.to_owned()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// A socket whose messages may be heartbeats is never calm.
    /// Guards rule 4.
    #[test]
    fn a_calm_socket_behaves_like_one_that_is_never_calm(
        config in any_limits(),
        slack in prop::sample::select(vec![0, 10, 40]),
        turns in 0..3_u32,
        steps in prop::collection::vec(any_step(), 1..80),
    ) {
        let (calm, other) = (Shared::default(), Shared::default());
        let slack = Duration::from_millis(slack);
        let [mut socket, mut heartbeats] = [&calm, &other].map(|shared| {
            shared.world().turns_needed = turns;
            shared.socket(config).with_timer_slack(slack)
        });
        heartbeats = heartbeats.with_heartbeat_replies(|_| None);
        for step in &steps {
            let result = step.run(&calm, &mut socket);
            prop_assert_eq!(result, step.run(&other, &mut heartbeats), "{:?}", step);
            let [status, expected] = [&socket, &heartbeats].map(|socket| format!("{:?}", socket.status()));
            prop_assert_eq!(status, expected, "after {:?}", step);
        }
    }
}
