//! The task that keeps the timeouts of all connections.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};
use ws_timeout::{Action, Event, Fleet, FleetKey, TimeoutConfig, Timestamp};

/// Starts a task for each accepted connection, and tells it when to ping and when to close.
pub async fn run(mut accepted: Receiver<TcpStream>, config: Arc<TimeoutConfig>) {
    let start = Instant::now();
    let now = || Timestamp::from_duration(start.elapsed());
    let (reports, mut reported) = unbounded_channel();
    let mut fleet = Fleet::new();
    let mut connections: HashMap<FleetKey, UnboundedSender<Action>> = HashMap::new();
    loop {
        // 1. Wait for a connection, for events, or for the next deadline.
        let mut events = Vec::new();
        let due = fleet.next_deadline();
        let due = due.map(|due| sleep_until(start + Duration::from_nanos(due.as_nanos())));
        let expired = tokio::select! {
            Some(tcp) = accepted.recv() => {
                let (sender, actions) = unbounded_channel();
                let seed = RandomState::new().hash_one(());
                let key = fleet.insert_opening(config.clone(), seed, now());
                connections.insert(key, sender);
                let (config, reports) = (config.clone(), reports.clone());
                tokio::spawn(async move {
                    let report = |event| _ = reports.send((key, event));
                    crate::serve(tcp, &config, report, actions).await;
                    report(Event::Closed);
                });
                false
            }
            _ = reported.recv_many(&mut events, 1024) => false,
            Some(()) = OptionFuture::from(due) => true,
        };
        let at = now();

        // 2. Before a deadline counts, the connections read what has arrived. A turn of tokio's
        //    reactor reports at most 1024 sockets, and after a blocked thread there may be more.
        if expired {
            for _ in 0..16 {
                sleep(Duration::from_millis(1)).await;
            }
            events.extend(std::iter::from_fn(|| reported.try_recv().ok()));
        }

        // 3. Observe what was received before the poll, so that it counts, and the flush of a ping
        //    after it, so that the wait for its pong does not begin before the flush.
        let is_ping = |(_, event): &_| matches!(event, Event::PingSent(_));
        let (pings, others): (Vec<_>, Vec<_>) = events.into_iter().partition(is_ping);
        for (key, event) in others {
            fleet.observe(key, at, event);
            if event == Event::Closed {
                fleet.remove(key);
                connections.remove(&key);
            }
        }
        if expired {
            while let Some((key, action)) = fleet.poll(at) {
                let _ = connections[&key].send(action);
            }
        }
        for (key, event) in pings {
            fleet.observe(key, now(), event);
        }
    }
}
