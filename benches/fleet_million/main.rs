//! A million connections in one fleet, on simulated time: what do all their timeouts cost?
//!
//! ```sh
//! cargo run --release --example fleet_million
//! cargo run --release --example fleet_million -- --rivals
//! ```
//!
//! Each connection receives a message a second, in an order that changes each second. It sends a
//! ping every 25 seconds, less jitter, and the pong comes 40 ms later. The loop polls the fleet
//! once a millisecond, as a loop around a poller would; with fewer than 128,000 connections it
//! polls less often, so that each poll finds enough messages to measure. The figures are the CPU
//! time of everything that concerns timeouts: observing messages and pongs, polling, re-arming.
//! They do not include the choice of the order.
//!
//! `--rivals` does the same with hand-written code; `--connections` and `--seconds` set the size.

mod keepers;
mod world;

use std::ffi::OsString;
use std::process::ExitCode;

use keepers::{BinaryHeaps, DelayQueues, Fleets, Keeper, Sleeps, Sweep, Trees};
use world::{Cost, World};

const USAGE: &str = "usage: fleet_million [--connections NUMBER] [--seconds NUMBER] [--rivals]";

fn main() -> ExitCode {
    match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => {
            arguments.run();
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("fleet_million: {problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    connections: u32,
    seconds: u32,
    rivals: bool,
}

impl Arguments {
    fn parse(given: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = Self {
            connections: 1_000_000,
            seconds: 60,
            rivals: false,
        };
        let mut given = given.map(|text| text.to_string_lossy().into_owned());
        while let Some(flag) = given.next() {
            let mut number = || {
                let text = given.next().ok_or(format!("{flag} lacks its value"))?;
                let number = text.parse().ok();
                number.filter(|&number| number >= 1).ok_or_else(|| {
                    let most = u32::MAX;
                    format!("{flag} is {text:?}, expected a whole number from 1 to {most}")
                })
            };
            match flag.as_str() {
                "--connections" => arguments.connections = number()?,
                "--seconds" => arguments.seconds = number()?,
                "--rivals" => arguments.rivals = true,
                _ => return Err(format!("{flag} is no argument")),
            }
        }
        Ok(arguments)
    }

    fn run(&self) {
        println!(
            "{} connections, a message a second each, a ping each 25 s; {} s after the first 60",
            self.connections, self.seconds
        );
        println!(
            "{:<48} {:>9} {:>10} {:>10} {:>8}",
            "", "share", "a message", "a ping", "memory"
        );
        if self.rivals {
            self.measure::<Trees>();
            self.measure::<DelayQueues>();
            self.measure::<Sleeps>();
            self.measure::<BinaryHeaps>();
            self.measure::<Sweep>();
        }
        let cost = self.measure::<Fleets>();
        println!("{} messages, {} pings", cost.messages, cost.pings);
        println!(
            "cpu share {:.2} % of one core, {} bytes a connection",
            cost.share, cost.bytes
        );
    }

    fn measure<K: Keeper>(&self) -> Cost {
        let cost = World::<K>::measure(self.connections, self.seconds);
        println!(
            "{:<48} {:>7.2} % {:>7.1} ns {:>7.0} ns {:>6} B",
            K::NAME,
            cost.share,
            cost.nanos_a_message,
            cost.nanos_a_ping,
            cost.bytes
        );
        cost
    }
}
