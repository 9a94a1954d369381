//! Liveness against a faulty replica that keeps to itself what it owes to all: three honest replicas with a
//! network between them, and a scripted fourth.

use std::{collections::VecDeque, rc::Rc};

use dag::{Certificate, ReplicaId, View, VoteBundle, VoteKind};
use pbft::{Message, Output, Replica, Verdict, ViewChange};

use crate::kit::{Kit, drain, genesis, proposal, vote};

const MS: u64 = 1_000_000;

enum Event {
    Message(ReplicaId, ReplicaId, Box<Message>),
    Vote(ReplicaId, ReplicaId, Rc<VoteBundle>),
}

/// What the faulty replica sends when it hears a message of a replica: messages and to whom.
type Script = Box<dyn FnMut(&Kit, ReplicaId, &Message) -> Vec<(ReplicaId, Message)>>;

struct Net {
    kit: Rc<Kit>,
    /// None is the faulty one.
    replicas: Vec<Option<Replica>>,
    script: Script,
    queue: VecDeque<Event>,
    /// Links that lose everything.
    cut: Vec<(ReplicaId, ReplicaId)>,
    /// Whether honest primaries have something to propose.
    proposing: bool,
    now: u64,
}

impl Net {
    fn new(faulty: ReplicaId, script: Script) -> Net {
        let kit = Rc::new(Kit::new());
        let mut replicas: Vec<_> = (0..4).map(|i| (i != faulty).then(|| kit.replica(i))).collect();
        replicas.iter_mut().flatten().for_each(|replica| replica.set_waiting(true, 0));
        let (queue, cut) = (VecDeque::new(), Vec::new());
        Net { kit, replicas, script, queue, cut, proposing: false, now: 0 }
    }

    /// Delivers until all is quiet.
    fn settle(&mut self) {
        loop {
            (0..4).for_each(|replica| self.work(replica));
            let Some(event) = self.queue.pop_front() else { return };
            let (Event::Message(from, to, _) | Event::Vote(from, to, _)) = event;
            if self.cut.contains(&(from, to)) {
                continue;
            }
            let receiver = self.replicas[usize::from(to)].as_mut();
            match (event, receiver) {
                (Event::Message(_, _, message), Some(replica)) => {
                    replica.on_message(from, *message, self.now);
                }
                (Event::Vote(_, _, bundle), Some(replica)) => replica.on_vote(&bundle, 0, self.now),
                (Event::Message(_, _, message), None) => {
                    let answers = (self.script)(&self.kit, from, &message);
                    // It is faster than all others.
                    for (peer, said) in answers {
                        self.queue.push_front(Event::Message(to, peer, Box::new(said)));
                    }
                }
                (Event::Vote(..), None) => {}
            }
        }
    }

    /// Does what a host owes its replica.
    fn work(&mut self, me: ReplicaId) {
        let Some(replica) = self.replicas[usize::from(me)].as_mut() else { return };
        while self.proposing
            && let Some(slot) = replica.can_propose().filter(|slot| slot.height < 4)
        {
            replica.propose(self.kit.block(slot.view, slot.height, slot.parent, 7), self.now);
        }
        for output in drain(replica) {
            match output {
                Output::Vote(vote) => {
                    let bundle = self.kit.bundle(me, vote);
                    self.queue.extend((0..4).map(|to| Event::Vote(me, to, Rc::clone(&bundle))));
                }
                Output::Broadcast(message) => {
                    let peers = (0..4).filter(|&to| to != me);
                    self.queue.extend(peers.map(|to| Event::Message(me, to, Box::new(message.clone()))));
                }
                Output::Send(to, message) => self.queue.push_back(Event::Message(me, to, Box::new(message))),
                Output::Validate { view, height, block, .. } => {
                    let verdict = Verdict::Valid { checked: true };
                    replica.on_validated(view, height, block.hash(), verdict, self.now);
                }
                Output::Diverged(divergence) => panic!("{divergence}"),
                _ => {}
            }
        }
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            self.now += 10 * MS;
            self.replicas.iter_mut().flatten().for_each(|replica| replica.on_timeout(self.now));
            self.settle();
        }
    }

    fn committed(&self) -> Vec<u64> {
        self.replicas.iter().flatten().map(Replica::committed_height).collect()
    }
}

/// Replica 0 lets 1 and 2 prepare its block and keeps the certificate made of their commit votes and its own.
/// With that it takes part in every view change.
#[test]
fn a_commit_certificate_that_only_a_faulty_replica_has_halts_nobody() {
    let kit = Kit::new();
    let block = kit.block(0, 1, genesis(), 0);
    let certificate: Certificate = kit.certificate(vote(VoteKind::Commit, 0, 1, block.hash()));
    let mut told: Vec<View> = Vec::new();
    let script = move |kit: &Kit, _: ReplicaId, message: &Message| {
        let view = match message {
            Message::ViewChange(change) => change.view,
            Message::Suspect { view } => view + 1,
            _ => return Vec::new(),
        };
        if told.contains(&view) {
            return Vec::new();
        }
        told.push(view);
        let change = kit.change(0, view, Some(certificate.clone()), vec![]);
        (1..4).map(|to| (to, Message::ViewChange(Box::new(change.clone())))).collect()
    };
    let mut net = Net::new(0, Box::new(script));
    net.queue.extend([1, 2].map(|to| Event::Message(0, to, Box::new(proposal(0, &block)))));
    let prepare = kit.bundle(0, vote(VoteKind::Prepare, 0, 1, block.hash()));
    net.queue.extend([1, 2, 3].map(|to| Event::Vote(0, to, Rc::clone(&prepare))));
    net.settle();
    assert_eq!(net.committed(), [0, 0, 0], "none of them has it");
    net.proposing = true;
    net.run(60_000 * MS);
    assert!(net.committed().iter().all(|&height| height >= 2), "{:?}", net.committed());
}

/// Replica 1, the primary of view 1, gives its new view to replica 0 alone while that is cut off.
#[test]
fn a_new_view_that_reached_a_single_replica_halts_nobody() {
    let mut changes: Vec<ViewChange> = Vec::new();
    let mut done = false;
    let script = move |kit: &Kit, from: ReplicaId, message: &Message| {
        match message {
            Message::Suspect { view: 0 } if from == 0 => return vec![(0, Message::Suspect { view: 0 })],
            Message::ViewChange(change)
                if change.view == 1 && !changes.iter().any(|known| known.replica == from) =>
            {
                changes.push((**change).clone());
            }
            _ => {}
        }
        if done || changes.len() < 2 || !changes.iter().any(|change| change.replica == 0) {
            return Vec::new();
        }
        done = true;
        let mut quorum = changes[..2].to_vec();
        quorum.push(kit.change(1, 1, None, vec![]));
        quorum.sort_by_key(|change| change.replica);
        vec![(0, Message::NewView(Box::new(kit.new_view(1, quorum))))]
    };
    let mut net = Net::new(1, Box::new(script));
    net.cut = vec![(0, 2), (0, 3), (2, 0), (3, 0)];
    net.settle();
    net.run(2_000 * MS);
    let states: Vec<_> =
        net.replicas.iter().flatten().map(|replica| (replica.view(), replica.is_active())).collect();
    assert_eq!(states, [(1, true), (1, false), (1, false)]);
    for (a, b) in std::mem::take(&mut net.cut) {
        let now = net.now;
        net.replicas[usize::from(a)].as_mut().unwrap().on_connected(b, now);
    }
    net.proposing = true;
    net.run(60_000 * MS);
    assert!(net.committed().iter().all(|&height| height >= 2), "{:?}", net.committed());
}
