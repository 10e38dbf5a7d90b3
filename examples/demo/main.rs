//! An echo server with timeouts, eleven clients, most of which misbehave, and a table of how each
//! connection ended.
//!
//! ```text
//! cargo run --example demo
//! cargo run --example demo -- --all
//! cargo run --example demo -- --verbose
//! ```
//!
//! Sockets and clocks are real; the limits are short. Each client has its own connection, and all
//! run at the same time. The demo checks what ended each connection, the code of the Close frame
//! and the time, and exits with 1 if one of them is wrong. `--all` does this on tokio, smol and
//! async-std. `--verbose` prints each event, and `RUST_LOG=ws_timeout=debug` the log of the crate.
//! It takes less than 20 seconds, because it gives up on a client after 18.
//!
//! To copy a server, see `tokio_server`. Here `server.rs` contains the server for one connection on
//! each runtime, `clients.rs` the clients, `raw.rs` a minimal WebSocket for those that misbehave
//! more than a library allows, `expected.rs` the expected end of each connection, and `table.rs`
//! the table.

mod clients;
mod expected;
mod raw;
mod server;
mod table;

use std::error::Error;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use ws_timeout::{CloseReason, ConfigError, TimeoutConfig};

use clients::{Client, Seen};
use expected::Expected;
use server::{Report, Runtime};

/// How long a client and its server may take before the demo gives up on them.
const PATIENCE: Duration = Duration::from_secs(18);

type Failure = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: demo [--all] [--verbose]";

fn main() -> ExitCode {
    let (mut all, mut verbose) = (false, false);
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--all") => all = true,
            Some("--verbose") => verbose = true,
            _ => {
                let argument = argument.to_string_lossy();
                eprintln!("demo: {argument} is not an argument\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let runtimes = if all {
        &Runtime::ALL[..]
    } else {
        &[Runtime::Tokio]
    };
    match run(runtimes, verbose) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all clients ended as expected.
#[tokio::main]
async fn run(runtimes: &[Runtime], verbose: bool) -> Result<bool, Failure> {
    let origin = now();
    let cases = cases()?;
    println!("{}", table::title(&cases, runtimes));
    let mut rows = Vec::new();
    for &case in &cases {
        let start = |&runtime| {
            tokio::spawn(case.run(Narrator {
                client: case.client.name(),
                runtime,
                origin,
                verbose,
            }))
        };
        rows.push((case, runtimes.iter().map(start).collect::<Vec<_>>()));
    }

    // The cases are in the order of their ends, so a row rarely waits for the row before. The table
    // comes after the events, if there are any.
    let mut table = table::header(runtimes);
    let (mut connections, mut wrong) = (0, 0);
    for (case, running) in rows {
        let mut outcomes = Vec::new();
        for outcome in running {
            outcomes.push(outcome.await?);
        }
        connections += outcomes.len();
        wrong += outcomes.iter().filter(|it| !it.is_right()).count();
        table += &table::row(&case, &outcomes);
        if !verbose {
            print!("{}", std::mem::take(&mut table));
        }
    }
    if verbose {
        print!("\n{table}");
    }
    println!("{}", table::summary(connections, wrong, now() - origin));
    Ok(wrong == 0)
}

/// Returns each client, its limits, and what should end it, in the order of the ends.
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
    // A client that never stops talking exceeds no other limit.
    let short_lifetime = base
        .to_builder()
        .connection_timeout(Duration::from_secs(2))
        .message_timeout(Duration::from_secs(6))
        .build()?;
    // Without pings to answer, a client with nothing to say is idle.
    let short_idle = base
        .to_builder()
        .idle_timeout(Duration::from_secs(2))
        .no_ping_interval()
        .build()?;

    let closes = |client, age| Case {
        client,
        config: base,
        expected: Expected::closed_by_client(age),
    };
    let times_out = |client, reason, config| Case {
        client,
        config,
        expected: Expected::verdict(reason, &config),
    };
    Ok(vec![
        Case {
            client: Client::Resets,
            config: base,
            expected: Expected::failed(),
        },
        times_out(Client::SendsNoHandshake, HandshakeTimeout, base),
        times_out(Client::TricklesHandshake, HandshakeTimeout, base),
        times_out(Client::Frozen, MessageTimeout, base),
        times_out(Client::Talks, ConnectionTimeout, short_lifetime),
        Case {
            client: Client::IgnoresClose,
            config: short_idle,
            expected: Expected::ignored(IdleTimeout, &short_idle),
        },
        times_out(Client::Silent, PongTimeout, base),
        times_out(Client::TricklesFrame, SlowReceive, base),
        closes(Client::AnswersLate, clients::late_duration(&base)),
        closes(Client::Healthy, clients::healthy_duration(&base)),
        closes(Client::Uploads, clients::upload_duration(&base)),
    ])
}

#[derive(Clone, Copy)]
struct Case {
    client: Client,
    config: TimeoutConfig,
    expected: Expected,
}

impl Case {
    /// Runs the client against a server, and checks the end.
    async fn run(self, narrator: Narrator) -> Outcome {
        let (seen, report) = match timeout(PATIENCE, self.connect(narrator)).await {
            Ok(Ok((seen, report))) => (seen, Some(report)),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err(format!("no end within {PATIENCE:?}").into()), None),
        };
        let wrong = match (&seen, &report) {
            (Ok(seen), Some(report)) => self.expected.wrong(seen, report),
            (Ok(_), None) => vec!["no report from the server".into()],
            (Err(error), _) => vec![error.to_string()],
        };
        let known = seen.ok().zip(report);
        Outcome {
            runtime: narrator.runtime,
            took: known.map(|(seen, report)| report.at - expected::start(&seen, &report)),
            wrong,
        }
    }

    async fn connect(self, narrator: Narrator) -> Result<(Result<Seen, Failure>, Report), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (report, mut reported) = watch::channel(None);
        let stage = Stage {
            address: listener.local_addr()?,
            config: self.config,
            narrator,
            reported: reported.clone(),
        };
        let serves = self.client.serves();
        narrator.runtime.spawn(server::serve(
            listener,
            self.config,
            serves,
            narrator,
            report,
        ));

        let seen = self.client.play(&stage).await;
        let report = reported.wait_for(Option::is_some).await?.clone();
        Ok((seen, report.ok_or("no report from the server")?))
    }
}

/// The information that a client has.
struct Stage {
    address: SocketAddr,
    config: TimeoutConfig,
    narrator: Narrator,
    /// What the server reports at the end.
    reported: watch::Receiver<Option<Report>>,
}

impl Stage {
    fn say(&self, what: impl fmt::Display) {
        self.narrator.say(what);
    }
}

/// Prints the events of a connection with `--verbose`.
#[derive(Clone, Copy)]
struct Narrator {
    client: &'static str,
    runtime: Runtime,
    origin: Instant,
    verbose: bool,
}

impl Narrator {
    fn say(self, what: impl fmt::Display) {
        if self.verbose {
            let time = (now() - self.origin).as_secs_f64();
            let runtime = self.runtime.name();
            println!("{time:>6.3} s  {runtime:<11}{:<29}{what}", self.client);
        }
    }
}

/// Writes the label of the connection.
impl fmt::Display for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.client, self.runtime.name())
    }
}

/// What ended a client on one runtime.
struct Outcome {
    runtime: Runtime,
    /// How long after the limit began to count the server ended the connection, if it did.
    took: Option<Duration>,
    /// The differences from the expected end.
    wrong: Vec<String>,
}

impl Outcome {
    fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
