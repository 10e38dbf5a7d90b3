//! Plays bytes as calls to a policy and holds what it does against the reference, and in one case of
//! sixteen against the oracle too, which is slow.
#![no_main]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use oracle::case::Case;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let case = Case::decode(data);
    match case.seed % 16 {
        0 => case.agrees(),
        _ => case.agrees_with_the_reference(),
    };
});
