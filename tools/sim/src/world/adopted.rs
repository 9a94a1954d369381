//! States that a validator begins with and did not execute itself.

use dag::TableId;

use super::{Invariant, World, hosts::Host};
use crate::fault::HostId;

impl World {
    /// Compares a state that did not come from execution with those of others who stand at the same height.
    pub(super) fn judge_adopted(&mut self, id: HostId, number: usize, table: TableId) {
        self.judge.on_fetched();
        let own = self.hosts[id].cores[number].core.view_of(table).expect("it is of this core").state();
        let (height, certified) = (own.height(), own.checkpoint());
        let proven = certified.height != height || certified.accounts_root == own.accounts().root();
        let agrees = |host: &Host| {
            let state = host.cores.iter().find_map(|core| core.core.view_of(table)).map(|view| view.state());
            state.filter(|state| host.honest && !state.is_busy() && state.height() == height).is_none_or(
                |state| {
                    state.accounts().iter().eq(own.accounts().iter())
                        && state.meta().hash() == own.meta().hash()
                },
            )
        };
        if !proven || !self.hosts.iter().all(agrees) {
            let what = format!(
                "host {id} begins table {table} at height {height} with a state that nobody else has"
            );
            self.judge.ledger.fail(self.now, Invariant::Execution, what);
        }
    }
}
