//! smol's clock and timer, and functions that wrap or open a socket with them.
//!
//! They depend on the reactor async-io, but not on the crate smol.

pub use super::async_io::{Timer, open, wrap};
