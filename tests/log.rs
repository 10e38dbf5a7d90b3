//! What the log says of a connection: at which level, in which words, with which key-values.

#[path = "common/exact.rs"]
mod exact;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use exact::wrap;
use futures_util::StreamExt;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use tokio::io::{DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open};
use ws_timeout::{Metered, TimeoutConfig, TimeoutConfigBuilder, TimeoutSocket};

type Client = WebSocketStream<DuplexStream>;
type Guarded = TimeoutSocket<WebSocketStream<DuplexStream>, Timer>;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_a_warning_that_names_the_limit_and_the_time() {
    let mut socket = silent("silent", builder().idle_timeout(60 * SECOND)).await;
    socket.recv().await.unwrap_err();
    let [opened, verdict, closed] = lines("silent");
    assert_eq!(opened.level, Level::Debug);
    assert_eq!(
        opened.text,
        "silent: opened, a dead peer is detected within 60 s; \
         without a meter each message must be written within 1 s, however large"
    );
    assert_eq!(verdict.level, Level::Warn);
    assert!(
        verdict
            .text
            .starts_with("silent: closing: idle_timeout: received nothing for 60"),
        "{}",
        verdict.text
    );
    assert!(
        verdict.text.contains(" s (limit 60 s); age 60"),
        "{}",
        verdict.text
    );
    verdict.says(&[
        ("event", "verdict"),
        ("label", "silent"),
        ("limit", "idle_timeout"),
        ("allowed", "60s"),
        ("code", "1001"),
    ]);
    assert_eq!(closed.level, Level::Info);
    closed.says(&[("event", "closed"), ("limit", "idle_timeout")]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_is_logged_with_its_label() {
    Collected::begin();
    let config = builder().handshake_timeout(SECOND).build().unwrap();
    let (server, _client) = duplex(64);
    let late = open(config, tokio_tungstenite::accept_async(server));
    late.with_label("late").await.unwrap_err();
    let [verdict] = lines("late");
    verdict.says(&[("event", "verdict"), ("limit", "handshake_timeout")]);

    let (server, client) = duplex(64);
    drop(client);
    let gone = open(config, tokio_tungstenite::accept_async(server));
    gone.with_label("gone").await.unwrap_err();
    let [error] = lines("gone");
    error.says(&[("event", "handshake error")]);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_meant_is_no_warning() {
    let mut drained = silent("drained", builder()).await;
    drained.drain(SECOND);
    drained.recv().await.unwrap_err();
    let [_, verdict, _] = lines("drained");
    assert_eq!(verdict.level, Level::Info);
    verdict.says(&[("limit", "drain")]);

    let mut aged = silent("aged", builder().connection_timeout(3 * SECOND)).await;
    aged.recv().await.unwrap_err();
    let [_, verdict, _] = lines("aged");
    assert_eq!(verdict.level, Level::Info);
    verdict.says(&[("limit", "connection_timeout"), ("allowed", "3s")]);
}

#[tokio::test(start_paused = true)]
async fn a_send_with_a_limit_of_its_own_names_that() {
    let (mut socket, _client) = pair("hurried", builder()).await;
    let large = "x".repeat(1000);
    let sent = socket.send_text_timeout(large, 300 * SECOND / 1000).await;
    let error = sent.unwrap_err().to_string();
    let said = "dropped: message_timeout: a send did not complete within the limit of its caller (limit 300 ms); age ";
    assert!(error.starts_with(said), "{error}");
    let [_, verdict, _] = lines("hurried");
    assert_eq!(verdict.text, format!("hurried: {error}"));
    verdict.says(&[("limit", "message_timeout"), ("allowed", "300ms")]);
}

#[tokio::test(start_paused = true)]
async fn with_a_meter_nothing_is_said_of_large_messages() {
    Collected::begin();
    let (server, _client) = duplex(64);
    let server = Metered::new(server);
    let meter = server.meter();
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let config = builder().idle_timeout(60 * SECOND).build().unwrap();
    let socket = wrap(config, server).with_meter(meter);
    let mut socket = socket.with_label("metered");
    socket.recv().await.unwrap_err();
    let [opened, _, _] = lines("metered");
    let expected = "metered: opened, a dead peer is detected within 60 s";
    assert_eq!(opened.text, expected);
}

#[tokio::test(start_paused = true)]
async fn who_closed_is_told() {
    let mut left = silent("left", builder()).await;
    left.close(4000, "").await.unwrap();
    let [_, closed] = lines("left");
    let by = "by this side, the peer answered with code 4000";
    assert_eq!(closed.level, Level::Debug);
    assert_eq!(closed.text, format!("left: closed after 0 s {by}"));
    closed.says(&[("event", "closed"), ("code", "4000")]);

    let (mut stayed, mut client) = pair("stayed", builder()).await;
    client.close(None).await.unwrap();
    assert!(matches!(stayed.recv().await, Ok(Some(Message::Close(_)))));
    tokio::spawn(async move { while let Some(Ok(_)) = client.next().await {} });
    assert_eq!(stayed.recv().await.unwrap(), None);
    let [opened, closed] = lines("stayed");
    assert_eq!(opened.level, Level::Debug);
    let by = "by the peer with code none";
    assert_eq!(closed.text, format!("stayed: closed after 0 s {by}"));
}

/// Nothing but `message_timeout` of a second.
fn builder() -> TimeoutConfigBuilder {
    TimeoutConfig::builder()
        .message_timeout(SECOND)
        .no_connection_timeout()
        .no_idle_timeout()
        .no_ping_interval()
        .jitter(0.0)
}

/// A connection and its client.
async fn pair(label: &str, config: TimeoutConfigBuilder) -> (Guarded, Client) {
    Collected::begin();
    let (server, client) = duplex(64);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let server = wrap(config.build().unwrap(), server);
    (server.with_label(label), client)
}

/// A connection whose client says nothing but what answers a Close frame.
async fn silent(label: &str, config: TimeoutConfigBuilder) -> Guarded {
    let (server, mut client) = pair(label, config).await;
    tokio::spawn(async move { while let Some(Ok(_)) = client.next().await {} });
    server
}

/// The lines of one connection, but those of its pings.
#[track_caller]
fn lines<const COUNT: usize>(label: &str) -> [Line; COUNT] {
    let all = COLLECTED.0.lock().unwrap();
    let own = all.iter().filter(|line| line.values["label"] == label);
    let own = own.filter(|line| !matches!(&*line.values["event"], "ping" | "pong"));
    let own: Vec<Line> = own.cloned().collect();
    own.try_into().unwrap_or_else(|own| panic!("{own:#?}"))
}

#[derive(Clone, Debug)]
struct Line {
    level: Level,
    text: String,
    values: BTreeMap<String, String>,
}

impl Line {
    #[track_caller]
    fn says(&self, expected: &[(&str, &str)]) {
        for &(key, value) in expected {
            assert_eq!(self.values.get(key).map(String::as_str), Some(value));
        }
    }
}

/// The lines of all connections.
struct Collected(Mutex<Vec<Line>>);

static COLLECTED: Collected = Collected(Mutex::new(Vec::new()));

impl Collected {
    fn begin() {
        // Another test may have done so.
        if log::set_logger(&COLLECTED).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    }
}

impl Log for Collected {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target() != "ws_timeout" {
            return;
        }
        let mut line = Line {
            level: record.level(),
            text: record.args().to_string(),
            values: BTreeMap::new(),
        };
        record.key_values().visit(&mut line).unwrap();
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

impl<'a> VisitSource<'a> for Line {
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), Error> {
        self.values.insert(key.to_string(), value.to_string());
        Ok(())
    }
}
