//! The number of states in each slice: sample, seventh and all.
//!
//! Written by `MODEL=record cargo test --release --lib policy::model -- --nocapture`.

use super::world::Group;

pub(super) const RECORDED: [(Group, [usize; 3]); 12] = [
    (Group::Base, [12192, 703954, 5270950]),
    (Group::Connection, [247, 16409, 187324]),
    (Group::Probe, [1366, 133626, 930244]),
    (Group::Drain, [673, 20436, 104049]),
    (Group::Receive, [769, 12977, 83393]),
    (Group::Partial, [48, 3348, 12048]),
    (Group::Write, [39, 14442, 144099]),
    (Group::Flood, [558, 13171, 71467]),
    (Group::Heartbeat, [93, 2542, 12976]),
    (Group::Opening, [9, 13, 90]),
    (Group::Jitter, [4246, 14642, 110758]),
    (Group::SetConfig, [1451, 27114, 156984]),
];
