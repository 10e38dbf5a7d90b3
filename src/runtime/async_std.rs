//! async-std: its clock, its timer, and functions that wrap or open a socket with them.
//!
//! This is the same as for smol, since both runtimes use the reactor async-io. It does not depend
//! on the crate async-std.

pub use super::async_io::{Timer, open, wrap};
