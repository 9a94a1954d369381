//! What a Byzantine validator makes of the frames that honest code would send: it holds its own key, and nobody else's.

use bytes::Bytes;
use dag::{
    Block, Committee, Hash, LaneId, ReplicaId, Transaction, Vote, VoteBundle, VoteKind, keys::KeyPair,
    table_block::BlockBuilder, vote::MAX_VOTES,
};
use engine::node::frame::Frame;
use pbft::{Message, ViewChange};

use crate::{fault::Behaviour, random::Random};

mod state;

/// A validator that lies.
pub struct Liar<'a> {
    /// Its key.
    pub key: &'a KeyPair,
    /// The committee.
    pub committee: &'a Committee,
    /// Its place there.
    pub me: ReplicaId,
}

type Said = (LaneId, Bytes);

impl Liar<'_> {
    /// What one peer is told in place of a frame: nothing, the frame, another one, or several.
    pub fn tamper(
        &self,
        behaviours: &[Behaviour],
        peer: ReplicaId,
        (lane, bytes): (LaneId, &Bytes),
        earlier: &[Said],
        dice: &mut Random,
    ) -> Vec<Said> {
        let mut said = vec![(lane, bytes.clone())];
        for behaviour in behaviours {
            match behaviour {
                Behaviour::Twins => {}
                Behaviour::Silent => said.clear(),
                Behaviour::Selective => {
                    said.retain(|_| u64::from(peer % 2) == dice.below(2) || dice.percent(20))
                }
                Behaviour::Replay => {
                    if dice.percent(30) && !earlier.is_empty() {
                        said.push(earlier[dice.index(earlier.len())].clone());
                    }
                }
                Behaviour::Garbage => self.garble(&mut said, dice),
                _ => self.rewrite(*behaviour, peer, &mut said, earlier, dice),
            }
            if *behaviour == Behaviour::Equivocate && dice.percent(10) {
                said.extend(second_proposal(earlier, dice));
            }
        }
        said
    }

    fn garble(&self, said: &mut Vec<Said>, dice: &mut Random) {
        if !dice.percent(15) {
            return;
        }
        if dice.percent(30) {
            let length = dice.index(200) + 1;
            let bytes: Vec<u8> = (0..length).map(|_| dice.any().to_le_bytes()[0]).collect();
            let mut bytes = bytes;
            bytes[0] %= 11;
            return said.push((0, bytes.into()));
        }
        for (_, bytes) in said {
            let mut changed = bytes.to_vec();
            let at = dice.index(changed.len());
            changed[at] ^= 1 << dice.below(8);
            *bytes = changed.into();
        }
    }

    fn rewrite(
        &self,
        behaviour: Behaviour,
        peer: ReplicaId,
        said: &mut Vec<Said>,
        earlier: &[Said],
        dice: &mut Random,
    ) {
        let mut more = Vec::new();
        for (lane, bytes) in said.iter_mut() {
            let Ok(frame) = Frame::decode(bytes) else { continue };
            let changed = match frame {
                Frame::Votes(bundle) => {
                    self.votes((behaviour, peer, *lane), &bundle, earlier, dice).map(Frame::Votes)
                }
                Frame::Agreement(table, message) => {
                    let message = self.message(behaviour, peer, table, message, dice);
                    message.map(|message| Frame::Agreement(table, message))
                }
                Frame::State { table, height, offset, total, bytes }
                    if matches!(behaviour, Behaviour::WrongState | Behaviour::FalseState) =>
                {
                    // A whole state can be forged; that of a simulation comes in one part.
                    let forge = bytes.len() as u64 == total && dice.percent(70);
                    let forged = if forge { state::forged(&bytes, dice) } else { None };
                    let total = forged.as_ref().map_or(total, |forged| forged.len() as u64);
                    let bytes = forged.unwrap_or_else(|| state::with_turned_bit(&bytes, dice));
                    Some(Frame::State { table, height, offset, total, bytes })
                }
                Frame::Claim { table, height, digest }
                    if matches!(behaviour, Behaviour::WrongState | Behaviour::FalseState) =>
                {
                    let digest = Hash(blake3::hash(&digest.0).into());
                    Some(Frame::Claim { table, height: height + dice.below(2), digest })
                }
                _ => None,
            };
            let Some(changed) = changed.map(|frame| frame.encode()) else { continue };
            // Sometimes both are said, the one against the other.
            if dice.percent(30) {
                more.push((*lane, changed));
            } else {
                *bytes = changed;
            }
        }
        said.extend(more);
    }

    fn votes(
        &self,
        (behaviour, peer, lane): (Behaviour, ReplicaId, LaneId),
        bundle: &VoteBundle,
        earlier: &[Said],
        dice: &mut Random,
    ) -> Option<VoteBundle> {
        let mut votes = bundle.votes().to_vec();
        let mut changed = false;
        let mut hasty = Vec::new();
        for vote in &mut votes {
            let other = Hash(blake3::hash(&vote.digest.0).into());
            match behaviour {
                Behaviour::Equivocate | Behaviour::Forge if vote.kind != VoteKind::Checkpoint => {
                    if let Some(digest) = altered_digest(behaviour, peer, &vote.digest, earlier) {
                        vote.digest = digest;
                        changed = true;
                        // It does not wait for others to be prepared.
                        if vote.kind == VoteKind::Prepare {
                            hasty.push(Vote { kind: VoteKind::Commit, checked: false, ..*vote });
                        }
                    }
                }
                Behaviour::Idle if vote.checked => {
                    vote.checked = false;
                    changed = true;
                }
                Behaviour::WrongState if vote.kind == VoteKind::Checkpoint => {
                    vote.digest = other;
                    changed = true;
                }
                Behaviour::Mutate if dice.percent(25) => {
                    changed = true;
                    match dice.below(7) {
                        0 => vote.view = if vote.kind == VoteKind::Checkpoint { 0 } else { vote.view + 1 },
                        1 => vote.view = vote.view.saturating_sub(1),
                        2 => vote.height += 1,
                        3 => vote.height = vote.height.saturating_sub(1),
                        4 => vote.checked = vote.kind == VoteKind::Prepare && !vote.checked,
                        5 if vote.kind == VoteKind::Prepare => {
                            (vote.kind, vote.checked) = (VoteKind::Commit, false)
                        }
                        _ => vote.digest = other,
                    }
                }
                _ => {}
            }
        }
        let room = MAX_VOTES.saturating_sub(votes.len());
        votes.extend(hasty.into_iter().take(room));
        changed.then(|| VoteBundle::sign(self.key, self.committee, self.me, lane, votes))
    }

    fn message(
        &self,
        behaviour: Behaviour,
        peer: ReplicaId,
        table: u16,
        message: Message,
        dice: &mut Random,
    ) -> Option<Message> {
        match (behaviour, message) {
            (Behaviour::Equivocate | Behaviour::Forge, Message::Proposal { view, block }) => {
                altered(behaviour, peer, &block).map(|block| Message::Proposal { view, block })
            }
            (Behaviour::Mutate, Message::Proposal { view, block }) if dice.percent(25) => {
                let view = if dice.percent(50) { view + 1 } else { view.saturating_sub(1) };
                Some(Message::Proposal { view, block })
            }
            (Behaviour::Forget | Behaviour::Lies, Message::ViewChange(change)) => {
                Some(Message::ViewChange(Box::new(self.forgetful(table, &change, behaviour, dice))))
            }
            (Behaviour::Forget, Message::NewView(mut new_view)) => {
                // Another quorum of the same view changes, where there is one, in the own words.
                for change in &mut new_view.changes {
                    if change.replica == self.me {
                        *change = self.forgetful(table, change, behaviour, dice);
                    }
                }
                let pbft::NewView { view, changes, .. } = *new_view;
                let signed = pbft::NewView::sign(self.key, self.committee, table, view, changes);
                Some(Message::NewView(Box::new(signed)))
            }
            (Behaviour::Lies, Message::Status { view, active, committed, stable }) => {
                let wild = |dice: &mut Random, number: u64| match dice.below(4) {
                    0 => number.saturating_sub(1 + dice.below(3)),
                    1 => number.saturating_add(1 + dice.below(40)),
                    2 => u64::MAX - dice.below(2),
                    _ => number,
                };
                let (view, committed) = (wild(dice, view), wild(dice, committed));
                Some(Message::Status {
                    view,
                    active: active ^ dice.percent(50),
                    committed,
                    stable: wild(dice, stable),
                })
            }
            (Behaviour::Lies, Message::Suspect { view }) => {
                Some(Message::Suspect { view: view.saturating_add(dice.below(3)) })
            }
            (Behaviour::Lies | Behaviour::Forget, Message::Blocks(mut blocks)) => {
                // Certificates with a signature too few, or one twice.
                for (certificate, _) in &mut blocks {
                    if dice.percent(50) {
                        certificate.proofs.pop();
                    } else if let Some(proof) = certificate.proofs.first_mut() {
                        proof.signature[5] ^= 1;
                    }
                }
                Some(Message::Blocks(blocks))
            }
            (Behaviour::WrongState, Message::StableCheckpoint(mut certificate)) => {
                certificate.vote.digest = Hash(blake3::hash(&certificate.vote.digest.0).into());
                Some(Message::StableCheckpoint(certificate))
            }
            _ => None,
        }
    }

    fn forgetful(
        &self,
        table: u16,
        change: &ViewChange,
        behaviour: Behaviour,
        dice: &mut Random,
    ) -> ViewChange {
        let mut prepared = change.prepared.clone();
        let mut committed = change.committed.clone();
        match dice.below(4) {
            0 => prepared.clear(),
            1 => {
                prepared.pop();
            }
            2 if behaviour == Behaviour::Lies => committed = None,
            _ => {
                if let Some(entry) = prepared.first_mut() {
                    entry.certificate.proofs.pop();
                }
            }
        }
        if prepared.is_empty() && committed.is_some() && dice.percent(30) {
            committed = None;
        }
        let view = change.view + u64::from(behaviour == Behaviour::Lies && dice.percent(20));
        ViewChange::sign(self.key, self.committee, table, change.replica, view, committed, prepared)
    }
}

/// A block of an earlier proposal in another version: whoever has accepted the one hears of the other now.
fn second_proposal(earlier: &[Said], dice: &mut Random) -> Option<Said> {
    let (lane, bytes) = earlier.get(dice.index(earlier.len()))?;
    match Frame::decode(bytes) {
        Ok(Frame::Agreement(table, Message::Proposal { view, block })) => {
            let block = if dice.percent(50) { other_block(&block) } else { block };
            Some((*lane, Frame::Agreement(table, Message::Proposal { view, block }).encode()))
        }
        _ => None,
    }
}

/// The digest of what a peer was shown in the place of a block that was proposed lately.
fn altered_digest(behaviour: Behaviour, peer: ReplicaId, digest: &Hash, earlier: &[Said]) -> Option<Hash> {
    let proposal = |(_, bytes): &Said| match Frame::decode(bytes) {
        Ok(Frame::Agreement(_, Message::Proposal { block, .. })) if block.hash() == *digest => Some(block),
        _ => None,
    };
    let block = earlier.iter().find_map(proposal)?;
    altered(behaviour, peer, &block).map(|block| block.hash())
}

/// What a lying primary shows to a peer in the place of its block.
fn altered(behaviour: Behaviour, peer: ReplicaId, block: &Block) -> Option<Block> {
    match behaviour {
        Behaviour::Equivocate => (peer % 2 == 1).then(|| other_block(block)),
        _ => forged_block(block),
    }
}

/// The block with another amount in its first transaction, which nobody has signed.
fn forged_block(block: &Block) -> Option<Block> {
    /// Place of the first amount in a record; see `dag::transaction`.
    const AMOUNT: usize = 96;
    let mut builder = BlockBuilder::new();
    block.inbox().iter().for_each(|&reference| builder.push_inbox(reference));
    for index in 0..block.len() {
        let mut record = block.transaction_bytes(index).to_vec();
        if index == 0 {
            record[AMOUNT + 1] ^= 2;
        }
        let transaction = Transaction::parse(&record).ok()?;
        builder.push(transaction.id(), &transaction);
    }
    (!builder.is_empty()).then(|| builder.seal(block.header().clone()))
}

/// Another valid block for the same place.
fn other_block(block: &Block) -> Block {
    let mut builder = BlockBuilder::new();
    block.inbox().iter().for_each(|&reference| builder.push_inbox(reference));
    // Without the last transaction, and a µs later.
    for index in 0..block.len().saturating_sub(1) {
        builder.push(block.id(index), &block.transaction(index));
    }
    let mut header = block.header().clone();
    header.time += 1;
    builder.seal(header)
}
