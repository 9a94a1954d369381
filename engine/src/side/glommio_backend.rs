//! The side executor on glommio.
//!
//! Three facts about glommio 0.9 shape this file:
//!
//! - It refuses to start with less than 512 KiB of lockable memory, and registers its IO memory with three rings. So the
//!   memory is kept small; more than it holds comes from the heap and works as well.
//! - Opening a file ends in a panic when the file loses its name meanwhile (`statfs` by path), or when `/sys` describes
//!   the device in a way it doesn't know. The first is prevented by a semaphore around everything that changes names;
//!   the second by a trial before the executor is relied on.
//! - Its waiting future is woken across threads through an eventfd, so channels from other crates work.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use glommio::io::DmaFile;
use glommio::sync::Semaphore;
use glommio::{GlommioError, Latency, LocalExecutorBuilder, Placement, Shares, executor, spawn_local_into};
use netio::AlignedBuf;

use super::disk::{Disk, DiskFile, StdDisk, name};
use super::service::{Channels, Service};
use super::{Served, SideConfig};
use crate::log::{SECTOR, segment::zeros};

/// Memory that is registered with each of glommio's three rings, in bytes.
const IO_MEMORY: usize = 2 << 20;

/// Depth of its rings. A handful of jobs with one operation each need no more.
const RING_DEPTH: usize = 32;

/// Longest wait of the segment task for its turn.
const SEGMENT_LATENCY: Duration = Duration::from_millis(10);

/// Why glommio can't serve, and the clients that need another executor.
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) served: Vec<Served>,
}

/// Starts the thread, and returns once glommio has proven that it works here.
pub(super) fn start(config: SideConfig, served: Vec<Served>) -> Result<JoinHandle<()>, Refused> {
    let (report, reports) = mpsc::sync_channel(1);
    let (hand_over, handed_over) = mpsc::sync_channel(1);
    let spawned =
        thread::Builder::new().name("side".into()).spawn(move || run(config, &report, &handed_over));
    let thread = match spawned {
        Ok(thread) => thread,
        Err(error) => return Err(Refused { reason: error.to_string(), served }),
    };
    match reports.recv() {
        Ok(Ok(())) => {
            hand_over.send(served).unwrap_or_else(|_| unreachable!("the thread waits for its clients"));
            Ok(thread)
        }
        Ok(Err(reason)) => Err(Refused { reason, served }),
        Err(mpsc::RecvError) => Err(Refused { reason: "glommio panicked in its trial".into(), served }),
    }
}

fn run(
    config: SideConfig,
    report: &mpsc::SyncSender<Result<(), String>>,
    clients: &mpsc::Receiver<Vec<Served>>,
) {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY).ring_depth(RING_DEPTH);
    let local = match builder.make() {
        Ok(local) => local,
        Err(error) => {
            let reason =
                format!("glommio can't start: {error}; raise the limit of locked memory (ulimit -l)");
            let _ = report.send(Err(reason));
            return;
        }
    };
    local.run(async {
        let disk = GlommioDisk { names: Rc::new(Semaphore::new(1)) };
        let mut trial = Ok(());
        for directory in [&config.log_directory, &config.snapshot_directory] {
            trial = trial.and(try_out(&disk, directory).await);
        }
        let works = trial.is_ok();
        let _ = report.send(trial.map_err(|error| format!("glommio can't use the disk: {error}")));
        if works && let Ok(served) = clients.recv() {
            serve(disk, config, served).await;
        }
    });
}

/// Writes and reads a sector, and leaves nothing behind.
async fn try_out(disk: &GlommioDisk, directory: &Path) -> io::Result<()> {
    let path = directory.join("side.tmp");
    let file = disk.create(&path).await?;
    let written = file.write_sectors(&zeros(SECTOR), 0).await;
    let synced = file.sync().await;
    let closed = DiskFile::close(file).await;
    let file = disk.open(&path).await?;
    let read = file.read_sectors(&mut zeros(SECTOR), 0, 0).await;
    let closed = closed.and(DiskFile::close(file).await);
    disk.remove(&path).await?;
    let read = written.and(synced).and(closed).and(read).map_err(|error| name(error, &path))?;
    if read == SECTOR as usize {
        Ok(())
    } else {
        Err(io::Error::other("a file reads shorter than it was written"))
    }
}

async fn serve(disk: GlommioDisk, config: SideConfig, served: Vec<Served>) {
    let config = Rc::new(config);
    let queue = |shares, latency, name| executor().create_task_queue(Shares::Static(shares), latency, name);
    let segment_queue = queue(1000, Latency::Matters(SEGMENT_LATENCY), "segments");
    let snapshot_queue = queue(200, Latency::NotImportant, "snapshots");
    let scrub_queue = queue(50, Latency::NotImportant, "scrubs");
    let mut tasks = Vec::new();
    for client in served {
        let (service, Channels { segments, snapshots, scrubs }) =
            Service::new(disk.clone(), config.clone(), client);
        tasks.push(spawn_local_into(service.clone().serve_segments(segments), segment_queue));
        tasks.push(spawn_local_into(service.clone().serve_snapshots(snapshots), snapshot_queue));
        tasks.push(spawn_local_into(service.serve_scrubs(scrubs), scrub_queue));
    }
    for task in tasks {
        task.expect("the queues were made above").await;
    }
}

/// The system's reason alone: whoever hands it on names the file.
fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

/// glommio's direct files.
#[derive(Clone)]
struct GlommioDisk {
    /// Held while a file is opened or a name is changed; see the module's documentation.
    names: Rc<Semaphore>,
}

impl Disk for GlommioDisk {
    type File = DmaFile;

    async fn create(&self, path: &Path) -> io::Result<DmaFile> {
        let _held = self.names.acquire_permit(1).await?;
        DmaFile::create(path).await.map_err(|error| name(plain(error), path))
    }

    async fn open(&self, path: &Path) -> io::Result<DmaFile> {
        let _held = self.names.acquire_permit(1).await?;
        DmaFile::open(path).await.map_err(|error| name(plain(error), path))
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _held = self.names.acquire_permit(1).await?;
        glommio::io::rename(from, to).await.map_err(|error| name(plain(error), from))
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let _held = self.names.acquire_permit(1).await?;
        glommio::io::remove(path).await.map_err(|error| name(plain(error), path))
    }

    async fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        // glommio syncs the data of a directory only, and that names are part of it is nowhere promised.
        let directory = directory.to_path_buf();
        let sync = move || futures_lite::future::block_on(StdDisk.sync_directory(&directory));
        executor().spawn_blocking(sync).await
    }

    async fn pause(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }
}

impl DiskFile for DmaFile {
    async fn write_sectors(&self, bytes: &AlignedBuf, offset: u64) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let mut buf = self.alloc_dma_buffer(rest.len());
            buf.as_bytes_mut().copy_from_slice(rest);
            match DmaFile::write_at(self, buf, offset + written as u64).await.map_err(plain)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                // What lies within a sector can only be written again, with direct IO.
                some => written = (written + some) & !(SECTOR as usize - 1),
            }
        }
        Ok(())
    }

    async fn read_sectors(&self, into: &mut AlignedBuf, at: usize, offset: u64) -> io::Result<usize> {
        let mut filled = at;
        while filled < into.len() {
            let wanted = into.len() - filled;
            let read = self.read_at_aligned(offset + (filled - at) as u64, wanted).await.map_err(plain)?;
            into[filled..filled + read.len()].copy_from_slice(&read);
            filled += read.len();
            if read.is_empty() || !read.len().is_multiple_of(SECTOR as usize) {
                break;
            }
        }
        Ok(filled - at)
    }

    async fn sync(&self) -> io::Result<()> {
        self.fdatasync().await.map_err(plain)
    }

    async fn close(self) -> io::Result<()> {
        DmaFile::close(self).await.map_err(plain)
    }
}
