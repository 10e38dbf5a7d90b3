//! Which tasks are woken, and when none is.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tungstenite::{Error as WsError, Message};
use ws_timeout::TimeoutSocket;

use crate::common::off;
use crate::world::{Executor, Guarded, Hand, MS, SECOND, Shared, Woken, data, waits};

/// Guards rules 2 and 8.
#[test]
fn a_task_that_takes_over_notices_that_the_alarm_has_fired() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    waits(&mut socket);
    shared.world().fires_during_read = true;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    let noticed = socket.status().pings_sent == 1 || woken.0.load(Ordering::Relaxed);
    assert!(noticed, "the fire is lost");
}

/// A transport keeps one waker for writing: that of the last task that tried.
/// Guards rule 8.
#[test]
fn a_flush_of_the_reading_half_wakes_the_writer_too() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND));
    let (writer, reader) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    shared.world().full = true;
    socket.start_send_unpin(data()).unwrap();
    let waker = Waker::from(writer.clone());
    let sent = socket.poll_flush_unpin(&mut Context::from_waker(&waker));
    assert!(sent.is_pending());
    let waker = Waker::from(reader.clone());
    shared.at(SECOND);
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    assert_eq!(
        shared.world().held.len(),
        2,
        "the reading half has tried its ping"
    );
    writer.0.store(false, Ordering::Relaxed);
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// A transport that keeps one waker, that of the task that polled last, and the messages to read.
#[derive(Clone, Default)]
struct OnePlace(Arc<Mutex<(Option<Waker>, VecDeque<Message>)>>);

impl Stream for OnePlace {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut place = self.0.lock().unwrap();
        place.0 = Some(cx.waker().clone());
        let message = place.1.pop_front();
        message.map_or(Poll::Pending, |message| Poll::Ready(Some(Ok(message))))
    }
}

impl Sink<Message> for OnePlace {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.poll_flush(cx)
    }

    fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), WsError> {
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.0.lock().unwrap().0 = Some(cx.waker().clone());
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}

/// Guards rule 8.
#[test]
fn a_transport_that_keeps_one_waker_wakes_the_reader_after_a_send() {
    let wire = OnePlace::default();
    let hand = Hand(Shared::default());
    let mut socket = TimeoutSocket::new(off().build().unwrap(), hand, wire.clone());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_pending());
    socket.send(data()).now_or_never().unwrap().unwrap();
    let place = wire.0.lock().unwrap().0.take();
    wire.0.lock().unwrap().1.push_back(data());
    place.unwrap().wake();
    assert!(woken.0.load(Ordering::Relaxed), "the reader sleeps on");
}

/// Guards rule 8.
#[test]
fn a_writer_that_waits_for_room_and_then_flushes_is_woken_when_there_is_room() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    let mut sending = Context::from_waker(&waker);
    shared.world().no_place = true;
    assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    assert!(socket.poll_flush_unpin(&mut sending).is_ready());
    writer.0.store(false, Ordering::Relaxed);
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// Guards rule 8.
#[test]
fn a_writer_that_waits_for_room_is_woken_though_the_reader_has_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let (writer, reader) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    shared.world().no_place = true;
    let waker = Waker::from(writer.clone());
    let mut sending = Context::from_waker(&waker);
    assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    let waker = Waker::from(reader.clone());
    shared.world().incoming.push_back(Message::Ping("x".into()));
    // Its answer is flushed at once.
    let read = socket.poll_next_unpin(&mut Context::from_waker(&waker));
    assert!(read.is_ready());
    // It is woken now, or once there is room.
    let woken = writer.0.swap(false, Ordering::Relaxed);
    if woken {
        assert!(socket.poll_ready_unpin(&mut sending).is_pending());
    }
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// A task whose last reference is the waker in the socket. Dropping it also drops the waker of the
/// task that waits to write.
#[derive(Default)]
struct OwnsTheOtherEnd(Mutex<Option<Waker>>);

impl Wake for OwnsTheOtherEnd {
    fn wake(self: Arc<Self>) {}
}

impl Drop for OwnsTheOtherEnd {
    fn drop(&mut self) {
        self.0
            .lock()
            .unwrap()
            .take()
            .into_iter()
            .for_each(Waker::wake);
    }
}

/// Guards rule 8.
#[test]
fn a_half_that_changes_tasks_may_drop_the_old_task() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let shared = Shared::default();
        let mut socket = shared.socket(off());
        let owner = Arc::new(OwnsTheOtherEnd::default());
        let old = Waker::from(owner.clone());
        let read = socket.poll_next_unpin(&mut Context::from_waker(&old));
        assert!(read.is_pending());
        shared.world().full = true;
        assert!(socket.send(data()).now_or_never().is_none());
        *owner.0.lock().unwrap() = shared.world().write_waker.take();
        drop((owner, old));
        let new = Waker::from(Arc::new(Woken::default()));
        let read = socket.poll_next_unpin(&mut Context::from_waker(&new));
        done.send(read.is_pending()).unwrap();
    });
    assert_eq!(wait.recv_timeout(5 * SECOND), Ok(true));
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_while_its_ping_is_refused() {
    let shared = Shared::default();
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .message_timeout(SECOND);
    let mut socket = shared.socket(config);
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    shared.world().refuses_pings = true;
    shared.at(SECOND);
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_while_it_closes_on_a_broken_sink() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    shared.world().broken = true;
    let mut close = pin!(socket.close(1000, "bye"));
    task.run(|cx| close.as_mut().poll(cx).is_pending());
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_though_its_displaced_message_meets_a_broken_sink() {
    let shared = Shared::default();
    let mut socket = shared.socket(off().ping_interval(SECOND).pong_timeout(SECOND));
    let task = Executor::new();
    task.send_that_waits(&shared, &mut socket);
    // The sink promises room, which a ping takes.
    assert!(socket.poll_ready_unpin(&mut task.context()).is_ready());
    shared.at(SECOND + 500 * MS);
    let read = socket.poll_next_unpin(&mut task.context());
    assert!(read.is_pending());
    socket.start_send_unpin(data()).unwrap();
    shared.world().broken = true;
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
}

/// The transport gets the task's own waker, and a waker of both tasks only once there are two.
/// Guards rule 8.
#[test]
fn the_transport_gets_the_waker_of_the_only_task() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    let (one, other) = (Executor::new(), Executor::new());
    let waker_after_a_write = |socket: &mut Guarded, task: &Executor| {
        shared.world().full = true;
        if socket.poll_ready_unpin(&mut task.context()).is_ready() {
            socket.start_send_unpin(data()).unwrap();
        }
        assert!(socket.poll_flush_unpin(&mut task.context()).is_pending());
        shared.world().write_waker.take().unwrap()
    };
    let read = socket.poll_next_unpin(&mut one.context());
    assert!(read.is_pending());
    let waker = waker_after_a_write(&mut socket, &one);
    assert!(waker.will_wake(&one.waker));

    let waker = waker_after_a_write(&mut socket, &other);
    for task in [&one, &other] {
        task.wakeups.0.store(0, Ordering::Relaxed);
    }
    waker.wake();
    for task in [&one, &other] {
        assert_eq!(task.wakeups.0.load(Ordering::Relaxed), 1);
    }
}

/// Guards rules 6 and 8.
#[test]
fn a_writer_that_waits_for_a_flush_is_woken_when_the_reader_has_flushed() {
    let shared = Shared::default();
    let mut socket = shared.socket(off());
    waits(&mut socket);
    let writer = Arc::new(Woken::default());
    let waker = Waker::from(writer.clone());
    shared.world().full = true;
    socket.start_send_unpin(data()).unwrap();
    let flushed = socket.poll_flush_unpin(&mut Context::from_waker(&waker));
    assert!(flushed.is_pending());
    // There is room, but the transport wakes no task.
    shared.world().full = false;
    waits(&mut socket);
    assert_eq!(shared.world().sent, [data()]);
    assert!(writer.0.load(Ordering::Relaxed), "the writer sleeps on");
}

/// Guards rule 21.
#[test]
fn a_task_sleeps_though_its_alarm_fires_as_it_is_set() {
    let shared = Shared::default();
    let config = off()
        .connection_timeout(SECOND)
        .heartbeat_interval(999 * MS);
    let mut socket = shared.socket(config);
    let task = Executor::new();
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
    shared.world().held_up = 2 * MS;
    shared.at(999 * MS);
    task.run(|cx| socket.poll_next_unpin(cx).is_pending());
    assert!(shared.world().sent.iter().any(Message::is_close));
}

/// Guards rule 8.
#[test]
fn a_reply_that_waits_for_room_is_sent_when_there_is_some() {
    let shared = Shared::default();
    let mut socket = shared
        .socket(off())
        .with_text_heartbeat_replies("ping", "pong");
    shared.world().no_place = true;
    shared.world().incoming.push_back(Message::text("ping"));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(socket.poll_next_unpin(&mut cx).is_pending());
    woken.0.store(false, Ordering::Relaxed);
    shared.world().no_place = false;
    let room = shared.world().write_waker.take();
    room.unwrap().wake();
    assert!(woken.0.load(Ordering::Relaxed), "no task is woken");
    assert!(socket.poll_next_unpin(&mut cx).is_pending());
    assert_eq!(shared.world().sent, [Message::text("pong")]);
}
