//! The index thread: gathers what the cores have executed, and commits it once a second.

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    reader::Reader,
    store::{Ends, IndexError, Store},
};
use crate::rpc::BlockInfo;

/// Blocks of one core that wait for the index thread.
pub const RING_CAPACITY: usize = 256;
/// Pause between two commits, and before a failed one is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the thread looks into its rings in between, so that they don't fill.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of blocks that end a pause early.
const BATCH: usize = 8 << 20;

/// Priority of the thread beside the cores' loops («nice»), where they share a processor: a third of the weight of one of them. A
/// second's blocks are much work at once, and nobody waits for it; less would leave the index behind where the loops are busy.
const NICE: i32 = 5;

/// Where the index is, and how much it keeps.
#[derive(Clone, Debug)]
pub struct IndexConfig {
    /// The file.
    pub path: PathBuf,
    /// Bytes of blocks that are kept; the oldest go first.
    pub retain_bytes: u64,
}

/// The running index thread. It ends once all cores' ends of the rings are dropped.
pub struct Index {
    thread: JoinHandle<()>,
    reader: Reader,
}

/// A core's end of the ring.
pub type Feed = rtrb::Producer<BlockInfo>;

impl Index {
    /// Opens the index and starts its thread, with a ring for each of `cores`.
    ///
    /// # Errors
    /// The file can't be opened, or there is no thread to be had.
    pub fn start(config: IndexConfig, cores: u16) -> Result<(Index, Vec<Feed>), IndexError> {
        let (store, ends) = Store::open(&config.path)?;
        let reader = Reader::new(Arc::new(store));
        let (feeds, rings) = (0..cores).map(|_| rtrb::RingBuffer::new(RING_CAPACITY)).unzip();
        let writer = Writer {
            config,
            reader: reader.clone(),
            rings,
            ends,
            batch: Vec::new(),
            bytes: 0,
            failed: false,
        };
        let thread = thread::Builder::new().name("index".into()).spawn(move || writer.run());
        Ok((Index { thread: thread.map_err(IndexError::Thread)?, reader }, feeds))
    }

    /// For look-ups.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Waits until all that the cores have pushed is written; their ends are dropped by then.
    pub fn join(self) {
        if self.thread.join().is_err() {
            eprintln!("the index thread has died of a panic; what it said stands above");
        }
    }
}

struct Writer {
    config: IndexConfig,
    reader: Reader,
    rings: Vec<rtrb::Consumer<BlockInfo>>,
    ends: Ends,
    batch: Vec<BlockInfo>,
    /// Bytes of the batch.
    bytes: usize,
    /// Whether the last commit failed; said once.
    failed: bool,
}

impl Writer {
    fn run(mut self) {
        // On Linux this is the calling thread's. To yield is always allowed; where it is not, the index only comes earlier.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            let last = self.rings.iter().all(rtrb::Consumer::is_abandoned);
            self.gather();
            if !self.batch.is_empty() {
                self.commit();
            }
            let drained = self.rings.iter().all(rtrb::Consumer::is_empty);
            if last && (self.failed || drained && self.batch.is_empty()) {
                return;
            }
            self.pause();
        }
    }

    /// Takes what has come, within a batch.
    fn gather(&mut self) {
        for ring in &mut self.rings {
            while self.bytes < BATCH {
                let Ok(block) = ring.pop() else { break };
                self.bytes += block.block.bytes().len();
                self.batch.push(block);
            }
        }
    }

    /// Waits until a commit is due, or the end comes.
    fn pause(&mut self) {
        for _ in 0..PAUSE.as_millis() / LOOK.as_millis() {
            let ending = self.rings.iter().all(rtrb::Consumer::is_abandoned);
            if ending || (self.bytes >= BATCH && !self.failed) {
                return;
            }
            thread::sleep(LOOK);
            self.gather();
        }
    }

    fn commit(&mut self) {
        match self.try_commit() {
            Ok(ends) => {
                if std::mem::take(&mut self.failed) {
                    eprintln!("the block index goes on");
                }
                self.ends = ends;
                self.batch.clear();
                self.bytes = 0;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    eprintln!(
                        "the block index {} can't be written: {error}; trying on, the validator works without it",
                        self.config.path.display()
                    );
                }
                // What redb holds in memory says nothing any more.
                self.reader.replace(None);
            }
        }
    }

    fn try_commit(&mut self) -> Result<Ends, IndexError> {
        let store = match self.reader.store() {
            Ok(store) => store,
            Err(_) => {
                let (store, ends) = Store::open(&self.config.path)?;
                self.ends = ends;
                let store = Arc::new(store);
                self.reader.replace(Some(store.clone()));
                store
            }
        };
        store.add(&self.batch, self.ends, self.config.retain_bytes)
    }
}
