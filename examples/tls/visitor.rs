//! For both servers: a certificate, and a client that stops answering.

use std::error::Error;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::Message;

type Failure = Box<dyn Error + Send + Sync>;

/// Generates a certificate for `localhost`, and its key.
pub fn certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), Failure> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let key = PrivateKeyDer::Pkcs8(made.key_pair.serialize_der().into());
    Ok((made.cert.der().clone(), key))
}

/// Receives an echo, and then reads without answering, not even pings.
pub fn visit(server: SocketAddr, certificate: CertificateDer<'static>) -> Result<(), Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let tls = StreamOwned::new(tls, TcpStream::connect(server)?);
    let (mut socket, _) = tungstenite::client("ws://localhost/", tls)?;
    socket.send(Message::text("hello"))?;
    println!("the client received {} and stops answering", socket.read()?);
    // The server drops the connection, and with it TLS: this is not a clean end.
    let _ = socket.get_mut().read_to_end(&mut Vec::new());
    println!("the server has disconnected the client");
    Ok(())
}
