//! The genesis: what all nodes of a network agree on before its first block.
//!
//! Its hash covers all that changes what nodes agree on: the network's name, tables, lanes, epoch, time, the validators'
//! keys in their order, and the allocations. The chain id is the first eight bytes of that hash, so a transaction of one
//! network is worth nothing on another. Validators' names and network addresses may change and are not covered; the
//! addresses stand in each node's [configuration](crate::config).
//!
//! ```text
//! canonical bytes, little-endian, hashed under Domain::GENESIS
//!   version 1 (2), length of the name (1), name
//!   tables (2), lanes (2), epoch (4), time in µs since 1970 (8)
//!   validators (2), each a public key (32)
//!   allocations (8), blake3 of the allocations' encoding (32)
//! ```

pub mod dev;
mod file;

use std::path::PathBuf;

use dag::{
    Address, ChainId, Committee, Epoch, Hash,
    committee::CommitteeError,
    hash::Domain,
    wire::{Put, Reader},
};

use crate::{config::TomlFileError, node::frame::MAX_VALIDATORS};

/// Most tables of a network.
pub const MAX_TABLES: u16 = 1024;
/// Longest name of a network or validator.
pub const MAX_NAME: usize = 64;
/// Bytes of an encoded allocation: address (32), micro-TOP (8).
pub const ALLOCATION_SIZE: usize = 40;
/// Name of the file that holds all but the allocations.
pub const GENESIS_FILE: &str = "genesis.toml";
/// Name of the file beside it that holds the allocations.
pub const ALLOCATIONS_FILE: &str = "allocations.bin";

/// Money that an account has from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// The account.
    pub address: Address,
    /// Micro-TOP, never zero.
    pub balance: u64,
}

/// A member of the first committee.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenesisValidator {
    /// How reports and logs call it; not covered by the hash.
    pub name: String,
    /// Its Ed25519 public key.
    pub key: Address,
}

/// What the founder of a network decides, besides the allocations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// The network's name: lower-case letters, digits and hyphens.
    pub name: String,
    /// Number of tables: a power of two up to [`MAX_TABLES`].
    pub tables: u16,
    /// Number of lanes, from 1 to the number of tables: an upper bound of the cores that a validator can use.
    pub lanes: u16,
    /// µs since 1970; no block is older.
    pub time: u64,
    /// The committee of epoch 0, in its order.
    pub validators: Vec<GenesisValidator>,
}

/// A valid genesis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    parameters: Parameters,
    allocations: Vec<Allocation>,
    supply: u64,
    committee: Committee,
    hash: Hash,
}

/// Why there is no valid genesis.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// A name that can't stand in reports and file names.
    #[error("«{0}» is no name: use 1 to {MAX_NAME} lower-case letters, digits and hyphens")]
    Name(String),
    /// The table count.
    #[error("{0} tables: use a power of two from 1 to {MAX_TABLES}")]
    Tables(u16),
    /// The lane count.
    #[error("{lanes} lanes for {tables} tables: use 1 to {tables}")]
    Lanes {
        /// Lanes asked for.
        lanes: u16,
        /// Tables they share.
        tables: u16,
    },
    /// The validators.
    #[error("validators: {0}")]
    Committee(#[from] CommitteeError),
    /// More than a frame can hold the view change of.
    #[error(
        "{0} validators: use at most {MAX_VALIDATORS}; the messages of a larger committee's view changes don't fit a frame"
    )]
    Validators(usize),
    /// Two validators of one name.
    #[error("two validators are called «{0}»: give each its own name")]
    DuplicateName(String),
    /// An account with nothing.
    #[error("the allocation of {0} is zero: leave the account out")]
    ZeroAllocation(Address),
    /// An account twice.
    #[error("{0} has two allocations: give it their sum")]
    DuplicateAllocation(Address),
    /// More money than 64 bits count.
    #[error("the allocations add up to more than 2⁶⁴ − 1 micro-TOP")]
    Supply,
    /// `genesis.toml` as a file.
    #[error(transparent)]
    Toml(#[from] TomlFileError),
    /// A rule that the content of `genesis.toml` breaks.
    #[error("{path}: {rule}")]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        rule: Box<GenesisError>,
    },
    /// A layout of a later release.
    #[error("{path}: version {version} is unknown: this release reads version 1")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// The allocations are not those that the genesis names.
    #[error(
        "{path} is not the one that genesis.toml names ({detail}): fetch both files again from one source"
    )]
    Allocations {
        /// The allocations file.
        path: PathBuf,
        /// What differs.
        detail: &'static str,
    },
    /// A genesis is there already, and is never overwritten.
    #[error("{0} exists already and is not overwritten: choose another directory")]
    Exists(PathBuf),
    /// The operating system refused.
    #[error("{path} can't be {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The refusal.
        source: std::io::Error,
    },
}

impl Genesis {
    /// Checks and seals a genesis. Allocations may come in any order.
    ///
    /// # Errors
    /// The first rule that the input breaks.
    pub fn create(parameters: Parameters, mut allocations: Vec<Allocation>) -> Result<Genesis, GenesisError> {
        check_names(&parameters)?;
        let (tables, lanes) = (parameters.tables, parameters.lanes);
        if !tables.is_power_of_two() || tables > MAX_TABLES {
            return Err(GenesisError::Tables(tables));
        }
        if !(1..=tables).contains(&lanes) {
            return Err(GenesisError::Lanes { lanes, tables });
        }
        allocations.sort_unstable_by_key(|allocation| allocation.address);
        let supply = check_allocations(&allocations)?;
        let keys: Vec<[u8; 32]> = parameters.validators.iter().map(|validator| validator.key.0).collect();
        // The chain id follows from the hash, so the keys are checked before there is one.
        Committee::new(0, 0, keys.clone())?;
        if keys.len() > MAX_VALIDATORS {
            return Err(GenesisError::Validators(keys.len()));
        }
        let hash = hash(&parameters, allocations.len(), &blake3::hash(&encode(&allocations)));
        let committee = Committee::new(chain_of(&hash), 0, keys)?;
        Ok(Genesis { parameters, allocations, supply, committee, hash })
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.parameters.name
    }

    /// Number of tables.
    pub fn tables(&self) -> u16 {
        self.parameters.tables
    }

    /// Number of lanes.
    pub fn lanes(&self) -> u16 {
        self.parameters.lanes
    }

    /// The first epoch: zero.
    pub fn epoch(&self) -> Epoch {
        self.committee.epoch()
    }

    /// µs since 1970.
    pub fn time(&self) -> u64 {
        self.parameters.time
    }

    /// The first committee with its names.
    pub fn validators(&self) -> &[GenesisValidator] {
        &self.parameters.validators
    }

    /// The first committee.
    pub fn committee(&self) -> &Committee {
        &self.committee
    }

    /// The accounts of the start, by ascending address.
    pub fn allocations(&self) -> &[Allocation] {
        &self.allocations
    }

    /// The sum of all allocations in micro-TOP.
    pub fn supply(&self) -> u64 {
        self.supply
    }

    /// The genesis hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The network: the first eight bytes of the hash, little-endian.
    pub fn chain(&self) -> ChainId {
        self.committee.chain()
    }
}

fn check_names(parameters: &Parameters) -> Result<(), GenesisError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let names = parameters.validators.iter().map(|validator| &validator.name);
    for name in names.clone().chain([&parameters.name]) {
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(allowed) {
            return Err(GenesisError::Name(name.clone()));
        }
    }
    let mut sorted: Vec<&String> = names.collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(GenesisError::DuplicateName(pair[0].clone())),
        None => Ok(()),
    }
}

/// The sum of sorted allocations, each of them valid.
fn check_allocations(allocations: &[Allocation]) -> Result<u64, GenesisError> {
    let mut supply = 0u64;
    for (index, Allocation { address, balance }) in allocations.iter().enumerate() {
        if *balance == 0 {
            return Err(GenesisError::ZeroAllocation(*address));
        }
        if index > 0 && allocations[index - 1].address == *address {
            return Err(GenesisError::DuplicateAllocation(*address));
        }
        supply = supply.checked_add(*balance).ok_or(GenesisError::Supply)?;
    }
    Ok(supply)
}

fn encode(allocations: &[Allocation]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(allocations.len() * ALLOCATION_SIZE);
    for allocation in allocations {
        bytes.put(allocation.address.as_bytes());
        bytes.put_u64(allocation.balance);
    }
    bytes
}

/// Reads whole allocations; a rest that is shorter than one is left out.
fn decode(bytes: &[u8]) -> Vec<Allocation> {
    let read = |record: &[u8]| {
        let mut reader = Reader::new(record);
        let address = reader.address().expect("40 bytes hold an address");
        Allocation { address, balance: reader.u64().expect("40 bytes hold a balance") }
    };
    bytes.chunks_exact(ALLOCATION_SIZE).map(read).collect()
}

fn hash(parameters: &Parameters, allocations: usize, digest: &blake3::Hash) -> Hash {
    let mut bytes = Vec::new();
    bytes.put_u16(1);
    bytes.put_u8(u8::try_from(parameters.name.len()).expect("at most MAX_NAME"));
    bytes.put(parameters.name.as_bytes());
    bytes.put_u16(parameters.tables);
    bytes.put_u16(parameters.lanes);
    bytes.put_u32(0);
    bytes.put_u64(parameters.time);
    bytes.put_u16(u16::try_from(parameters.validators.len()).expect("at most MAX_VALIDATORS"));
    for validator in &parameters.validators {
        bytes.put(validator.key.as_bytes());
    }
    bytes.put_u64(allocations as u64);
    bytes.put(digest.as_bytes());
    Domain::GENESIS.hash(&bytes)
}

fn chain_of(hash: &Hash) -> ChainId {
    ChainId::from_le_bytes(*hash.0.first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests;
