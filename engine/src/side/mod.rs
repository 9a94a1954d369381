//! The side executor: file work that a core must not wait for.
//!
//! One unpinned thread serves all cores of a node. Each core holds a [`SideClient`]: it submits [`Job`]s and later picks
//! up [`Reply`]s, both through bounded channels that never block it. After each reply a callback of the core's choice
//! is called on the side thread, to wake it out of its ring.
//!
//! ```text
//!  core 0 ── segments ──►┐
//!         ── snapshots ─►│  side thread: glommio executor     files
//!         ── scrubs ────►│  shares 1000 : 200 : 50         ──────────►
//!         ◄── replies ───┘  (or blocking, one job step after another)
//!  core 1 ── …
//! ```
//!
//! The three kinds of job have a channel and a task each, so that a core's next log segment never waits for a snapshot,
//! nor that for a scrub. Under glommio the tasks run in task queues with shares.
//!
//! # When glommio can't run
//!
//! It needs io_uring, half a MiB of lockable memory (`ulimit -l`), and a block device that it understands. [`start`] has
//! it write and read a file in each directory before it is relied on. If that fails, a plain thread with blocking calls
//! takes its place behind the same interface, and [`Side::fallback`] says why.
//!
//! # Fault model
//!
//! A job that fails (a full disk, a broken one) says so in its reply and leaves no file under a final name. If the side
//! thread itself ends, [`SubmitError::Stopped`] says so: the node can't make segments any more and must stop.

pub mod disk;
mod glommio_backend;
mod service;
mod thread_backend;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;

use async_channel::{Receiver, Sender, TrySendError, bounded};
use bytes::Bytes;
use dag::{ChainId, Height, TableId};

use crate::log::{LogConfig, ScanError};

/// Segment jobs of one core that may wait.
pub const SEGMENT_JOBS_MAX: usize = 8;

/// Snapshot jobs of one core that may wait. With sections of a bounded size this bounds the memory of snapshots under way.
pub const SNAPSHOT_JOBS_MAX: usize = 32;

/// Scrub jobs of one core that may wait.
pub const SCRUB_JOBS_MAX: usize = 4;

/// Replies that may wait for one core. When they do, its jobs wait as well.
pub const REPLIES_MAX: usize = 64;

/// Where files are, and how much scrubbing may cost.
#[derive(Clone, Debug)]
pub struct SideConfig {
    /// Directory of the log segments. It exists.
    pub log_directory: PathBuf,
    /// Directory of the snapshots. It exists.
    pub snapshot_directory: PathBuf,
    /// The network.
    pub chain: ChainId,
    /// Sizes of new log segments.
    pub log: LogConfig,
    /// How fast old segments are read again, for each core.
    pub scrub_bytes_per_second: u32,
}

/// Work for the side executor. Jobs of one kind and core are done in the order they were submitted.
#[derive(Debug)]
pub enum Job {
    /// Make the file of a log segment ready, from zeros or from an old one. Answered by [`Reply::SegmentReady`].
    PrepareSegment {
        /// The core whose log it is.
        core: u16,
        /// Number of the segment, as [`Writer::poll_segment`](crate::log::Writer::poll_segment) says.
        segment: u32,
        /// A segment that is no longer needed, whose file may be used: the lowest there is, or the log gets a hole.
        recycle: Option<u32>,
    },
    /// Remove the log segments below a number. Answered by [`Reply::SegmentsRemoved`].
    RemoveSegments {
        /// The core whose log it is.
        core: u16,
        /// The lowest segment that stays.
        before: u32,
    },
    /// Begin a snapshot of a table; one that is under way for the same table is given up.
    BeginSnapshot {
        /// The table.
        table: TableId,
        /// The height whose state it is.
        height: Height,
    },
    /// Append a section to the table's snapshot under way. Ignored when there is none: it has failed.
    SnapshotSection {
        /// The table.
        table: TableId,
        /// What the bytes are.
        kind: u8,
        /// The content.
        bytes: Bytes,
    },
    /// Complete the table's snapshot under way. Answered by [`Reply::SnapshotWritten`], unless that was sent already
    /// because the snapshot failed earlier.
    FinishSnapshot {
        /// The table.
        table: TableId,
    },
    /// Read a sealed log segment again and verify it. Answered by [`Reply::Scrubbed`].
    Scrub {
        /// The core whose log it is.
        core: u16,
        /// Number of the segment.
        segment: u32,
    },
}

/// What became of a job.
#[derive(Debug)]
pub enum Reply {
    /// A segment's file, open for writing with direct IO; or why there is none. The job may be submitted again.
    SegmentReady {
        /// The core whose log it is.
        core: u16,
        /// Number of the segment.
        segment: u32,
        /// The file.
        file: io::Result<File>,
    },
    /// Segments were removed.
    SegmentsRemoved {
        /// The core whose log it is.
        core: u16,
        /// The lowest segment that stays.
        before: u32,
        /// How many there were.
        removed: io::Result<usize>,
    },
    /// A snapshot is durable, or has failed. Sent once for each [`Job::BeginSnapshot`] that was not given up.
    SnapshotWritten {
        /// The table.
        table: TableId,
        /// The height whose state it is.
        height: Height,
        /// Whether it is there.
        result: io::Result<()>,
    },
    /// A segment was verified. `Ok` also when it is not sealed yet or was removed meanwhile.
    Scrubbed {
        /// The core whose log it is.
        core: u16,
        /// Number of the segment.
        segment: u32,
        /// The damage, if any.
        result: Result<(), ScanError>,
    },
}

/// Called on the side thread after each reply. Must not block.
pub type Wake = Box<dyn Fn() + Send>;

/// Why a job was not taken. It comes back.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many jobs of its kind wait as may.
    #[error("the side executor has as many jobs waiting as it may")]
    Full(Job),
    /// The side thread has ended.
    #[error("the side executor has stopped")]
    Stopped(Job),
}

/// Why the side executor did not start.
#[derive(Debug, thiserror::Error)]
#[error("can't start the side executor: {0}")]
pub struct SideError(#[from] io::Error);

/// Which executor to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// glommio, or a plain thread where glommio can't run.
    #[default]
    Automatic,
    /// A plain thread.
    Thread,
}

/// A core's end of the side executor.
#[derive(Debug)]
pub struct SideClient {
    segments: Sender<Job>,
    snapshots: Sender<Job>,
    scrubs: Sender<Job>,
    replies: Receiver<Reply>,
}

impl SideClient {
    /// Submits a job, without waiting.
    pub fn submit(&self, job: Job) -> Result<(), SubmitError> {
        let jobs = match job {
            Job::PrepareSegment { .. } | Job::RemoveSegments { .. } => &self.segments,
            Job::BeginSnapshot { .. } | Job::SnapshotSection { .. } | Job::FinishSnapshot { .. } => {
                &self.snapshots
            }
            Job::Scrub { .. } => &self.scrubs,
        };
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) => SubmitError::Full(job),
            TrySendError::Closed(job) => SubmitError::Stopped(job),
        })
    }

    /// The next reply, without waiting. `None` when there is none now;
    /// [`is_stopped`](Self::is_stopped) tells whether there will be.
    pub fn try_reply(&self) -> Option<Reply> {
        self.replies.try_recv().ok()
    }

    /// Whether the side thread has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.replies.is_closed()
    }
}

/// The side thread.
#[derive(Debug)]
pub struct Side {
    thread: JoinHandle<()>,
    fallback: Option<String>,
}

impl Side {
    /// Why glommio isn't in use, if it was asked for. To be logged once.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Waits for the thread to end, which it does after its jobs once all clients are dropped. `Err` if it panicked.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

/// The side thread's end of a client.
struct Served {
    segments: Receiver<Job>,
    snapshots: Receiver<Job>,
    scrubs: Receiver<Job>,
    replies: Sender<Reply>,
    wake: Wake,
}

/// Starts the side thread, with one client for each of `wakes`, in that order.
pub fn start(
    config: SideConfig,
    wakes: Vec<Wake>,
    backend: Backend,
) -> Result<(Side, Vec<SideClient>), SideError> {
    for directory in [&config.log_directory, &config.snapshot_directory] {
        // Here, so that a wrong path isn't taken for a disk that glommio can't use.
        std::fs::read_dir(directory).map_err(|error| disk::name(error, directory))?;
    }
    let (clients, served): (Vec<_>, Vec<_>) = wakes.into_iter().map(connect).unzip();
    let side = match backend {
        Backend::Thread => Side { thread: thread_backend::start(config, served)?, fallback: None },
        Backend::Automatic => match glommio_backend::start(config.clone(), served) {
            Ok(thread) => Side { thread, fallback: None },
            Err(glommio_backend::Refused { reason, served }) => {
                Side { thread: thread_backend::start(config, served)?, fallback: Some(reason) }
            }
        },
    };
    Ok((side, clients))
}

fn connect(wake: Wake) -> (SideClient, Served) {
    let (segments, segments_served) = bounded(SEGMENT_JOBS_MAX);
    let (snapshots, snapshots_served) = bounded(SNAPSHOT_JOBS_MAX);
    let (scrubs, scrubs_served) = bounded(SCRUB_JOBS_MAX);
    let (replies_served, replies) = bounded(REPLIES_MAX);
    let client = SideClient { segments, snapshots, scrubs, replies };
    let served = Served {
        segments: segments_served,
        snapshots: snapshots_served,
        scrubs: scrubs_served,
        replies: replies_served,
        wake,
    };
    (client, served)
}
