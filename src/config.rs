//! Timeout limits: their defaults, and the builder that validates them.
//!
//! A [`TimeoutConfig`] is always valid. The builder stores each valid setting and records the
//! invalid ones; [`build`](TimeoutConfigBuilder::build) then returns either the configuration or
//! one error that lists them. All of this is `const`, so an invalid constant does not compile.
//!
//! A limit is stored in whole nanoseconds, with `None` for off: the policy adds it to a timestamp
//! without converting it.

use core::fmt;
use core::num::{NonZeroU32, NonZeroU64};
use core::time::Duration;

use crate::event::CloseReason;
use crate::time::{Limit, saturating_nanos};

/// Timeout limits, usually shared by many connections.
///
/// Create a configuration with [`TimeoutConfig::builder`], from a preset such as
/// [`TimeoutConfig::production`], from `WS_*` environment variables with `TimeoutConfig::from_env`
/// (feature `std`), or from a section of a file (feature `serde`). A `TimeoutConfig` is always
/// valid. The setters of [`TimeoutConfigBuilder`] document each limit.
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
///     Err(error) => panic!("{}", error.first()), // an invalid setting does not compile
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

/// A fraction in billionths, so that a configuration can be compared and hashed.
pub(crate) type Billionths = u32;

impl TimeoutConfig {
    /// The default limits. [`TimeoutConfig::builder`] starts from them.
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

    /// Returns a builder that starts from the defaults.
    pub const fn builder() -> TimeoutConfigBuilder {
        Self::DEFAULT.to_builder()
    }

    /// Returns a builder that starts from this configuration.
    pub const fn to_builder(self) -> TimeoutConfigBuilder {
        TimeoutConfigBuilder {
            config: self,
            error: ConfigError::NONE,
        }
    }

    /// Returns short limits, for development.
    ///
    /// `heartbeat_interval` 15 s, `connection_timeout` 120 s, `message_timeout` 0.5 s,
    /// `idle_timeout` 30 s, `ping_interval` 10 s, `pong_timeout` 30 s. Everything else is as in the
    /// defaults.
    pub const fn development() -> Self {
        Self::DEFAULT.with_preset(Preset::Development)
    }

    /// Returns limits for a server in production.
    ///
    /// `heartbeat_interval` 60 s, `connection_timeout` 600 s, `message_timeout` 2 s, `idle_timeout`
    /// 120 s, `ping_interval` 30 s, `pong_timeout` 90 s. Everything else is as in the defaults.
    pub const fn production() -> Self {
        Self::DEFAULT.with_preset(Preset::Production)
    }

    /// Returns limits for slow or distant peers.
    ///
    /// `heartbeat_interval` 120 s, `connection_timeout` 1200 s, `message_timeout` 5 s,
    /// `idle_timeout` 300 s, `ping_interval` 60 s, `pong_timeout` 180 s. Everything else is as in
    /// the defaults.
    pub const fn high_latency() -> Self {
        Self::DEFAULT.with_preset(Preset::HighLatency)
    }

    /// Returns limits for a client: the defaults without a `connection_timeout`.
    ///
    /// Only one end should limit the lifetime, usually the server: this moves connections to new
    /// instances and releases the resources that they hold. A client with a lifetime would
    /// disconnect from a healthy server, only to connect again.
    ///
    /// ```
    /// use ws_timeout::TimeoutConfig;
    ///
    /// const CLIENT: TimeoutConfig = TimeoutConfig::client();
    /// assert_eq!(CLIENT.connection_timeout(), None);
    /// assert_eq!(CLIENT.detection_bound(), TimeoutConfig::DEFAULT.detection_bound());
    /// ```
    pub const fn client() -> Self {
        Self::DEFAULT.with_preset(Preset::Client)
    }

    /// Returns this configuration with the six limits of the preset.
    pub(crate) const fn with_preset(self, preset: Preset) -> Self {
        let [heartbeat, connection, message, idle, ping, pong] = match preset {
            Preset::Development => [
                secs(15),
                secs(120),
                millis(500),
                secs(30),
                secs(10),
                secs(30),
            ],
            Preset::Production => [secs(60), secs(600), secs(2), secs(120), secs(30), secs(90)],
            Preset::HighLatency => [
                secs(120),
                secs(1200),
                secs(5),
                secs(300),
                secs(60),
                secs(180),
            ],
            Preset::Client => [secs(30), None, secs(1), secs(60), secs(25), secs(60)],
        };
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

    /// Returns the limit on the closing handshake. See [`TimeoutConfigBuilder::close_timeout`].
    pub const fn close_timeout(&self) -> Duration {
        Duration::from_nanos(self.close_timeout.get())
    }

    /// Returns the largest fraction, from 0 to 0.5, by which ping intervals and the lifetime are
    /// shortened at random. See [`TimeoutConfigBuilder::jitter`].
    pub const fn jitter(&self) -> f64 {
        self.jitter as f64 / 1e9
    }

    /// Returns the traffic that restarts `idle_timeout`. See [`TimeoutConfigBuilder::idle_scope`].
    pub const fn idle_scope(&self) -> IdleScope {
        self.idle_scope
    }

    /// Returns the traffic that answers a ping. See [`TimeoutConfigBuilder::pong_evidence`].
    pub const fn pong_evidence(&self) -> PongEvidence {
        self.pong_evidence
    }

    /// Returns the code of a drain's Close frame. See [`TimeoutConfigBuilder::drain_code`].
    pub const fn drain_code(&self) -> DrainCode {
        self.drain_code
    }

    /// Returns the limit that `reason` names, or `None` if it is off or not a duration.
    #[cfg(feature = "socket")]
    pub(crate) const fn limit_of(&self, reason: CloseReason) -> Option<Duration> {
        match reason {
            CloseReason::HandshakeTimeout => self.handshake_timeout(),
            CloseReason::ConnectionTimeout => self.connection_timeout(),
            CloseReason::MessageTimeout => match self.message_timeout() {
                None => self.pong_timeout(),
                limit => limit,
            },
            CloseReason::IdleTimeout => self.idle_timeout(),
            CloseReason::PongTimeout => self.pong_timeout(),
            CloseReason::CloseTimeout => Some(self.close_timeout()),
            CloseReason::SlowReceive | CloseReason::PingFlood | CloseReason::Drain => None,
        }
    }

    /// Returns the code of the Close frame for `reason`, or `None` if no Close frame is sent.
    ///
    /// This is [`CloseReason::code`], except that a drain sends the configured
    /// [`drain_code`](Self::drain_code).
    pub const fn close_code(&self, reason: CloseReason) -> Option<u16> {
        match reason {
            CloseReason::Drain => Some(self.drain_code.code()),
            _ => reason.code(),
        }
    }

    /// Returns the longest time that a dead peer can stay undetected, or `None` if there is no
    /// bound.
    ///
    /// The time is measured from the last receipt, or from when the transport last accepted bytes
    /// while a ping was waiting behind them. The bound is the shorter of
    ///
    /// * `idle_timeout`, in scope `inbound`, and
    /// * `ping_interval` + `message_timeout` + `pong_timeout`, if the first and the last are on.
    ///   With `message_timeout` off, `pong_timeout` counts twice.
    ///
    /// Detection can take longer: by as much as polls are late, by up to two graces, by twice the
    /// timer slack of a socket (20 ms by default), and on tokio by 15 to 35 ms unless the transport
    /// is a `Metered::socket`. The bound does not consider `connection_timeout`. After a verdict
    /// that starts a closing handshake, such as `idle_timeout`, a socket's stream ends up to
    /// `close_timeout` later.
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
    /// `pong_timeout`, or `resume_probe` alone if `pong_timeout` is off.
    ///
    /// Returns `None` if `resume_probe` is off: the peer then need not answer.
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

    /// Returns the valid settings that are probably mistakes.
    ///
    /// ```
    /// use ws_timeout::{ConfigWarning, TimeoutConfig};
    ///
    /// assert_eq!(TimeoutConfig::DEFAULT.warnings().next(), None);
    /// let slow = TimeoutConfig::high_latency();
    /// assert_eq!(slow.warnings().collect::<Vec<_>>(), [ConfigWarning::PingsTooRare]);
    /// ```
    pub fn warnings(&self) -> impl Iterator<Item = ConfigWarning> + use<> {
        let too_rare = self
            .ping_interval()
            .is_none_or(|interval| interval >= Duration::from_secs(60));
        let stall = self.stall_tolerance().unwrap_or_default();
        let idle_first = match (self.idle_timeout(), self.ping_interval(), self.idle_scope) {
            (Some(idle), Some(ping), IdleScope::Inbound) => idle <= ping.saturating_add(stall),
            _ => false,
        };
        [
            too_rare.then_some(ConfigWarning::PingsTooRare),
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

/// The traffic that restarts [`idle_timeout`](TimeoutConfigBuilder::idle_timeout).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IdleScope {
    /// Everything received from the peer: data, pings, pongs, and bytes of an incomplete message.
    ///
    /// Messages that this side sends do not count. When the limit expires, the peer may be dead.
    #[default]
    Inbound,
    /// Data messages in either direction, including partial transfers.
    ///
    /// Pings and pongs do not count. When the limit expires, the connection is unused, although the
    /// peer may be alive.
    Messages,
}

/// The traffic that answers a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PongEvidence {
    /// Everything received after the ping was flushed.
    #[default]
    Any,
    /// Only the pong that carries the ping's ID.
    ///
    /// Other traffic does not delay the next ping.
    Pong,
}

/// The code of the Close frame that a drain sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DrainCode {
    /// 1001, "going away". It does not tell the client when to reconnect.
    #[default]
    GoingAway,
    /// 1012, "service restart". The client should reconnect after a random delay.
    ServiceRestart,
}

impl DrainCode {
    /// Returns the code, 1001 or 1012.
    pub const fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::ServiceRestart => 1012,
        }
    }
}

/// A named set of six limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    Development,
    Production,
    HighLatency,
    Client,
}

/// A valid setting that is probably a mistake. [`TimeoutConfig::warnings`] returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// `ping_interval` is off, or at least 60 s: many proxies close a connection that is quiet for
    /// 60 s.
    PingsTooRare,
    /// `idle_timeout` is not longer than `ping_interval` and `stall_tolerance` together, in scope
    /// `inbound`: a quiet but live peer may be disconnected before it can answer a ping.
    IdleBeforePing,
    /// Neither `idle_timeout` (in scope `inbound`) nor `ping_interval` with `pong_timeout` is on: a
    /// dead peer may never be detected.
    NoDetectionBound,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PingsTooRare => {
                "ping_interval is off or at least 60 s: \
                 many proxies close a connection that is quiet for 60 s"
            }
            Self::IdleBeforePing => {
                "idle_timeout is not longer than ping_interval and stall_tolerance together: \
                 a quiet but live peer may be disconnected before it can answer a ping"
            }
            Self::NoDetectionBound => {
                "neither idle_timeout in scope inbound nor ping_interval with pong_timeout is on: \
                 a dead peer may never be detected"
            }
        })
    }
}

/// A builder for a [`TimeoutConfig`], usable in a `const`.
///
/// Each limit that can be off has three setters: `idle_timeout` takes a duration,
/// `maybe_idle_timeout` an `Option`, and `no_idle_timeout` turns the limit off. The last call wins.
/// A duration of more than 584 years counts as 584 years, the range of a
/// [`Timestamp`](crate::Timestamp).
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::TimeoutConfig;
///
/// // From a file, in which `null` turns a limit off.
/// let (ping_seconds, lifetime_seconds) = (Some(20), None);
/// let config = TimeoutConfig::builder()
///     .maybe_ping_interval(ping_seconds.map(Duration::from_secs))
///     .maybe_connection_timeout(lifetime_seconds.map(Duration::from_secs))
///     .build()?;
///
/// assert_eq!(config.ping_interval(), Some(Duration::from_secs(20)));
/// assert_eq!(config.connection_timeout(), None);
/// # Ok::<(), ws_timeout::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct TimeoutConfigBuilder {
    config: TimeoutConfig,
    error: ConfigError,
}

/// Defines the three setters and the getter of each limit that can be off.
///
/// The setter that takes an `Option` decides what is stored and what is invalid; the others call
/// it.
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
                    "Sets [`", stringify!($limit), "`](Self::", stringify!($limit), "), ",
                    "or turns it off with `None`.",
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

                #[doc = concat!(
                    "Turns off [`", stringify!($limit), "`](Self::", stringify!($limit), ").",
                )]
                pub const fn $off(self) -> Self {
                    self.$maybe(None)
                }
            )*
        }

        impl TimeoutConfig {
            $(
                #[doc = concat!($returns, ", or `None` if it is off.")]
                #[doc = concat!("See [`TimeoutConfigBuilder::", stringify!($limit), "`].")]
                pub const fn $limit(&self) -> Option<$value> {
                    $value_of(self.$limit)
                }
            )*
        }
    };
}

limits! {
    Duration, limit_of, duration_of;

    /// Limits the opening handshake, measured from when the policy is created with
    /// [`TimeoutPolicy::opening`](crate::TimeoutPolicy::opening).
    ///
    /// The default is 10 s. When the limit expires, the policy aborts the connection without a
    /// Close frame. If it is off, a peer that never completes its handshake keeps its connection
    /// forever. The limit does not apply to an open connection.
    handshake_timeout(duration), maybe_handshake_timeout, no_handshake_timeout, HandshakeTimeout,
    "Returns the limit on the opening handshake";

    /// This is not the ping interval, which [`ping_interval`](Self::ping_interval) sets. Limits the
    /// time between two polls of an open connection, measured from the earlier poll.
    ///
    /// The `until` of [`Action::Idle`](crate::Action::Idle) is never further away than this. The
    /// default is 30 s. If the limit is off, `until` is the next deadline. The limit affects when
    /// the policy is polled, but never what it decides.
    heartbeat_interval(duration), maybe_heartbeat_interval, no_heartbeat_interval,
    HeartbeatInterval,
    "This is not the ping interval. Returns the limit on the time between two polls";

    /// Limits the lifetime of the connection, busy or not, measured from when it opened.
    ///
    /// The default is 300 s. The policy shortens the limit by a random fraction of up to
    /// [`jitter`](Self::jitter). When it expires, the policy closes the connection with code 1001.
    /// If it is off, the lifetime is unlimited.
    connection_timeout(duration), maybe_connection_timeout, no_connection_timeout,
    ConnectionTimeout,
    "Returns the limit on the connection's lifetime";

    /// Limits how long a write may go without progress, measured from when it started to wait for
    /// the transport, or from when the transport last accepted bytes of it.
    ///
    /// If [`min_data_rate`](Self::min_data_rate) is on, accepted bytes extend the deadline only by
    /// the time that they may take at that rate. A requested ping may wait equally long until it is
    /// flushed.
    ///
    /// The default is 1 s. When the limit expires, the policy aborts the connection without a Close
    /// frame. If it is off, a write may wait forever, but [`pong_timeout`](Self::pong_timeout)
    /// still limits how long a ping may wait to be flushed.
    message_timeout(duration), maybe_message_timeout, no_message_timeout, MessageTimeout,
    "Returns the limit on a write without progress";

    /// Limits how long the peer may be silent, measured from when anything was last received.
    ///
    /// The time also restarts when the transport accepts bytes while a ping is waiting behind them,
    /// since the peer cannot answer a ping that was not sent yet. With [`IdleScope::Messages`], the
    /// time is measured from the last data in either direction.
    ///
    /// The default is 60 s. When the limit expires, the policy closes the connection with code
    /// 1001. If it is off, only unanswered pings detect a dead peer. Keep this limit longer than
    /// [`ping_interval`](Self::ping_interval) and [`stall_tolerance`](Self::stall_tolerance)
    /// together, or a quiet peer may be disconnected before it can answer a ping.
    idle_timeout(duration), maybe_idle_timeout, no_idle_timeout, IdleTimeout,
    "Returns the limit on how long the connection may be idle";

    /// Sets how long one direction may be quiet, even if the other is busy, before a ping is sent,
    /// measured from the earlier of the last receipt and the last flush.
    ///
    /// Two pings are at least this far apart, less jitter, except that a probe may send one
    /// earlier. With [`PongEvidence::Pong`], the time is measured from when the last ping was
    /// flushed, or from when the connection opened if none was.
    ///
    /// The default is 25 s. The policy shortens each interval by a random fraction of up to
    /// [`jitter`](Self::jitter). If the interval is off, only [`Event::Probe`](crate::Event::Probe)
    /// sends a ping.
    ping_interval(duration), maybe_ping_interval, no_ping_interval, PingInterval,
    "Returns how long either direction may be quiet before a ping is sent";

    /// Limits the wait for an answer to a ping, measured from when the ping was flushed.
    ///
    /// The default is 60 s. When the limit expires, the policy aborts the connection with code
    /// 1011. If it is off, pings require no answer, and only keep proxies from closing a quiet
    /// connection.
    ///
    /// With the defaults, [`idle_timeout`](Self::idle_timeout) expires first when a peer dies. This
    /// limit can expire first if `idle_timeout` is off, counts only messages, or is longer than
    /// `ping_interval` and `pong_timeout` together.
    pong_timeout(duration), maybe_pong_timeout, no_pong_timeout, PongTimeout,
    "Returns the limit on the wait for an answer to a ping";

    /// Sets how late a poll may be before it counts as a stall of this process, measured from the
    /// deadline to the poll that finds it expired.
    ///
    /// A later poll returns no verdict that blames the peer, since the stall is not the peer's
    /// fault. It starts a grace of the same length instead, and everything received during the
    /// grace counts. The same limit applies to how late a ping may be flushed, measured from its
    /// request: if it is flushed later, the time that this took does not count as silence.
    ///
    /// The default is 3 s. If the tolerance is off, there is no grace: a late poll decides
    /// immediately.
    stall_tolerance(duration), maybe_stall_tolerance, no_stall_tolerance, StallTolerance,
    "Returns how late a poll may be before it counts as a stall";

    /// Limits how long the peer may take to answer after this machine resumes from a suspension,
    /// measured from when the socket detects the resume.
    ///
    /// If [`pong_timeout`](Self::pong_timeout) is shorter, it applies instead:
    /// [`TimeoutConfig::resume_probe_within`] returns the effective limit. The default is 30 s. If
    /// it is off, the socket ignores a resume, and the other limits must detect a connection that
    /// was lost during the suspension.
    ///
    /// The socket detects a resume on Linux, Android and Apple systems by comparing two kernel
    /// clocks, one of which stops during a suspension; see `Timer::time_suspended`. Setting the
    /// time of day has no effect.
    ///
    /// The policy does not read this limit. A driver that detects a resume must observe
    /// [`Event::Probe`](crate::Event::Probe) with `resume_probe_within()`.
    resume_probe(duration), maybe_resume_probe, no_resume_probe, ResumeProbe,
    "Returns the configured limit on the wait for an answer after a resume";
}

limits! {
    u32, NonZeroU32::new, rate_of;

    /// Sets the slowest rate at which a message may be transferred in either direction, in bytes
    /// per second.
    ///
    /// An inbound message has 5 s from its first bytes, plus the time that its bytes take at this
    /// rate. Its deadline is never more than 30 s after its latest bytes. An outbound message may
    /// never go longer than [`message_timeout`](Self::message_timeout) without progress.
    ///
    /// The default is 240. If an inbound message is slower, the policy aborts the connection with
    /// code 1008. If the rate is off, an inbound message may take forever, and each byte that the
    /// transport accepts gives a write another `message_timeout`.
    min_data_rate(bytes_per_second), maybe_min_data_rate, no_min_data_rate, MinDataRate,
    "Returns the slowest rate accepted for a message, in bytes per second";

    /// Limits how many pings the peer may send per second, on average.
    ///
    /// A burst may use one minute's allowance. The default is 20. If the peer sends more, the
    /// policy aborts the connection with code 1008. If the limit is off, the peer may send any
    /// number of pings.
    max_ping_rate(pings_per_second), maybe_max_ping_rate, no_max_ping_rate, MaxPingRate,
    "Returns the limit on the peer's pings per second";
}

impl TimeoutConfigBuilder {
    /// Limits the closing handshake, measured from its start by either side.
    ///
    /// The default is 5 s; this limit cannot be off. When it expires, the policy aborts the
    /// connection without another Close frame.
    pub const fn close_timeout(mut self, duration: Duration) -> Self {
        let nanos = limit_of(duration);
        self.error = self.error.with(Setting::CloseTimeout, nanos.is_none());
        if let Some(nanos) = nanos {
            self.config.close_timeout = nanos;
        }
        self
    }

    /// Sets the largest fraction, from 0 to 0.5, by which each ping interval and the connection's
    /// lifetime are shortened at random.
    ///
    /// The policy's seed determines the amount, so the connections of a restarted server neither
    /// ping nor expire in step. Jitter never lengthens a time. The default is 0.1; 0 turns jitter
    /// off. The fraction is rounded to the nearest billionth.
    pub const fn jitter(mut self, fraction: f64) -> Self {
        let valid = fraction >= 0.0 && fraction <= 0.5;
        self.error = self.error.with(Setting::Jitter, !valid);
        if valid {
            self.config.jitter = (fraction * 1e9 + 0.5) as Billionths;
        } else {
            self.error.jitter = fraction;
        }
        self
    }

    /// Sets the traffic that restarts [`idle_timeout`](Self::idle_timeout). The default is
    /// [`IdleScope::Inbound`].
    pub const fn idle_scope(mut self, scope: IdleScope) -> Self {
        self.config.idle_scope = scope;
        self
    }

    /// Sets the traffic that answers a ping. The default is [`PongEvidence::Any`].
    pub const fn pong_evidence(mut self, evidence: PongEvidence) -> Self {
        self.config.pong_evidence = evidence;
        self
    }

    /// Sets the code of the Close frame that a drain sends. The default is
    /// [`DrainCode::GoingAway`].
    pub const fn drain_code(mut self, code: DrainCode) -> Self {
        self.config.drain_code = code;
        self
    }

    /// Returns the configuration.
    ///
    /// # Errors
    /// Returns one [`ConfigError`] that lists every invalid setting: a duration or rate of zero, or
    /// a jitter outside 0 to 0.5.
    pub const fn build(self) -> Result<TimeoutConfig, ConfigError> {
        if self.error.settings == 0 {
            Ok(self.config)
        } else {
            Err(self.error)
        }
    }
}

/// An error that lists every invalid setting of a [`TimeoutConfigBuilder`].
///
/// `Display` writes them on one line, each with its value and the expected values.
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

    /// Returns the message for the first invalid setting, for use in a `const` panic.
    ///
    /// The message omits the value of an invalid jitter, which a `const` cannot format.
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
            Self::HandshakeTimeout => zero!("handshake_timeout", "a duration"),
            Self::HeartbeatInterval => zero!("heartbeat_interval", "a duration"),
            Self::ConnectionTimeout => zero!("connection_timeout", "a duration"),
            Self::MessageTimeout => zero!("message_timeout", "a duration"),
            Self::IdleTimeout => zero!("idle_timeout", "a duration"),
            Self::PingInterval => zero!("ping_interval", "a duration"),
            Self::PongTimeout => zero!("pong_timeout", "a duration"),
            Self::CloseTimeout => "close_timeout is 0: expected a duration above zero",
            Self::StallTolerance => zero!("stall_tolerance", "a duration"),
            Self::ResumeProbe => zero!("resume_probe", "a duration"),
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

const fn limit_of(duration: Duration) -> Limit {
    NonZeroU64::new(saturating_nanos(duration))
}

const fn duration_of(limit: Limit) -> Option<Duration> {
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
