//! Plays every case of every file in `tests/conformance/` through the policy, and through the
//! oracle that the property tests compare it with. A new file needs no code.

#[path = "../examples/replay/cases.rs"]
mod cases;
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod oracle;

use std::fs;
use std::path::{Path, PathBuf};

use cases::{Case, Outcome, Player, Summary};
use oracle::Oracle;
use ws_timeout::{Action, Event, Phase, PingId, TimeoutConfig, Timestamp};

#[test]
fn every_case_of_every_file() {
    play_every_case(Case::run);
}

#[test]
fn every_case_through_the_oracle() {
    play_every_case(|case| {
        case.run_on(|config, opening| {
            let phase = if opening { Phase::Opening } else { Phase::Open };
            Oracle::new(config, 0, Timestamp::ZERO, phase)
        })
    });
}

/// A disputed case that the policy agrees with is no longer disputed.
#[test]
fn the_policy_differs_from_each_disputed_case() {
    let mut agreed = Vec::new();
    let count = play(
        &folder().join("disputed"),
        Case::run,
        |name, differences| {
            if differences.is_empty() {
                agreed.push(name);
            }
        },
    );
    assert!(count > 0 && agreed.is_empty(), "{count} cases: {agreed:?}");
}

fn play_every_case(run: impl Fn(&Case) -> Result<Outcome<'_>, String>) {
    let mut wrong = Vec::new();
    let count = play(&folder(), run, |name, differences| {
        wrong.extend(differences.iter().map(|line| format!("{name}: {line}")));
    });
    assert!(
        count > 0 && wrong.is_empty(),
        "{count} cases, {} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn folder() -> PathBuf {
    // The manifest is that of `tests`, or that of `tests/bare`.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = manifest
        .ancestors()
        .map(|folder| folder.join("conformance"));
    folders.find(|folder| folder.is_dir()).unwrap()
}

/// Runs every case of every file in `folder`, and passes its name and differences to `check`.
/// Returns the number of cases.
fn play(
    folder: &Path,
    run: impl Fn(&Case) -> Result<Outcome<'_>, String>,
    mut check: impl FnMut(String, Vec<String>),
) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let cases = cases::read(&fs::read_to_string(&path).unwrap());
        for case in cases.unwrap_or_else(|error| panic!("{file}: {error}")) {
            count += 1;
            let name = format!("{file}: {}", case.name);
            let outcome = run(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
            let differences = case.differences(&outcome);
            check(name, differences);
        }
    }
    count
}

impl Player for Oracle {
    fn observe(&mut self, now: Timestamp, event: Event) {
        self.observe(now, event);
    }

    fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        self.set_config(now, config);
    }

    fn poll(&mut self, now: Timestamp, unread: bool) -> Action {
        if unread {
            self.poll_unread(now)
        } else {
            self.poll(now)
        }
    }

    fn summary(&self) -> Summary {
        Summary {
            pings_sent: self.pings_sent(),
            pongs_received: self.pongs_received(),
            cause: self.cause(),
            rtt_us: self.rtt(),
        }
    }

    fn ping_id(&self, number: u64) -> PingId {
        self.ping_id(number)
    }
}
