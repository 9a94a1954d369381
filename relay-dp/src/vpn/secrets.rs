//! Randomness from a seed.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A generator of secret bytes: BLAKE3's keyed extendable output, with fast key erasure: each draw replaces the key, so what
/// was drawn can't be computed from the state afterwards.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secrets {
    key: [u8; 32],
}

impl Secrets {
    /// A generator from 32 bytes that no one else knows.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self { key: seed }
    }

    /// Fills `out` with fresh secret bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(&self.key).finalize_xof();
        stream.fill(&mut self.key);
        stream.fill(out);
    }

    /// Fresh secret bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A number below `bound` (which must not be zero), near enough to uniform for jitter.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        u64::from_le_bytes(self.bytes()) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ_and_follow_from_the_seed() {
        let mut one = Secrets::new([1; 32]);
        let (first, second) = (one.bytes::<40>(), one.bytes::<40>());
        assert_ne!(first, second);
        assert_ne!(Secrets::new([2; 32]).bytes::<40>(), first);
        let mut again = Secrets::new([1; 32]);
        assert_eq!((again.bytes::<40>(), again.bytes::<40>()), (first, second));
    }
}
