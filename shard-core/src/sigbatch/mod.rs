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
//! A set that fails is halved. The right half's sum is the difference of the whole's and the left half's, so each halving
//! computes one half only. What is left in doubt is judged signature by signature, one to a lane, without coefficients; where
//! forgeries are many everything is, so that a flood of them costs a bounded factor (`search` and `singles`).
//!
//! # A job in slices
//!
//! [`Batch::step`] does at most its budget of work units and returns. One unit is about 1 µs on an x86 core of 2 GHz; the pieces
//! of work are fixed by counts, never by a clock, so a run can be repeated exactly. No piece takes more than 35 units, so
//! a budget of 40 keeps slices below 50 µs. The budget changes nothing else: how sums are cut never depends on it.
//!
//! # How it is fast
//!
//! | part | does |
//! | --- | --- |
//! | `field` | arithmetic on 4 (AVX2) or 8 (AVX-512 IFMA) field elements at once, or on one |
//! | `point`, `decompress` | curve points in lanes; as many square roots at a time as two vectors have lanes |
//! | `msm` | the sum, by Pippenger's algorithm, each lane in windows of its own |
//! | `key_cache` | keys of valid signatures, ready to be added |
//! | `equation`, `coefficients` | terms, one for each signer and one for each R |
//! | `search`, `singles` | which signatures to judge together and which alone; as many alone at a time as there are lanes |
//! | `job` | slices, verdicts |
//! | `known` | beside batches: single signatures under a committee's keys, by tables |
//!
//! `cargo run --release -p perf -- sig` measures it beside ed25519-dalek.
//!
//! [ZIP-215]: https://zips.z.cash/zip-0215

mod coefficients;
mod decompress;
mod digits;
mod equation;
mod field;
mod job;
mod key_cache;
mod known;
mod msm;
mod point;
mod rule;
mod search;
mod sha512;
mod singles;

pub use field::Backend;
pub use job::{Batch, BatchFull, MAX_CAPACITY, MAX_MESSAGE, Progress};
pub use known::{KnownKeys, Signed};
pub use rule::verify;

#[cfg(test)]
mod tests;
