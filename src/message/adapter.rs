//! An adapter for sockets whose messages do not implement `Message`.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

/// Wraps a `Stream + Sink` of another library's messages, and converts them to and from `M`.
///
/// Use it if a socket's messages do not implement [`Message`](super::Message), but your newtype of
/// them does. For tungstenite, [`tungstenite_message!`](crate::tungstenite_message) defines the
/// newtype and has an example. The adapter stores only the socket, and conversions to and from a
/// newtype only move the message.
#[derive(Debug)]
pub struct Adapter<M, S> {
    socket: S,
    message: PhantomData<fn() -> M>,
}

impl<M, S> Adapter<M, S> {
    /// Wraps `socket`.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            message: PhantomData,
        }
    }

    /// Returns a reference to the socket.
    pub fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Returns a mutable reference to the socket, for example to shut down its transport.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Unwraps the socket.
    pub fn into_inner(self) -> S {
        self.socket
    }
}

impl<M, S> Stream for Adapter<M, S>
where
    S: TryStream + Unpin,
    M: From<S::Ok>,
{
    type Item = Result<M, S::Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let socket = Pin::new(&mut self.get_mut().socket);
        socket.try_poll_next(cx).map_ok(M::from)
    }
}

impl<M, S> Sink<M> for Adapter<M, S>
where
    S: TryStream + Sink<S::Ok, Error = <S as TryStream>::Error> + Unpin,
    M: Into<S::Ok>,
{
    type Error = <S as TryStream>::Error;

    #[inline]
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().socket).poll_ready(cx)
    }

    #[inline]
    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), Self::Error> {
        Pin::new(&mut self.get_mut().socket).start_send(message.into())
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    #[inline]
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx)
    }
}
