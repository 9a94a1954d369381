//! States on their way to peers that are far behind, and from them.

use bytes::Bytes;
use dag::{
    Hash, Height, ReplicaId, TableId,
    wire::{Put, Reader, WireError},
};
use pbft::Base;
use shard_core::{Delivery, Table};

use super::{SECTION_BASE, SECTION_STATE, SECTION_VOUCHED, STARVED_AFTER, StateError, load_state};
use crate::node::{Core, Cross, Effect, frame::Frame, meters::Count};

/// Bytes of one part on its way to a peer.
const PART: usize = 1 << 20;
/// Largest state that is fetched.
const MAX_STATE: u64 = 8 << 30;
/// Most sections of it.
const MAX_SECTIONS: usize = 1 << 20;
/// How long a part may take before it is asked for again, ns.
const RETRY: u64 = 500_000_000;
/// The loop never sleeps so long: it was stopped, or the machine was, ns.
const FROZEN: u64 = 3_000_000_000;
/// What was committed in the blocks that a fetched state jumps over is unknown here. So long, a transaction that seems stale is sent
/// to another validator, which knows, ns.
const UNSURE: u64 = 120_000_000_000;
/// Tries with one peer before the next one is asked.
const TRIES: u32 = 10;
/// A snapshot is kept in memory for peers so long, ns.
pub(super) const SERVED_FOR: u64 = 120_000_000_000;

/// A snapshot that peers may fetch.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) height: Height,
    /// Certified by nobody: good only as long as the table rests there.
    pub(super) resting: bool,
    pub(super) bytes: Bytes,
    pub(super) until: u64,
}

/// A state that is being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) above: Height,
    peer: ReplicaId,
    tries: u32,
    pub(super) retry_at: u64,
    height: Height,
    bytes: Vec<u8>,
    /// Who vouched and was asked for that, a bit for each.
    vouchers: u128,
}

impl Fetch {
    /// Turns to a peer that vouches for a state, where nothing has come yet from the one before. Once for each, or a liar could keep
    /// the fetch to himself.
    pub(super) fn turn_to(&mut self, voucher: ReplicaId) {
        let bit = 1 << voucher;
        if self.bytes.is_empty() && self.vouchers & bit == 0 {
            self.vouchers |= bit;
            (self.peer, self.tries) = (voucher, 0);
        }
    }
}

/// A fetched state on its way to the disk.
#[derive(Debug)]
pub(super) struct Installing {
    pub(super) state: Table,
    pub(super) base: Base,
    /// Its sections, until they are handed over.
    pub(super) sections: Vec<(u8, Bytes)>,
}

/// A snapshot as it travels: its sections, each with its kind (1) and its length (4) before it.
///
/// # Panics
/// Where a section is 4 GiB long.
pub fn join_sections(sections: &[(u8, impl AsRef<[u8]>)]) -> Bytes {
    let mut out = Vec::with_capacity(sections.iter().map(|(_, bytes)| bytes.as_ref().len() + 5).sum());
    for (kind, section) in sections {
        let section = section.as_ref();
        out.put_u8(*kind);
        out.put_u32(u32::try_from(section.len()).expect("a section is a bounded slice of a table"));
        out.put(section);
    }
    out.into()
}

/// The sections of a peer's snapshot. It may hold no promises: on this disk they would count as the own ones.
///
/// # Errors
/// Where it is cut off, or a section is of no kind that travels, or empty.
pub fn split_sections(bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, WireError> {
    let mut reader = Reader::new(bytes);
    let mut sections = Vec::new();
    while reader.remaining() > 0 {
        let kind = reader.u8()?;
        if !matches!(kind, SECTION_BASE | SECTION_VOUCHED | SECTION_STATE) {
            return Err(WireError::Field("section kind"));
        }
        let length = reader.u32()? as usize;
        if length == 0 || sections.len() == MAX_SECTIONS {
            return Err(WireError::Field("section length"));
        }
        sections.push((kind, reader.take(length)?));
    }
    Ok(sections)
}

impl Core {
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
                    self.begin_fetch(slot, now);
                }
                self.effects.push_back(Effect::Note(format!(
                    "table {table}: the snapshot at height {height} can't be written: {error}; trying on"
                )));
            }
        }
    }

    /// A peer wants a state above a height: send the part it asks for, or see to it that there will be one.
    pub(in crate::node) fn on_want_state(
        &mut self,
        slot: usize,
        from: ReplicaId,
        above: Height,
        offset: u64,
    ) {
        let table = &mut self.tables[slot];
        let resting_at = table.state.height();
        table.sync.served.take_if(|served| served.resting && served.height != resting_at);
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

    /// Fetches a state above the own one, from `at` on, where that is not under way.
    pub(in crate::node) fn begin_fetch(&mut self, slot: usize, at: u64) {
        let table = &mut self.tables[slot];
        if table.sync.is_fetching() {
            return;
        }
        let above = table.state.height();
        let note = format!("table {}: fetching the state above height {above} from peers", table.id);
        self.effects.push_back(Effect::Note(note));
        table.sync.fetches += 1;
        let peers = self.shard.committee.size() - 1;
        let peer = self.shard.peers().nth((slot + table.sync.fetches) % peers).expect("there are peers");
        table.sync.fetch =
            Some(Fetch { above, peer, tries: 0, retry_at: at, height: 0, bytes: Vec::new(), vouchers: 0 });
    }

    /// Runs what is due of a table's snapshots and transfers.
    pub(in crate::node) fn tick_sync(&mut self, slot: usize, now: u64) {
        self.watch_starvation(slot, now);
        let table = &mut self.tables[slot];
        table.sync.served.take_if(|served| served.until <= now);
        if table.sync.wanted {
            self.begin_quiet_snapshot(slot, now);
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
        // A process that was frozen has waited for nothing meanwhile.
        let frozen = now > std::mem::replace(&mut table.sync.seen, now) + FROZEN;
        if frozen || table.unexecuted.is_empty() || table.state.is_busy() {
            table.sync.starved = None;
            return;
        }
        match table.sync.starved {
            Some((at, since)) if at == height => {
                if since + STARVED_AFTER <= now {
                    table.sync.starved = Some((height, now));
                    self.begin_fetch(slot, now);
                }
            }
            _ => table.sync.starved = Some((height, now)),
        }
    }

    /// A peer has no state above the height asked for, but will have.
    pub(in crate::node) fn on_no_state(&mut self, slot: usize, from: ReplicaId, now: u64) {
        let fetch = self.tables[slot].sync.fetch.as_mut().filter(|fetch| fetch.peer == from);
        if let Some(fetch) = fetch {
            fetch.bytes.clear();
            let above = fetch.above;
            self.ask_for_claims(slot, above, now);
        }
    }

    /// Another core's table begins anew: give it once more what is in flight for it.
    pub(in crate::node) fn redeliver(&mut self, to: TableId, now: u64) {
        let outboxes = self.tables.iter().flat_map(|table| table.state.outbox().iter());
        let again: Vec<Delivery> = outboxes.filter(|delivery| delivery.to == to).cloned().collect();
        for delivery in again {
            self.deliver(delivery, now);
        }
    }

    /// A part of a state.
    pub(in crate::node) fn on_state_part(
        &mut self,
        slot: usize,
        from: ReplicaId,
        part: &StatePart<'_>,
        now: u64,
    ) {
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
            let (committee, verify) = (&self.shard.committee, &self.shard.signatures.verify());
            let vouched =
                |height, digest: &Hash| table.sync.claims.vouch_for(height, digest, committee.faulty());
            let loaded = load_state(config, committee, verify, vouched, sections.iter().copied())?;
            Ok((loaded, sections))
        });
        let ((state, base), sections) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let note = format!("table {}: validator {from} sent a bad state: {error}", table.id);
                self.effects.push_back(Effect::Note(note));
                let above = table.state.height();
                self.begin_fetch(slot, now + RETRY);
                if matches!(error, StateError::Unvouched(_)) {
                    self.ask_for_claims(slot, above, now);
                }
                return;
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
        table.unsure_until = now + UNSURE;
        table.unexecuted.retain(|(block, _)| block.height() > height);
        table.validations.clear();
        table.replica.install(base, now);
        table.adopt_checkpoint(now);
        // What was executed in the blocks in between is not known here: clients learn it from another validator.
        table.repropose(&mut self.settled, now);
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
pub(in crate::node) struct StatePart<'a> {
    pub height: Height,
    pub offset: u64,
    pub total: u64,
    pub bytes: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{SECTION_MARK, SECTION_PROMISE};

    fn joined(kinds: &[u8]) -> Bytes {
        let sections: Vec<(u8, Bytes)> = kinds.iter().map(|&kind| (kind, Bytes::from_static(b"x"))).collect();
        join_sections(&sections)
    }

    #[test]
    fn a_peers_snapshot_brings_no_promises() {
        let good = joined(&[SECTION_BASE, SECTION_STATE, SECTION_STATE]);
        assert_eq!(split_sections(&good).unwrap().len(), 3);
        assert!(split_sections(&joined(&[SECTION_VOUCHED, SECTION_STATE])).is_ok());
        for kind in [SECTION_PROMISE, SECTION_MARK, 0, 6] {
            assert!(split_sections(&joined(&[SECTION_BASE, SECTION_STATE, kind])).is_err(), "{kind}");
        }
        assert!(split_sections(&[SECTION_STATE, 0, 0, 0, 0]).is_err(), "an empty section");
        assert!(split_sections(&good[..good.len() - 1]).is_err());
    }
}
