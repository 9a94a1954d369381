//! What is decided, whoever knows of it yet.
//!
//! A block that a quorum has voted to commit in a view is decided, even where no validator has seen all of these votes. So it is
//! when only the votes of those are missing that may lie: they can say them whenever it suits them. From then on no honest
//! validator may vote for another block at that height in a later view.

use std::collections::HashMap;

use dag::{Hash, Height, ReplicaId, TableId, View, Vote, VoteKind};

use crate::scenario::Scenario;

/// The votes of honest validators for one height.
#[derive(Default)]
struct Votes {
    /// Who voted to commit what, a bit for each.
    commits: Vec<(View, Hash, u128)>,
    /// What was voted for.
    voted: Vec<(View, Hash)>,
    /// The first view in which something was decided, and what.
    decided: Option<(View, Hash)>,
}

/// What is decided.
pub struct Decisions {
    /// Who may lie, some time or other.
    corrupt: Vec<bool>,
    /// Votes of honest validators that decide.
    needed: u32,
    heights: HashMap<(TableId, Height), Votes>,
}

impl Decisions {
    /// Nothing yet.
    pub fn new(scenario: &Scenario) -> Decisions {
        let mut corrupt = vec![false; scenario.validators];
        for episode in scenario.plan.iter().filter(|episode| episode.fault.corrupts()) {
            episode.fault.host().into_iter().for_each(|host| corrupt[host] = true);
        }
        let quorum = scenario.validators - scenario.faulty();
        let liars = corrupt.iter().filter(|corrupt| **corrupt).count();
        let needed = u32::try_from(quorum.saturating_sub(liars)).expect("few validators").max(1);
        Decisions { corrupt, needed, heights: HashMap::new() }
    }

    /// A vote of an honest validator. Says what it contradicts.
    pub fn on_vote(&mut self, replica: ReplicaId, vote: &Vote) -> Option<String> {
        if vote.kind == VoteKind::Checkpoint || self.corrupt[usize::from(replica)] {
            return None;
        }
        let said = (vote.view, vote.digest);
        let votes = self.heights.entry((vote.table, vote.height)).or_default();
        if !votes.voted.contains(&said) {
            votes.voted.push(said);
        }
        if vote.kind == VoteKind::Commit {
            votes.on_commit(replica, said, self.needed);
        }
        let (view, digest) = votes.decided?;
        let against = votes.voted.iter().find(|(other, voted)| *other > view && *voted != digest);
        against.map(|(later, other)| {
            let (height, table) = (vote.height, vote.table);
            format!(
                "{digest} is decided in view {view} at height {height} of table {table}, and {other} voted for in view {later}"
            )
        })
    }
}

impl Votes {
    fn on_commit(&mut self, replica: ReplicaId, (view, digest): (View, Hash), needed: u32) {
        let place = self.commits.iter().position(|(known, voted, _)| (*known, *voted) == (view, digest));
        let place = place.unwrap_or_else(|| {
            self.commits.push((view, digest, 0));
            self.commits.len() - 1
        });
        let (.., voters) = &mut self.commits[place];
        *voters |= 1 << replica;
        let first = self.decided.is_none_or(|(earlier, _)| view < earlier);
        if voters.count_ones() >= needed && first {
            self.decided = Some((view, digest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fault::{Behaviour, Episode, Fault},
        scenario::Atlas,
    };

    fn decisions(liar: bool) -> Decisions {
        let fault = Fault::Byzantine(3, Behaviour::Silent);
        let plan = if liar { vec![Episode { at: 0, lasts: 1, fault }] } else { Vec::new() };
        Decisions::new(&Scenario { validators: 4, plan, ..Scenario::draw(1, Atlas::Calm) })
    }

    fn vote(kind: VoteKind, view: View, digest: u8) -> Vote {
        Vote { kind, checked: false, table: 0, view, height: 5, digest: Hash([digest; 32]) }
    }

    #[test]
    fn what_a_quorum_votes_to_commit_stays() {
        let (commit, prepare) = (VoteKind::Commit, VoteKind::Prepare);
        let mut decisions = decisions(false);
        for replica in 0..2 {
            assert_eq!(decisions.on_vote(replica, &vote(commit, 1, 7)), None);
        }
        assert_eq!(decisions.on_vote(3, &vote(prepare, 2, 8)), None, "two of four decide nothing");
        assert!(decisions.on_vote(2, &vote(commit, 1, 7)).is_some(), "whatever comes first");
    }

    #[test]
    fn a_liar_may_add_his_vote_any_time() {
        let mut decisions = decisions(true);
        assert_eq!(decisions.on_vote(3, &vote(VoteKind::Commit, 1, 7)), None, "and alone says nothing");
        for replica in 0..2 {
            assert_eq!(decisions.on_vote(replica, &vote(VoteKind::Commit, 1, 7)), None);
        }
        assert_eq!(decisions.on_vote(2, &vote(VoteKind::Prepare, 0, 8)), None, "an earlier view");
        assert_eq!(decisions.on_vote(2, &vote(VoteKind::Prepare, 2, 7)), None, "the same block");
        assert!(decisions.on_vote(2, &vote(VoteKind::Prepare, 2, 8)).is_some());
    }
}
