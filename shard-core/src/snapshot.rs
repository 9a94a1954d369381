//! Snapshots: a table's state at a checkpoint, written out in sections while execution goes on.
//!
//! ```text
//! head section       version 1 (1), reserved 0 (7), checkpoint preimage (168), meta, outbox
//! accounts section   first position (8), count (4), count × leaf (88)
//! ```
//!
//! The head is taken at once. Accounts are copied in slices; whoever changes one that is not yet copied saves its old
//! state aside first. A reader trusts nothing: the preimage has to have the digest of a checkpoint certificate, and all
//! else the hashes that the preimage names.

use std::collections::HashMap;

use ahash::RandomState;
use dag::{
    Hash,
    planted::{self, Defect},
    state_tree::{AccountLeaf, CheckpointPreimage, LEAF_SIZE},
    wire::{Put, Reader, WireError},
};

use crate::{
    accounts::{Accounts, Position},
    leaves::Leaves,
    meta::Meta,
    outbox::Outbox,
    partition::{Config, Table},
};

/// Most accounts of one section.
pub const MAX_SECTION_ACCOUNTS: usize = 65_536;

/// A copy of the accounts that is being taken.
#[derive(Debug)]
pub(crate) struct Copying {
    total: usize,
    next: usize,
    /// Leaves that were changed before they were copied, as they were.
    saved: HashMap<Position, AccountLeaf, RandomState>,
}

impl Copying {
    pub(crate) fn new(total: usize) -> Copying {
        Copying { total, next: 0, saved: HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4)) }
    }

    /// To be called before a leaf changes.
    pub(crate) fn before_change(&mut self, position: Position, leaf: &AccountLeaf) {
        if (self.next..self.total).contains(&(position as usize)) {
            self.saved.entry(position).or_insert(*leaf);
        }
    }

    /// The next section; `None` once all accounts are out.
    pub(crate) fn next_section(&mut self, leaves: &Leaves, max: usize) -> Option<Vec<u8>> {
        assert!(max > 0, "a section holds at least one account");
        let count = (self.total - self.next).min(max).min(MAX_SECTION_ACCOUNTS);
        if count == 0 {
            return None;
        }
        let mut section = Vec::with_capacity(12 + count * LEAF_SIZE);
        section.put_u64(self.next as u64);
        section.put_u32(u32::try_from(count).expect("at most MAX_SECTION_ACCOUNTS"));
        for at in self.next..self.next + count {
            let position = Position::try_from(at).expect("positions are 32 bits");
            let saved = self.saved.remove(&position);
            section.put(&saved.as_ref().unwrap_or_else(|| leaves.get(at)).to_bytes());
        }
        self.next += count;
        Some(section)
    }
}

/// Why a snapshot is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    /// Malformed.
    #[error("malformed snapshot: {0}")]
    Wire(#[from] WireError),
    /// Of another network or table.
    #[error("the snapshot is of another network or table")]
    Other,
    /// Not the state that the checkpoint certifies.
    #[error("the snapshot is not the state that the checkpoint certifies")]
    Digest,
    /// Sections are missing, doubled, or out of order.
    #[error("the snapshot's sections don't follow one another")]
    Order,
}

/// The head section.
pub(crate) fn encode_head(checkpoint: &CheckpointPreimage, meta: &Meta, outbox: &Outbox) -> Vec<u8> {
    let mut head = vec![1, 0, 0, 0, 0, 0, 0, 0];
    checkpoint.encode(&mut head);
    meta.encode(&mut head);
    outbox.encode(&mut head);
    head
}

/// The checkpoint that a head section speaks of, unproven.
pub fn checkpoint_of(head: &[u8]) -> Result<CheckpointPreimage, LoadError> {
    read_checkpoint(&mut Reader::new(head))
}

fn read_checkpoint(reader: &mut Reader<'_>) -> Result<CheckpointPreimage, LoadError> {
    if reader.array()? != [1, 0, 0, 0, 0, 0, 0, 0] {
        return Err(WireError::Field("snapshot version").into());
    }
    Ok(CheckpointPreimage::decode(reader)?)
}

/// Builds a table from a snapshot's sections.
#[derive(Debug)]
pub struct Loader {
    config: Config,
    checkpoint: CheckpointPreimage,
    meta: Meta,
    outbox: Outbox,
    accounts: Accounts,
}

impl Loader {
    /// Reads the head section. `digest` is the checkpoint's, from its certificate.
    pub fn new(config: Config, head: &[u8], digest: Hash) -> Result<Loader, LoadError> {
        let mut reader = Reader::new(head);
        let checkpoint = read_checkpoint(&mut reader)?;
        if (checkpoint.chain, checkpoint.table) != (config.chain, config.id) {
            return Err(LoadError::Other);
        }
        if checkpoint.digest() != digest {
            return Err(LoadError::Digest);
        }
        let meta = Meta::decode(&mut reader, config.tables)?;
        let outbox = Outbox::decode(&mut reader, config.id, config.tables)?;
        reader.finish()?;
        if meta.hash() != checkpoint.meta || outbox.hash() != checkpoint.outbox {
            return Err(LoadError::Digest);
        }
        Ok(Loader { config, checkpoint, meta, outbox, accounts: Accounts::new(config.index_seed) })
    }

    /// Reads the next accounts section.
    pub fn push(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let mut reader = Reader::new(section);
        let (first, count) = (reader.u64()?, reader.u32()?);
        if first != self.accounts.len() as u64 || first + u64::from(count) > self.checkpoint.accounts {
            return Err(LoadError::Order);
        }
        for _ in 0..count {
            let (_, new) = self.accounts.insert(AccountLeaf::decode(&mut reader)?);
            if !new {
                return Err(LoadError::Digest);
            }
        }
        Ok(reader.finish()?)
    }

    /// The checkpoint that is being loaded.
    pub fn checkpoint(&self) -> &CheckpointPreimage {
        &self.checkpoint
    }

    /// The table, once its accounts have the root that the checkpoint certifies.
    pub fn finish(mut self) -> Result<Table, LoadError> {
        if self.accounts.len() as u64 != self.checkpoint.accounts {
            return Err(LoadError::Order);
        }
        self.accounts.hash_all();
        if self.accounts.root() != self.checkpoint.accounts_root && !planted::is(Defect::StateUnproven) {
            return Err(LoadError::Digest);
        }
        Ok(Table::assemble(self.config, self.accounts, self.meta, self.outbox, self.checkpoint))
    }
}
