//! The few file operations that log and snapshots need: over glommio, over the standard library, or over a disk in memory
//! that a simulator tears.
//!
//! A job is written once, as an async function over [`Disk`]. Under glommio it waits in the ring; over the standard
//! library each operation blocks and then yields, so that the jobs of one thread still take turns.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use futures_lite::future::yield_now;
use netio::AlignedBuf;

/// Where files live.
#[allow(async_fn_in_trait, reason = "the futures stay on the thread that made them")]
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: DiskFile;

    /// Opens a new or emptied file for writing, past the page cache where the file system can.
    async fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading, past the page cache where the file system can.
    async fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Renames a file over whatever has the new name.
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    async fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Waits.
    async fn pause(&self, duration: Duration);

    /// The names in a directory, in any order.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let entries = std::fs::read_dir(directory).map_err(|error| name(error, directory))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    }
    /// Length of a file in bytes.
    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path).map_err(|error| name(error, path))?.len())
    }
    /// The first `length` bytes of a file, fewer where it is shorter, past no cache.
    fn read(&self, path: &Path, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(length).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(|error| name(error, path))
    }
}

/// An open file. Offsets and lengths are multiples of the sector.
#[allow(async_fn_in_trait, reason = "the futures stay on the thread that made them")]
pub trait DiskFile {
    /// Writes all of `bytes`.
    async fn write_sectors(&self, bytes: &AlignedBuf, offset: u64) -> io::Result<()>;
    /// Fills `into` from its index `at` on; returns the bytes read, fewer only at the end of the file.
    async fn read_sectors(&self, into: &mut AlignedBuf, at: usize, offset: u64) -> io::Result<usize>;
    /// Makes what was written durable.
    async fn sync(&self) -> io::Result<()>;
    /// Closes the file.
    async fn close(self) -> io::Result<()>;
}

/// Opens a file with direct IO, or through the page cache where the file system refuses that (tmpfs).
pub(crate) fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match options.custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.custom_flags(0).open(path),
        result => result,
    }
    .map_err(|error| name(error, path))
}

/// Adds the path to an error that lacks it, and keeps the kind.
pub(crate) fn name(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The standard library's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    type File = File;

    async fn create(&self, path: &Path) -> io::Result<File> {
        open_direct(path, OpenOptions::new().write(true).create(true).truncate(true))
    }

    async fn open(&self, path: &Path) -> io::Result<File> {
        open_direct(path, OpenOptions::new().read(true))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to).map_err(|error| name(error, from))
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path).map_err(|error| name(error, path))
    }

    async fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory).and_then(|file| file.sync_all()).map_err(|error| name(error, directory))
    }

    async fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
        yield_now().await;
    }
}

impl DiskFile for File {
    async fn write_sectors(&self, bytes: &AlignedBuf, offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        yield_now().await;
        Ok(())
    }

    async fn read_sectors(&self, into: &mut AlignedBuf, at: usize, offset: u64) -> io::Result<usize> {
        let mut filled = at;
        while filled < into.len() {
            let read = match FileExt::read_at(self, &mut into[filled..], offset + (filled - at) as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            filled += read;
            // A file that ends within a sector can't be read on from there with direct IO, and has no more anyway.
            if read == 0 || !read.is_multiple_of(netio::ALIGNMENT) {
                break;
            }
        }
        yield_now().await;
        Ok(filled - at)
    }

    async fn sync(&self) -> io::Result<()> {
        self.sync_data()?;
        yield_now().await;
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        Ok(())
    }
}
