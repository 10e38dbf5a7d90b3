//! The rules of the socket that a scripted transport and a clock moved by hand show best, one by one.
//! `tests/socket` has the others; `.ci/rules` prints which test guards which rule.

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
