//! One table's state machine: mempool, batched signature verification, execution, receipts.
//!
//! No clock, no random source, no IO. Time and seeds come in as arguments, effects go out as values, and long work is cut
//! into slices by a budget of operations. What two validators execute alike, they hold alike, byte for byte.
#![deny(unsafe_code)]

pub mod accounts;
pub mod execute;
pub mod inbox;
mod index;
mod lanes;
mod leaves;
pub mod measure;
pub mod mempool;
pub mod meta;
pub mod outbox;
pub mod partition;
mod prefetch;
pub mod receipts;
pub mod sigbatch;
pub mod snapshot;
pub mod supply;
mod tree;
mod units;

pub use accounts::Accounts;
pub use execute::{Failed, Outcome};
pub use inbox::{Inbox, Known};
pub use mempool::Mempool;
pub use meta::Meta;
pub use outbox::Outbox;
pub use partition::{Config, Table};
pub use receipts::Delivery;
pub use snapshot::Loader;
pub use supply::Supply;
