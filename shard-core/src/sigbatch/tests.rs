//! What several test files need: a source of bytes, signers with torsion, and a batch run to its end.

mod bookkeeping;
mod differential;
mod forgeries;
mod points;
mod vectors;

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::{EdwardsPoint, Scalar};

use super::rule::challenge;
use super::{Batch, Progress, Signed};

/// A signature to judge.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) key: [u8; 32],
    pub(super) message: Vec<u8>,
    pub(super) signature: [u8; 64],
}

impl Case {
    /// What the single verifier says.
    fn verify(&self) -> bool {
        super::verify(&self.key, &self.message, &self.signature)
    }

    /// The same as a signature under a known key.
    pub(super) fn signed(&self) -> Signed<'_> {
        Signed { key: &self.key, message: &self.message, signature: &self.signature }
    }

    /// What ed25519-zebra says, the implementation that ZIP-215 was written for.
    fn zebra(&self) -> bool {
        let signature = ed25519_zebra::Signature::from(self.signature);
        ed25519_zebra::VerificationKey::try_from(self.key)
            .is_ok_and(|key| key.verify(&signature, &self.message).is_ok())
    }
}

/// Reproducible pseudo-random bytes.
pub(super) struct Source(blake3::OutputReader);

impl Source {
    pub(super) fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        let word = u64::from_le_bytes(self.bytes()) % u64::try_from(bound).expect("a small bound");
        usize::try_from(word).expect("below a usize")
    }

    fn scalar(&mut self) -> Scalar {
        Scalar::from_bytes_mod_order_wide(&self.bytes())
    }

    /// A point of order 1, 2, 4 or 8.
    fn torsion(&mut self) -> EdwardsPoint {
        EIGHT_TORSION[self.below(8)]
    }
}

/// A key pair `(a, [a]B + torsion)`. With a torsion part, ZIP-215 still accepts its signatures.
#[derive(Clone)]
struct Signer {
    secret: Scalar,
    key: [u8; 32],
}

impl Signer {
    fn new(secret: Scalar, torsion: EdwardsPoint) -> Self {
        Self { secret, key: (EdwardsPoint::mul_base(&secret) + torsion).compress().to_bytes() }
    }

    /// Signs with the nonce `r`, and with `torsion` added to R.
    fn sign(&self, message: &[u8], r: Scalar, torsion: EdwardsPoint) -> Case {
        let r_bytes = (EdwardsPoint::mul_base(&r) + torsion).compress().to_bytes();
        let k = Scalar::from_bytes_mod_order_wide(&challenge(&r_bytes, &self.key, message));
        let s = r + k * self.secret;
        Case { key: self.key, message: message.to_vec(), signature: join(&r_bytes, s.as_bytes()) }
    }
}

fn join(r: &[u8; 32], s: &[u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(r);
    signature[32..].copy_from_slice(s);
    signature
}

/// `count` honest signatures by as many signers.
pub(super) fn honest(source: &mut Source, count: usize) -> Vec<Case> {
    let torsion_free = EIGHT_TORSION[0];
    (0..count)
        .map(|_| {
            let signer = Signer::new(source.scalar(), torsion_free);
            let message: [u8; 32] = source.bytes();
            signer.sign(&message, source.scalar(), torsion_free)
        })
        .collect()
}

/// Pushes `cases` into `batch`, runs it with `budget` for each step, and returns the verdicts in order.
fn run(batch: &mut Batch, cases: &[Case], budget: usize) -> Vec<bool> {
    for (token, case) in (0..).zip(cases) {
        batch.push(&case.key, &case.message, &case.signature, token).expect("room for all");
    }
    let mut steps = 0;
    while batch.step(budget) == Progress::Running {
        steps += 1;
        assert!(steps < 1000 * cases.len(), "each step does a piece of work");
    }
    let verdicts: Vec<(u64, bool)> = batch.verdicts().collect();
    assert!(verdicts.iter().map(|verdict| verdict.0).eq((0..).take(cases.len())), "one each, in order");
    verdicts.into_iter().map(|verdict| verdict.1).collect()
}
