//! What a table has in flight for each other table: the deliveries that are not yet acknowledged.
//!
//! ```text
//! tag 3 (1), reserved 0 (1), tables (2), reserved 0 (4)
//! for each table, its own included (always empty):
//!   deliveries (4), each: number (8), height (8), block hash (32), applied (8), receipts (4), receipts (92 each)
//! ```
//!
//! It is part of the state that checkpoints certify, so a validator that takes a table over by snapshot gets with it what
//! the other tables have yet to apply. An acknowledgement comes with the other table's own deliveries
//! ([`Delivery::applied`]).

use std::collections::VecDeque;

use dag::{
    Hash, Height, TableId,
    hash::Domain,
    receipt::Receipt,
    wire::{Put, Reader, WireError},
};

use crate::receipts::Delivery;

/// First byte of the encoded outbox; it keeps it apart from all else that [`Domain::CHECKPOINT`] hashes.
const TAG: u8 = 3;
/// Receipts that a table may have in flight, over all other tables.
const MAX_IN_FLIGHT: usize = 1 << 18;

/// Most receipts that a table may have in flight for one other table, of `tables`. A transaction that would pass it fails:
/// it is a rule of execution, so that a table that stands still can't fill the memory of the others.
pub fn in_flight_limit(tables: u16) -> usize {
    (MAX_IN_FLIGHT / usize::from(tables)).max(dag::transaction::MAX_PAYEES)
}

/// Deliveries to one table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Lane {
    deliveries: VecDeque<Delivery>,
    receipts: usize,
}

/// Deliveries that are not acknowledged, by table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
}

impl Outbox {
    /// Nothing in flight.
    pub(crate) fn new(tables: u16) -> Outbox {
        Outbox { lanes: vec![Lane::default(); usize::from(tables)] }
    }

    /// Receipts in flight for a table.
    pub fn receipts(&self, to: TableId) -> usize {
        self.lanes[usize::from(to)].receipts
    }

    /// All deliveries in flight, by table, in order of height.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.lanes.iter().flat_map(|lane| &lane.deliveries)
    }

    pub(crate) fn push(&mut self, delivery: Delivery) {
        let lane = &mut self.lanes[usize::from(delivery.to)];
        assert!(lane.deliveries.back().is_none_or(|last| last.height < delivery.height), "heights ascend");
        lane.receipts += delivery.receipts.len();
        lane.deliveries.push_back(delivery);
    }

    /// Drops what `to` has applied: all up to a height of this table's chain. Returns the number of the last receipt dropped.
    pub(crate) fn acknowledge(&mut self, to: TableId, applied: Height) -> Option<u64> {
        let lane = &mut self.lanes[usize::from(to)];
        let mut last = None;
        while let Some(delivery) = lane.deliveries.pop_front_if(|delivery| delivery.height <= applied) {
            lane.receipts -= delivery.receipts.len();
            last = delivery.receipts.last().map(|receipt| receipt.number).or(last);
        }
        last
    }

    /// Deliveries and receipts for `to` of heights above `above` and up to `applied`: what an acknowledgement would drop.
    pub(crate) fn droppable(&self, to: TableId, above: Height, applied: Height) -> (usize, usize) {
        let deliveries = &self.lanes[usize::from(to)].deliveries;
        let start = deliveries.partition_point(|delivery| delivery.height <= above);
        let range = deliveries.iter().skip(start).take_while(|delivery| delivery.height <= applied);
        range.fold((0, 0), |(count, receipts), delivery| (count + 1, receipts + delivery.receipts.len()))
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_start(self.lanes.len(), out);
        for lane in &self.lanes {
            encode_count(lane.deliveries.len(), out);
            lane.deliveries.iter().for_each(|delivery| encode_delivery(delivery, out));
        }
    }

    /// Reads the outbox of table `source`, of `tables`.
    pub fn decode(reader: &mut Reader<'_>, source: TableId, tables: u16) -> Result<Outbox, WireError> {
        if (reader.u8()?, reader.u8()?) != (TAG, 0) {
            return Err(WireError::Field("outbox tag"));
        }
        if (reader.u16()?, reader.u32()?) != (tables, 0) {
            return Err(WireError::Field("table count"));
        }
        let mut outbox = Outbox::new(tables);
        for to in 0..tables {
            let count = reader.u32()?;
            if count > 0 && to == source {
                return Err(WireError::Field("deliveries"));
            }
            let mut last = Last::default();
            for _ in 0..count {
                let delivery = decode_delivery(reader, source, to, &mut last)?;
                outbox.push(delivery);
            }
        }
        Ok(outbox)
    }

    /// What a checkpoint signs of it.
    pub fn hash(&self) -> Hash {
        Hashing::new(self).step(self, &mut usize::MAX.clone()).expect("the budget is not used up")
    }
}

/// A hash of the outbox that is computed in slices. The outbox must not change meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Hashing {
    hasher: blake3::Hasher,
    table: usize,
    delivery: usize,
    scratch: Vec<u8>,
}

impl Hashing {
    pub(crate) fn new(outbox: &Outbox) -> Hashing {
        let mut scratch = Vec::new();
        encode_start(outbox.lanes.len(), &mut scratch);
        Hashing { hasher: Domain::CHECKPOINT.hasher(), table: 0, delivery: 0, scratch }
    }

    /// Takes deliveries in and their number of receipts off `left`, until that is zero; the hash at the end.
    pub(crate) fn step(&mut self, outbox: &Outbox, left: &mut usize) -> Option<Hash> {
        while let Some(lane) = outbox.lanes.get(self.table) {
            if *left == 0 {
                self.flush();
                return None;
            }
            if self.delivery == 0 {
                encode_count(lane.deliveries.len(), &mut self.scratch);
            }
            if let Some(delivery) = lane.deliveries.get(self.delivery) {
                encode_delivery(delivery, &mut self.scratch);
                *left = left.saturating_sub(1 + delivery.receipts.len());
                self.delivery += 1;
            }
            if self.delivery == lane.deliveries.len() {
                (self.table, self.delivery) = (self.table + 1, 0);
            }
            if self.scratch.len() >= 16 * 1024 {
                self.flush();
            }
        }
        self.flush();
        Some(Hash(*self.hasher.finalize().as_bytes()))
    }

    fn flush(&mut self) {
        self.hasher.update(&self.scratch);
        self.scratch.clear();
    }
}

fn encode_start(tables: usize, out: &mut Vec<u8>) {
    out.put_u8(TAG);
    out.put_u8(0);
    out.put_u16(u16::try_from(tables).expect("table numbers are 16 bits"));
    out.put_u32(0);
}

fn encode_count(count: usize, out: &mut Vec<u8>) {
    out.put_u32(u32::try_from(count).expect("far fewer are ever in flight"));
}

fn encode_delivery(delivery: &Delivery, out: &mut Vec<u8>) {
    out.put_u64(delivery.number);
    out.put_u64(delivery.height);
    out.put(&delivery.hash.0);
    out.put_u64(delivery.applied);
    encode_count(delivery.receipts.len(), out);
    delivery.receipts.iter().for_each(|receipt| receipt.encode(out));
}

/// Reads one delivery. Heights ascend and numbers, its own and the receipts', follow one another from `last` on, so there is one
/// encoding only.
fn decode_delivery(
    reader: &mut Reader<'_>,
    source: TableId,
    to: TableId,
    last: &mut Last,
) -> Result<Delivery, WireError> {
    let number = reader.u64()?;
    let (height, hash, applied) = (reader.u64()?, reader.hash()?, reader.u64()?);
    if height <= last.height || !follows(last.number, number) {
        return Err(WireError::Field("delivery"));
    }
    let count = reader.u32()?;
    let mut receipts = Vec::new();
    for _ in 0..count {
        let receipt = Receipt::decode(reader)?;
        let fits = (receipt.from, receipt.to, receipt.height) == (source, to, height);
        if !fits || !follows(last.receipt, receipt.number) {
            return Err(WireError::Field("receipt"));
        }
        last.receipt = Some(receipt.number);
        receipts.push(receipt);
    }
    (last.height, last.number) = (height, Some(number));
    Ok(Delivery { source, height, hash, to, number, applied, receipts: receipts.into() })
}

/// What the delivery before had.
#[derive(Default)]
struct Last {
    height: Height,
    number: Option<u64>,
    receipt: Option<u64>,
}

fn follows(last: Option<u64>, number: u64) -> bool {
    last.is_none_or(|last| last.checked_add(1) == Some(number))
}
