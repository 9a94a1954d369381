//! Snapshots: the state of one table at a stable checkpoint, one file each.
//!
//! `snap-<table>-<height>.top` is written under a temporary name, synced, renamed, and the directory synced: a file with
//! its final name is complete. The two newest of each table are kept, so that a damaged one leaves another.
//!
//! What the sections hold is the caller's business; [`format`](mod@format) draws the bytes around them. [`newest_good`] picks what
//! to recover from. Writing goes through the [side executor](crate::side), chunk by chunk, so that a core never waits
//! for it; [`write_blocking`] is for tools and for state that came from peers.
//!
//! # Fault model
//!
//! Any flipped bit, cut end or misplaced file is detected by checksums over every byte and by the names in the header,
//! and reported with the file's name and the reason. Whether a snapshot's state is the *agreed* one isn't decided here:
//! the caller compares its state root with the checkpoint certificate.

pub mod format;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub use format::{Section, Snapshot, SnapshotDamage, SnapshotHeader, SnapshotId};
pub use store::{
    Newest, SNAPSHOTS_KEPT, SnapshotError, list, load, newest_good, path, remove_leftovers, write,
    write_blocking,
};
pub(crate) use writer::SnapshotWriter;
