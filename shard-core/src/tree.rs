//! The Merkle tree over account leaves, kept so that a checkpoint hashes only what has changed.
//!
//! The shape is that of RFC 6962 (see [`dag::merkle`]). All levels are stored, the leaves' hashes included: 64 bytes an account.
//! Without the lowest two it would be 16, but then each change costs the hashes of three neighbours, of which each is two
//! blocks long and at a place of memory of its own. Nodes are hashed eight to sixteen side by side.

use dag::{
    Hash,
    hash::Domain,
    state_tree::{HASHED_LEAF_SIZE, LEAF_SIZE},
};

use crate::{
    lanes::{LANES, Lanes},
    leaves::Leaves,
    prefetch::prefetch,
};

/// Nodes that count as one operation of a slice.
const NODES: usize = 4;
/// Nodes that are taken at a time. While some of them are hashed, the memory of the next ones is on its way.
const TAKEN: usize = 8 * LANES;

/// A set of small numbers that is emptied in ascending order.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, index: usize) {
        self.insert_word(index / 64, 1 << (index % 64));
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Takes the lowest numbers out, as many as there are places, and adds each one's half to `halves`. All words before
    /// `*from` are known to be empty. Returns how many there were.
    fn take(&mut self, from: &mut usize, places: &mut [usize], mut halves: Option<&mut Bits>) -> usize {
        let mut count = 0;
        while let Some(word) = self.0.get_mut(*from) {
            if *word == 0 {
                *from += 1;
                continue;
            }
            if let Some(halves) = &mut halves {
                halves.insert_word(*from / 2, pairs(*word) << (32 * (*from % 2)));
            }
            while *word != 0 {
                let Some(place) = places.get_mut(count) else { return count };
                *place = *from * 64 + word.trailing_zeros() as usize;
                *word &= *word - 1;
                count += 1;
            }
        }
        count
    }

    fn insert_word(&mut self, at: usize, bits: u64) {
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= bits;
    }
}

/// Bit i is set where bit 2i or bit 2i + 1 of `word` is.
fn pairs(word: u64) -> u64 {
    let mut bits = (word | word >> 1) & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits
}

/// One level of stored nodes.
#[derive(Clone, Debug, Default)]
struct Level {
    nodes: Vec<[u8; 32]>,
    dirty: Bits,
}

/// Where a recomputation stands.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    level: usize,
    word: usize,
}

/// The tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Level 0 holds the hashes of the leaves, the last level the root.
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
        self.levels[0].dirty.insert(position);
    }

    /// Hashes changed nodes and takes their number, in fours, off `left`, until that is zero; `true` once the root is that
    /// of `leaves`.
    pub fn step(&mut self, leaves: &Leaves, left: &mut usize) -> bool {
        let mut sweep = self.sweep.unwrap_or_else(|| self.begin(leaves.len()));
        while sweep.level < self.levels.len() {
            if *left == 0 {
                self.sweep = Some(sweep);
                return false;
            }
            let done = self.hash_some(leaves, &mut sweep);
            *left = left.saturating_sub(done.div_ceil(NODES));
            if done == 0 {
                sweep = Sweep { level: sweep.level + 1, word: 0 };
            }
        }
        self.sweep = None;
        true
    }

    /// Gives every level the size that so many leaves ask for. Leaves are only ever added.
    fn begin(&mut self, leaves: usize) -> Sweep {
        let mut count = leaves;
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
        let mut indices = [0; TAKEN];
        let (level, above) =
            self.levels[sweep.level..].split_first_mut().expect("the sweep is within the levels");
        let parents = above.first_mut().map(|level| &mut level.dirty);
        let count = level.dirty.take(&mut sweep.word, &mut indices, parents);
        let mut batches = indices[..count].chunks(LANES).peekable();
        if let Some(first) = batches.peek() {
            self.ask_for(leaves, sweep.level, first);
        }
        while let Some(batch) = batches.next() {
            if let Some(next) = batches.peek() {
                self.ask_for(leaves, sweep.level, next);
            }
            match sweep.level {
                0 => self.hash_leaves(leaves, batch),
                level => self.hash_parents(level, batch),
            }
        }
        count
    }

    /// Asks for the memory that the hashing of these nodes touches.
    fn ask_for(&self, leaves: &Leaves, level: usize, indices: &[usize]) {
        indices.iter().for_each(|index| prefetch(&self.levels[level].nodes[*index]));
        match level.checked_sub(1) {
            None => indices.iter().for_each(|position| prefetch(leaves.get(*position))),
            Some(below) => {
                let below = &self.levels[below].nodes;
                indices.iter().for_each(|index| prefetch(&below[2 * index]));
            }
        }
    }

    fn hash_leaves(&mut self, leaves: &Leaves, positions: &[usize]) {
        let mut records = [[0; HASHED_LEAF_SIZE]; LANES];
        let mut inputs = [&[0; HASHED_LEAF_SIZE]; LANES];
        for ((position, record), input) in positions.iter().zip(&mut records).zip(&mut inputs) {
            record[..LEAF_SIZE].copy_from_slice(&leaves.get(*position).to_bytes());
            *input = record;
        }
        let hashes = self.account.hash_at(&inputs[..positions.len()]);
        for (position, hash) in positions.iter().zip(hashes) {
            self.levels[0].nodes[*position] = hash;
        }
    }

    fn hash_parents(&mut self, level: usize, indices: &[usize]) {
        let (below, here) = self.levels.split_at_mut(level);
        let (below, here) = (&below[level - 1].nodes, &mut here[0].nodes);
        // Siblings lie side by side, as they are hashed.
        let (pairs, odd) = below.as_flattened().as_chunks();
        let whole = indices.partition_point(|&index| index < pairs.len());
        let mut inputs = [&[0; 64]; LANES];
        for (index, input) in indices[..whole].iter().zip(&mut inputs) {
            *input = &pairs[*index];
        }
        let hashes = self.node.hash_at(&inputs[..whole]);
        for (index, hash) in indices[..whole].iter().zip(hashes) {
            here[*index] = hash;
        }
        if let Some(&last) = indices.get(whole) {
            here[last] = odd.try_into().expect("one without a sibling is left");
        }
    }

    /// The root as of the last complete recomputation; zero where there are no leaves.
    ///
    /// # Panics
    /// In the midst of a recomputation.
    pub fn root(&self) -> Hash {
        assert!(self.sweep.is_none(), "the root is not known before the recomputation's end");
        Hash(self.levels.last().and_then(|top| top.nodes.first()).copied().unwrap_or_default())
    }

    /// Leaves under that root.
    pub fn len(&self) -> usize {
        self.leaves
    }

    /// Siblings from a leaf up to the root; `None` where the leaf has changed since.
    pub fn path(&self, position: usize) -> Option<Vec<Hash>> {
        if self.sweep.is_some() || position >= self.leaves || self.levels[0].dirty.contains(position) {
            return None;
        }
        let siblings = self.levels.iter().enumerate();
        let sibling = |(level, nodes): (usize, &Level)| nodes.nodes.get(position >> level ^ 1).copied();
        Some(siblings.filter_map(sibling).map(Hash).collect())
    }

    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        let level = |level: &Level| level.nodes.capacity() * 32 + level.dirty.0.capacity() * 8;
        self.levels.iter().map(level).sum()
    }
}

/// Lengthens with little to spare: doubling would cost more memory than the tree's design saves.
fn grow(nodes: &mut Vec<[u8; 32]>, count: usize) {
    if count > nodes.capacity() {
        nodes.reserve_exact(count + count / 16 + 4 - nodes.len());
    }
    assert!(count >= nodes.len(), "accounts are never removed");
    nodes.resize(count, [0; 32]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_come_out_in_order_and_leave_their_halves(
            numbers in prop::collection::btree_set(0..1000usize, 0..200),
            room in 1..20usize,
        ) {
            let (mut bits, mut halves) = (Bits::default(), Bits::default());
            numbers.iter().for_each(|&number| bits.insert(number));
            prop_assert!((0..1100).all(|number| bits.contains(number) == numbers.contains(&number)));
            let (mut from, mut taken, mut places) = (0, Vec::new(), vec![0; room]);
            loop {
                let count = bits.take(&mut from, &mut places, Some(&mut halves));
                taken.extend_from_slice(&places[..count]);
                if count < room {
                    break;
                }
            }
            prop_assert!(taken.iter().eq(&numbers));
            let expected: std::collections::BTreeSet<usize> = numbers.iter().map(|number| number / 2).collect();
            prop_assert!((0..600).all(|number| halves.contains(number) == expected.contains(&number)));
        }
    }
}
