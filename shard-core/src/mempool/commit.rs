//! What executed blocks do to what waits.

use dag::{Block, client::Code};

use super::{Answer, Mempool, Place, Settled};
use crate::Accounts;

impl Mempool {
    /// Takes in the outcome of an executed block: `codes` as execution gave them, `accounts` the state after it. Those who
    /// submitted its transactions are answered, and so are those whose transactions can't follow any more.
    ///
    /// # Panics
    /// Where there are not as many codes as transactions.
    pub fn on_committed(
        &mut self,
        accounts: &Accounts,
        block: &Block,
        codes: &[Code],
        settled: &mut Vec<Settled>,
    ) {
        assert_eq!(codes.len(), block.len(), "a code for each transaction");
        let mut touched = Vec::new();
        for (index, &code) in (0u32..).zip(codes) {
            let at = index as usize;
            let place = Place { table: block.header().table, height: block.height(), index };
            let id = block.id(at);
            if code == Code::Committed {
                self.recent.insert(id, place.height, index);
            }
            let transaction = block.transaction(at);
            let Some(key) = self.senders.find(transaction.sender()) else { continue };
            let sender = self.senders.get_mut(key);
            if transaction.sequence() >= sender.proposed {
                sender.proposed = 0;
            }
            if !sender.touched {
                sender.touched = true;
                touched.push(key);
            }
            let mut chain = self.entries.chain(sender.first);
            let found = chain.find(|(_, entry)| entry.id == id && !entry.settled).map(|(entry, _)| entry);
            drop(chain);
            if let Some(entry) = found {
                let entry = self.entries.get_mut(entry);
                entry.settled = true;
                entry.origins.answer(Answer { code, place: Some(place) }, settled);
            }
        }
        for key in touched {
            self.senders.get_mut(key).touched = false;
            self.prune(accounts, key, settled);
        }
    }

    /// Goes through a sender's chain, drops what is settled or can't be executed any more, and joins the rest anew. What
    /// stands in a proposed block is left: its fate comes with that block.
    pub(super) fn prune(&mut self, accounts: &Accounts, key: usize, settled: &mut Vec<Settled>) {
        let sender = self.senders.get_mut(key);
        let leaf = accounts.get(&sender.address).copied().unwrap_or_default();
        if sender.proposed <= leaf.sequence {
            sender.proposed = 0;
        }
        let mut last = leaf.sequence.max(sender.proposed);
        let mut next = sender.first;
        (sender.first, sender.last, sender.next_ready) = (None, None, None);
        (sender.count, sender.total, sender.tail_sequence) = (0, 0, 0);
        self.ready.waiting -= std::mem::take(&mut sender.ready);
        while let Some(at) = next {
            let entry = self.entries.get(at);
            next = entry.next;
            let is_proposed = entry.sequence <= sender.proposed;
            let total = sender.total + u128::from(entry.total);
            let reason = if entry.settled {
                None
            } else if entry.sequence <= leaf.sequence {
                Some(Code::StaleSequence)
            } else if entry.sequence > last + 1 {
                Some(Code::GappedSequence)
            } else if !is_proposed && total > u128::from(leaf.balance) {
                Some(Code::Overdraft)
            } else {
                last = last.max(entry.sequence);
                sender.total = total;
                sender.tail_sequence = entry.sequence;
                sender.count += 1;
                match sender.last.replace(at) {
                    Some(before) => self.entries.get_mut(before).next = Some(at),
                    None => sender.first = Some(at),
                }
                self.entries.get_mut(at).next = None;
                if !is_proposed {
                    sender.next_ready = sender.next_ready.or(Some(at));
                    sender.ready += 1;
                }
                continue;
            };
            let mut entry = self.entries.remove(at);
            if let Some(code) = reason {
                entry.origins.answer(code.into(), settled);
            }
        }
        self.ready.waiting += sender.ready;
        self.ready.update(&mut self.senders, key);
        self.senders.remove_if_idle(key);
    }
}
