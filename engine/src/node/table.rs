//! One table of the core: its agreement, its state, and what is on the way between them.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;
use dag::{Block, Certificate, Hash, Height, LaneId, TableId, View, client::Code};
use pbft::{Replica, Slot};
use shard_core::{
    Mempool, Table,
    mempool::{Answer, BlockLimits, Limits, Origin, Settled, Ticket},
};

use super::{
    Settings,
    clients::ClientId,
    history::History,
    retention::{Kept, Needs},
    stages::MarkBook,
    state_sync::Sync,
};
use crate::topology::Shard;

/// Committed blocks that may wait for execution before the table stops voting for new ones.
pub(super) const MAX_UNEXECUTED: usize = 32;
/// Outputs of the replica that may wait for the journal before it takes no more messages, and says no more.
const MAX_OUTPUTS: usize = 4096;
/// A transaction that waits so long while others commit makes its holder suspect the primary, ns.
const CENSORED_AFTER: u64 = 10_000_000_000;
/// A table that commits nothing for so long, while something waits, asks all validators for help, ns.
const STUCK_AFTER: u64 = 400_000_000;
/// Block time from one checkpoint to the next, where there are few blocks, µs; a rule of execution.
const CHECKPOINT_INTERVAL: u64 = 1_000_000;
/// A table that has had no checkpoint for so long since its state changed asks for another primary, ns.
const CHECKPOINT_OVERDUE: u64 = 3_000_000_000;
/// Most of one block: executing it takes a few milliseconds at most.
pub(super) const BLOCK_LIMITS: BlockLimits =
    BlockLimits { transactions: dag::table_block::MAX_TRANSACTIONS, payees: 6_000, bytes: 256 * 1024 };
/// Transactions that wait, for each table.
pub(super) const MAX_WAITING: usize = 8 * 1024;
/// Committed transactions that are remembered, for each table.
const RECENT: usize = 64 * 1024;

/// A table after recovery.
#[derive(Debug)]
pub struct TableSetup {
    /// Its state at its newest snapshot, or genesis.
    pub state: Table,
    /// Its replica, with the log's records restored, not started.
    pub replica: Replica,
    /// What it needs of the log.
    pub(super) needs: Needs,
}

impl TableSetup {
    /// A table from its state and its base; the log's records come next.
    pub fn new(state: Table, replica: Replica) -> TableSetup {
        TableSetup { state, replica, needs: Needs::default() }
    }

    /// The log holds a record of this table.
    pub fn on_record(&mut self, segment: u32) {
        self.needs.on_record(segment);
    }

    /// The log holds a block of this table.
    pub fn on_block(&mut self, segment: u32, height: Height) {
        self.needs.on_block(segment, height);
    }

    /// The table began at a snapshot. Where its promises stand in the log is not known any more: at the log's beginning at
    /// the latest.
    pub fn on_snapshot(&mut self) {
        let applied = self.state.meta().peers.iter().map(|peer| peer.applied_height).collect();
        self.needs.on_snapshot(Kept { height: self.state.height(), segment: 0, applied });
    }
}

/// Something for the mempool that has to wait for the end of a block.
#[derive(Debug)]
pub(super) enum Deferred {
    /// A record.
    Record(Origin, Bytes),
    /// A signature's verdict.
    Verdict(Ticket, bool, Option<ClientId>),
}

/// A proposal that is being judged.
#[derive(Debug)]
pub(super) struct Validation {
    /// Names it among the signatures in work.
    pub number: u64,
    pub view: View,
    pub height: Height,
    pub digest: Hash,
    pub block: Block,
    /// Signatures whose verdict is open.
    pub unverified: usize,
    /// Whether its signatures are known or being checked.
    pub checked: bool,
    pub invalid: bool,
    /// Whether all its inbox references are known to be right.
    pub inbox_known: bool,
}

/// A table with its agreement.
pub(super) struct TableNode {
    pub id: TableId,
    pub lane: LaneId,
    pub replica: Replica,
    pub state: Table,
    pub mempool: Mempool,
    /// What came while a block was being executed: the state is between two blocks only then, and a transaction of that block
    /// would look stale.
    pub deferred: Vec<Deferred>,
    pub validations: Vec<Validation>,
    pub unexecuted: VecDeque<(Block, Rc<Certificate>)>,
    pub history: History,
    pub marks: MarkBook,
    pub sync: Sync,
    pub needs: Needs,
    /// Whether the view is active.
    pub active: bool,
    /// The view whose blocks in flight the mempool knows, all of them.
    pub sorted: Option<View>,
    /// Log bytes since the last snapshot began.
    pub logged: u64,
    /// Since when some transaction waits to be proposed.
    pub ready_since: Option<u64>,
    /// When something was last committed.
    pub last_commit: u64,
    /// Until when the primary is not suspected of sitting on a transaction once more.
    pub trusted_until: u64,
    /// Until when transactions were spread to all validators lately enough.
    pub spread_until: u64,
    /// Until when a transaction that seems stale may be one that was committed in blocks that are unknown here.
    pub unsure_until: u64,
    /// When a checkpoint is due although nothing happens.
    pub propose_at: Option<u64>,
    /// The last checkpoint, when the one of what was executed since is overdue, and whether it is.
    overdue_at: Option<(Height, u64)>,
    overdue: bool,
}

impl TableNode {
    pub fn new(setup: TableSetup, shard: &Shard, settings: &Settings) -> TableNode {
        let id = setup.state.config().id;
        let limits = Limits {
            transactions: MAX_WAITING,
            bytes: settings.mempool_bytes,
            per_account: settings.pending_per_account,
            candidates: super::ingest::MAX_CANDIDATES,
            recent: RECENT,
        };
        let index_seed = setup.state.config().index_seed;
        TableNode {
            id,
            lane: shard.lane(id),
            replica: setup.replica,
            mempool: Mempool::new(shard.chain(), id, limits, index_seed),
            state: setup.state,
            deferred: Vec::new(),
            validations: Vec::new(),
            unexecuted: VecDeque::new(),
            history: History::new(settings.history_bytes),
            marks: MarkBook::default(),
            sync: Sync::default(),
            needs: setup.needs,
            active: true,
            sorted: None,
            logged: 0,
            ready_since: None,
            last_commit: 0,
            trusted_until: 0,
            spread_until: 0,
            unsure_until: 0,
            propose_at: None,
            overdue_at: None,
            overdue: false,
        }
    }

    /// Makes ready again what no block that survives holds: in a new view, or with a fetched state.
    pub fn repropose(&mut self, settled: &mut Vec<Settled>, now: u64) {
        let before = settled.len();
        let waiting = self.unexecuted.iter().map(|(block, _)| block);
        let surviving = waiting.clone().chain(self.replica.in_flight());
        self.state.inbox_mut().unpropose_all();
        for block in surviving {
            self.state.inbox_mut().mark_proposed(block.inbox());
        }
        let surviving = waiting.chain(self.replica.in_flight());
        self.mempool.repropose(self.state.accounts(), surviving, settled);
        self.answer_as_far_as_known(&mut settled[before..], now);
    }

    /// The answers, but for refusals that may be wrong because this node is behind: another validator knows.
    pub fn answer_as_far_as_known(&self, settled: &mut [Settled], now: u64) {
        for settled in settled {
            settled.answer = self.as_far_as_known(settled.answer, now);
        }
    }

    /// The same for one answer. What stands in a block is known.
    pub fn as_far_as_known(&self, answer: Answer, now: u64) -> Answer {
        let unsure = match answer.code {
            _ if answer.place.is_some() => false,
            Code::StaleSequence => now < self.unsure_until,
            Code::GappedSequence | Code::Overdraft => {
                let waits = self.unexecuted.len();
                self.replica.is_behind() || waits >= MAX_UNEXECUTED || waits > 0 && self.sync.is_fetching()
            }
            _ => false,
        };
        if unsure { Code::Unavailable.into() } else { answer }
    }

    /// When the table counts as stuck: something waits, and nothing is committed for [`STUCK_AFTER`].
    pub fn stuck_at(&self) -> Option<u64> {
        if !self.active {
            return None;
        }
        let since = self.mempool.oldest_waiting()?.max(self.last_commit);
        Some((since + STUCK_AFTER).max(self.spread_until))
    }

    /// When the table has something to do although nothing arrives.
    pub fn poll_timeout(&self) -> Option<u64> {
        let censored =
            self.mempool.oldest_waiting().map(|since| (since + CENSORED_AFTER).max(self.trusted_until));
        let replica = self.replica.poll_timeout().filter(|_| !self.is_stalled());
        let overdue = self.overdue_at.filter(|_| !self.overdue).map(|(_, at)| at);
        [replica, self.propose_at, self.sync.poll_timeout(), censored, self.stuck_at(), overdue]
            .into_iter()
            .flatten()
            .min()
    }

    /// Nothing is proposed before a time.
    pub fn hold_back(&mut self, until: u64) {
        self.propose_at = self.propose_at.map(|at| at.max(until));
    }

    /// Whether an empty block is due: the table has gone quiet with blocks above its last checkpoint, and a second has passed. So
    /// everything that is committed is soon under a checkpoint.
    pub fn quiet_checkpoint(&mut self, place: &Slot, now: u64, wall: u64) -> bool {
        let meta = self.state.meta();
        if meta.height + 1 != place.height || meta.checkpoint_height == meta.height {
            return false;
        }
        let due = meta.checkpoint_time + CHECKPOINT_INTERVAL;
        if due > wall {
            self.propose_at = Some(now + (due - wall) * 1000);
        }
        due <= wall
    }

    /// Whether the primary owes the others a checkpoint, so that what is committed stays without a proof. `wall` is µs since 1970:
    /// none is due before its time.
    pub fn is_checkpoint_overdue(&mut self, now: u64, wall: u64) -> bool {
        let meta = self.state.meta();
        let last = meta.checkpoint_height;
        let early = (meta.checkpoint_time + CHECKPOINT_INTERVAL).saturating_sub(wall) * 1000;
        self.overdue_at = if last == meta.height {
            None
        } else {
            let known = self.overdue_at.filter(|(since, _)| *since == last);
            known.or(Some((last, now + early + CHECKPOINT_OVERDUE)))
        };
        self.overdue = self.overdue_at.is_some_and(|(_, at)| at <= now);
        self.overdue
    }

    /// Whether the replica's outputs wait for a disk that is full.
    pub fn is_stalled(&self) -> bool {
        self.replica.backlog() >= MAX_OUTPUTS
    }

    /// Runs what is due.
    pub fn on_timeout(&mut self, now: u64) {
        if !self.is_stalled() && self.replica.poll_timeout().is_some_and(|at| at <= now) {
            self.replica.on_timeout(now);
        }
    }

    /// By table: the height up to which its receipts are applied here.
    pub fn applied_heights(&self) -> Vec<Height> {
        self.state.meta().peers.iter().map(|peer| peer.applied_height).collect()
    }

    /// Whether a transaction has waited so long that the primary must be sitting on it. Says so once in [`CENSORED_AFTER`].
    pub fn is_censored(&mut self, now: u64) -> bool {
        let since = self.mempool.oldest_waiting().unwrap_or(now);
        let censored = since + CENSORED_AFTER <= now && self.trusted_until <= now;
        if censored {
            self.trusted_until = now + CENSORED_AFTER;
        }
        censored
    }
}
