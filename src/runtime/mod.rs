//! A clock and an alarm for each runtime, and what wraps or opens a socket with them.

#[cfg(feature = "tokio")]
pub mod tokio;
