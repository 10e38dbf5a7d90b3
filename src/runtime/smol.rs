//! smol: its clock, its alarm, and sockets made with them.

pub use super::async_io::{Timer, open, wrap};
