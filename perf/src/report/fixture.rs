//! Runs for the tests: one with everything in it, one with nothing.

use std::collections::BTreeMap;

use super::{CoreUse, LatencyHistogram, Machine, RelayUse, RunData, Sample, Shares, Stage, ValidatorUse};

/// A run of twelve seconds at 20,000 transactions per second with a stall in its seventh.
pub(super) fn run() -> RunData {
    let samples: Vec<Sample> = (0..12).map(second).collect();
    let mut latency = LatencyHistogram::new();
    samples.iter().for_each(|sample| latency.merge(&sample.latency));
    let stages = Stage::ALL.into_iter().zip([40, 900, 2_100, 1_300, 1_200, 30, 1_900, 60]);
    RunData {
        title: "Signed transfers, four validators".into(),
        start_unix_us: 1_790_000_000_250_000,
        duration_s: 12.0,
        validators: 4,
        tables: 16,
        accounts: 10_000,
        offered_per_second: 20_000.0,
        offered: 240_000,
        committed: samples.iter().map(|sample| sample.committed).sum(),
        committed_per_second: 19_950.0,
        payees_per_second: 19_950.0,
        rejected: [("overdraft".to_owned(), 12), ("stale sequence".to_owned(), 3)].into(),
        latency,
        samples,
        stages: stages.map(|(stage, typical)| (stage, spread(typical, 2_000))).collect(),
        validator_use: (0..4).map(validator).collect(),
        relays: vec![RelayUse {
            validator: "validator 0".into(),
            service: "vpn".into(),
            packets: 2_400_000,
            bytes: 3_200_000_000,
            drops: 12,
            node_us_p50: Some(100),
            node_us_p99: None,
            core_share: 0.125,
        }],
        machine: Machine {
            cpu_model: "AMD EPYC 7B13".into(),
            cores: 2,
            memory_bytes: 24_662_104 * 1024,
            kernel: "6.18.2".into(),
            virtual_machine: true,
        },
        configuration: [("rate", "20000"), ("connections", "8"), ("block window", "8")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }
}

/// A run in which nothing happened.
pub(super) fn empty() -> RunData {
    RunData {
        duration_s: 0.0,
        offered_per_second: 0.0,
        offered: 0,
        committed: 0,
        committed_per_second: 0.0,
        payees_per_second: 0.0,
        rejected: BTreeMap::new(),
        latency: LatencyHistogram::new(),
        samples: Vec::new(),
        stages: BTreeMap::new(),
        validator_use: Vec::new(),
        relays: Vec::new(),
        configuration: BTreeMap::new(),
        ..run()
    }
}

fn second(index: u32) -> Sample {
    let (committed, typical) =
        if index == 6 { (17_000, 14_000) } else { (20_000 + u64::from(index % 3) * 500, 7_000) };
    Sample {
        start_s: f64::from(index),
        duration_s: 1.0,
        offered: 20_000,
        committed,
        latency: spread(typical, committed),
    }
}

/// `count` latencies around `typical`, with a tail of six times that: u ↦ 0.6 + 0.5 u + 0.03 / (1.005 - u).
fn spread(typical: u64, count: u64) -> LatencyHistogram {
    const STEPS: u64 = 500;
    let mut histogram = LatencyHistogram::new();
    for i in 0..STEPS {
        let per_mille = 600 + i + 30_000 / (1_005 - 2 * i);
        histogram.record_n(typical * per_mille / 1_000, count / STEPS);
    }
    histogram
}

fn validator(index: u32) -> ValidatorUse {
    let over_time = |core: u32| {
        (0..12).map(move |second| {
            let busy = f64::from(26 + (second * 7 + index * 5 + core * 3) % 16) / 64.0;
            let blocked = if second == 6 { 0.25 } else { 0.0625 };
            Shares { busy, blocked, idle: 1.0 - busy - blocked }
        })
    };
    ValidatorUse {
        name: format!("validator {index}"),
        cpu_seconds: 5.25 + f64::from(index) / 4.0,
        cores: (0..2)
            .map(|core| CoreUse {
                core,
                cpu_seconds: 2.5 + f64::from(index) / 8.0,
                total: Shares { busy: 0.5, blocked: 0.125, idle: 0.375 },
                over_time: over_time(core).collect(),
            })
            .collect(),
    }
}
