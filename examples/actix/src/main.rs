//! The bare policy in the handler of an actix-ws server.
//!
//! ```text
//! cargo run --manifest-path examples/actix/Cargo.toml
//! ```
//!
//! actix-ws gives you two halves that do not reply to control frames, so there is no socket to
//! wrap. Copy [`guard`], which is the complete driver. A client connects, says hello and falls
//! silent, and the server disconnects it.
//!
//! The policy cannot see two things here. A message counts as sent when actix has accepted it, and
//! actix accepts 32, and what its buffers hold, before it makes the handler wait. And the policy
//! sees a message only when it is complete, so set `idle_timeout` longer than the largest message
//! takes to arrive.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, rt, web};
use actix_ws::{CloseReason as CloseFrame, Message, MessageStream, Session};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use ws_timeout::{
    Action, CloseReason, Event, Phase, PingId, Status, TimeoutConfig, TimeoutPolicy, Timestamp,
};

/// How many messages may wait for room before the handler stops reading.
const MAX_WAITING: usize = 16;

/// Echoes until the connection ends, and returns what the policy knew then.
async fn guard(mut session: Session, mut stream: MessageStream, config: &TimeoutConfig) -> Status {
    let start = Instant::now();
    let now = || Timestamp::from_duration(start.elapsed());
    let mut policy = TimeoutPolicy::new(config, RandomState::new().hash_one(start), now());
    let mut waiting: VecDeque<(Message, Event)> = VecDeque::new();
    let mut all_read = false;
    loop {
        if !waiting.is_empty() {
            policy.observe(now(), Event::SendStart);
        }

        // 1. Decide. While there may be more to read, only what no input could overturn.
        let action = match all_read {
            true => policy.poll(now()),
            false => policy.poll_unread(now()),
        };
        let until = match action {
            Action::SendPing(id) => {
                let ping = Message::Ping(id.payload().to_vec().into());
                waiting.push_back((ping, Event::PingSent(id)));
                // The ping must be sent before silence may count.
                all_read = false;
                continue;
            }
            Action::Close(reason) => {
                waiting.push_back((Message::Close(close_frame(config, reason)), Event::Flushed));
                continue;
            }
            Action::Abort(reason) => {
                // Only if there is room at once. Dropping both halves is what counts.
                if let Some(frame) = close_frame(config, reason) {
                    let _ = session.close(Some(frame)).now_or_never();
                }
                break;
            }
            Action::Idle { until } => until,
        };

        // 2. Wait for a message, for room for one, or for the deadline. actix reads the transport
        //    in a task of its own; `yield_now` lets that read what has arrived before the policy
        //    decides.
        let reads = waiting.len() < MAX_WAITING;
        let may_wait = all_read || !reads;
        let deadline = async {
            match until {
                _ if !may_wait => {}
                Some(until) => rt::time::sleep(until.saturating_duration_since(now())).await,
                None => pending().await,
            }
            tokio::task::yield_now().await;
        };
        all_read = false;
        tokio::select! {
            biased;
            message = stream.next(), if reads => {
                let (event, reply) = match message {
                    Some(Ok(Message::Ping(payload))) => {
                        (Event::Ping, Some((Message::Pong(payload), Event::Flushed)))
                    }
                    Some(Ok(Message::Pong(payload))) => {
                        (Event::Pong(PingId::from_payload(&payload)), None)
                    }
                    Some(Ok(Message::Close(frame))) => {
                        // Fails if our Close frame has left already, and this is the answer.
                        let _ = session.close(frame).now_or_never();
                        policy.observe(now(), Event::PeerClose);
                        break;
                    }
                    Some(Ok(data)) => (Event::Recv, Some((data, Event::SendOk))),
                    Some(Err(_)) | None => {
                        policy.observe(now(), Event::Closed);
                        break;
                    }
                };
                policy.observe(now(), event);
                // Nothing may follow our Close frame.
                waiting.extend(reply.filter(|_| policy.phase() == Phase::Open));
            }
            room = poll_fn(|cx| session.poll_ready_unpin(cx)), if !waiting.is_empty() => {
                let Some((message, event)) = waiting.pop_front() else {
                    continue;
                };
                if room.and_then(|()| session.start_send_unpin(message)).is_err() {
                    policy.observe(now(), Event::Closed);
                    break;
                }
                policy.observe(now(), event);
            }
            () = deadline => all_read = reads,
        }
    }
    policy.status(now())
}

fn close_frame(config: &TimeoutConfig, reason: CloseReason) -> Option<CloseFrame> {
    config.close_code(reason).map(|code| CloseFrame {
        code: code.into(),
        description: Some(reason.to_string()),
    })
}

/// A second handle to the connection's socket, since actix keeps the first.
type Transport = Arc<std::net::TcpStream>;

fn keep_transport(connection: &dyn Any, data: &mut Extensions) {
    let tcp = connection.downcast_ref::<TcpStream>();
    if let Some(Ok(handle)) = tcp.map(|tcp| tcp.as_fd().try_clone_to_owned()) {
        data.insert(Transport::new(handle.into()));
    }
}

async fn echo(
    request: HttpRequest,
    body: web::Payload,
    config: web::Data<TimeoutConfig>,
) -> Result<HttpResponse, Error> {
    let (response, session, stream) = actix_ws::handle(&request, body)?;
    let transport = request.conn_data::<Transport>().cloned();
    rt::spawn(async move {
        let status = guard(session, stream, &config).await;
        println!("the server has ended the connection: {status}");
        // A Close frame is sent now or never: a peer that reads has received it, and one that does
        // not would keep actix writing.
        rt::time::sleep(Duration::from_millis(100)).await;
        if let Some(transport) = transport {
            let _ = transport.shutdown(Shutdown::Both);
        }
    });
    Ok(response)
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    let config = web::Data::new(config);
    let app = move || {
        let route = web::get().to(echo);
        App::new().app_data(config.clone()).route("/", route)
    };
    let server = HttpServer::new(app)
        .workers(1)
        .on_connect(keep_transport)
        .bind("127.0.0.1:0")?;
    let address = server.addrs()[0];
    rt::spawn(server.run());

    // The client: receives its echo, and from then on answers nothing, not even a ping.
    let mut client = TcpStream::connect(address).await?;
    client.write_all(HANDSHAKE).await?;
    // A masked text frame, with a mask of zeros.
    client.write_all(b"\x81\x85\0\0\0\0hello").await?;
    let mut received = Vec::new();
    client.read_to_end(&mut received).await?;
    println!("the client received {}", received.escape_ascii());
    // The code 1011.
    match received.ends_with(b"\x03\xf3pong_timeout") {
        true => Ok(()),
        false => Err("the last that it received is not the Close frame".into()),
    }
}

const HANDSHAKE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
