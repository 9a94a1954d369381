//! What the side thread does for one client: a task for each kind of job, over any [`Disk`].

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use async_channel::{Receiver, Sender};
use dag::TableId;

use super::disk::Disk;
use super::{Job, Reply, Served, SideConfig, Wake};
use crate::log::{Pace, segment, verify_sealed};
use crate::snapshot::{SnapshotId, SnapshotWriter};

/// A client, as its tasks see it.
pub(super) struct Service<D> {
    disk: D,
    config: Rc<SideConfig>,
    replies: Sender<Reply>,
    wake: Wake,
}

/// The three job channels of a client.
pub(super) struct Channels {
    pub(super) segments: Receiver<Job>,
    pub(super) snapshots: Receiver<Job>,
    pub(super) scrubs: Receiver<Job>,
}

impl<D: Disk> Service<D> {
    pub(super) fn new(disk: D, config: Rc<SideConfig>, served: Served) -> (Rc<Self>, Channels) {
        let Served { segments, snapshots, scrubs, replies, wake } = served;
        (Rc::new(Self { disk, config, replies, wake }), Channels { segments, snapshots, scrubs })
    }

    async fn reply(&self, reply: Reply) {
        // A client that is gone needs no reply; its tasks end when their channels do.
        if self.replies.send(reply).await.is_ok() {
            (self.wake)();
        }
    }

    /// Prepares and removes log segments until the client is dropped.
    pub(super) async fn serve_segments(self: Rc<Self>, jobs: Receiver<Job>) {
        while let Ok(job) = jobs.recv().await {
            let reply = match job {
                Job::PrepareSegment { core, segment, recycle } => {
                    let file = self.prepare_segment(core, segment, recycle).await;
                    Reply::SegmentReady { core, segment, file }
                }
                Job::RemoveSegments { core, before } => {
                    let directory = &self.config.log_directory;
                    let removed = segment::remove_before(&self.disk, directory, core, before).await;
                    Reply::SegmentsRemoved { core, before, removed }
                }
                other => unreachable!("{other:?} goes through another channel"),
            };
            self.reply(reply).await;
        }
    }

    async fn prepare_segment(
        &self,
        core: u16,
        number: u32,
        recycle: Option<u32>,
    ) -> io::Result<std::fs::File> {
        let directory = &self.config.log_directory;
        let bytes = self.config.log.segment_bytes;
        segment::prepare(&self.disk, directory, core, number, bytes, recycle).await?;
        segment::open_for_writing(directory, core, number, bytes)
    }

    /// Writes snapshots until the client is dropped.
    pub(super) async fn serve_snapshots(self: Rc<Self>, jobs: Receiver<Job>) {
        let mut under_way: HashMap<TableId, SnapshotWriter<D>> = HashMap::new();
        while let Ok(job) = jobs.recv().await {
            let (id, result) = match job {
                Job::BeginSnapshot { table, height } => {
                    if let Some(given_up) = under_way.remove(&table) {
                        given_up.abandon().await;
                    }
                    let id = SnapshotId { chain: self.config.chain, table, height };
                    let directory = &self.config.snapshot_directory;
                    match SnapshotWriter::create(self.disk.clone(), directory, id).await {
                        Ok(writer) => {
                            under_way.insert(table, writer);
                            continue;
                        }
                        Err(error) => (id, Err(error)),
                    }
                }
                Job::SnapshotSection { table, kind, bytes } => {
                    let Some(writer) = under_way.get_mut(&table) else { continue };
                    let Err(error) = writer.section(kind, &bytes).await else { continue };
                    let failed = under_way.remove(&table).expect("it was there a moment ago");
                    let id = failed.id();
                    failed.abandon().await;
                    (id, Err(error))
                }
                Job::FinishSnapshot { table } => {
                    let Some(writer) = under_way.remove(&table) else { continue };
                    (writer.id(), writer.finish().await)
                }
                other => unreachable!("{other:?} goes through another channel"),
            };
            self.reply(Reply::SnapshotWritten { table: id.table, height: id.height, result }).await;
        }
        for (_, unfinished) in under_way {
            unfinished.abandon().await;
        }
    }

    /// Verifies old segments until the client is dropped.
    pub(super) async fn serve_scrubs(self: Rc<Self>, jobs: Receiver<Job>) {
        let wanted = || !self.replies.is_closed();
        let pace = Pace { bytes_per_second: self.config.scrub_bytes_per_second, go_on: &wanted };
        while let Ok(job) = jobs.recv().await {
            let Job::Scrub { core, segment } = job else {
                unreachable!("{job:?} goes through another channel");
            };
            let SideConfig { log_directory, chain, .. } = &*self.config;
            let result = verify_sealed(&self.disk, log_directory, *chain, core, segment, pace).await;
            self.reply(Reply::Scrubbed { core, segment, result }).await;
        }
    }
}
