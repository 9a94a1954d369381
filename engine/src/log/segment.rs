//! Segment files: their names, and making, opening and removing them.
//!
//! `log-<core>-<segment>.top` is a segment, begun or prepared. `….tmp` was left by a crash while one was being
//! prepared and means nothing. `….damaged` was put aside by [`repair`](super::repair).
//!
//! A segment is prepared by writing zeros over its whole length, so that the file's blocks are allocated and known to
//! be written: a later `fdatasync` then flushes data alone and waits for no journal. A file whose segment is no longer
//! needed serves as well, and costs one rename.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use dag::Hash;
use futures_lite::future::block_on;
use netio::AlignedBuf;

use super::frame::{LogId, SECTOR, SegmentHeader};
use super::{LogConfig, Tail, TailKind};
use crate::side::disk::{Disk, DiskFile, StdDisk, name, open_direct};

/// Bytes of zeros written at a time: large enough for the disk's full rate, small enough to let others in between.
const ZERO_CHUNK: u32 = 1 << 20;

const EXTENSION: &str = "top";
const TEMPORARY: &str = "tmp";
const DAMAGED: &str = "damaged";

/// Path of a segment.
#[must_use]
pub fn path(directory: &Path, core: u16, segment: u32) -> PathBuf {
    directory.join(format!("log-{core:03}-{segment:010}.{EXTENSION}"))
}

/// Path under which [`repair`](super::repair) keeps a damaged segment.
#[must_use]
pub fn damaged_path(directory: &Path, core: u16, segment: u32) -> PathBuf {
    path(directory, core, segment).with_extension(DAMAGED)
}

pub(crate) fn temporary_path(directory: &Path, core: u16, segment: u32) -> PathBuf {
    path(directory, core, segment).with_extension(TEMPORARY)
}

/// Core, segment and extension of a file name, if it is one of ours.
fn parse(file_name: &OsStr) -> Option<(u16, u32, &str)> {
    let (stem, extension) = file_name.to_str()?.split_once('.')?;
    let (core, segment) = stem.strip_prefix("log-")?.split_once('-')?;
    Some((core.parse().ok()?, segment.parse().ok()?, extension))
}

fn numbers(disk: &impl Disk, directory: &Path, core: u16, extension: &str) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for file_name in disk.names(directory)? {
        match parse(&file_name) {
            Some((of, segment, found)) if of == core && found == extension => numbers.push(segment),
            _ => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Numbers of a core's segments, begun and prepared, ascending.
pub fn list(directory: &Path, core: u16) -> io::Result<Vec<u32>> {
    list_on(&StdDisk, directory, core)
}

/// The same on another disk.
pub fn list_on(disk: &impl Disk, directory: &Path, core: u16) -> io::Result<Vec<u32>> {
    numbers(disk, directory, core, EXTENSION)
}

/// Numbers of the segments that [`repair`](super::repair) put aside, ascending.
pub fn list_damaged(disk: &impl Disk, directory: &Path, core: u16) -> io::Result<Vec<u32>> {
    numbers(disk, directory, core, DAMAGED)
}

/// Opens a segment for the writer, with direct IO where the file system can. A file that has lost its end gets it back
/// as a hole.
pub fn open_for_writing(directory: &Path, core: u16, segment: u32, segment_bytes: u32) -> io::Result<File> {
    let path = path(directory, core, segment);
    let file = open_direct(&path, OpenOptions::new().write(true))?;
    if file.metadata()?.len() < u64::from(segment_bytes) {
        file.set_len(segment_bytes.into())
            .and_then(|()| file.sync_all())
            .map_err(|error| name(error, &path))?;
    }
    Ok(file)
}

/// Starts a core's log in a directory that holds no segment of it: makes the first segment, header included, durable.
///
/// Its number is above those of all segments that repair has put aside, so that a position in one of these never comes
/// to mean something else.
pub fn create(directory: &Path, id: LogId, config: LogConfig) -> io::Result<Tail> {
    create_on(&StdDisk, directory, id, config)
}

/// The same on another disk.
pub fn create_on(disk: &impl Disk, directory: &Path, id: LogId, config: LogConfig) -> io::Result<Tail> {
    let begun = list_on(disk, directory, id.core)?;
    assert!(begun.is_empty(), "a log is created once");
    let segment = list_damaged(disk, directory, id.core)?.last().map_or(0, |last| last + 1);
    let header = SegmentHeader {
        id,
        segment,
        segment_bytes: config.segment_bytes,
        first_sequence: 1,
        previous: Hash::ZERO,
    };
    let mut first = zeros(SECTOR);
    header.encode(&mut first);
    block_on(write_segment(disk, directory, id.core, segment, config.segment_bytes, first))?;
    Ok(Tail {
        id,
        segment,
        segment_bytes: config.segment_bytes,
        offset: SECTOR,
        next_segment: segment + 1,
        next_sequence: 1,
        previous: Hash::ZERO,
        kind: TailKind::Clean,
    })
}

/// Makes the file of a segment that the writer will begin later. Does nothing when it is there already; renames the file
/// of segment `recycle` when that one has the right size; else writes zeros.
pub async fn prepare<D: Disk>(
    disk: &D,
    directory: &Path,
    core: u16,
    segment: u32,
    segment_bytes: u32,
    recycle: Option<u32>,
) -> io::Result<()> {
    let wanted = path(directory, core, segment);
    let has_size = |path: &Path| disk.length(path).is_ok_and(|length| length == u64::from(segment_bytes));
    if has_size(&wanted) {
        return Ok(());
    }
    if let Some(old) = recycle {
        assert!(old < segment, "a segment is recycled into a later one");
        let old = path(directory, core, old);
        if has_size(&old) {
            disk.rename(&old, &wanted).await?;
            return disk.sync_directory(directory).await;
        }
    }
    write_segment(disk, directory, core, segment, segment_bytes, zeros(SECTOR)).await
}

/// Makes the file of a segment that the writer will begin later, from zeros; does nothing when it is there already.
pub fn prepare_blocking(directory: &Path, core: u16, segment: u32, segment_bytes: u32) -> io::Result<()> {
    block_on(prepare(&StdDisk, directory, core, segment, segment_bytes, None))
}

/// Writes a segment of `first` and zeros under a temporary name, makes it durable, and gives it its name.
pub(crate) async fn write_segment<D: Disk>(
    disk: &D,
    directory: &Path,
    core: u16,
    segment: u32,
    segment_bytes: u32,
    first: AlignedBuf,
) -> io::Result<()> {
    let temporary = temporary_path(directory, core, segment);
    let written = write_file(disk, &temporary, segment_bytes, first).await;
    if let Err(error) = written {
        // A full disk must get its space back. The first error is the one that matters.
        let _ = disk.remove(&temporary).await;
        return Err(name(error, &temporary));
    }
    disk.rename(&temporary, &path(directory, core, segment)).await?;
    disk.sync_directory(directory).await
}

async fn write_file<D: Disk>(disk: &D, path: &Path, length: u32, first: AlignedBuf) -> io::Result<()> {
    let file = disk.create(path).await?;
    let result = async {
        file.write_sectors(&first, 0).await?;
        let chunk = zeros(ZERO_CHUNK);
        let mut offset = u32::try_from(first.len()).expect("a prefix is within its segment");
        while length - offset >= ZERO_CHUNK {
            file.write_sectors(&chunk, offset.into()).await?;
            offset += ZERO_CHUNK;
        }
        if offset < length {
            file.write_sectors(&zeros(length - offset), offset.into()).await?;
        }
        file.sync().await
    }
    .await;
    file.close().await?;
    result
}

/// A buffer of zeros, whole sectors long.
pub(crate) fn zeros(length: u32) -> AlignedBuf {
    let mut buf = AlignedBuf::with_capacity(length as usize);
    buf.extend_from_slice(&[0]);
    buf.pad_to(length as usize);
    buf
}

/// Removes what a crash left half made. To be called before the log is used.
pub fn remove_leftovers(disk: &impl Disk, directory: &Path, core: u16) -> io::Result<()> {
    for segment in numbers(disk, directory, core, TEMPORARY)? {
        block_on(disk.remove(&temporary_path(directory, core, segment)))?;
    }
    Ok(())
}

/// Removes the segments below `segment` and returns how many there were. The caller has made sure that nothing in
/// them is needed: every table has a snapshot that is newer.
pub async fn remove_before<D: Disk>(
    disk: &D,
    directory: &Path,
    core: u16,
    segment: u32,
) -> io::Result<usize> {
    let old: Vec<u32> =
        list_on(disk, directory, core)?.into_iter().filter(|number| *number < segment).collect();
    // Ascending, so that what remains after a crash has no hole.
    for number in &old {
        disk.remove(&path(directory, core, *number)).await?;
    }
    disk.sync_directory(directory).await?;
    Ok(old.len())
}

/// Removes the segments below `segment` and returns how many there were, for callers that may block.
pub fn remove_before_blocking(directory: &Path, core: u16, segment: u32) -> io::Result<usize> {
    block_on(remove_before(&StdDisk, directory, core, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_ignored() {
        let path = path(Path::new("/d"), 3, 42);
        assert_eq!(path, Path::new("/d/log-003-0000000042.top"));
        assert_eq!(parse(path.file_name().expect("it has one")), Some((3, 42, "top")));
        for stranger in ["log-3.top", "log-x-1.top", "snap-3-1.top", "log-3-99999999999.top", "log"] {
            assert_eq!(parse(OsStr::new(stranger)), None, "{stranger}");
        }
    }

    #[test]
    fn recycling_keeps_the_blocks_and_changes_the_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let directory = directory.path();
        prepare_blocking(directory, 0, 1, 8 * SECTOR).expect("prepared");
        block_on(prepare(&StdDisk, directory, 0, 5, 8 * SECTOR, Some(1))).expect("recycled");
        assert_eq!(list(directory, 0).expect("listed"), [5]);
        block_on(prepare(&StdDisk, directory, 0, 6, 16 * SECTOR, Some(5)))
            .expect("another size is made anew");
        assert_eq!(list(directory, 0).expect("listed"), [5, 6]);
        assert_eq!(remove_before_blocking(directory, 0, 6).expect("removed"), 1);
        assert_eq!(list(directory, 0).expect("listed"), [6]);
    }
}
