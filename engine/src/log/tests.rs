//! What a healthy log does, and the scaffolding of the other tests.

#![expect(clippy::cast_possible_truncation, reason = "sizes in tests are small")]

use std::io;
use std::ops::Range;
use std::path::Path;

use dag::Hash;
use tempfile::TempDir;

use super::frame::{Group, GroupError, GroupHeader, SegmentHeader};
use super::*;
use crate::log::frame::RECORD_HEADER;

pub(super) const CHAIN: u64 = 0x70b0;
pub(super) const CORE: u16 = 3;
pub(super) const SMALL: LogConfig = LogConfig { segment_bytes: 16 * SECTOR, group_bytes: 4 * SECTOR };

pub(super) fn id() -> LogId {
    LogId { chain: CHAIN, core: CORE, salt: [9; 32] }
}

/// A record as it was appended or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: LogPosition,
    pub(super) sequence: u64,
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Bytes that one commit wrote.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) segment: u32,
    pub(super) range: Range<u32>,
}

/// Files that remember what was written to them.
pub(super) struct Recorder {
    files: FileSink,
    writes: Vec<Written>,
}

impl Sink for Recorder {
    fn prepare(&mut self, segment: u32) -> io::Result<()> {
        self.files.prepare(segment)
    }

    fn write(&mut self, segment: u32, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let end = offset + u32::try_from(bytes.len()).unwrap();
        self.writes.push(Written { segment, range: offset..end });
        self.files.write(segment, offset, bytes)
    }
}

/// A log on disk and what it should hold.
pub(super) struct Log {
    pub(super) directory: TempDir,
    pub(super) entries: Vec<Entry>,
    pub(super) writes: Vec<Written>,
}

impl Log {
    pub(super) fn new() -> Log {
        let directory = tempfile::tempdir().unwrap();
        Log { directory, entries: Vec::new(), writes: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Recovers as a node does, then commits each of `groups`: records of these lengths.
    pub(super) fn extend(&mut self, groups: &[Vec<usize>]) {
        let tail = match Scanner::open(self.path(), CHAIN, CORE).unwrap() {
            Some(scanner) => scanner.finish().unwrap(),
            None => segment::create(self.path(), id(), SMALL).unwrap(),
        };
        let files = FileSink::open(self.path(), SMALL, &tail).unwrap();
        let mut log = BlockingLog::with_sink(Recorder { files, writes: Vec::new() }, SMALL, &tail);
        for group in groups {
            for length in group {
                let salt = self.entries.len();
                let payload: Vec<u8> = (0..*length).map(|i| ((i * 7 + salt * 13) % 251) as u8).collect();
                let kind = (salt % 5) as u8;
                let (left, right) = payload.split_at(length / 3);
                let Appended { position, sequence } = log.append(kind, &[left, right]).unwrap();
                self.entries.push(Entry { position, sequence, kind, payload });
            }
            log.commit().unwrap();
        }
        self.writes.append(&mut log.into_sink().writes);
    }

    pub(super) fn segment(&self, number: u32) -> std::path::PathBuf {
        segment::path(self.path(), CORE, number)
    }

    /// The entries up to a sequence, it included.
    pub(super) fn up_to(&self, sequence: u64) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.sequence <= sequence).cloned().collect()
    }
}

pub(super) fn read_all(directory: &Path) -> Result<(Vec<Entry>, Tail), ScanError> {
    let mut scanner = Scanner::open(directory, CHAIN, CORE)?.expect("a log is there");
    let mut entries = Vec::new();
    while let Some(Record { position, sequence, kind, payload }) = scanner.next_record()? {
        entries.push(Entry { position, sequence, kind, payload: payload.to_vec() });
    }
    Ok((entries, scanner.finish()?))
}

pub(super) fn damage(directory: &Path) -> Damage {
    match read_all(directory) {
        Err(ScanError::Damage(damage)) => damage,
        other => panic!("damage expected, got {other:?}"),
    }
}

/// Group sizes that fill several small segments.
pub(super) fn some_groups() -> Vec<Vec<usize>> {
    (0..14).map(|i| vec![i * 37, 0, 3000 + i * 500]).collect()
}

#[test]
fn what_was_appended_is_read_over_segments_and_restarts() {
    let mut log = Log::new();
    log.extend(&some_groups());
    log.extend(&[]);
    log.extend(&some_groups());
    let (entries, tail) = read_all(log.path()).unwrap();
    assert_eq!(entries, log.entries);
    assert!(tail.segment >= 3, "the test is meant to roll over");
    assert_eq!((tail.next_sequence, tail.kind), (29, TailKind::Clean));
}

#[test]
fn every_record_is_found_by_its_position() {
    let mut log = Log::new();
    log.extend(&some_groups());
    log.extend(&[vec![0, 1, 15_000], vec![16_000]]);
    let mut reader = RecordReader::new(log.path(), CHAIN, CORE);
    for entry in log.entries.iter().chain(log.entries.iter().rev()) {
        let expected = OwnedRecord { kind: entry.kind, payload: entry.payload.clone() };
        assert_eq!(reader.read(entry.position).unwrap(), expected);
        assert_eq!(read_record(log.path(), CHAIN, CORE, entry.position).unwrap(), expected);
    }
}

#[test]
fn a_position_that_is_no_record_is_named() {
    let mut log = Log::new();
    log.extend(&[vec![10, 10]]);
    let LogPosition { segment, offset } = log.entries[0].position;
    let read = |segment, offset| read_record(log.path(), CHAIN, CORE, LogPosition { segment, offset });
    assert!(matches!(read(segment, offset + 1), Err(ReadError::NotARecord(_))));
    assert!(matches!(read(segment, offset + 5 * SECTOR), Err(ReadError::Log(ScanError::Damage(_)))));
    assert!(matches!(read(segment, u32::MAX), Err(ReadError::Log(ScanError::Damage(_)))));
    assert!(matches!(read(segment, 0), Err(ReadError::Log(ScanError::Damage(_)))));
    assert!(matches!(read(segment + 1, offset), Err(ReadError::Gone(1))));
    let wrong = read_record(log.path(), CHAIN + 1, CORE, LogPosition { segment, offset });
    assert!(matches!(wrong, Err(ReadError::Log(ScanError::WrongChain { .. }))));
}

#[test]
fn groups_fill_while_one_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let tail = segment::create(directory.path(), id(), SMALL).unwrap();
    let mut writer = Writer::new(SMALL, &tail);
    assert_eq!(writer.begin_commit().map(|write| write.sequence), None, "nothing to commit");
    let first = writer.append(1, &[b"a"]).unwrap();
    let write = writer.begin_commit().unwrap();
    assert_eq!((write.sequence, write.offset, write.buf.len()), (1, SECTOR, SECTOR as usize));
    let second = writer.append(1, &[b"b"]).unwrap();
    assert!(writer.begin_commit().is_none(), "one in flight at a time");
    assert_eq!((first.sequence, second.sequence, writer.durable()), (1, 2, 0));
    assert_eq!(second.position.offset - first.position.offset, SECTOR);
    assert_eq!(writer.commit_done(write.buf), 1);
    assert_eq!(writer.begin_commit().map(|write| write.offset), Some(2 * SECTOR));
}

#[test]
fn limits_push_back() {
    let directory = tempfile::tempdir().unwrap();
    let tail = segment::create(directory.path(), id(), SMALL).unwrap();
    let mut writer = Writer::new(SMALL, &tail);
    let max = writer.max_record();
    let too_large = vec![0; max + 1];
    assert_eq!(writer.append(0, &[&too_large]), Err(AppendError::TooLarge { bytes: max + 1, max }));
    writer.append(0, &[&too_large[1..]]).unwrap();
    assert_eq!(writer.append(0, &[]), Err(AppendError::Full));
    assert_eq!(writer.pending_bytes(), max + RECORD_HEADER);
    let write = writer.begin_commit().unwrap();
    assert_eq!(write.buf.len(), SMALL.group_bytes as usize);
}

#[test]
fn a_commit_waits_for_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes: 2 * SECTOR, group_bytes: SECTOR };
    let tail = segment::create(directory.path(), id(), config).unwrap();
    let mut writer = Writer::new(config, &tail);
    assert_eq!((writer.poll_segment(), writer.poll_segment()), (Some(1), None), "asked once, one ahead");
    writer.append(0, &[b"in segment 0"]).unwrap();
    let write = writer.begin_commit().unwrap();
    writer.commit_done(write.buf);
    let next = writer.append(0, &[b"in segment 1"]).unwrap();
    assert_eq!(next.position.segment, 1);
    assert!(writer.begin_commit().is_none(), "no file yet");
    assert_eq!(writer.poll_segment(), None);
    writer.segment_ready(1);
    assert_eq!(writer.poll_segment(), Some(2));
    let write = writer.begin_commit().unwrap();
    assert_eq!((write.segment, write.offset, write.buf.len()), (1, 0, 2 * SECTOR as usize));
}

#[test]
fn configurations_are_checked() {
    assert_eq!(LogConfig::default().validate(), Ok(()));
    let bad = LogConfig { segment_bytes: 5000, group_bytes: SECTOR };
    assert_eq!(bad.validate(), Err(LogConfigError::NotSectors));
    let bad = LogConfig { segment_bytes: 4 * SECTOR, group_bytes: 4 * SECTOR };
    assert!(matches!(bad.validate(), Err(LogConfigError::GroupTooLarge { max, .. }) if max == 3 * SECTOR));
}

/// The layout on disk. To write it anew after an intended change: `TOP_WRITE_GOLDEN=1 cargo test -p engine golden`.
#[test]
fn golden_layout() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log.bin");
    let config = LogConfig { segment_bytes: 3 * SECTOR, group_bytes: 2 * SECTOR };
    let header = SegmentHeader {
        id: id(),
        segment: 5,
        segment_bytes: config.segment_bytes,
        first_sequence: 77,
        previous: Hash([0xab; 32]),
    };
    let tail = Tail {
        id: id(),
        segment: 4,
        segment_bytes: config.segment_bytes,
        offset: config.segment_bytes,
        next_segment: 5,
        next_sequence: 77,
        previous: header.previous,
        kind: TailKind::Clean,
    };
    let mut writer = Writer::new(config, &tail);
    assert_eq!(writer.poll_segment(), Some(5));
    writer.segment_ready(5);
    writer.append(1, &[b"vote"]).unwrap();
    writer.append(2, &[b"", b"blo", b"ck"]).unwrap();
    let write = writer.begin_commit().unwrap();
    if std::env::var_os("TOP_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &write.buf[..]).unwrap();
    }
    let expected = std::fs::read(&golden).unwrap();
    assert_eq!(&write.buf[..], &expected[..]);

    assert_eq!(SegmentHeader::decode(&expected), Ok(header));
    let group = Group::decode(&expected[SECTOR as usize..], &id().key()).unwrap();
    assert_eq!(
        (group.header.sequence, group.header.previous, group.header.records),
        (77, header.previous, 2)
    );
    let records: Vec<_> =
        group.records().map(|record| (record.offset, record.kind, record.payload)).collect();
    assert_eq!(records, [(SECTOR + 96, 1, &b"vote"[..]), (SECTOR + 105, 2, &b"block"[..])]);
}

proptest::proptest! {
    #[test]
    fn any_bytes_decode_without_panic(
        mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..9000),
        magic: bool,
    ) {
        if magic && bytes.len() > 40 {
            bytes[32..40].copy_from_slice(b"TOPGROUP");
        }
        let _ = SegmentHeader::decode(&bytes);
        let _ = GroupHeader::peek(&bytes);
        match Group::decode(&bytes, &id().key()) {
            Ok(_) => panic!("nobody guesses a checksum"),
            Err(GroupError::Incomplete(need)) => assert!(need > bytes.len() && need <= 16 << 20),
            Err(_) => {}
        }
    }

    #[test]
    fn any_payload_under_a_right_checksum_decodes_without_panic(
        payload in proptest::collection::vec(0u8..8, 1..300),
        records in 1u32..20,
        offset: u32,
    ) {
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        let header =
            GroupHeader { sequence: 1, previous: Hash::ZERO, segment: 0, offset, payload_bytes, records };
        let mut group = vec![0; SECTOR as usize];
        group[frame::GROUP_HEADER..][..payload.len()].copy_from_slice(&payload);
        header.seal(&mut group, &mut frame::GroupHasher::new(&id().key()));
        match Group::decode(&group, &id().key()) {
            Ok(group) => assert_eq!(group.records().count(), records as usize),
            Err(error) => assert_eq!(error, GroupError::Records),
        }
    }
}
