//! The bytes of a snapshot. Pure functions, no IO.
//!
//! All integers are little-endian. The file is a header of one sector, then the sections, then zeros to the next multiple
//! of 4,096 bytes:
//!
//! ```text
//! header    0         32     40       44     46    48        56      64          72        76    80         112      4096
//!           ┌─────────┬──────┬────────┬──────┬─────┬─────────┬───────┬───────────┬─────────┬─────┬──────────┬────────┐
//!           │checksum │magic │version │table │zero │chain id │height │body bytes │sections │zero │body hash │zeros   │
//!           │32       │8     │u32     │u16   │u16  │u64      │u64    │u64        │u32      │u32  │32        │        │
//!           └─────────┴──────┴────────┴──────┴─────┴─────────┴───────┴───────────┴─────────┴─────┴──────────┴────────┘
//! body      section, section, …, each:
//!           0         4      5
//!           ┌─────────┬──────┬────────────────┐
//!           │length   │kind  │ `length` bytes │
//!           │u32      │u8    │                │
//!           └─────────┴──────┴────────────────┘
//! ```
//!
//! Both checksums are plain blake3: the header's covers the bytes behind it, the body's the sections.

use dag::{ChainId, Hash, Height, TableId};

/// Size of the header; the file's length is a multiple of it.
pub const SECTOR: usize = 4096;

/// Version of the layout above.
pub const VERSION: u32 = 1;

/// Bytes before the content of a section.
pub const SECTION_HEADER: usize = 5;

const MAGIC: &[u8; 8] = b"TOPSNAPS";
const CHECKSUM: usize = 32;
const HEADER_END: usize = 112;

/// Which snapshot a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// The network.
    pub chain: ChainId,
    /// The table whose state it is.
    pub table: TableId,
    /// The state is the one after the block of this height.
    pub height: Height,
}

/// The first sector of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// Bytes of all sections.
    pub body_bytes: u64,
    /// Number of sections.
    pub sections: u32,
    /// blake3 of the sections.
    pub body_hash: Hash,
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotDamage {
    /// The header is not one, or its checksum is wrong.
    #[error("the header is damaged")]
    Header,
    /// Whole, and written by another version of this program.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// The file is shorter or longer than the header says.
    #[error("it has {found} bytes in place of {expected}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The sections are not those that were written.
    #[error("the content is damaged")]
    Body,
    /// Right checksum, wrong section lengths: it was written so.
    #[error("the sections are malformed")]
    Sections,
    /// The file's name says another table or height than its header.
    #[error("it is the snapshot of table {table} at height {height}, under a wrong name")]
    Misplaced {
        /// Table in the header.
        table: TableId,
        /// Height in the header.
        height: Height,
    },
}

impl SnapshotHeader {
    /// Writes the header over `sector`, which is [`SECTOR`] bytes long.
    pub fn encode(&self, sector: &mut [u8]) {
        assert_eq!(sector.len(), SECTOR, "a header fills one sector");
        sector.fill(0);
        sector[32..40].copy_from_slice(MAGIC);
        sector[40..44].copy_from_slice(&VERSION.to_le_bytes());
        sector[44..46].copy_from_slice(&self.id.table.to_le_bytes());
        sector[48..56].copy_from_slice(&self.id.chain.to_le_bytes());
        sector[56..64].copy_from_slice(&self.id.height.to_le_bytes());
        sector[64..72].copy_from_slice(&self.body_bytes.to_le_bytes());
        sector[72..76].copy_from_slice(&self.sections.to_le_bytes());
        sector[80..112].copy_from_slice(self.body_hash.as_bytes());
        let checksum = blake3::hash(&sector[CHECKSUM..]);
        sector[..CHECKSUM].copy_from_slice(checksum.as_bytes());
    }

    /// Reads the header from the first [`SECTOR`] bytes of a file. Fewer bytes are an error, never a panic.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHeader, SnapshotDamage> {
        let sector = bytes.get(..SECTOR).ok_or(SnapshotDamage::Header)?;
        let whole = blake3::hash(&sector[CHECKSUM..]).as_bytes()[..] == sector[..CHECKSUM];
        if !whole || sector[32..40] != MAGIC[..] {
            return Err(SnapshotDamage::Header);
        }
        let version = u32::from_le_bytes(bytes_at(sector, 40));
        if version != VERSION {
            return Err(SnapshotDamage::Version(version));
        }
        let blank = [&sector[46..48], &sector[76..80], &sector[HEADER_END..]];
        if blank.concat().iter().any(|byte| *byte != 0) {
            return Err(SnapshotDamage::Header);
        }
        Ok(SnapshotHeader {
            id: SnapshotId {
                chain: u64::from_le_bytes(bytes_at(sector, 48)),
                table: u16::from_le_bytes(bytes_at(sector, 44)),
                height: u64::from_le_bytes(bytes_at(sector, 56)),
            },
            body_bytes: u64::from_le_bytes(bytes_at(sector, 64)),
            sections: u32::from_le_bytes(bytes_at(sector, 72)),
            body_hash: Hash(bytes_at(sector, 80)),
        })
    }

    /// Length of the file, in bytes. Saturates on lengths that no file has.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        const SECTOR_BYTES: u64 = SECTOR as u64;
        let sectors = self.body_bytes.div_ceil(SECTOR_BYTES).saturating_add(1);
        sectors.saturating_mul(SECTOR_BYTES)
    }
}

/// A part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// What the bytes are; the format doesn't care.
    pub kind: u8,
    /// The content.
    pub bytes: &'a [u8],
}

/// A snapshot in memory, every byte of it verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    header: SnapshotHeader,
    file: Vec<u8>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.fmt(f)
    }
}

impl Snapshot {
    /// Verifies the bytes of a file.
    pub fn decode(file: Vec<u8>) -> Result<Snapshot, SnapshotDamage> {
        let header = SnapshotHeader::decode(&file)?;
        let (expected, found) = (header.file_bytes(), file.len() as u64);
        if expected != found {
            return Err(SnapshotDamage::Length { expected, found });
        }
        let snapshot = Snapshot { header, file };
        let (body, padding) = snapshot.file[SECTOR..].split_at(snapshot.body_len());
        if blake3::hash(body).as_bytes() != header.body_hash.as_bytes()
            || padding.iter().any(|byte| *byte != 0)
        {
            return Err(SnapshotDamage::Body);
        }
        let mut sections = snapshot.sections();
        if sections.by_ref().count() != header.sections as usize || !sections.rest.is_empty() {
            return Err(SnapshotDamage::Sections);
        }
        Ok(snapshot)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The sections, in the order they were written.
    #[must_use]
    pub fn sections(&self) -> Sections<'_> {
        Sections { rest: &self.file[SECTOR..SECTOR + self.body_len()] }
    }

    fn body_len(&self) -> usize {
        usize::try_from(self.header.body_bytes).expect("the file that holds it is in memory")
    }
}

/// Iterator over the sections of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        let header = self.rest.get(..SECTION_HEADER)?;
        let length = u32::from_le_bytes(bytes_at(header, 0)) as usize;
        let end = SECTION_HEADER.checked_add(length)?;
        let bytes = self.rest.get(SECTION_HEADER..end)?;
        self.rest = &self.rest[end..];
        Some(Section { kind: header[4], bytes })
    }
}

/// The bytes before a section's content.
#[must_use]
pub fn section_header(kind: u8, length: u32) -> [u8; SECTION_HEADER] {
    let [a, b, c, d] = length.to_le_bytes();
    [a, b, c, d, kind]
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}
