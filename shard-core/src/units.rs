//! Changes of accounts, each of which appends a unit to the account's chain.

use dag::{
    Hash,
    hash::Domain,
    state_tree::AccountLeaf,
    unit::{Cause, UNIT_SIZE, Unit},
};

use crate::{
    accounts::{Accounts, Position},
    lanes::{LANES, Lanes},
};

/// Units that are appended but not yet hashed. An account has at most one of them at a time, as each unit holds the hash
/// of the one before; so the units of a batch don't depend on each other.
#[derive(Debug)]
pub(crate) struct Units {
    lanes: Lanes,
    positions: Vec<Position>,
    /// The units' bytes.
    records: Vec<[u8; UNIT_SIZE]>,
}

impl Units {
    pub(crate) fn new() -> Units {
        let (positions, records) = (Vec::with_capacity(LANES), Vec::with_capacity(LANES));
        Units { lanes: Lanes::new(&Domain::UNIT), positions, records }
    }

    /// Adds to an account.
    pub(crate) fn credit(&mut self, accounts: &mut Accounts, at: Position, amount: u64, cause: Cause) {
        self.change(accounts, at, cause, |leaf| {
            leaf.balance = leaf.balance.checked_add(amount).expect("all money there is fits in 64 bits");
        });
    }

    /// Takes from an account, which has been found to hold as much, for the transaction that follows its last one.
    pub(crate) fn debit(&mut self, accounts: &mut Accounts, at: Position, total: u64, transaction: Hash) {
        self.change(accounts, at, Cause::Sent(transaction), |leaf| {
            leaf.balance = leaf.balance.checked_sub(total).expect("checked before");
            leaf.sequence += 1;
        });
    }

    fn change(
        &mut self,
        accounts: &mut Accounts,
        at: Position,
        cause: Cause,
        change: impl FnOnce(&mut AccountLeaf),
    ) {
        if self.positions.len() == LANES || self.positions.contains(&at) {
            self.flush(accounts);
        }
        let leaf = accounts.leaf_mut(at);
        change(leaf);
        leaf.unit_height += 1;
        self.positions.push(at);
        let unit = Unit {
            account: leaf.address,
            height: leaf.unit_height,
            previous: leaf.unit_head,
            cause,
            balance: leaf.balance,
        };
        self.records.push(unit.to_bytes());
    }

    /// Computes all heads that are open. Until then the accounts' heads are those before.
    pub(crate) fn flush(&mut self, accounts: &mut Accounts) {
        let mut heads = [Hash::ZERO; LANES];
        self.lanes.hash(&self.records, &mut heads);
        for (position, head) in self.positions.drain(..).zip(heads) {
            accounts.set_unit_head(position, head);
        }
        self.records.clear();
    }
}
