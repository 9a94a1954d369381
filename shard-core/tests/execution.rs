//! Execution against a model that a reader can check at a glance, with any delays, duplicates and slices.

#![allow(clippy::unwrap_used, reason = "the test fails there")]

mod common;

use std::collections::BTreeMap;

use common::{CHAIN, EPOCH, GENESIS, Shard, TIME, Unsigned, address, genesis_table, next_block};
use dag::{
    Address, Transaction,
    client::Code,
    receipt::Receipt,
    state_tree::{AccountLeaf, AccountProof},
    transaction::Payee,
    unit::{Cause, Unit},
    wire::Reader,
};
use proptest::prelude::*;
use shard_core::{
    Failed, Loader, Table,
    accounts::ProofError,
    execute::BeginError,
    inbox::{DeliveryError, Known},
    outbox::in_flight_limit,
    receipts::Rewind,
    snapshot::checkpoint_of,
};

const TABLES: u16 = 4;
const ACCOUNTS: usize = 12;
const BALANCE: u64 = 1000;

/// What a block is made of: for each transaction sender, payees, fee, offset of its sequence, and a fault.
type Draft = Vec<(usize, Vec<(usize, u64)>, u64, u8)>;

#[derive(Clone, Debug)]
enum Act {
    Block { table: usize, draft: Draft, passes: u64, max_receipts: usize, budget: usize },
    Deliver { from: usize, to: usize, count: usize, copies: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let tables = usize::from(TABLES);
    // Payees beyond the accounts of the genesis do not exist at first.
    let payees = prop::collection::vec((0..ACCOUNTS + 6, 1..120u64), 1..4);
    let draft = prop::collection::vec((0..ACCOUNTS, payees, 0..5u64, 0..14u8), 0..24);
    let block = (0..tables, draft, 0..700_000u64, 0..20usize, 1..90usize).prop_map(
        |(table, draft, passes, max_receipts, budget)| Act::Block {
            table,
            draft,
            passes,
            max_receipts,
            budget,
        },
    );
    let deliver = (0..tables, 0..tables, 1..4usize, 1..3usize)
        .prop_map(|(from, to, count, copies)| Act::Deliver { from, to, count, copies });
    prop_oneof![2 => block, 3 => deliver]
}

/// Accounts, and receipts in lists. As simple as can be.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<Address, AccountLeaf>,
    /// By source and destination: how many were ever sent, and those not yet applied.
    receipts: BTreeMap<(u16, u16), (u64, Vec<Receipt>)>,
}

impl Model {
    fn apply(&mut self, shard: &Shard, table: usize, block: &dag::Block) -> Vec<Code> {
        let home = shard.tables[table].config().id;
        for reference in block.inbox() {
            let (_, waiting) = self.receipts.entry((reference.table, home)).or_default();
            let due: Vec<_> = waiting.extract_if(.., |receipt| receipt.height <= reference.height).collect();
            for receipt in due {
                self.change(receipt.payee, Cause::Receipt(receipt.hash()), |leaf| {
                    leaf.balance += receipt.amount
                });
            }
        }
        (0..block.len()).map(|i| self.transact(home, block.height(), &block.transaction(i))).collect()
    }

    /// Changes an account, and appends a unit to its chain.
    fn change(&mut self, account: Address, cause: Cause, change: impl FnOnce(&mut AccountLeaf)) {
        let new = AccountLeaf { address: account, ..AccountLeaf::default() };
        let leaf = self.accounts.entry(account).or_insert(new);
        change(leaf);
        let (height, previous, balance) = (leaf.unit_height + 1, leaf.unit_head, leaf.balance);
        (leaf.unit_height, leaf.unit_head) =
            (height, Unit { account, height, previous, cause, balance }.hash());
    }

    fn transact(&mut self, home: u16, height: u64, transaction: &Transaction<'_>) -> Code {
        if transaction.chain() != CHAIN {
            return Code::WrongChain;
        }
        if transaction.epoch() != EPOCH && transaction.epoch() != EPOCH - 1 {
            return Code::WrongEpoch;
        }
        let leaf = self.accounts.get(transaction.sender()).copied().unwrap_or_default();
        let (balance, sequence) = (leaf.balance, leaf.sequence);
        match transaction.sequence() {
            s if s <= sequence => return Code::StaleSequence,
            s if s > sequence + 1 => return Code::GappedSequence,
            _ if transaction.total() > balance => return Code::Overdraft,
            _ => {}
        }
        let id = transaction.id();
        self.change(*transaction.sender(), Cause::Sent(id), |leaf| {
            leaf.balance -= transaction.total();
            leaf.sequence += 1;
        });
        for Payee { to: payee, amount } in transaction.payees() {
            let to = payee.table(TABLES);
            if to == home {
                self.change(payee, Cause::Received(id), |leaf| leaf.balance += amount);
                continue;
            }
            let (number, waiting) = self.receipts.entry((home, to)).or_default();
            *number += 1;
            let number = *number;
            waiting.push(Receipt { from: home, to, number, height, payee, amount, transaction: id });
        }
        Code::Committed
    }
}

/// Turns a draft into records for the accounts of one table, most of them executable.
fn records(shard: &Shard, table: usize, draft: &Draft) -> Vec<bytes::Bytes> {
    let state = &shard.tables[table];
    let mine: Vec<Address> =
        (0..ACCOUNTS).map(address).filter(|a| a.table(TABLES) == state.config().id).collect();
    let mut next = BTreeMap::new();
    let mut records = Vec::new();
    for (sender, payees, fee, fault) in draft {
        let Some(sender) = mine.get(sender % mine.len().max(1)) else { continue };
        let executed = state.accounts().get(sender).map_or(0, |leaf| leaf.sequence);
        let sequence = next.entry(*sender).or_insert(executed + 1);
        let payees: Vec<_> = payees.iter().map(|(to, amount)| (address(*to), *amount)).collect();
        if payees.iter().any(|(to, _)| to == sender) {
            continue;
        }
        let mut transaction =
            Unsigned { chain: CHAIN, epoch: EPOCH, sequence: *sequence, fee: *fee, sender: *sender, payees };
        match fault {
            0 => transaction.chain += 1,
            1 => transaction.epoch += 1,
            2 => transaction.epoch -= 2,
            3 => transaction.sequence += 1,
            4 => transaction.sequence -= 1,
            5 => transaction.fee += 10 * BALANCE,
            6 => transaction.epoch -= 1,
            _ => {}
        }
        if matches!(fault, 6..) {
            *sequence += 1;
        }
        records.push(transaction.record());
    }
    records
}

/// Plays acts, holding each step to the model.
fn play(acts: &[Act]) -> Shard {
    let mut shard = Shard::new(TABLES, ACCOUNTS, BALANCE);
    let mut model = Model::default();
    for number in 0..ACCOUNTS {
        model.change(address(number), Cause::Genesis(GENESIS), |leaf| leaf.balance = BALANCE);
    }
    for act in acts {
        match *act {
            Act::Deliver { from, to, count, copies } => shard.deliver(from, to, count, copies),
            Act::Block { table, ref draft, passes, max_receipts, budget } => {
                let records = records(&shard, table, draft);
                let inbox = shard.tables[table].proposable(max_receipts);
                assert!(inbox.iter().all(|r| shard.tables[table].inbox().knows(r) == Known::Yes));
                let time = shard.tables[table].meta().time + passes;
                let block = next_block(&shard.tables[table], time, &inbox, &records);
                let expected = model.apply(&shard, table, &block);
                let outcome = shard.execute(table, &block, budget);
                assert_eq!(outcome.codes, expected);
                shard.check_supply();
            }
        }
        for table in &shard.tables {
            for leaf in table.accounts().iter() {
                assert_eq!(*leaf, model.accounts[&leaf.address]);
            }
        }
    }
    shard
}

/// Executes a table's history in a table of its own, all deliveries at hand from the start.
fn replay(mut table: Table, shard: &Shard, from: usize, budget: usize) -> Table {
    let id = usize::from(table.config().id);
    for delivery in &shard.delivered[id] {
        table.inbox_mut().on_delivery(delivery.clone()).unwrap();
    }
    for (block, outcome) in &shard.history[id][from..] {
        assert_eq!(common::execute(&mut table, block, budget), *outcome);
    }
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_history_is_that_of_the_model_and_can_be_replayed(
        acts in prop::collection::vec(act(), 1..60), budget in 1..400usize,
    ) {
        let shard = play(&acts);
        for id in 0..TABLES {
            let table = replay(genesis_table(id, TABLES, ACCOUNTS, BALANCE), &shard, 0, budget);
            let original = &shard.tables[usize::from(id)];
            prop_assert_eq!(table.meta(), original.meta());
            prop_assert_eq!(table.outbox(), original.outbox());
            prop_assert_eq!(table.checkpoint(), original.checkpoint());
            prop_assert!(table.accounts().iter().eq(original.accounts().iter()));
        }
    }

    #[test]
    fn a_snapshot_is_the_state_at_its_begin(
        acts in prop::collection::vec(act(), 20..60), id in 0..TABLES, section in 1..9usize,
    ) {
        let shard = play(&acts);
        let at = usize::from(id);
        let history = &shard.history[at];
        let Some(checkpoint) = history.iter().position(|(_, outcome)| outcome.checkpoint.is_some()) else {
            return Ok(());
        };
        let mut table = genesis_table(id, TABLES, ACCOUNTS, BALANCE);
        for delivery in &shard.delivered[at] {
            table.inbox_mut().on_delivery(delivery.clone()).unwrap();
        }
        for (block, _) in &history[..=checkpoint] {
            common::execute(&mut table, block, 50);
        }
        let digest = history[checkpoint].1.checkpoint.unwrap();
        prop_assert_eq!(digest, table.checkpoint().digest());
        let head = table.begin_snapshot();
        let mut sections = Vec::new();
        for (block, _) in &history[checkpoint + 1..] {
            sections.extend(table.snapshot_step(section));
            common::execute(&mut table, block, 50);
        }
        sections.extend(std::iter::from_fn(|| table.snapshot_step(section)));

        let mut loader = Loader::new(common::config(id, TABLES), &head, digest).unwrap();
        for section in &sections {
            loader.push(section).unwrap();
        }
        let loaded = replay(loader.finish().unwrap(), &shard, checkpoint + 1, 9);
        prop_assert_eq!(loaded.meta(), table.meta());
        prop_assert!(loaded.accounts().iter().eq(table.accounts().iter()));
        for (at, cut) in [(0, 9), (sections.len() / 2, 20)] {
            let mut sections = sections.clone();
            if let Some(byte) = sections.get_mut(at).and_then(|section| section.get_mut(cut)) {
                *byte ^= 1;
                let mut loader = Loader::new(common::config(id, TABLES), &head, digest).unwrap();
                let pushed = sections.iter().try_for_each(|section| loader.push(section));
                prop_assert!(pushed.and_then(|()| loader.finish().map(|_| ())).is_err());
            }
        }
        for at in 0..head.len() {
            let mut head = head.clone();
            head[at] ^= 1;
            prop_assert!(Loader::new(common::config(id, TABLES), &head, digest).is_err(), "byte {}", at);
        }
    }

    #[test]
    fn a_table_that_rests_hashes_its_state_and_the_chain_does_not_notice(
        acts in prop::collection::vec(act(), 1..60), id in 0..TABLES, every in 1..5usize,
    ) {
        let shard = play(&acts);
        let at = usize::from(id);
        let mut table = genesis_table(id, TABLES, ACCOUNTS, BALANCE);
        for delivery in &shard.delivered[at] {
            table.inbox_mut().on_delivery(delivery.clone()).unwrap();
        }
        for (number, (block, outcome)) in shard.history[at].iter().enumerate() {
            prop_assert_eq!(common::execute(&mut table, block, 50).checkpoint, outcome.checkpoint);
            if number % every == 0 {
                let digest = table.checkpoint_now().digest();
                prop_assert_eq!(table.checkpoint().height, block.height());
                let head = table.begin_snapshot();
                prop_assert_eq!(checkpoint_of(&head).unwrap().digest(), digest);
                let mut loader = Loader::new(common::config(id, TABLES), &head, digest).unwrap();
                while let Some(section) = table.snapshot_step(7) {
                    loader.push(&section).unwrap();
                }
                let loaded = replay(loader.finish().unwrap(), &shard, number + 1, 9);
                prop_assert_eq!(loaded.meta(), shard.tables[at].meta());
            }
        }
    }

    #[test]
    fn deliveries_are_built_anew_from_the_log(acts in prop::collection::vec(act(), 1..60)) {
        let shard = play(&acts);
        for (table, history) in shard.tables.iter().zip(&shard.history) {
            let mut rewind = Rewind::new(table.meta());
            for (block, outcome) in history.iter().rev() {
                let mut bytes = Vec::new();
                outcome.failed.encode(&mut bytes);
                let mut reader = Reader::new(&bytes);
                let failed = Failed::decode(&mut reader).unwrap();
                prop_assert_eq!(reader.finish(), Ok(()));
                prop_assert_eq!(rewind.step(block, &failed).unwrap(), outcome.deliveries.clone());
            }
            prop_assert_eq!(rewind.height(), 0);
        }
    }

    #[test]
    fn accounts_are_proven_against_the_checkpoint_or_not_at_all(acts in prop::collection::vec(act(), 1..60)) {
        let shard = play(&acts);
        for table in &shard.tables {
            for number in 0..ACCOUNTS + 6 {
                match table.prove(&address(number)) {
                    Ok(proof) => {
                        prop_assert!(proof.verify(table.checkpoint()));
                        let mut bytes = Vec::new();
                        proof.encode(&mut bytes);
                        prop_assert_eq!(AccountProof::decode(&mut Reader::new(&bytes)), Ok(proof));
                    }
                    Err(ProofError::Unknown) => prop_assert!(table.accounts().get(&address(number)).is_none()),
                    Err(ProofError::Changed) => prop_assert!(table.height() > table.checkpoint().height),
                }
            }
        }
    }
}

#[test]
fn one_by_one_receipts_flow_and_are_acknowledged() {
    let mut shard = Shard::new(2, 40, BALANCE);
    let home = |id: u16| (0..40).map(address).find(|a| a.table(2) == id).unwrap();
    let (from, to) = (home(0), home(1));
    let mut quiet = 0;
    for sequence in 1..=300 {
        let pay =
            Unsigned { chain: CHAIN, epoch: EPOCH, sequence, fee: 0, sender: from, payees: vec![(to, 1)] };
        for (table, records) in [(0, vec![pay.record()]), (1, vec![])] {
            let inbox = shard.tables[table].proposable(100);
            if records.is_empty() && inbox.is_empty() {
                continue;
            }
            let block = next_block(&shard.tables[table], TIME, &inbox, &records);
            shard.execute(table, &block, 100);
            shard.deliver(0, 1, 9, 1);
            shard.deliver(1, 0, 9, 1);
        }
        quiet = shard.tables[0].outbox().receipts(1).max(quiet);
    }
    assert_eq!(shard.tables[1].accounts().get(&to).unwrap().balance, BALANCE + 300);
    assert!(quiet < 70, "{quiet} receipts in flight: they are acknowledged by the way");
    // With nothing left to apply, the two don't talk for ever.
    let mut blocks = 0;
    while let Some(table) = (0..2).find(|&t: &usize| !shard.tables[t].proposable(100).is_empty()) {
        let inbox = shard.tables[table].proposable(100);
        let block = next_block(&shard.tables[table], TIME, &inbox, &[]);
        shard.execute(table, &block, 100);
        shard.deliver(0, 1, 9, 1);
        shard.deliver(1, 0, 9, 1);
        blocks += 1;
    }
    assert!(blocks < 4, "{blocks} blocks of acknowledgements");
    let held = shard.tables.iter().map(|table| table.outbox().iter().count()).max();
    assert!(held < Some(70), "{held:?} deliveries are kept");
}

#[test]
fn a_table_that_stands_still_stops_what_flows_to_it() {
    let tables = 1024;
    let limit = in_flight_limit(tables);
    assert_eq!(limit, 256);
    let sender = address(0);
    let id = sender.table(tables);
    let to = (1..).map(address).find(|to| to.table(tables) != id).unwrap();
    let mut table = genesis_table(id, tables, 1, 1_000_000);
    let pay = |sequence, count: usize| {
        let payees = vec![(to, 1); count];
        Unsigned { chain: CHAIN, epoch: EPOCH, sequence, fee: 0, sender, payees }.record()
    };
    let records = [pay(1, 255), pay(2, 2), pay(2, 1), pay(3, 1)];
    let block = next_block(&table, TIME, &[], &records);
    let outcome = common::execute(&mut table, &block, 7);
    assert_eq!(outcome.codes, [Code::Committed, Code::MempoolFull, Code::Committed, Code::MempoolFull]);
    assert_eq!(table.outbox().receipts(to.table(tables)), limit);
}

#[test]
fn references_are_judged_by_what_was_executed() {
    let mut shard = Shard::new(2, 40, BALANCE);
    let home = |id: u16| (0..40).map(address).find(|a| a.table(2) == id).unwrap();
    let pay = Unsigned {
        chain: CHAIN,
        epoch: EPOCH,
        sequence: 1,
        fee: 0,
        sender: home(0),
        payees: vec![(home(1), 5)],
    };
    let block = next_block(&shard.tables[0], TIME, &[], &[pay.record()]);
    let delivery = shard.execute(0, &block, 100).deliveries.remove(0);
    let reference = delivery.reference();
    let knows = |shard: &Shard, reference| shard.tables[1].inbox().knows(&reference);
    assert_eq!(knows(&shard, reference), Known::NotYet);
    let refers = next_block(&shard.tables[1], TIME, &[reference], &[]);
    assert_eq!(shard.tables[1].begin(refers.clone()), Err(BeginError::Wait(reference)));
    shard.deliver(0, 1, 1, 2);
    assert_eq!(knows(&shard, reference), Known::Yes);
    let other = dag::InboxRef { hash: dag::Hash([1; 32]), ..reference };
    assert_eq!(knows(&shard, other), Known::Wrong);
    assert_eq!(knows(&shard, dag::InboxRef { height: 2, ..reference }), Known::NotYet);
    assert_eq!(knows(&shard, dag::InboxRef { table: 1, ..reference }), Known::Wrong);
    assert_eq!(knows(&shard, dag::InboxRef { table: 9, ..reference }), Known::Wrong);
    let wrong = next_block(&shard.tables[1], TIME, &[other], &[]);
    assert_eq!(shard.tables[1].begin(wrong), Err(BeginError::Diverged(other)));
    // Proposed twice, in two blocks that were in flight at a time: the second time nothing is left to apply.
    shard.execute(1, &refers, 100);
    assert_eq!(knows(&shard, reference), Known::Wrong);
    let again = next_block(&shard.tables[1], TIME, &[reference], &[]);
    shard.execute(1, &again, 100);
    assert_eq!(shard.tables[1].meta().peer(0).applied, 1);
    shard.check_supply();
    // One may be missing that brought no receipt, only an acknowledgement.
    let skipped = Receipt { number: 2, height: 9, ..delivery.receipts[0] };
    let gap = shard_core::Delivery { height: 9, number: 3, receipts: [skipped].into(), ..delivery };
    let error = shard.tables[1].inbox_mut().on_delivery(gap);
    assert_eq!(error, Err(DeliveryError::Gap { expected: 2, got: 3 }));
}

#[test]
fn a_reference_that_comes_late_applies_nothing_and_unlearns_nothing() {
    let mut shard = Shard::new(2, 40, BALANCE);
    let home = |id: u16| (0..40).map(address).find(|a| a.table(2) == id).unwrap();
    let mut references = Vec::new();
    for sequence in 1..=2 {
        let payees = vec![(home(1), 5)];
        let pay = Unsigned { chain: CHAIN, epoch: EPOCH, sequence, fee: 0, sender: home(0), payees };
        let block = next_block(&shard.tables[0], TIME, &[], &[pay.record()]);
        references.push(shard.execute(0, &block, 100).deliveries[0].reference());
    }
    shard.deliver(0, 1, 2, 1);
    for reference in [references[1], references[0]] {
        let block = next_block(&shard.tables[1], TIME, &[reference], &[]);
        shard.execute(1, &block, 100);
        assert_eq!(shard.tables[1].inbox().knows(&references[1]), Known::Wrong);
        assert_eq!(shard.tables[1].meta().peer(0).applied_height, 2);
    }
    shard.check_supply();
}

#[test]
fn what_is_proposed_is_not_proposed_again() {
    let mut shard = Shard::new(2, 40, BALANCE);
    let home = |id: u16| (0..40).map(address).find(|a| a.table(2) == id).unwrap();
    for sequence in 1..=2 {
        let payees = vec![(home(1), 5)];
        let pay = Unsigned { chain: CHAIN, epoch: EPOCH, sequence, fee: 0, sender: home(0), payees };
        let block = next_block(&shard.tables[0], TIME, &[], &[pay.record()]);
        shard.execute(0, &block, 100);
    }
    shard.deliver(0, 1, 1, 1);
    let first = shard.tables[1].proposable(10);
    assert_eq!(first.len(), 1);
    shard.tables[1].inbox_mut().mark_proposed(&first);
    assert_eq!(shard.tables[1].proposable(10), []);
    shard.deliver(0, 1, 1, 1);
    let second = shard.tables[1].proposable(10);
    assert_eq!((second.len(), second[0].height), (1, 2));
    shard.tables[1].inbox_mut().mark_proposed(&second);
    shard.tables[1].inbox_mut().unpropose_all();
    assert_eq!(shard.tables[1].proposable(10), second);
    assert_eq!(shard.tables[1].proposable(1), first);
    assert_eq!(shard.tables[1].proposable(0), first, "one delivery goes, however large");
}
