//! Proof of equivocation.

use dag::{Committee, ReplicaId, Vote, keys::Verify, vote::VoteProof};

/// Two conflicting votes of one validator, with what proves both to a third party: same kind, table, view and
/// height, but not the same digest. An honest validator never signs such a pair, not even across restarts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// The vote that was counted.
    pub first: Vote,
    /// Its proof.
    pub first_proof: VoteProof,
    /// The vote against it.
    pub second: Vote,
    /// Its proof.
    pub second_proof: VoteProof,
}

impl Evidence {
    /// Whether two votes, cast by one validator, convict it.
    pub fn conflict(first: &Vote, second: &Vote) -> bool {
        let place = |vote: &Vote| (vote.kind, vote.table, vote.view, vote.height);
        place(first) == place(second) && first.digest != second.digest
    }

    /// The validator that this convicts; `None` where it proves nothing.
    pub fn culprit(&self, committee: &Committee, verify: &Verify) -> Option<ReplicaId> {
        let convicts = self.first_proof.replica == self.second_proof.replica
            && Self::conflict(&self.first, &self.second)
            && self.first_proof.proves(&self.first, committee, verify)
            && self.second_proof.proves(&self.second, committee, verify);
        convicts.then_some(self.first_proof.replica)
    }
}
