//! The tables of a shard with nothing around them, to measure execution: blocks of transfers between random accounts as a
//! primary makes them, executed as a validator does. No signatures, votes, log or sockets.

use crate::{Config, Outcome, Table};
use dag::{
    Address, Block, Hash, TableId, Transaction,
    table_block::{BlockBuilder, BlockHeader},
    transaction::TRANSFER_SIZE,
    wire::Put,
};

/// A core executes so many operations in a slice, then looks at its sockets.
const SLICE: usize = 256;
/// Receipts that a primary lets into a block.
const MAX_RECEIPTS: usize = 6_000;
/// What each account has: more than it can spend.
const BALANCE: u64 = 1 << 40;
const CHAIN: u64 = 1;

/// An account that pays.
#[derive(Clone, Copy, Debug)]
struct Sender {
    address: Address,
    sequence: u64,
}

/// Accounts that exist before there are tables, so that the tables' memory can be told from theirs.
#[derive(Debug)]
pub struct Population {
    /// By table.
    senders: Vec<Vec<Sender>>,
    /// All of them.
    payees: Vec<Address>,
    random: SplitMix,
}

impl Population {
    /// `count` random accounts for `tables` tables.
    ///
    /// # Panics
    /// Where the table count is no power of two, or a table gets no account.
    pub fn draw(count: usize, tables: u16, seed: u64) -> Population {
        let mut random = SplitMix(seed);
        let share = count / usize::from(tables);
        // Never moved while it grows: freed memory would be taken for the tables'.
        let room = share + share / 8 + 1024;
        let mut senders: Vec<Vec<Sender>> = (0..tables).map(|_| Vec::with_capacity(room)).collect();
        let mut payees = Vec::with_capacity(count);
        for _ in 0..count {
            let address = random.address();
            senders[usize::from(address.table(tables))].push(Sender { address, sequence: 0 });
            payees.push(address);
        }
        assert!(senders.iter().all(|senders| !senders.is_empty()), "{count} accounts for {tables} tables");
        Population { senders, payees, random }
    }
}

/// What [`Shard::execute`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Executed {
    /// Transfers of the block.
    pub transfers: usize,
    /// Whether a checkpoint was due after it, so that the state was hashed.
    pub checkpoint: bool,
}

/// A shard's tables in one place.
#[derive(Debug)]
pub struct Shard {
    tables: Vec<Table>,
    population: Population,
    /// µs, as the blocks say.
    now: u64,
}

impl Shard {
    /// All accounts with money, no block yet.
    pub fn genesis(population: Population) -> Shard {
        let tables = u16::try_from(population.senders.len()).expect("table numbers are 16 bits");
        let table = |(id, senders): (TableId, &Vec<Sender>)| {
            let config = Config { chain: CHAIN, epoch: 0, id, tables, index_seed: 1 };
            let allocations = senders.iter().map(|sender| (sender.address, BALANCE));
            Table::genesis(config, Hash::ZERO, 0, allocations)
        };
        let tables = (0..tables).zip(&population.senders).map(table).collect();
        Shard { tables, population, now: 0 }
    }

    /// The tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Lets time pass, µs.
    pub fn pass(&mut self, time: u64) {
        self.now += time;
    }

    /// The next block of a table: transfers from its accounts to any, and whatever other tables have for it.
    ///
    /// # Panics
    /// There is no such table, or the last block that it proposed has not been executed.
    pub fn propose(&mut self, table: TableId, transfers: usize) -> Block {
        let mut builder = BlockBuilder::new();
        let references = self.tables[usize::from(table)].proposable(MAX_RECEIPTS);
        references.into_iter().for_each(|reference| builder.push_inbox(reference));
        for _ in 0..transfers {
            let record = self.transfer(table);
            let transaction = Transaction::parse(&record).expect("well-formed");
            assert!(builder.push(transaction.id(), &transaction), "{transfers} transfers fit a block");
        }
        let table = &self.tables[usize::from(table)];
        let meta = table.meta();
        builder.seal(BlockHeader {
            chain: CHAIN,
            table: table.config().id,
            height: meta.height + 1,
            time: self.now,
            parent: meta.block,
            checkpoint_height: meta.checkpoint_height,
            ..BlockHeader::default()
        })
    }

    /// A transfer from a random account of the table to a random one of all, with zeros for a signature: execution comes
    /// after verification and never looks at it.
    fn transfer(&mut self, table: TableId) -> [u8; TRANSFER_SIZE] {
        let Population { senders, payees, random } = &mut self.population;
        let senders = &mut senders[usize::from(table)];
        let sender = random.below(senders.len());
        let sender = &mut senders[sender];
        let payee = loop {
            let payee = payees[random.below(payees.len())];
            if payee != sender.address {
                break payee;
            }
        };
        sender.sequence += 1;
        let mut record = Vec::with_capacity(TRANSFER_SIZE);
        record.put(&[1, 1, 1, 0]);
        record.put_u32(0);
        record.put_u64(CHAIN);
        record.put_u64(sender.sequence);
        record.put_u64(0);
        record.put(sender.address.as_bytes());
        record.put(payee.as_bytes());
        record.put_u64(1);
        record.put(&[0; 64]);
        record.try_into().expect("the layout of a transfer")
    }

    /// Executes a block to its end, slice by slice, and brings what it has for other tables to these.
    ///
    /// # Panics
    /// The block does not follow, or one of its transfers fails.
    pub fn execute(&mut self, block: &Block) -> Executed {
        let Outcome { codes, failed, deliveries, checkpoint, .. } = self.run(block);
        assert!(failed.is_empty(), "every account can pay");
        for delivery in deliveries {
            let inbox = self.tables[usize::from(delivery.to)].inbox_mut();
            inbox.on_delivery(delivery).expect("deliveries come in order");
        }
        Executed { transfers: codes.len(), checkpoint: checkpoint.is_some() }
    }

    fn run(&mut self, block: &Block) -> Outcome {
        let table = &mut self.tables[usize::from(block.header().table)];
        table.begin(block.clone()).expect("it follows, and refers to what was delivered");
        loop {
            if let Some(outcome) = table.step(SLICE) {
                return outcome;
            }
        }
    }
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014).
#[derive(Debug)]
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
    use crate::execute::CHECKPOINT_BLOCKS;

    use super::*;

    #[test]
    fn money_moves_between_tables_and_stays() {
        let mut shard = Shard::genesis(Population::draw(400, 4, 7));
        let mut executed = 0;
        for _ in 0..10 {
            let blocks: Vec<Block> = (0..4).map(|table| shard.propose(table, 5)).collect();
            for block in &blocks {
                let done = shard.execute(block);
                assert_eq!(done, Executed { transfers: 5, checkpoint: false });
                executed += done.transfers;
            }
        }
        assert_eq!(executed, 200);
        let received: u64 =
            shard.tables().iter().flat_map(|t| &t.meta().peers).map(|peer| peer.applied).sum();
        let sent: u64 = shard.tables().iter().flat_map(|t| &t.meta().peers).map(|peer| peer.sent).sum();
        assert!(received > 0 && received <= sent && sent < 200, "{received} of {sent} receipts");
    }

    #[test]
    fn checkpoints_come_after_blocks_or_time() {
        let mut shard = Shard::genesis(Population::draw(50, 1, 7));
        let next = |shard: &mut Shard| {
            let block = shard.propose(0, 1);
            shard.execute(&block).checkpoint
        };
        for height in 1..=CHECKPOINT_BLOCKS {
            assert_eq!(next(&mut shard), height == CHECKPOINT_BLOCKS);
        }
        shard.pass(999_999);
        assert!(!next(&mut shard));
        shard.pass(1);
        assert!(next(&mut shard));
    }
}
