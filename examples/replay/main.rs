//! Plays conformance cases through the policy.
//!
//! ```text
//! cargo run --example replay -- tests/conformance/scenarios.json
//! cargo run --example replay -- --check tests/conformance/*.json
//! cargo run --example replay -- --mermaid tests/conformance/scenarios.json probe
//! cargo run --example replay -- --svg tests/conformance/scenarios.json probe > probe.svg
//! WS_PRESET=production cargo run --example replay -- --explain > limits.svg
//! ```
//!
//! Prints one JSON object per case, on one line: what the policy did in each step, and how the case
//! ended. The flags change that:
//!
//! * `--check` compares with what the cases expect, shows each difference, and exits with 1 if
//!   there is one.
//! * `--mermaid` draws one case as a sequence diagram that renders in an issue, `--svg` as a
//!   timeline. A file with several cases needs the name of one.
//! * `--explain` draws what the limits of the environment (`WS_*`) do to three peers: one falls
//!   silent, one never reads, one trickles a message. `docs/timeline.svg` shows the defaults.
//!
//! Exits with 2 if it cannot read or parse a file, or if a variable is bad.
//! `tests/conformance/README.md` describes the format.

mod cases;
mod mermaid;
mod peers;
mod story;
mod svg;
mod timeline;
mod words;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::{env, fmt, fs};

use story::Story;
use words::count;
use ws_timeout::TimeoutConfig;

const USAGE: &str =
    "usage: replay FILE…                  print what the policy did in each case, in JSON
       replay --check FILE…          compare with what each case expects; exit with 1 if one differs
       replay --mermaid FILE [NAME]  draw one case as a sequence diagram for an issue
       replay --svg FILE [NAME]      draw one case as a timeline
       replay --explain              draw what the limits of WS_* do to three peers, as a timeline
       replay --help                 print this";

fn main() -> ExitCode {
    let (flags, files): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let replayed = match (flags.as_slice(), files.as_slice()) {
        ([], [_, ..]) => print_all(&files),
        (["--check"], [_, ..]) => check_all(&files),
        (["--mermaid"], [file, name @ ..]) if name.len() <= 1 => {
            draw(file, name.first(), mermaid::diagram)
        }
        (["--svg"], [file, name @ ..]) if name.len() <= 1 => {
            draw(file, name.first(), timeline::of_story)
        }
        (["--explain"], []) => explain(),
        (["--help" | "-h"], []) => say(format_args!("{USAGE}")).map(|()| ExitCode::SUCCESS),
        _ => Err(USAGE.into()),
    };
    replayed.unwrap_or_else(|error| {
        eprintln!("replay: {error}");
        ExitCode::from(2)
    })
}

fn print_all(files: &[String]) -> Result<ExitCode, String> {
    let mut out = BufWriter::new(io::stdout().lock());
    for file in files {
        for case in read(file)? {
            let outcome = case
                .run()
                .map_err(|error| format!("{file}: {}: {error}", case.name))?;
            let line = serde_json::to_string(&outcome).map_err(|error| error.to_string())?;
            writeln!(out, "{line}").map_err(|error| error.to_string())?;
        }
    }
    out.flush().map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn check_all(files: &[String]) -> Result<ExitCode, String> {
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        for case in read(file)? {
            let outcome = case
                .run()
                .map_err(|error| format!("{file}: {}: {error}", case.name))?;
            let differences = case.differences(&outcome);
            for line in &differences {
                say(format_args!("{file}: {}: {line}", case.name))?;
            }
            if differences.is_empty() {
                passed += 1;
            } else {
                failed += 1;
            }
        }
    }
    let passed = count(passed, "case");
    say(format_args!("{passed} passed, {failed} failed"))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn draw(
    file: &str,
    name: Option<&String>,
    picture: fn(&Story) -> String,
) -> Result<ExitCode, String> {
    let mut cases = read(file)?;
    let names: Vec<_> = cases.iter().map(|case| case.name.clone()).collect();
    let index = match name {
        Some(name) => names.iter().position(|of| of == name),
        None => Some(0).filter(|_| names.len() == 1),
    };
    let Some(index) = index else {
        let asked = name.map_or("no name".into(), |name| format!("{name:?}"));
        return Err(format!(
            "{file}: {asked}: expected one of {}",
            names.join(", ")
        ));
    };
    let case = cases.swap_remove(index);
    let story = Story::of(&case).map_err(|error| format!("{file}: {}: {error}", case.name))?;
    say(format_args!("{}", picture(&story)))?;
    Ok(ExitCode::SUCCESS)
}

fn explain() -> Result<ExitCode, String> {
    let config = TimeoutConfig::from_env()
        .map_err(|error| error.to_string())?
        .config;
    let stories = peers::stories(config)?;
    say(format_args!("{}", timeline::of_limits(&config, &stories)))?;
    Ok(ExitCode::SUCCESS)
}

fn say(line: fmt::Arguments) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|error| error.to_string())
}

fn read(file: &str) -> Result<Vec<cases::Case>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    cases::read(&text).map_err(|error| format!("{file}: {error}"))
}
