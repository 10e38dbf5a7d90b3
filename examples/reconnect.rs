//! A client that reconnects, with the delays of the crate `backon`.
//!
//! ```text
//! cargo run --example reconnect
//! ```
//!
//! `ws-timeout` says how a connection ended; [`run`] decides whether and when to open the next.
//! Copy [`run`] and [`converse`]. The server falls silent on the first connection, resets the
//! second, restarts during the third and says that it is done on the fourth: the codes of its Close
//! frames distinguish the last two.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async_with_config, tungstenite};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseReason, Error, TimeoutConfig};

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

const CONFIG: TimeoutConfig = match TimeoutConfig::builder()
    .ping_interval(Duration::from_millis(200))
    .pong_timeout(Duration::from_secs(1))
    .build()
{
    Ok(config) => config,
    Err(_) => panic!("a limit of zero does not compile"),
};

/// A connection on which the server stayed alive for this long resets the delays.
const HEALTHY: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener));
    run(address).await
}

/// Connects again until the server is done or refuses.
async fn run(server: SocketAddr) -> Result<(), Failure> {
    let mut delays = BACKOFF.build();
    loop {
        let End {
            result,
            code,
            alive_for,
        } = converse(server).await;
        if alive_for >= HEALTHY {
            println!("that was a good connection: the delays start again");
            delays = BACKOFF.build();
        }
        // After a verdict, the peer's code is only its answer.
        match (result, code) {
            (Err(Error::Verdict(verdict)), _)
                if verdict.reason == CloseReason::ConnectionTimeout =>
            {
                println!("reached its maximum lifetime, connecting again");
                continue;
            }
            (Err(Error::Verdict(verdict)), _) => println!("timed out: {}", verdict.reason),
            (_, Some(1000)) => {
                println!("the server is done");
                return Ok(());
            }
            (_, Some(code @ (1001 | 1012 | 1013))) => println!("the server will be back: {code}"),
            // It would refuse the same bytes or the same password again.
            (_, Some(code)) => return Err(format!("the server refuses: {code}").into()),
            (Err(Error::Socket(tungstenite::Error::Http(response))), None)
                if response.status().is_client_error() =>
            {
                return Err(format!("the server refuses: {}", response.status()).into());
            }
            // Refused, reset, unreachable.
            (Err(error), None) => println!("failed: {error}"),
            (Ok(()), None) => println!("the server closed without a code"),
        }
        let wait = match code {
            Some(1012) => RESTART.build().next(),
            _ => delays.next(),
        };
        let wait = wait.ok_or("too many failures in a row")?;
        println!("the next try is in {wait:.1?}");
        sleep(wait).await;
    }
}

/// How a connection ended.
struct End {
    result: Result<(), Error<tungstenite::Error>>,
    /// The code of the server's Close frame.
    code: Option<u16>,
    alive_for: Duration,
}

/// Runs one connection, from its handshake to its end.
async fn converse(server: SocketAddr) -> End {
    // With a host name and TLS: `connect_async_with_config`, likewise.
    let handshake = async {
        let tcp = TcpStream::connect(server).await?;
        let config = Some(tungstenite_config());
        let (socket, _) = client_async_with_config("ws://localhost/", tcp, config).await?;
        Ok(socket)
    };
    let mut socket = match open(CONFIG, handshake).await {
        Ok(socket) => socket,
        Err(error) => {
            return End {
                result: Err(error),
                code: None,
                alive_for: Duration::ZERO,
            };
        }
    };
    println!("connected");

    let result = loop {
        match socket.recv().await {
            Ok(Some(Message::Text(text))) => println!("the server says {text}"),
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let status = socket.status();
    End {
        result,
        code: socket.peer_close().and_then(|close| close.code),
        alive_for: status.age.saturating_sub(status.silent),
    }
}

/// The server.
async fn serve(listener: TcpListener) -> Result<(), Failure> {
    // It does not read, so it answers no ping.
    let _silent = accept(&listener).await?;

    // With a linger time of zero, the kernel sends a reset.
    accept(&listener).await?.get_ref().set_zero_linger()?;

    // While it reads, it answers pings.
    let mut socket = accept(&listener).await?;
    let reading = async { while socket.next().await.is_some() {} };
    let _ = tokio::time::timeout(2 * HEALTHY, reading).await;
    close(socket, CloseCode::Restart).await?;

    let mut socket = accept(&listener).await?;
    socket.send(Message::text("good bye")).await?;
    close(socket, CloseCode::Normal).await
}

async fn accept(listener: &TcpListener) -> Result<WebSocketStream<TcpStream>, Failure> {
    let (tcp, _) = listener.accept().await?;
    Ok(accept_async(tcp).await?)
}

/// Closes, waits for the answer, and hangs up.
async fn close(mut socket: WebSocketStream<TcpStream>, code: CloseCode) -> Result<(), Failure> {
    let reason = "".into();
    socket.close(Some(CloseFrame { code, reason })).await?;
    while socket.next().await.is_some() {}
    Ok(())
}
