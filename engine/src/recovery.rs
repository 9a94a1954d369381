//! From the disk back to running tables: newest good snapshots, then the log.
//!
//! Each table starts at its newest whole snapshot, or at genesis. The log gives its replica every promise that it made
//! (votes, prepared and committed blocks, views) and, once the replica starts, execution every block above the snapshot. What
//! other tables are still to get of blocks before a table's snapshot is made anew from those blocks.
//!
//! A torn tail is cut: nobody was told that it is durable. Any other damage is named and refused; a damaged snapshot is
//! named and passed over for the one before it.

use std::{collections::BTreeMap, path::Path, rc::Rc};

use bytes::Bytes;
use dag::{
    Block, Hash, Height, TableId,
    keys::KeyPair,
    wire::{Reader, WireError},
};
use pbft::{Base, Record, Replica, RestoreError};
use shard_core::{Delivery, Failed, Table, partition, receipts::Rewind, sigbatch};

use crate::{
    genesis::Genesis,
    log::{LogConfig, LogId, ScanError, Scanner, Tail, segment},
    node::{AGREEMENT, OUTCOME, OutcomeRecord, SECTION_PROMISE, StateError, TableSetup, load_state},
    snapshot::{self, SnapshotError},
    topology::{Placement, Shard},
};

/// Why a validator can't go on from its disk. Each says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log.
    #[error("{0}")]
    Log(#[from] ScanError),
    /// A snapshot of another network, or an unreadable directory.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// A snapshot's state is not what its certificates prove.
    #[error("the snapshot of table {table}: {error}")]
    State {
        /// The table.
        table: TableId,
        /// What is wrong.
        error: StateError,
    },
    /// A record that no version of this program writes.
    #[error("the log holds a record that can't be read: {0}")]
    Record(#[from] WireError),
    /// Records that don't follow from each other.
    #[error("table {table}: {error}")]
    Restore {
        /// The table.
        table: TableId,
        /// What is wrong.
        error: RestoreError,
    },
    /// A record for a table of another core.
    #[error(
        "the log holds records of table {0}, which another core has now: start with the core count of last time"
    )]
    OtherCore(TableId),
    /// The disk.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// What a core starts from.
pub struct Recovered {
    /// Its tables.
    pub tables: Vec<TableSetup>,
    /// Where its log goes on.
    pub tail: Tail,
    /// What tables are still to get of blocks before other tables' snapshots, in order.
    pub deliveries: Vec<Delivery>,
    /// Records read.
    pub records: u64,
}

/// What a core is recovered from.
pub struct Sources<'a> {
    /// Directory of log and snapshots.
    pub directory: &'a Path,
    /// The genesis.
    pub genesis: &'a Genesis,
    /// Sizes of the log.
    pub log: LogConfig,
    /// Agreement's timeouts, ns: first and longest.
    pub view_timeouts: (u64, u64),
    /// Keys the tables' indices; random.
    pub index_seed: u64,
}

/// A block that lies before its table's snapshot, for as long as others may need its receipts.
struct Past {
    blocks: BTreeMap<(TableId, Height), Vec<Block>>,
    failed: BTreeMap<(TableId, Height), (Hash, Failed)>,
}

/// Recovers a core's tables and log.
pub fn recover(
    sources: &Sources<'_>,
    shard: &Shard,
    placement: Placement,
    key: &Rc<KeyPair>,
) -> Result<Recovered, RecoveryError> {
    let mut tables = Vec::new();
    for table in placement.tables(shard) {
        tables.push(open_table(sources, shard, table, key)?);
    }
    let Some(mut scanner) = Scanner::open(sources.directory, shard.chain(), placement.core)? else {
        let id = LogId { chain: shard.chain(), core: placement.core, salt: random() };
        let tail = segment::create(sources.directory, id, sources.log)?;
        return Ok(Recovered { tables, tail, deliveries: Vec::new(), records: 0 });
    };
    let mut past = Past { blocks: BTreeMap::new(), failed: BTreeMap::new() };
    let mut records = 0;
    while let Some(record) = scanner.next_record()? {
        records += 1;
        match record.kind {
            AGREEMENT => restore(record.payload, record.position.segment, &mut tables, &mut past)?,
            OUTCOME => {
                let outcome = OutcomeRecord::decode(record.payload)?;
                past.failed.insert((outcome.table, outcome.height), (outcome.hash, outcome.failed));
            }
            _ => return Err(WireError::Field("record kind").into()),
        }
    }
    let tail = scanner.finish()?;
    let deliveries = deliver_again(&tables, &past);
    Ok(Recovered { tables, tail, deliveries, records })
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

fn open_table(
    sources: &Sources<'_>,
    shard: &Shard,
    id: TableId,
    key: &Rc<KeyPair>,
) -> Result<TableSetup, RecoveryError> {
    let config = partition::Config {
        chain: shard.chain(),
        epoch: shard.epoch(),
        id,
        tables: shard.tables,
        index_seed: sources.index_seed,
    };
    let newest = snapshot::newest_good(sources.directory, shard.chain(), id)?;
    for damaged in &newest.passed_over {
        eprintln!("table {id}: {damaged}; going on from an older snapshot or genesis, and the log");
    }
    let (state, base) = match &newest.snapshot {
        Some(snapshot) => {
            let sections = snapshot.sections().map(|section| (section.kind, section.bytes));
            load_state(config, &shard.committee, sigbatch::verify, sections)
                .map_err(|error| RecoveryError::State { table: id, error })?
        }
        None => {
            let genesis = sources.genesis;
            let own = genesis.allocations().iter().filter(|a| a.address.table(shard.tables) == id);
            let allocations = own.map(|allocation| (allocation.address, allocation.balance));
            let state = Table::genesis(config, shard.genesis, genesis.time(), allocations);
            let base = Base::genesis(state.block_hash(), state.meta().time);
            (state, base)
        }
    };
    let mut config = pbft::Config::new(id, shard.me, shard.committee.clone(), key.clone(), sigbatch::verify);
    (config.base_timeout, config.max_timeout) = sources.view_timeouts;
    let mut setup = TableSetup::new(state, Replica::new(config, base));
    if let Some(snapshot) = &newest.snapshot {
        setup.on_snapshot();
        for section in snapshot.sections().filter(|section| section.kind == SECTION_PROMISE) {
            let record = Record::decode(&Bytes::copy_from_slice(section.bytes))?;
            setup.replica.restore(record).map_err(|error| RecoveryError::Restore { table: id, error })?;
        }
    }
    Ok(setup)
}

fn restore(
    payload: &[u8],
    segment: u32,
    tables: &mut [TableSetup],
    past: &mut Past,
) -> Result<(), RecoveryError> {
    let mut reader = Reader::new(payload);
    let id = reader.u16()?;
    let record = Record::decode(&Bytes::copy_from_slice(&payload[2..]))?;
    let table = tables.iter_mut().find(|setup| setup.state.config().id == id);
    let table = table.ok_or(RecoveryError::OtherCore(id))?;
    if let Record::Proposal { block, .. } = &record {
        table.on_block(segment, block.height());
        if block.height() <= table.state.height() {
            past.blocks.entry((id, block.height())).or_default().push(block.clone());
        }
    }
    table.replica.restore(record).map_err(|error| RecoveryError::Restore { table: id, error })
}

/// What the blocks before each snapshot have for other tables, as far as the log holds them, by ascending height; before them what
/// the snapshots themselves have in flight. Inboxes ignore what they have applied.
fn deliver_again(tables: &[TableSetup], past: &Past) -> Vec<Delivery> {
    let mut all = Vec::new();
    for setup in tables {
        let id = setup.state.config().id;
        let mut rewind = Rewind::new(setup.state.meta());
        let mut rewound: Vec<Vec<Delivery>> = Vec::new();
        loop {
            let at = (id, rewind.height());
            let Some((hash, failed)) = past.failed.get(&at) else { break };
            let blocks = past.blocks.get(&at).map_or(&[][..], Vec::as_slice);
            let Some(block) = blocks.iter().find(|block| block.hash() == *hash) else { break };
            match rewind.step(block, failed) {
                Ok(deliveries) => rewound.push(deliveries),
                Err(_) => break,
            }
        }
        let floor = rewind.height();
        all.extend(setup.state.outbox().iter().filter(|delivery| delivery.height <= floor).cloned());
        all.extend(rewound.into_iter().rev().flatten());
    }
    all
}
