//! A configuration together with what it names: the genesis, the key, and which validator they make this node.

use std::path::{Path, PathBuf};

use dag::{Address, ReplicaId, keys::KeyPair};

use super::{CoreCount, HostPort, NodeConfig, TomlFileError};
use crate::{
    genesis::{Genesis, GenesisError, GenesisValidator},
    keyfile::{self, KeyFileError},
};

/// All that a node needs to know before it opens a file or socket of its own.
#[derive(Debug)]
pub struct Setup {
    /// The configuration.
    pub config: NodeConfig,
    /// The network.
    pub genesis: Genesis,
    /// The validator's key.
    pub key: KeyPair,
    /// The validator's place in the committee.
    pub replica: ReplicaId,
    /// The other validators' addresses by place; `None` at the own one.
    pub peers: Vec<Option<HostPort>>,
    /// How many core loops run: at most the number of lanes.
    pub cores: u16,
}

/// Why a node can't be set up. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] TomlFileError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The key belongs to no validator.
    #[error(
        "the key {key} in {path} is no validator of «{network}»: use a validator's key, or that key's genesis"
    )]
    NotAValidator {
        /// The public key.
        key: Address,
        /// Its file.
        path: PathBuf,
        /// The network.
        network: String,
    },
    /// Values that don't fit together.
    #[error("{path}: {rule}")]
    Rule {
        /// The configuration.
        path: PathBuf,
        /// What doesn't fit, and what would.
        rule: String,
    },
}

impl Setup {
    /// Reads the configuration at `path` and all that it names, and checks that they belong together.
    ///
    /// # Errors
    /// The first thing that is missing or does not fit.
    pub fn load(path: &Path) -> Result<Setup, SetupError> {
        let config = NodeConfig::load(path)?;
        let genesis = Genesis::load(&config.genesis)?;
        let key = keyfile::load(&config.key_file)?;
        let replica =
            genesis.committee().position(&key.public()).ok_or_else(|| SetupError::NotAValidator {
                key: key.address(),
                path: config.key_file.clone(),
                network: genesis.name().into(),
            })?;
        let rule = |rule| SetupError::Rule { path: path.into(), rule };
        check_sizes(&config).map_err(rule)?;
        check_ports(&config, genesis.lanes()).map_err(rule)?;
        let peers = place_peers(&config, &genesis, replica).map_err(rule)?;
        let cores = core_count(config.cores.count, genesis.lanes()).map_err(rule)?;
        Ok(Setup { config, genesis, key, replica, peers, cores })
    }

    /// This validator's entry in the genesis.
    pub fn validator(&self) -> &GenesisValidator {
        &self.genesis.validators()[usize::from(self.replica)]
    }
}

fn check_sizes(config: &NodeConfig) -> Result<(), String> {
    let (log, timeouts) = (&config.log, &config.timeouts);
    if log.retain_bytes < log.segment_bytes {
        return Err("log.retain_bytes is below log.segment_bytes: keep at least one segment".into());
    }
    if timeouts.view_max < timeouts.view {
        return Err("timeouts.view_max is below timeouts.view: raise it".into());
    }
    Ok(())
}

fn check_ports(config: &NodeConfig, lanes: u16) -> Result<(), String> {
    let listen = &config.listen;
    let first = listen.peers.port();
    let Some(last) = first.checked_add(lanes - 1) else {
        return Err(format!(
            "listen.peers: {lanes} lanes from port {first} end above 65535: use a lower port"
        ));
    };
    for (name, address) in [("listen.submission", listen.submission), ("listen.rpc", listen.rpc)] {
        let (ip, peers) = (address.ip(), listen.peers.ip());
        let shared = ip == peers || ip.is_unspecified() || peers.is_unspecified();
        if shared && (first..=last).contains(&address.port()) {
            return Err(format!(
                "{name} is one of the lanes' ports {first} to {last} of listen.peers: use another port"
            ));
        }
    }
    if let (Some(turn), Some(vpn)) = (&config.relay.turn, &config.relay.vpn)
        && turn.listen.iter().any(|address| address.port() == vpn.listen.port())
    {
        return Err("relay.turn.listen and relay.vpn.listen have the same port: use another one".into());
    }
    if listen.submission == listen.rpc {
        return Err("listen.submission and listen.rpc are the same: use another port".into());
    }
    Ok(())
}

fn place_peers(
    config: &NodeConfig,
    genesis: &Genesis,
    me: ReplicaId,
) -> Result<Vec<Option<HostPort>>, String> {
    let mut places: Vec<Option<HostPort>> = vec![None; genesis.committee().size()];
    for peer in &config.peers {
        let Some(replica) = genesis.committee().position(&peer.key.0) else {
            return Err(format!(
                "peer {} is no validator of «{}»: remove its section",
                peer.key,
                genesis.name()
            ));
        };
        if peer.address.port().checked_add(genesis.lanes() - 1).is_none() {
            return Err(format!(
                "peer {}: its lanes from port {} end above 65535",
                peer.key,
                peer.address.port()
            ));
        }
        if places[usize::from(replica)].replace(peer.address.clone()).is_some() {
            return Err(format!("peer {} is listed twice: remove one section", peer.key));
        }
    }
    places[usize::from(me)] = None;
    for (validator, replica) in genesis.validators().iter().zip(genesis.committee().replicas()) {
        if replica != me && places[usize::from(replica)].is_none() {
            return Err(format!(
                "validator «{}» ({}) has no [[peer]] section: add its address",
                validator.name, validator.key
            ));
        }
    }
    Ok(places)
}

fn core_count(count: CoreCount, lanes: u16) -> Result<u16, String> {
    match count {
        CoreCount::Exactly(count) if count > lanes => {
            Err(format!("cores.count is {count}, but the network has {lanes} lanes: use at most {lanes}"))
        }
        CoreCount::Exactly(count) => Ok(count),
        CoreCount::Auto => {
            let available = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(u16::try_from(available).unwrap_or(u16::MAX).min(lanes))
        }
    }
}
