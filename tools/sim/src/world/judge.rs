//! What must be true after every event, and who says so: what can only be seen from inside, and the model ledger.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use dag::{
    Address, Block, Hash, Height, ReplicaId, TableId, View, Vote, VoteKind,
    client::Code,
    vote::{BUNDLE_HEADER_SIZE, VOTE_SIZE},
};
use engine::{genesis::Genesis, node::frame::Frame};
use pbft::{Config, Message, ViewChange};
use shard_core::{
    Table,
    supply::{self, SupplyError},
};

use super::{
    World,
    clients::Client,
    decisions::Decisions,
    hosts::{Ballot, Host, ballot},
};
use crate::{
    fault::HostId,
    model::{Invariant, Ledger},
    scenario::Scenario,
};

/// Remembers what was said, and compares.
pub struct Judge {
    /// What was promised.
    pub ledger: Ledger,
    tables: u16,
    supply: u64,
    signed: HashMap<(ReplicaId, Ballot), Hash>,
    decisions: Decisions,
    /// Nobody is Byzantine.
    all_honest: bool,
    /// States that were fetched from peers.
    fetched: u64,
    /// By replica and table: the highest block that it has proposed.
    proposed: HashMap<(ReplicaId, TableId), Height>,
    /// By replica and table: the last commit vote for each height, as it left.
    commits: HashMap<(ReplicaId, TableId), BTreeMap<Height, (View, Hash)>>,
    /// Damaged validators that rather stopped than lied.
    pub refused: u64,
}

impl Judge {
    pub fn new(scenario: &Scenario, genesis: &Genesis, clients: &[Client]) -> Judge {
        let funded = clients.iter().flat_map(Client::addresses).map(|address| (address, super::BALANCE));
        Judge {
            ledger: Ledger::new(super::rule(scenario).verify(), scenario.tables, funded),
            tables: scenario.tables,
            supply: genesis.supply(),
            signed: HashMap::new(),
            decisions: Decisions::new(scenario),
            all_honest: scenario.byzantine().is_empty(),
            fetched: 0,
            proposed: HashMap::new(),
            commits: HashMap::new(),
            refused: 0,
        }
    }

    /// A state was fetched from a peer.
    pub fn on_fetched(&mut self) {
        self.fetched += 1;
    }

    /// How much has happened, for a report.
    pub fn facts(&self) -> String {
        format!(
            "{} blocks, {} transactions executed, {} acknowledged, {} states fetched, {} damaged validators stopped",
            self.ledger.blocks(),
            self.ledger.executed(),
            self.ledger.acknowledged().len(),
            self.fetched,
            self.refused
        )
    }

    /// An honest validator sends a frame.
    pub fn on_said(&mut self, now: u64, id: HostId, host: &Host, bytes: &Bytes) {
        match (bytes[0], bytes.get(3)) {
            // Votes.
            (4, _) => {
                let votes = &bytes[1 + BUNDLE_HEADER_SIZE + 64..];
                for vote in votes.as_chunks::<VOTE_SIZE>().0 {
                    let vote = Vote::parse(vote).expect("honest votes are well formed");
                    self.on_vote(now, id, host, &vote);
                }
            }
            // Agreement.
            (3, Some(1 | 2)) => match Frame::decode(bytes) {
                Ok(Frame::Agreement(table, Message::ViewChange(change))) => {
                    self.on_view_change(now, id, host.replica, table, &change);
                }
                Ok(Frame::Agreement(table, Message::Proposal { view, block })) => {
                    self.on_proposal(now, id, host, (table, view, &block));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A primary has a bounded number of blocks of its own in flight. What it says again after a restart is not looked at.
    fn on_proposal(
        &mut self,
        now: u64,
        id: HostId,
        host: &Host,
        (table, view, block): (TableId, View, &Block),
    ) {
        let highest = self.proposed.entry((host.replica, table)).or_default();
        let again = block.height() <= *highest || block.header().view != view;
        *highest = block.height().max(*highest);
        let views = host.cores.iter().find_map(|core| core.core.view_of(table));
        let Some(most) = views.map(|view| view.replica().committed_height() + Config::WINDOW) else { return };
        if !again && block.height() > most {
            let what =
                format!("host {id} proposes height {} of table {table} and may {most}", block.height());
            self.ledger.fail(now, Invariant::Queues, what);
        }
    }

    fn on_vote(&mut self, now: u64, id: HostId, host: &Host, vote: &Vote) {
        let ballot = ballot(vote);
        let known = *self.signed.entry((host.replica, ballot)).or_insert(vote.digest);
        if known != vote.digest {
            let what = format!("host {id} signs for {} and for {known}: {ballot:?}", vote.digest);
            return self.ledger.fail(now, Invariant::Conflict, what);
        }
        if !host.promised.has(vote) {
            let what = format!("a vote of host {id} leaves before it is durable: {vote:?}");
            return self.ledger.fail(now, Invariant::Durable, what);
        }
        if let Some(what) = self.decisions.on_vote(host.replica, vote) {
            return self.ledger.fail(now, Invariant::Agreement, what);
        }
        if vote.kind == VoteKind::Commit {
            let commits = self.commits.entry((host.replica, vote.table)).or_default();
            let last = commits.entry(vote.height).or_insert((vote.view, vote.digest));
            if vote.view >= last.0 {
                *last = (vote.view, vote.digest);
            }
        }
    }

    fn on_view_change(
        &mut self,
        now: u64,
        id: HostId,
        replica: ReplicaId,
        table: TableId,
        change: &ViewChange,
    ) {
        let Some(commits) = self.commits.get_mut(&(replica, table)) else { return };
        *commits = commits.split_off(&(change.committed_height() + 1));
        for (&height, &(view, digest)) in commits.iter() {
            if view >= change.view {
                continue;
            }
            let entry = change.prepared.iter().find(|entry| entry.height() == height);
            let told = entry.is_some_and(|entry| {
                let certified = entry.certificate.vote.view;
                certified > view || (certified == view && entry.digest() == digest)
            });
            if !told {
                let what = format!(
                    "host {id} leaves for view {} of table {table} and hides its commit vote at height {height}",
                    change.view
                );
                return self.ledger.fail(now, Invariant::ViewChange, what);
            }
        }
    }

    /// The money of a validator that runs, where none of its tables is within a block.
    pub fn supply(&self, host: &Host) -> Option<String> {
        let mut tables: Vec<&Table> = Vec::new();
        for id in 0..self.tables {
            let table = host.cores.iter().find_map(|core| core.core.view_of(id))?.state();
            if table.is_busy() {
                return None;
            }
            tables.push(table);
        }
        match supply::check(&tables, self.supply.into()) {
            // A table that began at a fetched state may have applied what another one has still to execute here.
            Ok(()) | Err(SupplyError::Receipts { .. }) => None,
            Err(error) => Some(error.to_string()),
        }
    }
}

impl World {
    /// Looks at a core after its turn.
    pub(super) fn judge_core(&mut self, id: HostId, number: usize) {
        let now = self.now;
        let host = &mut self.hosts[id];
        if !host.honest {
            return;
        }
        let (mut moved, mut adopted) = (false, Vec::new());
        for view in host.cores[number].core.views() {
            let table = view.id();
            let seen = &mut host.seen[usize::from(table)];
            let committed = view.replica().committed_height();
            if committed > seen.0 {
                self.judge.ledger.on_committed(now, id, table, committed, view.replica().committed_digest());
                seen.0 = committed;
            }
            let state = view.state();
            let executed = state.executed_height();
            if executed > seen.1 {
                for height in seen.1 + 1..=executed {
                    if let Some(found) = view.committed(height) {
                        let block = &found.block;
                        self.judge.ledger.on_committed(now, id, table, height, block.hash());
                        self.judge.ledger.on_block(now, table, block);
                    }
                    if let Some(codes) = view.committed(height).and_then(|found| found.codes.as_ref()) {
                        self.judge.ledger.on_executed(now, id, table, height, codes);
                        if self.judge.all_honest && codes.contains(&Code::GappedSequence) {
                            let what = format!(
                                "table {table} height {height}: an honest primary left a gap in a chain"
                            );
                            self.judge.ledger.fail(now, Invariant::Admission, what);
                        }
                    }
                }
                if view.committed(executed).is_none() && !state.is_busy() {
                    adopted.push(table);
                }
                seen.1 = executed;
                self.judge.ledger.on_height(table, executed);
                moved |= !state.is_busy();
                let checkpoint = state.checkpoint();
                if checkpoint.height == executed {
                    self.judge.ledger.on_checkpoint(now, id, table, checkpoint.height, checkpoint.digest());
                }
            }
        }
        let queues = host.cores[number].core.queues();
        adopted.into_iter().for_each(|table| self.judge_adopted(id, number, table));
        for queue in queues {
            if queue.length > queue.most {
                let what =
                    format!("host {id}: {} hold {} and may hold {}", queue.name, queue.length, queue.most);
                self.judge.ledger.fail(now, Invariant::Queues, what);
            }
        }
        if moved && let Some(error) = self.judge.supply(&self.hosts[id]) {
            self.judge.ledger.fail(now, Invariant::Supply, format!("host {id}: {error}"));
        }
    }

    /// What must be true at the very end, when everything rests.
    pub(super) fn judge_end(&mut self) {
        let now = self.now;
        (0..self.scenario.validators).for_each(|id| self.imagine_death(id));
        for id in self.whole_hosts() {
            let host = &self.hosts[id];
            self.judge.ledger.check_promises(now, id, |table| view_height(host, table));
            if let Some(error) = self.judge.supply(host) {
                self.judge.ledger.fail(now, Invariant::Supply, format!("host {id}: {error}"));
            }
            let addresses: Vec<Address> = self.clients.iter().flat_map(Client::addresses).collect();
            let balance = |address: Address| {
                let table = address.table(self.scenario.tables);
                let mut cores = host.cores.iter();
                let view = cores.find_map(|core| core.core.view_of(table)).expect("every table is there");
                (address, view.state().accounts().get(&address).map_or(0, |leaf| leaf.balance))
            };
            self.judge.ledger.check_balances(now, id, addresses.into_iter().map(balance));
        }
    }
}

/// The height that a host has executed of a table.
pub fn view_height(host: &Host, table: TableId) -> Height {
    host.cores.iter().find_map(|core| core.core.view_of(table)).map_or(0, |view| view.state().height())
}
