//! What must be true after every event, and who says so.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use bytes::Bytes;
use dag::{
    Address, Block, Hash, Height, ReplicaId, TableId, View, Vote, VoteKind,
    client::{AccountState, Code, Reply},
    keys::VerifyFn,
    vote::{BUNDLE_HEADER_SIZE, VOTE_SIZE},
};
use engine::{genesis::Genesis, node::frame::Frame};
use pbft::{Config, Message, ViewChange};
use serde::Serialize;
use shard_core::{
    Table,
    supply::{self, SupplyError},
};

use super::{
    World,
    clients::Client,
    hosts::{Ballot, Host, ballot},
};
use crate::{fault::HostId, scenario::Scenario};

/// What must be true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Invariant {
    /// No two honest validators commit different blocks at one height.
    Agreement,
    /// Every account chain is one chain.
    AccountChain,
    /// Acknowledged means committed, durable and present for ever.
    Acknowledged,
    /// What nobody signed, or nobody could pay, is not accepted; what is good is not refused.
    Admission,
    /// Each transaction and receipt is applied exactly once, in order, with the same result everywhere.
    Execution,
    /// No money is made or lost.
    Supply,
    /// No vote leaves before it is durable.
    Durable,
    /// No honest validator signs two conflicting votes.
    Conflict,
    /// A view change tells of every commit vote that its sender cast.
    ViewChange,
    /// No queue is longer than its maximum.
    Queues,
    /// Honest validators speak well-formed frames.
    Frames,
    /// A process comes back from whatever a crash leaves.
    Recovery,
    /// An honest validator has no reason to stop for good.
    Halt,
    /// After the faults everything pending is committed in a bounded number of views, and all roots agree.
    Liveness,
    /// The code's own assertions hold.
    Assertion,
    /// Same seed, same bytes.
    Deterministic,
}

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When, in ns.
    pub at: u64,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.invariant, self.at / 1_000_000, self.what)
    }
}

/// A block that an honest validator has committed.
struct Decided {
    block: Block,
    codes: Option<Vec<Code>>,
}

/// Remembers what was promised, and compares.
pub struct Judge {
    verify: VerifyFn,
    violation: Option<Violation>,
    tables: u16,
    supply: u64,
    decided: HashMap<(TableId, Height), Decided>,
    hashes: HashMap<(TableId, Height), Hash>,
    /// Transactions that were executed with success, and where.
    executed: HashMap<Hash, (TableId, Height, usize)>,
    /// Where each transaction stands, executed with success or not.
    places: HashMap<Hash, Vec<(TableId, Height, usize)>>,
    acknowledged: Vec<(Hash, TableId, Height)>,
    /// By table: height up to which the model has executed, and whether it had to skip a block.
    model_height: Vec<Height>,
    /// By table: the highest block that an honest validator has executed.
    highest: Vec<Height>,
    model_gap: bool,
    model: HashMap<Address, i128>,
    signed: HashMap<(ReplicaId, Ballot), Hash>,
    /// By replica and table: the highest block that it has proposed.
    proposed: HashMap<(ReplicaId, TableId), Height>,
    /// By replica and table: the last commit vote for each height, as it left.
    commits: HashMap<(ReplicaId, TableId), BTreeMap<Height, (View, Hash)>>,
    checkpoints: HashMap<(TableId, Height), Hash>,
    heads: HashMap<(Address, u64), Hash>,
    /// Damaged validators that rather stopped than lied.
    pub refused: u64,
}

impl Judge {
    pub fn new(scenario: &Scenario, genesis: &Genesis, clients: &[Client]) -> Judge {
        let rich = clients.iter().flat_map(Client::addresses);
        Judge {
            verify: super::rule(scenario).verify(),
            violation: None,
            tables: scenario.tables,
            supply: genesis.supply(),
            decided: HashMap::new(),
            hashes: HashMap::new(),
            executed: HashMap::new(),
            places: HashMap::new(),
            acknowledged: Vec::new(),
            model_height: vec![0; usize::from(scenario.tables)],
            highest: vec![0; usize::from(scenario.tables)],
            model_gap: false,
            model: rich.map(|address| (address, i128::from(super::BALANCE))).collect(),
            signed: HashMap::new(),
            proposed: HashMap::new(),
            commits: HashMap::new(),
            checkpoints: HashMap::new(),
            heads: HashMap::new(),
            refused: 0,
        }
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The first one counts.
    pub fn fail(&mut self, at: u64, invariant: Invariant, what: String) {
        self.violation.get_or_insert(Violation { invariant, at, what });
    }

    /// How much has happened, for a report.
    pub fn facts(&self) -> String {
        format!(
            "{} blocks, {} transactions executed, {} acknowledged, {} damaged validators stopped",
            self.decided.len(),
            self.executed.len(),
            self.acknowledged.len(),
            self.refused
        )
    }

    fn on_committed(&mut self, now: u64, host: HostId, table: TableId, height: Height, hash: Hash) {
        let known = *self.hashes.entry((table, height)).or_insert(hash);
        if known != hash {
            let what =
                format!("host {host} commits {hash} at height {height} of table {table}, others {known}");
            self.fail(now, Invariant::Agreement, what);
        }
    }

    fn on_block(&mut self, now: u64, table: TableId, block: &Block) {
        let height = block.height();
        if self.decided.contains_key(&(table, height)) {
            return;
        }
        for index in 0..block.len() {
            let (id, transaction) = (block.id(index), block.transaction(index));
            if !(self.verify)(transaction.sender().as_bytes(), id.as_bytes(), transaction.signature()) {
                let what = format!("height {height} of table {table} holds a forged transaction, {id}");
                self.fail(now, Invariant::Admission, what);
            }
            self.places.entry(block.id(index)).or_default().push((table, height, index));
        }
        self.decided.insert((table, height), Decided { block: block.clone(), codes: None });
    }

    /// An honest validator has executed a block, with these codes.
    fn on_executed(&mut self, now: u64, host: HostId, table: TableId, height: Height, codes: &[Code]) {
        let Some(decided) = self.decided.get_mut(&(table, height)) else { return };
        if let Some(known) = &decided.codes {
            if known != codes {
                let what =
                    format!("host {host} executes height {height} of table {table} otherwise: {codes:?}");
                self.fail(now, Invariant::Execution, what);
            }
            return;
        }
        decided.codes = Some(codes.to_vec());
        let block = decided.block.clone();
        if self.model_height[usize::from(table)] + 1 != height {
            self.model_gap = true;
        }
        self.model_height[usize::from(table)] = height;
        for (index, code) in codes.iter().enumerate() {
            if *code != Code::Committed {
                continue;
            }
            let (id, transaction) = (block.id(index), block.transaction(index));
            if let Some(before) = self.executed.insert(id, (table, height, index)) {
                let what = format!("transaction {id} is executed at {before:?} and at height {height}");
                self.fail(now, Invariant::Execution, what);
            }
            *self.model.entry(*transaction.sender()).or_default() -= i128::from(transaction.total());
            for payee in transaction.payees() {
                *self.model.entry(payee.to).or_default() += i128::from(payee.amount);
            }
        }
    }

    fn on_checkpoint(&mut self, now: u64, host: HostId, table: TableId, height: Height, digest: Hash) {
        let known = *self.checkpoints.entry((table, height)).or_insert(digest);
        if known != digest {
            let what = format!("host {host} has another state after height {height} of table {table}");
            self.fail(now, Invariant::Execution, what);
        }
    }

    /// A client was told that its transaction stands in a block.
    pub fn on_acknowledged(&mut self, now: u64, id: &Hash, reply: &Reply) {
        let place = (reply.table, reply.height);
        let index = reply.index as usize;
        if reply.height <= self.highest[usize::from(reply.table)] && !self.decided.contains_key(&place) {
            // Seen by nobody whom we watch: all began above it, or their short memory had let it go by the end of their turn.
            return self.acknowledged.push((*id, reply.table, reply.height));
        }
        let decided = self.decided.get(&place);
        let there =
            decided.is_some_and(|decided| index < decided.block.len() && decided.block.id(index) == *id);
        let code =
            decided.and_then(|decided| decided.codes.as_ref()).and_then(|codes| codes.get(index)).copied();
        if !there || code != Some(reply.code) {
            let what = format!("{id} is acknowledged and is not where that says ({code:?}): {reply:?}");
            return self.fail(now, Invariant::Acknowledged, what);
        }
        self.acknowledged.push((*id, reply.table, reply.height));
    }

    /// A client was told that its sequence is used: then by this very transaction.
    pub fn on_called_stale(&mut self, now: u64, id: &Hash) {
        if !self.executed.contains_key(id) {
            self.fail(now, Invariant::Admission, format!("{id} is called stale and was never executed"));
        }
    }

    pub fn on_account(&mut self, now: u64, address: &Address, state: Option<&AccountState>) {
        let Some(state) = state else {
            return self.fail(now, Invariant::AccountChain, format!("{address} is unknown"));
        };
        let known = *self.heads.entry((*address, state.unit_height)).or_insert(state.unit_head);
        if known != state.unit_head {
            let what = format!("the chain of {address} has two units of height {}", state.unit_height);
            self.fail(now, Invariant::AccountChain, what);
        }
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
            self.fail(now, Invariant::Queues, what);
        }
    }

    fn on_vote(&mut self, now: u64, id: HostId, host: &Host, vote: &Vote) {
        let ballot = ballot(vote);
        let known = *self.signed.entry((host.replica, ballot)).or_insert(vote.digest);
        if known != vote.digest {
            let what = format!("host {id} signs for {} and for {known}: {ballot:?}", vote.digest);
            return self.fail(now, Invariant::Conflict, what);
        }
        if host.durable.get(&ballot) != Some(&vote.digest) {
            let what = format!("a vote of host {id} leaves before it is durable: {vote:?}");
            return self.fail(now, Invariant::Durable, what);
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
                return self.fail(now, Invariant::ViewChange, what);
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
        let mut moved = false;
        for view in host.cores[number].core.views() {
            let table = view.id();
            let seen = &mut host.seen[usize::from(table)];
            let committed = view.replica().committed_height();
            if committed > seen.0 {
                self.judge.on_committed(now, id, table, committed, view.replica().committed_digest());
                seen.0 = committed;
            }
            let state = view.state();
            let executed = state.executed_height();
            if executed > seen.1 {
                for height in seen.1 + 1..=executed {
                    if let Some(found) = view.committed(height) {
                        let block = &found.block;
                        self.judge.on_committed(now, id, table, height, block.hash());
                        self.judge.on_block(now, table, block);
                    }
                    if let Some(codes) = view.committed(height).and_then(|found| found.codes.as_ref()) {
                        self.judge.on_executed(now, id, table, height, codes);
                    }
                }
                seen.1 = executed;
                let highest = &mut self.judge.highest[usize::from(table)];
                *highest = executed.max(*highest);
                moved |= !state.is_busy();
                let checkpoint = state.checkpoint();
                if checkpoint.height == executed {
                    self.judge.on_checkpoint(now, id, table, checkpoint.height, checkpoint.digest());
                }
            }
        }
        for queue in host.cores[number].core.queues() {
            if queue.length > queue.most {
                let what =
                    format!("host {id}: {} hold {} and may hold {}", queue.name, queue.length, queue.most);
                self.judge.fail(now, Invariant::Queues, what);
            }
        }
        if moved && let Some(error) = self.judge.supply(&self.hosts[id]) {
            self.judge.fail(now, Invariant::Supply, format!("host {id}: {error}"));
        }
    }

    /// What must be true at the very end, when everything rests.
    pub(super) fn judge_end(&mut self) {
        let now = self.now;
        for id in self.whole_hosts() {
            let host = &self.hosts[id];
            for &(transaction, table, height) in &self.judge.acknowledged {
                let executed = view_height(host, table);
                if executed < height {
                    let what =
                        format!("host {id} never executes {transaction}, acknowledged at height {height}");
                    return self.judge.fail(now, Invariant::Acknowledged, what);
                }
            }
            if let Some(error) = self.judge.supply(host) {
                return self.judge.fail(now, Invariant::Supply, format!("host {id}: {error}"));
            }
            if self.judge.model_gap {
                continue;
            }
            let addresses: Vec<Address> = self.clients.iter().flat_map(Client::addresses).collect();
            for address in addresses {
                let table = address.table(self.scenario.tables);
                let view = host
                    .cores
                    .iter()
                    .find_map(|core| core.core.view_of(table))
                    .expect("every table is there");
                let balance = view.state().accounts().get(&address).map_or(0, |leaf| leaf.balance);
                let expected = self.judge.model[&address];
                if i128::from(balance) != expected {
                    let what = format!("host {id}: {address} has {balance} and should have {expected}");
                    return self.judge.fail(now, Invariant::Execution, what);
                }
            }
        }
    }
}

/// The height that a host has executed of a table.
pub fn view_height(host: &Host, table: TableId) -> Height {
    host.cores.iter().find_map(|core| core.core.view_of(table)).map_or(0, |view| view.state().height())
}
