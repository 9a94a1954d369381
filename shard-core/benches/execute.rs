//! `cargo bench -p shard-core --bench execute`: execution of transfers between random accounts of a state of 1 M, the load
//! of such a state, and hashing it anew.

#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dag::{Address, Block, Hash, hash::Domain};
use shard_core::{
    Config, Loader, Table,
    execute::CHECKPOINT_BLOCKS,
    measure::{Population, Shard},
};

const ACCOUNTS: usize = 1_000_000;

/// Nanoseconds for one transfer: criterion's «element» is one. Each round goes to the next checkpoint of all tables.
fn transfers(c: &mut Criterion) {
    let mut group = c.benchmark_group("execute/transfer, 1 M accounts");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for (tables, block) in [(1, 1024), (16, 1024), (16, 256)] {
        let mut shard = Shard::genesis(Population::draw(ACCOUNTS, tables, 1));
        group.bench_function(format!("{tables} tables, blocks of {block}"), |b| {
            b.iter_custom(|iterations| {
                let (mut time, mut transfers) = (Duration::ZERO, 0);
                for _ in 0..CHECKPOINT_BLOCKS {
                    let blocks: Vec<Block> = (0..tables).map(|table| shard.propose(table, block)).collect();
                    let start = Instant::now();
                    transfers += blocks.iter().map(|block| shard.execute(block).transfers).sum::<usize>();
                    time += start.elapsed();
                }
                time.mul_f64(iterations as f64 / transfers as f64)
            });
        });
    }
}

fn load(c: &mut Criterion) {
    let config = Config { chain: 1, epoch: 0, id: 0, tables: 1, index_seed: 1 };
    let address = |i: usize| Address(Domain::UNIT.hash(&i.to_le_bytes()).0);
    let mut table = Table::genesis(config, Hash::ZERO, 0, (0..ACCOUNTS).map(|i| (address(i), 1)));
    let digest = table.checkpoint().digest();
    let head = table.begin_snapshot();
    let sections: Vec<Vec<u8>> = std::iter::from_fn(|| table.snapshot_step(4096)).collect();
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10).throughput(Throughput::Elements(ACCOUNTS as u64));
    group.bench_function("load of 1 M accounts, with index and tree", |b| {
        b.iter(|| {
            let mut loader = Loader::new(config, &head, digest).expect("our own");
            sections.iter().for_each(|section| loader.push(section).expect("our own"));
            black_box(loader.finish().expect("our own"))
        });
    });
}

criterion_group!(benches, transfers, load);
criterion_main!(benches);
