//! States of tables that rest, which peers vouch for.
//!
//! A validator that lacks a state needs one that is newer than what it has. While its table goes on there will be one at the next
//! checkpoint. But where the table can't go on without this very validator, as where f others are gone, there will be no
//! checkpoint any more. So a table that rests can be fetched as it is: f + 1 peers that claim the same state of the same
//! height have an honest one among them, and honest execution has one result.

use dag::{
    Certificate, Hash, Height, ReplicaId,
    planted::{self, Defect},
};

use crate::node::{Core, Effect, TableNode, frame::Frame};

/// A table that has committed nothing for so long rests, ns.
const REST: u64 = 2_000_000_000;
/// How often peers are asked what they vouch for, ns.
const ASK_EVERY: u64 = 1_000_000_000;

/// What peers claim of one table's state: the newest claim of each.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: Vec<(ReplicaId, Height, Hash)>,
    ask_at: u64,
}

impl Claims {
    fn on_claim(&mut self, from: ReplicaId, height: Height, digest: Hash) {
        self.claims.retain(|(replica, ..)| *replica != from);
        self.claims.push((from, height, digest));
    }

    /// Whether so many peers that one of them is honest claim this.
    pub(super) fn vouch_for(&self, height: Height, digest: &Hash, faulty: usize) -> bool {
        let same = self.claims.iter().filter(|(_, claimed, hash)| (claimed, hash) == (&height, digest));
        same.count() > faulty || planted::is(Defect::ClaimUnchecked)
    }
}

impl TableNode {
    /// Where the state was brought, or loaded, that lacks nothing but this validator's vote to be a stable checkpoint: votes. A
    /// state that is executed to a checkpoint is voted on then.
    pub(in crate::node) fn adopt_checkpoint(&mut self, now: u64) {
        let height = self.state.height();
        if self.state.meta().checkpoint_height == height && height > self.replica.stable_height() {
            let digest = self.state.checkpoint().digest();
            self.replica.adopt_checkpoint(height, digest, now);
        }
    }

    /// The newest committed block's certificate, where the state is that of this block.
    pub(super) fn commit_of_state(&self) -> Option<&Certificate> {
        self.replica.committed_certificate().filter(|commit| commit.vote.height == self.state.height())
    }

    /// The same, where the table rests on that block and it is above `above`.
    pub(super) fn resting_above(&self, above: Height, now: u64) -> Option<&Certificate> {
        let rests = self.last_commit + REST <= now && self.unexecuted.is_empty() && !self.state.is_busy();
        self.commit_of_state().filter(|commit| rests && commit.vote.height > above)
    }
}

impl Core {
    /// The peer that is asked for a state has none: ask all what they would vouch for.
    pub(super) fn ask_for_claims(&mut self, slot: usize, above: Height, now: u64) {
        let table = &mut self.tables[slot];
        let claims = &mut table.sync.claims;
        if claims.ask_at <= now {
            claims.ask_at = now + ASK_EVERY;
            let want = Frame::WantClaim { table: table.id, above };
            self.effects.push_back(Effect::ToPeers(table.lane, want.encode()));
        }
    }

    /// A peer asks what this validator vouches for.
    pub(in crate::node) fn on_want_claim(&mut self, slot: usize, from: ReplicaId, above: Height, now: u64) {
        let table = &mut self.tables[slot];
        if table.resting_above(above, now).is_some() {
            let state = table.state.checkpoint_now();
            let claim = Frame::Claim { table: table.id, height: state.height, digest: state.digest() };
            self.effects.push_back(Effect::ToPeer(from, table.lane, claim.encode()));
        }
    }

    /// A peer vouches for a state.
    pub(in crate::node) fn on_claim(&mut self, slot: usize, from: ReplicaId, height: Height, digest: Hash) {
        let faulty = self.shard.committee.faulty();
        let sync = &mut self.tables[slot].sync;
        let Some(fetch) = &mut sync.fetch else { return };
        sync.claims.on_claim(from, height, digest);
        // Who vouches for it has it.
        if height > fetch.above && sync.claims.vouch_for(height, &digest, faulty) {
            fetch.turn_to(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_and_one_more_have_to_claim_the_same() {
        let (right, wrong) = (Hash([1; 32]), Hash([2; 32]));
        let mut claims = Claims::default();
        claims.on_claim(1, 9, right);
        claims.on_claim(1, 9, right);
        assert!(!claims.vouch_for(9, &right, 1), "one voice, however often it is raised");
        claims.on_claim(2, 9, wrong);
        claims.on_claim(3, 8, right);
        assert!(!claims.vouch_for(9, &right, 1), "another state, another height");
        claims.on_claim(3, 9, right);
        assert!(claims.vouch_for(9, &right, 1) && !claims.vouch_for(9, &right, 2));
        claims.on_claim(1, 10, right);
        assert!(!claims.vouch_for(9, &right, 1), "only the newest claim of each counts");
    }
}
