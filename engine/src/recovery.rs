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
    Block, Certificate, Hash, Height, TableId,
    client::Code,
    keys::{KeyPair, Verify},
    planted::{self, Defect},
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
    remembered::remembering,
    rpc::BlockInfo,
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
    /// Snapshots without a log: what was promised after them is unknown.
    #[error("the log of core {0} is gone, though its tables have snapshots")]
    NoLog(u16),
    /// The newest whole snapshot is older than what is left of the log: what was promised in between is unknown.
    #[error("table {0}: its newest whole snapshot is older than the log's beginning")]
    Gap(TableId),
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
    /// Executed blocks before the snapshots that the block index lacks, by table and ascending height.
    pub past: Vec<BlockInfo>,
    /// Lines for the operator's log.
    pub notes: Vec<String>,
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
    /// The log is read as if its segments below this one were gone: zero, but for a repair that looks ahead.
    pub log_from: u32,
    /// Whether the validator never votes (see [`crate::repair`]), so that it needs to remember no vote.
    pub silent: bool,
    /// What is set about agreement.
    pub agreement: Agreement,
    /// Keys the tables' indices; random.
    pub index_seed: u64,
    /// Salt of the log, should there be none yet; random.
    pub log_salt: [u8; 32],
    /// The highest block of a table that the block index has; above all heights where there is none.
    pub indexed: &'a dyn Fn(TableId) -> Height,
}

/// Blocks that lie before their table's snapshot, for as long as others may need their receipts.
#[derive(Default)]
struct Past {
    blocks: BTreeMap<(TableId, Height), Vec<Block>>,
    failed: BTreeMap<(TableId, Height), (Hash, Failed)>,
    /// By table: the height up to which the block index is complete.
    indexed: BTreeMap<TableId, Height>,
    /// What the block index lacks of each block.
    unindexed: BTreeMap<(TableId, Height), Unindexed>,
}

/// What is known of a block that the block index lacks.
#[derive(Default)]
struct Unindexed {
    certificate: Option<Certificate>,
    causes: Vec<Code>,
}

/// Recovers a core's tables and log.
pub fn recover<D: Disk>(
    sources: &Sources<'_, D>,
    shard: &Shard,
    placement: Placement,
    key: &Rc<KeyPair>,
) -> Result<Recovered, RecoveryError> {
    let (mut tables, mut notes) = (Vec::new(), Vec::new());
    let verify = remembering(shard.signatures.verify(), shard.known.clone());
    for table in placement.tables(shard) {
        tables.push(open_table(sources, shard, table, key, &verify, &mut notes)?);
    }
    segment::remove_leftovers(&sources.disk, sources.directory, placement.core)?;
    let (disk, from) = (sources.disk.clone(), sources.log_from);
    let scanner = Scanner::open_from(disk, sources.directory, shard.chain(), placement.core, from)?;
    let Some(mut scanner) = scanner else {
        if !sources.silent && tables.iter().any(|table| table.promises.is_some() || table.lost) {
            return Err(RecoveryError::NoLog(placement.core));
        }
        let id = LogId { chain: shard.chain(), core: placement.core, salt: sources.log_salt };
        let tail = segment::create_on(&sources.disk, sources.directory, id, sources.log)?;
        let end = LogPosition { segment: tail.segment, offset: 0 };
        let tables = tables.into_iter().map(|table| table.setup).collect();
        return Ok(Recovered {
            tables,
            tail,
            end,
            deliveries: Vec::new(),
            records: 0,
            past: Vec::new(),
            notes,
        });
    };
    let indexed = placement.tables(shard).into_iter().map(|table| (table, (sources.indexed)(table)));
    let mut past = Past { indexed: indexed.collect(), ..Past::default() };
    let mut records = 0;
    if !sources.silent {
        tables.iter().try_for_each(|table| table.reaches_into(&scanner))?;
    }
    let mut end = LogPosition { segment: scanner.first_segment(), offset: 0 };
    while let Some(record) = scanner.next_record()? {
        records += 1;
        end = record.position;
        match record.kind {
            AGREEMENT => restore(record.payload, record.position, &mut tables, &mut past)?,
            OUTCOME => {
                let outcome = OutcomeRecord::decode(record.payload)?;
                past.on_outcome(outcome);
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
    let past = past.for_index(&tables);
    Ok(Recovered { tables, tail, end, deliveries, records, past, notes })
}

fn open_table<D: Disk>(
    sources: &Sources<'_, D>,
    shard: &Shard,
    id: TableId,
    key: &Rc<KeyPair>,
    verify: &Rc<Verify>,
    notes: &mut Vec<String>,
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
        notes.push(format!("table {id}: {damaged}; going on from an older snapshot or genesis, and the log"));
    }
    let (state, base) = match &newest.snapshot {
        Some(snapshot) => {
            let sections = snapshot.sections().map(|section| (section.kind, section.bytes));
            load_state(config, &shard.committee, &**verify, |_, _| true, sections)
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
    let mut config = pbft::Config::new(id, shard.me, shard.committee.clone(), key.clone(), verify.clone());
    let agreement = sources.agreement;
    (config.base_timeout, config.max_timeout) = (agreement.view_timeout, agreement.view_timeout_max);
    (config.check_all, config.check_after) = (agreement.check_all, agreement.check_after);
    let mut table =
        Recovering { setup: TableSetup::new(state, Replica::new(config, base)), promises: None, lost: false };
    table.lost = newest.snapshot.is_none() && !newest.passed_over.is_empty();
    if let Some(snapshot) = &newest.snapshot {
        table.setup.on_snapshot();
        table.promises = Some(read_promises(snapshot)?);
    }
    Ok(table)
}

/// For each table of a core: the segment that was written when the promises of its newest whole snapshot were taken, if it has one.
pub(crate) fn promised_before<D: Disk>(
    sources: &Sources<'_, D>,
    shard: &Shard,
    placement: Placement,
) -> Result<Vec<Option<u32>>, RecoveryError> {
    let mark = |table| {
        let newest = snapshot::newest_good(&sources.disk, sources.directory, shard.chain(), table)?;
        let promises = newest.snapshot.as_ref().map(read_promises).transpose()?;
        Ok(promises.map(|promises| promises.mark.segment))
    };
    placement.tables(shard).into_iter().map(mark).collect()
}

/// A table whose log is being read.
struct Recovering {
    setup: TableSetup,
    /// What the snapshot says was in force, until the log has been read up to there.
    promises: Option<Promises>,
    /// It has had snapshots, and none is whole.
    lost: bool,
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
    /// Checks that the log has everything that was promised since the table's snapshot was taken, or ever. It has not where a newer
    /// snapshot, for which the log's beginning was removed, is damaged.
    fn reaches_into<D: Disk>(&self, log: &Scanner<D>) -> Result<(), RecoveryError> {
        let reaches = match &self.promises {
            Some(promises) => promises.mark.segment >= log.first_segment(),
            // One that never had a snapshot has promised nothing in what was removed.
            None => !self.lost,
        };
        match reaches || log.is_complete() {
            true => Ok(()),
            false => Err(RecoveryError::Gap(self.setup.state.config().id)),
        }
    }

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
        if planted::is(Defect::PromisesForgotten) {
            return Ok(());
        }
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
    match &record {
        Record::Proposal { block, .. } => {
            table.setup.on_block(position.segment, block.height());
            if block.height() <= table.setup.state.height() {
                past.blocks.entry((id, block.height())).or_default().push(block.clone());
            }
        }
        Record::Committed(certificate) => past.on_committed(id, certificate),
        _ => {}
    }
    table.restore(position, record).map_err(|error| RecoveryError::Restore { table: id, error })
}

impl Past {
    fn on_outcome(&mut self, outcome: OutcomeRecord) {
        let at = (outcome.table, outcome.height);
        if let Some(unindexed) = self.unindexed(at) {
            unindexed.causes = outcome.causes;
        }
        self.failed.insert(at, (outcome.hash, outcome.failed));
    }

    fn on_committed(&mut self, table: TableId, certificate: &Certificate) {
        if let Some(unindexed) = self.unindexed((table, certificate.vote.height)) {
            unindexed.certificate = Some(certificate.clone());
        }
    }

    fn unindexed(&mut self, at: (TableId, Height)) -> Option<&mut Unindexed> {
        let indexed = self.indexed.get(&at.0).copied().unwrap_or(Height::MAX);
        (at.1 > indexed).then(|| self.unindexed.entry(at).or_default())
    }

    /// The blocks that the index lacks and execution won't tell it of.
    fn for_index(mut self, tables: &[TableSetup]) -> Vec<BlockInfo> {
        let heights: BTreeMap<TableId, Height> =
            tables.iter().map(|setup| (setup.state.config().id, setup.state.height())).collect();
        let unindexed = std::mem::take(&mut self.unindexed).into_iter();
        let before = unindexed.filter(|(at, _)| heights.get(&at.0).is_some_and(|height| at.1 <= *height));
        before.filter_map(|(at, unindexed)| self.info(at, unindexed)).collect()
    }

    fn info(&self, at: (TableId, Height), unindexed: Unindexed) -> Option<BlockInfo> {
        let (hash, failed) = self.failed.get(&at)?;
        let block = self.blocks.get(&at)?.iter().find(|block| block.hash() == *hash)?.clone();
        let failed = (0..block.len()).filter(|&index| failed.contains(index));
        let failed =
            failed.map(|index| u32::try_from(index).expect("at most 1024")).zip(unindexed.causes).collect();
        Some(BlockInfo { block, certificate: Some(unindexed.certificate?), failed })
    }
}

/// What the blocks before each snapshot have for other tables, as far as the log holds them, by ascending height; before them what
/// the snapshots themselves have in flight. Inboxes ignore what they have applied.
fn deliver_again(tables: &[TableSetup], past: &Past) -> Vec<Delivery> {
    let mut all = Vec::new();
    if planted::is(Defect::ReceiptLost) {
        return all;
    }
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
