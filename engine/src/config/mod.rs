//! What one node is told: where its files are, where it listens, where its peers are, and how much it may use.
//!
//! `engine/examples/node.toml` is the commented example; it lists every key with its default. Unknown keys are refused, and a
//! value out of range is answered with file, line, column and the allowed range. [`Setup::load`] reads the
//! configuration with all that it names and finds out which validator this node is.

mod data_dir;
mod setup;
pub(crate) mod toml_file;
mod values;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use dag::Address;
use serde::Deserialize;
use shard_core::sigbatch::Backend;

use toml_file::{text, within};
use values::{backend, duration_within, features};

use crate::relay::RelayConfig;

pub use data_dir::{DataDir, DataDirError};
pub use setup::{Setup, SetupError};
pub use toml_file::TomlFileError;
pub use values::{CoreCount, HostPort, HostPortError, Waiting};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// A node's configuration, as its TOML file says it. Relative paths are relative to that file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The network's `genesis.toml`.
    pub genesis: PathBuf,
    /// The validator's secret key; see [`keyfile`](crate::keyfile).
    pub key_file: PathBuf,
    /// Log, snapshots and index; this node's alone.
    pub data_dir: PathBuf,
    /// The processor cores.
    #[serde(default)]
    pub cores: Cores,
    /// Where the node listens.
    pub listen: Listen,
    /// The other validators. The node's own entry may be among them, so that one list serves all.
    #[serde(default, rename = "peer")]
    pub peers: Vec<Peer>,
    /// How much the node may use.
    #[serde(default)]
    pub limits: Limits,
    /// How long the node waits.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Agreement.
    #[serde(default)]
    pub agreement: Agreement,
    /// The log.
    #[serde(default)]
    pub log: LogConfig,
    /// The snapshots.
    #[serde(default)]
    pub snapshot: SnapshotConfig,
    /// The block index.
    #[serde(default)]
    pub index: IndexConfig,
    /// The core loop's bytes in and out.
    #[serde(default)]
    pub io: IoConfig,
    /// The services that it relays people's packets with.
    #[serde(default)]
    pub relay: RelayConfig,
}

/// The processor cores that the lanes are spread over.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cores {
    /// How many; never more than lanes.
    pub count: CoreCount,
    /// Whether each loop stays on one processor.
    pub pin: bool,
    /// The first loop's then, counted among those that the process may use; the others follow. Nodes that share a machine
    /// begin at different ones.
    pub first: u16,
    /// The vector instructions that signatures are verified with; «auto» takes the fastest here.
    #[serde(deserialize_with = "backend")]
    pub instructions: Backend,
}

/// The node's own addresses.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// For validators: lane L listens on this port plus L.
    #[serde(deserialize_with = "text")]
    pub peers: SocketAddr,
    /// For clients of high rate: the binary protocol of [`dag::client`].
    #[serde(deserialize_with = "text")]
    pub submission: SocketAddr,
    /// For JSON-RPC, metrics and health.
    #[serde(deserialize_with = "text")]
    pub rpc: SocketAddr,
}

/// Another validator's address.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its public key; the channel to it is bound to this key.
    #[serde(deserialize_with = "text")]
    pub key: Address,
    /// Host and base port: its lane L listens on that port plus L.
    #[serde(deserialize_with = "text")]
    pub address: HostPort,
}

/// Upper bounds. Whatever reaches one is refused or held back, and counted.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of all transactions that wait, over all tables.
    #[serde(deserialize_with = "within::<_, _, MIB, { 64 * GIB }>")]
    pub mempool_bytes: u64,
    /// Transactions of one account that wait.
    #[serde(deserialize_with = "within::<_, _, 1, 65_536>")]
    pub pending_per_account: u32,
    /// Connections to the submission port, per core.
    #[serde(deserialize_with = "within::<_, _, 1, 65_536>")]
    pub submission_connections: u32,
    /// Connections to the RPC port.
    #[serde(deserialize_with = "within::<_, _, 1, 65_536>")]
    pub rpc_connections: u32,
    /// Bytes of an RPC request's body.
    #[serde(deserialize_with = "within::<_, _, { 64 * KIB }, { 64 * MIB }>")]
    pub rpc_body_bytes: u32,
}

/// Waiting times, written as «500ms», «5s».
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A table's first view change comes after this long without progress; it doubles from view to view. A busy primary proposes every
    /// 20 ms, so it is a multiple of that.
    #[serde(deserialize_with = "duration_within::<_, 100, 60_000>")]
    pub view: Duration,
    /// The doubling ends here.
    #[serde(deserialize_with = "duration_within::<_, 10, 600_000>")]
    pub view_max: Duration,
    /// Longest pause between two attempts to connect to a peer.
    #[serde(deserialize_with = "duration_within::<_, 10, 600_000>")]
    pub reconnect_max: Duration,
    /// An RPC question that a core has not answered by then fails.
    #[serde(deserialize_with = "duration_within::<_, 10, 600_000>")]
    pub rpc_reply: Duration,
    /// `sendTransaction` with `wait` gives up by then; the transaction does not.
    #[serde(deserialize_with = "duration_within::<_, 10, 600_000>")]
    pub rpc_wait: Duration,
}

/// How the node takes its part in agreement.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agreement {
    /// Whether it checks the signatures of every block, instead of its share ([`pbft::Config::check_all`]).
    pub check_all: bool,
    /// How long a block that lacks nothing else waits for its checkers ([`pbft::Config::check_after`]).
    #[serde(deserialize_with = "duration_within::<_, 1, 60_000>")]
    pub check_after: Duration,
}

/// The log of each core.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Bytes of one file. The largest group takes a quarter of it, and has to hold the largest record.
    #[serde(deserialize_with = "within::<_, _, { 8 * MIB }, { 2 * GIB }>")]
    pub segment_bytes: u64,
    /// Bytes that are kept behind the newest snapshot, for peers that catch up.
    #[serde(deserialize_with = "within::<_, _, { 8 * MIB }, { 1024 * GIB }>")]
    pub retain_bytes: u64,
}

/// The snapshots of the tables' state.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotConfig {
    /// A snapshot is due after so many bytes of log per core; a restart reads at most about that much.
    #[serde(deserialize_with = "within::<_, _, MIB, { 1024 * GIB }>")]
    pub interval_bytes: u64,
}

/// The index of committed blocks and their transactions, for RPC.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Whether there is one. Without it RPC knows the blocks that are in memory.
    pub enabled: bool,
    /// Bytes of blocks that it keeps; the oldest go first.
    #[serde(deserialize_with = "within::<_, _, MIB, { 64 * 1024 * GIB }>")]
    pub retain_bytes: u64,
}

/// How a core's loop waits, and what it leaves unused.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IoConfig {
    /// What an idle loop does.
    pub wait: Waiting,
    /// With adaptive waiting: how long it spins before it sleeps.
    #[serde(deserialize_with = "duration_within::<_, 0, 1000>")]
    pub spin: Duration,
    /// Kernel features to do without, though the kernel has them.
    #[serde(deserialize_with = "features")]
    pub disable_features: netio::Features,
}

impl Default for Cores {
    fn default() -> Self {
        Cores { count: CoreCount::Auto, pin: true, first: 0, instructions: Backend::best() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            mempool_bytes: 64 * MIB,
            pending_per_account: 1024,
            submission_connections: 256,
            rpc_connections: 128,
            rpc_body_bytes: 1 << 20,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            view: Duration::from_secs(1),
            view_max: Duration::from_secs(30),
            reconnect_max: Duration::from_secs(1),
            rpc_reply: Duration::from_secs(5),
            rpc_wait: Duration::from_secs(30),
        }
    }
}

impl Default for Agreement {
    fn default() -> Self {
        Agreement { check_all: false, check_after: Duration::from_millis(150) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { segment_bytes: 64 * MIB, retain_bytes: GIB }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig { interval_bytes: 256 * MIB }
    }
}

impl Default for IndexConfig {
    fn default() -> Self {
        IndexConfig { enabled: true, retain_bytes: 16 * GIB }
    }
}

impl Default for IoConfig {
    fn default() -> Self {
        IoConfig {
            wait: Waiting::Adaptive,
            spin: Duration::from_micros(20),
            disable_features: netio::Features::empty(),
        }
    }
}

impl NodeConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// Unreadable, not TOML, an unknown or missing key, or a value out of range.
    pub fn load(path: &Path) -> Result<NodeConfig, TomlFileError> {
        let mut config: NodeConfig = toml_file::read("configuration", path)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        for file in [&mut config.genesis, &mut config.key_file, &mut config.data_dir] {
            *file = directory.join(&*file);
        }
        config.relay.vpn = config.relay.vpn.map(|vpn| vpn.in_folder(directory));
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
