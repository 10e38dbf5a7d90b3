//! A timer whose clock the test advances.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::vec::Vec;

use crate::time::Timestamp;
use crate::timer::Timer;

/// A [`Timer`] whose time passes only when the test advances it, on any executor or on none.
///
/// Clones are separate timers on the same clock: give one to each socket, and keep one to advance
/// the time.
///
/// * The clock starts at [`Timestamp::ZERO`], and only [`advance`](Self::advance) moves it.
/// * A timer fires when the clock has reached the instant that it is set to, never earlier. There
///   is no timer slack unless you set one. `advance` wakes the task before it returns; the socket
///   acts when you or your executor next poll it.
/// * When the timer has fired, the socket assumes that a read finds everything that had arrived by
///   the instant that the timer was set to. This is true of a stream in memory, but not of a stream
///   registered with a reactor. So if the peer sends something in time, it must be in the stream
///   before you poll the socket past the deadline. The socket reads it before it decides, however
///   late the poll is.
/// * `advance` moves the clock in one step. If the clock passes a peer deadline by more than
///   `stall_tolerance`, the next poll starts a grace instead of returning a verdict, as after a
///   stall of the process. To avoid this, advance from deadline to deadline with
///   [`until_next_fire`](Self::until_next_fire).
///
/// Do not use this timer with tokio's own streams in a tokio task that may spend its budget: such a
/// stream then returns `Pending` even if input has arrived, which only tokio's timer detects.
///
/// ```
/// use std::time::Duration;
///
/// use futures_util::{FutureExt, StreamExt};
/// use tokio_tungstenite::WebSocketStream;
/// use tungstenite::protocol::Role;
/// use ws_timeout::testing::ManualTimer;
/// use ws_timeout::{CloseReason, Error, TimeoutConfig, TimeoutSocket};
///
/// let (ours, _silent_peer) = tokio::io::duplex(4096);
/// let ours = WebSocketStream::from_raw_socket(ours, Role::Server, None).now_or_never().unwrap();
/// let timer = ManualTimer::new();
/// let mut socket = TimeoutSocket::new(TimeoutConfig::DEFAULT, timer.clone(), ours);
///
/// let end = loop {
///     match socket.next().now_or_never() {
///         None => timer.advance(timer.until_next_fire().unwrap()), // to the next deadline
///         Some(read) => break read,
///     }
/// };
/// let Some(Err(Error::Verdict(verdict))) = end else { panic!() };
/// assert_eq!(verdict.reason, CloseReason::IdleTimeout);
/// assert_eq!(verdict.status.age, Duration::from_secs(60));
/// ```
#[derive(Debug)]
pub struct ManualTimer {
    clock: Arc<Mutex<Clock>>,
    /// The key of the timer's setting in the clock.
    id: u64,
}

#[derive(Debug)]
struct Clock {
    now: Timestamp,
    suspended: Duration,
    /// How many timers were created.
    timers: u64,
    /// The instant that each timer is set to, until it has fired.
    set: BTreeMap<u64, Setting>,
}

#[derive(Debug)]
struct Setting {
    at: Timestamp,
    waker: Option<Waker>,
}

impl ManualTimer {
    /// Creates a timer with a new clock, at [`Timestamp::ZERO`].
    pub fn new() -> Self {
        let clock = Clock {
            now: Timestamp::ZERO,
            suspended: Duration::ZERO,
            timers: 1,
            set: BTreeMap::new(),
        };
        Self {
            clock: Arc::new(Mutex::new(clock)),
            id: 0,
        }
    }

    /// Returns the time of the clock.
    pub fn now(&self) -> Timestamp {
        self.lock().now
    }

    /// Moves the clock forward by `duration` in one step, at most to [`Timestamp::MAX`], and wakes
    /// the tasks whose timers fire.
    pub fn advance(&self, duration: Duration) {
        let mut clock = self.lock();
        let now = clock.now.checked_add(duration).unwrap_or(Timestamp::MAX);
        clock.now = now;
        let expired = clock.set.values_mut().filter(|timer| timer.at <= now);
        let wakers: Vec<_> = expired.filter_map(|timer| timer.waker.take()).collect();
        drop(clock); // A waker may run code that uses this clock.
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Simulates a suspension of the machine for `duration`:
    /// [`time_suspended`](Timer::time_suspended) grows, and the clock does not move.
    ///
    /// A socket detects this when its timer next fires, and probes the peer if `duration` is longer
    /// than five seconds.
    pub fn suspend(&self, duration: Duration) {
        let mut clock = self.lock();
        clock.suspended = clock.suspended.saturating_add(duration);
    }

    /// Returns the time until the next timer on this clock fires: zero if one has fired and its
    /// socket has not been polled since, or `None` if none is set.
    pub fn until_next_fire(&self) -> Option<Duration> {
        let clock = self.lock();
        let next = clock.set.values().map(|timer| timer.at).min()?;
        Some(next.saturating_duration_since(clock.now))
    }

    fn lock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualTimer {
    fn default() -> Self {
        Self::new()
    }
}

/// Creates another timer on the same clock, which is not set.
impl Clone for ManualTimer {
    fn clone(&self) -> Self {
        let mut clock = self.lock();
        let id = clock.timers;
        clock.timers += 1;
        drop(clock);
        Self {
            clock: self.clock.clone(),
            id,
        }
    }
}

impl Drop for ManualTimer {
    fn drop(&mut self) {
        let setting = self.lock().set.remove(&self.id);
        drop(setting); // Unlocked: dropping a waker may drop a task and its timers.
    }
}

impl Timer for ManualTimer {
    type Instant = Timestamp;

    fn now(&self) -> Timestamp {
        self.now()
    }

    fn timestamp(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn instant(&self, at: Timestamp) -> Timestamp {
        at
    }

    fn set(&mut self, at: Timestamp) {
        let setting = Setting { at, waker: None };
        let replaced = self.lock().set.insert(self.id, setting);
        drop(replaced);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut clock = self.lock();
        let now = clock.now;
        let Some(setting) = clock.set.get_mut(&self.id) else {
            return Poll::Pending;
        };
        if setting.at > now {
            let replaced = setting.waker.replace(cx.waker().clone());
            drop(clock);
            drop(replaced);
            return Poll::Pending;
        }
        let fired = clock.set.remove(&self.id);
        drop(clock);
        drop(fired);
        Poll::Ready(())
    }

    fn default_slack(&self) -> Duration {
        Duration::ZERO
    }

    fn time_suspended(&self) -> Duration {
        self.lock().suspended
    }
}
