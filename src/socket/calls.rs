//! What a program calls besides the traits: receive, send and close, each as one future.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::string::String;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use futures_util::sink::{Sink, SinkExt};

use super::judging::A_MOMENT;
use super::{Doubt, TimeoutSocket};
use crate::error::Error;
#[cfg(doc)]
use crate::event::CloseReason;
use crate::message::Message;
use crate::time::Timestamp;
use crate::timer::Timer;

/// A limit of the caller's own on one call.
///
/// As with every limit on the peer only a try after an alarm that rang counts: until the reactor has
/// turned, neither what came in time is seen nor the room that was made.
struct Limit {
    by: Timestamp,
    /// How often the alarm has to ring.
    turns: u32,
    /// What it was set to when it rang before the latest try.
    rang: Option<Timestamp>,
    doubt: Option<Doubt>,
}

impl Limit {
    fn new(by: Timestamp, turns: u32) -> Self {
        Self {
            by,
            turns,
            rang: None,
            doubt: None,
        }
    }
}

/// What [`TimeoutSocket::recv_timeout`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<M> {
    /// A message.
    Message(M),
    /// None came in time.
    TimedOut,
    /// The connection has ended, without a verdict or failure.
    Closed,
}

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// The next message; `None` when the connection has ended without a verdict or failure.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Verdict`] when the policy ended the connection, [`Error::Socket`] when the socket
    /// inside failed; `None` follows either.
    pub async fn recv(&mut self) -> Result<Option<M>, Error<E>>
    where
        Self: Unpin,
    {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx))
            .await
            .transpose()
    }

    /// The next message, or that none came within `within` of this call.
    ///
    /// Nothing is lost either way, and the connection goes on: this limit is the caller's own and says
    /// nothing about the peer.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_timeout(&mut self, within: Duration) -> Result<Received<M>, Error<E>> {
        let until = self.timer.now().checked_add(within);
        // Nothing is lost if a message is seen a turn later.
        let mut limit = until.map(|until| Limit::new(until, 1));
        poll_fn(|cx| {
            self.alarm_rings();
            if let Some(limit) = &mut limit {
                limit.rang = limit.rang.max(self.rang);
            }
            if let Poll::Ready(read) = self.poll_recv(cx) {
                return Poll::Ready(match read {
                    Some(Ok(message)) => Ok(Received::Message(message)),
                    Some(Err(error)) => Err(error),
                    None => Ok(Received::Closed),
                });
            }
            // While `rang` stands, not all is read.
            let is_read = self.rang.is_none();
            if is_read && limit.as_mut().is_some_and(|limit| self.is_over(limit)) {
                return Poll::Ready(Ok(Received::TimedOut));
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a text message, and waits until it has left. `SinkExt::send` is the same for any message.
    ///
    /// Takes as long as the write makes progress: `message_timeout` limits the time without any. A message
    /// whose future was dropped leaves whole or not at all.
    ///
    /// # Errors
    /// [`Error::Verdict`] when the policy has ended the connection, [`Error::Socket`] when the socket
    /// inside failed or did not take the message, [`Error::Closed`] when the connection had ended or is
    /// being closed, by either side.
    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        self.send(M::text(text.into())).await
    }

    /// [`send_text`](Self::send_text), at most `within` from this call.
    ///
    /// If that is over the connection is too, with
    /// [`CloseReason::MessageTimeout`] and [`Verdict::within`](crate::Verdict::within): how much of the message has left is not known, and nothing can
    /// follow half a message.
    ///
    /// # Errors
    /// As [`send_text`](Self::send_text).
    pub async fn send_text_timeout(
        &mut self,
        text: impl Into<String>,
        within: Duration,
    ) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        self.send_within(M::text(text.into()), within).await
    }

    /// Sends `value` as JSON in a text message; see [`send_text`](Self::send_text).
    ///
    /// # Errors
    /// [`Error::Json`] if `value` has no form in JSON: nothing was sent, and the connection goes on.
    /// Else as [`send_text`](Self::send_text).
    #[cfg(feature = "json")]
    pub async fn send_json(
        &mut self,
        value: &(impl serde::Serialize + ?Sized),
    ) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        self.send(json(value)?).await
    }

    /// [`send_json`](Self::send_json), at most `within` from this call; see
    /// [`send_text_timeout`](Self::send_text_timeout).
    ///
    /// # Errors
    /// As [`send_json`](Self::send_json).
    #[cfg(feature = "json")]
    pub async fn send_json_timeout(
        &mut self,
        value: &(impl serde::Serialize + ?Sized),
        within: Duration,
    ) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        self.send_within(json(value)?, within).await
    }

    /// Closes the connection: sends a Close frame with `code` and as much of `reason` as fits, and
    /// reads until the peer has answered or left. Data that still comes is dropped.
    ///
    /// Takes at most `close_timeout`, later by what [`with_timer_slack`](Self::with_timer_slack) allows, by the 35 ms that
    /// tokio may take to hear of all that came, and by up to `stall_tolerance` if this process stalls. Gives the
    /// code of the peer's Close frame, if there was one. On a connection that has ended it does
    /// nothing, and tells how that ended if the stream has not yet.
    ///
    /// It stands before the `close` of the socket inside and that of `SinkExt`, which takes no code:
    /// `SinkExt::close(&mut socket)`.
    ///
    /// # Errors
    /// [`Error::CloseCode`] for a code that can never be sent; [`Error::Verdict`] if the peer did not
    /// answer in time, or the policy ended the connection and the stream has not said so yet; [`Error::Socket`] if the socket
    /// inside failed.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<Option<u16>, Error<E>>
    where
        Self: Unpin,
    {
        if !can_be_sent(code) {
            return Err(Error::CloseCode(code));
        }
        self.begin_close(M::close(Some(code), reason));
        while self.recv().await?.is_some() {}
        Ok(self.ending().peer_close.and_then(|close| close.code))
    }

    /// Sends `message`, or ends the connection if it has not left `within` from now.
    async fn send_within(&mut self, message: M, within: Duration) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        let by = self.timer.now().checked_add(within);
        let mut limit = by.map(|by| Limit::new(by, self.timer.turns()));
        let mut message = Some(message);
        poll_fn(|cx| {
            let sent = self.poll_send(cx, &mut message);
            let Some(limit) = limit.as_mut().filter(|_| sent.is_pending()) else {
                return sent;
            };
            limit.rang = self.rang;
            if self.is_over(limit) {
                let now = self.timer.now();
                self.give_up_sending(now, within);
                return Poll::Ready(self.may_send());
            }
            Poll::Pending
        })
        .await
    }

    /// Whether a limit of the caller's own is over, which a try has just not met; if not, the alarm is set
    /// to it.
    fn is_over(&mut self, limit: &mut Limit) -> bool {
        let now = self.timer.now();
        let tried = (limit.rang).filter(|&rang| rang >= limit.by && limit.by <= now);
        if tried.is_some_and(|rang| self.all_is_seen(rang, &mut limit.doubt, limit.turns)) {
            // To ask took the alarm.
            self.stale = true;
            return true;
        }
        let soon = now.checked_add(A_MOMENT).unwrap_or(now);
        self.set_alarm(now, Some(limit.by.max(soon)));
        false
    }

    /// Hands over `message`, once, and flushes it.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Option<M>,
    ) -> Poll<Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        let mut this = Pin::new(self);
        if message.is_some() {
            ready!(this.as_mut().poll_ready(cx))?;
            if let Some(message) = message.take() {
                this.as_mut().start_send(message)?;
            }
        }
        this.poll_flush(cx)
    }
}

#[cfg(feature = "json")]
fn json<M: Message, E>(value: &(impl serde::Serialize + ?Sized)) -> Result<M, Error<E>> {
    serde_json::to_string(value)
        .map(M::text)
        .map_err(Error::Json)
}

/// "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
/// endpoint", 1006 and 1015 likewise (RFC 6455, 7.4.1); 1004 and what is not registered mean nothing.
fn can_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
