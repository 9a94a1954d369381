//! The accounts of a measurement.
//!
//! All keys follow from one seed, so that the maker of a genesis and the load generator agree on them by exchanging the
//! seed and a count. Whoever knows the seed owns the money: such accounts are for networks made to be measured.

use dag::keys::KeyPair;
use engine::genesis::dev::dev_account_key;

/// The keys of accounts 0 to `count - 1`, made on all cores (15 µs of one core each, 256 bytes at most).
pub fn account_keys(seed: &[u8; 32], count: u32) -> Vec<KeyPair> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = u32::try_from(cores).unwrap_or(u32::MAX).clamp(1, count.max(1));
    let bound = |part: u32| u64::from(count) * u64::from(part) / u64::from(threads);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                let range = bound(part)..bound(part + 1);
                scope.spawn(move || range.map(|i| dev_account_key(seed, i)).collect::<Vec<_>>())
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("deriving keys does not panic")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_are_the_single_ones() {
        for count in [0, 1, 2, 7] {
            let keys = account_keys(&[3; 32], count);
            let single = (0..u64::from(count)).map(|i| dev_account_key(&[3; 32], i).address());
            assert!(keys.iter().map(KeyPair::address).eq(single));
        }
    }
}
