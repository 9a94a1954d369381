//! `cargo bench -p perf --bench decode`: bytes from outside into checked records, in place.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dag::{Block, Transaction};
use shard_core::measure::{Population, Shard};

/// A transfer: format checks alone, and with the hash that names it.
fn transaction(criterion: &mut Criterion) {
    let block = Shard::genesis(Population::draw(100, 1, 1)).propose(0, 1);
    let record = block.transaction_bytes(0);
    let mut group = criterion.benchmark_group("decode/transfer");
    let parse = || Transaction::parse(black_box(&record)).expect("well-formed");
    group.bench_function("checked", |b| b.iter(|| parse().total()));
    group.bench_function("checked and named", |b| b.iter(|| parse().id()));
}

/// A block: every transaction checked and named, and the roots compared. Criterion's «element» is a transfer.
fn block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode/block");
    for transfers in [16, 64, 256] {
        let block = Shard::genesis(Population::draw(1_000, 1, 1)).propose(0, transfers);
        let bytes = block.bytes().clone();
        group.throughput(Throughput::Elements(transfers as u64));
        group.bench_function(BenchmarkId::from_parameter(transfers), |b| {
            b.iter(|| Block::parse(black_box(bytes.clone())).expect("well-formed"));
        });
    }
}

criterion_group!(benches, transaction, block);
criterion_main!(benches);
