//! The random coefficients of the batch equation.
//!
//! # Why an adversary must not know them
//!
//! Whoever knew `zᵢ` before choosing the signatures could make two bad ones whose errors cancel
//! (`z₁e₁ + z₂e₂ = 0`): accepted together, rejected alone. Validators batch differently, so that splits the
//! network.
//!
//! # Why they can't know them
//!
//! The coefficients of a group are the output of BLAKE3 keyed by the seed over the group's number and over
//! every signature in it (`SHA-512(R ‖ A ‖ M)` and `s`, which fix all of its bytes). The seed comes from the
//! operating system's random source at start and never leaves the process. An adversary who learnt it all the same
//! could only guess: each change to any signature draws all coefficients anew, each guess costs a hash of the whole
//! group, whose other members and order they must know too. A guess is right with a chance below 2⁻¹⁰⁸:
//! a sum over a set with a bad signature vanishes for at most one of the 2¹²⁸ values of that signature's
//! coefficient, and the sets that a group of n ≤ 2¹⁰ can form are contiguous ranges, fewer than n²/2 + n. That bound
//! covers the halving too, which reuses the coefficients. (For n = 4,096, the maximum, it is 2⁻¹⁰⁴.) A signature that is judged
//! by itself needs none; so nothing is ever rejected by chance.

use blake3::{Hasher, OutputReader};
use curve25519_dalek::Scalar;

/// Hashes what a group of signatures consists of.
pub(super) struct Transcript {
    hasher: Hasher,
    groups: u64,
}

impl Transcript {
    /// A transcript keyed by `seed`.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let key = blake3::derive_key("TOP sigbatch v1 coefficients", seed);
        Self { hasher: Hasher::new_keyed(&key), groups: 0 }
    }

    /// Begins the next group, under a number never used before.
    pub(super) fn begin(&mut self) {
        self.groups += 1;
        self.hasher.reset();
        self.hasher.update(&self.groups.to_le_bytes());
    }

    /// Binds one signature: `challenge` fixes R, A and M (SHA-512 is collision-resistant), `s` is the rest.
    pub(super) fn absorb(&mut self, challenge: &[u8; 64], s: &Scalar) {
        self.hasher.update(challenge);
        self.hasher.update(s.as_bytes());
    }

    /// The coefficients for what was absorbed.
    pub(super) fn coefficients(&self) -> Coefficients {
        Coefficients { output: self.hasher.finalize_xof(), block: [0; BLOCK], used: BLOCK }
    }
}

/// Bytes drawn at a time: 16 coefficients, enough for BLAKE3's vector code.
const BLOCK: usize = 256;

/// A stream of 128-bit coefficients.
pub(super) struct Coefficients {
    output: OutputReader,
    block: [u8; BLOCK],
    used: usize,
}

impl Coefficients {
    /// The next coefficient, uniform from −2¹²⁷ to 2¹²⁷ − 1.
    pub(super) fn draw(&mut self) -> i128 {
        if self.used == BLOCK {
            self.output.fill(&mut self.block);
            self.used = 0;
        }
        let bytes = self.block[self.used..].first_chunk().expect("BLOCK is a multiple of 16");
        self.used += 16;
        i128::from_le_bytes(*bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_two(transcript: &mut Transcript, items: &[([u8; 64], u64)]) -> [i128; 2] {
        transcript.begin();
        for (challenge, s) in items {
            transcript.absorb(challenge, &Scalar::from(*s));
        }
        let mut coefficients = transcript.coefficients();
        [coefficients.draw(), coefficients.draw()]
    }

    #[test]
    fn every_input_changes_every_coefficient() {
        let items = [([1; 64], 10), ([2; 64], 20)];
        let fresh = |seed| Transcript::new(&[seed; 32]);
        let base = first_two(&mut fresh(7), &items);
        assert_eq!(base, first_two(&mut fresh(7), &items), "the same inputs give the same coefficients");

        let mut second_group = fresh(7);
        first_two(&mut second_group, &[]);
        let changed = [
            first_two(&mut fresh(8), &items),
            first_two(&mut second_group, &items),
            first_two(&mut fresh(7), &[([1; 64], 10), ([3; 64], 20)]),
            first_two(&mut fresh(7), &[([1; 64], 10), ([2; 64], 21)]),
            first_two(&mut fresh(7), &[([2; 64], 20), ([1; 64], 10)]),
            first_two(&mut fresh(7), &items[..1]),
        ];
        for other in changed {
            assert_ne!(base[0], other[0]);
            assert_ne!(base[1], other[1]);
        }
    }

    #[test]
    fn coefficients_are_128_bit_and_do_not_repeat() {
        let mut transcript = Transcript::new(&[0; 32]);
        transcript.begin();
        let mut coefficients = transcript.coefficients();
        let mut drawn: Vec<i128> = (0..100).map(|_| coefficients.draw()).collect();
        assert!(drawn.iter().any(|z| *z < 0) && drawn.iter().any(|z| *z > 0));
        assert!(drawn.iter().all(|z| z.unsigned_abs() > 1 << 100));
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 100);
    }
}
