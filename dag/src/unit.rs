//! Units: the links of an account's own chain, layer 1 of the lattice.
//!
//! Every change of an account appends one unit. Units are derived in execution by every validator and never sent; only the
//! head's hash stands in the account's leaf.

use crate::{Address, Hash, hash::Domain};

/// Bytes of a unit as hashed: account (32), height (8), previous (32), cause (1 + 32), balance (8), zeros up to two blocks
/// of the hash function. So many units can be hashed side by side.
pub const UNIT_SIZE: usize = 128;

/// Why an account changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A transaction that the account signed.
    Sent(Hash),
    /// A transaction of the same table that pays the account.
    Received(Hash),
    /// A receipt of another table that pays the account; the hash is the receipt's.
    Receipt(Hash),
    /// The allocation in the genesis; the hash is the genesis hash.
    Genesis(Hash),
}

/// One link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// The account.
    pub account: Address,
    /// Position in the account's chain, from 1.
    pub height: u64,
    /// Hash of the unit before; zero for the first.
    pub previous: Hash,
    /// What made the change.
    pub cause: Cause,
    /// Micro-TOP after the change.
    pub balance: u64,
}

impl Unit {
    /// The bytes that are hashed.
    pub fn to_bytes(&self) -> [u8; UNIT_SIZE] {
        let (tag, cause) = match self.cause {
            Cause::Sent(hash) => (1, hash),
            Cause::Received(hash) => (2, hash),
            Cause::Receipt(hash) => (3, hash),
            Cause::Genesis(hash) => (4, hash),
        };
        let mut bytes = [0; UNIT_SIZE];
        bytes[..32].copy_from_slice(self.account.as_bytes());
        bytes[32..40].copy_from_slice(&self.height.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.previous.0);
        bytes[72] = tag;
        bytes[73..105].copy_from_slice(&cause.0);
        bytes[105..113].copy_from_slice(&self.balance.to_le_bytes());
        bytes
    }

    /// The unit's hash: the `previous` of the next one.
    pub fn hash(&self) -> Hash {
        Domain::UNIT.hash(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_counts() {
        let unit = Unit {
            account: Address([1; 32]),
            height: 2,
            previous: Hash([3; 32]),
            cause: Cause::Sent(Hash([4; 32])),
            balance: 5,
        };
        let others = [
            Unit { account: Address([2; 32]), ..unit },
            Unit { height: 3, ..unit },
            Unit { previous: Hash([4; 32]), ..unit },
            Unit { cause: Cause::Received(Hash([4; 32])), ..unit },
            Unit { cause: Cause::Sent(Hash([5; 32])), ..unit },
            Unit { balance: 6, ..unit },
        ];
        for other in others {
            assert_ne!(other.hash(), unit.hash(), "{other:?}");
        }
    }
}
