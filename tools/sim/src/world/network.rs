//! The wires: connections between validators, and what happens to frames on the way.

use bytes::Bytes;
use dag::{LaneId, ReplicaId, VoteKind};
use engine::node::frame::Frame;

use super::{Event, MS, World};
use crate::{byzantine::Liar, fault::HostId, trace::Kind};

/// Frames that a liar remembers, to say them again.
const MEMORY: usize = 64;

/// One direction between two hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Episodes that let nothing through.
    pub cuts: u32,
    /// What goes this way waits until then.
    pub clogged_until: u64,
    /// When the last frame arrives.
    last: u64,
}

/// A connection of two hosts.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    up: bool,
    /// Counts connections: what an earlier one carried is lost.
    epoch: u32,
}

/// All wires.
pub struct Network {
    size: usize,
    wires: Vec<Wire>,
    links: Vec<Link>,
    /// Percent lost (of all frames, of those with prepare and with commit votes) and doubled, ms of disorder and of delay, now.
    pub loss: u64,
    pub prepare_loss: u64,
    pub commit_loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
    pub delay: u64,
}

impl Network {
    pub fn new(size: usize) -> Network {
        Network {
            size,
            wires: vec![Wire::default(); size * size],
            links: vec![Link::default(); size * size],
            loss: 0,
            prepare_loss: 0,
            commit_loss: 0,
            duplicate: 0,
            reorder: 0,
            delay: 0,
        }
    }

    pub fn wire(&mut self, from: HostId, to: HostId) -> &mut Wire {
        &mut self.wires[from * self.size + to]
    }

    fn link(&mut self, a: HostId, b: HostId) -> &mut Link {
        &mut self.links[a.min(b) * self.size + a.max(b)]
    }

    fn is_cut(&mut self, a: HostId, b: HostId) -> bool {
        self.wire(a, b).cuts > 0 || self.wire(b, a).cuts > 0
    }
}

impl World {
    /// Breaks a connection; whoever lives learns of it after a while.
    pub(super) fn lose_link(&mut self, a: HostId, b: HostId) {
        let link = self.network.link(a, b);
        link.epoch += 1;
        if !std::mem::take(&mut link.up) {
            // The attempt that was under way is void: another one follows.
            return self.reconnect(a, b);
        }
        let late = if self.dice.network.percent(20) { 2_000 * MS } else { 20 * MS };
        for (host, peer) in [(a, b), (b, a)] {
            if self.hosts[host].is_up() {
                let (life, delay) = (self.hosts[host].life, self.dice.network.below(late));
                self.at(delay, Event::PeerGone { host, life, peer });
            }
        }
    }

    /// Has two hosts try to connect.
    pub(super) fn reconnect(&mut self, a: HostId, b: HostId) {
        if self.hosts[a].replica == self.hosts[b].replica {
            return;
        }
        let epoch = self.network.link(a, b).epoch;
        let delay = MS + self.dice.network.below(60 * MS);
        self.at(delay, Event::Connect { a, b, epoch });
    }

    pub(super) fn on_connect(&mut self, a: HostId, b: HostId, epoch: u32) {
        let link = *self.network.link(a, b);
        if link.up || link.epoch != epoch || !self.hosts[a].is_up() || !self.hosts[b].is_up() {
            return;
        }
        if self.network.is_cut(a, b) {
            let delay = 200 * MS + self.dice.network.below(300 * MS);
            return self.at(delay, Event::Connect { a, b, epoch });
        }
        let link = self.network.link(a, b);
        link.up = true;
        link.epoch += 1;
        for (host, peer) in [(a, b), (b, a)] {
            self.trace.mark(self.now, Kind::Connect, host);
            // A twin's peers count only one of the two.
            if !self.hosts[peer].twin {
                self.tell_link(host, peer, true);
            }
        }
    }

    pub(super) fn on_peer_gone(&mut self, host: HostId, life: u64, peer: HostId) {
        if self.hosts[host].life != life || !self.hosts[host].is_up() {
            return;
        }
        // It may be there again by now.
        if !self.network.link(host, peer).up && !self.hosts[peer].twin {
            self.tell_link(host, peer, false);
        }
        self.reconnect(host, peer);
    }

    fn tell_link(&mut self, host: HostId, peer: HostId, up: bool) {
        let (now, replica) = (self.now, self.hosts[peer].replica);
        let local = self.hosts[host].local(now);
        for lane in 0..self.scenario.lanes {
            let core = self.core_of_lane(lane);
            let host = &mut self.hosts[host].cores[core].core;
            if up { host.on_peer_up(replica, lane, local) } else { host.on_peer_down(replica, lane) }
        }
        for core in 0..usize::from(self.scenario.cores) {
            self.wake(host, core);
        }
    }

    pub(super) fn core_of_lane(&self, lane: LaneId) -> usize {
        usize::from(lane % self.scenario.cores)
    }

    /// A validator says something, to one or to all.
    pub(super) fn say(&mut self, from: HostId, to: Option<ReplicaId>, lane: LaneId, bytes: Bytes) {
        if self.hosts[from].honest {
            self.judge.on_said(self.now, from, &self.hosts[from], &bytes);
        }
        let me = self.hosts[from].replica;
        let size = ReplicaId::try_from(self.scenario.validators).expect("few validators");
        let peers: Vec<ReplicaId> = match to {
            Some(peer) => vec![peer],
            None => (0..size).filter(|&peer| peer != me).collect(),
        };
        if self.hosts[from].behaviours.is_empty() {
            for peer in peers {
                self.send(from, peer, lane, &bytes);
            }
            return;
        }
        let key = self.keys[usize::from(me)].clone();
        let liar = Liar { key: &key, committee: &self.committee, me };
        let mut said = Vec::new();
        let host = &mut self.hosts[from];
        for peer in peers {
            let frames = liar.tamper(&host.behaviours, peer, (lane, &bytes), &host.said, &mut self.dice.liar);
            said.extend(frames.into_iter().map(|(lane, bytes)| (peer, lane, bytes)));
        }
        host.said.push((lane, bytes));
        if host.said.len() > MEMORY {
            host.said.swap_remove(self.dice.liar.index(MEMORY));
        }
        for (peer, lane, bytes) in said {
            self.send(from, peer, lane, &bytes);
        }
    }

    /// Puts a frame on the wires to a validator: to whichever of twins listens now.
    fn send(&mut self, from: HostId, to: ReplicaId, lane: LaneId, bytes: &Bytes) {
        let first = usize::from(to);
        let twin = (self.scenario.validators..self.hosts.len()).find(|&twin| self.hosts[twin].replica == to);
        let Some(twin) = twin else { return self.put(from, first, lane, bytes) };
        match self.twin_side(from) {
            0 => self.put(from, first, lane, bytes),
            1 => self.put(from, twin, lane, bytes),
            _ => {
                self.put(from, first, lane, bytes);
                self.put(from, twin, lane, bytes);
            }
        }
    }

    /// Which of twins a host talks to in this second: the first, the second, or both.
    fn twin_side(&self, from: HostId) -> u64 {
        let second = self.now / (1_000 * MS);
        (second.wrapping_mul(0x9e37_79b9).wrapping_add(from as u64 * 0x85eb_ca6b) >> 7) % 3
    }

    fn put(&mut self, from: HostId, to: HostId, lane: LaneId, bytes: &Bytes) {
        let link = *self.network.link(from, to);
        if !link.up {
            return;
        }
        self.trace.frame(self.now, from, to, bytes);
        if self.network.wire(from, to).cuts > 0
            || self.dice.network.percent(self.network.loss)
            || self.is_vote_lost(bytes)
        {
            self.trace.mark(self.now, Kind::Lost, to);
            return;
        }
        let copies = 1 + u64::from(self.dice.network.percent(self.network.duplicate));
        for _ in 0..copies {
            let at = self.arrival(from, to);
            self.trace.arrives(at);
            let event = Event::Frame { from, to, lane, bytes: bytes.clone(), epoch: link.epoch };
            self.at(at - self.now, event);
        }
    }

    /// Whether votes of a frame have it lost.
    fn is_vote_lost(&mut self, bytes: &Bytes) -> bool {
        let Network { prepare_loss, commit_loss, .. } = self.network;
        if prepare_loss + commit_loss == 0 {
            return false;
        }
        let Ok(Frame::Votes(bundle)) = Frame::decode(bytes) else { return false };
        let has = |kind| bundle.votes().iter().any(|vote| vote.kind == kind);
        has(VoteKind::Prepare) && self.dice.votes.percent(prepare_loss)
            || has(VoteKind::Commit) && self.dice.votes.percent(commit_loss)
    }

    fn arrival(&mut self, from: HostId, to: HostId) -> u64 {
        let dice = &mut self.dice.network;
        let (least, most) = self.scenario.latency;
        let mut at = self.now + dice.between(least, most) * 1_000 + self.network.delay * MS;
        if from % 2 != to % 2 {
            at += self.scenario.region_ms * MS;
        }
        let disorder = self.network.reorder * MS;
        if disorder > 0 {
            return at + dice.below(disorder);
        }
        let wire = self.network.wire(from, to);
        // Frames of a connection come in order.
        at = at.max(wire.clogged_until).max(wire.last + 1);
        wire.last = at;
        at
    }

    pub(super) fn on_frame(&mut self, from: HostId, to: HostId, lane: LaneId, bytes: &Bytes, epoch: u32) {
        let link = *self.network.link(from, to);
        if !link.up || link.epoch != epoch || !self.hosts[to].is_up() {
            return;
        }
        let now = self.now;
        let Ok(frame) = Frame::decode(bytes) else {
            // As the links do: whoever speaks nonsense is cut off.
            if self.hosts[from].honest {
                self.judge.ledger.fail(
                    now,
                    super::Invariant::Frames,
                    format!("host {from} sent a malformed frame"),
                );
            }
            return self.lose_link(from, to);
        };
        let replica = self.hosts[from].replica;
        let local = self.hosts[to].local(now);
        let core = self.core_of_lane(lane);
        self.hosts[to].cores[core].core.on_peer_frame(replica, lane, frame, local);
        self.wake(to, core);
    }
}
