//! Making snapshots: begun at a checkpoint, copied in slices, counted once it is stable, written with the promises in force.

use bytes::Bytes;
use dag::{Certificate, Height, wire::Put};

use super::{
    SECTION_BASE, SECTION_MARK, SECTION_PROMISE, SECTION_STATE, SECTION_VOUCHED, SnapshotJob,
    fetch::{Installing, SERVED_FOR, Served, join_sections},
};
use crate::{
    log::LogPosition,
    node::{Core, Held, TableNode, meters::Count, retention::Kept},
};

/// Accounts copied in one slice.
const SLICE: usize = 1024;

/// A snapshot that is being copied, or waits for its checkpoint to become stable.
#[derive(Debug)]
pub(super) struct Draft {
    height: Height,
    commit: Certificate,
    stable: Option<Certificate>,
    /// Of a table that rests between two checkpoints: no certificate will come, and it is for peers only.
    resting: bool,
    sections: Vec<Bytes>,
    pub(super) copied: bool,
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

impl TableNode {
    fn stable_at(&self, height: Height) -> Option<&Certificate> {
        self.replica.stable().filter(|stable| stable.vote.height == height)
    }

    /// Begins a snapshot of the state, which is at a checkpoint.
    fn begin_draft(&mut self, commit: Certificate) {
        self.sync.wanted = false;
        self.sync.draft = Some(Draft {
            height: self.state.height(),
            commit,
            stable: self.stable_at(self.state.height()).cloned(),
            resting: false,
            sections: vec![self.state.begin_snapshot().into()],
            copied: false,
            promises: None,
            applied: self.applied_heights(),
        });
    }
}

impl Core {
    /// A checkpoint was executed: begin a snapshot where one is due.
    pub(in crate::node) fn on_checkpoint(&mut self, slot: usize, commit: &Certificate) {
        let table = &mut self.tables[slot];
        let due = table.logged >= self.settings.snapshot_interval || table.sync.wanted;
        // Below the stable height no certificate of this checkpoint comes any more.
        if due && table.sync.draft.is_none() && table.state.height() >= table.replica.stable_height() {
            table.logged = 0;
            table.begin_draft(commit.clone());
        }
    }

    /// A table that has gone quiet on a checkpoint executes no further one: begin a wanted snapshot there. One that rests
    /// between two has its present state for a peer that asks.
    pub(super) fn begin_quiet_snapshot(&mut self, slot: usize, now: u64) {
        let table = &mut self.tables[slot];
        let height = table.state.height();
        if table.stable_at(height).is_none() {
            if table.sync.asked
                && let Some(commit) = table.resting_above(0, now).cloned()
            {
                self.offer_resting(slot, commit, now);
            }
            return;
        }
        if table.sync.draft.is_none()
            && !table.state.is_busy()
            && table.state.checkpoint().height == height
            && let Some(commit) = table.commit_of_state().cloned()
        {
            table.logged = 0;
            table.begin_draft(commit);
        }
    }

    /// Makes a snapshot for peers of a table that rests, though no checkpoint certifies its state (see `vouch`).
    fn offer_resting(&mut self, slot: usize, commit: Certificate, now: u64) {
        let table = &mut self.tables[slot];
        let height = table.state.height();
        match &mut table.sync.draft {
            Some(draft) if draft.stable.is_some() || draft.resting => return,
            Some(draft) if draft.height == height => {}
            _ => {
                table.state.checkpoint_now();
                table.begin_draft(commit);
            }
        }
        table.sync.draft.as_mut().expect("it was there or begun").resting = true;
        self.finish_draft(slot, now);
    }

    /// Takes the promises for snapshots that are being made. Comes after the replicas' outputs are drained, so that the journal
    /// has all that they have promised.
    pub(in crate::node) fn take_promises(&mut self, now: u64) {
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
    pub(in crate::node) fn on_stable(&mut self, slot: usize, certificate: Certificate, now: u64) {
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
    pub(in crate::node) fn copy_snapshots(&mut self, now: u64) -> bool {
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
        let done = |draft: &mut Draft| {
            draft.copied && (draft.stable.is_some() || draft.resting) && draft.promises.is_some()
        };
        let Some(draft) = table.sync.draft.take_if(done) else { return };
        let promises = draft.promises.expect("just checked");
        let mut base = Vec::new();
        draft.stable.iter().for_each(|stable| stable.encode(&mut base));
        draft.commit.encode(&mut base);
        let resting = draft.stable.is_none();
        let kind = if resting { SECTION_VOUCHED } else { SECTION_BASE };
        let state = draft.sections.into_iter().map(|bytes| (SECTION_STATE, bytes));
        let mut sections: Vec<(u8, Bytes)> = std::iter::once((kind, base.into())).chain(state).collect();
        if std::mem::take(&mut table.sync.asked) {
            let bytes = join_sections(&sections);
            table.sync.served =
                Some(Served { height: draft.height, resting, bytes, until: now + SERVED_FOR });
        }
        if resting {
            // The log may have been waiting for it.
            table.sync.wanted = true;
            return;
        }
        sections.extend(promises.sections);
        let kept = Kept { height: draft.height, segment: promises.segment, applied: draft.applied };
        table.sync.writing = Some(kept);
        let job = SnapshotJob { table: table.id, height: draft.height, sections };
        self.journal.hold(Held::Snapshot(job));
    }
}
