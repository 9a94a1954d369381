//! A table's counters: where its chain stands, and how much has gone to and come from each other table.
//!
//! ```text
//! tag 2 (1), reserved 0 (1), tables (2), reserved 0 (4)
//! height (8), block hash (32), block time (8), checkpoint height (8), checkpoint time (8), fees (8)
//! for each table, its own included (all zero there):
//!   sent (8), sent amount (16), sent deliveries (8), acknowledged (8),
//!   applied (8), applied amount (16), applied deliveries (8), applied height (8)
//! ```

use dag::{
    Hash, Height, TableId,
    hash::Domain,
    wire::{Put, Reader, WireError},
};

/// First byte of the encoded counters; it keeps them apart from all else that [`Domain::CHECKPOINT`] hashes.
const TAG: u8 = 2;

/// Receipts between this table and one other. Amounts only ever grow and may pass what circulates, so they are wide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// Number of the last receipt sent there.
    pub sent: u64,
    /// Micro-TOP sent there, ever.
    pub sent_amount: u128,
    /// Number of the last delivery sent there.
    pub sent_deliveries: u64,
    /// Number of the last receipt that is known to be applied there.
    pub acknowledged: u64,
    /// Number of the last receipt from there that was applied here.
    pub applied: u64,
    /// Micro-TOP that came from there, ever.
    pub applied_amount: u128,
    /// Number of the last delivery from there that was applied here.
    pub applied_deliveries: u64,
    /// Height of that table's chain up to which all its receipts for this one are applied.
    pub applied_height: Height,
}

/// The counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Height of the last executed block.
    pub height: Height,
    /// Its hash; the genesis digest of the table at height 0.
    pub block: Hash,
    /// Its time, µs since 1970.
    pub time: u64,
    /// Height of the last block after which a checkpoint was due.
    pub checkpoint_height: Height,
    /// Time of that block.
    pub checkpoint_time: u64,
    /// Micro-TOP of fees collected.
    pub fees: u64,
    /// By table; this table's own entry stays zero.
    pub peers: Vec<Peer>,
}

impl Meta {
    /// Counters of a table whose chain begins.
    pub fn genesis(tables: u16, block: Hash, time: u64) -> Meta {
        Meta {
            height: 0,
            block,
            time,
            checkpoint_height: 0,
            checkpoint_time: time,
            fees: 0,
            peers: vec![Peer::default(); usize::from(tables)],
        }
    }

    /// The counters shared with `table`.
    ///
    /// # Panics
    /// Where there is no such table.
    pub fn peer(&self, table: TableId) -> &Peer {
        &self.peers[usize::from(table)]
    }

    pub(crate) fn peer_mut(&mut self, table: TableId) -> &mut Peer {
        &mut self.peers[usize::from(table)]
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(TAG);
        out.put_u8(0);
        out.put_u16(u16::try_from(self.peers.len()).expect("table numbers are 16 bits"));
        out.put_u32(0);
        out.put_u64(self.height);
        out.put(&self.block.0);
        for value in [self.time, self.checkpoint_height, self.checkpoint_time, self.fees] {
            out.put_u64(value);
        }
        for peer in &self.peers {
            out.put_u64(peer.sent);
            out.put(&peer.sent_amount.to_le_bytes());
            out.put_u64(peer.sent_deliveries);
            out.put_u64(peer.acknowledged);
            out.put_u64(peer.applied);
            out.put(&peer.applied_amount.to_le_bytes());
            out.put_u64(peer.applied_deliveries);
            out.put_u64(peer.applied_height);
        }
    }

    /// Reads the counters of a shard of `tables` tables.
    pub fn decode(reader: &mut Reader<'_>, tables: u16) -> Result<Meta, WireError> {
        if (reader.u8()?, reader.u8()?) != (TAG, 0) {
            return Err(WireError::Field("meta tag"));
        }
        if (reader.u16()?, reader.u32()?) != (tables, 0) {
            return Err(WireError::Field("table count"));
        }
        let (height, block, time) = (reader.u64()?, reader.hash()?, reader.u64()?);
        let (checkpoint_height, checkpoint_time, fees) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let peer = |reader: &mut Reader<'_>| {
            Ok(Peer {
                sent: reader.u64()?,
                sent_amount: u128::from_le_bytes(reader.array()?),
                sent_deliveries: reader.u64()?,
                acknowledged: reader.u64()?,
                applied: reader.u64()?,
                applied_amount: u128::from_le_bytes(reader.array()?),
                applied_deliveries: reader.u64()?,
                applied_height: reader.u64()?,
            })
        };
        let peers = (0..tables).map(|_| peer(reader)).collect::<Result<_, WireError>>()?;
        Ok(Meta { height, block, time, checkpoint_height, checkpoint_time, fees, peers })
    }

    /// What a checkpoint signs of them.
    pub fn hash(&self) -> Hash {
        let mut bytes = Vec::with_capacity(80 + 80 * self.peers.len());
        self.encode(&mut bytes);
        Domain::CHECKPOINT.hash(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(numbers: [u64; 5], peer: [u64; 6], amounts: [u128; 2], block: [u8; 32]) {
            let [height, time, checkpoint_height, checkpoint_time, fees] = numbers;
            let peer = Peer {
                sent: peer[0],
                sent_amount: amounts[0],
                sent_deliveries: peer[1],
                acknowledged: peer[2],
                applied: peer[3],
                applied_amount: amounts[1],
                applied_deliveries: peer[4],
                applied_height: peer[5],
            };
            let meta = Meta {
                height, block: Hash(block), time, checkpoint_height, checkpoint_time, fees,
                peers: vec![Peer::default(), peer],
            };
            let mut bytes = Vec::new();
            meta.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Meta::decode(&mut reader, 2), Ok(meta));
            prop_assert_eq!(reader.finish(), Ok(()));
            prop_assert!(Meta::decode(&mut Reader::new(&bytes), 4).is_err());
        }
    }
}
