//! Timeouts and keepalive for WebSockets. Detects a dead peer within a known time, and does not
//! disconnect healthy peers because your own process stalled.
//!
//! * **You have a socket.** [`TimeoutSocket`] (feature `socket`) wraps any `Stream + Sink` of
//!   WebSocket messages and implements both traits. You must keep reading from it.
//!   [`runtime::tokio::open`] (feature `tokio`) also limits the opening handshake;
//!   [`runtime::tokio::wrap`] takes a socket that is already open. The modules for smol and
//!   async-std have the same functions.
//! * **You have a server.** [`Timeouts`] (feature `socket`) holds its limits, its observer and the
//!   list of its connections, and drains them all. For axum there is an extractor, for tower a
//!   layer.
//! * **You have an event loop.** [`TimeoutPolicy`] makes the same decisions as a pure state
//!   machine: timestamped [`Event`]s in, [`Action`]s out. It reads no clock, does no I/O, allocates
//!   nothing and never panics. [`Fleet`] (feature `alloc`) manages many policies with one timer.
//!
//! All take their limits from a [`TimeoutConfig`]: built in code, as a preset, from `WS_*`
//! variables, or from a section of a file.
//!
//! The [guide] begins with a complete server, and has chapters on choosing the numbers, on each
//! verdict, on TLS, shutdown, metrics and testing. The [specification](spec) defines exactly what
//! the policy decides, and when.
//!
//! # The log
//!
//! The socket logs with the `log` crate, target `ws_timeout`: a verdict as `warn` (`info` if it was
//! planned: a lifetime, a drain). The end after a verdict, errors, and a close by the program with
//! a code other than 1000 and 1001 are `info`; reports of healthy connections are `debug`. Each
//! line has the key-values that apply:
//!
//! | key | value |
//! |---|---|
//! | `event` | `opened`, `ping`, `pong`, `stall_grace`, `resumed`, `send_error`, `receive_error`, `handshake_error`, `verdict`, `closed` or `dropped` |
//! | `label` | the name given to the connection, escaped; `-` if none |
//! | `id` | the connection's number, unique in its `Timeouts` |
//! | `reason` | why the policy ended the connection, such as `idle_timeout` |
//! | `limit_ms` | the limit that expired, in milliseconds |
//! | `limit_per_s` | the rate that was exceeded: bytes per second for `slow_receive`, pings per second for `ping_flood` |
//! | `age_ms` | the connection's age, in milliseconds |
//! | `code` | the code of the Close frame: ours in `verdict`, if one was sent; the peer's in `closed` |
//! | `rtt_us` | the latest round-trip time, in microseconds |
//! | `detection_bound_ms` | the detection bound, in milliseconds |
//! | `suspended_ms` | how long the machine was suspended, in milliseconds |
//! | `metered` | whether a meter counts the connection's bytes |
//! | `error` | the error of the inner socket, escaped |
//!
//! An [`Observer`] receives the same information as values. With feature `tracing`, the observer
//! `Tracing` emits events with these fields, in a span for each connection; tracing's bridge for
//! `log` drops them.
//!
//! `Timeouts::from_env`, and with feature `tower` the layer, log the limits (event `limits`,
//! `info`) and settings that are probably mistakes (`warning`, `warn`), once for each
//! configuration. `from_env` also logs unknown `WS_*` variables (`unknown_variable`): `warn` if one
//! is probably misspelled, else `info`.
//!
//! # Features
//!
//! No feature is on by default; the policy and its configuration need only `core`. Features are
//! additive.
//!
//! | feature | what it adds |
//! |---|---|
//! | `alloc` | `Fleet`, many policies behind one deadline |
//! | `std` | `TimeoutConfig::from_env` and `from_vars`; no dependency |
//! | `serde` | `Deserialize` and `Serialize` for [`TimeoutConfig`] and [`TimeoutOverrides`]; its only dependency is `serde`, without the derive macros |
//! | `socket` | `TimeoutSocket` over any `Stream + Sink`, its traits `Message` and `Timer`, `Adapter` and `tungstenite_message!` for other libraries, `Metered` |
//! | `tungstenite` | `Message` for the type of tungstenite 0.30, and `message::tungstenite_config` |
//! | `axum` | module `axum`: `TimeoutUpgrade` in place of `WebSocketUpgrade`, and a metered listener; `Message` for the type of axum 0.8, `message::limit_buffers`; needs axum with its features `http1` and `ws`, and implies `tokio` |
//! | `tower` | module `tower`: `Timeouts` as a layer; needs `http`, `tower-layer` and `tower-service` (five crates in all) |
//! | `tracing` | `Tracing`, an observer that emits a span for each connection, and events with typed fields; adds `tracing`, without its default features, and `tracing-core` |
//! | `tokio` | `runtime::tokio`: tokio's clock and timer, `wrap` and `open`; tokio's I/O traits for `Metered` |
//! | `smol`, `async-std` | `runtime::smol`, `runtime::async_std`: the same over async-io, without a dependency on the runtime |
//! | `json` | `serde::Serialize` for [`Status`]; with `socket`, `TimeoutSocket::send_json` |
//! | `testing` | for tests: `Arbitrary` of the crate `arbitrary`, its only dependency, for [`TimeoutConfig`] and [`Event`]; with `socket`, `testing::ManualTimer` |
//!
//! # What it does not do
//!
//! It does not reconnect, speak WebSocket or spawn tasks, and it does not limit the size or number
//! of messages.
//!
#![cfg_attr(
    not(feature = "socket"),
    doc = "[`TimeoutSocket`]: https://docs.rs/ws-timeout/latest/ws_timeout/struct.TimeoutSocket.html"
)]
#![cfg_attr(
    not(feature = "socket"),
    doc = "[`Timeouts`]: https://docs.rs/ws-timeout/latest/ws_timeout/struct.Timeouts.html"
)]
#![cfg_attr(
    not(feature = "socket"),
    doc = "[`Observer`]: https://docs.rs/ws-timeout/latest/ws_timeout/trait.Observer.html"
)]
#![cfg_attr(
    not(feature = "alloc"),
    doc = "[`Fleet`]: https://docs.rs/ws-timeout/latest/ws_timeout/struct.Fleet.html"
)]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "[`runtime::tokio::open`]: https://docs.rs/ws-timeout/latest/ws_timeout/runtime/tokio/fn.open.html"
)]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "[`runtime::tokio::wrap`]: https://docs.rs/ws-timeout/latest/ws_timeout/runtime/tokio/fn.wrap.html"
)]
#![no_std]
// Here rather than in the workspace's lints: a program exports nothing, and its `pub` is short for
// `pub(crate)`.
#![warn(unnameable_types, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

#[cfg(feature = "axum")]
pub mod axum;
mod config;
#[cfg(feature = "std")]
mod env;
#[cfg(feature = "socket")]
mod error;
mod event;
#[cfg(feature = "alloc")]
mod fleet;
#[cfg(feature = "socket")]
pub mod message;
#[cfg(feature = "socket")]
#[cfg_attr(
    not(any(feature = "tokio", feature = "smol", feature = "async-std")),
    allow(dead_code, reason = "the I/O traits of the runtimes use it")
)]
mod metered;
#[cfg(feature = "socket")]
mod observer;
mod policy;
#[cfg(test)]
mod random;
#[cfg(feature = "socket")]
mod recorder;
#[cfg(feature = "socket")]
mod report;
mod rtt;
#[cfg(feature = "socket")]
pub mod runtime;
#[cfg(feature = "serde")]
mod section;
mod seed;
#[cfg_attr(
    not(feature = "std"),
    allow(dead_code, reason = "the environment and files are read with std")
)]
mod settings;
#[cfg(feature = "socket")]
mod socket;
mod status;
#[cfg(feature = "socket")]
mod suspension;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
#[cfg(feature = "socket")]
mod timer;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(feature = "tracing")]
mod tracing;

pub use config::{
    ConfigError, ConfigWarning, DrainCode, IdleScope, PongEvidence, TimeoutConfig,
    TimeoutConfigBuilder,
};
#[cfg(feature = "std")]
pub use env::{BadVariable, EnvConfig, EnvError, UnknownVariable};
#[cfg(feature = "socket")]
pub use error::{CloseHandshake, Error, PeerClose, Verdict};
pub use event::{Action, CloseReason, Event, Phase};
#[cfg(feature = "alloc")]
pub use fleet::{Fleet, FleetKey};
#[cfg(feature = "socket")]
pub use message::{Message, MessageKind};
#[cfg(feature = "socket")]
pub use metered::{Meter, Metered};
#[cfg(feature = "socket")]
pub use observer::{Connection, Observer, Report, Step};
pub use policy::{Horizon, TimeoutPolicy};
#[cfg(feature = "socket")]
pub use recorder::{Recorder, Trace};
#[cfg(feature = "socket")]
pub use report::Log;
pub use rtt::Rtt;
pub use seed::PingId;
pub use settings::TimeoutOverrides;
#[cfg(feature = "socket")]
pub use socket::{Handle, Opening, Received, TimeoutSocket, Timeouts};
pub use status::{DeadlineKind, Deadlines, Status};
pub use time::Timestamp;
#[cfg(feature = "socket")]
pub use timer::Timer;
#[cfg(feature = "tracing")]
pub use tracing::Tracing;

#[cfg(doc)]
#[doc = include_str!("../docs/SPEC.md")]
pub mod spec {}

// `tests/guide.rs` runs its programs, with what they depend on.
#[cfg(all(doc, not(doctest)))]
#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}

#[cfg(all(doctest, feature = "tokio", feature = "tungstenite"))]
#[doc = include_str!("../README.md")]
struct Readme;
