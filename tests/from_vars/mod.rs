//! Compares `TimeoutConfig::from_vars` with an independent reader, on lines of `NAME=value`.
//!
//! The reader shares no code with the crate. It compares numbers as strings of digits, which cannot
//! overflow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::time::Duration;

use ws_timeout::{BadVariable, DrainCode, IdleScope, PongEvidence, TimeoutConfig};

type Vars<'a> = BTreeMap<&'a OsStr, &'a OsStr>;
type Get<T> = fn(&TimeoutConfig) -> T;

const LIMITS: [(&str, Get<Option<Duration>>); 9] = [
    ("WS_HANDSHAKE_TIMEOUT", TimeoutConfig::handshake_timeout),
    ("WS_HEARTBEAT_INTERVAL", TimeoutConfig::heartbeat_interval),
    ("WS_CONNECTION_TIMEOUT", TimeoutConfig::connection_timeout),
    ("WS_MESSAGE_TIMEOUT", TimeoutConfig::message_timeout),
    ("WS_IDLE_TIMEOUT", TimeoutConfig::idle_timeout),
    ("WS_PING_INTERVAL", TimeoutConfig::ping_interval),
    ("WS_PONG_TIMEOUT", TimeoutConfig::pong_timeout),
    ("WS_STALL_TOLERANCE", TimeoutConfig::stall_tolerance),
    ("WS_RESUME_PROBE", TimeoutConfig::resume_probe),
];

const PRESETS: [&str; 4] = ["development", "production", "high-latency", "client"];

const RATES: [(&str, Get<Option<u32>>); 2] = [
    ("WS_MIN_DATA_RATE", TimeoutConfig::min_data_rate),
    ("WS_MAX_PING_RATE", TimeoutConfig::max_ping_rate),
];

/// Panics if `TimeoutConfig::from_vars` and the independent reader disagree on the lines in `data`.
pub(crate) fn check(data: &[u8]) {
    let lines: Vec<_> = data.split(|&byte| byte == b'\n').filter_map(line).collect();
    let given = lines.iter().copied().collect::<Vars>();
    let bad = bad_names(&given);

    match TimeoutConfig::from_vars(lines.iter().copied()) {
        Ok(loaded) => {
            assert_eq!(bad, [""; 0], "accepted: {given:?}");
            agrees(&loaded.config, &given);
            let read_back = |shown: String| {
                let lines: Vec<_> = shown.lines().filter_map(|it| line(it.as_bytes())).collect();
                let read = TimeoutConfig::from_vars(lines).expect(&shown);
                assert_eq!(read.unknown, [], "{shown}");
                read
            };
            assert_eq!(read_back(loaded.config.to_string()).config, loaded.config);
            let overrides = loaded.overrides;
            assert_eq!(read_back(overrides.to_string()).overrides, overrides);

            let mut names: Vec<_> = loaded.unknown.iter().map(|it| it.name()).collect();
            assert!(names.is_sorted());
            names.dedup();
            assert_eq!(names.len(), loaded.unknown.len());
            for unknown in &loaded.unknown {
                assert!(unknown.name().starts_with("WS_"));
                assert!(
                    given
                        .keys()
                        .any(|name| name.to_string_lossy() == unknown.name())
                );
                assert!(unknown.nearest().is_none_or(|near| reader(near).is_some()));
                assert!(!unknown.to_string().contains(char::is_control));
            }
            for name in given.keys().map(|name| name.to_string_lossy()) {
                let listed = names.contains(&&*name);
                let ours = reader(&name).is_some();
                assert_eq!(listed, name.starts_with("WS_") && !ours, "{name}");
            }
        }
        Err(error) => {
            let mut names: Vec<_> = error.variables().iter().map(BadVariable::name).collect();
            names.sort_unstable();
            assert_eq!(names, bad, "rejected: {error}");
            let shown = error.to_string();
            assert_eq!(shown.lines().count(), error.variables().len());
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
            for bad in error.variables() {
                let held = given[OsStr::new(bad.name())].to_string_lossy();
                let begin = bad.value().strip_suffix('…').unwrap_or(bad.value());
                assert!(held == bad.value() || held.starts_with(begin));
            }
        }
    }
}

/// Splits `NAME=value`. Returns `None` for any other line, and for invalid UTF-8 on platforms where
/// an `OsStr` cannot contain it.
fn line(line: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let equals = line.iter().position(|&byte| byte == b'=')?;
    Some((os(&line[..equals])?, os(&line[equals + 1..])?))
}

#[cfg(unix)]
fn os(bytes: &[u8]) -> Option<&OsStr> {
    Some(std::os::unix::ffi::OsStrExt::from_bytes(bytes))
}

#[cfg(not(unix))]
fn os(bytes: &[u8]) -> Option<&OsStr> {
    std::str::from_utf8(bytes).ok().map(OsStr::new)
}

/// Returns the names of the variables that must be rejected, sorted.
fn bad_names<'a>(given: &Vars<'a>) -> Vec<&'a str> {
    let known = given.iter().filter_map(|(name, value)| {
        let name = name.to_str()?;
        Some((name, value.to_str(), reader(name)?))
    });
    known
        .filter(|(_, value, reader)| !value.is_some_and(reader))
        .map(|(name, ..)| name)
        .collect()
}

/// Returns the check that a value of the variable must pass, if there is such a variable.
fn reader(name: &str) -> Option<fn(&str) -> bool> {
    Some(match name {
        "WS_PRESET" => |text| PRESETS.contains(&&*plain(text)),
        "WS_IDLE_SCOPE" => |text| ["inbound", "messages"].contains(&&*plain(text)),
        "WS_PONG_EVIDENCE" => |text| ["any", "pong"].contains(&&*plain(text)),
        "WS_DRAIN_CODE" => {
            |text| fixed(text, 0).is_some_and(|code| ["1001", "1012"].contains(&&*code))
        }
        "WS_JITTER" => |text| jitter(text).is_some(),
        "WS_CLOSE_TIMEOUT" => |text| length(text).is_some(),
        _ if LIMITS.iter().any(|(limit, _)| *limit == name) => {
            |text| is_off(text) || length(text).is_some()
        }
        _ if RATES.iter().any(|(rate, _)| *rate == name) => {
            |text| is_off(text) || rate(text).is_some()
        }
        _ => return None,
    })
}

/// Asserts that the configuration has the given values, and otherwise those of the preset or the
/// defaults.
fn agrees(config: &TimeoutConfig, given: &Vars<'_>) {
    let text = |name: &str| {
        given
            .get(OsStr::new(name))
            .map(|text| text.to_str().unwrap())
    };
    let base = match text("WS_PRESET").map(plain).as_deref() {
        Some("development") => TimeoutConfig::development(),
        Some("production") => TimeoutConfig::production(),
        Some("high-latency") => TimeoutConfig::high_latency(),
        Some("client") => TimeoutConfig::client(),
        _ => TimeoutConfig::DEFAULT,
    };
    for (name, get) in LIMITS {
        assert_eq!(get(config), text(name).map_or(get(&base), length), "{name}");
    }
    for (name, get) in RATES {
        assert_eq!(get(config), text(name).map_or(get(&base), rate), "{name}");
    }
    let close = text("WS_CLOSE_TIMEOUT").map_or(Some(base.close_timeout()), length);
    assert_eq!(Some(config.close_timeout()), close);
    let fraction = text("WS_JITTER").map_or(Some(base.jitter()), jitter);
    assert_eq!(Some(config.jitter()), fraction);
    let is = |name: &str, word: &str| text(name).is_some_and(|text| plain(text) == word);
    let messages = is("WS_IDLE_SCOPE", "messages");
    assert_eq!(config.idle_scope() == IdleScope::Messages, messages);
    let pong = is("WS_PONG_EVIDENCE", "pong");
    assert_eq!(config.pong_evidence() == PongEvidence::Pong, pong);
    let restart = text("WS_DRAIN_CODE").is_some_and(|text| text.ends_with('2'));
    assert_eq!(config.drain_code() == DrainCode::ServiceRestart, restart);
}

/// Returns a word as it is documented.
fn plain(text: &str) -> String {
    text.to_ascii_lowercase().replace('_', "-")
}

fn is_off(text: &str) -> bool {
    ["off", "false"].contains(&&*plain(text))
}

fn length(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let (places, nanos) = match unit {
        "ms" => (6, 1),
        "s" | "" => (9, 1),
        "m" => (9, 60),
        "h" => (9, 3600),
        _ => return None,
    };
    let number = fixed(number, places)?;
    // A longer number is out of range, and would be one for the parser of 128 bits.
    let number: u128 = (number.len() < 30).then(|| number.parse().unwrap())?;
    let nanos = nanos * number;
    let range = 1_000_000..=1_000_000_000_000_000_000;
    let nanos = range.contains(&nanos).then(|| nanos.try_into().unwrap());
    nanos.map(Duration::from_nanos)
}

fn jitter(text: &str) -> Option<f64> {
    let billionths = billionths(text, "0", "500000000")?;
    Some(billionths.parse::<f64>().unwrap() / 1e9)
}

fn rate(text: &str) -> Option<u32> {
    Some(
        between("1", "1000000000", fixed(text, 0)?)?
            .parse()
            .unwrap(),
    )
}

/// Returns the digits of the number times a billion, if its syntax is valid and it is from `low` to
/// `high`.
fn billionths(text: &str, low: &str, high: &str) -> Option<String> {
    between(low, high, fixed(text, 9)?)
}

/// Returns the number if it is from `low` to `high`.
fn between(low: &str, high: &str, number: String) -> Option<String> {
    // Without leading zeros, the longer number is larger, and numbers of the same length compare as
    // strings.
    let size = |number: &str| (number.len(), number.to_owned());
    (size(low)..=size(high))
        .contains(&size(&number))
        .then_some(number)
}

/// Returns the digits of the number with its point `places` digits further to the right, without
/// leading zeros, if its syntax is valid.
fn fixed(text: &str, places: usize) -> Option<String> {
    let parts: Vec<&str> = text.split('.').collect();
    let digits = |part: &&str| !part.is_empty() && part.chars().all(|c| "0123456789".contains(c));
    let (whole, decimals) = match parts[..] {
        [whole] => (whole, ""),
        [whole, decimals] if decimals.len() <= places => (whole, decimals),
        _ => return None,
    };
    parts.iter().all(digits).then_some(())?;
    let number = format!("{whole}{decimals:0<places$}");
    let number = number.trim_start_matches('0');
    Some(String::from(if number.is_empty() { "0" } else { number }))
}
