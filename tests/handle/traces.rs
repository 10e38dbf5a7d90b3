//! Traces for replay.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;
use tungstenite::Message;
use ws_timeout::{
    CloseReason, DrainCode, IdleScope, PongEvidence, Recorder, TimeoutConfig, Timeouts,
};

use crate::common::off;
use crate::replayed::{assert_replays, cases};
use crate::{SECOND, answers, end_in_many_ways, pair, read_to_end, reason};

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn every_verdict_leaves_a_trace_that_replays() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let reasons = end_in_many_ways(&timeouts).await;
    assert_eq!(
        reasons,
        [
            CloseReason::IdleTimeout,
            CloseReason::ConnectionTimeout,
            CloseReason::MessageTimeout,
            CloseReason::HandshakeTimeout
        ]
    );
    let traces = recorder.verdicts();
    for (index, trace) in traces.iter().enumerate() {
        assert_replays(&trace.to_string());
        assert_eq!(
            (trace.id(), trace.reason()),
            (index as u64 + 1, Some(reasons[index]))
        );
        assert!(!trace.is_truncated() && recorder.trace(trace.id()).is_none());
    }
    let labels: Vec<_> = traces.iter().map(|trace| trace.label()).collect();
    assert_eq!(labels, [Some("a \"b\" \\ \n c"), None, None, Some("late")]);
    let [case] = cases::read(&traces[0].to_string())
        .unwrap()
        .try_into()
        .ok()
        .unwrap();
    assert_eq!(case.name, "connection 1 (a \"b\" \\ \n c): idle_timeout");
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_verdict_that_a_send_returned_leaves_a_trace_though_the_socket_is_dropped() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let (mut socket, _client) = pair(&timeouts).await;
    assert!(timeout(SECOND, socket.next()).await.is_err());
    socket.drain(Duration::ZERO);
    assert!(socket.next().now_or_never().is_none());
    let sent = socket.send(Message::text("late")).await;
    assert_eq!(reason(sent.err()), Some(CloseReason::Drain));
    drop(socket);
    let traces = recorder.verdicts();
    assert_eq!(traces.len(), 1);
    assert_eq!(traces[0].reason(), Some(CloseReason::Drain));
    assert_replays(&traces[0].to_string());
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn the_trace_of_an_open_connection_has_its_label_and_the_longest_lengths() {
    let recorder = Recorder::new();
    let timeouts = Timeouts::new(TimeoutConfig::default()).with_observer(recorder.clone());
    let (socket, _client) = pair(&timeouts).await;
    let mut socket = socket.with_label("user 7");
    for within in [Duration::MAX, Duration::from_secs(u64::MAX)] {
        socket.drain(within);
        socket.probe(within);
    }
    assert!(socket.next().now_or_never().is_none());
    let trace = recorder.trace(1).unwrap();
    assert_eq!(trace.label(), Some("user 7"));
    assert_replays(&trace.to_string());
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_recorder_keeps_the_first_steps_and_the_last_verdicts() {
    let steps = |trace: &ws_timeout::Trace| trace.to_string().matches("at_ns").count();
    let config = off().idle_timeout(SECOND).build().unwrap();
    let timeouts = Timeouts::new(config);
    let recorder = Recorder::new();
    let observed = timeouts.clone().with_observer(recorder.clone());
    read_to_end(pair(&observed).await.0).await;
    let all = steps(&recorder.verdicts()[0]);
    assert!(all > 3);
    for (most, is_truncated) in [(all, false), (all - 1, true)] {
        let recorder = Recorder::new().with_max_steps(most);
        let observed = timeouts.clone().with_observer(recorder.clone());
        for _ in 0..18 {
            let (mut socket, _client) = pair(&observed).await;
            let id = socket.handle().id();
            read_to_end(socket).await;
            assert_eq!(recorder.verdicts().last().unwrap().id(), id);
        }
        let traces = recorder.verdicts();
        assert_eq!(traces.len(), 16);
        assert!(
            traces
                .windows(2)
                .all(|pair| pair[0].id() + 1 == pair[1].id())
        );
        for trace in &traces {
            assert_eq!((trace.is_truncated(), steps(trace)), (is_truncated, most));
            assert_eq!(trace.to_string().contains("final"), !is_truncated);
            assert_eq!(trace.to_string().contains(", truncated"), is_truncated);
            assert_replays(&trace.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_displace_failures() {
    let recorder = Recorder::new();
    let config = off().idle_timeout(SECOND).build().unwrap();
    let timeouts = Timeouts::new(config).with_observer(recorder.clone());
    let reasons = || -> Vec<_> {
        let traces = recorder.verdicts();
        traces.iter().filter_map(|trace| trace.reason()).collect()
    };
    let end = async |drains| {
        let (mut socket, client) = pair(&timeouts).await;
        if drains {
            answers(client);
            socket.drain(Duration::ZERO);
        }
        read_to_end(socket).await;
    };
    end(false).await;
    for _ in 0..20 {
        end(true).await;
    }
    assert_eq!(reasons()[0], CloseReason::IdleTimeout);
    assert_eq!(reasons()[1..], [CloseReason::Drain; 15]);
    for _ in 0..15 {
        end(false).await;
    }
    assert_eq!(reasons(), [CloseReason::IdleTimeout; 16]);
    end(true).await;
    assert_eq!(reasons(), [CloseReason::IdleTimeout; 16]);
}

/// Guards rule 27.
#[tokio::test(start_paused = true)]
async fn a_trace_contains_the_whole_configuration() {
    let defaults = TimeoutConfig::builder().jitter(0.0);
    let odd = Duration::from_nanos(7_654_321);
    let on = defaults
        .handshake_timeout(11 * SECOND)
        .heartbeat_interval(31 * SECOND)
        .connection_timeout(301 * SECOND)
        .message_timeout(odd)
        .idle_timeout(61 * SECOND)
        .ping_interval(26 * SECOND)
        .pong_timeout(59 * SECOND)
        .close_timeout(SECOND)
        .stall_tolerance(4 * SECOND)
        .resume_probe(29 * SECOND)
        .min_data_rate(241)
        .max_ping_rate(21)
        .jitter(0.25)
        .idle_scope(IdleScope::Messages)
        .pong_evidence(PongEvidence::Pong)
        .drain_code(DrainCode::ServiceRestart);
    for config in [defaults, off(), on] {
        let config = config.build().unwrap();
        let recorder = Recorder::new();
        let (_socket, _client) = pair(Timeouts::new(config).with_observer(recorder.clone())).await;
        let text = recorder.trace(1).unwrap().to_string();
        let case = cases::read(&text).unwrap().remove(0);
        let mut read = None;
        case.run_on(|config, opening| case.policy(*read.insert(config), opening))
            .unwrap();
        assert_eq!(read, Some(config));
    }
}
