//! The mempool against a model made of plain maps, under any order of submissions, blocks of this and of other primaries,
//! executions and view changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const SENDERS: usize = 4;
const LIMITS: Limits =
    Limits { transactions: 1000, bytes: 1 << 20, per_account: 3, candidates: 4, recent: 1000 };

#[derive(Clone, Debug)]
enum Act {
    /// Sender, sequence relative to its executed one, fee, amount; from a client or a peer; with a good signature or not.
    Submit {
        sender: usize,
        sequence: u64,
        fee: u64,
        amount: u64,
        client: bool,
        valid: bool,
    },
    /// The last submission once more.
    Repeat,
    Propose {
        transactions: usize,
    },
    /// Another primary's block: a sender's next transaction, which is not submitted here.
    Foreign {
        sender: usize,
        amount: u64,
    },
    Execute,
    ViewChange {
        keep: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let submit = (0..SENDERS, 0..6u64, 0..20u64, 1..500u64, any::<bool>(), 0..9u8).prop_map(
        |(sender, sequence, fee, amount, client, forged)| Act::Submit {
            sender,
            sequence,
            fee,
            amount,
            client,
            valid: forged > 0,
        },
    );
    prop_oneof![
        12 => submit,
        2 => Just(Act::Repeat),
        4 => (0..5usize).prop_map(|transactions| Act::Propose { transactions }),
        2 => (0..SENDERS, 1..700u64).prop_map(|(sender, amount)| Act::Foreign { sender, amount }),
        4 => Just(Act::Execute),
        1 => (0..4usize).prop_map(|keep| Act::ViewChange { keep }),
    ]
}

#[derive(Clone, Debug)]
struct Item {
    id: Hash,
    fee: u64,
    total: u64,
    tags: Vec<u64>,
    size: usize,
}

#[derive(Default)]
struct Model {
    chains: BTreeMap<Address, BTreeMap<u64, Item>>,
    proposed: BTreeMap<Address, u64>,
    committed: BTreeMap<Hash, Place>,
    answers: Vec<(u64, Answer)>,
}

impl Model {
    fn proposed(&self, sender: &Address) -> u64 {
        self.proposed.get(sender).copied().unwrap_or(0)
    }

    fn answer(&mut self, tags: &[u64], answer: Answer) {
        self.answers.extend(tags.iter().map(|tag| (*tag, answer)));
    }

    fn submit(&mut self, accounts: &Accounts, record: &Bytes, tag: Option<u64>) {
        if let Err(answer) = self.try_submit(accounts, record, tag) {
            self.answer(tag.as_slice(), answer);
        }
    }

    fn try_submit(&mut self, accounts: &Accounts, record: &Bytes, tag: Option<u64>) -> Result<(), Answer> {
        let transaction = Transaction::parse(record).unwrap();
        let (id, sequence, sender) = (transaction.id(), transaction.sequence(), *transaction.sender());
        if let Some(place) = self.committed.get(&id) {
            return Err(Answer { code: Code::Committed, place: Some(*place) });
        }
        let leaf = accounts.get(&sender).copied().unwrap_or_default();
        let proposed = self.proposed(&sender);
        let chain = self.chains.entry(sender).or_default();
        let last = chain.keys().last().copied().unwrap_or(0).max(proposed).max(leaf.sequence);
        let spent: u64 = chain.values().map(|item| item.total).sum();
        let item = Item {
            id,
            fee: transaction.fee(),
            total: transaction.total(),
            tags: tag.into_iter().collect(),
            size: record.len(),
        };
        if sequence <= leaf.sequence {
            return Err(Code::StaleSequence.into());
        }
        if sequence > last + 1 {
            return Err(Code::GappedSequence.into());
        }
        if sequence == last + 1 {
            return match () {
                () if chain.len() >= LIMITS.per_account => Err(Code::TooManyPending.into()),
                () if spent + item.total > leaf.balance => Err(Code::Overdraft.into()),
                () => {
                    chain.insert(sequence, item);
                    Ok(())
                }
            };
        }
        let Some(old) = chain.get_mut(&sequence) else { return Err(Code::TooManyPending.into()) };
        if old.id == id {
            if old.tags.len() >= 4 && tag.is_some() {
                return Err(Code::TooManyPending.into());
            }
            old.tags.extend(tag);
            return Ok(());
        }
        if sequence <= proposed || item.fee <= old.fee || 8 * item.fee < 9 * old.fee {
            return Err(Code::Underpriced.into());
        }
        if spent - old.total + item.total > leaf.balance {
            return Err(Code::Overdraft.into());
        }
        let old = chain.insert(sequence, item).unwrap();
        self.answer(&old.tags, Code::Replaced.into());
        Ok(())
    }

    fn commit(&mut self, accounts: &Accounts, block: &Block, codes: &[Code]) {
        let mut senders = BTreeSet::new();
        for (place, code) in (0u32..).zip(codes) {
            let index = place as usize;
            let transaction = block.transaction(index);
            let (sender, sequence) = (*transaction.sender(), transaction.sequence());
            senders.insert(sender);
            let place = Place { table: 0, height: block.height(), index: place };
            if *code == Code::Committed {
                self.committed.insert(block.id(index), place);
            }
            if sequence >= self.proposed(&sender) {
                self.proposed.remove(&sender);
            }
            let chain = self.chains.entry(sender).or_default();
            if chain.get(&sequence).is_some_and(|item| item.id == block.id(index)) {
                let item = chain.remove(&sequence).unwrap();
                self.answer(&item.tags, Answer { code: *code, place: Some(place) });
            }
        }
        senders.iter().for_each(|sender| self.prune(accounts, sender));
    }

    fn prune(&mut self, accounts: &Accounts, sender: &Address) {
        let leaf = accounts.get(sender).copied().unwrap_or_default();
        if self.proposed(sender) <= leaf.sequence {
            self.proposed.remove(sender);
        }
        let proposed = self.proposed(sender);
        let (mut last, mut spent) = (leaf.sequence.max(proposed), 0);
        for (sequence, item) in std::mem::take(self.chains.entry(*sender).or_default()) {
            let code = match () {
                () if sequence <= leaf.sequence => Code::StaleSequence,
                () if sequence > last + 1 => Code::GappedSequence,
                () if sequence > proposed && spent + item.total > leaf.balance => Code::Overdraft,
                () => {
                    last = last.max(sequence);
                    spent += item.total;
                    self.chains.get_mut(sender).unwrap().insert(sequence, item);
                    continue;
                }
            };
            self.answer(&item.tags, code.into());
        }
    }

    fn repropose<'a>(&mut self, accounts: &Accounts, surviving: impl Iterator<Item = &'a Block>) {
        self.proposed.clear();
        for block in surviving {
            self.propose(block);
        }
        (0..SENDERS).for_each(|sender| self.prune(accounts, &address(sender)));
    }

    fn propose(&mut self, block: &Block) {
        for index in 0..block.len() {
            let transaction = block.transaction(index);
            let proposed = self.proposed.entry(*transaction.sender()).or_default();
            *proposed = (*proposed).max(transaction.sequence());
        }
    }

    fn items(&self) -> impl Iterator<Item = (&Address, u64, &Item)> {
        self.chains
            .iter()
            .flat_map(|(sender, chain)| chain.iter().map(move |(sequence, item)| (sender, *sequence, item)))
    }
}

struct World {
    table: Table,
    pool: Mempool,
    model: Model,
    in_flight: VecDeque<Block>,
    last: Option<(Bytes, bool, bool)>,
    tags: u64,
    settled: Vec<Settled>,
}

impl World {
    fn new() -> World {
        World {
            table: table(SENDERS),
            pool: Mempool::new(CHAIN, 0, LIMITS, 5),
            model: Model::default(),
            in_flight: VecDeque::new(),
            last: None,
            tags: 0,
            settled: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Submit { sender, sequence, fee, amount, client, valid } => {
                let executed = self.table.accounts().get(&address(sender)).unwrap().sequence;
                let record = transfer(sender, executed + sequence, fee, amount);
                self.submit(record, client, valid);
            }
            Act::Repeat => {
                if let Some((record, client, valid)) = self.last.clone() {
                    self.submit(record, client, valid);
                }
            }
            Act::Propose { transactions } => self.propose(transactions),
            Act::Foreign { sender, amount } => {
                let executed = self.table.accounts().get(&address(sender)).unwrap().sequence;
                let block = block_of(&[transfer(sender, executed + 1, 77, amount)], self.tip());
                self.in_flight.push_back(block);
            }
            Act::Execute => {
                if let Some(block) = self.in_flight.pop_front() {
                    let codes = commit(&mut self.table, &mut self.pool, &block, &mut self.settled);
                    self.model.commit(self.table.accounts(), &block, &codes);
                }
            }
            Act::ViewChange { keep } => {
                self.in_flight.truncate(keep);
                let (accounts, surviving) = (self.table.accounts(), self.in_flight.iter());
                self.pool.repropose(accounts, surviving.clone(), &mut self.settled);
                self.model.repropose(accounts, surviving);
            }
        }
        self.compare();
    }

    fn tip(&self) -> (u64, Hash) {
        let last = self.in_flight.back().map(|block| (block.height(), block.hash()));
        last.unwrap_or((self.table.height(), self.table.block_hash()))
    }

    fn submit(&mut self, record: Bytes, is_client: bool, valid: bool) {
        self.tags += 1;
        self.last = Some((record.clone(), is_client, valid));
        let origin = if is_client { client(self.tags) } else { Origin::Peer(1) };
        let tag = is_client.then_some(self.tags);
        let accounts = self.table.accounts();
        match self.pool.admit(accounts, EPOCH, record.clone(), origin, self.tags) {
            Ok(Admission::Verify(ticket)) => {
                self.pool.verified(accounts, ticket, valid, &mut self.settled);
                if !valid {
                    return self.model.answer(tag.as_slice(), Code::BadSignature.into());
                }
            }
            Ok(Admission::Known) => {}
            Err(answer) if is_client => self.settled.push(Settled { origin, answer }),
            Err(_) => {}
        }
        self.model.submit(self.table.accounts(), &record, tag);
    }

    fn propose(&mut self, transactions: usize) {
        let mut builder = BlockBuilder::new();
        let ready = self.pool.ready();
        let taken = self.pool.take_block(&mut builder, &BlockLimits { transactions, ..ALL });
        assert_eq!(taken, ready.min(transactions));
        let block = seal(builder, self.tip());
        for index in 0..block.len() {
            let transaction = block.transaction(index);
            let (sender, sequence) = (transaction.sender(), transaction.sequence());
            let item = &self.model.chains[sender][&sequence];
            assert_eq!(item.id, block.id(index));
            let executed = self.table.accounts().get(sender).unwrap().sequence;
            assert_eq!(sequence, self.model.proposed(sender).max(executed) + 1, "no gap");
            self.model.proposed.insert(*sender, sequence);
        }
        self.in_flight.push_back(block);
    }

    fn compare(&mut self) {
        let mut got: Vec<(u64, Answer)> = Vec::new();
        for settled in self.settled.drain(..) {
            let Origin::Client { handle: 1, tag } = settled.origin else { panic!("{settled:?}") };
            got.push((tag, settled.answer));
        }
        let mut expected = std::mem::take(&mut self.model.answers);
        got.sort_by_key(|(tag, _)| *tag);
        expected.sort_by_key(|(tag, _)| *tag);
        assert_eq!(got, expected);
        let (pool, model) = (&self.pool, &self.model);
        assert_eq!(pool.len(), model.items().count());
        let bytes: usize = model.items().map(|(.., item)| item.size + ENTRY_OVERHEAD).sum();
        assert_eq!(pool.bytes(), bytes);
        let ready = model.items().filter(|(sender, sequence, _)| *sequence > model.proposed(sender)).count();
        assert_eq!(pool.ready(), ready);
        for (_, _, item) in model.items() {
            assert!(pool.is_verified(&item.id, &[0; SIGNATURE_SIZE]));
        }
        assert_eq!(pool.oldest_waiting().is_some(), !pool.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_does_what_the_model_does(acts in prop::collection::vec(act(), 1..80)) {
        let mut world = World::new();
        acts.iter().for_each(|act| world.act(act));
        // Everything that waits comes to an end, and every client is answered.
        while !world.in_flight.is_empty() || world.pool.ready() > 0 {
            if world.pool.ready() > 0 {
                world.act(&Act::Propose { transactions: 9 });
            }
            world.act(&Act::Execute);
        }
        prop_assert!(world.pool.is_empty(), "{:?}", world.pool);
        prop_assert_eq!(world.pool.senders.keys(), Vec::<usize>::new(), "no sender is left behind");
    }
}
