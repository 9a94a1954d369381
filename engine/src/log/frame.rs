//! The bytes of the log: segment headers, groups and records. Pure functions, no IO.
//!
//! A log is a chain of groups, cut into segment files of fixed size. All integers are little-endian, all offsets
//! and lengths are bytes. A segment begins with one sector of header; groups follow, each of whole sectors:
//!
//! ```text
//! segment   ┌────────────┬─────────┬──────────────┬─────────┬──────────────────────────────┐
//!           │ header     │ group   │ group        │ group   │ zeros, or a former life      │
//!           │ 1 sector   │ n       │ n + 1        │ n + 2   │ of the recycled file         │
//!           └────────────┴─────────┴──────────────┴─────────┴──────────────────────────────┘
//!
//! header    0         32     40       44    46    48        56       60
//!           ┌─────────┬──────┬────────┬─────┬─────┬─────────┬────────┬─────────┬─ ─ ─
//!           │checksum │magic │version │core │zero │chain id │segment │ segment │
//!           │32       │8     │u32     │u16  │u16  │u64      │u32     │bytes u32│
//!           └─────────┴──────┴────────┴─────┴─────┴─────────┴────────┴─────────┴─ ─ ─
//!           64              72         104     136              4096
//!       ─ ─ ┬───────────────┬──────────┬───────┬────────────────┐
//!           │first sequence │previous  │salt   │zeros           │
//!           │u64            │group 32  │32     │                │
//!       ─ ─ ┴───────────────┴──────────┴───────┴────────────────┘
//!
//! group     0         32     40        48        80       84      88       92       96
//!           ┌─────────┬──────┬─────────┬─────────┬────────┬───────┬────────┬────────┬─────────┬───────┐
//!           │checksum │magic │sequence │previous │segment │offset │payload │records │records  │zeros  │
//!           │32       │8     │u64      │group 32 │u32     │u32    │u32     │u32     │         │       │
//!           └─────────┴──────┴─────────┴─────────┴────────┴───────┴────────┴────────┴─────────┴───────┘
//!           │◄───────────────────── header 96 ────────────────────────────►│◄payload►│       │
//!           │◄───────────────── a multiple of 4096 ──────────────────────────────────────────►│
//!
//! record    0         4      5
//!           ┌─────────┬──────┬─────────────┐
//!           │length   │kind  │ `length`    │
//!           │u32      │u8    │ bytes       │
//!           └─────────┴──────┴─────────────┘
//! ```
//!
//! A checksum covers every byte behind it, the padding included, so no bit of a group can change unnoticed. That of a
//! group takes the records and the padding first and the header last, so that a group can be hashed while it fills. It is
//! also the group's hash in the chain: the next group names it as `previous`. Segment and offset stand in the group
//! so that a group that lies where it doesn't belong (a misdirected write, the former life of a recycled file) is
//! told apart from one that does.
//!
//! The groups' checksum is keyed, and the key is drawn from the salt of the log, which nobody outside knows. Payloads
//! hold bytes that strangers chose; without the key one could send bytes that look like a group, and a search for
//! groups behind a damaged one would believe them.

use dag::{
    ChainId, Hash,
    planted::{self, Defect},
};

/// The unit of writing, in bytes. A group begins at a multiple of it and fills it up, so that no durable sector
/// is ever written again.
pub const SECTOR: u32 = 4096;

/// Version of the layout above.
pub const VERSION: u32 = 1;

/// Bytes before the first record of a group.
pub const GROUP_HEADER: usize = FIRST_RECORD as usize;

/// The same, as an offset.
pub(super) const FIRST_RECORD: u32 = 96;

/// Bytes before the payload of a record.
pub const RECORD_HEADER: usize = 5;

/// A group is never larger than this, padding included, whatever the configuration says. It bounds what a reader
/// must be ready to hold.
pub const GROUP_BYTES_LIMIT: u32 = 16 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"TOPSEGMT";
const GROUP_MAGIC: &[u8; 8] = b"TOPGROUP";
const KEY_CONTEXT: &str = "TOP log group v1";
const CHECKSUM: usize = 32;
const SEGMENT_HEADER_END: usize = 136;

const _: () = assert!(GROUP_BYTES_LIMIT.is_multiple_of(SECTOR));
const _: () = assert!(SEGMENT_HEADER_END <= SECTOR as usize);

/// Which log this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogId {
    /// The network.
    pub chain: ChainId,
    /// The core that writes it.
    pub core: u16,
    /// Random bytes, drawn once when the log is created. They must not become known to peers or clients (see the
    /// module's documentation).
    pub salt: [u8; 32],
}

impl LogId {
    /// The key of the groups' checksums.
    #[must_use]
    pub fn key(&self) -> LogKey {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(&self.salt).update(&self.chain.to_le_bytes()).update(&self.core.to_le_bytes());
        LogKey(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogId").field("chain", &self.chain).field("core", &self.core).finish_non_exhaustive()
    }
}

/// Key of the groups' checksums; see [`LogId::key`].
#[derive(Clone)]
pub struct LogKey([u8; 32]);

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogKey")
    }
}

/// Where a record stands: stable from the moment it is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Number of the segment.
    pub segment: u32,
    /// Offset of the record's length field in the segment.
    pub offset: u32,
}

/// The first sector of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub id: LogId,
    /// Number of the segment; the file's name says the same.
    pub segment: u32,
    /// Size of the file.
    pub segment_bytes: u32,
    /// Sequence of the first group in it.
    pub first_sequence: u64,
    /// Checksum of the group before that one, zero for the first group of all.
    pub previous: Hash,
}

/// Why a sector is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Nothing but zeros: the segment was prepared and not yet begun.
    #[error("the header is blank")]
    Blank,
    /// Not this format, or damaged beyond recognition.
    #[error("no segment header is there")]
    Magic,
    /// Damaged.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// Whole, and written by another version of this program.
    #[error("the header has version {0}, and this program reads version {VERSION}")]
    Version(u32),
}

impl SegmentHeader {
    /// Writes the header over `sector`, which is [`SECTOR`] bytes long.
    pub fn encode(&self, sector: &mut [u8]) {
        assert_eq!(sector.len(), SECTOR as usize, "a header fills one sector");
        sector.fill(0);
        sector[32..40].copy_from_slice(SEGMENT_MAGIC);
        sector[40..44].copy_from_slice(&VERSION.to_le_bytes());
        sector[44..46].copy_from_slice(&self.id.core.to_le_bytes());
        sector[48..56].copy_from_slice(&self.id.chain.to_le_bytes());
        sector[56..60].copy_from_slice(&self.segment.to_le_bytes());
        sector[60..64].copy_from_slice(&self.segment_bytes.to_le_bytes());
        sector[64..72].copy_from_slice(&self.first_sequence.to_le_bytes());
        sector[72..104].copy_from_slice(self.previous.as_bytes());
        sector[104..136].copy_from_slice(&self.id.salt);
        let checksum = blake3::hash(&sector[CHECKSUM..]);
        sector[..CHECKSUM].copy_from_slice(checksum.as_bytes());
    }

    /// Reads the header from the first [`SECTOR`] bytes of a segment. Fewer bytes are an error, never a panic.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let sector = bytes.get(..SECTOR as usize).ok_or(HeaderError::Magic)?;
        if is_zero(sector) {
            return Err(HeaderError::Blank);
        }
        if sector[32..40] != SEGMENT_MAGIC[..] {
            return Err(HeaderError::Magic);
        }
        if blake3::hash(&sector[CHECKSUM..]).as_bytes()[..] != sector[..CHECKSUM] {
            return Err(HeaderError::Checksum);
        }
        let version = u32_at(sector, 40);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if !is_zero(&sector[46..48]) || !is_zero(&sector[SEGMENT_HEADER_END..]) {
            return Err(HeaderError::Magic);
        }
        Ok(SegmentHeader {
            id: LogId { chain: u64_at(sector, 48), core: u16_at(sector, 44), salt: bytes_at(sector, 104) },
            segment: u32_at(sector, 56),
            segment_bytes: u32_at(sector, 60),
            first_sequence: u64_at(sector, 64),
            previous: Hash(bytes_at(sector, 72)),
        })
    }
}

/// Whether all bytes are zero. Without a way out in the midst of it the loop is compiled to vectors: small groups are mostly padding,
/// and a restart reads every one.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// What a group says about itself, its checksum aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Place in the chain, from one, without gaps.
    pub sequence: u64,
    /// Checksum of the group before, zero for the first.
    pub previous: Hash,
    /// The segment it was written to.
    pub segment: u32,
    /// Where in that segment it begins.
    pub offset: u32,
    /// Bytes of records; what is left to the next multiple of [`SECTOR`] is padding.
    pub payload_bytes: u32,
    /// Number of records, at least one.
    pub records: u32,
}

/// Why bytes are not a whole group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No group begins here.
    #[error("no group is there")]
    Absent,
    /// A group begins here, and this many bytes are needed to judge it.
    #[error("the group needs {0} bytes")]
    Incomplete(usize),
    /// Torn or damaged.
    #[error("the group's checksum is wrong")]
    Checksum,
    /// The checksum is right and the records don't fill the payload: the writer was at fault, not the disk.
    #[error("the group's records are malformed")]
    Records,
}

impl GroupHeader {
    /// Size of the group on disk, padding included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        (GROUP_HEADER + self.payload_bytes as usize).next_multiple_of(SECTOR as usize)
    }

    /// Reads the header alone. What it says is not to be believed before [`Group::decode`] has checked it; only its
    /// length is already known to be within [`GROUP_BYTES_LIMIT`].
    pub fn peek(bytes: &[u8]) -> Result<GroupHeader, GroupError> {
        let bytes = bytes.get(..GROUP_HEADER).ok_or(GroupError::Absent)?;
        let header = GroupHeader {
            sequence: u64_at(bytes, 40),
            previous: Hash(bytes_at(bytes, 48)),
            segment: u32_at(bytes, 80),
            offset: u32_at(bytes, 84),
            payload_bytes: u32_at(bytes, 88),
            records: u32_at(bytes, 92),
        };
        let plausible = header.records > 0 && header.payload_bytes <= GROUP_BYTES_LIMIT - FIRST_RECORD;
        if bytes[32..40] != GROUP_MAGIC[..] || !plausible {
            return Err(GroupError::Absent);
        }
        Ok(header)
    }

    /// Writes the header over the first [`GROUP_HEADER`] bytes of `group` and returns the group's checksum. `group` is
    /// the whole group: header, records and padding. `hasher` may have seen a part of the records.
    pub fn seal(&self, group: &mut [u8], hasher: &mut GroupHasher) -> Hash {
        assert_eq!(group.len(), self.total_bytes(), "a group is whole sectors");
        assert!(
            self.records > 0 && group.len() <= GROUP_BYTES_LIMIT as usize,
            "a group holds records, within the limit"
        );
        group[32..40].copy_from_slice(GROUP_MAGIC);
        group[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        group[48..80].copy_from_slice(self.previous.as_bytes());
        group[80..84].copy_from_slice(&self.segment.to_le_bytes());
        group[84..88].copy_from_slice(&self.offset.to_le_bytes());
        group[88..92].copy_from_slice(&self.payload_bytes.to_le_bytes());
        group[92..96].copy_from_slice(&self.records.to_le_bytes());
        let checksum = hasher.finish(group);
        group[..CHECKSUM].copy_from_slice(checksum.as_bytes());
        checksum
    }
}

/// Takes a group's checksum while the group fills.
#[derive(Clone)]
pub struct GroupHasher {
    hasher: blake3::Hasher,
    /// Bytes of the group, from its header's end on, that were hashed.
    hashed: usize,
}

impl std::fmt::Debug for GroupHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupHasher").field("hashed", &self.hashed).finish_non_exhaustive()
    }
}

impl GroupHasher {
    /// Bytes hashed at a time: enough for blake3's widest code, and little to be left when the group is sealed.
    const STRIDE: usize = 16 << 10;

    /// A hasher for the groups of one log.
    #[must_use]
    pub fn new(key: &LogKey) -> Self {
        Self { hasher: blake3::Hasher::new_keyed(&key.0), hashed: 0 }
    }

    /// Hashes what has come, if that is worth while. `group` is the group so far, from its header on; only bytes behind
    /// the header count, and they must not change any more.
    pub fn advance(&mut self, group: &[u8]) {
        let records = &group[GROUP_HEADER..];
        let whole = records.len() - records.len() % Self::STRIDE;
        if whole > self.hashed {
            self.hasher.update(&records[self.hashed..whole]);
            self.hashed = whole;
        }
    }

    /// The checksum of the whole group. The hasher is ready for the next group then.
    fn finish(&mut self, group: &[u8]) -> Hash {
        self.hasher.update(&group[GROUP_HEADER + self.hashed..]);
        self.hasher.update(&group[CHECKSUM..GROUP_HEADER]);
        let checksum = Hash(*self.hasher.finalize().as_bytes());
        self.hasher.reset();
        self.hashed = 0;
        checksum
    }
}

/// A group whose checksum and record lengths have been found right.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// What it says about itself.
    pub header: GroupHeader,
    /// Its checksum, which the next group names as `previous`.
    pub checksum: Hash,
    payload: &'a [u8],
}

impl<'a> Group<'a> {
    /// Checks the group that begins at the first of `bytes`; what follows the group is not looked at.
    pub fn decode(bytes: &'a [u8], key: &LogKey) -> Result<Group<'a>, GroupError> {
        let header = GroupHeader::peek(bytes)?;
        let total = header.total_bytes();
        let group = bytes.get(..total).ok_or(GroupError::Incomplete(total))?;
        let checksum = GroupHasher::new(key).finish(group);
        if checksum.as_bytes()[..] != group[..CHECKSUM] && !planted::is(Defect::ChecksumIgnored) {
            return Err(GroupError::Checksum);
        }
        let (payload, padding) = group[GROUP_HEADER..].split_at(header.payload_bytes as usize);
        let mut records = Records::new(payload, 0);
        let count = records.by_ref().count();
        if !records.rest.is_empty() || count != header.records as usize || !is_zero(padding) {
            return Err(GroupError::Records);
        }
        Ok(Group { header, checksum, payload })
    }

    /// The records, in the order they were appended.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records::new(self.payload, self.header.offset.saturating_add(FIRST_RECORD))
    }
}

/// A record of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Offset of the record in its segment.
    pub offset: u32,
    /// What the payload is; the log doesn't care.
    pub kind: u8,
    /// The bytes that were appended.
    pub payload: &'a [u8],
}

/// Iterator over the records of a [`Group`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    offset: u32,
}

impl<'a> Records<'a> {
    /// Records in `bytes`, the first of which stands at `offset` of the segment.
    pub(super) fn new(bytes: &'a [u8], offset: u32) -> Self {
        Records { rest: bytes, offset }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RawRecord<'a>;

    fn next(&mut self) -> Option<RawRecord<'a>> {
        let header = self.rest.get(..RECORD_HEADER)?;
        let length = u32_at(header, 0);
        let end = RECORD_HEADER.checked_add(length as usize)?;
        let payload = self.rest.get(RECORD_HEADER..end)?;
        let record = RawRecord { offset: self.offset, kind: header[4], payload };
        self.rest = &self.rest[end..];
        let end = u32::try_from(end).expect("a group is at most 16 MiB");
        self.offset = self.offset.saturating_add(end);
        Some(record)
    }
}

/// The bytes before a record's payload.
#[must_use]
pub fn record_header(kind: u8, length: u32) -> [u8; RECORD_HEADER] {
    let [a, b, c, d] = length.to_le_bytes();
    [a, b, c, d, kind]
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}
