//! Plays bytes as calls to a policy and holds what it does against the oracle.
#![no_main]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/oracle/mod.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    oracle::case::run(data);
});
