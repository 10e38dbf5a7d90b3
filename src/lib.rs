//! Timeouts for WebSockets.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

mod config;
mod policy;
mod rtt;
mod status;
mod time;

pub use config::{
    ConfigError, ConfigWarning, DrainCode, IdleScope, PongEvidence, TimeoutConfig,
    TimeoutConfigBuilder,
};
pub use policy::{Action, CloseReason, DeadlineKind, Event, Phase, PingId, TimeoutPolicy};
pub use rtt::Rtt;
pub use status::{Deadlines, Status};
pub use time::Timestamp;
