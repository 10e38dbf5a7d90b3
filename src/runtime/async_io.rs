//! async-io, with which smol and async-std keep time.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::TryStream;

use crate::config::TimeoutConfig;
use crate::error::Error;
use crate::socket::TimeoutSocket;
use crate::time::Timestamp;

/// Guards a socket whose opening handshake is done.
pub fn wrap<S: TryStream<Ok: crate::Message>>(
    config: impl Into<Arc<TimeoutConfig>>,
    socket: S,
) -> TimeoutSocket<S, Timer> {
    TimeoutSocket::new(config, Timer::new(), socket)
}

/// Runs the opening handshake, TLS included if the future does it, under `handshake_timeout` from this
/// call, and guards the socket that comes out; see [`TimeoutSocket::open`].
///
/// # Errors
/// [`Error::Verdict`] if the handshake took too long. [`Error::Socket`] with what it ended in.
pub fn open<S: TryStream<Ok: crate::Message>, E: Display, F: Future<Output = Result<S, E>>>(
    config: impl Into<Arc<TimeoutConfig>>,
    handshake: F,
) -> impl Future<Output = Result<TimeoutSocket<S, Timer>, Error<E>>> {
    TimeoutSocket::open(config, Timer::new(), handshake)
}

/// The monotonic clock, and an `async_io::Timer` as the alarm.
///
/// The alarm may ring before the reactor has turned. That does no harm here: async-io keeps no readiness,
/// each read and write asks the kernel first.
#[derive(Debug)]
pub struct Timer {
    origin: Instant,
    alarm: ::async_io::Timer,
}

impl Timer {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        Self {
            origin: now(),
            alarm: ::async_io::Timer::never(),
        }
    }
}

impl Default for Timer {
    fn default() -> Self {
        Self::new()
    }
}

impl crate::Timer for Timer {
    #[inline]
    fn now(&self) -> Timestamp {
        Timestamp::from_duration(now().saturating_duration_since(self.origin))
    }

    fn set(&mut self, at: Timestamp) {
        let from_origin = at.saturating_duration_since(Timestamp::ZERO);
        let deadline = self.origin.checked_add(from_origin);
        self.alarm.set_at(deadline.unwrap_or_else(now));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.alarm).poll(cx).map(drop)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
