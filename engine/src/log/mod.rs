//! The write-ahead log of one core.
//!
//! Append-only, hash-chained, written with direct IO, one group commit per loop turn. It holds votes before they are
//! sent and blocks before they are acknowledged.
//!
//! | module | is |
//! | --- | --- |
//! | [`frame`] | the bytes: segment headers, groups, records |
//! | [`segment`] | the files: names, making, removing |
//! | [`Writer`] | sans-io: collects records, says what to write where |
//! | [`Scanner`] | reads a log from its beginning, at recovery |
//! | [`RecordReader`] | reads single records, for RPC and peers that catch up |
//! | [`repair`] | cuts a damaged log, if the operator says so |
//! | [`BlockingLog`] | a writer with its files, for tools and measurements |
//! | [`measure`] | append rate against the bare disk's |
//!
//! # Fault model
//!
//! - **Crash at any instant.** A write of several sectors may leave any subset of them behind. At most one write is in
//!   flight, and no sector that is durable is ever written again, so only the last group can be torn. The scanner cuts it:
//!   nobody was told that it is durable.
//! - **Damage at rest**, any bit of any durable group: detected by its checksum, or by the chain. It is told apart from
//!   a torn tail by what lies behind: if a later group exists, the damaged one had been durable, and the scanner returns
//!   [`Damage`] and never goes on silently. **The last group is the exception.** Damage to it looks exactly like a torn
//!   tail and is cut like one. The recovery of a validator must therefore treat the votes of the last group as possibly
//!   lost, and fetch its blocks from peers.
//! - **Misdirected or lost writes**: detected by the segment and offset in each group, and by the chain.
//! - **A failed write or sync**: nothing is known about what the disk holds. The writer stops for good
//!   ([`Writer::commit_failed`]); the process must end and recover from what a fresh scan finds.
//! - **A full disk**: met only when a segment is prepared, never by a commit, since segments are written over before use.
//! - **Bytes chosen by strangers** in payloads can't be mistaken for groups: the checksum's key comes from the log's salt.
//! - Not covered: somebody who can write to the disk and knows the format can rewrite the whole log.

mod blocking;
mod cursor;
pub mod frame;
pub mod measure;
mod read;
pub mod repair;
mod scan;
pub mod segment;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fault;

use dag::Hash;

pub use blocking::{BlockingLog, FileSink, Sink};
pub use frame::{LogId, LogPosition, SECTOR};
pub use read::{OwnedRecord, ReadError, RecordReader, read_record};
pub use scan::{Damage, DamageReason, Record, ScanError, Scanner};
pub(crate) use scan::{Pace, verify_sealed};
pub use writer::{AppendError, Appended, Write, Writer};

/// Sizes of a log. They may change between runs: what is written stays readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size of a segment file in bytes; a multiple of [`SECTOR`].
    pub segment_bytes: u32,
    /// Largest group in bytes, header and padding included; a multiple of [`SECTOR`]. Bounds the memory of the writer
    /// (twice this) and the largest record.
    pub group_bytes: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, group_bytes: 2 << 20 }
    }
}

/// Why a [`LogConfig`] can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogConfigError {
    /// Sizes are whole sectors, at least one.
    #[error("log sizes must be multiples of {SECTOR} bytes and not zero")]
    NotSectors,
    /// A group must fit its segment behind the header, and stay within the format's limit.
    #[error("a log group of {group_bytes} bytes must be at most {max}")]
    GroupTooLarge {
        /// What was asked for.
        group_bytes: u32,
        /// What is possible.
        max: u32,
    },
}

impl LogConfig {
    /// Checks the sizes.
    pub fn validate(&self) -> Result<(), LogConfigError> {
        let whole = |bytes: u32| bytes > 0 && bytes.is_multiple_of(SECTOR);
        if !whole(self.segment_bytes) || !whole(self.group_bytes) {
            return Err(LogConfigError::NotSectors);
        }
        let max = (self.segment_bytes - SECTOR).min(frame::GROUP_BYTES_LIMIT);
        if self.group_bytes > max {
            return Err(LogConfigError::GroupTooLarge { group_bytes: self.group_bytes, max });
        }
        Ok(())
    }
}

/// The end of a log, as a scan found it or as a new log has it: where the writer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The log.
    pub id: LogId,
    /// The last segment that was begun.
    pub segment: u32,
    /// Size of that segment.
    pub segment_bytes: u32,
    /// Offset behind the last group in it.
    pub offset: u32,
    /// Number that the next segment gets.
    pub next_segment: u32,
    /// Sequence that the next group gets.
    pub next_sequence: u64,
    /// Checksum of the last group.
    pub previous: Hash,
    /// What lies behind the last group.
    pub kind: TailKind,
}

/// What lies behind the last good group of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailKind {
    /// Nothing that belongs to this log's future.
    Clean,
    /// A group that begins and isn't whole: torn by a crash, or durable once and damaged since (see the fault model).
    Torn,
}
