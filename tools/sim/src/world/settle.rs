//! After the faults: everything that was asked for is decided, and all stand at the same place.

use dag::{Hash, View};

use super::{Invariant, MS, SECOND, World, clients::Client};
use crate::{
    fault::HostId,
    model::{SETTLED_VIEWS, SETTLED_WITHIN},
};

/// Longest time until a quiet network is under checkpoints.
const QUIET: u64 = 20 * SECOND;

impl World {
    /// The honest validators that run to the end.
    pub(super) fn whole_hosts(&self) -> Vec<HostId> {
        let whole = |&host: &HostId| self.hosts[host].honest && !self.left_behind.contains(&host);
        (0..self.scenario.validators).filter(whole).collect()
    }

    fn views(&self) -> Vec<View> {
        let mut views = vec![0; usize::from(self.scenario.tables)];
        for id in self.whole_hosts() {
            for view in self.hosts[id].cores.iter().flat_map(|core| core.core.views()) {
                let known: &mut View = &mut views[usize::from(view.id())];
                *known = (*known).max(view.replica().view());
            }
        }
        views
    }

    /// Runs until all that is pending is decided and everybody rests.
    pub(super) fn settle(&mut self) {
        let quorum = self.committee.quorum();
        let trustworthy = self.whole_hosts().len() >= quorum || self.liars_may_help(quorum);
        if !trustworthy {
            // Beyond what is promised: only that nobody lies.
            self.run_until(self.now + 10 * SECOND, |_| false);
            return;
        }
        let before = self.views();
        let done = self.run_until(self.now + SETTLED_WITHIN, |world| {
            world.clients.iter().all(Client::is_content) && world.is_level()
        });
        if self.judge.ledger.violation().is_some() {
            return;
        }
        if !done {
            let what = self.describe_stall();
            return self.judge.ledger.fail(self.now, Invariant::Liveness, what);
        }
        let needed = self.views().iter().zip(&before).map(|(after, before)| after - before.min(after)).max();
        if needed.is_some_and(|needed| needed > SETTLED_VIEWS) {
            let what = format!("a table needed {needed:?} views");
            return self.judge.ledger.fail(self.now, Invariant::Liveness, what);
        }
        let quiet = self.run_until(self.now + QUIET, |world| {
            world.is_level() && world.is_quiet() && world.is_delivered() && world.behind().is_none()
        });
        if self.judge.ledger.violation().is_some() {
            return;
        }
        if !quiet {
            let behind = self.behind().map(|host| format!("host {host} believes that it is behind; "));
            let (behind, stall) = (behind.unwrap_or_default(), self.describe_stall());
            let what = format!("the network does not come to rest: {behind}{stall}");
            return self.judge.ledger.fail(self.now, Invariant::Liveness, what);
        }
        self.judge_end();
    }

    /// A whole host that would not tell its clients what it knows, though a quorum of whole ones is where it is.
    fn behind(&self) -> Option<HostId> {
        let hosts = self.whole_hosts();
        if hosts.len() < self.committee.quorum() {
            return None;
        }
        let mut views = hosts.into_iter().flat_map(|id| {
            let views = self.hosts[id].cores.iter().flat_map(|core| core.core.views());
            views.map(move |view| (id, view.replica().is_behind()))
        });
        views.find_map(|(id, behind)| behind.then_some(id))
    }

    /// Whether a quorum can be had: with at most f corrupt ones, the honest are enough.
    fn liars_may_help(&self, quorum: usize) -> bool {
        self.scenario.validators - self.left_behind.len() - self.corrupt() >= quorum
    }

    fn corrupt(&self) -> usize {
        (0..self.scenario.validators).filter(|&host| !self.hosts[host].honest).count()
    }

    /// Whether all honest validators have executed the same blocks and have nothing left to do.
    fn is_level(&self) -> bool {
        let hosts = self.whole_hosts();
        (0..self.scenario.tables).all(|table| {
            let mut first: Option<Hash> = None;
            hosts.iter().all(|&host| {
                let mut cores = self.hosts[host].cores.iter();
                let Some(view) = cores.find_map(|core| core.core.view_of(table)) else { return false };
                let level =
                    view.state().height() == view.replica().committed_height() && !view.state().is_busy();
                level && *first.get_or_insert(view.state().block_hash()) == view.state().block_hash()
            })
        })
    }

    /// Whether every table rests on a stable checkpoint, the same everywhere, and all receipts have arrived.
    fn is_quiet(&self) -> bool {
        let hosts = self.whole_hosts();
        (0..self.scenario.tables).all(|table| {
            let mut first: Option<Hash> = None;
            hosts.iter().all(|&host| {
                let mut cores = self.hosts[host].cores.iter();
                let Some(view) = cores.find_map(|core| core.core.view_of(table)) else { return false };
                let checkpoint = view.state().checkpoint();
                let stable = view.replica().stable_height();
                let rests = checkpoint.height == view.state().height() && stable == checkpoint.height;
                rests && *first.get_or_insert(checkpoint.digest()) == checkpoint.digest()
            })
        })
    }

    /// Whether every receipt that was sent is applied.
    fn is_delivered(&self) -> bool {
        let tables = self.scenario.tables;
        self.whole_hosts().into_iter().all(|host| {
            let view = |table| self.hosts[host].cores.iter().find_map(|core| core.core.view_of(table));
            (0..tables).all(|from| {
                (0..tables).all(|to| {
                    let (Some(source), Some(target)) = (view(from), view(to)) else { return false };
                    source.state().meta().peer(to).sent == target.state().meta().peer(from).applied
                })
            })
        })
    }

    /// One hash over the states of all tables: the same for the same seed.
    pub fn state_root(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for host in &self.hosts {
            for view in host.cores.iter().flat_map(|core| core.core.views()) {
                hasher.update(&view.state().checkpoint().digest().0);
                hasher.update(&view.state().block_hash().0);
            }
        }
        Hash(hasher.finalize().into())
    }

    fn describe_stall(&self) -> String {
        let mut text = format!("after {} ms of health", (SETTLED_WITHIN / MS).min(self.now / MS));
        for (number, client) in self.clients.iter().enumerate() {
            for id in client.waits_for() {
                text += &format!("; client {number} waits for {id}");
            }
        }
        for id in self.whole_hosts() {
            let host = &self.hosts[id];
            if !host.is_up() {
                text += &format!("; host {id} is down");
            }
            for view in host.cores.iter().flat_map(|core| core.core.views()) {
                let summary = view.replica().summary();
                let rests = summary.stable == summary.executed && summary.active && view.waiting() == 0;
                if !rests {
                    text += &format!(
                        "; host {id} table {}: {summary:?}, {} transactions wait, checkpoint {}{}",
                        view.id(),
                        view.waiting(),
                        view.state().checkpoint().height,
                        if view.is_fetching() { ", fetching" } else { "" }
                    );
                }
            }
        }
        text
    }
}
