//! What a core shows to whoever judges it from outside: simulators and tests. Nothing here changes anything.

use dag::{Height, TableId};
use pbft::Replica;
use shard_core::Table;

use super::{
    Core,
    agree::MAX_VALIDATIONS,
    clients::MAX_BACKLOG,
    history::Committed,
    table::{MAX_WAITING, TableNode},
    verify,
};

/// A table of a core.
#[derive(Clone, Copy)]
pub struct TableView<'a>(&'a TableNode);

impl<'a> TableView<'a> {
    /// Which table it is.
    pub fn id(&self) -> TableId {
        self.0.id
    }

    /// Its agreement.
    pub fn replica(&self) -> &'a Replica {
        &self.0.replica
    }

    /// Its state.
    pub fn state(&self) -> &'a Table {
        &self.0.state
    }

    /// A committed block, where it is kept. Its codes are there once it is executed.
    pub fn committed(&self, height: Height) -> Option<&'a Committed> {
        self.0.history.at(height)
    }

    /// Whether a state is fetched from a peer.
    pub fn is_fetching(&self) -> bool {
        self.0.sync.is_fetching()
    }

    /// Whether a snapshot is on its way to the disk.
    pub fn is_saving(&self) -> bool {
        self.0.sync.is_saving()
    }

    /// Transactions that wait.
    pub fn waiting(&self) -> usize {
        self.0.mempool.len()
    }
}

/// How full a queue is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub length: usize,
    /// What may be in it.
    pub most: usize,
}

impl Core {
    /// The tables, in ascending order.
    pub fn views(&self) -> impl Iterator<Item = TableView<'_>> {
        self.tables.iter().map(TableView)
    }

    /// One table, where it is of this core.
    pub fn view_of(&self, table: TableId) -> Option<TableView<'_>> {
        let slot = self.slots.get(usize::from(table)).copied().flatten()?;
        Some(TableView(&self.tables[slot]))
    }

    /// The bounded queues: of those that each table has, the fullest.
    pub fn queues(&self) -> [Queue; 4] {
        let most = |of: fn(&TableNode) -> usize| self.tables.iter().map(of).max().unwrap_or(0);
        let queue = |name, length, most| Queue { name, length, most };
        [
            queue("signatures that go first", self.verifier.urgent(), verify::MAX_URGENT),
            queue("waiting transactions", most(|table| table.mempool.len()), MAX_WAITING),
            queue("proposals to be judged", most(|table| table.validations.len()), MAX_VALIDATIONS),
            queue("a client's backlog", self.clients.longest_backlog(), 2 * MAX_BACKLOG),
        ]
    }
}
