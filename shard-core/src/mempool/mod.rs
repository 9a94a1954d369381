//! Transactions of one table's accounts that wait for a block.
//!
//! # What gets in
//!
//! A record goes through cheap checks ([`Mempool::admit`]), then through the signature check, which the caller does, and
//! then in, or not ([`Mempool::verified`]). In between it is a **candidate**: it holds memory, but no place in its sender's
//! sequence, replaces nothing and is not proposed. So who forges a victim's transactions can neither take the victim's
//! places nor push its transactions out; he can only fill the candidates' own, small share of memory, which empties at the
//! rate of signature checks, and is slowed at his connection. All rules are applied a second time when the signature is
//! known to be good, as others may have come in meanwhile.
//!
//! What waits of one account is always a chain without gaps: from its last executed sequence, or the last one that a
//! proposed block holds, one by one; with no more money spent than the account has; and no longer than
//! [`Limits::per_account`]. A second transaction for a place in the chain takes it only while it is not proposed, and for
//! a fee that is higher by an eighth.
//!
//! # What comes of it
//!
//! Each client is answered once for each submission: with a refusal at once, or when the transaction is settled. A
//! submission of what waits already is answered with it; a submission of what was committed lately is answered with its
//! place. An id says nothing about the signature's bytes, so what counts as verified in a proposal is id *and* signature
//! ([`Mempool::is_verified`]).

mod commit;
mod entries;
mod ready;
mod recent;
mod senders;

use bytes::Bytes;
use dag::{
    Address, ChainId, Epoch, Hash, Height, ReplicaId, TableId, Transaction,
    client::Code,
    keys::Signature,
    planted::{self, Defect},
    state_tree::AccountLeaf,
    transaction::SIGNATURE_SIZE,
};
use slab::Slab;

use crate::{Accounts, execute::check_epoch};

use entries::{Entries, Entry, Key, Origins};
pub use ready::BlockLimits;
use ready::Ready;
use recent::Recent;
use senders::{Sender, Senders};

/// Bytes that a waiting transaction costs besides its record.
pub const ENTRY_OVERHEAD: usize = 640;

/// Who is to be told what became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// A client of this node.
    Client {
        /// The caller's name for the connection.
        handle: u64,
        /// The client's tag.
        tag: u64,
    },
    /// A validator that forwarded it. It is told nothing: it sees the same blocks, and answers its client itself.
    Peer(ReplicaId),
}

/// Where a transaction stands in a table's chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The table.
    pub table: TableId,
    /// The block's height.
    pub height: Height,
    /// The index in the block.
    pub index: u32,
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The outcome.
    pub code: Code,
    /// Where it stands, if anywhere.
    pub place: Option<Place>,
}

impl From<Code> for Answer {
    fn from(code: Code) -> Answer {
        Answer { code, place: None }
    }
}

/// An answer, and whom it is for: always a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Whom to tell.
    pub origin: Origin,
    /// What to say.
    pub answer: Answer,
}

/// What a mempool holds at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Transactions, verified or not.
    pub transactions: usize,
    /// Bytes of all, with [`ENTRY_OVERHEAD`] for each.
    pub bytes: usize,
    /// Verified transactions of one account.
    pub per_account: usize,
    /// Transactions whose signature is not yet checked.
    pub candidates: usize,
    /// Committed transactions that are remembered, to answer a second submission.
    pub recent: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { transactions: 16_384, bytes: 16 << 20, per_account: 64, candidates: 4096, recent: 16_384 }
    }
}

/// A transaction whose signature is being checked. To be given back to [`Mempool::verified`].
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a candidate holds memory until its verdict"]
pub struct Ticket(usize);

/// What was done with a submitted record.
#[derive(PartialEq, Eq, Debug)]
pub enum Admission {
    /// Check its signature, then say so with [`Mempool::verified`].
    Verify(Ticket),
    /// It waits here already, verified. The origin will be answered when it is settled.
    Known,
}

#[derive(Debug)]
struct Candidate {
    record: Bytes,
    id: Hash,
    origin: Origin,
    arrival: u64,
}

/// What the rules say of a transaction.
enum Verdict {
    /// It is the next of its sender.
    Append,
    /// It takes the place of another.
    Replace(Key),
    /// It is here already.
    Known(Key),
}

/// Transactions of one table's accounts that wait for a block.
#[derive(Debug)]
pub struct Mempool {
    chain: ChainId,
    limits: Limits,
    candidates: Slab<Candidate>,
    /// Bytes of candidates, counted as those of entries are.
    candidate_bytes: usize,
    entries: Entries,
    senders: Senders,
    ready: Ready,
    recent: Recent,
}

impl Mempool {
    /// An empty one. `index_seed` keys its indices; no result depends on it.
    pub fn new(chain: ChainId, table: TableId, limits: Limits, index_seed: u64) -> Mempool {
        Mempool {
            chain,
            limits,
            candidates: Slab::new(),
            candidate_bytes: 0,
            entries: Entries::new(index_seed),
            senders: Senders::new(index_seed),
            ready: Ready::default(),
            recent: Recent::new(table, limits.recent, index_seed),
        }
    }

    /// Checks all of a record but its signature. The caller has seen to it that the sender is an account of this table.
    /// `now` is monotonic, in ns.
    ///
    /// # Errors
    /// The answer for the origin. [`Code::Committed`] with its place, where it was committed lately.
    pub fn admit(
        &mut self,
        accounts: &Accounts,
        epoch: Epoch,
        record: Bytes,
        origin: Origin,
        now: u64,
    ) -> Result<Admission, Answer> {
        let transaction = Transaction::parse(&record).map_err(Code::from)?;
        if transaction.chain() != self.chain {
            return Err(Code::WrongChain.into());
        }
        check_epoch(transaction.epoch(), epoch)?;
        let id = transaction.id();
        match self.judge(accounts, &transaction, &id) {
            // One before it may be among the candidates; that is known when this one's signature is.
            Ok(Verdict::Append | Verdict::Replace(_)) => {}
            Err(Answer { code: Code::GappedSequence, .. }) if self.may_follow(accounts, &transaction) => {}
            Err(answer) => return Err(answer),
            Ok(Verdict::Known(key)) => {
                let added = self.entries.get_mut(key).origins.add(origin);
                return if added { Ok(Admission::Known) } else { Err(Code::TooManyPending.into()) };
            }
        }
        let bytes = record.len() + ENTRY_OVERHEAD;
        let full = self.len() >= self.limits.transactions
            || self.candidates.len() >= self.limits.candidates
            || self.bytes() + bytes > self.limits.bytes;
        if full {
            return Err(Code::MempoolFull.into());
        }
        self.candidate_bytes += bytes;
        Ok(Admission::Verify(Ticket(self.candidates.insert(Candidate { record, id, origin, arrival: now }))))
    }

    /// Whether the places between the sender's last one and this one may be those of candidates.
    fn may_follow(&self, accounts: &Accounts, transaction: &Transaction<'_>) -> bool {
        let last = self.pending_sequence(accounts, transaction.sender());
        let missing = transaction.sequence() - last - 1;
        let balance = accounts.get(transaction.sender()).map_or(0, |leaf| leaf.balance);
        missing <= self.candidates.len().min(self.limits.per_account) as u64 && transaction.total() <= balance
    }

    /// The record and id behind a ticket.
    pub fn candidate(&self, ticket: &Ticket) -> (&Bytes, &Hash) {
        let candidate = &self.candidates[ticket.0];
        (&candidate.record, &candidate.id)
    }

    /// Says whether the signature behind a ticket is valid. To be called in the order of admission: a chain is not built
    /// from its end.
    pub fn verified(&mut self, accounts: &Accounts, ticket: Ticket, valid: bool, settled: &mut Vec<Settled>) {
        let candidate = self.candidates.remove(ticket.0);
        self.candidate_bytes -= candidate.record.len() + ENTRY_OVERHEAD;
        let mut origins = Origins::new(candidate.origin);
        if !valid {
            return origins.answer(Code::BadSignature.into(), settled);
        }
        let transaction = Transaction::parse(&candidate.record).expect("checked when it was admitted");
        match self.judge(accounts, &transaction, &candidate.id) {
            Ok(Verdict::Append) => self.append(&candidate, &transaction),
            Ok(Verdict::Replace(key)) => {
                self.replace(key, &candidate, &transaction);
                self.entries.remove(key).origins.answer(Code::Replaced.into(), settled);
            }
            Ok(Verdict::Known(key)) => {
                if !self.entries.get_mut(key).origins.add(candidate.origin) {
                    origins.answer(Code::TooManyPending.into(), settled);
                }
            }
            Err(answer) => origins.answer(answer, settled),
        }
    }

    /// The rules of sequence, money and fee. The refusal is the answer for the client.
    fn judge(
        &self,
        accounts: &Accounts,
        transaction: &Transaction<'_>,
        id: &Hash,
    ) -> Result<Verdict, Answer> {
        if let Some(place) = self.recent.place(id) {
            return Err(Answer { code: Code::Committed, place: Some(place) });
        }
        let leaf = accounts.get(transaction.sender()).copied().unwrap_or_default();
        let sequence = transaction.sequence();
        if sequence <= leaf.sequence && !planted::is(Defect::SequenceReplayed) {
            return Err(Code::StaleSequence.into());
        }
        let Some(sender) = self.senders.find(transaction.sender()).map(|key| self.senders.get(key)) else {
            if sequence > leaf.sequence + 1 {
                return Err(Code::GappedSequence.into());
            }
            affordable(transaction.total().into(), &leaf)?;
            return Ok(Verdict::Append);
        };
        let next = sender.last_sequence().max(leaf.sequence) + 1;
        let waiting = self.waiting_total(sender, &leaf);
        if sequence > next {
            return Err(Code::GappedSequence.into());
        }
        if sequence == next {
            if sender.count >= self.limits.per_account {
                return Err(Code::TooManyPending.into());
            }
            affordable(waiting + u128::from(transaction.total()), &leaf)?;
            return Ok(Verdict::Append);
        }
        let place = self.entries.chain(sender.first).find(|(_, entry)| entry.sequence == sequence);
        // A place that a proposed block holds, with a transaction that is not known here.
        let Some((key, old)) = place else { return Err(Code::TooManyPending.into()) };
        if old.id == *id {
            return Ok(Verdict::Known(key));
        }
        if sequence <= sender.proposed || !outbids(transaction.fee(), old.fee) {
            return Err(Code::Underpriced.into());
        }
        affordable(waiting - u128::from(old.total) + u128::from(transaction.total()), &leaf)?;
        Ok(Verdict::Replace(key))
    }

    /// What the sender's chain spends that is not yet executed. Between the execution of a block and
    /// [`on_committed`](Self::on_committed) the chain's start is executed already.
    fn waiting_total(&self, sender: &Sender, leaf: &AccountLeaf) -> u128 {
        let executed =
            self.entries.chain(sender.first).take_while(|(_, entry)| entry.sequence <= leaf.sequence);
        sender.total - executed.map(|(_, entry)| u128::from(entry.total)).sum::<u128>()
    }

    fn append(&mut self, candidate: &Candidate, transaction: &Transaction<'_>) {
        let sender_key = self.senders.find_or_insert(transaction.sender());
        let entry = self.entries.insert(new_entry(candidate, transaction, sender_key));
        let sender = self.senders.get_mut(sender_key);
        match sender.last {
            Some(last) => self.entries.get_mut(last).next = Some(entry),
            None => sender.first = Some(entry),
        }
        sender.last = Some(entry);
        sender.tail_sequence = transaction.sequence();
        sender.count += 1;
        sender.total += u128::from(transaction.total());
        sender.next_ready = sender.next_ready.or(Some(entry));
        sender.ready += 1;
        self.ready.waiting += 1;
        self.ready.update(&mut self.senders, sender_key);
    }

    /// Puts a new entry into the place of an old one, which is left to be removed.
    fn replace(&mut self, old_key: Key, candidate: &Candidate, transaction: &Transaction<'_>) {
        let old = self.entries.get(old_key);
        let (sender_key, next, old_total) = (old.sender, old.next, old.total);
        let new_key = self.entries.insert(Entry { next, ..new_entry(candidate, transaction, sender_key) });
        let sender = self.senders.get_mut(sender_key);
        sender.total = sender.total - u128::from(old_total) + u128::from(transaction.total());
        for end in [&mut sender.first, &mut sender.last, &mut sender.next_ready] {
            if *end == Some(old_key) {
                *end = Some(new_key);
            }
        }
        let before = self.entries.chain(sender.first).find(|(_, entry)| entry.next == Some(old_key));
        if let Some((before, _)) = before {
            self.entries.get_mut(before).next = Some(new_key);
        }
    }

    /// Whether this transaction waits here verified, with this very signature.
    pub fn is_verified(&self, id: &Hash, signature: &Signature) -> bool {
        let entry = self.entries.find(id).map(|key| self.entries.get(key));
        entry.is_some_and(|entry| entry.record[entry.record.len() - SIGNATURE_SIZE..] == signature[..])
    }

    /// Last sequence of an account that is executed, proposed or waiting here.
    pub fn pending_sequence(&self, accounts: &Accounts, address: &Address) -> u64 {
        let executed = accounts.get(address).map_or(0, |leaf| leaf.sequence);
        let sender = self.senders.find(address).map(|key| self.senders.get(key));
        sender.map_or(executed, |sender| sender.last_sequence().max(executed))
    }

    /// Arrival of the oldest transaction that is not yet committed, proposed or not.
    pub fn oldest_waiting(&self) -> Option<u64> {
        self.entries.oldest().map(|entry| entry.arrival)
    }

    /// The next client's transaction that the primary should have; each comes once, and a sender's in order. Where the
    /// primary may have lost some, see [`forward_again`](Self::forward_again).
    pub fn next_to_forward(&mut self) -> Option<Bytes> {
        loop {
            let entry = self.entries.next_to_forward()?;
            let proposed = self.senders.get(entry.sender).proposed;
            if entry.sequence > proposed && entry.origins.any_client() {
                return Some(entry.record.clone());
            }
        }
    }

    /// Forwards all anew: in a new view, or when the primary is late. It is not harmed by what it has already.
    pub fn forward_again(&mut self) {
        self.entries.forward_again();
    }

    /// Transactions here, verified or not.
    pub fn len(&self) -> usize {
        self.entries.len() + self.candidates.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, with [`ENTRY_OVERHEAD`] for each transaction.
    pub fn bytes(&self) -> usize {
        self.entries.bytes() + self.candidate_bytes
    }
}

fn new_entry(candidate: &Candidate, transaction: &Transaction<'_>, sender: usize) -> Entry {
    Entry {
        record: candidate.record.clone(),
        id: candidate.id,
        sender,
        sequence: transaction.sequence(),
        fee: transaction.fee(),
        total: transaction.total(),
        arrival: candidate.arrival,
        origins: Origins::new(candidate.origin),
        next: None,
        settled: false,
    }
}

fn affordable(total: u128, leaf: &AccountLeaf) -> Result<(), Code> {
    if total <= u128::from(leaf.balance) { Ok(()) } else { Err(Code::Overdraft) }
}

/// Whether a fee is higher by an eighth.
fn outbids(fee: u64, old: u64) -> bool {
    fee > old && 8 * u128::from(fee) >= 9 * u128::from(old)
}

#[cfg(test)]
mod tests;
