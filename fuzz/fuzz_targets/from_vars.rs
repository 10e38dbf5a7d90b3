//! Reads variables from lines and holds what comes out against an independent reader.
#![no_main]

#[path = "../../tests/from_vars/mod.rs"]
mod from_vars;

libfuzzer_sys::fuzz_target!(|data: &[u8]| from_vars::check(data));
