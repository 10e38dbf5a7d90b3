//! What a subscriber of tracing gets of a connection: the log's words, and typed fields.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::duplex;
use tokio_tungstenite::WebSocketStream;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Instrument, Level, Metadata, Subscriber, info_span};
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{open, wrap};
use ws_timeout::{TimeoutConfig, TimeoutConfigBuilder, Timeouts, Tracing};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_verdict_is_an_event_with_typed_fields_in_the_span_of_the_task() {
    let collected = Collected::default();
    let _guard = tracing::dispatcher::set_default(&Dispatch::new(collected.clone()));
    let config = builder()
        .ping_interval(20 * SECOND)
        .pong_timeout(10 * SECOND);
    let timeouts = Timeouts::new(config.build().unwrap()).with_observer(Tracing);
    let (server, client) = duplex(64);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let socket = wrap(&timeouts, server).with_label("bob\nWARN");
    let mut socket = socket.with_timer_slack(Duration::ZERO);
    let answers_once = async {
        client.next().await;
        client.flush().await.unwrap();
    };
    let receives = async { socket.recv().await.unwrap_err() };
    let both = async { tokio::join!(answers_once, receives) };
    let (_, error) = both.instrument(info_span!("connection")).await;

    let [opened, ping, pong, _ping, verdict, closed] = collected.take();
    for event in [&opened, &ping, &pong, &verdict, &closed] {
        assert_eq!(event.target, "ws_timeout");
        assert_eq!(event.span.as_deref(), Some("connection"));
        event.says("label", "str bob\\nWARN");
        event.says("id", "u64 1");
    }
    let names = [&opened, &ping, &pong, &verdict, &closed].map(|event| &*event.fields["event"]);
    let expected = ["opened", "ping", "pong", "verdict", "closed"];
    assert_eq!(names, expected.map(|name| format!("str {name}")));

    assert_eq!((opened.level, pong.level), (Level::DEBUG, Level::DEBUG));
    opened.says("bound_ms", "u64 31000");
    opened.says("metered", "bool false");
    pong.says("rtt_us", "u64 0");

    assert_eq!((verdict.level, closed.level), (Level::WARN, Level::INFO));
    assert_eq!(
        verdict.fields["message"],
        "close sent, dropped: pong_timeout: ping unanswered for 10.015 s (limit 10 s); age 50.015 s; 2 pings, 1 pong, rtt 0 s"
    );
    assert!(
        error
            .to_string()
            .ends_with("age 50.015 s; 2 pings, 1 pong, rtt 0 s")
    );
    verdict.says("limit", "str pong_timeout");
    verdict.says("allowed_ms", "u64 10000");
    verdict.says("age_ms", "u64 50015");
    verdict.says("code", "u64 1011");
    assert!(!verdict.fields.contains_key("error"), "{verdict:?}");
    assert_eq!(
        closed.fields["message"],
        "closed after 50.015 s: pong_timeout, close sent, dropped"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_is_a_field_and_the_name_of_a_connection_without_one_is_a_dash() {
    let collected = Collected::default();
    let _guard = tracing::dispatcher::set_default(&Dispatch::new(collected.clone()));
    let timeouts = Timeouts::new(builder().build().unwrap()).with_observer(Tracing);
    let handshake = async { Err::<WebSocketStream<tokio::io::DuplexStream>, _>("no\nway") };
    open(&timeouts, handshake).await.unwrap_err();
    let [failed] = collected.take();
    assert_eq!(failed.level, Level::INFO);
    assert_eq!(failed.span, None);
    failed.says("label", "str -");
    failed.says("error", "no\\nway");
    assert_eq!(
        failed.fields["message"],
        "the opening handshake failed: no\\nway"
    );
}

fn builder() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .no_connection_timeout()
        .no_idle_timeout()
        .no_ping_interval()
        .jitter(0.0)
}

/// Keeps all events, and in which span they were.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: Vec<Seen>,
    /// The names of the spans; an id is a place here, counted from 1.
    spans: Vec<&'static str>,
    entered: Vec<Id>,
}

#[derive(Debug)]
struct Seen {
    level: Level,
    target: String,
    span: Option<String>,
    /// Each with its type, but for what is only formatted.
    fields: BTreeMap<&'static str, String>,
}

impl Collected {
    #[track_caller]
    fn take<const COUNT: usize>(&self) -> [Seen; COUNT] {
        let events = std::mem::take(&mut self.0.lock().unwrap().events);
        events.try_into().unwrap_or_else(|all| panic!("{all:#?}"))
    }
}

impl Seen {
    #[track_caller]
    fn says(&self, key: &str, value: &str) {
        let said = self.fields.get(key).map(String::as_str);
        assert_eq!(said, Some(value), "{key} of {self:#?}");
    }
}

impl Subscriber for Collected {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().unwrap();
        state.spans.push(span.metadata().name());
        Id::from_u64(state.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut state = self.0.lock().unwrap();
        let entered = state.entered.last();
        let span = entered.map(|id| state.spans[id.into_u64() as usize - 1].to_owned());
        let mut seen = Seen {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            span,
            fields: BTreeMap::new(),
        };
        event.record(&mut seen);
        state.events.push(seen);
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.clone());
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().entered.pop();
    }
}

impl Visit for Seen {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name(), format!("u64 {value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name(), format!("bool {value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), format!("str {value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}
