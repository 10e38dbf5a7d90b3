//! The table: a row for each client, within 100 columns.

use std::fmt::Write;
use std::time::Duration;

use ws_timeout::{CloseHandshake, TimeoutConfig};

use crate::expected::{ALLOWANCE, Expected};
use crate::server::{Ended, Runtime};
use crate::{Case, Outcome};

/// Returns what the table shows: the limits, and from when its times count.
pub fn title(cases: &[Case], runtimes: &[Runtime]) -> String {
    let names: Vec<_> = runtimes.iter().map(|runtime| runtime.name()).collect();
    let (clients, names) = (cases.len(), names.join(", "));
    let mut title = format!(
        "{clients} clients, most of which misbehave, and a server with timeouts on {names}. \
         Limits\nother than the defaults, in seconds:\n"
    );
    // Every case has the base, or changes it.
    let base = cases[0].config;
    let limits = differences(&base, &TimeoutConfig::DEFAULT);
    let _ = writeln!(title, "  all clients: {limits}");
    for case in cases.iter().filter(|case| case.config != base) {
        let limits = differences(&case.config, &base);
        let _ = writeln!(title, "  {}: {limits}", case.client.name());
    }
    title
        + "\nTimes are measured from the start of the limit, for example the last progress of a write. With\n\
           RUST_LOG, the log measures from the opening.\n"
}

/// Returns the settings in which a configuration differs from another, a few on each line.
fn differences(config: &TimeoutConfig, other: &TimeoutConfig) -> String {
    let (settings, others) = (config.to_string(), other.to_string());
    let changed = settings.lines().zip(others.lines());
    let changed = changed.filter(|(setting, other)| setting != other);
    let names = changed.map(|(setting, _)| setting.trim_start_matches("WS_").to_lowercase());
    let names: Vec<_> = names.collect();
    let lines: Vec<_> = names.chunks(4).map(|names| names.join(", ")).collect();
    lines.join(",\n    ")
}

pub fn header(runtimes: &[Runtime]) -> String {
    let mut header = line("", "the client", "ended by", "Close frame", "due");
    for runtime in runtimes {
        let _ = write!(header, "{:>1$}", runtime.name(), width(*runtime));
    }
    let rule = "\u{2500}".repeat(header.chars().count());
    format!("{header}\n{rule}\n")
}

/// Returns the row of a client, and a line for each difference from the expected end.
pub fn row(case: &Case, outcomes: &[Outcome]) -> String {
    let expected = &case.expected;
    let mut row = line(
        mark(outcomes.iter().all(Outcome::is_right)),
        case.client.name(),
        ended_by(expected),
        &close_frame(expected),
        &seconds(Some(expected.after)),
    );
    for outcome in outcomes {
        let width = width(outcome.runtime);
        let _ = write!(row, "{:>width$}", seconds(outcome.took));
    }
    row.push('\n');
    for outcome in outcomes {
        for wrong in &outcome.wrong {
            let _ = writeln!(row, "    {}: {wrong}", outcome.runtime.name());
        }
    }
    row
}

pub fn summary(connections: usize, wrong: usize, took: Duration) -> String {
    let mark = mark(wrong == 0);
    let right = connections - wrong;
    let late = ALLOWANCE.as_secs();
    format!(
        "\n{mark} {right} of {connections} connections ended as they should, never early and at most {late} s \
         late. It took {:.1} s.",
        took.as_secs_f64()
    )
}

fn line(mark: &str, client: &str, ended_by: &str, close: &str, due: &str) -> String {
    format!("{mark:<2}{client:<28}{ended_by:<19}{close:<17}{due:>7}")
}

/// Returns the width of the column of a runtime.
fn width(runtime: Runtime) -> usize {
    2 + runtime.name().len().max("0.00 s".len())
}

fn mark(right: bool) -> &'static str {
    if right { "\u{2713}" } else { "\u{2717}" }
}

fn ended_by(expected: &Expected) -> &'static str {
    match expected.ended {
        Ended::Verdict(reason, _) => reason.name(),
        Ended::Cleanly => "the client",
        Ended::Failed => "the reset",
    }
}

fn close_frame(expected: &Expected) -> String {
    let Some((code, _)) = expected.close else {
        return "none".into();
    };
    match expected.ended {
        Ended::Verdict(_, CloseHandshake::Unanswered) => format!("{code}, unanswered"),
        Ended::Verdict(_, CloseHandshake::Sent) => code.to_string(),
        _ => format!("{code}, answered"),
    }
}

fn seconds(length: Option<Duration>) -> String {
    length.map_or("-".into(), |length| {
        format!("{:.2} s", length.as_secs_f64())
    })
}
