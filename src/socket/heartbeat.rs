//! The layer between a [`TimeoutSocket`](crate::TimeoutSocket) and its inner socket, in which
//! messages can serve as Ping and Pong frames.
//!
//! The program's functions create and recognise these messages. The driver above handles only
//! pings, pongs, and frames that the inner socket has queued: [`Heartbeats::ping`] creates the ping
//! to send, and [`Heartbeats::recognise`] returns the frame that a received message stands for. If
//! the program set no functions, the layer passes everything through.
//!
//! A reply to the peer's ping waits here, like a pong inside tungstenite. The driver sends it
//! before it polls for room or flushes. The reply may take the place that the inner sink has
//! reserved, so the driver does not rely on that place once a reply is queued.

use std::boxed::Box;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::{Stream, TryStream};
use futures_util::sink::Sink;

use crate::message::{Message, MessageKind};
use crate::seed::PingId;

/// An inner socket, and the messages that serve as heartbeats on it.
pub(super) struct Heartbeats<S: TryStream> {
    socket: S,
    /// `None` if only frames serve as heartbeats.
    messages: Option<Box<Messages<S::Ok, S::Error>>>,
}

/// Creates the ping with this number.
type MakePing<M> = Box<dyn FnMut(u64) -> M + Send + Sync>;

/// Returns the number of the ping that a message answers, given the number of the latest.
type ReadPong<M> = Box<dyn FnMut(&M, u64) -> Option<u64> + Send + Sync>;

/// Returns the reply to a ping of the peer.
type MakeReply<M> = Box<dyn FnMut(&M) -> Option<M> + Send + Sync>;

/// The messages that serve as heartbeats, in either direction.
struct Messages<M, E> {
    pings: Option<Pings<M>>,
    make_reply: Option<MakeReply<M>>,
    /// The reply that is waiting for room.
    queued: Option<M>,
    /// The error with which the inner sink last refused that reply.
    refusal: Option<E>,
    /// The error of the inner sink's final refusal of a reply, for the log.
    given_up: Option<E>,
    /// Whether a Close frame has passed, after which nothing may be sent.
    closed: bool,
}

/// Our own pings, and their pongs.
struct Pings<M> {
    make: MakePing<M>,
    read: ReadPong<M>,
    /// How many pings were created.
    count: u64,
    latest: Option<PingId>,
    /// Whether the latest ping has no pong yet.
    awaited: bool,
}

/// The frame that a message stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heartbeat {
    Ping,
    /// A pong, with the ping that it answers if that is the latest.
    Pong(Option<PingId>),
}

impl<S: TryStream> Heartbeats<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            messages: None,
        }
    }

    /// Uses the messages that `make` returns in place of Ping frames. `read` returns the ping that
    /// a message answers.
    pub(super) fn set_pings(
        &mut self,
        make: impl FnMut(u64) -> S::Ok + Send + Sync + 'static,
        read: impl FnMut(&S::Ok, u64) -> Option<u64> + Send + Sync + 'static,
    ) {
        self.messages_mut().pings = Some(Pings {
            make: Box::new(make),
            read: Box::new(read),
            count: 0,
            latest: None,
            awaited: false,
        });
    }

    /// Replies to the messages for which `make` returns a reply.
    pub(super) fn set_reply(
        &mut self,
        make: impl FnMut(&S::Ok) -> Option<S::Ok> + Send + Sync + 'static,
    ) {
        self.messages_mut().make_reply = Some(Box::new(make));
    }

    fn messages_mut(&mut self) -> &mut Messages<S::Ok, S::Error> {
        self.messages.get_or_insert_with(|| {
            Box::new(Messages {
                pings: None,
                make_reply: None,
                queued: None,
                refusal: None,
                given_up: None,
                closed: false,
            })
        })
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.socket
    }

    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }

    /// Takes the error of the inner sink's final refusal of a reply.
    pub(super) fn take_refusal(&mut self) -> Option<S::Error> {
        self.messages.as_mut()?.given_up.take()
    }
}

impl<S, M, E> Heartbeats<S>
where
    S: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
    M: Message,
{
    /// Returns the message to send as the ping `id`. A ping that was refused keeps its number.
    pub(super) fn ping(&mut self, id: PingId) -> M {
        let messages = self.messages.as_mut();
        match messages.and_then(|messages| messages.pings.as_mut()) {
            Some(pings) => pings.make(id),
            None => M::ping(id.payload()),
        }
    }

    /// Returns the frame that a received message stands for, or `None` if it is no heartbeat.
    /// Queues the reply to a ping.
    pub(super) fn recognise(&mut self, message: &M) -> Option<Heartbeat> {
        self.messages.as_mut()?.recognise(message)
    }

    #[inline]
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, E>>> {
        Pin::new(&mut self.socket).poll_next(cx)
    }

    /// Polls the inner sink for room. A queued reply must be sent first.
    #[inline]
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Pin::new(&mut self.socket).poll_ready(cx)
    }

    #[inline]
    pub(super) fn start_send(&mut self, message: M) -> Result<(), E> {
        Pin::new(&mut self.socket).start_send(message)
    }

    /// Sends our Close frame, after which nothing may be sent.
    pub(super) fn start_close(&mut self, frame: M) -> Result<(), E> {
        if let Some(messages) = &mut self.messages {
            messages.close();
        }
        self.start_send(frame)
    }

    /// Flushes the inner sink. A queued reply must be sent first.
    #[inline]
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Gives the queued reply to the inner sink. A full buffer may refuse it and accept it after a
    /// flush, so there is a second try. A reply that is refused twice could be refused forever, and
    /// would block everything else, so it is dropped.
    #[inline(never)]
    pub(super) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        let Some(messages) = &mut self.messages else {
            return Poll::Ready(Ok(()));
        };
        let mut socket = Pin::new(&mut self.socket);
        while let Some(reply) = &messages.queued {
            if messages.refusal.is_some() {
                ready!(socket.as_mut().poll_flush(cx))?;
            }
            ready!(socket.as_mut().poll_ready(cx))?;
            let given = socket.as_mut().start_send(reply.clone());
            messages.on_given(given);
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: Message, E> Messages<M, E> {
    fn recognise(&mut self, message: &M) -> Option<Heartbeat> {
        match message.kind() {
            MessageKind::Data => {}
            MessageKind::Close(_) => {
                self.close();
                return None;
            }
            MessageKind::Ping(_) | MessageKind::Pong(_) => return None,
        }
        let answered = self.pings.as_mut().and_then(|pings| pings.read(message));
        // A message that could be either counts as a pong while one is awaited.
        let awaited = self.pings.as_ref().is_some_and(|pings| pings.awaited);
        if answered.is_none() || !awaited {
            if let Some(reply) = self.make_reply.as_mut().and_then(|make| make(message)) {
                self.queue(reply);
                return Some(Heartbeat::Ping);
            }
        }
        let id = self.pings.as_mut()?.on_pong(answered?);
        Some(Heartbeat::Pong(id))
    }

    /// Queues a reply, in place of one that is still waiting for room.
    fn queue(&mut self, reply: M) {
        if !self.closed {
            self.queued = Some(reply);
            self.refusal = None;
        }
    }

    /// Records the result of giving the queued reply to the inner sink.
    fn on_given(&mut self, given: Result<(), E>) {
        match given {
            Err(error) if self.refusal.is_none() => self.refusal = Some(error),
            given => {
                self.given_up = given.err().or(self.given_up.take());
                self.queued = None;
                self.refusal = None;
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.queued = None;
    }
}

impl<M> Pings<M> {
    fn make(&mut self, id: PingId) -> M {
        if self.latest != Some(id) {
            self.latest = Some(id);
            self.count += 1;
            self.awaited = true;
        }
        (self.make)(self.count)
    }

    /// Returns the number of the ping that the message answers.
    fn read(&mut self, message: &M) -> Option<u64> {
        (self.read)(message, self.count)
    }

    /// Records that the ping with this number was answered. Returns its ID if it is the latest.
    fn on_pong(&mut self, number: u64) -> Option<PingId> {
        if number != self.count {
            return None;
        }
        self.awaited = false;
        self.latest
    }
}
