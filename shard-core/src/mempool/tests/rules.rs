//! The rules, one by one.

use super::*;

struct World {
    table: Table,
    pool: Mempool,
    settled: Vec<Settled>,
    now: u64,
}

impl World {
    fn new() -> World {
        World::with(Limits::default())
    }

    fn with(limits: Limits) -> World {
        World { table: table(4), pool: Mempool::new(CHAIN, 0, limits, 9), settled: Vec::new(), now: 0 }
    }

    fn admit(&mut self, record: Bytes, origin: Origin) -> Result<Admission, Code> {
        self.now += 1;
        let admission = self.pool.admit(self.table.accounts(), EPOCH, record, origin, self.now);
        admission.map_err(|answer| answer.code)
    }

    fn verdict(&mut self, ticket: Ticket, valid: bool) {
        self.pool.verified(self.table.accounts(), ticket, valid, &mut self.settled);
    }

    /// Submits with a good signature; the code that comes at once, if one does.
    fn submit(&mut self, record: Bytes, origin: Origin) -> Option<Code> {
        match self.admit(record, origin) {
            Ok(Admission::Verify(ticket)) => {
                let before = self.settled.len();
                self.verdict(ticket, true);
                let own = self.settled[before..].iter().position(|settled| settled.origin == origin);
                own.map(|at| self.settled.remove(before + at).answer.code)
            }
            Ok(Admission::Known) => None,
            Err(code) => Some(code),
        }
    }

    fn take(&mut self, limits: &BlockLimits) -> Block {
        let mut builder = BlockBuilder::new();
        self.pool.take_block(&mut builder, limits);
        seal(builder, (self.table.height(), self.table.block_hash()))
    }

    fn commit(&mut self, block: &Block) -> Vec<Code> {
        commit(&mut self.table, &mut self.pool, block, &mut self.settled)
    }

    fn answers(&mut self) -> Vec<(Origin, Code)> {
        self.settled.drain(..).map(|settled| (settled.origin, settled.answer.code)).collect()
    }
}

fn ticket(admission: Result<Admission, Code>) -> Ticket {
    match admission {
        Ok(Admission::Verify(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_refusal_names_its_cause() {
    let mut world = World::new();
    let edit = |at: usize, value: u8| {
        let mut record = transfer(0, 1, 0, 1).to_vec();
        record[at] = value;
        Bytes::from(record)
    };
    assert_eq!(world.submit(edit(0, 9), client(1)), Some(Code::Version));
    assert_eq!(world.submit(edit(8, 9), client(1)), Some(Code::WrongChain));
    assert_eq!(world.submit(edit(4, 5), client(1)), Some(Code::WrongEpoch));
    assert_eq!(world.submit(edit(4, 3), client(1)), None, "the epoch before is good");
    assert_eq!(world.submit(transfer(1, 0, 0, 1), client(1)), Some(Code::StaleSequence));
    assert_eq!(world.submit(transfer(1, 2, 0, 1), client(1)), Some(Code::GappedSequence));
    assert_eq!(world.submit(transfer(1, 1, 1, BALANCE), client(1)), Some(Code::Overdraft));
    assert_eq!(world.submit(transfer(77, 1, 0, 1), client(1)), Some(Code::Overdraft), "never paid");
    assert_eq!(world.submit(transfer(1, 1, 0, BALANCE - 1), client(1)), None);
    assert_eq!(world.submit(transfer(1, 2, 0, 2), client(1)), Some(Code::Overdraft), "with what waits");
    assert_eq!(world.submit(transfer(1, 2, 0, 1), client(1)), None);
    for sequence in 1..=64 {
        assert_eq!(world.submit(transfer(2, sequence, 0, 1), client(1)), None);
    }
    assert_eq!(world.submit(transfer(2, 65, 0, 1), client(1)), Some(Code::TooManyPending));
    assert_eq!(world.pool.pending_sequence(world.table.accounts(), &address(2)), 64);
    assert_eq!(world.pool.pending_sequence(world.table.accounts(), &address(3)), 0);
}

#[test]
fn memory_is_bounded_with_candidates_and_without() {
    let each = transaction::TRANSFER_SIZE + ENTRY_OVERHEAD;
    let limits = Limits { candidates: 2, transactions: 3, ..Limits::default() };
    for (limits, fit) in [(limits, 3usize), (Limits { bytes: 5 * each + 1, ..Limits::default() }, 5)] {
        let mut world = World::with(limits);
        for sequence in 1..=fit as u64 {
            assert_eq!(world.submit(transfer(0, sequence, 0, 1), client(1)), None);
        }
        assert_eq!(world.submit(transfer(1, 1, 0, 1), client(1)), Some(Code::MempoolFull));
        assert_eq!(world.pool.bytes(), fit * each);
    }
    let mut world = World::with(limits);
    let first = ticket(world.admit(transfer(0, 1, 0, 1), client(1)));
    let second = ticket(world.admit(transfer(1, 1, 0, 1), client(1)));
    assert_eq!(world.admit(transfer(2, 1, 0, 1), client(1)), Err(Code::MempoolFull));
    world.verdict(first, false);
    world.verdict(second, false);
    assert_eq!((world.pool.bytes(), world.pool.len()), (0, 0));
}

#[test]
fn who_forges_takes_no_place_and_replaces_nothing() {
    let mut world = World::new();
    let forged = ticket(world.admit(transfer(0, 1, 500, 7), client(66)));
    assert_eq!(world.submit(transfer(0, 1, 0, 5), client(1)), None);
    let dearer = ticket(world.admit(transfer(0, 1, 900, 7), client(66)));
    world.verdict(forged, false);
    world.verdict(dearer, false);
    assert_eq!(world.answers(), [(client(66), Code::BadSignature); 2]);
    let block = world.take(&ALL);
    assert_eq!((block.len(), block.id(0)), (1, id(&transfer(0, 1, 0, 5))));
    // Nor does a forged one open the way for the next.
    let forged = ticket(world.admit(transfer(1, 1, 0, 1), client(66)));
    let next = ticket(world.admit(transfer(1, 2, 0, 1), client(2)));
    world.verdict(forged, false);
    world.verdict(next, true);
    assert_eq!(world.answers()[1], (client(2), Code::GappedSequence));
}

#[test]
fn what_was_verified_is_the_signature_too() {
    let mut world = World::new();
    let record = transfer(0, 1, 0, 5);
    assert!(!world.pool.is_verified(&id(&record), &[0; 64]));
    world.submit(record.clone(), client(1));
    assert!(world.pool.is_verified(&id(&record), &[0; 64]));
    assert!(!world.pool.is_verified(&id(&record), &[1; 64]));
}

#[test]
fn a_second_submission_is_answered_like_the_first() {
    let mut world = World::new();
    let record = transfer(0, 1, 0, 5);
    for tag in 1..=4 {
        assert_eq!(world.submit(record.clone(), client(tag)), None);
    }
    assert_eq!(world.submit(record.clone(), client(5)), Some(Code::TooManyPending));
    assert_eq!(world.submit(record.clone(), Origin::Peer(1)), None);
    let block = world.take(&ALL);
    assert_eq!(world.commit(&block), [Code::Committed]);
    let place = Some(Place { table: 0, height: 1, index: 0 });
    let tags: Vec<_> = world.settled.drain(..).map(|s| (s.origin, s.answer.place)).collect();
    assert_eq!(tags, (1..=4).map(|tag| (client(tag), place)).collect::<Vec<_>>());
    let again = world.pool.admit(world.table.accounts(), EPOCH, record, client(9), 0);
    assert_eq!(again, Err(Answer { code: Code::Committed, place }));
    assert_eq!(world.submit(transfer(0, 1, 1, 5), client(9)), Some(Code::StaleSequence));
    assert!(world.pool.is_empty());
}

#[test]
fn the_oldest_places_are_forgotten_first() {
    let mut world = World::with(Limits { recent: 2, ..Limits::default() });
    for sequence in 1..=3 {
        world.submit(transfer(0, sequence, 0, 1), client(sequence));
    }
    let block = world.take(&ALL);
    world.commit(&block);
    let code = |world: &mut World, sequence| world.admit(transfer(0, sequence, 0, 1), client(1)).unwrap_err();
    let codes = [1, 2, 3].map(|sequence| code(&mut world, sequence));
    assert_eq!(codes, [Code::StaleSequence, Code::Committed, Code::Committed]);
}

#[test]
fn a_higher_fee_replaces_until_it_is_proposed() {
    let mut world = World::new();
    for sequence in 1..=3 {
        world.submit(transfer(0, sequence, 80, 1), client(sequence));
    }
    assert_eq!(world.submit(transfer(0, 2, 89, 1), client(8)), Some(Code::Underpriced));
    assert_eq!(world.submit(transfer(0, 2, 90, BALANCE), client(8)), Some(Code::Overdraft));
    assert_eq!(world.submit(transfer(0, 2, 90, 1), client(9)), None);
    assert_eq!(world.answers(), [(client(2), Code::Replaced)]);
    let block = world.take(&BlockLimits { transactions: 2, ..ALL });
    assert_eq!(block.id(1), id(&transfer(0, 2, 90, 1)));
    assert_eq!(world.submit(transfer(0, 2, 900, 1), client(8)), Some(Code::Underpriced));
    assert_eq!(world.submit(transfer(0, 3, 200, 1), client(10)), None);
    assert_eq!(world.commit(&block), [Code::Committed; 2]);
    let block = world.take(&ALL);
    assert_eq!(world.commit(&block), [Code::Committed]);
    world.answers();
    // Free of charge is no reason to be replaced for free.
    world.submit(transfer(1, 1, 0, 1), client(1));
    assert_eq!(world.submit(transfer(1, 1, 0, 2), client(1)), Some(Code::Underpriced));
    assert_eq!(world.submit(transfer(1, 1, 1, 2), client(2)), None);
}

#[test]
fn senders_take_turns() {
    let mut world = World::new();
    for (sender, sequence) in [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (1, 2)] {
        world.submit(transfer(sender, sequence, 0, 1), client(1));
    }
    let mut order = Vec::new();
    while world.pool.ready() > 0 {
        let block = world.take(&BlockLimits { transactions: 2, ..ALL });
        order.extend(
            (0..block.len()).map(|i| (*block.transaction(i).sender(), block.transaction(i).sequence())),
        );
    }
    let expected = [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3)];
    assert_eq!(order, expected.map(|(sender, sequence)| (address(sender), sequence)));
}

#[test]
fn blocks_are_as_large_as_asked() {
    let mut world = World::new();
    for sequence in 1..=20 {
        world.submit(transfer(0, sequence, 0, 1), client(1));
    }
    assert_eq!(world.take(&BlockLimits { payees: 3, ..ALL }).len(), 3);
    assert_eq!(world.take(&BlockLimits { payees: 0, ..ALL }).len(), 1, "the first always fits");
    let bytes = dag::table_block::HEADER_SIZE + 4 * transaction::TRANSFER_SIZE;
    assert_eq!(world.take(&BlockLimits { bytes, ..ALL }).len(), 4);
    assert_eq!(world.take(&ALL).len(), 12);
    assert_eq!(world.pool.ready(), 0);
}

#[test]
fn a_clients_own_are_forwarded_once_and_again_when_asked() {
    let mut world = World::new();
    world.submit(transfer(0, 1, 0, 1), client(1));
    world.submit(transfer(1, 1, 0, 1), Origin::Peer(2));
    world.submit(transfer(0, 2, 0, 1), client(1));
    let drain =
        |world: &mut World| -> Vec<Bytes> { std::iter::from_fn(|| world.pool.next_to_forward()).collect() };
    assert_eq!(drain(&mut world), [transfer(0, 1, 0, 1), transfer(0, 2, 0, 1)]);
    world.submit(transfer(2, 1, 0, 1), client(1));
    assert_eq!(drain(&mut world), [transfer(2, 1, 0, 1)]);
    let block = world.take(&BlockLimits { transactions: 1, ..ALL });
    world.pool.forward_again();
    assert_eq!(drain(&mut world), [transfer(0, 2, 0, 1), transfer(2, 1, 0, 1)]);
    assert_eq!(world.pool.oldest_waiting(), Some(1), "proposed is not committed");
    world.commit(&block);
    assert_eq!(world.pool.oldest_waiting(), Some(2));
}

#[test]
fn another_primarys_block_settles_what_it_makes_impossible() {
    let mut world = World::new();
    for sequence in 1..=4 {
        world.submit(transfer(0, sequence, 0, 200), client(sequence));
    }
    let parent = (world.table.height(), world.table.block_hash());
    let other = block_of(&[transfer(0, 1, 0, 1), transfer(0, 2, 0, 500)], parent);
    assert_eq!(world.commit(&other), [Code::Committed; 2]);
    let answers = world.answers();
    let stale = Code::StaleSequence;
    assert_eq!(answers, [(client(1), stale), (client(2), stale)]);
    let parent = (world.table.height(), world.table.block_hash());
    let other = block_of(&[transfer(0, 3, 0, 400)], parent);
    assert_eq!(world.commit(&other), [Code::Committed]);
    assert_eq!(world.answers(), [(client(3), Code::StaleSequence), (client(4), Code::Overdraft)]);
    assert!(world.pool.is_empty());
}

#[test]
fn a_new_view_frees_what_it_does_not_hold() {
    let mut world = World::new();
    for sequence in 1..=3 {
        world.submit(transfer(0, sequence, 0, 1), client(sequence));
    }
    let first = world.take(&BlockLimits { transactions: 1, ..ALL });
    let second = world.take(&ALL);
    assert_eq!((second.len(), world.pool.ready()), (2, 0));
    world.pool.repropose(world.table.accounts(), [&first].into_iter(), &mut world.settled);
    assert_eq!(world.pool.ready(), 2);
    world.commit(&first);
    let second = world.take(&ALL);
    assert_eq!(world.commit(&second), [Code::Committed; 2]);
    // What follows on a block that is not known here is taken, and dropped when that block is.
    let parent = (world.table.height(), world.table.block_hash());
    let foreign = block_of(&[transfer(1, 1, 0, 1)], parent);
    world.pool.repropose(world.table.accounts(), [&foreign].into_iter(), &mut world.settled);
    world.answers();
    assert_eq!(world.submit(transfer(1, 1, 0, 2), client(7)), Some(Code::TooManyPending));
    assert_eq!(world.submit(transfer(1, 2, 0, 1), client(8)), None);
    world.pool.repropose(world.table.accounts(), std::iter::empty(), &mut world.settled);
    assert_eq!(world.answers(), [(client(8), Code::GappedSequence)]);
    assert_eq!(world.submit(transfer(1, 1, 0, 2), client(7)), None);
}

#[test]
fn between_execution_and_its_news_nothing_is_spent_twice() {
    let mut world = World::new();
    for sequence in 1..=2 {
        world.submit(transfer(0, sequence, 0, 400), client(sequence));
    }
    let block = world.take(&BlockLimits { transactions: 1, ..ALL });
    world.table.begin(block.clone()).unwrap();
    let outcome = world.table.step(usize::MAX).unwrap();
    assert_eq!(world.submit(transfer(0, 3, 0, 201), client(3)), Some(Code::Overdraft));
    assert_eq!(world.submit(transfer(0, 3, 0, 200), client(3)), None);
    assert_eq!(world.submit(transfer(0, 1, 0, 400), client(4)), Some(Code::StaleSequence));
    world.pool.on_committed(world.table.accounts(), &block, &outcome.codes, &mut world.settled);
    assert_eq!(world.answers(), [(client(1), Code::Committed)]);
    assert_eq!(world.pool.ready(), 2);
}
