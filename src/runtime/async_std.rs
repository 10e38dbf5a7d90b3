//! async-std's clock and timer, and functions that wrap or open a socket with them.
//!
//! They are the same as those for smol, since both runtimes use the reactor async-io. They do not
//! depend on the crate async-std.

pub use super::async_io::{Timer, open, wrap};
