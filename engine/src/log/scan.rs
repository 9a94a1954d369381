//! Reading a log from its beginning, at recovery.
//!
//! The scanner follows the chain from the first segment on and hands out records. Where the chain stops it decides what
//! that means. It searches everything behind the stop for groups that belong to the log's future:
//!
//! - **none**: the end. What lies there is blank, a former life of a recycled file, or a torn last group; it is cut.
//! - **one or more**: the group at the stop had been durable before these were written. That is [`Damage`].
//!
//! One case needs care: the first write of a segment carries header and first group together, so a crash may leave that
//! group whole under a torn header. Alone, such a group is a torn tail as well.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dag::{
    ChainId,
    planted::{self, Defect},
};
use futures_lite::future::block_on;

use super::cursor::{Cursor, Link, read_header};
use super::frame::{
    GROUP_HEADER, HeaderError, LogId, LogPosition, RECORD_HEADER, Records, SECTOR, SegmentHeader,
};
use super::{Tail, TailKind, segment};
use crate::side::disk::{Disk, DiskFile, StdDisk, name};

/// A place where the log is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log segment {segment} is damaged at byte {offset}: {reason}")]
pub struct Damage {
    /// Number of the segment.
    pub segment: u32,
    /// Where the first bad group begins; zero for the segment's header.
    pub offset: u32,
    /// What is wrong there.
    pub reason: DamageReason,
}

/// What is wrong with a group or a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamageReason {
    /// The segment's header can't be read.
    #[error("{0}")]
    Header(HeaderError),
    /// No group begins here, and later ones exist.
    #[error("a group is missing")]
    Absent,
    /// A group begins here and its bytes are not those that were written.
    #[error("a group's checksum is wrong")]
    Checksum,
    /// A whole group that was written for another place.
    #[error("the group there was written for segment {segment}, byte {offset}")]
    Stale {
        /// Segment that it names.
        segment: u32,
        /// Offset that it names.
        offset: u32,
    },
    /// A whole group out of order.
    #[error("the group there has sequence {found} in place of {expected}")]
    Sequence {
        /// Sequence that should be here.
        expected: u64,
        /// Sequence that is here.
        found: u64,
    },
    /// A whole group that doesn't follow from the one before.
    #[error("the group there doesn't follow from the one before")]
    Chain,
    /// Right checksum, wrong record lengths: it was written so.
    #[error("a group's records are malformed")]
    Records,
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The log belongs to another network.
    #[error("{path} belongs to chain {found:016x}, not to chain {expected:016x}")]
    WrongChain {
        /// The segment that says so.
        path: PathBuf,
        /// Our chain.
        expected: ChainId,
        /// Its chain.
        found: ChainId,
    },
    /// A file of another core under this core's name.
    #[error("{path} belongs to core {found}, not to core {expected}")]
    WrongCore {
        /// The segment that says so.
        path: PathBuf,
        /// Our core.
        expected: u16,
        /// Its core.
        found: u16,
    },
    /// Written by a later program.
    #[error("{path}: {source}")]
    Version {
        /// The segment that says so.
        path: PathBuf,
        /// Which version.
        source: HeaderError,
    },
    /// The log is damaged before its end. See [`repair`](super::repair).
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A file can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A record of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it stands.
    pub position: LogPosition,
    /// The group that holds it.
    pub sequence: u64,
    /// What the payload is; the log doesn't care.
    pub kind: u8,
    /// The bytes that were appended.
    pub payload: &'a [u8],
}

/// Reads the records of a log in order, holding one group in memory.
#[derive(Debug)]
pub struct Scanner<D: Disk = StdDisk> {
    disk: D,
    directory: PathBuf,
    id: LogId,
    segments: Vec<Segment>,
    /// Sequence of the first group that is there.
    first_sequence: u64,
    /// Index of the segment being read.
    current: usize,
    /// Size of that segment, as its header says.
    segment_bytes: u32,
    cursor: Cursor<D::File>,
    group: GroupProgress,
    tail: Option<Tail>,
}

/// A segment file, as its header tells.
#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u32,
    header: Result<SegmentHeader, HeaderError>,
}

impl Segment {
    /// The header, if the segment was begun: one that names another number is the file's former life.
    fn begun(&self) -> Option<&SegmentHeader> {
        self.header.as_ref().ok().filter(|header| header.segment == self.number)
    }
}

/// The group that records are handed out from.
#[derive(Clone, Copy, Debug, Default)]
struct GroupProgress {
    sequence: u64,
    /// Offset of the group in its segment.
    offset: u32,
    /// Index in the group of the next record, and of the end of the last one.
    next: usize,
    end: usize,
}

impl Scanner {
    /// Opens the log of a core. `None` when there is none: then one is [created](segment::create).
    pub fn open(directory: &Path, chain: ChainId, core: u16) -> Result<Option<Scanner>, ScanError> {
        Scanner::open_from(StdDisk, directory, chain, core, 0)
    }
}

impl<D: Disk> Scanner<D> {
    /// The same on another disk, as if the segments below `from` were gone.
    pub fn open_from(
        disk: D,
        directory: &Path,
        chain: ChainId,
        core: u16,
        from: u32,
    ) -> Result<Option<Scanner<D>>, ScanError> {
        let mut segments = read_headers(&disk, directory, chain, core)?;
        segments.retain(|segment| segment.number >= from);
        let Some(lowest) = segments.first() else { return Ok(None) };
        let Some(first) = lowest.begun().copied() else {
            // The first segment is created with its header, so this isn't a crash's doing.
            let reason = DamageReason::Header(lowest.header.err().unwrap_or(HeaderError::Magic));
            return Err(Damage { segment: lowest.number, offset: 0, reason }.into());
        };
        let mut scanner = Scanner {
            directory: directory.to_path_buf(),
            id: first.id,
            segments,
            first_sequence: first.first_sequence,
            current: 0,
            segment_bytes: first.segment_bytes,
            cursor: cursor_at(&disk, directory, &first.id, Link::first(&first))?,
            disk,
            group: GroupProgress::default(),
            tail: None,
        };
        scanner.group.sequence = first.first_sequence;
        Ok(Some(scanner))
    }

    /// The network, core and salt of the log.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

    /// Number of the first segment that is there.
    #[must_use]
    pub fn first_segment(&self) -> u32 {
        self.segments.first().map_or(0, |segment| segment.number)
    }

    /// Whether nothing was ever removed from the log's beginning.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.first_sequence == 1
    }

    /// The next record; `None` at the end of the log. After an error it must not be called again.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ScanError> {
        while self.group.next == self.group.end {
            if !self.next_group()? {
                return Ok(None);
            }
        }
        let GroupProgress { sequence, offset, next, end } = self.group;
        let at = offset + u32::try_from(next).expect("a group is at most 16 MiB");
        let bytes = &self.cursor.loaded(offset)[next..end];
        let record = Records::new(bytes, at).next().expect("the group's records have been checked");
        self.group.next += RECORD_HEADER + record.payload.len();
        let position = LogPosition { segment: self.cursor.link.segment, offset: record.offset };
        Ok(Some(Record { position, sequence, kind: record.kind, payload: record.payload }))
    }

    /// Reads over what is left and returns where the writer goes on.
    pub fn finish(mut self) -> Result<Tail, ScanError> {
        loop {
            if let Some(tail) = self.tail {
                return Ok(tail);
            }
            self.next_group()?;
        }
    }

    /// Moves on to the next group, over segments. `false` at the end of the log.
    fn next_group(&mut self) -> Result<bool, ScanError> {
        if self.tail.is_some() {
            return Ok(false);
        }
        loop {
            let reason = match block_on(self.cursor.advance())? {
                Ok((at, group)) => {
                    let end = GROUP_HEADER + group.header.payload_bytes as usize;
                    self.group =
                        GroupProgress { sequence: at.sequence, offset: at.offset, next: GROUP_HEADER, end };
                    return Ok(true);
                }
                Err(reason) => reason,
            };
            if self.next_segment()? {
                continue;
            }
            self.tail = Some(self.judge(reason)?);
            return Ok(false);
        }
    }

    /// Goes to the next segment, if the chain goes on there.
    fn next_segment(&mut self) -> Result<bool, ScanError> {
        let link = self.cursor.link;
        let Some(next) = self.segments.get(self.current + 1).and_then(Segment::begun).copied() else {
            return Ok(false);
        };
        if (next.first_sequence, next.previous) != (link.sequence, link.previous) {
            return Ok(false);
        }
        self.cursor = cursor_at(&self.disk, &self.directory, &self.id, Link::first(&next))?;
        self.segment_bytes = next.segment_bytes;
        self.current += 1;
        Ok(true)
    }

    /// The chain stops here. Is it the end, or damage?
    fn judge(&mut self, reason: DamageReason) -> Result<Tail, ScanError> {
        let link = self.cursor.link;
        let here = Damage { segment: link.segment, offset: link.offset, reason };
        let comes_later = match reason {
            DamageReason::Sequence { expected, found } => found > expected,
            DamageReason::Chain => true,
            _ => false,
        };
        let behind = link.offset.saturating_add(SECTOR);
        if comes_later || block_on(self.cursor.probe(behind, link.sequence))?.is_some() {
            return Err(here.into());
        }
        for index in self.current + 1..self.segments.len() {
            self.judge_later_segment(index, here)?;
        }
        let torn = !matches!(reason, DamageReason::Absent | DamageReason::Stale { .. });
        self.tail_at(link, if torn { TailKind::Torn } else { TailKind::Clean })
    }

    /// Finds damage if the segment holds anything of the log's future.
    fn judge_later_segment(&self, index: usize, here: Damage) -> Result<(), ScanError> {
        let link = self.cursor.link;
        let segment = &self.segments[index];
        if segment.begun().is_some() {
            return Err(here.into());
        }
        let mut cursor =
            cursor_at(&self.disk, &self.directory, &self.id, Link { segment: segment.number, ..link })?;
        let Some(found) = block_on(cursor.probe(SECTOR, link.sequence))? else { return Ok(()) };
        let follows =
            (found.offset, found.sequence, found.previous) == (SECTOR, link.sequence, link.previous);
        if !follows || index != self.current + 1 {
            return Err(here.into());
        }
        // The first write of a segment, torn in its header. It was the log's last write unless another follows it.
        if block_on(cursor.probe(2 * SECTOR, link.sequence))?.is_some() {
            let reason = DamageReason::Header(segment.header.err().unwrap_or(HeaderError::Magic));
            return Err(Damage { segment: segment.number, offset: 0, reason }.into());
        }
        Ok(())
    }

    fn tail_at(&self, link: Link, kind: TailKind) -> Result<Tail, ScanError> {
        let damaged = segment::list_damaged(&self.disk, &self.directory, self.id.core)?;
        let put_aside = damaged.last().copied().filter(|last| *last >= link.segment);
        let cut = !(kind == TailKind::Torn && planted::is(Defect::TailNotCut));
        Ok(Tail {
            id: self.id,
            segment: link.segment,
            segment_bytes: self.segment_bytes,
            // Positions in segments that were put aside must not come to mean something else: go on above them all.
            offset: if put_aside.is_some() {
                self.segment_bytes
            } else {
                link.offset + if cut { 0 } else { SECTOR }
            },
            next_segment: put_aside.unwrap_or(link.segment) + 1,
            next_sequence: link.sequence,
            previous: link.previous,
            kind,
        })
    }
}

/// Reads the headers of all segments and refuses those of another log.
fn read_headers(
    disk: &impl Disk,
    directory: &Path,
    chain: ChainId,
    core: u16,
) -> Result<Vec<Segment>, ScanError> {
    let numbers = segment::list_on(disk, directory, core)?;
    numbers.into_iter().map(|number| read_one_header(disk, directory, chain, core, number)).collect()
}

fn read_one_header(
    disk: &impl Disk,
    directory: &Path,
    chain: ChainId,
    core: u16,
    number: u32,
) -> Result<Segment, ScanError> {
    let path = segment::path(directory, core, number);
    let (_, header) = block_on(read_header(disk, &path)).map_err(|error| name(error, &path))?;
    match header {
        Ok(header) => check_id(&header.id, chain, core, path)?,
        Err(source @ HeaderError::Version(_)) => return Err(ScanError::Version { path, source }),
        Err(_) => {}
    }
    Ok(Segment { number, header })
}

/// Refuses a segment of another network or core.
pub(super) fn check_id(id: &LogId, chain: ChainId, core: u16, path: PathBuf) -> Result<(), ScanError> {
    if id.chain != chain {
        return Err(ScanError::WrongChain { path, expected: chain, found: id.chain });
    }
    if id.core != core {
        return Err(ScanError::WrongCore { path, expected: core, found: id.core });
    }
    Ok(())
}

fn cursor_at<D: Disk>(disk: &D, directory: &Path, id: &LogId, link: Link) -> io::Result<Cursor<D::File>> {
    let path = segment::path(directory, id.core, link.segment);
    Ok(Cursor::new(block_on(disk.open(&path))?, id.key(), link))
}

/// How fast, and how long, [`verify_sealed`] reads.
#[derive(Clone, Copy)]
pub(crate) struct Pace<'a> {
    /// Most bytes to read in a second.
    pub(crate) bytes_per_second: u32,
    /// Whether the result is still wanted.
    pub(crate) go_on: &'a dyn Fn() -> bool,
}

/// Verifies every group of a segment that is full.
///
/// `Ok` also when the segment is not yet sealed by a successor, is removed or recycled meanwhile, or when the result is no
/// longer wanted.
pub(crate) async fn verify_sealed<D: Disk>(
    disk: &D,
    directory: &Path,
    chain: ChainId,
    core: u16,
    segment: u32,
    pace: Pace<'_>,
) -> Result<(), ScanError> {
    let result = verify_chain(disk, directory, chain, core, segment, pace).await;
    let path = segment::path(directory, core, segment);
    match read_header(disk, &path).await {
        // Ours no longer: what was read under it says nothing.
        Ok((file, Ok(header))) if header.segment != segment => file.close().await.map_err(ScanError::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok((file, _)) => {
            file.close().await?;
            result
        }
        Err(_) => result,
    }
}

async fn verify_chain<D: Disk>(
    disk: &D,
    directory: &Path,
    chain: ChainId,
    core: u16,
    segment: u32,
    pace: Pace<'_>,
) -> Result<(), ScanError> {
    let path = segment::path(directory, core, segment);
    let (file, header) = read_header(disk, &path).await?;
    let bad_header = |segment, error| Damage { segment, offset: 0, reason: DamageReason::Header(error) };
    let header = header.map_err(|error| bad_header(segment, error))?;
    check_id(&header.id, chain, core, path)?;
    let Some(next) = segment::list_on(disk, directory, core)?.into_iter().find(|number| *number > segment)
    else {
        return Ok(file.close().await?);
    };
    let (next_file, next_header) = read_header(disk, &segment::path(directory, core, next)).await?;
    next_file.close().await?;
    let Ok(next_header) = next_header else { return Ok(file.close().await?) };
    if next_header.segment != next {
        return Ok(file.close().await?);
    }
    let mut cursor = Cursor::new(file, header.id.key(), Link::first(&header));
    let stopped = walk(disk, &mut cursor, pace).await?;
    let Link { offset, sequence, previous, .. } = cursor.link;
    cursor.close().await?;
    match stopped {
        Some(reason) if (sequence, previous) != (next_header.first_sequence, next_header.previous) => {
            Err(Damage { segment, offset, reason }.into())
        }
        _ => Ok(()),
    }
}

/// Follows the chain to where it stops in this segment, slowly. `None` when the result is no longer wanted.
async fn walk<D: Disk>(
    disk: &D,
    cursor: &mut Cursor<D::File>,
    pace: Pace<'_>,
) -> io::Result<Option<DamageReason>> {
    /// Bytes between two pauses.
    const STRIDE: u32 = 256 << 10;
    let pause = Duration::from_secs_f64(f64::from(STRIDE) / f64::from(pace.bytes_per_second.max(1)));
    let mut rested_at = 0;
    while (pace.go_on)() {
        if let Err(reason) = cursor.advance().await? {
            return Ok(Some(reason));
        }
        if cursor.link.offset - rested_at >= STRIDE {
            rested_at = cursor.link.offset;
            disk.pause(pause).await;
        }
    }
    Ok(None)
}
