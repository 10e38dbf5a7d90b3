//! Clocks and timers for tokio, smol and async-std, and functions that wrap or open a socket with
//! them.

#[cfg(any(feature = "smol", feature = "async-std"))]
mod async_io;
#[cfg(feature = "async-std")]
pub mod async_std;
#[cfg(feature = "smol")]
pub mod smol;
#[cfg(feature = "tokio")]
pub mod tokio;

/// Returns the origin of all clocks here, so that the multiples of a timer slack are the same
/// instants for all connections of the process.
#[cfg(any(
    feature = "tokio",
    feature = "smol",
    feature = "async-std",
    target_vendor = "apple"
))]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn origin() -> std::time::Instant {
    static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}
