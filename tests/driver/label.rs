//! Labels in the lines of the log.

use std::fmt::Debug;
use std::sync::Mutex;

use futures_util::{FutureExt, StreamExt};

use crate::common::off;
use crate::world::{SECOND, Shared, data, waits};

/// The lines of the log about connections with a label of two lines.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

#[derive(Debug, Default)]
struct Line {
    event: String,
    texts: Vec<String>,
}

struct Collect;

impl log::Log for Collect {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = Line::default();
        record.key_values().visit(&mut line).unwrap();
        line.texts.push(record.args().to_string());
        if line.texts.iter().any(|text| text.contains("line two")) {
            LINES.lock().unwrap().push(line);
        }
    }

    fn flush(&self) {}
}

impl<'a> log::kv::VisitSource<'a> for Line {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'a>,
        value: log::kv::Value<'a>,
    ) -> Result<(), log::kv::Error> {
        if key.as_str() == "event" {
            self.event = value.to_string();
        }
        self.texts.push(value.to_string());
        Ok(())
    }
}

/// Holds for every event about a connection.
/// Guards rule 22.
#[test]
fn a_label_cannot_begin_a_line_of_the_log() {
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let config = off()
        .ping_interval(SECOND)
        .pong_timeout(SECOND)
        .heartbeat_interval(SECOND)
        .stall_tolerance(SECOND)
        .resume_probe(SECOND);
    let begin = |shared: &Shared| {
        let mut socket = shared.socket(config).with_label("line one\nline two");
        waits(&mut socket);
        socket
    };

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.at(SECOND);
    waits(&mut socket);
    let pong = shared.pong();
    shared.world().incoming.push_back(pong);
    waits(&mut socket);
    shared.world().suspended += 3600 * SECOND;
    for second in [2, 30, 31, 33] {
        shared.at(second * SECOND);
        let _ = socket.next().now_or_never();
    }

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.world().broken = true;
    assert!(socket.send(data()).now_or_never().unwrap().is_err());
    drop(socket);

    let shared = Shared::default();
    let mut socket = begin(&shared);
    shared.world().fails = true;
    assert!(socket.next().now_or_never().unwrap().unwrap().is_err());

    let lines = LINES.lock().unwrap();
    let mut events: Vec<_> = lines.iter().map(|line| line.event.as_str()).collect();
    events.sort_unstable();
    events.dedup();
    let all = [
        "closed",
        "dropped",
        "grace",
        "opened",
        "ping",
        "pong",
        "receive_error",
        "resumed",
        "send_error",
        "verdict",
    ];
    assert_eq!(events, all);
    for line in lines.iter() {
        let broken = line.texts.iter().any(|text| text.contains('\n'));
        assert!(!broken, "{line:?}");
    }
}
