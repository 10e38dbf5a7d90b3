//! A server with TLS on smol: futures-rustls, and where the two `Metered` go.
//!
//! ```text
//! cargo run --example smol_tls_server
//! ```
//!
//! A client connects, says hello and stops answering: the log shows how the server disconnects it.
//! The example generates a certificate; a real server loads its own.

mod visitor;

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::{accept_async_with_config, tungstenite};
use futures_rustls::{TlsAcceptor, rustls::ServerConfig};
use futures_util::StreamExt;
use smol::io::AsyncWrite;
use smol::net::{TcpListener, TcpStream};
use ws_timeout::message::tungstenite_config;
use ws_timeout::{Error, Metered, TimeoutConfig, runtime};

type Failure = Box<dyn StdError + Send + Sync>;

fn main() -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(500))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    let (certificate, key) = visitor::certificate()?;
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;

    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        smol::spawn(serve(listener, acceptor, Arc::new(config))).detach();
        // The server would run forever. This example ends with its only client.
        smol::unblock(move || visitor::visit(address, certificate)).await
    })
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, config: Arc<TimeoutConfig>) {
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
        let (acceptor, config) = (acceptor.clone(), config.clone());
        let connection = async move {
            match converse(tcp, acceptor, config).await {
                Ok(()) => println!("{peer}: closed"),
                Err(error) => println!("{peer}: {error}"),
            }
        };
        smol::spawn(connection).detach();
    }
}

async fn converse(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    config: Arc<TimeoutConfig>,
) -> Result<(), Error<tungstenite::Error>> {
    // Below TLS, to see every byte of the peer and to ask the kernel.
    let tcp = Metered::socket(tcp);
    let meter = tcp.meter();
    // `handshake_timeout` limits both handshakes.
    let handshake = async {
        let tls = acceptor.accept(tcp).await?;
        // Above TLS, to see where a message begins.
        let tls = Metered::plaintext(tls, &meter);
        accept_async_with_config(tls, Some(tungstenite_config())).await
    };
    let opening = runtime::smol::open(config, handshake);
    let mut socket = opening
        .with_meter(meter.clone())
        .await?
        // At a clean end, TLS sends `close_notify`.
        .with_shutdown(|inner, cx| Pin::new(inner.get_mut()).poll_close(cx));

    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            if let Err(error) = socket.send(message).await {
                println!("not sent: {error}");
            }
        }
    }
    Ok(())
}
