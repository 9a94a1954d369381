//! The Merkle tree over account leaves, kept so that a checkpoint hashes only what has changed.
//!
//! The shape is that of RFC 6962 (see [`dag::merkle`]). The two lowest levels are not stored: four neighbouring leaves make
//! a group, and a group is hashed anew as a whole. That costs a few hashes, eight to sixteen of them side by side, and
//! saves three quarters of the memory: what is stored comes to 16 bytes an account.

use dag::{
    Hash,
    hash::Domain,
    merkle,
    state_tree::{AccountLeaf, HASHED_LEAF_SIZE, LEAF_SIZE},
};

use crate::{
    accounts::Leaves,
    lanes::{LANES, Lanes},
};

/// Leaves under one stored node.
pub const GROUP: usize = 4;

/// A set of small numbers that is emptied in ascending order.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Takes the lowest number out. All words before `*from` are known to be empty.
    fn take_first(&mut self, from: &mut usize) -> Option<usize> {
        while let Some(word) = self.0.get_mut(*from) {
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                return Some(*from * 64 + bit);
            }
            *from += 1;
        }
        None
    }
}

/// One level of stored nodes.
#[derive(Clone, Debug, Default)]
struct Level {
    nodes: Vec<Hash>,
    dirty: Bits,
}

/// Where a recomputation stands.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    level: usize,
    word: usize,
}

/// The stored part of the tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Level 0 holds the groups, the last level the root.
    levels: Vec<Level>,
    /// Leaves under the last root.
    leaves: usize,
    sweep: Option<Sweep>,
    account: Lanes,
    node: Lanes,
}

impl Tree {
    /// A tree without leaves.
    pub fn new() -> Tree {
        let levels = vec![Level::default()];
        Tree {
            levels,
            leaves: 0,
            sweep: None,
            account: Lanes::new(&Domain::ACCOUNT),
            node: Lanes::new(&Domain::NODE),
        }
    }

    /// Notes that a leaf is new or has changed.
    ///
    /// # Panics
    /// In the midst of a recomputation.
    pub fn touch(&mut self, position: usize) {
        assert!(self.sweep.is_none(), "the state stands still while it is hashed");
        self.levels[0].dirty.insert(position / GROUP);
    }

    /// Hashes changed nodes and takes their number off `left`, until that is zero; `true` once the root is that of
    /// `leaves`.
    pub fn step(&mut self, leaves: &Leaves, left: &mut usize) -> bool {
        let mut sweep = self.sweep.unwrap_or_else(|| self.begin(leaves.len()));
        while sweep.level < self.levels.len() {
            if *left == 0 {
                self.sweep = Some(sweep);
                return false;
            }
            let done = self.hash_some(leaves, &mut sweep);
            *left = left.saturating_sub(done);
            if done == 0 {
                sweep = Sweep { level: sweep.level + 1, word: 0 };
            }
        }
        self.sweep = None;
        true
    }

    /// Gives every level the size that so many leaves ask for. Leaves are only ever added.
    fn begin(&mut self, leaves: usize) -> Sweep {
        let mut count = leaves.div_ceil(GROUP);
        let mut level = 0;
        loop {
            if level == self.levels.len() {
                self.levels.push(Level::default());
            }
            grow(&mut self.levels[level].nodes, count);
            if count <= 1 {
                break;
            }
            count = count.div_ceil(2);
            level += 1;
        }
        self.leaves = leaves;
        Sweep { level: 0, word: 0 }
    }

    /// Recomputes the next few dirty nodes of the sweep's level. Returns how many there were.
    fn hash_some(&mut self, leaves: &Leaves, sweep: &mut Sweep) -> usize {
        let mut indices = [0; LANES];
        let mut count = 0;
        while count < LANES {
            let Some(index) = self.levels[sweep.level].dirty.take_first(&mut sweep.word) else { break };
            indices[count] = index;
            count += 1;
        }
        let indices = &indices[..count];
        if sweep.level == 0 {
            self.hash_groups(leaves, indices);
        } else {
            self.hash_parents(sweep.level, indices);
        }
        if let Some(parents) = self.levels.get_mut(sweep.level + 1) {
            for index in indices {
                parents.dirty.insert(index / 2);
            }
        }
        count
    }

    fn hash_groups(&mut self, leaves: &Leaves, groups: &[usize]) {
        let whole = groups.partition_point(|group| (group + 1) * GROUP <= leaves.len());
        let mut hashes = [Hash::ZERO; LANES * GROUP];
        let mut records = [[0; HASHED_LEAF_SIZE]; LANES];
        for (groups, hashes) in groups[..whole].chunks(LANES / GROUP).zip(hashes.chunks_mut(LANES)) {
            for (group, records) in groups.iter().zip(records.chunks_mut(GROUP)) {
                for (offset, record) in records.iter_mut().enumerate() {
                    record[..LEAF_SIZE].copy_from_slice(&leaves.get(group * GROUP + offset).to_bytes());
                }
            }
            self.account.hash(&records[..groups.len() * GROUP], hashes);
        }
        self.halve(&mut hashes[..whole * GROUP]);
        self.halve(&mut hashes[..whole * GROUP / 2]);
        for (group, hash) in groups[..whole].iter().zip(&hashes) {
            self.levels[0].nodes[*group] = *hash;
        }
        if let Some(&last) = groups.get(whole) {
            self.levels[0].nodes[last] = merkle::root_in_place(&mut group_hashes(leaves, last, leaves.len()));
        }
    }

    /// Replaces neighbouring pairs by their parents, in the first half of the slice.
    fn halve(&self, hashes: &mut [Hash]) {
        let mut records = [[0; 64]; LANES];
        for start in (0..hashes.len() / 2).step_by(LANES) {
            let count = LANES.min(hashes.len() / 2 - start);
            for (i, record) in records[..count].iter_mut().enumerate() {
                *record = pair(&hashes[2 * (start + i)], &hashes[2 * (start + i) + 1]);
            }
            self.node.hash(&records[..count], &mut hashes[start..]);
        }
    }

    fn hash_parents(&mut self, level: usize, indices: &[usize]) {
        let (below, here) = self.levels.split_at_mut(level);
        let (below, here) = (&below[level - 1].nodes, &mut here[0].nodes);
        let whole = indices.partition_point(|index| 2 * index + 1 < below.len());
        let mut records = [[0; 64]; LANES];
        for (index, record) in indices[..whole].iter().zip(&mut records) {
            *record = pair(&below[2 * index], &below[2 * index + 1]);
        }
        let mut hashes = [Hash::ZERO; LANES];
        self.node.hash(&records[..whole], &mut hashes);
        for (index, hash) in indices[..whole].iter().zip(&hashes) {
            here[*index] = *hash;
        }
        if let Some(&odd) = indices.get(whole) {
            here[odd] = below[2 * odd];
        }
    }

    /// The root as of the last complete recomputation; zero where there are no leaves.
    ///
    /// # Panics
    /// In the midst of a recomputation.
    pub fn root(&self) -> Hash {
        assert!(self.sweep.is_none(), "the root is not known before the recomputation's end");
        self.levels.last().and_then(|top| top.nodes.first()).copied().unwrap_or(Hash::ZERO)
    }

    /// Leaves under that root.
    pub fn len(&self) -> usize {
        self.leaves
    }

    /// Siblings from a leaf up to the root; `None` where the leaf's group has changed since.
    pub fn path(&self, leaves: &Leaves, position: usize) -> Option<Vec<Hash>> {
        let mut index = position / GROUP;
        if self.sweep.is_some() || position >= self.leaves || self.levels[0].dirty.contains(index) {
            return None;
        }
        let mut path = merkle::path(&group_hashes(leaves, index, self.leaves), position % GROUP);
        for level in &self.levels {
            path.extend(level.nodes.get(index ^ 1));
            index /= 2;
        }
        Some(path)
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        let level = |level: &Level| level.nodes.capacity() * 32 + level.dirty.0.capacity() * 8;
        self.levels.iter().map(level).sum()
    }
}

/// Lengthens with little to spare: doubling would cost more memory than the tree's design saves.
fn grow(nodes: &mut Vec<Hash>, count: usize) {
    if count > nodes.capacity() {
        nodes.reserve_exact(count + count / 16 + 4 - nodes.len());
    }
    assert!(count >= nodes.len(), "accounts are never removed");
    nodes.resize(count, Hash::ZERO);
}

fn pair(left: &Hash, right: &Hash) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&left.0);
    bytes[32..].copy_from_slice(&right.0);
    bytes
}

fn group_hashes(leaves: &Leaves, group: usize, count: usize) -> Vec<Hash> {
    let end = count.min((group + 1) * GROUP);
    (group * GROUP..end).map(|position| AccountLeaf::hash(leaves.get(position))).collect()
}
