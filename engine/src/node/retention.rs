//! What of the log is still needed, so that the rest can be removed.
//!
//! A restart begins at each table's newest snapshot, or at the one before it should that be damaged, and reads the log from there.
//! So a segment is needed while it holds a block above a table's older snapshot, anything that was promised after that snapshot was
//! taken, or a block whose receipts another table's older snapshot has not applied. Promises from before stand in the
//! snapshot itself.

use std::collections::VecDeque;

use dag::{
    Height, TableId,
    planted::{self, Defect},
};

use super::{Core, Cross, Effect};

/// A snapshot that is on disk.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Its height.
    pub height: Height,
    /// Where the log stood when its promises were taken.
    pub segment: u32,
    /// By table: the height up to which its receipts are applied in it.
    pub applied: Vec<Height>,
}

/// What one table needs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// The segment of the table's first record of any kind.
    first: Option<u32>,
    /// Segments that hold blocks, ascending, each with the highest height in it.
    spans: VecDeque<(u32, Height)>,
    /// The newest snapshots, oldest first: two at most.
    kept: VecDeque<Kept>,
}

impl Needs {
    /// Something was written.
    pub fn on_record(&mut self, segment: u32) {
        self.first.get_or_insert(segment);
    }

    /// A block was written.
    pub fn on_block(&mut self, segment: u32, height: Height) {
        match self.spans.back_mut() {
            Some((last, highest)) if *last == segment => *highest = (*highest).max(height),
            _ => self.spans.push_back((segment, height)),
        }
    }

    /// A snapshot is on disk.
    pub fn on_snapshot(&mut self, kept: Kept) {
        self.kept.push_back(kept);
        if self.kept.len() > 2 {
            self.kept.pop_front();
        }
    }

    /// The snapshot that a restart must be able to begin at: the older one, but the newest where nothing came after it.
    pub fn base(&self, height: Height) -> Option<&Kept> {
        match self.kept.back() {
            Some(newest) if newest.height == height => Some(newest),
            _ if self.kept.len() == 2 => self.kept.front(),
            _ => None,
        }
    }

    /// The lowest segment with a block above a height.
    pub fn first_above(&self, height: Height) -> Option<u32> {
        self.spans.iter().find(|(_, highest)| *highest > height).map(|(segment, _)| *segment)
    }

    /// Whether a snapshot now would need less of the log than the newest one does.
    pub fn can_let_go(&self, newest: u32) -> bool {
        self.kept.back().is_none_or(|kept| kept.segment < newest)
    }

    /// Segments below are removed.
    pub fn forget(&mut self, before: u32) {
        self.first = self.first.map(|first| first.max(before));
        while self.spans.front().is_some_and(|(segment, _)| *segment < before) {
            self.spans.pop_front();
        }
    }
}

/// What other cores' tables have applied in their snapshots, by table and source.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    applied: Vec<Option<Box<[Height]>>>,
}

impl Foreign {
    /// For a shard of so many tables.
    pub fn new(tables: u16) -> Foreign {
        Foreign { applied: vec![None; usize::from(tables)] }
    }

    /// Another core's table has a snapshot.
    pub fn on_applied(&mut self, by: TableId, heights: Box<[Height]>) {
        self.applied[usize::from(by)] = Some(heights);
    }

    /// Up to which height all of `by`'s tables have applied the receipts of `source`.
    pub fn applied(&self, by: TableId, source: TableId) -> Height {
        self.applied[usize::from(by)].as_ref().map_or(0, |heights| heights[usize::from(source)])
    }
}

impl Core {
    /// A snapshot is on disk: let the log forget what nobody needs any more.
    pub(super) fn on_kept(&mut self, slot: usize, kept: Kept) {
        let table = &mut self.tables[slot];
        let by = table.id;
        table.needs.on_snapshot(kept);
        if let Some(base) = table.needs.base(table.state.height()) {
            let heights = base.applied.clone().into_boxed_slice();
            for core in (0..self.placement.cores).filter(|&core| core != self.placement.core) {
                let cross = Cross::Applied { by, heights: heights.clone() };
                self.effects.push_back(Effect::ToCore(core, cross));
            }
        }
        self.trim_log();
    }

    /// Another core's table has a snapshot.
    pub(super) fn on_applied(&mut self, by: TableId, heights: Box<[Height]>) {
        self.foreign.on_applied(by, heights);
    }

    /// The lowest segment that a restart reads for a table, or for what its blocks still owe to others.
    fn needed_by(&self, slot: usize) -> Option<u32> {
        let table = &self.tables[slot];
        let own = match table.needs.base(table.state.height()) {
            Some(base) => {
                Some(table.needs.first_above(base.height).unwrap_or(base.segment).min(base.segment))
            }
            None => table.needs.first,
        };
        // A table that was never sent anything, nor told how far its receipts are applied, needs none of these blocks.
        let owed = |other: &TableId| {
            let peer = table.state.meta().peer(*other);
            *other != table.id && (peer.sent > 0 || peer.applied > 0)
        };
        let others = (0..self.shard.tables).filter(owed).map(|other| {
            let applied = match self.slots[usize::from(other)] {
                Some(slot) => {
                    let other = &self.tables[slot];
                    let base = other.needs.base(other.state.height());
                    base.map_or(0, |base| base.applied[usize::from(table.id)])
                }
                None => self.foreign.applied(other, table.id),
            };
            table.needs.first_above(applied)
        });
        own.into_iter().chain(others.flatten()).min()
    }

    fn trim_log(&mut self) {
        let newest = self.journal.position().segment;
        let needed = (0..self.tables.len()).filter_map(|slot| self.needed_by(slot)).min();
        let retained = self.settings.retained_segments;
        let before = needed.unwrap_or(newest).min(newest.saturating_sub(retained))
            + u32::from(planted::is(Defect::TrimmedTooFar));
        if newest > before + retained + 1 {
            // Tables that rest, or go slowly, hold the log back: their snapshots are due.
            for table in self.tables.iter_mut().filter(|table| table.needs.can_let_go(newest)) {
                table.sync.want();
            }
        }
        if before > self.trimmed {
            self.trimmed = before;
            self.tables.iter_mut().for_each(|table| table.needs.forget(before));
            self.effects.push_back(Effect::TrimLog(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(height: Height, segment: u32) -> Kept {
        Kept { height, segment, applied: Vec::new() }
    }

    #[test]
    fn the_older_snapshot_counts_until_the_table_rests() {
        let mut needs = Needs::default();
        for height in 1..=100 {
            needs.on_block(u32::try_from(height / 10).unwrap(), height);
        }
        assert!(needs.base(100).is_none());
        needs.on_snapshot(kept(40, 4));
        assert!(needs.base(100).is_none(), "should it be damaged, genesis and the whole log are needed");
        needs.on_snapshot(kept(70, 7));
        assert_eq!(needs.base(100).unwrap().height, 40);
        assert_eq!(needs.first_above(40), Some(4));
        assert_eq!(needs.base(70).unwrap().height, 70);
        assert!(needs.can_let_go(8) && !needs.can_let_go(7), "the same snapshot once more frees nothing");
        needs.forget(4);
        assert_eq!(needs.first_above(0), Some(4));
        assert_eq!(needs.first_above(100), None);
    }
}
