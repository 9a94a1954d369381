//! Public keys in decompressed form, kept between groups.
//!
//! Decompression costs a quarter of a signature, and accounts that are active stay so for a while. The cache is
//! set-associative: a key has [`WAYS`] places, chosen by a keyed hash (so nobody can aim at one set), and takes
//! the one unused for longest. Its memory is fixed: 200 bytes for each key.

use ahash::RandomState;
use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::traits::Identity;

/// Places that one key can be in.
const WAYS: usize = 4;

#[derive(Clone)]
struct Set {
    keys: [[u8; 32]; WAYS],
    /// When each place was last used, on the cache's clock; 0 for a place that is free.
    used: [u64; WAYS],
    points: [EdwardsPoint; WAYS],
}

/// A bounded map from an encoded key to its point.
pub(super) struct KeyCache {
    sets: Box<[Set]>,
    hasher: RandomState,
    clock: u64,
}

impl KeyCache {
    /// A cache for `keys` keys, rounded up to 4 × a power of two; none at all for 0.
    pub(super) fn new(keys: usize, seed: &[u8; 32]) -> Self {
        let sets = if keys == 0 { 0 } else { keys.div_ceil(WAYS).next_power_of_two() };
        let empty = Set { keys: [[0; 32]; WAYS], used: [0; WAYS], points: [EdwardsPoint::identity(); WAYS] };
        let derived = blake3::derive_key("TOP sigbatch v1 key cache", seed);
        let word =
            |i: usize| u64::from_le_bytes(*derived[8 * i..].first_chunk().expect("4 words of 8 bytes"));
        let hasher = RandomState::with_seeds(word(0), word(1), word(2), word(3));
        Self { sets: vec![empty; sets].into_boxed_slice(), hasher, clock: 0 }
    }

    /// The point of `key`, if it is here; marks it as used now.
    pub(super) fn get(&mut self, key: &[u8; 32]) -> Option<EdwardsPoint> {
        self.clock += 1;
        let clock = self.clock;
        let set = self.set_of(key)?;
        let place = set.find(key)?;
        set.used[place] = clock;
        Some(set.points[place])
    }

    /// Keeps `point` under `key`, in place of the key of its set that was unused for longest.
    pub(super) fn insert(&mut self, key: &[u8; 32], point: EdwardsPoint) {
        self.clock += 1;
        let clock = self.clock;
        let Some(set) = self.set_of(key) else { return };
        let place = set.find(key).unwrap_or_else(|| set.oldest());
        set.keys[place] = *key;
        set.used[place] = clock;
        set.points[place] = point;
    }

    fn set_of(&mut self, key: &[u8; 32]) -> Option<&mut Set> {
        let mask = u64::try_from(self.sets.len().checked_sub(1)?).expect("usize fits in u64");
        let index = usize::try_from(self.hasher.hash_one(key) & mask).expect("an index below len");
        self.sets.get_mut(index)
    }
}

impl Set {
    fn find(&self, key: &[u8; 32]) -> Option<usize> {
        (0..WAYS).find(|&place| self.keys[place] == *key && self.used[place] != 0)
    }

    fn oldest(&self) -> usize {
        (0..WAYS).min_by_key(|&place| self.used[place]).expect("WAYS is not 0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::Scalar;

    fn key(i: u64) -> ([u8; 32], EdwardsPoint) {
        let point = EdwardsPoint::mul_base(&Scalar::from(i + 1));
        (point.compress().to_bytes(), point)
    }

    #[test]
    fn finds_what_it_keeps_and_nothing_else() {
        let mut cache = KeyCache::new(1024, &[1; 32]);
        for (bytes, point) in (0..100).map(key) {
            assert_eq!(cache.get(&bytes), None);
            cache.insert(&bytes, point);
        }
        for (bytes, point) in (0..100).map(key) {
            assert_eq!(cache.get(&bytes), Some(point));
        }
        assert_eq!(cache.get(&[0; 32]), None, "a free place holds no key, not even the key of zeros");
    }

    #[test]
    fn a_full_set_drops_the_key_unused_for_longest() {
        let mut cache = KeyCache::new(WAYS, &[2; 32]);
        assert_eq!(cache.sets.len(), 1);
        let keys: Vec<_> = (0..=4).map(key).collect();
        for (bytes, point) in &keys[..4] {
            cache.insert(bytes, *point);
        }
        assert!(cache.get(&keys[0].0).is_some(), "now key 1 is the oldest");
        cache.insert(&keys[4].0, keys[4].1);
        let kept: Vec<bool> = keys.iter().map(|(bytes, _)| cache.get(bytes).is_some()).collect();
        assert_eq!(kept, [true, false, true, true, true]);
    }

    #[test]
    fn a_key_kept_twice_takes_one_place() {
        let mut cache = KeyCache::new(WAYS, &[3; 32]);
        let keys: Vec<_> = (0..4).map(key).collect();
        for i in [0, 1, 0, 2, 0, 3, 0] {
            cache.insert(&keys[i].0, keys[i].1);
        }
        assert!(keys.iter().all(|(bytes, point)| cache.get(bytes) == Some(*point)));
    }

    #[test]
    fn a_cache_of_none_keeps_none() {
        let mut cache = KeyCache::new(0, &[4; 32]);
        let (bytes, point) = key(0);
        cache.insert(&bytes, point);
        assert_eq!(cache.get(&bytes), None);
    }
}
