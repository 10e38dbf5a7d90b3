//! Timeouts and keepalive for the WebSocket you already have.
//!
//! ws-timeout detects a dead peer within a known time, and does not disconnect healthy peers just
//! because your own process stalled. Start with the type that fits your program:
//!
//! * **A socket:** [`TimeoutSocket`] (feature `socket`) wraps any `Stream + Sink` of WebSocket
//!   messages and implements both traits. You must keep reading from it. [`runtime::tokio::wrap`]
//!   (feature `tokio`) takes a socket that is already open; [`runtime::tokio::open`] also limits
//!   the opening handshake. The modules for smol and async-std have the same functions.
//! * **A server:** [`Timeouts`] (feature `socket`) holds the server's limits, its observer and the
//!   list of its connections, and can drain them all. Features `axum` and `tower` add an extractor
//!   and a layer.
//! * **An event loop:** [`TimeoutPolicy`] makes the same decisions as a pure state machine. You
//!   pass it timestamped [`Event`]s, and it returns [`Action`]s. It reads no clock, does no I/O,
//!   allocates nothing and never panics. [`Fleet`] (feature `alloc`) manages many policies with one
//!   timer.
//!
//! Each takes its limits from a [`TimeoutConfig`]. You can build one in code, use a preset, or read
//! it from `WS_*` environment variables or a section of a file.
//!
//! The [guide] begins with a complete server and client, and has chapters on choosing the numbers,
//! on each verdict, and on TLS, shutdown, metrics and testing. The [specification](spec) defines
//! exactly what the policy decides, and when.
//!
//! # Example
//!
//! An echo server's connection, with the features `tokio` and `tungstenite`:
//!
#![cfg_attr(all(feature = "tokio", feature = "tungstenite"), doc = "```no_run")]
#![cfg_attr(
    not(all(feature = "tokio", feature = "tungstenite")),
    doc = "```ignore"
)]
//! use tokio::net::TcpStream;
//! use tokio_tungstenite::{accept_async, tungstenite};
//! use ws_timeout::{Error, Metered, Timeouts, runtime::tokio::open};
//!
//! async fn echo(tcp: TcpStream, timeouts: &Timeouts) -> Result<(), Error<tungstenite::Error>> {
//!     let tcp = Metered::socket(tcp); // sees the progress of large messages
//!     let meter = tcp.meter();
//!     let mut socket = open(timeouts, accept_async(tcp)).with_meter(meter).await?;
//!     while let Some(message) = socket.recv().await? {
//!         if message.is_text() || message.is_binary() {
//!             socket.send(message).await?;
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # The log
//!
//! Unless you set an [`Observer`], a socket logs to the `log` crate with the target `ws_timeout`:
//!
//! | level | reports |
//! |---|---|
//! | `warn` | a verdict, unless it was planned |
//! | `info` | a planned verdict (a lifetime or a drain); the end of a connection after a verdict; a close by the program with a code other than 1000 and 1001; an error; a resume; a socket that the program dropped |
//! | `debug` | the opening, pings, pongs and graces, and any other close |
//!
//! Each record has the key-values that apply to it:
//!
//! | key | value |
//! |---|---|
//! | `event` | `opened`, `ping`, `pong`, `grace`, `resumed`, `send_error`, `receive_error`, `handshake_error`, `verdict`, `closed` or `dropped` |
//! | `label` | the name given to the connection, escaped; `-` if none |
//! | `id` | the connection's number, unique in its `Timeouts` |
//! | `reason` | why the policy ended the connection, such as `idle_timeout` |
//! | `limit_ms` | the limit that expired, in milliseconds |
//! | `limit_per_s` | the rate limit that was violated: bytes per second for `slow_receive`, pings per second for `ping_flood` |
//! | `age_ms` | the connection's age, in milliseconds |
//! | `code` | the code of the Close frame: ours in `verdict`, if one was sent; the peer's in `closed` |
//! | `rtt_us` | the latest round-trip time, in microseconds |
//! | `detection_bound_ms` | the detection bound, in milliseconds |
//! | `suspended_ms` | how long the machine was suspended, in milliseconds |
//! | `metered` | whether a meter counts the connection's bytes |
//! | `error` | the error of the inner socket or the handshake, escaped |
//!
//! An [`Observer`] receives the same information as values. With feature `tracing`, the observer
//! `Tracing` emits these fields as tracing events, in a span for each connection. If you send the
//! `log` records to tracing through its bridge instead, their key-values are lost.
//!
//! `Timeouts::from_env` and the tower layer log each configuration once: its limits at `info`
//! (event `limits`), and settings that are probably mistakes at `warn` (event `warning`).
//! `from_env` also logs unknown `WS_*` variables (event `unknown_variable`), at `warn` if the name
//! is probably misspelled, otherwise at `info`.
//!
//! # Features
//!
//! No feature is on by default: the policy and its configuration need only `core`. Features are
//! additive.
//!
//! | feature | what it adds |
//! |---|---|
//! | `alloc` | `Fleet`: many policies with one timer |
//! | `std` | `TimeoutConfig::from_env` and `from_vars`; adds no dependency |
//! | `serde` | `Deserialize` and `Serialize` for [`TimeoutConfig`] and [`TimeoutOverrides`]; adds `serde`, without the derive macros |
//! | `socket` | `TimeoutSocket` over any `Stream + Sink`, with `Timeouts`, `Metered` and `Recorder`; the traits `Message` and `Timer`; `Adapter` and `tungstenite_message!` for other libraries |
//! | `tungstenite` | `Message` for tungstenite 0.30, and `message::tungstenite_config` |
//! | `axum` | module `axum`: `TimeoutUpgrade` in place of `WebSocketUpgrade`, and a metered listener; `Message` for axum 0.8, and `message::limit_buffers`; adds axum with its features `http1` and `ws`, and implies `tokio` |
//! | `tower` | module `tower`: `Timeouts` as a layer; adds `http`, `tower-layer` and `tower-service` (five crates in all) |
//! | `tracing` | `Tracing`, an observer that emits a span for each connection, and events with typed fields; adds `tracing`, without its default features, and `tracing-core` |
//! | `tokio` | `runtime::tokio`: tokio's clock and timer, `wrap` and `open`; tokio's I/O traits for `Metered` |
//! | `smol`, `async-std` | `runtime::smol`, `runtime::async_std`: the same over async-io; does not add the runtime |
//! | `json` | `serde::Serialize` for [`Status`]; with `socket`, `TimeoutSocket::send_json` |
//! | `testing` | for tests: `Arbitrary` for [`TimeoutConfig`] and [`Event`]; with `socket`, `testing::ManualTimer`; adds `arbitrary` |
//!
//! # What it does not do
//!
//! ws-timeout does not implement the WebSocket protocol, reconnect or spawn tasks, and does not
//! limit the size or number of messages.
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
// Not in the workspace's lints: a program exports nothing, so its `pub` means `pub(crate)`.
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

/// The specification: what the policy decides, and when.
///
#[cfg(doc)]
#[doc = include_str!("../docs/SPEC.md")]
pub mod spec {}

// Not for doctests: `tests/guide.rs` compiles and runs the guide's programs with their
// dependencies.
#[cfg(all(doc, not(doctest)))]
/// The guide: complete servers, choosing the numbers, verdicts, TLS, shutdown, metrics and tests.
///
#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}

#[cfg(all(doctest, feature = "tokio", feature = "tungstenite"))]
#[doc = include_str!("../README.md")]
struct Readme;
