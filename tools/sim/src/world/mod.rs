//! A whole network in one thread: validators of real code on simulated disks, clocks and wires, and their clients.
//!
//! Everything that happens is an event with a time; what is next is a matter of the seed alone.

mod adopted;
mod boot;
mod clients;
mod decisions;
mod faults;
mod hosts;
mod judge;
mod memory;
mod network;
mod settle;

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

use bytes::Bytes;
use dag::{
    Committee, LaneId,
    keys::{KeyPair, simulated},
};
use engine::{
    genesis::{Allocation, Genesis, GenesisValidator, Parameters},
    node::Cross,
    topology::Signatures,
};

use shard_core::sigbatch::{Backend, KnownKeys};

use self::{clients::Client, hosts::Host, judge::Judge, network::Network};
use crate::{
    coverage::Coverage,
    fault::HostId,
    model::{Invariant, Violation},
    random::Random,
    scenario::Scenario,
    trace::{Kind, Trace},
};

/// ns of a millisecond.
pub const MS: u64 = 1_000_000;
/// ns of a second.
pub const SECOND: u64 = 1_000 * MS;
/// Time of the genesis, µs since 1970.
const GENESIS_TIME: u64 = 1_700_000_000_000_000;
/// What an account has at the start.
const BALANCE: u64 = 1_000_000_000;

/// What happens at a time.
#[derive(Debug)]
enum Event {
    /// A frame of one validator reaches another.
    Frame { from: HostId, to: HostId, lane: LaneId, bytes: Bytes, epoch: u32 },
    /// A write of the log is done.
    Written { host: HostId, core: usize, life: u64 },
    /// The side executor of a core is done with its job.
    Side { host: HostId, core: usize, life: u64 },
    /// Something from one core to another of a validator.
    Cross { host: HostId, core: usize, life: u64, cross: Box<Cross> },
    /// Two validators try to connect.
    Connect { a: HostId, b: HostId, epoch: u32 },
    /// A validator learns that a connection is gone.
    PeerGone { host: HostId, life: u64, peer: HostId },
    /// A process starts.
    Boot { host: HostId, life: u64 },
    /// A process that was to die after some effects had none: it dies now.
    Die { host: HostId, life: u64 },
    /// An episode of the plan begins.
    Begin(usize),
    /// An episode of the plan ends.
    End(usize),
    /// A client does something.
    Tick(usize),
    /// A client's frame reaches its validator.
    ToNode { client: usize, session: u64, bytes: Bytes },
    /// A validator's bytes reach their client.
    FromNode { client: usize, session: u64, bytes: Bytes },
}

struct Scheduled {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The dice, one for each purpose.
struct Dice {
    network: Random,
    disk: Random,
    host: Random,
    client: Random,
    liar: Random,
    /// Which votes are lost, in addition to other losses.
    votes: Random,
    /// What would be left, had a validator died now.
    imagined: Random,
}

/// The network that is simulated.
pub struct World {
    scenario: Scenario,
    genesis: Genesis,
    committee: Rc<Committee>,
    known: Rc<KnownKeys>,
    keys: Vec<Rc<KeyPair>>,
    now: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    hosts: Vec<Host>,
    network: Network,
    clients: Vec<Client>,
    judge: Judge,
    trace: Trace,
    dice: Dice,
    coverage: Coverage,
    events: u64,
    /// The faults are over.
    healed: bool,
    /// Stays down, or cut off, when the others are healed.
    left_behind: Vec<HostId>,
}

/// How signatures are judged in a scenario.
fn rule(scenario: &Scenario) -> Signatures {
    if scenario.real_signatures { Signatures::Ed25519 } else { Signatures::Simulated }
}

fn key(real: bool, seed: &[u8; 32]) -> KeyPair {
    if real { KeyPair::from_seed(seed) } else { simulated::key(seed) }
}

fn genesis(scenario: &Scenario, keys: &[Rc<KeyPair>], clients: &[Client]) -> Genesis {
    let validator =
        |(i, key): (usize, &Rc<KeyPair>)| GenesisValidator { name: format!("v{i}"), key: key.address() };
    let parameters = Parameters {
        name: "simulated".into(),
        tables: scenario.tables,
        lanes: scenario.lanes,
        time: GENESIS_TIME,
        validators: keys.iter().enumerate().map(validator).collect(),
    };
    let addresses = clients.iter().flat_map(Client::addresses);
    let allocations = addresses.map(|address| Allocation { address, balance: BALANCE }).collect();
    Genesis::create(parameters, allocations).expect("a scenario has a valid genesis")
}

impl World {
    /// The world of a scenario, at time zero. `lines` has what happens written down.
    pub fn new(scenario: Scenario, lines: bool) -> World {
        let seed = scenario.seed;
        let mut secrets = Random::new(seed, "keys");
        let real = scenario.real_signatures;
        let keys: Vec<Rc<KeyPair>> =
            (0..scenario.validators).map(|_| Rc::new(key(real, &secrets.bytes()))).collect();
        let clients: Vec<Client> =
            (0..scenario.clients).map(|number| Client::new(number, &scenario, &mut secrets)).collect();
        let genesis = genesis(&scenario, &keys, &clients);
        let committee = Rc::new(genesis.committee().clone());
        let public: Vec<_> = keys.iter().filter(|_| real).map(|key| key.public()).collect();
        let known = Rc::new(KnownKeys::with_backend(Backend::best(), &public));
        let hosts = Host::all(&scenario);
        let mut world = World {
            network: Network::new(hosts.len()),
            judge: Judge::new(&scenario, &genesis, &clients),
            trace: Trace::new(lines),
            dice: Dice {
                network: Random::new(seed, "network"),
                disk: Random::new(seed, "disk"),
                host: Random::new(seed, "host"),
                client: Random::new(seed, "client"),
                liar: Random::new(seed, "liar"),
                votes: Random::new(seed, "votes"),
                imagined: Random::new(seed, "imagined"),
            },
            coverage: Coverage::default(),
            now: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            events: 0,
            healed: false,
            left_behind: Vec::new(),
            scenario,
            genesis,
            committee,
            known,
            keys,
            hosts,
            clients,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for host in 0..self.hosts.len() {
            self.at(0, Event::Boot { host, life: 0 });
        }
        for (index, episode) in self.scenario.plan.clone().into_iter().enumerate() {
            self.at(episode.at * MS, Event::Begin(index));
            self.at((episode.at + episode.lasts) * MS, Event::End(index));
        }
        for client in 0..self.clients.len() {
            self.at(20 * MS + client as u64 * MS, Event::Tick(client));
        }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at: self.now + delay, sequence: self.sequence, event }));
    }

    /// Runs the whole history: faults until the horizon, then healing, then all that was promised has to come true.
    pub fn run(&mut self) {
        self.run_until(self.scenario.horizon * MS, |_| false);
        self.heal();
        self.settle();
    }

    /// Runs until a time, a violation, or `done`.
    fn run_until(&mut self, end: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        let mut looked = self.now;
        while self.judge.ledger.violation().is_none() {
            if self.now >= looked + 20 * MS {
                looked = self.now;
                if done(self) {
                    return true;
                }
            }
            let event = self.queue.peek().map(|Reverse(next)| next.at);
            let turn = self.next_turn();
            match (event, turn) {
                (Some(at), turn) if at <= end && turn.is_none_or(|(due, _, _)| at <= due) => {
                    let Reverse(next) = self.queue.pop().expect("it was there");
                    self.now = at;
                    self.events += 1;
                    self.handle(next.event);
                }
                (_, Some((due, host, core))) if due <= end => {
                    self.now = due.max(self.now);
                    self.events += 1;
                    self.turn(host, core);
                }
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
        }
        false
    }

    fn handle(&mut self, event: Event) {
        if let Some((host, until)) = self.is_paused(&event) {
            self.sequence += 1;
            self.queue.push(Reverse(Scheduled { at: until, sequence: self.sequence, event }));
            self.trace.mark(self.now, Kind::Wait, host);
            return;
        }
        match event {
            Event::Frame { from, to, lane, bytes, epoch } => self.on_frame(from, to, lane, &bytes, epoch),
            Event::Written { host, core, life } => self.on_written(host, core, life),
            Event::Side { host, core, life } => self.on_side(host, core, life),
            Event::Cross { host, core, life, cross } => self.on_cross(host, core, life, *cross),
            Event::Connect { a, b, epoch } => self.on_connect(a, b, epoch),
            Event::PeerGone { host, life, peer } => self.on_peer_gone(host, life, peer),
            Event::Boot { host, life } => self.on_boot(host, life),
            Event::Die { host, life } => self.on_die(host, life),
            Event::Begin(index) => self.begin_episode(index),
            Event::End(index) => self.end_episode(index),
            Event::Tick(client) => self.on_tick(client),
            Event::ToNode { client, session, bytes } => self.on_client_frame(client, session, &bytes),
            Event::FromNode { client, session, bytes } => self.on_replies(client, session, &bytes),
        }
    }

    /// The host that an event is for, and until when it does not run.
    fn is_paused(&self, event: &Event) -> Option<(HostId, u64)> {
        let host = match event {
            Event::Frame { to, .. } => *to,
            Event::Written { host, .. } | Event::Side { host, .. } | Event::Cross { host, .. } => *host,
            Event::PeerGone { host, .. } => *host,
            _ => return None,
        };
        let until = self.hosts[host].paused_until;
        (until > self.now).then_some((host, until))
    }

    /// What was violated, if anything.
    pub fn violation(&self) -> Option<&Violation> {
        self.judge.ledger.violation()
    }

    /// Simulated time, in ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What was hit of the table of faults and states.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What came of it.
    pub fn facts(&self) -> String {
        self.judge.facts()
    }

    /// The scenario.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    fn chain(&self) -> dag::ChainId {
        self.genesis.chain()
    }
}
