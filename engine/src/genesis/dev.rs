//! Accounts of networks for development and measurement. Their keys follow from a seed that everyone may know.

use dag::keys::KeyPair;
use zeroize::Zeroizing;

use super::Allocation;

const CONTEXT: &str = "TOP dev account v1";

/// The key of account `index`: its seed is blake3's `derive_key` of this context over `seed ‖ index` (8 bytes, little-endian).
pub fn dev_account_key(seed: &[u8; 32], index: u64) -> KeyPair {
    let mut material = Zeroizing::new([0; 40]);
    material[..32].copy_from_slice(seed);
    material[32..].copy_from_slice(&index.to_le_bytes());
    KeyPair::from_seed(&Zeroizing::new(blake3::derive_key(CONTEXT, material.as_ref())))
}

/// The first `count` accounts of a seed, each with `balance` micro-TOP.
pub fn dev_allocations(seed: &[u8; 32], count: u64, balance: u64) -> Vec<Allocation> {
    (0..count).map(|index| Allocation { address: dev_account_key(seed, index).address(), balance }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_stable() {
        let first = dev_account_key(&[7; 32], 0);
        assert_ne!(first.public(), dev_account_key(&[7; 32], 1).public());
        assert_ne!(first.public(), dev_account_key(&[8; 32], 0).public());
        // Load generators derive the same accounts, so this definition can't change.
        assert_eq!(
            first.address().to_string(),
            "top1pvsphz97shl7pvunkr4q03gx4uc5xa3nnuxf74c22uy9l4h0khxss60tz4"
        );
        assert_eq!(dev_allocations(&[7; 32], 2, 5)[0], Allocation { address: first.address(), balance: 5 });
    }
}
