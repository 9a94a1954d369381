//! Proposals: when the primary of a table makes a block, and what goes into it.

use dag::{
    View,
    table_block::{BlockBuilder, BlockHeader},
};

use crate::metrics::Stage;

use super::{
    Core,
    meters::Count,
    table::{BLOCK_LIMITS, MAX_UNEXECUTED},
};

/// Receipts that a block applies at most; a single delivery may have more.
const MAX_RECEIPTS: usize = 6_000;

impl Core {
    /// Builds blocks for the tables whose primary this is.
    pub(super) fn propose(&mut self, now: u64, wall: u64) {
        self.pace.adapt(&self.meters.core_use, now);
        let opens_at = self.pace.opens_in(wall).map(|in_ns| now + in_ns);
        let mut proposed = false;
        for slot in 0..self.tables.len() {
            let waiting = {
                let table = &mut self.tables[slot];
                let waiting = table.mempool.oldest_waiting().is_some();
                // A payment from another table is work as well, though no client of this one waits for it; so is a checkpoint.
                let owed = table.is_checkpoint_overdue(now, wall) || table.state.has_receipts_waiting();
                table.replica.set_waiting(waiting || owed, now);
                waiting
            };
            if waiting && self.tables[slot].is_censored(now) {
                self.tables[slot].replica.suspect(now);
            }
            match opens_at {
                Some(opens_at) => self.tables[slot].hold_back(opens_at),
                None => {
                    while self.propose_one(slot, now, wall) {
                        proposed = true;
                    }
                }
            }
        }
        if proposed {
            self.pace.proposed(wall);
        }
        // Whether there will be something to propose is found out then: it may come of what this very turn has decided.
        self.propose_at = opens_at;
    }

    /// Whether a block should be made now, and then makes it.
    fn propose_one(&mut self, slot: usize, now: u64, wall: u64) -> bool {
        let table = &mut self.tables[slot];
        table.propose_at = None;
        if self.settings.silent || table.unexecuted.len() >= MAX_UNEXECUTED / 2 {
            return false;
        }
        let Some(place) = table.replica.can_propose() else { return false };
        if table.sorted != Some(place.view) {
            // The view begins in this very turn, or one of its blocks came late. With what an earlier view had in flight a block
            // could go on where nothing is any more.
            if table.replica.lacks_bodies() {
                return false;
            }
            self.finish_execution(slot, now);
            self.sort_mempool(slot, place.view, now);
        }
        let table = &mut self.tables[slot];
        let in_flight = place.height - 1 - table.replica.committed_height();
        if in_flight >= self.settings.pipeline && table.mempool.ready() < self.settings.batch_target {
            // Company comes while they are decided: each block costs the same few votes, however many transactions it
            // carries. So the size of blocks follows the load.
            return false;
        }
        let ready = table.mempool.ready();
        let inbox = table.state.proposable(MAX_RECEIPTS);
        let idle_checkpoint = in_flight == 0 && table.quiet_checkpoint(&place, now, wall);
        if ready == 0 && inbox.is_empty() && !idle_checkpoint {
            return false;
        }
        let mut builder = BlockBuilder::new();
        table.state.inbox_mut().mark_proposed(&inbox);
        inbox.iter().for_each(|&reference| builder.push_inbox(reference));
        table.mempool.take_block(&mut builder, &BLOCK_LIMITS);
        if let Some(since) = table.ready_since.take() {
            self.meters.stage(Stage::Propose, since, now, builder.len() as u64);
        }
        let stable = table.replica.stable().map(|certificate| certificate.vote);
        let block = builder.seal(BlockHeader {
            chain: self.shard.chain(),
            epoch: self.shard.epoch(),
            table: table.id,
            height: place.height,
            view: place.view,
            time: wall.max(place.parent_time),
            proposer: self.shard.me,
            parent: place.parent,
            transactions_root: dag::Hash::ZERO,
            inbox_root: dag::Hash::ZERO,
            checkpoint_height: stable.map_or(0, |vote| vote.height),
            checkpoint: stable.map_or(dag::Hash::ZERO, |vote| vote.digest),
        });
        let marks = table.marks.at(place.height);
        marks.proposed = now;
        marks.transactions = block.len() as u64;
        self.meters.count(Count::BlocksProposed, 1);
        table.replica.propose(block, now);
        true
    }

    /// Tells the mempool what is in flight in a view. It is sorted against the state: not in the midst of a
    /// block's execution.
    pub(super) fn sort_mempool(&mut self, slot: usize, view: View, now: u64) {
        let table = &mut self.tables[slot];
        table.repropose(&mut self.settled, now);
        table.sorted = (!table.replica.lacks_bodies()).then_some(view);
    }
}
