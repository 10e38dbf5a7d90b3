//! A tokio-websockets server, and the lines that add timeouts.
//!
//! ```text
//! cargo run --manifest-path examples/tokio_websockets/Cargo.toml
//! ```
//!
//! A client connects, talks and falls silent: the log shows how the server disconnects it. Copy
//! `message.rs`. tokio-websockets queues the replies to Ping and Close frames in its socket, and
//! `TimeoutSocket` flushes them.

mod message;
#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, TryFutureExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{ClientBuilder, Limits, ServerBuilder};
use ws_timeout::message::Adapter;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Error, Metered, TimeoutConfig};

use message::Message;

type Failure = Box<dyn StdError + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, Arc::new(config)));
    // The server would run forever; this example ends with its only client.
    visit(address).await
}

async fn serve(listener: TcpListener, config: Arc<TimeoutConfig>) -> Result<(), Failure> {
    loop {
        let (tcp, peer) = listener.accept().await?;
        let config = config.clone();
        tokio::spawn(async move {
            match converse(Metered::socket(tcp), config).await {
                Ok(code) => println!("{peer}: closed by the peer with {code:?}"),
                Err(error) => println!("{peer}: {error}"),
            }
        });
    }
}

/// An echo, until the end of the connection. Returns the code of the peer's Close frame.
async fn converse<IO: AsyncRead + AsyncWrite + Unpin>(
    transport: Metered<IO>,
    config: Arc<TimeoutConfig>,
) -> Result<Option<u16>, Error<tokio_websockets::Error>> {
    let meter = transport.meter();
    let server = ServerBuilder::new().limits(Limits::default().max_payload_len(Some(16 << 20)));
    let handshake = server.accept(transport);
    // Without timeouts: `let (_request, mut socket) = handshake.await?;`
    let opening = open(
        config,
        handshake.map_ok(|(_request, socket)| Adapter::<Message, _>::new(socket)),
    );
    let mut socket = opening.with_meter(meter).await?;

    while let Some(Message(message)) = socket.recv().await? {
        if message.is_text() || message.is_binary() {
            // Keep reading after a failed send: the stream returns how the connection ended.
            if let Err(error) = socket.send(message.into()).await {
                println!("not sent: {error}");
            }
        }
    }
    Ok(socket.peer_close().and_then(|close| close.code))
}

/// The client: receives its echo, and from then on answers nothing, not even a ping.
async fn visit(server: SocketAddr) -> Result<(), Failure> {
    let tcp = TcpStream::connect(server).await?;
    let client = ClientBuilder::new().uri("ws://localhost/")?;
    let (mut socket, _) = client.connect_on(tcp).await?;
    socket
        .send(tokio_websockets::Message::text("hello"))
        .await?;
    let echo = socket.next().await.ok_or("no echo")??;
    println!("the client received {echo:?}, and falls silent");
    socket.get_mut().read_to_end(&mut Vec::new()).await?;
    println!("the server has disconnected the client");
    Ok(())
}
