//! A live page of this server's connections, which also shows why connections ended.
//!
//! ```text
//! cargo run --package axum-examples --bin axum_live -- 127.0.0.1:8080
//! ```
//!
//! Its buttons open clients that answer, fall silent, or trickle a message. The limits are short
//! enough to watch. The page's own WebSocket has timeouts too, and the page lists it. `.ci/live`
//! drives the page in Chromium.

use std::collections::VecDeque;
use std::error::Error;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes};
use axum::extract::{Path, State};
use axum::response::{Html, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::client_async;
use ws_timeout::axum::{MeteredListener, Peer, TimeoutUpgrade};
use ws_timeout::{Connection, Handle, Log, Observer, Report, TimeoutConfig, Timeouts};

/// How often the page gets a new view.
const REFRESH: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let limits = TimeoutConfig::builder()
        .ping_interval(Duration::from_secs(2))
        .pong_timeout(Duration::from_secs(3))
        .idle_timeout(Duration::from_secs(6))
        .no_connection_timeout()
        .build()?;
    let verdicts = Verdicts::default();
    let timeouts = Timeouts::new(limits).with_observer((Log, verdicts.clone()));
    let listener = MeteredListener(TcpListener::bind(address).await?);
    let address = listener.0.local_addr()?;
    let (views, view) = watch::channel(Utf8Bytes::default());
    tokio::spawn(publish(timeouts.clone(), verdicts, views));

    let app = Router::new()
        .route("/", get(Html(include_str!("page.html"))))
        .route("/live", any(show))
        .route("/client/{kind}", any(receive))
        .layer(Extension(timeouts))
        .with_state((address, view));
    println!("listening on http://{address}/");
    axum::serve(listener, app.into_make_service_with_connect_info::<Peer>()).await?;
    Ok(())
}

/// Sends views to a page, and opens the clients that it asks for.
async fn show(
    State((address, mut view)): State<(SocketAddr, watch::Receiver<Utf8Bytes>)>,
    upgrade: TimeoutUpgrade,
) -> Response {
    upgrade
        .with_label("page")
        .on_upgrade(async move |mut socket| {
            loop {
                tokio::select! {
                    received = socket.recv() => match received {
                        Ok(Some(Message::Text(kind))) => drop(tokio::spawn(open(kind, address))),
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    },
                    Ok(()) = view.changed() => {
                        let view = view.borrow_and_update().clone();
                        let _ = socket.send(Message::Text(view)).await; // if it fails, `recv` returns why
                    }
                }
            }
        })
}

/// The server's end of a client that the page asked for.
async fn receive(Path(kind): Path<String>, upgrade: TimeoutUpgrade) -> Response {
    let upgrade = upgrade.with_label(kind);
    upgrade.on_upgrade(async |mut socket| while let Ok(Some(_)) = socket.recv().await {})
}

/// A client of this server.
async fn open(kind: Utf8Bytes, address: SocketAddr) -> Result<(), Failure> {
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

/// Describes all connections again and again, as JSON.
async fn publish(timeouts: Timeouts, verdicts: Verdicts, views: watch::Sender<Utf8Bytes>) {
    let mut turn = interval(REFRESH);
    loop {
        turn.tick().await;
        let living = join_all(timeouts.handles().into_iter().map(describe)).await;
        let view = json!({
            "limits": **timeouts.config(),
            "living": living,
            "verdicts": *verdicts.lock(),
        });
        views.send_replace(view.to_string().into());
    }
}

async fn describe(handle: Handle) -> Value {
    // Only the task of the socket can answer: while it is busy for longer, the status is null.
    let status = timeout(Duration::from_secs(1), handle.status()).await.ok();
    json!({"id": handle.id(), "label": handle.label().as_deref(), "status": status})
}

/// The latest verdicts, the newest first.
#[derive(Clone, Default)]
struct Verdicts(Arc<Mutex<VecDeque<Value>>>);

impl Verdicts {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Verdicts {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        if let Report::Verdict { verdict, .. } = report {
            let mut latest = self.lock();
            latest.push_front(json!({
                "id": connection.id,
                "label": connection.label,
                "reason": verdict.reason.name(),
                "text": verdict.to_string(),
                "status": *verdict.status,
            }));
            latest.truncate(20);
        }
    }
}
