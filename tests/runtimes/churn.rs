//! Clients that connect, send, stall, vanish and reconnect for a configurable time, and what they
//! leave behind.
//!
//! ```sh
//! CHURN_SECONDS=600 cargo test --release --test runtimes churn -- --ignored --nocapture
//! ```

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::client_async;
use tungstenite::Message;

use crate::crowd::open_many_files;
use crate::peers::REQUEST;
use crate::process::Process;
use crate::{MS, SECOND, on_each_runtime};

const CLIENTS: u32 = 500;

/// The resources that a server holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory_kib: u64,
}

#[test]
#[ignore = "takes CHURN_SECONDS, 20 if that is not set"]
fn clients_that_come_and_go_leave_nothing_behind() {
    open_many_files();
    let seconds = std::env::var("CHURN_SECONDS").map_or(20, |text| text.parse().unwrap());
    on_each_runtime(|runtime| {
        let name = runtime.to_string();
        let server = Process::start(
            "server",
            &[
                ("RUNTIME", &name),
                ("WS_HANDSHAKE_TIMEOUT", "2"),
                ("WS_PING_INTERVAL", "0.5"),
                ("WS_PONG_TIMEOUT", "1"),
                ("WS_CLOSE_TIMEOUT", "1"),
            ],
        );
        let address = server.line();
        let clients = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Once for what a server sets up once, and for the allocator to reach its size.
        clients.block_on(churn(&address, Duration::from_secs(seconds / 4 + 1)));
        let before = settle(&server);
        clients.block_on(churn(&address, Duration::from_secs(seconds)));
        let after = settle(&server);
        let ends = server.unread_lines().len();
        println!("{runtime}: {ends} connections; {before:?} before, {after:?} after");
        assert_eq!(after.descriptors, before.descriptors);
        assert!(after.threads <= before.threads, "{after:?}");
        assert!(
            after.memory_kib <= before.memory_kib * 5 / 4 + 4096,
            "{after:?}"
        );
    });
}

/// Returns what the server holds once no connection is left.
fn settle(server: &Process) -> Held {
    let mut held = Held::of(server);
    loop {
        std::thread::park_timeout(4 * SECOND);
        let then = Held::of(server);
        if then.descriptors == held.descriptors {
            return then;
        }
        held = then;
    }
}

impl Held {
    fn of(server: &Process) -> Self {
        let count = |what: &str| {
            let path = format!("/proc/{}/{what}", server.id());
            std::fs::read_dir(path).unwrap().count()
        };
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            memory_kib: server.memory(),
        }
    }
}

/// Clients of every kind connect again and again until `length` is over.
async fn churn(address: &str, length: Duration) {
    let clients = (0..CLIENTS).map(|number| async move {
        let mut visit = u64::from(number);
        loop {
            visit = visit
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let stay = MS * ((visit >> 33) as u32 % 2000);
            // A server that disconnects a client may do so at any point.
            let _ = client(address, number % 5, stay).await;
        }
    });
    let _ = timeout(length, futures_util::future::join_all(clients)).await;
}

async fn client(address: &str, kind: u32, stay: Duration) -> Result<(), tungstenite::Error> {
    let mut tcp = TcpStream::connect(address).await?;
    if kind == 0 {
        // Half a handshake.
        tcp.write_all(&REQUEST[..REQUEST.len() / 2]).await?;
        let _ = timeout(stay, tcp.read(&mut [0])).await;
        return Ok(());
    }
    let (mut socket, _) = client_async("ws://localhost/", tcp).await?;
    match kind {
        // Sends messages, and closes in order.
        1 => {
            let talk = async {
                loop {
                    socket.send(Message::text("hello")).await?;
                    while !socket
                        .next()
                        .await
                        .transpose()?
                        .is_some_and(|it| it.is_text())
                    {}
                    sleep(100 * MS).await;
                }
            };
            match timeout(stay, talk).await {
                Ok(ended) => ended,
                Err(_) => socket.close(None).await,
            }
        }
        // Reads, and vanishes.
        2 => {
            let listen = async { while let Some(Ok(_)) = socket.next().await {} };
            let _ = timeout(stay, listen).await;
            Ok(())
        }
        // Answers nothing until it is disconnected.
        3 => {
            let transport = socket.get_mut();
            while transport.read(&mut [0; 64]).await? > 0 {}
            Ok(())
        }
        // Sends without reading, and vanishes.
        _ => {
            let send = async {
                loop {
                    socket.send(Message::binary(vec![7; 4096])).await?;
                    sleep(10 * MS).await;
                }
            };
            timeout(stay, send).await.unwrap_or(Ok(()))
        }
    }
}
