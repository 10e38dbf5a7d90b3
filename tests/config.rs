//! The builder, the presets, warnings and bounds.

use std::time::Duration;

use ws_timeout::{
    CloseReason, ConfigWarning, DrainCode, IdleScope, TimeoutConfig, TimeoutConfigBuilder,
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn warnings(builder: TimeoutConfigBuilder) -> Vec<ConfigWarning> {
    builder.build().unwrap().warnings().collect()
}

fn bound(builder: TimeoutConfigBuilder) -> Option<Duration> {
    builder.build().unwrap().detection_bound()
}

#[test]
fn every_invalid_setting_is_named() {
    let zero = Duration::ZERO;
    let refused = TimeoutConfig::builder()
        .handshake_timeout(zero)
        .heartbeat_interval(zero)
        .connection_timeout(zero)
        .message_timeout(zero)
        .idle_timeout(zero)
        .ping_interval(zero)
        .pong_timeout(zero)
        .close_timeout(zero)
        .stall_tolerance(zero)
        .resume_probe(zero)
        .min_data_rate(0)
        .max_ping_rate(0)
        .jitter(0.51);
    let error = refused.build().unwrap_err();
    let duration = |name| format!("{name} is 0: expected a duration above zero, or no_{name}()");
    let rate = |name| format!("{name} is 0: expected a rate above zero, or no_{name}()");
    let messages = [
        duration("handshake_timeout"),
        duration("heartbeat_interval"),
        duration("connection_timeout"),
        duration("message_timeout"),
        duration("idle_timeout"),
        duration("ping_interval"),
        duration("pong_timeout"),
        "close_timeout is 0: expected a duration above zero".to_owned(),
        duration("stall_tolerance"),
        duration("resume_probe"),
        rate("min_data_rate"),
        rate("max_ping_rate"),
        "jitter is 0.51: expected 0 to 0.5".to_owned(),
    ];
    assert_eq!(error.to_string(), messages.join("; "));
    assert_eq!(error.first(), messages[0]);

    // A later valid value, or turning the limit off, replaces the invalid value.
    let corrected = refused
        .no_handshake_timeout()
        .no_heartbeat_interval()
        .no_connection_timeout()
        .no_message_timeout()
        .no_idle_timeout()
        .no_ping_interval()
        .no_pong_timeout()
        .close_timeout(Duration::from_nanos(1))
        .no_stall_tolerance()
        .no_resume_probe()
        .no_min_data_rate()
        .no_max_ping_rate();
    let error = corrected.build().unwrap_err();
    assert_eq!(error.first(), "jitter is out of range: expected 0 to 0.5");
    assert_eq!(format!("{error:?}"), format!("ConfigError({error})"));
    assert!(corrected.jitter(0.5).build().is_ok());
    for jitter in [
        -0.001,
        0.500_000_1,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        assert!(corrected.jitter(jitter).build().is_err(), "{jitter}");
    }
}

/// The name of a limit that can be off, its three setters and its getter.
type Setters<T> = (
    &'static str,
    fn(TimeoutConfigBuilder, T) -> TimeoutConfigBuilder,
    fn(TimeoutConfigBuilder, Option<T>) -> TimeoutConfigBuilder,
    fn(TimeoutConfigBuilder) -> TimeoutConfigBuilder,
    fn(&TimeoutConfig) -> Option<T>,
);

macro_rules! setters {
    ($($limit:ident, $maybe:ident, $off:ident;)*) => {
        [$((
            stringify!($limit),
            TimeoutConfigBuilder::$limit,
            TimeoutConfigBuilder::$maybe,
            TimeoutConfigBuilder::$off,
            TimeoutConfig::$limit,
        )),*]
    };
}

#[test]
fn an_optional_value_sets_a_limit_or_turns_it_off() {
    let limits: [Setters<Duration>; 9] = setters! {
        handshake_timeout, maybe_handshake_timeout, no_handshake_timeout;
        heartbeat_interval, maybe_heartbeat_interval, no_heartbeat_interval;
        connection_timeout, maybe_connection_timeout, no_connection_timeout;
        message_timeout, maybe_message_timeout, no_message_timeout;
        idle_timeout, maybe_idle_timeout, no_idle_timeout;
        ping_interval, maybe_ping_interval, no_ping_interval;
        pong_timeout, maybe_pong_timeout, no_pong_timeout;
        stall_tolerance, maybe_stall_tolerance, no_stall_tolerance;
        resume_probe, maybe_resume_probe, no_resume_probe;
    };
    let rates: [Setters<u32>; 2] = setters! {
        min_data_rate, maybe_min_data_rate, no_min_data_rate;
        max_ping_rate, maybe_max_ping_rate, no_max_ping_rate;
    };
    limits.into_iter().for_each(|setters| {
        an_optional_value_agrees(setters, Duration::from_nanos(1), Duration::ZERO)
    });
    rates
        .into_iter()
        .for_each(|setters| an_optional_value_agrees(setters, 1, 0));
}

fn an_optional_value_agrees<T>((name, set, maybe, off, get): Setters<T>, least: T, zero: T)
where
    T: Copy + PartialEq + std::fmt::Debug,
{
    let builder = TimeoutConfig::builder();
    let some = maybe(builder, Some(least)).build().unwrap();
    assert_eq!(get(&some), Some(least));
    assert_eq!(some, set(builder, least).build().unwrap());
    let none = maybe(builder, None).build().unwrap();
    assert_eq!(get(&none), None);
    assert_eq!(none, off(builder).build().unwrap());
    let refused = maybe(builder, Some(zero));
    let error = refused.build().unwrap_err();
    assert!(
        error.first().starts_with(&format!("{name} is 0: ")),
        "{error}"
    );
    assert_eq!(error.to_string(), error.first());
    let text = set(builder, zero).build().unwrap_err().to_string();
    assert_eq!(error.to_string(), text);
    assert!(maybe(refused, None).build().is_ok());
}

#[test]
fn an_optional_value_can_be_a_constant() {
    const CONFIG: TimeoutConfig = match TimeoutConfig::builder()
        .maybe_idle_timeout(None)
        .maybe_pong_timeout(Some(secs(7)))
        .maybe_max_ping_rate(Some(8))
        .build()
    {
        Ok(config) => config,
        Err(error) => panic!("{}", error.first()),
    };
    assert_eq!(CONFIG.idle_timeout(), None);
    assert_eq!(CONFIG.pong_timeout(), Some(secs(7)));
    assert_eq!(CONFIG.max_ping_rate(), Some(8));
}

#[test]
fn a_preset_sets_six_limits_and_leaves_the_rest() {
    let six = |config: TimeoutConfig| {
        [
            config.heartbeat_interval(),
            config.connection_timeout(),
            config.message_timeout(),
            config.idle_timeout(),
            config.ping_interval(),
            config.pong_timeout(),
        ]
        .map(|limit| limit.unwrap().as_secs_f64())
    };
    assert_eq!(
        six(TimeoutConfig::DEFAULT),
        [30.0, 300.0, 1.0, 60.0, 25.0, 60.0]
    );
    assert_eq!(
        six(TimeoutConfig::development()),
        [15.0, 120.0, 0.5, 30.0, 10.0, 30.0]
    );
    assert_eq!(
        six(TimeoutConfig::production()),
        [60.0, 600.0, 2.0, 120.0, 30.0, 90.0]
    );
    assert_eq!(
        six(TimeoutConfig::high_latency()),
        [120.0, 1200.0, 5.0, 300.0, 60.0, 180.0]
    );
    let rest = |config: TimeoutConfig| {
        let reset = config
            .to_builder()
            .heartbeat_interval(secs(30))
            .connection_timeout(secs(300))
            .message_timeout(secs(1))
            .idle_timeout(secs(60))
            .ping_interval(secs(25))
            .pong_timeout(secs(60));
        reset.build().unwrap()
    };
    for preset in [
        TimeoutConfig::development(),
        TimeoutConfig::production(),
        TimeoutConfig::high_latency(),
        TimeoutConfig::client(),
    ] {
        assert_eq!(rest(preset), TimeoutConfig::default());
    }
}

#[test]
fn the_client_preset_is_the_defaults_without_a_lifetime() {
    const CLIENT: TimeoutConfig = TimeoutConfig::client();
    let expected = TimeoutConfig::builder().no_connection_timeout();
    assert_eq!(CLIENT, expected.build().unwrap());
}

#[test]
fn settings_that_are_probably_mistakes_give_warnings() {
    use ConfigWarning::{IdleBeforePing, NoDetectionBound, PingsTooRare};

    let builder = TimeoutConfig::builder();
    assert_eq!(warnings(builder), []);
    assert_eq!(warnings(TimeoutConfig::development().to_builder()), []);
    assert_eq!(warnings(TimeoutConfig::production().to_builder()), []);
    assert_eq!(warnings(TimeoutConfig::client().to_builder()), []);
    assert_eq!(
        warnings(TimeoutConfig::high_latency().to_builder()),
        [PingsTooRare]
    );

    assert_eq!(warnings(builder.no_ping_interval()), [PingsTooRare]);
    assert_eq!(
        warnings(builder.idle_timeout(secs(99)).ping_interval(secs(60))),
        [PingsTooRare]
    );
    assert_eq!(
        warnings(
            builder
                .idle_timeout(secs(99))
                .ping_interval(Duration::from_nanos(59_999_999_999))
        ),
        []
    );
    assert_eq!(warnings(builder.idle_timeout(secs(25))), [IdleBeforePing]);
    // A stall of just under 3 s before the ping leaves the peer that much less time to answer.
    assert_eq!(warnings(builder.idle_timeout(secs(28))), [IdleBeforePing]);
    let longer = builder.idle_timeout(secs(28) + Duration::from_nanos(1));
    assert_eq!(warnings(longer), []);
    let without_grace = builder.idle_timeout(secs(26)).no_stall_tolerance();
    assert_eq!(warnings(without_grace), []);
    assert_eq!(
        warnings(
            builder
                .idle_timeout(secs(25))
                .idle_scope(IdleScope::Messages)
        ),
        []
    );
    assert_eq!(
        warnings(builder.no_idle_timeout().no_pong_timeout()),
        [NoDetectionBound]
    );
    assert_eq!(
        warnings(builder.no_idle_timeout().no_ping_interval()),
        [PingsTooRare, NoDetectionBound]
    );
}

#[test]
fn a_warning_names_the_setting_and_the_consequence() {
    use ConfigWarning::{IdleBeforePing, NoDetectionBound, PingsTooRare};

    assert_eq!(
        PingsTooRare.to_string(),
        "ping_interval is off or at least 60 s: \
         many proxies close a connection that is quiet for 60 s"
    );
    assert_eq!(
        IdleBeforePing.to_string(),
        "idle_timeout is not longer than ping_interval and stall_tolerance together: \
         a quiet but live peer may be disconnected before it can answer a ping"
    );
    assert_eq!(
        NoDetectionBound.to_string(),
        "neither idle_timeout in scope inbound nor ping_interval with pong_timeout is on: \
         a dead peer may never be detected"
    );
}

#[test]
fn the_detection_bound_is_the_shorter_of_idle_timeout_and_an_unanswered_ping() {
    let builder = TimeoutConfig::builder();
    assert_eq!(bound(builder), Some(secs(60)));
    assert_eq!(bound(builder.no_idle_timeout()), Some(secs(25 + 1 + 60)));
    assert_eq!(
        bound(builder.no_idle_timeout().no_message_timeout()),
        Some(secs(25 + 60 + 60))
    );
    assert_eq!(
        bound(builder.pong_timeout(secs(10))),
        Some(secs(25 + 1 + 10))
    );
    assert_eq!(
        bound(builder.idle_scope(IdleScope::Messages)),
        Some(secs(25 + 1 + 60))
    );
    assert_eq!(bound(builder.no_pong_timeout()), Some(secs(60)));
    assert_eq!(bound(builder.no_pong_timeout().no_idle_timeout()), None);
    assert_eq!(
        bound(builder.no_pong_timeout().idle_scope(IdleScope::Messages)),
        None
    );
}

#[test]
fn a_resume_requires_an_answer_within_the_shorter_of_its_limit_and_the_pong_timeout() {
    let builder = TimeoutConfig::builder();
    let within = |builder: TimeoutConfigBuilder| {
        let config = builder.build().unwrap();
        (config.resume_probe(), config.resume_probe_within())
    };
    let nano = Duration::from_nanos(1);
    assert_eq!(within(builder), (Some(secs(30)), Some(secs(30))));
    assert_eq!(
        within(builder.pong_timeout(secs(30) + nano)),
        (Some(secs(30)), Some(secs(30)))
    );
    assert_eq!(
        within(builder.pong_timeout(secs(30) - nano)),
        (Some(secs(30)), Some(secs(30) - nano))
    );
    assert_eq!(
        within(builder.resume_probe(secs(90)).no_pong_timeout()),
        (Some(secs(90)), Some(secs(90)))
    );
    assert_eq!(within(builder.no_resume_probe()), (None, None));
    assert_eq!(
        within(builder.no_resume_probe().no_pong_timeout()),
        (None, None)
    );
}

#[test]
fn a_drain_can_send_the_code_of_a_service_restart() {
    let config = TimeoutConfig::builder()
        .drain_code(DrainCode::ServiceRestart)
        .build()
        .unwrap();
    assert_eq!(
        TimeoutConfig::DEFAULT.close_code(CloseReason::Drain),
        Some(1001)
    );
    assert_eq!(config.close_code(CloseReason::Drain), Some(1012));
    assert_eq!(DrainCode::GoingAway.code(), 1001);
    assert_eq!(DrainCode::ServiceRestart.code(), 1012);
    assert_eq!(config.close_code(CloseReason::IdleTimeout), Some(1001));
    assert_eq!(config.close_code(CloseReason::MessageTimeout), None);
}

#[test]
fn a_configuration_shows_its_units() {
    let shown = format!("{:?}", TimeoutConfig::development());
    assert!(
        shown.contains("message_timeout: Some(500ms)") && shown.contains("jitter: 0.1"),
        "{shown}"
    );
    assert!(shown.contains("resume_probe: Some(30s)"), "{shown}");
}
