//! The few file operations that the side jobs need, over glommio or over the standard library.
//!
//! A job is written once, as an async function over [`Disk`]. Under glommio it waits in the ring; over the standard
//! library each operation blocks and then yields, so that the jobs of one thread still take turns.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use futures_lite::future::yield_now;
use netio::AlignedBuf;

/// Where files live.
pub(crate) trait Disk: Clone + 'static {
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
}

/// An open file. Offsets and lengths are multiples of the sector.
pub(crate) trait DiskFile {
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
pub(crate) struct StdDisk;

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
