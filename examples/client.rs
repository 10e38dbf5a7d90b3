//! A client: sends each line that you type, and prints what it receives.
//!
//! ```text
//! cargo run --example echo -- --addr 127.0.0.1:8080
//! WS_PRESET=client cargo run --example client -- ws://127.0.0.1:8080
//! ```
//!
//! At the end of the input (Ctrl-D) it closes the connection. The limits come from the environment;
//! the preset has no `connection_timeout`, because only one end needs to limit the lifetime.
//! `RUST_LOG=ws_timeout=debug` shows each ping.

use std::error::Error;
use std::io::stdin;
use std::process::ExitCode;
use std::thread;

use env_logger::Env;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::client_async_with_config;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Meter, Metered, TimeoutConfig};

#[tokio::main]
async fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .ok_or("usage: client ws://HOST:PORT")?;
    let request = url.into_client_request()?;
    let host = request
        .uri()
        .authority()
        .ok_or("the URL has no host")?
        .to_string();

    let config = TimeoutConfig::from_env()?.config;

    // `handshake_timeout` limits connecting, too.
    let meter = Meter::default();
    let handshake = async {
        let transport = Metered::socket(TcpStream::connect(host).await?).with_meter(&meter);
        let sizes = Some(tungstenite_config());
        let (socket, _) = client_async_with_config(request, transport, sizes).await?;
        Ok::<_, tungstenite::Error>(socket)
    };
    let opening = open(config, handshake).with_meter(meter.clone());
    let mut socket = opening.with_label("client").await?;
    println!("connected");

    let mut lines = lines();
    loop {
        // Whichever is ready first, the other loses no message.
        tokio::select! {
            received = socket.recv() => match received? {
                Some(Message::Close(Some(frame))) => println!("the server closes: {frame}"),
                Some(Message::Text(text)) => println!("{text}"),
                Some(_) => {}
                None => return Ok(()),
            },
            line = lines.recv() => match line {
                // Keep reading after a failed send: `recv` returns how the connection ended.
                Some(line) => _ = socket.send(Message::text(line)).await,
                None => {
                    let answer = socket.close(1000, "").await?;
                    println!("closed; the code of the answer: {answer:?}");
                    return Ok(());
                }
            },
        }
    }
}

/// Reads the input in its own thread, because that blocks.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        let lines = stdin().lines().map_while(Result::ok);
        for line in lines {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
