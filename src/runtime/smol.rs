//! smol: its clock, its timer, and functions that wrap or open a socket with them.

pub use super::async_io::{Timer, open, wrap};
