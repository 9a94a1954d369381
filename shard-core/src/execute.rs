//! Execution of committed blocks, in slices.
//!
//! A block applies, in this order: the receipts that its inbox references name, by ascending source and number; then its
//! transactions. A transaction that can't be executed leaves no trace but its code. Every rule is a function of the table's
//! state and the block, so all validators get the same codes, whatever the slices.
//!
//! Work goes in windows of a few transactions, or receipts of whatever deliveries: first all their accounts are looked up,
//! so that the memory of several is fetched at a time, then they are executed.

use std::collections::VecDeque;

use dag::{
    Address, Block, Epoch, Hash, Height, InboxRef, TableId, Transaction,
    address::table_of,
    client::Code,
    planted::{self, Defect},
    receipt::{HASHED_RECEIPT_SIZE, Receipt},
    transaction::Payee,
    unit::Cause,
    wire::{Put, Reader, WireError},
};

use crate::{
    accounts::Position,
    inbox::Known,
    index::Lookup,
    outbox::{Hashing, in_flight_limit},
    partition::{Table, preimage},
    receipts::Delivery,
};

/// A checkpoint is due after every so many blocks …
pub const CHECKPOINT_BLOCKS: u64 = 128;
/// … and after the first block that is so much later than the last checkpoint's, in µs.
pub const CHECKPOINT_TIME: u64 = 1_000_000;

/// Transactions, or receipts, whose accounts are looked up together.
const WINDOW: usize = 16;
/// Payees at which a window ends.
const WINDOW_PAYEES: usize = 64;
/// Room for a block's receipts for one table that is kept for the next block; there are as many pairs of tables as their square.
const KEPT_RECEIPTS: usize = 4;

/// Which transactions of a block failed, by ascending index. Goes into the log beside the block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Failed(Vec<u16>);

impl Failed {
    /// Those whose code is not [`Code::Committed`].
    pub fn of(codes: &[Code]) -> Failed {
        let failed = (0u16..).zip(codes).filter(|(_, code)| **code != Code::Committed);
        Failed(failed.map(|(index, _)| index).collect())
    }

    /// Whether transaction `index` failed.
    pub fn contains(&self, index: usize) -> bool {
        u16::try_from(index).is_ok_and(|index| self.0.binary_search(&index).is_ok())
    }

    /// How many failed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none did.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the layout: count (2), indices (2 each).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(u16::try_from(self.0.len()).expect("at most table_block::MAX_TRANSACTIONS"));
        self.0.iter().for_each(|index| out.put_u16(*index));
    }

    /// Reads one set. Indices must ascend.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Failed, WireError> {
        let count = reader.u16()?;
        let mut indices: Vec<u16> = Vec::new();
        for _ in 0..count {
            let index = reader.u16()?;
            if indices.last().is_some_and(|last| *last >= index) {
                return Err(WireError::Field("failed transaction"));
            }
            indices.push(index);
        }
        Ok(Failed(indices))
    }
}

/// What the execution of a block has led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The block's height.
    pub height: Height,
    /// The block's hash.
    pub hash: Hash,
    /// The fate of each transaction.
    pub codes: Vec<Code>,
    /// The transactions that failed.
    pub failed: Failed,
    /// What the block has for other tables, by ascending table: to be handed to their inboxes.
    pub deliveries: Vec<Delivery>,
    /// The digest to vote on, where a checkpoint is due after this block.
    pub checkpoint: Option<Hash>,
}

/// Why a block can't be executed now, or ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BeginError {
    /// Another block is being executed.
    #[error("another block is being executed")]
    Busy,
    /// Not the block that follows the last executed one.
    #[error("not the block that follows the last executed one")]
    NotNext,
    /// A table that it refers to is not yet executed so far here. Execute that one, deliver, and try again.
    #[error("refers to table {} at height {}, which is not yet executed here", .0.table, .0.height)]
    Wait(InboxRef),
    /// A quorum has committed a reference that contradicts what was executed here: this node's state is damaged.
    #[error("refers to a block of table {} at height {} that is not the one executed here", .0.table, .0.height)]
    Diverged(InboxRef),
}

/// A block within its execution.
#[derive(Debug)]
pub(crate) struct Job {
    block: Block,
    phase: Phase,
    /// What remains to be applied of other tables.
    deliveries: VecDeque<Delivery>,
    /// Receipts applied of the first of them.
    applied: usize,
    /// One for each transaction executed.
    codes: Vec<Code>,
    /// Deliveries of this block; empty until it is sealed.
    sealed: Vec<Delivery>,
    scratch: Scratch,
}

impl Job {
    pub(crate) fn height(&self) -> Height {
        self.block.height()
    }
}

#[derive(Debug)]
enum Phase {
    Receipts,
    Transactions,
    Seal,
    HashAccounts,
    HashOutbox(Box<Hashing>),
    Done(Option<Hash>),
}

/// What a block's execution works with; kept from one to the next, so that little is allocated.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    lookup: Lookup,
    payees: Vec<Target>,
    /// Receipts of the block, by table.
    outgoing: Vec<Vec<Receipt>>,
    /// Receipts of a transaction, by table; all zero between transactions.
    counts: Vec<u16>,
}

impl Scratch {
    pub(crate) fn new(tables: u16) -> Scratch {
        let tables = usize::from(tables);
        Scratch { outgoing: vec![Vec::new(); tables], counts: vec![0; tables], ..Scratch::default() }
    }
}

/// A payee, looked up.
#[derive(Clone, Copy, Debug)]
struct Target {
    to: Address,
    amount: u64,
    table: TableId,
    /// Where it is an account of this table that existed when it was looked up.
    position: Option<Position>,
}

impl Table {
    /// Starts to execute the next block of the chain. A committed one: it is not judged here.
    ///
    /// # Errors
    /// [`BeginError`], and nothing done.
    pub fn begin(&mut self, block: Block) -> Result<(), BeginError> {
        if self.is_busy() {
            return Err(BeginError::Busy);
        }
        let header = block.header();
        let place = (header.chain, header.table, header.height, header.parent);
        if place != (self.config.chain, self.config.id, self.meta.height + 1, self.meta.block) {
            return Err(BeginError::NotNext);
        }
        for reference in block.inbox() {
            match self.inbox.knows(reference) {
                Known::Yes => {}
                Known::NotYet => return Err(BeginError::Wait(*reference)),
                // A primary may refer to a block twice, in two blocks that were in flight at a time.
                Known::Wrong if self.inbox.is_applied(reference) => {}
                Known::Wrong => return Err(BeginError::Diverged(*reference)),
            }
        }
        let deliveries = self.take_inbox(block.inbox());
        for reference in block.inbox() {
            let peer = self.meta.peer_mut(reference.table);
            peer.applied_height = peer.applied_height.max(reference.height);
        }
        self.job = Some(Box::new(Job {
            codes: Vec::with_capacity(block.len()),
            block,
            phase: Phase::Receipts,
            deliveries,
            applied: 0,
            sealed: Vec::new(),
            scratch: std::mem::take(&mut self.scratch),
        }));
        Ok(())
    }

    /// Goes on with the block, for about `budget` operations. An operation is a debit, a credit, a receipt, or the hashing
    /// of four nodes of the tree: about ¼ µs. A transaction is never split. Returns the outcome at the end; `None` before it, and
    /// where no block is being executed.
    ///
    /// # Panics
    /// Where the budget is zero.
    pub fn step(&mut self, budget: usize) -> Option<Outcome> {
        assert!(budget > 0, "a slice does something");
        let mut job = self.job.take()?;
        let mut left = budget;
        while left > 0 && !matches!(job.phase, Phase::Done(_)) {
            self.advance(&mut job, &mut left);
        }
        self.units.flush(&mut self.accounts);
        let Phase::Done(checkpoint) = job.phase else {
            self.job = Some(job);
            return None;
        };
        self.scratch = job.scratch;
        let (height, hash) = (job.block.height(), job.block.hash());
        let failed = Failed::of(&job.codes);
        Some(Outcome { height, hash, failed, codes: job.codes, deliveries: job.sealed, checkpoint })
    }

    /// Works on the present phase, and goes on to the next one at its end.
    fn advance(&mut self, job: &mut Job, left: &mut usize) {
        match &mut job.phase {
            Phase::Receipts => match job.deliveries.front() {
                Some(_) => self.apply_receipts(job, left),
                None => job.phase = Phase::Transactions,
            },
            Phase::Transactions if job.codes.len() < job.block.len() => self.execute_window(job, left),
            Phase::Transactions => job.phase = Phase::Seal,
            Phase::Seal => {
                self.units.flush(&mut self.accounts);
                self.seal(job, left);
                let due = self.is_checkpoint_due();
                job.phase = if due { Phase::HashAccounts } else { Phase::Done(None) };
            }
            Phase::HashAccounts => {
                if self.accounts.hash_step(left) {
                    (self.meta.checkpoint_height, self.meta.checkpoint_time) =
                        (self.meta.height, self.meta.time);
                    job.phase = Phase::HashOutbox(Box::new(Hashing::new(&self.outbox)));
                }
            }
            Phase::HashOutbox(hashing) => {
                if let Some(outbox) = hashing.step(&self.outbox, left) {
                    let epoch = job.block.header().epoch;
                    self.checkpoint = preimage(&self.config, epoch, &self.accounts, &self.meta, outbox);
                    job.phase = Phase::Done(Some(self.checkpoint.digest()));
                }
            }
            Phase::Done(_) => {}
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let meta = &self.meta;
        meta.height.is_multiple_of(CHECKPOINT_BLOCKS)
            || meta.time.saturating_sub(meta.checkpoint_time) >= CHECKPOINT_TIME
    }

    /// Applies the next few receipts, and the acknowledgement of each delivery whose last one is among them.
    fn apply_receipts(&mut self, job: &mut Job, left: &mut usize) {
        let Job { deliveries, applied, scratch: Scratch { lookup, .. }, .. } = job;
        let (mut receipts, mut records) = ([None; WINDOW], [[0; HASHED_RECEIPT_SIZE]; WINDOW]);
        let all = deliveries.iter().flat_map(|delivery| &*delivery.receipts);
        let mut count = 0;
        for receipt in all.skip(*applied).take(WINDOW.min(*left)) {
            (receipts[count], records[count]) = (Some(receipt), receipt.to_hashed_bytes());
            count += 1;
        }
        let receipts = || receipts.iter().copied().flatten();
        self.accounts.positions(receipts().map(|receipt| &receipt.payee), lookup);
        let mut hashes = [Hash::ZERO; WINDOW];
        self.receipt_lanes.hash(&records[..count], &mut hashes);
        for ((receipt, position), hash) in receipts().zip(&lookup.positions).zip(hashes) {
            let peer = self.meta.peer_mut(receipt.from);
            assert_eq!(receipt.number, peer.applied + 1, "the inbox lets only the next receipt in");
            peer.applied = receipt.number;
            peer.applied_amount += u128::from(receipt.amount);
            let at = position.unwrap_or_else(|| self.accounts.position_or_create(&receipt.payee));
            self.units.credit(&mut self.accounts, at, receipt.amount, Cause::Receipt(hash));
        }
        *applied += count;
        *left = left.saturating_sub(count);
        while *left > 0
            && let Some(delivery) = deliveries.pop_front_if(|first| first.receipts.len() <= *applied)
        {
            *applied -= delivery.receipts.len();
            *left = left.saturating_sub(1);
            self.acknowledge(&delivery);
        }
    }

    /// A delivery is applied to its end: what it acknowledges need not be kept.
    fn acknowledge(&mut self, delivery: &Delivery) {
        let peer = self.meta.peer_mut(delivery.source);
        if let Some(number) = self.outbox.acknowledge(delivery.source, delivery.applied) {
            peer.acknowledged = number;
        }
        assert_eq!(delivery.number, peer.applied_deliveries + 1, "the inbox lets only the next delivery in");
        peer.applied_deliveries = delivery.number;
    }

    /// Looks up the accounts of the next few transactions, then executes these.
    fn execute_window(&mut self, job: &mut Job, left: &mut usize) {
        let Job { block, codes, scratch, .. } = job;
        scratch.payees.clear();
        let (first, mut count) = (codes.len(), 0);
        let mut transactions = [None; WINDOW];
        while count < WINDOW && first + count < block.len() && scratch.payees.len() + count < *left {
            let transaction = block.transaction(first + count);
            if count > 0 && scratch.payees.len() + transaction.payee_count() > WINDOW_PAYEES {
                break;
            }
            let target =
                |payee: Payee| Target { to: payee.to, amount: payee.amount, table: 0, position: None };
            scratch.payees.extend(transaction.payees().map(target));
            transactions[count] = Some(transaction);
            count += 1;
        }
        for targets in scratch.payees.chunks_mut(WINDOW) {
            self.find_tables(targets);
        }
        self.look_up(&transactions, &mut scratch.payees, &mut scratch.lookup);
        let mut targets = &scratch.payees[..];
        let senders = scratch.lookup.positions[..count].iter().copied();
        for (index, (transaction, sender)) in transactions.iter().flatten().zip(senders).enumerate() {
            let (mine, rest) = targets.split_at(transaction.payee_count());
            targets = rest;
            let id = block.id(first + index);
            let epoch = block.header().epoch;
            let verdict =
                self.judge(transaction, sender, epoch, mine, &scratch.outgoing, &mut scratch.counts);
            let code = match verdict {
                Ok(sender) => {
                    self.transfer(transaction, sender, id, mine, &mut scratch.outgoing);
                    Code::Committed
                }
                Err(code) => code,
            };
            codes.push(code);
        }
        *left = left.saturating_sub(count + scratch.payees.len());
    }

    /// Finds the tables of payees.
    fn find_tables(&self, targets: &mut [Target]) {
        let mut records = [[0; 64]; WINDOW];
        let mut hashes = [Hash::ZERO; WINDOW];
        for (record, target) in records.iter_mut().zip(&*targets) {
            *record = target.to.to_hashed_bytes();
        }
        self.address_lanes.hash(&records[..targets.len()], &mut hashes);
        for (target, hash) in targets.iter_mut().zip(&hashes) {
            target.table = table_of(hash, self.config.tables);
        }
    }

    /// Finds the places of senders, which the look-up begins with, and of payees of this table.
    fn look_up(&self, transactions: &[Option<Transaction<'_>>], targets: &mut [Target], lookup: &mut Lookup) {
        let is_home = |target: &Target| target.table == self.config.id;
        let senders = transactions.iter().flatten().map(Transaction::sender);
        let payees = targets.iter().filter(|target| is_home(target)).map(|target| &target.to);
        self.accounts.positions(senders.chain(payees), lookup);
        let payees = lookup.positions.iter().skip(transactions.iter().flatten().count());
        for (target, position) in targets.iter_mut().filter(|target| is_home(target)).zip(payees) {
            target.position = *position;
        }
    }

    /// Whether a transaction can be executed now; its sender's place, or why not.
    fn judge(
        &self,
        transaction: &Transaction<'_>,
        sender: Option<Position>,
        epoch: Epoch,
        targets: &[Target],
        outgoing: &[Vec<Receipt>],
        counts: &mut [u16],
    ) -> Result<Position, Code> {
        if transaction.chain() != self.config.chain {
            return Err(Code::WrongChain);
        }
        check_epoch(transaction.epoch(), epoch)?;
        let sender = sender.or_else(|| self.accounts.position(transaction.sender()));
        let leaf = sender.map(|at| self.accounts.leaf(at));
        let (sequence, balance) = leaf.map_or((0, 0), |leaf| (leaf.sequence, leaf.balance));
        if transaction.sequence() <= sequence && !planted::is(Defect::SequenceReplayed) {
            return Err(Code::StaleSequence);
        }
        if transaction.sequence() > sequence + 1 {
            return Err(Code::GappedSequence);
        }
        if transaction.total() > balance {
            return Err(Code::Overdraft);
        }
        let abroad = || targets.iter().filter(|target| target.table != self.config.id);
        let limit = in_flight_limit(self.config.tables);
        let fits = abroad().all(|target| {
            let to = usize::from(target.table);
            counts[to] += 1;
            self.outbox.receipts(target.table) + outgoing[to].len() + usize::from(counts[to]) <= limit
        });
        abroad().for_each(|target| counts[usize::from(target.table)] = 0);
        if fits { sender.ok_or(Code::Overdraft) } else { Err(Code::MempoolFull) }
    }

    /// Moves the money.
    fn transfer(
        &mut self,
        transaction: &Transaction<'_>,
        sender: Position,
        id: Hash,
        targets: &[Target],
        outgoing: &mut [Vec<Receipt>],
    ) {
        self.units.debit(&mut self.accounts, sender, transaction.total(), id);
        self.meta.fees += transaction.fee();
        for target in targets {
            if target.table == self.config.id {
                let at = target.position.unwrap_or_else(|| self.accounts.position_or_create(&target.to));
                self.units.credit(&mut self.accounts, at, target.amount, Cause::Received(id));
            } else {
                let peer = self.meta.peer_mut(target.table);
                peer.sent += 1;
                peer.sent_amount += u128::from(target.amount);
                outgoing[usize::from(target.table)].push(Receipt {
                    from: self.config.id,
                    to: target.table,
                    number: peer.sent,
                    height: self.meta.height + 1,
                    payee: target.to,
                    amount: target.amount,
                    transaction: id,
                });
            }
        }
    }

    /// Closes the block: what it has for other tables goes out, and the chain has moved on.
    fn seal(&mut self, job: &mut Job, left: &mut usize) {
        let block = &job.block;
        let mut references = block.inbox().iter().peekable();
        for (to, receipts) in (0..self.config.tables).zip(&mut job.scratch.outgoing) {
            let reference = references.next_if(|reference| reference.table == to);
            if reference.is_none() && receipts.is_empty() {
                continue;
            }
            let peer = self.meta.peer_mut(to);
            peer.sent_deliveries += 1;
            let delivery = Delivery {
                source: self.config.id,
                height: block.height(),
                hash: block.hash(),
                to,
                number: peer.sent_deliveries,
                applied: reference.map_or(0, |reference| reference.height),
                receipts: receipts.drain(..).collect(),
            };
            receipts.shrink_to(KEPT_RECEIPTS);
            *left = left.saturating_sub(delivery.receipts.len() / 16);
            self.outbox.push(delivery.clone());
            job.sealed.push(delivery);
        }
        let header = block.header();
        (self.meta.height, self.meta.block) = (header.height, block.hash());
        self.meta.time = header.time;
    }
}

/// A transaction is valid in the epoch that it was signed in and in the next.
pub(crate) fn check_epoch(signed: Epoch, current: Epoch) -> Result<(), Code> {
    if signed == current || signed.checked_add(1) == Some(current) { Ok(()) } else { Err(Code::WrongEpoch) }
}
