//! Requests to a socket from other tasks and threads.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use futures_util::future::{join_all, poll_fn};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::duplex;
use tokio::sync::oneshot;
use tokio::time::{advance, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseReason, Error, Phase, Status, TimeoutConfig, Timeouts};

use crate::{
    Guarded, OnWake, SECOND, Steps, answers, close_within, counting, pair, poll_with, read_to_end,
    reason,
};

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_wakes_the_reading_half_after_a_split() {
    let (mut socket, client) = pair(TimeoutConfig::default()).await;
    answers(client);
    let handle = socket.handle();
    let (_writer, reader) = socket.split();
    let reading = tokio::spawn(read_to_end(reader));
    advance(7 * SECOND).await;

    let status = handle.status().await;
    assert_eq!((status.phase, status.age), (Phase::Open, 7 * SECOND));
    let left = handle.remaining_lifetime().await.unwrap();
    assert!(left <= 293 * SECOND && left >= 263 * SECOND, "{left:?}");

    handle.probe(3 * SECOND).unwrap();
    assert_eq!(handle.status().await.pings_sent, 1);
    handle
        .set_config(
            TimeoutConfig::builder()
                .connection_timeout(60 * SECOND)
                .build()
                .unwrap(),
        )
        .unwrap();
    assert!(handle.remaining_lifetime().await.unwrap() <= 53 * SECOND);

    handle.drain(SECOND).unwrap();
    assert_eq!(reason(reading.await.unwrap()), Some(CloseReason::Drain));
    assert!(handle.has_ended());
    let status = handle.status().await;
    assert_eq!(
        (status.phase, status.cause),
        (Phase::Closed, Some(CloseReason::Drain))
    );
    assert!(handle.drain(SECOND).is_err() && handle.close(1000, "").is_err());
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_reaches_a_task_that_only_sends() {
    let (mut socket, client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let (mut writer, _reader) = socket.split();
    let sending = tokio::spawn(async move {
        // The peer does not read, so this waits for room.
        while writer.send(Message::binary(vec![0; 1000])).await.is_ok() {}
    });
    // The first answer comes before the first message.
    assert!(!handle.status().await.write_waiting);
    assert!(handle.status().await.write_waiting);
    drop(client);
    sending.await.unwrap();
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_closes_with_code_and_reason_and_knows_the_code_of_the_peer() {
    let (mut socket, mut client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    assert!(matches!(
        handle.close(1005, ""),
        Err(Error::CloseCode(1005))
    ));
    let reading = tokio::spawn(read_to_end(socket));
    assert_eq!(handle.peer_close(), None);
    handle.close(4001, "bye").unwrap();
    handle.close(4002, "too late").unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else {
        panic!("no Close frame");
    };
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (4001, "bye")
    );
    assert!(client.next().await.is_none());
    assert!(reading.await.unwrap().is_none());
    assert_eq!(handle.peer_close().unwrap().code, Some(4001));
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_handle_made_after_the_end_knows_how_it_ended() {
    let (mut socket, mut client) = pair(TimeoutConfig::default()).await;
    socket = socket.with_label("late");
    client.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    let handle = socket.handle();
    assert_eq!(handle.label().as_deref(), Some("late"));
    assert!(handle.has_ended());
    assert_eq!(handle.status().await.phase, Phase::Closed);
    assert_eq!(handle.peer_close().unwrap().code, None);
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn an_unanswered_status_request_ends_with_the_socket() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let mut asked = Box::pin(handle.status());
    assert!(
        asked.as_mut().now_or_never().is_none(),
        "nobody polls the socket"
    );
    drop(socket);
    assert_eq!(asked.await.phase, Phase::Open);
    assert!(handle.has_ended());
}

type Question = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The steps that [`request_everything`] causes, in order.
const EVERYTHING: [&str; 4] = ["close within 7s", "probe 2s", "drain 1s", "close_start"];

fn request_everything(handle: &ws_timeout::Handle) {
    handle.close(4001, "first").unwrap();
    handle.close(4002, "second").unwrap();
    for within in [3, 1, 2] {
        handle.drain(within * SECOND).unwrap();
        handle.probe((within + 1) * SECOND).unwrap();
    }
    handle.set_config(close_within(6)).unwrap();
    handle.set_config(close_within(7)).unwrap();
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn either_half_carries_requests_out_in_order() {
    for sends in [false, true] {
        let steps = Steps::default();
        let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
        let (mut socket, mut client) = pair(&timeouts).await;
        let handle = socket.handle();
        let mut pass = async || match sends {
            false => assert!(socket.next().now_or_never().is_none()),
            true => drop(poll_fn(|cx| socket.poll_ready_unpin(cx)).now_or_never()),
        };
        pass().await;
        request_everything(&handle);
        assert_eq!(steps.take(), ["created, opening: false"]);
        let mut status = pin!(handle.status());
        assert!(status.as_mut().now_or_never().is_none());
        pass().await;
        let carried_out = steps.take();
        assert_eq!(carried_out[..4], EVERYTHING);
        let status = status
            .as_mut()
            .now_or_never()
            .expect("answered by the same pass");
        assert_eq!(status.phase, Phase::Closing);
        // Once only, whatever else is requested.
        let mut again = pin!(handle.status());
        assert!(again.as_mut().now_or_never().is_none());
        pass().await;
        assert_eq!(steps.take(), [""; 0]);
        let frame = loop {
            match client.next().now_or_never().unwrap() {
                Some(Ok(Message::Close(frame))) => break frame.unwrap(),
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        };
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (4001, "first")
        );
    }
}

/// Guards rules 25 and 27.
#[tokio::test(start_paused = true)]
async fn requests_during_the_handshake_are_carried_out_after_it() {
    for polled in [false, true] {
        let steps = Steps::default();
        let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
        let (server, _client) = duplex(4096);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let (done, handshake) = oneshot::channel();
        let handshake = handshake.map(|_| Ok::<_, tungstenite::Error>(server));
        let mut opening = open(&timeouts, handshake);
        let (waker, woken) = counting();
        assert!(!poll_with(&waker, &mut opening));
        let [handle] = timeouts.handles().try_into().unwrap();
        request_everything(&handle);
        assert!(*woken.lock().unwrap() > 0);
        let mut status = handle.status().boxed();
        assert!(!poll_with(Waker::noop(), &mut status));
        if polled {
            // This consumes the wake-up, and answers.
            assert!(!poll_with(&waker, &mut opening));
            assert!(poll_with(Waker::noop(), &mut status));
        }
        done.send(()).unwrap();
        let mut socket = opening.now_or_never().unwrap().unwrap();
        assert_eq!(steps.take(), ["created, opening: true", "opened"]);
        assert!(socket.next().now_or_never().is_none());
        assert_eq!(steps.take()[..4], EVERYTHING);
        if !polled {
            assert_eq!(status.await.phase, Phase::Closing);
        }
    }
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn after_the_end_each_request_fails() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    assert!(!handle.has_ended());
    drop(socket);
    assert!(handle.has_ended());
    let requests = [
        handle.close(1000, ""),
        handle.drain(SECOND),
        handle.probe(SECOND),
        handle.set_config(TimeoutConfig::default()),
    ];
    for request in requests {
        assert!(matches!(request, Err(Error::Closed)));
    }
    assert_eq!(handle.remaining_lifetime().await, None);
}

/// Other threads make requests while a pass is under way; here the observer does.
///
/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn a_status_includes_what_was_requested_before_it() {
    let steps = Steps::default();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(steps.clone());
    let (mut socket, _client) = pair(&timeouts).await;
    let handle = socket.handle();
    let later: Arc<Mutex<Option<Question>>> = Arc::default();
    *steps.hook.lock().unwrap() = Some(Box::new({
        let (handle, later) = (handle.clone(), later.clone());
        move |step| {
            let mut later = later.lock().unwrap();
            if step == "polled" && later.is_none() {
                assert_eq!(timeouts.len(), 1);
                assert!(format!("{timeouts:?}").contains("len: 1"));
                assert!(format!("{handle:?}").contains("has_ended: false"));
                handle.probe(SECOND).unwrap();
                let mut question = handle.status().boxed();
                assert!(!poll_with(Waker::noop(), &mut question));
                *later = Some(question);
            }
        }
    }));
    let mut first = handle.status().boxed();
    assert!(!poll_with(Waker::noop(), &mut first));
    assert!(socket.next().now_or_never().is_none());
    assert!(first.now_or_never().is_some());
    let later = later.lock().unwrap().take().unwrap();
    assert_eq!(later.now_or_never().unwrap().pings_sent, 1);
}

/// Guards rule 25.
#[tokio::test(start_paused = true)]
async fn an_answer_wakes_the_task_that_last_polled_the_status_request() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let ((waker, woken), (other_waker, other_woken)) = (counting(), counting());
    let [mut moved, mut kept, mut dropped] = [(); 3].map(|()| handle.status().boxed());
    let (socket_waker, socket_woken) = counting();
    assert!(!poll_with(&socket_waker, &mut socket.next()));
    for question in [&mut moved, &mut kept, &mut dropped] {
        assert!(!poll_with(&waker, question));
    }
    assert_eq!(*socket_woken.lock().unwrap(), 3);
    assert!(!poll_with(&other_waker, &mut moved));
    drop(dropped);
    assert_eq!(
        *socket_woken.lock().unwrap(),
        3,
        "only a new question needs a pass"
    );
    assert!(socket.next().now_or_never().is_none());
    assert_eq!(
        (*woken.lock().unwrap(), *other_woken.lock().unwrap()),
        (1, 1)
    );
    assert!(poll_with(&waker, &mut kept) && poll_with(&waker, &mut moved));

    // A dropped status request keeps no waker, even if no task polls the socket.
    let marker = Arc::new(());
    let held = marker.clone();
    let waker = OnWake::waker(move || _ = &held);
    let mut question = handle.status().boxed();
    assert!(!poll_with(&waker, &mut question));
    drop(waker);
    assert_eq!(Arc::strong_count(&marker), 2);
    drop(question);
    assert_eq!(Arc::strong_count(&marker), 1);

    // The end answers all of them, and holds no lock while it wakes tasks.
    let woken = Arc::new(Mutex::new(0));
    let (counted, asked) = (woken.clone(), handle.clone());
    let waker = OnWake::waker(move || *counted.lock().unwrap() += u32::from(asked.has_ended()));
    let mut last = handle.status().boxed();
    assert!(!poll_with(&waker, &mut last));
    drop(socket);
    assert_eq!(*woken.lock().unwrap(), 1);
    assert!(poll_with(&waker, &mut last));
}

/// A task that runs as soon as it is woken, as on another thread.
struct ReadsAtOnce(Mutex<Guarded>);

impl ReadsAtOnce {
    fn read(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        // A wake while it runs needs no second run here.
        if let Ok(mut socket) = self.0.try_lock() {
            // It ends when the client is dropped.
            let _ = poll_with(&waker, &mut socket.next());
        }
    }
}

impl Wake for ReadsAtOnce {
    fn wake(self: Arc<Self>) {
        self.read();
    }
}

/// Guards rule 25.
#[tokio::test]
async fn a_status_that_is_answered_at_once_wakes_its_task() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    Arc::new(ReadsAtOnce(Mutex::new(socket))).read();
    let (waker, woken) = counting();
    let mut status = handle.status().boxed();
    let is_ready = poll_with(&waker, &mut status);
    assert!(is_ready || *woken.lock().unwrap() > 0);
    assert!(is_ready || poll_with(&waker, &mut status));
}

/// Guards rule 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_status_request_of_another_thread_is_lost() {
    let (mut socket, _client) = pair(TimeoutConfig::default()).await;
    let handle = socket.handle();
    let reading = tokio::spawn(async move { socket.next().await.is_none() });
    let asking = [(); 2].map(|()| {
        let handle = handle.clone();
        tokio::spawn(async move {
            for _ in 0..10_000 {
                handle.status().await;
            }
        })
    });
    timeout(10 * SECOND, join_all(asking))
        .await
        .expect("each is answered");
    reading.abort();
}
