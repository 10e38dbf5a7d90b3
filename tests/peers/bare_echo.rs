//! The echo server without the crate, with which the results of the Autobahn cases are compared.
//!
//! `--runtime` is `tokio`, `smol` or `async-std`. Its sockets and their settings are those of
//! `echo.rs`, and so is its first line.

use std::io;
use std::net::TcpListener;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on ws://{}", listener.local_addr()?);
    listener.set_nonblocking(true)?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--runtime", "tokio"] => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(on_tokio(listener)),
        ["--runtime", "smol"] => smol::block_on(on_smol(listener)),
        ["--runtime", "async-std"] => async_std::task::block_on(on_async_std(listener)),
        _ => Err(io::Error::other(
            "usage: bare_echo --runtime tokio|smol|async-std",
        )),
    }
}

async fn on_tokio(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        tokio::spawn(async {
            let limits = Some(tungstenite_config());
            converse(tokio_tungstenite::accept_async_with_config(tcp, limits).await).await
        });
    }
}

async fn on_smol(listener: TcpListener) -> io::Result<()> {
    let listener = smol::net::TcpListener::try_from(listener)?;
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        smol::spawn(async {
            let limits = Some(tungstenite_config());
            converse(async_tungstenite::accept_async_with_config(tcp, limits).await).await
        })
        .detach();
    }
}

async fn on_async_std(listener: TcpListener) -> io::Result<()> {
    let listener = async_std::net::TcpListener::from(listener);
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        async_std::task::spawn(async {
            let limits = Some(tungstenite_config());
            converse(async_tungstenite::accept_async_with_config(tcp, limits).await).await
        });
    }
}

/// Echoes the data messages unchanged, until the connection ends.
async fn converse<S>(opened: tungstenite::Result<S>)
where
    S: Stream<Item = tungstenite::Result<Message>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin,
{
    let Ok(mut socket) = opened else { return };
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) {
            // If this fails, the stream ends too.
            let _ = socket.send(message).await;
        }
    }
}
