//! The clock and timer of async-io, the reactor of smol and async-std.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::TryStream;

use crate::socket::{Opening, TimeoutSocket, Timeouts};
use crate::time::Timestamp;

/// Wraps a socket whose opening handshake is complete.
pub fn wrap<S: TryStream<Ok: crate::Message>>(
    timeouts: impl Into<Timeouts>,
    socket: S,
) -> TimeoutSocket<S, Timer> {
    TimeoutSocket::new(timeouts, Timer::new(), socket)
}

/// Runs `handshake`, including any TLS, under `handshake_timeout` from this call, and wraps the
/// socket that it returns. [`Opening`] has an example, [`TimeoutSocket::open`] lists the errors.
pub fn open<S: TryStream<Ok: crate::Message>, E: Display, F: Future<Output = Result<S, E>>>(
    timeouts: impl Into<Timeouts>,
    handshake: F,
) -> Opening<F, Timer> {
    TimeoutSocket::open(timeouts, Timer::new(), handshake)
}

/// The monotonic clock, and an `async_io::Timer` as the timer.
///
/// The timer may fire before the reactor has turned. This is harmless: async-io caches no
/// readiness, so each read and write asks the kernel first.
#[derive(Debug)]
pub struct Timer {
    origin: Instant,
    alarm: ::async_io::Timer,
}

impl Timer {
    /// Creates a timer. Its clock counts from the process's common origin.
    pub fn new() -> Self {
        Self {
            origin: super::origin(),
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
    type Instant = Instant;

    #[inline]
    fn now(&self) -> Instant {
        now()
    }

    fn timestamp(&self, at: Instant) -> Timestamp {
        Timestamp::from_uptime(at.saturating_duration_since(self.origin))
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let from_origin = at.saturating_duration_since(Timestamp::ZERO);
        self.origin.checked_add(from_origin).unwrap_or_else(now)
    }

    fn set(&mut self, at: Instant) {
        self.alarm.set_at(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.alarm).poll(cx).map(drop)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
