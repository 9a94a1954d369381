//! The index's file: what one commit writes, and what one look-up reads.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use dag::{Height, TableId, wire::WireError};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, WriteTransaction,
};

use super::entry::{Entry, bucket, decode_block, encode_block, place};
use crate::rpc::BlockInfo;

const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
const PLACES: TableDefinition<'_, (TableId, Height), u64> = TableDefinition::new("places");
const RUNS: TableDefinition<'_, u32, (u64, u64)> = TableDefinition::new("runs");
const BUCKETS: TableDefinition<'_, (u32, u8), &[u8]> = TableDefinition::new("buckets");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Version of the layout.
const VERSION: u64 = 1;
/// Entries of a run.
const RUN: usize = 1 << 16;
/// redb's cache, bytes.
const CACHE: usize = 16 << 20;
/// Blocks that one commit forgets, at most: the rest goes with the next ones.
const FORGET: usize = 4096;

/// Why the index can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is damaged, or no index.
    #[error(
        "the block index {path} can't be opened: {reason}; remove the file (it is made anew from what the log still holds), \
         or set enabled = false under [index]"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system does not let it be read or written, or its disk is full.
    #[error(
        "the block index {path} can't be opened: {error}; mend that and start again, or set enabled = false under [index]"
    )]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another program's layout.
    #[error(
        "the block index {path} has layout {found}, and this program writes layout {VERSION}: remove the file, it is made anew from what the log still holds"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// redb's file, or the disk under it.
    #[error("{0}")]
    Store(redb::Error),
    /// A value that no version of this program writes.
    #[error("a block in it is damaged: {0}")]
    Value(#[from] WireError),
    /// The file is being opened anew after a failure.
    #[error("it is closed after a failed write, and tried again every second")]
    Closed,
    /// The thread.
    #[error("the index thread can't be started: {0}")]
    Thread(io::Error),
}

macro_rules! store_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for IndexError {
            fn from(error: $error) -> IndexError {
                IndexError::Store(error.into())
            }
        })*
    };
}

store_errors!(
    redb::DatabaseError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

/// The open file.
pub(super) struct Store {
    database: Database,
    /// What is gathered for the next run; readers look here first.
    open: RwLock<Vec<Entry>>,
    /// Entries that make a run.
    run: usize,
}

/// Blocks on their way into the file.
pub(super) struct Addition {
    write: WriteTransaction,
    ends: Ends,
    /// The blocks' and their transactions'.
    entries: Vec<Entry>,
}

/// What the writer knows of the file's ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ends {
    /// The arrival that the next block gets.
    pub next: u64,
    /// The number that the next run gets, and the first arrival in it.
    pub run: (u32, u64),
    /// Bytes of all blocks.
    pub bytes: u64,
}

impl Store {
    /// Opens the file, or makes it; and gathers the run that was not written yet.
    pub fn open(path: &Path) -> Result<(Store, Ends), IndexError> {
        Store::with_runs(path, RUN)
    }

    pub(super) fn with_runs(path: &Path, run: usize) -> Result<(Store, Ends), IndexError> {
        let damaged =
            |error: &dyn fmt::Display| IndexError::Open { path: path.into(), reason: error.to_string() };
        let new = match path.metadata() {
            Ok(file) => file.len() == 0,
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        Store::opened(path, run).map_err(|error| match error {
            IndexError::Store(redb::Error::Io(error)) => match error.kind() {
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof => damaged(&error),
                _ => {
                    if new {
                        // Else what is there of it would be taken for a damaged one.
                        let _ = std::fs::remove_file(path);
                    }
                    IndexError::Disk { path: path.into(), error }
                }
            },
            IndexError::Store(_) | IndexError::Value(_) => damaged(&error),
            other => other,
        })
    }

    fn opened(path: &Path, run: usize) -> Result<(Store, Ends), IndexError> {
        // After a crash redb checks all pages, unless every commit was made for quick repair, as ours are.
        let database = Builder::new().set_cache_size(CACHE).create(path)?;
        let ends = prepare(&database, path)?;
        let store = Store { database, open: RwLock::default(), run };
        let mut open = Vec::new();
        {
            let read = store.database.begin_read()?;
            for block in read.open_table(BLOCKS)?.range(ends.run.1..)? {
                let (arrival, value) = block?;
                gather(&mut open, &decode_block(value.value())?, arrival.value());
            }
        }
        *store.open.write().unwrap_or_else(PoisonError::into_inner) = open;
        Ok((store, ends))
    }

    /// Begins to add blocks behind `ends`. There is one addition at a time; after an error the file has to be opened anew.
    pub fn begin(&self, ends: Ends) -> Result<Addition, IndexError> {
        let mut write = self.database.begin_write()?;
        write.set_quick_repair(true);
        Ok(Addition { write, ends, entries: Vec::new() })
    }

    /// Forgets the oldest blocks above `retain` bytes, and makes that and an addition durable and visible.
    pub fn commit(&self, addition: Addition, retain: u64) -> Result<Ends, IndexError> {
        let Addition { write, mut ends, mut entries } = addition;
        forget(&mut write.open_table(BLOCKS)?, &mut write.open_table(PLACES)?, &mut ends, retain)?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let full = open.len() + entries.len() >= self.run;
        if full {
            // Copied, so that readers find in memory what is not on disk yet, until it is.
            entries.extend_from_slice(&open);
            entries.sort_unstable();
            write_run(&write, &entries, &mut ends)?;
        }
        drop(open);
        forget_runs(&write)?;
        write.open_table(META)?.insert("bytes", ends.bytes)?;
        write.commit()?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        match full {
            true => open.clear(),
            false => open.append(&mut entries),
        }
        Ok(ends)
    }

    /// The block of a height.
    pub fn block_at(&self, table: TableId, height: Height) -> Result<Option<BlockInfo>, IndexError> {
        let read = self.database.begin_read()?;
        let Some(arrival) = read.open_table(PLACES)?.get((table, height))? else { return Ok(None) };
        block(&read, arrival.value())
    }

    /// The highest block of a table.
    pub fn newest(&self, table: TableId) -> Result<Height, IndexError> {
        let read = self.database.begin_read()?;
        let newest = read.open_table(PLACES)?.range((table, 0)..=(table, Height::MAX))?.next_back();
        Ok(newest.transpose()?.map_or(0, |(place, _)| place.value().1))
    }

    /// The first block with an entry of this fingerprint that `confirms`, newest first.
    pub fn find<T>(
        &self,
        fingerprint: u64,
        mut confirms: impl FnMut(Entry, BlockInfo) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        let open: Vec<Entry> = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            open.iter().filter(|entry| entry.fingerprint == fingerprint).copied().collect()
        };
        // Begun only now: a run that was written meanwhile is seen here.
        let read = self.database.begin_read()?;
        let mut look = |entry: Entry| match block(&read, entry.arrival()) {
            Ok(info) => Ok(info.and_then(|info| confirms(entry, info))),
            Err(error) => Err(error),
        };
        for entry in open {
            if let Some(found) = look(entry)? {
                return Ok(Some(found));
            }
        }
        let buckets = read.open_table(BUCKETS)?;
        for run in read.open_table(RUNS)?.iter()?.rev() {
            let Some(entries) = buckets.get((run?.0.value(), bucket(fingerprint)))? else { continue };
            for entry in Entry::find(entries.value(), fingerprint) {
                if let Some(found) = look(entry)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

impl Addition {
    /// Adds blocks, but for those that are there already: they were told again after a restart.
    pub fn push(&mut self, blocks: &[BlockInfo]) -> Result<(), IndexError> {
        let (mut values, mut places) = (self.write.open_table(BLOCKS)?, self.write.open_table(PLACES)?);
        for info in blocks {
            let header = info.block.header();
            let place = (header.table, header.height);
            let Some(certificate) = &info.certificate else { continue };
            if places.get(place)?.is_some() {
                continue;
            }
            let value = encode_block(info, certificate);
            places.insert(place, self.ends.next)?;
            values.insert(self.ends.next, value.as_slice())?;
            self.ends.bytes += value.len() as u64;
            gather(&mut self.entries, info, self.ends.next);
            self.ends.next += 1;
        }
        Ok(())
    }
}

/// Makes the tables where there are none, and finds the file's ends.
fn prepare(database: &Database, path: &Path) -> Result<Ends, IndexError> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    let ends = {
        let mut meta = write.open_table(META)?;
        let found = meta.get("version")?.map(|version| version.value());
        match found {
            Some(VERSION) => {}
            Some(found) => return Err(IndexError::Version { path: path.into(), found }),
            None => drop(meta.insert("version", VERSION)?),
        }
        let bytes = meta.get("bytes")?.map_or(0, |bytes| bytes.value());
        let next = write.open_table(BLOCKS)?.last()?.map_or(0, |(arrival, _)| arrival.value() + 1);
        let run =
            write.open_table(RUNS)?.last()?.map_or((0, 0), |(run, span)| (run.value() + 1, span.value().1));
        write.open_table(PLACES)?;
        write.open_table(BUCKETS)?;
        // Where all blocks were forgotten, arrivals go on above the last run's.
        Ends { next: next.max(run.1), run, bytes }
    };
    write.commit()?;
    Ok(ends)
}

fn block(read: &ReadTransaction, arrival: u64) -> Result<Option<BlockInfo>, IndexError> {
    let value = read.open_table(BLOCKS)?.get(arrival)?;
    Ok(value.map(|value| decode_block(value.value())).transpose()?)
}

fn gather(run: &mut Vec<Entry>, info: &BlockInfo, arrival: u64) {
    let ids = (0..info.block.len()).map(|index| Entry::transaction(&info.block.id(index), arrival, index));
    run.extend(ids.chain(std::iter::once(Entry::block(&info.block.hash(), arrival))));
}

/// Removes the oldest blocks, as long as there are more bytes than may be.
fn forget(
    values: &mut redb::Table<'_, u64, &[u8]>,
    places: &mut redb::Table<'_, (TableId, Height), u64>,
    ends: &mut Ends,
    retain: u64,
) -> Result<(), IndexError> {
    for _ in 0..FORGET {
        if ends.bytes <= retain || values.len()? <= 1 {
            break;
        }
        let Some((_, value)) = values.pop_first()? else { break };
        places.remove(place(value.value())?)?;
        ends.bytes = ends.bytes.saturating_sub(value.value().len() as u64);
    }
    Ok(())
}

/// Writes a sorted run.
fn write_run(write: &WriteTransaction, run: &[Entry], ends: &mut Ends) -> Result<(), IndexError> {
    let mut buckets = write.open_table(BUCKETS)?;
    let mut bytes = Vec::new();
    for entries in run.chunk_by(|a, b| a.bucket() == b.bucket()) {
        bytes.clear();
        entries.iter().for_each(|entry| entry.encode(&mut bytes));
        buckets.insert((ends.run.0, entries[0].bucket()), bytes.as_slice())?;
    }
    write.open_table(RUNS)?.insert(ends.run.0, (ends.run.1, ends.next))?;
    ends.run = (ends.run.0 + 1, ends.next);
    Ok(())
}

/// Removes the runs whose blocks are all forgotten.
fn forget_runs(write: &WriteTransaction) -> Result<(), IndexError> {
    let first = write.open_table(BLOCKS)?.first()?.map_or(0, |(arrival, _)| arrival.value());
    let mut runs = write.open_table(RUNS)?;
    // The last one stays: it says where arrivals go on.
    while runs.len()? > 1 {
        let oldest = runs.first()?.map(|(run, span)| (run.value(), span.value().1));
        let Some((run, end)) = oldest.filter(|(_, end)| *end <= first) else { break };
        debug_assert!(end <= first);
        runs.remove(run)?;
        let mut buckets = write.open_table(BUCKETS)?;
        for bucket in 0..=u8::MAX {
            buckets.remove((run, bucket))?;
        }
    }
    Ok(())
}
