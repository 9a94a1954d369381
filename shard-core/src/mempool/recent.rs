//! The places of transactions that were committed lately, so that a client that asks twice is answered twice.

use ahash::RandomState;
use dag::{Hash, Height, TableId};
use hashbrown::HashTable;

use super::Place;

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: Hash,
    height: Height,
    index: u32,
}

/// A ring of the newest ones, with an index by id.
#[derive(Debug)]
pub struct Recent {
    table: TableId,
    capacity: usize,
    ring: Vec<Slot>,
    /// Where the next one goes once the ring is full: the oldest one's slot.
    oldest: usize,
    by_id: HashTable<u32>,
    hasher: RandomState,
}

impl Recent {
    /// # Panics
    /// Where the capacity is zero.
    pub fn new(table: TableId, capacity: usize, seed: u64) -> Recent {
        assert!(capacity > 0, "at least one is remembered");
        let hasher = RandomState::with_seeds(seed, 5, !seed, 6);
        Recent { table, capacity, ring: Vec::new(), oldest: 0, by_id: HashTable::new(), hasher }
    }

    pub fn place(&self, id: &Hash) -> Option<Place> {
        let same = |at: &u32| self.ring[*at as usize].id == *id;
        let at = self.by_id.find(self.hasher.hash_one(id), same)?;
        let Slot { height, index, .. } = self.ring[*at as usize];
        Some(Place { table: self.table, height, index })
    }

    pub fn insert(&mut self, id: Hash, height: Height, index: u32) {
        let slot = Slot { id, height, index };
        let at = if self.ring.len() < self.capacity {
            self.ring.push(slot);
            self.ring.len() - 1
        } else {
            let at = self.oldest;
            let old = self.hasher.hash_one(self.ring[at].id);
            let found = self.by_id.find_entry(old, |other| *other as usize == at);
            found.expect("every slot is in the index").remove();
            self.ring[at] = slot;
            self.oldest = (at + 1) % self.capacity;
            at
        };
        let (ring, hasher) = (&self.ring, &self.hasher);
        let rehash = |at: &u32| hasher.hash_one(ring[*at as usize].id);
        let short = u32::try_from(at).expect("the capacity is far below 2³²");
        self.by_id.insert_unique(hasher.hash_one(id), short, rehash);
    }
}

impl super::Mempool {
    /// The record of a transaction that waits here verified.
    pub fn waiting(&self, id: &Hash) -> Option<&bytes::Bytes> {
        self.entries.find(id).map(|key| &self.entries.get(key).record)
    }

    /// Where a transaction stands that was committed not long ago.
    pub fn place(&self, id: &Hash) -> Option<Place> {
        self.recent.place(id)
    }
}
