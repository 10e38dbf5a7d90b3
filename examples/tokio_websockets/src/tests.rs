//! A server of this example against a client of tokio-websockets, on tokio's paused clock.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, CloseCode, Message, WebSocketStream};
use ws_timeout::{CloseHandshake, CloseReason, Error, Metered};
use ws_timeout::{TimeoutConfig, TimeoutConfigBuilder, Verdict};

const SECOND: Duration = Duration::from_secs(1);

type Server = JoinHandle<Result<Option<u16>, Error<tokio_websockets::Error>>>;
type Client = WebSocketStream<DuplexStream>;

fn config() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .connection_timeout(200 * SECOND)
        .ping_interval(10 * SECOND)
        .pong_timeout(5 * SECOND)
        .close_timeout(2 * SECOND)
        .jitter(0.0)
}

async fn connect(config: TimeoutConfigBuilder) -> (Server, Client) {
    let config = Arc::new(config.build().unwrap());
    let (ours, peers) = duplex(1 << 16);
    let server = tokio::spawn(super::converse(Metered::new(ours), config));
    let client = ClientBuilder::new().uri("ws://localhost/").unwrap();
    let (client, _) = client.connect_on(peers).await.unwrap();
    (server, client)
}

async fn receive(client: &mut Client) -> Message {
    client.next().await.unwrap().unwrap()
}

/// Returns the verdict of `server`, which has to end `within` this time.
async fn verdict(server: Server, within: Duration) -> Verdict {
    let ended = timeout(within + SECOND / 10, server).await;
    match ended.expect("it has to end in time").unwrap() {
        Err(Error::Verdict(verdict)) => verdict,
        other => panic!("no verdict: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_until_the_end_of_the_lifetime() {
    let (server, mut client) = connect(config()).await;
    let mut pings = 0;
    let close = loop {
        let message = receive(&mut client).await;
        match message.is_ping() {
            true => pings += 1,
            false => break message,
        }
    };
    assert_eq!(pings, 19);
    assert_eq!(close.as_close().unwrap().0, CloseCode::GOING_AWAY);
    assert!(
        client.next().await.is_none(),
        "the answer leaves, and the end comes"
    );
    let verdict = verdict(server, Duration::ZERO).await;
    assert_eq!(verdict.reason, CloseReason::ConnectionTimeout);
    assert_eq!(verdict.status.pongs_received, 19);
    assert_eq!(verdict.close_handshake, CloseHandshake::Answered);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_disconnected_in_time() {
    let (server, _client) = connect(config()).await;
    let verdict = verdict(server, 15 * SECOND).await;
    assert_eq!(verdict.reason, CloseReason::PongTimeout);
    assert!(verdict.status.age >= 15 * SECOND);
    assert_eq!(verdict.close_handshake, CloseHandshake::Sent);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_the_close_frame_is_dropped_after_close_timeout() {
    let (server, _client) = connect(config().idle_timeout(8 * SECOND)).await;
    let verdict = verdict(server, 10 * SECOND).await;
    assert_eq!(verdict.reason, CloseReason::IdleTimeout);
    assert_eq!(verdict.close_handshake, CloseHandshake::Unanswered);
}

#[tokio::test(start_paused = true)]
async fn messages_come_back_and_a_ping_is_answered_at_once() {
    let (_server, mut client) = connect(config()).await;
    client.send(Message::text("é")).await.unwrap();
    assert_eq!(receive(&mut client).await.as_text(), Some("é"));
    client.send(Message::binary(vec![0, 255])).await.unwrap();
    assert!(receive(&mut client).await.is_binary());
    client.send(Message::ping(vec![1, 2])).await.unwrap();
    let pong = timeout(SECOND, receive(&mut client)).await.unwrap();
    assert!(pong.is_pong());
    assert_eq!(**pong.as_payload(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn the_close_code_of_the_client_is_known_after_the_end_and_is_answered() {
    let restart = Some(CloseCode::SERVICE_RESTART);
    for (frame, code) in [(restart, Some(1012)), (None, None)] {
        let (server, mut client) = connect(config()).await;
        client.send(Message::close(frame, "")).await.unwrap();
        let answer = receive(&mut client).await;
        assert_eq!(
            answer.as_close().unwrap().0,
            frame.unwrap_or(CloseCode::NO_STATUS_RECEIVED)
        );
        assert!(client.next().await.is_none());
        assert_eq!(server.await.unwrap().unwrap(), code);
    }
}
