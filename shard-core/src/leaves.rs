//! The accounts' leaves, an array in order of creation. It grows by whole chunks, so nothing is copied and no room is kept
//! in reserve.

use dag::state_tree::AccountLeaf;

/// Leaves of one allocation.
const CHUNK: usize = 1024;

/// The array.
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

    pub(crate) fn get_mut(&mut self, position: usize) -> &mut AccountLeaf {
        &mut self.chunks[position / CHUNK][position % CHUNK]
    }

    pub(crate) fn push(&mut self, leaf: AccountLeaf) {
        if self.count.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks.last_mut().expect("pushed above where it was missing").push(leaf);
        self.count += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &AccountLeaf> {
        self.chunks.iter().flatten()
    }

    /// Bytes allocated.
    pub(crate) fn memory(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<AccountLeaf>()
    }
}
