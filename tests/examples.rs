//! Runs the examples as a user would: as programs.
//!
//! All but `demo`, which takes longer and is run by itself.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tungstenite::{Message, WebSocket};

/// How long a program may take to do what is asked of it.
const PATIENCE: Duration = Duration::from_secs(8);

// ---- echo ----

const RUNTIMES: [&str; 3] = ["tokio", "smol", "async-std"];

#[test]
fn echo_sends_back_text_and_binary_as_they_came() {
    for runtime in RUNTIMES {
        let echo = Server::start(&["--runtime", runtime], &[]);
        let mut socket = echo.connect();
        let messages = [
            Message::text("ping"),
            Message::text("pong"),
            Message::text(""),
            Message::binary(vec![0, 255]),
            Message::binary(vec![7; 1 << 20]),
        ];
        for message in messages {
            socket.send(message.clone()).unwrap();
            assert_eq!(socket.read().unwrap(), message, "{runtime}");
        }
    }
}

#[test]
fn echo_answers_a_ping_frame_and_a_close_but_does_not_echo_them() {
    let echo = Server::start(&["--runtime", "tokio", "--addr", "127.0.0.1:0"], &[]);
    let mut socket = echo.connect();
    socket.send(Message::Ping("are you there".into())).unwrap();
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(
        socket.read().unwrap(),
        Message::Pong("are you there".into())
    );
    assert_eq!(socket.read().unwrap(), Message::text("hello"));

    socket.close(None).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Close(None));
    assert!(matches!(
        socket.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
}

#[test]
fn echo_takes_a_text_ping_of_the_peer_for_a_text_like_any_other() {
    for heartbeat in ["frame", "text"] {
        let echo = Server::start(&["--heartbeat", heartbeat], &[]);
        let mut socket = echo.connect();
        socket.send(Message::text("ping")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("ping"), "{heartbeat}");
    }
}

#[test]
fn echo_with_a_text_heartbeat_asks_in_text_and_keeps_the_answer_to_itself() {
    let often = [("WS_PING_INTERVAL", "0.1"), ("WS_JITTER", "0")];
    let echo = Server::start(&["--heartbeat", "text"], &often);
    let mut socket = echo.connect();
    for _ in 0..3 {
        assert_eq!(socket.read().unwrap(), Message::text("ping"));
        socket.send(Message::text("pong")).unwrap();
    }
    socket.send(Message::text("hello")).unwrap();
    loop {
        let message = socket.read().unwrap();
        if message == Message::text("hello") {
            break;
        }
        assert_eq!(message, Message::text("ping"));
    }
}

#[test]
fn echo_lets_go_of_a_silent_client_and_logs_why_under_its_label() {
    let short = [("WS_PING_INTERVAL", "0.1"), ("WS_PONG_TIMEOUT", "0.3")];
    for runtime in RUNTIMES {
        let echo = Server::start(&["--label", "kitchen", "--runtime", runtime], &short);
        let mut socket = echo.connect();
        echo.logs("kitchen-1: pong_timeout");
        let close = loop {
            match socket.read().unwrap() {
                Message::Close(close) => break close.unwrap(),
                message => assert!(message.is_ping(), "{message:?}"),
            }
        };
        assert_eq!(u16::from(close.code), 1011, "{runtime}");
    }
}

#[test]
fn echo_refuses_a_bad_environment_and_names_all_of_it() {
    let bad = [
        ("WS_PING_INTERVAL", "-5"),
        ("WS_JITTER", "nan"),
        ("WS_IDLE_SCOPE", "Inbound"),
        ("WS_MIN_DATA_RATE", ""),
    ];
    let (status, out, err) = run("echo", &[], &bad);
    assert_eq!(status.code(), Some(2), "{err}");
    assert_eq!(out, "");
    for (name, value) in bad {
        let line = err.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {err:?}"));
        assert!(line.contains(&format!("{value:?}")), "{line}");
        assert!(line.contains("accepted is "), "{line}");
    }
}

#[test]
fn echo_refuses_bad_arguments() {
    let bad: [&[&str]; 7] = [
        &["--runtime", "cobol"],
        &["--addr"],
        &["--addr", "nowhere"],
        &["--addr", "127.0.0.1:65536"],
        &["--heartbeat", "drum"],
        &["--verbose"],
        &["localhost:80"],
    ];
    for arguments in bad {
        let (status, out, err) = run("echo", arguments, &[]);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(err.contains("\nusage: echo "), "{arguments:?}: {err}");
    }
}

#[test]
fn echo_warns_of_a_misspelt_variable() {
    let echo = Server::start(&[], &[("WS_IDEL_TIMEOUT", "5"), ("WS_IDLE_TIMEOUT", "20")]);
    echo.logs("WS_IDEL_TIMEOUT");
    echo.logs("idle_timeout is not above ping_interval");
}

// ---- replay ----

#[test]
fn replay_finds_the_cases_as_expected() {
    let folder = fs::read_dir(conformance()).unwrap();
    let files: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension() == Some(OsStr::new("json")))
        .collect();
    let files = files.iter().map(|file| file.to_str().unwrap());
    let arguments: Vec<_> = ["--check"].into_iter().chain(files).collect();
    let (status, out, err) = run("replay", &arguments, &[]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert!(out.ends_with(" cases as expected, 0 not\n"), "{out}");
}

#[test]
fn replay_finds_what_was_tampered_with() {
    let scenarios = fs::read_to_string(conformance().join("scenarios.json")).unwrap();
    let tampered = scenarios.replacen(
        "\"cause\": \"connection_timeout\"",
        "\"cause\": \"drain\"",
        1,
    );
    assert_ne!(tampered, scenarios);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tampered.json");
    fs::write(&file, tampered).unwrap();

    let (status, out, err) = run("replay", &["--check", file.to_str().unwrap()], &[]);
    assert_eq!(status.code(), Some(1), "{out}{err}");
    assert!(out.contains(" cases as expected, 1 not\n"), "{out}");
}

#[test]
fn replay_ends_with_2_where_there_is_nothing_to_read() {
    let (status, _, err) = run("replay", &["--check", "no such file"], &[]);
    assert_eq!(status.code(), Some(2), "{err}");
}

// ---- bare ----

#[test]
fn bare_goes_as_expected() {
    let (status, out, err) = run("bare", &[], &[]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert!(out.contains("server: pong_timeout"), "{out}");
}

// ---- programs ----

/// An echo server that listens.
struct Server {
    _program: Program,
    address: String,
    /// What it logs, line by line.
    log: Receiver<String>,
    /// Kept so that the program can go on writing.
    _out: Receiver<String>,
}

impl Server {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut program = Program::start("echo", arguments, variables);
        let log = lines(program.0.stderr.take().unwrap());
        let out = lines(program.0.stdout.take().unwrap());
        let first = out.recv_timeout(PATIENCE).expect("a first line in time");
        let address = first.strip_prefix("listening on ws://");
        Self {
            address: address.unwrap_or_else(|| panic!("{first:?}")).to_owned(),
            _program: program,
            log,
            _out: out,
        }
    }

    fn connect(&self) -> WebSocket<TcpStream> {
        let tcp = TcpStream::connect(&self.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client("ws://localhost/", tcp).unwrap();
        socket
    }

    /// Waits for a line with `text` in it.
    fn logs(&self, text: &str) {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{text:?} is not logged: {error}"));
            if line.contains(text) {
                return;
            }
        }
    }
}

/// Runs an example to its end: the status, what it printed, and what it complained of.
fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String, String) {
    let mut program = Program::start(name, arguments, variables);
    let out = whole(program.0.stdout.take().unwrap());
    let err = whole(program.0.stderr.take().unwrap());
    let out = out.recv_timeout(PATIENCE).expect("an end in time");
    let err = err.recv_timeout(PATIENCE).expect("an end in time");
    (program.0.wait().unwrap(), out, err)
}

/// A running example, which does not outlive its test.
struct Program(Child);

impl Program {
    /// Starts a built example in an environment in which nothing configures it but `variables`.
    fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        // Cargo puts tests into PROFILE/deps and examples into PROFILE/examples.
        let test = std::env::current_exe().unwrap();
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        let program = test.ancestors().nth(2).unwrap().join("examples").join(file);
        assert!(
            program.exists(),
            "{} is not there: `cargo test --test` does not build it, `cargo build --examples` does",
            program.display()
        );

        let mut command = Command::new(program);
        for (inherited, _) in std::env::vars_os() {
            let bytes = inherited.as_encoded_bytes();
            if bytes.starts_with(b"WS_") || bytes.starts_with(b"RUST_LOG") {
                command.env_remove(inherited);
            }
        }
        command.args(arguments).envs(variables.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a pipe as they come.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = send.send(line.unwrap());
        }
    });
    receive
}

/// All of a pipe, once it has ended.
fn whole(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        let _ = send.send(text);
    });
    receive
}

fn conformance() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}
