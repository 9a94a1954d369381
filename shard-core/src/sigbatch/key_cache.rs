//! Public keys ready to be added, kept between groups.
//!
//! Decompression costs a quarter of a signature, and accounts that are active stay so for a while. The cache is
//! set-associative: a key has [`WAYS`] places, chosen by a keyed hash (so nobody can aim at one set), and takes
//! the one unused for longest. Its memory is fixed: 290 bytes for each key.
//!
//! A key that is used often also gets its 2¹²⁸-fold, which saves the batch equation a round of buckets but costs as much
//! as a signature or two to compute.

use ahash::RandomState;

use super::point::Niels;

/// Places that one key can be in.
const WAYS: usize = 4;
/// Uses after which the 2¹²⁸-fold of a key is worth its computation.
const OFTEN: u32 = 8;

/// A key's points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    /// The key itself.
    pub(super) point: Niels,
    /// 2¹²⁸ times it, if that has been computed.
    pub(super) shifted: Option<Niels>,
}

#[derive(Clone)]
struct Set {
    keys: [[u8; 32]; WAYS],
    /// When each place was last used, on the cache's clock; 0 for a place that is free.
    used: [u64; WAYS],
    uses: [u32; WAYS],
    points: [Cached; WAYS],
}

/// A bounded map from an encoded key to its points.
pub(super) struct KeyCache {
    sets: Box<[Set]>,
    hasher: RandomState,
    clock: u64,
}

impl KeyCache {
    /// A cache for `keys` keys, rounded up to 4 × a power of two; none at all for 0.
    pub(super) fn new(keys: usize, seed: &[u8; 32]) -> Self {
        let sets = if keys == 0 { 0 } else { keys.div_ceil(WAYS).next_power_of_two() };
        let nothing = Cached { point: Niels::IDENTITY, shifted: None };
        let empty = Set { keys: [[0; 32]; WAYS], used: [0; WAYS], uses: [0; WAYS], points: [nothing; WAYS] };
        Self { sets: vec![empty; sets].into_boxed_slice(), hasher: hasher(seed), clock: 0 }
    }

    /// The points of `key`, if it is here, and whether it is used often; marks it as used now.
    pub(super) fn get(&mut self, key: &[u8; 32]) -> Option<(Cached, bool)> {
        self.clock += 1;
        let clock = self.clock;
        let set = self.set_of(key)?;
        let place = set.find(key)?;
        set.used[place] = clock;
        set.uses[place] = set.uses[place].saturating_add(1);
        Some((set.points[place], set.uses[place] >= OFTEN))
    }

    /// Keeps `points` under `key`, in place of the key of its set that was unused for longest.
    pub(super) fn insert(&mut self, key: &[u8; 32], points: Cached) {
        self.clock += 1;
        let clock = self.clock;
        let Some(set) = self.set_of(key) else { return };
        let place = set.find(key).unwrap_or_else(|| {
            let place = set.oldest();
            set.uses[place] = 0;
            place
        });
        set.keys[place] = *key;
        set.used[place] = clock;
        set.points[place] = points;
    }

    fn set_of(&mut self, key: &[u8; 32]) -> Option<&mut Set> {
        let mask = u64::try_from(self.sets.len().checked_sub(1)?).expect("usize fits in u64");
        let index = usize::try_from(self.hasher.hash_one(key) & mask).expect("an index below len");
        self.sets.get_mut(index)
    }
}

/// The hash of keys, which nobody can foresee who does not know `seed`.
pub(super) fn hasher(seed: &[u8; 32]) -> RandomState {
    let derived = blake3::derive_key("TOP sigbatch v1 key cache", seed);
    let word = |i: usize| u64::from_le_bytes(*derived[8 * i..].first_chunk().expect("4 words of 8 bytes"));
    RandomState::with_seeds(word(0), word(1), word(2), word(3))
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
    use crate::sigbatch::field::Element;

    /// A key and what stands for its points.
    fn key(i: u8) -> ([u8; 32], Cached) {
        let mark = Element([u64::from(i), 0, 0, 0, 0]);
        ([i; 32], Cached { point: Niels([mark; 3]), shifted: None })
    }

    fn get(cache: &mut KeyCache, key: &[u8; 32]) -> Option<u64> {
        cache.get(key).map(|(cached, _)| cached.point.0[0].0[0])
    }

    #[test]
    fn finds_what_it_keeps_and_nothing_else() {
        let mut cache = KeyCache::new(1024, &[1; 32]);
        for (bytes, point) in (0..100).map(key) {
            assert_eq!(get(&mut cache, &bytes), None);
            cache.insert(&bytes, point);
        }
        for i in 0..100 {
            assert_eq!(get(&mut cache, &[i; 32]), Some(u64::from(i)));
        }
        let mut empty = KeyCache::new(4, &[1; 32]);
        assert_eq!(get(&mut empty, &[0; 32]), None, "a free place holds no key, not even the key of zeros");
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
        assert!(keys.iter().all(|(bytes, _)| get(&mut cache, bytes) == Some(u64::from(bytes[0]))));
    }

    #[test]
    fn a_cache_of_none_keeps_none() {
        let mut cache = KeyCache::new(0, &[4; 32]);
        let (bytes, point) = key(0);
        cache.insert(&bytes, point);
        assert_eq!(get(&mut cache, &bytes), None);
    }

    #[test]
    fn a_key_used_often_is_known_as_such_until_it_loses_its_place() {
        let mut cache = KeyCache::new(WAYS, &[5; 32]);
        let keys: Vec<_> = (0..=4).map(key).collect();
        cache.insert(&keys[0].0, keys[0].1);
        let often: Vec<bool> = (0..10).map(|_| cache.get(&keys[0].0).expect("it is there").1).collect();
        assert_eq!(often.iter().position(|&often| often), Some(OFTEN as usize - 1));
        cache.insert(&keys[0].0, keys[0].1);
        assert!(cache.get(&keys[0].0).expect("it is there").1, "kept anew, not forgotten");
        keys[1..].iter().for_each(|(bytes, points)| cache.insert(bytes, *points));
        cache.insert(&keys[0].0, keys[0].1);
        assert!(!cache.get(&keys[0].0).expect("it is there").1);
    }
}
