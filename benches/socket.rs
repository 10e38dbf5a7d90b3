//! The time of a message that is read, and of one that is echoed too, with each way to time a WebSocket
//! out; `cargo bench --bench socket`.
//!
//! The stream below costs nothing, so what is measured is the loop itself and what is around it.

mod idioms;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use idioms::{Feed, Idiom, run_through};

const IDIOMS: [(&str, Idiom); 7] = [
    ("bare", Idiom::Bare),
    ("TimeoutSocket", Idiom::TimeoutSocket),
    ("TimeoutSocket, meter and label", Idiom::Metered),
    ("timeout(next)", Idiom::TimeoutNext),
    ("select! interval", Idiom::Interval),
    ("Sleep reset", Idiom::SleepReset),
    ("Sleep lazily reset", Idiom::SleepLazy),
];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs nothing to keep time");
    for (what, echo) in [("read", false), ("echo", true)] {
        for at_once in [1, 64] {
            let mut group = criterion.benchmark_group(format!("{what}, {at_once} a wake-up"));
            for (name, idiom) in IDIOMS {
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    // All in one run of the loop, whose beginning and end do not count then.
                    bencher.iter_custom(|messages| {
                        let began = now();
                        let read = run_through(&runtime, idiom, Feed::new(messages, at_once), echo);
                        assert_eq!(read, messages);
                        now() - began
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch needs a clock")]
fn now() -> Instant {
    Instant::now()
}
