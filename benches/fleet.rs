//! A fleet, compared with hand-written code in one run: the CPU time of all timeouts in a second in
//! which each connection receives a message. `benches/fleet_million` describes that second.

#[allow(dead_code, reason = "the example prints more of what it measures")]
#[path = "fleet_million/keepers.rs"]
mod keepers;
#[allow(dead_code, reason = "the example prints more of what it measures")]
#[path = "fleet_million/world.rs"]
mod world;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use keepers::{BinaryHeaps, DelayQueues, Fleets, Keeper, Sleeps, Sweep, Trees};
use world::World;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    a_second(&mut criterion);
    criterion.final_summary();
}

fn a_second(criterion: &mut Criterion) {
    for connections in [1_000, 100_000] {
        measure::<Fleets>(criterion, connections);
        measure::<Trees>(criterion, connections);
        measure::<DelayQueues>(criterion, connections);
        measure::<Sleeps>(criterion, connections);
        measure::<BinaryHeaps>(criterion, connections);
        measure::<Sweep>(criterion, connections);
    }
}

fn measure<K: Keeper>(criterion: &mut Criterion, connections: u32) {
    let mut group = criterion.benchmark_group("a second of all timeouts");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1))
        .throughput(Throughput::Elements(connections.into()));
    group.bench_function(BenchmarkId::new(K::NAME, connections), |bencher| {
        let mut world = World::<K>::warm(connections);
        let mut before = Duration::ZERO;
        bencher.iter_custom(|seconds| {
            let begin = before;
            for _ in 0..seconds {
                before = world.second();
            }
            before.saturating_sub(begin)
        });
    });
    group.finish();
}
