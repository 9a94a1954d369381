//! The normal case (section 4.2): proposal, prepare, commit; several heights at once.
//!
//! Two rules go beyond the paper, because blocks name their parent:
//! - A block is accepted only when its parent is the block accepted before it in this view, or the committed
//!   one.
//! - A replica commits in order within a view: it signs Commit(v, h) only when h − 1 is committed, or when it
//!   signed Commit(v, h − 1) in the same view v. The safety of a new view rests on this; see the README.

use std::ops::ControlFlow;

use dag::{
    Block, Certificate, Hash, Height, ReplicaId, View, Vote, VoteKind,
    planted::{self, Defect},
};

use crate::{
    message::Message,
    output::{Divergence, Output, Slot, Verdict},
    record::Record,
    replica::{Head, Replica},
    votes::{Added, Cast},
    window::{Accepted, Judgement, Prepared},
};

impl Replica {
    /// The place of the next block, where this replica is the primary of an active view and window and
    /// watermark have room.
    pub fn can_propose(&self) -> Option<Slot> {
        let plan = &self.views.plan;
        if self.is_deaf() || !self.views.active || self.primary() != self.config.me {
            return None;
        }
        let height = self.head.height + self.window.run() + 1;
        // Below the top of the plan come the re-proposals, which the view begins with.
        let below = height <= self.head.height + self.config.window
            && height <= self.stable_height() + self.config.watermark;
        let room = height > plan.top() && (below || planted::is(Defect::WatermarkIgnored));
        let instance = self.window.get(height)?;
        // After a restart the log may hold a vote here without what comes before it: nothing else may be
        // proposed.
        let fresh = instance.prepare_in(self.views.view).is_none();
        let (parent, parent_time) = self.tip();
        (room && fresh).then_some(Slot { view: self.views.view, height, parent, parent_time })
    }

    /// Proposes the host's own block at the place that [`can_propose`](Self::can_propose) gave. Its
    /// signatures count as checked.
    ///
    /// # Panics
    /// Where nothing can be proposed, or the block belongs to another place.
    pub fn propose(&mut self, block: Block, now: u64) {
        let slot = self.can_propose().expect("propose follows can_propose");
        let header = block.header();
        assert_eq!(
            (header.height, header.parent),
            (slot.height, slot.parent),
            "the block is for the open slot"
        );
        assert!(header.time >= slot.parent_time, "time never runs backwards in a chain");
        assert!(self.is_fresh(&block), "table, chain, epoch, view and proposer are this replica's");
        let view = slot.view;
        self.window.at(slot.height).pending = None;
        self.accept(&block, Judgement::Valid { checked: true });
        // Durable before it leaves: after a restart the same block is proposed again, never another.
        self.log_block(slot.height);
        self.broadcast(Message::Proposal { view, block });
        self.vote_prepare(slot.height);
        self.settle(now);
    }

    /// The last accepted block, or the committed one: hash and time.
    fn tip(&self) -> (Hash, u64) {
        let last = self.window.get(self.head.height + self.window.run());
        let accepted = last.and_then(|instance| instance.accepted.as_ref());
        accepted.map_or((self.head.digest, self.head.time), |accepted| (accepted.digest, accepted.time))
    }

    /// Whether the header is that of a block which the current view's primary proposes for the first time.
    fn is_fresh(&self, block: &Block) -> bool {
        let (header, committee) = (block.header(), &self.config.committee);
        header.table == self.config.table
            && (header.chain, header.epoch) == (committee.chain(), committee.epoch())
            && header.view == self.views.view
            && header.proposer == self.primary()
    }

    /// A pre-prepare (section 4.2): accepted from the primary of the current view only, within the
    /// watermarks, and the first one of its height only.
    pub(crate) fn on_proposal(&mut self, from: ReplicaId, view: View, block: Block, now: u64) {
        let expected = self.views.active && view == self.views.view && from == self.primary();
        let height = block.height();
        let below = height <= self.stable_height().saturating_add(self.config.watermark);
        if !expected || !below || height <= self.views.plan.top() {
            self.counters.ignored += 1;
            return;
        }
        if !self.is_fresh(&block) {
            self.counters.faulty += 1;
            return;
        }
        let Some(instance) = self.window.get_mut(height) else {
            self.counters.ignored += 1;
            return;
        };
        if planted::is(Defect::SecondProposal) {
            instance.retract();
        } else if instance.accepted.is_some() || instance.pending.is_some() {
            return;
        }
        instance.pending = Some(block);
        self.moved = true;
        self.accept_ready(now);
    }

    /// Accepts, from the committed height up, what is there and follows from the block before.
    pub(crate) fn accept_ready(&mut self, now: u64) {
        if !self.views.active || self.head.height < self.views.plan.floor() {
            return; // Up to the plan's floor there is nothing to agree on, only to fetch.
        }
        loop {
            let height = self.head.height + self.window.run() + 1;
            let step = if height <= self.views.plan.top() {
                self.accept_planned(height)
            } else {
                self.accept_fresh(height, now)
            };
            match step {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(None) => break,
                // The primary, or more than f replicas, contradict what is accepted or committed.
                ControlFlow::Break(Some(Contradiction)) => {
                    self.counters.faulty += 1;
                    self.complain(now);
                    break;
                }
            }
        }
        self.cast_commits();
    }

    /// A re-proposal needs no judgement: a quorum prepared it, so an honest replica found it valid.
    fn accept_planned(&mut self, height: Height) -> ControlFlow<Option<Contradiction>> {
        let (parent, _) = self.tip();
        let entry = self.views.plan.entry(height).expect("the plan has no gap up to its top");
        let Some(instance) = self.window.get_mut(height) else { return ControlFlow::Break(None) };
        if entry.parent() != parent {
            return ControlFlow::Break(Some(Contradiction));
        }
        let (digest, time) = (entry.digest(), entry.time());
        let block = instance.find(&digest).cloned();
        let found = block.is_some();
        // The certificate behind it holds the word of an honest checker, so it vouches as much as a check does.
        let judgement = Judgement::Valid { checked: true };
        instance.accepted = Some(Accepted { digest, parent, time, block, judgement, checking: false });
        self.moved = true;
        if found {
            self.vote_prepare(height);
        } else {
            self.request_body(height, digest);
        }
        ControlFlow::Continue(())
    }

    fn accept_fresh(&mut self, height: Height, now: u64) -> ControlFlow<Option<Contradiction>> {
        let (parent, parent_time) = self.tip();
        let view = self.views.view;
        let Some(instance) = self.window.get_mut(height) else { return ControlFlow::Break(None) };
        let Some(block) = instance.pending.take() else { return ControlFlow::Break(None) };
        let signed = instance.prepare_in(view).copied().filter(|_| !planted::is(Defect::SecondProposal));
        // Having signed for another block of this view (its parent was not the committed one), this replica
        // has no say here any more.
        let torn = signed.is_some_and(|vote| vote.digest != block.hash());
        if torn || block.header().parent != parent || block.header().time < parent_time {
            return ControlFlow::Break(Some(Contradiction));
        }
        match signed {
            Some(vote) => self.accept(&block, Judgement::Valid { checked: vote.checked }),
            None => {
                let check = self.is_checker(view, block.header().time, now);
                self.accept(&block, Judgement::Pending);
                self.window.at(height).accepted.as_mut().expect("accepted above").checking = check;
                self.emit(Output::Validate { view, height, block, check });
            }
        }
        ControlFlow::Continue(())
    }

    fn accept(&mut self, block: &Block, judgement: Judgement) {
        let header = block.header();
        let accepted = Accepted {
            digest: block.hash(),
            parent: header.parent,
            time: header.time,
            block: Some(block.clone()),
            judgement,
            checking: false,
        };
        self.moved = true;
        self.window.at(header.height).accepted = Some(accepted);
    }

    /// The host's answer to [`Output::Validate`]; ignored where the view or the block is no longer current.
    pub fn on_validated(&mut self, view: View, height: Height, digest: Hash, verdict: Verdict, now: u64) {
        if self.is_deaf() || view != self.views.tally {
            return;
        }
        let accepted = self.window.get_mut(height).and_then(|instance| instance.accepted.as_mut());
        let Some(accepted) = accepted.filter(|accepted| accepted.digest == digest) else { return };
        match verdict {
            Verdict::Valid { checked } => {
                let before = accepted.judgement == Judgement::Valid { checked: true };
                accepted.judgement = Judgement::Valid { checked: checked || before };
                self.vote_prepare(height);
                self.await_checkers(height, now);
            }
            Verdict::Invalid => {
                accepted.judgement = Judgement::Invalid;
                self.counters.faulty += 1;
                self.complain(now);
            }
        }
        self.settle(now);
    }

    /// Signs Prepare for the accepted block of a height, where it is there and valid.
    pub(crate) fn vote_prepare(&mut self, height: Height) {
        if !self.views.active {
            return; // Section 4.4: having left a view, a replica votes in it no more.
        }
        let instance = self.window.at(height);
        let Some(accepted) = &instance.accepted else { return };
        let Judgement::Valid { checked } = accepted.judgement else { return };
        if accepted.block.is_none() {
            return;
        }
        let digest = accepted.digest;
        self.log_block(height);
        self.cast(VoteKind::Prepare, checked, height, digest);
    }

    /// Signs a vote, once: durable first, then to the host. The vote counts when the host hands it back in a
    /// signed bundle.
    fn cast(&mut self, kind: VoteKind, checked: bool, height: Height, digest: Hash) {
        let view = self.views.view;
        assert!(self.views.active && self.views.tally == view, "votes are for the view that has begun");
        assert!(height > self.head.height, "a committed height is voted on no more");
        let vote = Vote { kind, checked, table: self.config.table, view, height, digest };
        let last = self.window.at(height).cast(kind);
        if let Some(last) = last {
            assert!(last.view <= view, "views only grow");
            if last.view == view {
                assert_eq!(
                    last.digest, digest,
                    "a replica never signs two different votes for one view and height"
                );
                if last.checked || !checked {
                    return;
                }
                // The same vote once more: the block's signatures are checked by now.
            }
        }
        *last = Some(vote);
        self.persist(Record::Vote(vote));
        self.emit(Output::Vote(vote));
    }

    /// Writes the accepted block to the log, unless it was the last one written for its height.
    fn log_block(&mut self, height: Height) {
        let view = self.views.tally;
        let instance = self.window.at(height);
        let accepted = instance.accepted.as_ref().and_then(|accepted| accepted.block.clone());
        let block = accepted.expect("the caller has the block");
        if instance.logged.replace(block.hash()) != Some(block.hash()) {
            self.persist(Record::Proposal { view, block });
        }
    }

    /// A prepare or commit vote.
    pub(crate) fn on_ballot(&mut self, replica: ReplicaId, cast: Cast, now: u64) {
        let vote = *cast.vote();
        if vote.height <= self.head.height {
            return; // Late; normal.
        }
        let old = vote.view < self.views.tally && planted::is(Defect::OldViewAccepted);
        if vote.view != self.views.tally && !old {
            if vote.view > self.views.tally && vote.view >= self.views.view {
                // An honest replica votes only in a view that has begun for it.
                self.note_active(replica, vote.view, now);
                self.views.early.push(replica, cast);
            } else {
                self.counters.ignored += 1;
            }
            return;
        }
        let size = self.size();
        let Some(instance) = self.window.get_mut(vote.height) else {
            // An honest voter is at most the window's reach behind what it votes on.
            self.catchup.claim(replica, vote.height.saturating_sub(self.config.reach()));
            self.counters.ignored += 1;
            return;
        };
        let ballot =
            if vote.kind == VoteKind::Prepare { &mut instance.prepares } else { &mut instance.commits };
        match ballot.add(replica, size, cast) {
            Added::Known => {}
            Added::Conflict(evidence) => {
                self.counters.faulty += 1;
                self.emit(Output::Evidence(evidence));
            }
            Added::Counted => {
                self.moved = true;
                self.await_checkers(vote.height, now);
                self.cast_commits();
                self.advance(now);
            }
        }
    }

    /// Signs Commit, in order, for every height that became prepared (section 4.2: the block and a quorum of
    /// prepare votes), f + 1 of the votes from replicas that checked its signatures.
    ///
    /// The host's own judgement may still be pending: among the quorum f + 1 honest replicas found the block
    /// valid, and one of them its signatures. Against an own verdict of invalid this replica never votes.
    pub(crate) fn cast_commits(&mut self) {
        if !self.views.active {
            return;
        }
        let (view, quorum) = (self.views.view, self.quorum());
        let weak = self.weak() - usize::from(planted::is(Defect::CheckerRuleShort));
        for height in self.window.heights() {
            let instance = self.window.at(height);
            if instance.commit_in(view).is_some() {
                continue;
            }
            let Some(accepted) = &instance.accepted else { break };
            let Some(block) = &accepted.block else { break };
            let tally = instance.prepares.tally(&accepted.digest);
            if tally.votes < quorum || tally.checked < weak || accepted.judgement == Judgement::Invalid {
                break;
            }
            let (digest, block) = (accepted.digest, block.clone());
            let certificate = instance.prepares.certificate(&digest, quorum);
            instance.prepared = Some(Prepared { certificate: certificate.clone(), block });
            self.log_block(height);
            self.persist(Record::Prepared(certificate));
            self.cast(VoteKind::Commit, false, height, digest);
        }
    }

    /// Commits, in order, every height that a quorum has voted to commit. That needs no active view: the
    /// votes prove themselves.
    pub(crate) fn advance(&mut self, now: u64) {
        let quorum = self.quorum();
        let before = self.head.height;
        loop {
            let height = self.head.height + 1;
            let instance = self.window.at(height);
            let Some(digest) = instance.commits.decided(quorum) else { break };
            let Some(block) = instance.find(&digest).cloned() else {
                self.request_body(height, digest);
                break;
            };
            let certificate = instance.commits.certificate(&digest, quorum);
            if !self.commit(block, certificate) {
                return;
            }
            self.counters.committed_by_votes += 1;
        }
        if self.head.height > before {
            self.accept_ready(now);
        }
    }

    /// Makes the next height final. False where the certificate contradicts the chain: then more than f
    /// replicas are faulty.
    ///
    /// The record may reach the disk after the block was delivered, or never: every voter of the certificate
    /// made its vote and prepare certificate durable first, so any quorum still proves the block, and a
    /// restarted replica learns it again.
    pub(crate) fn commit(&mut self, block: Block, certificate: Certificate) -> bool {
        let (height, digest) = (block.height(), block.hash());
        assert_eq!(height, self.head.height + 1, "heights commit in order");
        let vote = &certificate.vote;
        assert_eq!((vote.kind, vote.height, vote.digest), (VoteKind::Commit, height, digest));
        if block.header().parent != self.head.digest {
            let (height, first, second) = (self.head.height, self.head.digest, block.header().parent);
            self.diverge(Divergence::Commit { height, first, second });
            return false;
        }
        if self.window.at(height).logged != Some(digest) {
            self.persist(Record::Proposal { view: vote.view, block: block.clone() });
        }
        self.persist(Record::Committed(certificate.clone()));
        self.emit(Output::Committed { block: block.clone(), certificate: certificate.clone() });
        self.raise(&block, certificate);
        self.timers.progress = None;
        self.views.progressed(self.config.me);
        self.moved = true;
        true
    }

    /// Moves the head to the next height.
    pub(crate) fn raise(&mut self, block: &Block, certificate: Certificate) {
        let header = block.header();
        self.head = Head {
            height: header.height,
            digest: block.hash(),
            time: header.time,
            commit: Some(certificate),
        };
        self.window.advance(self.head.height);
        self.realign();
    }

    /// Takes back what is accepted above the head but does not build on it: the primary told this replica
    /// something else than the quorum.
    pub(crate) fn realign(&mut self) {
        let digest = self.head.digest;
        let first = self.window.iter().next().and_then(|(_, instance)| instance.accepted.as_ref());
        if first.is_some_and(|accepted| accepted.parent != digest) {
            self.window.iter_mut().for_each(crate::window::Instance::retract);
        }
    }
}

/// A proposal that does not fit what is accepted, signed or committed.
struct Contradiction;
