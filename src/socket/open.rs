//! The opening handshake.

use std::boxed::Box;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_core::TryStream;

use super::TimeoutSocket;
use super::alarm::Alarm;
use super::wakers::Wakers;
use crate::config::TimeoutConfig;
use crate::error::{CloseHandshake, Error, Verdict};
use crate::event::Event;
use crate::policy::{Decision, Horizon, TimeoutPolicy};
use crate::report;
use crate::time::earlier;
use crate::timer::Timer;

/// Runs the opening handshake until it is done or too late. The steps are those of a pass in
/// [`drive`](super::drive): take the alarm, try, take over the horizon, decide, arm.
pub(super) async fn run_handshake<S, T, E, F>(
    mut policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    timer: T,
    mut handshake: Pin<Box<F>>,
) -> Result<TimeoutSocket<S, T>, Error<E>>
where
    S: TryStream,
    T: Timer,
    F: Future<Output = Result<S, E>>,
    E: fmt::Display,
{
    let mut wakers = Wakers::new();
    let mut alarm = Alarm::new(timer, wakers.alarm_waker());
    let mut horizon = Horizon::default();
    let done = poll_fn(|cx| {
        wakers.register_reader(cx);
        loop {
            alarm.poll_fired();
            if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(|error| {
                    report::handshake_failed(&error);
                    Error::Socket(error)
                }));
            }
            let proved = alarm.horizon();
            if proved > horizon.read {
                if alarm.timer().has_budget() {
                    horizon = Horizon {
                        read: proved,
                        written: proved,
                    };
                } else {
                    // With a new budget the task tries again.
                    cx.waker().wake_by_ref();
                }
            }
            let now = alarm.now();
            let mut status = None;
            match policy.decide(now, horizon, proved, |known| status = Some(known)) {
                Decision::Abort(reason) => {
                    let verdict = Verdict {
                        reason,
                        within: None,
                        status: Box::new(status.unwrap_or_else(|| policy.status(now))),
                        close_handshake: CloseHandshake::NotSent,
                    };
                    report::verdict("-", &verdict, policy.config());
                    return Poll::Ready(Err(Error::Verdict(verdict)));
                }
                Decision::Wait { until, unproven } => {
                    let turn = alarm.prove(now, unproven);
                    let next = earlier(turn, until);
                    let fired = next.is_some_and(|at| alarm.set_no_later_than(now, at));
                    if fired || alarm.may_have_fired() {
                        // Not at once: see `poll_send`.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Decision::SendPing | Decision::Close(_) => {}
            }
        }
    });
    let socket = done.await?;
    policy.observe(alarm.now(), Event::Opened);
    alarm.consume_fire();
    Ok(TimeoutSocket::with_parts(policy, alarm, wakers, socket))
}
