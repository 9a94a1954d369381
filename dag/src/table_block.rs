//! Table blocks: the links of a table's own chain, layer 2 of the lattice. They order transactions and confirm units.
//!
//! ```text
//! header (184)                                   body
//!   0  version 1 (1), reserved 0 (1), table (2)    inbox references, 42 bytes each:
//!   4  epoch (4)                                     table (2), height (8), block hash (32)
//!   8  chain (8)                                   transactions, one behind the other;
//!  16  height (8)                                    each says its own length
//!  24  view (8): the one it was first proposed in
//!  32  time (8): µs since 1970, never before the parent's
//!  40  proposer (2), inbox references (2), transactions (4)
//!  48  parent (32)
//!  80  transactions root (32)
//! 112  inbox root (32)
//! 144  last stable checkpoint known to the proposer: height (8), digest (32)
//! ```
//!
//! The block's hash is that of the header; the roots fix the body. An inbox reference to block h of table t says: apply
//! all that the chain of t up to h has for this table and that is not applied yet.

use std::sync::Arc;

use bytes::Bytes;
use rkyv::{
    Portable,
    bytecheck::CheckBytes,
    rancor,
    rend::unaligned::{u16_ule, u32_ule, u64_ule},
};

use crate::{
    ChainId, Epoch, Hash, Height, ReplicaId, TableId, Transaction, View,
    hash::Domain,
    merkle,
    transaction::{self, FormatError},
    wire::{Put, Reader, WireError},
};

/// Bytes of the header.
pub const HEADER_SIZE: usize = 184;
/// Bytes of an inbox reference.
pub const INBOX_REF_SIZE: usize = 42;
/// Most bytes of a block.
pub const MAX_BLOCK_SIZE: usize = 256 * 1024;
/// Most transactions of a block.
pub const MAX_TRANSACTIONS: usize = 1024;
/// Most inbox references of a block: one for each other table of the largest shard.
pub const MAX_INBOX_REFS: usize = 1023;

/// The fixed first part of a block. By default all of it is zero, which no block's is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// The network.
    pub chain: ChainId,
    /// The epoch of the committee that agrees on it.
    pub epoch: Epoch,
    /// The table.
    pub table: TableId,
    /// Position in the table's chain, from 1.
    pub height: Height,
    /// The view that it was first proposed in; a later view may propose it again unchanged.
    pub view: View,
    /// µs since 1970 by the proposer's clock, never before the parent's.
    pub time: u64,
    /// Who built it.
    pub proposer: ReplicaId,
    /// Hash of the block before; of the table's genesis at height 1.
    pub parent: Hash,
    /// Merkle root over [`transaction::leaf`] of each transaction.
    pub transactions_root: Hash,
    /// Hash of the encoded inbox references; zero where there are none.
    pub inbox_root: Hash,
    /// Height of the newest stable checkpoint that the proposer held.
    pub checkpoint_height: Height,
    /// That checkpoint's digest.
    pub checkpoint: Hash,
}

#[derive(Clone, Copy, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct HeaderRecord {
    version: u8,
    reserved: u8,
    table: u16_ule,
    epoch: u32_ule,
    chain: u64_ule,
    height: u64_ule,
    view: u64_ule,
    time: u64_ule,
    proposer: u16_ule,
    inbox_refs: u16_ule,
    transactions: u32_ule,
    parent: Hash,
    transactions_root: Hash,
    inbox_root: Hash,
    checkpoint_height: u64_ule,
    checkpoint: Hash,
}

const _: () = assert!(size_of::<HeaderRecord>() == HEADER_SIZE && align_of::<HeaderRecord>() == 1);

impl BlockHeader {
    fn to_bytes(&self, inbox_refs: u16, transactions: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SIZE);
        out.put_u8(1);
        out.put_u8(0);
        out.put_u16(self.table);
        out.put_u32(self.epoch);
        out.put_u64(self.chain);
        out.put_u64(self.height);
        out.put_u64(self.view);
        out.put_u64(self.time);
        out.put_u16(self.proposer);
        out.put_u16(inbox_refs);
        out.put_u32(transactions);
        out.put(&self.parent.0);
        out.put(&self.transactions_root.0);
        out.put(&self.inbox_root.0);
        out.put_u64(self.checkpoint_height);
        out.put(&self.checkpoint.0);
        out
    }
}

/// «All that table `table` has for this one, up to its block `height`.»
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InboxRef {
    /// The table that it comes from.
    pub table: TableId,
    /// Height of the block there.
    pub height: Height,
    /// Hash of the block there.
    pub hash: Hash,
}

/// Why bytes are no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// A fixed field.
    #[error("malformed block: {0}")]
    Wire(#[from] WireError),
    /// A transaction of the body.
    #[error("malformed transaction {0} of the block: {1}")]
    Transaction(usize, FormatError),
    /// The body is not the one that the header's roots fix.
    #[error("the block's body does not match its header")]
    Root,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u32,
    size: u16,
    id: Hash,
}

/// A block over the bytes that were received or built. Its format and roots are checked; signatures are not. Clones share it.
#[derive(Clone)]
pub struct Block(Arc<Content>);

#[derive(Clone)]
struct Content {
    bytes: Bytes,
    header: BlockHeader,
    hash: Hash,
    inbox: Vec<InboxRef>,
    entries: Vec<Entry>,
}

impl Block {
    /// Reads a block that fills `bytes`, and checks its body against the header's roots.
    pub fn parse(bytes: Bytes) -> Result<Block, BlockError> {
        if bytes.len() > MAX_BLOCK_SIZE {
            return Err(WireError::Field("block size").into());
        }
        let fixed = bytes.get(..HEADER_SIZE).ok_or(WireError::Truncated)?;
        let record =
            rkyv::access::<HeaderRecord, rancor::Failure>(fixed).map_err(|_| WireError::Truncated)?;
        if (record.version, record.reserved) != (1, 0) {
            return Err(WireError::Field("block version").into());
        }
        let header = BlockHeader {
            chain: record.chain.to_native(),
            epoch: record.epoch.to_native(),
            table: record.table.to_native(),
            height: record.height.to_native(),
            view: record.view.to_native(),
            time: record.time.to_native(),
            proposer: record.proposer.to_native(),
            parent: record.parent,
            transactions_root: record.transactions_root,
            inbox_root: record.inbox_root,
            checkpoint_height: record.checkpoint_height.to_native(),
            checkpoint: record.checkpoint,
        };
        if header.height == 0 {
            return Err(WireError::Field("block height").into());
        }
        let hash = Domain::BLOCK.hash(fixed);
        let refs = usize::from(record.inbox_refs.to_native());
        let count = record.transactions.to_native() as usize;
        let inbox = Self::parse_inbox(&bytes, &header, refs)?;
        let entries = Self::parse_transactions(&bytes, &header, HEADER_SIZE + refs * INBOX_REF_SIZE, count)?;
        Ok(Block(Arc::new(Content { bytes, header, hash, inbox, entries })))
    }

    fn parse_inbox(bytes: &Bytes, header: &BlockHeader, count: usize) -> Result<Vec<InboxRef>, BlockError> {
        if count > MAX_INBOX_REFS {
            return Err(WireError::Field("inbox references").into());
        }
        let end = HEADER_SIZE + count * INBOX_REF_SIZE;
        let encoded = bytes.get(HEADER_SIZE..end).ok_or(WireError::Truncated)?;
        if inbox_root(encoded) != header.inbox_root {
            return Err(BlockError::Root);
        }
        let mut reader = Reader::new(encoded);
        let mut inbox: Vec<InboxRef> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = InboxRef { table: reader.u16()?, height: reader.u64()?, hash: reader.hash()? };
            let ascends = inbox.last().is_none_or(|last| last.table < entry.table);
            if !ascends || entry.table == header.table || entry.height == 0 {
                return Err(WireError::Field("inbox reference").into());
            }
            inbox.push(entry);
        }
        Ok(inbox)
    }

    fn parse_transactions(
        bytes: &Bytes,
        header: &BlockHeader,
        start: usize,
        count: usize,
    ) -> Result<Vec<Entry>, BlockError> {
        if count > MAX_TRANSACTIONS {
            return Err(WireError::Field("transactions").into());
        }
        let mut entries = Vec::with_capacity(count);
        let mut leaves = Vec::with_capacity(count);
        let mut rest = &bytes[start..];
        for index in 0..count {
            let offset = u32::try_from(bytes.len() - rest.len()).expect("below MAX_BLOCK_SIZE");
            let (transaction, tail) =
                Transaction::parse_prefix(rest).map_err(|error| BlockError::Transaction(index, error))?;
            rest = tail;
            let id = transaction.id();
            leaves.push(transaction::leaf(&id, transaction.signature()));
            let size = u16::try_from(transaction.bytes().len()).expect("at most transaction::MAX_SIZE");
            entries.push(Entry { offset, size, id });
        }
        if !rest.is_empty() {
            return Err(WireError::Trailing.into());
        }
        if merkle::root_in_place(&mut leaves) != header.transactions_root {
            return Err(BlockError::Root);
        }
        Ok(entries)
    }

    /// The whole block as received.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The same block in memory of its own. The bytes that one was read from may be a small part of a buffer, which stays as
    /// long as they do: who keeps a block for long keeps this.
    #[must_use]
    pub fn detached(&self) -> Block {
        Block(Arc::new(Content { bytes: Bytes::copy_from_slice(&self.0.bytes), ..Content::clone(&self.0) }))
    }

    /// The fixed first part.
    pub fn header(&self) -> &BlockHeader {
        &self.0.header
    }

    /// The block's name.
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// Position in the table's chain.
    pub fn height(&self) -> Height {
        self.0.header.height
    }

    /// The receipts that it applies, by ascending table.
    pub fn inbox(&self) -> &[InboxRef] {
        &self.0.inbox
    }

    /// Number of transactions.
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether it has no transactions.
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }

    /// Transaction `index`, in place.
    pub fn transaction(&self, index: usize) -> Transaction<'_> {
        let entry = &self.0.entries[index];
        let start = entry.offset as usize;
        let bytes = &self.0.bytes[start..start + usize::from(entry.size)];
        Transaction::parse(bytes).expect("checked when the block was read")
    }

    /// The bytes of transaction `index`, shared with the block.
    pub fn transaction_bytes(&self, index: usize) -> Bytes {
        let entry = &self.0.entries[index];
        let start = entry.offset as usize;
        self.0.bytes.slice(start..start + usize::from(entry.size))
    }

    /// Id of transaction `index`.
    pub fn id(&self, index: usize) -> Hash {
        self.0.entries[index].id
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (table, height) = (self.0.header.table, self.0.header.height);
        write!(f, "Block({table}/{height} {:?}, {} transactions)", self.0.hash, self.0.entries.len())
    }
}

fn inbox_root(encoded: &[u8]) -> Hash {
    if encoded.is_empty() { Hash::ZERO } else { Domain::INBOX.hash(encoded) }
}

/// Collects a block's body, then seals it under a header.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    inbox: Vec<InboxRef>,
    transactions: Vec<u8>,
    entries: Vec<Entry>,
    leaves: Vec<Hash>,
}

impl BlockBuilder {
    /// An empty body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an inbox reference.
    ///
    /// # Panics
    /// Where tables do not ascend, or there are [`MAX_INBOX_REFS`] already.
    pub fn push_inbox(&mut self, reference: InboxRef) {
        assert!(self.inbox.last().is_none_or(|last| last.table < reference.table), "tables ascend");
        assert!(self.inbox.len() < MAX_INBOX_REFS && reference.height > 0);
        self.inbox.push(reference);
    }

    /// Adds a transaction with its known id; `false`, and nothing done, where the block would grow too large.
    pub fn push(&mut self, id: Hash, transaction: &Transaction<'_>) -> bool {
        let bytes = transaction.bytes();
        if self.entries.len() == MAX_TRANSACTIONS || self.size() + bytes.len() > MAX_BLOCK_SIZE {
            return false;
        }
        debug_assert_eq!(id, transaction.id());
        let offset = u32::try_from(self.transactions.len()).expect("below MAX_BLOCK_SIZE");
        let size = u16::try_from(bytes.len()).expect("at most transaction::MAX_SIZE");
        self.entries.push(Entry { offset, size, id });
        self.leaves.push(transaction::leaf(&id, transaction.signature()));
        self.transactions.extend_from_slice(bytes);
        true
    }

    /// Number of transactions so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is neither a transaction nor an inbox reference.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.inbox.is_empty()
    }

    /// Bytes of the block so far.
    pub fn size(&self) -> usize {
        HEADER_SIZE + self.inbox.len() * INBOX_REF_SIZE + self.transactions.len()
    }

    /// Seals the body. The header's roots are filled in.
    ///
    /// # Panics
    /// Where the header's height is zero, or a reference is to its own table.
    pub fn seal(mut self, mut header: BlockHeader) -> Block {
        assert!(header.height > 0, "height 0 is the genesis");
        assert!(self.inbox.iter().all(|reference| reference.table != header.table));
        let mut encoded = Vec::with_capacity(self.inbox.len() * INBOX_REF_SIZE);
        for reference in &self.inbox {
            encoded.put_u16(reference.table);
            encoded.put_u64(reference.height);
            encoded.put(&reference.hash.0);
        }
        header.inbox_root = inbox_root(&encoded);
        header.transactions_root = merkle::root_in_place(&mut self.leaves);
        let refs = u16::try_from(self.inbox.len()).expect("at most MAX_INBOX_REFS");
        let count = u32::try_from(self.entries.len()).expect("at most MAX_TRANSACTIONS");
        let mut bytes = header.to_bytes(refs, count);
        let hash = Domain::BLOCK.hash(&bytes);
        bytes.extend_from_slice(&encoded);
        let start = u32::try_from(bytes.len()).expect("below MAX_BLOCK_SIZE");
        bytes.extend_from_slice(&self.transactions);
        for entry in &mut self.entries {
            entry.offset += start;
        }
        let (bytes, inbox, entries) = (bytes.into(), self.inbox, self.entries);
        Block(Arc::new(Content { bytes, header, hash, inbox, entries }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Address,
        keys::KeyPair,
        transaction::{Payee, Terms},
    };

    fn header() -> BlockHeader {
        BlockHeader {
            chain: 1,
            epoch: 2,
            table: 3,
            height: 4,
            view: 5,
            time: 6,
            proposer: 7,
            parent: Hash([8; 32]),
            transactions_root: Hash::ZERO,
            inbox_root: Hash::ZERO,
            checkpoint_height: 9,
            checkpoint: Hash([10; 32]),
        }
    }

    fn block(transactions: u64, refs: u16) -> Block {
        let key = KeyPair::from_seed(&[1; 32]);
        let mut builder = BlockBuilder::new();
        for table in 0..refs {
            builder.push_inbox(InboxRef { table: table + 4, height: 5, hash: Hash([6; 32]) });
        }
        for sequence in 1..=transactions {
            let terms = Terms { chain: 1, epoch: 2, sequence, fee: 0 };
            let payees = [Payee { to: Address([2; 32]), amount: 1 }];
            let bytes = transaction::sign(&key, &terms, &payees).unwrap();
            let transaction = Transaction::parse(&bytes).unwrap();
            assert!(builder.push(transaction.id(), &transaction));
        }
        builder.seal(header())
    }

    #[test]
    fn what_is_built_is_what_is_read() {
        for (transactions, refs) in [(0, 0), (1, 0), (0, 3), (5, 2)] {
            let built = block(transactions, refs);
            let read = Block::parse(built.bytes().clone()).unwrap();
            assert_eq!(read.header(), built.header());
            assert_eq!((read.hash(), read.inbox()), (built.hash(), built.inbox()));
            assert_eq!(read.len() as u64, transactions);
            for i in 0..read.len() {
                assert_eq!(read.id(i), built.transaction(i).id());
                assert_eq!(read.transaction_bytes(i), built.transaction_bytes(i));
            }
        }
    }

    #[test]
    fn a_detached_block_lets_the_buffer_go_that_it_came_in() {
        let built = block(5, 2);
        let mut buffer = vec![0; 4096];
        buffer[100..][..built.bytes().len()].copy_from_slice(built.bytes());
        let buffer = Bytes::from(buffer);
        let read = Block::parse(buffer.slice(100..100 + built.bytes().len())).unwrap();
        let detached = read.detached();
        drop(read);
        assert!(buffer.is_unique());
        assert_eq!(
            (detached.bytes(), detached.header(), detached.hash()),
            (built.bytes(), built.header(), built.hash())
        );
        assert_eq!((detached.inbox(), detached.len(), detached.id(4)), (built.inbox(), 5, built.id(4)));
    }

    proptest! {
        #[test]
        fn a_changed_byte_changes_the_hash_or_is_refused(at in 0usize..700, bit in 0..8u8) {
            let original = block(3, 1);
            let mut bytes = original.bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = Block::parse(bytes.into()) {
                prop_assert_ne!(changed.hash(), original.hash());
            }
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Block::parse(bytes.into());
        }
    }

    #[test]
    fn a_full_block_takes_no_more() {
        let key = KeyPair::from_seed(&[1; 32]);
        let payees = [Payee { to: Address([2; 32]), amount: 1 }];
        let bytes =
            transaction::sign(&key, &Terms { chain: 1, epoch: 2, sequence: 1, fee: 0 }, &payees).unwrap();
        let transaction = Transaction::parse(&bytes).unwrap();
        let mut builder = BlockBuilder::new();
        while builder.push(transaction.id(), &transaction) {}
        assert_eq!(builder.len(), MAX_TRANSACTIONS);
        assert!(Block::parse(builder.seal(header()).bytes().clone()).is_ok());
    }
}
