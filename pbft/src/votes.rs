//! Votes as they are collected: one ballot per height and kind, and a shelf for those that come too early.

use std::{collections::VecDeque, rc::Rc};

use dag::{
    Certificate, Hash, ReplicaId, View, Vote, VoteBundle,
    planted::{self, Defect},
};

use crate::evidence::Evidence;

/// Most votes for later views that are kept of one sender. When full, the oldest makes room; resending
/// repairs that.
pub(crate) const MAX_EARLY: usize = 64;

/// A vote where it lies: a bundle whose signature the host has checked, and the vote's place in it. The
/// Merkle path is computed only where a certificate or evidence needs it.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    bundle: Rc<VoteBundle>,
    index: usize,
}

impl Cast {
    pub(crate) fn new(bundle: &Rc<VoteBundle>, index: usize) -> Cast {
        Cast { bundle: Rc::clone(bundle), index }
    }

    pub(crate) fn vote(&self) -> &Vote {
        &self.bundle.votes()[self.index]
    }

    pub(crate) fn bundle(&self) -> &Rc<VoteBundle> {
        &self.bundle
    }

    /// Both votes with their proofs, where they conflict.
    pub(crate) fn evidence(&self, other: &Cast) -> Option<Evidence> {
        Evidence::conflict(self.vote(), other.vote()).then(|| Evidence {
            first: *self.vote(),
            first_proof: self.bundle.proof(self.index),
            second: *other.vote(),
            second_proof: other.bundle.proof(other.index),
        })
    }
}

/// The certificate of these votes, which are all for the same thing and by ascending replica.
pub(crate) fn certificate<'a>(casts: impl Iterator<Item = &'a Cast>) -> Option<Certificate> {
    let mut casts = casts.peekable();
    let vote = Vote { checked: false, ..*casts.peek()?.vote() };
    Some(Certificate { vote, proofs: casts.map(|cast| cast.bundle.proof(cast.index)).collect() })
}

/// What became of a vote.
#[derive(Debug)]
pub(crate) enum Added {
    /// It counts.
    Counted,
    /// Its sender's vote was there already.
    Known,
    /// Its sender voted for something else before; told once per sender and ballot.
    Conflict(Box<Evidence>),
}

/// The votes of one kind for one height in one view: at most one of each replica, the first.
#[derive(Default, Debug)]
pub(crate) struct Ballot {
    /// Indexed by replica; empty until the first vote.
    casts: Vec<Option<Cast>>,
    counted: usize,
    /// Replicas already convicted here, so that a flood of conflicts gives one piece of evidence.
    accused: Vec<ReplicaId>,
}

/// Votes for one digest.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) votes: usize,
    /// Those whose senders have checked the block.
    pub(crate) checked: usize,
}

impl Ballot {
    /// Adds the vote of `replica`, one of `size`.
    pub(crate) fn add(&mut self, replica: ReplicaId, size: usize, cast: Cast) -> Added {
        if self.casts.is_empty() {
            self.casts.resize(size, None);
        }
        let place = &mut self.casts[usize::from(replica)];
        let Some(first) = place else {
            *place = Some(cast);
            self.counted += 1;
            return Added::Counted;
        };
        if cast.vote().checked && !first.vote().checked && first.vote().digest == cast.vote().digest {
            // It has checked the block after all; the last word that it may say.
            *place = Some(cast);
            return Added::Counted;
        }
        match first.evidence(&cast) {
            Some(evidence) if !self.accused.contains(&replica) => {
                self.accused.push(replica);
                Added::Conflict(Box::new(evidence))
            }
            _ if planted::is(Defect::DuplicateVote) => {
                self.counted += 1;
                Added::Counted
            }
            _ => Added::Known,
        }
    }

    /// Forgets all votes; keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.casts.clear();
        self.accused.clear();
        self.counted = 0;
    }

    /// Replicas that voted, for whatever.
    pub(crate) fn counted(&self) -> usize {
        self.counted
    }

    /// Whether `replica` voted.
    pub(crate) fn has(&self, replica: ReplicaId) -> bool {
        self.casts.get(usize::from(replica)).is_some_and(Option::is_some)
    }

    fn of<'a>(&'a self, digest: &'a Hash) -> impl Iterator<Item = (ReplicaId, &'a Cast)> {
        let numbered = (0..).zip(&self.casts);
        numbered.filter_map(move |(replica, cast)| {
            cast.as_ref().filter(|cast| cast.vote().digest == *digest).map(|cast| (replica, cast))
        })
    }

    /// Counts the votes for a digest.
    pub(crate) fn tally(&self, digest: &Hash) -> Tally {
        let mut tally = Tally::default();
        if self.counted == 0 {
            return tally;
        }
        for (_, cast) in self.of(digest) {
            tally.votes += 1;
            tally.checked += usize::from(cast.vote().checked);
        }
        if planted::is(Defect::DuplicateVote) {
            tally.votes = self.counted;
        }
        tally
    }

    /// Whether `replica` voted and had checked the block.
    pub(crate) fn has_checked(&self, replica: ReplicaId) -> bool {
        self.casts.get(usize::from(replica)).and_then(Option::as_ref).is_some_and(|cast| cast.vote().checked)
    }

    /// Who voted for a digest.
    pub(crate) fn voters<'a>(&'a self, digest: &'a Hash) -> impl Iterator<Item = ReplicaId> {
        self.of(digest).map(|(replica, _)| replica)
    }

    /// The digest that a quorum voted for.
    pub(crate) fn decided(&self, quorum: usize) -> Option<Hash> {
        if self.counted < quorum {
            return None;
        }
        // A quorum is a majority, so skipping n − quorum votes leaves one for the digest, if there is one.
        let mut candidates = self.casts.iter().flatten().map(|cast| cast.vote().digest);
        candidates.find(|digest| self.tally(digest).votes >= quorum)
    }

    /// The certificate of a digest: of exactly `quorum` votes, those that checked first.
    ///
    /// # Panics
    /// Where fewer than `quorum` voted for it.
    pub(crate) fn certificate(&self, digest: &Hash, quorum: usize) -> Certificate {
        let mut unchecked = quorum.saturating_sub(self.tally(digest).checked);
        let chosen = self.of(digest).map(|(_, cast)| cast).filter(|cast| {
            let room = cast.vote().checked || unchecked > 0;
            unchecked -= usize::from(room && !cast.vote().checked);
            room
        });
        let certificate = certificate(chosen.take(quorum)).expect("a quorum is not empty");
        assert_eq!(certificate.proofs.len(), quorum, "a certificate takes {quorum} votes");
        certificate
    }
}

/// Votes for views that this replica has not entered yet, so that votes which overtake the new-view message
/// are not lost.
#[derive(Debug)]
pub(crate) struct Early(Vec<VecDeque<Cast>>);

impl Early {
    pub(crate) fn new(size: usize) -> Early {
        Early((0..size).map(|_| VecDeque::new()).collect())
    }

    pub(crate) fn push(&mut self, replica: ReplicaId, cast: Cast) {
        let shelf = &mut self.0[usize::from(replica)];
        if shelf.len() == MAX_EARLY {
            shelf.pop_front();
        }
        shelf.push_back(cast);
    }

    /// Takes the votes of a view, and drops those of earlier ones.
    pub(crate) fn take(&mut self, view: View) -> Vec<Cast> {
        let mut taken = Vec::new();
        for shelf in &mut self.0 {
            taken.extend(shelf.iter().filter(|cast| cast.vote().view == view).cloned());
            shelf.retain(|cast| cast.vote().view > view);
        }
        taken
    }
}
