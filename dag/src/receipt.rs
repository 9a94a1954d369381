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
        out.put_u16(self.from);
        out.put_u16(self.to);
        out.put_u64(self.number);
        out.put_u64(self.height);
        out.put(self.payee.as_bytes());
        out.put_u64(self.amount);
        out.put(&self.transaction.0);
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

    /// The receipt's hash.
    pub fn hash(&self) -> Hash {
        let mut bytes = Vec::with_capacity(RECEIPT_SIZE);
        self.encode(&mut bytes);
        Domain::RECEIPT.hash(&bytes)
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
