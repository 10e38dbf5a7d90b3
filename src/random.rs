//! Random values for the unit tests.
//!
//! The tests in `tests/` use proptest. Here, proptest would be a dependency of every example.

use core::ops::Range;
use std::{env, eprintln, thread};

use crate::seed::{GOLDEN, mix};

/// A source of values that the case's number determines.
pub(crate) struct Random {
    case: u64,
    drawn: u64,
}

impl Random {
    /// Returns a number in `range`.
    pub(crate) fn within(&mut self, range: Range<i64>) -> i64 {
        self.drawn += 1;
        let bits = mix(mix(self.case).wrapping_add(self.drawn.wrapping_mul(GOLDEN)));
        let width = range.end.abs_diff(range.start);
        range.start.wrapping_add_unsigned(bits % width)
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.within(0..i64::from(end)) as u32
    }

    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u32) as usize]
    }
}

/// Tests a property `cases` times, or `RANDOM_CASES` times if that is set, and prints the number of
/// a failing case.
pub(crate) fn for_each_case(cases: u64, property: impl Fn(&mut Random)) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("in case {}", self.0);
            }
        }
    }
    let cases = env::var("RANDOM_CASES").map_or(cases, |cases| cases.parse().unwrap());
    for case in 0..cases {
        let _named = Named(case);
        property(&mut Random { case, drawn: 0 });
    }
}
