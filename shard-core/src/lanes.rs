//! Many short records hashed side by side, one to each lane of the vector unit: about five times the rate of one by one.
//!
//! The result is that of [`Domain::hash`](dag::hash::Domain::hash), which the tests hold it to. blake3's own function for
//! this is public but outside of its promises, so nothing else here calls it.

use blake3::{IncrementCounter, platform::Platform};
use dag::{Hash, hash::Domain};

/// Most records hashed in one call.
pub const LANES: usize = 16;

// The flags of the blake3 paper, table 3. A record of up to 1,024 bytes is one chunk, and that chunk is the root.
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const ROOT: u8 = 1 << 3;
const KEYED_HASH: u8 = 1 << 4;

/// A domain, ready to hash records in whole blocks of 64 bytes.
#[derive(Clone, Debug)]
pub struct Lanes {
    platform: Platform,
    key: [u32; 8],
}

impl Lanes {
    /// The lanes of a domain.
    pub fn new(domain: &Domain) -> Lanes {
        let (words, _) = domain.key().as_chunks::<4>();
        let mut key = [0; 8];
        for (word, bytes) in key.iter_mut().zip(words) {
            *word = u32::from_le_bytes(*bytes);
        }
        Lanes { platform: Platform::detect(), key }
    }

    /// Hashes records of `N` bytes.
    ///
    /// # Panics
    /// Where there are more than [`LANES`] records, or fewer places for hashes than records.
    pub fn hash<const N: usize>(&self, records: &[[u8; N]], hashes: &mut [Hash]) {
        let Some(first) = records.first() else { return };
        let mut inputs = [first; LANES];
        for (input, record) in inputs[..records.len()].iter_mut().zip(records) {
            *input = record;
        }
        let out = self.hash_at(&inputs[..records.len()]);
        for (hash, bytes) in hashes[..records.len()].iter_mut().zip(out) {
            *hash = Hash(bytes);
        }
    }

    /// Hashes records of `N` bytes where they lie. Places after the last record's are zero.
    ///
    /// # Panics
    /// Where there are more than [`LANES`] records.
    pub fn hash_at<const N: usize>(&self, records: &[&[u8; N]]) -> [[u8; 32]; LANES] {
        const { assert!(N.is_multiple_of(64) && N > 0 && N <= 1024) };
        let mut out = [[0; 32]; LANES];
        // Flags go on every block but those of the end only on the last, which for a single block is the first too.
        let (flags, end) =
            if N == 64 { (KEYED_HASH | ROOT, CHUNK_END) } else { (KEYED_HASH, CHUNK_END | ROOT) };
        let bytes = out[..records.len()].as_flattened_mut();
        let no = IncrementCounter::No;
        self.platform.hash_many(records, &self.key, 0, no, flags, CHUNK_START, end, bytes);
        out
    }
}

#[cfg(test)]
mod tests {
    use dag::hash::Domain;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lanes_hash_as_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..=LANES)) {
            let leaves: Vec<[u8; 128]> = bytes.iter().map(|byte| [*byte; 128]).collect();
            let nodes: Vec<[u8; 64]> = bytes.iter().map(|byte| [*byte; 64]).collect();
            let mut hashes = [Hash::ZERO; LANES];
            Lanes::new(&Domain::ACCOUNT).hash(&leaves, &mut hashes);
            for (leaf, hash) in leaves.iter().zip(&hashes) {
                prop_assert_eq!(Domain::ACCOUNT.hash(leaf), *hash);
            }
            Lanes::new(&Domain::NODE).hash(&nodes, &mut hashes);
            for (node, hash) in nodes.iter().zip(&hashes) {
                prop_assert_eq!(Domain::NODE.hash(node), *hash);
            }
        }
    }
}
