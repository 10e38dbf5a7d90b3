//! The chat as a program: what clients receive, when they are disconnected, and what the log says.

#[path = "../../../tests/common/replayed.rs"]
mod replayed;

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_tungstenite::{WebSocketStream, client_async};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

use replayed::assert_replays;

const SECOND: Duration = Duration::from_secs(1);

type Client = WebSocketStream<TcpStream>;

struct Server {
    process: Child,
    address: String,
    log: Lines<BufReader<ChildStderr>>,
}

impl Server {
    /// Starts the chat with these limits beside the defaults.
    async fn start(limits: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_axum_chat"))
            .arg("127.0.0.1:0")
            .envs(limits.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = output.next_line().await.unwrap().unwrap();
        let address = line.strip_prefix("listening on ws://").unwrap();
        Self {
            address: address.strip_suffix("/ws").unwrap().into(),
            log: BufReader::new(process.stderr.take().unwrap()).lines(),
            process,
        }
    }

    /// Returns the body of an answer.
    async fn get(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(&self.address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        body.to_string()
    }

    async fn connect(&self, path: &str) -> Client {
        let tcp = TcpSocket::new_v4().unwrap();
        // Otherwise the kernel accepts a large part of a message that the client does not read.
        tcp.set_recv_buffer_size(64 << 10).unwrap();
        let tcp = tcp.connect(self.address.parse().unwrap()).await.unwrap();
        let url = format!("ws://{}{path}", self.address);
        let (client, _) = client_async(url, tcp).await.unwrap();
        client
    }

    /// Returns the next line of the log that contains all of `parts`.
    async fn logs(&mut self, parts: &[&str]) -> String {
        loop {
            let line = timeout(10 * SECOND, self.log.next_line()).await;
            let line = line
                .unwrap_or_else(|_| panic!("the log has no {parts:?}"))
                .unwrap();
            let line = line.unwrap_or_else(|| panic!("the log has no {parts:?}"));
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// Asks the server to stop. Returns how it ended, which has to be within this time, and the
    /// rest of its log.
    async fn stop(mut self, within: Duration) -> (ExitStatus, String) {
        let id = i32::try_from(self.process.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
        let mut log = String::new();
        let ended = timeout(within, async {
            // Read the log to its end: otherwise the server blocks in the middle of a line.
            self.log.get_mut().read_to_string(&mut log).await.unwrap();
            self.process.wait().await.unwrap()
        });
        (ended.await.expect("the server ends in time"), log)
    }
}

async fn receive(client: &mut Client) -> Message {
    let message = timeout(10 * SECOND, client.next()).await.unwrap();
    message.unwrap().unwrap()
}

#[tokio::test]
async fn what_one_client_says_all_clients_receive() {
    let server = Server::start(&[]).await;
    let mut here = server.connect("/ws").await;
    let mut there = server.connect("/ws/slow").await;
    for text in ["hello", "é"] {
        here.send(text.into()).await.unwrap();
        assert_eq!(receive(&mut here).await, text.into());
        assert_eq!(receive(&mut there).await, text.into());
    }
    there.send("and here".into()).await.unwrap();
    assert_eq!(receive(&mut here).await, "and here".into());
}

#[tokio::test]
async fn a_stopped_client_is_disconnected_in_time_and_the_log_says_why() {
    let limits = [
        ("WS_PING_INTERVAL", "0.5"),
        ("WS_PONG_TIMEOUT", "1"),
        ("WS_JITTER", "0"),
        ("WS_PING_INTERNAL", "3"),
        ("WS_SERVICE_HOST", "10.0.0.1"),
    ];
    let mut server = Server::start(&limits).await;
    server
        .logs(&["WARN", "WS_PING_INTERNAL", "did you mean WS_PING_INTERVAL?"])
        .await;
    server.logs(&["INFO", "WS_SERVICE_HOST"]).await;
    server
        .logs(&["INFO", "limits: ", "WS_PONG_TIMEOUT=1 "])
        .await;
    let mut alive = server.connect("/ws").await;
    let alive = tokio::spawn(async move {
        while let Some(Ok(message)) = alive.next().await {
            if message.is_text() {
                return message;
            }
        }
        panic!("the client that answers is disconnected");
    });
    let client = server.connect("/ws").await;
    let label = client.get_ref().local_addr().unwrap().to_string();
    // Its kernel receives, its program answers nothing.
    let mut stopped = client.into_inner();
    let mut received = Vec::new();
    let end = timeout(5 * SECOND / 2, stopped.read_to_end(&mut received)).await;
    end.expect("1.5 s after the opening").unwrap();
    let line = server.logs(&["WARN", "pong_timeout"]).await;
    assert!(line.contains(&label), "{line} is not about {label}");
    let trace = server.get("/trace").await;
    assert!(trace.contains(&label), "{trace}");
    assert_replays(&trace);
    let mut other = server.connect("/ws").await;
    other.send("still there?".into()).await.unwrap();
    assert_eq!(alive.await.unwrap(), "still there?".into());
}

#[tokio::test]
async fn a_route_has_its_own_limits() {
    let mut server = Server::start(&[("WS_MESSAGE_TIMEOUT", "0.5")]).await;
    let stuck = server.connect("/ws").await;
    let label = stuck.get_ref().local_addr().unwrap().to_string();
    let mut slow = server.connect("/ws/slow").await;
    let mut speaker = server.connect("/ws").await;
    let large = Message::from("x".repeat(12_000_000));
    let sent = large.clone();
    let speaker = tokio::spawn(async move {
        speaker.send(sent).await.unwrap();
        receive(&mut speaker).await
    });
    // Neither of the two reads, and the limit at `/ws` expires.
    server.logs(&["WARN", "message_timeout", &label]).await;
    assert_eq!(receive(&mut slow).await, large);
    assert_eq!(speaker.await.unwrap(), large);
}

#[tokio::test]
async fn a_thousand_clients_are_drained_at_sigterm() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let server = Server::start(&[("WS_CLOSE_TIMEOUT", "1")]).await;
    let clients = join_all((0..1000).map(|_| server.connect("/ws"))).await;
    let stopped = server.connect("/ws").await;
    let clients = join_all(clients.into_iter().map(async |mut client| {
        let close = match client.next().await {
            Some(Ok(Message::Close(Some(frame)))) => frame.code,
            other => panic!("expected a Close frame, got {other:?}"),
        };
        // The answer is sent, and the server hangs up.
        assert!(client.next().await.is_none());
        close
    }));
    // Five seconds for the Close frames, one for the answers. The server itself gives up after
    // seven.
    let (codes, (status, log)) = tokio::join!(clients, server.stop(9 * SECOND));
    assert_eq!(codes, [CloseCode::Away; 1000]);
    assert!(status.success(), "{status}");
    assert_eq!(log.matches("drain, close answered").count(), 1000);
    assert_eq!(log.matches("drain, close unanswered").count(), 1);
    assert!(!log.contains("no longer waiting"));
    drop(stopped);
}

#[tokio::test]
async fn an_endless_request_does_not_delay_the_exit_forever() {
    let server = Server::start(&[("WS_CLOSE_TIMEOUT", "0.1")]).await;
    let mut request = TcpStream::connect(&server.address).await.unwrap();
    request
        .write_all(b"GET /ws HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    // The server has read that before it opens this connection.
    let client = server.connect("/ws").await;
    drop(client);
    let (status, log) = server.stop(9 * SECOND).await;
    assert!(status.success(), "{status}");
    assert!(
        log.contains("no longer waiting for 0 WebSockets and for requests"),
        "{log}"
    );
}
