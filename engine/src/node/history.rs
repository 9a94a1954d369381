//! Committed blocks that are kept at hand, for peers that are a little behind and for queries.
//!
//! Bounded in bytes; who needs older blocks gets a snapshot instead. That ends at the stable checkpoint, so blocks above it stay
//! whatever their bytes, of which the agreement's watermark keeps them few: who lacks them gets them nowhere else.

use std::collections::VecDeque;

use dag::{Block, Certificate, Hash, Height, client::Code};

/// A committed block with its proof.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The block.
    pub block: Block,
    /// A quorum's commit votes.
    pub certificate: Certificate,
    /// What became of each transaction, once the block is executed.
    pub codes: Option<Vec<Code>>,
}

/// The newest committed blocks of one table, without gaps.
#[derive(Debug)]
pub struct History {
    blocks: VecDeque<Committed>,
    bytes: usize,
    max_bytes: usize,
    /// The height that is taken next; zero before the first block.
    next: Height,
}

impl History {
    /// Keeps blocks of at most `max_bytes` together, and always the newest one and those above the stable checkpoint.
    pub fn new(max_bytes: usize) -> History {
        History { blocks: VecDeque::new(), bytes: 0, max_bytes, next: 0 }
    }

    /// Adds the next block. A gap, as after a state transfer, forgets all that lies before it. `stable` is the height of the
    /// stable checkpoint.
    pub fn push(&mut self, block: &Block, certificate: Certificate, stable: Height) {
        if self.blocks.back().is_some_and(|last| last.block.height() + 1 != block.height()) {
            self.blocks.clear();
            self.bytes = 0;
        }
        if self.next == 0 {
            self.next = block.height();
        }
        self.bytes += block.bytes().len();
        // The buffer that it came in is not counted here, so it must not be kept.
        self.blocks.push_back(Committed { block: block.detached(), certificate, codes: None });
        while self.bytes > self.max_bytes && self.blocks.len() > 1 && self.blocks[0].block.height() <= stable
        {
            let oldest = self.blocks.pop_front().expect("there are two");
            self.bytes -= oldest.block.bytes().len();
        }
    }

    /// Notes what became of a block's transactions.
    pub fn executed(&mut self, height: Height, codes: Vec<Code>) {
        if let Some(place) = self.place(height) {
            self.blocks[place].codes = Some(codes);
        }
    }

    /// Hands out each executed block once, in order, up to the height that is `executed`. Adds to `missed` those that were dropped
    /// before they were taken, or never executed here since a fetched state came first.
    pub fn take_executed(&mut self, executed: Height, missed: &mut u64) -> Option<&Committed> {
        loop {
            let first = self.blocks.front()?.block.height();
            if self.next > executed {
                return None;
            }
            *missed += first.saturating_sub(self.next);
            self.next = self.next.max(first);
            let place = self.place(self.next)?;
            self.next += 1;
            if self.blocks[place].codes.is_some() {
                return Some(&self.blocks[place]);
            }
            *missed += 1;
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

#[cfg(test)]
mod tests {
    use dag::{
        Vote, VoteKind,
        table_block::{BlockBuilder, BlockHeader},
    };

    use super::*;

    fn push(history: &mut History, height: Height, stable: Height) {
        let block =
            BlockBuilder::new().seal(BlockHeader { chain: 1, height, time: 1, ..BlockHeader::default() });
        let vote =
            Vote { kind: VoteKind::Commit, table: 0, height, view: 0, digest: block.hash(), checked: false };
        history.push(&block, Certificate { vote, proofs: Vec::new() }, stable);
    }

    /// Takes all that there is: the heights, and how many were missed.
    fn take(history: &mut History, executed: Height) -> (Vec<Height>, u64) {
        let (mut heights, mut missed) = (Vec::new(), 0);
        while let Some(taken) = history.take_executed(executed, &mut missed) {
            heights.push(taken.block.height());
        }
        (heights, missed)
    }

    #[test]
    fn each_executed_block_is_handed_out_once() {
        let mut history = History::new(1 << 20);
        assert_eq!(take(&mut history, 9), (vec![], 0));
        (5..=8).for_each(|height| push(&mut history, height, height));
        assert_eq!(take(&mut history, 4), (vec![], 0), "committed is not executed");
        (5..=6).for_each(|height| history.executed(height, Vec::new()));
        assert_eq!(take(&mut history, 6), (vec![5, 6], 0));
        assert_eq!(take(&mut history, 6), (vec![], 0));
        (7..=8).for_each(|height| history.executed(height, Vec::new()));
        assert_eq!(take(&mut history, 8), (vec![7, 8], 0));
    }

    #[test]
    fn what_nobody_took_in_time_is_missed() {
        let mut history = History::new(1);
        (1..=5).for_each(|height| {
            push(&mut history, height, height);
            history.executed(height, Vec::new());
        });
        assert_eq!(take(&mut history, 5), (vec![5], 4));
        // A fetched state: 6 was committed and not executed here, 7 to 9 never came.
        push(&mut history, 6, 6);
        assert_eq!(take(&mut history, 9), (vec![], 1));
        push(&mut history, 10, 10);
        history.executed(10, Vec::new());
        assert_eq!(take(&mut history, 10), (vec![10], 3));
    }

    #[test]
    fn what_no_stable_checkpoint_covers_stays() {
        let mut history = History::new(1);
        (1..=4).for_each(|height| push(&mut history, height, 2));
        assert_eq!(history.range(3, 4, 1 << 20).len(), 2);
        assert!(history.at(2).is_none());
        push(&mut history, 5, 4);
        assert!(history.at(4).is_none() && history.at(5).is_some());
    }
}
