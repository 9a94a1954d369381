//! A committee: the validators that agree on a shard's tables for one epoch.

use crate::{
    ChainId, Epoch, ReplicaId, TableId, View,
    planted::{self, Defect},
};

/// Fewest validators of a committee: one fault among four.
pub const MIN_VALIDATORS: usize = 4;
/// Most validators of a committee.
pub const MAX_VALIDATORS: usize = 128;

/// The validators' public keys in their order, and what their votes are bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committee {
    chain: ChainId,
    epoch: Epoch,
    keys: Vec<[u8; 32]>,
}

/// Why a list of keys is no committee.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitteeError {
    /// Too few or too many.
    #[error("a committee has {MIN_VALIDATORS} to {MAX_VALIDATORS} validators, not {0}")]
    Size(usize),
    /// One validator twice would count twice.
    #[error("validator key {0} is listed twice")]
    Duplicate(usize),
}

impl Committee {
    /// A committee of these keys.
    pub fn new(chain: ChainId, epoch: Epoch, keys: Vec<[u8; 32]>) -> Result<Committee, CommitteeError> {
        if !(MIN_VALIDATORS..=MAX_VALIDATORS).contains(&keys.len()) {
            return Err(CommitteeError::Size(keys.len()));
        }
        if let Some(index) = (1..keys.len()).find(|&i| keys[..i].contains(&keys[i])) {
            return Err(CommitteeError::Duplicate(index));
        }
        Ok(Committee { chain, epoch, keys })
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of validators, n.
    pub fn size(&self) -> usize {
        self.keys.len()
    }

    /// How many may be faulty: f = ⌊(n − 1) / 3⌋.
    pub fn faulty(&self) -> usize {
        (self.size() - 1) / 3
    }

    /// Votes that decide: n − f. Two quorums share an honest validator.
    pub fn quorum(&self) -> usize {
        self.size() - self.faulty() - usize::from(planted::is(Defect::QuorumShort))
    }

    /// All replicas, in order.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let size = ReplicaId::try_from(self.keys.len()).expect("at most 128");
        0..size
    }

    /// The primary of a table in a view: committee[(table + view) mod n].
    pub fn primary(&self, table: TableId, view: View) -> ReplicaId {
        let size = self.size() as u64;
        ReplicaId::try_from((u64::from(table) + view % size) % size).expect("below 128")
    }

    /// A validator's public key; `None` where there is no such replica.
    pub fn key(&self, replica: ReplicaId) -> Option<&[u8; 32]> {
        self.keys.get(usize::from(replica))
    }

    /// The replica that has this key.
    pub fn position(&self, key: &[u8; 32]) -> Option<ReplicaId> {
        let index = self.keys.iter().position(|k| k == key)?;
        Some(ReplicaId::try_from(index).expect("at most 128"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committee(n: u8) -> Committee {
        Committee::new(1, 0, (0..n).map(|i| [i; 32]).collect()).unwrap()
    }

    #[test]
    fn quorums_intersect_in_an_honest_validator() {
        for n in 4..=128 {
            let c = committee(n);
            let (n, f, q) = (c.size(), c.faulty(), c.quorum());
            assert!(2 * q - n > f, "two quorums of {n}");
            assert!(n - f >= q, "the honest ones of {n} are a quorum");
        }
    }

    #[test]
    fn primaries_rotate() {
        let c = committee(4);
        assert_eq!((0..5).map(|v| c.primary(2, v)).collect::<Vec<_>>(), [2, 3, 0, 1, 2]);
        assert_eq!(c.primary(1, u64::MAX), 0);
    }

    #[test]
    fn refuses_odd_lists() {
        assert_eq!(Committee::new(1, 0, vec![[0; 32]; 3]), Err(CommitteeError::Size(3)));
        assert_eq!(Committee::new(1, 0, vec![[0; 32]; 4]), Err(CommitteeError::Duplicate(1)));
    }
}
