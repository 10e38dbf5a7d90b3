//! What observers receive.

use futures_util::future::{pending, ready};
use futures_util::{FutureExt, StreamExt};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{
    CloseReason, Connection, Observer, Recorder, Report, Step, TimeoutConfig, Timeouts, Timestamp,
};

use crate::{Client, Names, SECOND, Steps, pair, read_to_end, reason};

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn an_observer_gets_what_the_log_would() {
    let names = Names::default();
    let config = TimeoutConfig::builder()
        .idle_timeout(30 * SECOND)
        .build()
        .unwrap();
    let observer = (names.clone(), Recorder::new());
    let timeouts = Timeouts::new(config).with_observer(observer);
    let (socket, client) = pair(&timeouts).await;
    let socket = socket.with_label("silent");
    let end = read_to_end(socket).await;
    assert_eq!(reason(end), Some(CloseReason::IdleTimeout));
    drop(client);
    // A socket that was never polled has not opened.
    let (socket, _client) = pair(&timeouts).await;
    drop(socket);
    let (mut socket, _client) = pair(&timeouts).await;
    assert!(socket.next().now_or_never().is_none());
    drop(socket);
    let failed = ready(Err::<Client, _>(tungstenite::Error::ConnectionClosed));
    let opening = open(&timeouts, failed).with_label("bad");
    assert!(opening.await.is_err());
    let seen = std::mem::take(&mut *names.0.lock().unwrap());
    assert_eq!(
        seen,
        [
            "1 silent opened, slack 0ns",
            "1 silent ping",
            "1 silent verdict",
            "1 silent closed",
            "3 - opened, slack 0ns",
            "3 - dropped",
            "4 bad handshake_error"
        ]
    );
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn the_end_is_the_last_step_of_each_connection() {
    type Handshake = WebSocketStream<DuplexStream>;
    let steps = Steps::default();
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default());
    let timeouts = timeouts.with_observer((steps.clone(), recorder.clone()));
    let mut id = 0;
    let mut ended = |last: Option<&str>| {
        id += 1;
        let steps = steps.take();
        let end = steps.iter().position(|step| step == "ended").unwrap();
        assert_eq!(end, steps.len() - 1, "{steps:?}");
        assert_eq!(last, steps[1..end].last().map(String::as_str));
        assert!(recorder.trace(id).is_none() && recorder.trace(id + 1).is_none());
    };

    let (socket, _client) = pair(&timeouts).await;
    assert!(recorder.trace(1).is_some());
    drop(socket);
    ended(None);

    let (mut socket, _client) = pair(&timeouts).await;
    assert!(socket.next().now_or_never().is_none());
    assert!(socket.into_inner().is_some());
    ended(None);

    drop(open(
        &timeouts,
        pending::<Result<Handshake, tungstenite::Error>>(),
    ));
    ended(None);

    let failed = ready(Err::<Handshake, _>(tungstenite::Error::ConnectionClosed));
    assert!(open(&timeouts, failed).await.is_err());
    ended(None);

    let (mut socket, client) = pair(&timeouts).await;
    drop(client);
    assert!(socket.next().await.unwrap().is_err());
    ended(Some("closed"));

    let (mut socket, mut client) = pair(&timeouts).await;
    client.close(None).await.unwrap();
    let handle = socket.handle();
    while socket.next().await.is_some() {}
    socket.set_config(TimeoutConfig::default());
    socket.probe(SECOND);
    drop(socket);
    assert!(handle.has_ended());
    ended(Some("closed"));
    assert!(recorder.verdicts().is_empty());
}

/// Keeps nothing, and fails if it receives a step.
struct WithoutSteps;

impl Observer for WithoutSteps {
    fn report(&self, _: &Connection<'_>, _: &Report<'_>) {}

    fn step(&self, _: &Connection<'_>, _: Timestamp, _: &Step<'_>) {
        panic!("it does not want steps");
    }
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn an_observer_is_given_steps_only_if_it_wants_them() {
    for both in [false, true] {
        let recorder = Recorder::new();
        let timeouts = Timeouts::new(TimeoutConfig::default());
        let timeouts = match both {
            false => timeouts.with_observer(WithoutSteps),
            true => timeouts.with_observer((WithoutSteps, recorder.clone())),
        };
        let (socket, _client) = pair(&timeouts).await;
        read_to_end(socket).await;
        assert_eq!(recorder.verdicts().len(), usize::from(both));
    }
}
