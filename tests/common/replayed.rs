//! A recorded connection replays: a policy that gets the same calls at the same instants returns
//! the same actions.

#[allow(dead_code, reason = "the replay uses all of it")]
#[path = "../../examples/replay/cases.rs"]
pub mod cases;

/// Asserts that `text`, the `Display` of a `Trace`, replays.
#[track_caller]
pub fn assert_replays(text: &str) {
    let cases = cases::read(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for case in cases {
        let outcome = case.run().unwrap_or_else(|error| panic!("{error}: {text}"));
        let differences = case.differences(&outcome);
        assert!(differences.is_empty(), "{differences:#?}\n{text}");
    }
}
