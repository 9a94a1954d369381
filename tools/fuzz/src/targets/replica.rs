//! One replica among peers that all lie: the bytes are a script of blocks, votes, view changes, timeouts and restarts, in any order,
//! and every signature is taken for good.
//!
//! More than f faulty peers may stop a replica or make it commit what others don't; they must not make it panic, contradict its own
//! votes (not even across restarts), skip a height, or lose its log.

use std::{collections::BTreeMap, rc::Rc, sync::LazyLock};

use bytes::Bytes;
use dag::{
    Block, Certificate, Committee, Hash, Height, ReplicaId, TableId, View, Vote, VoteBundle, VoteKind,
    hash::Domain,
    keys::KeyPair,
    table_block::{BlockBuilder, BlockHeader, HEADER_SIZE},
    vote::{BundleHeader, VoteProof},
};
use pbft::{
    Base, Config, Message, NewView, Output, PreparedEntry, Record, Replica, Verdict as Judgement, ViewChange,
};

use super::{Verdict, ledger::accept_every_signature};

const TABLE: TableId = 5;
const ME: ReplicaId = 2;
const SIZE: u16 = 4;
/// Steps of one script, so that a long one stays quick.
const MAX_STEPS: usize = 400;

/// Runs a script.
pub fn replica(bytes: &[u8]) -> Verdict {
    let mut world = World::new();
    let mut script = Script(bytes);
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        world.step(&mut script);
        world.drain();
        if world.stopped {
            return Err("diverged".into());
        }
    }
    world.restart();
    Err(world.standing())
}

/// The bytes as choices; zero behind their end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }

    fn view(&mut self) -> View {
        match self.byte() {
            255 => u64::MAX,
            view => u64::from(view % 6),
        }
    }

    fn height(&mut self) -> Height {
        match self.byte() {
            255 => u64::MAX,
            height => u64::from(height % 24),
        }
    }

    fn peer(&mut self) -> ReplicaId {
        u16::from(self.byte()) % SIZE
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

struct World {
    committee: Rc<Committee>,
    key: Rc<KeyPair>,
    replica: Replica,
    now: u64,
    base: Base,
    /// What the replica wrote, since the beginning.
    log: Vec<Bytes>,
    /// The digest of each prepare and commit vote that it signed.
    cast: BTreeMap<(VoteKind, View, Height), Hash>,
    /// Top of what it has committed in this life.
    head: (Height, Hash),
    executed: Height,
    committed: BTreeMap<Height, Hash>,
    judging: Vec<(View, Height, Hash)>,
    /// All blocks that there are.
    blocks: Vec<Block>,
    /// The last view change of each replica.
    changes: BTreeMap<ReplicaId, ViewChange>,
    stopped: bool,
}

impl World {
    fn new() -> World {
        static KEYS: LazyLock<[KeyPair; SIZE as usize]> =
            LazyLock::new(|| [1, 2, 3, 4].map(|seed| KeyPair::from_seed(&[seed; 32])));
        let keys = &*KEYS;
        let committee =
            Committee::new(1, 2, keys.iter().map(KeyPair::public).collect()).expect("four validators");
        let (committee, key) = (Rc::new(committee), Rc::new(keys[usize::from(ME)].clone()));
        let base = Base::genesis(Domain::GENESIS.hash(b"replica"), 1);
        let config = Config::new(TABLE, ME, committee.clone(), key.clone(), Rc::new(accept_every_signature));
        let mut replica = Replica::new(config, base.clone());
        replica.start(0);
        World {
            committee,
            key,
            replica,
            now: 0,
            head: (0, base.digest),
            base,
            log: Vec::new(),
            cast: BTreeMap::new(),
            executed: 0,
            committed: BTreeMap::new(),
            judging: Vec::new(),
            blocks: Vec::new(),
            changes: BTreeMap::new(),
            stopped: false,
        }
    }

    /// Where the replica stands, as words: numbers would not make an input new.
    fn standing(&self) -> String {
        let letter =
            |number: u64| char::from(b"abcdefgh"[usize::try_from(number.min(7)).expect("at most seven")]);
        let replica = &self.replica;
        let state = if replica.is_active() { "in" } else { "waits for" };
        let [view, height] = [replica.view(), replica.committed_height()].map(letter);
        let stable = letter(replica.stable_height());
        format!(
            "{state} view {view}, committed {height}, stable {stable}, {} open",
            letter(replica.summary().open as u64)
        )
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let now = self.now;
        match script.below(20) {
            0 | 1 => self.make_block(script),
            2 => self.propose(script),
            3 => {
                if let Some(block) = self.block(script) {
                    let view = script.view();
                    self.replica.on_message(script.peer(), Message::Proposal { view, block }, now);
                }
            }
            4 => self.vote(script, 1),
            5 | 6 => self.vote(script, SIZE),
            7 => {
                if !self.judging.is_empty() {
                    let (view, height, digest) = self.judging.remove(script.below(self.judging.len()));
                    let valid = Judgement::Valid { checked: script.flag() };
                    let judgement = if script.below(8) == 0 { Judgement::Invalid } else { valid };
                    self.replica.on_validated(view, height, digest, judgement, now);
                }
            }
            8 => self.say(script, |script| Message::Status {
                view: script.view(),
                active: script.flag(),
                committed: script.height(),
                stable: script.height(),
            }),
            9 => self.say(script, |script| Message::Suspect { view: script.view() }),
            10 => self.view_change(script),
            11 => self.new_view(script),
            12 => self.send_blocks(script),
            13 => {
                if let Some(block) = self.block(script) {
                    self.say(script, |_| Message::Body(block));
                }
            }
            14 => self.ask(script),
            15 => {
                let deadline = self.replica.poll_timeout().unwrap_or(now + 1_000_000_000);
                self.now = now.max(deadline);
                self.replica.on_timeout(self.now);
            }
            16 => self.checkpoint(script),
            17 => self.execute(),
            18 => match script.below(3) {
                0 => self.replica.set_waiting(script.flag(), now),
                1 => self.replica.suspect(now),
                _ => self.install(script),
            },
            _ => self.restart(),
        }
    }

    fn say(&mut self, script: &mut Script<'_>, message: impl FnOnce(&mut Script<'_>) -> Message) {
        let (from, message) = (script.peer(), message(script));
        self.replica.on_message(from, message, self.now);
    }

    fn block(&self, script: &mut Script<'_>) -> Option<Block> {
        self.blocks.get(script.below(self.blocks.len())).cloned()
    }

    /// A block upon the genesis, the committed head or any other block.
    fn make_block(&mut self, script: &mut Script<'_>) {
        let parent = match script.below(3) {
            0 => (self.head.0, self.head.1),
            1 => (0, self.base.digest),
            _ => self.block(script).map_or((0, self.base.digest), |block| (block.height(), block.hash())),
        };
        let view = script.view();
        let proposer = self.committee.primary(TABLE, view);
        self.add_block(parent.0.saturating_add(1), parent.1, view, proposer, u64::from(script.byte() % 4));
    }

    fn add_block(
        &mut self,
        height: Height,
        parent: Hash,
        view: View,
        proposer: ReplicaId,
        time: u64,
    ) -> Block {
        let block = BlockBuilder::new().seal(BlockHeader {
            chain: self.committee.chain(),
            epoch: self.committee.epoch(),
            table: TABLE,
            height,
            view,
            time,
            proposer,
            parent,
            ..BlockHeader::default()
        });
        self.blocks.push(block.clone());
        block
    }

    fn propose(&mut self, script: &mut Script<'_>) {
        let Some(slot) = self.replica.can_propose() else { return };
        let time = slot.parent_time + u64::from(script.byte() % 2);
        let block = self.add_block(slot.height, slot.parent, slot.view, ME, time);
        self.replica.propose(block, self.now);
    }

    /// Votes of `voters` peers, beginning with any one.
    fn vote(&mut self, script: &mut Script<'_>, voters: u16) {
        let Some(block) = self.block(script) else { return };
        let kind = if script.flag() { VoteKind::Prepare } else { VoteKind::Commit };
        let view = script.view();
        let vote =
            Vote { kind, checked: false, table: TABLE, view, height: block.height(), digest: block.hash() };
        let first = script.peer();
        for replica in (0..voters).map(|i| (first + i) % SIZE).filter(|replica| *replica != ME) {
            self.replica.on_vote(&self.bundle(replica, vote), 0, self.now);
        }
    }

    fn bundle(&self, replica: ReplicaId, vote: Vote) -> Rc<VoteBundle> {
        let (epoch, chain) = (self.committee.epoch(), self.committee.chain());
        let header = BundleHeader { lane: 0, replica, count: 1, epoch, chain };
        let bytes = [&header.to_bytes()[..], &[0; 64], &vote.to_bytes()].concat();
        Rc::new(VoteBundle::parse(&bytes).expect("a bundle of one vote"))
    }

    fn certificate(&self, kind: VoteKind, view: View, height: Height, digest: Hash) -> Certificate {
        let proof = |replica| VoteProof {
            replica,
            checked: false,
            lane: 0,
            count: 1,
            index: 0,
            path: Vec::new(),
            signature: [0; 64],
        };
        let vote = Vote { kind, checked: false, table: TABLE, view, height, digest };
        Certificate { vote, proofs: (0..3).map(proof).collect() }
    }

    fn view_change(&mut self, script: &mut Script<'_>) {
        let (from, view) = (script.peer(), script.view());
        let committed = self.block(script).filter(|_| script.flag());
        let committed =
            committed.map(|block| self.certificate(VoteKind::Commit, 0, block.height(), block.hash()));
        let mut prepared: BTreeMap<Height, PreparedEntry> = BTreeMap::new();
        for _ in 0..script.below(4) {
            let Some(block) = self.block(script) else { continue };
            let certificate =
                self.certificate(VoteKind::Prepare, script.view(), block.height(), block.hash());
            let header: [u8; HEADER_SIZE] = *block.bytes().first_chunk().expect("a block has a header");
            prepared.insert(block.height(), PreparedEntry { header, certificate });
        }
        let prepared = prepared.into_values().collect();
        let change = ViewChange { replica: from, view, committed, prepared, signature: [0; 64] };
        self.changes.insert(from, change.clone());
        self.replica.on_message(from, Message::ViewChange(Box::new(change)), self.now);
    }

    /// The view changes that there are, which may be for other views, or those of one view made up.
    fn new_view(&mut self, script: &mut Script<'_>) {
        let (from, view) = (script.peer(), script.view());
        let fit = script.flag();
        let changes = self
            .changes
            .values()
            .cloned()
            .map(|change| if fit { ViewChange { view, ..change } } else { change });
        let new_view = NewView { view, changes: changes.collect(), signature: [0; 64] };
        self.replica.on_message(from, Message::NewView(Box::new(new_view)), self.now);
    }

    fn send_blocks(&mut self, script: &mut Script<'_>) {
        let mut blocks = Vec::new();
        for _ in 0..script.below(4) {
            let Some(block) = self.block(script) else { return };
            blocks.push((
                self.certificate(VoteKind::Commit, script.view(), block.height(), block.hash()),
                block,
            ));
        }
        self.say(script, |_| Message::Blocks(blocks));
    }

    fn ask(&mut self, script: &mut Script<'_>) {
        let digest = self.block(script).map_or(Hash::ZERO, |block| block.hash());
        self.say(script, |script| match script.below(3) {
            0 => Message::FetchBlocks { from: script.height(), to: script.height() },
            1 => Message::FetchBody { height: script.height(), digest },
            _ => Message::FetchView { view: script.view() },
        });
    }

    fn checkpoint(&mut self, script: &mut Script<'_>) {
        let height = script.height();
        let mine = self.committed.get(&height).map(|digest| state_digest(height, digest));
        let digest = mine.filter(|_| script.below(16) != 0).unwrap_or(Hash([script.byte() % 2; 32]));
        if script.flag() {
            let certificate = self.certificate(VoteKind::Checkpoint, 0, height, digest);
            return self.say(script, |_| Message::StableCheckpoint(certificate));
        }
        let vote = Vote { kind: VoteKind::Checkpoint, checked: false, table: TABLE, view: 0, height, digest };
        let bundle = self.bundle(script.peer(), vote);
        self.replica.on_vote(&bundle, 0, self.now);
    }

    /// Executes the next committed block; every fourth makes a checkpoint.
    fn execute(&mut self) {
        let height = self.executed + 1;
        let Some(digest) = self.committed.get(&height).filter(|_| height <= self.head.0) else { return };
        self.executed = height;
        let checkpoint = height.is_multiple_of(4).then(|| state_digest(height, digest));
        self.replica.on_executed(height, checkpoint, self.now);
    }

    /// A state transfer to any block above the committed one.
    fn install(&mut self, script: &mut Script<'_>) {
        let Some(block) = self.block(script) else { return };
        let (height, digest) = (block.height(), block.hash());
        if height <= self.replica.committed_height() {
            return;
        }
        self.base = Base {
            height,
            digest,
            time: block.header().time,
            commit: Some(self.certificate(VoteKind::Commit, script.view(), height, digest)),
            stable: Some(self.certificate(VoteKind::Checkpoint, 0, height, state_digest(height, &digest))),
        };
        (self.head, self.executed) = ((height, digest), height);
        self.replica.install(self.base.clone(), self.now);
    }

    /// A crash, and a new life from the log.
    fn restart(&mut self) {
        let config =
            Config::new(TABLE, ME, self.committee.clone(), self.key.clone(), Rc::new(accept_every_signature));
        self.replica = Replica::new(config, self.base.clone());
        for record in &self.log {
            let record = Record::decode(record).expect("the log is what was written");
            self.replica.restore(record).expect("a replica reads its own log");
        }
        self.judging.clear();
        self.head = (self.base.height, self.base.digest);
        self.executed = self.base.height;
        self.replica.start(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        let mut own = Vec::new();
        for round in 0.. {
            assert!(round < 10_000, "one input has endless effects");
            match self.replica.poll_output() {
                None if own.is_empty() => break,
                None => {
                    for vote in std::mem::take(&mut own) {
                        self.replica.on_vote(&self.bundle(ME, vote), 0, self.now);
                    }
                }
                Some(Output::Persist(record)) => {
                    let mut bytes = Vec::new();
                    record.encode(&mut bytes);
                    self.log.push(bytes.into());
                }
                Some(Output::Vote(vote)) => {
                    self.check_vote(&vote);
                    own.push(vote);
                }
                Some(Output::Broadcast(message) | Output::Send(_, message)) => self.heard(message),
                Some(Output::Committed { block, certificate }) => self.check_committed(&block, &certificate),
                Some(
                    Output::Validate { view, height, block, .. } | Output::Check { view, height, block },
                ) => self.judging.push((view, height, block.hash())),
                Some(Output::Diverged(_)) => self.stopped = true,
                Some(Output::Evidence(evidence)) => {
                    assert!(evidence.culprit(&self.committee, &accept_every_signature).is_some());
                }
                Some(
                    Output::Stable { .. }
                    | Output::Serve { .. }
                    | Output::Behind { .. }
                    | Output::View { .. },
                ) => {}
            }
        }
    }

    /// A replica signs one digest for each kind, view and height, and only what its log holds.
    fn check_vote(&mut self, vote: &Vote) {
        if vote.kind != VoteKind::Checkpoint {
            let before = self.cast.insert((vote.kind, vote.view, vote.height), vote.digest);
            assert!(
                before.is_none_or(|before| before == vote.digest),
                "it contradicts its own vote: {vote:?}"
            );
        }
        let logged = self
            .log
            .iter()
            .rev()
            .any(|record| matches!(Record::decode(record), Ok(Record::Vote(v)) if v == *vote));
        assert!(logged, "a vote leaves before it is logged: {vote:?}");
    }

    fn check_committed(&mut self, block: &Block, certificate: &Certificate) {
        let (height, digest) = (block.height(), block.hash());
        assert_eq!((certificate.vote.kind, certificate.vote.digest), (VoteKind::Commit, digest));
        assert_eq!((height, block.header().parent), (self.head.0 + 1, self.head.1), "the chain has no gap");
        self.head = (height, digest);
        self.committed.insert(height, digest);
    }

    /// What the replica says is kept: peers know it, and may say it again.
    fn heard(&mut self, message: Message) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        Message::decode(&bytes.into()).expect("what a replica says can be read");
        match message {
            Message::ViewChange(change) => drop(self.changes.insert(ME, *change)),
            Message::NewView(new_view) => {
                self.changes.extend(new_view.changes.into_iter().map(|c| (c.replica, c)))
            }
            _ => {}
        }
    }
}

fn state_digest(height: Height, digest: &Hash) -> Hash {
    Domain::CHECKPOINT.hash_parts(&[&height.to_le_bytes(), &digest.0])
}
