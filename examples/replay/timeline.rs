//! Stories as one SVG: a lane for each direction, for pings, for each deadline that came close, and
//! for the end.

use std::fmt::Write;
use std::time::Duration;

use ws_timeout::{DeadlineKind, Event, Phase, Status, TimeoutConfig, Timestamp};

use crate::story::{End, Story, What};
use crate::svg::{LANE, LEFT, Mark, RIGHT, Sheet};
use crate::words::{count, limit, rate, seconds, span};

/// Draws the timeline of one case.
pub fn of_story(story: &Story) -> String {
    let mut sheet = Sheet::default();
    panel(&mut sheet, story);
    sheet.finish(&story.name)
}

/// Draws the effect of limits on several peers.
pub fn of_limits(config: &TimeoutConfig, stories: &[Story]) -> String {
    let mut sheet = Sheet::default();
    let limits = format!(
        "Limits: ping {}, pong {}, idle {}, write {}, lifetime {}, close {}, message {}",
        limit(config.ping_interval()),
        limit(config.pong_timeout()),
        limit(config.idle_timeout()),
        limit(config.message_timeout()),
        limit(config.connection_timeout()),
        span(config.close_timeout()),
        rate(config.min_data_rate(), "byte"),
    );
    sheet.text("", &limits);
    for story in stories {
        sheet.y += 10.0;
        panel(&mut sheet, story);
    }
    sheet.finish("What these limits do to three peers that misbehave")
}

fn panel(sheet: &mut Sheet, story: &Story) {
    let axis = Axis::of(story);
    let ends = story.ends();
    sheet.text("name", &story.name);
    for end in &ends {
        sheet.text(if end.failed { "bad" } else { "" }, &end.sentence);
    }
    if axis.from > story.start {
        let shown = span(axis.to.saturating_duration_since(axis.from));
        sheet.text("", &format!("shown: the last {shown}"));
    }
    sheet.y += 6.0;
    let top = sheet.y;
    traffic(sheet, story, &axis);
    pings(sheet, story, &axis);
    let far = deadlines(sheet, story, &axis);
    let graces = intervals(story, |status| status.grace_left.is_some());
    if !graces.is_empty() {
        sheet.lane("grace", &count(graces.len() as u64, "grace"));
        bars(sheet, &axis, &graces, |_| Mark::Grace);
    }
    sheet.lane("end", "");
    let closing = intervals(story, |status| status.phase == Phase::Closing);
    bars(sheet, &axis, &closing, |_| Mark::Closing);
    sheet.y -= LANE;
    for end in &ends {
        end_of(sheet, &axis, top, end);
    }
    sheet.y += 6.0;
    for since in axis.ticks(story.start) {
        let x = axis.x(story.start.checked_add(since).unwrap_or(axis.to));
        sheet.vertical("grid", x, top);
        sheet.label(x, sheet.y + 14.0, "small", "middle", &seconds(since));
    }
    sheet.base("base", sheet.y);
    sheet.y += 22.0;
    if !far.is_empty() {
        let text = format!(
            "never close to expiring; least time left: {}",
            far.join(", ")
        );
        sheet.label(LEFT, sheet.y + 10.0, "small", "start", &text);
        sheet.y += 16.0;
    }
}

/// Draws a line down to the name of each end, each in its own row.
fn end_of(sheet: &mut Sheet, axis: &Axis, top: f64, end: &End) {
    let x = axis.x(end.at);
    let (near, anchor) = if x > (LEFT + RIGHT) / 2.0 {
        (x - 5.0, "end")
    } else {
        (x + 5.0, "start")
    };
    let class = if end.failed { "bad" } else { "" };
    sheet.label(near, sheet.y + 16.0, class, anchor, end.name);
    sheet.y += 18.0;
    if !end.still {
        sheet.vertical("end", x, top);
        sheet.uses(Mark::End);
    }
}

fn traffic(sheet: &mut Sheet, story: &Story, axis: &Axis) {
    let whole = |marks: &[(Timestamp, Mark)], noun| {
        let whole = marks.iter().filter(|(_, mark)| *mark == Mark::Message);
        count(whole.count() as u64, noun)
    };
    let received = marks(story, |event| match event {
        Event::Recv => Some(Mark::Message),
        Event::RecvPartial { total: 1.. } => Some(Mark::Part),
        Event::Ping | Event::Pong(_) => Some(Mark::Frame),
        _ => None,
    });
    sheet.lane("received", &whole(&received, "message"));
    draw(sheet, axis, &received);

    let sent = marks(story, |event| match event {
        Event::SendOk => Some(Mark::Message),
        Event::SendProgress { bytes: 1.. } => Some(Mark::Part),
        _ => None,
    });
    sheet.lane("sent", &whole(&sent, "write"));
    let waits = intervals(story, |status| status.write_waiting);
    bars(sheet, axis, &waits, |_| Mark::Wait);
    draw(sheet, axis, &sent);
}

fn pings(sheet: &mut Sheet, story: &Story, axis: &Axis) {
    let Some(last) = story.moments.last() else {
        return;
    };
    let (pings, pongs) = (last.status.pings_sent, last.status.pongs_received);
    sheet.lane(
        "pings",
        &format!("{}, {}", count(pings, "ping"), count(pongs, "pong")),
    );
    let unsent = intervals(story, |status| status.ping_unsent.is_some());
    bars(sheet, axis, &unsent, |_| Mark::Wait);
    let unanswered = intervals(story, |status| status.ping_unanswered.is_some());
    bars(sheet, axis, &unanswered, |answered| {
        if answered {
            Mark::Answered
        } else {
            Mark::Unanswered
        }
    });
    let sent = marks(story, |event| {
        matches!(event, Event::PingSent(_)).then_some(Mark::Ping)
    });
    draw(sheet, axis, &sent);
}

/// Draws a lane for each deadline that had less than half of its time left at some point. Returns
/// the others, and the least time that they had left.
fn deadlines(sheet: &mut Sheet, story: &Story, axis: &Axis) -> Vec<String> {
    use DeadlineKind::*;
    let mut far = Vec::new();
    for kind in [
        Handshake, Connection, Drain, Write, PingWrite, PingFlood, Receive, Probe, Pong, Idle,
        Close,
    ] {
        let settings = settings(story, kind);
        let most = settings.iter().map(|set| set.left(set.from)).max();
        let least = settings.iter().map(|set| set.left(set.to)).min();
        let overdue = settings.iter().map(Setting::overdue).max();
        let (Some(most), Some(least), Some(overdue)) = (most, least, overdue) else {
            continue;
        };
        if least > Duration::ZERO && least >= most / 2 {
            far.push(format!("{kind} {}", span(least)));
            continue;
        }
        let result = if least > Duration::ZERO {
            format!("least left: {}", span(least))
        } else if overdue < Duration::from_millis(1) {
            "expired".into()
        } else {
            format!("overdue by {}", span(overdue))
        };
        sheet.lane(&format!("{kind}, {}", span(most)), &result);
        sheet.uses(Mark::Left);
        let base = sheet.y - 3.0;
        let full = most.as_secs_f64().max(1e-9);
        let height = |left: Duration| base - 18.0 * left.as_secs_f64() / full;
        let mut path = String::new();
        let mut drawn = f64::MIN;
        for set in settings.iter().filter(|set| set.to >= axis.from) {
            let from = set.from.max(axis.from);
            let to = set.to.min(set.at).max(from);
            let (x, end) = (axis.x(from), axis.x(to));
            // Of many settings in one pixel, some are enough.
            if end - drawn > 0.3 {
                let (high, low) = (height(set.left(from)), height(set.left(to)));
                let _ = write!(
                    path,
                    "M{x:.1} {base:.1}V{high:.1}L{end:.1} {low:.1}V{base:.1}Z"
                );
                drawn = end;
            }
            if axis.x(set.to) - end > 1.0 {
                sheet.mark(Mark::Overdue, end, axis.x(set.to) - end);
            }
        }
        sheet.path("left", path);
    }
    far
}

fn marks(story: &Story, mark: fn(&Event) -> Option<Mark>) -> Vec<(Timestamp, Mark)> {
    let marks = story
        .moments
        .iter()
        .filter_map(|moment| match &moment.what {
            What::Event(event) => Some((moment.at, mark(event)?)),
            _ => None,
        });
    marks.collect()
}

fn draw(sheet: &mut Sheet, axis: &Axis, marks: &[(Timestamp, Mark)]) {
    for &(at, mark) in marks.iter().filter(|(at, _)| *at >= axis.from) {
        sheet.mark(mark, (axis.x(at) * 2.0).round() / 2.0, 0.0);
    }
}

fn bars(sheet: &mut Sheet, axis: &Axis, bars: &[Interval], mark: impl Fn(bool) -> Mark) {
    for bar in bars
        .iter()
        .filter(|bar| bar.to > bar.from && bar.to >= axis.from)
    {
        let (x, end) = (axis.x(bar.from), axis.x(bar.to));
        sheet.mark(mark(bar.goes_on), x, (end - x).max(1.5));
    }
}

/// The time axis of a panel.
struct Axis {
    from: Timestamp,
    to: Timestamp,
}

impl Axis {
    /// Covers the whole story, or only the end of a long one: four times the time to detect a
    /// silent peer.
    fn of(story: &Story) -> Self {
        let bound = story.config.detection_bound().unwrap_or(Duration::MAX);
        let length = story.end.saturating_duration_since(story.start);
        let length = length.max(Duration::from_millis(10));
        let skipped = if length > bound.saturating_mul(8) {
            length - bound * 4
        } else {
            Duration::ZERO
        };
        let after = |length| story.start.checked_add(length).unwrap_or(Timestamp::MAX);
        Self {
            from: after(skipped),
            to: after(length),
        }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let length = self.to.saturating_duration_since(self.from).as_secs_f64();
        let done = at.saturating_duration_since(self.from).as_secs_f64() / length;
        LEFT + done.min(1.0) * (RIGHT - LEFT)
    }

    /// Returns round durations since the start, as many as have room for their labels.
    fn ticks(&self, start: Timestamp) -> impl Iterator<Item = Duration> {
        let since = |at: Timestamp| at.saturating_duration_since(start);
        let (from, to) = (since(self.from).as_nanos(), since(self.to).as_nanos());
        let label = 14.0 + 6.5 * seconds(since(self.to)).len() as f64;
        let most = ((RIGHT - LEFT) / label).clamp(1.0, 8.0) as u128;
        let decades = (0..20).map(|exponent| 10_u128.pow(exponent));
        let mut steps = decades.flat_map(|decade| [1, 2, 5].map(|times| decade * times));
        let step = steps.find(|step| (to - from) / step <= most).unwrap_or(to);
        (from.div_ceil(step)..=to / step)
            .map(move |tick| Duration::from_nanos((tick * step) as u64))
    }
}

/// A time for which a state lasted.
struct Interval {
    from: Timestamp,
    to: Timestamp,
    /// Whether the connection stayed open at its end.
    goes_on: bool,
}

/// Returns when a state of the open connection, or the closing handshake, began and ended.
fn intervals(story: &Story, holds: impl Fn(&Status) -> bool) -> Vec<Interval> {
    let mut intervals = Vec::new();
    let mut since = None;
    for moment in &story.moments {
        let open = moment.status.phase == moment.phase;
        match (since, holds(&moment.status)) {
            (None, true) => since = Some(moment.at),
            (Some(from), held) if !held || !open => {
                intervals.push(Interval {
                    from,
                    to: moment.at,
                    goes_on: open,
                });
                since = None;
            }
            _ => {}
        }
    }
    if let Some(from) = since {
        intervals.push(Interval {
            from,
            to: story.end,
            goes_on: false,
        });
    }
    intervals
}

/// An instant to which a deadline was set, and for how long.
struct Setting {
    from: Timestamp,
    to: Timestamp,
    at: Timestamp,
}

impl Setting {
    /// Returns the time left at an instant.
    fn left(&self, now: Timestamp) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// Returns how long the deadline had expired when it was moved or acted upon.
    fn overdue(&self) -> Duration {
        self.to.saturating_duration_since(self.at)
    }
}

fn settings(story: &Story, kind: DeadlineKind) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let ends = story
        .moments
        .iter()
        .skip(1)
        .map(|moment| moment.at)
        .chain([story.end]);
    for (moment, to) in story.moments.iter().zip(ends) {
        let Some(at) = moment.status.deadlines.get(kind) else {
            continue;
        };
        let from = moment.at;
        match settings.last_mut() {
            Some(last) if last.at == at && last.to == from => last.to = to,
            _ => settings.push(Setting { from, to, at }),
        }
    }
    settings.retain(|set| set.from < set.to);
    settings
}
