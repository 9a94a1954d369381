//! Which transactions are proposed next: senders take turns, each with its own in order.

use dag::{Block, Transaction, table_block::BlockBuilder};

use super::{Mempool, Settled, senders::Senders};
use crate::Accounts;

/// Most of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLimits {
    /// Transactions.
    pub transactions: usize,
    /// Payees of all transactions: they bound the work of executing it. A single transaction may have more.
    pub payees: usize,
    /// Bytes of the whole block.
    pub bytes: usize,
}

/// Senders that have something to propose, in a list through their records, so that one whose transactions another primary
/// has proposed can leave it at once.
#[derive(Debug, Default)]
pub struct Ready {
    first: Option<usize>,
    last: Option<usize>,
    /// Transactions that no proposed block holds.
    pub waiting: usize,
}

impl Ready {
    /// Puts a sender at the end, or takes it out, as it has something to propose or not. One that stands in the queue with
    /// something to propose keeps its place.
    pub fn update(&mut self, senders: &mut Senders, key: usize) {
        let sender = senders.get(key);
        match (sender.next_ready.is_some(), sender.queued) {
            (true, false) => self.push(senders, key),
            (false, true) => self.remove(senders, key),
            _ => {}
        }
    }

    fn push(&mut self, senders: &mut Senders, key: usize) {
        let sender = senders.get_mut(key);
        (sender.queued, sender.before, sender.after) = (true, self.last, None);
        match self.last.replace(key) {
            Some(last) => senders.get_mut(last).after = Some(key),
            None => self.first = Some(key),
        }
    }

    fn remove(&mut self, senders: &mut Senders, key: usize) {
        let sender = senders.get_mut(key);
        sender.queued = false;
        let (before, after) = (sender.before.take(), sender.after.take());
        match before {
            Some(before) => senders.get_mut(before).after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => senders.get_mut(after).before = before,
            None => self.last = before,
        }
    }

    fn clear(&mut self, senders: &mut Senders) {
        while let Some(first) = self.first {
            self.remove(senders, first);
        }
    }
}

impl Mempool {
    /// Transactions that wait to be proposed.
    pub fn ready(&self) -> usize {
        self.ready.waiting
    }

    /// Puts transactions into a block until it is full by `limits` or nothing is left; returns how many. They stay here,
    /// marked as proposed, until they are committed or [`repropose`](Self::repropose) frees them.
    pub fn take_block(&mut self, builder: &mut BlockBuilder, limits: &BlockLimits) -> usize {
        let (mut taken, mut payees) = (0, 0);
        while builder.len() < limits.transactions {
            let Some(sender_key) = self.ready.first else { break };
            let sender = self.senders.get_mut(sender_key);
            let entry = self.entries.get(sender.next_ready.expect("who is in the queue has something"));
            let transaction = Transaction::parse(&entry.record).expect("checked when it was admitted");
            let crowded = taken > 0 && payees + transaction.payee_count() > limits.payees;
            let large = builder.size() + entry.record.len() > limits.bytes;
            if crowded || large || !builder.push(entry.id, &transaction) {
                break;
            }
            (taken, payees) = (taken + 1, payees + transaction.payee_count());
            (sender.proposed, sender.next_ready) = (entry.sequence, entry.next);
            sender.ready -= 1;
            self.ready.waiting -= 1;
            self.ready.remove(&mut self.senders, sender_key);
            self.ready.update(&mut self.senders, sender_key);
        }
        taken
    }

    /// Starts over in a new view. What `surviving` blocks hold, which are those above the last executed one that the new
    /// view proposes again, stays or becomes proposed; all else is ready again. A sender's transactions that only followed
    /// on a block that is gone are answered with [`GappedSequence`](dag::client::Code::GappedSequence).
    pub fn repropose<'a>(
        &mut self,
        accounts: &Accounts,
        surviving: impl Iterator<Item = &'a Block>,
        settled: &mut Vec<Settled>,
    ) {
        for key in self.senders.keys() {
            self.senders.get_mut(key).proposed = 0;
        }
        for block in surviving {
            for index in 0..block.len() {
                let transaction = block.transaction(index);
                let key = self.senders.find_or_insert(transaction.sender());
                let sender = self.senders.get_mut(key);
                sender.proposed = sender.proposed.max(transaction.sequence());
            }
        }
        for key in self.senders.keys() {
            self.prune(accounts, key, settled);
        }
        // Turns are dealt anew, in order of arrival.
        self.ready.clear(&mut self.senders);
        for key in self.entries.by_arrival() {
            self.ready.update(&mut self.senders, self.entries.get(key).sender);
        }
        self.entries.forward_again();
    }
}
