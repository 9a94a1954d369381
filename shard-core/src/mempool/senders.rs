//! Accounts that have something waiting, or in a proposed block.

use ahash::RandomState;
use dag::Address;
use hashbrown::HashTable;
use slab::Slab;

use super::entries::Key;

/// An account's chain of waiting transactions.
#[derive(Clone, Debug)]
pub struct Sender {
    pub address: Address,
    pub first: Option<Key>,
    pub last: Option<Key>,
    /// Sequence of the last one; zero where there is none.
    pub tail_sequence: u64,
    pub count: usize,
    /// What they spend.
    pub total: u128,
    /// The last sequence that a proposed block holds, where that one is not yet executed; else zero.
    pub proposed: u64,
    /// How many no proposed block holds, and the first of them.
    pub ready: usize,
    pub next_ready: Option<Key>,
    /// Whether it stands in the ready queue, and its neighbours there.
    pub queued: bool,
    pub before: Option<usize>,
    pub after: Option<usize>,
    /// Whether it is on the list of those that the block at hand concerns.
    pub touched: bool,
}

impl Sender {
    fn new(address: Address) -> Sender {
        Sender {
            address,
            first: None,
            last: None,
            tail_sequence: 0,
            count: 0,
            total: 0,
            proposed: 0,
            ready: 0,
            next_ready: None,
            queued: false,
            before: None,
            after: None,
            touched: false,
        }
    }

    /// The last sequence that is proposed or waits.
    pub fn last_sequence(&self) -> u64 {
        self.tail_sequence.max(self.proposed)
    }

    fn is_idle(&self) -> bool {
        self.first.is_none() && self.proposed == 0 && !self.queued && !self.touched
    }
}

/// The accounts, in a slab, with an index by address.
#[derive(Debug)]
pub struct Senders {
    slab: Slab<Sender>,
    by_address: HashTable<u32>,
    hasher: RandomState,
}

impl Senders {
    pub fn new(seed: u64) -> Senders {
        let hasher = RandomState::with_seeds(seed, 3, !seed, 4);
        Senders { slab: Slab::new(), by_address: HashTable::new(), hasher }
    }

    pub fn get(&self, key: usize) -> &Sender {
        &self.slab[key]
    }

    pub fn get_mut(&mut self, key: usize) -> &mut Sender {
        &mut self.slab[key]
    }

    pub fn find(&self, address: &Address) -> Option<usize> {
        let same = |key: &u32| self.slab[*key as usize].address == *address;
        self.by_address.find(self.hasher.hash_one(address), same).map(|key| *key as usize)
    }

    pub fn find_or_insert(&mut self, address: &Address) -> usize {
        if let Some(key) = self.find(address) {
            return key;
        }
        let key = self.slab.insert(Sender::new(*address));
        let (slab, hasher) = (&self.slab, &self.hasher);
        let rehash = |key: &u32| hasher.hash_one(slab[*key as usize].address);
        let short = u32::try_from(key).expect("a mempool's limit is far below 2³²");
        self.by_address.insert_unique(hasher.hash_one(address), short, rehash);
        key
    }

    /// Forgets the account where nothing is left to know of it.
    pub fn remove_if_idle(&mut self, key: usize) {
        if !self.slab[key].is_idle() {
            return;
        }
        let sender = self.slab.remove(key);
        let hash = self.hasher.hash_one(sender.address);
        let found = self.by_address.find_entry(hash, |other| *other as usize == key);
        found.expect("every sender is in the index").remove();
    }

    /// All keys, in the slab's order.
    pub fn keys(&self) -> Vec<usize> {
        self.slab.iter().map(|(key, _)| key).collect()
    }
}
