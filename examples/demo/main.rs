//! What becomes of good and bad clients of a guarded server: real sockets, short timeouts, a table.
//!
//! ```text
//! cargo run --example demo
//! ```
//!
//! Each client has a connection of its own to an echo server that the crate guards, all at the same
//! time. What happens is printed as it does. The table at the end compares what became of each client
//! with what should have: the verdict on the server's side, the close code on the wire, and when. If
//! any of it is wrong the exit status is 1; it takes less than 20 seconds in any case.
//! `RUST_LOG=ws_timeout=debug` shows what the crate itself has to say.
//!
//! `server.rs` is what to copy. `clients.rs` holds the clients, `raw.rs` the WebSocket of those that
//! misbehave more than a library would, and `expected.rs` how a limit becomes an expectation.

mod clients;
mod expected;
mod raw;
mod server;

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use ws_timeout::{CloseReason, ConfigError, TimeoutConfig};

use clients::{Client, Seen};
use expected::Expected;
use server::Report;

/// How long a client and its server may take before the demo gives up on them.
const PATIENCE: Duration = Duration::from_secs(18);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some() {
        eprintln!("usage: demo");
        return ExitCode::from(2);
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> Result<bool, Failure> {
    let origin = now();
    let mut playing = JoinSet::new();
    for (place, case) in cases()?.into_iter().enumerate() {
        playing.spawn(async move { (place, case.play(origin).await) });
    }
    let mut rows = Vec::new();
    while let Some(played) = playing.join_next().await {
        rows.push(played?);
    }
    rows.sort_by_key(|&(place, _)| place);

    println!();
    Row::print_header();
    for (_, row) in &rows {
        println!("{row}");
    }
    let wrong = rows.iter().filter(|(_, row)| !row.wrong.is_empty()).count();
    println!(
        "\n{} clients, {wrong} wrong, {:.1} s",
        rows.len(),
        (now() - origin).as_secs_f64()
    );
    Ok(wrong == 0)
}

/// Each client, the limits that it meets, and what has to become of it.
fn cases() -> Result<Vec<Case>, ConfigError> {
    use CloseReason::*;

    let base = TimeoutConfig::builder()
        .handshake_timeout(Duration::from_secs(2))
        .message_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(1))
        .pong_timeout(Duration::from_secs(3))
        .idle_timeout(Duration::from_secs(6))
        .close_timeout(Duration::from_secs(1))
        .no_connection_timeout()
        .jitter(0.0)
        .build()?;
    // Who always has something to say is never idle, and meets no limit but this.
    let short_life = base
        .to_builder()
        .connection_timeout(Duration::from_secs(2))
        .message_timeout(Duration::from_secs(6))
        .build()?;
    // Without pings to answer, a peer that has nothing to say is idle.
    let idle_soon = base
        .to_builder()
        .idle_timeout(Duration::from_secs(2))
        .no_ping_interval()
        .build()?;

    let lives = |client, life| Case {
        client,
        config: base,
        expected: Expected::to_live(life),
    };
    let meets = |client, reason, config| Case {
        client,
        config,
        expected: Expected::verdict(reason, &config),
    };
    Ok(vec![
        lives(Client::Healthy, clients::healthy_life(&base)),
        meets(Client::Silent, PongTimeout, base),
        meets(Client::Frozen, MessageTimeout, base),
        meets(Client::SendsNoHandshake, HandshakeTimeout, base),
        meets(Client::DripsHandshake, HandshakeTimeout, base),
        meets(Client::DripsFrame, SlowReceive, base),
        meets(Client::Talks, ConnectionTimeout, short_life),
        Case {
            client: Client::IgnoresClose,
            config: idle_soon,
            expected: Expected::ignored(IdleTimeout, &idle_soon),
        },
        Case {
            client: Client::Resets,
            config: base,
            expected: Expected::to_fail(),
        },
        lives(Client::AnswersLate, clients::late_life(&base)),
        lives(Client::Uploads, clients::upload_life(&base)),
    ])
}

struct Case {
    client: Client,
    config: TimeoutConfig,
    expected: Expected,
}

impl Case {
    async fn play(self, origin: Instant) -> Row {
        let (seen, report) = match timeout(PATIENCE, self.meet(origin)).await {
            Ok(Ok((seen, report))) => (seen, Some(report)),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err(format!("no end within {PATIENCE:?}").into()), None),
        };
        let wrong = match (&seen, &report) {
            (Ok(seen), Some(report)) => self.expected.wrong(seen, report),
            (Ok(_), None) => vec!["no report from the server".into()],
            (Err(error), _) => vec![error.to_string()],
        };
        Row {
            name: self.client.name(),
            expected: self.expected,
            seen: seen.ok(),
            report,
            wrong,
        }
    }

    /// Lets the client and a server of its own meet.
    async fn meet(&self, origin: Instant) -> Result<(Result<Seen, Failure>, Report), Failure> {
        let voice = Voice {
            name: self.client.name(),
            origin,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (report, mut reported) = watch::channel(None);
        let stage = Stage {
            address: listener.local_addr()?,
            config: self.config,
            voice,
            reported: reported.clone(),
        };
        let does = self.client.serves();
        tokio::spawn(server::serve(listener, self.config, does, voice, report));

        let seen = self.client.play(&stage).await;
        let report = reported.wait_for(Option::is_some).await?.clone();
        Ok((seen, report.ok_or("no report from the server")?))
    }
}

/// What a client is given to play with.
struct Stage {
    address: SocketAddr,
    config: TimeoutConfig,
    voice: Voice,
    /// What the server reports when it is done with the client.
    reported: watch::Receiver<Option<Report>>,
}

impl Stage {
    fn say(&self, what: impl fmt::Display) {
        self.voice.say(what);
    }
}

/// Prints what happens, with the time and the name of the client that it is about.
#[derive(Clone, Copy)]
struct Voice {
    name: &'static str,
    origin: Instant,
}

impl Voice {
    fn say(self, what: impl fmt::Display) {
        let time = (now() - self.origin).as_secs_f64();
        println!("{time:>6.3} s  {:<26} {what}", self.name);
    }
}

/// A line of the table.
struct Row {
    name: &'static str,
    expected: Expected,
    seen: Option<Seen>,
    report: Option<Report>,
    /// What is wrong, if anything is.
    wrong: Vec<String>,
}

/// The columns: client, what was expected, verdict, close code, when it was over, the bound for that.
macro_rules! columns {
    () => {
        "{:<26}{:<38}{:<38}{:>6}{:>9}   {:<16} {}"
    };
}

impl Row {
    fn print_header() {
        println!(
            columns!(),
            "client", "expected", "verdict", "code", "when", "bound", "row"
        );
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.seen.as_ref().zip(self.report.as_ref());
        let verdict = self.report.as_ref().map(|report| report.ended.to_string());
        let code = self.seen.as_ref().and_then(|seen| seen.close);
        let when = known.map(|(seen, report)| seconds(report.at - expected::start(seen, report)));
        let least = seconds(self.expected.after);
        let bound = match &self.seen {
            Some(seen) => format!("{least} to {}", seconds(self.expected.latest(seen))),
            None => format!("{least} and more"),
        };
        write!(
            f,
            columns!(),
            self.name,
            self.expected.ended.to_string(),
            verdict.as_deref().unwrap_or("-"),
            code.map_or("-".into(), |(code, _)| code.to_string()),
            when.as_deref().unwrap_or("-"),
            bound,
            if self.wrong.is_empty() {
                "right"
            } else {
                "WRONG"
            }
        )?;
        for wrong in &self.wrong {
            write!(f, "\n    {wrong}")?;
        }
        Ok(())
    }
}

fn seconds(length: Duration) -> String {
    format!("{:.2} s", length.as_secs_f64())
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
