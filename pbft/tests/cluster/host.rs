//! One validator of the simulated cluster: a replica with its log, chain and snapshots, as the real host
//! keeps them.

use std::rc::Rc;

use bytes::Bytes;
use dag::{
    Block, Certificate, Committee, Hash, Height, ReplicaId, TableId, Vote, VoteBundle,
    hash::Domain,
    keys::{KeyPair, VerifyFn},
    table_block::{BlockBuilder, BlockHeader},
};
use pbft::{Base, Config, Message, Output, Record, Replica, Slot};

pub const CHAIN: u64 = 77;
/// Blocks between checkpoints.
pub const CHECKPOINT_EVERY: Height = 8;

/// A message to one peer, or to all.
pub type Frame = (Option<ReplicaId>, Message);

/// What leaves a node once its records are durable.
#[derive(Default)]
pub struct Turn {
    pub records: Vec<Bytes>,
    pub votes: Vec<Vote>,
    pub frames: Vec<Frame>,
}

pub struct Host {
    pub me: ReplicaId,
    pub table: TableId,
    pub key: Rc<KeyPair>,
    pub committee: Rc<Committee>,
    pub verify: VerifyFn,
    pub replica: Option<Replica>,
    pub log: Vec<Bytes>,
    /// The durable snapshot.
    pub snapshot: Base,
    /// Committed blocks from height `chain_start` on.
    pub chain: Vec<(Certificate, Block)>,
    pub chain_start: Height,
    pub turn: Turn,
    /// Counts restarts, so that events of an earlier life are recognised.
    pub life: u64,
    pub invalid: bool,
    pub prune: bool,
    /// In ns; zero for the default.
    pub timeout: u64,
    /// What the world has to check or schedule after a call.
    pub news: Vec<News>,
}

pub enum News {
    Committed(Height, Hash),
    /// A proposal to judge: view, height, digest, whether its signatures are good, whether to check them.
    Validate(u64, Height, Hash, bool, bool),
    Behind(Height, Certificate),
    Evidence(Box<pbft::Evidence>),
}

pub fn genesis() -> Base {
    Base::genesis(Domain::GENESIS.hash(b"cluster"), 1)
}

/// The state after a height, which a checkpoint signs: any function of the chain.
pub fn state_digest(height: Height, digest: &Hash) -> Hash {
    Domain::CHECKPOINT.hash_parts(&[&height.to_le_bytes(), &digest.0])
}

impl Host {
    pub fn new(me: ReplicaId, key: Rc<KeyPair>, committee: Rc<Committee>, verify: VerifyFn) -> Host {
        Host {
            me,
            table: 0,
            key,
            committee,
            verify,
            replica: None,
            log: Vec::new(),
            snapshot: genesis(),
            chain: Vec::new(),
            chain_start: 1,
            turn: Turn::default(),
            life: 0,
            invalid: false,
            prune: false,
            timeout: 0,
            news: Vec::new(),
        }
    }

    /// Starts from snapshot and log.
    pub fn boot(&mut self, now: u64) {
        let (key, committee) = (Rc::clone(&self.key), Rc::clone(&self.committee));
        let mut config = Config::new(self.table, self.me, committee, key, Rc::new(self.verify));
        config.watermark = 4 * CHECKPOINT_EVERY;
        config.max_timeout = 5_000_000_000;
        if self.timeout > 0 {
            config.base_timeout = self.timeout;
            config.resend_every = self.timeout / 4;
        }
        let mut replica = Replica::new(config, self.snapshot.clone());
        for bytes in &self.log {
            replica.restore(Record::decode(bytes).expect("own record")).expect("own past");
        }
        self.chain.clear();
        self.chain_start = self.snapshot.height + 1;
        replica.start(now);
        self.replica = Some(replica);
    }

    /// Loses everything but what is durable; of the records on their way to the disk, `durable` arrived.
    pub fn crash(&mut self, durable: usize) {
        let durable = durable.min(self.turn.records.len());
        self.log.extend(self.turn.records.drain(..durable));
        self.turn = Turn::default();
        self.replica = None;
        self.life += 1;
    }

    pub fn head(&self) -> Height {
        self.replica.as_ref().map_or(0, Replica::committed_height)
    }

    /// Drains the replica. Records, votes and frames gather in the turn.
    pub fn pump(&mut self, now: u64) {
        let mut stable = None;
        while let Some(output) = self.replica.as_mut().and_then(Replica::poll_output) {
            match output {
                Output::Persist(record) => {
                    let mut bytes = Vec::new();
                    record.encode(&mut bytes);
                    self.turn.records.push(bytes.into());
                }
                Output::Vote(vote) => self.turn.votes.push(vote),
                Output::Broadcast(message) => self.turn.frames.push((None, message)),
                Output::Send(to, message) => self.turn.frames.push((Some(to), message)),
                Output::Validate { view, height, block, check } => {
                    self.news.push(News::Validate(view, height, block.hash(), is_valid(&block), check));
                }
                Output::Check { view, height, block } => {
                    self.news.push(News::Validate(view, height, block.hash(), is_valid(&block), true));
                }
                Output::Committed { block, certificate } => self.execute(block, certificate, now),
                Output::Stable { certificate } => stable = Some(certificate),
                Output::Serve { to, from_height, to_height } => self.serve(to, from_height, to_height),
                Output::Behind { height, stable } => self.news.push(News::Behind(height, stable)),
                Output::View { .. } => {}
                Output::Evidence(evidence) => self.news.push(News::Evidence(evidence)),
                Output::Diverged(divergence) => panic!("replica {}: {divergence}", self.me),
            }
        }
        if let Some(stable) = stable {
            self.take_snapshot(stable);
        }
    }

    fn execute(&mut self, block: Block, certificate: Certificate, now: u64) {
        let height = block.height();
        assert_eq!(height, self.chain_start + self.chain.len() as u64, "contiguous");
        assert_eq!(certificate.check(&self.committee, &self.verify), Ok(()));
        assert_eq!(certificate.vote.digest, block.hash());
        let hash = block.hash();
        self.chain.push((certificate, block));
        self.news.push(News::Committed(height, hash));
        let checkpoint = height.is_multiple_of(CHECKPOINT_EVERY).then(|| state_digest(height, &hash));
        self.replica.as_mut().expect("running").on_executed(height, checkpoint, now);
    }

    /// A snapshot at the stable checkpoint; then the log begins anew with what is open and what the snapshot
    /// lacks.
    fn take_snapshot(&mut self, stable: Certificate) {
        let height = stable.vote.height;
        let Some((certificate, block)) = self.block(height) else { return };
        let (digest, time) = (block.hash(), block.header().time);
        self.snapshot =
            Base { height, digest, time, commit: Some(certificate.clone()), stable: Some(stable) };
        // What is on its way to the disk is part of the new log.
        self.turn.records.clear();
        self.log.clear();
        let replica = self.replica.as_ref().expect("running");
        let mut records = Vec::new();
        let above = usize::try_from(height + 1 - self.chain_start).expect("small");
        for (certificate, block) in &self.chain[above..] {
            records.push(Record::Proposal { view: certificate.vote.view, block: block.clone() });
            records.push(Record::Committed(certificate.clone()));
        }
        records.extend(replica.records());
        for record in records {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            self.log.push(bytes.into());
        }
        if self.prune {
            self.chain.drain(..above);
            self.chain_start = height + 1;
        }
    }

    fn block(&self, height: Height) -> Option<&(Certificate, Block)> {
        self.chain.get(usize::try_from(height.checked_sub(self.chain_start)?).ok()?)
    }

    fn serve(&mut self, to: ReplicaId, from: Height, last: Height) {
        let message = if from >= self.chain_start {
            Message::Blocks((from..=last).map_while(|height| self.block(height)).take(5).cloned().collect())
        } else if let Some(stable) = self.replica.as_ref().and_then(Replica::stable) {
            Message::StableCheckpoint(stable.clone())
        } else {
            return;
        };
        self.turn.frames.push((Some(to), message));
    }

    /// State transfer from another host's snapshot.
    pub fn install(&mut self, base: Base, now: u64) {
        let replica = self.replica.as_mut().expect("running");
        if base.height <= replica.committed_height() {
            return;
        }
        self.chain.clear();
        self.chain_start = base.height + 1;
        self.snapshot = base.clone();
        replica.install(base, now);
        self.pump(now);
    }

    /// Proposes while there is room, up to `target`.
    pub fn propose(&mut self, target: Height, now: u64, salt: u64) {
        let Some(replica) = self.replica.as_mut() else { return };
        replica.set_waiting(replica.committed_height() < target, now);
        while let Some(slot) = replica.can_propose().filter(|slot| slot.height <= target) {
            replica.propose(build(slot, (self.table, self.me), salt, self.invalid), now);
        }
        self.pump(now);
    }

    /// Makes the turn durable and gives what leaves: frames, and the bundle of its votes.
    pub fn sync(&mut self) -> (Option<Rc<VoteBundle>>, Vec<Frame>) {
        let turn = std::mem::take(&mut self.turn);
        self.log.extend(turn.records);
        let bundle = (!turn.votes.is_empty())
            .then(|| Rc::new(VoteBundle::sign(&self.key, &self.committee, self.me, 0, turn.votes)));
        (bundle, turn.frames)
    }
}

/// Whether its signatures are good: a mark stands for those of transactions.
fn is_valid(block: &Block) -> bool {
    block.header().checkpoint_height != u64::MAX
}

fn build(slot: Slot, (table, me): (TableId, ReplicaId), salt: u64, invalid: bool) -> Block {
    BlockBuilder::new().seal(BlockHeader {
        chain: CHAIN,
        table,
        height: slot.height,
        view: slot.view,
        // So that the checkers change every few blocks.
        time: slot.parent_time + 10_000_000,
        proposer: me,
        parent: slot.parent,
        checkpoint_height: if invalid { u64::MAX } else { 0 },
        // What a clock and clients would make different in two blocks of one place.
        checkpoint: Domain::UNIT.hash(&salt.to_le_bytes()),
        ..BlockHeader::default()
    })
}
