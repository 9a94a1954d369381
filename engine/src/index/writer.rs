//! The index thread: adds what the cores have executed as it comes, and commits it once a second.

use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    reader::Reader,
    store::{Addition, Ends, IndexError, Store},
};
use crate::rpc::BlockInfo;

/// Blocks of one core that wait for the index thread.
pub const RING_CAPACITY: usize = 256;
/// Pause between two commits, and before a failed one is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the thread looks into its rings in between. A second's blocks at once would keep a processor from the cores' loops for
/// longer than people's transfers take.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes of blocks that end a pause early.
const BATCH: usize = 8 << 20;

/// Priority of the thread beside the cores' loops («nice»), where they share a processor: a third of the weight of one of them.
/// Nobody waits for it; less would leave the index behind where the loops are busy.
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
            addition: None,
            added: 0,
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
    /// What is not committed yet.
    batch: Vec<BlockInfo>,
    /// Bytes of the batch.
    bytes: usize,
    /// The next commit, with so many blocks of the batch in it.
    addition: Option<Addition>,
    added: usize,
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

    /// Waits until a commit is due, or the end comes, and adds what comes meanwhile.
    fn pause(&mut self) {
        for _ in 0..PAUSE.as_millis() / LOOK.as_millis() {
            let ending = self.rings.iter().all(rtrb::Consumer::is_abandoned);
            if ending || (self.bytes >= BATCH && !self.failed) {
                return;
            }
            thread::sleep(LOOK);
            self.gather();
            if !self.failed
                && let Err(error) = self.add()
            {
                self.fail(&error);
            }
        }
    }

    /// Adds what is new in the batch to the next commit.
    fn add(&mut self) -> Result<(), IndexError> {
        if self.added == self.batch.len() {
            return Ok(());
        }
        if self.addition.is_none() {
            let store = self.store()?;
            self.addition = Some(store.begin(self.ends)?);
        }
        let addition = self.addition.as_mut().expect("it has begun");
        addition.push(&self.batch[self.added..])?;
        self.added = self.batch.len();
        Ok(())
    }

    fn commit(&mut self) {
        match self.try_commit() {
            Ok(()) => {
                if std::mem::take(&mut self.failed) {
                    eprintln!("the block index goes on");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn try_commit(&mut self) -> Result<(), IndexError> {
        self.add()?;
        if let Some(addition) = self.addition.take() {
            self.ends = self.store()?.commit(addition, self.config.retain_bytes)?;
        }
        self.batch.clear();
        (self.bytes, self.added) = (0, 0);
        Ok(())
    }

    /// Says so, and begins the batch anew, on the file as it is on the disk: what redb holds in memory says nothing any more.
    fn fail(&mut self, error: &IndexError) {
        if !std::mem::replace(&mut self.failed, true) {
            eprintln!(
                "the block index {} can't be written: {error}; trying on, the validator works without it",
                self.config.path.display()
            );
        }
        (self.addition, self.added) = (None, 0);
        self.reader.replace(None);
    }

    /// The file, opened anew after a failure.
    fn store(&mut self) -> Result<Arc<Store>, IndexError> {
        if let Ok(store) = self.reader.store() {
            return Ok(store);
        }
        let (store, ends) = Store::open(&self.config.path)?;
        let store = Arc::new(store);
        self.ends = ends;
        self.reader.replace(Some(store.clone()));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::blocks, *};

    #[test]
    fn a_commit_that_failed_is_made_anew_with_all_of_its_blocks_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = IndexConfig { path: folder.path().join("index"), retain_bytes: u64::MAX };
        let (store, ends) = Store::open(&config.path).unwrap();
        let reader = Reader::new(Arc::new(store));
        let (batch, rings) = (blocks(0, 1..=3), Vec::new());
        let mut writer =
            Writer { config, reader, rings, ends, batch, bytes: 0, addition: None, added: 0, failed: false };
        writer.commit();
        writer.batch = blocks(0, 4..=5);
        writer.add().unwrap();
        writer.batch.extend(blocks(0, 6..=6));
        writer.fail(&IndexError::Closed);
        assert!(writer.failed && writer.reader.newest(0).is_err());
        writer.batch.extend(blocks(0, 7..=8));
        writer.commit();
        assert!(!writer.failed && writer.batch.is_empty());
        assert_eq!((writer.reader.newest(0).unwrap(), writer.ends.next), (8, 8));
        // What is told again is there already.
        writer.batch = blocks(0, 1..=8);
        writer.commit();
        assert_eq!(writer.ends.next, 8);
    }
}
