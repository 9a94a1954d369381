//! The bytes of the index's values: blocks with their outcome, and entries of runs.

use bytes::Bytes;
use dag::{
    Block, Certificate, Hash, Height, TableId,
    client::Code,
    wire::{Put, Reader, WireError},
};

use crate::rpc::BlockInfo;

/// Bits of an entry that name a transaction in its block.
const INDEX_BITS: u32 = 12;
/// Stands for the block itself in place of one of its transactions.
const WHOLE_BLOCK: u64 = (1 << INDEX_BITS) - 1;
/// Bytes of a value's place.
const PLACE: usize = 10;
/// Bytes of an entry.
pub(super) const ENTRY: usize = 16;

const _: () = assert!((dag::table_block::MAX_TRANSACTIONS as u64) < WHOLE_BLOCK);

/// Where a hash leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    /// The first eight bytes of the hash.
    pub fingerprint: u64,
    place: u64,
}

impl Entry {
    /// A block's.
    pub fn block(hash: &Hash, arrival: u64) -> Entry {
        Entry { fingerprint: fingerprint(hash), place: arrival << INDEX_BITS | WHOLE_BLOCK }
    }

    /// A transaction's.
    pub fn transaction(id: &Hash, arrival: u64, index: usize) -> Entry {
        Entry { fingerprint: fingerprint(id), place: arrival << INDEX_BITS | index as u64 }
    }

    /// The arrival of its block.
    pub fn arrival(self) -> u64 {
        self.place >> INDEX_BITS
    }

    /// The transaction's place in the block; none for the block itself.
    pub fn index(self) -> Option<usize> {
        let index = self.place & WHOLE_BLOCK;
        (index != WHOLE_BLOCK).then(|| usize::try_from(index).expect("twelve bits"))
    }

    /// The bucket of a run that it belongs to.
    pub fn bucket(self) -> u8 {
        bucket(self.fingerprint)
    }

    /// Appends the layout.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.put_u64(self.fingerprint);
        out.put_u64(self.place);
    }

    /// The entries of a fingerprint in a bucket.
    pub fn find(bucket: &[u8], fingerprint: u64) -> impl Iterator<Item = Entry> + '_ {
        let (entries, _) = bucket.as_chunks::<ENTRY>();
        let from = entries.partition_point(|entry| Entry::decode(entry).fingerprint < fingerprint);
        let entries = entries[from..].iter().map(Entry::decode);
        entries.take_while(move |entry| entry.fingerprint == fingerprint)
    }

    fn decode(bytes: &[u8; ENTRY]) -> Entry {
        let half = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Entry { fingerprint: half(0), place: half(8) }
    }
}

/// The first eight bytes of a hash.
pub(super) fn fingerprint(hash: &Hash) -> u64 {
    u64::from_le_bytes(hash.0[..8].try_into().expect("eight bytes"))
}

/// Where in a run a fingerprint lies.
pub(super) fn bucket(fingerprint: u64) -> u8 {
    u8::try_from(fingerprint >> 56).expect("eight bits are left")
}

/// A block's value.
pub(super) fn encode_block(info: &BlockInfo, certificate: &Certificate) -> Vec<u8> {
    let mut out = Vec::with_capacity(info.block.bytes().len() + 1024);
    out.put_u16(info.block.header().table);
    out.put_u64(info.block.height());
    out.put_u16(u16::try_from(info.failed.len()).expect("at most a block's transactions"));
    for (index, code) in &info.failed {
        out.put_u16(u16::try_from(*index).expect("at most a block's transactions"));
        out.put_u8(*code as u8);
    }
    certificate.encode(&mut out);
    out.put(info.block.bytes());
    out
}

/// The table and height that a block's value begins with.
pub(super) fn place(bytes: &[u8]) -> Result<(TableId, Height), WireError> {
    let mut reader = Reader::new(bytes);
    Ok((reader.u16()?, reader.u64()?))
}

/// Reads a block's value, and checks that the block is the one that was committed.
pub(super) fn decode_block(bytes: &[u8]) -> Result<BlockInfo, WireError> {
    let place = place(bytes)?;
    let mut reader = Reader::new(&bytes[PLACE..]);
    let failed = (0..reader.u16()?).map(|_| {
        let index = u32::from(reader.u16()?);
        Ok((index, Code::from_byte(reader.u8()?).ok_or(WireError::Field("code"))?))
    });
    let failed = failed.collect::<Result<Vec<_>, WireError>>()?;
    let certificate = Certificate::decode(&mut reader)?;
    let block = Bytes::copy_from_slice(reader.take(reader.remaining())?);
    let block = Block::parse(block).map_err(|_| WireError::Field("block"))?;
    if (block.header().table, block.height()) != place {
        return Err(WireError::Field("place"));
    }
    if block.hash() != certificate.vote.digest {
        return Err(WireError::Field("block hash"));
    }
    Ok(BlockInfo { block, certificate: Some(certificate), failed })
}
