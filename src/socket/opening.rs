//! The opening handshake.

use std::boxed::Box;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use futures_core::TryStream;

use super::TimeoutSocket;
use super::judging::A_MOMENT;
use crate::config::TimeoutConfig;
use crate::error::{CloseHandshake, Error, Verdict};
use crate::event::{Action, Event};
use crate::policy::{Horizon, TimeoutPolicy};
use crate::report;
use crate::timer::{Timer, within_a_day};

/// Runs the opening handshake until it is done or too late.
pub(super) async fn run_handshake<S, T, E, F>(
    mut policy: TimeoutPolicy<Arc<TimeoutConfig>>,
    mut timer: T,
    mut handshake: Pin<Box<F>>,
) -> Result<TimeoutSocket<S, T>, Error<E>>
where
    S: TryStream,
    T: Timer,
    F: Future<Output = Result<S, E>>,
    E: fmt::Display,
{
    let mut alarm = None;
    let mut turns = 0;
    let done = poll_fn(|cx| {
        let mut rang = None;
        loop {
            if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
                return Poll::Ready(done.map_err(|error| {
                    report::handshake_failed(&error);
                    Error::Socket(error)
                }));
            }
            let now = timer.now();
            if rang.is_some() || alarm.is_none() {
                let due = policy.peer_is_due_after(None, now, Horizon::EVERYTHING);
                let seen = !policy.peer_is_due_after(rang, now, Horizon::EVERYTHING);
                turns = if due && seen { turns + 1 } else { 0 };
                let unseen = due && !(turns >= timer.turns().max(1) && timer.has_budget(cx));
                let judged = if unseen {
                    Horizon {
                        read: None,
                        written: None,
                    }
                } else {
                    turns = 0;
                    Horizon::EVERYTHING
                };
                let mut known = None;
                let tell = |status| known = Some(status);
                match policy.decide_telling(now, judged, tell) {
                    Action::Abort(reason) => {
                        let verdict = Verdict {
                            reason,
                            within: None,
                            status: Box::new(known.unwrap_or_else(|| policy.status(now))),
                            close_handshake: CloseHandshake::NotSent,
                        };
                        report::verdict("-", &verdict, policy.config());
                        return Poll::Ready(Err(Error::Verdict(verdict)));
                    }
                    _ => {
                        alarm = if unseen {
                            now.checked_add(A_MOMENT)
                        } else {
                            policy.next_deadline()
                        }
                    }
                }
                alarm = alarm.map(|at| within_a_day(now, at));
                let Some(at) = alarm else {
                    return Poll::Pending;
                };
                timer.set(at);
            }
            ready!(timer.poll(cx));
            rang = alarm.take();
        }
    });
    let socket = done.await?;
    policy.observe(timer.now(), Event::Opened);
    Ok(TimeoutSocket::with_policy(policy, timer, socket))
}
