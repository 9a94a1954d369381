//! A table: its accounts, its counters, and what is in flight to and from the other tables.

use std::collections::VecDeque;

use dag::{
    Address, ChainId, Epoch, Hash, Height, InboxRef, TableId,
    hash::Domain,
    state_tree::{AccountLeaf, AccountProof, CheckpointPreimage},
    unit::Cause,
    wire::Put,
};

use crate::{
    accounts::{Accounts, ProofError},
    execute::{Job, Scratch},
    inbox::Inbox,
    lanes::Lanes,
    meta::Meta,
    outbox::{Outbox, in_flight_limit},
    snapshot,
    supply::Supply,
    units::Units,
};

/// Deliveries, or receipts, that an acknowledgement has to free before a primary refers to a block for its sake alone.
/// Without a threshold two idle tables would acknowledge each other's acknowledgements for ever.
const ACKNOWLEDGE_DELIVERIES: usize = 64;
const ACKNOWLEDGE_RECEIPTS: usize = 1024;

/// What a table is told at its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The network.
    pub chain: ChainId,
    /// The current epoch.
    pub epoch: Epoch,
    /// This table.
    pub id: TableId,
    /// Number of tables of the shard: a power of two.
    pub tables: u16,
    /// Keys the index of addresses, so that nobody can prepare addresses that collide in it. Random, and free to differ
    /// between validators: no result depends on it.
    pub index_seed: u64,
}

/// A table's state machine.
#[derive(Debug)]
pub struct Table {
    pub(crate) config: Config,
    pub(crate) accounts: Accounts,
    pub(crate) meta: Meta,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    pub(crate) checkpoint: CheckpointPreimage,
    pub(crate) units: Units,
    pub(crate) receipt_lanes: Lanes,
    pub(crate) address_lanes: Lanes,
    /// The block that is being executed.
    pub(crate) job: Option<Box<Job>>,
    /// What the next one works with.
    pub(crate) scratch: Scratch,
    /// Source that the next proposal looks at first, so that none waits for ever behind the others.
    first_source: TableId,
}

impl Table {
    /// A table at height 0, with the genesis' allocations to its accounts. `genesis` is the hash of the genesis, `time` its
    /// time in µs since 1970.
    ///
    /// # Panics
    /// Where the table count is no power of two, or an allocation is to an account of another table, or the second one to an
    /// account, or zero, or they add up to more than 64 bits hold: the genesis has been checked for all of these.
    pub fn genesis(
        config: Config,
        genesis: Hash,
        time: u64,
        allocations: impl Iterator<Item = (Address, u64)>,
    ) -> Table {
        let (mut accounts, mut units) = (Accounts::new(config.index_seed), Units::new());
        let mut total: u64 = 0;
        for (address, amount) in allocations {
            assert!(address.table(config.tables) == config.id && amount > 0, "allocation to {address}");
            total = total.checked_add(amount).expect("the genesis allocates what 64 bits hold");
            let (position, new) = accounts.insert(AccountLeaf { address, ..AccountLeaf::default() });
            assert!(new, "two allocations to {address}");
            units.credit(&mut accounts, position, amount, Cause::Genesis(genesis));
        }
        units.flush(&mut accounts);
        accounts.hash_all();
        let block = genesis_block(&config, &genesis, time, &accounts);
        let meta = Meta::genesis(config.tables, block, time);
        let outbox = Outbox::new(config.tables);
        let checkpoint = preimage(&config, config.epoch, &accounts, &meta, outbox.hash());
        Table::assemble(config, accounts, meta, outbox, checkpoint)
    }

    pub(crate) fn assemble(
        config: Config,
        accounts: Accounts,
        meta: Meta,
        outbox: Outbox,
        checkpoint: CheckpointPreimage,
    ) -> Table {
        Table {
            inbox: Inbox::new(config.id, &meta),
            units: Units::new(),
            receipt_lanes: Lanes::new(&Domain::RECEIPT),
            address_lanes: Lanes::new(&Domain::ADDRESS),
            job: None,
            scratch: Scratch::new(config.tables),
            first_source: 0,
            config,
            accounts,
            meta,
            outbox,
            checkpoint,
        }
    }

    /// What it was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the chain stands, and the counters shared with other tables.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Height of the last executed block.
    pub fn height(&self) -> Height {
        self.meta.height
    }

    /// Height of the last block that is executed to its end. [`height`](Self::height) counts a block before its checkpoint is
    /// hashed.
    pub fn executed_height(&self) -> Height {
        let ends = self.job.as_ref().is_some_and(|job| job.height() == self.meta.height);
        self.meta.height - u64::from(ends)
    }

    /// Hash of the last executed block; at height 0 the genesis digest of the table, which is the first block's parent.
    pub fn block_hash(&self) -> Hash {
        self.meta.block
    }

    /// The accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// What other tables have for this one.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What other tables have for this one.
    pub fn inbox_mut(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// Whether other tables have sent this one something that it has not applied.
    pub fn has_receipts_waiting(&self) -> bool {
        self.inbox.is_ahead(&self.meta)
    }

    /// What this table has in flight for others. After a restart or a load, hand it to their inboxes.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether a block is being executed.
    pub fn is_busy(&self) -> bool {
        self.job.is_some()
    }

    /// The last checkpoint; the genesis at first.
    pub fn checkpoint(&self) -> &CheckpointPreimage {
        &self.checkpoint
    }

    /// Proves an account against the last checkpoint.
    pub fn prove(&self, address: &Address) -> Result<AccountProof, ProofError> {
        self.accounts.prove(address)
    }

    /// This table's part of the money. Walks all accounts.
    pub fn supply(&self) -> Supply {
        Supply::of(&self.accounts, &self.meta)
    }

    /// What a primary should refer to in its next block, by ascending table: of each source the newest delivery with
    /// something new, as long as they bring no more than `max_receipts` together (a single delivery may bring more).
    /// Acknowledgements alone are worth a reference once they free enough. To be followed by
    /// [`Inbox::mark_proposed`] when the block is proposed.
    pub fn proposable(&mut self, max_receipts: usize) -> Vec<InboxRef> {
        let mut references = Vec::new();
        let mut left = max_receipts;
        let sources = (self.first_source..self.config.tables).chain(0..self.first_source);
        for source in sources.filter(|source| *source != self.config.id) {
            let Some(candidate) = self.inbox.candidate(source, left) else { continue };
            let fits = candidate.receipts <= left || references.is_empty();
            let wanted = if candidate.receipts > 0 {
                fits
            } else {
                let (above, upto) = candidate.acknowledges;
                self.is_worth_acknowledging(self.outbox.droppable(source, above, upto))
            };
            if wanted {
                references.push(candidate.reference);
                left = left.saturating_sub(candidate.receipts);
            }
        }
        self.first_source = (self.first_source + 1) % self.config.tables;
        references.sort_unstable_by_key(|reference| reference.table);
        references.truncate(dag::table_block::MAX_INBOX_REFS);
        references
    }

    fn is_worth_acknowledging(&self, (deliveries, receipts): (usize, usize)) -> bool {
        let limit = in_flight_limit(self.config.tables);
        deliveries >= ACKNOWLEDGE_DELIVERIES || receipts >= ACKNOWLEDGE_RECEIPTS.min(limit / 4)
    }

    /// Hashes the present state as a checkpoint would. No rule of the chain asks for it, and none notices: it is for a peer that
    /// needs the state of a table that rests. Not sliced, as little has changed since the last checkpoint.
    ///
    /// # Panics
    /// Where a block is being executed.
    pub fn checkpoint_now(&mut self) -> &CheckpointPreimage {
        assert!(!self.is_busy(), "in the midst of a block");
        if self.checkpoint.height != self.meta.height {
            self.accounts.hash_all();
            let (config, outbox) = (&self.config, self.outbox.hash());
            self.checkpoint = preimage(config, config.epoch, &self.accounts, &self.meta, outbox);
        }
        &self.checkpoint
    }

    /// Freezes the present state for a snapshot, which execution does not disturb. Returns the head section; the others
    /// come from [`snapshot_step`](Self::snapshot_step). A snapshot that is under way is given up.
    ///
    /// # Panics
    /// Where a block was executed, or begun, since the last checkpoint.
    pub fn begin_snapshot(&mut self) -> Vec<u8> {
        assert!(!self.is_busy() && self.meta.height == self.checkpoint.height, "not at a checkpoint");
        self.accounts.begin_snapshot();
        snapshot::encode_head(&self.checkpoint, &self.meta, &self.outbox)
    }

    /// The next section of the snapshot, of up to `max_accounts` accounts; `None` at its end.
    pub fn snapshot_step(&mut self, max_accounts: usize) -> Option<Vec<u8>> {
        self.accounts.snapshot_step(max_accounts)
    }

    /// Gives the snapshot up.
    pub fn end_snapshot(&mut self) {
        self.accounts.end_snapshot();
    }

    /// Takes deliveries out of the inbox for the block that refers to them.
    pub(crate) fn take_inbox(&mut self, references: &[InboxRef]) -> VecDeque<crate::Delivery> {
        let mut deliveries = VecDeque::new();
        for reference in references {
            self.inbox.take(reference, &mut deliveries);
        }
        deliveries
    }
}

/// What stands for the block of height 0: all that the table's genesis fixes.
fn genesis_block(config: &Config, genesis: &Hash, time: u64, accounts: &Accounts) -> Hash {
    let mut bytes = b"table".to_vec();
    bytes.put(&genesis.0);
    bytes.put_u64(config.chain);
    bytes.put_u32(config.epoch);
    bytes.put_u16(config.id);
    bytes.put_u16(config.tables);
    bytes.put_u64(time);
    bytes.put_u64(accounts.len() as u64);
    bytes.put(&accounts.root().0);
    Domain::GENESIS.hash(&bytes)
}

/// What a checkpoint of this state signs. The accounts' root is that of the last hashing.
pub(crate) fn preimage(
    config: &Config,
    epoch: Epoch,
    accounts: &Accounts,
    meta: &Meta,
    outbox: Hash,
) -> CheckpointPreimage {
    CheckpointPreimage {
        chain: config.chain,
        epoch,
        table: config.id,
        height: meta.height,
        block: meta.block,
        accounts: accounts.len() as u64,
        accounts_root: accounts.root(),
        meta: meta.hash(),
        outbox,
    }
}
