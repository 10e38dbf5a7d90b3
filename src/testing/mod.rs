//! Tools for testing your own timeout logic.
//!
//! * [`TimeoutConfig`](crate::TimeoutConfig), [`Event`](crate::Event) and what they contain
//!   implement `Arbitrary` of the crate `arbitrary`, for cargo-fuzz and similar tools. A proptest
//!   generates bytes and makes the values from them, as the [guide] shows. proptest shrinks the
//!   bytes, and fewer and smaller bytes make simpler values: without bytes the configuration is
//!   [`TimeoutConfig::DEFAULT`](crate::TimeoutConfig::DEFAULT), and the event a
//!   [`Tick`](crate::Event::Tick).
//! * `ManualTimer` (with feature `socket`) is a `Timer` whose time a test advances: it drives a
//!   real `TimeoutSocket` on any executor.
//!
//! The feature adds one crate to the tree, `arbitrary`, which has no dependencies and needs std.
//! Enable it in `[dev-dependencies]`.
//!
//! [guide]: https://github.com/ws-timeout/ws-timeout/blob/main/docs/GUIDE.md#testing

mod arbitrary;
#[cfg(feature = "socket")]
mod timer;

#[cfg(feature = "socket")]
pub use timer::ManualTimer;
