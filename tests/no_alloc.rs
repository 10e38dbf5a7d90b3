//! SPEC C1: the policy does not allocate.
//!
//! It has its own binary because it replaces the allocator. Overflows panic in debug builds.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod oracle;

use std::hint::black_box;
use std::mem::{needs_drop, size_of};

use oracle::case::{Case, HEADER, STEP, make};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;
use ws_timeout::{TimeoutConfig, TimeoutPolicy};

#[test]
fn c1_no_panic_and_no_allocation() {
    let header = vec(any::<u8>(), HEADER);
    let steps = vec(any::<[u8; STEP]>(), 0..400);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(256)
    };
    proptest!(config, |(header in header, steps in steps)| {
        let case = Case::decode(&[header, steps.concat()].concat());
        let trace = case.trace();
        let mut policy = case.policy();
        let allocated = allocation_counter::measure(|| {
            for &(now, call) in &trace {
                black_box(make(&mut policy, now, call));
                black_box((policy.next_deadline(), policy.status(now)));
            }
        });
        assert_eq!(allocated.count_total, 0);
    });
}

/// A type that has nothing to drop owns no heap memory, so it never grows.
#[test]
fn c1_memory_is_constant() {
    assert!(!needs_drop::<TimeoutPolicy>());
    assert!(!needs_drop::<TimeoutPolicy<&TimeoutConfig>>());
    assert!(size_of::<TimeoutPolicy<&TimeoutConfig>>() <= 512);
}
