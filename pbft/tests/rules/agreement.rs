//! The normal case.

use dag::{Block, Hash, VoteKind};
use pbft::{Message, Output, Record, Replica, Verdict};

use crate::kit::{Kit, drain, genesis, proposal, records, vote, votes};

fn accept(replica: &mut Replica, block: &Block) {
    let header = block.header();
    replica.on_message(header.proposer, proposal(header.view, block), 0);
    let verdict = Verdict::Valid { checked: true };
    replica.on_validated(header.view, header.height, block.hash(), verdict, 0);
}

#[test]
fn records_come_before_the_votes_that_rest_on_them() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let block = kit.block(0, 1, genesis(), 0);
    replica.on_message(0, proposal(0, &block), 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Validate { view: 0, height: 1, .. }]));
    replica.on_validated(0, 1, block.hash(), Verdict::Valid { checked: true }, 0);
    let outputs = drain(&mut replica);
    let [Output::Persist(Record::Proposal { .. }), Output::Persist(Record::Vote(logged)), Output::Vote(cast)] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert!(logged == cast && cast.checked && cast.kind == VoteKind::Prepare);
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 1, block.hash()));
    }
    let outputs = drain(&mut replica);
    let [Output::Persist(Record::Prepared(_)), Output::Persist(Record::Vote(_)), Output::Vote(cast)] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(cast.kind, VoteKind::Commit);
}

#[test]
fn two_votes_are_no_quorum_and_one_voter_counts_once() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let block = kit.block(0, 1, genesis(), 0);
    accept(&mut replica, &block);
    drain(&mut replica);
    for peer in [0, 2, 0, 2, 2] {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 1, block.hash()));
        kit.cast(&mut replica, peer, vote(VoteKind::Commit, 0, 1, block.hash()));
    }
    assert!(drain(&mut replica).is_empty());
    kit.cast(&mut replica, 3, vote(VoteKind::Commit, 0, 1, block.hash()));
    assert!(drain(&mut replica).iter().any(|output| matches!(output, Output::Committed { .. })));
    assert_eq!((replica.committed_height(), replica.committed_digest()), (1, block.hash()));
}

#[test]
fn commit_votes_are_cast_in_order_within_a_view() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let chain = kit.chain(0, 2);
    chain.iter().for_each(|block| accept(&mut replica, block));
    drain(&mut replica);
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 2, chain[1].hash()));
    }
    assert!(drain(&mut replica).is_empty(), "height 2 is prepared, height 1 is not");
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 1, chain[0].hash()));
    }
    let cast: Vec<_> = votes(&drain(&mut replica)).iter().map(|vote| (vote.kind, vote.height)).collect();
    assert_eq!(cast, [(VoteKind::Commit, 1), (VoteKind::Commit, 2)]);
}

/// The commit vote of an earlier view at the height below does not open the height above: the block below may
/// be another now.
#[test]
fn a_commit_vote_of_an_earlier_view_opens_nothing() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let old = kit.block(0, 1, genesis(), 0);
    accept(&mut replica, &old);
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 1, old.hash()));
    }
    assert_eq!(votes(&drain(&mut replica)).last().unwrap().kind, VoteKind::Commit);
    // A view that knows nothing of it; another block at height 1.
    let changes = (0..3).map(|peer| kit.change(peer, 1, None, vec![])).collect();
    replica.on_message(1, Message::NewView(Box::new(kit.new_view(1, changes))), 0);
    let first = kit.block(1, 1, genesis(), 7);
    let second = kit.block(1, 2, first.hash(), 7);
    accept(&mut replica, &first);
    accept(&mut replica, &second);
    drain(&mut replica);
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 1, 2, second.hash()));
    }
    assert!(votes(&drain(&mut replica)).is_empty());
}

#[test]
fn children_wait_for_their_parent_and_strangers_are_refused() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    let chain = kit.chain(0, 2);
    replica.on_message(0, proposal(0, &chain[1]), 0);
    assert!(drain(&mut replica).is_empty());
    replica.on_message(0, proposal(0, &chain[0]), 0);
    let heights: Vec<_> = drain(&mut replica)
        .iter()
        .map(
            |output| {
                if let Output::Validate { height, .. } = output { *height } else { panic!("{output:?}") }
            },
        )
        .collect();
    assert_eq!(heights, [1, 2]);
    // Not the child of what is accepted: the primary contradicts itself, and is suspected.
    let stranger = kit.block(0, 3, Hash([1; 32]), 0);
    replica.on_message(0, proposal(0, &stranger), 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Broadcast(Message::Suspect { view: 0 })]));
}

#[test]
fn only_the_primary_proposes_within_the_window_and_once() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    let block = kit.block(0, 1, genesis(), 0);
    replica.on_message(1, proposal(0, &block), 0);
    replica.on_message(1, proposal(1, &kit.block(1, 1, genesis(), 0)), 0);
    replica.on_message(0, proposal(0, &kit.block(0, 17, genesis(), 0)), 0);
    replica.on_message(0, proposal(0, &kit.block(0, 600, genesis(), 0)), 0);
    assert!(drain(&mut replica).is_empty());
    assert_eq!(replica.counters().ignored, 4);
    replica.on_message(0, proposal(0, &block), 0);
    replica.on_message(0, proposal(0, &kit.block(0, 1, genesis(), 9)), 0);
    assert_eq!(drain(&mut replica).len(), 1);
}

#[test]
fn the_primary_proposes_a_window_and_no_more() {
    let kit = Kit::new();
    let mut replica = kit.replica(0);
    let mut parent = genesis();
    for height in 1..=8 {
        let slot = replica.can_propose().unwrap();
        assert_eq!((slot.view, slot.height, slot.parent, slot.parent_time), (0, height, parent, height - 1));
        let block = kit.block(0, height, parent, 0);
        parent = block.hash();
        replica.propose(block, 0);
        let outputs = drain(&mut replica);
        assert!(matches!(
            &outputs[..],
            [
                Output::Persist(Record::Proposal { .. }),
                Output::Broadcast(Message::Proposal { .. }),
                Output::Persist(Record::Vote(_)),
                Output::Vote(_)
            ]
        ));
    }
    assert_eq!(replica.can_propose(), None);
    assert_eq!(replica.in_flight().count(), 8);
    assert_eq!(kit.replica(1).can_propose(), None);
}

#[test]
fn a_restarted_replica_keeps_to_what_it_signed() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let block = kit.block(0, 1, genesis(), 0);
    accept(&mut replica, &block);
    let log = records(&drain(&mut replica));
    // The primary comes with another block for the same place.
    let mut again = kit.restarted(1, &log);
    accept(&mut again, &kit.block(0, 1, genesis(), 9));
    assert!(votes(&drain(&mut again)).is_empty());
    // What it signed it says again when asked to.
    again.on_connected(2, 0);
    assert_eq!(votes(&drain(&mut again)).iter().map(|vote| vote.digest).collect::<Vec<_>>(), [block.hash()]);
    // The vote alone is enough.
    let mut bare = kit.restarted(1, &log[1..]);
    accept(&mut bare, &kit.block(0, 1, genesis(), 9));
    assert!(votes(&drain(&mut bare)).is_empty());
}

#[test]
fn a_restarted_primary_proposes_the_same_again() {
    let kit = Kit::new();
    let mut replica = kit.replica(0);
    let block = kit.block(0, 1, genesis(), 0);
    replica.propose(block.clone(), 0);
    let log = records(&drain(&mut replica));
    let mut again = kit.restarted(0, &log);
    assert_eq!(again.can_propose().map(|slot| (slot.height, slot.parent)), Some((2, block.hash())));
    again.on_connected(3, 0);
    let sent = drain(&mut again);
    assert!(sent.iter().any(|output| {
        matches!(output, Output::Send(3, Message::Proposal { block: sent, .. }) if sent.hash() == block.hash())
    }));
}

#[test]
fn committed_blocks_of_the_log_come_again() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let chain = kit.chain(0, 3);
    for block in &chain {
        accept(&mut replica, block);
        for kind in [VoteKind::Prepare, VoteKind::Commit] {
            (0..3).for_each(|peer| kit.cast(&mut replica, peer, vote(kind, 0, block.height(), block.hash())));
        }
    }
    let log = records(&drain(&mut replica));
    let mut again = kit.unstarted(1);
    log.into_iter().for_each(|record| again.restore(record).unwrap());
    again.start(0);
    let committed: Vec<_> = drain(&mut again)
        .into_iter()
        .filter_map(
            |output| if let Output::Committed { block, .. } = output { Some(block.hash()) } else { None },
        )
        .collect();
    assert_eq!(committed, chain.iter().map(Block::hash).collect::<Vec<_>>());
}

#[test]
fn conflicting_votes_are_evidence_and_count_once() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let block = kit.block(0, 1, genesis(), 0);
    accept(&mut replica, &block);
    drain(&mut replica);
    kit.cast(&mut replica, 3, vote(VoteKind::Commit, 0, 1, Hash([9; 32])));
    for _ in 0..3 {
        kit.cast(&mut replica, 3, vote(VoteKind::Commit, 0, 1, block.hash()));
    }
    kit.cast(&mut replica, 0, vote(VoteKind::Commit, 0, 1, block.hash()));
    kit.cast(&mut replica, 2, vote(VoteKind::Commit, 0, 1, block.hash()));
    let outputs = drain(&mut replica);
    let [Output::Evidence(evidence)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(evidence.culprit(&kit.committee, &crate::kit::verify), Some(3));
    let mut forged = evidence.clone();
    forged.second.digest = Hash([8; 32]);
    assert_eq!(forged.culprit(&kit.committee, &crate::kit::verify), None);
    assert_eq!(replica.committed_height(), 0);
}

#[test]
fn a_quorum_commits_what_this_replica_has_to_fetch() {
    let kit = Kit::new();
    let mut replica = kit.replica(1);
    let block = kit.block(0, 1, genesis(), 0);
    for peer in [0, 2, 3] {
        kit.cast(&mut replica, peer, vote(VoteKind::Commit, 0, 1, block.hash()));
    }
    let asked = drain(&mut replica);
    assert!(matches!(&asked[..], [Output::Send(_, Message::FetchBody { height: 1, .. })]), "{asked:?}");
    replica.on_message(2, Message::Body(kit.block(0, 1, genesis(), 9)), 0);
    assert_eq!(replica.committed_height(), 0, "not the block that was asked for");
    replica.on_message(2, Message::Body(block), 0);
    assert_eq!(replica.committed_height(), 1);
}
