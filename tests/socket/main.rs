//! The socket on tokio: its clock paused over an in-memory transport where that is enough, a real
//! socket where it is not.

mod clock;
mod close;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/exact.rs"]
mod exact;
mod heartbeat;
mod recv;
mod send;
mod stalls;
mod support;
mod verdicts;
