//! smol: its clock, its timer, and functions that wrap or open a socket with them.
//!
//! It depends on the reactor async-io and not on the crate smol.

pub use super::async_io::{Timer, open, wrap};
