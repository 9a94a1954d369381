//! Checkpoints, catching up, resending.

use dag::{Certificate, Hash, VoteKind};
use pbft::{Base, Divergence, FETCH_AHEAD, MAX_BLOCKS, Message, Output, Record};

use crate::kit::{Kit, drain, genesis, records, vote, votes};

fn blocks(kit: &Kit, length: u64) -> Vec<(Certificate, dag::Block)> {
    let certify =
        |block: dag::Block| (kit.certificate(vote(VoteKind::Commit, 0, block.height(), block.hash())), block);
    kit.chain(0, length).into_iter().map(certify).collect()
}

#[test]
fn a_laggard_fetches_blocks_and_believes_only_certificates() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(1, Message::Status { view: 0, active: true, committed: 3, stable: 0 }, 0);
    let outputs = drain(&mut replica);
    assert!(
        matches!(&outputs[..], [Output::Send(1, Message::FetchBlocks { from: 1, to: 3 })]),
        "{outputs:?}"
    );
    let good = blocks(&kit, 3);
    let mut forged = good.clone();
    forged[1].0.proofs[0].signature[3] ^= 1;
    replica.on_message(1, Message::Blocks(forged), 0);
    assert_eq!((replica.committed_height(), replica.counters().faulty), (1, 1));
    drain(&mut replica);
    replica.on_message(2, Message::Blocks(good), 0);
    assert_eq!(replica.committed_height(), 3);
    let heights: Vec<_> = drain(&mut replica)
        .iter()
        .filter_map(
            |output| if let Output::Committed { block, .. } = output { Some(block.height()) } else { None },
        )
        .collect();
    assert_eq!(heights, [2, 3]);
}

#[test]
fn an_unanswered_question_goes_to_the_next_peer() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    for peer in [0, 1] {
        replica.on_message(peer, Message::Status { view: 0, active: true, committed: 3, stable: 0 }, 0);
    }
    assert!(matches!(&drain(&mut replica)[..], [Output::Send(0, Message::FetchBlocks { .. })]));
    let due = replica.poll_timeout().unwrap();
    replica.on_timeout(due);
    let outputs = drain(&mut replica);
    let [Output::Send(0, Message::Status { .. }), Output::Send(1, Message::FetchBlocks { .. })] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    let due = replica.poll_timeout().unwrap();
    replica.on_timeout(due);
    assert!(matches!(&drain(&mut replica)[..], [Output::Send(1, Message::Status { committed: 0, .. })]));
    assert_eq!(replica.poll_timeout(), None, "claims that nobody honours are forgotten");
}

#[test]
fn who_has_not_heard_where_others_stand_or_knows_that_they_are_ahead_is_behind() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let mut hear = |peer, committed| {
        replica.on_message(peer, Message::Status { view: 0, active: true, committed, stable: 0 }, 0);
        replica.is_behind()
    };
    // A quorum of four is three: this one and two others. One alone may lie.
    assert_eq!(
        [hear(0, 0), hear(0, 0), hear(1, 0), hear(2, 9), hear(0, 1)],
        [true, true, false, false, true]
    );
    replica.on_message(2, Message::Blocks(blocks(&kit, 2)), 0);
    assert!(!replica.is_behind());
    // Its own votes say nothing of others.
    let mut replica = kit.replica(3);
    kit.cast(&mut replica, 3, vote(VoteKind::Checkpoint, 0, 8, Hash::ZERO));
    kit.cast(&mut replica, 0, vote(VoteKind::Checkpoint, 0, 8, Hash::ZERO));
    assert!(replica.is_behind());
}

#[test]
fn blocks_are_asked_for_as_fast_as_they_are_executed() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let all = blocks(&kit, 3 * MAX_BLOCKS as u64 + 10);
    let committed = all.len() as u64;
    replica.on_message(1, Message::Status { view: 0, active: true, committed, stable: 0 }, 0);
    let asked = |replica: &mut pbft::Replica| {
        drain(replica).into_iter().find_map(|output| match output {
            Output::Send(1, Message::FetchBlocks { from, to }) => Some((from, to)),
            _ => None,
        })
    };
    let (answers, size) = (all.chunks(MAX_BLOCKS), MAX_BLOCKS as u64);
    let mut answers = answers.map(|chunk| Message::Blocks(chunk.to_vec()));
    assert_eq!(asked(&mut replica), Some((1, size)));
    replica.on_message(1, answers.next().unwrap(), 0);
    assert_eq!(asked(&mut replica), Some((size + 1, 2 * size)));
    replica.on_message(1, answers.next().unwrap(), 0);
    assert_eq!((asked(&mut replica), replica.is_behind()), (None, true));
    replica.on_executed(1, None, 0);
    assert_eq!(asked(&mut replica), Some((2 * size + 1, 3 * size)));
    replica.on_message(1, answers.next().unwrap(), 0);
    (2..=FETCH_AHEAD).for_each(|height| replica.on_executed(height, None, 0));
    assert_eq!(asked(&mut replica), Some((3 * size + 1, committed)));
}

#[test]
fn peers_are_served_what_is_committed() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(0, Message::Blocks(blocks(&kit, 3)), 0);
    drain(&mut replica);
    for (from, to) in [(4, 9), (0, 2), (3, 2)] {
        replica.on_message(1, Message::FetchBlocks { from, to }, 0);
    }
    assert!(drain(&mut replica).is_empty());
    replica.on_message(1, Message::FetchBlocks { from: 2, to: u64::MAX }, 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Serve { to: 1, from_height: 2, to_height: 3 }]));
}

#[test]
fn a_quorum_makes_a_checkpoint_stable_after_execution() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(0, Message::Blocks(blocks(&kit, 2)), 0);
    drain(&mut replica);
    let state = Hash([3; 32]);
    let checkpoint = vote(VoteKind::Checkpoint, 0, 2, state);
    (0..3).for_each(|peer| kit.cast(&mut replica, peer, checkpoint));
    assert_eq!(replica.stable_height(), 0, "not executed yet");
    replica.on_executed(1, None, 0);
    replica.on_executed(2, Some(state), 0);
    let outputs = drain(&mut replica);
    assert!(matches!(outputs.last(), Some(Output::Stable { .. })), "{outputs:?}");
    assert!(
        records(&outputs).iter().any(|record| matches!(record, Record::Vote(vote) if *vote == checkpoint))
    );
    assert_eq!(votes(&outputs), [checkpoint]);
    assert_eq!((replica.stable_height(), replica.poll_timeout()), (2, None));
    // Who missed the votes gets the certificate.
    replica.on_message(1, Message::Status { view: 0, active: true, committed: 2, stable: 0 }, 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Send(1, Message::StableCheckpoint(_))]));
}

#[test]
fn another_state_than_the_quorums_stops_the_replica() {
    let kit = Kit::new();
    for mine in [Some(Hash([4; 32])), None] {
        let mut replica = kit.replica(3);
        replica.on_message(0, Message::Blocks(blocks(&kit, 1)), 0);
        replica.on_executed(1, mine, 0);
        drain(&mut replica);
        let theirs = Hash([3; 32]);
        (0..3).for_each(|peer| kit.cast(&mut replica, peer, vote(VoteKind::Checkpoint, 0, 1, theirs)));
        let outputs = drain(&mut replica);
        let [Output::Diverged(divergence)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(*divergence, Divergence::State { height: 1, mine, theirs });
        replica.suspect(0);
        assert!(drain(&mut replica).is_empty(), "it says nothing more");
    }
}

#[test]
fn another_state_than_before_the_restart_stops_the_replica() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(0, Message::Blocks(blocks(&kit, 1)), 0);
    replica.on_executed(1, Some(Hash([4; 32])), 0);
    let log = records(&drain(&mut replica));
    let mut again = kit.restarted(3, &log);
    again.on_executed(1, Some(Hash([5; 32])), 0);
    assert!(matches!(&drain(&mut again)[..], [Output::Diverged(Divergence::Replay { height: 1, .. })]));
}

#[test]
fn a_fork_stops_the_replica() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(0, Message::Blocks(blocks(&kit, 1)), 0);
    drain(&mut replica);
    let other = kit.block(0, 2, Hash([7; 32]), 0);
    let certificate = kit.certificate(vote(VoteKind::Commit, 0, 2, other.hash()));
    replica.on_message(0, Message::Blocks(vec![(certificate, other)]), 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Diverged(Divergence::Commit { height: 1, .. })]));
}

#[test]
fn far_behind_means_state_transfer() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let stable = kit.certificate(vote(VoteKind::Checkpoint, 0, 40, Hash([3; 32])));
    let mut forged = stable.clone();
    forged.proofs[1].signature[0] ^= 1;
    replica.on_message(0, Message::StableCheckpoint(forged), 0);
    assert!(drain(&mut replica).is_empty());
    replica.on_message(0, Message::StableCheckpoint(stable.clone()), 0);
    replica.on_message(1, Message::StableCheckpoint(stable.clone()), 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Behind { height: 40, .. }]));
    let block = kit.block(0, 40, genesis(), 0);
    let commit = kit.certificate(vote(VoteKind::Commit, 0, 40, block.hash()));
    let base =
        Base { height: 40, digest: block.hash(), time: 40, commit: Some(commit), stable: Some(stable) };
    replica.install(base, 0);
    assert_eq!((replica.committed_height(), replica.stable_height()), (40, 40));
    assert!(records(&drain(&mut replica)).iter().any(|record| matches!(record, Record::Stable(_))));
}

#[test]
fn a_state_above_what_is_executed_but_not_above_what_is_committed_leaves_agreement_alone() {
    let kit = Kit::new();
    for height in [2, 3] {
        let mut replica = kit.replica(3);
        let chain = blocks(&kit, 5);
        replica.on_message(0, Message::Blocks(chain[..3].to_vec()), 0);
        replica.on_executed(1, None, 0);
        let open = &chain[3].1;
        replica.on_message(0, crate::kit::proposal(0, open), 0);
        drain(&mut replica);
        let (commit, block) = chain[usize::try_from(height).unwrap() - 1].clone();
        let stable = kit.certificate(vote(VoteKind::Checkpoint, 0, height, Hash([3; 32])));
        let time = block.header().time;
        let base = Base { height, digest: block.hash(), time, commit: Some(commit), stable: Some(stable) };
        replica.install(base, 0);
        let summary = replica.summary();
        assert_eq!((summary.committed, summary.executed, summary.stable), (3, height, height));
        assert_eq!(replica.committed_digest(), chain[2].1.hash());
        assert_eq!(replica.in_flight().map(dag::Block::hash).collect::<Vec<_>>(), [open.hash()]);
        assert!(records(&drain(&mut replica)).iter().any(|record| matches!(record, Record::Stable(_))));
        // Execution and agreement go on where they are.
        (height + 1..=3).for_each(|next| replica.on_executed(next, None, 0));
        replica.on_message(0, Message::Blocks(chain[3..].to_vec()), 0);
        replica.on_executed(4, None, 0);
        assert_eq!((replica.committed_height(), replica.summary().executed), (5, 4));
    }
}

#[test]
fn a_state_without_a_checkpoint_takes_those_below_it_as_they_come() {
    let kit = Kit::new();
    let chain = blocks(&kit, 6);
    let (commit, block) = chain[4].clone();
    let time = block.header().time;
    let base = Base { height: 5, digest: block.hash(), time, commit: Some(commit), stable: None };
    let mut replica = kit.replica(3);
    let stable = |height| {
        Message::StableCheckpoint(kit.certificate(vote(VoteKind::Checkpoint, 0, height, Hash([3; 32]))))
    };
    // One that came before the state, and waits for execution; one that comes after it. Of neither height it executed
    // anything, so it has nothing to compare.
    replica.on_message(0, stable(3), 0);
    replica.install(base, 0);
    assert_eq!((replica.committed_height(), replica.stable_height()), (5, 3));
    drain(&mut replica);
    replica.on_message(0, stable(4), 0);
    assert_eq!(replica.stable_height(), 4);
    assert!(drain(&mut replica).iter().all(|output| !matches!(output, Output::Diverged(_))));
    // What it was brought is a checkpoint that lacks one vote.
    let here = vote(VoteKind::Checkpoint, 0, 5, Hash([4; 32]));
    (0..2).for_each(|peer| kit.cast(&mut replica, peer, here));
    replica.adopt_checkpoint(5, here.digest, 0);
    let outputs = drain(&mut replica);
    assert!(outputs.iter().any(|output| matches!(output, Output::Vote(own) if *own == here)));
    kit.cast(&mut replica, 3, here);
    assert_eq!(replica.stable_height(), 5);
    // Above it the own results count as ever.
    replica.on_message(0, Message::Blocks(chain[5..].to_vec()), 0);
    replica.on_executed(6, Some(Hash([5; 32])), 0);
    (0..3).for_each(|peer| kit.cast(&mut replica, peer, vote(VoteKind::Checkpoint, 0, 6, Hash([6; 32]))));
    assert!(drain(&mut replica).iter().any(|output| matches!(output, Output::Diverged(_))));
}

#[test]
fn a_state_transfer_that_takes_long_does_not_keep_blocks_away() {
    const MS: u64 = 1_000_000;
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let stable = Message::StableCheckpoint(kit.certificate(vote(VoteKind::Checkpoint, 0, 40, Hash([3; 32]))));
    let status = Message::Status { view: 0, active: true, committed: 40, stable: 40 };
    replica.on_message(0, stable.clone(), 0);
    replica.on_message(1, status.clone(), 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Behind { height: 40, .. }]));
    assert_eq!(replica.poll_timeout(), Some(1_200 * MS));
    // A newer checkpoint does not prolong it.
    let newer = kit.certificate(vote(VoteKind::Checkpoint, 0, 48, Hash([3; 32])));
    replica.on_message(0, Message::StableCheckpoint(newer), 600 * MS);
    assert!(matches!(&drain(&mut replica)[..], [Output::Behind { height: 48, .. }]));
    replica.on_timeout(1_200 * MS);
    let outputs = drain(&mut replica);
    let [
        Output::Broadcast(Message::Status { committed: 0, .. }),
        Output::Send(1, Message::FetchBlocks { from: 1, to: 40 }),
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    // The host is told again, and has twice the time.
    replica.on_message(0, stable, 1_200 * MS);
    assert!(matches!(&drain(&mut replica)[..], [Output::Behind { height: 40, .. }]));
    replica.on_timeout(1_800 * MS);
    drain(&mut replica);
    assert_eq!(replica.poll_timeout(), Some(3_600 * MS));
}

#[test]
fn a_state_of_another_chain_stops_the_replica() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    replica.on_message(0, Message::Blocks(blocks(&kit, 2)), 0);
    drain(&mut replica);
    let other = kit.block(0, 2, Hash([7; 32]), 0);
    let commit = kit.certificate(vote(VoteKind::Commit, 0, 2, other.hash()));
    let base = Base { height: 2, digest: other.hash(), time: 2, commit: Some(commit), stable: None };
    replica.install(base, 0);
    assert!(matches!(&drain(&mut replica)[..], [Output::Diverged(Divergence::Commit { height: 2, .. })]));
}

#[test]
fn the_watermark_stops_the_primary_until_a_checkpoint_is_stable() {
    let kit = Kit::new();
    let mut replica = kit.replica(0);
    let chain = blocks(&kit, 512);
    for part in chain.chunks(64) {
        replica.on_message(1, Message::Blocks(part.to_vec()), 0);
    }
    assert_eq!((replica.committed_height(), replica.can_propose()), (512, None));
    let state = Hash([3; 32]);
    (1..=512).for_each(|height| replica.on_executed(height, (height == 512).then_some(state), 0));
    (1..4).for_each(|peer| kit.cast(&mut replica, peer, vote(VoteKind::Checkpoint, 0, 512, state)));
    assert_eq!(replica.can_propose().map(|slot| slot.height), Some(513));
}

#[test]
fn resending_backs_off_while_nothing_moves() {
    let kit = Kit::new();
    let mut replica = kit.replica(0);
    replica.propose(kit.block(0, 1, genesis(), 0), 0);
    drain(&mut replica);
    let mut resent = Vec::new();
    for _ in 0..40 {
        let due = replica.poll_timeout().unwrap();
        replica.on_timeout(due);
        let outputs = drain(&mut replica);
        if outputs.iter().any(|output| matches!(output, Output::Broadcast(Message::Status { .. }))) {
            assert_eq!(votes(&outputs).len(), 1);
            let proposals = outputs.iter().filter(|o| matches!(o, Output::Send(_, Message::Proposal { .. })));
            assert_eq!(proposals.count(), 3);
            resent.push(due / 1_000_000);
        }
    }
    assert_eq!(resent[..6], [150, 450, 1_050, 2_250, 4_650, 7_050]);
}
