//! Snapshots of the tables' states, for restarts and for peers that are far behind.
//!
//! A snapshot begins right after a checkpoint is executed, when enough log has gathered or a peer asks; it is copied in
//! slices while execution goes on, and counts once the checkpoint is stable. Then it is written to disk, and served from
//! memory to peers that want it. A state that comes from a peer is believed for the certificates that it carries and for
//! nothing else: the accounts are hashed and compared with what a quorum signed.
//!
//! ```text
//! a snapshot:  sections, each: kind (1), length (4), bytes
//!   1 base     stable checkpoint's certificate, commit certificate of its block
//!   5 vouched  in place of the base: commit certificate of the block, of a table that rests (see `vouch`)
//!   2 state    the table's sections, in order (see `shard_core::partition`)
//!   4 mark     segment (4) and offset (4) of the log's newest record when the promises were taken; on the own disk only
//!   3 promise  a `pbft::Record` that was in force then; on the own disk only
//! ```

mod fetch;
mod make;
mod vouch;

use bytes::Bytes;
use dag::{
    Certificate, Committee, Hash, Height, TableId, VoteKind,
    keys::Verify,
    wire::{Reader, WireError},
};
use pbft::Base;
use shard_core::{
    Table, partition,
    snapshot::{LoadError, Loader, checkpoint_of},
};

use self::{
    fetch::{Fetch, Installing, Served},
    make::Draft,
    vouch::Claims,
};
use super::retention::Kept;

pub(super) use self::fetch::StatePart;
pub use self::fetch::{join_sections, split_sections};

/// Section of a snapshot: the certificates.
pub const SECTION_BASE: u8 = 1;
/// Section of a snapshot: a part of the table's state.
pub const SECTION_STATE: u8 = 2;
/// Section of a snapshot: a promise of this validator, which is not for others.
pub const SECTION_PROMISE: u8 = 3;
/// Section of a snapshot: where in the log the promises stand.
pub const SECTION_MARK: u8 = 4;
/// Section of a snapshot: the certificate of a block whose state peers vouch for.
pub const SECTION_VOUCHED: u8 = 5;
/// Execution that waits so long for another table's block won't get it any more: the state is fetched instead, ns.
const STARVED_AFTER: u64 = 3_000_000_000;

/// A snapshot to be written: its sections, in order.
#[derive(Clone, Debug)]
pub struct SnapshotJob {
    /// The table.
    pub table: TableId,
    /// The checkpoint's height.
    pub height: Height,
    /// Kind and bytes of each section.
    pub sections: Vec<(u8, Bytes)>,
}

/// What a table has on the way to its disk, to its peers, and from them.
#[derive(Debug, Default)]
pub(super) struct Sync {
    draft: Option<Draft>,
    served: Option<Served>,
    /// A newer snapshot than there is, is wanted: for a peer, or so that the log can forget.
    wanted: bool,
    /// A peer will ask for the next snapshot.
    asked: bool,
    fetch: Option<Fetch>,
    /// What peers vouch for.
    claims: Claims,
    /// Fetches begun: each with another peer first.
    fetches: usize,
    /// Since when execution waits at this height for another table.
    starved: Option<(Height, u64)>,
    /// When the table was last looked after.
    seen: u64,
    /// A fetched state that is being written: it counts only once a restart would find it.
    installing: Option<Installing>,
    /// A snapshot on its way to the disk.
    writing: Option<Kept>,
}

impl Sync {
    /// When there is something to do although nothing arrives.
    pub fn poll_timeout(&self) -> Option<u64> {
        let starved = self.starved.map(|(_, since)| since + STARVED_AFTER);
        let fetch = self.fetch.as_ref().map(|fetch| fetch.retry_at);
        let served = self.served.as_ref().map(|served| served.until);
        [starved, fetch, served].into_iter().flatten().min()
    }

    /// A snapshot is due at the next checkpoint, or at once where the table rests on one.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether a state is fetched from a peer, or written.
    pub fn is_fetching(&self) -> bool {
        self.fetch.is_some() || self.installing.is_some()
    }

    /// Whether a snapshot is made, or on its way to the disk.
    pub fn is_saving(&self) -> bool {
        self.draft.is_some() || self.writing.is_some()
    }

    /// Whether a snapshot is being copied.
    pub fn is_copying(&self) -> bool {
        self.draft.as_ref().is_some_and(|draft| !draft.copied)
    }
}

/// Why a snapshot is not a state to go on from.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Malformed.
    #[error("malformed snapshot: {0}")]
    Wire(#[from] WireError),
    /// The certificates don't prove it.
    #[error("the snapshot's certificates do not prove it: {0}")]
    Certificate(&'static str),
    /// No checkpoint certifies it, and too few vouch for it.
    #[error("no checkpoint certifies the state at height {0}, and too few peers vouch for it")]
    Unvouched(Height),
    /// It is not what the certificates prove.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Reads and proves a snapshot: the table at its height, and where agreement goes on from. `vouched` says of a height and digest
/// that no checkpoint certifies whether it is believed all the same: from the own disk, or where f + 1 peers claim it.
pub fn load_state<'a>(
    config: partition::Config,
    committee: &Committee,
    verify: &Verify,
    vouched: impl Fn(Height, &Hash) -> bool,
    mut sections: impl Iterator<Item = (u8, &'a [u8])>,
) -> Result<(Table, Base), StateError> {
    let (kind, base) = sections.next().ok_or(WireError::Truncated)?;
    let mut reader = Reader::new(base);
    let stable = match kind {
        SECTION_BASE => Some(Certificate::decode(&mut reader)?),
        SECTION_VOUCHED => None,
        _ => return Err(WireError::Field("section kind").into()),
    };
    let commit = Certificate::decode(&mut reader)?;
    reader.finish()?;
    let proves = |certificate: &Certificate, kind: VoteKind| {
        let vote = &certificate.vote;
        (vote.kind, vote.table, vote.height) == (kind, config.id, commit.vote.height)
            && certificate.check(committee, verify).is_ok()
    };
    if !stable.as_ref().is_none_or(|stable| proves(stable, VoteKind::Checkpoint)) {
        return Err(StateError::Certificate("checkpoint"));
    }
    if !proves(&commit, VoteKind::Commit) {
        return Err(StateError::Certificate("commit"));
    }
    let state = sections.filter(|(kind, _)| !matches!(*kind, SECTION_MARK | SECTION_PROMISE));
    let mut state = state.map(|(kind, bytes)| match kind {
        SECTION_STATE => Ok(bytes),
        _ => Err(WireError::Field("section kind")),
    });
    let head = state.next().ok_or(WireError::Truncated)??;
    let digest = match &stable {
        Some(stable) => stable.vote.digest,
        None => {
            let claimed = checkpoint_of(head)?;
            let digest = claimed.digest();
            let believed = vouched(claimed.height, &digest);
            believed.then_some(digest).ok_or(StateError::Unvouched(claimed.height))?
        }
    };
    let mut loader = Loader::new(config, head, digest)?;
    for section in state {
        loader.push(section?)?;
    }
    let table = loader.finish()?;
    if table.block_hash() != commit.vote.digest || table.height() != commit.vote.height {
        return Err(StateError::Certificate("commit"));
    }
    let base = Base {
        height: table.height(),
        digest: table.block_hash(),
        time: table.meta().time,
        commit: Some(commit),
        stable,
    };
    Ok((table, base))
}
