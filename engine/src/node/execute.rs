//! Execution: committed blocks into the tables' states, a bounded slice a turn; what they have for other tables, clients
//! and checkpoints goes out from here.

use std::rc::Rc;

use dag::{Block, Certificate, client::Code};
use shard_core::{Delivery, Outcome, execute::BeginError, inbox::DeliveryError};

use super::{Core, Cross, Effect, OUTCOME, OutcomeRecord, meters::Count};
use crate::metrics::Stage;

/// An outcome's record must fit the journal before a block is begun.
const JOURNAL_ROOM: usize = 64 * 1024;

impl Core {
    /// A block is final.
    pub(super) fn on_committed(&mut self, slot: usize, block: Block, certificate: Certificate, now: u64) {
        self.again = true;
        let table = &mut self.tables[slot];
        if block.height() <= table.state.height() {
            // A fetched state was there first.
            return;
        }
        let marks = table.marks.at(block.height());
        marks.committed = now;
        table.last_commit = now;
        marks.transactions = block.len() as u64;
        self.meters.stage(Stage::Commit, marks.prepared, now, marks.transactions);
        self.meters.count(Count::BlocksCommitted, 1);
        table.history.push(&block, certificate.clone(), table.replica.stable_height());
        table.unexecuted.push_back((block, Rc::new(certificate)));
    }

    /// Slices of execution. Returns whether there is more to do at once.
    pub(super) fn execute(&mut self, now: u64) -> bool {
        let count = self.tables.len();
        let mut steps = 0;
        let mut fruitless = 0;
        while steps < self.settings.execute_steps && fruitless < count {
            let slot = self.execute_next % count;
            self.execute_next = (slot + 1) % count;
            if !self.has_block(slot, now) {
                fruitless += 1;
                continue;
            }
            steps += 1;
            fruitless = 0;
            if let Some(outcome) = self.tables[slot].state.step(self.settings.execute_slice) {
                self.on_outcome(slot, outcome, now);
            }
        }
        steps == self.settings.execute_steps
    }

    /// Runs the block in execution, if any, to its end.
    pub(super) fn finish_execution(&mut self, slot: usize, now: u64) {
        if self.tables[slot].state.is_busy()
            && let Some(outcome) = self.tables[slot].state.step(usize::MAX)
        {
            self.on_outcome(slot, outcome, now);
        }
    }

    /// Whether a table has a block in execution; begins the next one where it can.
    fn has_block(&mut self, slot: usize, now: u64) -> bool {
        let table = &mut self.tables[slot];
        if table.state.is_busy() {
            return true;
        }
        if self.journal.room() < JOURNAL_ROOM {
            return false;
        }
        let Some((block, _)) = table.unexecuted.front() else { return false };
        match table.state.begin(block.clone()) {
            Ok(()) => true,
            Err(BeginError::Wait(_)) => false,
            Err(error @ (BeginError::Busy | BeginError::NotNext)) => {
                panic!("agreement delivers every height once, in order: {error}")
            }
            Err(error @ BeginError::Diverged(_)) => {
                // What this node knows of the other table has a hole, as after a fetched state; one that a quorum has certified
                // fills it.
                if !table.sync.is_fetching() {
                    let note = format!("table {}: block {} {error}", table.id, block.height());
                    self.effects.push_back(Effect::Note(note));
                }
                self.begin_fetch(slot, now);
                false
            }
        }
    }

    fn on_outcome(&mut self, slot: usize, outcome: Outcome, now: u64) {
        let table = &mut self.tables[slot];
        let (block, certificate) = table.unexecuted.pop_front().expect("it was begun from the front");
        assert_eq!(block.hash(), outcome.hash, "execution reports the block it was given");
        self.scratch.clear();
        OutcomeRecord {
            table: table.id,
            height: outcome.height,
            hash: outcome.hash,
            failed: outcome.failed.clone(),
            causes: outcome.codes.iter().copied().filter(|code| *code != Code::Committed).collect(),
        }
        .encode(&mut self.scratch);
        self.journal.append(OUTCOME, &[&self.scratch], now);
        let marks = table.marks.take(outcome.height);
        self.meters.stage(Stage::Execute, marks.committed, now, marks.transactions);
        let committed = outcome.codes.iter().filter(|&&code| code == Code::Committed).count() as u64;
        self.meters.count(Count::TransactionsCommitted, committed);
        self.meters.count(Count::TransactionsFailed, outcome.codes.len() as u64 - committed);
        let before = self.settled.len();
        table.mempool.on_committed(table.state.accounts(), &block, &outcome.codes, &mut self.settled);
        table.answer_as_far_as_known(&mut self.settled[before..], now);
        table.history.executed(outcome.height, outcome.codes);
        table.replica.on_executed(outcome.height, outcome.checkpoint, now);
        if outcome.checkpoint.is_some() {
            self.meters.count(Count::Checkpoints, 1);
            self.on_checkpoint(slot, &certificate);
        }
        for delivery in outcome.deliveries {
            self.deliver(delivery, now);
        }
        self.take_deferred(slot, now);
        self.judge(slot, now);
        self.answer_settled(now);
    }

    /// Brings what a block has for another table to that table.
    pub fn deliver(&mut self, delivery: Delivery, now: u64) {
        match self.slots[usize::from(delivery.to)] {
            Some(slot) => self.on_delivery(slot, delivery, now),
            None => {
                let core = self.placement.core_of_table(&self.shard, delivery.to);
                self.effects.push_back(Effect::ToCore(core, Cross::Delivery(delivery)));
            }
        }
    }

    pub(super) fn on_delivery(&mut self, slot: usize, delivery: Delivery, now: u64) {
        let table = &mut self.tables[slot];
        match table.state.inbox_mut().on_delivery(delivery) {
            Ok(()) => {}
            // The source has jumped ahead with a fetched state. This table will starve, and fetch its own.
            Err(DeliveryError::Gap { .. }) => return,
            Err(error) => {
                let reason = format!("table {}: {error}", table.id);
                self.effects.push_back(Effect::Halt(reason));
                return;
            }
        }
        if !table.validations.is_empty() {
            self.judge(slot, now);
        }
    }

    /// Something from another core of this validator.
    pub fn on_cross(&mut self, cross: Cross, now: u64) {
        match cross {
            Cross::Delivery(delivery) => {
                let slot = self.slots[usize::from(delivery.to)].expect("cores know the placement");
                self.on_delivery(slot, delivery, now);
            }
            Cross::Submit { client, tag, record } => self.submit_from_core(client, tag, record, now),
            Cross::Account { client, tag, address } => {
                let answer = self.account_answer(tag, &address);
                self.effects.push_back(Effect::ToCore(client.core(), Cross::Answer(client, answer)));
            }
            Cross::Reply(client, reply) => self.answer(client, reply),
            Cross::Redeliver { to } => self.redeliver(to, now),
            Cross::Applied { by, heights } => self.on_applied(by, heights),
            Cross::Answer(client, bytes) => self.effects.push_back(Effect::ToClient(client, bytes)),
        }
    }
}
