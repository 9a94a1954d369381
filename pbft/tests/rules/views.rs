//! View changes.

use dag::{Certificate, Hash, VoteKind};
use pbft::{Message, NewViewError, Output, Record, Verdict, ViewChangeError};

use crate::kit::{Kit, TABLE, drain, genesis, proposal, records, verify, vote, votes};

fn suspect(view: u64) -> Message {
    Message::Suspect { view }
}

#[test]
fn one_complaint_is_no_reason_and_f_plus_one_are() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    replica.on_message(3, suspect(0), 0);
    replica.on_message(3, suspect(u64::MAX), 0);
    assert!(replica.is_active() && drain(&mut replica).is_empty());
    replica.on_message(1, suspect(0), 0);
    let outputs = drain(&mut replica);
    let [
        Output::Persist(Record::ViewChange(_)),
        Output::Broadcast(Message::ViewChange(change)),
        Output::View { view: 1, primary: 1, active: false },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((change.replica, change.view), (2, 1));
    assert_eq!(change.check(&kit.committee, TABLE, &verify), Ok(()));
}

#[test]
fn the_timer_runs_while_something_is_awaited_and_doubles() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    assert_eq!(replica.poll_timeout(), None, "an idle table has no timer");
    replica.set_waiting(true, 1_000);
    replica.on_timeout(600_000_999);
    let complaints = |outputs: Vec<Output>| {
        outputs.iter().filter(|output| matches!(output, Output::Broadcast(Message::Suspect { .. }))).count()
    };
    assert_eq!(complaints(drain(&mut replica)), 0);
    replica.on_timeout(600_001_000);
    assert_eq!(complaints(drain(&mut replica)), 1);
    replica.set_waiting(false, 600_001_000);
    assert_eq!(replica.poll_timeout(), None);
    // With a quorum of view changes the next view has twice the time to begin.
    let start = 700_000_000;
    for peer in [0, 3] {
        let change = kit.change(peer, 1, None, vec![]);
        replica.on_message(peer, Message::ViewChange(Box::new(change)), start);
    }
    assert_eq!((replica.view(), replica.is_active()), (1, false));
    replica.on_timeout(start + 1_199_999_999);
    assert_eq!(replica.view(), 1);
    replica.on_timeout(start + 1_200_000_000);
    assert_eq!((replica.view(), replica.is_active()), (2, false));
}

#[test]
fn who_left_a_view_votes_in_it_no_more_not_even_after_a_restart() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    let block = kit.block(0, 1, genesis(), 0);
    replica.on_message(0, proposal(0, &block), 0);
    drain(&mut replica);
    [1, 3].into_iter().for_each(|peer| replica.on_message(peer, suspect(0), 0));
    let log = records(&drain(&mut replica));
    let mut again = kit.restarted(2, &log);
    for replica in [&mut replica, &mut again] {
        replica.on_message(0, proposal(0, &block), 0);
        replica.on_validated(0, 1, block.hash(), Verdict::Valid { checked: true }, 0);
        for peer in [0, 1, 3] {
            kit.cast(replica, peer, vote(VoteKind::Prepare, 0, 1, block.hash()));
        }
        assert!(votes(&drain(replica)).is_empty());
        assert_eq!((replica.view(), replica.is_active()), (1, false));
    }
}

#[test]
fn what_was_prepared_is_reported_view_after_view() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let block = kit.block(0, 1, genesis(), 0);
    replica.on_message(0, proposal(0, &block), 0);
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 0, 1, block.hash()));
    }
    let mut log = records(&drain(&mut replica));
    // View 1 begins without it.
    let changes = (0..3).map(|peer| kit.change(peer, 1, None, vec![])).collect();
    replica.on_message(1, Message::NewView(Box::new(kit.new_view(1, changes))), 0);
    log.extend(records(&drain(&mut replica)));
    let mut again = kit.restarted(3, &log);
    let mut anew = kit.restarted(3, &replica.records());
    for replica in [&mut replica, &mut again, &mut anew] {
        [1, 2].into_iter().for_each(|peer| replica.on_message(peer, suspect(1), 0));
        let outputs = drain(replica);
        let change = outputs.iter().find_map(|output| match output {
            Output::Broadcast(Message::ViewChange(change)) => Some(change),
            _ => None,
        });
        let prepared = &change.expect("it leaves").prepared;
        assert_eq!(prepared.iter().map(|entry| entry.digest()).collect::<Vec<_>>(), [block.hash()]);
    }
}

#[test]
fn the_plan_follows_parents_and_the_highest_views() {
    let kit = Kit::new();
    let chain = kit.chain(0, 4);
    let commit = |height: usize| {
        Some(kit.certificate(vote(VoteKind::Commit, 0, height as u64, chain[height - 1].hash())))
    };
    let other2 = kit.block(3, 2, chain[0].hash(), 9);
    let other3 = kit.block(2, 3, other2.hash(), 9);
    let orphan3 = kit.block(5, 3, Hash([4; 32]), 9);
    let changes = vec![
        kit.change(0, 6, None, vec![kit.entry(0, &chain[0])]),
        kit.change(
            1,
            6,
            commit(1),
            vec![kit.entry(1, &chain[1]), kit.entry(4, &chain[2]), kit.entry(0, &chain[3])],
        ),
        kit.change(2, 6, None, vec![kit.entry(3, &other2), kit.entry(2, &other3)]),
    ];
    let mut new_view = kit.new_view(6, changes);
    assert_eq!(new_view.check(&kit.committee, TABLE, &verify), Ok(()));
    let plan = new_view.plan();
    assert_eq!((plan.base_height(), plan.top()), (1, 3), "base is the highest commit");
    // Height 2: view 3 beats view 1. Height 3: view 4 has another parent, so view 2. Height 4 has none that
    // fits.
    let picked: Vec<_> = plan.entries.iter().map(|entry| entry.digest()).collect();
    assert_eq!(picked, [chain[0].hash(), other2.hash(), other3.hash()]);
    assert_eq!(plan.floor(), 0, "replica 0 reports the base's block");
    assert_eq!(plan.entry(2).map(|entry| (entry.parent(), entry.time())), Some((chain[0].hash(), 2)));
    assert_eq!((plan.entry(0), plan.entry(4)), (None, None));
    // A gap ends it, whatever stands above.
    new_view.changes = vec![
        kit.change(0, 6, commit(1), vec![kit.entry(5, &orphan3)]),
        kit.change(1, 6, commit(2), vec![kit.entry(0, &chain[3])]),
        kit.change(2, 6, None, vec![]),
    ];
    assert_eq!((new_view.plan().floor(), new_view.plan().entries.len()), (2, 0));
}

#[test]
fn a_new_view_is_proven_to_the_last_word() {
    let kit = Kit::new();
    let block = kit.block(0, 1, genesis(), 0);
    let good =
        || -> Vec<_> { (0..3).map(|peer| kit.change(peer, 1, None, vec![kit.entry(0, &block)])).collect() };
    let check = |changes| kit.new_view(1, changes).check(&kit.committee, TABLE, &verify);
    assert_eq!(check(good()), Ok(()));
    assert_eq!(check(good()[..2].to_vec()), Err(NewViewError::Quorum(2)));
    let mut odd = good();
    odd[2] = kit.change(2, 2, None, vec![]);
    assert_eq!(check(odd), Err(NewViewError::View(2)));
    let mut stolen = kit.new_view(1, good());
    stolen.signature = kit.new_view(2, good()).signature;
    assert_eq!(stolen.check(&kit.committee, TABLE, &verify), Err(NewViewError::Signature));

    let wrong = |change| {
        let mut changes = good();
        changes[0] = change;
        match check(changes) {
            Err(NewViewError::Change(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let mut unsigned = kit.change(0, 1, None, vec![]);
    unsigned.prepared = vec![kit.entry(0, &block)];
    assert_eq!(wrong(unsigned), ViewChangeError::Signature(0));
    // A header that is not the certified block's: a lie about the parent.
    let mut entry = kit.entry(0, &block);
    entry.header[48] ^= 1;
    assert_eq!(wrong(kit.change(0, 1, None, vec![entry])), ViewChangeError::Prepared(0, 1));
    // Prepared in the view that is only to begin.
    let entry = kit.entry(1, &block);
    assert_eq!(wrong(kit.change(0, 1, None, vec![entry])), ViewChangeError::Prepared(0, 1));
    // Further up than any window reaches.
    let far = kit.block(0, 65, genesis(), 0);
    assert_eq!(wrong(kit.change(0, 1, None, vec![kit.entry(0, &far)])), ViewChangeError::Prepared(0, 65));
    // More votes than a quorum.
    let mut entry = kit.entry(0, &block);
    entry.certificate.proofs.push(kit.bundle(3, entry.certificate.vote).proof(0));
    assert_eq!(wrong(kit.change(0, 1, None, vec![entry])), ViewChangeError::Prepared(0, 1));
    let committed = certificate_of_all(&kit, vote(VoteKind::Commit, 0, 1, block.hash()));
    assert_eq!(wrong(kit.change(0, 1, Some(committed), vec![])), ViewChangeError::Committed(0));
    // Too few votes; votes of the wrong kind.
    let mut entry = kit.entry(0, &block);
    entry.certificate.proofs.pop();
    assert_eq!(wrong(kit.change(0, 1, None, vec![entry])), ViewChangeError::Prepared(0, 1));
    let prepared = kit.entry(0, &block).certificate;
    assert_eq!(wrong(kit.change(0, 1, Some(prepared.clone()), vec![])), ViewChangeError::Committed(0));
    let posing = Certificate { vote: vote(VoteKind::Commit, 0, 1, block.hash()), ..prepared };
    assert_eq!(wrong(kit.change(0, 1, Some(posing), vec![])), ViewChangeError::Committed(0));
}

fn certificate_of_all(kit: &Kit, vote: dag::Vote) -> Certificate {
    let mut certificate = kit.certificate(vote);
    certificate.proofs.push(kit.bundle(3, vote).proof(0));
    certificate
}

#[test]
fn a_view_change_proves_the_committed_height_with_a_quorum_and_no_more() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    let block = kit.block(0, 1, genesis(), 0);
    let certificate = certificate_of_all(&kit, vote(VoteKind::Commit, 0, 1, block.hash()));
    replica.on_message(0, Message::Blocks(vec![(certificate, block)]), 0);
    [1, 3].into_iter().for_each(|peer| replica.on_message(peer, suspect(0), 0));
    let outputs = drain(&mut replica);
    let change = outputs.iter().find_map(|output| match output {
        Output::Broadcast(Message::ViewChange(change)) => Some(change),
        _ => None,
    });
    let change = change.expect("it leaves");
    assert_eq!(change.committed_height(), 1);
    assert_eq!(change.check(&kit.committee, TABLE, &verify), Ok(()));
}

#[test]
fn forged_view_changes_move_nobody() {
    let kit = Kit::new();
    let mut replica = kit.replica(2);
    for peer in [0, 3] {
        let mut forged = kit.change(peer, 1, None, vec![]);
        forged.signature[0] ^= 1;
        replica.on_message(peer, Message::ViewChange(Box::new(forged)), 0);
    }
    assert!(replica.is_active() && drain(&mut replica).is_empty());
    assert_eq!(replica.counters().faulty, 2);
}

#[test]
fn who_sent_a_new_view_that_proves_nothing_is_not_listened_to_again() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let changes: Vec<_> = (0..3).map(|peer| kit.change(peer, 1, None, vec![])).collect();
    let good = Message::NewView(Box::new(kit.new_view(1, changes.clone())));
    let bad = Message::NewView(Box::new(kit.new_view(1, changes[..2].to_vec())));
    replica.on_message(1, bad.clone(), 0);
    replica.on_message(1, bad, 0);
    replica.on_message(1, good.clone(), 0);
    assert_eq!((replica.view(), replica.counters().faulty), (0, 1));
    replica.on_message(0, good, 0);
    assert_eq!((replica.view(), replica.is_active()), (1, true));
}

#[test]
fn a_forged_view_change_does_not_begin_a_view() {
    let kit = Kit::new();
    let mut primary = kit.replica(1);
    let mut forged = kit.change(0, 1, None, vec![]);
    forged.signature[0] ^= 1;
    primary.on_message(0, Message::ViewChange(Box::new(forged.clone())), 0);
    for peer in [2, 3] {
        primary.on_message(peer, Message::ViewChange(Box::new(kit.change(peer, 1, None, vec![]))), 0);
        // The word of two replicas makes it leave; with the forged one it is a quorum on paper only.
    }
    assert!(primary.is_active(), "2, 3 and its own are the quorum");
    let outputs = drain(&mut primary);
    let new_view = outputs.iter().find_map(|output| match output {
        Output::Broadcast(Message::NewView(new_view)) => Some(new_view),
        _ => None,
    });
    let changes: Vec<_> = new_view.expect("it begins").changes.iter().map(|change| change.replica).collect();
    assert_eq!(changes, [1, 2, 3]);
    assert_eq!(primary.counters().faulty, 1);
    // In the name of someone else.
    primary.on_message(3, Message::ViewChange(Box::new(forged)), 0);
    assert_eq!(primary.counters().faulty, 2);
}

#[test]
fn a_new_view_re_proposes_without_judgement_and_fetches_what_is_missing() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let block = kit.block(0, 1, genesis(), 0);
    let changes = (0..3).map(|peer| kit.change(peer, 1, None, vec![kit.entry(0, &block)])).collect();
    let new_view = Message::NewView(Box::new(kit.new_view(1, changes)));
    // Votes that overtake it are kept.
    for peer in 0..3 {
        kit.cast(&mut replica, peer, vote(VoteKind::Prepare, 1, 1, block.hash()));
    }
    drain(&mut replica);
    replica.on_message(1, new_view, 0);
    let outputs = drain(&mut replica);
    assert!(votes(&outputs).is_empty());
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Send(_, Message::FetchBody { height: 1, .. })))
    );
    // Its place takes nothing else.
    replica.on_message(1, proposal(1, &kit.block(1, 1, genesis(), 7)), 0);
    replica.on_message(0, Message::Body(block.clone()), 0);
    let cast: Vec<_> =
        votes(&drain(&mut replica)).iter().map(|vote| (vote.kind, vote.view, vote.digest)).collect();
    assert_eq!(cast, [(VoteKind::Prepare, 1, block.hash()), (VoteKind::Commit, 1, block.hash())]);
}

#[test]
fn who_is_behind_in_views_asks_when_f_plus_one_are_ahead() {
    let kit = Kit::new();
    let mut replica = kit.replica(3);
    let status = Message::Status { view: 4, active: true, committed: 0, stable: 0 };
    replica.on_message(0, status.clone(), 0);
    assert!(drain(&mut replica).is_empty());
    replica.on_message(1, status, 0);
    let outputs = drain(&mut replica);
    assert!(matches!(&outputs[..], [Output::Send(0 | 1, Message::FetchView { view: 0 })]), "{outputs:?}");
}
