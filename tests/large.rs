//! Messages that take longer than any limit on silence, over a metered transport, on tokio's paused
//! clock.

#[path = "common/exact.rs"]
mod exact;

use std::time::Duration;

use exact::wrap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, sink, split};
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tungstenite::protocol::Role;
use tungstenite::{Error as WsError, Message};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::{CloseReason, Error, Metered, PongEvidence, TimeoutConfig, TimeoutSocket};

type Guarded = TimeoutSocket<WebSocketStream<Metered<DuplexStream>>, Timer>;

const SIZE: usize = 100_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A `TimeoutSocket` of a server with usual limits, but without limits on the lifetime of a
/// connection and the size of a message, and the bare transport of its client.
async fn server(evidence: PongEvidence) -> (Guarded, DuplexStream) {
    let config = TimeoutConfig::builder()
        .no_connection_timeout()
        .pong_evidence(evidence)
        .jitter(0.0)
        .build()
        .unwrap();
    assert_eq!(config.min_data_rate(), Some(240));
    let (transport, client) = duplex(1 << 16);
    let transport = Metered::new(transport);
    let meter = transport.meter();
    let sizes = tungstenite_config()
        .max_frame_size(None)
        .max_message_size(None)
        .max_write_buffer_size(2 * SIZE);
    let socket = WebSocketStream::from_raw_socket(transport, Role::Server, Some(sizes)).await;
    (wrap(config, socket).with_meter(meter), client)
}

/// Sends a message of [`SIZE`], a `piece` after each `pause`, and reads the pings meanwhile.
async fn upload(client: DuplexStream, piece: usize, pause: Duration) {
    let (mut pings, mut client) = split(client);
    tokio::spawn(async move { copy(&mut pings, &mut sink()).await });
    let mut header = vec![0x82, 0xFF];
    header.extend((SIZE as u64).to_be_bytes());
    header.extend([0; 4]);
    client.write_all(&header).await.unwrap();
    let piece = vec![7; piece];
    let mut left = SIZE;
    while left > 0 {
        let sent = left.min(piece.len());
        if client.write_all(&piece[..sent]).await.is_err() {
            break;
        }
        left -= sent;
        sleep(pause).await;
    }
}

/// The message arrives whole, at a rate of `piece` bytes each `pause`.
async fn arrives(piece: usize, pause: Duration) {
    let (mut server, client) = server(PongEvidence::Any).await;
    let client = tokio::spawn(upload(client, piece, pause));
    match server.recv().await {
        Ok(Some(Message::Binary(data))) => assert_eq!(data.len(), SIZE),
        other => panic!("{piece} bytes each {pause:?}: {other:?}"),
    }
    client.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabytes_arrive_at_a_megabyte_a_second() {
    arrives(1_000_000, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabytes_arrive_at_ten_kilobytes_a_second() {
    arrives(10_000, SECOND).await;
}

/// This takes almost five days.
#[tokio::test(start_paused = true)]
async fn a_hundred_megabytes_arrive_just_above_the_minimum_rate() {
    arrives(2410, 10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabytes_that_trickle_are_aborted() {
    for (piece, pause) in [
        (239, SECOND),
        (1, Duration::from_millis(100)),
        (4780, 20 * SECOND),
    ] {
        let (mut server, client) = server(PongEvidence::Any).await;
        let client = tokio::spawn(upload(client, piece, pause));
        let Err(Error::Verdict(verdict)) = server.recv().await else {
            panic!("{piece} bytes each {pause:?} are too few");
        };
        assert_eq!(verdict.reason, CloseReason::SlowReceive, "{verdict}");
        client.abort();
    }
}

/// If only a pong is an answer, a message that delays it for longer than the timeout ends the
/// connection.
#[tokio::test(start_paused = true)]
async fn a_long_message_answers_no_ping_if_only_a_pong_counts() {
    let (mut server, client) = server(PongEvidence::Pong).await;
    let client = tokio::spawn(upload(client, 1_000_000, 2 * SECOND));
    let Err(Error::Verdict(verdict)) = server.recv().await else {
        panic!("no verdict");
    };
    assert_eq!(verdict.reason, CloseReason::PongTimeout, "{verdict}");
    client.abort();
}

/// The write waits for minutes in total, while `message_timeout` is a second: the connection stays
/// open as long as bytes move.
#[tokio::test(start_paused = true)]
async fn a_large_message_is_sent_as_slowly_as_the_peer_reads() {
    const SIZE: usize = 20_000_000;
    let (mut server, mut client) = server(PongEvidence::Any).await;
    let reader = tokio::spawn(async move {
        let mut taken = 0;
        let mut buffer = vec![0; 50_000];
        loop {
            match client.read(&mut buffer).await.unwrap() {
                0 => return taken,
                bytes => taken += bytes,
            }
            // Less than `message_timeout`, which is a second.
            sleep(Duration::from_millis(500)).await;
        }
    });
    let start = server.status().age;
    server.send(Message::binary(vec![7; SIZE])).await.unwrap();
    assert!(server.status().age - start > 180 * SECOND);
    // The message, its header, and the pings that followed it.
    let pings = server.status().pings_sent as usize;
    drop(server);
    assert_eq!(reader.await.unwrap(), SIZE + 10 + 10 * pings);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_in_the_middle_is_disconnected() {
    let (mut server, mut client) = server(PongEvidence::Any).await;
    let reader = tokio::spawn(async move {
        client.read_exact(&mut vec![0; SIZE / 100]).await.unwrap();
        client
    });
    let sent: Result<(), Error<WsError>> = server.send(Message::binary(vec![7; SIZE])).await;
    let Err(Error::Verdict(verdict)) = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(verdict.reason, CloseReason::MessageTimeout, "{verdict}");
    drop(reader.await.unwrap());
}
