//! Shared verification: f + 1 of a prepared block's voters have checked its signatures.

use dag::{Block, ReplicaId, Vote, VoteKind};
use pbft::{Output, Record, Replica, Verdict};

use crate::kit::{Kit, drain, genesis, proposal, records, vote, votes};

const MS: u64 = 1_000_000;
/// After this the checkers are waited for no longer.
const LATE: u64 = 200 * MS;

fn prepare(block: &Block, checked: bool) -> Vote {
    Vote { checked, ..vote(VoteKind::Prepare, 0, block.height(), block.hash()) }
}

/// A replica, not the primary, that is not a checker of this block at height 1, and has voted for it.
fn bystander(kit: &Kit) -> (Replica, ReplicaId, Block) {
    let block = kit.block(0, 1, genesis(), 0);
    for me in 1..4 {
        let mut replica = kit.replica(me);
        replica.on_message(0, proposal(0, &block), 0);
        let asked = drain(&mut replica);
        let [Output::Validate { check, .. }] = asked[..] else { panic!("{asked:?}") };
        if !check {
            replica.on_validated(0, 1, block.hash(), Verdict::Valid { checked: false }, 0);
            assert_eq!(votes(&drain(&mut replica)), [prepare(&block, false)]);
            return (replica, me, block);
        }
    }
    panic!("one of three checks, with the primary")
}

fn others(me: ReplicaId) -> [ReplicaId; 2] {
    let mut others = (1..4).filter(|&other| other != me);
    [others.next().unwrap(), others.next().unwrap()]
}

#[test]
fn one_of_three_backups_checks() {
    let kit = Kit::new();
    let block = kit.block(0, 1, genesis(), 0);
    let checks = |me| {
        let mut replica = kit.replica(me);
        replica.on_message(0, proposal(0, &block), 0);
        matches!(drain(&mut replica)[..], [Output::Validate { check: true, .. }])
    };
    assert_eq!((1..4).filter(|&me| checks(me)).count(), 1);
}

#[test]
fn a_quorum_of_which_f_checked_prepares_nothing() {
    let kit = Kit::new();
    let (mut replica, me, block) = bystander(&kit);
    kit.cast(&mut replica, me, prepare(&block, false));
    kit.cast(&mut replica, 0, prepare(&block, true));
    others(me).into_iter().for_each(|other| kit.cast(&mut replica, other, prepare(&block, false)));
    assert!(drain(&mut replica).is_empty(), "four votes, one of them checked");
    // One of them has checked after all, and says so with the same vote.
    kit.cast(&mut replica, others(me)[0], prepare(&block, true));
    let outputs = drain(&mut replica);
    assert_eq!(votes(&outputs)[..], [vote(VoteKind::Commit, 0, 1, block.hash())]);
    let records = records(&outputs);
    let [Record::Prepared(certificate), Record::Vote(_)] = &records[..] else { panic!("{records:?}") };
    assert_eq!(certificate.proofs.iter().filter(|proof| proof.checked).count(), 2);
    assert_eq!(certificate.proofs.len(), 3);
    assert!(certificate.check(&kit.committee, &crate::kit::verify).is_ok());
}

#[test]
fn who_voted_unchecked_checks_when_the_checker_is_silent_and_votes_again() {
    let kit = Kit::new();
    let (mut replica, me, block) = bystander(&kit);
    replica.on_timeout(LATE);
    let early = |output: &Output| matches!(output, Output::Check { .. });
    assert!(!drain(&mut replica).iter().any(early), "there is no quorum yet");
    kit.cast(&mut replica, me, prepare(&block, false));
    kit.cast(&mut replica, 0, prepare(&block, true));
    kit.cast(&mut replica, others(me)[0], prepare(&block, false));
    drain(&mut replica);
    replica.on_timeout(LATE);
    let asked = drain(&mut replica);
    let is_asked =
        |o: &Output| matches!(o, Output::Check { view: 0, height: 1, block: b } if b.hash() == block.hash());
    assert_eq!(asked.iter().filter(|output| is_asked(output)).count(), 1, "{asked:?}");
    replica.on_timeout(2 * LATE);
    assert!(!drain(&mut replica).iter().any(is_asked), "asked once");
    replica.on_validated(0, 1, block.hash(), Verdict::Valid { checked: true }, 2 * LATE);
    let outputs = drain(&mut replica);
    assert_eq!(votes(&outputs), [prepare(&block, true)]);
    assert!(matches!(&records(&outputs)[..], [Record::Vote(vote)] if *vote == prepare(&block, true)));
    assert_eq!(replica.counters().checks_taken_over, 1);
    kit.cast(&mut replica, me, prepare(&block, true));
    assert_eq!(votes(&drain(&mut replica)), [vote(VoteKind::Commit, 0, 1, block.hash())]);
}

#[test]
fn a_forged_block_found_late_gets_no_commit_vote() {
    let kit = Kit::new();
    let (mut replica, me, block) = bystander(&kit);
    kit.cast(&mut replica, me, prepare(&block, false));
    replica.on_validated(0, 1, block.hash(), Verdict::Invalid, 0);
    // The primary lies; with a second liar there would be more than f.
    kit.cast(&mut replica, 0, prepare(&block, true));
    others(me).into_iter().for_each(|other| kit.cast(&mut replica, other, prepare(&block, true)));
    assert!(votes(&drain(&mut replica)).is_empty());
}

#[test]
fn the_last_word_counts_after_a_restart() {
    let kit = Kit::new();
    let (_, me, block) = bystander(&kit);
    let log = |checked: &[bool]| {
        let votes = checked.iter().map(|&checked| Record::Vote(prepare(&block, checked)));
        let proposal = Record::Proposal { view: 0, block: block.clone() };
        std::iter::once(proposal).chain(votes).collect::<Vec<_>>()
    };
    for (log, said) in [(log(&[false]), false), (log(&[false, true]), true)] {
        let mut replica = kit.unstarted(me);
        log.iter().for_each(|record| replica.restore(record.clone()).unwrap());
        replica.start(0);
        let outputs = drain(&mut replica);
        assert!(votes(&outputs).iter().all(|vote| *vote == prepare(&block, said)), "{outputs:?}");
    }
}

#[test]
fn who_is_away_is_replaced_at_once() {
    let kit = Kit::new();
    let block = kit.block(0, 1, genesis(), 0);
    let mut asked = 0;
    for me in 1..4 {
        let mut replica = kit.replica(me);
        others(me).into_iter().for_each(|other| replica.on_disconnected(other));
        replica.on_message(0, proposal(0, &block), 0);
        asked += usize::from(matches!(drain(&mut replica)[..], [Output::Validate { check: true, .. }]));
    }
    assert_eq!(asked, 3, "each believes that it is alone with the primary");
}
