//! axum with a typical handler.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::{Router, any};

use crate::{Outcome, listen};

pub async fn serve(ping: Duration) -> Outcome {
    let upgrade = any(move |upgrade: WebSocketUpgrade| async move {
        upgrade
            .read_buffer_size(4 << 10)
            .write_buffer_size(4 << 10)
            .on_upgrade(move |socket| keep(socket, ping))
    });
    let app = Router::new().route("/", upgrade);
    Ok(axum::serve(listen().await?, app).await?)
}

async fn keep(mut socket: WebSocket, ping: Duration) {
    let mut ticks = tokio::time::interval(ping);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            message = socket.recv() => {
                let Some(Ok(message)) = message else { break };
                heard = Instant::now();
                if matches!(message, Message::Text(_))
                    && socket.send(message).await.is_err()
                {
                    break;
                }
            }
            _ = ticks.tick() => {
                if heard.elapsed() > ping + Duration::from_secs(60)
                    || socket.send(Message::Ping(Bytes::new())).await.is_err()
                {
                    break;
                }
            }
        }
    }
}
