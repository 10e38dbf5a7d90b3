//! The bare policy in the handler of an actix-ws server.
//!
//! ```text
//! cargo run --manifest-path examples/actix/Cargo.toml
//! ```
//!
//! actix-ws gives you two halves that do not reply to control frames, so there is no socket to
//! wrap. Copy `guard.rs`, which is the complete driver. A client connects, says hello and falls
//! silent, and the server disconnects it.

mod guard;

use std::any::Any;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, rt, web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use ws_timeout::TimeoutConfig;

use guard::guard;

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
