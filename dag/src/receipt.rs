//! Receipts: what a transfer to another table leaves behind for that table.
//!
//! Receipts from table A to table B are numbered 1, 2, 3, …; B applies exactly the next one, so each is applied exactly
//! once however often it is delivered.

use crate::{
    Address, Hash, Height, TableId,
    hash::Domain,
    wire::{Put, Reader, WireError},
};

/// Bytes of an encoded receipt.
pub const RECEIPT_SIZE: usize = 92;
/// Bytes of a receipt as hashed: its encoding, and zeros up to two blocks of the hash function. So many receipts can be
/// hashed side by side.
pub const HASHED_RECEIPT_SIZE: usize = 128;

/// A credit that has left table `from` and is owed to an account of table `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The table that debited.
    pub from: TableId,
    /// The table that is to credit.
    pub to: TableId,
    /// Position among the receipts of this ordered pair of tables, from 1.
    pub number: u64,
    /// Height of the block of `from` that debited.
    pub height: Height,
    /// The account to credit.
    pub payee: Address,
    /// Micro-TOP.
    pub amount: u64,
    /// The transaction that paid.
    pub transaction: Hash,
}

impl Receipt {
    /// Appends the fixed layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.to_hashed_bytes()[..RECEIPT_SIZE]);
    }

    /// Reads one receipt.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Receipt, WireError> {
        let receipt = Receipt {
            from: reader.u16()?,
            to: reader.u16()?,
            number: reader.u64()?,
            height: reader.u64()?,
            payee: reader.address()?,
            amount: reader.u64()?,
            transaction: reader.hash()?,
        };
        match receipt {
            Receipt { amount: 0, .. } => Err(WireError::Field("amount")),
            Receipt { number: 0, .. } => Err(WireError::Field("number")),
            Receipt { from, to, .. } if from == to => Err(WireError::Field("to")),
            receipt => Ok(receipt),
        }
    }

    /// The bytes that are hashed.
    pub fn to_hashed_bytes(&self) -> [u8; HASHED_RECEIPT_SIZE] {
        let mut bytes = [0; HASHED_RECEIPT_SIZE];
        bytes[..2].copy_from_slice(&self.from.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.to.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.height.to_le_bytes());
        bytes[20..52].copy_from_slice(self.payee.as_bytes());
        bytes[52..60].copy_from_slice(&self.amount.to_le_bytes());
        bytes[60..RECEIPT_SIZE].copy_from_slice(&self.transaction.0);
        bytes
    }

    /// The receipt's hash.
    pub fn hash(&self) -> Hash {
        Domain::RECEIPT.hash(&self.to_hashed_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(from: u16, to: u16, number in 1u64.., height: u64, payee: [u8; 32], amount in 1u64.., id: [u8; 32]) {
            prop_assume!(from != to);
            let receipt = Receipt { from, to, number, height, payee: Address(payee), amount, transaction: Hash(id) };
            let mut bytes = Vec::new();
            receipt.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), RECEIPT_SIZE);
            prop_assert_eq!(Receipt::decode(&mut Reader::new(&bytes)), Ok(receipt));
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Receipt::decode(&mut Reader::new(&bytes));
        }
    }
}
