//! The configuration in files, in TOML, in JSON and through figment.

mod any_config;

use std::collections::HashMap;
use std::time::Duration;

use any_config::any_config;
use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ws_timeout::{DrainCode, EnvError, IdleScope, PongEvidence, TimeoutConfig, TimeoutOverrides};

/// A server's own configuration, with the limits in sections of it.
#[derive(Debug, PartialEq, Deserialize, Serialize)]
struct Server {
    address: String,
    #[serde(default)]
    timeouts: TimeoutConfig,
    #[serde(default)]
    routes: HashMap<String, TimeoutOverrides>,
}

impl Server {
    fn route(&self, path: &str) -> TimeoutConfig {
        self.routes[path].apply(&self.timeouts)
    }
}

const fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn parse(text: &str) -> TimeoutConfig {
    toml::from_str(text).unwrap()
}

/// Returns the error of a section that must not be accepted.
#[track_caller]
fn rejected(text: &str) -> String {
    let error = toml::from_str::<TimeoutConfig>(text).expect_err(text);
    error.message().to_owned()
}

/// Returns the error of the environment for the same values, with the names of a file.
fn as_variables(settings: &[(&str, &str)]) -> String {
    let vars = settings
        .iter()
        .map(|(name, value)| (format!("WS_{}", name.to_ascii_uppercase()), value));
    let error: EnvError = TimeoutConfig::from_vars(vars).unwrap_err();
    let mut text = error.to_string();
    for bad in error.variables() {
        let in_file = bad.name()["WS_".len()..].to_ascii_lowercase();
        text = text.replace(bad.name(), &in_file);
    }
    text
}

/// Returns the same error, but with the values as they are in the file if they are not texts.
fn unquoted(settings: &[(&str, &str)]) -> String {
    let mut text = as_variables(settings);
    for (name, value) in settings {
        text = text.replace(&format!("{name}={value:?}"), &format!("{name}={value}"));
    }
    text
}

#[test]
fn every_setting_is_read() {
    let config = parse(
        r#"
            preset = "high-latency"
            handshake_timeout = 1
            heartbeat_interval = 2.5
            connection_timeout = "3m"
            message_timeout = "400ms"
            idle_timeout = "5s"
            ping_interval = "6"
            pong_timeout = 7.000000001
            close_timeout = "8.5"
            stall_tolerance = "off"
            resume_probe = false
            min_data_rate = 11
            max_ping_rate = "12"
            jitter = 0.13
            idle_scope = "messages"
            pong_evidence = "pong"
            drain_code = 1012
        "#,
    );
    let expected = TimeoutConfig::builder()
        .handshake_timeout(Duration::from_secs(1))
        .heartbeat_interval(Duration::from_millis(2500))
        .connection_timeout(Duration::from_secs(180))
        .message_timeout(Duration::from_millis(400))
        .idle_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(6))
        .pong_timeout(Duration::from_nanos(7_000_000_001))
        .close_timeout(Duration::from_millis(8500))
        .no_stall_tolerance()
        .no_resume_probe()
        .min_data_rate(11)
        .max_ping_rate(12)
        .jitter(0.13)
        .idle_scope(IdleScope::Messages)
        .pong_evidence(PongEvidence::Pong)
        .drain_code(DrainCode::ServiceRestart)
        .build();
    assert_eq!(config, expected.unwrap());
}

#[test]
fn a_missing_setting_has_its_default() {
    assert_eq!(parse(""), TimeoutConfig::DEFAULT);
    let config = parse("ping_interval = 20\npreset = 'production'");
    let expected = TimeoutConfig::production().to_builder();
    let expected = expected.ping_interval(Duration::from_secs(20)).build();
    assert_eq!(config, expected.unwrap());
    let server: Server = toml::from_str("address = 'localhost'").unwrap();
    assert_eq!(server.timeouts, TimeoutConfig::DEFAULT);
}

#[test]
fn a_number_is_read_as_it_is_written() {
    let read = |value: &str| {
        let text = format!(r#"{{"idle_timeout": {value}}}"#);
        serde_json::from_str(&text).map(|config: TimeoutConfig| config.idle_timeout())
    };
    let nanos = |nanos| Some(Duration::from_nanos(nanos));
    assert_eq!(read("1e3").unwrap(), secs(1000));
    assert_eq!(read("30.0").unwrap(), secs(30));
    assert_eq!(
        read("999999.999999999").unwrap(),
        nanos(999_999_999_999_999)
    );
    assert_eq!(read("0.1").unwrap(), nanos(100_000_000));
    assert_eq!(read("1000000000").unwrap(), secs(1_000_000_000));
    for bad in ["0", "-1", "-0.5", "0.0001", "1e300", "18446744073709551615"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn one_error_lists_every_bad_setting_as_the_environment_does() {
    let names = "preset handshake_timeout heartbeat_interval connection_timeout message_timeout \
                 idle_timeout ping_interval pong_timeout close_timeout stall_tolerance \
                 resume_probe min_data_rate max_ping_rate jitter idle_scope pong_evidence drain_code";
    let bad: Vec<_> = names.split_whitespace().map(|name| (name, "1 s")).collect();
    let text = bad
        .iter()
        .rev()
        .map(|(name, value)| format!("{name} = {value:?}\n"));
    let error = rejected(&text.collect::<String>());
    assert_eq!(error.lines().count(), 17);
    assert_eq!(error, as_variables(&bad));
}

#[test]
fn unknown_names_are_errors_with_the_nearest_name() {
    let error = rejected(
        "idel_timeout = 5\n\
         ping_interval = 0\n\
         idle-timeout = 5\n\
         WS_JITTER = 0\n\
         colour = 'red'\n\
         ping = 3\n\
         heartbeat = 3\n\
         \"a\\u001bb\" = 1",
    );
    assert_eq!(
        error,
        unquoted(&[("ping_interval", "0")])
            + "\nWS_JITTER: not a setting; did you mean jitter?\
               \na\\u{1b}b: not a setting\
               \ncolour: not a setting\
               \nheartbeat: not a setting; did you mean heartbeat_interval?\
               \nidel_timeout: not a setting; did you mean idle_timeout?\
               \nidle-timeout: not a setting; did you mean idle_timeout?\
               \nping: not a setting; did you mean ping_interval?"
    );
}

/// What serde_json passes with its feature `arbitrary_precision`, which any crate in the tree can
/// enable.
#[test]
fn a_number_of_any_precision_is_read_as_without_that_feature() {
    let read = |number: &str| {
        let section = json!({ "jitter": { "$serde_json::private::Number": number } });
        let config = serde_json::from_str::<TimeoutConfig>(&section.to_string());
        config
            .map(|config| config.jitter())
            .map_err(|error| error.to_string())
    };
    assert_eq!(read("0.25"), Ok(0.25));
    assert_eq!(read("1e-3"), Ok(0.001));
    for (number, held) in [("0.75", "0.75"), ("NaN", "NaN"), ("one", "{…}")] {
        let error = read(number).unwrap_err();
        assert!(error.starts_with(&format!("jitter={held}: ")), "{error}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_listed_with_the_other_errors() {
    let error = rejected(
        "handshake_timeout = true\n\
         heartbeat_interval = [1, [2], { a = 3 }]\n\
         connection_timeout = { secs = 1, nanos = [0] }\n\
         message_timeout = 1979-05-27T07:32:00Z\n\
         idle_timeout = nan\n\
         ping_interval = -5\n\
         pong_timeout = 9",
    );
    let expected = [
        ("handshake_timeout", "true"),
        ("heartbeat_interval", "[…]"),
        ("connection_timeout", "{…}"),
        ("message_timeout", "{…}"),
        ("idle_timeout", "NaN"),
        ("ping_interval", "-5"),
    ];
    assert_eq!(error, unquoted(&expected));

    let text = r#"{
        "idle_timeout": null, "ping_interval": [1, 2], "pong_timeout": {"a": 1, "b": 2},
        "close_timeout": false
    }"#;
    let error = serde_json::from_str::<TimeoutConfig>(text).unwrap_err();
    let expected = [
        ("idle_timeout", "null"),
        ("ping_interval", "[…]"),
        ("pong_timeout", "{…}"),
        ("close_timeout", "false"),
    ];
    let error = error.to_string();
    assert!(error.starts_with(&unquoted(&expected)), "{error}");

    let error = rejected("jitter = 3\nidle_timeout = '3 s'");
    assert_eq!(
        error
            .lines()
            .map(|line| line.split_once(':').unwrap().0)
            .collect::<Vec<_>>(),
        ["idle_timeout=\"3 s\"", "jitter=3"]
    );
    // If a name occurs twice, the later value counts.
    let error = serde_json::from_str::<TimeoutConfig>(r#"{"jitter": 3, "jitter": "3"}"#);
    assert!(error.unwrap_err().to_string().starts_with("jitter=\"3\": "));

    let error = TimeoutConfig::deserialize(json!([1])).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("expected a section of timeout settings"),
        "{error}"
    );
}

#[test]
fn a_route_inherits_the_section_of_its_server() {
    let server: Server = toml::from_str(
        r#"
            address = "0.0.0.0:80"

            [timeouts]
            idle_timeout = "2m"
            message_timeout = 2
            jitter = 0
            max_ping_rate = "off"

            [routes."/ws/slow"]
            message_timeout = 8

            [routes."/ws/default"]
            max_ping_rate = 20

            [routes."/ws/far"]
            preset = "high-latency"
            idle_timeout = "off"

            [routes."/ws"]
        "#,
    )
    .unwrap();

    let with = |limit: u64| {
        let base = server.timeouts.to_builder();
        base.message_timeout(Duration::from_secs(limit)).build()
    };
    assert_eq!(server.route("/ws/slow"), with(8).unwrap());
    assert_eq!(server.route("/ws/slow").idle_timeout(), secs(120));
    assert_eq!(server.route("/ws"), server.timeouts);
    assert_eq!(server.route("/ws/default").max_ping_rate(), Some(20));
    assert_eq!(server.route("/ws/default").message_timeout(), secs(2));

    let far = server.route("/ws/far");
    assert_eq!(far.message_timeout(), secs(5));
    assert_eq!(far.idle_timeout(), None);
    assert_eq!(far.jitter(), 0.0);
    assert_eq!(far.max_ping_rate(), None);

    let written = toml::to_string(&server).unwrap();
    assert_eq!(toml::from_str::<Server>(&written).unwrap(), server);
}

#[test]
fn the_environment_overrides_a_file() {
    let file = parse("idle_timeout = 90\nmessage_timeout = 2");
    let vars = [("MYAPP_WS_IDLE_TIMEOUT", "2m")];
    let loaded = TimeoutConfig::from_vars_with_prefix("MYAPP_WS_", vars).unwrap();
    let config = loaded.overrides.apply(&file);
    assert_eq!(config.idle_timeout(), secs(120));
    assert_eq!(config.message_timeout(), secs(2));
}

#[test]
fn figment_merges_sections() {
    let file = r#"
        address = "0.0.0.0:80"
        timeouts.idle_timeout = 90
        timeouts.message_timeout = "500ms"
        timeouts.connection_timeout = false
        [routes."/ws/slow"]
        message_timeout = 8
    "#;
    let figment = Figment::from(Serialized::default("timeouts.jitter", 0.2))
        .merge(Toml::string(file))
        .merge(("timeouts.idle_timeout", "2m"));
    let server: Server = figment.extract().unwrap();
    assert_eq!(server.timeouts.jitter(), 0.2);
    assert_eq!(server.timeouts.idle_timeout(), secs(120));
    assert_eq!(server.timeouts.connection_timeout(), None);
    assert_eq!(server.route("/ws/slow").message_timeout(), secs(8));
    assert_eq!(server.route("/ws/slow").idle_timeout(), secs(120));

    let alone: TimeoutConfig = figment.extract_inner("timeouts").unwrap();
    assert_eq!(alone, server.timeouts);

    let bad = figment
        .merge(("timeouts.jitter", "1"))
        .merge(("timeouts.ping", 3));
    let error = bad.extract::<Server>().unwrap_err().to_string();
    let expected = as_variables(&[("jitter", "1")]) + "\nping: not a setting";
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains("timeouts"), "{error}");
}

#[test]
fn a_configuration_is_written_with_numbers_and_words() {
    let config = TimeoutConfig::development()
        .to_builder()
        .no_connection_timeout()
        .drain_code(DrainCode::ServiceRestart)
        .build()
        .unwrap();
    let expected = json!({
        "handshake_timeout": 10,
        "heartbeat_interval": 15,
        "connection_timeout": "off",
        "message_timeout": "500ms",
        "idle_timeout": 30,
        "ping_interval": 10,
        "pong_timeout": 30,
        "close_timeout": 5,
        "stall_tolerance": 3,
        "resume_probe": 30,
        "min_data_rate": 240,
        "max_ping_rate": 20,
        "jitter": 0.1,
        "idle_scope": "inbound",
        "pong_evidence": "any",
        "drain_code": 1012,
    });
    assert_eq!(serde_json::to_value(config).unwrap(), expected);

    let overrides: TimeoutOverrides =
        toml::from_str("preset = 'HIGH_LATENCY'\njitter = 0.0").unwrap();
    let expected = json!({"preset": "high-latency", "jitter": 0.0});
    assert_eq!(serde_json::to_value(overrides).unwrap(), expected);
    assert_eq!(
        serde_json::to_value(TimeoutOverrides::default()).unwrap(),
        json!({})
    );
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_configuration_round_trips(config in any_config()) {
        let text = toml::to_string(&config).unwrap();
        prop_assert_eq!(parse(&text), config, "{}", text);
        let value: Value = serde_json::to_value(config).unwrap();
        prop_assert_eq!(TimeoutConfig::deserialize(value).unwrap(), config);
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<TimeoutConfig>(&text).unwrap(), config);
    }
}
