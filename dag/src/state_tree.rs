//! The state of a table, as far as others can check it: account leaves, their Merkle tree, and what a checkpoint signs.
//!
//! ```text
//! leaf (88)                              hashed as 128 bytes: the leaf, then 40 zeros
//!   0  address (32)
//!  32  balance (8): micro-TOP
//!  40  sequence (8): of the last executed transaction
//!  48  unit height (8), unit head (32)
//!
//! preimage of a checkpoint digest (168)
//!   0  version 1 (1), reserved 0 (1), table (2), epoch (4), chain (8)
//!  16  height (8), accounts (8)
//!  32  block hash (32)
//!  64  accounts root (32)
//!  96  meta hash (32), outbox hash (32)
//! 160  reserved 0 (8)
//! ```
//!
//! All numbers are little-endian. Leaves stand in order of the accounts' creation, which all validators share, as they
//! execute the same blocks. The tree over them has the shape of RFC 6962, section 2.1 (see [`merkle`]).
//!
//! # To check an account
//!
//! Know the committee. Take a checkpoint certificate and check it ([`Certificate::check`](crate::Certificate::check));
//! it names a digest. Take the preimage, check that its digest is that one ([`CheckpointPreimage::digest`]), and that table,
//! height and chain are those of interest. Take the proof, check it against the preimage's root and number of accounts
//! ([`AccountProof::verify`]). The leaf is the account's state after the block of that height.

use crate::{
    Address, ChainId, Epoch, Hash, Height, TableId,
    hash::Domain,
    merkle,
    wire::{Put, Reader, WireError},
};

/// Bytes of an account leaf.
pub const LEAF_SIZE: usize = 88;
/// Bytes of an account leaf as hashed: whole blocks of blake3, so that many can be hashed side by side.
pub const HASHED_LEAF_SIZE: usize = 128;
/// Bytes of a checkpoint's preimage.
pub const PREIMAGE_SIZE: usize = 168;
/// Most accounts of a table; positions are 32 bits.
pub const MAX_ACCOUNTS: u64 = 1 << 32;

/// An account's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccountLeaf {
    /// The account.
    pub address: Address,
    /// Micro-TOP.
    pub balance: u64,
    /// Sequence of the last executed transaction; zero before the first.
    pub sequence: u64,
    /// Length of the account's chain of units.
    pub unit_height: u64,
    /// Hash of its newest unit.
    pub unit_head: Hash,
}

impl AccountLeaf {
    /// The fixed layout.
    pub fn to_bytes(&self) -> [u8; LEAF_SIZE] {
        let mut bytes = [0; LEAF_SIZE];
        bytes[..32].copy_from_slice(self.address.as_bytes());
        bytes[32..40].copy_from_slice(&self.balance.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.unit_height.to_le_bytes());
        bytes[56..].copy_from_slice(&self.unit_head.0);
        bytes
    }

    /// What is hashed: the fixed layout, then zeros.
    pub fn to_hashed_bytes(&self) -> [u8; HASHED_LEAF_SIZE] {
        let mut bytes = [0; HASHED_LEAF_SIZE];
        bytes[..LEAF_SIZE].copy_from_slice(&self.to_bytes());
        bytes
    }

    /// Reads one leaf. Any 88 bytes are one.
    pub fn decode(reader: &mut Reader<'_>) -> Result<AccountLeaf, WireError> {
        Ok(AccountLeaf {
            address: reader.address()?,
            balance: reader.u64()?,
            sequence: reader.u64()?,
            unit_height: reader.u64()?,
            unit_head: reader.hash()?,
        })
    }

    /// Its hash: a leaf of the Merkle tree.
    pub fn hash(&self) -> Hash {
        Domain::ACCOUNT.hash(&self.to_hashed_bytes())
    }
}

/// An account's place under an accounts root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountProof {
    /// The account's state.
    pub leaf: AccountLeaf,
    /// Its place in the order of creation.
    pub position: u64,
    /// Number of accounts under the root.
    pub accounts: u64,
    /// Siblings from the leaf up to the root, lowest first.
    pub path: Vec<Hash>,
}

impl AccountProof {
    /// Whether the leaf stands under the root of this checkpoint.
    pub fn verify(&self, checkpoint: &CheckpointPreimage) -> bool {
        self.accounts == checkpoint.accounts && self.root() == Some(checkpoint.accounts_root)
    }

    /// The root that leaf and path lead to; `None` where the path has the wrong length.
    pub fn root(&self) -> Option<Hash> {
        let (position, accounts) =
            (usize::try_from(self.position).ok()?, usize::try_from(self.accounts).ok()?);
        merkle::root_of_path(self.leaf.hash(), position, accounts, &self.path)
    }

    /// Appends the layout: leaf (88), position (8), accounts (8), path. The path's length follows from the numbers.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.leaf.to_bytes());
        out.put_u64(self.position);
        out.put_u64(self.accounts);
        for hash in &self.path {
            out.put(&hash.0);
        }
    }

    /// Reads one proof.
    pub fn decode(reader: &mut Reader<'_>) -> Result<AccountProof, WireError> {
        let leaf = AccountLeaf::decode(reader)?;
        let (position, accounts) = (reader.u64()?, reader.u64()?);
        if accounts > MAX_ACCOUNTS || position >= accounts {
            return Err(WireError::Field("account position"));
        }
        let index = usize::try_from(position).map_err(|_| WireError::Field("account position"))?;
        let count = usize::try_from(accounts).map_err(|_| WireError::Field("account position"))?;
        let length = merkle::path_length(index, count);
        let path = (0..length).map(|_| reader.hash()).collect::<Result<_, _>>()?;
        Ok(AccountProof { leaf, position, accounts, path })
    }
}

/// What a checkpoint's digest is the hash of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointPreimage {
    /// The network.
    pub chain: ChainId,
    /// The epoch of the block.
    pub epoch: Epoch,
    /// The table.
    pub table: TableId,
    /// Height of the block after which the state is meant.
    pub height: Height,
    /// That block's hash.
    pub block: Hash,
    /// Number of accounts.
    pub accounts: u64,
    /// Root of the tree over their leaves; zero where there are none.
    pub accounts_root: Hash,
    /// Hash of the table's encoded counters.
    pub meta: Hash,
    /// Hash of the table's encoded receipts in flight.
    pub outbox: Hash,
}

impl CheckpointPreimage {
    /// The fixed layout.
    pub fn to_bytes(&self) -> [u8; PREIMAGE_SIZE] {
        let mut bytes = [0; PREIMAGE_SIZE];
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&self.table.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.chain.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.height.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.accounts.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.block.0);
        bytes[64..96].copy_from_slice(&self.accounts_root.0);
        bytes[96..128].copy_from_slice(&self.meta.0);
        bytes[128..160].copy_from_slice(&self.outbox.0);
        bytes
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.to_bytes());
    }

    /// Reads one preimage.
    pub fn decode(reader: &mut Reader<'_>) -> Result<CheckpointPreimage, WireError> {
        if (reader.u8()?, reader.u8()?) != (1, 0) {
            return Err(WireError::Field("checkpoint version"));
        }
        let (table, epoch, chain) = (reader.u16()?, reader.u32()?, reader.u64()?);
        let (height, accounts) = (reader.u64()?, reader.u64()?);
        let (block, accounts_root) = (reader.hash()?, reader.hash()?);
        let (meta, outbox) = (reader.hash()?, reader.hash()?);
        if reader.u64()? != 0 {
            return Err(WireError::Field("checkpoint reserved"));
        }
        if accounts > MAX_ACCOUNTS {
            return Err(WireError::Field("accounts"));
        }
        Ok(CheckpointPreimage { chain, epoch, table, height, block, accounts, accounts_root, meta, outbox })
    }

    /// What validators vote for.
    pub fn digest(&self) -> Hash {
        Domain::CHECKPOINT.hash(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(number: u64) -> AccountLeaf {
        let address = Address(Domain::UNIT.hash(&number.to_le_bytes()).0);
        AccountLeaf { address, balance: number, sequence: 2, unit_height: 3, unit_head: Hash([4; 32]) }
    }

    fn preimage() -> CheckpointPreimage {
        CheckpointPreimage {
            chain: 1,
            epoch: 2,
            table: 3,
            height: 4,
            block: Hash([5; 32]),
            accounts: 6,
            accounts_root: Hash([7; 32]),
            meta: Hash([8; 32]),
            outbox: Hash([9; 32]),
        }
    }

    proptest! {
        #[test]
        fn proofs_convince_and_survive_the_wire(accounts in 1u64..60, position in 0u64..60) {
            let position = position % accounts;
            let leaves: Vec<AccountLeaf> = (0..accounts).map(leaf).collect();
            let hashes: Vec<Hash> = leaves.iter().map(AccountLeaf::hash).collect();
            let index = usize::try_from(position).unwrap();
            let path = merkle::path(&hashes, index);
            let proof = AccountProof { leaf: leaves[index], position, accounts, path };
            let checkpoint = CheckpointPreimage { accounts, accounts_root: merkle::root(&hashes), ..preimage() };
            prop_assert!(proof.verify(&checkpoint));
            let mut bytes = Vec::new();
            proof.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(AccountProof::decode(&mut reader), Ok(proof.clone()));
            prop_assert_eq!(reader.finish(), Ok(()));
            let richer = AccountLeaf { balance: proof.leaf.balance + 1, ..proof.leaf };
            let moved = AccountProof { position: (position + 1) % accounts, ..proof.clone() };
            let forged = AccountProof { leaf: richer, ..proof.clone() };
            prop_assert!(!forged.verify(&checkpoint));
            prop_assert!(accounts == 1 || !moved.verify(&checkpoint));
            let larger = CheckpointPreimage { accounts: accounts + 1, ..checkpoint };
            prop_assert!(!proof.verify(&larger));
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = AccountProof::decode(&mut Reader::new(&bytes));
            let _ = CheckpointPreimage::decode(&mut Reader::new(&bytes));
        }
    }

    #[test]
    fn preimage_round_trip_and_every_field_counts() {
        let original = preimage();
        let bytes = original.to_bytes();
        assert_eq!(CheckpointPreimage::decode(&mut Reader::new(&bytes)), Ok(original));
        let others = [
            CheckpointPreimage { chain: 0, ..original },
            CheckpointPreimage { epoch: 0, ..original },
            CheckpointPreimage { table: 0, ..original },
            CheckpointPreimage { height: 0, ..original },
            CheckpointPreimage { block: Hash::ZERO, ..original },
            CheckpointPreimage { accounts: 0, ..original },
            CheckpointPreimage { accounts_root: Hash::ZERO, ..original },
            CheckpointPreimage { meta: Hash::ZERO, ..original },
            CheckpointPreimage { outbox: Hash::ZERO, ..original },
        ];
        for other in others {
            assert_ne!(other.digest(), original.digest(), "{other:?}");
        }
        for at in [0, 1, 167] {
            let mut odd = bytes;
            odd[at] ^= 2;
            assert!(CheckpointPreimage::decode(&mut Reader::new(&odd)).is_err());
        }
    }

    #[test]
    fn a_leaf_is_its_bytes() {
        let leaf = leaf(9);
        assert_eq!(AccountLeaf::decode(&mut Reader::new(&leaf.to_bytes())), Ok(leaf));
        assert_eq!(leaf.to_hashed_bytes()[LEAF_SIZE..], [0; HASHED_LEAF_SIZE - LEAF_SIZE]);
    }
}
