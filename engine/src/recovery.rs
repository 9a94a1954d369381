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
use shard_core::{Delivery, Failed, Table, partition, receipts::Rewind};

use crate::{
    genesis::Genesis,
    log::{LogConfig, LogId, LogPosition, ScanError, Scanner, Tail, segment},
    node::{
        AGREEMENT, OUTCOME, OutcomeRecord, SECTION_MARK, SECTION_PROMISE, StateError, TableSetup, load_state,
    },
    side::disk::Disk,
    snapshot::{self, Snapshot, SnapshotError},
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
    /// Where the log's newest record stands.
    pub end: LogPosition,
    /// What tables are still to get of blocks before other tables' snapshots, in order.
    pub deliveries: Vec<Delivery>,
    /// Records read.
    pub records: u64,
}

/// What an operator sets of a replica's [`pbft::Config`]; times in ns.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// First view timeout.
    pub view_timeout: u64,
    /// Longest view timeout.
    pub view_timeout_max: u64,
    /// Whether every block is checked here.
    pub check_all: bool,
    /// How long the checkers of a block are waited for.
    pub check_after: u64,
}

/// What a core is recovered from.
pub struct Sources<'a, D> {
    /// The disk.
    pub disk: D,
    /// Directory of log and snapshots.
    pub directory: &'a Path,
    /// The genesis.
    pub genesis: &'a Genesis,
    /// Sizes of the log.
    pub log: LogConfig,
    /// What is set about agreement.
    pub agreement: Agreement,
    /// Keys the tables' indices; random.
    pub index_seed: u64,
    /// Salt of the log, should there be none yet; random.
    pub log_salt: [u8; 32],
}

/// A block that lies before its table's snapshot, for as long as others may need its receipts.
struct Past {
    blocks: BTreeMap<(TableId, Height), Vec<Block>>,
    failed: BTreeMap<(TableId, Height), (Hash, Failed)>,
}

/// Recovers a core's tables and log.
pub fn recover<D: Disk>(
    sources: &Sources<'_, D>,
    shard: &Shard,
    placement: Placement,
    key: &Rc<KeyPair>,
) -> Result<Recovered, RecoveryError> {
    let mut tables = Vec::new();
    for table in placement.tables(shard) {
        tables.push(open_table(sources, shard, table, key)?);
    }
    segment::remove_leftovers(&sources.disk, sources.directory, placement.core)?;
    let disk = sources.disk.clone();
    let Some(mut scanner) = Scanner::open_on(disk, sources.directory, shard.chain(), placement.core)? else {
        let id = LogId { chain: shard.chain(), core: placement.core, salt: sources.log_salt };
        let tail = segment::create_on(&sources.disk, sources.directory, id, sources.log)?;
        let end = LogPosition { segment: tail.segment, offset: 0 };
        let tables = tables.into_iter().map(|table| table.setup).collect();
        return Ok(Recovered { tables, tail, end, deliveries: Vec::new(), records: 0 });
    };
    let mut past = Past { blocks: BTreeMap::new(), failed: BTreeMap::new() };
    let mut records = 0;
    let mut end = LogPosition { segment: 0, offset: 0 };
    while let Some(record) = scanner.next_record()? {
        records += 1;
        end = record.position;
        match record.kind {
            AGREEMENT => restore(record.payload, record.position, &mut tables, &mut past)?,
            OUTCOME => {
                let outcome = OutcomeRecord::decode(record.payload)?;
                past.failed.insert((outcome.table, outcome.height), (outcome.hash, outcome.failed));
            }
            _ => return Err(WireError::Field("record kind").into()),
        }
    }
    let tail = scanner.finish()?;
    let mut ready = Vec::new();
    for mut table in tables {
        let id = table.setup.state.config().id;
        table.keep_promises().map_err(|error| RecoveryError::Restore { table: id, error })?;
        ready.push(table.setup);
    }
    let tables = ready;
    let deliveries = deliver_again(&tables, &past);
    Ok(Recovered { tables, tail, end, deliveries, records })
}

fn open_table<D: Disk>(
    sources: &Sources<'_, D>,
    shard: &Shard,
    id: TableId,
    key: &Rc<KeyPair>,
) -> Result<Recovering, RecoveryError> {
    let config = partition::Config {
        chain: shard.chain(),
        epoch: shard.epoch(),
        id,
        tables: shard.tables,
        index_seed: sources.index_seed,
    };
    let newest = snapshot::newest_good(&sources.disk, sources.directory, shard.chain(), id)?;
    for damaged in &newest.passed_over {
        eprintln!("table {id}: {damaged}; going on from an older snapshot or genesis, and the log");
    }
    let (state, base) = match &newest.snapshot {
        Some(snapshot) => {
            let sections = snapshot.sections().map(|section| (section.kind, section.bytes));
            load_state(config, &shard.committee, shard.signatures.verify(), sections)
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
    let verify = shard.signatures.verify();
    let mut config = pbft::Config::new(id, shard.me, shard.committee.clone(), key.clone(), verify);
    let agreement = sources.agreement;
    (config.base_timeout, config.max_timeout) = (agreement.view_timeout, agreement.view_timeout_max);
    (config.check_all, config.check_after) = (agreement.check_all, agreement.check_after);
    let mut table = Recovering { setup: TableSetup::new(state, Replica::new(config, base)), promises: None };
    if let Some(snapshot) = &newest.snapshot {
        table.setup.on_snapshot();
        table.promises = Some(read_promises(snapshot)?);
    }
    Ok(table)
}

/// A table whose log is being read.
struct Recovering {
    setup: TableSetup,
    /// What the snapshot says was in force, until the log has been read up to there.
    promises: Option<Promises>,
}

/// The promises that a snapshot carries.
struct Promises {
    mark: LogPosition,
    records: Vec<Record>,
}

fn read_promises(snapshot: &Snapshot) -> Result<Promises, WireError> {
    let mut promises = Promises { mark: LogPosition { segment: 0, offset: 0 }, records: Vec::new() };
    for section in snapshot.sections() {
        match section.kind {
            SECTION_MARK => {
                let mut reader = Reader::new(section.bytes);
                promises.mark = LogPosition { segment: reader.u32()?, offset: reader.u32()? };
                reader.finish()?;
            }
            SECTION_PROMISE => {
                promises.records.push(Record::decode(&Bytes::copy_from_slice(section.bytes))?);
            }
            _ => {}
        }
    }
    Ok(promises)
}

impl Recovering {
    /// Restores one record of the log. Before the place where the snapshot's promises were taken only blocks and their commits
    /// count: what else was promised there is in them, or superseded.
    fn restore(&mut self, position: LogPosition, record: Record) -> Result<(), RestoreError> {
        if self.promises.as_ref().is_some_and(|promises| position > promises.mark) {
            self.keep_promises()?;
        }
        let before = self.promises.is_some();
        if before && !matches!(record, Record::Proposal { .. } | Record::Committed(_)) {
            return Ok(());
        }
        self.setup.replica.restore(record)
    }

    fn keep_promises(&mut self) -> Result<(), RestoreError> {
        let Some(promises) = self.promises.take() else { return Ok(()) };
        promises.records.into_iter().try_for_each(|record| self.setup.replica.restore(record))
    }
}

fn restore(
    payload: &[u8],
    position: LogPosition,
    tables: &mut [Recovering],
    past: &mut Past,
) -> Result<(), RecoveryError> {
    let id = Reader::new(payload).u16()?;
    let record = Record::decode(&Bytes::copy_from_slice(&payload[2..]))?;
    let table = tables.iter_mut().find(|table| table.setup.state.config().id == id);
    let table = table.ok_or(RecoveryError::OtherCore(id))?;
    table.setup.on_record(position.segment);
    if let Record::Proposal { block, .. } = &record {
        table.setup.on_block(position.segment, block.height());
        if block.height() <= table.setup.state.height() {
            past.blocks.entry((id, block.height())).or_default().push(block.clone());
        }
    }
    table.restore(position, record).map_err(|error| RecoveryError::Restore { table: id, error })
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
