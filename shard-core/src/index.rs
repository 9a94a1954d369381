//! Where an address's leaf lies: a hash table of positions, which compares addresses in the array of leaves.
//!
//! A bucket is one line of the cache: twelve positions, and of each a byte of its address's hash to tell it by. So a look-up
//! takes two misses, the bucket and the leaf, and both can be asked for ahead. A bucket that is full overflows into the next
//! one; nothing is ever removed, so a search ends at the first bucket with room.
//!
//! The table is cut into parts that grow by themselves, so that no insertion has to move more than a part.

use ahash::RandomState;
use dag::Address;

use crate::{accounts::Position, leaves::Leaves, prefetch::prefetch};

/// Parts of the index.
const PARTS: usize = 64;
/// Positions of a bucket.
const SLOTS: usize = 12;
/// A part grows where more than so many of a bucket's slots are taken, on average.
const MAX_TAKEN: usize = 10;

/// The hash of an address under the index's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(u64);

impl Key {
    fn part(self) -> usize {
        (self.0 >> 48) as usize % PARTS
    }

    /// The bucket, of `count`, that the search begins at.
    fn bucket(self, count: usize) -> usize {
        (((self.0 & 0xffff_ffff) * count as u64) >> 32) as usize
    }

    /// Zero stands for an empty slot.
    fn tag(self) -> u8 {
        self.0.to_le_bytes()[5].max(1)
    }
}

#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Those of the slots, which are filled in order; the last four stay zero.
    tags: [u8; 16],
    positions: [Position; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// Positions with this tag.
    fn matching(&self, tag: u8) -> impl Iterator<Item = Position> {
        const LOW: u128 = u128::from_ne_bytes([0x7f; 16]);
        let other = u128::from_le_bytes(self.tags) ^ u128::from_ne_bytes([tag; 16]);
        // The top bit of each byte that is zero in `other`; no byte carries into the next.
        let mut same = !(((other & LOW) + LOW) | other | LOW);
        std::iter::from_fn(move || {
            let slot = same.trailing_zeros() as usize / 8;
            same &= same.wrapping_sub(1);
            self.positions.get(slot).copied()
        })
    }

    /// All of its positions.
    fn taken(&self) -> impl Iterator<Item = Position> {
        self.positions.iter().zip(self.tags).take_while(|(_, tag)| *tag != 0).map(|(position, _)| *position)
    }

    fn is_full(&self) -> bool {
        self.tags[SLOTS - 1] != 0
    }
}

#[derive(Debug, Default)]
struct Part {
    buckets: Vec<Bucket>,
    count: usize,
}

impl Part {
    /// The bucket that a search begins at; `None` where there is none yet.
    fn first(&self, key: Key) -> Option<&Bucket> {
        self.buckets.get(key.bucket(self.buckets.len()))
    }

    fn find(&self, key: Key, is_it: impl Fn(Position) -> bool) -> Option<Position> {
        let (before, from) = self.buckets.split_at(key.bucket(self.buckets.len()));
        for bucket in from.iter().chain(before) {
            let found = bucket.matching(key.tag()).find(|position| is_it(*position));
            if found.is_some() || !bucket.is_full() {
                return found;
            }
        }
        None
    }

    /// Takes a position in. There is room.
    fn place(&mut self, key: Key, position: Position) {
        let first = key.bucket(self.buckets.len());
        let (before, from) = self.buckets.split_at_mut(first);
        let bucket = from.iter_mut().chain(before).find(|bucket| !bucket.is_full());
        let bucket = bucket.expect("a part grows before it is full");
        let slot = bucket.tags.iter().position(|tag| *tag == 0).expect("it is not full");
        (bucket.tags[slot], bucket.positions[slot]) = (key.tag(), position);
        self.count += 1;
    }

    /// By half: what is empty is memory, and what moves is time. The leaves that say where all belongs lie anywhere, so those of
    /// the next bucket are asked for while this one's move.
    fn grow(&mut self, leaves: &Leaves, key_of: impl Fn(Position) -> Key) {
        let buckets = vec![Bucket::default(); self.buckets.len() + self.buckets.len().div_ceil(2).max(1)];
        let old = std::mem::replace(self, Part { buckets, count: 0 });
        for (at, bucket) in old.buckets.iter().enumerate() {
            let next = old.buckets.get(at + 1).into_iter().flat_map(Bucket::taken);
            next.for_each(|position| prefetch(leaves.get(position as usize)));
            bucket.taken().for_each(|position| self.place(key_of(position), position));
        }
    }
}

/// What a look-up of several addresses works with. Kept, so that it allocates once.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    keys: Vec<Key>,
    /// The places found, in the addresses' order.
    pub(crate) positions: Vec<Option<Position>>,
}

/// Positions by address.
#[derive(Debug)]
pub(crate) struct Index {
    parts: Vec<Part>,
    hasher: RandomState,
}

impl Index {
    pub(crate) fn new(seed: u64) -> Index {
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(17), seed.rotate_left(31), !seed);
        Index { parts: (0..PARTS).map(|_| Part::default()).collect(), hasher }
    }

    /// What an address is looked up and inserted by.
    pub(crate) fn key(&self, address: &Address) -> Key {
        Key(self.hasher.hash_one(address))
    }

    /// An account's place.
    pub(crate) fn position(&self, leaves: &Leaves, address: &Address) -> Option<Position> {
        self.find(self.key(address), leaves, address)
    }

    /// The same, by the address's key.
    pub(crate) fn find(&self, key: Key, leaves: &Leaves, address: &Address) -> Option<Position> {
        let is_it = |position: Position| leaves.get(position as usize).address == *address;
        self.parts[key.part()].find(key, is_it)
    }

    /// The places of several accounts. In three rounds, so that the memory of all is fetched at a time: the buckets, the leaves
    /// that these let expect, the addresses in them.
    pub(crate) fn positions<'a>(
        &self,
        leaves: &Leaves,
        addresses: impl Iterator<Item = &'a Address> + Clone,
        lookup: &mut Lookup,
    ) {
        lookup.keys.clear();
        lookup.keys.extend(addresses.clone().map(|address| {
            let key = self.key(address);
            self.parts[key.part()].first(key).inspect(|bucket| prefetch(*bucket));
            key
        }));
        for key in &lookup.keys {
            let bucket = self.parts[key.part()].first(*key);
            let candidates = bucket.into_iter().flat_map(|bucket| bucket.matching(key.tag()));
            candidates.for_each(|position| prefetch(leaves.get(position as usize)));
        }
        lookup.positions.clear();
        let found = lookup.keys.iter().zip(addresses).map(|(key, address)| self.find(*key, leaves, address));
        lookup.positions.extend(found);
    }

    /// Takes in an address that is unknown so far, by its key, and where its leaf lies or will lie.
    pub(crate) fn insert(&mut self, key: Key, leaves: &Leaves, position: Position) {
        let Index { parts, hasher } = self;
        let part = &mut parts[key.part()];
        if part.count >= part.buckets.len() * MAX_TAKEN {
            part.grow(leaves, |position| Key(hasher.hash_one(leaves.get(position as usize).address)));
        }
        part.place(key, position);
    }

    /// Bytes allocated.
    pub(crate) fn memory(&self) -> usize {
        self.parts.iter().map(|part| part.buckets.capacity() * size_of::<Bucket>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use dag::state_tree::AccountLeaf;
    use proptest::prelude::*;

    use super::*;

    /// Addresses that differ in so few ways that some come twice.
    fn address(number: u16) -> Address {
        let mut bytes = [0; 32];
        bytes[7..9].copy_from_slice(&number.to_le_bytes());
        Address(bytes)
    }

    proptest! {
        #[test]
        fn it_knows_what_was_inserted_and_nothing_else(
            numbers in prop::collection::btree_set(0..4000u16, 0..3000),
            seed: u64,
        ) {
            let (mut leaves, mut index) = (Leaves::default(), Index::new(seed));
            for number in &numbers {
                let address = address(*number);
                prop_assert_eq!(index.position(&leaves, &address), None);
                let position = Position::try_from(leaves.len()).unwrap();
                leaves.push(AccountLeaf { address, ..AccountLeaf::default() });
                index.insert(index.key(&address), &leaves, position);
                prop_assert_eq!(index.position(&leaves, &address), Some(position));
            }
            let all: Vec<Address> = (0..4000).map(address).collect();
            let mut lookup = Lookup::default();
            index.positions(&leaves, all.iter(), &mut lookup);
            for (number, found) in (0..4000u16).zip(&lookup.positions) {
                let place = numbers.contains(&number).then(|| numbers.range(..number).count());
                prop_assert_eq!(found.map(|position| position as usize), place);
                prop_assert_eq!(index.position(&leaves, &address(number)), *found);
            }
        }

        #[test]
        fn a_bucket_finds_the_slots_of_a_tag(tags in prop::collection::vec(1..5u8, 0..=SLOTS), tag in 1..5u8) {
            let mut bucket = Bucket::default();
            for (slot, tag) in tags.iter().enumerate() {
                (bucket.tags[slot], bucket.positions[slot]) = (*tag, 100 + Position::try_from(slot).unwrap());
            }
            let expected: Vec<Position> =
                (100..).zip(&tags).filter(|(_, other)| **other == tag).map(|(position, _)| position).collect();
            prop_assert_eq!(bucket.matching(tag).collect::<Vec<_>>(), expected);
            prop_assert_eq!(bucket.is_full(), tags.len() == SLOTS);
        }
    }

    #[test]
    fn a_search_goes_on_behind_a_full_bucket_and_around_the_end() {
        let keys: Vec<Key> = (0..30).map(|tag: u64| Key(0xffff_ffff | (tag + 1) << 40)).collect();
        let mut part = Part { buckets: vec![Bucket::default(); 4], count: 0 };
        for (key, position) in keys.iter().zip(0..) {
            assert_eq!(part.find(*key, |_| true), None);
            part.place(*key, position);
        }
        let taken = |bucket: &Bucket| bucket.taken().count();
        assert_eq!(part.buckets.iter().map(taken).collect::<Vec<_>>(), [12, 6, 0, 12]);
        for (key, position) in keys.iter().zip(0..) {
            assert_eq!(part.find(*key, |_| true), Some(position));
        }
    }
}
