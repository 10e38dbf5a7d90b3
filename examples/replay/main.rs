//! Plays conformance cases through the policy.
//!
//! ```text
//! cargo run --example replay -- tests/conformance/scenarios.json
//! cargo run --example replay -- --check tests/conformance/*.json
//! ```
//!
//! Prints one JSON object a line and case: what the policy did in each step, and how it ended. With
//! `--check` it compares with what the cases expect instead, shows each difference, and exits with 1
//! if there is one. A file that cannot be read or understood ends it with 2. The format is described in
//! `tests/conformance/README.md`.

mod cases;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::{env, fmt, fs};

fn main() -> ExitCode {
    let (flags, files): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let check = flags == ["--check"];
    if files.is_empty() || !(check || flags.is_empty()) {
        eprintln!("usage: replay [--check] FILE…");
        return ExitCode::from(2);
    }
    let replayed = if check {
        check_all(&files)
    } else {
        print_all(&files)
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
    say(format_args!("{passed} cases as expected, {failed} not"))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say(line: fmt::Arguments) -> Result<(), String> {
    writeln!(io::stdout(), "{line}").map_err(|error| error.to_string())
}

fn read(file: &str) -> Result<Vec<cases::Case>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    cases::read(&text).map_err(|error| format!("{file}: {error}"))
}
