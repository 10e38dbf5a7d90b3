//! Ten thousand connections at once, half of which die. The server and the clients are a process each.

use std::cell::Cell;
use std::future::pending;
use std::io::{self, Write};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::MS;
use crate::host::Runtime;
use crate::peers::crowd::Client;
use crate::process::Process;

const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Long enough for the one thread of so many clients on a busy machine.
const PONG_TIMEOUT: Duration = Duration::from_secs(4);

/// By how much the server of so many may be late on a busy machine.
const LATE: Duration = Duration::from_secs(30);

/// The most memory that a connection of the server may take, in KiB, its task, socket and buffers.
const MOST_KIB: f64 = 10.0;

#[test]
fn half_of_ten_thousand_die_on_tokio() {
    half_die(Runtime::TokioThreads);
}

#[test]
fn half_of_ten_thousand_die_on_smol() {
    half_die(Runtime::Smol);
}

#[test]
fn half_of_ten_thousand_die_on_async_std() {
    half_die(Runtime::AsyncStd);
}

#[track_caller]
fn half_die(runtime: Runtime) {
    let all = as_many_as_may_be();
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

    let none_open = server.memory();
    clients.say(&format!("open {few}"));
    clients.expect("open");
    let few_open = server.memory();
    clients.say(&format!("open {all}"));
    clients.expect("open");
    let all_open = server.memory();
    clients.say("die");
    let dead = all / 2;
    for _ in 0..dead {
        let end = server.line();
        let fields: Vec<&str> = end.split(' ').collect();
        assert_eq!(fields[0], "pong_timeout", "{end}");
        let [silent, unanswered] = [fields[1], fields[2]].map(|ms| ms.parse::<u32>().unwrap() * MS);
        assert!(unanswered >= PONG_TIMEOUT, "{end}");
        let bound = PING_INTERVAL + PONG_TIMEOUT;
        assert!(silent <= bound + LATE, "{end}");
    }
    // All others have answered since, and live.
    clients.say("count");
    clients.expect(&format!("{} live", all - dead));
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

/// Ten thousand, or as many as a process may open here, which is said then.
fn as_many_as_may_be() -> usize {
    const ALL: u64 = 10_000;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let all = ALL.min(most.saturating_sub(100)) / 10 * 10;
    if all < ALL {
        let fewer =
            format!("with {all} connections in place of {ALL}: a process may open {most} files\n");
        io::stderr().write_all(fewer.as_bytes()).unwrap();
    }
    all.try_into().unwrap()
}

/// Lets this process open as many files as it may.
pub fn open_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// The clients. What they do they are told in lines: to open connections until there are so many; to let half
/// of them die; to count those that live when each has answered a ping since.
pub fn clients() {
    open_many_files();
    let (heard, orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            heard.send(line.unwrap()).unwrap();
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
    let (answered, mut answers) = mpsc::unbounded_channel();
    let living = Rc::new(Cell::new(0));
    let mut open: usize = 0;
    while let Some(order) = orders.recv().await {
        match order.split_once(' ') {
            Some(("open", until)) => {
                let until: usize = until.parse().unwrap();
                let opening = (open..until).map(|_| Client::open(address));
                let mut opening = stream::iter(opening).buffer_unordered(AT_ONCE);
                while let Some(client) = opening.next().await {
                    let client = client.unwrap();
                    if open % 2 == 0 {
                        let (dying, answered) = (dying.clone(), answered.clone());
                        let living = living.clone();
                        living.set(living.get() + 1);
                        spawn_local(async move {
                            live(client, dying, answered).await;
                            living.set(living.get() - 1);
                        });
                    } else {
                        spawn_local(die_at(client, dying.clone()));
                    }
                    open += 1;
                }
                eprintln!("open");
            }
            _ if order == "die" => drop(word.send(true)),
            _ if order == "count" => {
                for _ in 0..open.div_ceil(2) {
                    answers.recv().await.unwrap();
                }
                eprintln!("{} live", living.get());
            }
            _ => panic!("no such order: {order}"),
        }
    }
}

/// Answers pings for as long as the connection lasts, and says so when it does for the first time after the
/// others are dead.
async fn live(
    mut client: Client,
    dying: watch::Receiver<bool>,
    answered: mpsc::UnboundedSender<()>,
) {
    let mut answered = Some(answered);
    while let Ok(payload) = client.ping().await {
        client.pong(&payload).await.unwrap();
        if *dying.borrow() {
            if let Some(answered) = answered.take() {
                answered.send(()).unwrap();
            }
        }
    }
}

/// Answers pings until it is told to die, and then keeps its socket and reads no more.
async fn die_at(mut client: Client, mut dying: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = dying.changed() => break,
            ping = client.ping() => client.pong(&ping.unwrap()).await.unwrap(),
        }
    }
    pending().await
}
