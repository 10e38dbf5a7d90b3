//! Runs the programs of the guide as doc tests, with what only they depend on.

#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}
