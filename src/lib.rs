//! Timeouts for WebSockets.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

mod config;
#[cfg(feature = "std")]
mod env;
#[cfg(feature = "socket")]
pub mod message;
#[cfg(feature = "socket")]
mod metered;
mod policy;
#[cfg(feature = "socket")]
mod report;
mod rtt;
#[cfg(feature = "socket")]
pub mod runtime;
#[cfg(feature = "socket")]
mod socket;
mod status;
mod time;
#[cfg(feature = "socket")]
mod timer;

pub use config::{
    ConfigError, ConfigWarning, DrainCode, IdleScope, PongEvidence, TimeoutConfig,
    TimeoutConfigBuilder,
};
#[cfg(feature = "std")]
pub use env::{BadVariable, EnvConfig, EnvError, UnknownVariable};
#[cfg(feature = "socket")]
pub use message::{Heartbeat, Kind, Message};
#[cfg(feature = "socket")]
pub use metered::{Meter, Metered};
pub use policy::{Action, CloseReason, DeadlineKind, Event, Phase, PingId, TimeoutPolicy};
pub use rtt::Rtt;
#[cfg(feature = "socket")]
pub use socket::{Closing, Error, TimeoutSocket, Verdict};
pub use status::{Deadlines, Status};
pub use time::Timestamp;
#[cfg(feature = "socket")]
pub use timer::Timer;
