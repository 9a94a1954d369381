//! The replica: what it knows, how the host drives it, and when it wants to be called.

use std::{collections::VecDeque, rc::Rc};

use dag::{Block, Certificate, Hash, Height, ReplicaId, View, VoteBundle, VoteKind};

use crate::{
    change::Views,
    checkers::Checkers,
    checkpoint::Checkpoints,
    config::{Base, Config},
    fetch::Catchup,
    message::Message,
    output::{Divergence, Output},
    record::Record,
    votes::Cast,
    window::{Accepted, Window},
};

/// Events since the start; all only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Heights committed by votes.
    pub committed_by_votes: u64,
    /// Heights committed by blocks fetched from peers.
    pub committed_by_blocks: u64,
    /// Views left.
    pub view_changes: u64,
    /// Complaints about a primary.
    pub suspicions: u64,
    /// Blocks that this replica checked because their checkers did not in time.
    pub checks_taken_over: u64,
    /// Rounds of resending.
    pub resends: u64,
    /// Votes and proposals outside the window, for an earlier view, or from one that has no say in it.
    pub ignored: u64,
    /// Messages that prove nothing or contradict what their sender said before: only a faulty replica sends
    /// them.
    pub faulty: u64,
}

/// Where a replica stands, for status pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The view that it is in, or wants to enter.
    pub view: View,
    /// Whether that view has begun.
    pub active: bool,
    /// The view's primary.
    pub primary: ReplicaId,
    /// Highest committed height.
    pub committed: Height,
    /// Highest height that the host has executed.
    pub executed: Height,
    /// Height of the last stable checkpoint.
    pub stable: Height,
    /// Heights under agreement.
    pub open: usize,
}

/// The top of the committed chain.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) height: Height,
    pub(crate) digest: Hash,
    pub(crate) time: u64,
    /// None exactly at height zero.
    pub(crate) commit: Option<Certificate>,
}

/// Deadlines in ns; absent while there is nothing to wait for.
#[derive(Default, Debug)]
pub(crate) struct Timers {
    /// When to suspect the primary, or to give up the view that does not begin.
    pub(crate) progress: Option<u64>,
    pub(crate) resend: Option<u64>,
    /// The first time at which a height is checked in its checkers' stead.
    pub(crate) check: Option<u64>,
    /// Rounds of resending since something moved.
    pub(crate) round: u32,
}

impl Timers {
    /// A height is to be checked by `deadline`, if not before.
    pub(crate) fn check_by(&mut self, deadline: u64) {
        self.check = Some(self.check.map_or(deadline, |first| first.min(deadline)));
    }
}

/// One table's replica. Not shared between threads; see the crate's description for how to drive it.
#[derive(Debug)]
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) head: Head,
    pub(crate) window: Window,
    pub(crate) views: Views,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) catchup: Catchup,
    pub(crate) checkers: Checkers,
    pub(crate) timers: Timers,
    pub(crate) waiting: bool,
    /// Something happened that makes resending pointless for now.
    pub(crate) moved: bool,
    /// Committed blocks of the log, to be handed to the host at the start.
    pub(crate) restored: Vec<(Block, Certificate)>,
    pub(crate) started: bool,
    /// After a divergence: nothing comes in or goes out any more.
    pub(crate) halted: bool,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
}

impl Replica {
    /// A replica that stands on `base`. Feed the log to [`restore`](Self::restore), then call
    /// [`start`](Self::start).
    ///
    /// # Panics
    /// Where the configuration or the base is inconsistent.
    pub fn new(config: Config, base: Base) -> Replica {
        config.check();
        base.check(config.table);
        let size = config.committee.size();
        Replica {
            window: Window::new(base.height, config.reach()),
            views: Views::new(size),
            checkpoints: Checkpoints::new(size, base.height, base.stable),
            catchup: Catchup::new(size),
            checkers: Checkers::new(size),
            head: Head { height: base.height, digest: base.digest, time: base.time, commit: base.commit },
            timers: Timers::default(),
            waiting: false,
            moved: false,
            restored: Vec::new(),
            started: false,
            halted: false,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// A message from `from`, over a channel that authenticates it.
    pub fn on_message(&mut self, from: ReplicaId, message: Message, now: u64) {
        if self.is_deaf() || from == self.config.me || usize::from(from) >= self.size() {
            return;
        }
        match message {
            Message::Proposal { view, block } => self.on_proposal(from, view, block, now),
            Message::ViewChange(change) => self.on_view_change(from, *change, now),
            Message::NewView(new_view) => self.on_new_view(from, *new_view, now),
            Message::Status { view, active, committed, stable } => {
                self.on_status(from, view, active, committed, stable, now);
            }
            Message::FetchBlocks { from: first, to } => self.on_fetch_blocks(from, first, to),
            Message::Blocks(blocks) => self.on_blocks(from, blocks, now),
            Message::FetchBody { height, digest } => self.on_fetch_body(from, height, digest),
            Message::Body(block) => self.on_body(block, now),
            Message::FetchView { view } => self.on_fetch_view(from, view, now),
            Message::StableCheckpoint(certificate) => self.on_stable_checkpoint(certificate, now),
            Message::Suspect { view } => self.on_suspect(from, view, now),
        }
        self.settle(now);
    }

    /// Vote `index` of a bundle whose signature the host has checked; of any voter, this replica included.
    ///
    /// # Panics
    /// Where the bundle has no vote `index`.
    pub fn on_vote(&mut self, bundle: &Rc<VoteBundle>, index: usize, now: u64) {
        let (vote, header) = (&bundle.votes()[index], bundle.header());
        let committee = &self.config.committee;
        let ours = vote.table == self.config.table
            && usize::from(header.replica) < committee.size()
            && (header.chain, header.epoch) == (committee.chain(), committee.epoch());
        if self.is_deaf() || !ours {
            self.counters.ignored += 1;
            return;
        }
        let cast = Cast::new(bundle, index);
        match vote.kind {
            VoteKind::Checkpoint => self.on_checkpoint_vote(header.replica, cast),
            VoteKind::Prepare | VoteKind::Commit => self.on_ballot(header.replica, cast, now),
        }
        self.settle(now);
    }

    /// Whether the host holds client work that this table should commit. While it does, the request timer
    /// runs (section 4.4); every commit restarts it.
    pub fn set_waiting(&mut self, waiting: bool, now: u64) {
        self.waiting = waiting;
        self.settle(now);
    }

    /// Effects that wait to be polled. A host that can't carry them out, for a full disk, must hold messages back.
    pub fn backlog(&self) -> usize {
        self.outputs.len()
    }

    /// The next effect. Drain it after every call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`on_timeout`](Self::on_timeout), in ns; never for an idle table.
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.is_deaf() {
            return None;
        }
        let (fetch, transfer) = (self.catchup.deadline(), self.transfer_deadline());
        let deadlines = [self.timers.progress, self.timers.resend, self.timers.check, fetch, transfer];
        deadlines.into_iter().flatten().min()
    }

    /// The time has come. Harmless when called early.
    pub fn on_timeout(&mut self, now: u64) {
        if self.is_deaf() {
            return;
        }
        if self.timers.progress.is_some_and(|deadline| deadline <= now) {
            self.timers.progress = None;
            self.on_no_progress(now);
        }
        if self.timers.resend.is_some_and(|deadline| deadline <= now) {
            self.timers.round += 1;
            self.timers.resend = None;
            self.resend(now);
        }
        if self.timers.check.is_some_and(|deadline| deadline <= now) {
            self.on_check_timeout(now);
        }
        self.on_fetch_timeout(now);
        self.on_transfer_timeout(now);
        self.settle(now);
    }

    /// Brings fetches and deadlines in line with what the last input changed.
    pub(crate) fn settle(&mut self, now: u64) {
        if self.is_deaf() {
            self.timers = Timers::default();
            return;
        }
        self.fetch_blocks(now);
        let open = self.is_open();
        if std::mem::take(&mut self.moved) {
            self.timers.resend = None;
            self.timers.round = 0;
        }
        if self.views.active {
            let expects = open || self.waiting;
            let deadline = self.timers.progress.unwrap_or(now.saturating_add(self.timeout()));
            self.timers.progress = expects.then_some(deadline);
        } else if self.timers.progress.is_none() && self.views.may_begin(self.quorum()) {
            self.timers.progress = Some(now.saturating_add(self.timeout()));
        }
        let stalls = open || self.waiting || !self.views.active || self.checkpoints.is_open();
        let deadline = self.timers.resend.unwrap_or(now.saturating_add(self.resend_after()));
        self.timers.resend = stalls.then_some(deadline);
    }

    /// How long the current view may take: doubles with each view that failed in a row (section 4.5.2).
    pub(crate) fn timeout(&self) -> u64 {
        let doubled = self.config.base_timeout.saturating_mul(1 << self.views.failed.min(20));
        doubled.min(self.config.max_timeout)
    }

    fn resend_after(&self) -> u64 {
        self.config.resend_every.saturating_mul(1 << self.timers.round.min(4))
    }

    /// Whether any height is under agreement.
    fn is_open(&self) -> bool {
        self.window.iter().any(|(_, instance)| instance.is_open(self.weak()))
    }

    /// Not started, or halted.
    pub(crate) fn is_deaf(&self) -> bool {
        !self.started || self.halted
    }

    /// The state or past of this replica contradicts a quorum's: tells the host and stops.
    pub(crate) fn diverge(&mut self, divergence: Divergence) {
        self.emit(Output::Diverged(divergence));
        self.halted = true;
    }

    pub(crate) fn size(&self) -> usize {
        self.config.committee.size()
    }

    pub(crate) fn quorum(&self) -> usize {
        self.config.committee.quorum()
    }

    /// f + 1: at least one of so many is honest.
    pub(crate) fn weak(&self) -> usize {
        self.config.committee.faulty() + 1
    }

    pub(crate) fn emit(&mut self, output: Output) {
        if !self.halted {
            self.outputs.push_back(output);
        }
    }

    pub(crate) fn persist(&mut self, record: Record) {
        self.emit(Output::Persist(record));
    }

    pub(crate) fn broadcast(&mut self, message: Message) {
        self.emit(Output::Broadcast(message));
    }

    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.emit(Output::Send(to, message));
    }

    /// The view that this replica is in, or wants to enter.
    pub fn view(&self) -> View {
        self.views.view
    }

    /// Whether that view has begun for it.
    pub fn is_active(&self) -> bool {
        self.views.active
    }

    /// The primary of that view.
    pub fn primary(&self) -> ReplicaId {
        self.config.committee.primary(self.config.table, self.views.view)
    }

    /// Highest committed height.
    pub fn committed_height(&self) -> Height {
        self.head.height
    }

    /// Hash of the block there.
    pub fn committed_digest(&self) -> Hash {
        self.head.digest
    }

    /// Its commit certificate; none at the genesis. A snapshot keeps it for [`Base::commit`].
    pub fn committed_certificate(&self) -> Option<&Certificate> {
        self.head.commit.as_ref()
    }

    /// The last stable checkpoint.
    pub fn stable(&self) -> Option<&Certificate> {
        self.checkpoints.stable()
    }

    /// Its height; zero for the genesis.
    pub fn stable_height(&self) -> Height {
        self.checkpoints.stable_height()
    }

    /// The accepted blocks above the committed height, ascending; what the next proposal builds upon. A
    /// re-proposed block that is still being fetched is left out.
    pub fn in_flight(&self) -> impl Iterator<Item = &Block> {
        self.accepted().filter_map(|accepted| accepted.block.as_ref())
    }

    /// Whether a block in flight, proposed again in this view, is still being fetched.
    pub fn lacks_bodies(&self) -> bool {
        self.accepted().any(|accepted| accepted.block.is_none())
    }

    fn accepted(&self) -> impl Iterator<Item = &Accepted> {
        self.window.iter().map_while(|(_, instance)| instance.accepted.as_ref())
    }

    /// Where it stands.
    pub fn summary(&self) -> Summary {
        Summary {
            view: self.view(),
            active: self.is_active(),
            primary: self.primary(),
            committed: self.head.height,
            executed: self.checkpoints.executed(),
            stable: self.stable_height(),
            open: self.window.iter().filter(|(_, instance)| instance.is_open(self.weak())).count(),
        }
    }

    /// Events since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
