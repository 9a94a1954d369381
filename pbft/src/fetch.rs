//! Catching up: committed blocks with their certificates, single proposed blocks, and state transfer as the
//! last resort (section 4.6 and 5.3.2 speak of the same, by pages of state).

use dag::{Block, Certificate, Hash, Height, ReplicaId, VoteKind};

use crate::{
    config::Base,
    message::{MAX_BLOCKS, Message},
    output::{Divergence, Output},
    record::Record,
    replica::{Head, Replica},
};

/// Blocks are asked for while fewer committed ones than this wait for their execution. Asking for more would not speed execution up.
pub const FETCH_AHEAD: u64 = 2 * MAX_BLOCKS as u64;

/// A question that is out.
#[derive(Debug)]
struct Fetch {
    peer: ReplicaId,
    deadline: u64,
}

/// What peers claim to have committed, and whom this replica has asked. One question at a time.
#[derive(Debug)]
pub(crate) struct Catchup {
    /// By replica, where it has said anything. A claim that is not honoured in time is forgotten, so a liar costs one timeout.
    claims: Vec<Option<Height>>,
    fetch: Option<Fetch>,
    /// Where the search for a peer to ask begins; moves on with every failure.
    next: usize,
}

impl Catchup {
    pub(crate) fn new(size: usize) -> Catchup {
        Catchup { claims: vec![None; size], fetch: None, next: 0 }
    }

    /// `replica` has shown or said that it has committed this height.
    pub(crate) fn claim(&mut self, replica: ReplicaId, height: Height) {
        let claim = &mut self.claims[usize::from(replica)];
        *claim = (*claim).max(Some(height));
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.fetch.as_ref().map(|fetch| fetch.deadline)
    }

    fn failed(&mut self, peer: ReplicaId) {
        self.claims[usize::from(peer)] = Some(0);
        self.next = usize::from(peer) + 1;
        self.fetch = None;
    }

    /// Someone other than `me` who claims more than `height`.
    fn candidate(&self, me: ReplicaId, height: Height) -> Option<(ReplicaId, Height)> {
        let size = self.claims.len();
        let order = (0..size).map(|i| (self.next + i) % size);
        let mut claims =
            order.into_iter().filter(|&i| i != usize::from(me)).map(|i| (i, self.claims[i].unwrap_or(0)));
        let (index, claim) = claims.find(|(_, claim)| *claim > height)?;
        Some((ReplicaId::try_from(index).expect("at most 128"), claim))
    }
}

impl Replica {
    /// Whether others have committed what this replica has not: f + 1 of them say so, or too few have said where they stand since
    /// it started. What it knows of accounts may be old.
    pub fn is_behind(&self) -> bool {
        let others = || {
            let claims = self.catchup.claims.iter().enumerate();
            claims.filter(|(index, _)| *index != usize::from(self.config.me)).filter_map(|(_, claim)| *claim)
        };
        let ahead = others().filter(|claim| *claim > self.head.height).count();
        others().count() + 1 < self.quorum() || ahead >= self.weak() || self.is_transferring()
    }

    /// Asks for the blocks above the committed height, where a peer claims to have them, no question is out, and execution keeps
    /// up.
    pub(crate) fn fetch_blocks(&mut self, now: u64) {
        let unexecuted = self.head.height.saturating_sub(self.checkpoints.executed());
        if self.catchup.fetch.is_some() || self.is_transferring() || unexecuted >= FETCH_AHEAD {
            return;
        }
        let Some((peer, claim)) = self.catchup.candidate(self.config.me, self.head.height) else { return };
        let from = self.head.height + 1;
        let to = claim.min(self.head.height + MAX_BLOCKS as u64);
        self.catchup.fetch = Some(Fetch { peer, deadline: now.saturating_add(self.config.base_timeout) });
        self.send(peer, Message::FetchBlocks { from, to });
    }

    pub(crate) fn on_fetch_timeout(&mut self, now: u64) {
        if let Some(fetch) = self.catchup.fetch.as_ref().filter(|fetch| fetch.deadline <= now) {
            let peer = fetch.peer;
            self.catchup.failed(peer);
            // The answer may be lost: an honest peer repeats its claim when it hears where this replica stands.
            let status = self.status();
            self.send(peer, status);
        }
    }

    pub(crate) fn on_fetch_blocks(&mut self, peer: ReplicaId, from: Height, to: Height) {
        self.serve(peer, from, to.min(from.saturating_add(MAX_BLOCKS as u64 - 1)));
    }

    fn serve(&mut self, to: ReplicaId, from_height: Height, to_height: Height) {
        let to_height = to_height.min(self.head.height);
        if (1..=to_height).contains(&from_height) {
            self.emit(Output::Serve { to, from_height, to_height });
        }
    }

    /// Committed blocks of a peer. Each is taken for its certificate, whoever sent it.
    pub(crate) fn on_blocks(&mut self, peer: ReplicaId, blocks: Vec<(Certificate, Block)>, now: u64) {
        let before = self.head.height;
        for (certificate, block) in blocks {
            if block.height() <= self.head.height {
                continue;
            }
            if block.height() > self.head.height + 1 {
                break; // A gap: an answer to an old question.
            }
            if !self.is_commit_of(&certificate, &block) {
                self.counters.faulty += 1;
                break;
            }
            if !self.commit(block, certificate) {
                return;
            }
            self.counters.committed_by_blocks += 1;
        }
        let answered = self.catchup.fetch.as_ref().is_some_and(|fetch| fetch.peer == peer);
        if self.head.height > before {
            if answered {
                self.catchup.fetch = None;
            }
            self.advance(now);
            self.accept_ready(now);
        } else if answered {
            self.catchup.failed(peer);
        }
    }

    fn is_commit_of(&self, certificate: &Certificate, block: &Block) -> bool {
        let vote = &certificate.vote;
        vote.kind == VoteKind::Commit
            && vote.table == self.config.table
            && (vote.height, vote.digest) == (block.height(), block.hash())
            && certificate.check(&self.config.committee, &*self.config.verify).is_ok()
    }

    /// Asks for a block that this replica must have to go on: re-proposed, or committed by votes. Once;
    /// resending asks the next peer.
    pub(crate) fn request_body(&mut self, height: Height, digest: Hash) {
        let asked = self.window.at(height).asked.filter(|(known, _)| *known == digest);
        if asked.is_none() {
            self.ask_body(height, digest, 0);
        }
    }

    fn ask_body(&mut self, height: Height, digest: Hash, times: usize) {
        let holders = self.holders(height, &digest);
        self.window.at(height).asked = Some((digest, times + 1));
        if let Some(&peer) = holders.get(times % holders.len().max(1)) {
            self.send(peer, Message::FetchBody { height, digest });
        }
    }

    /// Who must have a block: who voted for it, and who reported it prepared. Honest ones keep it until its
    /// height is committed.
    fn holders(&self, height: Height, digest: &Hash) -> Vec<ReplicaId> {
        let mut holders = self.views.reporters(height, digest);
        if let Some(instance) = self.window.get(height) {
            holders.extend(instance.commits.voters(digest));
            holders.extend(instance.prepares.voters(digest));
        }
        holders.retain(|&replica| replica != self.config.me);
        holders
    }

    /// Asks again, another peer, for every block that is still missing.
    pub(crate) fn resend_body_requests(&mut self) {
        for height in self.window.heights() {
            let instance = self.window.at(height);
            let Some((digest, times)) = instance.asked else { continue };
            if instance.find(&digest).is_none() {
                self.ask_body(height, digest, times);
            }
        }
    }

    pub(crate) fn on_fetch_body(&mut self, peer: ReplicaId, height: Height, digest: Hash) {
        if height <= self.head.height {
            return self.serve(peer, height, height);
        }
        if let Some(block) = self.window.get(height).and_then(|instance| instance.find(&digest)).cloned() {
            self.send(peer, Message::Body(block));
        }
    }

    /// A block that was asked for; anything else is dropped.
    pub(crate) fn on_body(&mut self, block: Block, now: u64) {
        let (height, digest) = (block.height(), block.hash());
        let Some(instance) = self.window.get_mut(height) else { return };
        let wanted = instance.asked.is_some_and(|(asked, _)| asked == digest);
        if !wanted || instance.find(&digest).is_some() {
            return;
        }
        match &mut instance.accepted {
            Some(accepted) if accepted.digest == digest => accepted.block = Some(block),
            _ => instance.keep(block),
        }
        self.moved = true;
        self.vote_prepare(height);
        self.cast_commits();
        self.advance(now);
    }

    /// The host has replaced the table's state by one above what it has executed: that of a stable checkpoint, or
    /// one that f + 1 replicas vouch for. Execution goes on above the base. Where that is above the committed height too, so does agreement; otherwise
    /// this replica's committed blocks and votes stay as they are.
    ///
    /// # Panics
    /// Where the base is inconsistent, or not above the executed height: such a transfer came too late, drop
    /// it.
    pub fn install(&mut self, base: Base, now: u64) {
        base.check(self.config.table);
        if self.is_deaf() {
            return;
        }
        assert!(base.height > self.checkpoints.executed(), "a state transfer moves up");
        base.commit.iter().for_each(|commit| self.check_fork(commit));
        if self.is_deaf() {
            return;
        }
        self.checkpoints.set_base(base.height);
        if let Some(stable) = base.stable {
            self.checkpoints.set_stable(stable.clone());
            self.persist(Record::Stable(stable));
        }
        self.checkpoints.transferred();
        // A certificate may have waited for execution to get so far.
        self.settle_checkpoint();
        if base.height > self.head.height {
            let Base { height, digest, time, commit, .. } = base;
            self.window.advance(height);
            self.head = Head { height, digest, time, commit };
            self.realign();
            self.timers.progress = None;
            self.views.progressed(self.config.me);
            self.advance(now);
            self.accept_ready(now);
        }
        self.moved = true;
        self.settle(now);
    }

    /// Two certificates for one height convict more than f replicas.
    pub(crate) fn check_fork(&mut self, certificate: &Certificate) {
        let vote = &certificate.vote;
        if vote.height == self.head.height && vote.digest != self.head.digest {
            let (height, first, second) = (vote.height, self.head.digest, vote.digest);
            self.diverge(Divergence::Commit { height, first, second });
        }
    }
}
