//! A simulated network on simulated time, in which a partition begins at a known instant.

use std::time::Duration;

use futures_util::StreamExt;
use tokio_tungstenite::{accept_async_with_config, client_async};
use turmoil::net::{TcpListener, TcpStream};
use ws_timeout::message::tungstenite_config;
use ws_timeout::runtime::tokio::open;
use ws_timeout::{CloseHandshake, CloseReason, Error, Metered, Received, TimeoutConfig, Verdict};

use crate::{MS, SECOND};

const PING_INTERVAL: Duration = Duration::from_secs(1);
const PONG_TIMEOUT: Duration = Duration::from_millis(500);

/// Halfway between the second and the third ping.
const BREAK: Duration = Duration::from_millis(2500);

/// When the third pong is overdue, from when the connection opened.
const OVERDUE: Duration = Duration::from_millis(3500);

/// The turns of the reactor from then to the verdict, a millisecond each.
const TURNS: Duration = Duration::from_millis(15);

#[test]
fn a_partition_is_detected_when_the_next_pong_is_overdue() {
    let breaks: [fn(); 3] = [
        || turmoil::partition("server", "peer"),
        || turmoil::partition_oneway("server", "peer"),
        || turmoil::partition_oneway("peer", "server"),
    ];
    for network_breaks in breaks {
        let verdict = simulate(async move {
            tokio::time::sleep(BREAK).await;
            network_breaks();
        });
        let verdict = verdict.expect("the peer is disconnected");
        assert_eq!(verdict.reason, CloseReason::PongTimeout);
        assert_eq!(verdict.close_handshake, CloseHandshake::Sent);
        assert_eq!(verdict.status.pongs_received, 2);
        assert_eq!(verdict.status.age, OVERDUE + TURNS);
    }
}

#[test]
fn a_partition_that_heals_in_time_has_no_effect() {
    let verdict = simulate(async {
        tokio::time::sleep(BREAK).await;
        turmoil::hold("server", "peer");
        // The third ping waits almost until it is overdue.
        tokio::time::sleep(OVERDUE - 50 * MS - BREAK).await;
        turmoil::release("server", "peer");
    });
    assert!(verdict.is_none(), "{verdict:?}");
}

#[test]
fn a_partition_that_heals_too_late_ends_the_connection() {
    let verdict = simulate(async {
        tokio::time::sleep(BREAK).await;
        turmoil::hold("server", "peer");
        tokio::time::sleep(OVERDUE + 50 * MS - BREAK).await;
        turmoil::release("server", "peer");
    });
    let verdict = verdict.expect("the peer is disconnected");
    assert_eq!(verdict.reason, CloseReason::PongTimeout);
    assert_eq!(verdict.status.age, OVERDUE + TURNS);
}

/// Simulates six seconds of a server and a peer that answers, with `faults` from when the
/// connection is open. Returns the verdict, if there was one.
fn simulate(faults: impl Future<Output = ()> + Send + 'static) -> Option<Verdict> {
    let mut simulation = turmoil::Builder::new()
        .simulation_duration(10 * SECOND)
        .min_message_latency(10 * MS)
        .max_message_latency(10 * MS)
        .build();

    simulation.host("peer", || async {
        let tcp = TcpStream::connect("server:80").await?;
        let (mut socket, _) = client_async("ws://server/", tcp).await?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok(())
    });

    let (decided, verdict) = std::sync::mpsc::channel();
    simulation.client("server", async move {
        let listener = TcpListener::bind("0.0.0.0:80").await?;
        let transport = Metered::new(listener.accept().await?.0);
        let meter = transport.meter();
        let config = TimeoutConfig::builder()
            .ping_interval(PING_INTERVAL)
            .pong_timeout(PONG_TIMEOUT)
            .jitter(0.0)
            .build()?;
        let handshake = accept_async_with_config(transport, Some(tungstenite_config()));
        let socket = open(config, handshake).with_meter(meter).await?;
        let mut socket = socket.with_timer_slack(Duration::ZERO);
        tokio::spawn(faults);
        decided.send(match socket.recv_timeout(6 * SECOND).await {
            Err(Error::Verdict(verdict)) => Some(verdict),
            other => {
                assert_eq!(other?, Received::TimedOut);
                None
            }
        })?;
        Ok(())
    });
    simulation.run().unwrap();
    verdict.recv().unwrap()
}
