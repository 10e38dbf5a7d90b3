//! A socket and its peer over a pipe, on tokio's paused clock.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Sink, Stream, StreamExt};
use tokio::io::{DuplexStream, duplex};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::{Error, Metered, TimeoutConfig, TimeoutConfigBuilder, TimeoutSocket, Verdict};

use crate::common::off;
use crate::exact::wrap;

pub type Guarded<IO = DuplexStream> = TimeoutSocket<WebSocketStream<IO>, Timer>;
pub type Client = WebSocketStream<DuplexStream>;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything off except the closing handshake, which has five seconds, and the tolerance of
/// stalls.
pub fn bare() -> TimeoutConfigBuilder {
    let tolerance = TimeoutConfig::DEFAULT.stall_tolerance().unwrap();
    off().stall_tolerance(tolerance)
}

/// A server's `TimeoutSocket` and its client over a pipe that holds `capacity` bytes each way.
pub async fn pair(config: TimeoutConfigBuilder, capacity: usize) -> (Guarded, Client) {
    let (server, client) = duplex(capacity);
    let server =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(tungstenite_config())).await;
    let client =
        WebSocketStream::from_raw_socket(client, Role::Client, Some(tungstenite_config())).await;
    (wrap(config.build().unwrap(), server), client)
}

/// A server's metered `TimeoutSocket`, and the bare transport of its client.
pub async fn metered(
    config: TimeoutConfigBuilder,
) -> (Guarded<Metered<DuplexStream>>, DuplexStream) {
    let (server, client) = duplex(1 << 16);
    let server = Metered::new(server);
    let meter = server.meter();
    let server =
        WebSocketStream::from_raw_socket(server, Role::Server, Some(tungstenite_config())).await;
    (
        wrap(config.build().unwrap(), server).with_meter(meter),
        client,
    )
}

/// tokio's clock, which is paused.
#[expect(clippy::disallowed_methods, reason = "the tests are about this clock")]
pub fn now() -> Instant {
    Instant::now()
}

pub fn timed_out<T: std::fmt::Debug>(result: Result<T, Error<WsError>>) -> Verdict {
    match result {
        Err(Error::Verdict(verdict)) => verdict,
        other => panic!("no verdict but {other:?}"),
    }
}

/// Asserts that `since` was `expected` ago, plus the few milliseconds by which an alarm fires late
/// and in which the reactor turns before a verdict, at most twice.
#[track_caller]
pub fn took(since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    assert!(
        elapsed >= expected && elapsed <= expected + 40 * MS,
        "took {elapsed:?} instead of {expected:?}"
    );
}

/// Reads as a live client does, until the connection ends. Returns the code of the Close frame.
pub async fn read_until_end(mut client: Client) -> Option<u16> {
    let mut code = None;
    while let Some(Ok(message)) = client.next().await {
        if let Message::Close(frame) = message {
            code = frame.map(|frame| frame.code.into());
        }
    }
    code
}

/// Returns a masked frame of a client.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A server's `TimeoutSocket` over a transport of the caller.
pub async fn over<IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    config: TimeoutConfigBuilder,
    transport: IO,
) -> Guarded<IO> {
    let socket =
        WebSocketStream::from_raw_socket(transport, Role::Server, Some(tungstenite_config())).await;
    wrap(config.build().unwrap(), socket)
}

/// A sink that has room when the test says so, and nothing to flush, as with channels.
pub struct Channel {
    pub room: Arc<Mutex<Room>>,
    /// Whether there is always one more message to read.
    pub endless: bool,
}

#[derive(Default)]
pub struct Room {
    pub is_there: bool,
    pub awaited: Option<Waker>,
}

impl Stream for Channel {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.endless {
            Poll::Ready(Some(Ok(Message::text("on and on"))))
        } else {
            Poll::Pending
        }
    }
}

impl Sink<Message> for Channel {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut room = self.room.lock().unwrap();
        if room.is_there {
            return Poll::Ready(Ok(()));
        }
        room.awaited = Some(cx.waker().clone());
        Poll::Pending
    }

    fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), WsError> {
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }
}
