//! A server on async-std: async-tungstenite, and the one line that guards its connections.
//!
//! ```text
//! cargo run --example async_std_server
//! ```
//!
//! A client comes, talks, and falls silent: the log shows how it is let go. A real server keeps the default
//! limits or takes them from the environment, and names its connections: see the README.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_std::io::ReadExt;
use async_std::net::{TcpListener, TcpStream};
use async_tungstenite::{accept_async_with_config, client_async, tungstenite};
use futures_util::StreamExt;
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
    async_std::task::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        async_std::task::spawn(serve(listener, Arc::new(config)));
        // The server would go on for ever, this example ends with its only client.
        visit(address).await
    })
}

async fn serve(listener: TcpListener, config: Arc<TimeoutConfig>) -> Result<(), Failure> {
    loop {
        let (tcp, peer) = listener.accept().await?;
        let config = config.clone();
        async_std::task::spawn(async move {
            match converse(tcp, config).await {
                Ok(()) => println!("{peer}: closed"),
                Err(Error::Verdict(end)) if end.reason.is_planned() => {
                    println!("{peer}: ended as planned: {}", end.reason);
                }
                Err(error) => println!("{peer}: {error}"),
            }
        });
    }
}

async fn converse(
    tcp: TcpStream,
    config: Arc<TimeoutConfig>,
) -> Result<(), Error<tungstenite::Error>> {
    let transport = Metered::new(tcp); // counts bytes, so that large messages are seen to move
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    // The guarded socket. Without timeouts: `let socket = handshake.await?;`
    let opening = runtime::async_std::open(config, handshake);
    let mut socket = opening.with_meter(meter).await?;

    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            // Read on after a send that failed: the peer may still have something to say, and the stream
            // tells how it all ended.
            if let Err(error) = socket.send(message).await {
                println!("not sent: {error}");
            }
        }
    }
    Ok(())
}

/// The client: hears its echo, and from then on reads what comes but answers nothing, not even a ping.
async fn visit(server: SocketAddr) -> Result<(), Failure> {
    let tcp = TcpStream::connect(server).await?;
    let (mut socket, _) = client_async("ws://localhost/", tcp).await?;
    socket.send(Message::text("hello")).await?;
    let echo = socket.next().await.ok_or("no echo")??;
    println!("the client heard {echo}, and falls silent");
    socket.get_mut().read_to_end(&mut Vec::new()).await?;
    println!("the server has let go of the client");
    Ok(())
}
