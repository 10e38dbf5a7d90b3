//! A client that reconnects, with the delays of the crate `backon`.
//!
//! ```text
//! cargo run --example reconnect
//! ```
//!
//! `ws-timeout` says how a connection ended; [`run`] decides whether and when to open the next.
//! Copy [`run`] and [`converse`].

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async_with_config, tungstenite};
use tungstenite::Message;
use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Error, TimeoutConfig, Timeouts};

type Failure = Box<dyn StdError + Send + Sync>;

/// The delays after failures, short for this example. Up to a minute is usual.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(1))
    .with_max_times(10);

/// The delay while the server restarts, random so that its clients do not all return at once. The
/// registry of close codes recommends 5 to 30 seconds.
const RESTART: ConstantBuilder = ConstantBuilder::new()
    .with_jitter()
    .with_delay(Duration::from_millis(100));

/// A connection on which the server stayed alive for this long resets the delays.
const HEALTHY: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let config = TimeoutConfig::builder()
        .ping_interval(Duration::from_millis(200))
        .pong_timeout(Duration::from_secs(1))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener));
    run(address, &Timeouts::new(config)).await?;
    println!("the server is done");
    Ok(())
}

/// Connects again until the server is done or refuses.
async fn run(server: SocketAddr, timeouts: &Timeouts) -> Result<(), Failure> {
    let mut delays = BACKOFF.build();
    loop {
        let end = converse(server, timeouts, &mut delays).await;
        let restarts = matches!(end, Ok(Some(1012)));
        match end {
            Ok(Some(1000)) => return Ok(()),
            Ok(Some(code @ (1001 | 1012 | 1013))) => println!("the server will be back: {code}"),
            Ok(None) => println!("the server closed without a code"),
            // It would refuse the same bytes or the same password again.
            Ok(Some(code)) => return Err(format!("the server refuses: {code}").into()),
            Err(Error::Socket(tungstenite::Error::Http(response)))
                if response.status().is_client_error() =>
            {
                return Err(format!("the server refuses: {}", response.status()).into());
            }
            Err(Error::Verdict(verdict)) => println!("ended by a limit: {}", verdict.reason),
            // Refused, reset, unreachable.
            Err(error) => println!("failed: {error}"),
        }
        let delay = match restarts {
            true => RESTART.build().next(),
            false => delays.next(),
        };
        let delay = delay.ok_or("too many failures in a row")?;
        println!("the next try is in {delay:.1?}");
        sleep(delay).await;
    }
}

/// Runs one connection, and returns the code of the server's Close frame. If the connection was
/// healthy, the delays start again.
async fn converse(
    server: SocketAddr,
    timeouts: &Timeouts,
    delays: &mut ExponentialBackoff,
) -> Result<Option<u16>, Error<tungstenite::Error>> {
    // With a host name and TLS: `connect_async_with_config`, likewise.
    let handshake = async {
        let tcp = TcpStream::connect(server).await?;
        let sizes = Some(tungstenite_config());
        let (socket, _) = client_async_with_config("ws://localhost/", tcp, sizes).await?;
        Ok(socket)
    };
    let mut socket = open(timeouts, handshake).await?;
    let end = loop {
        match socket.recv().await {
            Ok(Some(Message::Text(text))) => println!("the server says {text}"),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(None),
            Err(error) => break Err(error),
        }
    };
    let status = socket.status();
    if status.age.saturating_sub(status.silent) >= HEALTHY {
        println!("that was a good connection: the delays start again");
        *delays = BACKOFF.build();
    }
    match (end, socket.peer_close()) {
        // After a verdict, the server's code is only its answer.
        (Ok(_) | Err(Error::Socket(_)), Some(close)) => Ok(close.code),
        (end, _) => end,
    }
}

/// Falls silent on the first connection, resets the second, restarts during the third, and says
/// that it is done on the fourth.
async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let _silent = accept(&listener).await?;
    // With a linger time of zero, the kernel sends a reset.
    accept(&listener).await?.get_ref().set_zero_linger()?;
    for code in [CloseCode::Restart, CloseCode::Normal] {
        let mut socket = accept(&listener).await?;
        socket.send(Message::text("hello")).await?;
        // While it reads, it answers pings.
        let _ = timeout(2 * HEALTHY, socket.by_ref().count()).await;
        let reason = "".into();
        socket.close(Some(CloseFrame { code, reason })).await?;
        socket.count().await;
    }
    Ok(())
}

async fn accept(listener: &TcpListener) -> Result<WebSocketStream<TcpStream>, Failure> {
    let (tcp, _) = listener.accept().await?;
    Ok(accept_async(tcp).await?)
}
