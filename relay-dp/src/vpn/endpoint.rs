//! The endpoint: peers, indices, handshakes and time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::cookie::{COOKIE_LIFE, CookieJar, MacKeys};
use super::handshake::{self, INITIATION_NOISE, Timestamp};
use super::peer::{Peer, Pending};
use super::rate::HandshakeLimit;
use super::routes::Routes;
use super::session::Session;
use super::share::{Elsewhere, HandedOver, Indices, Share};
use super::timers::{FORGET_AFTER, JITTER, KEEPALIVE_TIMEOUT, MAX_ATTEMPTS, REKEY_TIMEOUT, Timers};
use super::wire::{INITIATION, OVERHEAD, kind};
use super::{Counters, Nanos, Network, PrivateKey, PublicKey, SECOND, Secrets};

/// Messages of our own that wait to be fetched.
const MAX_OUTPUTS: usize = 1024;
/// Seconds of TAI ahead of Unix time when both began, and the label's offset (TAI64).
const TAI64_BASE: u64 = 0x4000_0000_0000_000a;
/// Timestamps are rounded to about 17 ms: they must grow, not tell our clock.
const TIMESTAMP_GRAIN: u64 = 1 << 24;

/// A peer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Both ends of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The address at this end that it speaks to, if known.
    pub local: Option<IpAddr>,
}

/// A message to send as one datagram.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Where to.
    pub path: Path,
    bytes: [u8; INITIATION],
    len: usize,
}

impl Transmit {
    /// The message.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What an endpoint is made from.
#[derive(Debug)]
pub struct EndpointConfig {
    /// Our static key.
    pub private_key: PrivateKey,
    /// The tunnel's MTU in bytes; packets are padded no further.
    pub mtu: usize,
    /// Nanoseconds since 1970 at the time called 0. Handshakes carry it, so that old ones can't be replayed; it must not go
    /// back from run to run.
    pub unix_time_at_zero: u64,
    /// 32 secret bytes.
    pub seed: [u8; 32],
    /// Which of several endpoints this is.
    pub share: Share,
}

/// A peer as people want to see it.
#[derive(Clone, Copy, Debug)]
pub struct PeerStatus {
    /// Its static key.
    pub key: PublicKey,
    /// Where it was last heard from.
    pub address: Option<SocketAddr>,
    /// When the last handshake succeeded.
    pub last_handshake: Option<Nanos>,
    /// Bytes of packets received from it.
    pub bytes_in: u64,
    /// Bytes of packets sent to it.
    pub bytes_out: u64,
}

/// A WireGuard endpoint with any number of peers. See the [module](super).
pub struct Endpoint {
    pub(super) private: PrivateKey,
    pub(super) public: PublicKey,
    pub(super) mac_keys: MacKeys,
    pub(super) jar: CookieJar,
    pub(super) limit: HandshakeLimit,
    /// Handshake messages that this call of [`Endpoint::receive`] may still take on.
    pub(super) exchanges_left: u32,
    pub(super) secrets: Secrets,
    pub(super) mtu: usize,
    unix_time_at_zero: u64,
    pub(super) peers: Vec<Option<Peer>>,
    pub(super) by_key: HashMap<PublicKey, PeerId>,
    /// Peers that are at home at other endpoints.
    pub(super) elsewhere: HashMap<PublicKey, Elsewhere>,
    pub(super) handed_over: VecDeque<HandedOver>,
    pub(super) routes: Routes,
    pub(super) indices: Indices,
    timers: BinaryHeap<Reverse<(Nanos, PeerId)>>,
    outputs: VecDeque<Transmit>,
    /// Peers that have a session and packets that waited for it.
    pub(super) ready: VecDeque<PeerId>,
    pub(super) staged_bytes: usize,
    pub(super) counters: Counters,
}

impl Endpoint {
    /// An endpoint without peers.
    #[must_use]
    pub fn new(config: EndpointConfig, now: Nanos) -> Self {
        let mut secrets = Secrets::new(config.seed);
        let public = config.private_key.public();
        Self {
            public,
            mac_keys: MacKeys::new(&public),
            private: config.private_key,
            jar: CookieJar::new(&mut secrets, now),
            limit: HandshakeLimit::new(secrets.bytes()),
            exchanges_left: 0,
            secrets,
            mtu: config.mtu,
            unix_time_at_zero: config.unix_time_at_zero,
            peers: Vec::new(),
            by_key: HashMap::new(),
            elsewhere: HashMap::new(),
            handed_over: VecDeque::new(),
            routes: Routes::default(),
            indices: Indices::new(config.share),
            timers: BinaryHeap::new(),
            outputs: VecDeque::new(),
            ready: VecDeque::new(),
            staged_bytes: 0,
            counters: Counters::default(),
        }
    }

    /// Our public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Adds a peer that may use addresses of `networks`, or changes the one that has `key`. `address` is where it can be
    /// reached, if that is known.
    pub fn set_peer(
        &mut self,
        key: PublicKey,
        psk: Option<PrivateKey>,
        networks: &[Network],
        address: Option<SocketAddr>,
        keepalive_seconds: Option<u16>,
        now: Nanos,
    ) -> PeerId {
        let id = self.by_key.get(&key).copied().unwrap_or_else(|| self.empty_peer(key));
        self.elsewhere.remove(&key);
        for network in self.peer(id).networks.clone() {
            self.routes.remove(network, id);
        }
        for network in networks {
            self.routes.insert(*network, id);
        }
        let peer = self.peer(id);
        peer.networks = networks.iter().map(Network::truncated).collect();
        peer.psk = psk.unwrap_or(PrivateKey([0; 32]));
        peer.path = address.map(|peer| Path { peer, local: None }).or(peer.path);
        peer.keepalive_interval =
            keepalive_seconds.filter(|s| *s > 0).map(|seconds| u64::from(seconds) * SECOND);
        if peer.keepalive_interval.is_some() && peer.path.is_some() {
            peer.timers.persistent = now;
        }
        self.register(id);
        id
    }

    fn empty_peer(&mut self, key: PublicKey) -> PeerId {
        let free = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
        let id = PeerId(u32::try_from(free).expect("fewer peers than 2^32"));
        if free == self.peers.len() {
            self.peers.push(None);
        }
        self.peers[free] = Some(Peer {
            key,
            psk: PrivateKey([0; 32]),
            mac_keys: MacKeys::new(&key),
            networks: Vec::new(),
            keepalive_interval: None,
            path: None,
            current: None,
            previous: None,
            next: None,
            pending: None,
            attempts: 0,
            last_initiation_sent: None,
            last_initiation_received: None,
            last_timestamp: [0; 12],
            cookie: None,
            timers: Timers::new(),
            staged: VecDeque::new(),
            last_handshake: None,
            bytes_in: 0,
            bytes_out: 0,
        });
        self.by_key.insert(key, id);
        id
    }

    /// Notes that a peer is at home at endpoint `share`: its initiations are handed over to it.
    ///
    /// # Panics
    /// When it is at home here, or there is no such endpoint.
    pub fn set_elsewhere(&mut self, key: PublicKey, share: u8) {
        let Share { number, of } = self.indices.share;
        assert!(share < of && share != number, "another of the endpoints");
        assert!(!self.by_key.contains_key(&key), "a peer has one home");
        self.elsewhere.insert(key, Elsewhere::new(share));
    }

    /// Forgets a peer: its sessions end at once.
    pub fn remove_peer(&mut self, key: &PublicKey) {
        self.elsewhere.remove(key);
        let Some(id) = self.by_key.remove(key) else { return };
        self.forget_keys(id);
        for network in std::mem::take(&mut self.peer(id).networks) {
            self.routes.remove(network, id);
        }
        self.ready.retain(|ready| *ready != id);
        self.peers[id.0 as usize] = None;
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.peers.iter().flatten().map(Peer::status)
    }

    /// Up to `most` places for peers from number `first` on, those of forgotten peers empty; nothing behind the last place. So
    /// a caller can look at many peers a few at a time.
    pub fn places(&self, first: usize, most: usize) -> impl ExactSizeIterator<Item = Option<PeerStatus>> {
        let first = first.min(self.peers.len());
        let last = first.saturating_add(most).min(self.peers.len());
        self.peers[first..last].iter().map(|peer| peer.as_ref().map(Peer::status))
    }

    /// Running totals.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The next message that the endpoint has to send by itself.
    pub fn poll_output(&mut self) -> Option<Transmit> {
        self.outputs.pop_front()
    }

    /// The next initiation that is another endpoint's: for [`Endpoint::take_handed_over`] there.
    pub fn next_handed_over(&mut self) -> Option<HandedOver> {
        self.handed_over.pop_front()
    }

    /// A packet with its vnet header that waited for a session and can be given to [`Endpoint::send`] now.
    pub fn next_staged(&mut self) -> Option<Vec<u8>> {
        while let Some(id) = self.ready.front().copied() {
            if let Some(packet) = self.peer(id).staged.pop_front() {
                self.staged_bytes -= packet.len();
                return Some(packet);
            }
            self.ready.pop_front();
        }
        None
    }

    /// When to call [`Endpoint::handle_timeout`]; may be early.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Nanos) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            let known = self.peers.get_mut(id.0 as usize).and_then(Option::as_mut);
            if known.is_some_and(|peer| peer.timers.entry_came_up(at)) {
                self.peer_timeout(id, now);
                self.register(id);
            }
        }
    }

    fn peer_timeout(&mut self, id: PeerId, now: Nanos) {
        if Timers::take(&mut self.peer(id).timers.forget, now) {
            self.forget_keys(id);
        }
        if Timers::take(&mut self.peer(id).timers.retry, now) {
            if self.peer(id).attempts >= MAX_ATTEMPTS {
                self.give_up(id, now);
            } else {
                self.peer(id).attempts += 1;
                self.initiate(id, now);
            }
        }
        if Timers::take(&mut self.peer(id).timers.unanswered, now) {
            self.begin_handshake(id, now);
        }
        if Timers::take(&mut self.peer(id).timers.keepalive, now) {
            self.send_keepalive(id, now);
            let timers = &mut self.peer(id).timers;
            if std::mem::take(&mut timers.another_keepalive) {
                timers.keepalive = now + KEEPALIVE_TIMEOUT;
            }
        }
        if Timers::take(&mut self.peer(id).timers.persistent, now) {
            self.send_keepalive(id, now);
            let peer = self.peer(id);
            if let Some(interval) = peer.keepalive_interval {
                peer.timers.persistent = now + interval;
            }
        }
    }

    /// The peer does not answer: what waits for it is lost, and its keys go unless something else comes.
    fn give_up(&mut self, id: PeerId, now: Nanos) {
        self.drop_staged(id);
        let peer = self.peer(id);
        Timers::stop(&mut peer.timers.keepalive);
        peer.timers.forget = peer.timers.forget.min(now + FORGET_AFTER);
        if let Some(pending) = self.peer(id).pending.take() {
            self.indices.give_back(pending.local_index);
        }
    }

    fn drop_staged(&mut self, id: PeerId) {
        let staged = std::mem::take(&mut self.peer(id).staged);
        self.counters.dropped_staged += staged.len() as u64;
        self.staged_bytes -= staged.iter().map(Vec::len).sum::<usize>();
    }

    /// Wipes everything secret about a peer but its configuration.
    fn forget_keys(&mut self, id: PeerId) {
        self.drop_staged(id);
        let peer = self.peer(id);
        let sessions = [peer.current.take(), peer.previous.take(), peer.next.take()];
        let pending = peer.pending.take().map(|pending| pending.local_index);
        Timers::stop(&mut peer.timers.retry);
        for index in sessions.iter().flatten().map(|session| session.local_index).chain(pending) {
            self.indices.give_back(index);
        }
    }

    /// Begins a handshake unless one is under way.
    pub(super) fn begin_handshake(&mut self, id: PeerId, now: Nanos) {
        self.peer(id).attempts = 0;
        self.initiate(id, now);
    }

    /// Sends an initiation, unless the last was a moment ago.
    fn initiate(&mut self, id: PeerId, now: Nanos) {
        let timestamp = self.timestamp(now);
        let peer = self.peers[id.0 as usize].as_mut().expect("ids are of peers");
        let Some(path) = peer.path else { return };
        if peer.last_initiation_sent.is_some_and(|sent| now < sent + REKEY_TIMEOUT) {
            return;
        }
        if let Some(pending) = peer.pending.take() {
            self.indices.give_back(pending.local_index);
        }
        let Some(local_index) = self.indices.take(id, &mut self.secrets) else { return };
        let mut message = [0; INITIATION];
        message[0] = kind::INITIATION;
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        let noise: &mut [u8; INITIATION_NOISE] = message[8..].first_chunk_mut().expect("it is longer");
        let exchange =
            handshake::initiate(&self.private, &peer.key, &peer.psk, &timestamp, &mut self.secrets, noise);
        let cookie = peer.cookie.as_ref().filter(|(_, got)| now.saturating_sub(*got) < COOKIE_LIFE);
        let mac1 = peer.mac_keys.seal(&mut message, cookie.map(|(cookie, _)| cookie));
        peer.pending = Some(Pending { exchange, local_index, mac1 });
        peer.last_initiation_sent = Some(now);
        peer.timers.retry = now + REKEY_TIMEOUT + self.secrets.below(JITTER);
        peer.timers.anything_sent(now, peer.keepalive_interval);
        self.register(id);
        self.output(path, &message);
    }

    /// TAI64N, rounded.
    fn timestamp(&self, now: Nanos) -> Timestamp {
        let unix = self.unix_time_at_zero + now;
        let nanos = u32::try_from(unix % SECOND / TIMESTAMP_GRAIN * TIMESTAMP_GRAIN).expect("below a second");
        let mut timestamp = [0; 12];
        timestamp[..8].copy_from_slice(&(TAI64_BASE + unix / SECOND).to_be_bytes());
        timestamp[8..].copy_from_slice(&nanos.to_be_bytes());
        timestamp
    }

    /// Sends an empty message, or begins a handshake for want of a session.
    pub(super) fn send_keepalive(&mut self, id: PeerId, now: Nanos) {
        let peer = self.peer(id);
        let Some(path) = peer.path else { return };
        let Some(session) = peer.current.as_deref_mut().filter(|session| session.can_send(1, now)) else {
            return self.begin_handshake(id, now);
        };
        let mut message = [0; OVERHEAD];
        session.seal(&session.sending_key(), &mut message);
        peer.timers.anything_sent(now, peer.keepalive_interval);
        self.output(path, &message);
    }

    /// Installs the session of a finished handshake. The initiator's is used at once; the responder's when the initiator
    /// has shown that it has it too.
    pub(super) fn install(&mut self, id: PeerId, session: Session, now: Nanos) {
        let peer = self.peer(id);
        let is_initiator = session.is_initiator;
        let session = Box::new(session);
        let replaced = if is_initiator {
            let unconfirmed = peer.next.take();
            let current = peer.current.replace(session);
            let (kept, dropped) =
                if unconfirmed.is_some() { (unconfirmed, current) } else { (current, None) };
            [std::mem::replace(&mut peer.previous, kept), dropped]
        } else {
            [peer.next.replace(session), peer.previous.take()]
        };
        peer.last_handshake = Some(now);
        peer.timers.forget = now + FORGET_AFTER;
        peer.attempts = 0;
        for session in replaced.into_iter().flatten() {
            self.indices.give_back(session.local_index);
        }
        self.counters.handshakes += 1;
        self.register(id);
    }

    pub(super) fn peer(&mut self, id: PeerId) -> &mut Peer {
        self.peers[id.0 as usize].as_mut().expect("ids are of peers")
    }

    /// Makes sure that the peer's first deadline is in the heap.
    pub(super) fn register(&mut self, id: PeerId) {
        if let Some(at) = self.peer(id).timers.entry_needed() {
            self.timers.push(Reverse((at, id)));
        }
    }

    pub(super) fn output(&mut self, path: Path, message: &[u8]) {
        if self.outputs.len() == MAX_OUTPUTS {
            self.counters.dropped_output += 1;
            return;
        }
        let mut bytes = [0; INITIATION];
        bytes[..message.len()].copy_from_slice(message);
        self.outputs.push_back(Transmit { path, bytes, len: message.len() });
    }
}
