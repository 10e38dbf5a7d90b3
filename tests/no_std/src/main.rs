//! Drives the policy without std or an allocator, and where a panic cannot be linked.
//!
//! If the policy used `std`, this would not compile, since std has its own panic handler. If it
//! used `alloc`, it would not link, for lack of an allocator. The handler here calls a function
//! that does not exist, so it does not link either if any path of the policy can panic.
//!
//! Every public function of the policy is called with values that the compiler cannot know: they
//! come from the program's arguments. Exits with 0.
#![no_std]
#![no_main]

use core::ffi::{c_char, c_int};
use core::hint::black_box;
use core::panic::PanicInfo;
use core::time::Duration;

use ws_timeout::{
    DrainCode, Event, IdleScope, PingId, PongEvidence, TimeoutConfig, TimeoutPolicy, Timestamp,
};

#[link(name = "c")]
unsafe extern "C" {
    fn the_policy_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    unsafe { the_policy_can_panic() }
}

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, _: *const *const c_char) -> c_int {
    let unknown = black_box(count as u64);
    let length = Duration::from_nanos(unknown);
    let rate = unknown as u32;
    let built = TimeoutConfig::builder()
        .handshake_timeout(length)
        .heartbeat_interval(length)
        .connection_timeout(length)
        .message_timeout(length)
        .idle_timeout(length)
        .ping_interval(length)
        .pong_timeout(length)
        .close_timeout(length)
        .stall_tolerance(length)
        .min_data_rate(rate)
        .max_ping_rate(rate)
        .jitter(unknown as f64 / 4.0)
        .idle_scope(if rate == 2 {
            IdleScope::Messages
        } else {
            IdleScope::Inbound
        })
        .pong_evidence(if rate == 2 {
            PongEvidence::Pong
        } else {
            PongEvidence::Any
        })
        .drain_code(if rate == 2 {
            DrainCode::ServiceRestart
        } else {
            DrainCode::GoingAway
        })
        .build();
    let Ok(config) = built else { return 1 };
    black_box((config.detection_bound(), config.warnings().count()));

    let mut policy = if rate == 2 {
        TimeoutPolicy::new(config, unknown, Timestamp::from_nanos(unknown))
    } else {
        TimeoutPolicy::opening(config, unknown, Timestamp::from_nanos(unknown))
    };
    for step in 0..black_box(unknown) {
        let now = Timestamp::from_nanos(black_box(unknown.wrapping_mul(step)));
        let id = PingId::from_payload(&black_box(unknown).to_be_bytes());
        let event = match black_box(unknown) {
            0 => Event::Opened,
            1 => Event::Recv,
            2 => Event::RecvPartial { total: step },
            3 => Event::Ping,
            4 => Event::Pong(id),
            5 => Event::SendStart,
            6 => Event::SendProgress { bytes: step },
            7 => Event::SendOk,
            8 => Event::Flushed,
            9 => Event::PingSent(policy.ping_id(step)),
            10 => Event::Probe { within: length },
            11 => Event::Drain { within: length },
            12 => Event::CloseStart,
            13 => Event::PeerClose,
            14 => Event::Closed,
            _ => Event::Tick,
        };
        policy.observe(now, event);
        black_box(policy.poll_unread(now));
        black_box(policy.handle(now, event));
        black_box(policy.next_deadline());
        black_box((
            policy.phase(),
            policy.cause(),
            policy.rtt(),
            policy.age(now),
        ));
        black_box((
            policy.is_idle(now),
            policy.is_pong_overdue(now),
            policy.should_ping(now),
        ));
        black_box((policy.is_expired(now), policy.remaining_lifetime(now)));
        let status = policy.status(now);
        black_box(status.deadlines.iter().count());
        black_box(status);
        if let Some(code) = policy.cause().and_then(|reason| config.close_code(reason)) {
            black_box(code);
        }
        policy.set_config(now, config);
    }
    0
}
