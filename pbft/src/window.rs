//! The heights above the committed one: a ring that moves up with every commit.

use std::collections::VecDeque;

use dag::{Block, Certificate, Hash, Height, View, Vote, VoteKind};

use crate::votes::Ballot;

/// Most blocks kept per height besides the accepted and the prepared one. They were accepted in earlier
/// views, and a prepare certificate of one may still turn up in a view change: whoever voted for a block must
/// be able to hand it out.
pub(crate) const MAX_SPARES: usize = 4;

/// What the primary of the view put at a height, and its parent is accepted or committed.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) digest: Hash,
    pub(crate) parent: Hash,
    pub(crate) time: u64,
    /// Absent only for a re-proposal that has to be fetched first.
    pub(crate) block: Option<Block>,
    pub(crate) judgement: Judgement,
    /// The host is at checking its signatures.
    pub(crate) checking: bool,
}

/// The host's word on an accepted block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    Pending,
    /// `checked`: its signatures too, by this replica or, for a re-proposal, by those whose certificate proves it.
    Valid {
        checked: bool,
    },
    Invalid,
}

/// An element of P (section 4.4): this replica cast a commit vote on the block in the certificate's view.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) certificate: Certificate,
    pub(crate) block: Block,
}

/// The agreement on one height.
#[derive(Default, Debug)]
pub(crate) struct Instance {
    /// Of the tallied view.
    pub(crate) accepted: Option<Accepted>,
    /// The primary's proposal of this view, until the height before it is accepted.
    pub(crate) pending: Option<Block>,
    /// Of the highest view in which this replica cast a commit vote here. Survives view changes until the
    /// height is committed.
    pub(crate) prepared: Option<Prepared>,
    /// Blocks of earlier views, oldest first.
    spares: Vec<Block>,
    /// The last vote of each kind that this replica signed for this height. Views only grow, so the last one
    /// is enough to never contradict any.
    pub(crate) cast_prepare: Option<Vote>,
    pub(crate) cast_commit: Option<Vote>,
    /// Votes of the tallied view.
    pub(crate) prepares: Ballot,
    pub(crate) commits: Ballot,
    /// The block last written to the log for this height.
    pub(crate) logged: Option<Hash>,
    /// When to check what the checkers have not, ns.
    pub(crate) check_at: Option<u64>,
    /// The block that was asked of peers, and how often.
    pub(crate) asked: Option<(Hash, usize)>,
}

impl Instance {
    /// The block of this hash, wherever it is kept.
    pub(crate) fn find(&self, digest: &Hash) -> Option<&Block> {
        let accepted = self.accepted.as_ref().and_then(|accepted| accepted.block.as_ref());
        let prepared = self.prepared.as_ref().map(|prepared| &prepared.block);
        let blocks = [accepted, prepared, self.pending.as_ref()].into_iter().flatten().chain(&self.spares);
        blocks.into_iter().find(|block| block.hash() == *digest)
    }

    /// The block of this view: accepted, or waiting for that.
    pub(crate) fn proposed(&self) -> Option<&Block> {
        let accepted = self.accepted.as_ref().and_then(|accepted| accepted.block.as_ref());
        accepted.or(self.pending.as_ref())
    }

    /// Keeps a block that is neither accepted nor prepared.
    pub(crate) fn keep(&mut self, block: Block) {
        if self.find(&block.hash()).is_some() {
            return;
        }
        if self.spares.len() == MAX_SPARES {
            self.spares.remove(0);
        }
        self.spares.push(block);
    }

    pub(crate) fn spares(&self) -> &[Block] {
        &self.spares
    }

    /// The last vote of a kind cast here.
    pub(crate) fn cast(&mut self, kind: VoteKind) -> &mut Option<Vote> {
        match kind {
            VoteKind::Prepare => &mut self.cast_prepare,
            VoteKind::Commit => &mut self.cast_commit,
            VoteKind::Checkpoint => unreachable!("checkpoints are no part of the window"),
        }
    }

    /// Whether agreement on this height is under way: a proposal is there, or f + 1 replicas (`weak`), so at
    /// least an honest one, voted. Fewer votes don't count, lest a single faulty replica keeps all others
    /// busy.
    pub(crate) fn is_open(&self, weak: usize) -> bool {
        self.accepted.is_some()
            || self.pending.is_some()
            || self.prepares.counted() >= weak
            || self.commits.counted() >= weak
    }

    /// Takes back the acceptance; keeps the block.
    pub(crate) fn retract(&mut self) {
        if let Some(block) = self.accepted.take().and_then(|accepted| accepted.block) {
            self.keep(block);
        }
    }

    /// Makes room for another view. What was signed, prepared and logged stays.
    pub(crate) fn enter_view(&mut self) {
        self.retract();
        // After a restart a block that this replica voted for may not have been accepted again.
        if let Some(block) = self.pending.take().filter(|block| self.logged == Some(block.hash())) {
            self.keep(block);
        }
        self.prepares.clear();
        self.commits.clear();
        self.check_at = None;
        self.asked = None;
    }

    /// The digest that this replica voted to prepare in `view`.
    pub(crate) fn prepare_in(&self, view: View) -> Option<&Vote> {
        self.cast_prepare.as_ref().filter(|vote| vote.view == view)
    }

    /// The digest that this replica voted to commit in `view`.
    pub(crate) fn commit_in(&self, view: View) -> Option<&Vote> {
        self.cast_commit.as_ref().filter(|vote| vote.view == view)
    }

    fn reset(&mut self) {
        self.prepares.clear();
        self.commits.clear();
        let (prepares, commits) = (std::mem::take(&mut self.prepares), std::mem::take(&mut self.commits));
        *self = Instance { prepares, commits, ..Instance::default() };
    }
}

/// The instances of the heights `base + 1` to `base + reach`.
#[derive(Debug)]
pub(crate) struct Window {
    base: Height,
    instances: VecDeque<Instance>,
}

impl Window {
    pub(crate) fn new(base: Height, reach: u64) -> Window {
        Window { base, instances: (0..reach).map(|_| Instance::default()).collect() }
    }

    fn index(&self, height: Height) -> Option<usize> {
        usize::try_from(height.checked_sub(self.base + 1)?).ok()
    }

    pub(crate) fn get(&self, height: Height) -> Option<&Instance> {
        self.instances.get(self.index(height)?)
    }

    pub(crate) fn get_mut(&mut self, height: Height) -> Option<&mut Instance> {
        let index = self.index(height)?;
        self.instances.get_mut(index)
    }

    /// The instance of a height that the caller knows to be in the window.
    pub(crate) fn at(&mut self, height: Height) -> &mut Instance {
        self.get_mut(height).expect("inside the window")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Height, &Instance)> {
        (self.base + 1..).zip(&self.instances)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.instances.iter_mut()
    }

    /// The heights, lowest first.
    pub(crate) fn heights(&self) -> std::ops::RangeInclusive<Height> {
        self.base + 1..=self.base + self.instances.len() as u64
    }

    /// Accepted heights right above the base.
    pub(crate) fn run(&self) -> u64 {
        self.instances.iter().take_while(|instance| instance.accepted.is_some()).count() as u64
    }

    /// Moves up, so that `base` is the last height below the window.
    pub(crate) fn advance(&mut self, base: Height) {
        assert!(base >= self.base, "the window only moves up");
        let steps = usize::try_from(base - self.base).unwrap_or(usize::MAX).min(self.instances.len());
        for instance in self.instances.iter_mut().take(steps) {
            instance.reset();
        }
        self.instances.rotate_left(steps);
        self.base = base;
    }
}
