//! The configuration from the environment: accepted values, rejected values and error texts.

mod any_config;
mod from_vars;

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
#[cfg(unix)]
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Duration;

use any_config::{any_config, any_size};
use proptest::prelude::*;
use proptest::test_runner::Config;
use ws_timeout::{
    BadVariable, DrainCode, EnvConfig, EnvError, IdleScope, PongEvidence, TimeoutConfig,
    TimeoutOverrides,
};

type Get<T> = fn(&TimeoutConfig) -> T;

/// The limits that can be off.
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

const RATES: [(&str, Get<Option<u32>>); 2] = [
    ("WS_MIN_DATA_RATE", TimeoutConfig::min_data_rate),
    ("WS_MAX_PING_RATE", TimeoutConfig::max_ping_rate),
];

/// All variables, in the order in which errors list them.
const NAMES: [&str; 17] = [
    "WS_PRESET",
    "WS_HANDSHAKE_TIMEOUT",
    "WS_HEARTBEAT_INTERVAL",
    "WS_CONNECTION_TIMEOUT",
    "WS_MESSAGE_TIMEOUT",
    "WS_IDLE_TIMEOUT",
    "WS_PING_INTERVAL",
    "WS_PONG_TIMEOUT",
    "WS_CLOSE_TIMEOUT",
    "WS_STALL_TOLERANCE",
    "WS_RESUME_PROBE",
    "WS_MIN_DATA_RATE",
    "WS_MAX_PING_RATE",
    "WS_JITTER",
    "WS_IDLE_SCOPE",
    "WS_PONG_EVIDENCE",
    "WS_DRAIN_CODE",
];

/// Values that no variable accepts.
fn bad_everywhere<'a>() -> impl Iterator<Item = &'a str> {
    let words = "no on true none null - + . -1 +1 -0 1e0 1E0 nan NaN inf infinity -inf \
                 1_0 1,0 1'0 0x1 0b1 1S 1MS 1M 1H 1sec 1min 1d 1ns 1us 1µs 1m30s 1sm s ms m h .s \
                 .5s 5.m -1s 1% 1.0.0 offs o_ff of ｏff ١ １ ½ 一";
    let blanks = [
        "",
        " ",
        "\0",
        "off ",
        " off",
        "1 s",
        " 1s",
        "1s ",
        "1 ",
        " 1",
        "\t1",
        "1\n",
        "1\0",
        "\u{feff}1",
    ];
    words.split_whitespace().chain(blanks)
}

#[test]
fn nothing_set_gives_the_defaults() {
    let vars = [("PATH", "/bin"), ("ws_jitter", "x"), ("WS", "x")];
    let loaded: EnvConfig = TimeoutConfig::from_vars(vars).unwrap();
    let config = loaded.config;
    assert_eq!(config, TimeoutConfig::DEFAULT);
    assert_eq!(loaded.unknown, []);
    assert_eq!(six(&config), [30.0, 300.0, 1.0, 60.0, 25.0, 60.0]);
    assert_eq!(config.handshake_timeout(), Some(Duration::from_secs(10)));
    assert_eq!(config.close_timeout(), Duration::from_secs(5));
    assert_eq!(config.stall_tolerance(), Some(Duration::from_secs(3)));
    assert_eq!(config.resume_probe(), Some(Duration::from_secs(30)));
    assert_eq!(config.min_data_rate(), Some(240));
    assert_eq!(config.max_ping_rate(), Some(20));
    assert_eq!(config.jitter(), 0.1);
    assert_eq!(config.idle_scope(), IdleScope::Inbound);
    assert_eq!(config.pong_evidence(), PongEvidence::Any);
    assert_eq!(config.drain_code(), DrainCode::GoingAway);
    assert_eq!(loaded.overrides, TimeoutOverrides::default());
}

#[test]
fn each_preset_sets_six_limits() {
    let presets = [
        ("development", [15.0, 120.0, 0.5, 30.0, 10.0, 30.0]),
        ("production", [60.0, 600.0, 2.0, 120.0, 30.0, 90.0]),
        ("high-latency", [120.0, 1200.0, 5.0, 300.0, 60.0, 180.0]),
    ];
    for (name, limits) in presets {
        let config = one("WS_PRESET", name).unwrap();
        assert_eq!(six(&config), limits, "{name}");
        let default = TimeoutConfig::DEFAULT;
        assert_eq!(config.handshake_timeout(), default.handshake_timeout());
        assert_eq!(config.close_timeout(), default.close_timeout());
        assert_eq!(config.stall_tolerance(), default.stall_tolerance());
        assert_eq!(config.resume_probe(), default.resume_probe());
        assert_eq!(config.min_data_rate(), default.min_data_rate());
        assert_eq!(config.max_ping_rate(), default.max_ping_rate());
        assert_eq!(config.jitter(), default.jitter());
    }
    assert_eq!(one("WS_PRESET", "client").unwrap(), TimeoutConfig::client());
    for name in "highlatency high--latency prod default".split(' ') {
        rejected("WS_PRESET", name);
    }
}

#[test]
fn single_variables_override_the_preset_whatever_the_order() {
    let mut vars = [
        ("WS_PRESET", "production"),
        ("WS_HEARTBEAT_INTERVAL", "1"),
        ("WS_CONNECTION_TIMEOUT", "2"),
        ("WS_MESSAGE_TIMEOUT", "3"),
        ("WS_IDLE_TIMEOUT", "4"),
        ("WS_PING_INTERVAL", "5"),
        ("WS_PONG_TIMEOUT", "6"),
        ("WS_JITTER", "0"),
    ];
    for _ in 0..vars.len() {
        let config = TimeoutConfig::from_vars(vars).unwrap().config;
        assert_eq!(six(&config), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(config.jitter(), 0.0);
        vars.rotate_left(1);
    }
    let mixed = TimeoutConfig::from_vars([("WS_PONG_TIMEOUT", "45"), ("WS_PRESET", "production")]);
    assert_eq!(
        six(&mixed.unwrap().config),
        [60.0, 600.0, 2.0, 120.0, 30.0, 45.0]
    );
}

#[test]
fn each_variable_sets_its_own_field_and_no_other() {
    for (row, (name, get)) in LIMITS.iter().enumerate() {
        let length = Duration::from_secs(1000 + row as u64);
        let config = one(name, &length.as_secs().to_string()).unwrap();
        assert_eq!(get(&config), Some(length), "{name}");
        let others = LIMITS.iter().filter(|(other, _)| other != name);
        for (other, get) in others {
            assert_eq!(
                get(&config),
                get(&TimeoutConfig::DEFAULT),
                "{name}, {other}"
            );
        }
    }
    let expected = TimeoutConfig::builder()
        .handshake_timeout(Duration::from_secs(1))
        .heartbeat_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(3))
        .message_timeout(Duration::from_secs(4))
        .idle_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(6))
        .pong_timeout(Duration::from_secs(7))
        .close_timeout(Duration::from_secs(8))
        .stall_tolerance(Duration::from_secs(9))
        .resume_probe(Duration::from_secs(10))
        .min_data_rate(11)
        .max_ping_rate(12)
        .jitter(0.13)
        .idle_scope(IdleScope::Messages)
        .pong_evidence(PongEvidence::Pong)
        .drain_code(DrainCode::ServiceRestart)
        .build();
    let values = "high-latency 1 2 3 4 5 6 7 8 9 10 11 12 0.13 messages pong 1012";
    let vars = NAMES.into_iter().zip(values.split(' '));
    let config = TimeoutConfig::from_vars(vars).unwrap().config;
    assert_eq!(config, expected.unwrap());
}

#[test]
fn durations_are_exact() {
    let good = [
        ("0.001", 1_000_000),
        ("0.001000001", 1_000_001),
        ("0.01", 10_000_000),
        ("0.5", 500_000_000),
        ("0.999999999", 999_999_999),
        ("1", 1_000_000_000),
        ("1.0", 1_000_000_000),
        ("1.000000000", 1_000_000_000),
        ("1.000000001", 1_000_000_001),
        ("17.123456789", 17_123_456_789),
        ("007.50", 7_500_000_000),
        // Not representable as a double.
        ("9007199.254740993", 9_007_199_254_740_993),
        ("999999999.999999999", 999_999_999_999_999_999),
        ("1000000000", 1_000_000_000_000_000_000),
        ("1000000000.000000000", 1_000_000_000_000_000_000),
        ("60s", 60_000_000_000),
        ("2.5s", 2_500_000_000),
        ("0.001s", 1_000_000),
        ("0.123456789s", 123_456_789),
        ("1ms", 1_000_000),
        ("500ms", 500_000_000),
        ("1.000001ms", 1_000_001),
        ("1000000000000ms", 1_000_000_000_000_000_000),
        ("5m", 300_000_000_000),
        ("0.5m", 30_000_000_000),
        ("0.000016667m", 1_000_020),
        ("16666666.666666666m", 999_999_999_999_999_960),
        ("2h", 7_200_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("0.000000278h", 1_000_800),
        ("277777.777777777h", 999_999_999_999_997_200),
    ];
    for (text, nanos) in good {
        let length = Duration::from_nanos(nanos);
        for (name, get) in LIMITS {
            assert_eq!(
                get(&one(name, text).unwrap()),
                Some(length),
                "{name}={text}"
            );
        }
        assert_eq!(
            one("WS_CLOSE_TIMEOUT", text).unwrap().close_timeout(),
            length,
            "{text}"
        );
    }
    let long = "0".repeat(10_000) + "30";
    assert_eq!(
        one("WS_PING_INTERVAL", &long).unwrap().ping_interval(),
        Some(Duration::from_secs(30))
    );
}

#[test]
fn an_invalid_limit_is_rejected() {
    let long = ["0", "1", "9"].map(|digit| digit.repeat(10_000));
    let long = long.iter().map(String::as_str);
    let out_of_range = "0 0.0 0.000000000 0.000999999 0.000000001 \
                        1000000000.000000001 1000000000.1 1000000001 10000000000 \
                        0ms 0.999999ms 1000000000000.000001ms 0s 1000000001s \
                        0.000016666m 16666666.666666667m 0.000000277h 277777.777777778h";
    // The limits of 64 and 128 bits, in nanoseconds and in seconds.
    let wide = "18446744073 18446744073.709551615 18446744073.709551616 18446744074 18446744075 \
                18446744073709551615 18446744073709551616 18446744073709551646 \
                340282366920938463463374607431768211456 340282366920938463463374607431768211486 \
                18446744073709551616ms 18446744073710ms 307445734562m 18446744074m 5124095577h";
    let notation = ".5 5. 1. 1.0000000000 1.0000000001 1..5 1.-5 1.+5 +5 -5 1e3 1.5e3 1.5.5 1.٥ ٥.1 1/2 1:2 \
         1.0000001ms 1.0000000000s 1.0000000000m 1.ms 1.s 1m1 1hh 1s1";
    let words = [out_of_range, wide, notation]
        .into_iter()
        .flat_map(str::split_whitespace);
    let blanks = [" 5", "5 ", "1. 5", "1 .5", "1 000"];
    for text in words.chain(blanks).chain(long).chain(bad_everywhere()) {
        for (name, _) in LIMITS {
            rejected(name, text);
        }
        rejected("WS_CLOSE_TIMEOUT", text);
    }
    for zeros in [0, 1, 9_990] {
        let text = format!("1.{}", "0".repeat(10 + zeros));
        rejected("WS_PING_INTERVAL", &text);
    }
}

#[test]
fn off_turns_off_every_limit_but_close_timeout() {
    for off in ["off", "OFF", "Off", "oFF", "false", "False", "FALSE"] {
        for (name, get) in LIMITS {
            assert_eq!(get(&one(name, off).unwrap()), None, "{name}");
        }
        for (name, get) in RATES {
            assert_eq!(get(&one(name, off).unwrap()), None, "{name}");
        }
    }
    for name in [
        "WS_PRESET",
        "WS_CLOSE_TIMEOUT",
        "WS_JITTER",
        "WS_IDLE_SCOPE",
        "WS_PONG_EVIDENCE",
        "WS_DRAIN_CODE",
    ] {
        rejected(name, "false");
        let bad = rejected(name, "off");
        assert!(!bad.expected().contains("off"), "{bad}");
    }
}

#[test]
fn rates_are_whole_numbers() {
    for (name, get) in RATES {
        let good = [
            ("1", 1),
            ("2", 2),
            ("0020", 20),
            ("999999999", 999_999_999),
            ("1000000000", 1_000_000_000),
        ];
        for (text, rate) in good {
            assert_eq!(get(&one(name, text).unwrap()), Some(rate), "{name}={text}");
        }
        let long = "7".repeat(10_000);
        let bad = "0 00 1000000001 4294967296 4294967297 18446744073709551617 1.0 0.5 1. .1 1s 1m";
        let bad = bad.split(' ').chain([long.as_str()]);
        for text in bad.chain(bad_everywhere()) {
            rejected(name, text);
        }
    }
}

#[test]
fn jitter_is_a_fraction() {
    let good = [
        ("0", 0.0),
        ("0.0", 0.0),
        ("0.000000001", 1e-9),
        ("0.123456789", 0.123456789),
        ("0.499999999", 0.499999999),
        ("0.5", 0.5),
        ("00.500000000", 0.5),
    ];
    for (text, fraction) in good {
        assert_eq!(one("WS_JITTER", text).unwrap().jitter(), fraction, "{text}");
    }
    let bad = "0.500000001 0.5000000000 0.6 1 4.294967296 4.394967296 18446744073.709551616 .5 0. 50% 0.1s 100ms";
    for text in bad.split(' ').chain(bad_everywhere()) {
        rejected("WS_JITTER", text);
    }
}

#[test]
fn words_may_be_in_any_case_and_with_underscores() {
    let preset = |text| one("WS_PRESET", text);
    for text in "high-latency high_latency HIGH_LATENCY High-Latency".split(' ') {
        assert_eq!(preset(text), Ok(TimeoutConfig::high_latency()), "{text}");
    }
    assert_eq!(preset("PRODUCTION"), Ok(TimeoutConfig::production()));
    let scope = |text| one("WS_IDLE_SCOPE", text).map(|config| config.idle_scope());
    assert_eq!(scope("inbound"), Ok(IdleScope::Inbound));
    assert_eq!(scope("Messages"), Ok(IdleScope::Messages));
    let evidence = |text| one("WS_PONG_EVIDENCE", text).map(|config| config.pong_evidence());
    assert_eq!(evidence("ANY"), Ok(PongEvidence::Any));
    assert_eq!(evidence("pong"), Ok(PongEvidence::Pong));
    let words = "message pongs 0 1 0.1".split(' ');
    let words = words.chain(["messages ", " inbound", "pong\n", "production ", "ınbound"]);
    for text in words.chain(bad_everywhere()) {
        for name in ["WS_PRESET", "WS_IDLE_SCOPE", "WS_PONG_EVIDENCE"] {
            rejected(name, text);
        }
    }
}

#[test]
fn a_drain_code_is_one_of_two() {
    let code = |text| one("WS_DRAIN_CODE", text).map(|config| config.drain_code());
    assert_eq!(code("1001"), Ok(DrainCode::GoingAway));
    assert_eq!(code("1012"), Ok(DrainCode::ServiceRestart));
    let bad = "0 1 1000 1002 1011 1013 1012.0 10012 18446744073709552628 going-away".split(' ');
    for text in bad.chain(bad_everywhere()) {
        rejected("WS_DRAIN_CODE", text);
    }
}

#[test]
fn a_prefix_takes_the_place_of_ws() {
    let vars = [
        ("MYAPP_WS_IDLE_TIMEOUT", "2m"),
        ("MYAPP_WS_JITER", "0"),
        ("WS_IDLE_TIMEOUT", "bad"),
        ("MYAPP_IDLE_TIMEOUT", "bad"),
        ("IDLE_TIMEOUT", "bad"),
        ("idle_timeout", "bad"),
        ("WS_URL", ""),
    ];
    let load = |prefix| TimeoutConfig::from_vars_with_prefix(prefix, vars);
    let loaded = load("MYAPP_WS_").unwrap();
    let expected = TimeoutConfig::builder().idle_timeout(Duration::from_secs(120));
    assert_eq!(loaded.config, expected.build().unwrap());
    let [unknown] = &loaded.unknown[..] else {
        panic!("{:?}", loaded.unknown);
    };
    assert_eq!(
        unknown.to_string(),
        "MYAPP_WS_JITER: ignored, not a ws-timeout variable; did you mean MYAPP_WS_JITTER?"
    );

    for (prefix, name) in [
        ("MYAPP_", "MYAPP_IDLE_TIMEOUT"),
        ("WS_", "WS_IDLE_TIMEOUT"),
        ("", "IDLE_TIMEOUT"),
    ] {
        let error = load(prefix).unwrap_err();
        let [bad] = error.variables() else {
            panic!("{error}");
        };
        assert_eq!((bad.name(), bad.value()), (name, "bad"));
    }
    let loaded = TimeoutConfig::from_vars_with_prefix("é", [("éJITER", ""), ("\u{e8}JITTER", "")]);
    assert_eq!(loaded.unwrap().unknown[0].nearest(), Some("éJITTER"));
}

#[test]
fn overrides_hold_what_is_set_and_inherit_the_rest() {
    let base = TimeoutConfig::builder()
        .jitter(0.0)
        .no_max_ping_rate()
        .idle_scope(IdleScope::Messages)
        .close_timeout(Duration::from_secs(9))
        .ping_interval(Duration::from_secs(7))
        .build()
        .unwrap();
    let over = |vars: &[(&str, &str)]| {
        let loaded = TimeoutConfig::from_vars(vars.iter().copied()).unwrap();
        assert_eq!(
            loaded.overrides.apply(&TimeoutConfig::DEFAULT),
            loaded.config
        );
        loaded.overrides.apply(&base).to_builder()
    };
    assert_eq!(over(&[]).build().unwrap(), base);

    // A value equal to the default counts as set.
    let one = over(&[("WS_PING_INTERVAL", "25"), ("WS_MAX_PING_RATE", "20")]);
    let restored = one.ping_interval(Duration::from_secs(7)).no_max_ping_rate();
    assert_eq!(restored.build().unwrap(), base);
    assert_ne!(one.build().unwrap(), base);

    // A preset sets its six limits and nothing else.
    let preset = over(&[("WS_PING_INTERVAL", "3"), ("WS_PRESET", "production")]);
    let preset = preset.build().unwrap();
    assert_eq!(six(&preset), [60.0, 600.0, 2.0, 120.0, 3.0, 90.0]);
    assert_eq!(preset.jitter(), 0.0);
    assert_eq!(preset.max_ping_rate(), None);
    assert_eq!(preset.close_timeout(), Duration::from_secs(9));

    // Each setting is inherited, and each overrides.
    let values = "client 1 2 3 4 5 6 7 8 9 10 11 12 0.13 messages pong 1012";
    let all = NAMES.into_iter().zip(values.split(' '));
    let all = TimeoutConfig::from_vars(all).unwrap();
    assert_eq!(all.overrides.apply(&base), all.config);
    assert_eq!(TimeoutOverrides::default().apply(&all.config), all.config);
}

#[test]
fn a_configuration_is_written_as_variables() {
    let config = TimeoutConfig::builder()
        .no_connection_timeout()
        .message_timeout(Duration::from_micros(1500))
        .idle_timeout(Duration::from_nanos(61_000_000_010))
        .jitter(0.000_000_001)
        .build();
    let expected = "WS_HANDSHAKE_TIMEOUT=10\n\
                    WS_HEARTBEAT_INTERVAL=30\n\
                    WS_CONNECTION_TIMEOUT=off\n\
                    WS_MESSAGE_TIMEOUT=1.5ms\n\
                    WS_IDLE_TIMEOUT=61000.00001ms\n\
                    WS_PING_INTERVAL=25\n\
                    WS_PONG_TIMEOUT=60\n\
                    WS_CLOSE_TIMEOUT=5\n\
                    WS_STALL_TOLERANCE=3\n\
                    WS_RESUME_PROBE=30\n\
                    WS_MIN_DATA_RATE=240\n\
                    WS_MAX_PING_RATE=20\n\
                    WS_JITTER=0.000000001\n\
                    WS_IDLE_SCOPE=inbound\n\
                    WS_PONG_EVIDENCE=any\n\
                    WS_DRAIN_CODE=1001";
    assert_eq!(config.unwrap().to_string(), expected);

    let vars = [("WS_PONG_TIMEOUT", "0.25s"), ("WS_PRESET", "HIGH_LATENCY")];
    let overrides = TimeoutConfig::from_vars(vars).unwrap().overrides;
    let expected = "WS_PRESET=high-latency\nWS_PONG_TIMEOUT=250ms";
    assert_eq!(overrides.to_string(), expected);
    assert_eq!(
        format!("{overrides:?}"),
        "TimeoutOverrides { preset: high-latency, pong_timeout: 250ms }"
    );
    assert_eq!(TimeoutOverrides::default().to_string(), "");
}

#[test]
fn one_error_lists_every_bad_variable() {
    let mut vars = NAMES.map(|name| (name, "bad"));
    vars.reverse();
    let error = TimeoutConfig::from_vars(vars).unwrap_err();
    let names: Vec<_> = error.variables().iter().map(BadVariable::name).collect();
    assert_eq!(names, NAMES);

    let text = error.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), NAMES.len());
    for (line, bad) in lines.iter().zip(error.variables()) {
        assert_eq!(bad.value(), "bad");
        assert_eq!(
            *line,
            format!("{}=\"bad\": expected {}", bad.name(), bad.expected())
        );
    }
    assert_eq!(format!("{error:?}"), text);
    let boxed: Box<dyn Error + Send + Sync> = Box::new(error);
    assert_eq!(boxed.to_string(), text);

    let some = [
        ("WS_PONG_TIMEOUT", "0"),
        ("WS_PING_INTERVAL", "20"),
        ("WS_PRESET", "production"),
        ("WS_JITTER", ""),
    ];
    assert_eq!(
        TimeoutConfig::from_vars(some).unwrap_err().to_string(),
        "WS_PONG_TIMEOUT=\"0\": expected seconds between 0.001 and 1000000000, such as 30, 2.5, \
         \"500ms\" or \"5m\", or \"off\"\n\
         WS_JITTER=\"\": expected a fraction between 0 and 0.5, such as 0.1",
    );
}

#[test]
fn a_bad_variable_is_named_with_its_value_and_what_is_expected() {
    let seconds =
        r#"seconds between 0.001 and 1000000000, such as 30, 2.5, "500ms" or "5m", or "off""#;
    let rate = r#"a whole number between 1 and 1000000000, such as 20, or "off""#;
    let others = [
        (
            "WS_PRESET",
            r#""development", "production", "high-latency" or "client""#,
        ),
        (
            "WS_CLOSE_TIMEOUT",
            r#"seconds between 0.001 and 1000000000, such as 30, 2.5, "500ms" or "5m""#,
        ),
        ("WS_JITTER", "a fraction between 0 and 0.5, such as 0.1"),
        ("WS_IDLE_SCOPE", r#""inbound" or "messages""#),
        ("WS_PONG_EVIDENCE", r#""any" or "pong""#),
        ("WS_DRAIN_CODE", "1001 or 1012"),
    ];
    let limits = LIMITS.map(|(name, _)| (name, seconds));
    let rates = RATES.map(|(name, _)| (name, rate));
    let all = [&limits[..], &rates, &others].concat();
    assert_eq!(all.len(), NAMES.len());
    for (name, expected) in all {
        let bad = rejected(name, "60 s");
        assert_eq!(bad.expected(), expected);
        assert_eq!(
            bad.to_string(),
            format!("{name}=\"60 s\": expected {expected}")
        );
    }
}

/// Tries the examples in the errors, and every word that they quote.
#[test]
fn the_values_that_an_error_expects_are_accepted() {
    for name in NAMES {
        let expected = rejected(name, "bad").expected();
        let quoted = expected.split('"').skip(1).step_by(2);
        let examples = expected.split("such as ").last().into_iter();
        let numbers = examples
            .flat_map(|text| text.split([' ', ',']))
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let values: Vec<_> = quoted.chain(numbers).collect();
        assert!(
            values.len() > usize::from(name != "WS_JITTER"),
            "{expected}"
        );
        for value in values {
            assert!(one(name, value).is_ok(), "{name}={value}");
        }
    }
}

#[test]
fn a_bad_value_is_readable() {
    let hostile = "a\"b\\\r\n\x1b[31m\u{7f}\u{202e}\u{2028}é";
    let bad = rejected("WS_PRESET", hostile);
    assert_eq!(bad.value(), hostile);
    let line = bad.to_string();
    assert!(
        line.starts_with(r#"WS_PRESET="a\"b\\\r\n\u{1b}[31m\u{7f}\u{202e}\u{2028}é": expected "#),
        "{line}"
    );

    for filler in ["9", "é", "€", "😀"] {
        for length in [79, 80] {
            let text = filler.repeat(length);
            assert_eq!(rejected("WS_JITTER", &text).value(), text);
        }
        for length in [81, 82, 10_000] {
            // After one byte, the cut falls inside a character if it counts bytes.
            let text = String::from("x") + &filler.repeat(length - 1);
            let expected = String::from("x") + &filler.repeat(79) + "…";
            assert_eq!(rejected("WS_JITTER", &text).value(), expected);
        }
    }
}

#[test]
fn the_last_value_of_a_repeated_name_counts() {
    let last = |first, second| {
        let vars = [
            ("WS_PONG_TIMEOUT", first),
            ("WS_JITTER", "0"),
            ("WS_PONG_TIMEOUT", second),
        ];
        TimeoutConfig::from_vars(vars).map(|loaded| loaded.config.pong_timeout())
    };
    assert_eq!(last("1", "2"), Ok(Some(Duration::from_secs(2))));
    assert_eq!(last("1", "off"), Ok(None));
    assert_eq!(last("bad", "2"), Ok(Some(Duration::from_secs(2))));
    let error = last("2", "bad").unwrap_err();
    assert_eq!(error.variables().len(), 1);
    assert_eq!(error.variables()[0].value(), "bad");
}

#[test]
fn unknown_variables_are_warnings() {
    let near = [
        ("WS_PING_INTERVALL", Some("WS_PING_INTERVAL")),
        ("WS_PIN_INTERVAL", Some("WS_PING_INTERVAL")),
        ("WS_PING_INTREVAL", Some("WS_PING_INTERVAL")),
        ("WS_ping_interval", Some("WS_PING_INTERVAL")),
        ("WS_PING_INTERVAL_SECS", Some("WS_PING_INTERVAL")),
        ("WS_PING-INTERVAL", Some("WS_PING_INTERVAL")),
        ("WS_PING_INTERVAL ", Some("WS_PING_INTERVAL")),
        ("WS__JITTER", Some("WS_JITTER")),
        ("WS_JITER", Some("WS_JITTER")),
        ("WS_IDLE_TIME", Some("WS_IDLE_TIMEOUT")),
        ("WS_PONG_TIMEOUTS", Some("WS_PONG_TIMEOUT")),
        ("WS_PING_TIMEOUT", Some("WS_PONG_TIMEOUT")),
        ("WS_PRESETS", Some("WS_PRESET")),
        ("WS_PRäSET", Some("WS_PRESET")),
        ("WS_MAX_DATA_RATE", Some("WS_MIN_DATA_RATE")),
        ("WS_IDLE_SCOP", Some("WS_IDLE_SCOPE")),
        ("WS_RESUME_PROBES", Some("WS_RESUME_PROBE")),
        // Two of six characters may differ, three may not.
        ("WS_JXXTER", Some("WS_JITTER")),
        ("WS_JXXXER", None),
        // A third of the known name, if that is longer; six more characters, but not seven.
        ("WS_PINGINTER", Some("WS_PING_INTERVAL")),
        ("WS_XXXXXXIDLE_TIMEOUT", Some("WS_IDLE_TIMEOUT")),
        ("WS_XXXXXXXIDLE_TIMEOUT", None),
        // The first words of a name, if nothing is similar.
        ("WS_PING", Some("WS_PING_INTERVAL")),
        ("WS_heartbeat", Some("WS_HEARTBEAT_INTERVAL")),
        ("WS_MAX", Some("WS_MAX_PING_RATE")),
        ("WS_MAX_PING", Some("WS_MAX_PING_RATE")),
        ("WS_IDLE", Some("WS_IDLE_TIMEOUT")),
        ("WS_PI", None),
        ("WS_TIMEOUT", None),
        // The end of a name counts too.
        ("WS_STALL_TOLERAXXXXXXXXXXXX", None),
        ("WS_", None),
        ("WS_X", None),
        ("WS_URL", None),
        ("WS_TOKEN", None),
        ("WS_ALLOWED_ORIGINS", None),
    ];
    for (name, nearest) in near {
        let loaded = TimeoutConfig::from_vars([(name, "secret")]).unwrap();
        assert_eq!(loaded.config, TimeoutConfig::DEFAULT);
        let [unknown] = &loaded.unknown[..] else {
            panic!("{name}: {:?}", loaded.unknown);
        };
        assert_eq!(unknown.name(), name);
        assert_eq!(unknown.nearest(), nearest, "{name}");
        let hint = nearest.map_or(String::new(), |known| format!("; did you mean {known}?"));
        assert_eq!(
            unknown.to_string(),
            format!("{name}: ignored, not a ws-timeout variable{hint}")
        );
        assert!(!format!("{loaded:?}").contains("secret"));
    }
}

#[test]
fn each_unknown_variable_is_reported_once_in_order_of_name() {
    let vars =
        ["WS_B", "OTHER", "WS_A", "WS_PRESET", "WS_B", "Ws_C"].map(|name| (name, "production"));
    let loaded = TimeoutConfig::from_vars(vars).unwrap();
    assert_eq!(loaded.config, TimeoutConfig::production());
    let names: Vec<_> = loaded
        .unknown
        .iter()
        .map(|unknown| unknown.name())
        .collect();
    assert_eq!(names, ["WS_A", "WS_B"]);
}

#[test]
fn an_unknown_name_of_any_length_is_readable() {
    let name = String::from("WS_\x1b[2J\n") + &"X".repeat(1_000_000);
    let loaded = TimeoutConfig::from_vars([(&name, "")]).unwrap();
    assert_eq!(loaded.unknown[0].name(), name);
    assert_eq!(loaded.unknown[0].nearest(), None);
    let line = loaded.unknown[0].to_string();
    assert!(line.starts_with(r"WS_\u{1b}[2J\nXXX"), "{line}");
    assert!(
        line.ends_with("X…: ignored, not a ws-timeout variable"),
        "{line}"
    );
    assert!(line.len() < 200, "{line}");
}

#[test]
fn pairs_of_any_string_types_are_read() {
    let map = HashMap::from([(String::from("WS_JITTER"), OsString::from("0.25"))]);
    assert_eq!(
        TimeoutConfig::from_vars(&map).unwrap().config.jitter(),
        0.25
    );
    assert_eq!(TimeoutConfig::from_vars(map).unwrap().config.jitter(), 0.25);
    let none: [(&OsStr, &OsStr); 0] = [];
    assert_eq!(
        TimeoutConfig::from_vars(none).unwrap().config,
        TimeoutConfig::DEFAULT
    );
}

#[cfg(unix)]
#[test]
fn invalid_utf8_is_an_error_in_a_value_and_a_warning_in_a_name() {
    let text = OsStr::from_bytes;
    for name in NAMES {
        let error = TimeoutConfig::from_vars([(name, text(b"1\xff"))]).unwrap_err();
        assert_eq!(error.variables().len(), 1);
        assert_eq!(error.variables()[0].name(), name);
        assert_eq!(error.variables()[0].value(), "1\u{fffd}");
    }
    let vars = [
        (text(b"WS_JITTER\xff"), text(b"\xff")),
        (text(b"\xffWS_JITTER"), text(b"\xff")),
        (text(b"WS_\xc3\x28\xff"), text(b"1")),
        (text(b"WS_PING_INTERVAL"), text(b"7")),
    ];
    let loaded = TimeoutConfig::from_vars(vars).unwrap();
    assert_eq!(loaded.config.ping_interval(), Some(Duration::from_secs(7)));
    let unknown: Vec<_> = loaded
        .unknown
        .iter()
        .map(|it| (it.name(), it.nearest()))
        .collect();
    assert_eq!(
        unknown,
        [
            ("WS_JITTER\u{fffd}", Some("WS_JITTER")),
            ("WS_\u{fffd}(\u{fffd}", None)
        ]
    );
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_duration_in_range_round_trips(
        nanos in any_size(1_000_000..=1_000_000_000_000_000_000),
        zeros in 0_usize..30,
    ) {
        let (seconds, decimals) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let full = format!("{}{seconds}.{decimals:09}", "0".repeat(zeros));
        let short = full.trim_end_matches('0').trim_end_matches('.');
        for text in [&full, short] {
            for (name, get) in LIMITS {
                prop_assert_eq!(get(&one(name, text).unwrap()), Some(Duration::from_nanos(nanos)));
            }
            let config = one("WS_CLOSE_TIMEOUT", text).unwrap();
            prop_assert_eq!(config.close_timeout(), Duration::from_nanos(nanos));
        }
    }

    #[test]
    fn any_rate_in_range_round_trips(rate in any_size(1..=1_000_000_000)) {
        for (name, get) in RATES {
            let config = one(name, &rate.to_string()).unwrap();
            prop_assert_eq!(get(&config).map(u64::from), Some(rate));
        }
    }

    #[test]
    fn any_configuration_round_trips(config in any_config()) {
        let shown = config.to_string();
        let lines = shown.lines().map(|line| line.split_once('=').unwrap());
        let loaded = TimeoutConfig::from_vars(lines).unwrap();
        prop_assert_eq!(loaded.config, config);
        prop_assert_eq!(loaded.unknown, []);
        prop_assert_eq!(loaded.overrides.to_string(), shown);
    }

    #[test]
    fn any_lines_agree_with_an_independent_reader(lines in proptest::collection::vec(any_line(), 0..8)) {
        from_vars::check(lines.join("\n").as_bytes());
    }

    #[test]
    fn any_bytes_agree_with_an_independent_reader(
        name in proptest::sample::select(&NAMES[..]),
        value in any::<Vec<u8>>(),
    ) {
        from_vars::check(&[name.as_bytes(), b"=", &value].concat());
    }
}

/// `NAME=value`; many are valid, or almost.
fn any_line() -> impl Strategy<Value = String> {
    let right = "WS_PRESET=development WS_PRESET=Production WS_PRESET=HIGH_LATENCY \
                 WS_PRESET=client WS_DRAIN_CODE=1001 WS_DRAIN_CODE=1012 \
                 WS_IDLE_SCOPE=inbound WS_IDLE_SCOPE=messages WS_PONG_EVIDENCE=any \
                 WS_PONG_EVIDENCE=pong WS_JITTER=0 WS_JITTER=0.25 WS_MAX_PING_RATE=off";
    let right: Vec<_> = right.split_whitespace().map(String::from).collect();
    let name = prop_oneof![
        8 => proptest::sample::select(&NAMES[..]).prop_map(String::from),
        1 => "WS_[A-Z_]{0,20}",
        1 => "(WS)?_?.{0,5}",
    ];
    let value = prop_oneof![
        1 => "off|OFF|false",
        4 => "0{0,3}[0-9]{0,12}",
        4 => "0{0,3}[0-9]{0,11}\\.[0-9]{0,10}",
        2 => "[0-9]{1,14}(ms|s|m|h)",
        2 => "[0-9]{1,12}\\.[0-9]{1,10}(ms|s|m|h)",
        1 => "[-+0-9.eEsmh ]{0,8}",
        1 => ".{0,100}",
    ];
    let any = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    prop_oneof![proptest::sample::select(right), any]
}

/// Runs itself in a child process, since changing the environment of this process would disturb the
/// other tests.
#[test]
fn from_env_reads_the_environment() {
    const CHILD: &str = "ENV_TEST_CHILD";
    match env::var(CHILD).as_deref() {
        Ok("good") => {
            let loaded = TimeoutConfig::from_env().unwrap();
            assert_eq!(six(&loaded.config), [60.0, 600.0, 2.0, 120.0, 12.5, 90.0]);
            assert_eq!(loaded.unknown.len(), 1);
            assert_eq!(loaded.unknown[0].nearest(), Some("WS_PONG_TIMEOUT"));
        }
        Ok(_) => {
            let error = TimeoutConfig::from_env().unwrap_err();
            let held: Vec<_> = error
                .variables()
                .iter()
                .map(|bad| (bad.name(), bad.value()))
                .collect();
            assert_eq!(held, [("WS_PING_INTERVAL", ""), ("WS_JITTER", "bad")]);
        }
        Err(_) => {
            let good = [
                ("WS_PING_INTERVAL", "12.5"),
                ("WS_PRESET", "production"),
                ("WS_PONG_TIMEOT", "1"),
            ];
            let bad = [
                ("WS_PING_INTERVAL", ""),
                ("WS_PRESET", "production"),
                ("WS_JITTER", "bad"),
            ];
            for (child, vars) in [("good", good), ("bad", bad)] {
                let mut command = Command::new(env::current_exe().unwrap());
                for (name, _) in env::vars_os() {
                    if name.to_string_lossy().starts_with("WS_") {
                        command.env_remove(name);
                    }
                }
                // Makes `std::env::vars` panic, although it is not a `WS_` variable.
                #[cfg(unix)]
                command.env("OTHER", OsStr::from_bytes(b"\xff"));
                command.args(["--exact", "from_env_reads_the_environment"]);
                let output = command.env(CHILD, child).envs(vars).output().unwrap();
                let stdout = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{child}: {stdout}");
                assert!(stdout.contains("1 passed"), "{child}: {stdout}");
            }
        }
    }
}

/// Reads a configuration from one variable, which must be known.
fn one(name: &str, value: &str) -> Result<TimeoutConfig, EnvError> {
    let loaded = TimeoutConfig::from_vars([(name, value)])?;
    assert_eq!(loaded.unknown, []);
    Ok(loaded.config)
}

/// Returns the error for a value that must not be accepted.
#[track_caller]
fn rejected(name: &str, value: &str) -> BadVariable {
    let Err(error) = one(name, value) else {
        panic!("{name} takes {value:?}");
    };
    let [bad] = error.variables() else {
        panic!("{error}");
    };
    assert_eq!(bad.name(), name);
    assert_eq!(error.to_string(), bad.to_string());
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    bad.clone()
}

/// The heartbeat, connection, message, idle, ping and pong limits, in seconds.
fn six(config: &TimeoutConfig) -> [f64; 6] {
    [
        config.heartbeat_interval(),
        config.connection_timeout(),
        config.message_timeout(),
        config.idle_timeout(),
        config.ping_interval(),
        config.pong_timeout(),
    ]
    .map(|limit| limit.unwrap().as_secs_f64())
}
