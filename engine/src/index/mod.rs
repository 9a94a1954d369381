//! The block index: committed blocks, and where each transaction stands, for as long as the operator wants to keep them.
//!
//! ```text
//!  core 0 ══ ring of executed blocks ══╗
//!                                      ╠══► index thread ──► index.redb ◄── RPC's lookups
//!  core 1 ══ ring of executed blocks ══╝   (a commit a second)
//! ```
//!
//! Agreement and execution know nothing of it. A core pushes what it has executed into a bounded ring and never waits: where
//! the ring is full, the block stays in the table's in-memory history and is offered again in the next turn. Only when the
//! index falls further behind than that history reaches, blocks are left out, and counted.
//!
//! # The file
//!
//! One redb file. Blocks lie in the order of their arrival, so that everything but the look-up tables is appended at one end
//! and forgotten at the other.
//!
//! ```text
//! blocks   arrival (8)                 → table (2), height (8), failed (count 2; index 2 + code 1 each), commit certificate, block
//! places   table (2), height (8)       → arrival
//! runs     run (4)                     → first arrival, first arrival behind it
//! buckets  run (4), bucket (1)         → entries by ascending fingerprint: fingerprint (8), arrival·2¹² + index (8)
//! meta     name                        → number
//! ```
//!
//! Ids and block hashes are random, and random keys in one B-tree would have every insertion write a page of its own. So
//! they are gathered in memory into a *run* of 2¹⁶, sorted once, and written as 256 buckets. A look-up searches one bucket of
//! each run, newest first, and believes a fingerprint (the first eight bytes) only once the block itself confirms it. That
//! is 16 bytes a transaction on disk, and for an id that nobody knows one small read for each 65,536 transactions kept.
//!
//! # Fault model
//!
//! - **Crash.** A commit of redb is whole or absent. What a crash takes back is told again: blocks above the snapshots by
//!   execution, older ones by recovery from the log ([`Reader::newest`] says from where). A block that is there already is
//!   skipped. The gathered run is made anew from the blocks behind the last one that was written.
//! - **Full or failing disk.** The batch is kept and tried again every second, on a file that is opened anew. Cores go on.
//! - **Damage.** A block is served only if it hashes to what its certificate names; redb's pages carry checksums. A file that
//!   can't be opened is named: the operator may remove it, for no promise lies in it.

mod entry;
mod reader;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::{Question, Reader};
pub use store::IndexError;
pub use writer::{Feed, Index, IndexConfig, RING_CAPACITY};

/// The file's name in the data directory.
pub const FILE: &str = "index.redb";
