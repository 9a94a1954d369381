//! Measures execution: transfers between uniformly random accounts, in blocks, receipts and checkpoints included.
//!
//! The signatures are left out, as execution does not look at them.

use bytes::Bytes;
use dag::{
    Address, Hash, Transaction,
    table_block::{BlockBuilder, BlockHeader, MAX_TRANSACTIONS},
    wire::Put,
};

use crate::{Config, Delivery, Table, execute::CHECKPOINT_BLOCKS};

/// Operations of one slice.
const SLICE: usize = 256;
/// What each account begins with, in micro-TOP: more than it can spend.
const BALANCE: u64 = 1 << 40;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Accounts over all tables.
    pub accounts: usize,
    /// Tables: a power of two. With one, every payee is of the sender's table.
    pub tables: u16,
    /// Transfers of one block.
    pub block: usize,
    /// Transfers at least. Whole rounds are done, each up to the next checkpoint of every table.
    pub transfers: u64,
}

/// What came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Transfers executed, credited in the payee's table but for the last block's.
    pub transfers: u64,
    /// Time that they took, with all that execution does: checkpoints too.
    pub nanoseconds: u64,
    /// Checkpoints among it.
    pub checkpoints: u64,
    /// Longest slice.
    pub longest_slice: u64,
    /// Memory of accounts, index and tree.
    pub account_bytes: u64,
    /// Accounts at the end.
    pub accounts: u64,
}

impl Figures {
    /// Nanoseconds for one transfer.
    pub fn per_transfer(&self) -> f64 {
        self.nanoseconds as f64 / self.transfers as f64
    }

    /// Bytes for one account.
    pub fn per_account(&self) -> f64 {
        self.account_bytes as f64 / self.accounts as f64
    }
}

/// Runs it. `clock` gives monotonic nanoseconds.
///
/// # Panics
/// Where the setup makes no sense: no accounts, blocks larger than they may be, a table count that is no power of two.
pub fn execution(setup: &Setup, clock: &mut dyn FnMut() -> u64) -> Figures {
    assert!(setup.accounts > 1 && (1..=MAX_TRANSACTIONS).contains(&setup.block));
    let mut bench = Bench::new(setup);
    let mut figures = Figures::default();
    while figures.transfers < setup.transfers {
        for _ in 0..CHECKPOINT_BLOCKS {
            for at in 0..bench.tables.len() {
                bench.execute_block(at, setup.block, clock, &mut figures);
            }
        }
    }
    for table in &bench.tables {
        figures.account_bytes += table.accounts().memory() as u64;
        figures.accounts += table.accounts().len() as u64;
    }
    figures
}

struct Bench {
    tables: Vec<Table>,
    /// By table: its accounts, with their last sequence.
    senders: Vec<Vec<(Address, u64)>>,
    payees: Vec<Address>,
    random: SplitMix,
}

impl Bench {
    fn new(setup: &Setup) -> Bench {
        let mut random = SplitMix(1);
        let payees: Vec<Address> = (0..setup.accounts).map(|_| random.address()).collect();
        let mut senders = vec![Vec::new(); usize::from(setup.tables)];
        for address in &payees {
            senders[usize::from(address.table(setup.tables))].push((*address, 0));
        }
        let table = |(id, senders): (u16, &Vec<(Address, u64)>)| {
            let config = Config { chain: 1, epoch: 0, id, tables: setup.tables, index_seed: 1 };
            Table::genesis(config, Hash::ZERO, 0, senders.iter().map(|(address, _)| (*address, BALANCE)))
        };
        let tables = (0..setup.tables).zip(&senders).map(table).collect();
        Bench { tables, senders, payees, random }
    }

    fn execute_block(
        &mut self,
        at: usize,
        transfers: usize,
        clock: &mut dyn FnMut() -> u64,
        figures: &mut Figures,
    ) {
        if self.senders[at].is_empty() {
            return;
        }
        let block = self.block(at, transfers);
        let table = &mut self.tables[at];
        let start = clock();
        table.begin(block).expect("the block follows, and refers to what was delivered");
        let mut before = start;
        let outcome = loop {
            let outcome = table.step(SLICE);
            let now = clock();
            figures.longest_slice = figures.longest_slice.max(now - before);
            before = now;
            if let Some(outcome) = outcome {
                break outcome;
            }
        };
        assert!(outcome.failed.is_empty(), "every account can pay");
        self.deliver(outcome.deliveries);
        figures.nanoseconds += clock() - start;
        figures.transfers += outcome.codes.len() as u64;
        figures.checkpoints += u64::from(outcome.checkpoint.is_some());
    }

    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let inbox = self.tables[usize::from(delivery.to)].inbox_mut();
            inbox.on_delivery(delivery).expect("deliveries follow one another");
        }
    }

    fn block(&mut self, at: usize, transfers: usize) -> dag::Block {
        let mut builder = BlockBuilder::new();
        let table = &mut self.tables[at];
        table.proposable(usize::MAX).into_iter().for_each(|reference| builder.push_inbox(reference));
        for _ in 0..transfers {
            let payee = self.payees[self.random.below(self.payees.len())];
            let sender = self.random.below(self.senders[at].len());
            let (sender, sequence) = &mut self.senders[at][sender];
            if payee == *sender {
                continue;
            }
            *sequence += 1;
            let record = unsigned_transfer(sender, *sequence, &payee);
            let transaction = Transaction::parse(&record).expect("well-formed");
            if !builder.push(transaction.id(), &transaction) {
                break;
            }
        }
        let meta = table.meta();
        builder.seal(BlockHeader {
            chain: table.config().chain,
            epoch: table.config().epoch,
            table: table.config().id,
            height: meta.height + 1,
            view: 0,
            time: meta.time,
            proposer: 0,
            parent: meta.block,
            transactions_root: Hash::ZERO,
            inbox_root: Hash::ZERO,
            checkpoint_height: meta.checkpoint_height,
            checkpoint: Hash::ZERO,
        })
    }
}

/// A transfer of one micro-TOP with zeros for a signature.
fn unsigned_transfer(sender: &Address, sequence: u64, payee: &Address) -> Bytes {
    let mut record = Vec::with_capacity(dag::transaction::TRANSFER_SIZE);
    record.put(&[1, 1, 1, 0]);
    record.put_u32(0);
    record.put_u64(1);
    record.put_u64(sequence);
    record.put_u64(0);
    record.put(sender.as_bytes());
    record.put(payee.as_bytes());
    record.put_u64(1);
    record.put(&[0; 64]);
    record.into()
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn address(&mut self) -> Address {
        let mut bytes = [0; 32];
        bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|chunk| *chunk = self.next().to_le_bytes());
        Address(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_executes_what_it_says() {
        let mut time = 0;
        let mut clock = || {
            time += 1;
            time
        };
        let setup = Setup { accounts: 500, tables: 4, block: 10, transfers: 1 };
        let figures = execution(&setup, &mut clock);
        assert_eq!(figures.checkpoints, 4);
        assert!((5000..=5120).contains(&figures.transfers), "{figures:?}");
        assert_eq!(figures.accounts, 500);
    }
}
