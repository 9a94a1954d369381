//! The invariant of money: balances + fees + receipts in flight = genesis + issued.

use crate::{accounts::Accounts, meta::Meta, partition::Table};

/// A table's part of the money, in micro-TOP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Supply {
    /// Sum of all balances.
    pub balances: u128,
    /// Fees collected.
    pub fees: u128,
    /// Sent to other tables, ever.
    pub sent: u128,
    /// Applied from other tables, ever.
    pub applied: u128,
}

impl Supply {
    pub(crate) fn of(accounts: &Accounts, meta: &Meta) -> Supply {
        Supply {
            balances: accounts.iter().map(|leaf| u128::from(leaf.balance)).sum(),
            fees: u128::from(meta.fees),
            sent: meta.peers.iter().map(|peer| peer.sent_amount).sum(),
            applied: meta.peers.iter().map(|peer| peer.applied_amount).sum(),
        }
    }
}

/// How the tables of a shard contradict the invariant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SupplyError {
    /// A table has applied more from another than that one has sent.
    #[error("table {to} has applied more than table {from} has sent to it")]
    Receipts {
        /// The table that sends.
        from: u16,
        /// The table that applies.
        to: u16,
    },
    /// Money was made or lost.
    #[error("the tables hold {held} micro-TOP, not {expected}")]
    Total {
        /// What they hold.
        held: u128,
        /// Genesis + issued.
        expected: u128,
    },
}

/// Checks the invariant over all tables of a shard, which may stand at any heights, as long as none is within a block.
///
/// # Panics
/// Where a table is missing, doubled, or within a block.
pub fn check(tables: &[&Table], expected: u128) -> Result<(), SupplyError> {
    let mut held = 0;
    for (from, table) in (0u16..).zip(tables) {
        assert!(table.config().id == from && usize::from(table.config().tables) == tables.len());
        assert!(!table.is_busy(), "table {from} is within a block");
        let supply = table.supply();
        held += supply.balances + supply.fees;
        for (to, other) in (0u16..).zip(tables) {
            let (sent, applied) = (table.meta().peer(to), other.meta().peer(from));
            if applied.applied > sent.sent || applied.applied_amount > sent.sent_amount {
                return Err(SupplyError::Receipts { from, to });
            }
            held += sent.sent_amount - applied.applied_amount;
        }
    }
    if held == expected { Ok(()) } else { Err(SupplyError::Total { held, expected }) }
}
