//! A live page of this server's connections, which also shows why connections ended.
//!
//! ```text
//! cargo run --package axum-examples --bin axum_live -- 127.0.0.1:8080
//! ```
//!
//! Its buttons open clients that answer, fall silent, or trickle a message. The limits are short
//! enough to watch. The page's own WebSocket has timeouts too, and the page lists it. `.ci/live`
//! drives the page in Chromium.

mod client;
mod view;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes};
use axum::extract::{Path, State};
use axum::response::{Html, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use ws_timeout::axum::{MeteredListener, Peer, TimeoutUpgrade};
use ws_timeout::{Log, TimeoutConfig, Timeouts};

use view::{Verdicts, publish};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
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
    let upgrade = upgrade.with_label("page");
    upgrade.on_upgrade(async move |mut socket| {
        loop {
            tokio::select! {
                received = socket.recv() => match received {
                    Ok(Some(Message::Text(kind))) => _ = tokio::spawn(client::run(kind, address)),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                Ok(()) = view.changed() => {
                    let view = view.borrow_and_update().clone();
                    // If this fails, `recv` returns why.
                    let _ = socket.send(Message::Text(view)).await;
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
