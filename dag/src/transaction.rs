//! Transactions: what an account's owner signs.
//!
//! ```text
//! offset  size  field
//!      0     1  version      1
//!      1     1  kind         1 transfer, 2 multi-transfer
//!      2     1  payees       n: 1 for a transfer, 2 to 255 for a multi-transfer
//!      3     1  reserved     0
//!      4     4  epoch        the epoch that it was signed in; valid in that one and the next
//!      8     8  chain        the network it belongs to
//!     16     8  sequence     the sender's last sequence + 1
//!     24     8  fee          micro-TOP, offered to the network
//!     32    32  sender       Ed25519 public key
//!     64  40·n  payees       each: to (32), amount in micro-TOP (8)
//!   64+40n  64  signature    over the domain-separated blake3 of all the bytes before it
//! ```
//!
//! A record says its own length, holds no padding, and has one byte string per meaning: a multi-transfer to one payee
//! would be a transfer, so it is refused.

use rkyv::{
    Portable,
    bytecheck::CheckBytes,
    rancor,
    rend::unaligned::{u32_ule, u64_ule},
};

use crate::{
    Address, ChainId, Epoch, Hash,
    hash::Domain,
    keys::{KeyPair, Signature},
};

/// Bytes before the payees.
pub const HEADER_SIZE: usize = 64;
/// Bytes of one payee.
pub const PAYEE_SIZE: usize = 40;
/// Bytes of the signature.
pub const SIGNATURE_SIZE: usize = 64;
/// Most payees of a multi-transfer.
pub const MAX_PAYEES: usize = 255;
/// Bytes of a transfer.
pub const TRANSFER_SIZE: usize = size(1);
/// Bytes of the largest transaction.
pub const MAX_SIZE: usize = size(MAX_PAYEES);

/// Bytes of a transaction with so many payees.
pub const fn size(payees: usize) -> usize {
    HEADER_SIZE + payees * PAYEE_SIZE + SIGNATURE_SIZE
}

/// The fixed first part.
#[derive(Clone, Copy, Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct Header {
    version: u8,
    kind: u8,
    payees: u8,
    reserved: u8,
    epoch: u32_ule,
    chain: u64_ule,
    sequence: u64_ule,
    fee: u64_ule,
    sender: Address,
}

/// One payee.
#[derive(Clone, Copy, Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct PayeeRecord {
    to: Address,
    amount: u64_ule,
}

const _: () = assert!(size_of::<Header>() == HEADER_SIZE && align_of::<Header>() == 1);
const _: () = assert!(size_of::<PayeeRecord>() == PAYEE_SIZE && align_of::<PayeeRecord>() == 1);
const _: () = assert!(TRANSFER_SIZE <= 192);
const _: () = assert!(MAX_SIZE == 10_328);

/// Where the money of a transaction goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payee {
    /// The account that receives.
    pub to: Address,
    /// Micro-TOP; never zero.
    pub amount: u64,
}

/// What a transaction does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// One sender, one payee.
    Transfer = 1,
    /// One sender and signature, 2 to 255 payees; all are paid or none.
    MultiTransfer = 2,
}

/// Why bytes are not a transaction, whoever reads them and whenever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than the payee count asks for, or more.
    #[error("wrong length: a record of n payees has 128 + 40·n bytes")]
    Length,
    /// More than [`MAX_SIZE`].
    #[error("oversize record: at most {MAX_SIZE} bytes")]
    Oversize,
    /// Unknown version.
    #[error("unknown version: this network speaks version 1")]
    Version,
    /// Unknown kind.
    #[error("unknown kind of transaction")]
    Kind,
    /// A second byte string for the same meaning.
    #[error("non-canonical encoding: reserved byte set, or a payee count that the kind does not allow")]
    NonCanonical,
    /// Amount zero.
    #[error("zero amount")]
    ZeroAmount,
    /// The sender among the payees.
    #[error("self-transfer: the sender is a payee")]
    SelfTransfer,
    /// Amounts and fee add up to more than a u64 holds.
    #[error("overflow: amounts and fee add up to more than 2⁶⁴ − 1")]
    Overflow,
}

/// A transaction in place, over the bytes that were received. Its format is checked; its signature is not.
#[derive(Clone, Copy)]
pub struct Transaction<'a> {
    bytes: &'a [u8],
    header: &'a Header,
    total: u64,
}

fn layout<T>(bytes: &[u8]) -> Option<&T>
where
    T: Portable + for<'c> CheckBytes<rkyv::api::high::HighValidator<'c, rancor::Failure>>,
{
    debug_assert_eq!(bytes.len(), size_of::<T>());
    rkyv::access::<T, rancor::Failure>(bytes).ok()
}

impl<'a> Transaction<'a> {
    /// Checks a record that fills `bytes` exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (transaction, rest) = Self::parse_prefix(bytes)?;
        if rest.is_empty() { Ok(transaction) } else { Err(FormatError::Length) }
    }

    /// Checks the record at the start of `bytes`, and returns it with what follows.
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FormatError> {
        let header = bytes.get(..HEADER_SIZE).and_then(layout::<Header>).ok_or(FormatError::Length)?;
        if header.version != 1 {
            return Err(FormatError::Version);
        }
        let canonical = match header.kind {
            1 => header.payees == 1,
            2 => header.payees >= 2,
            _ => return Err(FormatError::Kind),
        };
        if !canonical || header.reserved != 0 {
            return Err(FormatError::NonCanonical);
        }
        let size = size(usize::from(header.payees));
        let (bytes, rest) = bytes.split_at_checked(size).ok_or(FormatError::Length)?;
        let mut transaction = Transaction { bytes, header, total: header.fee.to_native() };
        for payee in transaction.payees() {
            if payee.amount == 0 {
                return Err(FormatError::ZeroAmount);
            }
            if payee.to == header.sender {
                return Err(FormatError::SelfTransfer);
            }
            transaction.total = transaction.total.checked_add(payee.amount).ok_or(FormatError::Overflow)?;
        }
        Ok((transaction, rest))
    }

    /// The record, as received.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What it does.
    pub fn kind(&self) -> Kind {
        if self.header.kind == Kind::Transfer as u8 { Kind::Transfer } else { Kind::MultiTransfer }
    }

    /// The epoch that it was signed in.
    pub fn epoch(&self) -> Epoch {
        self.header.epoch.to_native()
    }

    /// The network that it belongs to.
    pub fn chain(&self) -> ChainId {
        self.header.chain.to_native()
    }

    /// The sender's sequence number: its last one plus one.
    pub fn sequence(&self) -> u64 {
        self.header.sequence.to_native()
    }

    /// Micro-TOP offered to the network.
    pub fn fee(&self) -> u64 {
        self.header.fee.to_native()
    }

    /// Amounts and fee: what leaves the sender's account.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The account that pays.
    pub fn sender(&self) -> &'a Address {
        &self.header.sender
    }

    /// How many payees there are.
    pub fn payee_count(&self) -> usize {
        usize::from(self.header.payees)
    }

    /// The payees, in order.
    pub fn payees(&self) -> impl ExactSizeIterator<Item = Payee> + use<'a> {
        let payees = &self.bytes[HEADER_SIZE..self.bytes.len() - SIGNATURE_SIZE];
        payees.chunks_exact(PAYEE_SIZE).map(|bytes| {
            let record = layout::<PayeeRecord>(bytes).expect("any 40 bytes are a payee");
            Payee { to: record.to, amount: record.amount.to_native() }
        })
    }

    /// The signature over [`id`](Self::id).
    pub fn signature(&self) -> &'a Signature {
        self.bytes.last_chunk().expect("a record is longer than its signature")
    }

    /// What is signed, and the transaction's name: the domain-separated hash of all but the signature.
    pub fn id(&self) -> Hash {
        Domain::TRANSACTION.hash(&self.bytes[..self.bytes.len() - SIGNATURE_SIZE])
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transaction({:?} #{} of {})", self.id(), self.sequence(), self.sender())
    }
}

/// Leaf of a block's transactions root: it fixes the signature's bytes too, so that a certified block needs no second check.
pub fn leaf(id: &Hash, signature: &Signature) -> Hash {
    let mut bytes = [0; 96];
    bytes[..32].copy_from_slice(&id.0);
    bytes[32..].copy_from_slice(signature);
    Domain::TRANSACTION_LEAF.hash(&bytes)
}

/// What a sender says besides the payees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The network.
    pub chain: ChainId,
    /// The current epoch.
    pub epoch: Epoch,
    /// The sender's last sequence plus one.
    pub sequence: u64,
    /// Micro-TOP offered to the network.
    pub fee: u64,
}

/// Builds and signs a transaction: a transfer for one payee, a multi-transfer for more. The only refusals are those that
/// every reader would give too.
pub fn sign(key: &KeyPair, terms: &Terms, payees: &[Payee]) -> Result<Vec<u8>, FormatError> {
    let count = u8::try_from(payees.len()).map_err(|_| FormatError::NonCanonical)?;
    let kind = if count == 1 { Kind::Transfer } else { Kind::MultiTransfer };
    let mut bytes = Vec::with_capacity(size(payees.len()));
    bytes.extend_from_slice(&[1, kind as u8, count, 0]);
    bytes.extend_from_slice(&terms.epoch.to_le_bytes());
    bytes.extend_from_slice(&terms.chain.to_le_bytes());
    bytes.extend_from_slice(&terms.sequence.to_le_bytes());
    bytes.extend_from_slice(&terms.fee.to_le_bytes());
    bytes.extend_from_slice(key.address().as_bytes());
    for payee in payees {
        bytes.extend_from_slice(payee.to.as_bytes());
        bytes.extend_from_slice(&payee.amount.to_le_bytes());
    }
    let signature = key.sign(&Domain::TRANSACTION.hash(&bytes));
    bytes.extend_from_slice(&signature);
    Transaction::parse(&bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> KeyPair {
        KeyPair::from_seed(&[7; 32])
    }

    fn terms() -> Terms {
        Terms { chain: 0x0102_0304_0506_0708, epoch: 3, sequence: 9, fee: 11 }
    }

    fn transfer() -> Vec<u8> {
        sign(&key(), &terms(), &[Payee { to: Address([1; 32]), amount: 5 }]).unwrap()
    }

    proptest! {
        #[test]
        fn round_trip(amounts in prop::collection::vec(1..u64::MAX / 300, 1..=255), fee in 0..1000u64, sequence: u64) {
            let payees: Vec<Payee> = amounts.iter().enumerate()
                .map(|(i, &amount)| Payee { to: Address(Domain::UNIT.hash(&i.to_le_bytes()).0), amount })
                .collect();
            let terms = Terms { fee, sequence, ..terms() };
            let bytes = sign(&key(), &terms, &payees).unwrap();
            prop_assert_eq!(bytes.len(), size(payees.len()));
            let transaction = Transaction::parse(&bytes).unwrap();
            prop_assert_eq!(transaction.payees().collect::<Vec<_>>(), payees);
            prop_assert_eq!(transaction.total(), amounts.iter().sum::<u64>() + fee);
            prop_assert_eq!((transaction.sequence(), transaction.epoch()), (sequence, 3));
            prop_assert_eq!(transaction.sender(), &key().address());
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Transaction::parse(&bytes);
        }

        #[test]
        fn a_changed_byte_is_refused_or_changes_the_meaning(at in 0..TRANSFER_SIZE, bit in 0..8u8) {
            let original = transfer();
            let mut bytes = original.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = Transaction::parse(&bytes) {
                let original = Transaction::parse(&original).unwrap();
                prop_assert!(changed.id() != original.id() || changed.signature() != original.signature());
            }
        }
    }

    #[test]
    fn each_refusal_names_its_cause() {
        let edit = |at: usize, value: u8| {
            let mut bytes = transfer();
            bytes[at] = value;
            Transaction::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(edit(0, 2), FormatError::Version);
        assert_eq!(edit(1, 9), FormatError::Kind);
        assert_eq!(edit(1, 2), FormatError::NonCanonical);
        assert_eq!(edit(2, 2), FormatError::NonCanonical);
        assert_eq!(edit(3, 1), FormatError::NonCanonical);
        assert_eq!(edit(96, 0), FormatError::ZeroAmount);
        assert_eq!(Transaction::parse(&transfer()[..100]).unwrap_err(), FormatError::Length);
        let mut long = transfer();
        long.push(0);
        assert_eq!(Transaction::parse(&long).unwrap_err(), FormatError::Length);
        let me = key().address();
        let pay = |to, amount| sign(&key(), &terms(), &[Payee { to, amount }]).unwrap_err();
        assert_eq!(pay(me, 1), FormatError::SelfTransfer);
        assert_eq!(pay(Address([1; 32]), u64::MAX), FormatError::Overflow);
        assert_eq!(sign(&key(), &terms(), &[]).unwrap_err(), FormatError::NonCanonical);
    }
}
