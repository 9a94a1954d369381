//! Reading one segment, group after group, through a sliding window.

use std::io;
use std::path::Path;

use dag::Hash;
use netio::AlignedBuf;

use super::frame::{Group, GroupError, GroupHeader, HeaderError, LogKey, SECTOR, SegmentHeader};
use super::scan::DamageReason;
use super::segment::zeros;
use crate::side::disk::{Disk, DiskFile};

/// Bytes read at a time. Large enough for the disk's full rate; the window grows when a group is larger.
const WINDOW: usize = 1 << 20;

/// A part of a file in memory. Offsets are multiples of [`SECTOR`].
#[derive(Debug)]
pub(super) struct Window<F> {
    file: F,
    buf: AlignedBuf,
    start: u64,
    filled: usize,
}

impl<F: DiskFile> Window<F> {
    pub(super) fn new(file: F) -> Self {
        Self { file, buf: AlignedBuf::with_capacity(WINDOW), start: 0, filled: 0 }
    }

    /// The bytes from `offset` on: at least `need` of them, fewer only at the end of the file.
    pub(super) async fn at(&mut self, offset: u64, need: usize) -> io::Result<&[u8]> {
        debug_assert!(offset.is_multiple_of(SECTOR.into()));
        let held = self.held(offset);
        if held.is_none_or(|from| self.filled - from < need) {
            self.slide(offset, held, need).await?;
        }
        let from = self.held(offset).unwrap_or(self.filled);
        Ok(&self.buf[from..self.filled])
    }

    /// What [`at`](Self::at) returned last time, or more, without reading.
    pub(super) fn loaded(&self, offset: u64) -> &[u8] {
        let from = self.held(offset).unwrap_or(self.filled);
        &self.buf[from..self.filled]
    }

    /// Index in the buffer of a file offset within the window.
    fn held(&self, offset: u64) -> Option<usize> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (from <= self.filled).then_some(from)
    }

    /// Moves the window to `offset`, keeping what it already holds from there on.
    async fn slide(&mut self, offset: u64, held: Option<usize>, need: usize) -> io::Result<()> {
        let size = need.max(WINDOW).next_multiple_of(SECTOR as usize);
        let kept = held.map_or(0, |from| self.filled - from);
        // Only whole sectors can be read behind; a partial one is the end of the file and is read again.
        let kept = kept - kept % SECTOR as usize;
        if self.buf.len() < size {
            let mut larger = zeros(u32::try_from(size).expect("a group is far below 4 GiB"));
            if let Some(from) = held {
                larger[..kept].copy_from_slice(&self.buf[from..from + kept]);
            }
            self.buf = larger;
        } else if let Some(from) = held {
            self.buf.copy_within(from..from + kept, 0);
        }
        self.start = offset;
        self.filled = kept;
        self.filled += self.file.read_sectors(&mut self.buf, kept, offset + kept as u64).await?;
        Ok(())
    }
}

/// Where a cursor stands: the next group must begin here, have this sequence and name this predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) sequence: u64,
    pub(super) previous: Hash,
}

impl Link {
    /// The first group of a segment.
    pub(super) fn first(header: &SegmentHeader) -> Link {
        Link {
            segment: header.segment,
            offset: SECTOR,
            sequence: header.first_sequence,
            previous: header.previous,
        }
    }

    fn check(&self, group: &Group<'_>) -> Result<(), DamageReason> {
        let header = group.header;
        if (header.segment, header.offset) != (self.segment, self.offset) {
            return Err(DamageReason::Stale { segment: header.segment, offset: header.offset });
        }
        if header.sequence != self.sequence {
            return Err(DamageReason::Sequence { expected: self.sequence, found: header.sequence });
        }
        if header.previous != self.previous {
            return Err(DamageReason::Chain);
        }
        Ok(())
    }

    fn after(&self, group: &Group<'_>) -> Link {
        let total = u32::try_from(group.header.total_bytes()).expect("a group is at most 16 MiB");
        Link {
            segment: self.segment,
            offset: self.offset.saturating_add(total),
            sequence: self.sequence + 1,
            previous: group.checksum,
        }
    }
}

/// Walks the groups of one segment and verifies the chain.
#[derive(Debug)]
pub(super) struct Cursor<F> {
    window: Window<F>,
    key: LogKey,
    pub(super) link: Link,
}

impl<F: DiskFile> Cursor<F> {
    pub(super) fn new(file: F, key: LogKey, link: Link) -> Self {
        Self { window: Window::new(file), key, link }
    }

    /// The bytes from the group at `offset` on, which was the last one returned.
    pub(super) fn loaded(&self, offset: u32) -> &[u8] {
        self.window.loaded(offset.into())
    }

    pub(super) async fn close(self) -> io::Result<()> {
        self.window.file.close().await
    }

    /// The next group, and the link it satisfied. The inner error says why there is none.
    pub(super) async fn advance(&mut self) -> io::Result<Result<(Link, Group<'_>), DamageReason>> {
        let at = self.link;
        let mut need = SECTOR as usize;
        let header = match GroupHeader::peek(self.window.at(at.offset.into(), need).await?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.into())),
        };
        need = header.total_bytes();
        self.window.at(at.offset.into(), need).await?;
        let checked = Group::decode(self.window.loaded(at.offset.into()), &self.key)
            .map_err(DamageReason::from)
            .and_then(|group| at.check(&group).map(|()| group));
        if let Ok(group) = &checked {
            self.link = at.after(group);
        }
        Ok(checked.map(|group| (at, group)))
    }

    /// The first whole group at `from` or behind that belongs there and has sequence `least` or later. Looks at every
    /// sector, and so finds groups behind a damaged one.
    pub(super) async fn probe(&mut self, from: u32, least: u64) -> io::Result<Option<Found>> {
        let mut offset = from;
        loop {
            let bytes = self.window.at(offset.into(), SECTOR as usize).await?;
            if bytes.len() < SECTOR as usize {
                return Ok(None);
            }
            if let Ok(header) = GroupHeader::peek(bytes)
                && (header.segment, header.offset) == (self.link.segment, offset)
                && header.sequence >= least
            {
                let bytes = self.window.at(offset.into(), header.total_bytes()).await?;
                if let Ok(group) = Group::decode(bytes, &self.key) {
                    let GroupHeader { sequence, previous, .. } = group.header;
                    return Ok(Some(Found { offset, sequence, previous }));
                }
            }
            let Some(next) = offset.checked_add(SECTOR) else { return Ok(None) };
            offset = next;
        }
    }
}

/// A group that [`Cursor::probe`] found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) offset: u32,
    pub(super) sequence: u64,
    pub(super) previous: Hash,
}

/// Reads the header of a segment file.
pub(super) async fn read_header<D: Disk>(
    disk: &D,
    path: &Path,
) -> io::Result<(D::File, Result<SegmentHeader, HeaderError>)> {
    let file = disk.open(path).await?;
    let mut sector = zeros(SECTOR);
    let read = file.read_sectors(&mut sector, 0, 0).await?;
    let header = SegmentHeader::decode(&sector[..read]);
    Ok((file, header))
}

impl From<GroupError> for DamageReason {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Absent => DamageReason::Absent,
            GroupError::Incomplete(_) | GroupError::Checksum => DamageReason::Checksum,
            GroupError::Records => DamageReason::Records,
        }
    }
}
