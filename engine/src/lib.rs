//! The node: what runs the ledger's state machines on a machine's cores, disks and sockets.

pub mod config;
pub mod core_loop;
pub mod genesis;
pub mod index;
pub mod keyfile;
pub mod log;
pub mod metrics;
pub mod node;
pub mod process;
pub mod recovery;
pub mod relay;
mod remembered;
pub mod repair;
pub mod rpc;
pub mod side;
pub mod snapshot;
pub mod topology;
