//! The timeouts of a server: its limits, its observer and its connections.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use std::vec::Vec;

use super::handle::Handle;
use super::link::{Link, shorter};
use crate::config::TimeoutConfig;
use crate::env::EnvError;
use crate::observer::Observer;
use crate::report;

/// The timeouts of a server or a client: its limits, its observer and the list of its connections.
///
/// Pass it, or a reference to it, to [`runtime::tokio::wrap`] or `open` in place of a
/// configuration. Clones share the list, and so do the values that
/// [`with_config`](Self::with_config) returns for single routes.
///
/// A connection is on the list from the call to `open` or `wrap` until it ends.
///
/// ```
/// # use std::time::Duration;
/// # use futures_util::StreamExt;
/// # use tokio_tungstenite::WebSocketStream;
/// # use tungstenite::protocol::Role;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (ours, peers) = tokio::io::duplex(1024);
/// # let stream = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
/// # let client = WebSocketStream::from_raw_socket(peers, Role::Client, None).await;
/// # tokio::spawn(async move { client.for_each(|_| async {}).await });
/// use ws_timeout::{TimeoutConfig, Timeouts, runtime::tokio::wrap};
///
/// let timeouts = Timeouts::new(TimeoutConfig::production());
/// let mut socket = wrap(&timeouts, stream).with_label("user 7");
/// tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
/// assert_eq!(timeouts.len(), 1);
///
/// // At shutdown:
/// timeouts.drain(Duration::from_secs(10)).await;
/// assert!(timeouts.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// [`runtime::tokio::wrap`]: crate::runtime
#[derive(Clone)]
pub struct Timeouts {
    config: Arc<TimeoutConfig>,
    /// `None` if this was created from a configuration alone.
    common: Option<Arc<Common>>,
}

/// The state that the routes of a server share.
#[derive(Clone, Default)]
pub(super) struct Common {
    observer: Option<Arc<dyn Observer>>,
    slack: Option<Duration>,
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    connections: BTreeMap<u64, Arc<Link>>,
    next_id: u64,
    /// How soon to close connections that begin from now on; `None` unless a drain has begun.
    draining: Option<Duration>,
    /// The tasks that are waiting until the list is empty.
    waiters: Vec<Waker>,
}

impl Timeouts {
    /// Creates timeouts with the limits `config` and an empty list of connections.
    pub fn new(config: impl Into<Arc<TimeoutConfig>>) -> Self {
        Self {
            config: config.into(),
            common: Some(Arc::default()),
        }
    }

    /// Creates timeouts with the limits of the environment, as [`TimeoutConfig::from_env`] reads
    /// them, and an empty list of connections.
    ///
    /// Logs the limits at `info` and the settings that are probably mistakes at `warn`. Logs
    /// unknown variables that begin with `WS_` at `warn` if they are probably misspelled, otherwise
    /// at `info`.
    ///
    /// # Errors
    /// Returns one [`EnvError`] that lists every variable with an invalid value.
    pub fn from_env() -> Result<Self, EnvError> {
        let loaded = TimeoutConfig::from_env()?;
        report::unknown_variables(&loaded.unknown);
        report::limits(&loaded.config);
        Ok(Self::new(loaded.config))
    }

    /// Returns a clone with other limits, for example for one route. Existing connections keep
    /// their limits.
    #[must_use]
    pub fn with_config(&self, config: impl Into<Arc<TimeoutConfig>>) -> Self {
        Self {
            config: config.into(),
            common: self.common.clone(),
        }
    }

    /// Sets the observer of connections that begin from now on, in place of the log.
    #[must_use]
    pub fn with_observer(self, observer: impl Observer) -> Self {
        self.with_common(|common| common.observer = Some(Arc::new(observer)))
    }

    /// Sets the timer slack of connections that begin from now on.
    /// [`TimeoutSocket::with_timer_slack`](crate::TimeoutSocket::with_timer_slack) explains the
    /// slack, and takes precedence.
    #[must_use]
    pub fn with_timer_slack(self, slack: Duration) -> Self {
        self.with_common(|common| common.slack = Some(slack))
    }

    fn with_common(mut self, set: impl FnOnce(&mut Common)) -> Self {
        set(Arc::make_mut(self.common.get_or_insert_default()));
        self
    }

    /// Returns the limits of connections that begin from now on.
    pub fn config(&self) -> &Arc<TimeoutConfig> {
        &self.config
    }

    /// Returns the number of connections on the list, including those whose opening handshake is in
    /// progress.
    pub fn len(&self) -> usize {
        self.list().map_or(0, |list| list.connections.len())
    }

    /// Returns whether no connection is on the list.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns handles to all connections on the list, oldest first.
    ///
    /// For example, to get the status of every connection that answers within a second:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use futures_util::future::join_all;
    /// # use ws_timeout::{Status, Timeouts};
    /// # async fn example(timeouts: &Timeouts) -> Vec<Status> {
    /// let second = Duration::from_secs(1);
    /// let handles = timeouts.handles();
    /// let statuses = handles.iter().map(|handle| tokio::time::timeout(second, handle.status()));
    /// join_all(statuses).await.into_iter().flatten().collect()
    /// # }
    /// ```
    pub fn handles(&self) -> Vec<Handle> {
        let list = self.list();
        let links = list.iter().flat_map(|list| list.connections.values());
        links.map(|link| Handle { link: link.clone() }).collect()
    }

    /// Closes all connections, each at a random point within `within`, and waits until the list is
    /// empty.
    ///
    /// The call itself starts the drain; the future only waits, so dropping it does not stop the
    /// drain. Connections that begin later are closed within `within` from their start. If you call
    /// this several times, the shortest `within` counts.
    ///
    /// If all connections are polled, the drain takes at most `within` plus `close_timeout` plus
    /// the timer slack, and also `handshake_timeout` if an opening handshake is in progress. A task
    /// that does not poll its socket delays the drain, so limit the wait at shutdown.
    pub fn drain(&self, within: Duration) -> impl Future<Output = ()> + Send + use<> {
        let common = self.common.clone();
        let draining = common.iter().flat_map(|common| {
            let mut list = common.lock();
            list.draining = shorter(list.draining, within);
            list.connections.values().cloned().collect::<Vec<_>>()
        });
        for link in draining {
            link.drain(within);
        }
        poll_fn(move |cx| {
            let Some(common) = &common else {
                return Poll::Ready(());
            };
            let mut list = common.lock();
            if list.connections.is_empty() {
                return Poll::Ready(());
            }
            if !list.waiters.iter().any(|known| known.will_wake(cx.waker())) {
                list.waiters.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    pub(super) fn into_parts(self) -> (Arc<TimeoutConfig>, Option<Arc<Common>>) {
        (self.config, self.common)
    }

    fn list(&self) -> Option<MutexGuard<'_, List>> {
        self.common.as_ref().map(|common| common.lock())
    }
}

/// Uses the limits alone, without a list and with the default [`Log`](crate::Log).
impl From<Arc<TimeoutConfig>> for Timeouts {
    fn from(config: Arc<TimeoutConfig>) -> Self {
        Self {
            config,
            common: None,
        }
    }
}

/// Uses the limits alone, without a list and with the default [`Log`](crate::Log).
impl From<TimeoutConfig> for Timeouts {
    fn from(config: TimeoutConfig) -> Self {
        Arc::new(config).into()
    }
}

/// Clones the timeouts. The clone shares the list.
impl From<&Self> for Timeouts {
    fn from(timeouts: &Self) -> Self {
        timeouts.clone()
    }
}

impl Common {
    pub(super) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    pub(super) fn slack(&self) -> Option<Duration> {
        self.slack
    }

    pub(super) fn next_id(&self) -> u64 {
        let mut list = self.lock();
        list.next_id += 1;
        list.next_id
    }

    /// Puts a connection on the list, and drains it if a drain has begun.
    pub(super) fn add(&self, id: u64, link: &Arc<Link>) {
        let mut list = self.lock();
        list.connections.insert(id, link.clone());
        let draining = list.draining;
        drop(list);
        if let Some(within) = draining {
            link.drain(within);
        }
    }

    pub(super) fn remove(&self, id: u64) {
        let mut list = self.lock();
        let removed = list.connections.remove(&id);
        let waiters = match list.connections.is_empty() {
            true => std::mem::take(&mut list.waiters),
            false => Vec::new(),
        };
        drop(list);
        drop(removed);
        waiters.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeouts")
            .field("config", &self.config)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
