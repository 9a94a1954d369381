//! Committed blocks that are kept at hand, for peers that are a little behind and for queries.
//!
//! Bounded in bytes; who needs older blocks gets a snapshot instead.

use std::collections::VecDeque;

use dag::{Block, Certificate, Hash, Height, client::Code};

/// A committed block with its proof.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The block.
    pub block: Block,
    /// A quorum's commit votes.
    pub certificate: Certificate,
    /// What became of each transaction; empty until the block is executed.
    pub codes: Vec<Code>,
}

/// The newest committed blocks of one table, without gaps.
#[derive(Debug)]
pub struct History {
    blocks: VecDeque<Committed>,
    bytes: usize,
    max_bytes: usize,
}

impl History {
    /// Keeps blocks of at most `max_bytes` together, and always the newest one.
    pub fn new(max_bytes: usize) -> History {
        History { blocks: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Adds the next block. A gap, as after a state transfer, forgets all that lies before it.
    pub fn push(&mut self, block: Block, certificate: Certificate) {
        if self.blocks.back().is_some_and(|last| last.block.height() + 1 != block.height()) {
            self.blocks.clear();
            self.bytes = 0;
        }
        self.bytes += block.bytes().len();
        self.blocks.push_back(Committed { block, certificate, codes: Vec::new() });
        while self.bytes > self.max_bytes && self.blocks.len() > 1 {
            let oldest = self.blocks.pop_front().expect("there are two");
            self.bytes -= oldest.block.bytes().len();
        }
    }

    /// Notes what became of a block's transactions.
    pub fn executed(&mut self, height: Height, codes: Vec<Code>) {
        if let Some(place) = self.place(height) {
            self.blocks[place].codes = codes;
        }
    }

    /// The block of a height, where it is kept.
    pub fn at(&self, height: Height) -> Option<&Committed> {
        self.place(height).map(|place| &self.blocks[place])
    }

    /// The block of a hash, where it is kept.
    pub fn by_hash(&self, hash: &Hash) -> Option<&Committed> {
        self.blocks.iter().rev().find(|committed| committed.block.hash() == *hash)
    }

    /// Blocks from a height on, as many as fit `max_bytes` and at least one; none where the height is not kept.
    pub fn range(&self, from: Height, to: Height, max_bytes: usize) -> Vec<(Certificate, Block)> {
        let mut bytes = 0;
        let place = self.place(from).unwrap_or(self.blocks.len());
        self.blocks
            .range(place..)
            .take_while(|committed| {
                let first = bytes == 0;
                // A certificate is about 300 bytes a signer.
                bytes += committed.block.bytes().len() + 300 * committed.certificate.proofs.len();
                committed.block.height() <= to && (first || bytes <= max_bytes)
            })
            .map(|committed| (committed.certificate.clone(), committed.block.clone()))
            .collect()
    }

    fn place(&self, height: Height) -> Option<usize> {
        let first = self.blocks.front()?.block.height();
        let place = usize::try_from(height.checked_sub(first)?).ok()?;
        (place < self.blocks.len()).then_some(place)
    }
}
