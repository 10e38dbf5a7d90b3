//! Tools for testing your own timeout logic.
//!
//! * [`TimeoutConfig`](crate::TimeoutConfig), [`Event`](crate::Event) and the types that they
//!   contain implement `Arbitrary` of the crate `arbitrary`, for cargo-fuzz and similar tools. A
//!   proptest can generate bytes and create the values from them, as the [guide] shows. proptest
//!   shrinks the bytes, and fewer or smaller bytes give simpler values: without bytes, the
//!   configuration is [`TimeoutConfig::DEFAULT`](crate::TimeoutConfig::DEFAULT), and the event is
//!   [`Tick`](crate::Event::Tick).
//! * `ManualTimer` (with feature `socket`) is a `Timer` whose time the test advances. It drives a
//!   real `TimeoutSocket` on any executor.
//!
//! The feature `testing` adds one crate, `arbitrary`, which has no dependencies and needs std.
//! Enable it in `[dev-dependencies]`.
//!
//! [guide]: https://github.com/ws-timeout/ws-timeout/blob/main/docs/GUIDE.md#testing

mod arbitrary;
#[cfg(feature = "socket")]
mod timer;

#[cfg(feature = "socket")]
pub use timer::ManualTimer;
