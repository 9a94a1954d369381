//! Signature verification beside its peers: µs for one signature is the reported time over the batch's size.
//!
//! All sides judge the same signatures: distinct signers, 32-byte messages. ed25519-dalek is given parsed keys, which
//! corresponds to our key cache; ed25519-zebra parses them in each batch, as ours does without a cache.

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use curve25519_dalek::rand_core::{TryCryptoRng, TryRng};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use ed25519_zebra::{VerificationKey, VerificationKeyBytes};
use shard_core::sigbatch::{self, Batch, Progress};

/// Slices of about 0.1 ms.
const SHORT: usize = 100;
/// Slices of about 2 ms: equations of some 240 signatures.
const MEDIUM: usize = 1800;
/// As much as the largest equation takes.
const UNBOUNDED: usize = 10_000;

struct Signed {
    messages: Vec<[u8; 32]>,
    signatures: Vec<Signature>,
    keys: Vec<VerifyingKey>,
}

impl Signed {
    /// `count` messages, signed by `signers` signers in turn.
    fn new(count: usize, signers: usize) -> Self {
        let digest = |i: usize, context| blake3::derive_key(context, &i.to_le_bytes());
        let secrets: Vec<SigningKey> =
            (0..signers).map(|i| SigningKey::from_bytes(&digest(i, "bench key"))).collect();
        let messages: Vec<[u8; 32]> = (0..count).map(|i| digest(i, "bench message")).collect();
        let signatures = messages.iter().enumerate().map(|(i, m)| secrets[i % signers].sign(m)).collect();
        let keys = (0..count).map(|i| secrets[i % signers].verifying_key()).collect();
        Self { messages, signatures, keys }
    }

    /// Breaks the equation of every signature whose number is a multiple of `every`.
    fn forge(mut self, every: usize) -> Self {
        for message in self.messages.iter_mut().step_by(every) {
            message[0] ^= 1;
        }
        self
    }

    /// Runs all through `batch` and returns how many are valid.
    fn run(&self, batch: &mut Batch, budget: usize) -> usize {
        for i in 0..self.messages.len() {
            let signature = self.signatures[i].to_bytes();
            batch
                .push(self.keys[i].as_bytes(), &self.messages[i], &signature, 0)
                .expect("the batch has room");
        }
        while batch.step(budget) != Progress::Done {}
        batch.verdicts().filter(|verdict| verdict.1).count()
    }
}

/// Random coefficients for ed25519-zebra, as cheap as our own.
struct Random(blake3::OutputReader);

impl TryRng for Random {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Random {}

fn zebra_batch(signed: &Signed) -> bool {
    let mut verifier = ed25519_zebra::batch::Verifier::new();
    for i in 0..signed.messages.len() {
        let key = VerificationKeyBytes::from(signed.keys[i].to_bytes());
        let signature = Signature::from(signed.signatures[i].to_bytes());
        verifier.queue((key, signature, &signed.messages[i]));
    }
    verifier.verify(Random(blake3::Hasher::new().finalize_xof())).is_ok()
}

fn one(criterion: &mut Criterion) {
    let signed = Signed::new(1, 1);
    let (key, message, signature) = (signed.keys[0], signed.messages[0], signed.signatures[0]);
    let (key_bytes, signature_bytes) = (key.to_bytes(), signature.to_bytes());
    let mut group = criterion.benchmark_group("one");
    group.bench_function("sigbatch::verify", |b| {
        b.iter(|| assert!(sigbatch::verify(black_box(&key_bytes), &message, &signature_bytes)));
    });
    group.bench_function("dalek verify_strict", |b| {
        b.iter(|| key.verify_strict(black_box(&message), &signature).expect("valid"));
    });
    let zebra_key = VerificationKey::try_from(key_bytes).expect("a key");
    let zebra_signature = Signature::from(signature_bytes);
    group.bench_function("zebra verify", |b| {
        b.iter(|| zebra_key.verify(&zebra_signature, black_box(&message)).expect("valid"));
    });
}

fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for count in [1, 4, 16, 64, 256, 1024] {
        let signed = Signed::new(count, count);
        group.throughput(Throughput::Elements(u64::try_from(count).expect("a small count")));
        for (name, budget, cached_keys) in [
            ("cached, short slices", SHORT, 65_536),
            ("cached, medium slices", MEDIUM, 65_536),
            ("cached, unbounded", UNBOUNDED, 65_536),
            ("uncached, short slices", SHORT, 0),
            ("uncached, unbounded", UNBOUNDED, 0),
        ] {
            let mut batch = Batch::new(count, [1; 32], cached_keys);
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| assert_eq!(signed.run(&mut batch, budget), count));
            });
        }
        let messages: Vec<&[u8]> = signed.messages.iter().map(|message| &message[..]).collect();
        group.bench_function(BenchmarkId::new("dalek verify_batch", count), |b| {
            b.iter(|| {
                ed25519_dalek::verify_batch(&messages, &signed.signatures, &signed.keys).expect("valid")
            });
        });
        group.bench_function(BenchmarkId::new("zebra batch", count), |b| {
            b.iter(|| assert!(zebra_batch(&signed)))
        });
    }
}

fn repeated_signers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("1024 of 32 signers");
    let signed = Signed::new(1024, 32);
    group.throughput(Throughput::Elements(1024));
    let mut batch = Batch::new(1024, [1; 32], 65_536);
    for (name, budget) in [("short slices", SHORT), ("medium slices", MEDIUM), ("unbounded", UNBOUNDED)] {
        group.bench_function(name, |b| b.iter(|| assert_eq!(signed.run(&mut batch, budget), 1024)));
    }
    group.bench_function("zebra batch", |b| b.iter(|| assert!(zebra_batch(&signed))));
}

/// A flood of forgeries among 1,024 signatures, after the job has learnt of it.
fn forgeries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("1024 with forgeries");
    group.throughput(Throughput::Elements(1024));
    for (share, every) in [("1 %", 100), ("10 %", 10), ("50 %", 2), ("100 %", 1)] {
        let signed = Signed::new(1024, 1024).forge(every);
        let good = 1024 - 1024usize.div_ceil(every);
        let mut batch = Batch::new(1024, [1; 32], 65_536);
        for (name, budget) in [("short slices", SHORT), ("medium slices", MEDIUM), ("unbounded", UNBOUNDED)] {
            group.bench_function(BenchmarkId::new(name, share), |b| {
                b.iter(|| assert_eq!(signed.run(&mut batch, budget), good));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(1));
    targets = one, batches, repeated_signers, forgeries
}
criterion_main!(benches);
