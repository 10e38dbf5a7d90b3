//! Metrics of a server: an observer that counts with the crate `prometheus`, and `/metrics`.
//!
//! ```text
//! cargo run --example metrics
//! ```
//!
//! Runs an echo server on a free port, serves its metrics on another, and prints both addresses.
//! The limits come from the environment, and the log still says why connections end.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use env_logger::Env;
use prometheus::{Histogram, IntCounterVec, PullingGauge, TextEncoder};
use prometheus::{register_histogram, register_int_counter_vec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::accept_async_with_config;
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{Connection, Log, Metered, Observer, Report, Timeouts};

struct Metrics {
    reports: IntCounterVec,
    verdicts: IntCounterVec,
    rtt: Histogram,
}

impl Metrics {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            reports: register_int_counter_vec!("ws_reports_total", "Reports.", &["report"])?,
            verdicts: register_int_counter_vec!("ws_verdicts_total", "Verdicts.", &["reason"])?,
            rtt: register_histogram!("ws_rtt_seconds", "Round-trip times.")?,
        })
    }
}

impl Observer for Metrics {
    fn report(&self, _: &Connection<'_>, report: &Report<'_>) {
        self.reports.with_label_values(&[report.name()]).inc();
        match report {
            Report::Verdict { verdict, .. } => {
                let reason = verdict.reason.name();
                self.verdicts.with_label_values(&[reason]).inc();
            }
            Report::Pong { rtt: Some(rtt), .. } => self.rtt.observe(rtt.latest.as_secs_f64()),
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    env_logger::Builder::from_env(Env::default().default_filter_or("info")).init();
    let timeouts = Timeouts::from_env()?.with_observer((Log, Metrics::new()?));
    let listed = timeouts.clone();
    let open = Box::new(move || listed.len() as f64);
    let open = PullingGauge::new("ws_connections", "Open connections.", open)?;
    prometheus::register(Box::new(open))?;

    let sockets = TcpListener::bind("127.0.0.1:0").await?;
    let pages = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}", sockets.local_addr()?);
    println!("metrics on http://{}/metrics", pages.local_addr()?);
    loop {
        let accepted = tokio::select! {
            accepted = sockets.accept() => accepted.map(|(tcp, peer)| {
                tokio::spawn(converse(tcp, peer, timeouts.clone()));
            }),
            accepted = pages.accept() => accepted.map(|(tcp, _)| {
                tokio::spawn(timeout(Duration::from_secs(5), answer(tcp)));
            }),
        };
        if let Err(error) = accepted {
            // With too many open files, some must close first.
            log::error!("accept: {error}");
            sleep(Duration::from_millis(100)).await;
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

/// Answers any HTTP request with the metrics. A web framework does this in a route.
async fn answer(mut tcp: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = tcp.split();
    let mut head = BufReader::new(reader.take(8192)).lines();
    while head.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let page = TextEncoder::new().encode_to_string(&prometheus::gather());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close";
    let answer = format!("{head}\r\n\r\n{}", page.map_err(io::Error::other)?);
    writer.write_all(answer.as_bytes()).await?;
    writer.shutdown().await
}
