//! async-std: its clock, its timer, and functions that wrap or open a socket with them.
//!
//! async-std and smol share the reactor async-io, so this is the same as
//! for smol. It does not depend on the async-std crate.

pub use super::async_io::{Timer, open, wrap};
