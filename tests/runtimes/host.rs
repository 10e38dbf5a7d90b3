//! The runtimes, each behind the same few functions: start it, spawn a task, open a socket, block
//! it.

use std::fmt;
use std::net::TcpStream;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures_util::{FutureExt, Sink, Stream, TryFutureExt};
use tokio::sync::oneshot;
use tungstenite::Message;
use tungstenite::protocol::WebSocketConfig;
use ws_timeout::{Error, Metered, Status, TimeoutSocket, Timeouts, Timer};

/// The runtimes that the contract covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Runtime {
    Tokio,
    TokioThreads,
    Smol,
    AsyncStd,
}

pub const RUNTIMES: [Runtime; 4] = [
    Runtime::Tokio,
    Runtime::TokioThreads,
    Runtime::Smol,
    Runtime::AsyncStd,
];

/// A `TimeoutSocket` on any of them.
pub trait Guarded:
    Stream<Item = Result<Message, Failure>> + Sink<Message, Error = Failure> + Unpin + Send
{
    fn status(&self) -> Status;
}

pub type Failure = Error<tungstenite::Error>;

#[derive(Clone, Copy)]
pub enum Role {
    Server,
    Client,
}

impl Runtime {
    /// Returns the runtime that displays as `name`.
    #[track_caller]
    pub fn named(name: &str) -> Self {
        let mut runtimes = RUNTIMES.into_iter();
        runtimes
            .find(|runtime| runtime.to_string() == name)
            .unwrap()
    }

    /// Runs the opening handshake over `tcp` and wraps the socket. Must be awaited on this runtime.
    pub async fn open(
        self,
        role: Role,
        settings: WebSocketConfig,
        timeouts: impl Into<Timeouts>,
        tcp: TcpStream,
    ) -> Result<Box<dyn Guarded>, Failure> {
        const URL: &str = "ws://localhost/";
        let settings = Some(settings);
        tcp.set_nonblocking(true).unwrap();
        let timeouts = timeouts.into();
        match self {
            Self::Tokio | Self::TokioThreads => {
                use tokio_tungstenite::{accept_async_with_config, client_async_with_config};
                let transport = Metered::socket(tokio::net::TcpStream::from_std(tcp).unwrap());
                let meter = transport.meter();
                let handshake = match role {
                    Role::Server => accept_async_with_config(transport, settings).boxed(),
                    Role::Client => client_async_with_config(URL, transport, settings)
                        .map_ok(|(socket, _)| socket)
                        .boxed(),
                };
                let opening = ws_timeout::runtime::tokio::open(&timeouts, handshake);
                Ok(Box::new(opening.with_meter(meter).await?))
            }
            Self::Smol => {
                use async_tungstenite::{accept_async_with_config, client_async_with_config};
                let transport = Metered::socket(smol::net::TcpStream::try_from(tcp).unwrap());
                let meter = transport.meter();
                let handshake = match role {
                    Role::Server => accept_async_with_config(transport, settings).boxed(),
                    Role::Client => client_async_with_config(URL, transport, settings)
                        .map_ok(|(socket, _)| socket)
                        .boxed(),
                };
                let opening = ws_timeout::runtime::smol::open(&timeouts, handshake);
                Ok(Box::new(opening.with_meter(meter).await?))
            }
            Self::AsyncStd => {
                use async_tungstenite::{accept_async_with_config, client_async_with_config};
                let transport = Metered::new(async_std::net::TcpStream::from(tcp));
                let meter = transport.meter();
                let handshake = match role {
                    Role::Server => accept_async_with_config(transport, settings).boxed(),
                    Role::Client => client_async_with_config(URL, transport, settings)
                        .map_ok(|(socket, _)| socket)
                        .boxed(),
                };
                let opening = ws_timeout::runtime::async_std::open(&timeouts, handshake);
                Ok(Box::new(opening.with_meter(meter).await?))
            }
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio => "tokio, one thread",
            Self::TokioThreads => "tokio, threads",
            Self::Smol => "smol",
            Self::AsyncStd => "async-std",
        })
    }
}

impl<S, T> Guarded for TimeoutSocket<S, T>
where
    S: Stream<Item = Result<Message, tungstenite::Error>>
        + Sink<Message, Error = tungstenite::Error>
        + Unpin
        + Send,
    T: Timer + Unpin + Send,
{
    #[expect(
        clippy::use_self,
        reason = "`Self::status` would read like this method calling itself"
    )]
    fn status(&self) -> Status {
        TimeoutSocket::status(self)
    }
}

/// A running runtime, until it is dropped. (That of async-std is global, and keeps running.)
pub struct Host {
    tasks: Tasks,
    /// How many threads run tasks.
    threads: usize,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

enum Tasks {
    Tokio(tokio::runtime::Handle),
    Smol(Arc<smol::Executor<'static>>),
    AsyncStd,
}

impl Host {
    pub fn start(runtime: Runtime) -> Self {
        Self::start_with_events(runtime, 1024)
    }

    /// The same, but tokio's reactor notices at most `events` sockets in one turn; the default is
    /// 1024.
    pub fn start_with_events(runtime: Runtime, events: usize) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tasks, threads, thread) = match runtime {
            Runtime::Tokio | Runtime::TokioThreads => {
                let threads = if runtime == Runtime::Tokio { 1 } else { 2 };
                let mut builder = match runtime {
                    Runtime::Tokio => tokio::runtime::Builder::new_current_thread(),
                    _ => tokio::runtime::Builder::new_multi_thread(),
                };
                builder.worker_threads(threads).enable_all();
                builder.max_io_events_per_tick(events);
                #[cfg(tokio_unstable)]
                if runtime == Runtime::TokioThreads {
                    builder.enable_alt_timer();
                }
                let runtime = builder.build().unwrap();
                let tasks = Tasks::Tokio(runtime.handle().clone());
                let thread = thread::spawn(move || drop(runtime.block_on(stopped)));
                (tasks, threads, Some(thread))
            }
            Runtime::Smol => {
                let executor = Arc::new(smol::Executor::new());
                let tasks = Tasks::Smol(executor.clone());
                let thread = thread::spawn(move || drop(smol::block_on(executor.run(stopped))));
                (tasks, 1, Some(thread))
            }
            Runtime::AsyncStd => (Tasks::AsyncStd, threads_of_async_std(), None),
        };
        Self {
            tasks,
            threads,
            stop: Some(stop),
            thread,
        }
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.tasks {
            Tasks::Tokio(runtime) => drop(runtime.spawn(task)),
            Tasks::Smol(executor) => executor.spawn(task).detach(),
            Tasks::AsyncStd => drop(async_std::task::spawn(task)),
        }
    }

    /// Blocks all threads of the runtime at once, right after they have run `wake`, and waits until
    /// they continue.
    pub fn block(&self, length: Duration, wake: impl Fn() + Clone + Send + 'static) {
        // Two threads that block one runtime would wait for each other.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = matches!(self.tasks, Tasks::AsyncStd).then(|| ONE_AT_A_TIME.lock());
        let all_here = Arc::new(Barrier::new(self.threads));
        let (over, all_over) = mpsc::channel::<()>();
        for _ in 0..self.threads {
            let all_here = all_here.clone();
            let (over, wake) = (over.clone(), wake.clone());
            self.spawn(async move {
                all_here.wait();
                wake();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the blocked thread is what this is about"
                )]
                thread::sleep(length);
                drop(over);
            });
        }
        drop(over);
        // Nothing is ever sent: it fails once the last sender is dropped.
        assert!(all_over.recv().is_err());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It fails if a task has failed, which that task has reported.
            let _ = thread.join();
        }
    }
}

fn threads_of_async_std() -> usize {
    let asked = std::env::var("ASYNC_STD_THREAD_COUNT").ok();
    asked
        .and_then(|threads| threads.parse().ok())
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}
