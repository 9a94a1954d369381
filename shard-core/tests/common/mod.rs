//! A shard to play with: its tables, the deliveries that are under way, and a record of all that happened.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;

use bytes::Bytes;
use dag::{
    Address, Block, Hash, InboxRef, TableId, Transaction,
    hash::Domain,
    table_block::{BlockBuilder, BlockHeader},
    wire::Put,
};
use shard_core::{Config, Delivery, Outcome, Table};

pub const CHAIN: u64 = 77;
pub const EPOCH: u32 = 5;
pub const GENESIS: Hash = Hash([9; 32]);
pub const TIME: u64 = 1_700_000_000_000_000;

/// A transaction that no one signed; execution does not look at signatures.
#[derive(Clone, Debug)]
pub struct Unsigned {
    pub chain: u64,
    pub epoch: u32,
    pub sequence: u64,
    pub fee: u64,
    pub sender: Address,
    pub payees: Vec<(Address, u64)>,
}

impl Unsigned {
    pub fn record(&self) -> Bytes {
        let mut bytes = Vec::new();
        let count = u8::try_from(self.payees.len()).unwrap();
        bytes.put(&[1, if count == 1 { 1 } else { 2 }, count, 0]);
        bytes.put_u32(self.epoch);
        bytes.put_u64(self.chain);
        bytes.put_u64(self.sequence);
        bytes.put_u64(self.fee);
        bytes.put(self.sender.as_bytes());
        for (to, amount) in &self.payees {
            bytes.put(to.as_bytes());
            bytes.put_u64(*amount);
        }
        bytes.put(&[0; 64]);
        Transaction::parse(&bytes).expect("well-formed");
        bytes.into()
    }

    pub fn total(&self) -> u64 {
        self.fee + self.payees.iter().map(|(_, amount)| amount).sum::<u64>()
    }
}

pub fn address(number: usize) -> Address {
    Address(Domain::UNIT.hash(&number.to_le_bytes()).0)
}

pub fn config(id: TableId, tables: u16) -> Config {
    Config { chain: CHAIN, epoch: EPOCH, id, tables, index_seed: u64::from(id) }
}

/// Table `id` with `accounts` accounts in the whole shard, each holding `balance`.
pub fn genesis_table(id: TableId, tables: u16, accounts: usize, balance: u64) -> Table {
    let mine = (0..accounts).map(address).filter(|address| address.table(tables) == id);
    Table::genesis(config(id, tables), GENESIS, TIME, mine.map(|address| (address, balance)))
}

/// The next block of a table.
pub fn next_block(table: &Table, time: u64, inbox: &[InboxRef], records: &[Bytes]) -> Block {
    let mut builder = BlockBuilder::new();
    inbox.iter().for_each(|reference| builder.push_inbox(*reference));
    for record in records {
        let transaction = Transaction::parse(record).unwrap();
        assert!(builder.push(transaction.id(), &transaction));
    }
    builder.seal(BlockHeader {
        chain: CHAIN,
        epoch: EPOCH,
        table: table.config().id,
        height: table.height() + 1,
        time,
        parent: table.block_hash(),
        ..BlockHeader::default()
    })
}

/// Executes a block in slices of this budget.
pub fn execute(table: &mut Table, block: &Block, budget: usize) -> Outcome {
    table.begin(block.clone()).unwrap();
    loop {
        if let Some(outcome) = table.step(budget) {
            return outcome;
        }
        assert!(table.is_busy());
    }
}

/// All tables, and what is between them.
pub struct Shard {
    pub tables: Vec<Table>,
    /// By source and destination: deliveries that are under way.
    pub under_way: Vec<Vec<VecDeque<Delivery>>>,
    /// All that was ever delivered, by destination, in order.
    pub delivered: Vec<Vec<Delivery>>,
    /// By table: blocks and what came of them.
    pub history: Vec<Vec<(Block, Outcome)>>,
    pub total: u128,
}

impl Shard {
    pub fn new(tables: u16, accounts: usize, balance: u64) -> Shard {
        let count = usize::from(tables);
        Shard {
            tables: (0..tables).map(|id| genesis_table(id, tables, accounts, balance)).collect(),
            under_way: vec![vec![VecDeque::new(); count]; count],
            delivered: vec![Vec::new(); count],
            history: vec![Vec::new(); count],
            total: accounts as u128 * u128::from(balance),
        }
    }

    pub fn execute(&mut self, table: usize, block: &Block, budget: usize) -> Outcome {
        let outcome = execute(&mut self.tables[table], block, budget);
        for delivery in &outcome.deliveries {
            self.under_way[table][usize::from(delivery.to)].push_back(delivery.clone());
        }
        self.history[table].push((block.clone(), outcome.clone()));
        outcome
    }

    /// Brings up to `count` deliveries from one table to another, each `copies` times.
    pub fn deliver(&mut self, from: usize, to: usize, count: usize, copies: usize) {
        for _ in 0..count {
            let Some(delivery) = self.under_way[from][to].pop_front() else { break };
            for _ in 0..copies {
                self.tables[to].inbox_mut().on_delivery(delivery.clone()).unwrap();
            }
            self.delivered[to].push(delivery);
        }
    }

    pub fn check_supply(&self) {
        let tables: Vec<&Table> = self.tables.iter().collect();
        shard_core::supply::check(&tables, self.total).unwrap();
    }
}
