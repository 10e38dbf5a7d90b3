//! Another process, for what only a process can show: that it is stopped, how much memory and CPU
//! it takes, how many files it may open. It runs this same program, with one ignored test that
//! plays a part.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::parts;

const PART: &str = "WS_TIMEOUT_TEST_PART";

/// Another process. It is killed when this is dropped or when the thread that started it ends, even
/// while it is stopped. It prints lines on its standard error, which the test harness does not
/// capture.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a process that plays `part` with these variables.
    pub fn start(part: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::another", "--ignored", "--nocapture"])
            .env(PART, part)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Returns its next line.
    #[track_caller]
    pub fn line(&self) -> String {
        const PATIENCE: Duration = Duration::from_secs(60);
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("the other process prints a line")
    }

    /// Returns the lines that it has printed and that nothing has read yet.
    pub fn unread_lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Waits for its next line, which must be this one.
    #[track_caller]
    pub fn expect(&self, line: &str) {
        let found = self.line();
        // Its output on failure is longer than a line.
        assert!(found == line, "{found} {:?}", self.unread_lines());
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the memory that it uses now, in KiB.
    pub fn memory(&self) -> u64 {
        self.kib("VmRSS:")
    }

    /// Returns the most memory that it has used, in KiB.
    pub fn most_memory(&self) -> u64 {
        self.kib("VmHWM:")
    }

    fn kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse().unwrap()
    }

    /// Returns the CPU time that its threads have used.
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let nanoseconds = threads.map(|thread| -> u64 {
            let schedstat = thread.unwrap().path().join("schedstat");
            let schedstat = std::fs::read_to_string(schedstat).unwrap();
            schedstat.split(' ').next().unwrap().parse().unwrap()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "is the other process of tests that need one, which start it"]
fn another() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    match part.as_str() {
        "client" => parts::client(),
        "server" => parts::server(),
        "crowd" => crate::crowd::clients(),
        other => panic!("no such part: {other}"),
    }
}
