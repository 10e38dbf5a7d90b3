//! What a tracing subscriber receives about a connection: the log's words, typed fields and a span.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tracing::dispatcher::DefaultGuard;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Instrument, Level, Metadata, Subscriber, info_span};
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open, wrap};
use ws_timeout::{
    Connection, Observer, Report, TimeoutConfig, TimeoutConfigBuilder, TimeoutSocket, Timeouts,
    Tracing,
};

const SECOND: Duration = Duration::from_secs(1);

type Client = WebSocketStream<DuplexStream>;
type Guarded = TimeoutSocket<Client, Timer>;

#[tokio::test(start_paused = true)]
async fn a_verdict_is_an_event_with_typed_fields_in_the_span_of_the_connection() {
    let (collected, _guard) = Collected::begin();
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
    let (_, error) = both.instrument(info_span!("room")).await;

    let [opened, ping, pong, _ping, verdict, closed] = collected.take();
    for event in [&opened, &ping, &pong, &verdict, &closed] {
        assert_eq!(event.target, "ws_timeout");
        assert_eq!(collected.scope(event), ["websocket", "room"]);
        event.says("label", "str bob\\nWARN");
        event.says("id", "u64 1");
    }
    let names = [&opened, &ping, &pong, &verdict, &closed].map(|event| &*event.fields["event"]);
    let expected = ["opened", "ping", "pong", "verdict", "closed"];
    assert_eq!(names, expected.map(|name| format!("str {name}")));

    assert_eq!((opened.level, pong.level), (Level::DEBUG, Level::DEBUG));
    opened.says("detection_bound_ms", "u64 31000");
    opened.says("metered", "bool false");
    pong.says("rtt_us", "u64 0");

    assert_eq!((verdict.level, closed.level), (Level::WARN, Level::INFO));
    assert_eq!(
        verdict.fields["message"],
        "aborted after a Close frame: pong_timeout: ping unanswered for 10.015 s (limit 10 s); age 50.015 s; 2 pings, 1 pong, rtt 0 s"
    );
    assert!(
        error
            .to_string()
            .ends_with("age 50.015 s; 2 pings, 1 pong, rtt 0 s")
    );
    verdict.says("reason", "str pong_timeout");
    verdict.says("limit_ms", "u64 10000");
    verdict.says("age_ms", "u64 50015");
    verdict.says("code", "u64 1011");
    assert!(!verdict.fields.contains_key("error"), "{verdict:?}");
    assert_eq!(
        closed.fields["message"],
        "ended after 50.015 s: pong_timeout, aborted after a Close frame"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_is_a_field_and_the_name_of_a_connection_without_one_is_a_dash() {
    let (collected, _guard) = Collected::begin();
    let timeouts = Timeouts::new(builder().build().unwrap()).with_observer(Tracing);
    let handshake = async { Err::<WebSocketStream<tokio::io::DuplexStream>, _>("no\nway") };
    open(&timeouts, handshake).await.unwrap_err();
    let [failed] = collected.take();
    assert_eq!(failed.level, Level::INFO);
    assert_eq!(collected.scope(&failed), ["websocket"]);
    failed.says("label", "str -");
    failed.says("error", "no\\nway");
    assert_eq!(
        failed.fields["message"],
        "the opening handshake failed: no\\nway"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_a_span_from_the_first_poll_to_the_end() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder().idle_timeout(60 * SECOND));
    let (mut socket, _client) = pair(&timeouts, "bob\nWARN").await;
    assert!(collected.connections().is_empty());

    let first = socket.recv_timeout(SECOND);
    let first = first.instrument(info_span!("room")).await;
    first.unwrap();
    let [span] = &*collected.connections() else {
        panic!("{:#?}", collected.connections());
    };
    assert_eq!((span.level, span.target), (Level::INFO, "ws_timeout"));
    assert_eq!(collected.span(span.parent.as_ref().unwrap()).name, "room");
    let fields = [("id", "u64 1"), ("label", "str bob\\nWARN")];
    let fields = fields.map(|(key, value)| (key, value.to_owned()));
    assert_eq!(span.fields, BTreeMap::from(fields));
    assert!(!span.is_closed());

    // Neither the socket nor its handle keeps the span open, and another span changes nothing.
    let handle = socket.handle();
    let last = socket.recv().instrument(info_span!("other"));
    last.await.unwrap_err();
    assert_eq!(collected.reason("bob\\nWARN"), "str idle_timeout");
    let [opened, verdict, closed] = collected.take();
    for event in [opened, verdict, closed] {
        assert_eq!(collected.scope(&event), ["websocket", "room"]);
    }
    drop((handle, socket));
    assert_eq!(collected.reason("bob\\nWARN"), "str idle_timeout");
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_closed_connection_has_the_reason() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder().close_timeout(SECOND));

    let (mut socket, mut client) = pair(&timeouts, "peer").await;
    client.close(None).await.unwrap();
    tokio::spawn(client.for_each(|_| async {}));
    while let Ok(Some(_)) = socket.recv().await {}
    assert_eq!(collected.reason("peer"), "str closed");

    let (mut socket, client) = pair(&timeouts, "program").await;
    tokio::spawn(client.for_each(|_| async {}));
    socket.close(1000, "").await.unwrap();
    assert_eq!(collected.reason("program"), "str closed");

    let (mut socket, client) = pair(&timeouts, "drained").await;
    tokio::spawn(client.for_each(|_| async {}));
    socket.drain(Duration::ZERO);
    socket.recv().await.unwrap_err();
    assert_eq!(collected.reason("drained"), "str drain");

    let (mut socket, _client) = pair(&timeouts, "deaf").await;
    socket.close(1000, "").await.unwrap_err();
    assert_eq!(collected.reason("deaf"), "str close_timeout");

    let (mut socket, _client) = pair(&timeouts, "hurried").await;
    let large = "x".repeat(1000);
    let sent = socket.send_text_timeout(large, SECOND / 2).await;
    sent.unwrap_err();
    assert_eq!(collected.reason("hurried"), "str message_timeout");

    let (mut socket, mut client) = pair(&timeouts, "garbled").await;
    client.get_mut().write_all(&[0xff; 20]).await.unwrap();
    socket.recv().await.unwrap_err();
    assert_eq!(collected.reason("garbled"), "str receive_error");
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_dropped_socket_has_the_reason() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder().close_timeout(9 * SECOND));

    let (mut socket, _client) = pair(&timeouts, "dropped").await;
    socket.recv_timeout(SECOND).await.unwrap();
    drop(socket);
    assert_eq!(collected.reason("dropped"), "str dropped");

    let (mut socket, _client) = pair(&timeouts, "taken").await;
    socket.recv_timeout(SECOND).await.unwrap();
    socket.into_inner().unwrap();
    assert_eq!(collected.reason("taken"), "str dropped");

    let (mut socket, _client) = pair(&timeouts, "judged").await;
    socket.drain(Duration::ZERO);
    assert!(socket.recv().now_or_never().is_none());
    drop(socket);
    assert_eq!(collected.reason("judged"), "str drain");

    let (mut socket, _client) = pair(&timeouts, "only sends").await;
    socket.send_text("x").await.unwrap();
    drop(socket);
    assert_eq!(collected.reason("only sends"), "str dropped");
}

#[tokio::test(start_paused = true)]
async fn the_span_of_a_failed_handshake_has_the_reason() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder().handshake_timeout(SECOND));
    let (server, _client) = duplex(64);
    let late = open(&timeouts, tokio_tungstenite::accept_async(server)).with_label("late");
    late.await.unwrap_err();
    assert_eq!(collected.reason("late"), "str handshake_timeout");

    let (server, client) = duplex(64);
    drop(client);
    let gone = open(&timeouts, tokio_tungstenite::accept_async(server)).with_label("gone");
    gone.await.unwrap_err();
    assert_eq!(collected.reason("gone"), "str handshake_error");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_reports_has_no_span() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder().handshake_timeout(SECOND));
    drop(pair(&timeouts, "not polled").await);
    let (server, _client) = duplex(64);
    let mut opening = open(&timeouts, tokio_tungstenite::accept_async(server));
    assert!((&mut opening).now_or_never().is_none());
    drop(opening);
    assert!(timeouts.is_empty() && collected.connections().is_empty());
}

#[tokio::test(start_paused = true)]
async fn connections_with_the_same_id_have_separate_spans() {
    let (collected, _guard) = Collected::begin();
    let observer = Arc::new(Tracing);
    let timeouts = ["first", "second"].map(|label| {
        let timeouts = Timeouts::new(builder().build().unwrap());
        (label, timeouts.with_observer(observer.clone()))
    });
    let [(mut one, _peer), (mut two, _other)] = [
        pair(&timeouts[0].1, "first").await,
        pair(&timeouts[1].1, "second").await,
    ];
    one.recv_timeout(SECOND).await.unwrap();
    two.recv_timeout(SECOND).await.unwrap();
    assert_eq!((one.handle().id(), two.handle().id()), (1, 1));
    drop(one);
    assert_eq!(collected.reason("first"), "str dropped");
    assert!(!collected.connections()[1].is_closed());
    two.drain(Duration::ZERO);
    assert!(two.recv().now_or_never().is_none());
    drop(two);
    assert_eq!(collected.reason("second"), "str drain");
    for event in collected.take::<5>() {
        let span = collected.span(event.span.as_ref().unwrap());
        assert_eq!(span.fields["label"], event.fields["label"]);
    }
}

#[tokio::test(start_paused = true)]
async fn no_span_of_a_thousand_connections_stays_open() {
    let (collected, _guard) = Collected::begin();
    let timeouts = traced(builder());
    let mut handles = Vec::new();
    for _ in 0..1000 {
        let (mut socket, _client) = pair(&timeouts, "many").await;
        assert!(socket.recv().now_or_never().is_none());
        handles.push(socket.handle());
    }
    let all = collected.connections();
    assert_eq!(all.len(), 1000);
    assert!(all.iter().all(SeenSpan::is_closed));
}

/// An observer that passes on only verdicts.
struct Verdicts;

impl Observer for Verdicts {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        if let Report::Verdict { .. } = report {
            Tracing.report(connection, report);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_span_closes_though_an_observer_withholds_the_last_report() {
    let (collected, _guard) = Collected::begin();
    let config = builder().idle_timeout(60 * SECOND).build().unwrap();
    let timeouts = Timeouts::new(config).with_observer(Verdicts);
    let (mut socket, _client) = pair(&timeouts, "withheld").await;
    let handle = socket.handle();
    socket.recv().await.unwrap_err();
    let [_verdict] = collected.take();
    assert_eq!(collected.reason("withheld"), "str idle_timeout");
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn without_its_span_an_event_is_in_the_current_span() {
    let (collected, _guard) = Collected::begin();
    collected.0.lock().unwrap().without_spans = true;
    let (mut socket, _client) = pair(&traced(builder()), "disabled").await;
    let first = socket.recv_timeout(SECOND);
    let first = first.instrument(info_span!("room")).await;
    first.unwrap();
    info_span!("other").in_scope(|| drop(socket));
    let [opened, dropped] = collected.take();
    assert_eq!(collected.scope(&opened), ["room"]);
    assert_eq!(collected.scope(&dropped), ["other"]);
    assert!(collected.connections().is_empty());
}

fn traced(config: TimeoutConfigBuilder) -> Timeouts {
    Timeouts::new(config.build().unwrap()).with_observer(Tracing)
}

/// A connection and its client.
async fn pair(timeouts: &Timeouts, label: &str) -> (Guarded, Client) {
    let (server, client) = duplex(64);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (wrap(timeouts, server).with_label(label), client)
}

fn builder() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .no_connection_timeout()
        .no_idle_timeout()
        .no_ping_interval()
        .jitter(0.0)
}

/// Keeps all events and spans.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    events: Vec<Seen>,
    /// IDs are indices here, from 1.
    spans: Vec<SeenSpan>,
    entered: Vec<Id>,
    /// Whether spans of the crate are disabled.
    without_spans: bool,
}

#[derive(Clone, Debug)]
struct SeenSpan {
    name: &'static str,
    level: Level,
    target: &'static str,
    parent: Option<Id>,
    /// As those of an event. A field that was recorded twice has both values.
    fields: BTreeMap<&'static str, String>,
    handles: usize,
}

#[derive(Debug)]
struct Seen {
    level: Level,
    target: String,
    span: Option<Id>,
    /// Each with its type, except for values that are only formatted.
    fields: BTreeMap<&'static str, String>,
}

impl Collected {
    /// Collects on this thread, until the guard is dropped.
    fn begin() -> (Self, DefaultGuard) {
        let collected = Self::default();
        let guard = tracing::dispatcher::set_default(&Dispatch::new(collected.clone()));
        (collected, guard)
    }

    #[track_caller]
    fn take<const COUNT: usize>(&self) -> [Seen; COUNT] {
        let events = std::mem::take(&mut self.0.lock().unwrap().events);
        events.try_into().unwrap_or_else(|all| panic!("{all:#?}"))
    }

    fn span(&self, id: &Id) -> SeenSpan {
        self.0.lock().unwrap().spans[id.into_u64() as usize - 1].clone()
    }

    /// The names of the spans that an event was in, the innermost first.
    fn scope(&self, event: &Seen) -> Vec<&'static str> {
        let spans = std::iter::successors(event.span.clone(), |id| self.span(id).parent);
        spans.map(|id| self.span(&id).name).collect()
    }

    /// The spans of connections.
    fn connections(&self) -> Vec<SeenSpan> {
        let state = self.0.lock().unwrap();
        let all = state.spans.iter();
        all.filter(|span| span.name == "websocket")
            .cloned()
            .collect()
    }

    /// The reason of the only connection with this label, whose span must be closed.
    #[track_caller]
    fn reason(&self, label: &str) -> String {
        let mut own = self.connections();
        own.retain(|span| span.fields["label"] == format!("str {label}"));
        let [span] = &*own else { panic!("{own:#?}") };
        assert_eq!(span.handles, 0, "{span:#?}");
        span.fields["reason"].clone()
    }
}

impl SeenSpan {
    fn is_closed(&self) -> bool {
        self.handles == 0
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
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.is_span() && metadata.target() == "ws_timeout";
        !(is_ours && self.0.lock().unwrap().without_spans)
    }

    /// Not `always`: the subscriber of another test has another answer.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().unwrap();
        let current = state.entered.last().filter(|_| span.is_contextual());
        let mut seen = SeenSpan {
            name: span.metadata().name(),
            level: *span.metadata().level(),
            target: span.metadata().target(),
            parent: current.or(span.parent()).cloned(),
            fields: BTreeMap::new(),
            handles: 1,
        };
        span.record(&mut Fields(&mut seen.fields));
        state.spans.push(seen);
        Id::from_u64(state.spans.len() as u64)
    }

    fn clone_span(&self, id: &Id) -> Id {
        self.0.lock().unwrap().span(id).handles += 1;
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut state = self.0.lock().unwrap();
        let span = state.span(&id);
        span.handles -= 1;
        span.is_closed()
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut state = self.0.lock().unwrap();
        let span = state.span(id);
        assert!(!span.is_closed());
        values.record(&mut Fields(&mut span.fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut state = self.0.lock().unwrap();
        let current = state.entered.last().filter(|_| event.is_contextual());
        let span = current.or(event.parent()).cloned();
        let mut seen = Seen {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            span,
            fields: BTreeMap::new(),
        };
        event.record(&mut Fields(&mut seen.fields));
        state.events.push(seen);
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.clone());
    }

    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().entered.pop();
    }
}

impl State {
    fn span(&mut self, id: &Id) -> &mut SeenSpan {
        &mut self.spans[id.into_u64() as usize - 1]
    }
}

struct Fields<'a>(&'a mut BTreeMap<&'static str, String>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: String) {
        let all = self.0.entry(field.name()).or_default();
        all.push_str(&value);
    }
}

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format!("u64 {value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format!("bool {value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, format!("str {value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }
}
