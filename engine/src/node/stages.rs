//! When what happened to a block, so that each stage's share of a transfer's latency can be told.
//!
//! Times are kept by height for the blocks in flight only: at most the agreement window and what waits for execution.

use std::collections::VecDeque;

use dag::Height;

/// Most heights that are remembered; older ones are forgotten first.
const MAX_MARKS: usize = 1024;

/// The times of one block, monotonic ns; zero where it has not happened (here).
#[derive(Clone, Copy, Default, Debug)]
pub struct Marks {
    /// Height of the block.
    pub height: Height,
    /// Number of its transactions.
    pub transactions: u64,
    /// The proposal was made or arrived.
    pub proposed: u64,
    /// A quorum's prepare votes are there.
    pub prepared: u64,
    /// A quorum's commit votes are there.
    pub committed: u64,
}

/// The blocks in flight of one table.
#[derive(Default, Debug)]
pub struct MarkBook {
    marks: VecDeque<Marks>,
}

impl MarkBook {
    /// The marks of a height, made where there are none.
    pub fn at(&mut self, height: Height) -> &mut Marks {
        let place = self.marks.iter().rposition(|marks| marks.height == height);
        if place.is_none() {
            if self.marks.len() == MAX_MARKS {
                self.marks.pop_front();
            }
            self.marks.push_back(Marks { height, ..Marks::default() });
        }
        let place = place.unwrap_or(self.marks.len() - 1);
        &mut self.marks[place]
    }

    /// Takes the marks of an executed height, and forgets what lies below.
    pub fn take(&mut self, height: Height) -> Marks {
        let marks = *self.at(height);
        self.marks.retain(|marks| marks.height > height);
        marks
    }
}
