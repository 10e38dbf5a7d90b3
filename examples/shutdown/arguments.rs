//! What the command line asks for.

use std::net::SocketAddr;
use std::time::Duration;

use ws_timeout::TimeoutConfig;

use crate::rehearsal::FEWEST;

pub const USAGE: &str =
    "usage: shutdown [--within SECONDS] [--addr HOST:PORT | --connections NUMBER]";

pub enum Task {
    Serve(String, TimeoutConfig, Duration),
    Rehearse(usize, TimeoutConfig, Duration),
    /// The child process of a rehearsal.
    BeClients(usize, SocketAddr),
}

pub fn parse() -> Result<Task, String> {
    let mut within = Duration::from_secs(10);
    let mut address = "127.0.0.1:0".to_owned();
    let (mut connections, mut server) = (None, None);
    let given = std::env::args_os().skip(1);
    let mut given = given.map(|text| text.to_string_lossy().into_owned());
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} lacks its value"));
        match flag.as_str() {
            "--within" => within = seconds(&value()?)?,
            "--addr" => address = host_and_port(value()?)?,
            "--connections" => connections = Some(number(&value()?)?),
            // For the child process.
            "--clients-of" => server = value()?.parse().ok(),
            _ => return Err(format!("{flag} is not an argument")),
        }
    }
    let loaded = TimeoutConfig::from_env().map_err(|error| error.to_string())?;
    Ok(match (connections, server) {
        (None, _) => Task::Serve(address, loaded.config, within),
        (Some(number), None) => Task::Rehearse(number, loaded.config, within),
        (Some(number), Some(server)) => Task::BeClients(number, server),
    })
}

fn host_and_port(address: String) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(address),
        _ => Err(format!(
            "--addr is {address:?}, expected HOST:PORT with a port from 0 to 65535"
        )),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    let seconds = seconds.filter(|length| !length.is_zero());
    seconds.ok_or_else(|| format!("--within is {text:?}, expected a whole number from 1"))
}

fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number >= FEWEST);
    number
        .ok_or_else(|| format!("--connections is {text:?}, expected a whole number from {FEWEST}"))
}
