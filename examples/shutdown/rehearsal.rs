//! A shutdown with very many clients, and whether it went as it should.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

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
use ws_timeout::{CloseHandshake, CloseReason, DeadlineKind, Error, TimeoutConfig};

use crate::{Ended, Failure, serve};

/// The fewest connections of which one can say whether they went evenly.
pub const FEWEST: usize = 500;

/// One in so many clients does not answer the Close frame.
const IGNORES_CLOSE: usize = 100;

/// How late anything may come on a machine that is busy with other things.
const ALLOWANCE: Duration = Duration::from_secs(3);

/// Lets `clients` come, shuts down, and looks at what became of them.
pub async fn run(clients: usize, config: TimeoutConfig, within: Duration) -> Result<(), Failure> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    let clients = allowed(clients)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut child = Clients::start(clients, listener.local_addr()?)?;

    let all_are_there = child.all_are_there()?;
    let (stopped, when_stopped) = oneshot::channel();
    let shutdown = async {
        all_are_there.await;
        println!("{clients} connections are open, all are asked to go within {within:?}");
        let _ = stopped.send(now());
    };
    let ended = serve(listener, config, within, shutdown).await;
    let took = now() - when_stopped.await?;
    child.went_well()?;
    println!("the last has gone after {took:.3?}");

    let most = within + config.close_timeout() + ALLOWANCE;
    if took > most {
        return Err(format!("that is more than {most:?}").into());
    }
    look_at_ends(&ended, clients)?;
    look_at_instants(&ended, within)
}

/// As many connections as this process may have files, and in words if that is fewer than wanted.
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
            "the limit of {files} open files is too low: {wanted} connections need {needed}, and the fewest \
             that tell anything, {FEWEST}, need {fewest}"
        )
        .into());
    }
    if allowed < wanted {
        println!("{allowed} connections in place of {wanted}: the limit is {files} open files");
    }
    Ok(allowed)
}

/// All closed because of the drain, and all but the deaf ones answered.
fn look_at_ends(ended: &[Ended], clients: usize) -> Result<(), Failure> {
    let closed = |how| {
        let closed = ended.iter().filter(|ended| {
            matches!(&ended.result, Err(Error::Verdict(verdict))
                if verdict.reason == CloseReason::Drain && verdict.close_handshake == how)
        });
        closed.count()
    };
    let (answered, ignored) = (
        closed(CloseHandshake::Answered),
        closed(CloseHandshake::Unanswered),
    );
    println!("{answered} answered the Close frame, {ignored} ignored it");
    let deaf = clients.div_ceil(IGNORES_CLOSE);
    if (answered, ignored) != (clients - deaf, deaf) {
        let others = ended.len() - answered - ignored;
        return Err(format!("{deaf} should have ignored it; {others} ended otherwise").into());
    }
    Ok(())
}

/// Each closed when its time had come, and those times are spread evenly over `within`.
fn look_at_instants(ended: &[Ended], within: Duration) -> Result<(), Failure> {
    let mut latest = Duration::ZERO;
    let mut waits = Vec::new();
    for ended in ended {
        let (Some(asked), Err(Error::Verdict(verdict))) = (&ended.asked, &ended.result) else {
            return Err("a connection was not asked to go".into());
        };
        let due = asked.deadlines.get(DeadlineKind::Drain);
        let due = due.ok_or("a connection that was asked to go has no time for that")?;
        if verdict.status.at < due {
            return Err("a connection closed before its time".into());
        }
        latest = latest.max(verdict.status.at.saturating_duration_since(due));
        waits.push(due.saturating_duration_since(asked.at));
    }
    println!("each closed when its time had come, the latest {latest:.3?} after that");
    if latest > ALLOWANCE {
        return Err(format!("that is more than {ALLOWANCE:?}").into());
    }

    let (statistic, freedom) = chi_square(&waits, within);
    let (thousand, million) = (critical(freedom, 3.090_232), critical(freedom, 4.753_424));
    println!(
        "chi-square of these times is {statistic:.1} with {freedom} degrees of freedom; of even ones one \
         in a thousand is beyond {thousand:.1}, one in a million beyond {million:.1}"
    );
    // One in a thousand is no rarity for what is run again and again.
    if statistic > million {
        return Err("the connections did not go evenly".into());
    }
    Ok(())
}

/// How far the counts of equal parts of `within` are from equal, and the degrees of freedom.
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

/// What a chi-square of so many degrees of freedom exceeds as rarely as a normal variable exceeds
/// `deviations`: Wilson and Hilferty's approximation, which for 9 and more is too
/// high by three percent at most.
fn critical(freedom: usize, deviations: f64) -> f64 {
    let freedom = freedom as f64;
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + deviations * part.sqrt()).powi(3)
}

// ---- the clients: this program once more, since the files of one process are limited ----

/// The child process.
struct Clients(Child);

impl Clients {
    fn start(number: usize, server: SocketAddr) -> Result<Self, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--clients", &server.to_string(), &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Ready when all clients are connected, or the child process is gone.
    fn all_are_there(&mut self) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let out = self.0.stdout.take().ok_or("no pipe")?;
        Ok(async {
            let reading = spawn_blocking(|| BufReader::new(out).read_line(&mut String::new()));
            let _ = reading.await;
        })
    }

    fn went_well(&mut self) -> Result<(), Failure> {
        let status = self.0.wait()?;
        status
            .success()
            .then_some(())
            .ok_or("the clients are not content".into())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Connects, says so, and waits until the server has let go of all.
pub async fn be_clients(number: usize, server: SocketAddr) -> Result<(), Failure> {
    // As many as surely find a place in the server's queue.
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
    writeln!(out, "all are there")?;
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
    while let Some(gone) = watching.join_next().await {
        gone??;
    }
    Ok(())
}

async fn connect(server: SocketAddr) -> Result<WebSocketStream<TcpStream>, Failure> {
    let tcp = TcpStream::connect(server).await?;
    let (socket, _) =
        client_async_with_config("ws://localhost/", tcp, Some(tungstenite_config())).await?;
    Ok(socket)
}

/// Expects to be told that the server is going away.
async fn listen(mut socket: WebSocketStream<TcpStream>) -> Result<(), Failure> {
    let mut told = None;
    while let Some(message) = socket.next().await {
        if let Message::Close(frame) = message? {
            told = frame.map(|frame| u16::from(frame.code));
        }
    }
    if told != CloseReason::Drain.code() {
        return Err(format!("a client got the close code {told:?}").into());
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
