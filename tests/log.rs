//! What the log contains about a connection: levels, words and key-values.

#[path = "common/exact.rs"]
mod exact;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use exact::wrap;
use futures_util::{FutureExt, SinkExt, StreamExt};
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;
use ws_timeout::runtime::tokio::{Timer, open};
use ws_timeout::{
    Error, IdleScope, Metered, Received, TimeoutConfig, TimeoutConfigBuilder, TimeoutSocket,
};

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
        "silent: opened; a dead peer will be detected within 60 s; \
         without a meter each message must be written within 1 s, however large"
    );
    assert_eq!(verdict.level, Level::Warn);
    assert_eq!(
        verdict.text,
        "silent: closing: idle_timeout: received nothing for 60.015 s (limit 60 s); age 60.015 s; 0 pings, 0 pongs"
    );
    verdict.has(&[
        ("event", "verdict"),
        ("label", "silent"),
        ("reason", "idle_timeout"),
        ("limit_ms", "60000"),
        ("age_ms", "60015"),
        ("code", "1001"),
    ]);
    assert_eq!(closed.level, Level::Info);
    assert_eq!(
        closed.text,
        "silent: ended after 60.015 s: idle_timeout, close answered"
    );
    closed.has(&[("event", "closed"), ("reason", "idle_timeout")]);
}

#[tokio::test(start_paused = true)]
async fn the_log_distinguishes_a_quiet_chat_from_a_silent_peer() {
    let config = builder()
        .idle_timeout(60 * SECOND)
        .idle_scope(IdleScope::Messages)
        .ping_interval(25 * SECOND)
        .pong_timeout(10 * SECOND);
    let mut socket = silent("quiet", config).await;
    socket.recv().await.unwrap_err();
    assert_eq!(
        said_of("quiet"),
        "quiet: closing: idle_timeout: no message in either direction for 60.015 s (limit 60 s); age 60.015 s; \
         2 pings, 2 pongs, rtt 0 s"
    );
}

#[tokio::test(start_paused = true)]
async fn the_log_distinguishes_an_unanswered_ping_from_an_unanswered_probe() {
    let config = builder()
        .ping_interval(20 * SECOND)
        .pong_timeout(10 * SECOND);
    let (mut socket, _client) = pair("frozen", config).await;
    socket.recv().await.unwrap_err();
    assert_eq!(
        said_of("frozen"),
        "frozen: aborted after a Close frame: pong_timeout: ping unanswered for 10.015 s (limit 10 s); age 30.015 s; 1 ping, 0 pongs"
    );

    let (mut socket, _client) = pair("probed", config).await;
    socket.probe(5 * SECOND);
    let error = socket.recv().await.unwrap_err();
    assert_eq!(
        said_of("probed"),
        "probed: aborted after a Close frame: pong_timeout: a probe was not answered in time; ping unanswered for 5.015 s; age 5.015 s; \
         1 ping, 0 pongs"
    );
    assert!(matches!(error, Error::Verdict(verdict) if verdict.limit.is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_log_distinguishes_a_blocked_message_from_a_blocked_ping() {
    let (mut socket, _client) = pair("stuck", builder()).await;
    let large = Message::text("x".repeat(1000));
    socket.send(large).await.unwrap_err();
    assert_eq!(
        said_of("stuck"),
        "stuck: aborted: message_timeout: a write made too little progress (limit 1 s); age 1.015 s; \
         0 pings, 0 pongs"
    );

    let config = builder()
        .ping_interval(20 * SECOND)
        .pong_timeout(10 * SECOND);
    let (mut socket, _client) = pair_over(4, "full", config).await;
    socket.recv().await.unwrap_err();
    assert_eq!(
        said_of("full"),
        "full: aborted: message_timeout: a ping waited 1.015 s to be written (limit 1 s); age 21.015 s; \
         1 ping, 0 pongs"
    );
}

#[tokio::test(start_paused = true)]
async fn a_verdict_without_a_close_frame_has_no_code() {
    let config = builder()
        .no_message_timeout()
        .ping_interval(20 * SECOND)
        .pong_timeout(10 * SECOND);
    let (mut socket, _client) = pair("choked", config).await;
    // The ping is sent, and then the transport is full.
    let ping = socket.recv_timeout(21 * SECOND).await;
    assert_eq!(ping.unwrap(), Received::TimedOut);
    let large = Message::text("x".repeat(1000));
    assert!(socket.send(large).now_or_never().is_none());
    socket.recv().await.unwrap_err();
    let [_, verdict, _] = lines("choked");
    assert!(
        verdict.text.starts_with("choked: aborted: pong_timeout: "),
        "{}",
        verdict.text
    );
    assert!(!verdict.values.contains_key("code"), "{verdict:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_close_is_logged_with_its_limit() {
    let (mut socket, _client) = pair("deaf", builder().close_timeout(5 * SECOND)).await;
    tokio::time::advance(SECOND).await;
    socket.close(1000, "").await.unwrap_err();
    assert_eq!(
        said_of("deaf"),
        "deaf: close unanswered: close_timeout: the closing handshake was incomplete after 5.015 s (limit 5 s); age 6.015 s; \
         0 pings, 0 pongs"
    );
}

#[tokio::test(start_paused = true)]
async fn rates_are_logged_with_their_limits() {
    Collected::begin();
    let (server, mut client) = duplex(64);
    let server = Metered::new(server);
    let meter = server.meter();
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let config = builder().min_data_rate(240).build().unwrap();
    let socket = wrap(config, server).with_meter(meter);
    let mut socket = socket.with_label("trickling");
    tokio::spawn(async move {
        // The head of a binary message of 125 bytes, with a mask of zeros, and a byte a second.
        client.write_all(&[0x82, 0xfd, 0, 0, 0, 0]).await.unwrap();
        while client.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(SECOND).await;
        }
    });
    socket.recv().await.unwrap_err();
    assert_eq!(
        said_of("trickling"),
        "trickling: aborted after a Close frame: slow_receive: a message arrived too slowly (limit 240 bytes per second); \
         12 bytes of an incomplete message; age 5.065 s; 0 pings, 0 pongs"
    );
    lines::<3>("trickling")[1].has(&[("reason", "slow_receive"), ("limit_per_s", "240")]);

    let (mut socket, mut client) = pair("flooding", builder().max_ping_rate(1)).await;
    tokio::spawn(async move {
        while client.send(Message::Ping("".into())).await.is_ok() {
            client.next().await;
            tokio::time::sleep(SECOND / 10).await;
        }
    });
    while socket.recv().await.is_ok() {}
    assert_eq!(
        said_of("flooding"),
        "flooding: aborted after a Close frame: ping_flood: the peer sent too many pings (limit 1 ping per second); age 6.6 s; \
         0 pings, 0 pongs"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_is_logged_with_its_label() {
    Collected::begin();
    let config = builder().handshake_timeout(SECOND).build().unwrap();
    let (server, _client) = duplex(64);
    let late = open(config, tokio_tungstenite::accept_async(server));
    late.with_label("late").await.unwrap_err();
    let [verdict] = lines("late");
    assert_eq!(
        verdict.text,
        "late: aborted: handshake_timeout: the opening handshake was incomplete after 1.015 s (limit 1 s)"
    );
    verdict.has(&[("event", "verdict"), ("reason", "handshake_timeout")]);

    let (server, client) = duplex(64);
    drop(client);
    let gone = open(config, tokio_tungstenite::accept_async(server));
    gone.with_label("gone").await.unwrap_err();
    let [error] = lines("gone");
    assert_eq!(error.level, Level::Info);
    let prefix = "gone: the opening handshake failed: ";
    assert!(error.text.starts_with(prefix), "{}", error.text);
    error.has(&[("event", "handshake_error")]);
}

#[tokio::test(start_paused = true)]
async fn a_planned_end_is_not_a_warning() {
    let mut drained = silent("drained", builder()).await;
    assert_eq!(
        drained.recv_timeout(7 * SECOND).await.unwrap(),
        Received::TimedOut
    );
    drained.drain(Duration::ZERO);
    drained.recv().await.unwrap_err();
    let [_, verdict, _] = lines("drained");
    assert_eq!(verdict.level, Level::Info);
    assert_eq!(
        verdict.text,
        "drained: closing: drain: requested by this program; age 7 s; 0 pings, 0 pongs"
    );
    verdict.has(&[("reason", "drain"), ("code", "1001")]);

    let mut aged = silent("aged", builder().connection_timeout(3 * SECOND)).await;
    aged.recv().await.unwrap_err();
    let [_, line, _] = lines("aged");
    assert_eq!(line.level, Level::Info);
    assert_eq!(
        line.text,
        "aged: closing: connection_timeout: open for 3 s (limit 3 s); 0 pings, 0 pongs"
    );
    line.has(&[("reason", "connection_timeout"), ("limit_ms", "3000")]);

    let config = builder().connection_timeout(30 * SECOND).jitter(0.5);
    let mut aged = silent("jittered", config).await;
    aged.recv().await.unwrap_err();
    let text = said_of("jittered");
    assert!(
        text.contains(" s (limit 30 s, less jitter); 0 pings"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_send_with_its_own_limit_logs_that_limit() {
    let (mut socket, _client) = pair("hurried", builder()).await;
    let large = "x".repeat(1000);
    let sent = socket.send_text_timeout(large, 300 * SECOND / 1000).await;
    let error = sent.unwrap_err().to_string();
    let prefix = "aborted: message_timeout: a send did not complete in time (limit 300 ms, set by the caller); age ";
    assert!(error.starts_with(prefix), "{error}");
    let [_, verdict, _] = lines("hurried");
    assert_eq!(verdict.text, format!("hurried: {error}"));
    verdict.has(&[("reason", "message_timeout"), ("limit_ms", "300")]);
}

#[tokio::test(start_paused = true)]
async fn with_a_meter_the_log_does_not_mention_large_messages() {
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
    let expected = "metered: opened; a dead peer will be detected within 60 s";
    assert_eq!(opened.text, expected);
}

#[tokio::test(start_paused = true)]
async fn the_log_says_which_side_closed() {
    for (label, code, level) in [
        ("done", 1000, Level::Debug),
        ("away", 1001, Level::Debug),
        ("restarts", 1012, Level::Info),
        ("kicked", 4001, Level::Info),
    ] {
        let mut socket = silent(label, builder()).await;
        socket.close(code, "").await.unwrap();
        let [_, closed] = lines(label);
        let by = format!("by this side with code {code}; the peer answered with code {code}");
        assert_eq!(closed.level, level);
        assert_eq!(closed.text, format!("{label}: closed after 0 s {by}"));
        closed.has(&[("event", "closed"), ("code", &code.to_string())]);
    }

    let (mut socket, mut client) = pair("kicked again", builder()).await;
    tokio::spawn(async move { drop(client.next().await) });
    socket.handle().close(4001, "").unwrap();
    assert_eq!(socket.recv().await.unwrap(), None);
    let [_, closed] = lines("kicked again");
    let by = "by this side with code 4001, without a Close frame from the peer";
    assert_eq!(closed.level, Level::Info);
    assert_eq!(closed.text, format!("kicked again: closed after 0 s {by}"));

    let (mut stayed, mut client) = pair("stayed", builder()).await;
    client.close(None).await.unwrap();
    assert!(matches!(stayed.recv().await, Ok(Some(Message::Close(_)))));
    tokio::spawn(async move { while let Some(Ok(_)) = client.next().await {} });
    assert_eq!(stayed.recv().await.unwrap(), None);
    let [opened, closed] = lines("stayed");
    assert_eq!((opened.level, closed.level), (Level::Debug, Level::Debug));
    let by = "by the peer without a code";
    assert_eq!(closed.text, format!("stayed: closed after 0 s {by}"));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_of_the_first_poll_follows_the_opening() {
    let mut socket = silent("short", builder()).await;
    socket.drain(Duration::ZERO);
    socket.recv().await.unwrap_err();
    let events = lines::<3>("short").map(|line| line.values["event"].clone());
    assert_eq!(events, ["opened", "verdict", "closed"]);
}

/// Every limit off except a `message_timeout` of a second.
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
    pair_over(64, label, config).await
}

/// A connection and its client, over a transport of `room` bytes in each direction.
async fn pair_over(room: usize, label: &str, config: TimeoutConfigBuilder) -> (Guarded, Client) {
    Collected::begin();
    let (server, client) = duplex(room);
    let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let server = wrap(config.build().unwrap(), server);
    (server.with_label(label), client)
}

/// A connection whose client sends nothing except its reply to a Close frame.
async fn silent(label: &str, config: TimeoutConfigBuilder) -> Guarded {
    let (server, mut client) = pair(label, config).await;
    tokio::spawn(async move { while let Some(Ok(_)) = client.next().await {} });
    server
}

/// Returns the text of the verdict on one connection.
#[track_caller]
fn said_of(label: &str) -> String {
    let all = lines_of(label);
    let verdict = all
        .into_iter()
        .find(|line| line.values["event"] == "verdict");
    verdict.unwrap().text
}

/// Returns the lines of one connection, except those of its pings.
#[track_caller]
fn lines<const COUNT: usize>(label: &str) -> [Line; COUNT] {
    let own = lines_of(label);
    own.try_into().unwrap_or_else(|own| panic!("{own:#?}"))
}

fn lines_of(label: &str) -> Vec<Line> {
    let all = COLLECTED.0.lock().unwrap();
    let own = all.iter().filter(|line| line.values["label"] == label);
    let own = own.filter(|line| !matches!(&*line.values["event"], "ping" | "pong"));
    own.cloned().collect()
}

#[derive(Clone, Debug)]
struct Line {
    level: Level,
    text: String,
    values: BTreeMap<String, String>,
}

impl Line {
    #[track_caller]
    fn has(&self, expected: &[(&str, &str)]) {
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
        // Another test may have set the logger.
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
    fn visit_pair(&mut self, key: Key<'a>, value: Value<'a>) -> Result<(), kv::Error> {
        self.values.insert(key.to_string(), value.to_string());
        Ok(())
    }
}
