//! Ed25519 signatures, one at a time and in batches, under one rule.
//!
//! # The rule
//!
//! A signature is valid when it satisfies [ZIP-215]: `s` is canonical (`s < l`), `R` and `A` decode to curve
//! points (non-canonical encodings are accepted), and `[8][s]B = [8]R + [8][k]A` with `k = SHA-512(R ‖ A ‖ M)
//! mod l`. [`verify`] and [`Batch`] give the same verdict on every input; common libraries' single and batch
//! functions do not, and validators that disagree about one signature split the network.
//!
//! # The batch equation
//!
//! For random 128-bit `zᵢ`, all signatures of a set are valid (but for a chance below 2⁻¹⁰⁸, see
//! `coefficients`) when
//!
//! ```text
//! [8] ( Σ [zᵢ]Rᵢ + Σ [zᵢkᵢ]Aᵢ − [Σ zᵢsᵢ]B ) = 0          the terms of one signer are merged
//! ```
//!
//! A set that fails is halved until the bad signatures are found. The right half's sum is the difference of
//! the whole's and the left half's, so each halving computes one half only.
//!
//! # A job in slices
//!
//! [`Batch::step`] does at most its budget of work units and returns. One unit is about 1 µs on a 2024 x86
//! core with AVX2; the pieces are fixed by counts, never by a clock, so a run can be repeated exactly:
//!
//! | piece | units |
//! | --- | --- |
//! | open a group: sort by key | 1 for 14 signatures |
//! | prepare one: cheap rejects, SHA-512, decompression of R; of A, unless it is cached | 4; 3 more |
//! | an equation of fewer than 190 points (a signature is a point, a signer too) | 20 + 3.5 for each R + 5.8 for each A |
//! | a larger equation | 400 + 2.2 for each R + 3.6 for each A |
//!
//! curve25519-dalek's multiscalar multiplication cannot be interrupted, so an equation is one piece, and **the
//! budget chooses the trade between latency and throughput**: an equation holds as many signatures as fit. The slices
//! take at most a third more µs than the budget says, if it is 100 or more.
//!
//! # Figures
//!
//! CPU time in µs for one signature: median of one interleaved run of all sides, one core of an AMD EPYC (Zen 5),
//! AVX2, 32-byte messages, distinct signers whose keys are cached (ours) or parsed (dalek). `cargo bench -p shard-core
//! --bench verify` measures them anew.
//!
//! | signatures in the group | 1 | 4 | 16 | 64 | 256 | 1,024 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | [`Batch`], budget 100 | 42 | 19.3 | 17.7 | 16.3 | 16.4 | 16.5 |
//! | budget 250 | 40 | 18.1 | 15.0 | 14.2 | 14.2 | 14.5 |
//! | budget 1,800 | 39 | 18.1 | 14.7 | 13.3 | 11.8 | 11.9 |
//! | budget 10,000 | 39 | 18.0 | 14.9 | 13.2 | 11.6 | 10.2 |
//! | budget 10,000, no cache | 43 | 22.4 | 18.5 | 16.5 | 15.0 | 13.4 |
//! | `ed25519_dalek::verify_batch` (its verdicts differ from its own `verify`) | 44 | 20.7 | 16.2 | 13.8 | 11.7 | 10.2 |
//! | `ed25519_zebra::batch` (one verdict for all; parses the keys) | 46 | 22.6 | 19.2 | 17.0 | 14.7 | 13.3 |
//!
//! [`verify`]: 35.2, dalek's `verify_strict`: 35.4. With 1,024 signatures of 32 signers: 9.4 with budget 100, 6.9 with
//! 10,000 (dalek 10.0, zebra 6.9).
//!
//! | forgeries among 1,024 | none | 1 % | 10 % | 50 % | 100 % |
//! | --- | --- | --- | --- | --- | --- |
//! | budget 100 | 16.5 | 18.1 | 30 | 40 | 43 |
//! | budget 1,800 | 11.9 | 19.0 | 30 | 41 | 43 |
//!
//! A Pippenger of our own on the public point type, which could be interrupted, was measured and not taken: its
//! additions cost 124 ns against 93 in dalek's vector code, so it needs groups of 1,024 to reach 7.7 µs for the
//! multiplication, where dalek takes 5.3 at 1,024, 6.5 at 256 and 9.6 at 16.
//!
//! [ZIP-215]: https://zips.z.cash/zip-0215

mod coefficients;
mod equation;
mod job;
mod key_cache;
mod rule;

pub use job::{Batch, BatchFull, MAX_CAPACITY, MAX_MESSAGE, Progress};
pub use rule::verify;

#[cfg(test)]
mod tests;
