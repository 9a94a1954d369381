//! The cluster: a seeded network and scheduler, the faults, and the invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use dag::{
    Committee, Hash, Height, ReplicaId, VoteBundle, VoteKind,
    keys::{KeyPair, Signature},
};
use ed25519_dalek::VerifyingKey;
use pbft::{Base, Counters, Message, Replica, Verdict, ViewChange};

use crate::{
    faults::{Checkers, Faults, MS, Random},
    host::{CHAIN, Host, News},
};

enum Event {
    Frame { to: usize, from: ReplicaId, bytes: bytes::Bytes },
    Votes { to: usize, bundle: Rc<VoteBundle> },
    Sync { node: usize, life: u64 },
    Validated { node: usize, life: u64, view: u64, height: Height, digest: Hash, verdict: Verdict },
    Installed { node: usize, life: u64, height: Height },
    Fault,
    Restart(usize),
}

type SignedVote = (ReplicaId, VoteKind, u64, Height);

/// Nodes 0 to n − 1 are the replicas; twins of the first f come behind them.
pub struct World {
    pub hosts: Vec<Host>,
    pub transfers: u64,
    n: usize,
    now: u64,
    faults: Faults,
    random: Random,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    target: Height,
    /// Group of each node; groups don't hear each other.
    groups: Vec<u64>,
    silent: BTreeSet<usize>,
    syncing: Vec<bool>,
    decided: BTreeMap<Height, Hash>,
    invalid: BTreeSet<Hash>,
    signed: BTreeMap<SignedVote, Hash>,
}

fn verify_real(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// Most histories forge nothing, so checking signatures would only cost time; `real_signatures` checks all of
/// them.
fn verify_nothing(_: &[u8; 32], _: &[u8], _: &Signature) -> bool {
    true
}

impl World {
    pub fn new(seed: u64, n: usize, faults: Faults) -> World {
        let keys: Vec<Rc<KeyPair>> =
            (0..n).map(|i| Rc::new(KeyPair::from_seed(&[u8::try_from(i + 1).unwrap(); 32]))).collect();
        let committee = Committee::new(CHAIN, 0, keys.iter().map(|key| key.public()).collect()).unwrap();
        let committee = Rc::new(committee);
        let twins = if faults.twins { committee.faulty() } else { 0 };
        let verify = if faults.real_signatures { verify_real } else { verify_nothing };
        let host = |node: usize| {
            let me = ReplicaId::try_from(node % n).unwrap();
            let mut host = Host::new(me, Rc::clone(&keys[node % n]), Rc::clone(&committee), verify);
            (host.prune, host.table) = (faults.prune, faults.table);
            host.timeout = faults.timeout * MS;
            host
        };
        let hosts: Vec<Host> = (0..n + twins).map(host).collect();
        let mut world = World {
            n,
            now: 1,
            random: Random::new(seed.wrapping_mul(0x51_7cc1) ^ n as u64),
            events: BTreeMap::new(),
            sequence: 0,
            target: 0,
            groups: vec![0; hosts.len()],
            silent: BTreeSet::new(),
            syncing: vec![false; hosts.len()],
            decided: BTreeMap::new(),
            invalid: BTreeSet::new(),
            signed: BTreeMap::new(),
            transfers: 0,
            faults,
            hosts,
        };
        for node in 0..world.hosts.len() {
            world.hosts[node].boot(world.now);
            world.after(node);
        }
        if faults.partitions || faults.crashes || faults.noise {
            world.at(50 * MS, Event::Fault);
        }
        world
    }

    fn is_twin(&self, node: usize) -> bool {
        self.hosts.len() > self.n && node % self.n < self.hosts.len() - self.n
    }

    /// Who lies are the first f, the primaries of the first views; who is mute are the last f, as a primary says that it
    /// checked.
    fn lies(&self, node: usize) -> bool {
        node % self.n < self.hosts[node].committee.faulty()
    }

    fn is_mute(&self, node: usize) -> bool {
        node % self.n >= self.hosts[node].committee.quorum()
    }

    fn honest(&self) -> impl Iterator<Item = &Host> {
        (0..self.n)
            .filter(|&node| !self.is_twin(node) && !self.silent.contains(&node))
            .map(|node| &self.hosts[node])
    }

    pub fn views(&self) -> Vec<u64> {
        self.honest().filter_map(|host| host.replica.as_ref()).map(Replica::view).collect()
    }

    pub fn counters(&self, of: impl Fn(Counters) -> u64) -> u64 {
        self.honest().filter_map(|host| host.replica.as_ref()).map(|replica| of(replica.counters())).sum()
    }

    pub fn no_invalid_block(&self) -> bool {
        !self.invalid.is_empty() && self.decided.values().all(|hash| !self.invalid.contains(hash))
    }

    pub fn make_invalid(&mut self, node: usize) {
        self.hosts[node].invalid = true;
    }

    pub fn silence(&mut self, node: usize) {
        self.silent.insert(node);
    }

    /// The clients want this many more blocks.
    pub fn submit(&mut self, blocks: u64) {
        self.target += blocks;
        for node in 0..self.hosts.len() {
            self.after(node);
        }
    }

    /// Work that arrives bit by bit over a while.
    pub fn work_for(&mut self, duration: u64, blocks: u64) {
        for _ in 0..blocks {
            self.submit(1);
            self.run_for(duration / blocks);
        }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    pub fn run_for(&mut self, duration: u64) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// The faults end: channels are whole, and who is down comes up again. Twins stay what they are.
    pub fn heal(&mut self) {
        self.faults = Faults {
            delay: 5,
            loss: 0,
            duplicates: 0,
            commit_loss: 0,
            partitions: false,
            crashes: false,
            apart: [0; 4],
            ..self.faults
        };
        self.restart_all();
        self.regroup(|_, _| 0);
        for node in 0..self.hosts.len() {
            (0..self.n).for_each(|peer| self.connect(node, peer));
        }
    }

    pub fn run_until_done(&mut self, limit: u64) {
        let end = self.now + limit;
        while self.honest().any(|host| host.head() < self.target) {
            if !self.step(end) {
                let states: Vec<_> = self
                    .hosts
                    .iter()
                    .map(|host| host.replica.as_ref().map(|r| (r.summary(), r.counters(), r.poll_timeout())))
                    .collect();
                panic!("no progress to {} by {end}: {states:#?}", self.target);
            }
        }
    }

    /// No replica wants to be called again, unless it left its view for one that the others don't need: it
    /// keeps asking.
    pub fn run_until_idle(&mut self, limit: u64) {
        let end = self.now + limit;
        while self.step(end) {}
        for host in self.honest() {
            let replica = host.replica.as_ref().expect("all are up");
            let idle = replica.poll_timeout().is_none() || !replica.is_active();
            assert!(idle, "replica {}: {:?}", host.me, replica.summary());
        }
    }

    /// The next event or timer before `end`.
    fn step(&mut self, end: u64) -> bool {
        let timers = (0..self.hosts.len()).filter(|node| !self.silent.contains(node));
        let timer = timers
            .filter_map(|node| Some((self.hosts[node].replica.as_ref()?.poll_timeout()?, node)))
            .min()
            .map(|(at, node)| (at.max(self.now), node));
        let event = self.events.keys().next().copied();
        match (event, timer) {
            (Some((at, sequence)), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                self.now = at;
                let event = self.events.remove(&(at, sequence)).expect("it was there");
                self.handle(event);
            }
            (_, Some((due, node))) if due <= end => {
                self.now = due;
                self.hosts[node].replica.as_mut().expect("it has a timer").on_timeout(due);
                self.after(node);
            }
            _ => return false,
        }
        true
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Frame { to, from, bytes } => {
                if let Some(replica) = &mut self.hosts[to].replica {
                    replica.on_message(from, Message::decode(&bytes).expect("what was encoded"), now);
                    self.after(to);
                }
            }
            Event::Votes { to, bundle } => {
                if let Some(replica) = &mut self.hosts[to].replica {
                    (0..bundle.votes().len()).for_each(|index| replica.on_vote(&bundle, index, now));
                    self.after(to);
                }
            }
            Event::Sync { node, life } if self.hosts[node].life == life => self.sync(node),
            Event::Validated { node, life, view, height, digest, verdict }
                if self.hosts[node].life == life =>
            {
                let replica = self.hosts[node].replica.as_mut().expect("this life goes on");
                replica.on_validated(view, height, digest, verdict, now);
                self.after(node);
            }
            Event::Installed { node, life, height } if self.hosts[node].life == life => {
                self.transfer(node, height)
            }
            Event::Sync { .. } | Event::Validated { .. } | Event::Installed { .. } => {}
            Event::Fault => self.fault(),
            Event::Restart(node) => self.restart(node),
        }
    }

    /// After every call into a node: propose what is wanted, look at the news, and let the turn go to the
    /// disk.
    fn after(&mut self, node: usize) {
        let salt = self.random.next();
        self.hosts[node].pump(self.now);
        self.hosts[node].propose(self.target, self.now, salt);
        for news in std::mem::take(&mut self.hosts[node].news) {
            self.check(node, news);
        }
        if !std::mem::replace(&mut self.syncing[node], true) {
            let (life, delay) = (self.hosts[node].life, self.random.below(2 * MS));
            self.at(delay, Event::Sync { node, life });
        }
    }

    fn check(&mut self, node: usize, news: News) {
        let life = self.hosts[node].life;
        match news {
            News::Committed(height, hash) if !self.is_twin(node) => {
                let first = *self.decided.entry(height).or_insert(hash);
                assert_eq!(first, hash, "two blocks are committed at height {height}");
            }
            News::Committed(..) => {}
            News::Validate(view, height, digest, valid, check) => {
                if !valid {
                    self.invalid.insert(digest);
                }
                let verdict = match self.faults.checkers {
                    Checkers::Liars if self.lies(node) => Verdict::Valid { checked: true },
                    Checkers::Mute if self.is_mute(node) => Verdict::Valid { checked: false },
                    _ if check && !valid => Verdict::Invalid,
                    _ => Verdict::Valid { checked: check },
                };
                let delay = self.random.below(3 * MS);
                self.at(delay, Event::Validated { node, life, view, height, digest, verdict });
            }
            News::Behind(height, stable) => {
                assert_eq!(stable.vote.height, height);
                self.at(20 * MS, Event::Installed { node, life, height });
            }
            News::Evidence(evidence) => {
                let host = &self.hosts[node];
                let culprit = evidence.culprit(&host.committee, &host.verify).expect("evidence convicts");
                assert!(self.is_twin(usize::from(culprit)), "replica {culprit} is honest");
            }
        }
    }

    /// The state of any peer that has it. (Byzantine hosts can't forge one: the real host checks it against
    /// the certificate.)
    fn transfer(&mut self, node: usize, height: Height) {
        let of = |host: &Host| (host.snapshot.height >= height).then(|| host.snapshot.clone());
        let base: Option<Base> = self.honest().find_map(of);
        if let Some(base) = base {
            self.transfers += 1;
            self.hosts[node].install(base, self.now);
            self.after(node);
        }
    }

    /// The disk has it: now frames and votes leave.
    fn sync(&mut self, node: usize) {
        self.syncing[node] = false;
        let (bundle, frames) = self.hosts[node].sync();
        for (to, message) in frames {
            let message = self.distort(node, message);
            // Complaints always pass, so that views go by.
            let secret = !matches!(message, Message::Suspect { .. });
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let bytes = bytes::Bytes::from(bytes);
            for peer in 0..self.hosts.len() {
                if to.is_none_or(|to| usize::from(to) == peer % self.n) {
                    let from = self.hosts[node].me;
                    self.deliver(node, peer, secret, || Event::Frame {
                        to: peer,
                        from,
                        bytes: bytes.clone(),
                    });
                }
            }
        }
        if let Some(bundle) = bundle {
            self.check_votes(node, &bundle);
            let commits = bundle.votes().iter().any(|vote| vote.kind == VoteKind::Commit);
            let lost = if commits { self.faults.commit_loss } else { 0 };
            for peer in 0..self.hosts.len() {
                if peer != node && self.random.percent(lost) {
                    continue;
                }
                if peer == node {
                    self.at(0, Event::Votes { to: node, bundle: Rc::clone(&bundle) });
                } else {
                    self.deliver(node, peer, true, || Event::Votes { to: peer, bundle: Rc::clone(&bundle) });
                }
            }
        }
    }

    fn check_votes(&mut self, node: usize, bundle: &VoteBundle) {
        if self.is_twin(node) {
            return;
        }
        for vote in bundle.votes() {
            let place = (self.hosts[node].me, vote.kind, vote.view, vote.height);
            let first = *self.signed.entry(place).or_insert(vote.digest);
            assert_eq!(first, vote.digest, "replica {node} contradicts itself: {vote:?}");
        }
    }

    fn deliver(&mut self, from: usize, to: usize, secret: bool, event: impl Fn() -> Event) {
        let apart = self.groups[from] != self.groups[to] || (secret && self.are_apart(from, to));
        let same = self.hosts[from].me == self.hosts[to].me;
        if same || apart || self.silent.contains(&from) || self.silent.contains(&to) {
            return;
        }
        let copies = 1 + u64::from(self.random.percent(self.faults.duplicates));
        for _ in 0..copies {
            if !self.random.percent(self.faults.loss) {
                let delay = MS / 2 + self.random.below((self.faults.delay + 1) * MS);
                self.at(delay, event());
            }
        }
    }

    /// Whether the view that the sender is in parts these two.
    fn are_apart(&self, from: usize, to: usize) -> bool {
        let view = self.hosts[from].replica.as_ref().map_or(u64::MAX, Replica::view);
        let mask = usize::try_from(view).ok().and_then(|view| self.faults.apart.get(view)).copied();
        mask.is_some_and(|mask| (mask >> from & 1) != (mask >> to & 1))
    }

    /// What a liar makes of its message: a view change that hides what it prepared, or a status out of thin
    /// air.
    fn distort(&mut self, node: usize, message: Message) -> Message {
        if !self.is_twin(node) || !self.faults.noise || !self.random.percent(30) {
            return message;
        }
        let host = &self.hosts[node];
        match message {
            Message::ViewChange(change) => {
                let mut prepared = change.prepared;
                prepared.retain(|_| self.random.percent(50));
                let committed = if self.random.percent(50) { change.committed } else { None };
                if committed.is_none() {
                    prepared.clear();
                }
                let (replica, view) = (change.replica, change.view);
                let change = ViewChange::sign(
                    &host.key,
                    &host.committee,
                    host.table,
                    replica,
                    view,
                    committed,
                    prepared,
                );
                Message::ViewChange(Box::new(change))
            }
            Message::Status { .. } => {
                let (view, committed) = (self.random.next(), self.random.next());
                let (view, committed) = (view >> self.random.below(64), committed >> self.random.below(64));
                Message::Status { view, active: true, committed, stable: self.random.below(100) }
            }
            other => other,
        }
    }

    /// Now and then: a partition, a crash, a lie.
    fn fault(&mut self) {
        if self.faults.noise && self.random.percent(30) {
            self.lie();
        }
        if self.faults.partitions && self.random.percent(20) {
            let whole = self.random.percent(50);
            let mut cuts = Random::new(self.random.next());
            self.regroup(|_, _| if whole { 0 } else { cuts.below(2) });
        }
        if self.faults.crashes && self.random.percent(15) {
            let node = usize::try_from(self.random.below(self.n as u64)).unwrap();
            if self.hosts[node].replica.is_some() {
                self.crash(node);
                let delay = self.random.below(10 * self.faults.pace() * MS);
                self.at(delay, Event::Restart(node));
            }
        }
        if self.faults.partitions || self.faults.crashes || self.faults.noise {
            let delay = (self.faults.pace() / 8 + self.random.below(self.faults.pace())) * MS;
            self.at(delay, Event::Fault);
        }
    }

    fn lie(&mut self) {
        let twins = self.hosts.len() - self.n;
        if twins == 0 {
            return;
        }
        let node = usize::try_from(self.random.below(twins as u64)).unwrap();
        let view = self.random.below(12);
        let message = match self.random.below(3) {
            0 => Message::Suspect { view },
            1 => Message::FetchBlocks { from: view, to: u64::MAX },
            _ => Message::Suspect { view: u64::MAX },
        };
        self.hosts[node].turn.frames.push((None, message));
        self.after(node);
    }

    /// New groups; channels between nodes that were apart come up again.
    fn regroup(&mut self, mut group: impl FnMut(&World, usize) -> u64) {
        let before = self.groups.clone();
        self.groups = (0..self.hosts.len()).map(|node| group(self, node)).collect();
        for a in 0..self.hosts.len() {
            for b in 0..self.hosts.len() {
                if before[a] != before[b] && self.groups[a] == self.groups[b] {
                    self.connect(a, b);
                }
            }
        }
    }

    fn connect(&mut self, node: usize, peer: usize) {
        let id = self.hosts[peer].me;
        if let Some(replica) = &mut self.hosts[node].replica {
            replica.on_connected(id, self.now);
            self.after(node);
        }
    }

    pub fn crash(&mut self, node: usize) {
        let durable = usize::try_from(self.random.below(20)).unwrap();
        self.hosts[node].crash(durable);
        self.syncing[node] = false;
    }

    pub fn crash_all(&mut self) {
        (0..self.n).for_each(|node| self.crash(node));
    }

    pub fn restart(&mut self, node: usize) {
        if self.hosts[node].replica.is_some() {
            return;
        }
        self.hosts[node].boot(self.now);
        self.after(node);
        for peer in 0..self.hosts.len() {
            if peer != node {
                self.connect(node, peer);
                self.connect(peer, node);
            }
        }
    }

    pub fn restart_all(&mut self) {
        (0..self.hosts.len()).for_each(|node| self.restart(node));
    }
}
