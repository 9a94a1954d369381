//! A writer together with its files, for callers that may block: tools, tests, measurements.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::writer::{AppendError, Appended, Writer};
use super::{LogConfig, Tail, segment};

/// Where a [`BlockingLog`] writes.
pub trait Sink {
    /// Makes the file of a segment.
    fn prepare(&mut self, segment: u32) -> io::Result<()>;
    /// Writes whole sectors to a prepared segment and makes them durable.
    fn write(&mut self, segment: u32, offset: u32, bytes: &[u8]) -> io::Result<()>;
}

/// Segment files, written with direct IO and `fdatasync`.
#[derive(Debug)]
pub struct FileSink {
    directory: PathBuf,
    core: u16,
    segment_bytes: u32,
    files: HashMap<u32, File>,
}

impl FileSink {
    /// Opens the file of the segment that `tail` ends in.
    pub fn open(directory: &Path, config: LogConfig, tail: &Tail) -> io::Result<FileSink> {
        let core = tail.id.core;
        let file = segment::open_for_writing(directory, core, tail.segment, tail.segment_bytes)?;
        let files = HashMap::from([(tail.segment, file)]);
        Ok(FileSink { directory: directory.to_path_buf(), core, segment_bytes: config.segment_bytes, files })
    }
}

impl Sink for FileSink {
    fn prepare(&mut self, segment: u32) -> io::Result<()> {
        let FileSink { directory, core, segment_bytes, files } = self;
        segment::prepare_blocking(directory, *core, segment, *segment_bytes)?;
        files.insert(segment, segment::open_for_writing(directory, *core, segment, *segment_bytes)?);
        Ok(())
    }

    fn write(&mut self, segment: u32, offset: u32, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            // The first write of a segment: the ones before it are complete.
            self.files.retain(|number, _| *number >= segment);
        }
        let file = self.files.get(&segment).expect("the writer writes only to segments that are ready");
        file.write_all_at(bytes, offset.into())?;
        file.sync_data()
    }
}

/// Why a [`BlockingLog`] could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The record was refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The files failed. If it was a write, the log has stopped.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A log whose commits block.
#[derive(Debug)]
pub struct BlockingLog<S> {
    writer: Writer,
    sink: S,
    /// The segment that was asked for and could not yet be made.
    wanted: Option<u32>,
}

impl BlockingLog<FileSink> {
    /// Goes on where `tail` ends.
    pub fn open(directory: &Path, config: LogConfig, tail: &Tail) -> io::Result<Self> {
        Ok(Self::with_sink(FileSink::open(directory, config, tail)?, config, tail))
    }
}

impl<S: Sink> BlockingLog<S> {
    /// Goes on where `tail` ends, writing to `sink`.
    pub fn with_sink(sink: S, config: LogConfig, tail: &Tail) -> Self {
        Self { writer: Writer::new(config, tail), sink, wanted: None }
    }

    /// Appends a record, committing first when there is no room.
    pub fn append(&mut self, kind: u8, parts: &[&[u8]]) -> Result<Appended, LogError> {
        match self.writer.append(kind, parts) {
            Err(AppendError::Full) => {
                self.commit()?;
                Ok(self.writer.append(kind, parts)?)
            }
            result => Ok(result?),
        }
    }

    /// Makes everything appended so far durable; returns the sequence of the last durable group.
    ///
    /// When a segment can't be prepared (a full disk), nothing is lost and the commit may be tried again. When a write
    /// fails, the log stops.
    pub fn commit(&mut self) -> io::Result<u64> {
        while self.writer.pending_bytes() > 0 {
            if let Some(write) = self.writer.begin_commit() {
                if let Err(error) = self.sink.write(write.segment, write.offset, &write.buf) {
                    self.writer.commit_failed();
                    return Err(error);
                }
                self.writer.commit_done(write.buf);
            } else {
                self.prepare_next()?;
            }
        }
        Ok(self.writer.durable())
    }

    /// Makes the segment that the writer waits for.
    fn prepare_next(&mut self) -> io::Result<()> {
        self.wanted = self.wanted.or_else(|| self.writer.poll_segment());
        let segment = self.wanted.ok_or_else(|| io::Error::other(AppendError::Stopped))?;
        self.sink.prepare(segment)?;
        self.wanted = None;
        self.writer.segment_ready(segment);
        Ok(())
    }

    /// Ends the log and gives the sink back. What was not committed is lost.
    pub fn into_sink(self) -> S {
        self.sink
    }

    #[cfg(test)]
    pub(super) fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }
}
