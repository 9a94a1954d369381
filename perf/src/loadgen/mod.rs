//! Open-loop load: signed transfers at a constant rate, with latencies that no stall can hide.
//!
//! Transaction i is due at `start + i / rate`, whatever became of those before it, and its latency runs from that
//! intended time to its acknowledgement. A generator that waits for a slow server and then measures from the actual
//! sending would leave out what users suffer in a stall ("coordinated omission").
//!
//! A run has two halves. [`prepare`] asks the senders' sequences and signs all transactions, so that the run itself only
//! moves bytes; [`Prepared::run`] offers them from one thread over non-blocking sockets and collects the replies.
//!
//! | file | holds |
//! | --- | --- |
//! | `accounts` | the key of account i of a seed |
//! | `workload` | what to send, where to |
//! | `schedule` | when each transaction is due |
//! | `plan` | who pays whom over which connection |
//! | `presign` | the signed bytes, in the order and form in which they are sent |
//! | `backlog` | which transactions of a connection are due, on their way, refused, answered |
//! | `session` | a connection that survives its validator |
//! | `stream` | the three together: one sequence of transactions and the connection that carries it |
//! | `generator` | the loop over all streams |
//! | `recorder`, `result` | counts and histograms |
//! | `acks` | the list of what was acknowledged, for tests of durability |
//!
//! # Order and faults
//! A sender's transactions are all in one stream, so they arrive in the order of their sequences. When a stream's
//! connection breaks, or its validator is silent for [`Workload::stall_timeout`] or goes on saying that it takes no
//! transactions, whatever is unanswered goes again, in order, to the next validator; a validator takes a transaction that
//! it knows already for what it is. When the stream's own validator answers questions again, the stream goes home; each time
//! that it is left soon after, it is tried later. Refusals that say "later" are tried again up to [`Workload::retries`]
//! times; all other refusals are final. Intended times never move.
//!
//! # Limits
//! Full sockets hold the sender back, nothing else: the number of unanswered transactions is bounded by the run alone.
//! All transactions are in memory ([`MAX_SCRIPT_BYTES`]).

mod acks;
mod backlog;
mod generator;
mod plan;
mod presign;
mod recorder;
mod result;
mod schedule;
mod session;
mod stream;
mod workload;

pub mod accounts;

#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod tests;

pub use accounts::account_keys;
pub use acks::{Ack, AcksError, read_acks};
pub use generator::{Prepared, prepare};
pub use presign::Preparation;
pub use recorder::{Interval, Phase, Progress};
pub use result::LoadResult;
pub use workload::{LoadError, MAX_SCRIPT_BYTES, Routing, Target, Workload};
