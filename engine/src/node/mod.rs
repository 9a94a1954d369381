//! One core of a validator, without IO: its tables, their agreement, execution, signatures, clients and journal.
//!
//! The core loop feeds it with what arrived ([`Core::on_peer_frame`], [`Core::on_client_frame`], [`Core::on_cross`], …),
//! calls the three stages once per turn, and carries out the [`Effect`]s. Time comes in as an argument; nothing here reads a
//! clock, a socket or a file. So the simulator runs the same code.
//!
//! One turn does a bounded amount of work per stage: admit clients' records, one slice of signatures, one slice of
//! execution, proposals, timers, then the outputs of agreement, in the order in which they were emitted.

mod agree;
pub mod clients;
mod execute;
pub mod frame;
mod history;
mod ingest;
mod journal;
mod meters;
mod observe;
mod pace;
mod propose;
mod query;
mod retention;
mod stages;
mod state_sync;
mod table;
mod verify;

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;
use dag::{LaneId, ReplicaId, Vote, VoteBundle, keys::KeyPair};
use shard_core::{
    Delivery,
    mempool::{Settled, Ticket},
    sigbatch::Backend,
};

use self::{
    clients::{ClientId, Clients},
    journal::Journal,
    pace::Pace,
    query::Calls,
    retention::Foreign,
    table::TableNode,
    verify::Verifier,
};
use crate::{
    log::{LogPosition, Writer},
    metrics::Stage,
    topology::{Placement, Shard},
};

pub use self::history::Committed;
pub use self::journal::{AGREEMENT, OUTCOME, OutcomeRecord};
pub use self::meters::{Count, Meters};
pub use self::observe::{Queue, TableView};
pub use self::state_sync::{
    SECTION_BASE, SECTION_MARK, SECTION_PROMISE, SECTION_STATE, SECTION_VOUCHED, SnapshotJob, StateError,
    join_sections, load_state, split_sections,
};
pub use self::table::TableSetup;

/// What an operator may set; see the node's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of waiting transactions, for each table.
    pub mempool_bytes: usize,
    /// Waiting transactions of one account.
    pub pending_per_account: usize,
    /// First view-change timeout, ns.
    pub view_timeout: u64,
    /// Longest view-change timeout, ns.
    pub view_timeout_max: u64,
    /// Bytes of committed blocks kept in memory, for each table; those above the stable checkpoint are kept at any rate.
    pub history_bytes: usize,
    /// Log bytes of a table between two of its snapshots.
    pub snapshot_interval: u64,
    /// Newest segments of the log that stay, needed or not.
    pub retained_segments: u32,
    /// Signature work per turn, of votes and transactions together, in units of about a µs. A turn costs some µs whatever it
    /// does, so much is cheaper; where packets are relayed on the core they wait for no more than this and one piece of work
    /// (35 units, see `shard_core::sigbatch`).
    pub verify_slice: usize,
    /// The vector instructions that signatures are verified with.
    pub instructions: Backend,
    /// Slice of execution per turn, in account changes.
    pub execute_slice: usize,
    /// Slices of execution per turn, all tables together.
    pub execute_steps: usize,
    /// Blocks are proposed once in so long, or up to eight times as long where a core is busy, µs; zero: at once.
    pub interval: u64,
    /// Blocks of a table that may be in flight while their transactions are few.
    pub pipeline: u64,
    /// With this many transactions ready a block is made though [`pipeline`](Self::pipeline) are in flight.
    pub batch_target: usize,
    /// Never vote, propose or change a view: the validator has forgotten votes, and follows.
    pub silent: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mempool_bytes: 64 << 20,
            pending_per_account: 64,
            view_timeout: 600_000_000,
            view_timeout_max: 30_000_000_000,
            history_bytes: 8 << 20,
            snapshot_interval: 16 << 20,
            retained_segments: 4,
            verify_slice: 400,
            instructions: Backend::best(),
            execute_slice: 256,
            execute_steps: 8,
            interval: 2_500,
            pipeline: 2,
            batch_target: 256,
            silent: false,
        }
    }
}

/// What one core says to another of the same validator.
#[derive(Debug)]
pub enum Cross {
    /// What a block has for a table of the other core.
    Delivery(Delivery),
    /// A client's record for a table of the other core.
    Submit {
        /// The client, whose connection is here.
        client: ClientId,
        /// The client's tag.
        tag: u64,
        /// The record; its format is checked.
        record: Bytes,
    },
    /// A client's question for an account of the other core.
    Account {
        /// The client, whose connection is here.
        client: ClientId,
        /// The client's tag.
        tag: u64,
        /// The account.
        address: dag::Address,
    },
    /// The fate of a record that came from the other core.
    Reply(ClientId, dag::client::Reply),
    /// The answer to a question that came from the other core.
    Answer(ClientId, Bytes),
    /// A table of the sender began anew with a fetched state, and lacks what is in flight for it.
    Redeliver {
        /// The table.
        to: dag::TableId,
    },
    /// How far a table's snapshot has applied each table's receipts: what logs may forget.
    Applied {
        /// The table that has a snapshot.
        by: dag::TableId,
        /// By table, the height up to which its receipts are in the snapshot.
        heights: Box<[dag::Height]>,
    },
}

/// What the loop is to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a frame to one validator.
    ToPeer(ReplicaId, LaneId, Bytes),
    /// Send a frame to all others.
    ToPeers(LaneId, Bytes),
    /// Send bytes to a client.
    ToClient(ClientId, Bytes),
    /// Read from a client again.
    Resume(ClientId),
    /// Hand something to another core.
    ToCore(u16, Cross),
    /// Write a snapshot.
    Snapshot(SnapshotJob),
    /// Remove the log's segments below this one.
    TrimLog(u32),
    /// A line for the operator's log.
    Note(String),
    /// Stop the validator: going on would be lying.
    Halt(String),
}

/// What waits in the journal until it is durable.
#[derive(Debug)]
enum Held {
    ToPeer(ReplicaId, LaneId, Bytes),
    ToPeers(LaneId, Bytes),
    /// A snapshot: it names a place in the log, which a crash must not take back.
    Snapshot(SnapshotJob),
    /// An own vote: broadcast, and counted by the own replica only now, since a vote that a crash would forget is none.
    Vote(LaneId, Vote),
}

/// What a signature's verdict is about.
#[derive(Debug)]
enum Subject {
    Submitted { slot: usize, ticket: Ticket, client: Option<ClientId>, since: u64 },
    Proposed { slot: usize, proposal: u64 },
    Bundle { from: ReplicaId, bundle: Rc<VoteBundle> },
}

/// One core of a validator.
pub struct Core {
    shard: Shard,
    placement: Placement,
    settings: Settings,
    key: Rc<KeyPair>,
    tables: Vec<TableNode>,
    /// By table: its place in `tables`, where it is of this core.
    slots: Vec<Option<usize>>,
    /// By lane: votes that have become durable in this turn.
    votes: Vec<Vec<Vote>>,
    verifier: Verifier<Subject>,
    verdicts: Vec<(Subject, bool)>,
    pace: Pace,
    /// When blocks that are ready may be proposed.
    propose_at: Option<u64>,
    clients: Clients,
    journal: Journal<Held>,
    effects: VecDeque<Effect>,
    /// Where the next slice of execution begins.
    execute_next: usize,
    /// By validator: its vote bundles whose signatures wait.
    bundles_waiting: Vec<u32>,
    /// By lane and validator: whether it can be spoken to.
    links_up: Vec<Vec<bool>>,
    settled: Vec<Settled>,
    /// Something has come up that the next turn takes on at once.
    again: bool,
    /// Since when each transaction waited whose signature was judged in this turn.
    verified: Vec<u64>,
    /// Replies of this turn, and since when.
    replies: (u64, u64),
    scratch: Vec<u8>,
    next_proposal: u64,
    calls: Calls,
    foreign: Foreign,
    /// Segments of the log below this are removed.
    trimmed: u32,
    meters: Meters,
}

impl Core {
    /// A core with its tables recovered, and its log with the place of its newest record; [`start`](Self::start) comes next.
    pub fn new(
        shard: Shard,
        placement: Placement,
        settings: Settings,
        key: Rc<KeyPair>,
        verifier_seed: [u8; 32],
        tables: Vec<TableSetup>,
        log: (Writer, LogPosition),
    ) -> Core {
        let mut slots = vec![None; usize::from(shard.tables)];
        let tables: Vec<TableNode> = tables
            .into_iter()
            .enumerate()
            .map(|(slot, setup)| {
                slots[usize::from(setup.state.config().id)] = Some(slot);
                TableNode::new(setup, &shard, &settings)
            })
            .collect();
        assert_eq!(tables.len(), placement.tables(&shard).len(), "every table of the core is there");
        Core {
            verifier: Verifier::new(
                shard.signatures,
                settings.instructions,
                verifier_seed,
                shard.known.clone(),
                settings.verify_slice,
            ),
            verdicts: Vec::new(),
            pace: Pace::new(settings.interval),
            propose_at: None,
            votes: vec![Vec::new(); usize::from(shard.lanes)],
            clients: Clients::default(),
            journal: Journal::new(log.0, log.1),
            effects: VecDeque::new(),
            execute_next: 0,
            bundles_waiting: vec![0; shard.committee.size()],
            links_up: vec![vec![false; shard.committee.size()]; usize::from(shard.lanes)],
            meters: Meters::new(placement.core),
            settled: Vec::new(),
            verified: Vec::new(),
            again: true,
            replies: (0, 0),
            scratch: Vec::new(),
            next_proposal: 0,
            calls: Calls::default(),
            foreign: Foreign::new(shard.tables),
            trimmed: 0,
            tables,
            slots,
            shard,
            placement,
            settings,
            key,
        }
    }

    /// Takes up work after recovery.
    pub fn start(&mut self, now: u64) {
        for table in &mut self.tables {
            table.replica.start(now);
            table.adopt_checkpoint(now);
        }
    }

    /// First stage of a turn: clients' records in, and a slice of signatures. Each stage returns whether it has more to do at
    /// once; the loop times them apart.
    pub fn verify_stage(&mut self, now: u64) -> bool {
        self.admit(now);
        let verifying = self.verify(now);
        verifying || (self.clients.has_backlog() && !self.is_full())
    }

    /// Second stage of a turn: a slice of execution, and of the snapshots that are being copied.
    pub fn execute_stage(&mut self, now: u64) -> bool {
        for since in self.verified.drain(..) {
            self.meters.stage(Stage::Verify, since, now, 1);
        }
        let executing = self.execute(now);
        self.copy_snapshots(now) || executing
    }

    /// Last stage of a turn: proposals, timers, what the replicas ask for, votes, and what has become durable. `wall` is µs since
    /// 1970.
    pub fn agree_stage(&mut self, now: u64, wall: u64) -> bool {
        self.propose(now, wall);
        self.forward(now);
        self.fire_timers(now);
        // Where the journal is full, the end of its write brings the next turn.
        if self.drain_agreement(now, wall) {
            self.take_promises(now);
        }
        let released = self.release(now);
        self.clients.flush(|client, bytes| self.effects.push_back(Effect::ToClient(client, bytes)));
        let (count, since) = std::mem::take(&mut self.replies);
        self.meters.stage(Stage::Reply, since, now, count);
        // What was committed in this stage is executed in the next turn, and a view that began has something to propose. Signatures that
        // came after the first stage are looked at then, too.
        released || std::mem::take(&mut self.again) || self.verifier.has_arrivals()
    }

    /// The next thing to do outside.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the stages have to be called again, if nothing arrives before.
    pub fn poll_timeout(&self) -> Option<u64> {
        let tables = self.tables.iter().filter_map(|table| table.poll_timeout());
        tables.chain(self.verifier.poll_timeout(self.propose_at)).chain(self.propose_at).min()
    }

    /// The journal's writer, for the loop that moves its bytes.
    pub fn journal(&mut self) -> &mut Writer {
        self.journal.writer()
    }

    /// A log group is durable; its buffer comes back.
    pub fn on_durable(&mut self, buf: netio::AlignedBuf, now: u64) {
        self.meters.count(Count::LogCommits, 1);
        self.meters.count(Count::LogBytes, buf.len() as u64);
        let since = self.journal.commit_done(buf);
        self.meters.stage(Stage::Durable, since, now, 1);
    }

    /// Counters and times.
    pub fn meters(&mut self) -> &mut Meters {
        &mut self.meters
    }
}
