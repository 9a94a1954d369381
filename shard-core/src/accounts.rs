//! A table's accounts: an array of leaves in order of creation, an index by address, and the tree over both.
//!
//! An account costs 88 bytes for its leaf, 64 for its part of the tree, and 6 to 12 for the index, which holds
//! positions only and compares addresses in the array. The array grows by whole chunks, so nothing is copied and no room
//! is kept in reserve; the index is cut into parts, so no single insertion has to move more than a part.

use std::hint::black_box;

use ahash::RandomState;
use dag::{
    Address, Hash,
    state_tree::{AccountLeaf, AccountProof, MAX_ACCOUNTS},
};
use hashbrown::{HashTable, hash_table::Entry};

use crate::{snapshot::Copying, tree::Tree};

/// Place of an account in the order of creation.
pub type Position = u32;

/// Leaves of one allocation.
const CHUNK: usize = 1024;
/// Parts of the index.
const PARTS: usize = 64;

/// The array of leaves.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    chunks: Vec<Vec<AccountLeaf>>,
    count: usize,
}

impl Leaves {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, position: usize) -> &AccountLeaf {
        &self.chunks[position / CHUNK][position % CHUNK]
    }

    fn get_mut(&mut self, position: usize) -> &mut AccountLeaf {
        &mut self.chunks[position / CHUNK][position % CHUNK]
    }

    fn push(&mut self, leaf: AccountLeaf) {
        if self.count.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks.last_mut().expect("pushed above where it was missing").push(leaf);
        self.count += 1;
    }

    fn iter(&self) -> impl Iterator<Item = &AccountLeaf> {
        self.chunks.iter().flatten()
    }
}

/// Positions by address.
#[derive(Debug)]
struct Index {
    parts: Vec<HashTable<Position>>,
    hasher: RandomState,
}

impl Index {
    fn new(seed: u64) -> Index {
        let hasher = RandomState::with_seeds(seed, seed.rotate_left(17), seed.rotate_left(31), !seed);
        Index { parts: (0..PARTS).map(|_| HashTable::new()).collect(), hasher }
    }

    fn hash(&self, address: &Address) -> u64 {
        self.hasher.hash_one(address)
    }

    /// hashbrown takes its buckets from the low bits and its tags from the high ones; the part comes from between.
    fn part(hash: u64) -> usize {
        (hash >> 40) as usize % PARTS
    }
}

/// Why an account can't be proven now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofError {
    /// Never paid.
    #[error("no such account")]
    Unknown,
    /// It has changed since the last checkpoint.
    #[error("changed since the last checkpoint: ask again after the next one")]
    Changed,
}

/// The accounts of a table.
#[derive(Debug)]
pub struct Accounts {
    leaves: Leaves,
    index: Index,
    tree: Tree,
    copying: Option<Copying>,
}

impl Accounts {
    /// No accounts yet. `index_seed` keys the index; no result depends on it.
    pub fn new(index_seed: u64) -> Accounts {
        Accounts {
            leaves: Leaves::default(),
            index: Index::new(index_seed),
            tree: Tree::new(),
            copying: None,
        }
    }

    /// Number of accounts.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An account's state.
    pub fn get(&self, address: &Address) -> Option<&AccountLeaf> {
        self.position(address).map(|position| self.leaf(position))
    }

    /// An account's place.
    pub fn position(&self, address: &Address) -> Option<Position> {
        let hash = self.index.hash(address);
        let same = |position: &Position| self.leaf(*position).address == *address;
        self.index.parts[Index::part(hash)].find(hash, same).copied()
    }

    /// The places of several accounts. In two rounds, so that the memory of all is fetched at a time: first a guess by the
    /// index alone, which is wrong once in a hundred times, then a look at the accounts.
    ///
    /// # Panics
    /// Where there are more addresses than `N`.
    pub(crate) fn positions<'a, const N: usize>(
        &self,
        addresses: impl Iterator<Item = &'a Address> + Clone,
    ) -> [Option<Position>; N] {
        let mut guesses = [None; N];
        for (at, address) in addresses.clone().enumerate() {
            let hash = self.index.hash(address);
            guesses[at] = self.index.parts[Index::part(hash)].find(hash, |_| true).copied();
        }
        for (guess, address) in guesses.iter_mut().zip(addresses) {
            let Some(position) = *guess else { continue };
            let leaf = self.leaf(position);
            // A leaf lies on two lines of the cache: what is read here comes while the others do.
            black_box(leaf.balance);
            if leaf.address != *address {
                *guess = self.position(address);
            }
        }
        guesses
    }

    /// The state of the account at a place.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn leaf(&self, position: Position) -> &AccountLeaf {
        self.leaves.get(position as usize)
    }

    /// All accounts in order of creation.
    pub fn iter(&self) -> impl Iterator<Item = &AccountLeaf> {
        self.leaves.iter()
    }

    /// The account's place; it is created, empty, where it is unknown.
    pub(crate) fn position_or_create(&mut self, address: &Address) -> Position {
        self.insert(AccountLeaf { address: *address, ..AccountLeaf::default() }).0
    }

    /// Appends a leaf whose address is unknown so far; else nothing is done. Returns the place, and whether it is new.
    pub(crate) fn insert(&mut self, leaf: AccountLeaf) -> (Position, bool) {
        let Accounts { leaves, index, tree, .. } = self;
        let hash = index.hash(&leaf.address);
        let address_at = |position: &Position| &leaves.get(*position as usize).address;
        let same = |position: &Position| *address_at(position) == leaf.address;
        let rehash = |position: &Position| index.hasher.hash_one(address_at(position));
        match index.parts[Index::part(hash)].entry(hash, same, rehash) {
            Entry::Occupied(entry) => (*entry.get(), false),
            Entry::Vacant(entry) => {
                assert!((leaves.len() as u64) < MAX_ACCOUNTS, "positions are 32 bits");
                let position = Position::try_from(leaves.len()).expect("checked above");
                entry.insert(position);
                leaves.push(leaf);
                tree.touch(position as usize);
                (position, true)
            }
        }
    }

    /// A leaf about to change.
    pub(crate) fn leaf_mut(&mut self, position: Position) -> &mut AccountLeaf {
        let at = position as usize;
        self.tree.touch(at);
        let leaf = self.leaves.get_mut(at);
        if let Some(copying) = &mut self.copying {
            copying.before_change(position, leaf);
        }
        leaf
    }

    /// Gives a leaf that was changed by [`leaf_mut`](Self::leaf_mut) just now the hash of its newest unit.
    pub(crate) fn set_unit_head(&mut self, position: Position, head: Hash) {
        self.leaves.get_mut(position as usize).unit_head = head;
    }

    /// Hashes changed nodes of the tree and takes their number off `left`, until that is zero; `true` once
    /// [`root`](Self::root) is that of the present state. Between the first call and that one no account may change.
    pub fn hash_step(&mut self, left: &mut usize) -> bool {
        self.tree.step(&self.leaves, left)
    }

    /// Hashes all that has changed.
    pub fn hash_all(&mut self) {
        while !self.hash_step(&mut usize::MAX.clone()) {}
    }

    /// The root as of the last finished [`hash_step`](Self::hash_step).
    ///
    /// # Panics
    /// In the midst of hashing.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Proves an account against the root as of the last finished [`hash_step`](Self::hash_step).
    pub fn prove(&self, address: &Address) -> Result<AccountProof, ProofError> {
        let position = self.position(address).ok_or(ProofError::Unknown)?;
        let path = self.tree.path(position as usize).ok_or(ProofError::Changed)?;
        let (leaf, accounts) = (*self.leaf(position), self.tree.len() as u64);
        Ok(AccountProof { leaf, position: position.into(), accounts, path })
    }

    /// Starts to copy the present state aside, or starts over.
    pub fn begin_snapshot(&mut self) {
        self.copying = Some(Copying::new(self.len()));
    }

    /// The next section of the copy: up to `max` accounts as they were at [`begin_snapshot`](Self::begin_snapshot),
    /// whatever has changed since. `None`, and the copy over, once all are out.
    pub fn snapshot_step(&mut self, max: usize) -> Option<Vec<u8>> {
        let section = self.copying.as_mut()?.next_section(&self.leaves, max);
        if section.is_none() {
            self.copying = None;
        }
        section
    }

    /// Gives the copy up.
    pub fn end_snapshot(&mut self) {
        self.copying = None;
    }

    /// Bytes allocated for accounts, index and tree.
    pub fn memory(&self) -> usize {
        let leaves = self.leaves.chunks.len() * CHUNK * size_of::<AccountLeaf>();
        let index: usize = self.index.parts.iter().map(HashTable::allocation_size).sum();
        leaves + index + self.tree.memory()
    }
}

#[cfg(test)]
mod tests {
    use dag::{hash::Domain, merkle};
    use proptest::prelude::*;

    use super::*;

    fn address(number: usize) -> Address {
        Address(Domain::UNIT.hash(&number.to_le_bytes()).0)
    }

    fn filled(count: usize) -> Accounts {
        let mut accounts = Accounts::new(7);
        (0..count).for_each(|number| {
            assert_eq!(accounts.position_or_create(&address(number)), u32::try_from(number).unwrap())
        });
        accounts
    }

    proptest! {
        #[test]
        fn the_root_is_that_of_all_leaves_whatever_the_slices(
            rounds in prop::collection::vec((0..90usize, prop::collection::vec(any::<u32>(), 0..20)), 1..6),
            slice in 1..40usize,
        ) {
            let mut accounts = Accounts::new(1);
            for (grown, changes) in rounds {
                let start = accounts.len();
                for number in start..start + grown {
                    accounts.position_or_create(&address(number));
                }
                for change in changes {
                    if let Some(position) = change.checked_rem(u32::try_from(accounts.len()).unwrap()) {
                        accounts.leaf_mut(position).balance += 1;
                    }
                }
                while !accounts.hash_step(&mut slice.clone()) {}
                let hashes: Vec<Hash> = accounts.iter().map(AccountLeaf::hash).collect();
                prop_assert_eq!(accounts.root(), merkle::root(&hashes));
                for (position, leaf) in accounts.iter().enumerate() {
                    let proof = accounts.prove(&leaf.address).unwrap();
                    prop_assert_eq!((proof.leaf, proof.position), (*leaf, position as u64));
                    prop_assert_eq!(proof.path, merkle::path(&hashes, position));
                }
            }
        }
    }

    #[test]
    fn what_changed_since_the_root_is_not_proven() {
        let mut accounts = filled(9);
        assert_eq!(accounts.prove(&address(0)), Err(ProofError::Changed));
        accounts.hash_all();
        accounts.leaf_mut(1).balance = 5;
        accounts.position_or_create(&address(9));
        assert_eq!(accounts.prove(&address(1)), Err(ProofError::Changed));
        // Its neighbour's hash in the proof is that under the root, not that of now.
        assert_eq!(accounts.prove(&address(0)).unwrap().root(), Some(accounts.root()));
        assert_eq!(accounts.prove(&address(4)).unwrap().root(), Some(accounts.root()));
        assert_eq!(accounts.prove(&address(9)), Err(ProofError::Changed));
        assert_eq!(accounts.prove(&address(10)), Err(ProofError::Unknown));
    }

    #[test]
    fn an_account_costs_less_than_176_bytes() {
        // Sizes around those at which the index has just grown, where it is at its widest.
        for count in [30_000, 58_000, 62_500, 120_000] {
            let mut accounts = filled(count);
            accounts.hash_all();
            let each = accounts.memory() as f64 / count as f64;
            assert!(each <= 176.0, "{each} bytes for each of {count}");
        }
    }
}
