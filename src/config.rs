//! What is limited, and by how much.

use core::fmt;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

use crate::event::CloseReason;
use crate::time::{Limit, saturating_nanos};

/// The limits of a connection, shared by all that are to follow them.
///
/// Made by [`TimeoutConfig::builder`], by a preset, or from the environment by
/// `TimeoutConfig::from_env` (feature `std`). Whatever the way, a configuration that has no meaning
/// cannot be constructed. The documentation of each limit is on the setter of the same name of
/// [`TimeoutConfigBuilder`].
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::TimeoutConfig;
///
/// const CONFIG: TimeoutConfig = match TimeoutConfig::builder()
///     .ping_interval(Duration::from_secs(20))
///     .pong_timeout(Duration::from_secs(10))
///     .no_connection_timeout()
///     .build()
/// {
///     Ok(config) => config,
///     Err(error) => panic!("{}", error.first()), // a setting without meaning does not compile
/// };
///
/// assert_eq!(CONFIG.ping_interval(), Some(Duration::from_secs(20)));
/// assert_eq!(CONFIG.connection_timeout(), None);
/// assert_eq!(CONFIG.idle_timeout(), Some(Duration::from_secs(60)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeoutConfig {
    pub(crate) handshake_timeout: Limit,
    pub(crate) heartbeat_interval: Limit,
    pub(crate) connection_timeout: Limit,
    pub(crate) message_timeout: Limit,
    pub(crate) idle_timeout: Limit,
    pub(crate) ping_interval: Limit,
    pub(crate) pong_timeout: Limit,
    pub(crate) close_timeout: NonZeroU64,
    pub(crate) stall_tolerance: Limit,
    pub(crate) resume_probe: Limit,
    pub(crate) min_data_rate: Option<NonZeroU32>,
    pub(crate) max_ping_rate: Option<NonZeroU32>,
    pub(crate) jitter: Billionths,
    pub(crate) idle_scope: IdleScope,
    pub(crate) pong_evidence: PongEvidence,
    pub(crate) drain_code: DrainCode,
}

/// A fraction in billionths.
pub(crate) type Billionths = u32;

/// What ends idleness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdleScope {
    /// Anything heard from the peer: data, pings, pongs, bytes of a message that is not whole yet.
    /// Our own sends do not. An idle peer is one that may be dead.
    #[default]
    Inbound,
    /// Data messages in either direction, also while their bytes still move. Pings and pongs do not.
    /// An idle peer is one that nobody uses.
    Messages,
}

/// What shows that the peer lives while a ping is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PongEvidence {
    /// Whatever is heard after the ping.
    #[default]
    Any,
    /// Only the pong that names the ping; and traffic does not put off the next ping.
    Pong,
}

/// The code of the Close frame that a drain sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DrainCode {
    /// 1001, "going away": the client may stay away.
    #[default]
    GoingAway,
    /// 1012, "service restart": the client should connect again, after a random wait.
    ServiceRestart,
}

impl TimeoutConfig {
    /// The configuration that [`TimeoutConfig::builder`] starts from.
    pub const DEFAULT: Self = Self {
        handshake_timeout: secs(10),
        heartbeat_interval: secs(30),
        connection_timeout: secs(300),
        message_timeout: secs(1),
        idle_timeout: secs(60),
        ping_interval: secs(25),
        pong_timeout: secs(60),
        close_timeout: NonZeroU64::MIN.saturating_add(5_000_000_000 - 1),
        stall_tolerance: secs(3),
        resume_probe: secs(30),
        min_data_rate: NonZeroU32::new(240),
        max_ping_rate: NonZeroU32::new(20),
        jitter: 100_000_000,
        idle_scope: IdleScope::Inbound,
        pong_evidence: PongEvidence::Any,
        drain_code: DrainCode::GoingAway,
    };

    /// A builder that holds the defaults.
    pub const fn builder() -> TimeoutConfigBuilder {
        Self::DEFAULT.to_builder()
    }

    /// A builder that holds this configuration.
    pub const fn to_builder(self) -> TimeoutConfigBuilder {
        TimeoutConfigBuilder {
            config: self,
            error: ConfigError::NONE,
        }
    }

    /// Short limits, for working on a service: heartbeat 15 s, connection 120 s, message 0.5 s, idle
    /// 30 s, ping 10 s, pong 30 s; all else as in the defaults.
    pub const fn development() -> Self {
        Self::DEFAULT.with_the_six([
            secs(15),
            secs(120),
            millis(500),
            secs(30),
            secs(10),
            secs(30),
        ])
    }

    /// Limits for a service in use: heartbeat 60 s, connection 600 s, message 2 s, idle 120 s, ping
    /// 30 s, pong 90 s; all else as in the defaults.
    pub const fn production() -> Self {
        Self::DEFAULT.with_the_six([secs(60), secs(600), secs(2), secs(120), secs(30), secs(90)])
    }

    /// Limits for slow and distant peers: heartbeat 120 s, connection 1200 s, message 5 s, idle 300 s,
    /// ping 60 s, pong 180 s; all else as in the defaults.
    pub const fn high_latency() -> Self {
        Self::DEFAULT.with_the_six([
            secs(120),
            secs(1200),
            secs(5),
            secs(300),
            secs(60),
            secs(180),
        ])
    }

    const fn with_the_six(
        self,
        [heartbeat, connection, message, idle, ping, pong]: [Limit; 6],
    ) -> Self {
        Self {
            heartbeat_interval: heartbeat,
            connection_timeout: connection,
            message_timeout: message,
            idle_timeout: idle,
            ping_interval: ping,
            pong_timeout: pong,
            ..self
        }
    }

    /// See [`TimeoutConfigBuilder::close_timeout`].
    pub const fn close_timeout(&self) -> Duration {
        Duration::from_nanos(self.close_timeout.get())
    }

    /// See [`TimeoutConfigBuilder::jitter`]. A fraction, 0 to 0.5.
    pub const fn jitter(&self) -> f64 {
        self.jitter as f64 / 1e9
    }

    /// See [`TimeoutConfigBuilder::idle_scope`].
    pub const fn idle_scope(&self) -> IdleScope {
        self.idle_scope
    }

    /// See [`TimeoutConfigBuilder::pong_evidence`].
    pub const fn pong_evidence(&self) -> PongEvidence {
        self.pong_evidence
    }

    /// See [`TimeoutConfigBuilder::drain_code`].
    pub const fn drain_code(&self) -> DrainCode {
        self.drain_code
    }

    /// The code of the Close frame for `reason`: [`CloseReason::code`], but for a drain the one that
    /// is configured. `None` where no Close frame is sent.
    pub const fn close_code(&self, reason: CloseReason) -> Option<u16> {
        match (reason, self.drain_code) {
            (CloseReason::Drain, DrainCode::ServiceRestart) => Some(1012),
            _ => reason.code(),
        }
    }

    /// How long a peer that falls silent can stay unnoticed, from the last that was heard of it (or
    /// the last byte that the transport took while a ping waited behind it) to the verdict.
    ///
    /// The shorter of `idle_timeout` (in scope `inbound`) and `ping_interval` + (`message_timeout`, or
    /// if off `pong_timeout`) + `pong_timeout` (if both are on); `None` if neither stands. Late
    /// looks at the clock and up to two stall graces come on top; `connection_timeout` is left out.
    /// Where the verdict begins a closing handshake, as that of `idle_timeout` does, the stream of a
    /// socket ends up to `close_timeout` later.
    ///
    /// ```
    /// use core::time::Duration;
    /// use ws_timeout::TimeoutConfig;
    ///
    /// assert_eq!(TimeoutConfig::DEFAULT.detection_bound(), Some(Duration::from_secs(60)));
    /// ```
    pub const fn detection_bound(&self) -> Option<Duration> {
        let idle = match self.idle_scope {
            IdleScope::Inbound => self.idle_timeout(),
            IdleScope::Messages => None,
        };
        let unanswered = match (self.ping_interval(), self.pong_timeout()) {
            (Some(interval), Some(pong)) => {
                let write = match self.message_timeout() {
                    Some(message) => message,
                    None => pong,
                };
                Some(interval.saturating_add(write).saturating_add(pong))
            }
            _ => None,
        };
        match (idle, unanswered) {
            (Some(idle), Some(unanswered)) if unanswered.as_nanos() < idle.as_nanos() => {
                Some(unanswered)
            }
            (None, unanswered) => unanswered,
            (idle, _) => idle,
        }
    }

    /// Returns how soon the peer must answer after a resume: the shorter of `resume_probe` and
    /// `pong_timeout`. `None` if `resume_probe` is off: a resume then requires no answer.
    ///
    /// ```
    /// use core::time::Duration;
    /// use ws_timeout::TimeoutConfig;
    ///
    /// let config = TimeoutConfig::builder().pong_timeout(Duration::from_secs(10)).build()?;
    /// assert_eq!(config.resume_probe(), Some(Duration::from_secs(30)));
    /// assert_eq!(config.resume_probe_within(), Some(Duration::from_secs(10)));
    /// # Ok::<(), ws_timeout::ConfigError>(())
    /// ```
    pub const fn resume_probe_within(&self) -> Option<Duration> {
        match (self.resume_probe, self.pong_timeout) {
            (Some(probe), Some(pong)) if pong.get() < probe.get() => self.pong_timeout(),
            _ => self.resume_probe(),
        }
    }

    /// Settings that are sound but suspicious.
    ///
    /// ```
    /// use ws_timeout::{ConfigWarning, TimeoutConfig};
    ///
    /// assert_eq!(TimeoutConfig::DEFAULT.warnings().next(), None);
    /// let slow = TimeoutConfig::high_latency();
    /// assert_eq!(slow.warnings().collect::<Vec<_>>(), [ConfigWarning::PingsTooRare]);
    /// ```
    pub fn warnings(&self) -> impl Iterator<Item = ConfigWarning> + use<> {
        let rare = self
            .ping_interval()
            .is_none_or(|interval| interval >= Duration::from_secs(60));
        let idle_first = match (self.idle_timeout, self.ping_interval, self.idle_scope) {
            (Some(idle), Some(ping), IdleScope::Inbound) => idle <= ping,
            _ => false,
        };
        [
            rare.then_some(ConfigWarning::PingsTooRare),
            idle_first.then_some(ConfigWarning::IdleBeforePing),
            self.detection_bound()
                .is_none()
                .then_some(ConfigWarning::NoDetectionBound),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Debug for TimeoutConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutConfig")
            .field("handshake_timeout", &self.handshake_timeout())
            .field("heartbeat_interval", &self.heartbeat_interval())
            .field("connection_timeout", &self.connection_timeout())
            .field("message_timeout", &self.message_timeout())
            .field("idle_timeout", &self.idle_timeout())
            .field("ping_interval", &self.ping_interval())
            .field("pong_timeout", &self.pong_timeout())
            .field("close_timeout", &self.close_timeout())
            .field("stall_tolerance", &self.stall_tolerance())
            .field("resume_probe", &self.resume_probe())
            .field("min_data_rate", &self.min_data_rate())
            .field("max_ping_rate", &self.max_ping_rate())
            .field("jitter", &self.jitter())
            .field("idle_scope", &self.idle_scope)
            .field("pong_evidence", &self.pong_evidence)
            .field("drain_code", &self.drain_code)
            .finish()
    }
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A setting that is sound but suspicious; see [`TimeoutConfig::warnings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// `ping_interval` is off, or 60 s and more: many proxies cut a connection that is quiet for 60 s.
    PingsTooRare,
    /// `idle_timeout` is not above `ping_interval` in scope `inbound`: a peer that has nothing to say
    /// is closed as idle before a ping can draw an answer from it.
    IdleBeforePing,
    /// Neither silence nor a missing pong is limited: a dead peer can stay unnoticed.
    NoDetectionBound,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PingsTooRare => {
                "ping_interval is off or 60 s and more: proxies commonly cut a connection that is quiet for 60 s"
            }
            Self::IdleBeforePing => {
                "idle_timeout is not above ping_interval: a quiet but living peer is closed before a ping can reach it"
            }
            Self::NoDetectionBound => {
                "neither idle_timeout (in scope inbound) nor ping_interval with pong_timeout is on: \
                 a dead peer can stay unnoticed"
            }
        })
    }
}

/// Makes a [`TimeoutConfig`]; usable in a `const`.
///
/// A length past 584 years counts as 584 years, which is as far as a [`Timestamp`](crate::Timestamp)
/// reaches.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct TimeoutConfigBuilder {
    config: TimeoutConfig,
    error: ConfigError,
}

/// For each limit that can be off: three setters, of which the one that takes an `Option` decides what
/// is stored and what is refused, and the getter.
macro_rules! limits {
    ($value:ty, $stored_from:path, $value_of:path; $(
        $(#[$doc:meta])*
        $limit:ident($argument:ident), $maybe:ident, $off:ident, $setting:ident, $returns:literal;
    )*) => {
        impl TimeoutConfigBuilder {
            $(
                $(#[$doc])*
                pub const fn $limit(self, $argument: $value) -> Self {
                    self.$maybe(Some($argument))
                }

                #[doc = concat!(
                    "Sets [`", stringify!($limit), "`](Self::", stringify!($limit), "), or turns it off with `None`."
                )]
                pub const fn $maybe(mut self, $argument: Option<$value>) -> Self {
                    self.config.$limit = match $argument {
                        Some(value) => $stored_from(value),
                        None => None,
                    };
                    let invalid = $argument.is_some() && self.config.$limit.is_none();
                    self.error = self.error.with(Setting::$setting, invalid);
                    self
                }

                #[doc = concat!("Turns [`", stringify!($limit), "`](Self::", stringify!($limit), ") off.")]
                pub const fn $off(self) -> Self {
                    self.$maybe(None)
                }
            )*
        }

        impl TimeoutConfig {
            $(
                #[doc = concat!(
                    $returns, ", or `None` if it is off. See [`TimeoutConfigBuilder::", stringify!($limit), "`]."
                )]
                pub const fn $limit(&self) -> Option<$value> {
                    $value_of(self.$limit)
                }
            )*
        }
    };
}

limits! {
    Duration, limit_of, length_of;

    /// How long the opening handshake may take, from the creation of the policy in the opening phase.
    ///
    /// Default 10 s. Off: a peer that never sends its handshake holds its connection for ever. Has no
    /// effect on an open connection.
    handshake_timeout(length), maybe_handshake_timeout, no_handshake_timeout, HandshakeTimeout,
    "Returns the limit on the opening handshake";

    /// How long an open connection may go without a look at its policy: `Idle { until }` is at most
    /// this far ahead of the `poll` that says it.
    ///
    /// Default 30 s. Off: looks happen only when something is due. Never changes what is decided, only
    /// when one looks.
    heartbeat_interval(length), maybe_heartbeat_interval, no_heartbeat_interval, HeartbeatInterval,
    "Not the ping interval: returns the limit on the time between two polls";

    /// The connection's whole life, from when it opened, busy or not.
    ///
    /// Default 300 s, shortened by a random part of up to [`jitter`](Self::jitter). Off: a connection
    /// lives as long as its peer does. Closes with code 1001.
    connection_timeout(length), maybe_connection_timeout, no_connection_timeout, ConnectionTimeout,
    "Returns the limit on the connection's lifetime";

    /// How long a write may wait without progress, from when it began to wait or the transport last
    /// took bytes of it; also how long a ping that was asked for may wait to be flushed.
    ///
    /// Default 1 s. Off: a peer that never reads is noticed only by its silence, and
    /// [`pong_timeout`](Self::pong_timeout) bounds the wait of a ping to be flushed.
    message_timeout(length), maybe_message_timeout, no_message_timeout, MessageTimeout,
    "Returns the limit on a write without progress";

    /// How long there may be silence, from when the peer was last heard, or excused because the
    /// transport was still taking bytes ahead of our ping; with
    /// [`IdleScope::Messages`], from the last data in either direction.
    ///
    /// Default 60 s. Off: silence is bounded by pings alone. Keep it above
    /// [`ping_interval`](Self::ping_interval), or quiet peers are closed before a ping can reach them.
    /// Closes with code 1001.
    idle_timeout(length), maybe_idle_timeout, no_idle_timeout, IdleTimeout,
    "Returns the limit on the time in which nothing is received";

    /// How long either direction may be quiet before a ping goes out, from the earlier of last heard
    /// and last sent; with [`PongEvidence::Pong`], from when the last ping was flushed.
    ///
    /// Default 25 s, shortened by a random part of up to [`jitter`](Self::jitter). Off: no pings but
    /// those of a `Probe`.
    ping_interval(length), maybe_ping_interval, no_ping_interval, PingInterval,
    "Returns the quiet time after which a ping is sent";

    /// How long to wait for an answer to a ping, from when the ping was flushed.
    ///
    /// Decides where [`idle_timeout`](Self::idle_timeout) is off, counts messages only, or is longer than
    /// both together; with the defaults the silence of a dead peer reaches `idle_timeout` first.
    ///
    /// Default 60 s. Off: pings go out at their pace, to keep middleboxes awake, and nothing is
    /// awaited.
    pong_timeout(length), maybe_pong_timeout, no_pong_timeout, PongTimeout,
    "Returns the limit on the wait for an answer to a ping";

    /// How late a look may come before the lateness is our own fault, from the deadline to the `poll`
    /// that finds it past; such a look begins a grace of this length instead of a verdict.
    ///
    /// Default 3 s. Off: a late look judges.
    stall_tolerance(length), maybe_stall_tolerance, no_stall_tolerance, StallTolerance,
    "Returns the limit on the lateness of a poll";

    /// Limits how soon the peer must answer after the machine resumes from a suspension, measured from
    /// when `TimeoutSocket` notices the resume.
    ///
    /// Never longer than [`pong_timeout`](Self::pong_timeout) where that is on:
    /// [`TimeoutConfig::resume_probe_within`] returns the shorter of the two. Default 30 s. Off: a
    /// resume is ignored, and the other limits detect a connection that was lost during the suspension.
    ///
    /// The policy does not read this limit. A driver that detects a resume observes
    /// [`Event::Probe`](crate::Event::Probe) with `resume_probe_within()`.
    resume_probe(length), maybe_resume_probe, no_resume_probe, ResumeProbe,
    "Returns the configured limit on the wait for an answer after a resume";
}

limits! {
    u32, NonZeroU32::new, rate_of;

    /// The slowest that a message may trickle, in bytes a second, in either direction.
    ///
    /// Default 240. An inbound message has 5 s to begin with, and no burst buys more than 30 s; an
    /// outbound one never has more than [`message_timeout`](Self::message_timeout) without progress.
    /// Off: a message may take for ever to arrive, and one byte taken buys a write its whole
    /// `message_timeout`.
    min_data_rate(bytes_per_second), maybe_min_data_rate, no_min_data_rate, MinDataRate,
    "Returns the slowest rate accepted for a message, in bytes per second";

    /// How many pings a second the peer may send on average; a minute's worth may come at once.
    ///
    /// Default 20. Off: a peer may ping without end. Aborts with code 1008.
    max_ping_rate(pings_per_second), maybe_max_ping_rate, no_max_ping_rate, MaxPingRate,
    "Returns the limit on the peer's pings per second";
}

impl TimeoutConfigBuilder {
    /// How long the closing handshake may take, from its start. Default 5 s; cannot be off.
    pub const fn close_timeout(mut self, length: Duration) -> Self {
        let nanos = limit_of(length);
        self.error = self.error.with(Setting::CloseTimeout, nanos.is_none());
        if let Some(nanos) = nanos {
            self.config.close_timeout = nanos;
        }
        self
    }

    /// The fraction, 0 to 0.5, by which each ping interval and the connection's life are shortened at
    /// most, by a part drawn from the policy's seed; kept to the nearest billionth.
    ///
    /// Default 0.1; 0 is off. It keeps the connections of a server that was restarted from pinging and
    /// expiring in step. It never lengthens anything.
    pub const fn jitter(mut self, fraction: f64) -> Self {
        let sound = fraction >= 0.0 && fraction <= 0.5;
        self.error = self.error.with(Setting::Jitter, !sound);
        if sound {
            self.config.jitter = (fraction * 1e9 + 0.5) as Billionths;
        } else {
            self.error.jitter = fraction;
        }
        self
    }

    /// What ends idleness. Default [`IdleScope::Inbound`].
    pub const fn idle_scope(mut self, scope: IdleScope) -> Self {
        self.config.idle_scope = scope;
        self
    }

    /// What shows that the peer lives while a ping is out. Default [`PongEvidence::Any`].
    pub const fn pong_evidence(mut self, evidence: PongEvidence) -> Self {
        self.config.pong_evidence = evidence;
        self
    }

    /// The code of the Close frame that a drain sends. Default [`DrainCode::GoingAway`].
    pub const fn drain_code(mut self, code: DrainCode) -> Self {
        self.config.drain_code = code;
        self
    }

    /// The configuration, or every setting that has no meaning.
    ///
    /// # Errors
    /// A length or rate of zero, and a jitter that is not within 0 to 0.5.
    pub const fn build(self) -> Result<TimeoutConfig, ConfigError> {
        if self.error.settings == 0 {
            Ok(self.config)
        } else {
            Err(self.error)
        }
    }
}

/// Every invalid setting of a [`TimeoutConfigBuilder`].
///
/// Its `Display` lists each of them with the value that it held and what is expected, on one line.
#[derive(Clone, Copy)]
pub struct ConfigError {
    /// A bit for each invalid [`Setting`].
    settings: u16,
    /// The value of an invalid jitter.
    jitter: f64,
}

impl ConfigError {
    const NONE: Self = Self {
        settings: 0,
        jitter: 0.0,
    };

    const fn with(mut self, setting: Setting, invalid: bool) -> Self {
        let bit = 1 << setting as u16;
        self.settings = if invalid {
            self.settings | bit
        } else {
            self.settings & !bit
        };
        self
    }

    const fn contains(&self, setting: Setting) -> bool {
        self.settings & (1 << setting as u16) != 0
    }

    /// Returns the message for the first invalid setting, for a panic in a `const`.
    ///
    /// It leaves out the value of an invalid jitter, which a `const` cannot format.
    pub const fn first(&self) -> &'static str {
        let mut index = 0;
        while index < Setting::ALL.len() {
            if self.contains(Setting::ALL[index]) {
                return Setting::ALL[index].message();
            }
            index += 1;
        }
        "no setting is invalid"
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for setting in Setting::ALL {
            if self.contains(setting) {
                f.write_str(separator)?;
                match setting {
                    Setting::Jitter => write!(f, "jitter is {}: expected 0 to 0.5", self.jitter)?,
                    _ => f.write_str(setting.message())?,
                }
                separator = "; ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigError({self})")
    }
}

impl core::error::Error for ConfigError {}

/// A setting that can be invalid.
#[derive(Clone, Copy)]
enum Setting {
    HandshakeTimeout,
    HeartbeatInterval,
    ConnectionTimeout,
    MessageTimeout,
    IdleTimeout,
    PingInterval,
    PongTimeout,
    CloseTimeout,
    StallTolerance,
    ResumeProbe,
    MinDataRate,
    MaxPingRate,
    Jitter,
}

/// The message for a setting that is zero and can be off.
macro_rules! zero {
    ($setting:literal, $expected:literal) => {
        concat!(
            $setting,
            " is 0: expected ",
            $expected,
            " above zero, or no_",
            $setting,
            "()"
        )
    };
}

impl Setting {
    /// Every setting, in the order in which a [`ConfigError`] lists them.
    const ALL: [Self; 13] = [
        Self::HandshakeTimeout,
        Self::HeartbeatInterval,
        Self::ConnectionTimeout,
        Self::MessageTimeout,
        Self::IdleTimeout,
        Self::PingInterval,
        Self::PongTimeout,
        Self::CloseTimeout,
        Self::StallTolerance,
        Self::ResumeProbe,
        Self::MinDataRate,
        Self::MaxPingRate,
        Self::Jitter,
    ];

    const fn message(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => zero!("handshake_timeout", "a length"),
            Self::HeartbeatInterval => zero!("heartbeat_interval", "a length"),
            Self::ConnectionTimeout => zero!("connection_timeout", "a length"),
            Self::MessageTimeout => zero!("message_timeout", "a length"),
            Self::IdleTimeout => zero!("idle_timeout", "a length"),
            Self::PingInterval => zero!("ping_interval", "a length"),
            Self::PongTimeout => zero!("pong_timeout", "a length"),
            Self::CloseTimeout => "close_timeout is 0: expected a length above zero",
            Self::StallTolerance => zero!("stall_tolerance", "a length"),
            Self::ResumeProbe => zero!("resume_probe", "a length"),
            Self::MinDataRate => zero!("min_data_rate", "a rate"),
            Self::MaxPingRate => zero!("max_ping_rate", "a rate"),
            Self::Jitter => "jitter is out of range: expected 0 to 0.5",
        }
    }
}

const fn secs(seconds: u64) -> Limit {
    millis(seconds * 1000)
}

const fn millis(millis: u64) -> Limit {
    NonZeroU64::new(millis * 1_000_000)
}

const fn limit_of(length: Duration) -> Limit {
    NonZeroU64::new(saturating_nanos(length))
}

const fn length_of(limit: Limit) -> Option<Duration> {
    match limit {
        Some(nanos) => Some(Duration::from_nanos(nanos.get())),
        None => None,
    }
}

const fn rate_of(rate: Option<NonZeroU32>) -> Option<u32> {
    match rate {
        Some(rate) => Some(rate.get()),
        None => None,
    }
}
