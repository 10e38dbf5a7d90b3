//! Three peers that misbehave, and how a configuration handles each.

use std::time::Duration;

use ws_timeout::{Action, Event, TimeoutConfig, TimeoutPolicy, Timestamp};

use crate::cases::Player;
use crate::story::{Narrator, Story};

/// A peer that sends some messages, reads everything and answers pings, and then stops.
struct Peer {
    name: &'static str,
    healthy_seconds: u64,
    /// The event that it sends in each second after that, counted from 1.
    sends: fn(u64) -> Option<Event>,
    /// Whether it still reads then.
    reads: bool,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "A quiet peer that answers pings, until it falls silent after 40 s",
        healthy_seconds: 40,
        sends: |_| None,
        reads: true,
    },
    Peer {
        name: "A peer that sends, but reads nothing: the buffers on the way are full after 3 s",
        healthy_seconds: 3,
        sends: |_| Some(Event::Recv),
        reads: false,
    },
    Peer {
        name: "A peer that trickles a message: 100 bytes a second after 2 s",
        healthy_seconds: 2,
        sends: |second| {
            Some(Event::RecvPartial {
                total: second * 100,
            })
        },
        reads: true,
    },
];

/// For how many seconds a healthy peer sends a message per second.
const TALKATIVE: u64 = 5;

/// How long a healthy peer takes to answer a ping.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// The seconds after which a connection that is still open counts as one that stays.
const PATIENCE: u64 = 7200;

/// Plays each peer, without jitter.
pub fn stories(config: TimeoutConfig) -> Result<Vec<Story>, String> {
    let config = config.to_builder().jitter(0.0).build();
    let config = config.map_err(|error| error.to_string())?;
    Ok(PEERS.iter().map(|peer| peer.meets(config)).collect())
}

impl Peer {
    /// Plays a server that answers each message at once.
    fn meets(&self, config: TimeoutConfig) -> Story {
        let mut story = Story::new(self.name, config);
        let policy = TimeoutPolicy::new(config, 0, Timestamp::ZERO);
        let mut policy = Narrator::new(policy, &mut story);
        let mut now = Timestamp::ZERO;
        let mut second = 0;
        let mut pong = None;
        while second < PATIENCE {
            let healthy = second < self.healthy_seconds;
            let wake = match policy.poll(now, false) {
                Action::SendPing(id) => {
                    if healthy || self.reads {
                        policy.observe(now, Event::PingSent(id));
                    }
                    pong = now
                        .checked_add(ROUND_TRIP)
                        .map(|at| (at, id))
                        .filter(|_| healthy);
                    continue;
                }
                Action::Close(_) => continue,
                Action::Abort(_) => break,
                Action::Idle { until } => until,
            };
            let next = Timestamp::from_secs(second + 1);
            let wake = wake.unwrap_or(next);
            if let Some((at, id)) = pong.filter(|&(at, _)| at <= wake.min(next)) {
                now = at;
                pong = None;
                policy.observe(now, Event::Pong(Some(id)));
            } else if wake < next {
                now = wake;
            } else {
                (now, second) = (next, second + 1);
                self.act(&mut policy, now, second);
            }
        }
        story
    }

    fn act(&self, policy: &mut Narrator, now: Timestamp, second: u64) {
        let bad = second.saturating_sub(self.healthy_seconds);
        let event = match bad {
            0 => (second <= TALKATIVE).then_some(Event::Recv),
            bad => (self.sends)(bad),
        };
        policy.observe(now, event.unwrap_or(Event::Tick));
        if event == Some(Event::Recv) {
            let reads = bad == 0 || self.reads;
            policy.observe(
                now,
                if reads {
                    Event::SendOk
                } else {
                    Event::SendStart
                },
            );
        }
    }
}
