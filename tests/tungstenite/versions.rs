//! One contract for each version of tungstenite: the newtype and the adapter carry every kind of
//! message, and the timeouts of a socket over them hold.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use ws_timeout::message::Adapter;
use ws_timeout::runtime::tokio::wrap;
use ws_timeout::{CloseHandshake, CloseReason, Error, MessageKind, TimeoutConfig};

const SECOND: Duration = Duration::from_secs(1);

fn config() -> TimeoutConfig {
    TimeoutConfig::builder()
        .ping_interval(10 * SECOND)
        .pong_timeout(5 * SECOND)
        .close_timeout(2 * SECOND)
        .jitter(0.0)
        .build()
        .unwrap()
}

macro_rules! contract {
    ($version:ident) => {
        mod $version {
            use ::$version::WebSocketStream;
            use ::$version::tungstenite::protocol::{CloseFrame, Role};
            use ::$version::tungstenite::{Message as Inner, protocol::frame::coding::CloseCode};

            use super::*;

            ws_timeout::tungstenite_message! {
                /// What the sockets here exchange.
                pub(super) struct Message(::$version::tungstenite);
            }

            type Socket = WebSocketStream<DuplexStream>;

            async fn pair() -> (Socket, Socket) {
                let (server, client) = duplex(1 << 16);
                (
                    WebSocketStream::from_raw_socket(server, Role::Server, None).await,
                    WebSocketStream::from_raw_socket(client, Role::Client, None).await,
                )
            }

            #[test]
            fn messages_are_made_and_recognised() {
                use ws_timeout::Message as _;

                let text = Message::text("é".into());
                assert_eq!(text.0, Inner::text("é"));
                assert_eq!((text.kind(), text.payload_len()), (MessageKind::Data, 2));
                let binary = Message::binary(vec![0, 255]);
                assert_eq!(binary.0, Inner::binary(vec![0, 255]));
                assert_eq!(binary.kind(), MessageKind::Data);
                let ping = Message::ping([7; 8]);
                assert_eq!(ping.kind(), MessageKind::Ping(&[7; 8]));
                let pong = Message::from(Inner::Pong(vec![1, 2].into()));
                assert_eq!(pong.kind(), MessageKind::Pong(&[1, 2]));
                let close = Message::close(Some(1012), "back soon");
                assert_eq!(close.kind(), MessageKind::Close(Some(1012)));
                assert_eq!(Message::close(None, "").kind(), MessageKind::Close(None));
                assert!(close.is_close(), "it dereferences to the inner message");
                let Inner::Close(Some(frame)) = close.into() else {
                    panic!("no Close frame")
                };
                assert_eq!(&*frame.reason, "back soon");
            }

            #[tokio::test(start_paused = true)]
            async fn a_ping_is_answered_and_the_close_code_of_the_peer_is_kept() {
                let (server, mut client) = pair().await;
                let mut server = wrap(config(), Adapter::<Message, _>::new(server));
                let inner: &Socket = server.get_ref().unwrap().get_ref();
                assert!(inner.get_config().max_message_size.is_some());
                server.send_text("hello").await.unwrap();
                server.send(Inner::text("again").into()).await.unwrap();
                server.send_binary([0, 255]).await.unwrap();

                let peer = async {
                    for expected in [
                        Inner::text("hello"),
                        Inner::text("again"),
                        Inner::binary(vec![0, 255]),
                    ] {
                        assert_eq!(client.next().await.unwrap().unwrap(), expected);
                    }
                    assert!(client.next().await.unwrap().unwrap().is_ping());
                    client.send(Inner::text("thanks")).await.unwrap();
                    let frame = CloseFrame {
                        code: CloseCode::Restart,
                        reason: "".into(),
                    };
                    client.close(Some(frame)).await.unwrap();
                    while client.next().await.is_some() {}
                };
                let reading = async {
                    let message = server.recv().await.unwrap().unwrap();
                    assert_eq!(message, Inner::text("thanks").into());
                    while server.recv().await.unwrap().is_some() {}
                };
                tokio::join!(peer, reading);
                assert_eq!(server.status().pongs_received, 1);
                assert_eq!(server.peer_close().unwrap().code, Some(1012));
            }

            #[tokio::test(start_paused = true)]
            async fn a_silent_peer_is_disconnected_in_time() {
                let (server, mut client) = duplex(1 << 16);
                let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
                let mut server = wrap(config(), Adapter::<Message, _>::new(server));
                let Err(Error::Verdict(verdict)) = server.recv().await else {
                    panic!("no verdict")
                };
                assert_eq!(verdict.reason, CloseReason::PongTimeout);
                assert_eq!(verdict.close_handshake, CloseHandshake::Sent);
                let within = 15 * SECOND..15 * SECOND + SECOND / 10;
                assert!(within.contains(&verdict.status.age), "{verdict}");

                // A Ping frame with eight bytes, and a Close frame with code 1011.
                let mut left = Vec::new();
                client.read_to_end(&mut left).await.unwrap();
                assert_eq!((left[0], left[1], left[10]), (0x89, 8, 0x88));
                assert_eq!(left[12..14], 1011u16.to_be_bytes());
            }
        }
    };
}

contract!(v0_21);
contract!(v0_24);
contract!(v0_26);
contract!(v0_28);
contract!(v0_29);
