//! What the page shows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use ws_timeout::{Connection, Handle, Observer, Report, Timeouts};

/// Describes all connections as JSON, ten times a second.
pub async fn publish(timeouts: Timeouts, verdicts: Verdicts, views: watch::Sender<Utf8Bytes>) {
    let mut turn = interval(Duration::from_millis(100));
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
pub struct Verdicts(Arc<Mutex<VecDeque<Value>>>);

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
