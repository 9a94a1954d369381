//! A table's accounts: an array of leaves in order of creation, an index by address, and the tree over both.
//!
//! An account costs 88 bytes for its leaf, 64 for its part of the tree, and 6 to 10 for the index.

use dag::{
    Address, Hash,
    state_tree::{AccountLeaf, AccountProof, MAX_ACCOUNTS},
};

use crate::{
    index::{Index, Lookup},
    leaves::Leaves,
    snapshot::Copying,
    tree::Tree,
};

/// Place of an account in the order of creation.
pub type Position = u32;

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
        self.index.position(&self.leaves, address)
    }

    /// The places of several accounts, looked up side by side.
    pub(crate) fn positions<'a>(
        &self,
        addresses: impl Iterator<Item = &'a Address> + Clone,
        lookup: &mut Lookup,
    ) {
        self.index.positions(&self.leaves, addresses, lookup);
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
        let key = index.key(&leaf.address);
        if let Some(position) = index.find(key, leaves, &leaf.address) {
            return (position, false);
        }
        assert!((leaves.len() as u64) < MAX_ACCOUNTS, "positions are 32 bits");
        let position = Position::try_from(leaves.len()).expect("checked above");
        index.insert(key, leaves, position);
        leaves.push(leaf);
        tree.touch(position as usize);
        (position, true)
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
        self.leaves.memory() + self.index.memory() + self.tree.memory()
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
    fn an_account_costs_less_than_170_bytes() {
        // Sizes shortly behind those at which the index grows, where it is at its widest.
        for count in [41_000, 61_500, 92_000, 138_000] {
            let mut accounts = filled(count);
            accounts.hash_all();
            let each = accounts.memory() as f64 / count as f64;
            assert!(each <= 170.0, "{each} bytes for each of {count}");
        }
    }
}
