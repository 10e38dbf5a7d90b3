//! The opening handshake.

use std::boxed::Box;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::{FusedFuture, TryStream};

use super::alarm::Alarm;
use super::driver::Driver;
use super::link::Link;
use super::wakers::Wakers;
use super::{TimeoutSocket, Timeouts, random_seed};
use crate::config::TimeoutConfig;
use crate::error::{CloseHandshake, Error, Verdict};
use crate::event::Event;
use crate::metered::{Answers, Meter};
use crate::observer::{Report, Step};
use crate::policy::{Decision, Horizon, TimeoutPolicy};
use crate::report;
use crate::status::Status;
use crate::time::{Timestamp, earlier};
use crate::timer::Timer;

/// An opening handshake with a timeout: a future that returns a [`TimeoutSocket`].
///
/// The functions in [`runtime`](crate::runtime) and [`TimeoutSocket::open`] create it; the latter
/// lists the errors. After it has returned `Ready`, it returns `Pending`.
///
/// ```
/// # use tokio::net::TcpStream;
/// # use ws_timeout::{Metered, TimeoutConfig, runtime::tokio::open};
/// # async fn example(tcp: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
/// let tcp = Metered::socket(tcp);
/// let meter = tcp.meter();
/// let handshake = tokio_tungstenite::accept_async(tcp);
/// let opening = open(TimeoutConfig::DEFAULT, handshake).with_meter(meter);
/// let socket = opening.with_label("user 7").await?;
/// # drop(socket);
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Opening<F, T: Timer> {
    /// `None` once the handshake is over: a failed handshake is dropped immediately, with its
    /// transport.
    handshake: Option<Pin<Box<F>>>,
    /// `None` once the handshake is over. Boxed, since a task always takes as much memory as its
    /// largest state.
    driver: Option<Box<HandshakeDriver<T>>>,
}

/// The parts that the socket will take over, and the horizon of the handshake.
struct HandshakeDriver<T: Timer> {
    policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    alarm: Alarm<T>,
    wakers: Wakers,
    horizon: Horizon,
    meter: Option<Meter>,
    label: Option<Arc<str>>,
    link: Option<Arc<Link>>,
}

/// Only the handshake is pinned, and it is boxed.
impl<F, T: Timer> Unpin for Opening<F, T> {}

impl<F, T: Timer> Opening<F, T> {
    pub(super) fn new(timeouts: Timeouts, timer: T, handshake: Pin<Box<F>>) -> Self {
        let (config, common) = timeouts.into_parts();
        let (now, seed) = (timer.timestamp(timer.now()), random_seed());
        let wakers = Wakers::new();
        let alarm = Alarm::new(timer, wakers.alarm_waker());
        let link = common.map(|common| Link::new(alarm.waker().clone(), Some(common)));
        if let Some(link) = &link {
            link.created(now, &config, seed, true);
        }
        Self {
            handshake: Some(handshake),
            driver: Some(Box::new(HandshakeDriver {
                policy: TimeoutPolicy::opening(config, seed, now),
                alarm,
                wakers,
                link,
                horizon: Horizon::default(),
                meter: None,
                label: None,
            })),
        }
    }

    /// Sets the connection's name in the log, as [`TimeoutSocket::with_label`] does. The log also
    /// uses it if the handshake fails.
    pub fn with_label(mut self, label: impl Into<Arc<str>>) -> Self {
        if let Some(driver) = &mut self.driver {
            let label = label.into();
            if let Some(link) = &driver.link {
                link.set_label(label.clone());
            }
            driver.label = Some(label);
        }
        self
    }

    /// Sets the meter of the socket, as [`TimeoutSocket::with_meter`] does. Over a
    /// [`Metered::socket`](crate::Metered::socket), the handshake also asks the kernel for unread
    /// input or room before it times out.
    pub fn with_meter(mut self, meter: Meter) -> Self {
        if let Some(driver) = &mut self.driver {
            driver.meter = Some(meter);
        }
        self
    }
}

impl<F, S, E, T> Future for Opening<F, T>
where
    F: Future<Output = Result<S, E>>,
    S: TryStream,
    E: fmt::Display,
    T: Timer,
{
    type Output = Result<TimeoutSocket<S, T>, Error<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (Some(driver), Some(handshake)) = (&mut this.driver, &mut this.handshake) else {
            return Poll::Pending;
        };
        let done = match driver.poll_handshake(handshake.as_mut(), cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(done) => done,
        };
        this.handshake = None;
        match &done {
            Ok(_) => {}
            Err(Error::Verdict(verdict)) => {
                let config = driver.policy.config();
                driver.report(Report::Verdict { verdict, config });
            }
            Err(error) => driver.report(Report::HandshakeError { error }),
        }
        if done.is_err() {
            driver.end();
        }
        let Some(driver) = this.driver.take() else {
            return Poll::Pending;
        };
        let HandshakeDriver {
            policy,
            mut alarm,
            wakers,
            meter,
            label,
            link,
            ..
        } = *driver;
        Poll::Ready(done.map(|inner| {
            alarm.on_empty_read();
            let now = alarm.now();
            if link.is_some() {
                // The first pass carries out the requests of handles from during the handshake.
                alarm.waker().set_woken();
            }
            let mut driver = Driver::new(policy, alarm, wakers, link, inner);
            driver.observe(now, Event::Opened);
            let mut socket = TimeoutSocket::with_driver(driver);
            if let Some(meter) = meter {
                socket = socket.with_meter(meter);
            }
            if let Some(label) = label {
                socket = socket.with_label(label);
            }
            socket
        }))
    }
}

impl<F, S, E, T> FusedFuture for Opening<F, T>
where
    F: Future<Output = Result<S, E>>,
    S: TryStream,
    E: fmt::Display,
    T: Timer,
{
    fn is_terminated(&self) -> bool {
        self.driver.is_none()
    }
}

impl<T: Timer> HandshakeDriver<T> {
    /// Ends the link of a handshake that leads to no connection.
    fn end(&self) {
        if let Some(link) = &self.link {
            link.end(self.policy.status(self.alarm.now()));
        }
    }

    fn report(&self, report: Report<'_>) {
        report::send(self.link.as_deref(), self.label.as_deref(), &report);
    }

    /// Polls the handshake until it is done or times out. The steps are those of a pass in
    /// [`event_loop`](super::event_loop): poll the alarm, try, advance the horizon, decide, arm.
    fn poll_handshake<S, E>(
        &mut self,
        mut handshake: Pin<&mut impl Future<Output = Result<S, E>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S, Error<E>>> {
        self.wakers.register_reader(cx);
        loop {
            self.alarm.poll_fired();
            if let Some(link) = &self.link {
                link.take_status_requests();
            }
            let covered = self.ask_kernel();
            if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(Error::Socket));
            }
            self.advance_horizon(covered, cx);
            let now = self.alarm.now();
            let visible = self.alarm.visible();
            let mut status = None;
            let snapshot = |known| status = Some(known);
            let decision = self.policy.decide(now, self.horizon, visible, snapshot);
            if let Some(link) = &self.link {
                let (horizon, action) = (self.horizon, self.policy.action_of(decision));
                let step = Step::Polled { horizon, action };
                link.step(self.label.as_deref(), now, &step);
                link.answer_status_requests(|| self.policy.status(now));
            }
            match decision {
                Decision::Abort(reason) => {
                    let status: Status = status.unwrap_or_else(|| self.policy.status(now));
                    let outcome = CloseHandshake::NotSent;
                    let verdict = Verdict::new(reason, self.policy.config(), status, outcome);
                    return Poll::Ready(Err(Error::Verdict(verdict)));
                }
                Decision::Wait { until, unproven } => {
                    let turn = self.alarm.make_visible(now, unproven);
                    let next = earlier(turn, until);
                    let fired = next.is_some_and(|at| self.alarm.set_no_later_than(now, at));
                    if fired || self.alarm.may_have_fired() {
                        // Yield instead of looping: see `poll_send`.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Decision::SendPing | Decision::Close(_) => {}
            }
        }
    }

    /// Makes the next reads and writes ask the kernel if a verdict may follow. Returns the instant
    /// up to which the kernel's answers are then evidence.
    fn ask_kernel(&self) -> Option<Timestamp> {
        let meter = self.meter.as_ref().filter(|meter| meter.can_ask())?;
        let fire = self.alarm.last_fired_for();
        let covered = fire.filter(|_| self.policy.peer_deadline_has_expired(self.alarm.now()));
        meter.ask(covered.is_some());
        covered
    }

    /// Advances the horizon after a try that did not finish the handshake.
    fn advance_horizon(&mut self, covered: Option<Timestamp>, cx: &Context<'_>) {
        let meter = self.meter.as_ref();
        let answers = meter.map_or_else(Answers::default, Meter::answers);
        let covered = covered.filter(|_| answers.no_input || answers.no_room);
        let mut visible = self.alarm.visible();
        if visible > self.horizon.read && !self.alarm.timer().has_budget() {
            // With a new budget the task tries again.
            cx.waker().wake_by_ref();
            visible = None;
        }
        let horizon = self.horizon.read.max(covered).max(visible);
        self.horizon = Horizon {
            read: horizon,
            written: horizon,
        };
    }
}

impl<F, T: Timer> Drop for Opening<F, T> {
    fn drop(&mut self) {
        self.handshake = None;
        if let Some(driver) = &self.driver {
            driver.end();
        }
    }
}

impl<F, T: Timer + fmt::Debug> fmt::Debug for Opening<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_ref();
        f.debug_struct("Opening")
            .field("label", &driver.and_then(|driver| driver.label.as_ref()))
            .finish_non_exhaustive()
    }
}
