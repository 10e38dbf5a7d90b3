//! Which side is to blame for a connection that ended: the accounts of both sides, on one clock.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use ws_timeout::runtime::smol::Timer;
use ws_timeout::{Timer as _, Timestamp};

use crate::peers::crowd::Client;

/// The server's account of a ping that was not answered in time.
#[derive(Debug)]
pub struct Verdict {
    pub port: u16,
    pub silent: Duration,
    pub unanswered: Duration,
    /// Pings requested, this one included.
    pings: u64,
    /// When the verdict came, or a little before.
    pub at: Duration,
}

/// What a client did until its connection ended.
#[derive(Debug)]
pub struct Account {
    pub port: u16,
    /// Pings that it read and answered.
    pongs: u64,
    /// When the last of its pongs had been written.
    written: Duration,
    /// Whether it has read everything that the server sent, up to its Close frame.
    read_to_close: bool,
}

impl Verdict {
    pub fn new(port: u16, verdict: &ws_timeout::Verdict) -> Self {
        let status = &verdict.status;
        Self {
            port,
            silent: status.silent,
            unanswered: status.ping_unanswered.unwrap_or_default(),
            pings: status.pings_sent,
            at: origin() + status.at.saturating_duration_since(Timestamp::ZERO),
        }
    }

    /// Returns whether the verdict is wrong, since the peer did everything in time: the pong was
    /// written early enough to have arrived, or the ping never arrived.
    pub fn is_wrong(
        &self,
        account: &Account,
        pong_timeout: Duration,
        on_its_way: Duration,
    ) -> bool {
        let due = self.at - self.unanswered + pong_timeout;
        let answered = account.pongs == self.pings && account.written + on_its_way < due;
        let never_asked = account.pongs < self.pings && account.read_to_close;
        answered || never_asked
    }

    /// Parses what its `Display` writes.
    pub fn parse(line: &str) -> Option<Self> {
        let [silent, unanswered, port, pings, at] = numbers(line)?;
        Some(Self {
            port: port.try_into().ok()?,
            silent: Duration::from_millis(silent),
            unanswered: Duration::from_millis(unanswered),
            pings,
            at: Duration::from_millis(at),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [silent, unanswered, at] =
            [self.silent, self.unanswered, self.at].map(|length| length.as_millis());
        let (port, pings) = (self.port, self.pings);
        write!(f, "{silent} {unanswered} {port} {pings} {at}")
    }
}

impl Account {
    pub fn new(client: &Client) -> Self {
        Self {
            port: client.port,
            pongs: 0,
            written: Duration::ZERO,
            read_to_close: false,
        }
    }

    /// Waits for a ping, and returns its payload.
    pub async fn read_ping(&mut self, client: &mut Client) -> io::Result<Vec<u8>> {
        let ping = client.ping().await;
        self.read_to_close = client.closed;
        ping
    }

    pub async fn answer(&mut self, client: &mut Client, payload: &[u8]) -> io::Result<()> {
        client.pong(payload).await?;
        self.pongs += 1;
        self.written = monotonic();
        Ok(())
    }

    /// Parses what its `Display` writes.
    pub fn parse(line: &str) -> Option<Self> {
        let [port, pongs, written, read_to_close] = numbers(line)?;
        Some(Self {
            port: port.try_into().ok()?,
            pongs,
            written: Duration::from_millis(written),
            read_to_close: read_to_close != 0,
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, pongs) = (self.port, self.pongs);
        let (written, read_to_close) = (self.written.as_millis(), u8::from(self.read_to_close));
        write!(f, "{port} {pongs} {written} {read_to_close}")
    }
}

/// Parses exactly `N` numbers.
fn numbers<const N: usize>(line: &str) -> Option<[u64; N]> {
    let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

/// Returns the time on the monotonic clock, which all processes share.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::Monotonic).try_into().unwrap()
}

/// Returns the origin of the clocks of this process's sockets, or a little before, on the monotonic
/// clock.
fn origin() -> Duration {
    let now = monotonic();
    let timer = Timer::new();
    let since_origin = timer.timestamp(timer.now());
    now - Duration::from_nanos(since_origin.as_nanos())
}

/// Prints a line that the test harness does not capture.
pub fn say(line: &str) {
    io::stderr()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}
