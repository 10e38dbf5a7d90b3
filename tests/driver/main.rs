//! The rules of the socket that are best shown one by one, with a scripted transport and a clock
//! that the test moves. `tests/socket` has the others; `.ci/rules` prints which test guards which
//! rule.

mod alarm;
mod backlog;
mod calm;
mod close;
#[path = "../common/mod.rs"]
mod common;
mod evidence;
mod fairness;
mod heartbeat;
mod label;
mod limits;
mod outbox;
mod turns;
mod wakers;
mod world;
