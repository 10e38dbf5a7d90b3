//! Metrics of a server: an observer that counts, and `/metrics` in the text format of Prometheus.
//!
//! ```text
//! cargo run --example metrics
//! ```
//!
//! Runs an echo server on a free port, serves its metrics on another, and prints both addresses.
//! The limits come from the environment, and the log still says why connections end.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env_logger::Env;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Connection, Log, Metered, Observer, Report, Timeouts};

const TYPES: &str = "# TYPE ws_connections gauge\n# TYPE ws_reports_total counter\n\
                     # TYPE ws_verdicts_total counter\n# TYPE ws_rtt_seconds histogram\n";

/// The upper bounds of the histogram, in seconds.
const BUCKETS: [f64; 5] = [0.001, 0.01, 0.1, 1.0, 10.0];

/// The value of each series, by its name and labels as `/metrics` shows them.
#[derive(Default)]
struct Metrics(Mutex<BTreeMap<String, f64>>);

impl Observer for Metrics {
    fn report(&self, _: &Connection<'_>, report: &Report<'_>) {
        let mut series = self.lock();
        let mut add = |name: String, value| *series.entry(name).or_default() += value;
        let name = report.name();
        add(format!("ws_reports_total{{report=\"{name}\"}}"), 1.0);
        match report {
            Report::Verdict { verdict, .. } => {
                let reason = verdict.reason.name();
                add(format!("ws_verdicts_total{{reason=\"{reason}\"}}"), 1.0);
            }
            Report::Pong { rtt: Some(rtt), .. } => {
                let rtt = rtt.latest.as_secs_f64();
                for bound in BUCKETS {
                    let name = format!("ws_rtt_seconds_bucket{{le=\"{bound}\"}}");
                    add(name, f64::from(rtt <= bound));
                }
                add("ws_rtt_seconds_bucket{le=\"+Inf\"}".to_owned(), 1.0);
                add("ws_rtt_seconds_count".to_owned(), 1.0);
                add("ws_rtt_seconds_sum".to_owned(), rtt);
            }
            _ => {}
        }
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let metrics = Arc::new(Metrics::default());
    let timeouts = Timeouts::from_env()?.with_observer((Log, metrics.clone()));

    let sockets = TcpListener::bind("127.0.0.1:0").await?;
    let pages = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}", sockets.local_addr()?);
    println!("metrics on http://{}/metrics", pages.local_addr()?);
    loop {
        tokio::select! {
            accepted = sockets.accept() => {
                let (tcp, peer) = accepted?;
                tokio::spawn(converse(tcp, peer, timeouts.clone()));
            }
            accepted = pages.accept() => {
                let answer = answer(accepted?.0, metrics.clone(), timeouts.clone());
                tokio::spawn(timeout(Duration::from_secs(5), answer));
            }
        }
    }
}

/// Echoes until the connection ends.
async fn converse(tcp: TcpStream, peer: SocketAddr, timeouts: Timeouts) {
    let transport = Metered::socket(tcp);
    let meter = transport.meter();
    let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
    let opening = open(timeouts, handshake).with_meter(meter);
    let Ok(mut socket) = opening.with_label(peer.to_string()).await else {
        return;
    };
    while let Ok(Some(message)) = socket.recv().await {
        if message.is_text() || message.is_binary() {
            // If this fails, `recv` still returns the peer's last messages.
            let _ = socket.send(message).await;
        }
    }
}

/// Answers one HTTP request. A web framework does this in a route.
async fn answer(mut tcp: TcpStream, metrics: Arc<Metrics>, timeouts: Timeouts) -> io::Result<()> {
    let (reader, mut writer) = tcp.split();
    let mut request = BufReader::new(reader.take(8192));
    let mut head = String::new();
    while request.read_line(&mut head).await? > 0 && !head.ends_with("\r\n\r\n") {}

    let (mut status, mut page) = ("404 Not Found", String::new());
    if head.starts_with("GET /metrics ") {
        status = "200 OK";
        page = format!("{TYPES}ws_connections {}\n", timeouts.len());
        for (name, value) in metrics.lock().iter() {
            let _ = writeln!(page, "{name} {value}");
        }
    }
    let head = "Content-Type: text/plain; version=0.0.4\r\nConnection: close";
    let answer = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n{page}");
    writer.write_all(answer.as_bytes()).await?;
    writer.shutdown().await
}
