//! A load beside a story, on a thread of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use dag::keys::KeyPair;
use perf::loadgen::{LoadResult, Progress, Target, Workload, prepare};

/// Transactions per second: enough to have every table at work, and little for two slow cores.
const RATE: u64 = 1_000;
/// Longer than any story: loads are ended by [`Load::finish`].
const LONGEST: Duration = Duration::from_secs(120);

/// A load that runs.
pub struct Load {
    stop: Arc<AtomicBool>,
    progress: Receiver<Progress>,
    thread: JoinHandle<LoadResult>,
}

impl Load {
    /// Starts it, and returns when the first acknowledgements are there.
    pub fn start(target: Target, accounts: Vec<KeyPair>, acks: PathBuf) -> Load {
        let (tell, progress) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let run = move || {
            let mut workload = Workload::transfers(accounts, RATE, LONGEST);
            workload.warm_up = Duration::ZERO;
            workload.stall_timeout = Duration::from_secs(1);
            workload.drain = Duration::from_secs(60);
            workload.retries = 200;
            let prepared = prepare(&target, workload, &mut |_| {}).expect("the network answers");
            let mut tell = |news: &Progress| tell.send(news.clone()).unwrap_or(());
            prepared.run(Some(&acks), &asked, &mut tell).expect("acknowledgements can be written")
        };
        let load = Load { stop, progress, thread: thread::spawn(run) };
        load.until(|news| news.acked > 0);
        load
    }

    /// Goes on for so many more seconds.
    pub fn go_on(&self, seconds: u64) {
        let mut left = seconds;
        self.until(|_| {
            left -= 1;
            left == 0
        });
    }

    /// Waits until the news of an interval are such.
    fn until(&self, mut such: impl FnMut(&Progress) -> bool) {
        while !such(&self.progress.recv().expect("the load runs on")) {}
    }

    /// Ends the load, and waits until all of it is answered. Checks what holds whatever happens to validators.
    pub fn finish(self) -> LoadResult {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.join().expect("the load does not panic");
        assert_eq!(result.unanswered, 0, "each transaction has its answer in the end");
        assert!(result.rejected.is_empty(), "none is refused: {:?}", result.rejected);
        assert_eq!(result.committed, result.offered);
        result
    }
}

/// The longest run of whole seconds without an acknowledgement while there was load. What waits at a validator that comes back is
/// answered when it has caught up.
pub fn longest_gap(result: &LoadResult) -> usize {
    let loaded = result.samples.iter().filter(|sample| sample.offered > 0);
    let silent = loaded.map(|sample| sample.committed == 0);
    let mut longest = 0;
    silent.fold(0, |run, silent| {
        let run = if silent { run + 1 } else { 0 };
        longest = longest.max(run);
        run
    });
    longest
}
