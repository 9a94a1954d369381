//! The writing end of a log, without any IO.
//!
//! ```text
//! append ──► open group ──begin_commit──► in flight ──commit_done──► durable
//!              buffer A                    buffer B      (the buffer comes back and is filled next)
//! ```
//!
//! While one group is being written the next one fills, so commits grow by themselves when the disk is slow.
//!
//! A record's position is fixed when it is appended. So a group never moves: when a group is opened and the segment could
//! not hold the largest one, it is opened at the start of the next segment instead. The first write of a segment carries
//! the segment's header in front of its group; one write, one sync.
//!
//! Segment files are made by somebody else, ahead of time: [`Writer::poll_segment`] says which number is wanted,
//! [`Writer::segment_ready`] that it is there. A commit whose segment isn't ready waits, and `append` says
//! [`AppendError::Full`] once its buffer is: back-pressure, not growth.

use dag::Hash;
use netio::AlignedBuf;

use super::frame::{
    GROUP_HEADER, GroupHasher, GroupHeader, LogId, LogPosition, RECORD_HEADER, SECTOR, SegmentHeader,
    record_header,
};
use super::{LogConfig, Tail};

/// Collects records into groups and says what to write where.
#[derive(Debug)]
pub struct Writer {
    id: LogId,
    hasher: GroupHasher,
    config: LogConfig,
    open: OpenGroup,
    /// Room in the segment that holds the open group.
    segment_bytes: u32,
    /// Checksum of the last sealed group.
    previous: Hash,
    /// The buffer that isn't open: here, or in flight.
    spare: Option<AlignedBuf>,
    in_flight: Option<u64>,
    durable: u64,
    segments: SegmentQueue,
    failed: bool,
}

/// The group that is being filled.
#[derive(Debug)]
struct OpenGroup {
    /// The segment's header sector, if `first`; the group's header; the records.
    buf: AlignedBuf,
    sequence: u64,
    segment: u32,
    offset: u32,
    /// Whether the segment's header must be written with it.
    first: bool,
    records: u32,
}

/// Which segment files were asked for and which are there. Numbers only grow.
#[derive(Clone, Copy, Debug)]
struct SegmentQueue {
    /// The one after the segment of the open group.
    next: u32,
    /// The last one asked for.
    requested: u32,
    /// The last one whose file is there.
    ready: u32,
}

/// What [`Writer::append`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the record will stand.
    pub position: LogPosition,
    /// The group that holds it. It is durable once [`Writer::durable`] has reached this.
    pub sequence: u64,
}

/// Why a record was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The open group has no room. Commit, then try again.
    #[error("the open log group is full")]
    Full,
    /// No group could hold it.
    #[error("a record of {bytes} bytes exceeds the log's maximum of {max}")]
    TooLarge {
        /// Payload of the record.
        bytes: usize,
        /// Largest payload possible.
        max: usize,
    },
    /// A commit failed; see [`Writer::commit_failed`].
    #[error("the log has stopped after a failed write")]
    Stopped,
}

/// A write to make: `buf`, at `offset` of `segment`, followed by a data sync.
#[derive(Debug)]
pub struct Write {
    /// Number of the segment, which is ready.
    pub segment: u32,
    /// Where to write, a multiple of [`SECTOR`].
    pub offset: u32,
    /// What to write, whole sectors. To be handed back with [`Writer::commit_done`].
    pub buf: AlignedBuf,
    /// The group that becomes durable with it.
    pub sequence: u64,
}

impl Writer {
    /// A writer that goes on where `tail` ends. The caller has opened the file of segment `tail.segment`.
    ///
    /// # Panics
    ///
    /// If the configuration is not valid; check it with [`LogConfig::validate`].
    #[must_use]
    pub fn new(config: LogConfig, tail: &Tail) -> Writer {
        config.validate().expect("the caller has validated the configuration");
        assert!(tail.offset.is_multiple_of(SECTOR) && tail.offset >= SECTOR, "groups begin at sectors");
        assert!(tail.next_segment > tail.segment && tail.next_sequence > 0, "a log grows");
        let capacity = (config.group_bytes + SECTOR) as usize;
        let mut writer = Writer {
            id: tail.id,
            hasher: GroupHasher::new(&tail.id.key()),
            config,
            open: OpenGroup {
                buf: AlignedBuf::with_capacity(capacity),
                sequence: tail.next_sequence,
                segment: tail.segment,
                offset: tail.offset,
                first: false,
                records: 0,
            },
            segment_bytes: tail.segment_bytes,
            previous: tail.previous,
            spare: Some(AlignedBuf::with_capacity(capacity)),
            in_flight: None,
            durable: tail.next_sequence - 1,
            segments: SegmentQueue { next: tail.next_segment, requested: tail.segment, ready: tail.segment },
            failed: false,
        };
        writer.place_open_group();
        writer
    }

    /// Puts the open group, still empty, where it fits at its largest, and reserves room for its headers.
    fn place_open_group(&mut self) {
        assert_eq!(self.open.records, 0, "a group with records never moves");
        self.open.first = self.segment_bytes.saturating_sub(self.open.offset) < self.config.group_bytes;
        if self.open.first {
            self.open.segment = self.segments.next;
            self.open.offset = SECTOR;
            self.segment_bytes = self.config.segment_bytes;
            let after = self.segments.next.checked_add(1);
            self.segments.next = after.expect("four billion segments outlast the machine");
        }
        self.open.buf.clear();
        if self.open.first {
            self.open.buf.extend_from_slice(&[0; SECTOR as usize]);
        }
        self.open.buf.extend_from_slice(&[0; GROUP_HEADER]);
    }

    /// Appends a record, the concatenation of `parts`, to the open group.
    pub fn append(&mut self, kind: u8, parts: &[&[u8]]) -> Result<Appended, AppendError> {
        if self.failed {
            return Err(AppendError::Stopped);
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let max = self.max_record();
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        if self.open.group_len() + RECORD_HEADER + bytes > self.config.group_bytes as usize {
            return Err(AppendError::Full);
        }
        let at = u32::try_from(self.open.group_len()).expect("a group is far below 4 GiB");
        let length = u32::try_from(bytes).expect("a record is smaller than its group");
        self.open.buf.extend_from_slice(&record_header(kind, length));
        for part in parts {
            self.open.buf.extend_from_slice(part);
        }
        self.open.records += 1;
        // Now, while the group before is being written, and not when the disk waits for this one.
        self.hasher.advance(&self.open.buf[self.open.header_at()..]);
        let position = LogPosition { segment: self.open.segment, offset: self.open.offset + at };
        Ok(Appended { position, sequence: self.open.sequence })
    }

    /// Largest payload a record can have, in bytes.
    #[must_use]
    pub fn max_record(&self) -> usize {
        self.config.group_bytes as usize - GROUP_HEADER - RECORD_HEADER
    }

    /// Bytes of records that wait to be committed, record headers included.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.open.group_len() - GROUP_HEADER
    }

    /// Whether a group is being written.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Seals the open group and says what to write. `None` when there is nothing to commit, when a commit is in flight,
    /// when the segment's file isn't there yet, or after a failure.
    pub fn begin_commit(&mut self) -> Option<Write> {
        if self.failed || self.open.records == 0 || self.segments.ready < self.open.segment {
            return None;
        }
        let next = self.spare.take()?;
        assert!(self.in_flight.is_none(), "the second buffer is here, so nothing is in flight");
        let checksum = self.seal();
        let (segment, sequence) = (self.open.segment, self.open.sequence);
        let offset = if self.open.first { 0 } else { self.open.offset };
        let end = offset + u32::try_from(self.open.buf.len()).expect("a group is far below 4 GiB");
        assert!(end <= self.segment_bytes, "a group ends within its segment");

        let buf = std::mem::replace(&mut self.open.buf, next);
        self.previous = checksum;
        self.in_flight = Some(sequence);
        self.open.sequence += 1;
        self.open.offset = end;
        self.open.records = 0;
        self.place_open_group();
        Some(Write { segment, offset, buf, sequence })
    }

    /// Completes the bytes of the open group; returns its checksum.
    fn seal(&mut self) -> Hash {
        let payload = u32::try_from(self.pending_bytes()).expect("a group is far below 4 GiB");
        let group = &mut self.open;
        group.buf.pad_to(SECTOR as usize);
        let start = group.header_at();
        if group.first {
            let header = SegmentHeader {
                id: self.id,
                segment: group.segment,
                segment_bytes: self.segment_bytes,
                first_sequence: group.sequence,
                previous: self.previous,
            };
            header.encode(&mut group.buf[..start]);
        }
        let header = GroupHeader {
            sequence: group.sequence,
            previous: self.previous,
            segment: group.segment,
            offset: group.offset,
            payload_bytes: payload,
            records: group.records,
        };
        header.seal(&mut group.buf[start..], &mut self.hasher)
    }

    /// The write is durable; takes its buffer back and returns the sequence that is durable now.
    ///
    /// # Panics
    ///
    /// If no commit is in flight.
    pub fn commit_done(&mut self, buf: AlignedBuf) -> u64 {
        let sequence = self.in_flight.take().expect("a commit is in flight");
        assert_eq!(sequence, self.durable + 1, "groups become durable in order");
        self.spare = Some(buf);
        self.durable = sequence;
        sequence
    }

    /// The write or its sync has failed. Whatever the disk holds now can't be known, so nothing is appended or committed
    /// any more; the process must end and recover.
    pub fn commit_failed(&mut self) {
        assert!(self.in_flight.is_some(), "a commit is in flight");
        self.failed = true;
    }

    /// Sequence of the last durable group; zero when there is none.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Number of a segment whose file is to be made, of the configured size; each is asked for once, one segment ahead.
    pub fn poll_segment(&mut self) -> Option<u32> {
        let SegmentQueue { next, requested, ready } = self.segments;
        let wanted = if ready < self.open.segment { self.open.segment } else { next };
        if wanted == requested {
            return None;
        }
        self.segments.requested = wanted;
        Some(wanted)
    }

    /// The file of the segment that was asked for is there.
    ///
    /// # Panics
    ///
    /// If it was not asked for, or was reported before.
    pub fn segment_ready(&mut self, segment: u32) {
        let SegmentQueue { requested, ready, .. } = self.segments;
        assert!(segment == requested && segment > ready, "segment {segment} was asked for and is new");
        self.segments.ready = segment;
    }
}

impl OpenGroup {
    /// Index of the group's header in the buffer.
    fn header_at(&self) -> usize {
        if self.first { SECTOR as usize } else { 0 }
    }

    /// Bytes of the group so far, its header included.
    fn group_len(&self) -> usize {
        self.buf.len() - self.header_at()
    }
}
