//! `cargo bench -p perf --bench state_tree`: the state root of a table with 62,500 accounts (a million on 16 tables), anew after
//! so many transfers between random ones of them. Criterion's «element» is a transfer.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shard_core::measure::{Executed, Population, Shard};

const ACCOUNTS: usize = 1_000_000 / 16;
const BLOCK: usize = 256;
/// Block time, in µs, after which a checkpoint is due.
const SECOND: u64 = 1_000_000;

fn checkpoints(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state tree/root after transfers");
    group.sample_size(10);
    let mut shard = Shard::genesis(Population::draw(ACCOUNTS, 1, 1));
    for blocks in [1, 8, 32] {
        let transfers = blocks * BLOCK;
        group.throughput(Throughput::Elements(transfers as u64));
        group.bench_function(BenchmarkId::from_parameter(transfers), |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| root_after(&mut shard, blocks)).sum());
        });
    }
}

/// Executes blocks, then times an empty one that is due for a checkpoint.
fn root_after(shard: &mut Shard, blocks: usize) -> Duration {
    for _ in 0..blocks {
        let block = shard.propose(0, BLOCK);
        shard.execute(&block);
    }
    shard.pass(SECOND);
    let block = shard.propose(0, 0);
    let start = Instant::now();
    let executed = shard.execute(&block);
    let time = start.elapsed();
    assert_eq!(executed, Executed { transfers: 0, checkpoint: true });
    time
}

criterion_group!(benches, checkpoints);
criterion_main!(benches);
