//! Receipts as they leave a table: what a block owes to each other table, and in which parcels it gets there.

use std::{collections::BTreeMap, sync::Arc};

use dag::{Address, Block, Hash, Height, InboxRef, TableId, receipt::Receipt};

use crate::{execute::Failed, meta::Meta};

/// What one block of a table has for one other table.
///
/// A block has a delivery for each table that gets receipts from it or that it refers to in its inbox. So which deliveries
/// a block has follows from the block alone, whoever looks at it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The table whose block it is.
    pub source: TableId,
    /// The block's height.
    pub height: Height,
    /// The block's hash.
    pub hash: Hash,
    /// The table that it is for.
    pub to: TableId,
    /// Counts the deliveries from `source` to `to`, so that none can be missing unnoticed, with receipts or without.
    pub number: u64,
    /// Height up to which the source has, with this block, applied the receipts of `to`; zero where the block refers to
    /// no block of `to`.
    pub applied: Height,
    /// The receipts, numbered one by one. Outbox and inbox share them.
    pub receipts: Arc<[Receipt]>,
}

impl Delivery {
    /// What the block of `to` that applies it says.
    pub fn reference(&self) -> InboxRef {
        InboxRef { table: self.source, height: self.height, hash: self.hash }
    }
}

/// A payment of a block to another table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The payee's table.
    pub to: TableId,
    /// The payee.
    pub payee: Address,
    /// Micro-TOP.
    pub amount: u64,
    /// The transaction that pays.
    pub transaction: Hash,
}

/// The payments of a block to other tables, in order. Needs no state beyond which transactions failed.
pub fn receipts_of<'a>(
    block: &'a Block,
    failed: &'a Failed,
    tables: u16,
) -> impl Iterator<Item = Outgoing> + 'a {
    let home = block.header().table;
    let good = (0..block.len()).filter(|&index| !failed.contains(index));
    good.flat_map(move |index| {
        let transaction = block.id(index);
        let payees = block.transaction(index).payees();
        payees.map(move |payee| Outgoing {
            to: payee.to.table(tables),
            payee: payee.to,
            amount: payee.amount,
            transaction,
        })
    })
    .filter(move |outgoing| outgoing.to != home)
}

/// Builds anew the deliveries of blocks that lie before a table's snapshot, newest first.
///
/// A validator that restarts finds table A at one height and table B at another. What B has yet to apply of A's blocks
/// before A's snapshot comes from the log: walk A's blocks back from the snapshot, hand the deliveries to B in order of
/// height. Receipt numbers are counted back from the snapshot's counters.
#[derive(Clone, Debug)]
pub struct Rewind {
    tables: u16,
    height: Height,
    block: Hash,
    sent: Vec<u64>,
    deliveries: Vec<u64>,
}

impl Rewind {
    /// Starts at the state with these counters.
    pub fn new(meta: &Meta) -> Rewind {
        let tables = u16::try_from(meta.peers.len()).expect("table numbers are 16 bits");
        let sent = meta.peers.iter().map(|peer| peer.sent).collect();
        let deliveries = meta.peers.iter().map(|peer| peer.sent_deliveries).collect();
        Rewind { tables, height: meta.height, block: meta.block, sent, deliveries }
    }

    /// Height of the block that [`step`](Self::step) expects.
    pub fn height(&self) -> Height {
        self.height
    }

    /// The deliveries of the next older block, by ascending table.
    ///
    /// # Errors
    /// [`RewindError`], and nothing done, where it is not the block that the chain names here, or more failed than it
    /// holds, or more was paid than was ever sent.
    pub fn step(&mut self, block: &Block, failed: &Failed) -> Result<Vec<Delivery>, RewindError> {
        if block.height() != self.height || block.hash() != self.block {
            return Err(RewindError::Block);
        }
        // By table: up to where the block applies its receipts, and those for it.
        let mut parcels: BTreeMap<TableId, (Height, Vec<Outgoing>)> = BTreeMap::new();
        for reference in block.inbox() {
            parcels.entry(reference.table).or_default().0 = reference.height;
        }
        for outgoing in receipts_of(block, failed, self.tables) {
            parcels.entry(outgoing.to).or_default().1.push(outgoing);
        }
        let (mut sent, mut counts) = (self.sent.clone(), self.deliveries.clone());
        let (source, height, hash) = (block.header().table, block.height(), block.hash());
        let mut deliveries = Vec::with_capacity(parcels.len());
        for (to, (applied, receipts)) in parcels {
            let last = sent.get_mut(usize::from(to)).ok_or(RewindError::Table)?;
            *last = last.checked_sub(receipts.len() as u64).ok_or(RewindError::Numbers)?;
            let number = counts[usize::from(to)];
            counts[usize::from(to)] = number.checked_sub(1).ok_or(RewindError::Numbers)?;
            let numbered = (*last + 1..).zip(receipts).map(|(number, outgoing)| Receipt {
                from: source,
                to,
                number,
                height,
                payee: outgoing.payee,
                amount: outgoing.amount,
                transaction: outgoing.transaction,
            });
            deliveries.push(Delivery {
                source,
                height,
                hash,
                to,
                number,
                applied,
                receipts: numbered.collect(),
            });
        }
        (self.sent, self.deliveries) = (sent, counts);
        (self.height, self.block) = (self.height - 1, block.header().parent);
        Ok(deliveries)
    }
}

/// Why a block can't be rewound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RewindError {
    /// Another block than the chain has at this height.
    #[error("not the block that the chain has at this height")]
    Block,
    /// An inbox reference to a table that does not exist.
    #[error("the block refers to an unknown table")]
    Table,
    /// More receipts or deliveries than the counters know of: the record of failed transactions is not this block's.
    #[error("the block sends more than was ever counted")]
    Numbers,
}
