//! Reading single records by position, from side threads: for RPC and for peers that catch up.
//!
//! A position names a record, not its group, so the reader searches backwards from it, sector by sector, for a group that
//! reaches over it and whose checksum is right. Bytes in a payload that look like a group can't pass that check.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use dag::ChainId;
use futures_lite::future::block_on;
use netio::AlignedBuf;

use super::cursor::read_header;
use super::frame::{
    FIRST_RECORD, GROUP_BYTES_LIMIT, GROUP_HEADER, Group, GroupHeader, LogKey, LogPosition, Records, SECTOR,
};
use super::scan::check_id;
use super::segment::zeros;
use super::{Damage, DamageReason, ScanError, segment};
use crate::side::disk::{DiskFile, StdDisk, name};

/// How far back each step of the search reads.
const STEP: u32 = 128 << 10;

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The segment was removed or recycled: no snapshot needs it any more.
    #[error("log segment {0} is gone")]
    Gone(u32),
    /// The log of another network or core, a damaged segment or group, or a failed read.
    #[error(transparent)]
    Log(#[from] ScanError),
    /// A good group is there, and no record of it begins at the position.
    #[error("no record begins at byte {offset} of log segment {segment}", segment = .0.segment, offset = .0.offset)]
    NotARecord(LogPosition),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Log(error.into())
    }
}

/// A record, copied out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// What the payload is.
    pub kind: u8,
    /// The bytes that were appended.
    pub payload: Vec<u8>,
}

/// Reads records by position. Keeps the last segment open and the last group in memory, so that reading on in order
/// costs one read and one hash for each group. Positions must be durable ones.
#[derive(Debug)]
pub struct RecordReader {
    directory: PathBuf,
    chain: ChainId,
    core: u16,
    open: Option<OpenSegment>,
    group: Option<LoadedGroup>,
}

#[derive(Debug)]
struct OpenSegment {
    number: u32,
    file: File,
    key: LogKey,
}

/// A checked group.
#[derive(Debug)]
struct LoadedGroup {
    segment: u32,
    header: GroupHeader,
    bytes: AlignedBuf,
}

/// Reads one record.
pub fn read_record(
    directory: &Path,
    chain: ChainId,
    core: u16,
    position: LogPosition,
) -> Result<OwnedRecord, ReadError> {
    RecordReader::new(directory, chain, core).read(position)
}

impl RecordReader {
    /// A reader of a core's log. Opens nothing yet.
    #[must_use]
    pub fn new(directory: &Path, chain: ChainId, core: u16) -> Self {
        Self { directory: directory.to_path_buf(), chain, core, open: None, group: None }
    }

    /// Reads the record at `position`, its group's checksum verified.
    pub fn read(&mut self, position: LogPosition) -> Result<OwnedRecord, ReadError> {
        let group = match self.group.take() {
            Some(group) if group.holds(position) => group,
            _ => self.load_group(position)?,
        };
        let record = group.record(position);
        self.group = Some(group);
        record
    }

    fn load_group(&mut self, position: LogPosition) -> Result<LoadedGroup, ReadError> {
        if self.open.as_ref().is_none_or(|open| open.number != position.segment) {
            self.open = Some(self.open_segment(position.segment)?);
        }
        let open = self.open.as_ref().expect("it was opened above");
        if let Some(group) = open.find_group(position)? {
            return Ok(group);
        }
        // The file may have been recycled under us: then its name is gone or its header another.
        self.open = None;
        self.open_segment(position.segment)?;
        let LogPosition { segment, offset } = position;
        Err(ScanError::from(Damage { segment, offset, reason: DamageReason::Checksum }).into())
    }

    fn open_segment(&self, number: u32) -> Result<OpenSegment, ReadError> {
        let path = segment::path(&self.directory, self.core, number);
        let (file, header) = match block_on(read_header(&StdDisk, &path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Gone(number)),
            result => result.map_err(|error| name(error, &path))?,
        };
        let header = header.map_err(|error| {
            let reason = DamageReason::Header(error);
            ScanError::from(Damage { segment: number, offset: 0, reason })
        })?;
        check_id(&header.id, self.chain, self.core, path)?;
        if header.segment != number {
            return Err(ReadError::Gone(number));
        }
        Ok(OpenSegment { number, file, key: header.id.key() })
    }
}

impl OpenSegment {
    /// The good group that reaches over `position`.
    fn find_group(&self, position: LogPosition) -> Result<Option<LoadedGroup>, ReadError> {
        let last = position.offset - position.offset % SECTOR;
        let lowest = SECTOR.max(last.saturating_sub(GROUP_BYTES_LIMIT - SECTOR));
        let mut end = last.saturating_add(SECTOR);
        while end > lowest {
            let start = lowest.max(end.saturating_sub(STEP));
            let mut step = zeros(end - start);
            let read = block_on(self.file.read_sectors(&mut step, 0, start.into()))?;
            for (index, sector) in step[..read].chunks_exact(SECTOR as usize).enumerate().rev() {
                let offset = start + u32::try_from(index).expect("a step has 32 sectors") * SECTOR;
                if let Some(group) = self.check_candidate(sector, offset, position)? {
                    return Ok(Some(group));
                }
            }
            end = start;
        }
        Ok(None)
    }

    fn check_candidate(
        &self,
        sector: &[u8],
        offset: u32,
        position: LogPosition,
    ) -> Result<Option<LoadedGroup>, ReadError> {
        let Ok(header) = GroupHeader::peek(sector) else { return Ok(None) };
        let total = u32::try_from(header.total_bytes()).expect("a group is at most 16 MiB");
        let here = (header.segment, header.offset) == (self.number, offset);
        if !here || position.offset - offset >= total {
            return Ok(None);
        }
        let mut bytes = zeros(total);
        let read = block_on(self.file.read_sectors(&mut bytes, 0, offset.into()))?;
        let whole = Group::decode(&bytes[..read], &self.key).is_ok();
        Ok(whole.then_some(LoadedGroup { segment: self.number, header, bytes }))
    }
}

impl LoadedGroup {
    fn holds(&self, position: LogPosition) -> bool {
        let end = u64::from(self.header.offset) + self.bytes.len() as u64;
        self.segment == position.segment
            && (u64::from(self.header.offset)..end).contains(&u64::from(position.offset))
    }

    fn record(&self, position: LogPosition) -> Result<OwnedRecord, ReadError> {
        let payload = &self.bytes[GROUP_HEADER..GROUP_HEADER + self.header.payload_bytes as usize];
        Records::new(payload, self.header.offset.saturating_add(FIRST_RECORD))
            .find(|record| record.offset == position.offset)
            .map(|record| OwnedRecord { kind: record.kind, payload: record.payload.to_vec() })
            .ok_or(ReadError::NotARecord(position))
    }
}
