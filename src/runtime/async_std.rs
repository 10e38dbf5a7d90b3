//! async-std: its clock, its alarm, and sockets made with them.
//!
//! async-std keeps time with async-io, as smol does, so this is the same. The async-std crate is not needed
//! for it.

pub use super::async_io::{Timer, open, wrap};
