//! Whole networks of the real validator code, in one thread, under a seed.
//!
//! | module | is |
//! | --- | --- |
//! | [`scenario`] | what a seed means, and the atlas of faults |
//! | [`fault`] | the faults and their times |
//! | [`world`] | the simulated network: hosts, wires, clients, and the judge of the invariants |
//! | [`model`] | the model ledger and its invariants, and accounts of clients: for simulated and real networks |
//! | [`disk`] | a disk that can be torn, filled, broken and damaged |
//! | [`byzantine`] | what a liar makes of honest frames |
//! | [`coverage`] | which faults have struck in which states |
//! | [`search`] | many seeds on many threads |
//! | [`shrink`] | a failing plan made small |
//! | [`trace`] | what happened, as a hash and as lines |
//! | [`drawing`] | a part of it as a picture |
#![forbid(unsafe_code)]

pub mod byzantine;
pub mod coverage;
pub mod disk;
pub mod drawing;
pub mod fault;
pub mod model;
pub mod random;
mod run;
pub mod scenario;
pub mod search;
pub mod shrink;
pub mod trace;
pub mod world;

pub use run::{Outcome, run, run_traced};

/// The commit that this was built from.
pub const COMMIT: &str = env!("SIM_COMMIT");
