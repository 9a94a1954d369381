//! `cargo bench -p perf --bench log_append`: what the log costs the core: records into groups, hashed and chained. The disk is
//! left out (`perf log` has it in).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dag::Hash;
use engine::log::{LogConfig, LogId, SECTOR, Tail, TailKind, Writer};

/// About a transfer with its signature.
const RECORD: [u8; 192] = [0x5a; 192];

fn writer(config: LogConfig) -> Writer {
    Writer::new(
        config,
        &Tail {
            id: LogId { chain: 1, core: 0, salt: [7; 32] },
            segment: 0,
            segment_bytes: config.segment_bytes,
            offset: SECTOR,
            next_segment: 1,
            next_sequence: 1,
            previous: Hash::ZERO,
            kind: TailKind::Clean,
        },
    )
}

/// Groups of so many records. Criterion's «element» is a record.
fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/append and commit");
    for records in [1, 16, 256, 4096] {
        let mut writer = writer(LogConfig::default());
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter(|| {
                for _ in 0..records {
                    writer.append(1, &[black_box(&RECORD)]).expect("a group has room for 2 MiB");
                }
                while let Some(segment) = writer.poll_segment() {
                    writer.segment_ready(segment);
                }
                let write = writer.begin_commit().expect("there are records, and a segment");
                writer.commit_done(black_box(write.buf))
            });
        });
    }
}

criterion_group!(benches, groups);
criterion_main!(benches);
