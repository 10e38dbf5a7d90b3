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
use std::fmt::{self, Write};
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
use ws_timeout::{Connection, Log, Metered, Observer, Report, TimeoutConfig, Timeouts};

/// The upper bounds of the round-trip histogram, in seconds.
const BUCKETS: [f64; 5] = [0.001, 0.01, 0.1, 1.0, 10.0];

#[derive(Default)]
struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    opened: u64,
    pings: u64,
    /// By the name of the reason, one of nine.
    verdicts: BTreeMap<&'static str, u64>,
    pongs: u64,
    rtt: Duration,
    /// How many round trips took at most as long as each of [`BUCKETS`].
    buckets: [u64; BUCKETS.len()],
}

impl Observer for Metrics {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        match report {
            Report::Opened { .. } => self.lock().opened += 1,
            Report::Ping { .. } => self.lock().pings += 1,
            Report::Pong { rtt: Some(rtt), .. } => {
                let mut counts = self.lock();
                counts.pongs += 1;
                counts.rtt += rtt.latest;
                for (count, bound) in counts.buckets.iter_mut().zip(BUCKETS) {
                    *count += u64::from(rtt.latest.as_secs_f64() <= bound);
                }
            }
            Report::Verdict { verdict, .. } => {
                let reason = verdict.reason.name();
                *self.lock().verdicts.entry(reason).or_default() += 1;
            }
            _ => {}
        }
        Log.report(connection, report);
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes everything but the number of open connections, which [`Timeouts`] knows.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# TYPE ws_opened_total counter")?;
        writeln!(f, "ws_opened_total {}", self.opened)?;
        writeln!(f, "# TYPE ws_verdicts_total counter")?;
        for (reason, count) in &self.verdicts {
            writeln!(f, "ws_verdicts_total{{reason=\"{reason}\"}} {count}")?;
        }
        writeln!(f, "# TYPE ws_pings_total counter")?;
        writeln!(f, "ws_pings_total {}", self.pings)?;
        writeln!(f, "# TYPE ws_rtt_seconds histogram")?;
        for (count, bound) in self.buckets.iter().zip(BUCKETS) {
            writeln!(f, "ws_rtt_seconds_bucket{{le=\"{bound}\"}} {count}")?;
        }
        writeln!(f, "ws_rtt_seconds_bucket{{le=\"+Inf\"}} {}", self.pongs)?;
        writeln!(f, "ws_rtt_seconds_sum {}", self.rtt.as_secs_f64())?;
        writeln!(f, "ws_rtt_seconds_count {}", self.pongs)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let metrics = Arc::new(Metrics::default());
    let timeouts = Timeouts::new(TimeoutConfig::from_env()?.config);
    let timeouts = timeouts.with_observer(metrics.clone());

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
                let (tcp, _) = accepted?;
                let (metrics, timeouts) = (metrics.clone(), timeouts.clone());
                tokio::spawn(async move {
                    let answer = answer(tcp, &metrics, &timeouts);
                    timeout(Duration::from_secs(5), answer).await
                });
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
async fn answer(tcp: TcpStream, metrics: &Metrics, timeouts: &Timeouts) -> io::Result<()> {
    let mut request = BufReader::new(tcp.take(8192));
    let mut head = String::new();
    while request.read_line(&mut head).await? > 0 && !head.ends_with("\r\n\r\n") {}

    let mut page = String::new();
    let status = if head.starts_with("GET /metrics ") {
        let _ = writeln!(page, "# TYPE ws_connections gauge");
        let _ = writeln!(page, "ws_connections {}", timeouts.len());
        let _ = write!(page, "{}", metrics.lock());
        "200 OK"
    } else {
        "404 Not Found"
    };
    let length = page.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{page}"
    );
    let mut tcp = request.into_inner().into_inner();
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await
}
