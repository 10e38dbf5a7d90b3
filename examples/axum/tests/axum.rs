//! The features `axum` and `tower` with real axum and hyper over real sockets.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::Message;
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use futures_util::{FutureExt, SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, client};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{interval, timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite};
use tower::{Layer, ServiceBuilder, service_fn};
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use ws_timeout::axum::{MeteredListener, Peer, TimeoutUpgrade};
use ws_timeout::{
    CloseReason, Connection, Error, Observer, Report, TimeoutConfig, TimeoutConfigBuilder,
    Timeouts, runtime,
};

const SECOND: Duration = Duration::from_secs(1);

/// Sends the label and whether there is a meter, once a connection is open.
struct Openings(mpsc::UnboundedSender<(Option<String>, bool)>);

impl Observer for Openings {
    fn report(&self, connection: &Connection<'_>, report: &Report<'_>) {
        if let Report::Opened { metered, .. } = *report {
            let label = connection.label.map(ToString::to_string);
            let _ = self.0.send((label, metered));
        }
    }
}

fn with_message_timeout(limit: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .message_timeout(limit)
        .build()
        .unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn serve_metered(app: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async { axum::serve(MeteredListener(listener), app).await });
    address
}

async fn connect(address: SocketAddr, path: &str) -> WebSocketStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (socket, _) = client_async(format!("ws://localhost{path}"), tcp)
        .await
        .unwrap();
    socket
}

/// Returns the body with which a server refuses to upgrade.
async fn refusal(address: SocketAddr, path: &str) -> String {
    let tcp = TcpStream::connect(address).await.unwrap();
    match client_async(format!("ws://localhost{path}"), tcp).await {
        Err(tungstenite::Error::Http(response)) => {
            String::from_utf8(response.into_body().unwrap_or_default()).unwrap()
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Returns the next value, which has to come soon.
async fn next<T>(values: &mut mpsc::UnboundedReceiver<T>) -> Option<T> {
    timeout(5 * SECOND, values.recv())
        .await
        .expect("nothing came")
}

/// A handler that returns the limit that its socket would have.
async fn return_limit(upgrade: TimeoutUpgrade) -> String {
    format!("{:?}", upgrade.config().message_timeout().unwrap())
}

/// Sends 12 MB to a client that reads 4 MB/s. Returns the verdict of the server, if there is one,
/// and the connection's age then, or when the message had been sent.
async fn send_to_slow_reader(metered: bool) -> (Option<CloseReason>, Duration) {
    const SIZE: usize = 12_000_000;
    let (done, mut sent) = mpsc::unbounded_channel();
    let handler = move |upgrade: TimeoutUpgrade| {
        let done = done.clone();
        ready(upgrade.on_upgrade(|mut socket| async move {
            let end = match socket.send(Message::binary(vec![7; SIZE])).await {
                Ok(()) => (None, socket.status().age),
                Err(Error::Verdict(verdict)) => (Some(verdict.reason), verdict.status.age),
                Err(error) => panic!("{error}"),
            };
            let _ = done.send(end);
            let _ = socket.recv().await;
        }))
    };
    let timeouts = Timeouts::new(with_message_timeout(SECOND));
    let app = Router::new()
        .route("/", any(handler))
        .layer(Extension(timeouts));
    let address = match metered {
        true => serve_metered(app).await,
        false => serve(app).await,
    };
    let tcp = TcpSocket::new_v4().unwrap();
    // Otherwise the kernel accepts half of the message at once.
    tcp.set_recv_buffer_size(64 << 10).unwrap();
    let tcp = tcp.connect(address).await.unwrap();
    let (client, _) = client_async("ws://localhost/", tcp).await.unwrap();
    let mut tcp = client.into_inner();
    let reader = tokio::spawn(async move {
        let mut turn = interval(Duration::from_millis(10));
        let mut buffer = vec![0; 40_000];
        while tcp.read_exact(&mut buffer).await.is_ok() {
            turn.tick().await;
        }
    });
    let result = timeout(8 * SECOND, sent.recv()).await.unwrap().unwrap();
    reader.abort();
    result
}

#[tokio::test]
async fn twelve_megabytes_reach_a_slow_reader_with_the_meter_and_are_cut_without() {
    let (with, without) = tokio::join!(send_to_slow_reader(true), send_to_slow_reader(false));
    let (reason, age) = with;
    assert_eq!(reason, None);
    assert!(
        age > 3 * SECOND / 2,
        "as slowly as the client reads: {age:?}"
    );
    let (reason, age) = without;
    assert_eq!(reason, Some(CloseReason::MessageTimeout));
    assert!((SECOND..2 * SECOND).contains(&age), "{age:?}");
}

#[tokio::test]
async fn the_label_is_the_address_and_the_meter_that_of_the_listener() {
    let (openings, mut opened) = mpsc::unbounded_channel();
    let timeouts = Timeouts::new(TimeoutConfig::DEFAULT).with_observer(Openings(openings));
    let handler = |upgrade: TimeoutUpgrade| ready(upgrade.on_upgrade(echo));
    let named = |upgrade: TimeoutUpgrade| ready(upgrade.with_label("user 7").on_upgrade(echo));
    let app = || {
        let app = Router::new()
            .route("/", any(handler))
            .route("/named", any(named));
        app.layer(Extension(timeouts.clone()))
    };
    let (metered, unmetered) = (serve_metered(app()).await, serve(app()).await);
    for (address, is_metered) in [(metered, true), (unmetered, false)] {
        let client = connect(address, "/").await;
        let label = client.get_ref().local_addr().unwrap().to_string();
        assert_eq!(next(&mut opened).await, Some((Some(label), is_metered)));
        let _client = connect(address, "/named").await;
        assert_eq!(
            next(&mut opened).await,
            Some((Some("user 7".into()), is_metered))
        );
    }
}

async fn echo(
    mut socket: ws_timeout::TimeoutSocket<axum::extract::ws::WebSocket, runtime::tokio::Timer>,
) {
    while let Ok(Some(message)) = socket.recv().await {
        let _ = socket.send(message).await;
    }
}

#[tokio::test]
async fn a_socket_over_http_2_has_no_meter() {
    let (openings, mut opened) = mpsc::unbounded_channel();
    let timeouts = Timeouts::new(TimeoutConfig::DEFAULT).with_observer(Openings(openings));
    let handler = |upgrade: TimeoutUpgrade| ready(upgrade.on_upgrade(echo));
    let app = Router::new().route("/", any(handler)).layer(timeouts);
    let address = serve_metered(app).await;

    let tcp = TcpStream::connect(address).await.unwrap();
    let label = tcp.local_addr().unwrap().to_string();
    let (mut requests, connection) =
        client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .unwrap();
    tokio::spawn(connection);
    // After an answer the client knows that the server accepts WebSockets.
    let request = Request::get(format!("http://{address}/none")).body(Empty::<Bytes>::new());
    requests.send_request(request.unwrap()).await.unwrap();
    let request = Request::connect(format!("http://{address}/"))
        .version(hyper::Version::HTTP_2)
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new());
    let response = requests.send_request(request.unwrap()).await.unwrap();
    assert!(response.status().is_success());
    let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut client = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    client.send("hello".into()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), "hello".into());
    assert_eq!(next(&mut opened).await, Some((Some(label), false)));
}

#[tokio::test]
async fn the_innermost_timeouts_of_the_request_count() {
    let timeouts = Timeouts::new(with_message_timeout(2 * SECOND));
    let inner = timeouts.with_config(with_message_timeout(3 * SECOND));
    let alone = Arc::new(with_message_timeout(4 * SECOND));
    let of_one = |upgrade: TimeoutUpgrade| {
        let upgrade = upgrade.with_config(with_message_timeout(5 * SECOND));
        return_limit(upgrade)
    };
    let layered = Router::new()
        .route("/", any(return_limit))
        .route("/layer", any(return_limit).layer(inner.clone()))
        .route("/extension", any(return_limit).layer(Extension(inner)))
        .route("/one", any(of_one))
        .layer(timeouts.clone());
    let app = Router::new()
        .nest("/layered", layered.clone())
        .merge(layered)
        .route("/config", any(return_limit).layer(Extension(alone)))
        .route("/none", any(return_limit));
    let address = serve(app).await;
    for (path, limit) in [
        ("/", "2s"),
        ("/layer", "3s"),
        ("/layered/layer", "3s"),
        ("/extension", "3s"),
        ("/config", "4s"),
        ("/one", "5s"),
        ("/none", "1s"),
    ] {
        assert_eq!(refusal(address, path).await, limit, "{path}");
    }
}

#[tokio::test]
async fn messages_are_limited_to_16_mib() {
    let (received, mut sizes) = mpsc::unbounded_channel();
    let handler = move |upgrade: TimeoutUpgrade| {
        let received = received.clone();
        ready(upgrade.on_upgrade(|mut socket| async move {
            let mut result = socket.recv().await;
            while let Ok(Some(message)) = result {
                let _ = received.send(Ok(message.into_data().len()));
                result = socket.recv().await;
            }
            let _ = received.send(Err(()));
        }))
    };
    let address = serve(Router::new().route("/", any(handler))).await;
    let mut client = connect(address, "/").await;
    let half = |opcode, is_final| {
        let frame = Frame::message(vec![0; 8 << 20], OpCode::Data(opcode), is_final);
        tungstenite::Message::Frame(frame)
    };
    client.send(half(Data::Binary, false)).await.unwrap();
    client.send(half(Data::Continue, true)).await.unwrap();
    assert_eq!(next(&mut sizes).await, Some(Ok(16 << 20)));
    client.send(half(Data::Binary, false)).await.unwrap();
    client.send(half(Data::Continue, false)).await.unwrap();
    let byte = Frame::message(vec![0], OpCode::Data(Data::Continue), true);
    client
        .send(tungstenite::Message::Frame(byte))
        .await
        .unwrap();
    assert_eq!(next(&mut sizes).await, Some(Err(())));
}

#[tokio::test]
async fn one_line_around_the_socket_of_axum_is_enough() {
    let timeouts = Timeouts::new(TimeoutConfig::DEFAULT);
    let shared = timeouts.clone();
    let handler = move |upgrade: WebSocketUpgrade| {
        ready(upgrade.on_upgrade(|socket| echo(runtime::tokio::wrap(shared, socket))))
    };
    let address = serve(Router::new().route("/", any(handler))).await;
    let mut client = connect(address, "/").await;
    client.send("hello".into()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), "hello".into());
    assert_eq!(timeouts.len(), 1);
}

/// A server whose handler has upgraded and waits for `release` before it returns the response.
async fn upgrade_in_progress() -> (
    Timeouts,
    Arc<Notify>,
    impl Future<Output = Result<WebSocketStream<TcpStream>, tungstenite::Error>>,
) {
    let timeouts = Timeouts::new(TimeoutConfig::DEFAULT);
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, released) = (entered.clone(), release.clone());
    let handler = async move |upgrade: TimeoutUpgrade| -> Response {
        let response = upgrade.on_upgrade(echo);
        enter.notify_one();
        released.notified().await;
        response
    };
    let app = Router::new()
        .route("/", any(handler))
        .layer(timeouts.clone());
    let address = serve_metered(app).await;
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut client = Box::pin(async {
        client_async("ws://localhost/", tcp)
            .await
            .map(|(socket, _)| socket)
    });
    tokio::select! {
        _ = &mut client => panic!("the handler has returned"),
        () = entered.notified() => {}
    }
    (timeouts, release, client)
}

#[tokio::test]
async fn a_drain_waits_for_an_upgrade_in_progress() {
    let (timeouts, release, client) = upgrade_in_progress().await;
    assert_eq!(timeouts.len(), 1);
    let mut drained = Box::pin(timeouts.drain(Duration::ZERO));
    assert!(drained.as_mut().now_or_never().is_none());
    release.notify_one();
    let mut client = client.await.unwrap();
    match client.next().await {
        Some(Ok(tungstenite::Message::Close(Some(frame)))) => {
            assert_eq!(frame.code, CloseCode::Away)
        }
        other => panic!("expected a Close frame, got {other:?}"),
    }
    assert!(client.next().await.is_none());
    timeout(SECOND, drained).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_the_list() {
    let (timeouts, _release, client) = upgrade_in_progress().await;
    drop(client);
    timeout(SECOND, timeouts.drain(Duration::ZERO))
        .await
        .unwrap();
}

#[tokio::test]
async fn plain_hyper_gets_the_timeouts_through_the_layer() {
    let outer = Timeouts::new(with_message_timeout(2 * SECOND));
    let inner = outer.with_config(with_message_timeout(3 * SECOND));
    let handler = service_fn(async |request: Request<hyper::body::Incoming>| {
        let timeouts = request.extensions().get::<Timeouts>().unwrap();
        let config = request.extensions().get::<Arc<TimeoutConfig>>().unwrap();
        assert!(Arc::ptr_eq(config, timeouts.config()));
        let body = format!("{:?}", config.message_timeout().unwrap());
        Ok::<_, Infallible>(hyper::Response::new(body))
    });
    let by_hand = outer.layer(handler);
    let built = ServiceBuilder::new()
        .layer(outer.clone())
        .layer(inner)
        .service(handler);
    assert_eq!(ask_hyper(TowerToHyperService::new(by_hand)).await, "2s");
    assert_eq!(ask_hyper(TowerToHyperService::new(built)).await, "3s");
}

/// Returns the body of the answer of a server with this service to a request.
async fn ask_hyper<S>(service: S) -> String
where
    S: hyper::service::Service<
            Request<hyper::body::Incoming>,
            Response = hyper::Response<String>,
            Error: std::error::Error + Send + Sync + 'static,
        >,
{
    let (ours, peers) = duplex(1 << 12);
    let server = hyper::server::conn::http1::Builder::new();
    let server = server.serve_connection(TokioIo::new(ours), service);
    let (mut requests, connection) = client::conn::http1::handshake(TokioIo::new(peers))
        .await
        .unwrap();
    let answer = async {
        let response = requests
            .send_request(Request::new(Empty::<Bytes>::new()))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    tokio::select! {
        answer = answer => answer,
        _ = async { tokio::join!(server, connection) } => panic!("closed without an answer"),
    }
}

/// Keeps the lines of the log.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn the_layer_logs_the_limits_and_the_warnings_once() {
    let _ = log::set_logger(&LINES);
    log::set_max_level(log::LevelFilter::Info);
    let config =
        |builder: TimeoutConfigBuilder| builder.idle_timeout(543 * SECOND).build().unwrap();
    let timeouts = Timeouts::new(config(TimeoutConfig::builder().ping_interval(77 * SECOND)));
    let route = timeouts.with_config(config(TimeoutConfig::builder().ping_interval(20 * SECOND)));
    let _app: Router = Router::new()
        .route("/a", any(return_limit))
        .route("/b", any(return_limit).layer(route.clone()))
        .route("/c", any(return_limit).layer(route))
        .layer(timeouts.clone())
        .layer(timeouts)
        .with_state(()); // layers what is above
    let lines = LINES.0.lock().unwrap().clone();
    let count = |begin, part| {
        let lines = lines
            .iter()
            .filter(|line| line.starts_with(begin) && line.contains(part));
        lines.count()
    };
    assert_eq!(
        count("INFO limits: WS_", "WS_IDLE_TIMEOUT=543 "),
        2,
        "{lines:?}"
    );
    assert_eq!(count("WARN ping_interval", ""), 1, "{lines:?}");
}
