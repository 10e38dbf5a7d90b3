//! Every case of every file in `tests/conformance/`, so that a new file needs no code.

#[path = "conformance/cases.rs"]
mod cases;

use std::fs;
use std::path::Path;

#[test]
fn every_case_of_every_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let cases = cases::read(&fs::read_to_string(&path).unwrap());
        for case in cases.unwrap_or_else(|error| panic!("{file}: {error}")) {
            count += 1;
            let outcome = case
                .run()
                .unwrap_or_else(|error| panic!("{file}: {}: {error}", case.name));
            let differences = case.differences(&outcome);
            wrong.extend(
                differences
                    .into_iter()
                    .map(|line| format!("{file}: {}: {line}", case.name)),
            );
        }
    }
    assert!(count > 0, "no case was found in {}", folder.display());
    assert!(
        wrong.is_empty(),
        "{count} cases, {} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
