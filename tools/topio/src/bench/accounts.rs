//! The development accounts that a genesis funds.

use std::thread;

use dag::keys::KeyPair;
use engine::genesis::{Genesis, dev::dev_account_key};

/// How many accounts of a seed, counted from the first one, the genesis funds.
pub fn count(genesis: &Genesis, seed: &[u8; 32]) -> u64 {
    let allocations = genesis.allocations();
    let funded = |index| {
        let address = dev_account_key(seed, index).address();
        allocations.binary_search_by_key(&address, |allocation| allocation.address).is_ok()
    };
    // Funded accounts have no gap, so the first one without money is found by halving.
    let (mut low, mut high) = (0, allocations.len() as u64);
    while low < high {
        let middle = low + (high - low) / 2;
        if funded(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The first `count` accounts of a seed, derived on all cores.
pub fn keys(seed: &[u8; 32], count: u64) -> Vec<KeyPair> {
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let share = count.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..count)
            .step_by(usize::try_from(share).expect("keys are held in memory"))
            .map(|first| {
                let range = first..(first + share).min(count);
                scope.spawn(move || range.map(|index| dev_account_key(seed, index)).collect::<Vec<_>>())
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("deriving a key does not panic")).collect()
    })
}

#[cfg(test)]
mod tests {
    use engine::genesis::{Allocation, GenesisValidator, Parameters, dev::dev_allocations};

    use super::*;

    fn genesis(funded: u64, others: u64) -> Genesis {
        let validators = (0..4).map(|index| GenesisValidator {
            name: format!("v{index}"),
            key: dev_account_key(&[9; 32], index).address(),
        });
        let parameters =
            Parameters { name: "t".into(), tables: 1, lanes: 1, time: 1, validators: validators.collect() };
        let mut allocations: Vec<Allocation> = dev_allocations(&[1; 32], funded, 5);
        allocations.extend(dev_allocations(&[2; 32], others, 5));
        Genesis::create(parameters, allocations).unwrap()
    }

    #[test]
    fn only_the_seeds_own_accounts_count() {
        for (funded, others) in [(0, 3), (1, 0), (7, 0), (7, 9), (64, 1)] {
            assert_eq!(count(&genesis(funded, others), &[1; 32]), funded);
        }
        assert_eq!(count(&genesis(5, 0), &[3; 32]), 0);
    }

    #[test]
    fn many_keys_are_the_single_ones_in_order() {
        for count in [0, 1, 2, 5] {
            let single = (0..count).map(|index| dev_account_key(&[1; 32], index).address());
            assert!(keys(&[1; 32], count).iter().map(KeyPair::address).eq(single));
        }
    }
}
