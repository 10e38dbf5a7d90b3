//! A server on smol: async-tungstenite, and the lines that add timeouts.
//!
//! ```text
//! cargo run --example smol_server
//! ```
//!
//! A client connects, says hello and stops answering: the log shows how the server disconnects it.
//! A real server keeps the default limits or takes them from the environment: see the README.
//!
//! For async-std, replace `smol` with `async_std`, also in `runtime::smol::open`, and
//! `Metered::socket` with `Metered::new`: async-std's `TcpStream` does not implement `AsFd`.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::{accept_async_with_config, client_async, tungstenite};
use futures_util::StreamExt;
use smol::io::AsyncReadExt;
use smol::net::{TcpListener, TcpStream};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Error, Metered, TimeoutConfig, runtime};

type Failure = Box<dyn StdError + Send + Sync>;

fn main() -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        smol::spawn(serve(listener, Arc::new(config))).detach();
        // The server would run forever. This example ends with its only client.
        visit(address).await
    })
}

async fn serve(listener: TcpListener, config: Arc<TimeoutConfig>) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // With too many open files, some must close first.
                println!("not accepted: {error}");
                smol::Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        let config = config.clone();
        let connection = async move {
            match converse(tcp, peer, config).await {
                Ok(()) => println!("{peer}: closed"),
                Err(Error::Verdict(end)) if end.reason.is_planned() => {
                    println!("{peer}: ended as planned: {}", end.reason);
                }
                Err(error) => println!("{peer}: {error}"),
            }
        };
        smol::spawn(connection).detach();
    }
}

async fn converse(
    tcp: TcpStream,
    peer: SocketAddr,
    config: Arc<TimeoutConfig>,
) -> Result<(), Error<tungstenite::Error>> {
    let transport = Metered::socket(tcp); // counts bytes, and asks the kernel before a verdict
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    // Without timeouts: `let socket = handshake.await?;`
    let opening = runtime::smol::open(config, handshake);
    let mut socket = opening
        .with_meter(meter)
        .with_label(peer.to_string())
        .await?;

    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            // Keep reading after a failed send: the peer's last messages may arrive, and the stream
            // returns how the connection ended.
            if let Err(error) = socket.send(message).await {
                println!("not sent: {error}");
            }
        }
    }
    Ok(())
}

/// The client: receives its echo, and then reads without answering, not even pings.
async fn visit(server: SocketAddr) -> Result<(), Failure> {
    let tcp = TcpStream::connect(server).await?;
    let (mut socket, _) = client_async("ws://localhost/", tcp).await?;
    socket.send(Message::text("hello")).await?;
    let echo = socket.next().await.ok_or("no echo")??;
    println!("the client received {echo} and stops answering");
    socket.get_mut().read_to_end(&mut Vec::new()).await?;
    println!("the server has disconnected the client");
    Ok(())
}
