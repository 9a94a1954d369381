//! Domain-separated blake3.
//!
//! Each kind of record is hashed in blake3's keyed mode under a key that is that kind's name. Keyed mode costs nothing
//! over plain mode, and two kinds of record can never be confused, whatever their bytes.

use std::fmt;

use rkyv::{Portable, bytecheck::CheckBytes};

/// A 32-byte blake3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(transparent)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// All zero: the parent of a chain's first element, the root of an empty tree.
    pub const ZERO: Hash = Hash([0; 32]);

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Hash> {
        blake3::Hash::from_hex(text).ok().map(|hash| Hash(*hash.as_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex()[..12])
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Self {
        Hash(bytes)
    }
}

/// What a hash is taken of. The variant's name, padded with zeros, is the blake3 key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Domain([u8; 32]);

impl Domain {
    /// A signed transaction record, without its signature. The result is the transaction's id.
    pub const TRANSACTION: Domain = Domain::new("TOP/transaction/v1");
    /// A leaf of a block's transactions root: transaction id and signature.
    pub const TRANSACTION_LEAF: Domain = Domain::new("TOP/transaction-leaf/v1");
    /// A unit of an account chain.
    pub const UNIT: Domain = Domain::new("TOP/unit/v1");
    /// The header of a table block.
    pub const BLOCK: Domain = Domain::new("TOP/block/v1");
    /// The inbox references of a table block.
    pub const INBOX: Domain = Domain::new("TOP/inbox/v1");
    /// A receipt from one table to another.
    pub const RECEIPT: Domain = Domain::new("TOP/receipt/v1");
    /// A vote, as leaf of its bundle's Merkle tree.
    pub const VOTE: Domain = Domain::new("TOP/vote/v1");
    /// The header and root of a vote bundle: what a validator signs when it votes.
    pub const BUNDLE: Domain = Domain::new("TOP/bundle/v1");
    /// The ring that checkers follow one another on: a round, and a validator.
    pub const CHECKERS: Domain = Domain::new("TOP/checkers/v1");
    /// A view-change message.
    pub const VIEW_CHANGE: Domain = Domain::new("TOP/view-change/v1");
    /// What a checkpoint vote agrees on: the state of a table at a height.
    pub const CHECKPOINT: Domain = Domain::new("TOP/checkpoint/v1");
    /// An account leaf of the state tree.
    pub const ACCOUNT: Domain = Domain::new("TOP/account/v1");
    /// An inner node of any Merkle tree.
    pub const NODE: Domain = Domain::new("TOP/node/v1");
    /// A genesis.
    pub const GENESIS: Domain = Domain::new("TOP/genesis/v1");
    /// The place of an address among the tables.
    pub const ADDRESS: Domain = Domain::new("TOP/address/v1");

    const fn new(name: &str) -> Domain {
        let name = name.as_bytes();
        assert!(name.len() <= 32);
        let mut key = [0; 32];
        let mut i = 0;
        while i < name.len() {
            key[i] = name[i];
            i += 1;
        }
        Domain(key)
    }

    /// The blake3 key: the name, padded with zeros.
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes one byte string.
    pub fn hash(&self, bytes: &[u8]) -> Hash {
        Hash(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }

    /// Hashes the concatenation of several byte strings.
    pub fn hash_parts(&self, parts: &[&[u8]]) -> Hash {
        let mut hasher = self.hasher();
        for part in parts {
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// A hasher for streaming input.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_separate() {
        assert_ne!(Domain::VOTE.hash(b"x"), Domain::UNIT.hash(b"x"));
        assert_eq!(Domain::VOTE.hash(b"xy"), Domain::VOTE.hash_parts(&[b"x", b"y"]));
    }

    #[test]
    fn hex_round_trip() {
        let hash = Domain::UNIT.hash(b"abc");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_hex("12"), None);
    }
}
