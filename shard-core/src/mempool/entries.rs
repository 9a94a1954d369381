//! The verified transactions, in a slab, with an index by id and a list by arrival.

use ahash::RandomState;
use bytes::Bytes;
use dag::Hash;
use hashbrown::HashTable;
use slab::Slab;

use super::{Answer, ENTRY_OVERHEAD, Origin, Settled, senders::Sender};

/// Place in the slab.
pub type Key = usize;

/// Submissions of one transaction that are answered.
const MAX_ORIGINS: usize = 4;

/// Those who submitted a transaction.
#[derive(Debug)]
pub struct Origins {
    first: Origin,
    more: Vec<Origin>,
}

impl Origins {
    pub fn new(first: Origin) -> Origins {
        Origins { first, more: Vec::new() }
    }

    /// Adds one who wants to be told too; `false` where there are too many. A peer needs no telling.
    pub fn add(&mut self, origin: Origin) -> bool {
        if matches!(origin, Origin::Peer(_)) {
            return true;
        }
        if matches!(self.first, Origin::Peer(_)) {
            self.first = origin;
            return true;
        }
        let room = self.more.len() + 1 < MAX_ORIGINS;
        if room {
            self.more.push(origin);
        }
        room
    }

    /// Whether a client of this node waits for it.
    pub fn any_client(&self) -> bool {
        matches!(self.first, Origin::Client { .. })
    }

    /// Tells all clients.
    pub fn answer(&mut self, answer: Answer, settled: &mut Vec<Settled>) {
        let all = std::iter::once(self.first).chain(self.more.drain(..));
        let clients = all.filter(|origin| matches!(origin, Origin::Client { .. }));
        settled.extend(clients.map(|origin| Settled { origin, answer }));
    }
}

/// A verified transaction that is not yet executed.
#[derive(Debug)]
pub struct Entry {
    pub record: Bytes,
    pub id: Hash,
    /// Its sender's key.
    pub sender: usize,
    pub sequence: u64,
    pub fee: u64,
    /// Amounts and fee.
    pub total: u64,
    pub arrival: u64,
    pub origins: Origins,
    /// The sender's next one.
    pub next: Option<Key>,
    /// Executed and answered; to be removed with the next look at its sender's chain.
    pub settled: bool,
}

#[derive(Debug)]
struct Node {
    entry: Entry,
    older: Option<Key>,
    newer: Option<Key>,
}

// What is counted for a transaction covers its share of the slabs and indices, its sender's record included.
const _: () = assert!(size_of::<Node>() + size_of::<Sender>() + 4 * size_of::<Origin>() <= ENTRY_OVERHEAD);

/// The verified transactions.
#[derive(Debug)]
pub struct Entries {
    slab: Slab<Node>,
    by_id: HashTable<u32>,
    hasher: RandomState,
    oldest: Option<Key>,
    newest: Option<Key>,
    /// The oldest one that was not yet looked at for forwarding.
    forward: Option<Key>,
    bytes: usize,
}

impl Entries {
    pub fn new(seed: u64) -> Entries {
        let hasher = RandomState::with_seeds(seed, 1, !seed, 2);
        let (slab, by_id) = (Slab::new(), HashTable::new());
        Entries { slab, by_id, hasher, oldest: None, newest: None, forward: None, bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, key: Key) -> &Entry {
        &self.slab[key].entry
    }

    pub fn get_mut(&mut self, key: Key) -> &mut Entry {
        &mut self.slab[key].entry
    }

    pub fn find(&self, id: &Hash) -> Option<Key> {
        let same = |key: &u32| self.slab[*key as usize].entry.id == *id;
        self.by_id.find(self.hasher.hash_one(id), same).map(|key| *key as usize)
    }

    /// A chain's entries from this one on.
    pub fn chain(&self, first: Option<Key>) -> impl Iterator<Item = (Key, &Entry)> {
        std::iter::successors(first, |key| self.get(*key).next).map(|key| (key, self.get(key)))
    }

    /// Adds one, as the newest.
    ///
    /// # Panics
    /// Where its id is here already.
    pub fn insert(&mut self, entry: Entry) -> Key {
        assert!(self.find(&entry.id).is_none(), "an id is held once");
        self.bytes += entry.record.len() + ENTRY_OVERHEAD;
        let hash = self.hasher.hash_one(entry.id);
        let key = self.slab.insert(Node { entry, older: self.newest, newer: None });
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash = |key: &u32| hasher.hash_one(slab[*key as usize].entry.id);
        let short = u32::try_from(key).expect("a mempool's limit is far below 2³²");
        self.by_id.insert_unique(hash, short, rehash);
        match self.newest {
            Some(newest) => self.slab[newest].newer = Some(key),
            None => self.oldest = Some(key),
        }
        self.newest = Some(key);
        self.forward = self.forward.or(Some(key));
        key
    }

    pub fn remove(&mut self, key: Key) -> Entry {
        let Node { entry, older, newer } = self.slab.remove(key);
        match older {
            Some(older) => self.slab[older].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.slab[newer].older = older,
            None => self.newest = older,
        }
        if self.forward == Some(key) {
            self.forward = newer;
        }
        let found = self.by_id.find_entry(self.hasher.hash_one(entry.id), |other| *other as usize == key);
        found.expect("every entry is in the index").remove();
        self.bytes -= entry.record.len() + ENTRY_OVERHEAD;
        entry
    }

    pub fn oldest(&self) -> Option<&Entry> {
        self.oldest.map(|key| self.get(key))
    }

    /// Keys by arrival.
    pub fn by_arrival(&self) -> impl Iterator<Item = Key> {
        std::iter::successors(self.oldest, |key| self.slab[*key].newer)
    }

    /// The next one that was not yet looked at for forwarding.
    pub fn next_to_forward(&mut self) -> Option<&Entry> {
        let key = self.forward?;
        self.forward = self.slab[key].newer;
        Some(self.get(key))
    }

    pub fn forward_again(&mut self) {
        self.forward = self.oldest;
    }
}
