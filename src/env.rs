//! The configuration from `WS_*` environment variables.
//!
//! The table [`VARIABLES`] drives everything: which names are known, what each value may be, which
//! field it fills, and the order in which values take effect and errors are listed. Numbers are
//! read digit by digit as integers, so every accepted value is kept exactly.

use core::fmt;
use core::mem;
use core::num::{NonZeroU32, NonZeroU64};
use core::ops::RangeInclusive;
use std::borrow::ToOwned;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::config::{Billionths, IdleScope, PongEvidence, TimeoutConfig};
use crate::time::Limit;
use Kind::{Evidence, Fraction, Preset, Rate, Scope, Secs, SecsNeverOff};

impl TimeoutConfig {
    /// Reads the configuration from the environment variables of this process.
    ///
    /// [`from_vars`](Self::from_vars) reads variables from elsewhere by the same rules.
    ///
    /// | variable | accepted | default |
    /// |---|---|---|
    /// | `WS_PRESET` | `development`, `production`, `high-latency` | none: the defaults below |
    /// | `WS_HANDSHAKE_TIMEOUT` | seconds or `off` | 10 |
    /// | `WS_HEARTBEAT_INTERVAL` (not the ping interval) | seconds or `off` | 30 |
    /// | `WS_CONNECTION_TIMEOUT` | seconds or `off` | 300 |
    /// | `WS_MESSAGE_TIMEOUT` | seconds or `off` | 1 |
    /// | `WS_IDLE_TIMEOUT` | seconds or `off` | 60 |
    /// | `WS_PING_INTERVAL` | seconds or `off` | 25 |
    /// | `WS_PONG_TIMEOUT` | seconds or `off` | 60 |
    /// | `WS_CLOSE_TIMEOUT` | seconds | 5 |
    /// | `WS_STALL_TOLERANCE` | seconds or `off` | 3 |
    /// | `WS_RESUME_PROBE` | seconds or `off` | 30 |
    /// | `WS_MIN_DATA_RATE` | bytes per second or `off` | 240 |
    /// | `WS_MAX_PING_RATE` | pings per second or `off` | 20 |
    /// | `WS_JITTER` | a fraction, 0 to 0.5 | 0.1 |
    /// | `WS_IDLE_SCOPE` | `inbound`, `messages` | `inbound` |
    /// | `WS_PONG_EVIDENCE` | `any`, `pong` | `any` |
    ///
    /// Seconds are from 0.001 to 1000000000. Seconds and fractions are digits, optionally followed
    /// by a point and one to nine digits; they are kept exactly. Rates are whole numbers from 1 to
    /// 1000000000. No number has a sign, an exponent or a space. An empty value is an error; a
    /// variable that is not set keeps its default. Names and words are case-sensitive.
    ///
    /// ```
    /// use ws_timeout::TimeoutConfig;
    ///
    /// # fn main() -> Result<(), ws_timeout::EnvError> {
    /// let config = TimeoutConfig::from_env()?.config;
    /// # let _ = config;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Log the unknown variables, since one of them may be a misspelled setting:
    ///
    /// ```
    /// use ws_timeout::TimeoutConfig;
    ///
    /// # fn main() -> Result<(), ws_timeout::EnvError> {
    /// let loaded = TimeoutConfig::from_env()?;
    /// for unknown in &loaded.unknown {
    ///     eprintln!("{unknown}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns one [`EnvError`] that lists every variable with an invalid value.
    pub fn from_env() -> Result<EnvConfig, EnvError> {
        Self::from_vars(std::env::vars_os())
    }

    /// Reads the configuration from these variables, for example those of a file or of a test.
    ///
    /// [`from_env`](Self::from_env) lists the variables and their values. `WS_PRESET` sets its six
    /// limits first and the other variables override it, in any order. If a name occurs more than
    /// once, only its last value counts. Names that do not begin with `WS_` are ignored. Unknown
    /// names that do are no error, since another program may use them: [`EnvConfig::unknown`] lists
    /// them.
    ///
    /// ```
    /// use core::time::Duration;
    /// use ws_timeout::TimeoutConfig;
    ///
    /// let loaded = TimeoutConfig::from_vars([
    ///     ("WS_PING_INTERVAL", "17.5"),
    ///     ("WS_PRESET", "production"),
    ///     ("WS_CONNECTION_TIMEOUT", "off"),
    ///     ("WS_IDEL_TIMEOUT", "90"),
    /// ])?;
    ///
    /// assert_eq!(loaded.config.ping_interval(), Some(Duration::from_millis(17_500)));
    /// assert_eq!(loaded.config.pong_timeout(), Some(Duration::from_secs(90)));
    /// assert_eq!(loaded.config.connection_timeout(), None);
    /// assert_eq!(loaded.unknown[0].nearest(), Some("WS_IDLE_TIMEOUT"));
    /// # Ok::<(), ws_timeout::EnvError>(())
    /// ```
    ///
    /// # Errors
    /// Returns one [`EnvError`] that lists every variable with an invalid value.
    pub fn from_vars<I, K, V>(vars: I) -> Result<EnvConfig, EnvError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let mut given = [const { None }; VARIABLES.len()];
        let mut unknown = BTreeSet::new();
        for (name, value) in vars {
            let name = name.as_ref();
            if let Some(row) = VARIABLES.iter().position(|(known, _)| name == *known) {
                given[row] = Some(value);
            } else if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                unknown.insert(name.to_string_lossy().into_owned());
            }
        }

        let mut config = Self::DEFAULT;
        let mut bad = Vec::new();
        for ((name, kind), value) in VARIABLES.iter().zip(&given) {
            let Some(value) = value.as_ref().map(V::as_ref) else {
                continue;
            };
            let set = value.to_str().and_then(|text| kind.set(&mut config, text));
            if set.is_none() {
                bad.push(BadVariable {
                    name,
                    held: cut(&value.to_string_lossy()),
                    accepted: kind.accepted(),
                });
            }
        }
        if bad.is_empty() {
            let unknown = unknown.into_iter().map(UnknownVariable::new).collect();
            Ok(EnvConfig { config, unknown })
        } else {
            Err(EnvError { bad })
        }
    }
}

/// The configuration from the environment, and the variables that were ignored.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let loaded = TimeoutConfig::from_vars([("WS_PRESET", "development")])?;
/// assert_eq!(loaded.config, TimeoutConfig::development());
/// assert!(loaded.unknown.is_empty());
/// # Ok::<(), ws_timeout::EnvError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvConfig {
    /// The configuration. [`TimeoutConfig::warnings`] lists settings that are probably mistakes.
    pub config: TimeoutConfig,
    /// The unknown variables that begin with `WS_`, sorted by name, without duplicates.
    pub unknown: Vec<UnknownVariable>,
}

/// A variable that begins with `WS_` and is not a setting. Its `Display` is one line for a log.
///
/// Its value is not stored, since it may be a secret of another program.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let loaded = TimeoutConfig::from_vars([("WS_JITER", "0.2"), ("WS_URL", "wss://example.com")])?;
/// let lines: Vec<_> = loaded.unknown.iter().map(|unknown| unknown.to_string()).collect();
/// assert_eq!(lines, [
///     "WS_JITER: ignored, not a ws-timeout variable; did you mean WS_JITTER?",
///     "WS_URL: ignored, not a ws-timeout variable",
/// ]);
/// # Ok::<(), ws_timeout::EnvError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    name: String,
    nearest: Option<&'static str>,
}

impl UnknownVariable {
    fn new(name: String) -> Self {
        let nearest = nearest(&name);
        Self { name, nearest }
    }

    /// Returns the name, with `U+FFFD` in place of invalid UTF-8.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let loaded = TimeoutConfig::from_vars([("WS_URL", "wss://example.com")])?;
    /// assert_eq!(loaded.unknown[0].name(), "WS_URL");
    /// # Ok::<(), ws_timeout::EnvError>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the setting that was probably meant, if its name is similar.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let loaded = TimeoutConfig::from_vars([("WS_ping_interval", "20"), ("WS_URL", "")])?;
    /// assert_eq!(loaded.unknown[0].nearest(), None);
    /// assert_eq!(loaded.unknown[1].nearest(), Some("WS_PING_INTERVAL"));
    /// # Ok::<(), ws_timeout::EnvError>(())
    /// ```
    pub fn nearest(&self) -> Option<&'static str> {
        self.nearest
    }
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = cut(&self.name);
        write!(
            f,
            "{}: ignored, not a ws-timeout variable",
            name.escape_debug()
        )?;
        match self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// Every variable with an invalid value. Its `Display` is one line for each of them.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let error = TimeoutConfig::from_vars([
///     ("WS_JITTER", "10%"),
///     ("WS_PING_INTERVAL", "25"),
///     ("WS_IDLE_SCOPE", ""),
/// ])
/// .unwrap_err();
///
/// assert_eq!(
///     error.to_string(),
///     r#"WS_JITTER="10%": expected a fraction between 0 and 0.5, such as 0.1
/// WS_IDLE_SCOPE="": expected "inbound" or "messages""#,
/// );
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EnvError {
    /// Never empty, in the order of [`VARIABLES`].
    bad: Vec<BadVariable>,
}

impl EnvError {
    /// Returns the variables with invalid values, in the order in which [`TimeoutConfig::from_env`]
    /// lists them. There is at least one.
    ///
    /// ```
    /// use ws_timeout::TimeoutConfig;
    ///
    /// let vars = [("WS_PONG_TIMEOUT", "-1"), ("WS_PRESET", "prod")];
    /// let error = TimeoutConfig::from_vars(vars).unwrap_err();
    /// let names: Vec<_> = error.variables().iter().map(|bad| bad.name()).collect();
    /// assert_eq!(names, ["WS_PRESET", "WS_PONG_TIMEOUT"]);
    /// ```
    pub fn variables(&self) -> &[BadVariable] {
        &self.bad
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bad) in self.bad.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{bad}")?;
        }
        Ok(())
    }
}

/// The same as `Display`, since a `main` that returns the error prints this.
impl fmt::Debug for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for EnvError {}

/// A variable with an invalid value. Its `Display` is one line, with the value quoted and escaped.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let error = TimeoutConfig::from_vars([("WS_PRESET", "prod\n")]).unwrap_err();
/// let bad = &error.variables()[0];
/// assert_eq!(
///     bad.to_string(),
///     r#"WS_PRESET="prod\n": expected "development", "production" or "high-latency""#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadVariable {
    name: &'static str,
    held: String,
    accepted: &'static str,
}

impl BadVariable {
    /// Returns the name.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_JITTER", "1")]).unwrap_err();
    /// assert_eq!(error.variables()[0].name(), "WS_JITTER");
    /// ```
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the value, not escaped, with `U+FFFD` in place of invalid UTF-8. A value of more
    /// than 80 characters is cut and ends in `…`.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_JITTER", "1\t")]).unwrap_err();
    /// assert_eq!(error.variables()[0].held(), "1\t");
    /// ```
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Returns what is accepted, as text.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_PONG_EVIDENCE", "all")]).unwrap_err();
    /// assert_eq!(error.variables()[0].accepted(), r#""any" or "pong""#);
    /// ```
    pub fn accepted(&self) -> &'static str {
        self.accepted
    }
}

impl fmt::Display for BadVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            held,
            accepted,
        } = self;
        write!(f, "{name}={held:?}: expected {accepted}")
    }
}

/// The first characters of the name of every setting.
const PREFIX: &str = "WS_";

/// Every known variable, in the order in which they take effect: the preset is first, so that the
/// others override it.
static VARIABLES: [(&str, Kind); 16] = [
    ("WS_PRESET", Preset),
    ("WS_HANDSHAKE_TIMEOUT", Secs(|c| &mut c.handshake_timeout)),
    ("WS_HEARTBEAT_INTERVAL", Secs(|c| &mut c.heartbeat_interval)),
    ("WS_CONNECTION_TIMEOUT", Secs(|c| &mut c.connection_timeout)),
    ("WS_MESSAGE_TIMEOUT", Secs(|c| &mut c.message_timeout)),
    ("WS_IDLE_TIMEOUT", Secs(|c| &mut c.idle_timeout)),
    ("WS_PING_INTERVAL", Secs(|c| &mut c.ping_interval)),
    ("WS_PONG_TIMEOUT", Secs(|c| &mut c.pong_timeout)),
    ("WS_CLOSE_TIMEOUT", SecsNeverOff(|c| &mut c.close_timeout)),
    ("WS_STALL_TOLERANCE", Secs(|c| &mut c.stall_tolerance)),
    ("WS_RESUME_PROBE", Secs(|c| &mut c.resume_probe)),
    ("WS_MIN_DATA_RATE", Rate(|c| &mut c.min_data_rate)),
    ("WS_MAX_PING_RATE", Rate(|c| &mut c.max_ping_rate)),
    ("WS_JITTER", Fraction(|c| &mut c.jitter)),
    ("WS_IDLE_SCOPE", Scope),
    ("WS_PONG_EVIDENCE", Evidence),
];

/// The kind of a variable's value, with the field of the configuration that the value fills.
enum Kind {
    Preset,
    Secs(fn(&mut TimeoutConfig) -> &mut Limit),
    SecsNeverOff(fn(&mut TimeoutConfig) -> &mut NonZeroU64),
    Rate(fn(&mut TimeoutConfig) -> &mut Option<NonZeroU32>),
    Fraction(fn(&mut TimeoutConfig) -> &mut Billionths),
    Scope,
    Evidence,
}

impl Kind {
    /// Returns what [`set`](Self::set) accepts, as text.
    fn accepted(&self) -> &'static str {
        match self {
            Preset => r#""development", "production" or "high-latency""#,
            Secs(_) => r#"seconds between 0.001 and 1000000000, such as 30 or 2.5, or "off""#,
            SecsNeverOff(_) => "seconds between 0.001 and 1000000000, such as 30 or 2.5",
            Rate(_) => r#"a whole number between 1 and 1000000000, such as 20, or "off""#,
            Fraction(_) => "a fraction between 0 and 0.5, such as 0.1",
            Scope => r#""inbound" or "messages""#,
            Evidence => r#""any" or "pong""#,
        }
    }

    /// Stores the value in `config`. Returns `None`, and leaves `config` as it was, if `text` is
    /// not accepted.
    fn set(&self, config: &mut TimeoutConfig, text: &str) -> Option<()> {
        match self {
            Preset => {
                *config = match text {
                    "development" => TimeoutConfig::development(),
                    "production" => TimeoutConfig::production(),
                    "high-latency" => TimeoutConfig::high_latency(),
                    _ => return None,
                }
            }
            Secs(field) => *field(config) = or_off(text, seconds)?,
            SecsNeverOff(field) => *field(config) = seconds(text)?,
            Rate(field) => *field(config) = or_off(text, rate)?,
            Fraction(field) => *field(config) = fraction(text)?,
            Scope => {
                config.idle_scope = match text {
                    "inbound" => IdleScope::Inbound,
                    "messages" => IdleScope::Messages,
                    _ => return None,
                }
            }
            Evidence => {
                config.pong_evidence = match text {
                    "any" => PongEvidence::Any,
                    "pong" => PongEvidence::Pong,
                    _ => return None,
                }
            }
        }
        Some(())
    }
}

/// Returns `Some(None)` for `off`, and `None` for a text that is not accepted.
fn or_off<T>(text: &str, number: fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        "off" => Some(None),
        _ => number(text).map(Some),
    }
}

/// Reads 0.001 to 1,000,000,000 seconds, as nanoseconds.
fn seconds(text: &str) -> Option<NonZeroU64> {
    within(1_000_000..=1_000_000_000 * BILLION, billionths(text)?).and_then(NonZeroU64::new)
}

/// Reads 1 to 1,000,000,000.
fn rate(text: &str) -> Option<NonZeroU32> {
    let rate = within(1..=BILLION, digits(text)?)?;
    u32::try_from(rate).ok().and_then(NonZeroU32::new)
}

/// Reads 0 to 0.5.
fn fraction(text: &str) -> Option<Billionths> {
    let fraction = within(0..=BILLION / 2, billionths(text)?)?;
    Billionths::try_from(fraction).ok()
}

const BILLION: u64 = 1_000_000_000;

fn within(range: RangeInclusive<u64>, number: u64) -> Option<u64> {
    range.contains(&number).then_some(number)
}

/// Reads digits, optionally followed by a point and one to nine digits, as a whole number of
/// billionths.
fn billionths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let missing = 9_u32.checked_sub(decimals.len().try_into().ok()?)?;
    let decimals = digits(decimals)? * 10_u64.pow(missing);
    digits(whole)?.checked_mul(BILLION)?.checked_add(decimals)
}

/// Reads one or more ASCII digits. (`str::parse` would accept a sign too.)
///
/// A number that overflows is far above every limit, and is not accepted either.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Returns the text, shortened if it would flood a log.
fn cut(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the known name that is most similar to `name`, if no more than a third of the longer one
/// differs. `WS_` does not count, since both begin with it.
fn nearest(name: &str) -> Option<&'static str> {
    // The first 64 characters suffice: no known name is similar to a longer one.
    let name: Vec<char> = name.chars().skip(PREFIX.len()).take(64).collect();
    VARIABLES
        .iter()
        .map(|(known, _)| (distance(&name, &known[PREFIX.len()..]), *known))
        .filter(|(distance, known)| 3 * distance <= name.len().max(known.len() - PREFIX.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Returns how many characters must be inserted, deleted or replaced to turn one text into the
/// other (the Levenshtein distance), ignoring case.
fn distance(name: &[char], known: &str) -> usize {
    // The distance from the characters of `name` read so far to each prefix of `known`.
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (taken, from) in name.iter().enumerate() {
        let mut replaced = mem::replace(&mut row[0], taken + 1);
        for (made, to) in known.bytes().enumerate() {
            replaced += usize::from(!from.eq_ignore_ascii_case(&to.into()));
            let other = row[made].min(row[made + 1]) + 1;
            replaced = mem::replace(&mut row[made + 1], replaced.min(other));
        }
    }
    row[known.len()]
}
