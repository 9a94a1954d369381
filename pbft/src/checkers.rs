//! Shared verification: who checks the signatures of a block's transactions.
//!
//! A transaction's signature is objective: all honest replicas judge it alike. So f + 1 of them check it for all. The
//! *checkers* of a block are its primary and the f replicas that follow it on a ring, whose order a hash gives. The ring
//! is the same for all blocks, of whatever table, whose times lie in one [`ROUND`]: what a primary proposes at a time is
//! checked by the same f, in one batch, and a signature costs the less the more are verified together. Each replica
//! follows f others; so where the tables' primaries are spread evenly the work is too, with some replicas missing as well.
//! A prepare vote says whether its sender checked, and a block is prepared with a quorum of votes of which f + 1
//! checked: an honest replica is among these. The argument stands in the crate's README.
//!
//! Who checks is a matter of speed alone. Each replica decides for itself whether it is its turn, and passes over
//! those that it knows to be away or that were silent of late; where checks are missing nevertheless, everyone checks
//! after a short time ([`Config::check_after`](crate::Config::check_after)).

use dag::{Committee, Height, ReplicaId, TableId, View, hash::Domain, wire::Put};

use crate::{
    output::Output,
    replica::Replica,
    window::{Instance, Judgement},
};

/// How long a ring is good for, µs.
const ROUND: u64 = 30_000_000;
/// A first silence is remembered for so many times the time after which everyone checks.
const PENALTY: u64 = 8;
/// How often that doubles.
const MAX_DOUBLINGS: u32 = 6;

/// What is known of a peer as a checker.
#[derive(Clone, Copy, Default, Debug)]
struct Peer {
    /// The host can't speak to it.
    away: bool,
    /// Passed over until then, ns.
    until: u64,
    /// Length of that penalty, ns.
    penalty: u64,
    /// Penalties in a row, no good time as long as the last one between them.
    doublings: u32,
}

/// Whom to count on.
#[derive(Debug)]
pub(crate) struct Checkers {
    peers: Vec<Peer>,
}

impl Checkers {
    pub(crate) fn new(size: usize) -> Checkers {
        Checkers { peers: vec![Peer::default(); size] }
    }

    pub(crate) fn set_away(&mut self, replica: ReplicaId, away: bool) {
        self.peers[usize::from(replica)].away = away;
    }

    fn is_silent(&self, replica: ReplicaId, now: u64) -> bool {
        let peer = &self.peers[usize::from(replica)];
        peer.away || now < peer.until
    }

    /// It was silent when it was its turn.
    fn punish(&mut self, replica: ReplicaId, first: u64, now: u64) {
        let peer = &mut self.peers[usize::from(replica)];
        if now < peer.until {
            return;
        }
        let relapse = peer.penalty > 0 && now < peer.until.saturating_add(peer.penalty);
        peer.doublings = if relapse { (peer.doublings + 1).min(MAX_DOUBLINGS) } else { 0 };
        peer.penalty = first << peer.doublings;
        peer.until = now.saturating_add(peer.penalty);
    }

    /// Whether `me` checks the block: it is the primary, or fewer than f of those that can be counted on come before it.
    fn includes(&self, place: &Place<'_>, me: ReplicaId, now: u64) -> bool {
        let (primary, order) = place.order();
        let before = order.iter().take_while(|&&replica| replica != me);
        let counted_on = before.filter(|&&replica| !self.is_silent(replica, now)).count();
        me == primary || counted_on < place.committee.faulty()
    }
}

/// What fixes the order of a block's checkers.
struct Place<'a> {
    committee: &'a Committee,
    table: TableId,
    view: View,
    /// The block's, µs since 1970.
    time: u64,
}

impl Place<'_> {
    /// The primary, and the others in the order in which they check.
    fn order(&self) -> (ReplicaId, Vec<ReplicaId>) {
        let Place { committee, table, view, time } = *self;
        let primary = committee.primary(table, view);
        let mut round = Vec::with_capacity(32);
        round.put_u64(committee.chain());
        round.put_u32(committee.epoch());
        round.put_u64(time / ROUND);
        let mut ring: Vec<ReplicaId> = committee.replicas().collect();
        ring.sort_by_cached_key(|replica| Domain::CHECKERS.hash_parts(&[&round, &replica.to_le_bytes()]));
        let at = ring.iter().position(|&replica| replica == primary).expect("the primary is a replica");
        ring.rotate_left(at);
        ring.remove(0);
        (primary, ring)
    }
}

impl Replica {
    fn place(&self, view: View, time: u64) -> Place<'_> {
        Place { committee: &self.config.committee, table: self.config.table, view, time }
    }

    /// Whether it is this replica's turn to check the signatures of a block of a view and a time.
    pub(crate) fn is_checker(&self, view: View, time: u64, now: u64) -> bool {
        self.config.check_all || self.checkers.includes(&self.place(view, time), self.config.me, now)
    }

    /// A channel to a peer is down: it can't be counted on until [`on_connected`](Self::on_connected).
    pub fn on_disconnected(&mut self, peer: ReplicaId) {
        if usize::from(peer) < self.size() {
            self.checkers.set_away(peer, true);
        }
    }

    /// Starts to wait for the checkers of a height that has a quorum of votes and lacks only their word.
    pub(crate) fn await_checkers(&mut self, height: Height, now: u64) {
        let (quorum, weak) = (self.quorum(), self.weak());
        let deadline = now.saturating_add(self.config.check_after);
        let Some(instance) = self.window.get_mut(height) else { return };
        if instance.check_at.is_none() && instance.lacks_checks(quorum, weak) {
            instance.check_at = Some(deadline);
            self.timers.check_by(deadline);
        }
    }

    /// Checks what the checkers have left undone in time.
    pub(crate) fn on_check_timeout(&mut self, now: u64) {
        let (quorum, weak, view) = (self.quorum(), self.weak(), self.views.tally);
        self.timers.check = None;
        for height in self.window.heights() {
            let instance = self.window.at(height);
            let Some(deadline) = instance.check_at else { continue };
            if deadline > now {
                self.timers.check_by(deadline);
                continue;
            }
            instance.check_at = None;
            if !instance.lacks_checks(quorum, weak) {
                continue;
            }
            let accepted = instance.accepted.as_mut().expect("what lacks checks is accepted");
            accepted.checking = true;
            let (block, time) = (accepted.block.clone(), accepted.time);
            self.punish_silent(view, height, time, now);
            if let Some(block) = block {
                self.counters.checks_taken_over += 1;
                self.emit(Output::Check { view, height, block });
            }
        }
    }

    /// Remembers which checkers of a height have not said that they checked.
    fn punish_silent(&mut self, view: View, height: Height, time: u64, now: u64) {
        let (_, mut order) = self.place(view, time).order();
        order.retain(|&replica| !self.checkers.is_silent(replica, now));
        order.truncate(self.config.committee.faulty());
        let first = self.config.check_after.saturating_mul(PENALTY);
        for replica in order {
            let checked =
                self.window.get(height).is_some_and(|instance| instance.prepares.has_checked(replica));
            if replica != self.config.me && !checked {
                self.checkers.punish(replica, first, now);
            }
        }
    }
}

impl Instance {
    /// Whether a quorum voted for the accepted block, too few of them checked it, and this replica did not.
    fn lacks_checks(&self, quorum: usize, weak: usize) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| {
            let mine = matches!(accepted.judgement, Judgement::Valid { checked: true } | Judgement::Invalid);
            if mine || accepted.checking {
                return false;
            }
            let tally = self.prepares.tally(&accepted.digest);
            tally.votes >= quorum && tally.checked < weak
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn committee(size: u8) -> Committee {
        Committee::new(3, 0, (0..size).map(|i| [i; 32]).collect()).unwrap()
    }

    fn checkers_of(known: &Checkers, committee: &Committee, table: TableId, time: u64) -> Vec<ReplicaId> {
        let place = Place { committee, table, view: 0, time };
        committee.replicas().filter(|&me| known.includes(&place, me, 0)).collect()
    }

    #[test]
    fn f_and_the_primary_check_each_block_and_all_take_turns() {
        for size in [4, 5, 7, 10, 128] {
            let committee = committee(size);
            let (known, faulty) = (Checkers::new(committee.size()), committee.faulty());
            let mut turns = vec![0; committee.size()];
            for table in 0..u16::from(size) {
                let checkers = checkers_of(&known, &committee, table, u64::from(table));
                assert_eq!(checkers.len(), faulty + 1);
                assert!(checkers.contains(&committee.primary(table, 0)));
                // Those of another table with the same primary, whatever its height.
                let other = table + u16::from(size);
                assert_eq!(checkers, checkers_of(&known, &committee, other, ROUND / 2));
                checkers.iter().for_each(|&replica| turns[usize::from(replica)] += 1);
            }
            assert!(turns.iter().all(|&turns| turns == faulty + 1), "one table each: {turns:?}");
            let rounds = (0..30).flat_map(|round| checkers_of(&known, &committee, 0, round * ROUND));
            assert_eq!(rounds.collect::<HashSet<_>>().len(), committee.size(), "rounds differ");
        }
    }

    #[test]
    fn who_is_away_is_passed_over() {
        let committee = committee(7);
        let mut known = Checkers::new(7);
        for away in [0, 2] {
            known.set_away(away, true);
        }
        for round in 0..20 {
            let mut turns = [0; 7];
            // Those that are present are the primaries of these.
            for table in [1, 3, 4, 5, 6] {
                let checkers = checkers_of(&known, &committee, table, round * ROUND);
                let present: Vec<_> =
                    checkers.into_iter().filter(|replica| ![0, 2].contains(replica)).collect();
                assert_eq!(present.len(), committee.faulty() + 1, "{present:?}");
                present.iter().for_each(|&replica| turns[usize::from(replica)] += 1);
            }
            assert_eq!(turns, [0, 3, 0, 3, 3, 3, 3], "the others share the work still");
        }
    }

    #[test]
    fn silence_is_forgiven_after_a_while_and_the_longer_the_more_often_it_comes() {
        let mut known = Checkers::new(4);
        known.punish(2, 10, 100);
        assert!(known.is_silent(2, 109) && !known.is_silent(2, 110));
        known.punish(2, 10, 105);
        assert!(!known.is_silent(2, 110), "one penalty at a time");
        known.punish(2, 10, 112);
        assert!(known.is_silent(2, 131) && !known.is_silent(2, 132));
        known.punish(2, 10, 152);
        assert!(!known.is_silent(2, 162), "a good time makes up for the past");
    }
}
