//! What becomes of good and bad clients of a guarded server: real sockets, short timeouts, a table.
//!
//! ```text
//! cargo run --example demo
//! ```
//!
//! Each client has a connection of its own to an echo server that the crate guards, and that three
//! times: to a server on tokio, on smol and on async-std, all at the same time. What happens is printed
//! as it does. The table at the end compares what became of each client with what should have: the
//! verdict on the server's side, the close code on the wire, and when. If any of it is wrong the exit
//! status is 1; it takes less than 20 seconds in any case.
//! `RUST_LOG=ws_timeout=debug` shows what the crate itself has to say.
//!
//! `server.rs` is what to copy. `clients.rs` holds the clients, `raw.rs` the WebSocket of those that
//! misbehave more than a library would, and `expected.rs` how a limit becomes an expectation.

mod clients;
mod expected;
mod raw;
mod server;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use ws_timeout::{CloseReason, ConfigError, TimeoutConfig};

use clients::{Client, Seen};
use expected::Expected;
use server::{Report, Runtime};

/// How long a client and its server may take before the demo gives up on them.
const PATIENCE: Duration = Duration::from_secs(18);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    if let Some(argument) = std::env::args_os().nth(1) {
        eprintln!(
            "demo: {} is no argument\nusage: demo",
            argument.to_string_lossy()
        );
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
    let cases = cases()?;
    let mut playing = JoinSet::new();
    for (row, &case) in cases.iter().enumerate() {
        for (column, runtime) in Runtime::ALL.into_iter().enumerate() {
            playing.spawn(async move { ((row, column), case.play(runtime, origin).await) });
        }
    }
    let mut outcomes = BTreeMap::new();
    while let Some(played) = playing.join_next().await {
        let (place, outcome) = played?;
        outcomes.insert(place, outcome);
    }

    println!();
    print_header();
    for (row, case) in cases.iter().enumerate() {
        case.print(outcomes.range((row, 0)..(row + 1, 0)).map(|(_, it)| it));
    }
    println!(
        "\nRight: that end and that code, no earlier than expected and at most {} later. What trickles in \
         puts off its limit.",
        seconds(expected::ALLOWANCE)
    );
    let connections = outcomes.len();
    let wrong = outcomes.values().filter(|it| !it.wrong.is_empty()).count();
    println!(
        "{} clients on {} runtimes: {connections} connections, {wrong} wrong, {:.1} s",
        cases.len(),
        Runtime::ALL.len(),
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

#[derive(Clone, Copy)]
struct Case {
    client: Client,
    config: TimeoutConfig,
    expected: Expected,
}

impl Case {
    async fn play(self, runtime: Runtime, origin: Instant) -> Outcome {
        let (seen, report) = match timeout(PATIENCE, self.meet(runtime, origin)).await {
            Ok(Ok((seen, report))) => (seen, Some(report)),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err(format!("no end within {PATIENCE:?}").into()), None),
        };
        let wrong = match (&seen, &report) {
            (Ok(seen), Some(report)) => self.expected.wrong(seen, report),
            (Ok(_), None) => vec!["no report from the server".into()],
            (Err(error), _) => vec![error.to_string()],
        };
        Outcome {
            runtime,
            seen: seen.ok(),
            report,
            wrong,
        }
    }

    /// Lets the client and a server of its own meet.
    async fn meet(
        &self,
        runtime: Runtime,
        origin: Instant,
    ) -> Result<(Result<Seen, Failure>, Report), Failure> {
        let voice = Voice {
            client: self.client.name(),
            runtime: runtime.name(),
            origin,
        };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (report, mut reported) = watch::channel(None);
        let stage = Stage {
            address: listener.local_addr()?,
            config: self.config,
            voice,
            reported: reported.clone(),
        };
        let does = self.client.serves();
        runtime.spawn(server::serve(
            runtime,
            listener,
            self.config,
            does,
            voice,
            report,
        ));

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
    client: &'static str,
    runtime: &'static str,
    origin: Instant,
}

impl Voice {
    fn say(self, what: impl fmt::Display) {
        let Self {
            client, runtime, ..
        } = self;
        let time = (now() - self.origin).as_secs_f64();
        println!("{time:>6.3} s  {runtime:<11}{client:<26}{what}");
    }
}

/// The name of the connection.
impl fmt::Display for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.client, self.runtime)
    }
}

/// What became of a client on one runtime.
struct Outcome {
    runtime: Runtime,
    seen: Option<Seen>,
    report: Option<Report>,
    /// What is wrong, if anything is.
    wrong: Vec<String>,
}

fn print_header() {
    print!(
        "{:<26}{:<35}{:>4}{:>8}",
        "client", "expected", "code", "after"
    );
    for runtime in Runtime::ALL {
        print!("   {:<19}", runtime.name());
    }
    println!();
}

impl Case {
    /// Prints the line of the table for this client: what is expected, and whether that came true on
    /// each runtime, with which code and after how long.
    fn print<'a>(&self, outcomes: impl Iterator<Item = &'a Outcome> + Clone) {
        print!(
            "{:<26}{:<35}{:>4}{:>8}",
            self.client.name(),
            self.expected.ended.to_string(),
            code(self.expected.close),
            seconds(self.expected.after),
        );
        for outcome in outcomes.clone() {
            print!("   {outcome}");
        }
        println!();
        for outcome in outcomes {
            for wrong in &outcome.wrong {
                println!("    {}: {wrong}", outcome.runtime.name());
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = self.wrong.is_empty();
        let code = code(self.seen.as_ref().and_then(|seen| seen.close));
        let known = self.seen.as_ref().zip(self.report.as_ref());
        let after = known.map(|(seen, report)| seconds(report.at - expected::start(seen, report)));
        write!(
            f,
            "{:<5}{code:>6}{:>8}",
            if right { "right" } else { "WRONG" },
            after.as_deref().unwrap_or("-"),
        )
    }
}

/// The code of a Close frame, if there is one.
fn code<T>(close: Option<(u16, T)>) -> String {
    close.map_or("-".into(), |(code, _)| code.to_string())
}

fn seconds(length: Duration) -> String {
    format!("{:.2} s", length.as_secs_f64())
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
