//! What other tables have for this one and is not yet applied.
//!
//! Deliveries come from this node's own execution of the other tables, so they are right; but they come late, twice after
//! a restart, and from a source that may run ahead. A reference in a block is judged by them: it has to name a delivery,
//! by height and hash.
//!
//! What waits is bounded by the sources: a table may have only so many receipts in flight for another
//! ([`in_flight_limit`](crate::outbox::in_flight_limit)).

use std::collections::VecDeque;

use dag::{
    Height, InboxRef, TableId,
    planted::{self, Defect},
};

use crate::{meta::Meta, receipts::Delivery};

/// What this node knows of the block that an inbox reference names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It is that block, and it has something new for this table.
    Yes,
    /// The source's chain was not executed here that far: ask again when a delivery has come.
    NotYet,
    /// Another block, one that has nothing for this table, or one that is applied already.
    Wrong,
}

/// Why a delivery is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Not for this table, or not from another one.
    #[error("the delivery is for another table")]
    Table,
    /// It does not follow the last known one: a delivery before it is missing.
    #[error("expected delivery {expected}, got {got}")]
    Gap {
        /// Number of the next delivery.
        expected: u64,
        /// Number of this one.
        got: u64,
    },
    /// A second block of the same height.
    #[error("two blocks of one height have something for this table")]
    Contradiction,
}

/// Deliveries of one source.
#[derive(Clone, Debug, Default)]
struct Source {
    /// By ascending height; all above `applied`.
    queue: VecDeque<Delivery>,
    /// Number of the last delivery, and of the last receipt in one.
    number: u64,
    receipts: u64,
    /// Height of the last delivery.
    height: Height,
    /// Height up to which all is applied.
    applied: Height,
    /// Height of the newest reference that stands in a proposed block.
    proposed: Height,
}

impl Source {
    /// Place in the queue of the first delivery that no proposed block refers to.
    fn first_new(&self) -> usize {
        self.queue.partition_point(|delivery| delivery.height <= self.proposed)
    }

    fn at(&self, height: Height) -> Option<&Delivery> {
        let index = self.queue.binary_search_by_key(&height, |delivery| delivery.height).ok()?;
        self.queue.get(index)
    }

    /// Up to where the source has applied this table's receipts, as far as proposed blocks say.
    fn proposed_acknowledgement(&self) -> Height {
        let proposed = self.queue.iter().take(self.first_new());
        proposed.map(|delivery| delivery.applied).max().unwrap_or(0)
    }
}

/// What a primary could refer to next, of one source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) reference: InboxRef,
    /// Receipts that it brings.
    pub(crate) receipts: usize,
    /// What proposed blocks acknowledge, and what it would: heights of this table's chain.
    pub(crate) acknowledges: (Height, Height),
}

/// Deliveries that are not yet applied, by source.
#[derive(Clone, Debug)]
pub struct Inbox {
    table: TableId,
    sources: Vec<Source>,
}

impl Inbox {
    /// Empty, behind what these counters say is applied.
    pub(crate) fn new(table: TableId, meta: &Meta) -> Inbox {
        let source = |peer: &crate::meta::Peer| Source {
            number: peer.applied_deliveries,
            receipts: peer.applied,
            height: peer.applied_height,
            applied: peer.applied_height,
            ..Source::default()
        };
        Inbox { table, sources: meta.peers.iter().map(source).collect() }
    }

    /// Takes a delivery. One that is known or applied already changes nothing.
    ///
    /// # Errors
    /// [`DeliveryError`], and nothing done.
    pub fn on_delivery(&mut self, delivery: Delivery) -> Result<(), DeliveryError> {
        if delivery.to != self.table || delivery.source == self.table {
            return Err(DeliveryError::Table);
        }
        let source = self.sources.get_mut(usize::from(delivery.source)).ok_or(DeliveryError::Table)?;
        if delivery.height <= source.height && !planted::is(Defect::ReceiptNumberUnchecked) {
            let other = source.at(delivery.height).is_some_and(|known| known.hash != delivery.hash);
            return if other { Err(DeliveryError::Contradiction) } else { Ok(()) };
        }
        let expected = source.number + 1;
        if delivery.number != expected && !planted::is(Defect::ReceiptNumberUnchecked) {
            return Err(DeliveryError::Gap { expected, got: delivery.number });
        }
        source.number = delivery.number;
        source.receipts = delivery.receipts.last().map_or(source.receipts, |receipt| receipt.number);
        source.height = delivery.height;
        source.queue.push_back(delivery);
        Ok(())
    }

    /// Whether receipts were delivered that the table has not applied.
    pub(crate) fn is_ahead(&self, meta: &Meta) -> bool {
        self.sources.iter().zip(&meta.peers).any(|(source, peer)| source.receipts > peer.applied)
    }

    /// Judges a reference of a proposal.
    pub fn knows(&self, reference: &InboxRef) -> Known {
        let Some(source) = self.sources.get(usize::from(reference.table)) else { return Known::Wrong };
        if reference.table == self.table || reference.height <= source.applied {
            return Known::Wrong;
        }
        match source.at(reference.height) {
            Some(delivery) if delivery.hash == reference.hash => Known::Yes,
            None if reference.height > source.height => Known::NotYet,
            _ => Known::Wrong,
        }
    }

    /// Whether all that the reference names is applied already.
    pub(crate) fn is_applied(&self, reference: &InboxRef) -> bool {
        let source = self.sources.get(usize::from(reference.table));
        source.is_some_and(|source| reference.height <= source.applied)
    }

    /// Takes out what a committed block applies.
    pub(crate) fn take(&mut self, reference: &InboxRef, into: &mut VecDeque<Delivery>) {
        let source = &mut self.sources[usize::from(reference.table)];
        while let Some(delivery) = source.queue.pop_front_if(|delivery| delivery.height <= reference.height) {
            into.push_back(delivery);
        }
        source.applied = source.applied.max(reference.height);
    }

    /// Notes that a block refers to these, so that the next proposal does not again.
    pub fn mark_proposed(&mut self, references: &[InboxRef]) {
        for reference in references {
            if let Some(source) = self.sources.get_mut(usize::from(reference.table)) {
                source.proposed = source.proposed.max(reference.height);
            }
        }
    }

    /// Forgets what was marked: after a view change, before the surviving blocks are marked anew.
    pub fn unpropose_all(&mut self) {
        self.sources.iter_mut().for_each(|source| source.proposed = 0);
    }

    /// Receipts of a source that wait.
    ///
    /// # Panics
    /// Where there is no such table.
    pub fn waiting(&self, source: TableId) -> usize {
        self.sources[usize::from(source)].queue.iter().map(|delivery| delivery.receipts.len()).sum()
    }

    /// The newest delivery of a source that no proposed block refers to and that brings, with those before it, at most
    /// `max_receipts`; where the first one alone brings more, that one.
    pub(crate) fn candidate(&self, table: TableId, max_receipts: usize) -> Option<Candidate> {
        let source = &self.sources[usize::from(table)];
        let mut found: Option<Candidate> = None;
        let proposed = source.proposed_acknowledgement();
        for delivery in source.queue.iter().skip(source.first_new()) {
            let (before, applied) =
                found.map_or((0, proposed), |found| (found.receipts, found.acknowledges.1));
            let receipts = before + delivery.receipts.len();
            if found.is_some() && receipts > max_receipts {
                break;
            }
            let acknowledges = (proposed, applied.max(delivery.applied));
            found = Some(Candidate { reference: delivery.reference(), receipts, acknowledges });
        }
        found
    }
}
