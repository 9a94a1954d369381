//! What every network must keep, simulated or real: the invariants, the model ledger that watches over the clients' promises, and the
//! accounts of clients that know what they wait for.
//!
//! | file | holds |
//! | --- | --- |
//! | `ledger` | blocks, results, balances and promises, as a single honest machine would have them |
//! | `account` | a client's account: what it signs, what it waits for, what it makes of an answer |
//!
//! The simulator feeds it from inside of its validators; `topio sim --real` from the answers of real processes.

mod account;
mod ledger;

use std::fmt;

use dag::View;
use serde::Serialize;

pub use self::{
    account::{Account, Heard, Wanted, hear},
    ledger::Ledger,
};

/// Longest time from the end of all faults until everything pending is decided and everybody stands at the same place, ns.
pub const SETTLED_WITHIN: u64 = 120_000_000_000;
/// Views that a table may need for that.
pub const SETTLED_VIEWS: View = 24;

/// What must be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Invariant {
    /// No two honest validators commit different blocks at one height.
    Agreement,
    /// Every account chain is one chain.
    AccountChain,
    /// Acknowledged means committed, durable and present for ever.
    Acknowledged,
    /// What nobody signed, or nobody could pay, is not accepted; what is good is not refused.
    Admission,
    /// Each transaction and receipt is applied exactly once, in order, with the same result everywhere.
    Execution,
    /// No money is made or lost.
    Supply,
    /// No vote leaves before it is durable.
    Durable,
    /// No honest validator signs two conflicting votes.
    Conflict,
    /// A view change tells of every commit vote that its sender cast.
    ViewChange,
    /// No queue is longer than its maximum.
    Queues,
    /// Honest validators speak well-formed frames.
    Frames,
    /// A process comes back from whatever a crash leaves.
    Recovery,
    /// An honest validator has no reason to stop for good.
    Halt,
    /// After the faults everything pending is committed in a bounded number of views, and all roots agree.
    Liveness,
    /// The code's own assertions hold.
    Assertion,
    /// Same seed, same bytes.
    Deterministic,
}

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When, in ns.
    pub at: u64,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.invariant, self.at / 1_000_000, self.what)
    }
}
