//! Agreement: peers' frames into the replicas, the replicas' outputs into the journal and out.

use std::rc::Rc;

use bytes::Bytes;
use dag::{Block, LaneId, ReplicaId, TableId, View, VoteBundle, vote::MAX_VOTES};
use pbft::{Message, Output, Record, Verdict};
use shard_core::Known;

use crate::metrics::Stage;

use super::{
    AGREEMENT, Core, Effect, Held, Subject,
    frame::{Frame, MAX_FRAME},
    meters::Count,
    state_sync::StatePart,
    table::{MAX_UNEXECUTED, Validation},
};

/// A record, a block with its surroundings, that must fit the journal before the next output is taken.
const JOURNAL_ROOM: usize = 1024 * 1024;
/// A proposal whose time is so far ahead of this node's clock is refused, µs.
const MAX_AHEAD: u64 = 10_000_000;
/// Most proposals of one table that are judged at once; the agreement window is smaller.
pub(super) const MAX_VALIDATIONS: usize = 64;
/// Vote bundles of one validator whose signatures wait: those of hundreds of turns.
const MAX_BUNDLES: u32 = 512;
/// Committed blocks that may wait for execution before a table takes no more of them.
const MAX_BLOCKS_WAITING: usize = 8 * MAX_UNEXECUTED;
// What a replica has asked for is not too much.
const _: () = assert!(pbft::FETCH_AHEAD + pbft::MAX_BLOCKS as u64 <= MAX_BLOCKS_WAITING as u64);
/// Bytes of blocks in one answer to a peer that catches up.
const MAX_SERVED: usize = MAX_FRAME / 2;

impl Core {
    /// A peer's lane can be spoken to (again).
    pub fn on_peer_up(&mut self, peer: ReplicaId, lane: LaneId, now: u64) {
        self.links_up[usize::from(lane)][usize::from(peer)] = true;
        for table in self.tables.iter_mut().filter(|table| table.lane == lane) {
            table.replica.on_connected(peer, now);
            if table.replica.primary() == peer {
                table.mempool.forward_again();
            }
        }
    }

    /// A peer's lane can't be spoken to.
    pub fn on_peer_down(&mut self, peer: ReplicaId, lane: LaneId) {
        self.links_up[usize::from(lane)][usize::from(peer)] = false;
        for table in self.tables.iter_mut().filter(|table| table.lane == lane) {
            table.replica.on_disconnected(peer);
        }
    }

    /// A frame of a validator, from the channel of a lane of this core.
    pub fn on_peer_frame(&mut self, from: ReplicaId, lane: LaneId, frame: Frame, now: u64) {
        match frame {
            Frame::Hello { .. } => self.meters.count(Count::FramesOutOfPlace, 1),
            Frame::Transactions(records) => self.on_forwarded(from, records, now),
            Frame::Agreement(table, message) => {
                let Some(slot) = self.slot_on_lane(table, lane) else { return };
                if self.is_overfull(slot, &message) {
                    self.meters.count(Count::AgreementDropped, 1);
                    return;
                }
                if let Message::Proposal { block, .. } = &message {
                    let marks = self.tables[slot].marks.at(block.height());
                    marks.proposed = now;
                    marks.transactions = block.len() as u64;
                }
                self.tables[slot].replica.on_message(from, message, now);
            }
            Frame::Votes(bundle) => self.on_votes(from, lane, bundle),
            Frame::WantState { table, above, offset } => {
                if let Some(slot) = self.slot_on_lane(table, lane) {
                    self.on_want_state(slot, from, above, offset);
                }
            }
            Frame::State { table, height, offset, total, bytes } => {
                if let Some(slot) = self.slot_on_lane(table, lane) {
                    self.on_state_part(slot, from, &StatePart { height, offset, total, bytes: &bytes }, now);
                }
            }
            Frame::NoState(table) => {
                if let Some(slot) = self.slot_on_lane(table, lane) {
                    self.on_no_state(slot, from, now);
                }
            }
            Frame::WantClaim { table, above } => {
                if let Some(slot) = self.slot_on_lane(table, lane) {
                    self.on_want_claim(slot, from, above, now);
                }
            }
            Frame::Claim { table, height, digest } => {
                if let Some(slot) = self.slot_on_lane(table, lane) {
                    self.on_claim(slot, from, height, digest);
                }
            }
        }
    }

    /// Whether a table can't take a message now: its outputs wait for a disk that is full, or blocks for an execution that waits.
    /// Whatever is dropped comes again, or is fetched.
    fn is_overfull(&self, slot: usize, message: &Message) -> bool {
        let table = &self.tables[slot];
        let brings_blocks =
            matches!(message, Message::Proposal { .. } | Message::Blocks(_) | Message::Body(_));
        table.is_stalled() || (brings_blocks && table.unexecuted.len() >= MAX_BLOCKS_WAITING)
    }

    /// The place of a table that a frame of a lane may speak of; others are counted and dropped.
    fn slot_on_lane(&mut self, table: TableId, lane: LaneId) -> Option<usize> {
        let slot = self.slots.get(usize::from(table)).copied().flatten();
        let slot = slot.filter(|&slot| self.tables[slot].lane == lane);
        if slot.is_none() {
            self.meters.count(Count::FramesOutOfPlace, 1);
        }
        slot
    }

    fn on_votes(&mut self, from: ReplicaId, lane: LaneId, bundle: VoteBundle) {
        let header = bundle.header();
        let (chain, epoch) = (self.shard.chain(), self.shard.epoch());
        if (header.replica, header.lane, header.chain, header.epoch) != (from, lane, chain, epoch) {
            self.meters.count(Count::FramesOutOfPlace, 1);
            return;
        }
        let key = *self.shard.committee.key(from).expect("a peer is of the committee");
        let (digest, signature) = (bundle.digest(), *bundle.signature());
        let bundle = Rc::new(bundle);
        // Votes come again: who floods is slowed by what he loses, and the others are not.
        let waiting = &mut self.bundles_waiting[usize::from(from)];
        if *waiting >= MAX_BUNDLES || self.verifier.is_flooded() {
            self.meters.count(Count::VotesDropped, 1);
            return;
        }
        *waiting += 1;
        self.verifier.push_votes(&key, digest, &signature, Subject::Bundle { from, bundle });
    }

    /// The signature of a bundle is judged.
    pub(super) fn on_bundle_verdict(
        &mut self,
        from: ReplicaId,
        bundle: &Rc<VoteBundle>,
        valid: bool,
        now: u64,
    ) {
        self.bundles_waiting[usize::from(from)] -= 1;
        if !valid {
            // The channel proves that this peer sent it: a faulty validator.
            self.meters.count(Count::VotesForged, 1);
            self.effects.push_back(Effect::Note(format!("validator {from} sent votes with a bad signature")));
            return;
        }
        self.count_votes(bundle, now);
    }

    fn count_votes(&mut self, bundle: &Rc<VoteBundle>, now: u64) {
        for (index, vote) in bundle.votes().iter().enumerate() {
            let Some(slot) = self.slot_on_lane(vote.table, bundle.header().lane) else { continue };
            if self.tables[slot].is_stalled() && bundle.header().replica != self.shard.me {
                self.meters.count(Count::AgreementDropped, 1);
                continue;
            }
            self.tables[slot].replica.on_vote(bundle, index, now);
        }
    }

    /// Judges a proposal: references and, where `check` is set, signatures. Without, it still says that it checked where it
    /// happens to know them all.
    fn validate(&mut self, slot: usize, view: View, block: Block, check: bool, (now, wall): (u64, u64)) {
        let number = self.next_proposal;
        self.next_proposal += 1;
        let table = &mut self.tables[slot];
        if table.validations.len() == MAX_VALIDATIONS {
            // Left over from views that are past.
            table.validations.remove(0);
        }
        let mut validation = Validation {
            number,
            view,
            height: block.height(),
            digest: block.hash(),
            unverified: 0,
            checked: true,
            invalid: block.header().time > wall + MAX_AHEAD,
            inbox_known: false,
            block,
        };
        let epoch = self.shard.epoch();
        for index in 0..validation.block.len() {
            let transaction = validation.block.transaction(index);
            let signed_in = transaction.epoch();
            if transaction.chain() != self.shard.chain()
                || !(epoch.saturating_sub(1)..=epoch).contains(&signed_in)
            {
                validation.invalid = true;
                break;
            }
            // Whose turn it is not stops asking at the first signature that it does not know.
            if !(check || validation.checked) {
                continue;
            }
            let id = validation.block.id(index);
            if table.mempool.is_verified(&id, transaction.signature()) {
                continue;
            }
            validation.checked &= check;
            if check {
                let subject = Subject::Proposed { slot, proposal: number };
                self.verifier.push_urgent(
                    transaction.sender().as_bytes(),
                    id,
                    transaction.signature(),
                    subject,
                );
                validation.unverified += 1;
            }
        }
        table.validations.push(validation);
        self.judge(slot, now);
    }

    /// A signature of a proposal is judged.
    pub(super) fn on_proposed_verdict(&mut self, slot: usize, proposal: u64, valid: bool, now: u64) {
        let validations = &mut self.tables[slot].validations;
        // It may be gone: its view is past.
        let Some(validation) = validations.iter_mut().find(|v| v.number == proposal) else { return };
        validation.unverified -= 1;
        validation.invalid |= !valid;
        if validation.unverified == 0 || validation.invalid {
            self.judge(slot, now);
        }
    }

    /// Tells the replica of every proposal of a table that can be judged now.
    pub(super) fn judge(&mut self, slot: usize, now: u64) {
        let table = &mut self.tables[slot];
        let busy = table.unexecuted.len() >= MAX_UNEXECUTED;
        for validation in &mut table.validations {
            if validation.inbox_known || validation.invalid {
                continue;
            }
            let inbox = table.state.inbox();
            let mut known = validation.block.inbox().iter().map(|reference| inbox.knows(reference));
            match known.find(|known| *known != Known::Yes) {
                None => validation.inbox_known = true,
                // Executed here later; or the primary has made it up, and its view will end.
                Some(Known::NotYet) => {}
                Some(_) => validation.invalid = true,
            }
        }
        let mut index = 0;
        while index < table.validations.len() {
            let validation = &table.validations[index];
            let verdict = match validation {
                Validation { invalid: true, .. } => Verdict::Invalid,
                Validation { unverified: 0, inbox_known: true, .. } if !busy => {
                    Verdict::Valid { checked: validation.checked }
                }
                _ => {
                    index += 1;
                    continue;
                }
            };
            let done = table.validations.remove(index);
            if verdict == Verdict::Invalid {
                self.meters.count(Count::ProposalsRefused, 1);
            }
            table.replica.on_validated(done.view, done.height, done.digest, verdict, now);
        }
    }

    /// Runs the tables' timers.
    pub(super) fn fire_timers(&mut self, now: u64) {
        for slot in 0..self.tables.len() {
            self.tables[slot].on_timeout(now);
            self.tick_sync(slot, now);
        }
    }

    /// Carries out what the replicas ask, as long as the journal has room. Returns whether nothing is left.
    pub(super) fn drain_agreement(&mut self, now: u64, wall: u64) -> bool {
        // One table's output may make another one speak, so it is over when a whole round gave nothing.
        let mut quiet = 0;
        let mut slot = 0;
        while quiet < self.tables.len() {
            quiet += 1;
            while let Some(output) = self.next_output(slot) {
                quiet = 0;
                self.on_output(slot, output, now, wall);
            }
            if self.is_held_back() {
                return false;
            }
            slot = (slot + 1) % self.tables.len();
        }
        true
    }

    /// Whether the replicas' outputs wait for the disk.
    pub fn is_held_back(&self) -> bool {
        self.journal.room() < JOURNAL_ROOM
    }

    fn next_output(&mut self, slot: usize) -> Option<Output> {
        if self.is_held_back() { None } else { self.tables[slot].replica.poll_output() }
    }

    fn on_output(&mut self, slot: usize, output: Output, now: u64, wall: u64) {
        let (id, lane) = (self.tables[slot].id, self.tables[slot].lane);
        if self.settings.silent && is_promise(&output) {
            self.meters.count(Count::PromisesWithheld, 1);
            return;
        }
        match output {
            Output::Persist(record) => self.persist(slot, &record, now),
            Output::Vote(vote) => self.journal.hold(Held::Vote(lane, vote)),
            Output::Broadcast(message) => {
                let frame = Frame::Agreement(id, message);
                self.emit(&frame, |bytes| Held::ToPeers(lane, bytes));
            }
            Output::Send(peer, message) => {
                let frame = Frame::Agreement(id, message);
                self.emit(&frame, |bytes| Held::ToPeer(peer, lane, bytes));
            }
            Output::Validate { view, block, check, .. } => {
                self.validate(slot, view, block, check, (now, wall))
            }
            Output::Check { view, height, block } => {
                // It may still wait for its inbox: judged anew, with its signatures.
                let validations = &mut self.tables[slot].validations;
                validations.retain(|v| (v.view, v.height, v.digest) != (view, height, block.hash()));
                self.meters.count(Count::ChecksTakenOver, 1);
                self.validate(slot, view, block, true, (now, wall));
            }
            Output::Committed { block, certificate } => self.on_committed(slot, block, certificate, now),
            Output::Stable { certificate } => self.on_stable(slot, certificate, now),
            Output::Serve { to, from_height, to_height } => self.serve(slot, to, from_height, to_height),
            Output::Behind { .. } => self.begin_fetch(slot, now),
            Output::View { view, primary, active } => self.on_view(slot, view, primary, active, now),
            Output::Evidence(evidence) => {
                self.meters.count(Count::Equivocations, 1);
                let note = format!("table {id}: a validator signed two conflicting votes: {evidence:?}");
                self.effects.push_back(Effect::Note(note));
            }
            Output::Diverged(divergence) => {
                self.effects.push_back(Effect::Halt(format!("table {id}: {divergence}")));
            }
        }
    }

    fn persist(&mut self, slot: usize, record: &Record, now: u64) {
        let table = &mut self.tables[slot];
        if let Record::Prepared(certificate) = record {
            let marks = table.marks.at(certificate.vote.height);
            marks.prepared = now;
            self.meters.stage(Stage::Prepare, marks.proposed, now, marks.transactions);
        }
        self.scratch.clear();
        record.encode(&mut self.scratch);
        table.logged += self.scratch.len() as u64;
        // Where the disk has failed, nothing that is held leaves any more; the loop halts the node.
        let position = self.journal.append(AGREEMENT, &[&id_bytes(table.id), &self.scratch], now);
        let Some(position) = position else { return };
        table.needs.on_record(position.segment);
        if let Record::Proposal { block, .. } = record {
            table.needs.on_block(position.segment, block.height());
        }
    }

    /// Sends a frame: at once where it promises nothing, else when all that was persisted is durable.
    fn emit(&mut self, frame: &Frame, held: impl FnOnce(Bytes) -> Held) {
        let promises = matches!(frame, Frame::Agreement(_, Message::ViewChange(_) | Message::NewView(_)));
        let held = held(frame.encode());
        if promises {
            self.journal.hold(held);
        } else {
            self.emit_held(held);
        }
    }

    fn emit_held(&mut self, held: Held) {
        match held {
            Held::ToPeer(peer, lane, bytes) => self.effects.push_back(Effect::ToPeer(peer, lane, bytes)),
            Held::ToPeers(lane, bytes) => self.effects.push_back(Effect::ToPeers(lane, bytes)),
            Held::Snapshot(job) => self.effects.push_back(Effect::Snapshot(job)),
            Held::Vote(..) => unreachable!("votes are released by the journal only"),
        }
    }

    fn serve(&mut self, slot: usize, to: ReplicaId, from: u64, to_height: u64) {
        let table = &self.tables[slot];
        let mut blocks = table.history.range(from, to_height, MAX_SERVED);
        blocks.truncate(pbft::MAX_BLOCKS);
        let message = match (blocks.is_empty(), table.replica.stable()) {
            (false, _) => Message::Blocks(blocks),
            (true, Some(stable)) => Message::StableCheckpoint(stable.clone()),
            (true, None) => return,
        };
        let frame = Frame::Agreement(table.id, message).encode();
        self.effects.push_back(Effect::ToPeer(to, table.lane, frame));
    }

    fn on_view(&mut self, slot: usize, view: View, primary: ReplicaId, active: bool, now: u64) {
        // The mempool is sorted anew against the state, which must not be between two blocks.
        self.finish_execution(slot, now);
        let table = &mut self.tables[slot];
        table.active = active;
        table.validations.clear();
        if !active {
            self.meters.count(Count::ViewChanges, 1);
            return;
        }
        self.sort_mempool(slot, view, now);
        self.again = true;
        if view > 0 {
            let id = self.tables[slot].id;
            let note = format!("table {id}: view {view} begins, primary is validator {primary}");
            self.effects.push_back(Effect::Note(note));
        }
    }

    /// Lets go what has become durable. All votes that did are signed together, a bundle for each lane. Returns whether
    /// replicas have something new to think about.
    pub(super) fn release(&mut self, now: u64) -> bool {
        let mut voted = false;
        while let Some(held) = self.journal.release() {
            match held {
                Held::Vote(lane, vote) => self.votes[usize::from(lane)].push(vote),
                other => {
                    voted |= self.send_votes(now);
                    self.emit_held(other);
                }
            }
        }
        self.send_votes(now) || voted
    }

    /// Signs the votes that are durable, sends them and counts them here. Returns whether there were any.
    fn send_votes(&mut self, now: u64) -> bool {
        let mut voted = false;
        for lane in 0..self.shard.lanes {
            let mut votes = std::mem::take(&mut self.votes[usize::from(lane)]);
            for votes in votes.chunks(MAX_VOTES) {
                let (key, committee, me) = (&self.key, &self.shard.committee, self.shard.me);
                let bundle = Rc::new(VoteBundle::sign(key, committee, me, lane, votes.to_vec()));
                self.meters.count(Count::Bundles, 1);
                self.meters.count(Count::Votes, votes.len() as u64);
                let mut out = Vec::new();
                out.push(super::frame::VOTES);
                bundle.encode(&mut out);
                self.effects.push_back(Effect::ToPeers(lane, out.into()));
                self.count_votes(&bundle, now);
                voted = true;
            }
            votes.clear();
            self.votes[usize::from(lane)] = votes;
        }
        voted
    }
}

/// Whether an output says something that a validator must not say twice in different ways.
fn is_promise(output: &Output) -> bool {
    match output {
        Output::Vote(_) => true,
        Output::Broadcast(message) | Output::Send(_, message) => {
            matches!(message, Message::Proposal { .. } | Message::ViewChange(_) | Message::NewView(_))
        }
        _ => false,
    }
}

fn id_bytes(table: TableId) -> [u8; 2] {
    table.to_le_bytes()
}
