//! `perf sig`: what a signature costs in a batch, beside ed25519-dalek.
//!
//! Both sides judge the same signatures, of 128-byte messages, on one pinned thread, in turn within each round; times are
//! the thread's processor time, and figures are medians over the rounds. Keys are ready on both sides: parsed for
//! ed25519-dalek, in the cache and used often for ours. Our side runs in slices, as in a validator.
//!
//! The longest slice is the true maximum over all slices of all batches. Slices are cut by counts, so the slice of one number does the
//! same work in every round: what it takes is its shortest time over the rounds, and all above that is of interrupts and of
//! other programs, which processor time counts too.

use std::{fmt, time::Duration};

use anyhow::Context;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use engine::metrics::thread_cpu;
use serde::Serialize;
use shard_core::sigbatch::{Backend, Batch, KnownKeys, Progress as Slice, Signed};

use crate::{
    figure::{self, Figure, Goal, median},
    progress::Progress,
    report::Machine,
};

const BATCH_1024: Goal =
    Goal { what: "dalek's verify_batch over ours, 1,024 signatures", unit: "×", required: 1.8, aim: 3.0 };
const BATCH_64: Goal = Goal { what: "the same, 64 signatures", unit: "×", required: 1.3, aim: 2.0 };
const STRICT: Goal =
    Goal { what: "dalek's verify_strict one by one over ours, 1,024", unit: "×", required: 4.0, aim: 7.0 };
const SIGNERS_32: Goal =
    Goal { what: "dalek's verify_batch over ours, 1,024 of 32 signers", unit: "×", required: 2.2, aim: 4.0 };
const SLICE: Goal = Goal { what: "longest slice of a running job", unit: "µs", required: 100.0, aim: 50.0 };

/// Bytes of a message.
const MESSAGE: usize = 128;
/// Signatures of a large batch.
const LARGE: usize = 1024;
/// Signers of the load that known keys are measured with, and calls.
const KNOWN_SIGNERS: usize = 32;
const KNOWN_CALLS: usize = 2000;
/// Runs that fill caches and make keys known as used often.
const WARM_UP: usize = 10;

const EXAMPLES: &str = "\
Examples:
  perf sig
  perf sig --backend avx2
  perf sig --json | jq .dalek_batch_1024_ratio

A batch with forgeries costs its factor times what one without costs; it says of each signature whether it is valid.";

/// Arguments of `perf sig`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Instructions to use: portable, avx2 or avx512ifma [default: the fastest here]
    #[arg(long)]
    backend: Option<String>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Slice of work, in units of about a µs
    #[arg(long, default_value_t = 40)]
    budget: usize,
    /// Processor to stay on [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    figures: [Figure; 5],
    dalek_batch_1024_ratio: f64,
    dalek_batch_64_ratio: f64,
    strict_ratio: f64,
    signers_32_ratio: f64,
    longest_slice_us: f64,
    bad_1pct_factor: f64,
    bad_10pct_factor: f64,
    bad_50pct_factor: f64,
    /// Processor time in µs for one signature by a key that is known from the start, as a vote's: alone, and among as many as are
    /// judged at once.
    known_key_us: [f64; 2],
    /// Processor time in µs for one signature.
    costs: Vec<Cost>,
    backend: &'static str,
    cpu: usize,
    machine: Machine,
}

/// Medians over the rounds, in µs for one signature.
#[derive(Clone, Debug, Serialize)]
struct Cost {
    what: &'static str,
    ours: f64,
    dalek_batch: f64,
    dalek_strict: f64,
}

/// Signatures, and both sides' state.
struct Load {
    what: &'static str,
    messages: Vec<[u8; MESSAGE]>,
    signatures: Vec<Signature>,
    keys: Vec<VerifyingKey>,
    valid: usize,
    batch: Batch,
    ours: Vec<f64>,
    dalek_batch: Vec<f64>,
    dalek_strict: Vec<f64>,
    /// Of each slice the shortest time so far.
    slices: Vec<Duration>,
}

impl Load {
    /// `count` signatures by `signers` in turn; every `bad`-th is a forgery.
    fn new(what: &'static str, backend: Backend, count: usize, signers: usize, bad: Option<usize>) -> Self {
        let digest = |i: usize, context| blake3::derive_key(context, &i.to_le_bytes());
        let secrets: Vec<SigningKey> =
            (0..signers).map(|i| SigningKey::from_bytes(&digest(i, "TOP perf sig key"))).collect();
        let mut messages = vec![[0; MESSAGE]; count];
        for (i, message) in messages.iter_mut().enumerate() {
            message[..32].copy_from_slice(&digest(i, "TOP perf sig message"));
        }
        let signatures = messages.iter().enumerate().map(|(i, m)| secrets[i % signers].sign(m)).collect();
        let keys = (0..count).map(|i| secrets[i % signers].verifying_key()).collect();
        let batch = Batch::with_backend(backend, count, [1; 32], 4 * LARGE);
        let mut load = Self {
            what,
            messages,
            signatures,
            keys,
            valid: count,
            batch,
            ours: Vec::new(),
            dalek_batch: Vec::new(),
            dalek_strict: Vec::new(),
            slices: Vec::new(),
        };
        for _ in 0..WARM_UP {
            load.run_ours(usize::MAX);
        }
        if let Some(bad) = bad {
            for message in load.messages.iter_mut().step_by(bad) {
                message[0] ^= 1;
                load.valid -= 1;
            }
            // Until it has settled what share is bad.
            for _ in 0..WARM_UP {
                load.run_ours(usize::MAX);
            }
        }
        load.slices.clear();
        load
    }

    /// One run of ours in slices: its time.
    fn run_ours(&mut self, budget: usize) -> Duration {
        let start = thread_cpu();
        for ((message, signature), key) in self.messages.iter().zip(&self.signatures).zip(&self.keys) {
            self.batch.push(key.as_bytes(), message, &signature.to_bytes(), 0).expect("the batch has room");
        }
        let mut before = thread_cpu();
        for number in 0.. {
            let progress = self.batch.step(budget);
            let now = thread_cpu();
            match self.slices.get_mut(number) {
                Some(shortest) => *shortest = (*shortest).min(now - before),
                None => self.slices.push(now - before),
            }
            before = now;
            if progress == Slice::Done {
                break;
            }
        }
        let valid = self.batch.verdicts().filter(|verdict| verdict.1).count();
        assert_eq!(valid, self.valid, "{}", self.what);
        thread_cpu() - start
    }

    /// One round of all sides.
    fn round(&mut self, budget: usize) {
        let count = self.messages.len();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let ours = self.run_ours(budget);
        self.ours.push(each(ours));

        let messages: Vec<&[u8]> = self.messages.iter().map(|message| &message[..]).collect();
        let start = thread_cpu();
        let verdict = ed25519_dalek::verify_batch(&messages, &self.signatures, &self.keys);
        self.dalek_batch.push(each(thread_cpu() - start));
        assert_eq!(verdict.is_ok(), self.valid == count);

        let start = thread_cpu();
        let all = self.messages.iter().zip(&self.signatures).zip(&self.keys);
        let valid = all
            .filter(|((message, signature), key)| key.verify_strict(&message[..], signature).is_ok())
            .count();
        self.dalek_strict.push(each(thread_cpu() - start));
        assert_eq!(valid, self.valid);
    }

    fn cost(&self) -> Cost {
        let of = |times: &[f64]| median(times.iter().copied());
        Cost {
            what: self.what,
            ours: of(&self.ours),
            dalek_batch: of(&self.dalek_batch),
            dalek_strict: of(&self.dalek_strict),
        }
    }
}

/// The cost of one of `at_once` signatures of a load under known keys, as committees have them.
fn known_keys(load: &Load, backend: Backend, at_once: usize) -> f64 {
    let keys: Vec<[u8; 32]> = load.keys[..4].iter().map(VerifyingKey::to_bytes).collect();
    let known = KnownKeys::with_backend(backend, &keys);
    let signatures: Vec<[u8; 64]> = load.signatures.iter().map(Signature::to_bytes).collect();
    // The load's signers take turns.
    let mut places = (0..load.messages.len()).filter(|place| place % KNOWN_SIGNERS < keys.len()).cycle();
    let mut times = Vec::new();
    for _ in 0..KNOWN_CALLS {
        let some = places.by_ref().take(at_once).map(|place| Signed {
            key: &keys[place % KNOWN_SIGNERS],
            message: &load.messages[place],
            signature: &signatures[place],
        });
        let start = thread_cpu();
        let accepted = known.accept(some);
        times.push((thread_cpu() - start).as_secs_f64() * 1e6 / at_once as f64);
        assert!(accepted[..at_once].iter().all(|&accepted| accepted), "{}", load.what);
    }
    median(times)
}

/// The median over the rounds of how many times as long `a` takes as `b`.
fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| a / b))
}

/// Measures.
///
/// # Errors
/// There is no such processor, or it has no such instructions.
pub fn run(arguments: &Arguments) -> anyhow::Result<Facts> {
    let cores = core_affinity::get_core_ids().context("the processors can't be listed")?;
    let core = match arguments.cpu {
        None => cores.last().copied(),
        Some(cpu) => cores.iter().copied().find(|core| core.id == cpu),
    };
    let core = core.context("there is no such processor: see `nproc`, and count from 0")?;
    anyhow::ensure!(core_affinity::set_for_current(core), "can't stay on processor {}", core.id);
    let backend = match &arguments.backend {
        None => Backend::best(),
        Some(name) => Backend::named(name)
            .with_context(|| format!("no backend {name} here: use one of {}", Backend::names()))?,
    };

    let progress = Progress::new(u64::from(arguments.rounds));
    progress.note(format!("signing for {}, processor {}", backend.name(), core.id));
    let mut loads = [
        Load::new("1,024 signatures", backend, LARGE, LARGE, None),
        Load::new("64 signatures", backend, 64, 64, None),
        Load::new("1,024 of 32 signers", backend, LARGE, KNOWN_SIGNERS, None),
        Load::new("1,024, 1 % of them bad", backend, LARGE, LARGE, Some(100)),
        Load::new("1,024, 10 % of them bad", backend, LARGE, LARGE, Some(10)),
        Load::new("1,024, 50 % of them bad", backend, LARGE, LARGE, Some(2)),
    ];
    for _ in 0..arguments.rounds {
        loads.iter_mut().for_each(|load| load.round(arguments.budget));
        progress.step();
    }
    let longest_slice = loads.iter().flat_map(|load| load.slices.iter().max()).max();
    let longest_slice_us = longest_slice.map_or(0.0, |slice| slice.as_secs_f64() * 1e6);

    let [large, small, repeated, bad_1, bad_10, bad_50] = &loads;
    let dalek_batch_1024_ratio = ratio(&large.dalek_batch, &large.ours);
    let dalek_batch_64_ratio = ratio(&small.dalek_batch, &small.ours);
    let strict_ratio = ratio(&large.dalek_strict, &large.ours);
    let signers_32_ratio = ratio(&repeated.dalek_batch, &repeated.ours);
    Ok(Facts {
        figures: [
            BATCH_1024.judge(dalek_batch_1024_ratio),
            BATCH_64.judge(dalek_batch_64_ratio),
            STRICT.judge(strict_ratio),
            SIGNERS_32.judge(signers_32_ratio),
            SLICE.judge(longest_slice_us),
        ],
        dalek_batch_1024_ratio,
        dalek_batch_64_ratio,
        strict_ratio,
        signers_32_ratio,
        longest_slice_us,
        bad_1pct_factor: ratio(&bad_1.ours, &large.ours),
        bad_10pct_factor: ratio(&bad_10.ours, &large.ours),
        bad_50pct_factor: ratio(&bad_50.ours, &large.ours),
        known_key_us: [1, KnownKeys::AT_ONCE].map(|at_once| known_keys(repeated, backend, at_once)),
        costs: loads.iter().map(Load::cost).collect(),
        backend: backend.name(),
        cpu: core.id,
        machine: Machine::read(),
    })
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{} on processor {}, µs of processor time for one signature\n", self.backend, self.cpu)?;
        let header = ["", "ours", "verify_batch", "verify_strict"].map(String::from).to_vec();
        let row = |cost: &Cost| {
            let Cost { what, ours, dalek_batch, dalek_strict } = cost;
            let number = |value: &f64| figure::number(*value);
            vec![(*what).to_owned(), number(ours), number(dalek_batch), number(dalek_strict)]
        };
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(self.costs.iter().map(row)).collect();
        writeln!(f, "{}", figure::columns(&rows))?;
        let [alone, among] = self.known_key_us.map(figure::number);
        let at_once = KnownKeys::AT_ONCE;
        writeln!(f, "by a key known from the start, as a vote: {alone} alone, {among} each of {at_once}\n")?;
        let Facts { bad_1pct_factor, bad_10pct_factor, bad_50pct_factor, .. } = self;
        let [one, ten, fifty] =
            [bad_1pct_factor, bad_10pct_factor, bad_50pct_factor].map(|x| figure::number(*x));
        writeln!(f, "with 1 %, 10 %, 50 % of them bad a batch takes {one}, {ten}, {fifty} times as long\n")?;
        f.write_str(&figure::table(&self.figures))
    }
}
