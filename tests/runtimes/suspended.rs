//! A server that is suspended for seconds must not cut off its healthy clients.
//!
//! The server is a separate process, and a proxy delays each direction between it and its clients.
//! A run opens the connections, waits, and suspends the server: the whole process by SIGSTOP, or
//! every thread of its runtime by a handler that blocks. When the server resumes, all clients look
//! silent, and the answer to any ping takes a round trip. Each healthy client must stay connected.
//! Some peers die before the server resumes. The server must disconnect them in time, so a server
//! that never disconnects anybody fails too.
//!
//! A run's seed determines everything but the server's own jitter. `.ci/stops` runs many seeds.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tungstenite::Message;
use ws_timeout::TimeoutConfig;
use ws_timeout::message::tungstenite_config;

use crate::crowd::open_many_files;
use crate::evidence::{Verdict, monotonic, say};
use crate::host::{RUNTIMES, Runtime};
use crate::process::Process;
use crate::proxy::{Link, Proxy};
use crate::{PATIENCE, SECOND, on_each_runtime};

/// What happens to a server and its peers in one run.
#[derive(Clone, Copy)]
struct Scenario {
    suspension: Suspension,
    /// The server is suspended for a random time between these.
    shortest: Duration,
    longest: Duration,
    /// The limits of the server, as environment variables.
    limits: &'static [(&'static str, &'static str)],
    /// The delay in each direction.
    delay: Duration,
    healthy: usize,
    dead: usize,
}

#[derive(Clone, Copy)]
enum Suspension {
    /// The process is stopped.
    Stop,
    /// Every thread of the runtime is blocked.
    Block,
}

const STOPS: Scenario = Scenario {
    suspension: Suspension::Stop,
    shortest: Duration::from_secs(3),
    longest: Duration::from_secs(12),
    limits: &[
        ("WS_IDLE_TIMEOUT", "12"),
        ("WS_PING_INTERVAL", "5"),
        ("WS_STALL_TOLERANCE", "3"),
        ("WS_CONNECTION_TIMEOUT", "off"),
    ],
    delay: Duration::from_millis(100),
    healthy: 100,
    dead: 6,
};

const BLOCKS: Scenario = Scenario {
    suspension: Suspension::Block,
    shortest: Duration::from_millis(4500),
    longest: Duration::from_millis(6800),
    limits: &[
        ("WS_IDLE_TIMEOUT", "4"),
        ("WS_PING_INTERVAL", "1"),
        ("WS_STALL_TOLERANCE", "3"),
        ("WS_CONNECTION_TIMEOUT", "off"),
    ],
    ..STOPS
};

/// [`STOPS`] at a tenth of its times, with few clients.
const SHORT_STOPS: Scenario = Scenario {
    shortest: Duration::from_millis(300),
    longest: Duration::from_millis(1200),
    limits: &[
        ("WS_IDLE_TIMEOUT", "1.2"),
        ("WS_PING_INTERVAL", "0.5"),
        ("WS_STALL_TOLERANCE", "0.3"),
        ("WS_CLOSE_TIMEOUT", "0.5"),
        ("WS_CONNECTION_TIMEOUT", "off"),
    ],
    delay: Duration::from_millis(50),
    healthy: 20,
    dead: 4,
    ..STOPS
};

/// How many seeds run at once, on all runtimes.
const AT_ONCE: usize = 10;

#[test]
fn a_stopped_server_keeps_its_healthy_clients() {
    on_each_runtime(|runtime| {
        let outcome = run(runtime, SHORT_STOPS, variable("SUSPENDED_SEED", 1));
        assert!(outcome.is_right(), "{outcome}");
    });
}

#[test]
#[ignore = "takes minutes; `.ci/stops` runs it"]
fn stops() {
    measure(STOPS);
}

#[test]
#[ignore = "takes minutes; `.ci/stops` runs it"]
fn blocks() {
    measure(BLOCKS);
}

/// Runs `scenario` on each runtime with many seeds, and prints every outcome.
#[track_caller]
fn measure(scenario: Scenario) {
    let scenario = Scenario {
        healthy: variable("SUSPENDED_CLIENTS", scenario.healthy),
        ..scenario
    };
    let first: u64 = variable("SUSPENDED_SEED", 1);
    let seeds: Vec<u64> = (first..).take(variable("SUSPENDED_RUNS", 20)).collect();
    open_many_files();
    let mut outcomes = Vec::new();
    for seeds in seeds.chunks(seeds_at_once(scenario)) {
        thread::scope(|scope| {
            let mut runs = Vec::new();
            for &seed in seeds {
                runs.extend(RUNTIMES.map(|runtime| {
                    scope.spawn(move || {
                        let outcome = run(runtime, scenario, seed);
                        say(&outcome.to_string());
                        outcome
                    })
                }));
            }
            outcomes.extend(runs.into_iter().map(|run| run.join().unwrap()));
        });
    }
    for runtime in RUNTIMES {
        let runs = outcomes.iter().filter(|outcome| outcome.runtime == runtime);
        say(&summary(runtime, &runs.collect::<Vec<_>>()));
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.is_right());
    let failed = failed.count();
    assert!(failed == 0, "{failed} of {} runs failed", outcomes.len());
}

/// Returns how many seeds the limit on open files allows. A connection takes three files: the
/// client's socket and two of the proxy.
fn seeds_at_once(scenario: Scenario) -> usize {
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let run = 3 * (scenario.healthy + scenario.dead) + 20;
    let seeds = usize::try_from(limit).unwrap() / (run * RUNTIMES.len());
    seeds.clamp(1, AT_ONCE)
}

fn summary(runtime: Runtime, runs: &[&Outcome]) -> String {
    let healthy: usize = runs.iter().map(|run| run.scenario.healthy).sum();
    let cut_off: Vec<usize> = runs.iter().map(|run| run.cut_off()).collect();
    let mut detected: Vec<Duration> = runs.iter().flat_map(|run| &run.detected).copied().collect();
    detected.sort();
    let quartiles: Vec<Duration> = match detected.len() {
        0 => Vec::new(),
        count => (0..=4).map(|n| detected[(count - 1) * n / 4]).collect(),
    };
    format!(
        "{runtime}: cut off {} of {healthy} healthy clients, in {} of {} runs, at most {} in one; \
         detected {} dead peers, quartiles {quartiles:.1?}",
        cut_off.iter().sum::<usize>(),
        cut_off.iter().filter(|&&count| count > 0).count(),
        runs.len(),
        cut_off.iter().max().unwrap_or(&0),
        detected.len(),
    )
}

/// The result of one run.
struct Outcome {
    runtime: Runtime,
    scenario: Scenario,
    seed: u64,
    /// From when all connections were open until the server was suspended.
    waited: Duration,
    suspended: Duration,
    /// How many healthy clients were disconnected for which reason.
    reasons: BTreeMap<String, usize>,
    /// What led to that, for the example `replay`.
    traces: Vec<String>,
    /// The time from the last byte that the server was sent to its verdict, for each dead peer,
    /// sorted.
    detected: Vec<Duration>,
    /// Dead peers that were disconnected too late.
    too_late: Vec<String>,
    /// Healthy clients that were neither disconnected nor served again, and dead peers that are
    /// still connected.
    undecided: usize,
    /// The proxy's maximum lateness.
    lateness: Duration,
    /// A proxy that is later than this may make healthy clients look dead.
    allowed_lateness: Duration,
}

impl Outcome {
    fn cut_off(&self) -> usize {
        self.reasons.values().sum()
    }

    fn is_right(&self) -> bool {
        self.cut_off() == 0 && self.too_late.is_empty() && self.undecided == 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.scenario.suspension {
            Suspension::Stop => "stopped",
            Suspension::Block => "blocked",
        };
        write!(
            f,
            "{}, seed {}: {how} after {:.2?} for {:.2?}; cut off {} of {}",
            self.runtime,
            self.seed,
            self.waited,
            self.suspended,
            self.cut_off(),
            self.scenario.healthy,
        )?;
        for (reason, times) in &self.reasons {
            write!(f, ", {times} by {reason}")?;
        }
        write!(f, "; detected dead peers after {:.1?}", self.detected)?;
        for peer in &self.too_late {
            write!(f, ", too late: {peer}")?;
        }
        if self.undecided > 0 {
            write!(f, "; {} undecided", self.undecided)?;
        }
        write!(f, "; proxy up to {} ms late", self.lateness.as_millis())?;
        if !self.is_right() && self.lateness > self.allowed_lateness {
            f.write_str("; void, this machine is too busy")?;
        }
        for trace in &self.traces {
            write!(f, "\n{trace}")?;
        }
        Ok(())
    }
}

fn run(runtime: Runtime, scenario: Scenario, seed: u64) -> Outcome {
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&here, run_here(runtime, scenario, seed))
}

/// Runs the clients and the proxy on the current `LocalSet`.
async fn run_here(runtime: Runtime, scenario: Scenario, seed: u64) -> Outcome {
    let loaded = TimeoutConfig::from_vars(scenario.limits.iter().copied());
    let config = loaded.unwrap().config;
    let idle_timeout = config.idle_timeout().unwrap();
    let ping_interval = config.ping_interval().unwrap();
    let stall_tolerance = config.stall_tolerance().unwrap();

    let name = runtime.to_string();
    let variables = [
        &[("RUNTIME", name.as_str()), ("RECORD", "1")],
        scenario.limits,
    ]
    .concat();
    let mut server = Process::start("server", &variables);
    let address = server.line().parse().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let clients = Rc::new(Clients {
        proxy: Proxy::start(address, scenario.delay).await,
        ping_interval,
        resumed: Cell::new(false),
        events: sender,
    });

    let mut rng = Rng(seed);
    let waited = rng.between(Duration::ZERO, ping_interval);
    let length = rng.between(scenario.shortest, scenario.longest);
    clients.spawn(scenario, waited + length, &mut rng);
    let all_open = async {
        for _ in 0..scenario.healthy + scenario.dead {
            let event = events.recv().await.unwrap();
            assert!(matches!(event, Event::Open), "a client was cut off");
        }
    };
    let opened = timeout(ping_interval + 20 * SECOND, all_open).await;
    opened.expect("all connections open");

    sleep(waited).await;
    let suspended = suspend(&mut server, scenario.suspension, length).await;
    clients.resumed.set(true);

    // SPEC C8. The polls are late by the suspension.
    let bound = config.detection_bound().unwrap() + suspended + 2 * stall_tolerance + PATIENCE;
    let close_bound = config.close_timeout() + stall_tolerance + PATIENCE;
    let mut ends = Ends {
        undecided: scenario.healthy + scenario.dead,
        ..Ends::default()
    };
    // The outcome shows whether every client was decided in time.
    let _ = timeout(bound + close_bound, ends.collect(&mut events)).await;

    let mut verdicts = Verdicts::default();
    let mut reasons = BTreeMap::new();
    let mut traces = Vec::new();
    for link in &ends.disconnected {
        let verdict = verdicts.of(link, &server);
        *reasons.entry(verdict.reason.clone()).or_default() += 1;
        traces.push(verdict.trace.clone());
    }
    let mut detected = Vec::new();
    let mut too_late = Vec::new();
    for (link, hung_up) in &ends.hung_up {
        let Decided { reason, at, .. } = verdicts.of(link, &server);
        let detection = at.saturating_sub(link.delivered());
        let closing = hung_up.saturating_sub(*at);
        if detection > bound || closing > close_bound {
            too_late.push(format!(
                "{reason} after {detection:.1?}, closed {closing:.1?} later"
            ));
        }
        detected.push(detection);
    }
    detected.sort();
    Outcome {
        runtime,
        scenario,
        seed,
        waited,
        suspended,
        reasons,
        traces,
        detected,
        too_late,
        undecided: ends.undecided,
        lateness: clients.proxy.max_lateness(),
        allowed_lateness: idle_timeout.saturating_sub(ping_interval + 2 * scenario.delay) / 2,
    }
}

/// Suspends the server for `length`, and returns the exact length.
async fn suspend(server: &mut Process, suspension: Suspension, length: Duration) -> Duration {
    let id = Pid::from_raw(server.id().try_into().unwrap());
    let start = monotonic();
    match suspension {
        Suspension::Stop => {
            kill(id, Signal::SIGSTOP).unwrap();
            sleep(length).await;
            kill(id, Signal::SIGCONT).unwrap();
        }
        Suspension::Block => {
            server.say(&format!("block {}", length.as_millis()));
            sleep(length).await;
        }
    }
    monotonic() - start
}

/// How the connections of a run ended.
#[derive(Default)]
struct Ends {
    /// How many clients are not decided yet.
    undecided: usize,
    /// The links of clients that were cut off.
    disconnected: Vec<Rc<Link>>,
    /// The links of dead peers, and when the server closed its end.
    hung_up: Vec<(Rc<Link>, Duration)>,
}

impl Ends {
    /// Takes events until every client is decided.
    async fn collect(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        while self.undecided > 0 {
            match events.recv().await.unwrap() {
                Event::Open => unreachable!("all are open"),
                Event::Served => self.undecided -= 1,
                Event::Disconnected { link, served } => {
                    self.undecided -= usize::from(!served);
                    self.disconnected.push(link);
                }
                Event::HungUp { link, at } => {
                    self.undecided -= 1;
                    self.hung_up.push((link, at));
                }
            }
        }
    }
}

/// The server's verdicts by the port of the client.
#[derive(Default)]
struct Verdicts(HashMap<u16, Decided>);

struct Decided {
    reason: String,
    at: Duration,
    trace: String,
}

impl Verdicts {
    /// Returns the verdict on a connection that has ended.
    #[track_caller]
    fn of(&mut self, link: &Link, server: &Process) -> &Decided {
        while !self.0.contains_key(&link.port) {
            let line = server.line();
            let parse = || {
                let (verdict, trace) = line.split_once('[')?;
                let (reason, numbers) = verdict.split_once(' ')?;
                let verdict = Verdict::parse(numbers)?;
                let decided = Decided {
                    reason: reason.to_owned(),
                    at: verdict.at,
                    trace: format!("[{trace}"),
                };
                Some((verdict.port, decided))
            };
            let (port, decided) = parse().unwrap_or_else(|| panic!("no verdict: {line}"));
            self.0.insert(port, decided);
        }
        &self.0[&link.port]
    }
}

/// What the clients of a run share.
struct Clients {
    proxy: Proxy,
    ping_interval: Duration,
    /// Whether the suspension is over.
    resumed: Cell<bool>,
    events: mpsc::UnboundedSender<Event>,
}

enum Event {
    /// A connection is open.
    Open,
    /// The server read what a healthy client sent after the suspension.
    Served,
    /// The connection of a living client ended; `served` if it had been served before.
    Disconnected { link: Rc<Link>, served: bool },
    /// The server closed its end of a dead peer's connection at `at`.
    HungUp { link: Rc<Link>, at: Duration },
}

#[derive(Clone, Copy)]
enum Death {
    /// Nothing that the peer sends from now on arrives.
    Mute,
    /// The peer stops reading, so it answers nothing.
    Deaf,
}

type Socket = WebSocketStream<TcpStream>;

impl Clients {
    /// Starts all clients. They open their connections over a whole ping interval, so that the
    /// suspension meets them at every phase. The dead ones die within `lifetime` after that.
    fn spawn(self: &Rc<Self>, scenario: Scenario, lifetime: Duration, rng: &mut Rng) {
        let all_open = monotonic() + self.ping_interval;
        for number in 0..scenario.healthy {
            let opens = rng.between(Duration::ZERO, self.ping_interval);
            let talks = (number % 5 == 0).then(|| rng.fork());
            let clients = self.clone();
            spawn_local(async move {
                sleep(opens).await;
                clients.live(talks).await;
            });
        }
        for number in 0..scenario.dead {
            let opens = rng.between(Duration::ZERO, self.ping_interval);
            let dies = all_open + rng.between(Duration::ZERO, lifetime);
            let death = [Death::Mute, Death::Deaf][number % 2];
            let clients = self.clone();
            spawn_local(async move {
                sleep(opens).await;
                clients.die(dies, death).await;
            });
        }
    }

    async fn open(&self) -> (Socket, Rc<Link>) {
        let tcp = TcpStream::connect(self.proxy.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let settings = Some(tungstenite_config());
        let handshake = client_async_with_config("ws://localhost/", tcp, settings);
        let (socket, _) = handshake.await.unwrap();
        self.send(Event::Open);
        (socket, self.proxy.link(port))
    }

    /// Reads, so that tungstenite answers pings. If it `talks`, sends a message now and then.
    async fn live(&self, mut talks: Option<Rng>) {
        let (mut socket, link) = self.open().await;
        let mut received = 0;
        loop {
            let pause = match &mut talks {
                Some(rng) => rng.between(self.ping_interval / 2, self.ping_interval * 2),
                None => Duration::MAX,
            };
            match timeout(pause, socket.next()).await {
                Ok(Some(Ok(message))) => {
                    // A suspension outlasts the proxy's delay, so the server sent this after it.
                    // The first may be the ping that a silent client gets. When it sends the
                    // second, the server has read the pong, or a message that it echoes.
                    received += u32::from(self.resumed.get() && !message.is_close());
                    if received == 2 {
                        self.send(Event::Served);
                    }
                }
                Ok(None | Some(Err(_))) => break,
                // The stream returns the error of a send.
                Err(_) => drop(socket.send(Message::text("hello")).await),
            }
        }
        let served = received >= 2;
        self.send(Event::Disconnected { link, served });
    }

    /// Answers pings until `at`, and then dies.
    async fn die(&self, at: Duration, death: Death) {
        let (mut socket, link) = self.open().await;
        let until_dead = at.saturating_sub(monotonic());
        if timeout(until_dead, drain(&mut socket)).await.is_ok() {
            let served = false;
            return self.send(Event::Disconnected { link, served });
        }
        if let Death::Mute = death {
            link.mute();
            drain(&mut socket).await;
        }
        let at = link.hung_up().await;
        self.send(Event::HungUp { link, at });
    }

    fn send(&self, event: Event) {
        // The run may be over.
        let _ = self.events.send(event);
    }
}

/// Reads until the connection ends.
async fn drain(socket: &mut Socket) {
    while let Some(Ok(_)) = socket.next().await {}
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a length from `shortest` to `longest`.
    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let part = self.next() as f64 / u64::MAX as f64;
        shortest + (longest - shortest).mul_f64(part)
    }

    /// Returns another generator, determined by this one.
    fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

/// Returns the value of an environment variable, or `default` if it is not set.
#[track_caller]
fn variable<N: std::str::FromStr<Err: fmt::Debug>>(name: &str, default: N) -> N {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap(),
        Err(_) => default,
    }
}
