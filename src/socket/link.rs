//! The state that a socket shares with its handles and its [`Timeouts`].
//!
//! The rest of a socket's state belongs to the task that polls it. So a handle only leaves a
//! request here, and wakes that task through the alarm's waker. The next pass finds the waker
//! woken, as when the timer fires, and carries out the request. Requests therefore add no cost to
//! messages, and a socket without handles needs no link.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::ArcWake;

#[cfg(doc)]
use super::Timeouts;
use super::timeouts::Common;
use super::wakers::AlarmWaker;
use crate::config::TimeoutConfig;
use crate::error::PeerClose;
use crate::observer::{Connection, Observer, Step};
use crate::status::Status;
use crate::time::Timestamp;

pub(crate) struct Link {
    waker: Arc<AlarmWaker>,
    /// `None` for a socket with only a configuration.
    common: Option<Arc<Common>>,
    /// The number of the connection in `common`.
    id: u64,
    /// Whether the observer wants every call to the policy.
    wants_steps: bool,
    #[cfg(feature = "tracing")]
    span: crate::tracing::ConnectionSpan,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Requests,
    label: Option<Arc<str>>,
    peer_close: Option<PeerClose>,
    /// How many status requests handles have issued.
    issued: u64,
    /// How many of them were issued before the requests were last taken. Only these are answered,
    /// so that an answer shows the effect of all earlier requests.
    taken: u64,
    /// How many of them were answered; `status` is the latest answer.
    answered: u64,
    status: Option<Box<Status>>,
    /// The tasks that are waiting for an answer, by the number of their status request.
    waiters: BTreeMap<u64, Waker>,
    has_ended: bool,
}

/// The requests of handles since the last pass. The last of several configurations counts, and the
/// first of several closes.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) config: Option<Arc<TimeoutConfig>>,
    pub(super) probe: Option<Duration>,
    pub(super) drain: Option<Duration>,
    pub(super) close: Option<(u16, String)>,
}

impl Link {
    pub(super) fn new(waker: Arc<AlarmWaker>, common: Option<Arc<Common>>) -> Arc<Self> {
        let id = common.as_ref().map_or(0, |common| common.next_id());
        let observer = common.as_ref().and_then(|common| common.observer());
        let link = Arc::new(Self {
            wants_steps: observer.is_some_and(Observer::wants_steps),
            waker,
            common,
            id,
            #[cfg(feature = "tracing")]
            span: crate::tracing::ConnectionSpan::default(),
            shared: Mutex::default(),
        });
        if let Some(common) = &link.common {
            common.add(id, &link);
        }
        link
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn common(&self) -> Option<&Common> {
        self.common.as_deref()
    }

    // ---- called by handles ----

    /// Leaves a request for the next pass, and wakes the tasks. Returns false after the end.
    pub(super) fn request(&self, change: impl FnOnce(&mut Requests)) -> bool {
        let mut shared = self.lock();
        if shared.has_ended {
            return false;
        }
        change(&mut shared.requests);
        drop(shared);
        ArcWake::wake_by_ref(&self.waker);
        true
    }

    /// Waits for the answer to the status request with this number. If `number` is `None`, issues a
    /// request and sets its number.
    pub(super) fn poll_status(
        &self,
        number: &mut Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Status> {
        let waker = cx.waker().clone();
        let mut shared = self.lock();
        let is_new = number.is_none();
        shared.issued += u64::from(is_new);
        let number = *number.get_or_insert(shared.issued);
        match &shared.status {
            Some(status) if shared.has_ended || shared.answered >= number => {
                return Poll::Ready(**status);
            }
            _ => {}
        }
        let displaced = shared.waiters.insert(number, waker);
        drop(shared);
        drop(displaced);
        if is_new {
            ArcWake::wake_by_ref(&self.waker);
        }
        Poll::Pending
    }

    /// Removes the waker of a status request that was dropped.
    pub(super) fn forget_status_request(&self, number: u64) {
        let waker = self.lock().waiters.remove(&number);
        drop(waker);
    }

    /// Requests a drain within `within`, or a shorter time that was already requested. Returns
    /// false after the end.
    pub(super) fn drain(&self, within: Duration) -> bool {
        self.request(|requests| requests.drain = shorter(requests.drain, within))
    }

    /// Requests a probe within `within`, or a shorter time that was already requested. Returns
    /// false after the end.
    pub(super) fn probe(&self, within: Duration) -> bool {
        self.request(|requests| requests.probe = shorter(requests.probe, within))
    }

    pub(super) fn label(&self) -> Option<Arc<str>> {
        self.lock().label.clone()
    }

    pub(super) fn peer_close(&self) -> Option<PeerClose> {
        self.lock().peer_close.clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    // ---- called by the socket ----

    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.common.as_ref()?.observer()
    }

    /// Passes a call to the policy to the observer, if it wants steps.
    #[inline]
    pub(super) fn step(&self, label: Option<&str>, at: Timestamp, step: &Step<'_>) {
        if let Some(observer) = self.observer().filter(|_| self.wants_steps) {
            observer.step(&self.connection(label), at, step);
        }
    }

    /// Passes the creation of the policy to the observer, if it wants steps.
    pub(super) fn created(&self, at: Timestamp, config: &TimeoutConfig, seed: u64, opening: bool) {
        let step = Step::Created {
            config,
            seed,
            opening,
        };
        self.step(None, at, &step);
    }

    pub(crate) fn connection<'a>(&'a self, label: Option<&'a str>) -> Connection<'a> {
        Connection {
            id: self.id,
            label,
            #[cfg(feature = "tracing")]
            span: Some(&self.span),
        }
    }

    pub(super) fn set_label(&self, label: Arc<str>) {
        self.lock().label = Some(label);
    }

    pub(super) fn set_peer_close(&self, close: PeerClose) {
        self.lock().peer_close = Some(close);
    }

    /// Takes the requests. Returns them, and whether any status requests are among them.
    pub(super) fn take_requests(&self) -> (Requests, bool) {
        let mut shared = self.lock();
        shared.taken = shared.issued;
        let wants_status = shared.taken > shared.answered;
        (std::mem::take(&mut shared.requests), wants_status)
    }

    /// Takes only the status requests.
    pub(super) fn take_status_requests(&self) {
        let mut shared = self.lock();
        shared.taken = shared.issued;
    }

    /// Answers the status requests that were taken.
    pub(super) fn answer_status_requests(&self, status: impl FnOnce() -> Status) {
        let shared = self.lock();
        let wants_status = shared.taken > shared.answered;
        drop(shared);
        if wants_status {
            self.set_status(status(), false);
        }
    }

    /// Records that the connection has ended, with this status.
    pub(super) fn end(&self, status: Status) {
        self.step(None, status.at, &Step::Ended);
        // Close the span before waking the tasks that wait for the end: the program may then exit.
        #[cfg(feature = "tracing")]
        self.span.close();
        self.set_status(status, true);
        if let Some(common) = &self.common {
            common.remove(self.id);
        }
    }

    fn set_status(&self, status: Status, ends: bool) {
        let mut shared = self.lock();
        shared.status = Some(Box::new(status));
        shared.answered = shared.taken;
        shared.has_ended |= ends;
        // A status request that was not answered registers its waker again when it is polled.
        let waiters = std::mem::take(&mut shared.waiters);
        drop(shared);
        waiters.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn shorter(known: Option<Duration>, within: Duration) -> Option<Duration> {
    Some(known.map_or(within, |known| known.min(within)))
}
