//! Replays the seed files of the fuzz targets on stable, without a fuzzer: those of `policy`
//! against the reference and the oracle, those of `from_vars` through the target's own code.
//!
//! The seeds of `policy` are binary, so their readable source is here. After a change, write the
//! files again:
//!
//! ```sh
//! WRITE_SEEDS=1 cargo test --test seeds
//! ```
//!
//! Other files in the same folder, such as a fuzzer's findings, are replayed too.

#[path = "from_vars/mod.rs"]
mod from_vars;
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod oracle;

use std::fs;
use std::path::{Path, PathBuf};

use oracle::case::RelativeEvent::{
    Closed, Drain, More, Opened, PeerClose, PingSent, Pings, Pong, PongBefore, Probe, Recv, SendOk,
    SendProgress, SendStart, Tick,
};
use oracle::case::What::{Handle, Observe, Poll, PollUnread, SetConfig};
use oracle::case::When::{At, Before, BeforeTheLast, Earlier, Later, Same, Stalled, Tolerated};
use oracle::case::{CONFIGS, Case, Recipe, Step, What, When};
use ws_timeout::Action;

#[test]
fn policy_seeds() {
    let folder = folder("policy");
    for seed in seeds() {
        let file = folder.join(seed.name);
        let data = seed.case.encode();
        assert_eq!(Case::decode(&data), seed.case, "{}", seed.name);
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::write(&file, &data).expect("the folder is there");
        }
        let written = fs::read(&file).expect("the seed was written");
        assert_eq!(written, data, "{} differs from its source", seed.name);
        assert_eq!(actions(&seed.case), seed.gives, "{}", seed.name);
    }
    replay(&folder, |data| {
        Case::decode(data).agrees();
    });
}

#[test]
fn from_vars_seeds() {
    replay(&folder("from_vars"), from_vars::check);
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target)
}

fn replay(folder: &Path, run: impl Fn(&[u8])) {
    let files = fs::read_dir(folder).expect("the folder is there");
    let mut count = 0;
    for file in files {
        let path = file.expect("the folder can be read").path();
        eprintln!("{}", path.display());
        run(&fs::read(&path).expect("the file can be read"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

/// Plays the case and returns every action except `Idle`, as text.
fn actions(case: &Case) -> Vec<String> {
    let mut lines = Vec::new();
    case.play(|_, _, _, action, policy| {
        lines.extend(match action {
            Some(Action::SendPing(_)) => Some(format!("ping {}", policy.pings_sent())),
            Some(Action::Close(reason)) => Some(format!("close {reason}")),
            Some(Action::Abort(reason)) => Some(format!("abort {reason}")),
            Some(Action::Idle { .. }) | None => None,
        });
    });
    lines
}

struct Seed {
    name: &'static str,
    case: Case,
    gives: &'static [&'static str],
}

fn seeds() -> Vec<Seed> {
    const NEXT: u8 = 1;
    let quick_pings = Recipe {
        lengths: lengths(|at| match at {
            MESSAGE => Recipe::secs(4),
            PING => Recipe::secs(5),
            PONG => Recipe::secs(10),
            STALL => Recipe::secs(3),
            _ => Recipe::OFF,
        }),
        ..Recipe::DEFAULTS
    };
    let no_pong_timeout = Recipe {
        lengths: lengths(|at| match at {
            PONG => Recipe::OFF,
            _ => quick_pings.lengths[at],
        }),
        ..quick_pings
    };
    let strict = Recipe {
        choices: PONG_EVIDENCE,
        ..quick_pings
    };
    let one_ping_a_second = Recipe {
        max_ping_rate: ONE_A_SECOND,
        ..Recipe::DEFAULTS
    };
    vec![
        Seed {
            name: "stall-grace-then-dead",
            case: case(
                [Recipe::DEFAULTS; CONFIGS],
                &[
                    (At(NEXT), Poll),
                    (Same, Handle(PingSent)),
                    (Stalled(NEXT), Poll),
                    (Before(NEXT), Poll),
                    (At(NEXT), Poll),
                    (Tolerated(NEXT), Poll),
                    (Same, Poll),
                ],
            ),
            gives: &[
                "ping 1",
                "close idle_timeout",
                "abort close_timeout",
                "abort close_timeout",
            ],
        },
        Seed {
            name: "probe-answered-before-its-ping",
            case: case(
                [quick_pings; CONFIGS],
                &[
                    (Same, Observe(Probe(Recipe::secs(1)))),
                    (Same, Observe(Recv)),
                    (Later(Recipe::secs(2)), Poll),
                    (Same, Handle(PingSent)),
                    (Before(NEXT), Poll),
                    (At(NEXT), Poll),
                ],
            ),
            gives: &["ping 1", "abort pong_timeout"],
        },
        Seed {
            name: "pong-overtakes-ping-sent",
            case: case(
                [strict; CONFIGS],
                &[
                    (At(NEXT), Poll),
                    (Same, Observe(SendStart)),
                    (Later(Recipe::secs(1)), Handle(Pong)),
                    (Same, Handle(PingSent)),
                    (Same, Handle(Pong)),
                    (Same, Handle(SendOk)),
                    (At(NEXT), Poll),
                    (Same, Handle(PongBefore(0))),
                    (Later(Recipe::secs(1)), Handle(PingSent)),
                    (At(NEXT), Poll),
                ],
            ),
            gives: &["ping 1", "ping 2", "abort pong_timeout"],
        },
        Seed {
            name: "peer-floods-with-pings",
            case: case(
                [one_ping_a_second; CONFIGS],
                &[
                    (Same, Handle(Pings(SIXTY))),
                    (Later(Recipe::secs(10)), Handle(Pings(SIX))),
                    (Same, Handle(Pings(SIX))),
                    (Same, Handle(Pings(SIX))),
                ],
            ),
            gives: &["abort ping_flood"; 8],
        },
        Seed {
            name: "trickle-is-unread-until-it-is-read",
            case: case(
                [Recipe::DEFAULTS; CONFIGS],
                &[
                    (Same, Handle(More(24))),
                    (Later(Recipe::secs(5)), Observe(More(24))),
                    (At(NEXT), PollUnread),
                    (Same, Handle(SendStart)),
                    (Same, Poll),
                ],
            ),
            gives: &["abort slow_receive"; 2],
        },
        Seed {
            name: "write-moves-then-stands",
            case: case(
                [quick_pings; CONFIGS],
                &[
                    (Same, Handle(SendStart)),
                    (Later(Recipe::secs(3)), Handle(SendProgress(240))),
                    (Before(NEXT), Poll),
                    (At(NEXT), Poll),
                    (Later(Recipe::secs(2)), Handle(SendProgress(1))),
                    (Before(NEXT), Poll),
                    (At(NEXT), Poll),
                ],
            ),
            gives: &["ping 1", "abort message_timeout"],
        },
        Seed {
            name: "pong-timeout-off-in-flight",
            case: case(
                [quick_pings, no_pong_timeout, strict],
                &[
                    (At(NEXT), Poll),
                    (Same, Handle(PingSent)),
                    (Later(Recipe::secs(9)), SetConfig(1)),
                    (Same, Poll),
                    (Same, Observe(PingSent)),
                    (Same, SetConfig(2)),
                    (Later(Recipe::secs(1)), Handle(PongBefore(0))),
                    (Same, Handle(Pong)),
                ],
            ),
            gives: &["ping 1", "ping 2"],
        },
        Seed {
            name: "late-but-heard-in-the-grace",
            case: case(
                [quick_pings; CONFIGS],
                &[
                    (At(NEXT), Poll),
                    (Same, Handle(PingSent)),
                    (Stalled(NEXT), Poll),
                    (Before(NEXT), Handle(Recv)),
                    (At(NEXT), Poll),
                ],
            ),
            gives: &["ping 1", "ping 2", "abort message_timeout"],
        },
        Seed {
            name: "drain-is-for-open-connections",
            case: Case {
                opening: true,
                ..case(
                    [Recipe::DEFAULTS; CONFIGS],
                    &[
                        (Same, Handle(Drain(Recipe::secs(1)))),
                        (Later(Recipe::secs(2)), Handle(Opened)),
                        (Same, Observe(Drain(Recipe::secs(20)))),
                        (Same, Observe(Drain(Recipe::secs(10)))),
                        (Before(NEXT), Poll),
                        (At(NEXT), Poll),
                        (Same, Handle(PeerClose)),
                        (Before(NEXT), Handle(Closed)),
                        (Later(Recipe::secs(30)), Poll),
                    ],
                )
            },
            gives: &["close drain"],
        },
        Seed {
            name: "time-runs-back-and-to-its-end",
            case: case(
                [quick_pings; CONFIGS],
                &[
                    (Later(Recipe::secs(4)), Handle(Tick)),
                    (Earlier(Recipe::secs(4)), Handle(Recv)),
                    (BeforeTheLast(Recipe::secs(2)), Handle(SendOk)),
                    (Same, Handle(SendStart)),
                    (BeforeTheLast(Recipe::OFF), Poll),
                    (Earlier(Recipe::secs(4)), Poll),
                ],
            ),
            gives: &["ping 1"],
        },
    ]
}

/// Indices into [`Recipe::lengths`].
const MESSAGE: usize = 3;
const PING: usize = 5;
const PONG: usize = 6;
const STALL: usize = 8;

/// See [`Recipe::choices`].
const PONG_EVIDENCE: u8 = 8;

/// Codes of rates and counts.
const ONE_A_SECOND: u8 = 2;
const SIXTY: u8 = 4 * 29 + 3;
const SIX: u8 = 4 * 2 + 3;

fn lengths(code: impl Fn(usize) -> u8) -> [u8; 9] {
    std::array::from_fn(code)
}

fn case(recipes: [Recipe; CONFIGS], steps: &[(When, What)]) -> Case {
    Case {
        seed: 1,
        opening: false,
        careful: false,
        start: 0,
        recipes,
        steps: steps
            .iter()
            .map(|&(when, what)| Step { when, what })
            .collect(),
    }
}
