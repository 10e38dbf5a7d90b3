//! Runs the examples as a user would: as programs.
//!
//! All except `demo`, which takes longer: `.ci/run` runs it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tungstenite::{Message, WebSocket};

/// How long a program may take to do something.
const PATIENCE: Duration = Duration::from_secs(8);

/// Limits with which a silent peer is detected within a second and a half.
const OFTEN: [(&str, &str); 2] = [("WS_PING_INTERVAL", "0.3"), ("WS_PONG_TIMEOUT", "1")];

/// The reason in the Close frame that ends the connection of a silent peer.
const PONG_TIMEOUT: &str = "a ping was not answered in time";

// ---- echo ----

const RUNTIMES: [&str; 3] = ["tokio", "smol", "async-std"];

#[test]
fn echo_sends_back_text_and_binary_as_they_came() {
    for runtime in RUNTIMES {
        let echo = Server::start("echo", &["--runtime", runtime], &[]);
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
    let echo = Server::start(
        "echo",
        &["--runtime", "tokio", "--addr", "127.0.0.1:0"],
        &[],
    );
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
fn echo_treats_a_text_ping_of_the_peer_as_any_other_text() {
    for heartbeat in ["frame", "text"] {
        let echo = Server::start("echo", &["--heartbeat", heartbeat], &[]);
        let mut socket = echo.connect();
        socket.send(Message::text("ping")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text("ping"), "{heartbeat}");
    }
}

#[test]
fn echo_with_a_text_heartbeat_pings_in_text_and_does_not_echo_the_pong() {
    let often = [("WS_PING_INTERVAL", "0.1"), ("WS_JITTER", "0")];
    let echo = Server::start("echo", &["--heartbeat", "text"], &often);
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
fn echo_repeats_the_reference_of_a_phoenix_heartbeat() {
    let echo = Server::start("echo", &["--heartbeat", "phoenix"], &[]);
    let mut socket = echo.connect();
    for reference in ["1", "2"] {
        let ping = format!(r#"[null,"{reference}","phoenix","heartbeat",{{}}]"#);
        socket.send(Message::text(ping)).unwrap();
        let pong = socket.read().unwrap();
        let pong: [serde_json::Value; 5] = serde_json::from_str(pong.to_text().unwrap()).unwrap();
        assert_eq!(pong[1..4], [reference, "phoenix", "phx_reply"]);
    }
    let message = Message::text(r#"[null,"3","room","say",{"text":"phoenix"}]"#);
    socket.send(message.clone()).unwrap();
    assert_eq!(socket.read().unwrap(), message);
}

#[test]
fn echo_greets_an_engine_io_client_and_pings_it() {
    let often = [("WS_PING_INTERVAL", "0.1"), ("WS_JITTER", "0")];
    let echo = Server::start("echo", &["--heartbeat", "engine.io"], &often);
    let mut socket = echo.connect();
    let greeting = socket.read().unwrap();
    assert!(greeting.to_text().unwrap().starts_with("0{"), "{greeting}");
    for _ in 0..3 {
        assert_eq!(socket.read().unwrap(), Message::text("2"));
        socket.send(Message::text("3")).unwrap();
    }
}

#[test]
fn echo_disconnects_a_silent_client_and_logs_why_under_its_label() {
    let short = [("WS_PING_INTERVAL", "0.1"), ("WS_PONG_TIMEOUT", "0.3")];
    for runtime in RUNTIMES {
        let echo = Server::start(
            "echo",
            &["--label", "kitchen", "--runtime", runtime],
            &short,
        );
        let mut socket = echo.connect();
        echo.logs("kitchen-1: aborted after a Close frame: pong_timeout: ping unanswered for ");
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
        ("WS_IDLE_SCOPE", "outbound"),
        ("WS_MIN_DATA_RATE", ""),
    ];
    let (status, out, err) = run("echo", &[], &bad);
    assert_eq!(status.code(), Some(2), "{err}");
    assert_eq!(out, "");
    for (name, value) in bad {
        let line = err.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {err:?}"));
        assert!(line.contains(&format!("{value:?}")), "{line}");
        assert!(line.contains("expected "), "{line}");
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
fn a_port_out_of_range_is_reported() {
    let url = "ws://127.0.0.1:65536/";
    for (name, arguments) in [
        ("echo", &["--addr", "127.0.0.1:65536"][..]),
        ("line_client", &[url]),
    ] {
        let (status, _, err) = run(name, arguments, &[]);
        assert_eq!(status.code(), Some(2), "{name}: {err}");
        assert!(err.contains("127.0.0.1:65536"), "{name}: {err}");
        assert!(err.contains("a port from 0 to 65535"), "{name}: {err}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, out, err) = run("echo", &["--addr", &address], &[]);
    assert_eq!((status.code(), &*out), (Some(1), ""), "{err}");
    assert!(
        err.starts_with(&format!("echo: cannot listen on {address}: ")),
        "{err}"
    );
}

#[test]
fn echo_warns_of_a_misspelt_variable() {
    let echo = Server::start(
        "echo",
        &[],
        &[("WS_IDEL_TIMEOUT", "5"), ("WS_IDLE_TIMEOUT", "20")],
    );
    echo.logs("WS_IDEL_TIMEOUT");
    echo.logs("idle_timeout is not longer than ping_interval");
}

// ---- replay ----

#[test]
fn replay_confirms_every_conformance_case() {
    let folder = fs::read_dir(conformance()).unwrap();
    let files: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension() == Some(OsStr::new("json")))
        .collect();
    let files = files.iter().map(|file| file.to_str().unwrap());
    let arguments: Vec<_> = ["--check"].into_iter().chain(files).collect();
    let (status, out, err) = run("replay", &arguments, &[]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert!(out.ends_with(" cases passed, 0 failed\n"), "{out}");
}

#[test]
fn replay_reports_a_case_that_was_tampered_with() {
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
    assert!(out.contains(" cases passed, 1 failed\n"), "{out}");

    let whole: serde_json::Value = serde_json::from_str(&scenarios).unwrap();
    fs::write(&file, format!("[{}]", whole[0])).unwrap();
    let (_, out, err) = run("replay", &["--check", file.to_str().unwrap()], &[]);
    assert_eq!(out, "1 case passed, 0 failed\n", "{err}");
}

#[test]
fn replay_explains_its_modes() {
    let (status, out, err) = run("replay", &["--help"], &[]);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
    for mode in ["FILE…", "--check", "--mermaid", "--svg", "--explain"] {
        let line = out
            .lines()
            .find(|line| line.contains(&format!("replay {mode} ")));
        assert!(line.is_some_and(|line| line.len() > 50), "{mode}: {out}");
    }
}

#[test]
fn replay_exits_with_2_if_a_file_is_missing() {
    let (status, _, err) = run("replay", &["--check", "no such file"], &[]);
    assert_eq!(status.code(), Some(2), "{err}");
}

#[test]
fn replay_draws_a_case_as_a_sequence_diagram() {
    let scenarios = conformance().join("scenarios.json");
    let arguments = [
        "--mermaid",
        scenarios.to_str().unwrap(),
        "stale-pong-does-not-answer",
    ];
    let (status, out, err) = run("replay", &arguments, &[]);
    assert_eq!(status.code(), Some(0), "{err}");
    assert_eq!(out, STALE_PONG);
}

const STALE_PONG: &str = "\
```mermaid
sequenceDiagram
    participant Peer
    participant Socket
    participant Policy
    Note over Peer,Policy: stale-pong-does-not-answer
    Policy->>Socket: 1 s: send ping 1
    Socket->>Peer: 1 s: ping 1 written
    activate Peer
    Peer-->>Socket: 1.1 s: pong to ping 1, 100 ms after it was written
    deactivate Peer
    Policy->>Socket: 2.1 s: send ping 2
    Socket->>Peer: 2.1 s: ping 2 written
    activate Peer
    Peer-->>Socket: 2.2 s: pong to ping 1, 1.2 s after it was written
    Peer-->>Socket: 3 s: pong to an unknown ping
    Policy-xSocket: 4.1 s: abort: pong_timeout
    deactivate Peer
    Note over Peer,Policy: 4.1 s: aborted: pong_timeout: ping 2 unanswered for 2 s (limit 2 s)
```
";

/// Hundreds of events stay readable, and a name cannot break the picture.
#[test]
fn replay_summarises_routine_events() {
    let step = |at_ms, event| format!(r#"{{"at_ms": {at_ms}, "event": "{event}"}}"#);
    let mut steps: Vec<_> = (1..=400).map(|second| step(second * 500, "recv")).collect();
    steps.push(step(260_000, "tick"));
    let steps = steps.join(", ");
    let case = format!(
        r#"[{{"name": "<b>; #1", "config": {{"ping_interval": null}}, "steps": [{steps}]}}]"#
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("routine.json");
    fs::write(&file, case).unwrap();

    let (status, out, err) = run("replay", &["--mermaid", file.to_str().unwrap()], &[]);
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(
        out.contains("Peer->>Socket: 400 messages, 0.5 s to 200 s\n"),
        "{out}"
    );
    assert!(out.contains(": #60;b#62;#59; #35;1\n"), "{out}");
    assert!(out.lines().count() < 20, "{out}");

    let (status, out, err) = run("replay", &["--svg", file.to_str().unwrap()], &[]);
    assert_eq!(status.code(), Some(0), "{err}");
    let limit = "260 s: closing: idle_timeout: received nothing for 60 s (limit 60 s)";
    assert!(
        out.contains("<title>&lt;b&gt;; #1</title>") && out.contains(limit),
        "{out}"
    );
}

#[test]
fn replay_draws_each_deadline_with_how_late_it_was_polled() {
    let scenarios = conformance().join("scenarios.json");
    let arguments = [
        "--svg",
        scenarios.to_str().unwrap(),
        "stall-grace-then-dead",
    ];
    let (status, out, err) = run("replay", &arguments, &[]);
    assert_eq!(status.code(), Some(0), "{err}");
    let verdict = "6.5 s: aborted: pong_timeout: ping 1 unanswered for 5.5 s (limit 2 s), \
                   after a grace of 500 ms";
    for text in [
        verdict,
        "pong, 2 s",
        "overdue by 3 s",
        "1 grace",
        "1 ping, 0 pongs",
    ] {
        assert!(out.contains(&format!(">{text}</text>")), "{text}: {out}");
    }
}

#[test]
fn replay_says_in_each_picture_why_the_connection_ended() {
    let file = conformance().join("scenarios.json");
    let cases: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        for flag in ["--mermaid", "--svg"] {
            let (status, out, err) = run("replay", &[flag, file.to_str().unwrap(), name], &[]);
            assert_eq!(status.code(), Some(0), "{name}: {err}");
            let cause = case["final"]["cause"].as_str();
            assert!(
                cause.is_none_or(|cause| out.contains(&format!(": {cause}: "))),
                "{name}: {out}"
            );
            assert!(
                !out.contains("NaN") && !out.contains("unknown)"),
                "{name}: {out}"
            );
        }
    }
}

#[test]
fn replay_needs_the_name_of_one_case() {
    let scenarios = conformance().join("scenarios.json");
    for names in [&[][..], &["no such case"], &["probe", "drain"]] {
        let arguments = [&["--svg", scenarios.to_str().unwrap()], names].concat();
        let (status, out, err) = run("replay", &arguments, &[]);
        assert_eq!(
            (status.code(), out.as_str()),
            (Some(2), ""),
            "{names:?}: {err}"
        );
        let help = if names.len() < 2 {
            "expected one of "
        } else {
            "usage: "
        };
        assert!(err.contains(help), "{err}");
    }
}

#[test]
fn replay_explains_the_limits_of_the_environment() {
    let (status, out, err) = run("replay", &["--explain"], &[("WS_IDLE_TIMEOUT", "7")]);
    assert_eq!(status.code(), Some(0), "{err}");
    assert!(
        out.contains("12 s: closing: idle_timeout: received nothing for 7 s (limit 7 s)"),
        "{out}"
    );

    let (status, _, err) = run("replay", &["--explain"], &[("WS_IDLE_TIMEOUT", "7 weeks")]);
    assert_eq!(status.code(), Some(2), "{err}");
    assert!(err.contains("WS_IDLE_TIMEOUT"), "{err}");
}

#[test]
fn the_timeline_of_the_documentation_is_what_replay_draws() {
    let (status, out, err) = run("replay", &["--explain"], &[]);
    assert_eq!(status.code(), Some(0), "{err}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/timeline.svg");
    assert!(
        fs::read_to_string(file).unwrap() == out,
        "`cargo run --example replay -- --explain > docs/timeline.svg` makes the file"
    );
}

// ---- bare ----

#[test]
fn bare_stays_while_the_server_answers_and_leaves_when_it_falls_silent() {
    // Only the pong of a ping answers it, so a pong that is not matched ends the connection.
    let [interval, timeout] = OFTEN;
    let variables = [interval, timeout, ("WS_PONG_EVIDENCE", "pong")];
    let (program, mut socket) = start_client("bare", &variables);
    echoed_by(&mut socket, "hello");
    answer_pings(&mut socket, 3);
    bare_leaves(program, socket);
}

#[test]
#[cfg(unix)]
fn bare_stays_connected_when_its_process_was_stopped() {
    let (program, mut socket) = start_client("bare", &OFTEN);
    let id = program.0.id();
    let stop = format!("sleep 0.5; kill -STOP {id}; sleep 1; kill -CONT {id}");
    let stop = thread::spawn(move || Command::new("sh").args(["-c", &stop]).status());
    answer_pings(&mut socket, 6);
    assert!(stop.join().unwrap().unwrap().success());
    echoed_by(&mut socket, "hello");
    bare_leaves(program, socket);
}

#[test]
fn bare_gives_up_a_large_write_that_makes_no_progress() {
    let (program, mut socket) = start_client("bare", &[]);
    socket.send(Message::binary(vec![7; 15 << 20])).unwrap();
    let (status, out, err) = wait_for_end(program);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(out, "connected\nended by a limit: message_timeout\n");
}

#[test]
fn bare_names_the_limit_although_the_server_answers_its_close_frame() {
    let (program, mut socket) = start_client("bare", &[("WS_CONNECTION_TIMEOUT", "1")]);
    while socket.read().is_ok() {}
    // The server hangs up first (RFC 6455, 7.1.1), so the client's next read fails.
    drop(socket);
    let (status, out, err) = wait_for_end(program);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(out, "connected\nended by a limit: connection_timeout\n");
}

#[test]
fn bare_limits_the_opening_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let program = Program::start("bare", &[&url], &[("WS_HANDSHAKE_TIMEOUT", "0.5")]);
    let (status, out, err) = wait_for_end(program);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(out, "ended by a limit: handshake_timeout\n");
}

#[test]
#[cfg(unix)]
fn bare_connects_although_its_process_was_stopped_during_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let program = Program::start("bare", &[&url], &OFTEN);
    let (tcp, _) = listener.accept().unwrap();
    let id = program.0.id();
    // The request has arrived, so the client waits for the response.
    tcp.peek(&mut [0]).unwrap();
    let stop = format!("kill -STOP {id}; sleep 0.5; kill -CONT {id}; sleep 0.5");
    let stopped = Command::new("sh").args(["-c", &stop]).status();
    assert!(stopped.unwrap().success());
    let mut socket = tungstenite::accept(Patient::new(tcp)).unwrap();
    echoed_by(&mut socket, "hello");
    bare_leaves(program, socket);
}

/// Reads nothing more, and so answers no ping.
fn bare_leaves(program: Program, mut socket: WebSocket<Patient>) {
    let (status, out, err) = wait_for_end(program);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    assert_eq!(out, "connected\nended by a limit: pong_timeout\n");
    let close = loop {
        if let Message::Close(close) = socket.read().unwrap() {
            break close.unwrap();
        }
    };
    assert_eq!(
        (u16::from(close.code), &*close.reason),
        (1011, PONG_TIMEOUT)
    );
}

// ---- fleet_tokio ----

#[test]
fn fleet_tokio_disconnects_the_silent_and_nobody_else() {
    let server = Server::start("fleet_tokio", &[], &OFTEN);
    let lively: Vec<_> = (0..10)
        .map(|_| {
            let mut socket = server.connect();
            socket.send(Message::text("hello")).unwrap();
            thread::spawn(move || while socket.read().is_ok() {})
        })
        .collect();
    let silent: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for mut socket in silent {
        let mut received = Vec::new();
        socket.get_mut().read_to_end(&mut received).unwrap();
        assert!(received.ends_with(PONG_TIMEOUT.as_bytes()), "{received:?}");
    }
    assert!(lively.iter().all(|client| !client.is_finished()));
    let printed = (0..20).map(|_| server.out.recv_timeout(PATIENCE).unwrap());
    let printed: Vec<_> = printed.collect();
    for line in [": received hello", ": aborted: pong_timeout"] {
        let count = printed
            .iter()
            .filter(|printed| printed.ends_with(line))
            .count();
        assert_eq!(count, 10, "{line}: {printed:?}");
    }
}

// ---- servers ----

#[test]
fn a_server_with_timeouts_disconnects_a_silent_client() {
    for name in [
        "tokio_server",
        "smol_server",
        "tls_server",
        "smol_tls_server",
    ] {
        let (status, out, err) = run(name, &[], &[]);
        assert_eq!(status.code(), Some(0), "{name}: {out}{err}");
        assert!(out.contains("the client received hello"), "{name}: {out}");
        assert!(out.contains("has disconnected the client"), "{name}: {out}");
        assert!(
            err.contains("pong_timeout, aborted after a Close frame"),
            "{name}: {err}"
        );
    }
}

// ---- reconnect ----

#[test]
fn reconnect_comes_back_until_the_server_is_done() {
    let out = run_reconnect();
    let mut lines = out.lines();
    let in_order = [
        "ended by a limit: pong_timeout",
        "failed: ",
        "the server says hello",
        "that was a healthy connection",
        "the server will be back: 1012",
        "the server says hello",
        "the server is done",
    ];
    for text in in_order {
        let found = lines.any(|line| line.starts_with(text));
        assert!(found, "{text:?} is not in its place: {out}");
    }
}

#[test]
fn reconnect_waits_longer_each_time_until_a_healthy_connection() {
    let out = run_reconnect();
    let waits: Vec<f64> = out
        .lines()
        .filter_map(|line| line.strip_prefix("the next try is in ")?.strip_suffix("ms"))
        .map(|wait| wait.parse().unwrap())
        .collect();
    let [first, second, anew] = waits[..] else {
        panic!("{out}");
    };
    assert!((100.0..=200.0).contains(&first), "{out}");
    assert!((200.0..=400.0).contains(&second), "{out}");
    assert!((100.0..=200.0).contains(&anew), "{out}");
}

/// Runs `reconnect` against a server that falls silent on the first connection, drops the second,
/// restarts during the third, and says that it is done on the fourth. Returns what it prints.
fn run_reconnect() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let program = Program::start("reconnect", &[&url], &OFTEN);
    let _silent = accept(&listener);
    drop(accept(&listener));
    for code in [CloseCode::Restart, CloseCode::Normal] {
        let mut socket = accept(&listener);
        socket.send(Message::text("hello")).unwrap();
        answer_pings(&mut socket, 3);
        let reason = "".into();
        socket.close(Some(CloseFrame { code, reason })).unwrap();
        while socket.read().is_ok() {}
    }
    let (status, out, err) = wait_for_end(program);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    out
}

// ---- split ----

#[test]
fn split_ends_all_tasks_when_the_reading_task_ends() {
    let (status, out, err) = run("split", &[], &[]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "reader: got one",
            "reader: got two",
            "reader: pong_timeout",
            "writer: the connection has ended",
            "main: the outbox is closed",
        ]
    );
}

// ---- metrics ----

#[test]
fn metrics_counts_what_happens_to_connections() {
    let short = [("WS_PING_INTERVAL", "0.1"), ("WS_PONG_TIMEOUT", "0.5")];
    let server = Server::start("metrics", &[], &short);
    let line = server.out.recv_timeout(PATIENCE).unwrap();
    let url = line.strip_prefix("metrics on http://").unwrap();
    let (address, path) = url.split_at(url.find('/').unwrap());
    let page = || {
        let mut tcp = Patient::new(TcpStream::connect(address).unwrap());
        write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer
    };
    let value = |page: &str, name: &str| -> f64 {
        let mut lines = page.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{name}: {page}"));
        value.parse().unwrap()
    };

    let mut lively = server.connect();
    answer_pings(&mut lively, 3);
    // The echo comes after the server has received the three pongs.
    lively.send(Message::text("hello")).unwrap();
    while !lively.read().unwrap().is_text() {}
    let during = page();
    assert_eq!(value(&during, "ws_connections"), 1.0);
    let pings = "ws_reports_total{report=\"ping\"}";
    assert!(value(&during, pings) >= 3.0, "{during}");
    let pongs = value(&during, "ws_rtt_seconds_count");
    assert!(pongs >= 3.0, "{during}");
    assert_eq!(value(&during, "ws_rtt_seconds_bucket{le=\"10\"}"), pongs);
    let sum = value(&during, "ws_rtt_seconds_sum");
    assert!(sum > 0.0 && sum < 10.0 * pongs, "{during}");
    lively.close(None).unwrap();
    while lively.read().is_ok() {}

    let mut silent = server.connect();
    silent.get_mut().read_to_end(&mut Vec::new()).unwrap();
    server.logs("ping unanswered for ");
    let after = page();
    assert_eq!(value(&after, "ws_connections"), 0.0);
    let opened = "ws_reports_total{report=\"opened\"}";
    assert_eq!(value(&after, opened), 2.0);
    let verdicts = "ws_verdicts_total{reason=\"pong_timeout\"}";
    assert_eq!(value(&after, verdicts), 1.0);
}

// ---- shutdown ----

#[test]
#[cfg(unix)]
fn shutdown_closes_each_client_with_1001_at_a_signal() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start("shutdown", &["1"], &[]);
        let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(Message::text("hello")).unwrap();
            assert_eq!(client.read().unwrap(), Message::text("hello"));
        }

        // A builtin of the shell exists even where the program does not.
        let kill = format!("kill {signal} {}", server.program.0.id());
        let killed = Command::new("sh").args(["-c", &kill]).status();
        assert!(killed.unwrap().success());
        for client in &mut clients {
            let Message::Close(Some(close)) = client.read().unwrap() else {
                panic!("no Close frame after {signal}");
            };
            assert_eq!(u16::from(close.code), 1001, "{signal}");
            // This sends the reply.
            assert!(client.read().is_err());
        }
        let last = server.out.recv_timeout(PATIENCE).unwrap();
        assert_eq!(last, "connections closed: 3", "{signal}");
        let status = server.program.0.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[test]
fn shutdown_refuses_a_bad_argument() {
    let (status, out, err) = run("shutdown", &["soon"], &[]);
    assert_eq!((status.code(), &*out), (Some(1), ""), "{err}");
    assert!(err.contains("usage: shutdown [SECONDS]"), "{err}");
}

// ---- drain_rehearsal ----

#[test]
fn a_drain_closes_a_thousand_connections_evenly() {
    let arguments = ["--connections", "1000", "--within", "2"];
    let (status, out, err) = run("drain_rehearsal", &arguments, &[("WS_CLOSE_TIMEOUT", "2")]);
    assert_eq!(status.code(), Some(0), "{out}{err}");
    for text in ["990 answered the Close frame, 10 ignored it", "chi-square"] {
        assert!(out.contains(text), "{out}{err}");
    }
}

#[test]
fn drain_rehearsal_refuses_bad_arguments() {
    let bad: [&[&str]; 6] = [
        &["--within"],
        &["--within", "0"],
        &["--within", "soon"],
        &["--connections", "3"],
        &["--connections", "many"],
        &["now"],
    ];
    for arguments in bad {
        let (status, out, err) = run("drain_rehearsal", arguments, &[]);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(
            err.contains("\nusage: drain_rehearsal "),
            "{arguments:?}: {err}"
        );
    }
}

#[test]
#[cfg(unix)]
fn drain_rehearsal_says_how_many_files_it_needs() {
    let few = "ulimit -n 256 && exec \"$0\" --connections 1000";
    let output = Command::new("sh")
        .args([
            OsStr::new("-c"),
            few.as_ref(),
            program("drain_rehearsal").as_ref(),
        ])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    for text in [
        "the limit of 256 open files",
        "1000 connections need 1100",
        "500, needs 600",
    ] {
        assert!(err.contains(text), "{err}");
    }
}

// ---- client ----

#[test]
fn client_sends_what_is_typed_and_prints_what_comes() {
    let echo = Server::start("echo", &[], &[]);
    let mut client = Typist::start("client", &[&echo.url()], &[]);
    assert_eq!(client.next_event(), "connected");
    client.types("hello");
    assert_eq!(client.next_event(), "hello");
    client.ends_input();
    assert_eq!(
        client.next_event(),
        "closed; the code of the answer: Some(1000)"
    );
    assert_eq!(client.status().code(), Some(0));
}

#[test]
fn client_fails_with_the_limit_that_ended_the_connection() {
    let echo = Server::start("echo", &[], &[]);
    let short = [("WS_CONNECTION_TIMEOUT", "0.1")];
    let client = Typist::start("client", &[&echo.url()], &short);
    assert_eq!(client.next_event(), "connected");
    client.logs("client: close answered: connection_timeout: open for ");
    assert_eq!(client.status().code(), Some(1));
}

// ---- line_client ----

#[test]
fn line_client_sends_what_is_typed_and_prints_what_comes() {
    for runtime in RUNTIMES {
        let echo = Server::start("echo", &["--runtime", runtime], &[("RUST_LOG", "debug")]);
        let mut client = Typist::start("line_client", &["--runtime", runtime, &echo.url()], &[]);
        assert_eq!(client.next_event(), "opened", "{runtime}");
        client.types("hello");
        assert_eq!(client.next_event(), "received hello", "{runtime}");

        client.ends_input();
        let answered = "closed by this side, answered with 1000 \"\"";
        assert_eq!(client.next_event(), answered, "{runtime}");
        assert_eq!(client.status().code(), Some(0), "{runtime}");
        echo.logs("by the peer with code 1000");
    }
}

#[test]
fn line_client_prints_the_code_and_the_reason_of_the_server() {
    for runtime in RUNTIMES {
        let short = [("WS_CONNECTION_TIMEOUT", "0.1")];
        let echo = Server::start("echo", &["--runtime", runtime], &short);
        let client = Typist::start("line_client", &["--runtime", runtime, &echo.url()], &[]);
        assert_eq!(client.next_event(), "opened", "{runtime}");
        let code = "closed by the peer with 1001 \"the connection reached its maximum lifetime\"";
        assert_eq!(client.next_event(), code, "{runtime}");
        assert_eq!(client.status().code(), Some(0), "{runtime}");
    }
}

#[test]
fn line_client_fails_with_the_limit_that_ended_the_connection() {
    for runtime in RUNTIMES {
        let echo = Server::start("echo", &["--runtime", runtime], &[]);
        let short = [("WS_CONNECTION_TIMEOUT", "0.1")];
        let client = Typist::start("line_client", &["--runtime", runtime, &echo.url()], &short);
        assert_eq!(client.next_event(), "opened", "{runtime}");
        let end = client.next_event();
        let prefix = "failed: close answered: connection_timeout: open for ";
        assert!(end.starts_with(prefix), "{end}");
        assert_eq!(client.status().code(), Some(1), "{runtime}");
    }
}

#[test]
fn line_client_waits_for_a_server_for_at_most_handshake_timeout() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", mute.local_addr().unwrap());
    for runtime in RUNTIMES {
        let short = [("WS_HANDSHAKE_TIMEOUT", "0.1")];
        let (status, out, err) = run("line_client", &["--runtime", runtime, &url], &short);
        assert_eq!(status.code(), Some(1), "{runtime}: {err}");
        let prefix =
            "failed: aborted: handshake_timeout: the opening handshake was incomplete after ";
        assert!(out.starts_with(prefix), "{out}");
    }
}

#[test]
fn line_client_refuses_bad_arguments() {
    let bad: [&[&str]; 7] = [
        &[],
        &["--runtime"],
        &["--runtime", "cobol", "ws://localhost/"],
        &["--verbose", "ws://localhost/"],
        &["ws://localhost/", "ws://localhost/"],
        &["wss://localhost/"],
        &["localhost:80"],
    ];
    for arguments in bad {
        let (status, out, err) = run("line_client", arguments, &[]);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(
            err.contains("\nusage: line_client "),
            "{arguments:?}: {err}"
        );
    }
}

// ---- compare ----

#[test]
fn the_table_of_the_readme_is_what_compare_prints() {
    let readme = include_str!("../README.md");
    let (status, table, err) = run("compare", &[], &[]);
    assert!(status.success(), "{err}");
    assert!(readme.contains(&table), "the README lacks\n{table}");
}

// ---- programs ----

/// A client, and its input.
struct Typist {
    program: Program,
    /// The lines that it prints.
    events: Receiver<String>,
    /// The lines that it logs.
    log: Receiver<String>,
}

impl Typist {
    fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut program = Program::start(name, arguments, variables);
        Self {
            events: lines(program.0.stdout.take().unwrap()),
            log: lines(program.0.stderr.take().unwrap()),
            program,
        }
    }

    fn types(&mut self, line: &str) {
        let mut input = self.program.0.stdin.as_ref().unwrap();
        writeln!(input, "{line}").unwrap();
    }

    fn ends_input(&mut self) {
        self.program.0.stdin = None;
    }

    fn next_event(&self) -> String {
        self.events
            .recv_timeout(PATIENCE)
            .expect("an event in time")
    }

    fn logs(&self, text: &str) {
        wait_for(text, &self.log);
    }

    /// Returns its exit status, after its last output.
    fn status(mut self) -> ExitStatus {
        let more = self.events.recv_timeout(PATIENCE);
        assert_eq!(more, Err(RecvTimeoutError::Disconnected));
        self.program.0.wait().unwrap()
    }
}

/// An echo server that listens.
struct Server {
    program: Program,
    address: String,
    /// The lines that it logs.
    log: Receiver<String>,
    /// The other lines that it prints.
    out: Receiver<String>,
}

impl Server {
    fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut program = Program::start(name, arguments, variables);
        let log = lines(program.0.stderr.take().unwrap());
        let out = lines(program.0.stdout.take().unwrap());
        let first = out.recv_timeout(PATIENCE).expect("a first line in time");
        let address = first.strip_prefix("listening on ws://");
        Self {
            address: address.unwrap_or_else(|| panic!("{first:?}")).to_owned(),
            program,
            log,
            out,
        }
    }

    fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    fn connect(&self) -> WebSocket<Patient> {
        let tcp = Patient::new(TcpStream::connect(&self.address).unwrap());
        let (socket, _) = tungstenite::client("ws://localhost/", tcp).unwrap();
        socket
    }

    fn logs(&self, text: &str) {
        wait_for(text, &self.log);
    }
}

/// Starts an example that is a client, and accepts its connection.
fn start_client(name: &str, variables: &[(&str, &str)]) -> (Program, WebSocket<Patient>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let program = Program::start(name, &[&url], variables);
    (program, accept(&listener))
}

fn accept(listener: &TcpListener) -> WebSocket<Patient> {
    let listener = listener.try_clone().unwrap();
    let (send, receive) = channel();
    thread::spawn(move || send.send(listener.accept().unwrap().0));
    let tcp = receive.recv_timeout(PATIENCE).expect("a client in time");
    tungstenite::accept(Patient::new(tcp)).unwrap()
}

/// A transport whose reads end after [`PATIENCE`]. A suspension of this process, which interrupts
/// such a read, does not end them.
struct Patient(TcpStream);

impl Patient {
    fn new(tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(tcp)
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Receives pings, and answers them.
fn answer_pings(socket: &mut WebSocket<Patient>, pings: usize) {
    for _ in 0..pings {
        assert!(socket.read().unwrap().is_ping());
        socket.flush().unwrap();
    }
}

fn echoed_by(socket: &mut WebSocket<Patient>, text: &str) {
    socket.send(Message::text(text)).unwrap();
    loop {
        let message = socket.read().unwrap();
        if !message.is_ping() {
            break assert_eq!(message, Message::text(text));
        }
    }
}

/// Waits for a line with `text` in it.
fn wait_for(text: &str, log: &Receiver<String>) {
    loop {
        let line = log.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("{text:?} is not logged: {error}"));
        if line.contains(text) {
            return;
        }
    }
}

/// Runs an example to its end. Returns the status, the standard output and the standard error.
fn run(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String, String) {
    wait_for_end(Program::start(name, arguments, variables))
}

/// Waits until an example ends, and returns what [`run`] does.
fn wait_for_end(mut program: Program) -> (ExitStatus, String, String) {
    let out = whole(program.0.stdout.take().unwrap());
    let err = whole(program.0.stderr.take().unwrap());
    let out = out.recv_timeout(PATIENCE).expect("an end in time");
    let err = err.recv_timeout(PATIENCE).expect("an end in time");
    (program.0.wait().unwrap(), out, err)
}

/// A running example, which is killed when its test ends.
struct Program(Child);

impl Program {
    /// Starts a built example, configured only by `variables` and not by the environment of the
    /// test.
    fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program(name));
        for (inherited, _) in std::env::vars_os() {
            let bytes = inherited.as_encoded_bytes();
            if bytes.starts_with(b"WS_") || bytes.starts_with(b"RUST_LOG") {
                command.env_remove(inherited);
            }
        }
        command.args(arguments).envs(variables.iter().copied());
        command
            .stdin(Stdio::piped())
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

/// A built example.
fn program(name: &str) -> PathBuf {
    // Cargo puts tests into PROFILE/deps and examples into PROFILE/examples.
    let test = std::env::current_exe().unwrap();
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let program = test.ancestors().nth(2).unwrap().join("examples").join(file);
    assert!(
        program.exists(),
        "{} is not there: `cargo test --test` does not build it, `cargo build --examples` does",
        program.display()
    );
    program
}

/// Returns the lines of a pipe as they arrive.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let _ = send.send(line.unwrap());
        }
    });
    receive
}

/// Returns everything from a pipe, once it has ended.
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}
