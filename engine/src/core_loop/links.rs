//! Channels to the other validators: one for each peer and each lane of this core.
//!
//! Of two validators the one with the higher place in the committee dials. A link is up once the peer has proven its key
//! and both hellos name the same lane and genesis. A newer connection of the same peer replaces the older one: the peer
//! knows better whether that one is dead.

use std::{net::SocketAddr, time::Duration};

use ahash::AHashMap;
use bytes::Bytes;
use dag::{LaneId, ReplicaId};
use netio::{
    Backoff, CloseReason, ConnId, Reactor,
    channel::{Channel, ChannelConfig, ChannelError},
};

use super::notes::Notes;
use crate::{
    node::{
        Count, Meters,
        frame::{Frame, MAX_FRAME},
    },
    topology::{Placement, Shard},
};

/// A connection that has not become a link by then is closed.
const HANDSHAKE_DEADLINE: u64 = 5_000_000_000;
/// First delay before dialling again; the operator sets the longest.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// What the links tell the loop.
#[derive(Debug)]
pub enum LinkEvent {
    /// A peer's lane can be spoken to.
    Up(ReplicaId, LaneId),
    /// It no longer can.
    Down(ReplicaId, LaneId),
    /// A peer's frame.
    Frame(ReplicaId, LaneId, Box<Frame>),
}

/// Why a connection was closed by us, for the log line and the counters.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Channel(#[from] ChannelError),
    #[error("it sent a malformed frame: {0}")]
    Malformed(#[from] dag::wire::WireError),
    #[error("its key is not in the committee")]
    Stranger,
    #[error("it belongs to another network: its genesis differs")]
    OtherGenesis,
    #[error("it speaks for lane {0}, which this connection is not for")]
    OtherLane(LaneId),
    #[error("it spoke before saying hello")]
    NoHello,
}

struct Connection {
    channel: Channel,
    lane: LaneId,
    peer: Option<ReplicaId>,
    up: bool,
    deadline: u64,
    /// Whether something was written since the last flush.
    dirty: bool,
}

struct Dial {
    address: SocketAddr,
    backoff: Backoff,
    /// When to dial next; `None` while a connection stands or is being made.
    at: Option<u64>,
    complained: bool,
}

/// Counters of the links.
#[derive(Clone, Copy, Default, Debug)]
struct LinkCounters {
    malformed: u64,
    refused: u64,
    unsent: u64,
    overflowed: u64,
}

/// All links of one core.
pub struct Links {
    shard: Shard,
    config: ChannelConfig,
    connections: AHashMap<ConnId, Connection>,
    up: AHashMap<(ReplicaId, LaneId), ConnId>,
    dials: Vec<((ReplicaId, LaneId), Dial)>,
    dirty: Vec<ConnId>,
    /// Before this nothing has to be dialled or closed.
    due: u64,
    counters: LinkCounters,
    /// Of links that were closed for what came.
    link_notes: Notes,
    /// Of strangers' connections that were.
    stranger_notes: Notes,
}

impl Links {
    /// Links to peers at `address(peer, lane)`; dialling begins at once, and is tried again after `longest_delay` at the latest.
    pub fn new(
        shard: Shard,
        placement: Placement,
        config: ChannelConfig,
        longest_delay: Duration,
        address: impl Fn(ReplicaId, LaneId) -> SocketAddr,
    ) -> Links {
        let mut dials = Vec::new();
        for peer in shard.peers().filter(|&peer| peer < shard.me) {
            for lane in placement.lanes(&shard) {
                let seed = u64::from(shard.me) << 32 | u64::from(peer) << 16 | u64::from(lane);
                let backoff = Backoff::new(FIRST_DELAY.min(longest_delay), longest_delay, seed);
                let dial = Dial { address: address(peer, lane), backoff, at: Some(0), complained: false };
                dials.push(((peer, lane), dial));
            }
        }
        Links {
            shard,
            config,
            connections: AHashMap::new(),
            up: AHashMap::new(),
            dials,
            dirty: Vec::new(),
            due: 0,
            counters: LinkCounters::default(),
            link_notes: Notes::default(),
            stranger_notes: Notes::default(),
        }
    }

    /// Whether a connection is a validator's, or may become one.
    pub fn owns(&self, conn: ConnId) -> bool {
        self.connections.contains_key(&conn)
    }

    /// Number of links to one validator that are up.
    pub fn lanes_up(&self, peer: ReplicaId) -> u16 {
        let up = self.up.keys().filter(|(p, _)| *p == peer).count();
        u16::try_from(up).expect("at most the lanes")
    }

    /// Number of validators, this one included.
    pub fn committee_size(&self) -> usize {
        self.shard.committee.size()
    }

    /// Brings the counters to where they are asked for.
    pub fn report(&self, meters: &mut Meters) {
        meters.set(Count::PeerConnectionsMalformed, self.counters.malformed);
        meters.set(Count::PeerConnectionsRefused, self.counters.refused);
        meters.set(Count::PeerFramesUnsent, self.counters.unsent);
        meters.set(Count::PeerLinksOverflowed, self.counters.overflowed);
    }

    /// Dials what is due and closes what never became a link.
    pub fn tick(&mut self, reactor: &mut Reactor, now: u64) {
        if now < self.due {
            return;
        }
        for (index, (_, dial)) in self.dials.iter_mut().enumerate() {
            if dial.at.is_some_and(|at| at <= now) {
                let dialled = reactor.connect(dial.address, index as u64);
                dial.at = match dialled {
                    Ok(_) => None,
                    Err(_) => Some(now + nanos(dial.backoff.next_delay())),
                };
            }
        }
        let late = |c: &Connection| !c.up && c.deadline <= now;
        let expired: Vec<ConnId> =
            self.connections.iter().filter(|(_, c)| late(c)).map(|(&conn, _)| conn).collect();
        for conn in expired {
            reactor.close(conn);
        }
        let dials = self.dials.iter().filter_map(|(_, dial)| dial.at);
        let waiting = self.connections.values().filter(|c| !c.up && c.deadline > now);
        self.due = dials.chain(waiting.map(|c| c.deadline)).min().unwrap_or(u64::MAX);
    }

    /// When [`tick`](Self::tick) may have something to do.
    pub fn next_tick(&self) -> Option<u64> {
        (self.due < u64::MAX).then_some(self.due)
    }

    /// Dials a peer again, after the delay that its tries so far ask for.
    fn dial_later(&mut self, index: usize, now: u64) {
        let (_, dial) = &mut self.dials[index];
        let at = now + nanos(dial.backoff.next_delay());
        dial.at = Some(at);
        self.due = self.due.min(at);
    }

    /// A connection came in on a lane's port.
    pub fn on_accepted(&mut self, conn: ConnId, lane: LaneId, now: u64) {
        let channel = Channel::server(&self.config);
        self.insert(
            conn,
            Connection { channel, lane, peer: None, up: false, deadline: 0, dirty: false },
            now,
        );
    }

    /// A connection that we dialled stands.
    pub fn on_connected(&mut self, conn: ConnId, tag: u64, now: u64) {
        let ((peer, lane), _) = self.dials[usize::try_from(tag).expect("tags are indices")];
        let key = *self.shard.committee.key(peer).expect("a peer is of the committee");
        let channel = Channel::client(&self.config, key);
        self.insert(
            conn,
            Connection { channel, lane, peer: Some(peer), up: false, deadline: 0, dirty: false },
            now,
        );
    }

    fn insert(&mut self, conn: ConnId, mut connection: Connection, now: u64) {
        connection.deadline = now + HANDSHAKE_DEADLINE;
        self.due = self.due.min(connection.deadline);
        let hello = Frame::Hello { lane: connection.lane, genesis: self.shard.genesis };
        connection.channel.write_frame(&[&hello.encode()]).expect("a first, short frame");
        connection.dirty = true;
        self.dirty.push(conn);
        self.connections.insert(conn, connection);
    }

    /// A dial failed.
    pub fn on_connect_failed(&mut self, tag: u64, error: &std::io::Error, now: u64) {
        let index = usize::try_from(tag).expect("tags are indices");
        let ((peer, _), dial) = &mut self.dials[index];
        if !std::mem::replace(&mut dial.complained, true) {
            eprintln!("validator {peer} at {} does not answer ({error}); trying on", dial.address);
        }
        self.dial_later(index, now);
    }

    /// A connection ended.
    pub fn on_closed(&mut self, conn: ConnId, reason: &CloseReason, now: u64, events: &mut Vec<LinkEvent>) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        let Some(peer) = connection.peer else { return };
        let key = (peer, connection.lane);
        if connection.up && self.up.get(&key) == Some(&conn) {
            self.up.remove(&key);
            eprintln!("validator {peer}, lane {}: link lost ({})", connection.lane, describe(reason));
            events.push(LinkEvent::Down(peer, connection.lane));
        }
        if let Some(index) = self.dials.iter().position(|(k, _)| *k == key) {
            self.dial_later(index, now);
        }
    }

    /// Bytes arrived on a connection.
    pub fn on_data(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        bytes: &[u8],
        now: u64,
        events: &mut Vec<LinkEvent>,
    ) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let mut frames = Vec::new();
        let mut result: Result<(), Refusal> =
            connection.channel.read_tls(bytes, &mut |frame| frames.push(frame)).map_err(Refusal::from);
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(conn);
        }
        for frame in frames {
            if result.is_err() {
                break;
            }
            result = self.on_frame(reactor, conn, &frame, events);
        }
        if let Err(refusal) = result {
            self.refuse(reactor, conn, &refusal, now);
        }
    }

    fn on_frame(
        &mut self,
        reactor: &mut Reactor,
        conn: ConnId,
        frame: &Bytes,
        events: &mut Vec<LinkEvent>,
    ) -> Result<(), Refusal> {
        let frame = Frame::decode(frame)?;
        let connection = self.connections.get_mut(&conn).expect("the caller has it");
        match (connection.up, frame) {
            (false, Frame::Hello { lane, genesis }) => {
                if genesis != self.shard.genesis {
                    return Err(Refusal::OtherGenesis);
                }
                if lane != connection.lane {
                    return Err(Refusal::OtherLane(lane));
                }
                let key = connection.channel.peer().ok_or(Refusal::NoHello)?;
                let peer = self.shard.committee.position(&key).ok_or(Refusal::Stranger)?;
                connection.peer = Some(peer);
                connection.up = true;
                if let Some((_, dial)) = self.dials.iter_mut().find(|(k, _)| *k == (peer, lane)) {
                    dial.backoff.reset();
                    dial.complained = false;
                }
                if let Some(older) = self.up.insert((peer, lane), conn) {
                    reactor.close(older);
                    events.push(LinkEvent::Down(peer, lane));
                }
                events.push(LinkEvent::Up(peer, lane));
                Ok(())
            }
            (true, Frame::Hello { .. }) | (false, _) => Err(Refusal::NoHello),
            (true, frame) => {
                let peer = connection.peer.expect("a link that is up has a peer");
                events.push(LinkEvent::Frame(peer, connection.lane, Box::new(frame)));
                Ok(())
            }
        }
    }

    fn refuse(&mut self, reactor: &mut Reactor, conn: ConnId, refusal: &Refusal, now: u64) {
        match refusal {
            Refusal::Stranger | Refusal::OtherGenesis | Refusal::OtherLane(_) => self.counters.refused += 1,
            Refusal::Channel(ChannelError::UnknownPeer { .. } | ChannelError::WrongPeer { .. }) => {
                self.counters.refused += 1;
            }
            _ => self.counters.malformed += 1,
        }
        let connection = self.connections.get_mut(&conn).expect("the caller has it");
        let note = match connection.peer {
            Some(peer) => {
                self.link_notes.line(format_args!("closing the link to validator {peer}: {refusal}"), now)
            }
            None => {
                let lane = connection.lane;
                self.stranger_notes.line(format_args!("closing a connection on lane {lane}: {refusal}"), now)
            }
        };
        if let Some(note) = note {
            eprintln!("{note}");
        }
        // The alert tells the other side why.
        if let Some(bytes) = connection.channel.take_tls() {
            let _ = reactor.send(conn, bytes);
        }
        reactor.close_after_flush(conn);
    }

    /// Queues a frame for a peer; where its link is down the frame is dropped and counted, as agreement expects.
    pub fn send(&mut self, reactor: &mut Reactor, peer: ReplicaId, lane: LaneId, frame: &Bytes) {
        debug_assert!(frame.len() <= MAX_FRAME);
        let Some(&conn) = self.up.get(&(peer, lane)) else {
            self.counters.unsent += 1;
            return;
        };
        let connection = self.connections.get_mut(&conn).expect("a link that is up has its connection");
        if connection.channel.write_frame(&[frame]).is_err() {
            self.counters.overflowed += 1;
            reactor.close(conn);
            return;
        }
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(conn);
        }
    }

    /// Queues a frame for all other validators.
    pub fn send_all(&mut self, reactor: &mut Reactor, lane: LaneId, frame: &Bytes) {
        for peer in self.shard.peers() {
            self.send(reactor, peer, lane, frame);
        }
    }

    /// Seals and sends what was written to a peer since the last call: one system call's worth. False when there is none left.
    pub fn flush_one(&mut self, reactor: &mut Reactor) -> bool {
        let Some(conn) = self.dirty.pop() else { return false };
        let Some(connection) = self.connections.get_mut(&conn) else { return true };
        connection.dirty = false;
        let Some(bytes) = connection.channel.take_tls() else { return true };
        if reactor.send(conn, bytes).is_err() {
            // The peer does not read. Agreement brings it up to date when it is back.
            self.counters.overflowed += 1;
            reactor.close(conn);
        }
        true
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("delays are short")
}

fn describe(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Local => "closed here".into(),
        CloseReason::Flushed => "refused".into(),
        CloseReason::Peer => "closed by the peer".into(),
        CloseReason::Error(error) => error.to_string(),
    }
}
