//! Runs the fleet examples of the benchmarks as a user would: as programs, with small numbers.

use std::process::{Command, Output};

#[test]
fn fleet_million_reports_what_it_costs() {
    let output = run(
        "fleet_million",
        &["--connections", "2000", "--seconds", "2", "--rivals"],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let last = text.lines().last().unwrap();
    let (share, rest) = last
        .strip_prefix("cpu share ")
        .and_then(|rest| rest.split_once(" % of one core, "))
        .unwrap_or_else(|| panic!("{last}"));
    let bytes = rest.strip_suffix(" bytes a connection").expect(last);
    let (_, decimals) = share.split_once('.').expect(last);
    assert!(
        share.parse::<f64>().is_ok() && decimals.len() == 2,
        "{last}"
    );
    assert!(bytes.parse::<u64>().is_ok(), "{last}");
    // Each connection is pinged every 22.5 to 25 seconds.
    let pings = text
        .lines()
        .rev()
        .nth(1)
        .and_then(|line| line.split(' ').nth(2));
    let pings: u64 = pings.and_then(|pings| pings.parse().ok()).expect(&text);
    assert!((120..=200).contains(&pings), "{text}");
}

#[test]
fn a_wrong_argument_is_reported_with_its_value_and_what_is_accepted() {
    let wrong = [
        (
            "fleet_million",
            &["--connections", "0"][..],
            "--connections is \"0\", expected ",
        ),
        (
            "fleet_million",
            &["--seconds", "x"],
            "--seconds is \"x\", expected ",
        ),
        ("fleet_million", &["--seconds"], "--seconds lacks its value"),
        ("fleet_million", &["--help"], "--help is no argument"),
        (
            "fleet_mio",
            &["--connections", "0"],
            "--connections is \"0\", expected ",
        ),
        (
            "fleet_mio",
            &["--connections", "x"],
            "--connections is \"x\", expected ",
        ),
        (
            "fleet_mio",
            &["--connections"],
            "--connections lacks its value",
        ),
        ("fleet_mio", &["--help"], "--help is no argument"),
    ];
    for (example, args, problem) in wrong {
        let output = run(example, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{example} {args:?}: {errors}"
        );
        assert!(output.stdout.is_empty(), "{example} {args:?}");
        assert!(
            errors.starts_with(&format!("{example}: {problem}")),
            "{errors}"
        );
        assert!(errors.contains(&format!("\nusage: {example}")), "{errors}");
    }
}

#[test]
fn fleet_mio_disconnects_the_silent_and_nobody_else() {
    let output = run("fleet_mio", &["--connections", "40"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let number = |line: &str| {
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.and_then(|rest| rest.trim().parse::<u64>().ok())
    };
    assert_eq!(number("  disconnected "), Some(20), "{text}");
    assert_eq!(number("answered and were lost"), Some(0), "{text}");
    assert!(number("pings") >= Some(20 + 20 * 3), "{text}");
}

/// Runs an example; cargo has built it with the tests.
fn run(example: &str, args: &[&str]) -> Output {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join(example);
    Command::new(program).args(args).output().unwrap()
}
