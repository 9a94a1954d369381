//! The core's side of the side executor: log segments and snapshots, handed over as fast as it takes them.

use std::collections::VecDeque;

use crate::{
    node::SnapshotJob,
    side::{Job, Reply, SideClient, SubmitError},
};

/// Snapshots that wait to be handed over; one more is dropped, since a newer one comes soon.
const MAX_WAITING: usize = 64;

/// Jobs on their way to the side executor.
pub struct SideWork {
    client: SideClient,
    /// Snapshots, as jobs, in order.
    snapshots: VecDeque<VecDeque<Job>>,
}

impl SideWork {
    /// Nothing waits.
    pub fn new(client: SideClient) -> SideWork {
        SideWork { client, snapshots: VecDeque::new() }
    }

    /// Hands a job over at once; `false` where it has to be tried again.
    ///
    /// # Panics
    /// Where the side thread has died: the node can't go on.
    pub fn submit(&mut self, job: Job) -> bool {
        match self.client.submit(job) {
            Ok(()) => true,
            Err(SubmitError::Full(_)) => false,
            Err(SubmitError::Stopped(_)) => panic!("the side thread has died"),
        }
    }

    /// Has the log's segments below one removed; a request that finds no room is made good by the next one.
    pub fn trim(&mut self, core: u16, before: u32) {
        self.submit(Job::RemoveSegments { core, before });
    }

    /// Queues a snapshot.
    pub fn snapshot(&mut self, snapshot: SnapshotJob) {
        if self.snapshots.len() == MAX_WAITING {
            return;
        }
        let SnapshotJob { table, height, sections } = snapshot;
        let sections = sections.into_iter().map(|(kind, bytes)| Job::SnapshotSection { table, kind, bytes });
        let begin = std::iter::once(Job::BeginSnapshot { table, height });
        let end = std::iter::once(Job::FinishSnapshot { table });
        self.snapshots.push_back(begin.chain(sections).chain(end).collect());
    }

    /// Hands over what the executor takes. Returns whether something still waits.
    pub fn flush(&mut self) -> bool {
        while let Some(jobs) = self.snapshots.front_mut() {
            while let Some(job) = jobs.pop_front() {
                match self.client.submit(job) {
                    Ok(()) => {}
                    Err(SubmitError::Full(job)) => {
                        jobs.push_front(job);
                        return true;
                    }
                    Err(SubmitError::Stopped(_)) => panic!("the side thread has died"),
                }
            }
            self.snapshots.pop_front();
        }
        false
    }

    /// The next thing that is done.
    pub fn poll(&mut self) -> Option<Reply> {
        self.client.try_reply()
    }
}
