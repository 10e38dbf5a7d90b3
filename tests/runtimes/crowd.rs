//! Ten thousand connections, half of which vanish. The server and the clients are separate
//! processes.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::io;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::SECOND;
use crate::evidence::{Account, Verdict, say};
use crate::host::Runtime;
use crate::peers::crowd::Client;
use crate::process::Process;

const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Long enough for the single thread of all clients on a busy machine.
const PONG_TIMEOUT: Duration = Duration::from_secs(4);

/// How long written bytes may take to reach another process on a busy machine.
const MAX_TRANSIT: Duration = SECOND;

/// At most one in this many live clients may answer late, or the test shows nothing.
const CLIENTS_PER_LATE_ANSWER: usize = 100;

/// How late the server may be on a busy machine.
const LATE: Duration = Duration::from_secs(30);

/// The most memory that a connection of the server may use, in KiB: its task, socket and buffers.
const MOST_KIB: f64 = 10.0;

#[test]
fn half_of_ten_thousand_peers_vanish_on_tokio() {
    half_vanish(Runtime::TokioThreads);
}

#[test]
fn half_of_ten_thousand_peers_vanish_on_smol() {
    half_vanish(Runtime::Smol);
}

#[test]
fn half_of_ten_thousand_peers_vanish_on_async_std() {
    half_vanish(Runtime::AsyncStd);
}

#[track_caller]
fn half_vanish(runtime: Runtime) {
    let all = connection_count();
    let few = all / 5;
    let variables = [
        ("RUNTIME", runtime.to_string()),
        ("WS_PING_INTERVAL", PING_INTERVAL.as_secs_f64().to_string()),
        ("WS_PONG_TIMEOUT", PONG_TIMEOUT.as_secs_f64().to_string()),
        ("WS_JITTER", "0.5".into()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let server = Process::start("server", &variables);
    let address = server.line();
    let mut clients = Process::start("crowd", &[("ADDRESS", &address)]);

    let mut accounts = Vec::new();
    let none_open = server.memory();
    clients.say(&format!("open {few}"));
    assert_eq!(reply(&clients, &mut accounts), "open");
    let few_open = server.memory();
    clients.say(&format!("open {all}"));
    assert_eq!(reply(&clients, &mut accounts), "open");
    let all_open = server.memory();
    clients.say("die");
    let died = reply(&clients, &mut accounts);
    let died = died.split(' ').map(|port| port.parse().unwrap());
    let mut unnoticed: HashSet<u16> = died.collect();
    let living = all - unnoticed.len();
    let mut verdicts = HashMap::new();
    while !unnoticed.is_empty() {
        let verdict = next_verdict(&server);
        if !unnoticed.remove(&verdict.port) {
            verdicts.insert(verdict.port, verdict);
        }
    }
    // All others have answered since, and are still open unless they were ended.
    clients.say("count");
    assert_eq!(reply(&clients, &mut accounts), "all");
    let ended = judge(&server, verdicts, &clients, accounts);
    assert!(
        ended * CLIENTS_PER_LATE_ANSWER <= living,
        "void, this machine is too busy: {ended} of {living} clients answered late, for which the server is not to blame"
    );
    let half_open = server.memory();

    let each = |from: u64, to: u64, count: usize| (to as f64 - from as f64) / count as f64;
    let first = each(none_open, few_open, few);
    let rest = each(few_open, all_open, all - few);
    assert!(
        first < MOST_KIB && rest < MOST_KIB,
        "{first:.1} and {rest:.1} KiB a connection"
    );
    assert!(
        rest < first * 1.25,
        "{rest:.1} KiB for one more, {first:.1} for one of few"
    );
    assert!(
        half_open <= all_open + all_open / 20,
        "{all_open} KiB became {half_open}"
    );
}

/// Returns the clients' reply, and before it collects the accounts of those that have ended.
#[track_caller]
fn reply(clients: &Process, accounts: &mut Vec<Account>) -> String {
    loop {
        let line = clients.line();
        match line.strip_prefix("ended ") {
            Some(account) => accounts.push(Account::parse(account).unwrap()),
            None => return line,
        }
    }
}

/// Returns the server's next report of a connection's end.
#[track_caller]
fn next_verdict(server: &Process) -> Verdict {
    let line = server.line();
    let verdict = line.strip_prefix("pong_timeout ").and_then(Verdict::parse);
    let verdict = verdict.unwrap_or_else(|| panic!("{line}"));
    assert!(verdict.unanswered >= PONG_TIMEOUT, "{line}");
    let bound = PING_INTERVAL + PONG_TIMEOUT;
    assert!(verdict.silent <= bound + LATE, "{line}");
    verdict
}

/// Compares each verdict with the account of the client that it ended, and the other way round.
/// Returns how many there are.
#[track_caller]
fn judge(
    server: &Process,
    mut verdicts: HashMap<u16, Verdict>,
    clients: &Process,
    mut accounts: Vec<Account>,
) -> usize {
    let mut ended = 0;
    while !(accounts.is_empty() && verdicts.is_empty()) {
        if accounts.is_empty() {
            let line = clients.line();
            accounts.extend(line.strip_prefix("ended ").and_then(Account::parse));
        }
        let account = accounts.pop().expect("a client has ended");
        while !verdicts.contains_key(&account.port) {
            let verdict = next_verdict(server);
            verdicts.insert(verdict.port, verdict);
        }
        let verdict = &verdicts[&account.port];
        assert!(
            !verdict.is_wrong(&account, PONG_TIMEOUT, MAX_TRANSIT),
            "a live client was lost: {verdict:?} {account:?}"
        );
        say(&format!("a client answered late: {verdict:?} {account:?}"));
        verdicts.remove(&account.port);
        ended += 1;
    }
    ended
}

/// Returns ten thousand, or as many as a process may open here, and prints that number then.
fn connection_count() -> usize {
    const ALL: u64 = 10_000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let all = ALL.min(most.saturating_sub(100)) / 10 * 10;
    if all < ALL {
        say(&format!(
            "with {all} connections in place of {ALL}: a process may open {most} files"
        ));
    }
    all.try_into().unwrap()
}

/// Raises this process's limit on open files as far as possible.
pub fn open_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// The clients. They receive commands, a line each: to open connections up to a number; to let half
/// of them die, and print which; to wait until each of the others has answered a ping since or
/// ended. A client that ends prints its account.
pub fn clients() {
    open_many_files();
    let (sender, orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            sender.send(line.unwrap()).unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, obey(orders));
}

async fn obey(mut orders: mpsc::UnboundedReceiver<String>) {
    const AT_ONCE: usize = 64;
    let address = std::env::var("ADDRESS").unwrap().parse().unwrap();
    let (word, dying) = watch::channel(false);
    let (dies, mut deaths) = mpsc::unbounded_channel();
    let (answered, mut answers) = mpsc::unbounded_channel();
    let mut open: usize = 0;
    while let Some(order) = orders.recv().await {
        match order.split_once(' ') {
            Some(("open", until)) => {
                let until: usize = until.parse().unwrap();
                let opening = (open..until).map(|_| Client::open(address));
                let mut opening = stream::iter(opening).buffer_unordered(AT_ONCE);
                while let Some(client) = opening.next().await {
                    let (client, dying) = (client.unwrap(), dying.clone());
                    if open % 2 == 0 {
                        spawn_local(answer_pings(client, dying, answered.clone()));
                    } else {
                        spawn_local(die_at(client, dying, dies.clone()));
                    }
                    open += 1;
                }
                eprintln!("open");
            }
            _ if order == "die" => {
                word.send(true).unwrap();
                let mut died = Vec::new();
                for _ in 0..open / 2 {
                    died.extend(deaths.recv().await.unwrap());
                }
                eprintln!("{}", died.join(" "));
            }
            _ if order == "count" => {
                for _ in 0..open.div_ceil(2) {
                    answers.recv().await.unwrap();
                }
                eprintln!("all");
            }
            _ => panic!("no such order: {order}"),
        }
    }
}

/// Waits for a ping and answers it.
async fn answer(client: &mut Client, account: &mut Account) -> io::Result<()> {
    let payload = account.read_ping(client).await?;
    account.answer(client, &payload).await
}

/// Answers pings for as long as the connection lasts. Reports when it has answered one for the
/// first time after the others died, or has ended.
async fn answer_pings(
    mut client: Client,
    dying: watch::Receiver<bool>,
    answered: mpsc::UnboundedSender<()>,
) {
    let mut account = Account::new(&client);
    let mut answered = Some(answered);
    while answer(&mut client, &mut account).await.is_ok() {
        if *dying.borrow() {
            if let Some(answered) = answered.take() {
                answered.send(()).unwrap();
            }
        }
    }
    eprintln!("ended {account}");
    if let Some(answered) = answered {
        answered.send(()).unwrap();
    }
}

/// Answers pings until it must die, reports that it does, and then keeps its socket and reads no
/// more. Reports nothing if the connection has ended before.
async fn die_at(
    mut client: Client,
    mut dying: watch::Receiver<bool>,
    dies: mpsc::UnboundedSender<Option<String>>,
) {
    let mut account = Account::new(&client);
    let answering = async { while answer(&mut client, &mut account).await.is_ok() {} };
    tokio::select! {
        _ = dying.changed() => {
            dies.send(Some(client.port.to_string())).unwrap();
            pending().await
        }
        () = answering => {
            eprintln!("ended {account}");
            dies.send(None).unwrap();
        }
    }
}
