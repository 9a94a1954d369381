//! Crashes, damage, full disks and recycled files.

#![expect(clippy::cast_possible_truncation, reason = "sizes in tests are small")]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use futures_lite::future::block_on;
use proptest::prelude::*;

use super::frame::{GROUP_HEADER, GroupHeader, HeaderError};
use super::tests::*;
use super::*;
use crate::side::disk::StdDisk;

/// Overwrites bytes of a segment.
fn overwrite(log: &Log, segment: u32, offset: u32, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(log.segment(segment)).unwrap();
    file.write_all_at(bytes, offset.into()).unwrap();
}

fn flip(log: &Log, segment: u32, offset: u32, bit: u8) {
    let mut byte = [0];
    fs::File::open(log.segment(segment)).unwrap().read_exact_at(&mut byte, offset.into()).unwrap();
    overwrite(log, segment, offset, &[byte[0] ^ (1 << bit)]);
}

#[test]
fn a_file_cut_at_any_sector_keeps_the_whole_groups_before() {
    let mut log = Log::new();
    log.extend(&[vec![100], vec![9000], vec![5000, 5000], vec![1]]);
    let whole = fs::read(log.segment(0)).unwrap();
    let end = log.writes.last().unwrap().range.end;
    for sector in 1..=end / SECTOR {
        let length = sector * SECTOR;
        fs::write(log.segment(0), &whole[..length as usize]).unwrap();
        let survivors = log.writes.iter().filter(|write| write.range.end <= length).count() as u64;
        let (entries, tail) = read_all(log.path()).unwrap();
        assert_eq!(entries, log.up_to(survivors), "cut at sector {sector}");
        let torn = log.writes.iter().any(|write| write.range.contains(&length) && write.range.start < length);
        assert_eq!(tail.kind == TailKind::Torn, torn, "cut at sector {sector}");

        let mut after = Log { directory: log.directory, entries, writes: Vec::new() };
        after.extend(&[vec![77], vec![9000], vec![2], vec![12_000], vec![12_000]]);
        assert_eq!(read_all(after.path()).unwrap().0, after.entries, "written on after sector {sector}");
        for number in 1..=tail.segment + 3 {
            let _ = fs::remove_file(segment::path(after.path(), CORE, number));
        }
        log.directory = after.directory;
    }
}

#[test]
fn a_damaged_group_is_named_and_its_successors_are_never_read() {
    let mut log = Log::new();
    log.extend(&some_groups());
    for (write, sequence) in log.writes[..log.writes.len() - 1].iter().zip(1..) {
        let start = write.range.start.max(SECTOR);
        flip(&log, write.segment, start + 200, 3);
        let mut scanner = Scanner::open(log.path(), CHAIN, CORE).unwrap().unwrap();
        let mut last = 0;
        let error = loop {
            match scanner.next_record() {
                Ok(record) => last = record.expect("damage comes before the end").sequence,
                Err(error) => break error,
            }
        };
        let expected = Damage { segment: write.segment, offset: start, reason: DamageReason::Checksum };
        assert!(matches!(error, ScanError::Damage(damage) if damage == expected), "{error}");
        assert_eq!(last, sequence - 1);
        flip(&log, write.segment, start + 200, 3);
    }
    assert_eq!(read_all(log.path()).unwrap().0, log.entries);
}

#[test]
fn a_missing_segment_is_damage() {
    let mut log = Log::new();
    log.extend(&some_groups());
    log.extend(&some_groups());
    fs::remove_file(log.segment(1)).unwrap();
    assert_eq!(damage(log.path()).segment, 0);
    fs::remove_file(log.segment(0)).unwrap();
    read_all(log.path()).expect("a log may begin anywhere: the rest was no longer needed");
}

#[test]
fn headers_are_judged_too() {
    let mut log = Log::new();
    log.extend(&some_groups());
    let last = log.writes.last().unwrap().segment;
    for number in 0..=last {
        flip(&log, number, 60, 0);
        assert_eq!(damage(log.path()).segment, number, "in use by several groups");
        flip(&log, number, 60, 0);
        overwrite(&log, number, 0, &[0; SECTOR as usize]);
        let Damage { segment, offset, reason } = damage(log.path());
        assert_eq!((segment, offset), (number, 0));
        assert_eq!(reason, DamageReason::Header(HeaderError::Blank));
        return_header(&log, number);
    }
    read_all(log.path()).unwrap();
}

/// Puts a segment's header back after a test has erased it.
fn return_header(log: &Log, number: u32) {
    let pristine = Log::new();
    let mut pristine = Log { entries: Vec::new(), ..pristine };
    pristine.extend(&some_groups());
    let header = fs::read(pristine.segment(number)).unwrap();
    overwrite(log, number, 0, &header[..SECTOR as usize]);
}

#[test]
fn logs_of_others_are_refused() {
    let mut log = Log::new();
    log.extend(&[vec![1]]);
    let error = Scanner::open(log.path(), CHAIN + 1, CORE).unwrap_err().to_string();
    assert!(error.contains("00000000000070b0") && error.contains("00000000000070b1"), "{error}");
    fs::rename(log.segment(0), segment::path(log.path(), CORE + 1, 0)).unwrap();
    assert!(matches!(
        Scanner::open(log.path(), CHAIN, CORE + 1),
        Err(ScanError::WrongCore { found: CORE, .. })
    ));
    assert!(Scanner::open(log.path(), CHAIN, CORE).unwrap().is_none());
}

#[test]
fn a_recycled_segment_shows_nothing_of_its_former_life() {
    let mut log = Log::new();
    log.extend(&some_groups());
    let last = log.writes.last().unwrap().segment;
    let sectors = SMALL.segment_bytes;
    block_on(segment::prepare(&StdDisk, log.path(), CORE, last + 1, sectors, Some(0))).unwrap();
    let kept: Vec<_> = log.entries.iter().filter(|entry| entry.position.segment > 0).cloned().collect();
    let (entries, tail) = read_all(log.path()).unwrap();
    assert_eq!((entries, tail.segment), (kept.clone(), last));

    log.entries = kept;
    log.extend(&[vec![12_000], vec![12_000], vec![12_000], vec![1]]);
    let (entries, tail) = read_all(log.path()).unwrap();
    assert_eq!(entries, log.entries);
    assert_eq!(tail.segment, last + 1, "the recycled segment is in use, with former groups behind the last");
}

#[test]
fn bytes_from_strangers_are_no_groups() {
    for (salt, believed) in [([1; 32], false), (id().salt, true)] {
        let mut log = Log::new();
        log.extend(&[vec![10]]);
        let tail = read_all(log.path()).unwrap().1;
        // A payload with a group in it, at a sector, that claims to come later.
        let forged = GroupHeader {
            sequence: tail.next_sequence + 5,
            previous: tail.previous,
            segment: tail.segment,
            offset: tail.offset + SECTOR,
            payload_bytes: 5,
            records: 1,
        };
        let mut payload = vec![0; 2 * SECTOR as usize - GROUP_HEADER - frame::RECORD_HEADER];
        let at = SECTOR as usize - GROUP_HEADER - frame::RECORD_HEADER;
        let key = LogId { salt, ..id() }.key();
        forged.seal(&mut payload[at..], &mut frame::GroupHasher::new(&key));
        let mut writer = BlockingLog::open(log.path(), SMALL, &tail).unwrap();
        writer.append(0, &[&payload]).unwrap();
        writer.commit().unwrap();

        overwrite(&log, tail.segment, tail.offset, &[0; SECTOR as usize]);
        let result = read_all(log.path());
        assert_eq!(matches!(result, Err(ScanError::Damage(_))), believed, "{result:?}");
    }
}

/// A disk that fails on demand.
struct Failing {
    files: FileSink,
    full: bool,
    broken: bool,
}

impl Sink for Failing {
    fn prepare(&mut self, segment: u32) -> io::Result<()> {
        if self.full { Err(io::ErrorKind::StorageFull.into()) } else { self.files.prepare(segment) }
    }

    fn write(&mut self, segment: u32, offset: u32, bytes: &[u8]) -> io::Result<()> {
        if self.broken { Err(io::Error::other("EIO")) } else { self.files.write(segment, offset, bytes) }
    }
}

fn failing_log(log: &Log) -> BlockingLog<Failing> {
    let tail = segment::create(log.path(), id(), SMALL).unwrap();
    let files = FileSink::open(log.path(), SMALL, &tail).unwrap();
    BlockingLog::with_sink(Failing { files, full: false, broken: false }, SMALL, &tail)
}

#[test]
fn a_full_disk_stops_commits_until_there_is_room() {
    let log = Log::new();
    let mut writer = failing_log(&log);
    writer.sink_mut().full = true;
    let mut appended = 0;
    let error = loop {
        writer.append(0, &[&[7; 10_000]]).unwrap();
        appended += 1;
        match writer.commit() {
            Ok(durable) => assert_eq!(durable, appended),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(read_all(log.path()).unwrap().0.len() as u64, appended - 1);
    writer.sink_mut().full = false;
    assert_eq!(writer.commit().unwrap(), appended, "nothing was lost meanwhile");
    assert_eq!(read_all(log.path()).unwrap().0.len() as u64, appended);
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more() {
    let log = Log::new();
    let mut writer = failing_log(&log);
    writer.append(0, &[b"good"]).unwrap();
    writer.commit().unwrap();
    writer.append(0, &[b"lost"]).unwrap();
    writer.sink_mut().broken = true;
    writer.commit().unwrap_err();
    writer.sink_mut().broken = false;
    assert!(writer.append(0, &[b"no"]).unwrap_err().to_string().contains("stopped"));
    let _ = writer.commit();
    assert_eq!(read_all(log.path()).unwrap().0.len(), 1);
}

#[test]
fn a_cut_log_goes_on_and_keeps_what_was_damaged() {
    for victim in [0, 4, 7, 12] {
        let mut log = Log::new();
        log.extend(&some_groups());
        let last_segment = log.writes.last().unwrap().segment;
        let write = log.writes[victim].clone();
        flip(&log, write.segment, write.range.end - 1, 7);
        let found = damage(log.path());
        let cut = repair::cut(log.path(), CORE, found).unwrap();
        assert_eq!(cut.truncated_at, LogPosition { segment: found.segment, offset: found.offset });
        assert_eq!(cut.put_aside.len() as u32, last_segment - write.segment + 1);
        assert!(cut.put_aside.iter().all(|path| path.exists()));

        log.entries = log.up_to(victim as u64);
        if victim > 0 {
            assert_eq!(read_all(log.path()).unwrap().0, log.entries);
        } else {
            assert!(Scanner::open(log.path(), CHAIN, CORE).unwrap().is_none(), "nothing good was left");
        }
        log.extend(&[vec![5], vec![6000]]);
        assert_eq!(read_all(log.path()).unwrap().0, log.entries);
        let (_, newest) = log.entries.split_at(log.entries.len() - 2);
        assert!(
            newest.iter().all(|entry| entry.position.segment > last_segment),
            "no position is used twice"
        );
    }
}

#[test]
fn a_repair_that_was_interrupted_is_still_needed() {
    let mut log = Log::new();
    log.extend(&some_groups());
    let write = log.writes[2].clone();
    flip(&log, write.segment, write.range.end - 1, 7);
    let found = damage(log.path());
    let later = segment::list(log.path(), CORE).unwrap();
    // As if the machine had stopped after the damaged segment was replaced: its successors are still there.
    let hidden: Vec<_> = later.iter().filter(|number| **number > found.segment).collect();
    let away = tempfile::tempdir().unwrap();
    for number in &hidden {
        fs::rename(log.segment(**number), segment::path(away.path(), CORE, **number)).unwrap();
    }
    repair::cut(log.path(), CORE, found).unwrap();
    for number in &hidden {
        fs::rename(segment::path(away.path(), CORE, **number), log.segment(**number)).unwrap();
    }
    let again = damage(log.path());
    assert_eq!((again.segment, again.offset), (found.segment, found.offset));
    repair::cut(log.path(), CORE, again).unwrap();
    assert_eq!(read_all(log.path()).unwrap().0, log.up_to(2));
}

#[test]
fn old_segments_are_verified_at_rest() {
    let mut log = Log::new();
    log.extend(&some_groups());
    let last = log.writes.last().unwrap().segment;
    let pace = Pace { bytes_per_second: u32::MAX, go_on: &|| true };
    let verify = |number| block_on(verify_sealed(&StdDisk, log.path(), CHAIN, CORE, number, pace));
    for number in 0..=last {
        verify(number).unwrap();
    }
    let write = &log.writes[1];
    flip(&log, write.segment, write.range.start + 100, 0);
    let expected =
        Damage { segment: write.segment, offset: write.range.start, reason: DamageReason::Checksum };
    assert!(matches!(verify(write.segment), Err(ScanError::Damage(damage)) if damage == expected));
    fs::remove_file(log.segment(write.segment)).unwrap();
    verify(write.segment).expect("a segment that was removed is not damaged");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_flipped_bit_is_noticed(
        groups in prop::collection::vec(prop::collection::vec(0usize..5000, 1..4), 1..12),
        place: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut log = Log::new();
        log.extend(&groups);
        // What is durable: the header that `create` wrote, and every write.
        let created = Written { segment: 0, range: 0..SECTOR };
        let durable: Vec<_> = std::iter::once(&created).chain(&log.writes).cloned().collect();
        let bytes: u32 = durable.iter().map(|write| write.range.len() as u32).sum();
        let mut at = u32::try_from(place.index(bytes as usize)).unwrap();
        let mut hit = durable.len();
        for (index, write) in durable.iter().enumerate() {
            let length = write.range.len() as u32;
            if at < length {
                flip(&log, write.segment, write.range.start + at, bit);
                hit = index;
                break;
            }
            at -= length;
        }
        let last = durable.len() - 1;
        match read_all(log.path()) {
            Ok((entries, _)) => {
                prop_assert_eq!(hit, last, "only the last write may be taken for torn");
                prop_assert_eq!(entries, log.up_to(last as u64 - 1));
            }
            Err(ScanError::Damage(damage)) => {
                prop_assert!(hit < last, "the last write is cut");
                prop_assert_eq!(damage.segment, durable[hit].segment);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn any_torn_last_write_is_cut(
        groups in prop::collection::vec(prop::collection::vec(0usize..5000, 1..4), 1..12),
        persisted: u8,
    ) {
        let mut log = Log::new();
        log.extend(&groups);
        let last = log.writes.last().unwrap().clone();
        let sectors = last.range.len() as u32 / SECTOR;
        let lost: Vec<u32> = (0..sectors).filter(|sector| persisted & (1 << sector) == 0).collect();
        for sector in &lost {
            overwrite(&log, last.segment, last.range.start + sector * SECTOR, &[0; SECTOR as usize]);
        }
        let survivors = log.writes.len() as u64 - u64::from(!lost.is_empty());
        prop_assert_eq!(&read_all(log.path()).unwrap().0, &log.up_to(survivors));
        log.entries = log.up_to(survivors);
        log.extend(&[vec![4000, 1], vec![9], vec![8000], vec![15_000]]);
        prop_assert_eq!(read_all(log.path()).unwrap().0, log.entries);
    }
}
