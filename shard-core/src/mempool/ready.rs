//! Which transactions are proposed next: senders take turns, each with its own in order.

use std::collections::VecDeque;

use dag::{Block, Transaction, table_block::BlockBuilder};

use super::{Mempool, Settled, senders::Sender};
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

/// Senders that have something to propose.
#[derive(Debug, Default)]
pub struct Ready {
    /// Each at most once. One that has nothing left is skipped when its turn comes.
    queue: VecDeque<usize>,
    /// Transactions that no proposed block holds.
    pub waiting: usize,
}

impl Ready {
    pub fn enqueue(&mut self, key: usize, sender: &mut Sender) {
        if sender.next_ready.is_some() && !sender.queued {
            sender.queued = true;
            self.queue.push_back(key);
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
            let Some(&sender_key) = self.ready.queue.front() else { break };
            let sender = self.senders.get_mut(sender_key);
            if let Some(key) = sender.next_ready {
                let entry = self.entries.get(key);
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
            }
            self.ready.queue.pop_front();
            sender.queued = false;
            self.ready.enqueue(sender_key, sender);
            self.senders.remove_if_idle(sender_key);
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
        // Turns are dealt anew, in order of arrival.
        for key in self.ready.queue.drain(..) {
            self.senders.get_mut(key).queued = false;
        }
        for key in self.senders.keys() {
            self.prune(accounts, key, settled);
        }
        for key in self.ready.queue.drain(..) {
            self.senders.get_mut(key).queued = false;
        }
        for key in self.entries.by_arrival() {
            let sender_key = self.entries.get(key).sender;
            self.ready.enqueue(sender_key, self.senders.get_mut(sender_key));
        }
        self.entries.forward_again();
    }
}
