//! Reads the configuration from environment variables, and settings from any names and values.
//!
//! [`read`] finds the setting for each name, lets it read the value (`settings.rs`), and collects
//! every invalid value and unknown name. It also reads a section of a file (`section.rs`).

use core::fmt;
use core::mem;
use std::borrow::ToOwned;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::config::TimeoutConfig;
use crate::settings::{PREFIX, SETTINGS, TimeoutOverrides};

impl TimeoutConfig {
    /// Reads the configuration from the environment variables of this process.
    ///
    /// [`from_vars`](Self::from_vars) reads other variables by the same rules.
    ///
    /// | variable | accepted | default |
    /// |---|---|---|
    /// | `WS_PRESET` | `development`, `production`, `high-latency`, `client` | none: the defaults below |
    /// | `WS_HANDSHAKE_TIMEOUT` | a duration or `off` | 10 |
    /// | `WS_HEARTBEAT_INTERVAL` (not the ping interval) | a duration or `off` | 30 |
    /// | `WS_CONNECTION_TIMEOUT` | a duration or `off` | 300 |
    /// | `WS_MESSAGE_TIMEOUT` | a duration or `off` | 1 |
    /// | `WS_IDLE_TIMEOUT` | a duration or `off` | 60 |
    /// | `WS_PING_INTERVAL` | a duration or `off` | 25 |
    /// | `WS_PONG_TIMEOUT` | a duration or `off` | 60 |
    /// | `WS_CLOSE_TIMEOUT` | a duration | 5 |
    /// | `WS_STALL_TOLERANCE` | a duration or `off` | 3 |
    /// | `WS_RESUME_PROBE` | a duration or `off` | 30 |
    /// | `WS_MIN_DATA_RATE` | bytes per second or `off` | 240 |
    /// | `WS_MAX_PING_RATE` | pings per second or `off` | 20 |
    /// | `WS_JITTER` | a fraction, 0 to 0.5 | 0.1 |
    /// | `WS_IDLE_SCOPE` | `inbound`, `messages` | `inbound` |
    /// | `WS_PONG_EVIDENCE` | `any`, `pong` | `any` |
    /// | `WS_DRAIN_CODE` | `1001`, `1012` | 1001 |
    ///
    /// A duration is a number of seconds, such as `30` or `2.5`, or a number with the unit `ms`,
    /// `s`, `m` (minutes) or `h`, such as `500ms` or `5m`. It must be between 0.001 and 1000000000
    /// seconds. Durations and fractions are digits, optionally followed by a point and one to nine
    /// digits (six in milliseconds), and are stored exactly. A rate is a whole number from 1 to
    /// 1000000000. No number may contain a sign, an exponent or a space.
    ///
    /// Words may be in any case, with `_` for `-`, and `false` means `off`. Names and units are
    /// case-sensitive. An empty value is an error; a setting whose variable is not set keeps its
    /// default.
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
    /// One of the unknown variables may be a misspelled setting, so log them:
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
        Self::from_env_with_prefix(PREFIX)
    }

    /// Reads the configuration as [`from_env`](Self::from_env) does, with `prefix` in place of
    /// `WS_`.
    ///
    /// With the prefix `MYAPP_WS_`, the idle timeout is `MYAPP_WS_IDLE_TIMEOUT`, and
    /// `WS_IDLE_TIMEOUT` is ignored.
    ///
    /// ```
    /// # fn main() -> Result<(), ws_timeout::EnvError> {
    /// let loaded = ws_timeout::TimeoutConfig::from_env_with_prefix("MYAPP_WS_")?;
    /// # let _ = loaded;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns one [`EnvError`] that lists every variable with an invalid value.
    pub fn from_env_with_prefix(prefix: &str) -> Result<EnvConfig, EnvError> {
        Self::from_vars_with_prefix(prefix, std::env::vars_os())
    }

    /// Reads the configuration from `vars`, for example from a file or in a test.
    ///
    /// [`from_env`](Self::from_env) lists the variables and their values. In any order of `vars`,
    /// `WS_PRESET` sets its six limits first, and the other variables override it. If a name occurs
    /// more than once, only its last value counts. Names that do not begin with `WS_` are ignored.
    /// Unknown names that begin with `WS_` are not errors, since another program may use them:
    /// [`EnvConfig::unknown`] lists them.
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
        Self::from_vars_with_prefix(PREFIX, vars)
    }

    /// Reads the configuration from `vars` as [`from_vars`](Self::from_vars) does, with `prefix` in
    /// place of `WS_`.
    ///
    /// ```
    /// use core::time::Duration;
    /// use ws_timeout::TimeoutConfig;
    ///
    /// let vars = [("MYAPP_WS_IDLE_TIMEOUT", "2m"), ("WS_IDLE_TIMEOUT", "1")];
    /// let loaded = TimeoutConfig::from_vars_with_prefix("MYAPP_WS_", vars)?;
    /// assert_eq!(loaded.config.idle_timeout(), Some(Duration::from_secs(120)));
    /// # Ok::<(), ws_timeout::EnvError>(())
    /// ```
    ///
    /// # Errors
    /// Returns one [`EnvError`] that lists every variable with an invalid value.
    pub fn from_vars_with_prefix<I, K, V>(prefix: &str, vars: I) -> Result<EnvConfig, EnvError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let variable = |setting: &str| format!("{prefix}{}", setting.to_ascii_uppercase());
        let read = read(vars, prefix, variable);
        if !read.bad.is_empty() {
            return Err(EnvError { bad: read.bad });
        }
        Ok(EnvConfig {
            config: read.overrides.apply(&Self::DEFAULT),
            overrides: read.overrides,
            unknown: read.unknown,
        })
    }
}

/// The result of [`read`].
pub(crate) struct Read {
    pub(crate) overrides: TimeoutOverrides,
    /// In the order of [`SETTINGS`].
    pub(crate) bad: Vec<BadVariable>,
    /// Sorted by name, without duplicates.
    pub(crate) unknown: Vec<UnknownVariable>,
}

/// Reads settings from the variables whose names begin with `prefix`. `name_of` returns the
/// variable's name for a setting.
pub(crate) fn read<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    vars: impl IntoIterator<Item = (K, V)>,
    prefix: &str,
    name_of: impl Fn(&str) -> String,
) -> Read {
    let names = SETTINGS.each_ref().map(|setting| name_of(setting.name));
    let mut given = [const { None }; SETTINGS.len()];
    let mut unknown = BTreeSet::new();
    for (name, value) in vars {
        let name = name.as_ref();
        if let Some(row) = names.iter().position(|known| name == known.as_str()) {
            given[row] = Some(value);
        } else if name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
            unknown.insert(name.to_string_lossy().into_owned());
        }
    }

    let mut overrides = TimeoutOverrides::default();
    let mut bad = Vec::new();
    for (row, setting) in SETTINGS.iter().enumerate() {
        let Some(value) = given[row].as_ref().map(V::as_ref) else {
            continue;
        };
        let read = value.to_str().and_then(|text| overrides.read(row, text));
        if read.is_none() {
            bad.push(BadVariable {
                name: names[row].clone(),
                value: cut(&value.to_string_lossy()),
                expected: setting.expected(),
            });
        }
    }
    let unknown = unknown.into_iter().map(|name| UnknownVariable {
        nearest: nearest(&name, &names, prefix.len()),
        name,
    });
    Read {
        overrides,
        bad,
        unknown: unknown.collect(),
    }
}

/// The configuration from environment variables, and the unknown variables among them.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let loaded = TimeoutConfig::from_vars([("WS_PRESET", "development")])?;
/// assert_eq!(loaded.config, TimeoutConfig::development());
/// assert!(loaded.unknown.is_empty());
/// # Ok::<(), ws_timeout::EnvError>(())
/// ```
///
/// To override a base other than the defaults, for example the configuration of a client:
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::TimeoutConfig;
///
/// let loaded = TimeoutConfig::from_vars([("WS_IDLE_TIMEOUT", "90")])?;
/// let config = loaded.overrides.apply(&TimeoutConfig::client());
/// assert_eq!(config.idle_timeout(), Some(Duration::from_secs(90)));
/// assert_eq!(config.connection_timeout(), None);
/// # Ok::<(), ws_timeout::EnvError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnvConfig {
    /// The configuration: the defaults with the overrides applied. [`TimeoutConfig::warnings`]
    /// lists settings that are probably mistakes.
    pub config: TimeoutConfig,
    /// The settings that the variables set, to apply to another base.
    pub overrides: TimeoutOverrides,
    /// The unknown variables that begin with the prefix, sorted by name, without duplicates.
    pub unknown: Vec<UnknownVariable>,
}

/// A variable whose name begins with the prefix but names no setting. `Display` writes one line for
/// a log.
///
/// The value is not stored, since it may be another program's secret.
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
    nearest: Option<String>,
}

impl UnknownVariable {
    /// Returns the variable's name, with `U+FFFD` in place of invalid UTF-8.
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
    pub fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }

    /// Returns one line: the name, `problem`, and the setting that was probably meant.
    pub(crate) fn describe(&self, problem: &str) -> String {
        let name = cut(&self.name);
        let hint = match &self.nearest {
            Some(nearest) => format!("; did you mean {nearest}?"),
            None => String::new(),
        };
        format!("{}: {problem}{hint}", name.escape_debug())
    }
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe("ignored, not a ws-timeout variable"))
    }
}

/// An error that lists every variable with an invalid value. `Display` writes a line for each.
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
    /// Never empty, in the order of [`SETTINGS`].
    bad: Vec<BadVariable>,
}

impl EnvError {
    /// Returns the variables with invalid values, at least one, in the order of the table at
    /// [`TimeoutConfig::from_env`].
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

/// Writes the same as `Display`, since a `main` that returns the error prints this.
impl fmt::Debug for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for EnvError {}

/// A variable with an invalid value. `Display` writes one line, with the value quoted and escaped.
///
/// ```
/// use ws_timeout::TimeoutConfig;
///
/// let error = TimeoutConfig::from_vars([("WS_PRESET", "prod\n")]).unwrap_err();
/// let bad = &error.variables()[0];
/// assert_eq!(
///     bad.to_string(),
///     r#"WS_PRESET="prod\n": expected "development", "production", "high-latency" or "client""#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadVariable {
    name: String,
    value: String,
    expected: &'static str,
}

impl BadVariable {
    /// Returns the variable's name.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_JITTER", "1")]).unwrap_err();
    /// assert_eq!(error.variables()[0].name(), "WS_JITTER");
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the variable's value, not escaped, with `U+FFFD` in place of invalid UTF-8. A value
    /// of more than 80 characters is truncated and ends in `…`.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_JITTER", "1\t")]).unwrap_err();
    /// assert_eq!(error.variables()[0].value(), "1\t");
    /// ```
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns a description of the accepted values.
    ///
    /// ```
    /// # use ws_timeout::TimeoutConfig;
    /// let error = TimeoutConfig::from_vars([("WS_PONG_EVIDENCE", "all")]).unwrap_err();
    /// assert_eq!(error.variables()[0].expected(), r#""any" or "pong""#);
    /// ```
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

impl fmt::Display for BadVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            expected,
        } = self;
        write!(f, "{name}={value:?}: expected {expected}")
    }
}

/// Truncates a text that would flood a log.
fn cut(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the known name that is most similar to `name`, if no more than a third of the longer one
/// differs. Otherwise, returns the first known name that begins with `name` as whole words, such as
/// `idle_timeout` for `idle`. Ignores the first `prefix` bytes, which all names share.
fn nearest(name: &str, names: &[String], prefix: usize) -> Option<String> {
    let without_prefix = |name| str::get(name, prefix..).unwrap_or_default();
    // The first 64 characters suffice: no known name is similar to a longer one.
    let name: Vec<char> = without_prefix(name).chars().take(64).collect();
    let all = || names.iter().map(|known| (known, without_prefix(known)));
    let similar = all()
        .map(|(known, rest)| (distance(&name, rest), rest.len(), known))
        .filter(|(distance, length, _)| 3 * distance <= name.len().max(*length))
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., known)| known);
    let extends = |rest: &str| {
        let word = rest.get(..name.len()).unwrap_or_default();
        rest[word.len()..].starts_with('_') && distance(&name, word) == 0
    };
    let extension = || {
        all()
            .find(|(_, rest)| extends(rest))
            .map(|(known, _)| known)
    };
    similar.or_else(extension).cloned()
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
