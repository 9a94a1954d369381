//! The ledger's data: what is signed, hashed, sent, logged and proven, and nothing that does any of it.
//!
//! Every record is a fixed, little-endian, padding-free layout with alignment one, so that the bytes received are the
//! bytes hashed, verified, logged and forwarded. A decoder accepts exactly one byte string per meaning and is the only
//! place where outside bytes become typed; behind it nothing is checked twice.
#![forbid(unsafe_code)]

pub mod address;
pub mod certificate;
pub mod client;
pub mod committee;
pub mod hash;
pub mod keys;
pub mod merkle;
pub mod money;
pub mod planted;
pub mod receipt;
pub mod state_tree;
pub mod table_block;
pub mod transaction;
pub mod unit;
pub mod vote;
pub mod wire;

pub use address::Address;
pub use certificate::Certificate;
pub use committee::Committee;
pub use hash::Hash;
pub use table_block::{Block, InboxRef};
pub use transaction::Transaction;
pub use vote::{Vote, VoteBundle, VoteKind};

/// Number of a table, from zero up to the table count of the genesis.
pub type TableId = u16;
/// Number of a lane; `lane = table mod lanes`.
pub type LaneId = u16;
/// Position of a validator in its committee.
pub type ReplicaId = u16;
/// Position of a block in its table's chain; the genesis of a table is height zero.
pub type Height = u64;
/// PBFT view of a table; the primary of view v of table t is `committee[(t + v) mod n]`.
pub type View = u64;
/// Election period; the committee of a shard is fixed within one.
pub type Epoch = u32;
/// The network a record belongs to: the first eight bytes of the genesis hash.
pub type ChainId = u64;
