//! The list of a server's connections, and draining it.

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use futures_util::future::{join_all, pending};
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, duplex};
use tokio::time::{Instant, advance, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{open, wrap};
use ws_timeout::{CloseReason, Phase, TimeoutConfig, Timeouts};

use crate::{
    Client, Names, OnWake, SECOND, answers, close_within, counting, pair, poll_with, read_to_end,
    reason,
};

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn a_server_knows_its_connections_and_drains_them() {
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_timer_slack(Duration::ZERO);
    let slow = TimeoutConfig::high_latency();
    for number in 0..100 {
        let endpoint = match number % 2 {
            0 => timeouts.clone(),
            _ => timeouts.with_config(slow),
        };
        let (socket, client) = pair(&endpoint).await;
        answers(client);
        let socket = socket.with_label(number.to_string());
        tokio::spawn(async move {
            let (_writer, reader) = socket.split();
            read_to_end(reader).await
        });
    }
    assert_eq!(timeouts.len(), 100);
    advance(SECOND).await;
    let handles = timeouts.handles();
    let statuses = join_all(handles.iter().map(|handle| handle.status())).await;
    assert!(statuses.iter().all(|status| status.age == SECOND));
    let labels: Vec<_> = handles.iter().filter_map(|handle| handle.label()).collect();
    assert_eq!((labels.len(), &*labels[99]), (100, "99"));

    let begun = Instant::now();
    timeouts.drain(10 * SECOND).await;
    assert!(timeouts.is_empty());
    let took = begun.elapsed();
    assert!(took > 9 * SECOND && took <= 10 * SECOND, "{took:?}");

    // A connection that begins now is drained too.
    let (socket, client) = pair(&timeouts).await;
    answers(client);
    let late = timeout(10 * SECOND, read_to_end(socket)).await;
    assert_eq!(reason(late.unwrap()), Some(CloseReason::Drain));
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_connection_wakes_each_task_that_drains_once() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let sockets = [pair(&timeouts).await, pair(&timeouts).await];
    let wakers = [counting(), counting()];
    let mut drains = [(); 2].map(|()| timeouts.drain(SECOND).boxed());
    for (drain, (waker, _)) in drains.iter_mut().zip(&wakers) {
        assert!(!poll_with(waker, drain));
        assert!(!poll_with(waker, drain));
    }
    for (socket, _client) in sockets {
        assert!(wakers.iter().all(|(_, woken)| *woken.lock().unwrap() == 0));
        drop(socket);
    }
    assert!(wakers.iter().all(|(_, woken)| *woken.lock().unwrap() == 1));
    for (drain, (waker, _)) in drains.iter_mut().zip(&wakers) {
        assert!(poll_with(waker, drain));
    }
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_shortest_of_several_drains_of_a_server_counts() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    drop(timeouts.drain(Duration::ZERO));
    drop(timeouts.drain(1000 * SECOND));
    let (socket, client) = pair(&timeouts).await;
    answers(client);
    let end = timeout(SECOND, read_to_end(socket)).await.unwrap();
    assert_eq!(reason(end), Some(CloseReason::Drain));
}

/// Guards rules 25 and 26.
#[tokio::test(start_paused = true)]
async fn a_handshake_is_on_the_list_and_drained_once_it_is_done() {
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let (server, client) = duplex(4096);
    let opening = open(&timeouts, tokio_tungstenite::accept_async(server)).with_label("late");
    assert_eq!(timeouts.len(), 1);
    let mut opening = tokio::spawn(opening);
    let [handle] = timeouts.handles().try_into().unwrap();
    assert_eq!(handle.status().await.phase, Phase::Opening);
    assert_eq!(handle.label().as_deref(), Some("late"));
    let drained = tokio::spawn(timeouts.drain(SECOND));
    advance(2 * SECOND).await;
    assert!((&mut opening).now_or_never().is_none());
    let (client, _) = tokio_tungstenite::client_async("ws://localhost/", client)
        .await
        .unwrap();
    answers(client);
    let socket = opening.await.unwrap().unwrap();
    assert_eq!(reason(read_to_end(socket).await), Some(CloseReason::Drain));
    drained.await.unwrap();

    // A handshake that fails, or is dropped, is off the list.
    let (server, client) = duplex(4096);
    drop(client);
    open(&timeouts, tokio_tungstenite::accept_async(server))
        .await
        .unwrap_err();
    assert!(timeouts.is_empty());
    drop(open(
        &timeouts,
        pending::<Result<Client, tungstenite::Error>>(),
    ));
    assert!(timeouts.is_empty());
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_transports_are_gone_before_the_list_is_empty() {
    let timeouts = Timeouts::new(close_within(1));
    for is_read in [true, false] {
        let (server, mut client) = duplex(4096);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let socket = wrap(&timeouts, server);
        let gone = Arc::new(Mutex::new(None));
        let (seen, listed) = (gone.clone(), timeouts.clone());
        let waker = OnWake::waker(move || {
            // Ready if the other end is dropped.
            let read = client.read_to_end(&mut Vec::new()).now_or_never();
            *seen.lock().unwrap() = Some(read.is_some() && listed.is_empty());
        });
        let mut drained = timeouts.drain(Duration::ZERO).boxed();
        assert!(!poll_with(&waker, &mut drained));
        match is_read {
            true => assert_eq!(reason(read_to_end(socket).await), Some(CloseReason::Drain)),
            false => drop(socket),
        }
        assert_eq!(*gone.lock().unwrap(), Some(true));
    }

    struct OnDrop(Timeouts);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            assert_eq!(self.0.len(), 1);
        }
    }
    let transport = OnDrop(timeouts.clone());
    let handshake = async move {
        let _transport = transport;
        pending::<Result<Client, tungstenite::Error>>().await
    };
    let mut opening = open(&timeouts, handshake);
    assert!(!poll_with(Waker::noop(), &mut opening));
    drop(opening);
    assert!(timeouts.is_empty());
}

/// Guards rule 26.
#[tokio::test(start_paused = true)]
async fn the_routes_of_a_server_share_everything_but_their_limits() {
    let names = Names::default();
    let timeouts = Timeouts::new(close_within(2))
        .with_observer(names.clone())
        .with_timer_slack(SECOND / 4);
    let endpoint = timeouts.with_config(close_within(3));
    assert_eq!(endpoint.config().close_timeout(), 3 * SECOND);
    let (server, _client) = duplex(4096);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut socket = wrap(&endpoint, server);
    assert_eq!(socket.config().close_timeout(), 3 * SECOND);
    assert!(socket.next().now_or_never().is_none());
    // The slack of a socket takes precedence.
    let (mut other, _other_client) = pair(&timeouts).await;
    assert!(other.next().now_or_never().is_none());
    assert_eq!((timeouts.len(), endpoint.len()), (2, 2));
    assert_eq!(timeouts.clone().with_timer_slack(SECOND).len(), 2);
    let ids: Vec<_> = endpoint
        .handles()
        .iter()
        .map(|handle| handle.id())
        .collect();
    assert_eq!(ids, [1, 2]);
    let seen = names.0.lock().unwrap().join(", ");
    assert_eq!(seen, "1 - opened, slack 250ms, 2 - opened, slack 0ns");
    drop((socket, other));
    assert!(timeouts.is_empty());
    // A configuration alone has no list, until something is set that connections share.
    let begun = Timeouts::from(close_within(2)).with_timer_slack(SECOND);
    let (_socket, _client) = pair(&begun).await;
    assert_eq!(begun.len(), 1);
    let alone = Timeouts::from(close_within(2));
    let (_socket, _client) = pair(&alone).await;
    assert!(alone.is_empty() && alone.handles().is_empty());
    alone.drain(SECOND).await;
}
