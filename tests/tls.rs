//! TLS with the meter below it, above it, and on both sides, as a server and as a client.

mod common;
#[path = "common/exact.rs"]
mod exact;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use common::off;
use exact::wrap;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::Timer;
use ws_timeout::{
    CloseReason, Error, Metered, PongEvidence, TimeoutConfig, TimeoutConfigBuilder, TimeoutSocket,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Where meters are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meters {
    Below,
    Above,
    Both,
}

const METERS: [Meters; 3] = [Meters::Below, Meters::Above, Meters::Both];

type Tls = TlsStream<Metered<DuplexStream>>;
type Guarded = TimeoutSocket<WebSocketStream<Metered<Tls>>, Timer>;

/// A guarded side, and the TLS stream of its peer over a `Pipe`.
async fn pair(
    meters: Meters,
    role: Role,
    capacity: usize,
    config: TimeoutConfigBuilder,
) -> (Guarded, TlsStream<Pipe>) {
    let (ours, theirs) = duplex(capacity);
    let below = Metered::new(ours);
    let theirs = Pipe::new(theirs);
    let meter_below = below.meter();
    let (server, client) = tls_configs();
    let name = ServerName::try_from("localhost").unwrap();
    let (acceptor, connector) = (TlsAcceptor::from(server), TlsConnector::from(client));
    let (ours, theirs) = match role {
        Role::Server => {
            let (server, client) =
                tokio::join!(acceptor.accept(below), connector.connect(name, theirs));
            (server.unwrap().into(), client.unwrap().into())
        }
        Role::Client => {
            let (server, client) =
                tokio::join!(acceptor.accept(theirs), connector.connect(name, below));
            (client.unwrap().into(), server.unwrap().into())
        }
    };
    let (transport, meter) = match meters {
        // A meter above TLS that the socket is not given.
        Meters::Below => (Metered::new(ours), meter_below),
        Meters::Above => {
            let above = Metered::new(ours);
            let meter = above.meter();
            (above, meter)
        }
        Meters::Both => (Metered::plaintext(ours, &meter_below), meter_below),
    };
    let settings = Some(tungstenite_config());
    let socket = WebSocketStream::from_raw_socket(transport, role, settings).await;
    let socket = wrap(config.build().unwrap(), socket).with_meter(meter);
    let socket = socket.with_shutdown(|inner, cx| Pin::new(inner.get_mut()).poll_shutdown(cx));
    (socket, theirs)
}

fn tls_configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(certified.key_pair.serialize_der().into());
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// The transport of the peer, which can be made slow.
struct Pipe {
    io: DuplexStream,
    /// The number of bytes per interval, and the interval.
    at_most: usize,
    every: Duration,
    /// How many of them may still pass.
    left: usize,
    pause: Pin<Box<Sleep>>,
}

impl Pipe {
    fn new(io: DuplexStream) -> Self {
        Self {
            io,
            at_most: usize::MAX,
            every: 100 * MS,
            left: 0,
            pause: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.at_most == usize::MAX {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        }
        if this.left == 0 {
            ready!(this.pause.as_mut().poll(cx));
            this.left = this.at_most;
            this.pause.as_mut().reset(now() + this.every);
        }
        let some = &buf[..buf.len().min(this.left)];
        let taken = ready!(Pin::new(&mut this.io).poll_write(cx, some))?;
        this.left -= taken;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn slow_down(tls: &mut TlsStream<Pipe>, bytes_a_second: usize) {
    send_bursts(tls, bytes_a_second / 10, 100 * MS);
}

fn send_bursts(tls: &mut TlsStream<Pipe>, bytes: usize, every: Duration) {
    let pipe = match tls {
        TlsStream::Client(tls) => tls.get_mut().0,
        TlsStream::Server(tls) => tls.get_mut().0,
    };
    pipe.at_most = bytes;
    pipe.every = every;
}

#[expect(clippy::disallowed_methods, reason = "the tests are about this clock")]
fn now() -> Instant {
    Instant::now()
}

const ROLES: [Role; 2] = [Role::Server, Role::Client];

/// The limits of a connection with a lifetime of an hour.
fn limits() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .jitter(0.0)
        .connection_timeout(3600 * SECOND)
}

/// Reads until a verdict, which it returns with the number of data messages.
async fn verdict(socket: &mut Guarded) -> (CloseReason, usize) {
    let mut messages = 0;
    loop {
        match socket.next().await {
            Some(Ok(message)) => messages += usize::from(message.is_binary()),
            Some(Err(Error::Verdict(verdict))) => return (verdict.reason, messages),
            other => panic!("no verdict but {other:?}"),
        }
    }
}

async fn peer(tls: TlsStream<Pipe>, ours: Role) -> WebSocketStream<TlsStream<Pipe>> {
    let role = match ours {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    };
    WebSocketStream::from_raw_socket(tls, role, Some(tungstenite_config())).await
}

/// Tickets and the records around pings and pongs are not an incomplete message.
#[tokio::test(start_paused = true)]
async fn a_quiet_peer_stays() {
    for (role, meters) in ROLES
        .iter()
        .flat_map(|&role| METERS.map(|meters| (role, meters)))
    {
        for evidence in [PongEvidence::Any, PongEvidence::Pong] {
            let config = limits().pong_evidence(evidence);
            let (mut socket, tls) = pair(meters, role, 1 << 16, config).await;
            let mut peer = peer(tls, role).await;
            tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} });
            let start = now();
            let (reason, _) = verdict(&mut socket).await;
            assert_eq!(
                reason,
                CloseReason::ConnectionTimeout,
                "{role:?} {meters:?}"
            );
            assert!(start.elapsed() >= 3600 * SECOND);
        }
    }
}

/// While a record of 16 KiB is arriving there is no plaintext for four seconds.
#[tokio::test(start_paused = true)]
async fn an_upload_at_four_kilobytes_a_second_arrives() {
    for (role, meters) in ROLES
        .iter()
        .flat_map(|&role| METERS.map(|meters| (role, meters)))
    {
        let (mut socket, mut tls) = pair(meters, role, 1 << 16, limits()).await;
        slow_down(&mut tls, 4000);
        let mut peer = peer(tls, role).await;
        tokio::spawn(async move {
            let message = Message::binary(vec![7; 1_000_000]);
            peer.send(message).await.unwrap();
            while let Some(Ok(_)) = peer.next().await {}
        });
        let (reason, messages) = verdict(&mut socket).await;
        assert_eq!(
            reason,
            CloseReason::ConnectionTimeout,
            "{role:?} {meters:?}"
        );
        assert_eq!(messages, 1);
    }
}

/// Each poll finds an incomplete record of the same size.
#[tokio::test(start_paused = true)]
async fn an_upload_in_bursts_of_a_record_arrives() {
    for meters in METERS {
        for (bytes, every) in [(16_406, SECOND), (16_384, SECOND / 2), (16_000, SECOND)] {
            let (mut socket, mut tls) = pair(meters, Role::Server, 1 << 17, limits()).await;
            send_bursts(&mut tls, bytes, every);
            let mut peer = peer(tls, Role::Server).await;
            tokio::spawn(async move {
                peer.send(Message::binary(vec![7; 2_000_000]))
                    .await
                    .unwrap();
                while let Some(Ok(_)) = peer.next().await {}
            });
            let (reason, messages) = verdict(&mut socket).await;
            assert_eq!(reason, CloseReason::ConnectionTimeout, "{meters:?} {bytes}");
            assert_eq!(messages, 1);
        }
    }
}

/// The bytes before TLS are not TLS.
#[tokio::test(start_paused = true)]
async fn a_quiet_server_behind_a_proxy_that_answers_first_stays() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
    let (ours, mut theirs) = duplex(1 << 16);
    let mut below = Metered::new(ours);
    let meter = below.meter();
    theirs.write_all(ANSWER).await.unwrap();
    below.read_exact(&mut [0; ANSWER.len()]).await.unwrap();
    let (server, client) = tls_configs();
    let name = ServerName::try_from("localhost").unwrap();
    let (acceptor, connector) = (TlsAcceptor::from(server), TlsConnector::from(client));
    let (server, client) = tokio::join!(acceptor.accept(theirs), connector.connect(name, below));
    let socket = WebSocketStream::from_raw_socket(client.unwrap(), Role::Client, None).await;
    let mut peer = WebSocketStream::from_raw_socket(server.unwrap(), Role::Server, None).await;
    tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} });
    let mut socket = wrap(limits().build().unwrap(), socket).with_meter(meter);
    let end = loop {
        match socket.next().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    let Some(Err(Error::Verdict(verdict))) = end else {
        panic!("no verdict: {end:?}");
    };
    assert_eq!(verdict.reason, CloseReason::ConnectionTimeout, "{verdict}");
}

/// `idle_timeout` is shorter than a record takes to arrive: each byte below TLS is a sign of life.
#[tokio::test(start_paused = true)]
async fn an_upload_whose_records_take_longer_than_the_idle_timeout_arrives() {
    for (role, meters) in ROLES
        .iter()
        .flat_map(|&role| METERS.map(|meters| (role, meters)))
    {
        let config = limits().no_ping_interval().idle_timeout(10 * SECOND);
        let (mut socket, mut tls) = pair(meters, role, 1 << 16, config).await;
        slow_down(&mut tls, 1000);
        let mut peer = peer(tls, role).await;
        tokio::spawn(async move {
            let message = Message::binary(vec![7; 100_000]);
            peer.send(message).await.unwrap();
            while let Some(Ok(_)) = peer.next().await {}
        });
        let (reason, messages) = verdict(&mut socket).await;
        assert_eq!(reason, CloseReason::IdleTimeout);
        assert_eq!(
            messages,
            usize::from(meters != Meters::Above),
            "{role:?} {meters:?}"
        );
    }
}

/// Within one record, and in records of one byte each.
#[tokio::test(start_paused = true)]
async fn a_trickling_message_is_aborted() {
    for role in ROLES {
        for (meters, whole_record) in [
            (Meters::Below, true),
            (Meters::Both, true),
            (Meters::Both, false),
            (Meters::Above, false),
        ] {
            let (mut socket, mut tls) = pair(meters, role, 1 << 16, limits()).await;
            if whole_record {
                slow_down(&mut tls, 20);
            }
            let start = now();
            tokio::spawn(async move {
                let masked = if role == Role::Server { 0x80 } else { 0 };
                let frame = [0x82, masked | 126, 0x40, 0, 1, 2, 3, 4];
                let message = [&frame[..], &[7; 8000]].concat();
                if whole_record {
                    let _ = tls.write_all(&message).await;
                    let _ = tls.flush().await;
                } else {
                    for byte in message {
                        let _ = tls.write_all(&[byte]).await;
                        let _ = tls.flush().await;
                        sleep(100 * MS).await;
                    }
                }
                sleep(3600 * SECOND).await;
            });
            let (reason, _) = verdict(&mut socket).await;
            assert_eq!(
                reason,
                CloseReason::SlowReceive,
                "{role:?} {meters:?} {whole_record}"
            );
            let elapsed = start.elapsed();
            assert!((5 * SECOND..20 * SECOND).contains(&elapsed), "{elapsed:?}");
        }
    }
}

/// The message takes 21 seconds to be sent, with a `message_timeout` of one.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_a_large_message_stays() {
    for (role, meters) in ROLES
        .iter()
        .flat_map(|&role| METERS.map(|meters| (role, meters)))
    {
        let (mut socket, mut tls) = pair(meters, role, 1 << 14, limits()).await;
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 20_000];
            let mut read = 0;
            while read < 4 << 20 {
                read += tls.read(&mut buffer).await.unwrap();
                sleep(100 * MS).await;
            }
            sleep(3600 * SECOND).await;
        });
        let sent = socket.send(Message::binary(vec![7; 4 << 20])).await;
        assert!(sent.is_ok(), "{role:?} {meters:?}: {sent:?}");
        reader.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_disconnected() {
    for (role, meters) in ROLES
        .iter()
        .flat_map(|&role| METERS.map(|meters| (role, meters)))
    {
        let (mut socket, tls) = pair(meters, role, 1 << 14, limits()).await;
        let start = now();
        let sent = socket.send(Message::binary(vec![7; 4 << 20])).await;
        let Err(Error::Verdict(verdict)) = sent else {
            panic!("{role:?} {meters:?}: {sent:?}");
        };
        assert_eq!(verdict.reason, CloseReason::MessageTimeout);
        assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
        drop(tls);
    }
}

/// A TLS stream that ends without `close_notify` fails with `UnexpectedEof`.
/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn a_clean_end_sends_close_notify() {
    for role in ROLES {
        let (mut socket, tls) = pair(Meters::Both, role, 1 << 16, limits()).await;
        let mut peer = peer(tls, role).await;
        let peer = tokio::spawn(async move {
            while let Some(Ok(_)) = peer.next().await {}
            if role == Role::Client {
                // "The underlying TCP connection .. SHOULD be closed first by the server" (RFC
                // 6455, 7.1.1)
                peer.get_mut().shutdown().await.unwrap();
            }
            let mut rest = Vec::new();
            peer.get_mut().read_to_end(&mut rest).await.map(|_| rest)
        });
        assert_eq!(socket.close(1000, "").await.unwrap(), Some(1000));
        drop(socket);
        let end = peer.await.unwrap();
        assert!(end.is_ok(), "{role:?}: {end:?}");
    }
}

/// `close_timeout` limits it. The connection was closed all the same.
/// Guards rule 15.
#[tokio::test(start_paused = true)]
async fn a_shutdown_is_bounded() {
    let config = off().close_timeout(5 * SECOND);
    let (socket, tls) = pair(Meters::Both, Role::Server, 1 << 16, config).await;
    let mut socket = socket.with_shutdown(|_, _| Poll::Pending);
    let mut peer = peer(tls, Role::Server).await;
    tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} });
    let start = now();
    let closed = socket.close(1000, "").await;
    let elapsed = start.elapsed();
    assert!(
        elapsed >= 5 * SECOND && elapsed <= 5 * SECOND + 100 * MS,
        "{elapsed:?}"
    );
    assert_eq!(closed.unwrap(), Some(1000));
}
