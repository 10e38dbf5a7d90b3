//! The socket on tokio: its clock paused over an in-memory transport wherever that can show the thing,
//! a real socket where only that can.

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
