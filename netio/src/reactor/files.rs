//! Durable writes to files.
//!
//! One durable write is two operations: the write, linked to an `fdatasync` that begins when the write has fully
//! succeeded and is cancelled otherwise. The caller hears of them once, when both have ended.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::{Event, FileId, Reactor};
use crate::aligned::{ALIGNMENT, AlignedBuf};
use crate::probe::Features;
use crate::ring::{Completion, Op, OpKind};
use crate::slots::Key;

/// Attempts at one write, counting those that made progress. Devices hardly ever write short; a write cut this
/// often is not going to end well.
const MAX_ATTEMPTS: u32 = 16;

/// Most bytes of one write; the kernel cuts longer ones short (`MAX_RW_COUNT` is just below 2 GiB).
const MAX_WRITE: usize = 1 << 30;

pub(super) struct File {
    descriptor: OwnedFd,
    writes_in_flight: u32,
}

/// A durable write's slot. It owns the buffer that the kernel reads.
pub(super) struct FileWrite {
    file: Key,
    tag: u64,
    buf: AlignedBuf,
    offset: u64,
    /// Bytes that earlier attempts have written; a multiple of [`ALIGNMENT`].
    done: usize,
    attempts: u32,
}

/// A durable write that was not begun, with its buffer.
#[derive(Debug)]
pub struct WriteRefused {
    /// The buffer, unchanged.
    pub buf: AlignedBuf,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for WriteRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for WriteRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<WriteRefused> for io::Error {
    fn from(refused: WriteRefused) -> Self {
        refused.error
    }
}

/// What one finished attempt means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Durable,
    /// Write again from this many bytes on.
    Again {
        done: usize,
    },
    Failed(io::ErrorKind, Option<i32>),
}

/// Judges an attempt to write the bytes from `done` to `len` of a buffer durably.
fn judge(len: usize, done: usize, written: Result<usize, i32>) -> Verdict {
    match written {
        Ok(0) => Verdict::Failed(io::ErrorKind::WriteZero, None),
        Ok(count) if done + count == len => Verdict::Durable,
        // Direct IO goes on from an aligned place only; what lies behind it is written twice.
        Ok(count) => Verdict::Again { done: done + count / ALIGNMENT * ALIGNMENT },
        Err(libc::EINTR | libc::EAGAIN) => Verdict::Again { done },
        Err(errno) => Verdict::Failed(io::Error::from_raw_os_error(errno).kind(), Some(errno)),
    }
}

impl Reactor {
    /// Takes a file for [`write_durable`](Self::write_durable). Open it with `O_DIRECT` where the file system can.
    ///
    /// # Errors
    /// `QuotaExceeded` beyond [`ReactorConfig::max_files`](super::ReactorConfig::max_files), and what the kernel's
    /// registration says.
    pub fn register_file(&mut self, file: OwnedFd) -> io::Result<FileId> {
        let descriptor = file.as_raw_fd();
        let key = self
            .files
            .insert(File { descriptor: file, writes_in_flight: 0 })
            .map_err(|_| io::Error::new(io::ErrorKind::QuotaExceeded, "too many registered files"))?;
        if let Err(error) = self.set_registered(key, descriptor) {
            self.files.remove(key);
            return Err(error);
        }
        Ok(FileId(key))
    }

    /// Gives a registered file back.
    ///
    /// # Panics
    /// When the id is stale, or a write to the file is in flight.
    pub fn unregister_file(&mut self, file: FileId) -> OwnedFd {
        let File { descriptor, writes_in_flight } = self.files.remove(file.0).expect("a registered file");
        assert_eq!(writes_in_flight, 0, "a file is unregistered after its last write has ended");
        const NONE: i32 = -1;
        self.set_registered(file.0, NONE).expect("emptying a slot of our own table can't fail");
        descriptor
    }

    fn set_registered(&self, key: Key, descriptor: i32) -> io::Result<()> {
        if self.features.contains(Features::REGISTERED_FILES) {
            self.ring.uring().submitter().register_files_update(key.index, &[descriptor])?;
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset` and makes it durable; [`Event::FileDone`] with `tag` says how it went and
    /// brings the buffer back. Writes to one file may overtake each other; each is durable when its event says so.
    ///
    /// # Errors
    /// [`WriteRefused`] with `WouldBlock` when
    /// [`ReactorConfig::max_file_writes`](super::ReactorConfig::max_file_writes) are in flight.
    ///
    /// # Panics
    /// When the id is stale, when `buf` is empty or longer than 1 GiB, or when its length or `offset` is not a multiple
    /// of [`ALIGNMENT`].
    pub fn write_durable(
        &mut self,
        file: FileId,
        offset: u64,
        buf: AlignedBuf,
        tag: u64,
    ) -> Result<(), WriteRefused> {
        assert!(!buf.is_empty() && buf.len() <= MAX_WRITE, "a write of {} bytes", buf.len());
        assert!(buf.len().is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64), "unaligned");
        let target = self.files.get_mut(file.0).expect("a registered file");
        let write = FileWrite { file: file.0, tag, buf, offset, done: 0, attempts: 0 };
        match self.writes.insert(write) {
            Ok(key) => {
                target.writes_in_flight += 1;
                self.submit_write(key);
                Ok(())
            }
            Err(FileWrite { buf, .. }) => {
                let error = io::Error::new(io::ErrorKind::WouldBlock, "too many durable writes in flight");
                Err(WriteRefused { buf, error })
            }
        }
    }

    /// Durable writes whose event has not come.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.writes.len()
    }

    fn submit_write(&mut self, key: Key) {
        let write = self.writes.get_mut(key).expect("the caller has looked it up");
        write.attempts += 1;
        let rest = &write.buf[write.done..];
        let len = u32::try_from(rest.len()).expect("MAX_WRITE fits u32");
        let offset = write.offset + write.done as u64;
        let entry = if self.features.contains(Features::REGISTERED_FILES) {
            opcode::Write::new(types::Fixed(write.file.index), rest.as_ptr(), len)
        } else {
            let file = self.files.get(write.file).expect("a file outlives its writes");
            opcode::Write::new(types::Fd(file.descriptor.as_raw_fd()), rest.as_ptr(), len)
        };
        // One operation that ends when the bytes are durable: where the device can, a single write past its cache
        // (forced unit access) instead of a write and a flush of all that the cache holds.
        let entry = entry.offset(offset).rw_flags(libc::RWF_DSYNC).build();
        // SAFETY: the slot keeps the buffer, untouched, until the operation has completed; the file can't be
        // unregistered before that.
        unsafe { self.ring.push(Op { kind: OpKind::FileWrite, key }, entry) };
    }

    pub(super) fn on_file_write(&mut self, key: Key, completion: Completion) {
        let write = self.writes.get_mut(key).expect("a slot is kept until its operation has ended");
        let written = completion.outcome();
        let result = match judge(write.buf.len(), write.done, written) {
            Verdict::Durable => Ok(()),
            Verdict::Again { done } if write.attempts < MAX_ATTEMPTS => {
                write.done = done;
                self.counters.file_retries += 1;
                return self.submit_write(key);
            }
            Verdict::Again { .. } => Err(io::ErrorKind::WriteZero.into()),
            Verdict::Failed(_, Some(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Verdict::Failed(kind, None) => Err(kind.into()),
        };
        self.finish_write(key, result);
    }

    fn finish_write(&mut self, key: Key, result: io::Result<()>) {
        let FileWrite { file, tag, buf, .. } = self.writes.remove(key).expect("the caller has looked it up");
        self.files.get_mut(file).expect("a file outlives its writes").writes_in_flight -= 1;
        self.counters.file_writes += 1;
        match &result {
            Ok(()) => self.counters.file_bytes += buf.len() as u64,
            Err(_) => self.counters.file_errors += 1,
        }
        self.ready.push(Event::FileDone { tag, buf, result });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_write_is_durable() {
        assert_eq!(judge(8192, 0, Ok(8192)), Verdict::Durable);
        assert_eq!(judge(8192, 4096, Ok(4096)), Verdict::Durable);
        let failed_sync = judge(8192, 0, Err(libc::EIO));
        assert!(matches!(failed_sync, Verdict::Failed(_, Some(libc::EIO))), "{failed_sync:?}");
        let full_disk = judge(8192, 0, Err(libc::ENOSPC));
        assert!(matches!(full_disk, Verdict::Failed(io::ErrorKind::StorageFull, Some(libc::ENOSPC))));
    }

    #[test]
    fn a_short_write_goes_on_from_the_last_full_block() {
        assert_eq!(judge(16384, 0, Ok(4096)), Verdict::Again { done: 4096 });
        assert_eq!(judge(16384, 4096, Ok(5000)), Verdict::Again { done: 8192 });
        assert_eq!(judge(16384, 4096, Ok(100)), Verdict::Again { done: 4096 });
        assert_eq!(judge(16384, 4096, Err(libc::EINTR)), Verdict::Again { done: 4096 });
        assert_eq!(judge(16384, 0, Ok(0)), Verdict::Failed(io::ErrorKind::WriteZero, None));
    }
}
