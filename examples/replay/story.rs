//! A case as it was played: each event and action, its time, and what the policy knew then.

use ws_timeout::{
    Action, CloseReason, Event, Horizon, Phase, PingId, Status, TimeoutConfig, TimeoutPolicy,
    Timestamp,
};

use crate::cases::{Case, Player, Summary};
use crate::words;

/// The data that the pictures are drawn from.
pub struct Story {
    pub name: String,
    pub moments: Vec<Moment>,
    /// When the policy was created. Times are relative to it.
    pub start: Timestamp,
    /// When the connection ended, or else the latest instant of the case.
    pub end: Timestamp,
    /// The limits at the end.
    pub config: TimeoutConfig,
}

pub struct Moment {
    pub at: Timestamp,
    pub what: What,
    /// The number of the ping that this is about.
    pub ping: Option<u64>,
    /// The phase before it.
    pub phase: Phase,
    /// The status after it.
    pub status: Status,
}

pub enum What {
    /// The policy was created.
    Start,
    Event(Event),
    SetConfig,
    SendPing,
    /// A poll came late and began a grace.
    Grace {
        until: Timestamp,
    },
    /// The policy closes, or drops the transport at once.
    Verdict {
        drops: bool,
        reason: CloseReason,
        words: String,
    },
}

/// How a connection ended, or began to end, in plain words.
pub struct End {
    pub at: Timestamp,
    /// A short name, such as `idle_timeout`.
    pub name: &'static str,
    pub sentence: String,
    /// Whether it is the failure: the first verdict, unless that was planned.
    pub failed: bool,
    /// Whether the connection was still open at the end of the case.
    pub still: bool,
}

impl Story {
    /// Plays a case through the policy.
    pub fn of(case: &Case) -> Result<Self, String> {
        let mut story = Self::new(&case.name, TimeoutConfig::DEFAULT);
        case.run_on(|config, opening| Narrator::new(case.policy(config, opening), &mut story))?;
        Ok(story)
    }

    pub fn new(name: &str, config: TimeoutConfig) -> Self {
        Self {
            name: name.into(),
            moments: Vec::new(),
            start: Timestamp::ZERO,
            end: Timestamp::ZERO,
            config,
        }
    }

    /// Returns how it ended, in at most a few steps: a verdict, then the end of the closing
    /// handshake.
    pub fn ends(&self) -> Vec<End> {
        let mut ends: Vec<_> = self
            .moments
            .iter()
            .filter_map(|moment| self.end_at(moment))
            .collect();
        if !self
            .moments
            .iter()
            .any(|moment| is_over(moment.status.phase))
        {
            let phase = self.moments.last().map(|moment| moment.status.phase);
            let name = match phase {
                Some(Phase::Opening) => "opening",
                Some(Phase::Closing) => "closing",
                _ => "open",
            };
            ends.push(End {
                at: self.end,
                name,
                sentence: format!("{}: still {name}", self.seconds(self.end)),
                failed: false,
                still: true,
            });
        }
        ends
    }

    fn end_at(&self, moment: &Moment) -> Option<End> {
        let (name, words, failed) = match &moment.what {
            What::Verdict {
                drops,
                reason,
                words,
            } => {
                // As in the log, whose line also says whether a Close frame was written.
                let how = match reason {
                    _ if !drops => "closing",
                    CloseReason::CloseTimeout => "close unanswered",
                    _ => "aborted",
                };
                let words = format!("{how}: {reason}: {words}");
                let is_cause = moment.status.cause == Some(*reason);
                (reason.name(), words, is_cause && !reason.is_planned())
            }
            What::Event(Event::CloseStart) if moment.phase == Phase::Open => {
                ("close", "this side began to close".into(), false)
            }
            What::Event(Event::PeerClose) if moment.phase == Phase::Open => {
                ("peer's close", "the peer began to close".into(), false)
            }
            What::Event(Event::Closed) => ("closed", "the transport is closed".into(), false),
            _ => return None,
        };
        Some(End {
            at: moment.at,
            name,
            sentence: format!("{}: {words}", self.seconds(moment.at)),
            failed,
            still: false,
        })
    }

    /// Returns an instant in seconds since the start, such as `25.04 s`.
    pub fn seconds(&self, at: Timestamp) -> String {
        words::seconds(at.saturating_duration_since(self.start))
    }
}

fn is_over(phase: Phase) -> bool {
    matches!(phase, Phase::Closed | Phase::Aborted(_))
}

/// A policy that records its story.
pub struct Narrator<'a> {
    policy: TimeoutPolicy,
    story: &'a mut Story,
}

impl<'a> Narrator<'a> {
    pub fn new(policy: TimeoutPolicy, story: &'a mut Story) -> Self {
        let start = policy.status(Timestamp::ZERO);
        story.config = *policy.config();
        story.start = start.at;
        let mut narrator = Self { policy, story };
        narrator.record(&start, What::Start, None);
        narrator
    }

    fn record(&mut self, before: &Status, what: What, ping: Option<u64>) {
        if is_over(before.phase) {
            return;
        }
        let (at, phase) = (before.at, before.phase);
        let status = self.policy.status(at);
        self.story.end = at;
        if !matches!(what, What::Event(Event::Tick)) {
            self.story.moments.push(Moment {
                at,
                what,
                ping,
                phase,
                status,
            });
        }
    }

    /// Polls, and records the decision.
    fn polled(
        &mut self,
        now: Timestamp,
        poll: impl FnOnce(&mut TimeoutPolicy) -> Action,
    ) -> Action {
        let before = self.policy.status(now);
        let action = poll(&mut self.policy);
        let grace_end = |status: &Status| status.at.checked_add(status.grace_left?);
        let until = grace_end(&self.policy.status(now));
        if let Some(until) = until.filter(|_| until != grace_end(&before)) {
            self.record(&before, What::Grace { until }, None);
        }
        match action {
            Action::SendPing(id) => self.record(&before, What::SendPing, self.number_of(id)),
            Action::Close(reason) | Action::Abort(reason) => {
                let what = What::Verdict {
                    drops: matches!(action, Action::Abort(_)),
                    reason,
                    words: words::why(reason, &before, self.policy.config(), &self.story.moments),
                };
                self.record(&before, what, None);
            }
            Action::Idle { .. } => {}
        }
        action
    }

    fn number_of(&self, id: PingId) -> Option<u64> {
        let mut numbers = (1..=self.policy.pings_sent()).rev();
        numbers.find(|&number| self.policy.ping_id(number) == id)
    }
}

impl Player for Narrator<'_> {
    fn observe(&mut self, now: Timestamp, event: Event) {
        let before = self.policy.status(now);
        self.policy.observe(now, event);
        let ping = match event {
            Event::Pong(id) => id.and_then(|id| self.number_of(id)),
            Event::PingSent(id) => self.number_of(id),
            _ => None,
        };
        self.record(&before, What::Event(event), ping);
    }

    fn set_config(&mut self, now: Timestamp, config: TimeoutConfig) {
        let before = self.policy.status(now);
        self.policy.set_config(now, config);
        self.story.config = config;
        self.record(&before, What::SetConfig, None);
    }

    fn poll(&mut self, now: Timestamp, unread: bool) -> Action {
        self.polled(now, |policy| Player::poll(policy, now, unread))
    }

    fn poll_up_to(&mut self, now: Timestamp, horizon: Horizon) -> Option<Action> {
        Some(self.polled(now, |policy| policy.poll_up_to(now, horizon)))
    }

    fn summary(&self) -> Summary {
        self.policy.summary()
    }

    fn ping_id(&self, number: u64) -> PingId {
        self.policy.ping_id(number)
    }
}
