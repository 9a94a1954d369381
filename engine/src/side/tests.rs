//! Both executors, behind the same interface.

#![expect(clippy::cast_possible_truncation, reason = "sizes in tests are small")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;

use bytes::Bytes;
use tempfile::TempDir;

use super::disk::StdDisk;
use super::*;
use crate::log::{BlockingLog, Damage, DamageReason, LogId, SECTOR, Scanner, segment};
use crate::snapshot;

const CHAIN: u64 = 0x70b0;
const LOG: LogConfig = LogConfig { segment_bytes: 300 * SECTOR, group_bytes: 100 * SECTOR };

struct Fixture {
    directory: TempDir,
    side: Side,
    clients: Vec<SideClient>,
    wakes: Arc<AtomicUsize>,
}

/// Counts, and unparks the test's thread.
fn wake(count: &Arc<AtomicUsize>) -> Wake {
    let (count, sleeper): (_, Thread) = (count.clone(), std::thread::current());
    Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        sleeper.unpark();
    })
}

fn config(directory: &Path) -> SideConfig {
    SideConfig {
        log_directory: directory.to_path_buf(),
        snapshot_directory: directory.to_path_buf(),
        chain: CHAIN,
        log: LOG,
        scrub_bytes_per_second: u32::MAX,
    }
}

impl Fixture {
    fn new(backend: Backend, clients: usize) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let wakes = Arc::new(AtomicUsize::new(0));
        let callbacks = (0..clients).map(|_| wake(&wakes)).collect();
        let (side, clients) = start(config(directory.path()), callbacks, backend).unwrap();
        assert_eq!(side.fallback(), None, "this machine is meant to run glommio");
        Fixture { directory, side, clients, wakes }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn reply(&self, client: usize) -> Reply {
        loop {
            if let Some(reply) = self.clients[client].try_reply() {
                return reply;
            }
            assert!(!self.clients[client].is_stopped(), "the side thread has ended");
            std::thread::park();
        }
    }

    /// Submits, waiting while there is no room.
    fn submit(&self, client: usize, mut job: Job) {
        while let Err(error) = self.clients[client].submit(job) {
            match error {
                SubmitError::Full(back) => job = back,
                SubmitError::Stopped(_) => panic!("{error}"),
            }
            std::thread::yield_now();
        }
    }

    fn snapshot(&self, client: usize, table: u16, height: u64, sections: usize) {
        self.submit(client, Job::BeginSnapshot { table, height });
        for index in 0..sections {
            let bytes = Bytes::from(vec![u8::try_from(index % 251).unwrap(); 10_000]);
            self.submit(client, Job::SnapshotSection { table, kind: 1, bytes });
        }
        self.submit(client, Job::FinishSnapshot { table });
    }

    fn stop(self) {
        drop(self.clients);
        self.side.join().expect("the side thread ends in peace");
    }
}

fn on_both(test: fn(Backend)) {
    test(Backend::Automatic);
    test(Backend::Thread);
}

#[test]
fn segments_are_prepared_recycled_and_removed() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 1);
        for (segment, recycle) in [(0, None), (1, None), (2, Some(0))] {
            fixture.submit(0, Job::PrepareSegment { core: 0, segment, recycle });
            match fixture.reply(0) {
                Reply::SegmentReady { core: 0, segment: ready, file } if ready == segment => {
                    assert_eq!(file.unwrap().metadata().unwrap().len(), u64::from(LOG.segment_bytes));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(segment::list(fixture.path(), 0).unwrap(), [1, 2]);
        fixture.submit(0, Job::RemoveSegments { core: 0, before: 2 });
        assert!(matches!(fixture.reply(0), Reply::SegmentsRemoved { removed: Ok(1), .. }));
        assert_eq!(segment::list(fixture.path(), 0).unwrap(), [2]);
        assert_eq!(fixture.wakes.load(Ordering::SeqCst), 4, "one wake for each reply");
        fixture.stop();
    });
}

#[test]
fn snapshots_of_several_tables_and_clients_interleave() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 2);
        for height in 1..=3 {
            for client in 0..2u16 {
                fixture.snapshot(client.into(), client, height, 100);
            }
            for client in 0..2 {
                assert!(matches!(fixture.reply(client), Reply::SnapshotWritten { result: Ok(()), .. }));
            }
        }
        for table in 0..2 {
            assert_eq!(snapshot::list(&StdDisk, fixture.path(), table).unwrap(), [2, 3]);
            let newest =
                snapshot::newest_good(&StdDisk, fixture.path(), CHAIN, table).unwrap().snapshot.unwrap();
            assert_eq!(newest.sections().count(), 100);
            assert!(newest.sections().enumerate().all(|(i, section)| section.bytes == [i as u8; 10_000]));
        }
        fixture.stop();
    });
}

#[test]
fn a_snapshot_that_fails_says_so_once_and_leaves_nothing() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 1);
        // A directory in the way of the temporary file.
        let in_the_way = snapshot::path(fixture.path(), 5, 1).with_extension("tmp");
        fs::create_dir(&in_the_way).unwrap();
        fixture.snapshot(0, 5, 1, 3);
        match fixture.reply(0) {
            Reply::SnapshotWritten { table: 5, height: 1, result: Err(error) } => {
                assert!(error.to_string().contains("snap-00005"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        fs::remove_dir(&in_the_way).unwrap();
        fixture.snapshot(0, 5, 2, 3);
        assert!(matches!(fixture.reply(0), Reply::SnapshotWritten { height: 2, result: Ok(()), .. }));
        assert_eq!(snapshot::list(&StdDisk, fixture.path(), 5).unwrap(), [2]);
        fixture.stop();
    });
}

#[test]
fn a_snapshot_begun_again_replaces_the_one_under_way() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 1);
        fixture.submit(0, Job::BeginSnapshot { table: 1, height: 7 });
        fixture.snapshot(0, 1, 8, 1);
        assert!(matches!(fixture.reply(0), Reply::SnapshotWritten { height: 8, result: Ok(()), .. }));
        fixture.submit(0, Job::BeginSnapshot { table: 1, height: 9 });
        let path = fixture.path().to_path_buf();
        let Fixture { directory, side, clients, .. } = fixture;
        drop(clients);
        side.join().unwrap();
        let names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "only the finished one is left: {names:?}");
        drop(directory);
    });
}

#[test]
fn scrubbing_finds_damage_in_sealed_segments() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 1);
        let id = LogId { chain: CHAIN, core: 4, salt: [3; 32] };
        let tail = segment::create(fixture.path(), id, LOG).unwrap();
        let mut log = BlockingLog::open(fixture.path(), LOG, &tail).unwrap();
        for _ in 0..8 {
            log.append(0, &[&[5; 70 * 4096]]).unwrap();
            log.commit().unwrap();
        }
        let verdict = |segment| {
            fixture.submit(0, Job::Scrub { core: 4, segment });
            match fixture.reply(0) {
                Reply::Scrubbed { result, .. } => result,
                other => panic!("{other:?}"),
            }
        };
        verdict(0).unwrap();
        let path = segment::path(fixture.path(), 4, 0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[100 * 4096] ^= 4;
        fs::write(&path, bytes).unwrap();
        let expected = Damage { segment: 0, offset: 72 * SECTOR, reason: DamageReason::Checksum };
        assert!(matches!(verdict(0), Err(ScanError::Damage(found)) if found == expected));
        verdict(77).expect("a segment that is gone is not damaged");
        fixture.stop();
    });
}

#[test]
fn a_writer_rolls_through_segments_that_the_side_thread_makes() {
    on_both(|backend| {
        let fixture = Fixture::new(backend, 1);
        let id = LogId { chain: CHAIN, core: 0, salt: [3; 32] };
        let tail = segment::create(fixture.path(), id, LOG).unwrap();
        let mut writer = crate::log::Writer::new(LOG, &tail);
        let first = segment::open_for_writing(fixture.path(), 0, 0, LOG.segment_bytes).unwrap();
        let mut files = std::collections::HashMap::from([(0, first)]);
        for number in 0..40u32 {
            writer.append(0, &[&number.to_le_bytes(), &[0; 50 * 4096]]).unwrap();
            if let Some(segment) = writer.poll_segment() {
                fixture.submit(0, Job::PrepareSegment { core: 0, segment, recycle: None });
            }
            let write = loop {
                if let Some(write) = writer.begin_commit() {
                    break write;
                }
                let Reply::SegmentReady { segment, file, .. } = fixture.reply(0) else { panic!("one job") };
                files.insert(segment, file.unwrap());
                writer.segment_ready(segment);
            };
            let file = &files[&write.segment];
            std::os::unix::fs::FileExt::write_all_at(file, &write.buf, write.offset.into()).unwrap();
            writer.commit_done(write.buf);
        }
        let mut scanner = Scanner::open(fixture.path(), CHAIN, 0).unwrap().unwrap();
        for number in 0..40u32 {
            let record = scanner.next_record().unwrap().unwrap();
            assert_eq!(record.payload[..4], number.to_le_bytes());
        }
        assert!(scanner.finish().unwrap().segment >= 8);
        fixture.stop();
    });
}

#[test]
fn full_channels_push_back_and_hand_the_job_back() {
    let (client, _served) = connect(Box::new(|| {}));
    for segment in 0..u32::try_from(SCRUB_JOBS_MAX).unwrap() {
        client.submit(Job::Scrub { core: 0, segment }).unwrap();
    }
    let refused = client.submit(Job::Scrub { core: 0, segment: 99 });
    assert!(matches!(refused, Err(SubmitError::Full(Job::Scrub { segment: 99, .. }))));
    client.submit(Job::FinishSnapshot { table: 0 }).expect("another kind has another channel");
    drop(_served);
    assert!(client.is_stopped());
    assert!(matches!(client.submit(Job::FinishSnapshot { table: 0 }), Err(SubmitError::Stopped(_))));
}

#[test]
fn a_directory_that_is_missing_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = SideConfig { snapshot_directory: directory.path().join("no"), ..config(directory.path()) };
    let error = start(config, vec![Box::new(|| {})], Backend::Automatic).unwrap_err().to_string();
    assert!(error.contains("/no: No such file"), "{error}");
}
