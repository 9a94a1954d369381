//! Checkpoints (section 4.3): a quorum's word on the state after a height.

use std::collections::VecDeque;

use dag::{Certificate, Hash, Height, ReplicaId, Vote, VoteKind};

use crate::{
    evidence::Evidence,
    message::Message,
    output::{Divergence, Output},
    record::Record,
    replica::Replica,
    votes::{self, Cast},
};

/// Most checkpoint votes kept of one replica: those for its highest heights. One quorum on any later height
/// is enough.
const MAX_VOTES: usize = 8;
/// Most own checkpoints remembered above the stable one.
const MAX_OWN: usize = 1024;
/// How often the time of a state transfer doubles at most.
const MAX_OVERDUE: u32 = 6;

/// What is known of checkpoints.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    executed: Height,
    /// Height of the newest base: nothing at or below it was executed since, and nothing voted on.
    base: Height,
    stable: Option<Certificate>,
    /// A quorum's checkpoint above the stable one that this replica has not reached in execution yet.
    awaited: Option<Certificate>,
    /// Per replica, ascending by height.
    votes: Vec<VecDeque<Cast>>,
    /// The votes that this replica signed above the stable height, ascending. After a restart some are not
    /// executed again yet.
    own: VecDeque<Vote>,
    /// Replicas already convicted of conflicting checkpoint votes: one piece of evidence is enough.
    accused: Vec<ReplicaId>,
    /// The newest checkpoint that the host was told to transfer.
    pub(crate) transfer: Option<Transfer>,
    /// Transfers in a row that took too long.
    overdue: u32,
}

/// A state transfer that the host makes.
#[derive(Debug)]
pub(crate) struct Transfer {
    height: Height,
    /// When it no longer keeps this replica from asking for blocks. A newer checkpoint does not move it:
    /// those may come for ever.
    deadline: u64,
}

impl Checkpoints {
    pub(crate) fn new(size: usize, executed: Height, stable: Option<Certificate>) -> Checkpoints {
        let votes = (0..size).map(|_| VecDeque::new()).collect();
        Checkpoints {
            executed,
            base: executed,
            stable,
            awaited: None,
            votes,
            own: VecDeque::new(),
            accused: Vec::new(),
            transfer: None,
            overdue: 0,
        }
    }

    pub(crate) fn executed(&self) -> Height {
        self.executed
    }

    pub(crate) fn stable(&self) -> Option<&Certificate> {
        self.stable.as_ref()
    }

    pub(crate) fn stable_height(&self) -> Height {
        self.stable.as_ref().map_or(0, |certificate| certificate.vote.height)
    }

    /// Own votes whose checkpoint is not stable yet.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Vote> {
        self.own.iter()
    }

    /// Whether an own checkpoint waits for a quorum.
    pub(crate) fn is_open(&self) -> bool {
        !self.own.is_empty()
    }

    /// Remembers a vote that the log holds.
    pub(crate) fn restore_own(&mut self, vote: Vote) {
        if vote.height > self.stable_height() {
            self.own.retain(|known| known.height != vote.height);
            self.own.push_back(vote);
        }
    }

    /// Adopts a certificate of the log or of a state transfer.
    pub(crate) fn set_stable(&mut self, certificate: Certificate) {
        let height = certificate.vote.height;
        if height <= self.stable_height() {
            return;
        }
        self.stable = Some(certificate);
        self.own.retain(|vote| vote.height > height);
        for votes in &mut self.votes {
            votes.retain(|cast| cast.vote().height > height);
        }
        if self.awaited.as_ref().is_some_and(|awaited| awaited.vote.height <= height) {
            self.awaited = None;
        }
    }

    /// The host has brought the state.
    pub(crate) fn transferred(&mut self) {
        self.transfer = None;
        self.overdue = 0;
    }

    /// The host has brought a state of this height.
    pub(crate) fn set_base(&mut self, height: Height) {
        self.executed = height;
        self.base = height;
    }

    fn own_at(&self, height: Height) -> Option<Hash> {
        self.own.iter().find(|vote| vote.height == height).map(|vote| vote.digest)
    }

    /// Whether an own vote of this height may have made room for later ones.
    fn has_forgotten(&self, height: Height) -> bool {
        self.own.len() == MAX_OWN && self.own.front().is_some_and(|oldest| oldest.height > height)
    }

    fn at<'a>(&'a self, vote: &'a Vote) -> impl Iterator<Item = &'a Cast> {
        let same = move |cast: &&Cast| (cast.vote().height, cast.vote().digest) == (vote.height, vote.digest);
        self.votes.iter().filter_map(move |votes| votes.iter().find(same))
    }
}

impl Replica {
    /// The host has executed a committed block. Where that made a checkpoint, its digest: this replica votes
    /// for it.
    ///
    /// # Panics
    /// Where heights are skipped, or not committed.
    pub fn on_executed(&mut self, height: Height, checkpoint: Option<Hash>, now: u64) {
        if self.is_deaf() {
            return;
        }
        assert_eq!(height, self.checkpoints.executed + 1, "blocks are executed in order");
        assert!(height <= self.head.height, "only committed blocks are executed");
        self.checkpoints.executed = height;
        if let Some(digest) = checkpoint {
            self.vote_checkpoint(height, digest);
        }
        // A stable certificate from the log may stand above what is executed after a restart.
        let quorum = self.checkpoints.stable.as_ref().filter(|stable| stable.vote.height == height);
        match quorum.map(|stable| stable.vote.digest) {
            Some(theirs) if checkpoint != Some(theirs) => {
                self.diverge(Divergence::State { height, mine: checkpoint, theirs });
            }
            _ => self.settle_checkpoint(),
        }
        self.settle(now);
    }

    /// The state that the host has brought is that of a checkpoint, and no quorum has signed it yet: this replica votes for it.
    ///
    /// # Panics
    /// Where it is not the newest executed height.
    pub fn adopt_checkpoint(&mut self, height: Height, digest: Hash, now: u64) {
        if self.is_deaf() {
            return;
        }
        assert_eq!(height, self.checkpoints.executed, "the state that was brought");
        self.vote_checkpoint(height, digest);
        self.settle(now);
    }

    fn vote_checkpoint(&mut self, height: Height, digest: Hash) {
        if height <= self.stable_height() {
            return;
        }
        match self.checkpoints.own_at(height) {
            Some(before) if before != digest => {
                return self.diverge(Divergence::Replay { height, before, now: digest });
            }
            Some(_) => {}
            None => {
                let table = self.config.table;
                let vote =
                    Vote { kind: VoteKind::Checkpoint, checked: false, table, view: 0, height, digest };
                self.checkpoints.own.push_back(vote);
                if self.checkpoints.own.len() > MAX_OWN {
                    self.checkpoints.own.pop_front();
                }
                self.persist(Record::Vote(vote));
            }
        }
        self.resend_checkpoint(height);
    }

    /// Casts the own vote of a height again, or the newest where `height` is above all.
    pub(crate) fn resend_checkpoint(&mut self, height: Height) {
        let newest = self.checkpoints.own.iter().rev().find(|vote| vote.height <= height).copied();
        if let Some(vote) = newest {
            self.emit(Output::Vote(vote));
        }
    }

    /// A checkpoint vote. Bound: [`MAX_VOTES`] per replica.
    pub(crate) fn on_checkpoint_vote(&mut self, replica: ReplicaId, cast: Cast) {
        let vote = *cast.vote();
        if vote.height <= self.stable_height() {
            return;
        }
        let votes = &mut self.checkpoints.votes[usize::from(replica)];
        let index = votes.partition_point(|known| known.vote().height < vote.height);
        if let Some(known) = votes.get(index).filter(|known| known.vote().height == vote.height) {
            if let Some(evidence) = known.evidence(&cast) {
                self.accuse(replica, evidence);
            }
            return;
        }
        votes.insert(index, cast);
        if votes.len() > MAX_VOTES {
            votes.pop_front();
        }
        // Who vouches for a state has executed up to it.
        self.catchup.claim(replica, vote.height);
        if self.checkpoints.at(&vote).count() >= self.quorum() {
            let quorum = self.checkpoints.at(&vote).take(self.quorum());
            let certificate = votes::certificate(quorum).expect("a quorum is not empty");
            self.await_stable(certificate);
        }
    }

    fn accuse(&mut self, replica: ReplicaId, evidence: Evidence) {
        if !self.checkpoints.accused.contains(&replica) {
            self.checkpoints.accused.push(replica);
            self.counters.faulty += 1;
            self.emit(Output::Evidence(Box::new(evidence)));
        }
    }

    fn await_stable(&mut self, certificate: Certificate) {
        let height = certificate.vote.height;
        let known =
            self.checkpoints.awaited.as_ref().map_or(self.stable_height(), |awaited| awaited.vote.height);
        if height > known {
            self.checkpoints.awaited = Some(certificate);
            self.settle_checkpoint();
        }
    }

    /// A quorum's checkpoint becomes stable here once execution has reached it and agrees. A disagreement
    /// means that this replica's state is wrong (or more than f are faulty): it must not go on.
    pub(crate) fn settle_checkpoint(&mut self) {
        let executed = self.checkpoints.executed;
        let reached = self.checkpoints.awaited.take_if(|awaited| awaited.vote.height <= executed);
        let Some(certificate) = reached else { return };
        let (height, theirs) = (certificate.vote.height, certificate.vote.digest);
        let mine = self.checkpoints.own_at(height);
        if mine.is_none() && self.checkpoints.has_forgotten(height) {
            return; // A later checkpoint will do.
        }
        // A state that was brought stands above it: there is nothing of its own to compare.
        let jumped = mine.is_none() && height <= self.checkpoints.base;
        if mine != Some(theirs) && !jumped {
            return self.diverge(Divergence::State { height, mine, theirs });
        }
        self.checkpoints.set_stable(certificate.clone());
        self.moved = true;
        self.persist(Record::Stable(certificate.clone()));
        self.emit(Output::Stable { certificate });
    }

    /// A peer's stable checkpoint: pushed to one that missed the votes, or given to one whose blocks are no
    /// longer kept.
    pub(crate) fn on_stable_checkpoint(&mut self, certificate: Certificate, now: u64) {
        let vote = certificate.vote;
        let useful = vote.height > self.head.height || vote.height > self.stable_height();
        if vote.kind != VoteKind::Checkpoint || vote.table != self.config.table || !useful {
            return;
        }
        if self.transferring().is_some_and(|transfer| vote.height <= transfer.height) {
            return;
        }
        if certificate.check(&self.config.committee, &*self.config.verify).is_err() {
            self.counters.faulty += 1;
            return;
        }
        if vote.height > self.head.height {
            let deadline = self.transferring().map(|transfer| transfer.deadline);
            let deadline = deadline.unwrap_or(now.saturating_add(self.transfer_time()));
            self.checkpoints.transfer = Some(Transfer { height: vote.height, deadline });
            self.emit(Output::Behind { height: vote.height, stable: certificate.clone() });
        }
        self.await_stable(certificate);
    }

    /// The transfer of a state that this replica has not reached by itself.
    fn transferring(&self) -> Option<&Transfer> {
        self.checkpoints.transfer.as_ref().filter(|transfer| transfer.height > self.head.height)
    }

    /// Whether the host is fetching a state.
    pub(crate) fn is_transferring(&self) -> bool {
        self.transferring().is_some()
    }

    pub(crate) fn transfer_deadline(&self) -> Option<u64> {
        self.transferring().map(|transfer| transfer.deadline)
    }

    /// How long a state transfer may hold up the fetching of blocks: doubles with each that took too long.
    fn transfer_time(&self) -> u64 {
        let doubled = 1 << self.checkpoints.overdue.min(MAX_OVERDUE);
        self.config.resend_every.saturating_mul(8 * doubled)
    }

    /// A transfer that may never end: fetches blocks again, and tells the host again when a peer shows its
    /// checkpoint. Peers repeat their claims when they hear where this replica stands.
    pub(crate) fn on_transfer_timeout(&mut self, now: u64) {
        if self.transfer_deadline().is_some_and(|deadline| deadline <= now) {
            self.checkpoints.transfer = None;
            self.checkpoints.overdue = self.checkpoints.overdue.saturating_add(1);
            self.broadcast_status();
        }
    }

    /// Gives a peer the certificate that it missed. Where it lacks the blocks too, it asks for those first.
    pub(crate) fn push_stable(&mut self, peer: ReplicaId, committed: Height, stable: Height) {
        let height = self.stable_height();
        if stable < height && committed >= height {
            let certificate = self.checkpoints.stable.clone().expect("the height is above zero");
            self.send(peer, Message::StableCheckpoint(certificate));
        }
    }
}
