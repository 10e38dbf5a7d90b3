//! The methods that no trait defines: receiving, sending and closing as futures, and `handle`,
//! `set_config`, `probe` and `drain`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::string::String;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec::Vec;

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use super::{Handle, TimeoutSocket};
use crate::config::TimeoutConfig;
use crate::error::Error;
#[cfg(doc)]
use crate::event::CloseReason;
use crate::message::{Message, close_message};
#[cfg(doc)]
use crate::policy::TimeoutPolicy;
use crate::time::Timestamp;
use crate::timer::Timer;

/// The result of [`TimeoutSocket::recv_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<M> {
    /// The next message.
    Message(M),
    /// No message arrived in time. The connection stays open.
    TimedOut,
    /// The connection has ended, without a verdict or a failure.
    Closed,
}

impl<S, T, M, E> TimeoutSocket<S, T>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
    E: fmt::Display,
    T: Timer,
{
    /// Receives the next message. Returns `None` once the connection has ended without a verdict or
    /// a failure.
    ///
    /// Cancel safe: dropping the future loses no message.
    ///
    /// # Errors
    /// Returns [`Error::Verdict`] if the policy ended the connection, [`Error::Socket`] if the
    /// inner socket failed, and [`Error::Closed`] if a write failed and a send has already returned
    /// its error. After an error, the next call returns `None`.
    pub async fn recv(&mut self) -> Result<Option<M>, Error<E>>
    where
        Self: Unpin,
    {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx))
            .await
            .transpose()
    }

    /// Waits for the next message for at most `within`, measured from this call.
    ///
    /// Returns `Message`, `TimedOut` or `Closed`; policy timeouts are errors. If the limit expires,
    /// no message is lost and the connection stays open. The peer's Close frame is a `Message`,
    /// after which the next call returns `Closed`. Cancel safe, like [`recv`](Self::recv).
    ///
    /// # Errors
    /// Returns the same errors as [`recv`](Self::recv).
    pub fn recv_timeout(
        &mut self,
        within: Duration,
    ) -> impl Future<Output = Result<Received<M>, Error<E>>> {
        let deadline = self.deadline_of_call(within);
        poll_fn(move |cx| match self.fast.poll_recv(cx) {
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Ok(Received::Message(message))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
            Poll::Ready(None) => Poll::Ready(Ok(Received::Closed)),
            Poll::Pending => match self.fast.drive(|driver| driver.poll_recv_limit(deadline)) {
                true => Poll::Ready(Ok(Received::TimedOut)),
                false => Poll::Pending,
            },
        })
    }

    /// Sends a message and flushes it, as `SinkExt::send` does.
    ///
    /// `message_timeout` limits how long the write may make no progress, not the whole send. If you
    /// drop the future, the message is sent whole or not at all.
    ///
    /// # Errors
    /// Returns [`Error::Verdict`] if the policy has ended the connection, [`Error::Socket`] if the
    /// inner socket failed or refused the message, and [`Error::Closed`] if the connection has
    /// ended or either side is closing it.
    pub fn send(&mut self, message: M) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        let mut message = Some(message);
        poll_fn(move |cx| self.poll_send_message(cx, &mut message))
    }

    /// Sends a message as [`send`](Self::send) does, but limits the whole send to `within`,
    /// measured from this call.
    ///
    /// If the limit expires, the socket aborts the connection without a Close frame: part of this
    /// message or of an earlier one may have been sent, and nothing can follow half a message. This
    /// send, the stream and all later sends return the same verdict, with
    /// [`CloseReason::MessageTimeout`] and [`Verdict::call_limit`](crate::Verdict::call_limit).
    ///
    /// # Errors
    /// Returns the same errors as [`send`](Self::send).
    pub fn send_timeout(
        &mut self,
        message: M,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        let deadline = self.deadline_of_call(within);
        self.send_by(deadline, within, message)
    }

    /// Sends a text message; see [`send`](Self::send).
    ///
    /// # Errors
    /// Returns the same errors as [`send`](Self::send).
    pub fn send_text(
        &mut self,
        text: impl Into<String>,
    ) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        self.send(M::text(text.into()))
    }

    /// Sends a text message within `within`; see [`send_timeout`](Self::send_timeout).
    ///
    /// # Errors
    /// Returns the same errors as [`send`](Self::send).
    pub fn send_text_timeout(
        &mut self,
        text: impl Into<String>,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        self.send_timeout(M::text(text.into()), within)
    }

    /// Sends a binary message; see [`send`](Self::send).
    ///
    /// # Errors
    /// Returns the same errors as [`send`](Self::send).
    pub fn send_binary(
        &mut self,
        payload: impl Into<Vec<u8>>,
    ) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        self.send(M::binary(payload.into()))
    }

    /// Sends a binary message within `within`; see [`send_timeout`](Self::send_timeout).
    ///
    /// # Errors
    /// Returns the same errors as [`send`](Self::send).
    pub fn send_binary_timeout(
        &mut self,
        payload: impl Into<Vec<u8>>,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        self.send_timeout(M::binary(payload.into()), within)
    }

    /// Sends `value` as JSON in a text message; see [`send`](Self::send). This method serializes
    /// the value before it returns the future.
    ///
    /// # Errors
    /// Returns [`Error::Json`] if `value` cannot be serialized as JSON; nothing was sent, and the
    /// connection stays open. Otherwise, returns the same errors as [`send`](Self::send).
    #[cfg(feature = "json")]
    pub fn send_json<'a, V: serde::Serialize + ?Sized>(
        &'a mut self,
        value: &V,
    ) -> impl Future<Output = Result<(), Error<E>>> + use<'a, S, T, M, E, V>
    where
        Self: Unpin,
    {
        let message = json(value);
        async move { self.send(message?).await }
    }

    /// Sends `value` as JSON within `within`; see [`send_timeout`](Self::send_timeout).
    ///
    /// # Errors
    /// Returns the same errors as [`send_json`](Self::send_json).
    #[cfg(feature = "json")]
    pub fn send_json_timeout<'a, V: serde::Serialize + ?Sized>(
        &'a mut self,
        value: &V,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error<E>>> + use<'a, S, T, M, E, V>
    where
        Self: Unpin,
    {
        let deadline = self.deadline_of_call(within);
        let message = json(value);
        async move { self.send_by(deadline, within, message?).await }
    }

    /// Closes the connection: sends a Close frame with `code` and as much of `reason` as fits, and
    /// reads until the peer has answered or disconnected. Discards the messages that it reads.
    /// Returns the code of the peer's Close frame, if it had one.
    ///
    /// This takes at most `close_timeout` plus the [timer slack](Self::with_timer_slack). On tokio
    /// it may take another 35 ms, and if this process stalls, another `stall_tolerance`. If the
    /// connection has already ended, this sends nothing, and returns the final error unless the
    /// stream has returned it; [`status`](Self::status) still returns the cause.
    ///
    /// This method shadows `SinkExt::close`, which sends no code. To call the latter, write
    /// `SinkExt::close(&mut socket)`.
    ///
    /// # Errors
    /// Returns [`Error::CloseCode`] if `code` must not be sent, [`Error::Verdict`] if the peer did
    /// not answer in time or the stream has yet to return an earlier verdict, and [`Error::Socket`]
    /// if the inner socket failed.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<Option<u16>, Error<E>>
    where
        Self: Unpin,
    {
        if !can_be_sent(code) {
            return Err(Error::CloseCode(code));
        }
        let frame = close_message(Some(code), reason);
        self.fast.drive(|driver| driver.begin_close(frame));
        while self.recv().await?.is_some() {}
        Ok(self.peer_close().and_then(|close| close.code))
    }

    async fn send_by(
        &mut self,
        deadline: Option<Timestamp>,
        within: Duration,
        message: M,
    ) -> Result<(), Error<E>>
    where
        Self: Unpin,
    {
        let mut message = Some(message);
        poll_fn(|cx| {
            let sent = self.poll_send_message(cx, &mut message);
            match sent.is_pending() {
                true => self
                    .fast
                    .drive(|driver| driver.enforce_send_limit(deadline, within)),
                false => sent,
            }
        })
        .await
    }

    fn deadline_of_call(&self, within: Duration) -> Option<Timestamp> {
        self.fast.driver().alarm.now().checked_add(within)
    }

    /// Passes `message` to the driver, once, and flushes it.
    fn poll_send_message(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Option<M>,
    ) -> Poll<Result<(), Error<E>>>
    where
        Self: Unpin,
    {
        let mut socket = Pin::new(self);
        if message.is_some() {
            ready!(socket.as_mut().poll_ready(cx))?;
            if let Some(message) = message.take() {
                socket.as_mut().start_send(message)?;
            }
        }
        socket.poll_flush(cx)
    }
}

impl<S: TryStream, T: Timer> TimeoutSocket<S, T> {
    /// Returns a handle for other tasks, which works even after a split, and after the connection
    /// has ended.
    ///
    /// **Never await [`Handle::status`] or [`Handle::remaining_lifetime`] in the task that reads
    /// the socket**: that task would wait for itself forever. Call [`status`](Self::status) there.
    ///
    /// The method takes `&mut self` because the first call may create the state that the socket and
    /// its handles share.
    pub fn handle(&mut self) -> Handle {
        Handle {
            link: self.fast.drive(|driver| driver.link()),
        }
    }

    /// Changes the limits of the connection; see [`TimeoutPolicy::set_config`].
    pub fn set_config(&mut self, config: impl Into<Arc<TimeoutConfig>>) {
        self.fast.drive(|driver| driver.set_config(config.into()));
    }

    /// Requires proof of life within `within`, for example after a suspend or a network change.
    ///
    /// If there is none, the verdict's reason is [`CloseReason::PongTimeout`]. The time is measured
    /// from when either half is next polled, which sends the ping.
    pub fn probe(&mut self, within: Duration) {
        self.fast.drive(|driver| driver.request_probe(within));
    }

    /// Schedules a graceful close at a random point within `within`, measured from this call.
    ///
    /// When a server shuts down, its connections then do not all close at the same time. The
    /// verdict's reason is [`CloseReason::Drain`].
    ///
    /// The halves of `StreamExt::split` do not have this method, so get a [`handle`](Self::handle)
    /// before the split. [`Timeouts::drain`](crate::Timeouts::drain) drains a whole server.
    pub fn drain(&mut self, within: Duration) {
        self.fast.drive(|driver| driver.drain(within));
    }
}

#[cfg(feature = "json")]
fn json<M: Message, E>(value: &(impl serde::Serialize + ?Sized)) -> Result<M, Error<E>> {
    serde_json::to_string(value)
        .map(M::text)
        .map_err(Error::Json)
}

/// Returns whether a Close frame may contain this code.
///
/// "1005 is a reserved value and MUST NOT be set as a status code in a Close control frame by an
/// endpoint", and so are 1006 and 1015 (RFC 6455, 7.4.1). 1004 and unregistered codes have no
/// meaning.
pub(super) fn can_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
