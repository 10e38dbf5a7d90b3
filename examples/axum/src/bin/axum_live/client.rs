//! The clients that the page opens.

use std::error::Error;
use std::future::ready;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_tungstenite::client_async;

/// Connects to this server, and behaves as `kind` says.
pub async fn run(kind: Utf8Bytes, address: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tcp = TcpStream::connect(address).await?;
    let (client, _) = client_async(format!("ws://{address}/client/{kind}"), tcp).await?;
    match kind.as_str() {
        // Reading also answers pings.
        "healthy" => client.for_each(|_| ready(())).await,
        "silent" => {
            sleep(Duration::from_secs(60)).await;
            drop(client);
        }
        // Begins a text of 65535 bytes, and sends five of them a second.
        "slow" => {
            let mut tcp = client.into_inner();
            tcp.write_all(&[0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0]).await?;
            loop {
                tcp.write_all(b"x").await?;
                sleep(Duration::from_millis(200)).await;
            }
        }
        _ => {}
    }
    Ok(())
}
