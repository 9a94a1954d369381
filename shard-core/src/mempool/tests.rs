mod model;
mod rules;

use bytes::Bytes;
use dag::{
    Address, Block, Hash, Transaction,
    hash::Domain,
    table_block::{BlockBuilder, BlockHeader},
    transaction,
    wire::Put,
};

use super::*;
use crate::{Config, Table};

const CHAIN: u64 = 3;
const EPOCH: u32 = 4;
const BALANCE: u64 = 1000;
const ALL: BlockLimits = BlockLimits { transactions: 1000, payees: 1000, bytes: 200_000 };

fn address(number: usize) -> Address {
    Address(Domain::UNIT.hash(&number.to_le_bytes()).0)
}

/// A table of one shard, with this many accounts.
fn table(accounts: usize) -> Table {
    let config = Config { chain: CHAIN, epoch: EPOCH, id: 0, tables: 1, index_seed: 1 };
    Table::genesis(config, Hash::ZERO, 0, (0..accounts).map(|number| (address(number), BALANCE)))
}

/// A transfer to an account that never pays; only the caller of the mempool looks at its signature.
fn transfer(sender: usize, sequence: u64, fee: u64, amount: u64) -> Bytes {
    let mut record = Vec::with_capacity(transaction::TRANSFER_SIZE);
    record.put(&[1, 1, 1, 0]);
    record.put_u32(EPOCH);
    record.put_u64(CHAIN);
    record.put_u64(sequence);
    record.put_u64(fee);
    record.put(address(sender).as_bytes());
    record.put(address(1_000_000).as_bytes());
    record.put_u64(amount);
    record.put(&[0; SIGNATURE_SIZE]);
    record.into()
}

fn id(record: &[u8]) -> Hash {
    Transaction::parse(record).unwrap().id()
}

fn client(tag: u64) -> Origin {
    Origin::Client { handle: 1, tag }
}

/// The block that follows `parent`, given by height and hash, with these transactions.
fn seal(builder: BlockBuilder, (height, hash): (u64, Hash)) -> Block {
    builder.seal(BlockHeader {
        chain: CHAIN,
        epoch: EPOCH,
        height: height + 1,
        time: height,
        parent: hash,
        ..BlockHeader::default()
    })
}

fn block_of(records: &[Bytes], parent: (u64, Hash)) -> Block {
    let mut builder = BlockBuilder::new();
    for record in records {
        let transaction = Transaction::parse(record).unwrap();
        assert!(builder.push(transaction.id(), &transaction));
    }
    seal(builder, parent)
}

/// Executes a block and tells the mempool.
fn commit(table: &mut Table, pool: &mut Mempool, block: &Block, settled: &mut Vec<Settled>) -> Vec<Code> {
    table.begin(block.clone()).unwrap();
    let outcome = table.step(usize::MAX).unwrap();
    pool.on_committed(table.accounts(), block, &outcome.codes, settled);
    outcome.codes
}
