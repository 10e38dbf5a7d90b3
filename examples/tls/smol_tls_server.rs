//! A server with TLS on smol: futures-rustls, and where the two `Metered` go.
//!
//! ```text
//! cargo run --example smol_tls_server
//! ```
//!
//! A client connects, says hello and stops answering: the log shows how the server disconnects it.
//! The example generates a certificate; a real server loads its own.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_tungstenite::{accept_async_with_config, client_async, tungstenite};
use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use futures_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use futures_rustls::{TlsAcceptor, TlsConnector};
use futures_util::StreamExt;
use smol::io::{AsyncReadExt, AsyncWrite};
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
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.key_pair.serialize_der().into());
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;

    smol::block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        smol::spawn(serve(listener, acceptor, Arc::new(config))).detach();
        // The server would run forever. This example ends with its only client.
        visit(address, certificate).await
    })
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    config: Arc<TimeoutConfig>,
) -> Result<(), Failure> {
    loop {
        let (tcp, peer) = listener.accept().await?;
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

/// The client: receives its echo, and then reads without answering, not even pings.
async fn visit(server: SocketAddr, certificate: CertificateDer<'static>) -> Result<(), Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector
        .connect(ServerName::try_from("localhost")?, tcp)
        .await?;
    let (mut socket, _) = client_async("ws://localhost/", tls).await?;
    socket.send(Message::text("hello")).await?;
    let echo = socket.next().await.ok_or("no echo")??;
    println!("the client received {echo} and stops answering");
    // The server drops the connection, and with it TLS: this is not a clean end.
    let _ = socket.get_mut().read_to_end(&mut Vec::new()).await;
    println!("the server has disconnected the client");
    Ok(())
}
