//! `Arbitrary` for the policy's inputs.
//!
//! The implementations are written by hand: a derived configuration could be invalid, and most
//! derived durations would be years. Each lists the simplest value first, because missing bytes
//! count as zeros.

use core::time::Duration;

use ::arbitrary::{Arbitrary, Error, Result, Unstructured};

use crate::config::{
    DrainCode, IdleScope, PongEvidence, TimeoutConfig, TimeoutConfigBuilder as Builder,
};
use crate::event::Event;
use crate::seed::PingId;
use crate::time::Timestamp;

/// Durations at the end of a [`Timestamp`]'s range, where a deadline does not expire.
const HUGE: [Duration; 4] = [
    Duration::from_nanos(u64::MAX / 2),
    Duration::from_nanos(u64::MAX - 1),
    Duration::from_nanos(u64::MAX),
    Duration::MAX,
];

/// Generates a valid configuration. Each limit is that of the defaults or a preset, off, a few
/// nanoseconds, at most an hour, or longer than any connection lives.
impl<'a> Arbitrary<'a> for TimeoutConfig {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const LENGTHS: [fn(Builder, Option<Duration>) -> Builder; 9] = [
            Builder::maybe_handshake_timeout,
            Builder::maybe_heartbeat_interval,
            Builder::maybe_connection_timeout,
            Builder::maybe_message_timeout,
            Builder::maybe_idle_timeout,
            Builder::maybe_ping_interval,
            Builder::maybe_pong_timeout,
            Builder::maybe_stall_tolerance,
            Builder::maybe_resume_probe,
        ];
        const RATES: [fn(Builder, Option<u32>) -> Builder; 2] =
            [Builder::maybe_min_data_rate, Builder::maybe_max_ping_rate];
        const PRESETS: [TimeoutConfig; 4] = [
            TimeoutConfig::DEFAULT,
            TimeoutConfig::development(),
            TimeoutConfig::production(),
            TimeoutConfig::high_latency(),
        ];
        let preset = u.choose(&PRESETS)?;
        let mut builder = preset
            .to_builder()
            .jitter(*u.choose(&[preset.jitter(), 0.0, 0.001, 0.25, 0.5])?)
            .idle_scope(u.arbitrary()?)
            .pong_evidence(u.arbitrary()?)
            .drain_code(u.arbitrary()?);
        for set in LENGTHS {
            builder = limit(u, builder, set, duration)?;
        }
        for set in RATES {
            builder = limit(u, builder, set, rate)?;
        }
        if !keeps(u)? {
            builder = builder.close_timeout(duration(u)?);
        }
        builder.build().map_err(|_| Error::IncorrectFormat)
    }
}

/// Generates any event, but those that end the connection less often. Durations are usually at most
/// an hour, and sometimes zero or huge.
impl<'a> Arbitrary<'a> for Event {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=63_u8)? {
            0..5 => Self::Tick,
            5..10 => Self::Recv,
            10..15 => Self::RecvPartial { total: bytes(u)? },
            15..20 => Self::Ping,
            20..25 => Self::Pong(u.arbitrary()?),
            25..30 => Self::SendStart,
            30..35 => Self::SendProgress { bytes: bytes(u)? },
            35..40 => Self::SendOk,
            40..45 => Self::Flushed,
            45..50 => Self::PingSent(u.arbitrary()?),
            50..55 => Self::Opened,
            55..59 => Self::Probe { within: within(u)? },
            59 => Self::Drain { within: within(u)? },
            60 => Self::CloseStart,
            61 => Self::PeerClose,
            _ => Self::Closed,
        })
    }
}

/// Generates the ID of one of the first four pings of a policy with a seed from 0 to 3, so that
/// random events can match a ping in flight.
impl<'a> Arbitrary<'a> for PingId {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self::new(u.int_in_range(0..=3)?, u.int_in_range(1..=4)?))
    }
}

/// Generates the origin, an instant at most an hour later, or one near [`Timestamp::MAX`].
impl<'a> Arbitrary<'a> for Timestamp {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        within(u).map(Self::from_duration)
    }
}

/// Generates either variant.
impl<'a> Arbitrary<'a> for IdleScope {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.choose(&[Self::Inbound, Self::Messages]).copied()
    }
}

/// Generates either variant.
impl<'a> Arbitrary<'a> for PongEvidence {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.choose(&[Self::Any, Self::Pong]).copied()
    }
}

/// Generates either variant.
impl<'a> Arbitrary<'a> for DrainCode {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.choose(&[Self::GoingAway, Self::ServiceRestart]).copied()
    }
}

/// Keeps a limit, turns it off, or sets it to a value.
fn limit<T>(
    u: &mut Unstructured<'_>,
    builder: Builder,
    set: fn(Builder, Option<T>) -> Builder,
    value: fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Builder> {
    Ok(if keeps(u)? {
        builder
    } else if u.ratio(1, 3)? {
        set(builder, None)
    } else {
        set(builder, Some(value(u)?))
    })
}

fn keeps(u: &mut Unstructured<'_>) -> Result<bool> {
    u.ratio(1, 2)
}

/// Generates a duration above zero.
fn duration(u: &mut Unstructured<'_>) -> Result<Duration> {
    Ok(match u.int_in_range(0..=7)? {
        0..4 => Duration::from_secs(u.int_in_range(1..=3600)?),
        4..6 => Duration::from_millis(u.int_in_range(1..=999)?),
        6 => Duration::from_nanos(u.int_in_range(1..=999)?),
        _ => *u.choose(&HUGE)?,
    })
}

/// Generates a duration, which may be zero.
fn within(u: &mut Unstructured<'_>) -> Result<Duration> {
    if u.ratio(1, 8)? {
        return Ok(Duration::ZERO);
    }
    duration(u)
}

/// Generates a rate above zero.
fn rate(u: &mut Unstructured<'_>) -> Result<u32> {
    if u.ratio(7, 8)? {
        return u.int_in_range(1..=10_000);
    }
    Ok(u32::MAX)
}

/// Generates a number of bytes, usually at most a mebibyte.
fn bytes(u: &mut Unstructured<'_>) -> Result<u64> {
    if u.ratio(7, 8)? {
        return u.int_in_range(0..=1 << 20);
    }
    u.arbitrary()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Generates values from random bytes, which are always the same.
    fn random<T: for<'a> Arbitrary<'a>>() -> impl Iterator<Item = T> {
        (0..10_000).map(|number| {
            let word = |index| PingId::new(number, index).payload();
            let bytes: Vec<u8> = (0..16).flat_map(word).collect();
            T::arbitrary(&mut Unstructured::new(&bytes)).unwrap()
        })
    }

    #[test]
    fn random_events_cover_all_variants() {
        let mut seen = [0; 16];
        for event in random() {
            seen[match event {
                Event::Opened => 0,
                Event::Recv => 1,
                Event::RecvPartial { .. } => 2,
                Event::Ping => 3,
                Event::Pong(_) => 4,
                Event::SendStart => 5,
                Event::SendProgress { .. } => 6,
                Event::SendOk => 7,
                Event::Flushed => 8,
                Event::PingSent(_) => 9,
                Event::Probe { .. } => 10,
                Event::Drain { .. } => 11,
                Event::CloseStart => 12,
                Event::PeerClose => 13,
                Event::Closed => 14,
                Event::Tick => 15,
            }] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn each_limit_is_kept_off_tiny_plausible_and_huge() {
        let limits: [fn(&TimeoutConfig) -> Option<Duration>; 10] = [
            TimeoutConfig::handshake_timeout,
            TimeoutConfig::heartbeat_interval,
            TimeoutConfig::connection_timeout,
            TimeoutConfig::message_timeout,
            TimeoutConfig::idle_timeout,
            TimeoutConfig::ping_interval,
            TimeoutConfig::pong_timeout,
            TimeoutConfig::stall_tolerance,
            TimeoutConfig::resume_probe,
            |config| Some(config.close_timeout()),
        ];
        let configs: Vec<TimeoutConfig> = random().collect();
        for (index, limit) in limits.into_iter().enumerate() {
            let kept = limit(&TimeoutConfig::DEFAULT);
            let count = |is: &dyn Fn(Option<Duration>) -> bool| {
                configs.iter().filter(|&config| is(limit(config))).count()
            };
            let counts = [
                count(&|limit| limit == kept),
                count(&|limit| limit.is_none()),
                count(&|limit| limit.is_some_and(|limit| limit < Duration::from_micros(1))),
                count(&|limit| limit.is_some_and(|limit| limit.as_secs().abs_diff(1800) <= 1800)),
                count(&|limit| limit.is_some_and(|limit| limit >= HUGE[0])),
            ];
            let cannot_be_off = usize::from(kept.is_some() && index == 9);
            let missing = counts.iter().filter(|&&count| count < 50).count();
            assert_eq!(missing, cannot_be_off, "limit {index}: {counts:?}");
        }
    }

    #[test]
    fn the_other_settings_vary() {
        let configs: Vec<TimeoutConfig> = random().collect();
        let some = |is: fn(&TimeoutConfig) -> bool| {
            let count = configs.iter().filter(|&config| is(config)).count();
            assert!(50 < count && count < configs.len() - 50, "{count}");
        };
        some(|config| config.min_data_rate().is_none());
        some(|config| config.min_data_rate() == Some(u32::MAX));
        some(|config| config.max_ping_rate().is_none());
        some(|config| config.max_ping_rate() == TimeoutConfig::DEFAULT.max_ping_rate());
        some(|config| config.jitter() == 0.0);
        some(|config| config.jitter() == 0.5);
        some(|config| config.idle_scope() == IdleScope::Messages);
        some(|config| config.pong_evidence() == PongEvidence::Pong);
        some(|config| config.drain_code() == DrainCode::ServiceRestart);
    }

    #[test]
    fn instants_are_mostly_early_and_sometimes_huge() {
        let instants: Vec<Timestamp> = random().collect();
        let count = |is: fn(Timestamp) -> bool| instants.iter().filter(|&&at| is(at)).count();
        assert!(count(|at| at <= Timestamp::from_secs(3600)) > 8000);
        assert!(count(|at| at == Timestamp::ZERO) > 500);
        assert!(count(|at| at == Timestamp::MAX) > 100);
    }

    #[test]
    fn without_bytes_values_are_the_simplest() {
        let empty = || Unstructured::new(&[]);
        let config = TimeoutConfig::arbitrary(&mut empty()).unwrap();
        assert_eq!(config, TimeoutConfig::DEFAULT);
        assert_eq!(Event::arbitrary(&mut empty()).unwrap(), Event::Tick);
        let instant = Timestamp::arbitrary(&mut empty()).unwrap();
        assert_eq!(instant, Timestamp::ZERO);
    }
}
