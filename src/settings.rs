//! Settings as text: their names, how their values are read and written, and which of them a source
//! sets.
//!
//! The table [`SETTINGS`] drives everything that reads or writes a configuration by name: which
//! settings exist, what each value may be, which field it fills, and the order in which settings
//! are written and errors are listed. Numbers are read as integers, digit by digit, so every
//! accepted value is stored exactly.
//!
//! [`TimeoutOverrides`] holds the settings that one source sets. The environment (`env.rs`) and a
//! section of a file (`section.rs`) are read into one, and a whole [`TimeoutConfig`] is written
//! through one.

use core::fmt::{self, Write};
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;

use crate::config::{Billionths, DrainCode, IdleScope, PongEvidence, Preset, TimeoutConfig};
use crate::time::Limit;

/// The settings that one source sets, such as a section of a file. The others are inherited.
///
/// [`apply`](Self::apply) applies them to a base configuration. With feature `serde`, a section of
/// a file deserializes to `TimeoutOverrides`; with `std`, `EnvConfig::overrides` holds the settings
/// from the environment. All values are valid. The default value sets nothing.
///
/// If a preset is set, it is applied first, and the other settings override it.
///
/// `Display` writes each setting as a line of [`TimeoutConfig`'s `Display`](TimeoutConfig).
///
#[cfg_attr(feature = "serde", doc = "```")]
#[cfg_attr(not(feature = "serde"), doc = "```ignore")]
/// use std::collections::HashMap;
/// use core::time::Duration;
/// use ws_timeout::{TimeoutConfig, TimeoutOverrides};
///
/// #[derive(serde::Deserialize)]
/// struct Server {
///     timeouts: TimeoutConfig,
///     routes: HashMap<String, TimeoutOverrides>,
/// }
///
/// let server: Server = serde_json::from_str(r#"{
///     "timeouts": { "idle_timeout": "2m", "message_timeout": 2 },
///     "routes": { "/ws/slow": { "message_timeout": 8 } }
/// }"#)?;
///
/// let slow = server.routes["/ws/slow"].apply(&server.timeouts);
/// assert_eq!(slow.message_timeout(), Some(Duration::from_secs(8)));
/// assert_eq!(slow.idle_timeout(), Some(Duration::from_secs(120))); // not the default
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeoutOverrides {
    /// A bit for each row of [`SETTINGS`] that is set. The values of the others are the defaults.
    rows: u32,
    preset: Preset,
    config: TimeoutConfig,
}

impl TimeoutOverrides {
    const NONE: Self = Self {
        rows: 0,
        preset: Preset::Development,
        config: TimeoutConfig::DEFAULT,
    };

    /// Returns overrides that set every setting of `config`, without a preset.
    pub(crate) fn all(config: TimeoutConfig) -> Self {
        const PRESET: u32 = 1 << 0;
        Self {
            rows: ((1 << SETTINGS.len()) - 1) & !PRESET,
            config,
            ..Self::NONE
        }
    }

    /// Returns `base` with these settings applied.
    ///
    /// ```
    /// use core::time::Duration;
    /// use ws_timeout::{TimeoutConfig, TimeoutOverrides};
    ///
    /// let base = TimeoutConfig::production();
    /// assert_eq!(TimeoutOverrides::default().apply(&base), base);
    /// ```
    #[must_use]
    pub fn apply(&self, base: &TimeoutConfig) -> TimeoutConfig {
        let mut config = *base;
        for setting in self.settings() {
            setting.kind.apply(self, &mut config);
        }
        config
    }

    /// Reads the setting in this row of [`SETTINGS`] from `text`. Returns `None`, and changes
    /// nothing, if `text` is not accepted.
    pub(crate) fn read(&mut self, row: usize, text: &str) -> Option<()> {
        SETTINGS.get(row)?.kind.read(text, self)?;
        self.rows |= 1 << row;
        Some(())
    }

    /// Returns the name and the value of each setting that is set, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.settings()
            .map(|setting| (setting.name, setting.kind.value(self)))
    }

    fn settings(&self) -> impl Iterator<Item = &'static Setting> + use<> {
        let rows = self.rows;
        let set = move |(row, setting)| (rows & (1_u32 << row) != 0).then_some(setting);
        SETTINGS.iter().enumerate().filter_map(set)
    }
}

impl Default for TimeoutOverrides {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Display for TimeoutOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in self.entries() {
            f.write_str(separator)?;
            f.write_str(PREFIX)?;
            for letter in name.chars() {
                f.write_char(letter.to_ascii_uppercase())?;
            }
            write!(f, "={value}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl fmt::Debug for TimeoutOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TimeoutOverrides");
        for (name, value) in self.entries() {
            shown.field(name, &format_args!("{value}"));
        }
        shown.finish()
    }
}

/// Writes a line `WS_NAME=value` for each setting, with no line break after the last.
///
/// `TimeoutConfig::from_vars` reads the same configuration from these lines, unless a limit is
/// outside the range that it accepts.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let shown = TimeoutConfig::development().to_string();
/// assert!(shown.starts_with("WS_HANDSHAKE_TIMEOUT=10\nWS_HEARTBEAT_INTERVAL=15\n"));
/// assert!(shown.contains("\nWS_MESSAGE_TIMEOUT=500ms\n"));
/// ```
impl fmt::Display for TimeoutConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TimeoutOverrides::all(*self).fmt(f)
    }
}

/// The default prefix of the environment variables.
pub(crate) const PREFIX: &str = "WS_";

/// A setting, with its name and the kind of its value.
pub(crate) struct Setting {
    /// The name, as in the builder and in a file.
    pub(crate) name: &'static str,
    kind: Kind,
}

impl Setting {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }

    /// Returns a description of the accepted values.
    pub(crate) const fn expected(&self) -> &'static str {
        match self.kind {
            Kind::Preset => r#""development", "production", "high-latency" or "client""#,
            Kind::Duration(_) => {
                r#"seconds between 0.001 and 1000000000, such as 30, 2.5, "500ms" or "5m", or "off""#
            }
            Kind::DurationNeverOff(_) => {
                r#"seconds between 0.001 and 1000000000, such as 30, 2.5, "500ms" or "5m""#
            }
            Kind::Rate(_) => r#"a whole number between 1 and 1000000000, such as 20, or "off""#,
            Kind::Fraction(_) => "a fraction between 0 and 0.5, such as 0.1",
            Kind::IdleScope => r#""inbound" or "messages""#,
            Kind::PongEvidence => r#""any" or "pong""#,
            Kind::DrainCode => "1001 or 1012",
        }
    }
}

/// Every setting, in the order in which they take effect and are listed: the preset is first, so
/// that the others override it.
pub(crate) static SETTINGS: [Setting; 17] = [
    Setting::new("preset", Kind::Preset),
    Setting::new(
        "handshake_timeout",
        Kind::Duration(|c| &mut c.handshake_timeout),
    ),
    Setting::new(
        "heartbeat_interval",
        Kind::Duration(|c| &mut c.heartbeat_interval),
    ),
    Setting::new(
        "connection_timeout",
        Kind::Duration(|c| &mut c.connection_timeout),
    ),
    Setting::new(
        "message_timeout",
        Kind::Duration(|c| &mut c.message_timeout),
    ),
    Setting::new("idle_timeout", Kind::Duration(|c| &mut c.idle_timeout)),
    Setting::new("ping_interval", Kind::Duration(|c| &mut c.ping_interval)),
    Setting::new("pong_timeout", Kind::Duration(|c| &mut c.pong_timeout)),
    Setting::new(
        "close_timeout",
        Kind::DurationNeverOff(|c| &mut c.close_timeout),
    ),
    Setting::new(
        "stall_tolerance",
        Kind::Duration(|c| &mut c.stall_tolerance),
    ),
    Setting::new("resume_probe", Kind::Duration(|c| &mut c.resume_probe)),
    Setting::new("min_data_rate", Kind::Rate(|c| &mut c.min_data_rate)),
    Setting::new("max_ping_rate", Kind::Rate(|c| &mut c.max_ping_rate)),
    Setting::new("jitter", Kind::Fraction(|c| &mut c.jitter)),
    Setting::new("idle_scope", Kind::IdleScope),
    Setting::new("pong_evidence", Kind::PongEvidence),
    Setting::new("drain_code", Kind::DrainCode),
];

/// The kind of a setting's value, and the field of the configuration that stores it.
enum Kind {
    Preset,
    Duration(fn(&mut TimeoutConfig) -> &mut Limit),
    DurationNeverOff(fn(&mut TimeoutConfig) -> &mut NonZeroU64),
    Rate(fn(&mut TimeoutConfig) -> &mut Option<NonZeroU32>),
    Fraction(fn(&mut TimeoutConfig) -> &mut Billionths),
    IdleScope,
    PongEvidence,
    DrainCode,
}

impl Kind {
    /// Reads the value from `text` and stores it. Returns `None`, and changes nothing, if `text` is
    /// not accepted.
    fn read(&self, text: &str, overrides: &mut TimeoutOverrides) -> Option<()> {
        let config = &mut overrides.config;
        match self {
            Self::Preset => overrides.preset = word(text, Preset::ALL, Preset::name)?,
            Self::Duration(field) => *field(config) = or_off(text, duration)?,
            Self::DurationNeverOff(field) => *field(config) = duration(text)?,
            Self::Rate(field) => *field(config) = or_off(text, rate)?,
            Self::Fraction(field) => *field(config) = fraction(text)?,
            Self::IdleScope => config.idle_scope = word(text, IdleScope::ALL, IdleScope::name)?,
            Self::PongEvidence => {
                config.pong_evidence = word(text, PongEvidence::ALL, PongEvidence::name)?;
            }
            Self::DrainCode => {
                let code = digits(text)?;
                let has_code = |drain: &DrainCode| u64::from(drain.code()) == code;
                config.drain_code = DrainCode::ALL.into_iter().find(has_code)?;
            }
        }
        Some(())
    }

    /// Copies the value to `config`.
    fn apply(&self, overrides: &TimeoutOverrides, config: &mut TimeoutConfig) {
        let mut from = overrides.config;
        match self {
            Self::Preset => *config = config.with_preset(overrides.preset),
            Self::Duration(field) => *field(config) = *field(&mut from),
            Self::DurationNeverOff(field) => *field(config) = *field(&mut from),
            Self::Rate(field) => *field(config) = *field(&mut from),
            Self::Fraction(field) => *field(config) = *field(&mut from),
            Self::IdleScope => config.idle_scope = from.idle_scope,
            Self::PongEvidence => config.pong_evidence = from.pong_evidence,
            Self::DrainCode => config.drain_code = from.drain_code,
        }
    }

    /// Returns the stored value, for writing.
    fn value(&self, overrides: &TimeoutOverrides) -> Value {
        let mut config = overrides.config;
        match self {
            Self::Preset => Value::Word(overrides.preset.name()),
            Self::Duration(field) => field(&mut config).map_or(Value::OFF, Value::duration),
            Self::DurationNeverOff(field) => Value::duration(*field(&mut config)),
            Self::Rate(field) => {
                let whole = |rate: NonZeroU32| Value::Whole(rate.get().into());
                field(&mut config).map_or(Value::OFF, whole)
            }
            Self::Fraction(_) => Value::Fraction(config.jitter()),
            Self::IdleScope => Value::Word(config.idle_scope.name()),
            Self::PongEvidence => Value::Word(config.pong_evidence.name()),
            Self::DrainCode => Value::Whole(config.drain_code.code().into()),
        }
    }
}

/// A value in its written form. [`Kind::read`] accepts its `Display`.
pub(crate) enum Value {
    Word(&'static str),
    /// A rate, a code, or whole seconds.
    Whole(u64),
    /// A duration that is not a whole number of seconds, in nanoseconds.
    Nanos(u64),
    Fraction(f64),
}

impl Value {
    const OFF: Self = Self::Word("off");

    fn duration(nanos: NonZeroU64) -> Self {
        match nanos.get() % BILLION {
            0 => Self::Whole(nanos.get() / BILLION),
            _ => Self::Nanos(nanos.get()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Word(word) => f.write_str(word),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Nanos(nanos) => {
                const MILLION: u64 = 1_000_000;
                write!(f, "{}", nanos / MILLION)?;
                let mut decimals = nanos % MILLION;
                if decimals > 0 {
                    let mut places = 6;
                    while decimals % 10 == 0 {
                        decimals /= 10;
                        places -= 1;
                    }
                    write!(f, ".{decimals:0places$}")?;
                }
                f.write_str("ms")
            }
            // The shortest decimal form: at most nine places, and never an exponent.
            Self::Fraction(fraction) => write!(f, "{fraction}"),
        }
    }
}

impl Preset {
    const ALL: [Self; 4] = [
        Self::Development,
        Self::Production,
        Self::HighLatency,
        Self::Client,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
            Self::HighLatency => "high-latency",
            Self::Client => "client",
        }
    }
}

impl IdleScope {
    const ALL: [Self; 2] = [Self::Inbound, Self::Messages];

    const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Messages => "messages",
        }
    }
}

impl PongEvidence {
    const ALL: [Self; 2] = [Self::Any, Self::Pong];

    const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Pong => "pong",
        }
    }
}

impl DrainCode {
    const ALL: [Self; 2] = [Self::GoingAway, Self::ServiceRestart];
}

/// Returns the value whose name is `text`, ignoring case and treating `_` as `-`.
fn word<T: Copy, const N: usize>(
    text: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Option<T> {
    all.into_iter().find(|&value| is_word(text, name(value)))
}

fn is_word(text: &str, word: &str) -> bool {
    let plain = |byte: u8| match byte {
        b'_' => b'-',
        _ => byte.to_ascii_lowercase(),
    };
    text.bytes().map(plain).eq(word.bytes())
}

/// Reads a value that may be `off`, for which it returns `Some(None)`. Returns `None` if `text` is
/// not accepted.
///
/// `false` means `off` too, since YAML may parse `off` as `false`.
fn or_off<T>(text: &str, number: fn(&str) -> Option<T>) -> Option<Option<T>> {
    if is_word(text, "off") || is_word(text, "false") {
        Some(None)
    } else {
        number(text).map(Some)
    }
}

/// Reads a duration of 0.001 to 1,000,000,000 seconds, with or without a unit. Returns nanoseconds.
fn duration(text: &str) -> Option<NonZeroU64> {
    /// Each unit, how many decimal places its numbers may have, and the nanoseconds in the last
    /// place.
    const UNITS: [(&str, u32, u64); 5] = [
        ("ms", 6, 1), // before "s", which also matches
        ("s", 9, 1),
        ("m", 9, 60),
        ("h", 9, 3600),
        ("", 9, 1),
    ];
    let (number, (_, places, nanos)) = UNITS
        .iter()
        .find_map(|unit| Some((text.strip_suffix(unit.0)?, unit)))?;
    let nanos = fixed(number, *places)?.checked_mul(*nanos)?;
    within(1_000_000..=1_000_000_000 * BILLION, nanos).and_then(NonZeroU64::new)
}

/// Reads a rate of 1 to 1,000,000,000 per second.
fn rate(text: &str) -> Option<NonZeroU32> {
    let rate = within(1..=BILLION, digits(text)?)?;
    u32::try_from(rate).ok().and_then(NonZeroU32::new)
}

/// Reads a fraction of 0 to 0.5. Returns billionths.
fn fraction(text: &str) -> Option<Billionths> {
    let fraction = within(0..=BILLION / 2, fixed(text, 9)?)?;
    Billionths::try_from(fraction).ok()
}

const BILLION: u64 = 1_000_000_000;

fn within(range: RangeInclusive<u64>, number: u64) -> Option<u64> {
    range.contains(&number).then_some(number)
}

/// Reads digits, optionally followed by a point and one to `places` digits. Returns the number in
/// units of its last place.
fn fixed(text: &str, places: u32) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let missing = places.checked_sub(decimals.len().try_into().ok()?)?;
    let decimals = digits(decimals)?.checked_mul(10_u64.checked_pow(missing)?)?;
    let whole = digits(whole)?.checked_mul(10_u64.checked_pow(places)?)?;
    whole.checked_add(decimals)
}

/// Reads one or more ASCII digits. (`str::parse` would accept a sign too.)
///
/// A number that overflows is not accepted either: it is far above every limit.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}
