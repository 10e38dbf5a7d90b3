//! A shutdown of the server in `examples/shutdown.rs` with many clients.
//!
//! ```text
//! cargo run --example drain_rehearsal -- --connections 10000 --within 10
//! ```
//!
//! Checks how the connections ended, whether each closed when it was due, whether that was spread
//! evenly, and how long everything took. The clients run in a child process. `--within` is in
//! seconds; the limits come from the environment. Exits with 1 if a check fails.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env_logger::Env;
use futures_util::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tungstenite::Message;
use ws_timeout::message::tungstenite_config;
use ws_timeout::{
    CloseHandshake, CloseReason, Connection, DeadlineKind, Event, Log, Observer, Report, Step,
    TimeoutConfig, Timeouts, Timestamp, Verdict,
};

use shutdown::serve;

#[path = "../examples/shutdown.rs"]
#[allow(dead_code, reason = "`main` and what only it calls")]
mod shutdown;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: drain_rehearsal [--connections NUMBER] [--within SECONDS]";

/// The fewest connections that show whether they closed evenly.
const FEWEST: usize = 500;

/// One in this many clients does not answer the Close frame.
const IGNORES_CLOSE: usize = 100;

/// How late an event may be on a busy machine.
const ALLOWANCE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("drain_rehearsal: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Arguments {
        connections,
        within,
        config,
        server,
    } = arguments;
    let done = match server {
        None => run(connections, config, within).await,
        Some(server) => be_clients(connections, server).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drain_rehearsal: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    connections: usize,
    within: Duration,
    config: TimeoutConfig,
    /// The server that the child process connects to.
    server: Option<SocketAddr>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let loaded = TimeoutConfig::from_env().map_err(|error| error.to_string())?;
        let mut arguments = Self {
            connections: 10_000,
            within: Duration::from_secs(10),
            config: loaded.config,
            server: None,
        };
        let given = std::env::args_os().skip(1);
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(flag) = given.next() {
            let value = given.next().ok_or(format!("{flag} lacks its value"));
            match flag.as_str() {
                "--connections" => arguments.connections = number(&flag, &value?, FEWEST)?,
                "--within" => {
                    let seconds = number(&flag, &value?, 1)?;
                    arguments.within = Duration::from_secs(seconds as u64);
                }
                "--clients-of" => arguments.server = value?.parse().ok(),
                _ => return Err(format!("{flag} is not an argument")),
            }
        }
        Ok(arguments)
    }
}

fn number(flag: &str, text: &str, least: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number >= least);
    number.ok_or_else(|| format!("{flag} is {text:?}, expected a whole number from {least}"))
}

/// Waits for `clients` connections, shuts down, and checks how it went.
async fn run(clients: usize, config: TimeoutConfig, within: Duration) -> Result<(), Failure> {
    env_logger::Builder::from_env(Env::default().default_filter_or("off")).init();
    let clients = allowed(clients)?;
    let most = within + config.close_timeout() + ALLOWANCE;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut child = Clients::start(clients, listener.local_addr()?)?;
    let witness = Arc::new(Witness::default());
    let timeouts = Timeouts::new(config).with_observer(witness.clone());

    let all_are_open = child.all_are_open()?;
    let (stopped, when_stopped) = oneshot::channel();
    let shutdown = async {
        all_are_open.await;
        println!("{clients} connections are open, all are to close within {within:?}");
        let _ = stopped.send(now());
    };
    serve(listener, &timeouts, within, shutdown).await;
    let took = now() - when_stopped.await?;
    child.succeeded()?;
    println!("the last has ended after {took:.3?}");
    if took > most {
        return Err(format!("that is more than {most:?}").into());
    }
    let ends = std::mem::take(&mut witness.lock().ends);
    check_handshakes(&ends, clients)?;
    check_instants(&ends, within)
}

/// Returns how many connections this process may have, and raises its limit on open files for that.
fn allowed(wanted: usize) -> Result<usize, Failure> {
    const FOR_THE_REST: usize = 100;
    let needed = wanted.saturating_add(FOR_THE_REST);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    let files = maximum.map_or(needed, |files| usize::try_from(files).unwrap_or(needed));
    let allowed = wanted.min(files.saturating_sub(FOR_THE_REST));
    if allowed < FEWEST {
        let fewest = FEWEST + FOR_THE_REST;
        return Err(format!(
            "the limit of {files} open files is too low: {wanted} connections need {needed}, and the \
             smallest rehearsal, {FEWEST}, needs {fewest}"
        )
        .into());
    }
    if allowed < wanted {
        println!("{allowed} connections instead of {wanted}: the limit is {files} open files");
    }
    Ok(allowed)
}

/// The observer of the server's connections.
#[derive(Default)]
struct Witness(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// When each connection was asked to drain.
    asked: HashMap<u64, Timestamp>,
    /// How each connection ended; `None` if not by a drain.
    ends: Vec<Option<Drained>>,
}

struct Drained {
    asked: Timestamp,
    due: Timestamp,
    closed: Timestamp,
    handshake: CloseHandshake,
}

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Witness {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        if let Report::Closed { verdict, .. } = report {
            let mut seen = self.lock();
            let asked = seen.asked.get(&connection.id).copied();
            let drained = asked.zip(*verdict);
            seen.ends
                .push(drained.and_then(|(asked, verdict)| Drained::new(asked, verdict)));
        }
        Log.report(connection, report);
    }

    fn step(&self, connection: &Connection<'_>, at: Timestamp, step: &Step<'_>) {
        if let Step::Observed(Event::Drain { .. }) = step {
            self.lock().asked.insert(connection.id, at);
        }
    }

    fn wants_steps(&self) -> bool {
        true
    }
}

impl Drained {
    fn new(asked: Timestamp, verdict: &Verdict) -> Option<Self> {
        let due = verdict.status.deadlines.get(DeadlineKind::Drain)?;
        (verdict.reason == CloseReason::Drain).then_some(Self {
            asked,
            due,
            closed: verdict.status.at,
            handshake: verdict.close_handshake,
        })
    }
}

/// Checks that all closed because of the drain, and that every client that should answer did.
fn check_handshakes(ends: &[Option<Drained>], clients: usize) -> Result<(), Failure> {
    let count = |handshake| {
        let drained = ends.iter().flatten();
        drained.filter(|end| end.handshake == handshake).count()
    };
    let answered = count(CloseHandshake::Answered);
    let ignored = count(CloseHandshake::Unanswered);
    println!("{answered} answered the Close frame, {ignored} ignored it");
    let deaf = clients.div_ceil(IGNORES_CLOSE);
    if (answered, ignored) != (clients - deaf, deaf) {
        let others = ends.len() - answered - ignored;
        return Err(format!("{deaf} should have ignored it; {others} ended otherwise").into());
    }
    Ok(())
}

/// Checks that each connection closed when it was due, and that these times are spread evenly.
fn check_instants(ends: &[Option<Drained>], within: Duration) -> Result<(), Failure> {
    let drained: Vec<_> = ends.iter().flatten().collect();
    if drained.iter().any(|end| end.closed < end.due) {
        return Err("a connection closed before it was due".into());
    }
    let late = |end: &&Drained| end.closed.saturating_duration_since(end.due);
    let latest = drained.iter().map(late).max().unwrap_or_default();
    println!("each closed when it was due, or at most {latest:.3?} later");
    if latest > ALLOWANCE {
        return Err(format!("that is more than {ALLOWANCE:?}").into());
    }

    let wait = |end: &&Drained| end.due.saturating_duration_since(end.asked);
    let waits: Vec<_> = drained.iter().map(wait).collect();
    let (statistic, freedom) = chi_square(&waits, within);
    let (thousand, million) = (critical(freedom, 3.090_232), critical(freedom, 4.753_424));
    println!(
        "chi-square of these times is {statistic:.1} with {freedom} degrees of freedom; if they are even, \
         one in a thousand exceeds {thousand:.1}, one in a million {million:.1}"
    );
    // Not `thousand`, which an even drain exceeds now and then.
    if statistic > million {
        return Err("the connections did not close evenly".into());
    }
    Ok(())
}

/// Returns how far the counts of equal parts of `within` are from equal, and the degrees of
/// freedom.
fn chi_square(waits: &[Duration], within: Duration) -> (f64, usize) {
    let parts = (waits.len() / 50).min(100);
    let mut counts = vec![0_u32; parts];
    for wait in waits {
        let part = (wait.div_duration_f64(within) * parts as f64) as usize;
        counts[part.min(parts - 1)] += 1;
    }
    let even = waits.len() as f64 / parts as f64;
    let statistic = counts
        .iter()
        .map(|&count| (f64::from(count) - even).powi(2) / even);
    (statistic.sum(), parts - 1)
}

/// Returns the value that a chi-square exceeds as rarely as a normal variable exceeds `deviations`.
/// This is Wilson and Hilferty's approximation, which from 9 degrees of freedom is at most three
/// percent too high.
fn critical(freedom: usize, deviations: f64) -> f64 {
    let freedom = freedom as f64;
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + deviations * part.sqrt()).powi(3)
}

// ---- the clients, in a separate process because the files of one process are limited ----

struct Clients(Child);

impl Clients {
    fn start(number: usize, server: SocketAddr) -> Result<Self, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--clients-of", &server.to_string()])
            .args(["--connections", &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Is ready when all clients are connected, or the child process has ended.
    fn all_are_open(&mut self) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let out = self.0.stdout.take().ok_or("no pipe")?;
        Ok(async {
            let reading = spawn_blocking(|| BufReader::new(out).read_line(&mut String::new()));
            let _ = reading.await;
        })
    }

    fn succeeded(&mut self) -> Result<(), Failure> {
        let status = self.0.wait()?;
        status
            .success()
            .then_some(())
            .ok_or("the clients failed".into())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Connects, prints a line on standard output, and waits until the server has closed all
/// connections.
async fn be_clients(number: usize, server: SocketAddr) -> Result<(), Failure> {
    // As many as fit into the server's queue.
    const AT_ONCE: usize = 100;
    allowed(number)?;
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut connecting = JoinSet::new();
    for _ in 0..number {
        let turns = turns.clone();
        connecting.spawn(async move {
            let _turn = turns.acquire().await?;
            connect(server).await
        });
    }
    let mut sockets = Vec::new();
    while let Some(connected) = connecting.join_next().await {
        sockets.push(connected??);
    }
    let mut out = std::io::stdout();
    writeln!(out, "all are open")?;
    out.flush()?;

    let mut watching = JoinSet::new();
    for (place, socket) in sockets.into_iter().enumerate() {
        watching.spawn(async move {
            if place % IGNORES_CLOSE == 0 {
                ignore(socket).await
            } else {
                listen(socket).await
            }
        });
    }
    while let Some(ended) = watching.join_next().await {
        ended??;
    }
    Ok(())
}

async fn connect(server: SocketAddr) -> Result<WebSocketStream<TcpStream>, Failure> {
    let tcp = TcpStream::connect(server).await?;
    let (socket, _) =
        client_async_with_config("ws://localhost/", tcp, Some(tungstenite_config())).await?;
    Ok(socket)
}

/// Expects the code of a drain.
async fn listen(mut socket: WebSocketStream<TcpStream>) -> Result<(), Failure> {
    let mut code = None;
    while let Some(message) = socket.next().await {
        if let Message::Close(frame) = message? {
            code = frame.map(|frame| u16::from(frame.code));
        }
    }
    if code != CloseReason::Drain.code() {
        return Err(format!("a client received the close code {code:?}").into());
    }
    Ok(())
}

/// Reads, but answers nothing.
async fn ignore(mut socket: WebSocketStream<TcpStream>) -> Result<(), Failure> {
    socket.get_mut().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn now() -> Instant {
    Instant::now()
}
