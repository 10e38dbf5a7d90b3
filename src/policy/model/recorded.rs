//! How many states there were, in each slice: sample, seventh and all.
//!
//! Written by `MODEL=record cargo test --release --lib policy::model -- --nocapture`.

use super::world::Group;

pub(super) const RECORDED: [(Group, [usize; 3]); 12] = [
    (Group::Base, [13294, 668307, 4925699]),
    (Group::Connection, [247, 17167, 194192]),
    (Group::Probe, [1366, 132754, 951210]),
    (Group::Drain, [673, 23056, 107801]),
    (Group::Receive, [769, 12977, 74138]),
    (Group::Partial, [48, 3348, 11550]),
    (Group::Write, [39, 14472, 143083]),
    (Group::Flood, [558, 13171, 64026]),
    (Group::Heartbeat, [93, 2852, 13427]),
    (Group::Opening, [9, 13, 90]),
    (Group::Jitter, [4292, 14698, 111282]),
    (Group::SetConfig, [1637, 27854, 166393]),
];
