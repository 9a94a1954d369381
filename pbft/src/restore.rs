//! Replay of the log before the start, and the records that a fresh log begins with.
//!
//! The log gives back every promise: votes signed, blocks prepared, views left. A crash may cut records off
//! its end; whatever was cut off had not left the node, except committed heights, which peers know.

use dag::{
    Block, Certificate, Height, View, Vote, VoteKind,
    planted::{self, Defect},
};

use crate::{
    new_view::NewView, output::Output, record::Record, replica::Replica, view_change::ViewChange,
    window::Instance,
};

/// Why a log is not this replica's past. A host that meets one must not start the replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// A record of another table.
    #[error("a record of the log belongs to another table")]
    Table,
    /// A height that the window can't hold: the log was written with a larger one.
    #[error("height {0} of the log is outside the configured window")]
    Window(Height),
    /// A record out of the order in which a replica writes.
    #[error("the log's record of view {view}, height {height} does not follow from those before it")]
    Order {
        /// Its view.
        view: View,
        /// Its height.
        height: Height,
    },
}

fn order(vote: &Vote) -> RestoreError {
    RestoreError::Order { view: vote.view, height: vote.height }
}

impl Replica {
    /// Replays one record of the log. Records come in the order in which they were persisted, all before
    /// [`start`](Self::start). Those at or below the base are skipped. Nothing is emitted.
    ///
    /// # Panics
    /// After the start.
    pub fn restore(&mut self, record: Record) -> Result<(), RestoreError> {
        assert!(!self.started, "the log is replayed before the start");
        match record {
            Record::Proposal { view, block } => self.restore_proposal(view, block),
            Record::Vote(vote) => self.restore_vote(vote),
            Record::Prepared(certificate) => self.restore_prepared(certificate),
            Record::Committed(certificate) => self.restore_committed(certificate),
            Record::ViewChange(change) => self.restore_view_change(*change),
            Record::NewView(new_view) => self.restore_new_view(*new_view),
            Record::Stable(certificate) => {
                self.check_table(&certificate.vote)?;
                self.checkpoints.set_stable(certificate);
                Ok(())
            }
        }
    }

    fn check_table(&self, vote: &Vote) -> Result<(), RestoreError> {
        if vote.table == self.config.table { Ok(()) } else { Err(RestoreError::Table) }
    }

    /// The instance of a height above the base.
    fn open(&mut self, height: Height) -> Result<&mut Instance, RestoreError> {
        self.window.get_mut(height).ok_or(RestoreError::Window(height))
    }

    fn restore_proposal(&mut self, view: View, block: Block) -> Result<(), RestoreError> {
        if block.header().table != self.config.table {
            return Err(RestoreError::Table);
        }
        let height = block.height();
        if height <= self.head.height {
            return Ok(());
        }
        let current = self.views.active && view == self.views.view && height > self.views.plan.top();
        let instance = self.open(height)?;
        instance.logged = Some(block.hash());
        if current {
            // Accepted, in order, at the start.
            if let Some(other) = instance.pending.replace(block) {
                instance.keep(other);
            }
        } else {
            instance.keep(block);
        }
        Ok(())
    }

    fn restore_vote(&mut self, vote: Vote) -> Result<(), RestoreError> {
        self.check_table(&vote)?;
        if vote.kind == VoteKind::Checkpoint {
            self.checkpoints.restore_own(vote);
            return Ok(());
        }
        if vote.height <= self.head.height || planted::is(Defect::VotesForgotten) {
            return Ok(());
        }
        let view = self.views.view;
        let last = self.open(vote.height)?.cast(vote.kind);
        let contradicts = last.is_some_and(|last| {
            last.view > vote.view || (last.view == vote.view && last.digest != vote.digest)
        });
        if vote.view > view || contradicts {
            return Err(order(&vote));
        }
        *last = Some(vote);
        Ok(())
    }

    fn restore_prepared(&mut self, certificate: Certificate) -> Result<(), RestoreError> {
        let vote = certificate.vote;
        self.check_table(&vote)?;
        if vote.height <= self.head.height {
            return Ok(());
        }
        let view = self.views.view;
        let instance = self.open(vote.height)?;
        let block = instance.find(&vote.digest).cloned().filter(|_| vote.view <= view);
        let block = block.ok_or(order(&vote))?;
        instance.prepared = Some(crate::window::Prepared { certificate, block });
        Ok(())
    }

    fn restore_committed(&mut self, certificate: Certificate) -> Result<(), RestoreError> {
        let vote = certificate.vote;
        self.check_table(&vote)?;
        if vote.height <= self.head.height {
            return Ok(());
        }
        let block = self.window.get(vote.height).and_then(|instance| instance.find(&vote.digest)).cloned();
        let follows = vote.height == self.head.height + 1;
        let block = block.filter(|block| follows && block.header().parent == self.head.digest);
        let block = block.ok_or(order(&vote))?;
        self.raise(&block, certificate.clone());
        self.restored.push((block, certificate));
        Ok(())
    }

    fn restore_view_change(&mut self, change: ViewChange) -> Result<(), RestoreError> {
        if change.view <= self.views.view || change.replica != self.config.me {
            return Err(RestoreError::Order { view: change.view, height: 0 });
        }
        self.views.leave(change, self.config.me);
        Ok(())
    }

    fn restore_new_view(&mut self, new_view: NewView) -> Result<(), RestoreError> {
        let view = new_view.view;
        if view < self.views.view || view <= self.views.tally {
            return Err(RestoreError::Order { view, height: 0 });
        }
        self.views.begin(new_view);
        self.window.iter_mut().for_each(Instance::enter_view);
        Ok(())
    }

    /// Begins. Blocks that the log knows to be committed above the base come first, as [`Output::Committed`];
    /// then everything that was said about open heights is said again.
    ///
    /// # Panics
    /// When called twice.
    pub fn start(&mut self, now: u64) {
        assert!(!self.started, "a replica starts once");
        self.started = true;
        for (block, certificate) in std::mem::take(&mut self.restored) {
            self.emit(Output::Committed { block, certificate });
        }
        if self.views.view > 0 {
            self.announce_view();
        }
        self.accept_ready(now);
        self.broadcast_status();
        if let Some(change) = self.views.own.clone() {
            self.broadcast(crate::Message::ViewChange(Box::new(change)));
        }
        self.resend_votes();
        self.settle(now);
    }

    /// The promises that are still open, as the head of a fresh log: with a snapshot at or above the last
    /// stable checkpoint and every record behind these, nothing older is needed, apart from the proposals and
    /// commits between snapshot and committed height.
    ///
    /// # Panics
    /// Where outputs are not drained: their records would come before what they follow from.
    pub fn records(&self) -> Vec<Record> {
        assert!(self.outputs.is_empty(), "outputs are drained before the log begins anew");
        let views = &self.views;
        let mut records: Vec<Record> = Vec::new();
        records.extend(views.new_view.clone().map(|new_view| Record::NewView(Box::new(new_view))));
        for (_, instance) in self.window.iter() {
            for block in instance.spares() {
                records.push(Record::Proposal { view: block.header().view, block: block.clone() });
            }
            if let Some(prepared) = &instance.prepared {
                let view = prepared.certificate.vote.view;
                records.push(Record::Proposal { view, block: prepared.block.clone() });
                records.push(Record::Prepared(prepared.certificate.clone()));
            }
            let logged = instance.proposed().filter(|block| instance.logged == Some(block.hash())).cloned();
            records.extend(logged.map(|block| Record::Proposal { view: views.tally, block }));
            records.extend(
                [instance.cast_prepare, instance.cast_commit].into_iter().flatten().map(Record::Vote),
            );
        }
        records.extend(views.own.clone().map(|change| Record::ViewChange(Box::new(change))));
        records.extend(self.stable().cloned().map(Record::Stable));
        records.extend(self.checkpoints.own().copied().map(Record::Vote));
        records
    }
}
