//! A network of real processes on this machine: its files, its ports, its validators from start to stop.
//!
//! ```text
//! <folder>/devnet.json      what it is: sizes and ports; marks the folder as ours
//!          devnet.lock      held while a command runs it
//!          genesis.toml, allocations.bin
//!          accounts.seed    what the funded accounts' keys follow from
//!          account-0.key    the first of them, for `topio transfer`
//!          relay.toml       what v0 relays people's packets with, if anything
//!          v0/ v1/ …        validator.key, node.toml, data/, node.log
//! ```
//!
//! Validators are children of the process that holds the [`Devnet`] and end with it, in whatever way it ends: the kernel
//! kills them where the process itself was killed.

mod files;
mod node;
mod ports;
mod record;

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use dag::keys::KeyPair;
use engine::{
    config::TomlFileError,
    genesis::{GenesisError, dev::dev_account_key},
    keyfile::KeyFileError,
};

pub use files::Layout;
pub use node::{Node, tied};
pub use ports::Ports;
pub use record::{Instructions, Record, Sizes};

use crate::{exit::Failure, rpc::Rpc, signals::Interrupt, values::DevSeed};

/// How long validators may take to answer and to connect to each other. Recovery of a large state is part of it.
pub const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long validators may take to stop before they are killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks at a process.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why there is no devnet.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// The folder holds other things.
    #[error("{0} is neither empty nor a former devnet: use another --data-dir")]
    Foreign(PathBuf),
    /// There is nothing to resume.
    #[error("{0} holds no complete devnet: leave --resume out to make a new one")]
    Nothing(PathBuf),
    /// Another command runs it.
    #[error("another devnet runs in {0}: stop it, or use another --data-dir")]
    Running(PathBuf),
    /// All candidate ports are taken.
    #[error("no {0} free ports in a row on 127.0.0.1: stop other networks, or use fewer validators or lanes")]
    Ports(u32),
    /// More core loops than lanes to give them.
    #[error("{cores} core loops can't share {lanes} lanes: use at most --cores {lanes}, or --lanes {cores}")]
    Lanes {
        /// Core loops of a validator.
        cores: u16,
        /// Lanes of the network.
        lanes: u16,
    },
    /// The sizes don't fit together.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A validator's key can't be written.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// What the first validator relays with.
    #[error(transparent)]
    Relay(#[from] TomlFileError),
    /// The operating system refused.
    #[error("{path} can't be {action}: {source}")]
    Io {
        /// What.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The refusal.
        source: std::io::Error,
    },
    /// A validator ended by itself.
    #[error("validator {name} ended ({status}); the end of {}:\n{tail}", log.display())]
    Died {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A validator is not ready in time.
    #[error("validator {name} is not ready after {} s ({state}); the end of {}:\n{tail}", waited.as_secs(), log.display())]
    NotReady {
        /// Which.
        name: String,
        /// For how long it was waited.
        waited: Duration,
        /// What it said last.
        state: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The user wants to end.
    #[error("interrupted")]
    Interrupted,
}

impl From<DevnetError> for Failure {
    fn from(error: DevnetError) -> Failure {
        use DevnetError as E;
        match error {
            E::Interrupted => Failure::Interrupted,
            E::NotReady { .. } => Failure::TimedOut(error.to_string()),
            E::Died { .. } | E::Io { .. } | E::Ports(_) => Failure::failed(error),
            E::Foreign(_)
            | E::Nothing(_)
            | E::Running(_)
            | E::Lanes { .. }
            | E::Genesis(_)
            | E::Key(_)
            | E::Relay(_) => Failure::usage(error),
        }
    }
}

/// Where a validator runs, if not on loopback.
#[derive(Clone, Debug)]
pub struct Home {
    /// The network namespace.
    pub namespace: String,
    /// Its address there.
    pub address: IpAddr,
}

/// A network whose validators are children of this process.
#[derive(Debug)]
pub struct Devnet {
    layout: Layout,
    record: Record,
    seed: DevSeed,
    nodes: Vec<Node>,
    _lock: File,
}

impl Devnet {
    /// Makes a new network in `folder`, which is empty, absent, or a former devnet that is then replaced. `program` is the
    /// `topio` executable. The first validator relays what the file `relay` says. No validator runs yet.
    ///
    /// # Errors
    /// The folder is something else's or in use, the sizes are impossible, or the system refuses.
    pub fn create(
        program: &Path,
        folder: &Path,
        sizes: Sizes,
        relay: Option<&Path>,
    ) -> Result<Devnet, DevnetError> {
        let Sizes { cores, lanes, .. } = sizes;
        if cores > lanes {
            return Err(DevnetError::Lanes { cores, lanes });
        }
        let (layout, lock) = Devnet::clear(folder)?;
        let record = Record::new(sizes)?;
        layout.write_record(&record)?;
        files::make_network(&layout, &record)?;
        if let Some(relay) = relay {
            files::take_relay(&layout, relay)?;
        }
        Devnet::assemble(program, layout, record, lock)
    }

    /// The same, with each validator in a network namespace and at an address of its own. A later [`resume`](Self::resume) has the
    /// network on loopback.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    ///
    /// # Panics
    /// There are not as many homes as validators.
    pub fn create_in(
        program: &Path,
        folder: &Path,
        sizes: Sizes,
        homes: &[Home],
    ) -> Result<Devnet, DevnetError> {
        assert_eq!(homes.len(), usize::from(sizes.validators), "a home for each validator");
        let (layout, lock) = Devnet::clear(folder)?;
        let record = Record::on_hosts(sizes, homes);
        layout.write_record(&record)?;
        files::make_network(&layout, &record)?;
        let mut devnet = Devnet::assemble(program, layout, record, lock)?;
        devnet.nodes.iter_mut().zip(homes).for_each(|(node, home)| node.run_in(&home.namespace));
        Ok(devnet)
    }

    /// Room for a new network in a folder.
    fn clear(folder: &Path) -> Result<(Layout, File), DevnetError> {
        let layout = Layout::new(folder)?;
        let lock = layout.lock()?;
        layout.clear()?;
        Ok((layout, lock))
    }

    /// Takes up the network that a former command left in `folder`, with its ledger. Ports may change.
    ///
    /// # Errors
    /// There is none, it is in use, or the system refuses.
    pub fn resume(program: &Path, folder: &Path) -> Result<Devnet, DevnetError> {
        if !folder.is_dir() {
            return Err(DevnetError::Nothing(folder.into()));
        }
        let layout = Layout::new(folder)?;
        let lock = layout.lock()?;
        let former = layout.read_record()?;
        if !layout.genesis().exists() {
            return Err(DevnetError::Nothing(folder.into()));
        }
        let record = Record::new(former.sizes)?;
        layout.write_record(&record)?;
        Devnet::assemble(program, layout, record, lock)
    }

    fn assemble(program: &Path, layout: Layout, record: Record, lock: File) -> Result<Devnet, DevnetError> {
        let seed = layout.read_seed()?;
        files::write_configs(&layout, &record)?;
        let nodes = record.nodes.iter().enumerate();
        let nodes = nodes.map(|(index, ports)| Node::new(program, &layout, index, *ports)).collect();
        Ok(Devnet { layout, record, seed, nodes, _lock: lock })
    }

    /// Where its files are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its sizes and ports.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The key of a funded account, counted from zero.
    pub fn account_key(&self, index: u64) -> KeyPair {
        dev_account_key(&self.seed.0, index)
    }

    /// Its validators, in the committee's order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The same, to start and stop one.
    ///
    /// # Panics
    /// There is no such validator.
    pub fn node(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// Starts all validators that don't run.
    ///
    /// # Errors
    /// A process can't be started.
    pub fn start(&mut self) -> Result<(), DevnetError> {
        self.nodes.iter_mut().try_for_each(|node| if node.is_running() { Ok(()) } else { node.start() })
    }

    /// Waits until all validators answer and each is connected to all others.
    ///
    /// # Errors
    /// One of them ends by itself, the time is over, or the user wants to end.
    pub fn wait_ready(&mut self, within: Duration, interrupt: &Interrupt) -> Result<(), DevnetError> {
        let peers = self.nodes.len() - 1;
        let started = Instant::now();
        for index in 0..self.nodes.len() {
            loop {
                if interrupt.is_set() {
                    return Err(DevnetError::Interrupted);
                }
                if let Some(died) = self.take_died().into_iter().next() {
                    return Err(died);
                }
                let node = &self.nodes[index];
                let Err(state) = readiness(&node.rpc(), peers) else { break };
                if started.elapsed() > within {
                    return Err(node.not_ready(started.elapsed(), state));
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// The validators that have ended by themselves since the last call, each as [`DevnetError::Died`].
    pub fn take_died(&mut self) -> Vec<DevnetError> {
        self.nodes.iter_mut().filter_map(Node::take_death).collect()
    }

    /// Stops all validators cleanly, at once, and kills those that don't stop within [`STOP_WITHIN`]. Returns how many had to be
    /// killed.
    pub fn stop(&mut self) -> usize {
        self.nodes.iter_mut().for_each(Node::terminate);
        let deadline = Instant::now() + STOP_WITHIN;
        self.nodes.iter_mut().filter_map(|node| (!node.reap_until(deadline)).then_some(())).count()
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What keeps a validator from being ready, in a few words.
fn readiness(rpc: &Rpc, peers: usize) -> Result<(), String> {
    rpc.healthy()?;
    let connected = rpc.connected_peers().map_err(|error| error.to_string())?;
    if connected < peers { Err(format!("connected to {connected} of {peers} peers")) } else { Ok(()) }
}
