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
//!   2 state    the table's sections, in order (see `shard_core::partition`)
//!   4 mark     segment (4) and offset (4) of the log's newest record when the promises were taken; on the own disk only
//!   3 promise  a `pbft::Record` that was in force then; on the own disk only
//! ```

use bytes::Bytes;
use dag::{
    Certificate, Committee, Height, ReplicaId, TableId, VoteKind,
    client::Code,
    keys::VerifyFn,
    wire::{Put, Reader, WireError},
};
use pbft::Base;
use shard_core::{
    Delivery, Table, partition,
    snapshot::{LoadError, Loader},
};

use super::{Core, Cross, Effect, Held, TableNode, frame::Frame, meters::Count, retention::Kept};
use crate::log::LogPosition;

/// Section of a snapshot: the certificates.
pub const SECTION_BASE: u8 = 1;
/// Section of a snapshot: a part of the table's state.
pub const SECTION_STATE: u8 = 2;
/// Section of a snapshot: a promise of this validator, which is not for others.
pub const SECTION_PROMISE: u8 = 3;
/// Section of a snapshot: where in the log the promises stand.
pub const SECTION_MARK: u8 = 4;
/// Accounts copied in one slice.
const SLICE: usize = 1024;
/// Bytes of one part on its way to a peer.
const PART: usize = 1 << 20;
/// Largest state that is fetched.
const MAX_STATE: u64 = 8 << 30;
/// How long a part may take before it is asked for again, ns.
const RETRY: u64 = 500_000_000;
/// Tries with one peer before the next one is asked.
const TRIES: u32 = 10;
/// A snapshot is kept in memory for peers so long, ns.
const SERVED_FOR: u64 = 120_000_000_000;
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

/// A snapshot that is being copied, or waits for its checkpoint to become stable.
#[derive(Debug)]
struct Draft {
    height: Height,
    commit: Certificate,
    stable: Option<Certificate>,
    sections: Vec<Bytes>,
    copied: bool,
    promises: Option<Promises>,
    /// By table: up to which height its receipts are in the state.
    applied: Vec<Height>,
}

/// What the log had promised when a snapshot was taken.
#[derive(Debug)]
struct Promises {
    sections: Vec<(u8, Bytes)>,
    segment: u32,
}

/// A snapshot that peers may fetch.
#[derive(Debug)]
struct Served {
    height: Height,
    bytes: Bytes,
    until: u64,
}

/// A state that is being fetched.
#[derive(Debug)]
struct Fetch {
    above: Height,
    peer: ReplicaId,
    tries: u32,
    retry_at: u64,
    height: Height,
    bytes: Vec<u8>,
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
    /// Fetches begun: each with another peer first.
    fetches: usize,
    /// Since when execution waits at this height for another table.
    starved: Option<(Height, u64)>,
    /// A fetched state that is being written: it counts only once a restart would find it.
    installing: Option<Installing>,
    /// A snapshot on its way to the disk.
    writing: Option<Kept>,
}

/// A fetched state on its way to the disk.
#[derive(Debug)]
struct Installing {
    state: Table,
    base: Base,
    /// Its sections, until they are handed over.
    sections: Vec<(u8, Bytes)>,
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
    /// It is not what the certificates prove.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Reads and proves a snapshot: the table at its checkpoint, and where agreement goes on from.
pub fn load_state<'a>(
    config: partition::Config,
    committee: &Committee,
    verify: VerifyFn,
    mut sections: impl Iterator<Item = (u8, &'a [u8])>,
) -> Result<(Table, Base), StateError> {
    let Some((SECTION_BASE, base)) = sections.next() else { return Err(WireError::Truncated.into()) };
    let mut reader = Reader::new(base);
    let stable = Certificate::decode(&mut reader)?;
    let commit = Certificate::decode(&mut reader)?;
    reader.finish()?;
    let proves = |certificate: &Certificate, kind: VoteKind| {
        let vote = &certificate.vote;
        (vote.kind, vote.table, vote.height) == (kind, config.id, stable.vote.height)
            && certificate.check(committee, verify).is_ok()
    };
    if !proves(&stable, VoteKind::Checkpoint) {
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
    let mut loader = Loader::new(config, head, stable.vote.digest)?;
    for section in state {
        loader.push(section?)?;
    }
    let table = loader.finish()?;
    if table.block_hash() != commit.vote.digest || table.height() != stable.vote.height {
        return Err(StateError::Certificate("commit"));
    }
    let base = Base {
        height: table.height(),
        digest: table.block_hash(),
        time: table.meta().time,
        commit: Some(commit),
        stable: Some(stable),
    };
    Ok((table, base))
}

/// What a replica has promised, with the log's newest position.
fn promise_sections(replica: &pbft::Replica, position: LogPosition) -> Vec<(u8, Bytes)> {
    let mut mark = Vec::new();
    mark.put_u32(position.segment);
    mark.put_u32(position.offset);
    let promises = replica.records().into_iter().map(|record| {
        let mut out = Vec::new();
        record.encode(&mut out);
        (SECTION_PROMISE, Bytes::from(out))
    });
    std::iter::once((SECTION_MARK, mark.into())).chain(promises).collect()
}

fn join_sections(sections: &[(u8, Bytes)]) -> Bytes {
    let mut out = Vec::with_capacity(sections.iter().map(|(_, bytes)| bytes.len() + 5).sum());
    for (kind, section) in sections {
        out.put_u8(*kind);
        out.put_u32(u32::try_from(section.len()).expect("a section is a bounded slice of a table"));
        out.put(section);
    }
    out.into()
}

fn split_sections(bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, WireError> {
    let mut reader = Reader::new(bytes);
    let mut sections = Vec::new();
    while reader.remaining() > 0 {
        let kind = reader.u8()?;
        let length = reader.u32()? as usize;
        sections.push((kind, reader.take(length)?));
    }
    Ok(sections)
}

impl TableNode {
    /// Begins a snapshot of the state, which is at a checkpoint.
    fn begin_draft(&mut self, commit: Certificate) {
        self.logged = 0;
        self.sync.wanted = false;
        self.sync.draft = Some(Draft {
            height: self.state.height(),
            commit,
            stable: self.replica.stable().filter(|stable| stable.vote.height == self.state.height()).cloned(),
            sections: vec![self.state.begin_snapshot().into()],
            copied: false,
            promises: None,
            applied: self.applied_heights(),
        });
    }
}

impl Core {
    /// A checkpoint was executed: begin a snapshot where one is due.
    pub(super) fn on_checkpoint(&mut self, slot: usize, commit: &Certificate) {
        let table = &mut self.tables[slot];
        let due = table.logged >= self.settings.snapshot_interval || table.sync.wanted;
        // Below the stable height no certificate of this checkpoint comes any more.
        if due && table.sync.draft.is_none() && table.state.height() >= table.replica.stable_height() {
            table.begin_draft(commit.clone());
        }
    }

    /// A table that has gone quiet on a checkpoint executes no further one: begin a wanted snapshot there.
    fn begin_quiet_snapshot(&mut self, slot: usize) {
        let table = &mut self.tables[slot];
        let height = table.state.height();
        let stable = table.replica.stable().filter(|stable| stable.vote.height == height).cloned();
        let commit =
            table.replica.committed_certificate().filter(|commit| commit.vote.height == height).cloned();
        let (Some(stable), Some(commit)) = (stable, commit) else { return };
        if table.sync.draft.is_some() || table.state.is_busy() || table.state.checkpoint().height != height {
            return;
        }
        table.begin_draft(commit);
        table.sync.draft.as_mut().expect("just begun").stable = Some(stable);
    }

    /// Takes the promises for snapshots that are being made. Comes after the replicas' outputs are drained, so that the journal
    /// has all that they have promised.
    pub(super) fn take_promises(&mut self, now: u64) {
        let position = self.journal.position();
        for slot in 0..self.tables.len() {
            let table = &mut self.tables[slot];
            if let Some(draft) = table.sync.draft.as_mut().filter(|draft| draft.promises.is_none()) {
                let sections = promise_sections(&table.replica, position);
                draft.promises = Some(Promises { sections, segment: position.segment });
                self.finish_draft(slot, now);
            }
            let table = &mut self.tables[slot];
            let waits = |installing: &&mut Installing| !installing.sections.is_empty();
            if let Some(installing) = table.sync.installing.as_mut().filter(waits) {
                let mut sections = std::mem::take(&mut installing.sections);
                sections.extend(promise_sections(&table.replica, position));
                let (height, applied) = (installing.base.height, installing.state.meta().peers.iter());
                let applied = applied.map(|peer| peer.applied_height).collect();
                table.sync.writing = Some(Kept { height, segment: position.segment, applied });
                self.journal.hold(Held::Snapshot(SnapshotJob { table: table.id, height, sections }));
            }
        }
    }

    /// A checkpoint is stable: its snapshot counts, an older one does not any more.
    pub(super) fn on_stable(&mut self, slot: usize, certificate: Certificate, now: u64) {
        self.meters.count(Count::StableCheckpoints, 1);
        let table = &mut self.tables[slot];
        let Some(draft) = &mut table.sync.draft else { return };
        if draft.height == certificate.vote.height {
            draft.stable = Some(certificate);
            self.finish_draft(slot, now);
        } else if draft.height < certificate.vote.height && draft.stable.is_none() {
            // Its own certificate was skipped and won't come.
            table.sync.draft = None;
            table.state.end_snapshot();
            table.sync.wanted = true;
        }
    }

    /// Copies a slice of the snapshots that are being made. Returns whether there is more.
    pub(super) fn copy_snapshots(&mut self, now: u64) -> bool {
        let Some(slot) = self.tables.iter().position(|table| table.sync.is_copying()) else { return false };
        let table = &mut self.tables[slot];
        let draft = table.sync.draft.as_mut().expect("it is being copied");
        match table.state.snapshot_step(SLICE) {
            Some(section) => draft.sections.push(section.into()),
            None => {
                draft.copied = true;
                self.finish_draft(slot, now);
            }
        }
        true
    }

    fn finish_draft(&mut self, slot: usize, now: u64) {
        let table = &mut self.tables[slot];
        let done = |draft: &mut Draft| draft.copied && draft.stable.is_some() && draft.promises.is_some();
        let Some(draft) = table.sync.draft.take_if(done) else { return };
        let promises = draft.promises.expect("just checked");
        let mut base = Vec::new();
        draft.stable.expect("just checked").encode(&mut base);
        draft.commit.encode(&mut base);
        let state = draft.sections.into_iter().map(|bytes| (SECTION_STATE, bytes));
        let mut sections: Vec<(u8, Bytes)> =
            std::iter::once((SECTION_BASE, base.into())).chain(state).collect();
        if std::mem::take(&mut table.sync.asked) {
            let bytes = join_sections(&sections);
            table.sync.served = Some(Served { height: draft.height, bytes, until: now + SERVED_FOR });
        }
        sections.extend(promises.sections);
        let kept = Kept { height: draft.height, segment: promises.segment, applied: draft.applied };
        table.sync.writing = Some(kept);
        let job = SnapshotJob { table: table.id, height: draft.height, sections };
        self.journal.hold(Held::Snapshot(job));
    }

    /// A snapshot is on disk, or could not be written.
    pub fn on_snapshot_written(
        &mut self,
        table: TableId,
        height: Height,
        result: std::io::Result<()>,
        now: u64,
    ) {
        let slot = self.slots[usize::from(table)].expect("snapshots come back to their core");
        let sync = &mut self.tables[slot].sync;
        let fetched = sync.installing.take_if(|installing| installing.base.height == height);
        let written = sync.writing.take_if(|kept| kept.height == height);
        match result {
            Ok(()) => {
                self.meters.count(Count::Snapshots, 1);
                if let Some(kept) = written {
                    self.on_kept(slot, kept);
                }
                if let Some(Installing { state, base, .. }) = fetched {
                    self.install(slot, state, base, now);
                }
            }
            Err(error) => {
                self.meters.count(Count::SnapshotsFailed, 1);
                if fetched.is_some() {
                    let above = self.tables[slot].state.height();
                    self.begin_fetch(slot, above, now);
                }
                self.effects.push_back(Effect::Note(format!(
                    "table {table}: the snapshot at height {height} can't be written: {error}; trying on"
                )));
            }
        }
    }

    /// A peer wants a state above a height: send the part it asks for, or see to it that there will be one.
    pub(super) fn on_want_state(&mut self, slot: usize, from: ReplicaId, above: Height, offset: u64) {
        let table = &mut self.tables[slot];
        let served = table.sync.served.as_ref().filter(|served| served.height > above);
        let frame = match served {
            Some(served) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(served.bytes.len());
                let end = (start + PART).min(served.bytes.len());
                let total = served.bytes.len() as u64;
                let bytes = served.bytes.slice(start..end);
                if bytes.is_empty() {
                    return;
                }
                Frame::State { table: table.id, height: served.height, offset, total, bytes }
            }
            None => {
                // Only what can be: a height that nobody has would have every checkpoint copied.
                table.sync.wanted |= above < table.replica.committed_height();
                table.sync.asked = true;
                Frame::NoState(table.id)
            }
        };
        self.effects.push_back(Effect::ToPeer(from, table.lane, frame.encode()));
    }

    /// Agreement is far behind: fetch the state.
    pub(super) fn on_behind(&mut self, slot: usize, now: u64) {
        let above = self.tables[slot].state.height();
        self.begin_fetch(slot, above, now);
    }

    pub(super) fn begin_fetch(&mut self, slot: usize, above: Height, now: u64) {
        let table = &mut self.tables[slot];
        if table.sync.fetch.is_some() || table.sync.installing.is_some() {
            return;
        }
        let note = format!("table {}: fetching the state above height {above} from peers", table.id);
        self.effects.push_back(Effect::Note(note));
        table.sync.fetches += 1;
        let peers = self.shard.committee.size() - 1;
        let peer = self.shard.peers().nth((slot + table.sync.fetches) % peers).expect("there are peers");
        table.sync.fetch = Some(Fetch { above, peer, tries: 0, retry_at: now, height: 0, bytes: Vec::new() });
    }

    /// Runs what is due of a table's snapshots and transfers.
    pub(super) fn tick_sync(&mut self, slot: usize, now: u64) {
        self.watch_starvation(slot, now);
        let table = &mut self.tables[slot];
        table.sync.served.take_if(|served| served.until <= now);
        if table.sync.wanted {
            self.begin_quiet_snapshot(slot);
        }
        let table = &mut self.tables[slot];
        let Some(fetch) = table.sync.fetch.as_mut().filter(|fetch| fetch.retry_at <= now) else { return };
        fetch.tries += 1;
        fetch.retry_at = now + RETRY;
        if fetch.tries > TRIES || !self.links_up[usize::from(table.lane)][usize::from(fetch.peer)] {
            fetch.tries = 0;
            fetch.bytes.clear();
            let size = self.shard.committee.size();
            let next = |peer: ReplicaId| if usize::from(peer) + 1 == size { 0 } else { peer + 1 };
            fetch.peer = next(fetch.peer);
            if fetch.peer == self.shard.me {
                fetch.peer = next(fetch.peer);
            }
        }
        let want = Frame::WantState { table: table.id, above: fetch.above, offset: fetch.bytes.len() as u64 };
        let peer = fetch.peer;
        self.effects.push_back(Effect::ToPeer(peer, table.lane, want.encode()));
    }

    /// Execution can wait in vain: for receipts of a block that its own table has jumped over with a fetched state.
    fn watch_starvation(&mut self, slot: usize, now: u64) {
        let table = &mut self.tables[slot];
        let height = table.state.height();
        if table.unexecuted.is_empty() || table.state.is_busy() {
            table.sync.starved = None;
            return;
        }
        match table.sync.starved {
            Some((at, since)) if at == height => {
                if since + STARVED_AFTER <= now {
                    table.sync.starved = Some((height, now));
                    self.begin_fetch(slot, height, now);
                }
            }
            _ => table.sync.starved = Some((height, now)),
        }
    }

    /// A peer has no state above the height asked for, but will have.
    pub(super) fn on_no_state(&mut self, slot: usize, from: ReplicaId) {
        let fetch = self.tables[slot].sync.fetch.as_mut().filter(|fetch| fetch.peer == from);
        if let Some(fetch) = fetch {
            fetch.bytes.clear();
        }
    }

    /// Another core's table begins anew: give it once more what is in flight for it.
    pub(super) fn redeliver(&mut self, to: TableId, now: u64) {
        let outboxes = self.tables.iter().flat_map(|table| table.state.outbox().iter());
        let again: Vec<Delivery> = outboxes.filter(|delivery| delivery.to == to).cloned().collect();
        for delivery in again {
            self.deliver(delivery, now);
        }
    }

    /// A part of a state.
    pub(super) fn on_state_part(&mut self, slot: usize, from: ReplicaId, part: &StatePart<'_>, now: u64) {
        let table = &mut self.tables[slot];
        let Some(fetch) = table.sync.fetch.as_mut().filter(|fetch| fetch.peer == from) else { return };
        if fetch.height != part.height {
            // The peer has a newer one by now: begin again.
            fetch.bytes.clear();
            fetch.height = part.height;
        }
        let last = part.offset + part.bytes.len() as u64 == part.total;
        let whole = part.bytes.len() == PART || last;
        let fits =
            part.offset == fetch.bytes.len() as u64 && part.total <= MAX_STATE && part.height > fetch.above;
        if !fits || !whole {
            return;
        }
        fetch.bytes.extend_from_slice(part.bytes);
        fetch.tries = 0;
        fetch.retry_at = now;
        if fetch.bytes.len() as u64 == part.total {
            let fetch = table.sync.fetch.take().expect("it is there");
            self.prove_fetched(slot, &fetch.bytes, from, now);
        }
    }

    /// Proves a fetched state and writes it: a log that goes on above a state that a crash would forget could not be read.
    fn prove_fetched(&mut self, slot: usize, bytes: &[u8], from: ReplicaId, now: u64) {
        let table = &mut self.tables[slot];
        let config = *table.state.config();
        let loaded = split_sections(bytes).map_err(StateError::from).and_then(|sections| {
            let verify = self.shard.signatures.verify();
            let loaded = load_state(config, &self.shard.committee, verify, sections.iter().copied())?;
            Ok((loaded, sections))
        });
        let ((state, base), sections) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let note = format!("table {}: validator {from} sent a bad state: {error}", table.id);
                self.effects.push_back(Effect::Note(note));
                let above = table.state.height();
                return self.begin_fetch(slot, above, now);
            }
        };
        if base.height <= table.state.height() {
            return;
        }
        let (id, height) = (table.id, base.height);
        let note = format!("table {id}: state at height {height} fetched from validator {from}");
        self.effects.push_back(Effect::Note(note));
        let sections =
            sections.into_iter().map(|(kind, bytes)| (kind, Bytes::copy_from_slice(bytes))).collect();
        table.sync.installing = Some(Installing { state, base, sections });
    }

    /// Goes on from a fetched state, now that it is on disk.
    fn install(&mut self, slot: usize, state: Table, base: Base, now: u64) {
        self.finish_execution(slot, now);
        let table = &mut self.tables[slot];
        if base.height <= table.state.height() {
            return;
        }
        self.meters.count(Count::StateTransfers, 1);
        let (height, id) = (base.height, table.id);
        table.sync.draft = None;
        table.sync.starved = None;
        table.state = state;
        table.unexecuted.retain(|(block, _)| block.height() > height);
        table.validations.clear();
        table.replica.install(base, now);
        // What was executed in the blocks in between is not known here: clients learn it from another validator.
        let known = self.settled.len();
        table.repropose(&mut self.settled);
        for settled in self.settled[known..].iter_mut().filter(|s| s.answer.code == Code::StaleSequence) {
            settled.answer = Code::Unavailable.into();
        }
        // What the other tables of this core have in flight for it was in the old state's inbox.
        let others = self.tables.iter().flat_map(|other| other.state.outbox().iter());
        let again: Vec<Delivery> = others.filter(|delivery| delivery.to == id).cloned().collect();
        for delivery in again {
            self.on_delivery(slot, delivery, now);
        }
        for core in (0..self.placement.cores).filter(|&core| core != self.placement.core) {
            self.effects.push_back(Effect::ToCore(core, Cross::Redeliver { to: id }));
        }
        let own: Vec<Delivery> = self.tables[slot].state.outbox().iter().cloned().collect();
        for delivery in own {
            self.deliver(delivery, now);
        }
        self.answer_settled(now);
    }
}

/// A part of a state, as it came.
pub(super) struct StatePart<'a> {
    pub height: Height,
    pub offset: u64,
    pub total: u64,
    pub bytes: &'a [u8],
}
