//! What a node knows about its network without asking a core.

use dag::{Address, ChainId, Epoch, Hash, ReplicaId};

use crate::genesis::{Genesis, GenesisValidator};

/// The network and this validator's place in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainInfo {
    /// The network's name.
    pub name: String,
    /// The chain id.
    pub chain: ChainId,
    /// The genesis hash.
    pub genesis: Hash,
    /// The epoch.
    pub epoch: Epoch,
    /// Number of tables.
    pub tables: u16,
    /// Number of lanes.
    pub lanes: u16,
    /// Micro-TOP of the genesis.
    pub supply: u64,
    /// µs since 1970 of the genesis.
    pub time: u64,
    /// The committee.
    pub validators: Vec<GenesisValidator>,
    /// This validator.
    pub replica: ReplicaId,
}

impl ChainInfo {
    /// Of a genesis, for the validator `replica`.
    pub fn new(genesis: &Genesis, replica: ReplicaId) -> ChainInfo {
        ChainInfo {
            name: genesis.name().into(),
            chain: genesis.chain(),
            genesis: genesis.hash(),
            epoch: genesis.epoch(),
            tables: genesis.tables(),
            lanes: genesis.lanes(),
            supply: genesis.supply(),
            time: genesis.time(),
            validators: genesis.validators().to_vec(),
            replica,
        }
    }

    /// Name and key of a validator.
    pub fn validator(&self, replica: ReplicaId) -> Option<(&str, Address)> {
        let validator = self.validators.get(usize::from(replica))?;
        Some((&validator.name, validator.key))
    }
}
