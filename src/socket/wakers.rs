//! The tasks that poll a socket, and the wakers that wake them.
//!
//! One task polls a socket, or two after a split. The transport keeps only one waker for writing,
//! but both halves write: the reading half flushes pings, replies and the Close frame. If the
//! reading half left its own waker there, it would displace the waker of the sending task, which
//! would then sleep forever. Some transports even keep only one waker for both directions. So while
//! only one task is known, the transport gets that task's waker. As soon as two are known, its
//! write side gets a waker that wakes both.
//!
//! The timer also wakes both tasks, through a waker that records that it was woken. Until it was,
//! the socket need not poll the timer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use futures_util::task::{ArcWake, waker_ref};

/// The tasks that poll the two halves.
pub(super) struct Wakers {
    /// Copies of the wakers in `both`, to compare without the lock. A no-op waker stands for an
    /// unknown task.
    reader: Waker,
    writer: Waker,
    both: Arc<BothTasks>,
}

/// A waker that wakes both tasks.
struct BothTasks(Mutex<[Waker; 2]>);

/// A waker that wakes both tasks, and records that it was woken.
pub(super) struct AlarmWaker {
    woken: AtomicBool,
    both: Arc<BothTasks>,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let nobody = || Waker::noop().clone();
        Self {
            reader: nobody(),
            writer: nobody(),
            both: Arc::new(BothTasks(Mutex::new([nobody(), nobody()]))),
        }
    }

    pub(super) fn alarm_waker(&self) -> Arc<AlarmWaker> {
        Arc::new(AlarmWaker {
            woken: AtomicBool::new(false),
            both: self.both.clone(),
        })
    }

    /// Returns whether the task of `cx` is registered as the reader.
    #[inline]
    pub(super) fn knows_reader(&self, cx: &Context<'_>) -> bool {
        self.reader.will_wake(cx.waker())
    }

    /// Registers the task of `cx` as the reader. Returns whether it was not registered before:
    /// another task may then have been woken in its place.
    #[inline]
    pub(super) fn register_reader(&mut self, cx: &Context<'_>) -> bool {
        let new = !self.reader.will_wake(cx.waker());
        if new {
            self.reader.clone_from(cx.waker());
            self.both.replace(0, cx.waker());
        }
        new
    }

    /// Registers the task of `cx` as the writer.
    #[inline]
    pub(super) fn register_writer(&mut self, cx: &Context<'_>) {
        if !self.writer.will_wake(cx.waker()) {
            self.writer.clone_from(cx.waker());
            self.both.replace(1, cx.waker());
        }
    }

    /// Calls `write` with the waker for the transport's write side, when the task of `cx` polls it.
    #[inline]
    pub(super) fn with_write_waker<R>(
        &self,
        cx: &Context<'_>,
        write: impl FnOnce(&mut Context<'_>) -> R,
    ) -> R {
        let only = |known: &Waker| known.will_wake(cx.waker()) || known.will_wake(Waker::noop());
        if only(&self.reader) && only(&self.writer) {
            write(&mut Context::from_waker(cx.waker()))
        } else {
            write(&mut Context::from_waker(&waker_ref(&self.both)))
        }
    }

    pub(super) fn wake_reader(&self) {
        self.reader.wake_by_ref();
    }

    pub(super) fn wake_writer(&self) {
        self.writer.wake_by_ref();
    }

    pub(super) fn wake_both(&self) {
        self.wake_reader();
        if !self.writer.will_wake(&self.reader) {
            self.wake_writer();
        }
    }
}

impl BothTasks {
    fn replace(&self, index: usize, waker: &Waker) {
        let new = waker.clone();
        let old = std::mem::replace(&mut self.lock()[index], new);
        // The lock is released by now: dropping the last waker of a task may run code that wakes
        // this one.
        drop(old);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Waker; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArcWake for BothTasks {
    fn wake_by_ref(tasks: &Arc<Self>) {
        let [reader, writer] = tasks.lock().clone();
        if !writer.will_wake(&reader) {
            writer.wake();
        }
        reader.wake();
    }
}

impl AlarmWaker {
    #[inline]
    pub(super) fn was_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// Makes the next pass find this waker woken, without waking a task.
    pub(super) fn set_woken(&self) {
        self.woken.store(true, Ordering::Release);
    }

    /// Returns whether this waker was woken since the last call.
    pub(super) fn take_woken(&self) -> bool {
        // A load is much cheaper than a swap, and the result is usually false.
        self.was_woken() && self.woken.swap(false, Ordering::AcqRel)
    }
}

impl ArcWake for AlarmWaker {
    fn wake_by_ref(alarm: &Arc<Self>) {
        alarm.woken.store(true, Ordering::Release);
        ArcWake::wake_by_ref(&alarm.both);
    }
}
