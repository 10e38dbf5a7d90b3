//! A story as a mermaid sequence diagram, for an issue.

use std::collections::HashMap;
use std::fmt::Write;

use ws_timeout::{Event, Phase, Timestamp};

use crate::story::{Moment, Story, What};
use crate::words::{count, span};

/// In a diagram with more lines than this, a run of routine becomes a line for each of its lanes.
const MAX_LINES: usize = 24;
/// Shorter runs stay as they are.
const MIN_RUN: usize = 4;

/// A line of the diagram.
struct Line {
    at: Timestamp,
    /// From whom to whom, in mermaid's arrows.
    arrow: &'static str,
    text: String,
    /// For the routine of a healthy connection: its lane, and a noun.
    routine: Option<(Lane, &'static str)>,
    /// Whether a ping is unanswered after it.
    awaits: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Lane {
    Received,
    Sent,
    Pings,
}

/// Returns the diagram in a fenced block of Markdown.
pub fn diagram(story: &Story) -> String {
    let mut out = String::from("```mermaid\nsequenceDiagram\n");
    out += "    participant Peer\n    participant Socket\n    participant Policy\n";
    note(&mut out, "Peer,Policy", &story.name);
    let mut awaits = false;
    let lines = lines(story);
    for run in lines.chunk_by(|a, b| a.routine.is_some() && b.routine.is_some()) {
        let collapse = lines.len() > MAX_LINES && run.len() >= MIN_RUN;
        if collapse {
            summarize(&mut out, story, run);
        }
        for line in run {
            if !collapse {
                let text = format!("{}: {}", story.seconds(line.at), line.text);
                message(&mut out, line.arrow, &text);
                follow(&mut out, &mut awaits, line.awaits);
            }
        }
        follow(&mut out, &mut awaits, run[run.len() - 1].awaits);
    }
    follow(&mut out, &mut awaits, false);
    for end in story.ends() {
        note(&mut out, "Peer,Policy", &end.sentence);
    }
    out + "```"
}

/// Writes the bar on the peer's line, which lasts as long as a ping is unanswered.
fn follow(out: &mut String, awaits: &mut bool, now: bool) {
    if *awaits != now {
        *out += if now {
            "    activate Peer\n"
        } else {
            "    deactivate Peer\n"
        };
        *awaits = now;
    }
}

fn message(out: &mut String, arrow: &str, text: &str) {
    let _ = writeln!(out, "    {arrow}: {}", escape(text));
}

fn note(out: &mut String, over: &str, text: &str) {
    message(out, &format!("Note over {over}"), text);
}

/// Escapes `#` and `;`, which Mermaid interprets, and anything that a browser would take for a tag.
fn escape(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '#' | ';' | '<' | '>' | '&' | '%' => format!("#{};", u32::from(char)),
            char if char.is_control() => " ".into(),
            char => char.into(),
        })
        .collect()
}

/// The sum of a run in one lane.
struct Sum {
    lane: Lane,
    /// How often each noun occurs.
    counts: Vec<(&'static str, u64)>,
    first: Timestamp,
    last: Timestamp,
}

/// Writes a line such as `12 messages, 3.1 s to 7.4 s` for each lane of the run.
fn summarize(out: &mut String, story: &Story, run: &[Line]) {
    let mut sums: Vec<Sum> = Vec::new();
    for line in run {
        let Some((lane, noun)) = line.routine.filter(|(_, noun)| !noun.is_empty()) else {
            continue;
        };
        let (first, last) = (line.at, line.at);
        match sums.iter_mut().find(|sum| sum.lane == lane) {
            Some(sum) => sum.add(noun, last),
            None => sums.push(Sum {
                lane,
                counts: vec![(noun, 1)],
                first,
                last,
            }),
        }
    }
    for Sum {
        lane,
        counts,
        first,
        last,
    } in sums
    {
        let arrow = match lane {
            Lane::Received => "Peer->>Socket",
            Lane::Sent | Lane::Pings => "Socket->>Peer",
        };
        let counts = counts.into_iter().map(|(noun, number)| count(number, noun));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let text = if first == last {
            format!("{}: {counts}", story.seconds(first))
        } else {
            format!(
                "{counts}, {} to {}",
                story.seconds(first),
                story.seconds(last)
            )
        };
        message(out, arrow, &text);
    }
}

impl Sum {
    fn add(&mut self, noun: &'static str, at: Timestamp) {
        self.last = at;
        match self.counts.iter_mut().find(|(counted, _)| *counted == noun) {
            Some((_, number)) => *number += 1,
            None => self.counts.push((noun, 1)),
        }
    }
}

fn lines(story: &Story) -> Vec<Line> {
    let mut sent = HashMap::new();
    let mut lines = Vec::new();
    for (index, moment) in story.moments.iter().enumerate() {
        if let (What::Event(Event::PingSent(_)), Some(number)) = (&moment.what, moment.ping) {
            sent.insert(number, moment.at);
        }
        let Some((arrow, text)) = describe(story, moment, &sent) else {
            continue;
        };
        lines.push(Line {
            at: moment.at,
            arrow,
            text,
            routine: routine(moment, &story.moments[index..]),
            awaits: moment.status.ping_unanswered.is_some() && moment.status.phase == Phase::Open,
        });
    }
    lines
}

/// Returns the lane and the noun of routine; an empty noun is not counted.
fn routine(moment: &Moment, rest: &[Moment]) -> Option<(Lane, &'static str)> {
    let ponged = || {
        let pong = |later: &Moment| matches!(later.what, What::Event(Event::Pong(_)));
        rest.iter()
            .any(|later| later.ping == moment.ping && pong(later))
    };
    let What::Event(event) = &moment.what else {
        let answered = matches!(moment.what, What::SendPing) && ponged();
        return answered.then_some((Lane::Pings, ""));
    };
    Some(match event {
        Event::Recv => (Lane::Received, "message"),
        Event::RecvPartial { .. } => (Lane::Received, "message part"),
        Event::Ping => (Lane::Received, "peer ping"),
        Event::SendStart => (Lane::Sent, "blocked write"),
        Event::SendProgress { .. } => (Lane::Sent, "partial write"),
        Event::SendOk => (Lane::Sent, "write"),
        Event::Flushed => (Lane::Sent, "control write"),
        Event::PingSent(_) if ponged() => (Lane::Pings, "ping"),
        Event::Pong(_) if moment.ping.is_some() => (Lane::Pings, "pong"),
        _ => return None,
    })
}

fn describe(
    story: &Story,
    moment: &Moment,
    sent: &HashMap<u64, Timestamp>,
) -> Option<(&'static str, String)> {
    let ping = moment
        .ping
        .map_or("an unknown ping".into(), |number| format!("ping {number}"));
    Some(match &moment.what {
        What::Event(event) => match event {
            Event::Recv => ("Peer->>Socket", "message".into()),
            Event::RecvPartial { total: 0 } => return None,
            Event::RecvPartial { total } => (
                "Peer->>Socket",
                format!("part of a message, {} so far", count(*total, "byte")),
            ),
            Event::Ping => ("Peer->>Socket", "the peer's own ping".into()),
            Event::Pong(_) => {
                let after = moment
                    .ping
                    .and_then(|number| sent.get(&number))
                    .map(|&sent| {
                        let length = moment.at.saturating_duration_since(sent);
                        format!(", {} after it was written", span(length))
                    });
                let text = format!("pong to {ping}{}", after.unwrap_or_default());
                ("Peer-->>Socket", text)
            }
            Event::SendStart => ("Socket-xPeer", "a write has to wait".into()),
            Event::SendProgress { bytes } => {
                ("Socket->>Peer", format!("{} of it", count(*bytes, "byte")))
            }
            Event::SendOk => ("Socket->>Peer", "messages written".into()),
            Event::Flushed => ("Socket->>Peer", "control frames written".into()),
            Event::PingSent(_) => ("Socket->>Peer", format!("{ping} written")),
            Event::Opened => ("Note over Socket", "the connection is open".into()),
            Event::Probe { within } => (
                "Note over Socket",
                format!("probe: the peer must answer within {}", span(*within)),
            ),
            Event::Drain { within } => (
                "Note over Socket",
                format!("drain within {}", span(*within)),
            ),
            Event::CloseStart => ("Socket->>Peer", "this side closes".into()),
            Event::PeerClose => ("Peer->>Socket", "Close frame".into()),
            Event::Closed => ("Note over Socket", "the transport is closed".into()),
            _ => return None,
        },
        What::Start => return None,
        What::SetConfig => ("Note over Socket", "other limits from now on".into()),
        What::SendPing => ("Policy->>Socket", format!("send {ping}")),
        What::Grace { until } => (
            "Note over Socket,Policy",
            format!("polled late: a grace until {}", story.seconds(*until)),
        ),
        What::Verdict {
            drops: true,
            reason,
            ..
        } => ("Policy-xSocket", format!("abort: {reason}")),
        What::Verdict { reason, .. } => ("Policy->>Socket", format!("close: {reason}")),
    })
}
