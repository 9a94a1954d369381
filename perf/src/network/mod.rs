//! A network on this machine, for measurements of whole validators: each is a process of its own, with its own key, directory and
//! ports on loopback. It runs this program again, as `perf node`, so what is measured is always what was built.
//!
//! Validators end with the [`Network`], and with this process, however it ends.

mod files;
mod process;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use anyhow::{Context, ensure};
use dag::{ChainId, keys::KeyPair};

pub use self::process::{Process, cpu_time_of, serve, stop_with_parent};

use crate::{
    loadgen::{self, LoadResult, Prepared, Target, Workload},
    progress::Progress,
};

/// How large a network is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Validators: 4 at least.
    pub validators: u16,
    /// Tables of the shard: a power of two.
    pub tables: u16,
    /// Core loops of each validator, and lanes of the shard.
    pub cores: u16,
    /// Accounts, all of them with money.
    pub accounts: u32,
    /// Those whose keys are known, so that they can pay.
    pub senders: u32,
}

/// A validator's place on this machine.
#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    peers: SocketAddr,
    submission: SocketAddr,
    rpc: SocketAddr,
}

impl Place {
    fn config(&self) -> PathBuf {
        self.folder.join("node.toml")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

/// A network and its processes.
pub struct Network {
    sizes: Sizes,
    chain: ChainId,
    validators: Vec<KeyPair>,
    senders: Vec<KeyPair>,
    places: Vec<Place>,
    running: Vec<Option<Process>>,
}

impl Network {
    /// Makes keys, genesis and configurations in an empty directory. No validator runs yet. A table's snapshot is due after its
    /// share of `snapshot_bytes` of log.
    ///
    /// # Errors
    /// The sizes are impossible, there are not enough free ports, or the disk refuses.
    pub fn create(directory: &Path, sizes: Sizes, snapshot_bytes: u64) -> anyhow::Result<Network> {
        let validators: Vec<KeyPair> =
            (0..sizes.validators).map(|index| files::key("validator", index.into())).collect();
        let senders = loadgen::accounts::account_keys(&[7; 32], sizes.senders.min(sizes.accounts));
        let chain = files::write_genesis(directory, &sizes, &validators, &senders)?;
        let places = files::places(directory, &sizes)?;
        for (place, key) in places.iter().zip(&validators) {
            files::make_folder(place, key)?;
        }
        let running = places.iter().map(|_| None).collect();
        let network = Network { sizes, chain, validators, senders, places, running };
        network.configure(snapshot_bytes)?;
        Ok(network)
    }

    /// Writes all configurations anew. Running validators don't notice.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn configure(&self, snapshot_bytes: u64) -> anyhow::Result<()> {
        let keys: Vec<_> = self.validators.iter().map(KeyPair::address).collect();
        for place in &self.places {
            let text = files::config(place, &self.places, &keys, self.sizes.cores, snapshot_bytes);
            std::fs::write(place.config(), text)?;
        }
        Ok(())
    }

    /// Adds sections to a validator's configuration, before it is started.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn append_config(&self, validator: usize, sections: &str) -> anyhow::Result<()> {
        let path = self.config(validator);
        let text = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, text + sections)?)
    }

    /// A validator's configuration.
    pub fn config(&self, validator: usize) -> PathBuf {
        self.places[validator].config()
    }

    /// Where a validator answers questions.
    pub fn rpc(&self, validator: usize) -> SocketAddr {
        self.places[validator].rpc
    }

    /// The network's id.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// The accounts that can pay.
    pub fn senders(&self) -> &[KeyPair] {
        &self.senders
    }

    /// Where a validator keeps log and snapshots.
    pub fn data(&self, validator: usize) -> PathBuf {
        self.places[validator].data()
    }

    /// Where clients reach a validator.
    pub fn submission(&self, validator: usize) -> SocketAddr {
        self.places[validator].submission
    }

    /// Starts a validator and waits until it says that it is ready. Returns how long that took.
    ///
    /// # Panics
    /// It runs.
    ///
    /// # Errors
    /// It ends before, or takes too long.
    pub fn start(&mut self, validator: usize) -> anyhow::Result<Duration> {
        assert!(self.running[validator].is_none(), "validator {validator} is started once");
        let place = &self.places[validator];
        let mut process = Process::start(&place.config(), &place.folder.join("node.log"))?;
        let time = process.wait_ready().with_context(|| format!("validator {validator}"))?;
        self.running[validator] = Some(process);
        Ok(time)
    }

    /// Starts all validators.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.places.len()).try_for_each(|validator| self.start(validator).map(drop))
    }

    /// Kills a validator as a crash would. One that does not run is left alone.
    pub fn kill(&mut self, validator: usize) {
        self.running[validator] = None;
    }

    /// Kills all validators as a crash would.
    pub fn kill_all(&mut self) {
        self.running.iter_mut().for_each(|process| *process = None);
    }

    /// The running validators' processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.running.iter().flatten()
    }

    /// Offers transfers among the senders and waits for the answers.
    ///
    /// # Errors
    /// The network does not answer, or refuses or loses some of them.
    pub fn load(&self, rate: u64, duration: Duration, progress: &Progress) -> anyhow::Result<LoadResult> {
        progress.note(format!("load: {rate} transfers per second for {} s", duration.as_secs_f64()));
        let prepared = self.prepare(rate, Duration::ZERO, duration)?;
        let result = prepared.run(None, &AtomicBool::new(false), &mut |_| {})?;
        let (committed, offered) = (result.committed, result.offered);
        ensure!(
            committed == offered,
            "{committed} of {offered} transfers were committed (refused: {:?}): lower --rate",
            result.rejected
        );
        Ok(result)
    }

    /// Signs transfers among the senders, to be offered at a rate.
    ///
    /// # Errors
    /// The network does not answer.
    pub fn prepare(&self, rate: u64, warm_up: Duration, duration: Duration) -> anyhow::Result<Prepared> {
        let target = Target {
            submission: self.places.iter().map(|place| place.submission).collect(),
            chain: self.chain,
            epoch: 0,
            tables: self.sizes.tables,
            validators: self.sizes.validators,
        };
        let workload = Workload {
            warm_up,
            drain: Duration::from_secs(60),
            ..Workload::transfers(self.senders.clone(), rate, duration)
        };
        Ok(loadgen::prepare(&target, workload, &mut |_| {})?)
    }
}
