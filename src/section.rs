//! Reads and writes the configuration as a section of a file, through serde.
//!
//! A section is read like the environment: each value becomes the text that a variable would hold,
//! and `env.rs` reads the names and texts. So both accept the same values, with the same errors.

use core::fmt;
use std::borrow::ToOwned;
use std::ffi::OsStr;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::config::TimeoutConfig;
use crate::env;
use crate::settings::{TimeoutOverrides, Value};

/// Reads a section of settings. A missing setting has its default.
///
/// The names are those of the [builder's](crate::TimeoutConfigBuilder) setters, and `preset`. The
/// values are those of the variables that [`from_env`](TimeoutConfig::from_env) lists: a duration
/// is a number of seconds or a string such as `"500ms"`, `"30s"` or `"5m"`, and `"off"` or `false`
/// turns a limit off. `null` is an error.
///
/// A single error lists every invalid value and every unknown name. Since an unknown name is an
/// error, `#[serde(flatten)]` cannot mix a section with other settings. The format must be
/// self-describing, as TOML, YAML and JSON are.
///
/// ```
/// use core::time::Duration;
/// use ws_timeout::TimeoutConfig;
///
/// let config: TimeoutConfig = serde_json::from_str(r#"{
///     "preset": "production",
///     "ping_interval": 20,
///     "message_timeout": "500ms",
///     "connection_timeout": "off"
/// }"#)?;
/// assert_eq!(config.ping_interval(), Some(Duration::from_secs(20)));
/// assert_eq!(config.message_timeout(), Some(Duration::from_millis(500)));
/// assert_eq!(config.connection_timeout(), None);
/// assert_eq!(config.pong_timeout(), Some(Duration::from_secs(90)));
///
/// let error = serde_json::from_str::<TimeoutConfig>(r#"{
///     "idle_timeout": "1 minute",
///     "idel_scope": "messages"
/// }"#);
/// let error = error.unwrap_err().to_string();
/// assert!(error.starts_with(r#"idle_timeout="1 minute": expected seconds between "#));
/// assert!(error.contains("\nidel_scope: not a setting; did you mean idle_scope?"));
/// # Ok::<(), serde_json::Error>(())
/// ```
impl<'de> Deserialize<'de> for TimeoutConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let overrides = TimeoutOverrides::deserialize(deserializer)?;
        Ok(overrides.apply(&Self::DEFAULT))
    }
}

/// Reads a section as [`TimeoutConfig`] does. A missing setting is inherited from the base.
impl<'de> Deserialize<'de> for TimeoutOverrides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Section)
    }
}

/// Writes every setting: whole seconds as numbers, and other durations as strings such as
/// `"500ms"`.
///
/// Reading the section returns the same configuration, unless a limit is outside the accepted
/// range.
impl Serialize for TimeoutConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TimeoutOverrides::all(*self).serialize(serializer)
    }
}

/// Writes the settings that are set, in the format of [`TimeoutConfig`].
impl Serialize for TimeoutOverrides {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries().count()))?;
        for (name, value) in self.entries() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Word(word) => serializer.serialize_str(word),
            Self::Whole(number) => serializer.serialize_u64(number),
            Self::Nanos(_) => serializer.collect_str(self),
            Self::Fraction(fraction) => serializer.serialize_f64(fraction),
        }
    }
}

struct Section;

impl<'de> Visitor<'de> for Section {
    type Value = TimeoutOverrides;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section of timeout settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TimeoutOverrides, A::Error> {
        let mut settings = Vec::<(Text, Text)>::new();
        while let Some(setting) = map.next_entry()? {
            settings.push(setting);
        }
        let vars = settings.iter().map(|(name, value)| (name, value));
        let read = env::read(vars, "", str::to_owned);
        let bad = read.bad.iter().map(|bad| {
            let mut values = settings.iter().rev();
            match values.find(|(name, _)| name.text == bad.name()) {
                Some((_, value)) if !value.quoted => {
                    format!(
                        "{}={}: expected {}",
                        bad.name(),
                        bad.value(),
                        bad.expected()
                    )
                }
                _ => bad.to_string(),
            }
        });
        let unknown = read.unknown.iter();
        let unknown = unknown.map(|unknown| unknown.describe("not a setting"));
        let lines: Vec<String> = bad.chain(unknown).collect();
        if lines.is_empty() {
            Ok(read.overrides)
        } else {
            Err(de::Error::custom(lines.join("\n")))
        }
    }
}

/// A name, or a value of any type, as the text that a variable would hold.
///
/// A value of a type that no setting has becomes a text that no setting accepts, so that its error
/// is listed with the others.
struct Text {
    text: String,
    /// Whether the file contains it as a string, so that an error quotes it.
    quoted: bool,
}

impl AsRef<OsStr> for Text {
    fn as_ref(&self) -> &OsStr {
        self.text.as_ref()
    }
}

impl Text {
    fn bare(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            quoted: false,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyType)
    }
}

struct AnyType;

impl<'de> Visitor<'de> for AnyType {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a string or false")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text {
            text: text.to_owned(),
            quoted: true,
        })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
        Ok(Text::bare(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text::bare(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
        Ok(Text::bare(number))
    }

    fn visit_bool<E>(self, on: bool) -> Result<Text, E> {
        Ok(Text::bare(on))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::bare("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::bare("[…]"))
    }

    /// With its feature `arbitrary_precision`, serde_json passes a number that is not an integer as
    /// a map from this name to the number's text. Without the feature it passes an `f64`.
    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Text, A::Error> {
        const NUMBER: &str = "$serde_json::private::Number";
        let mut value = Text::bare("{…}");
        while let Some(name) = table.next_key::<Text>()? {
            if name.text == NUMBER {
                let number = table.next_value::<Text>()?.text;
                value = number.parse::<f64>().map_or(value, Text::bare);
            } else {
                table.next_value::<IgnoredAny>()?;
            }
        }
        Ok(value)
    }
}
