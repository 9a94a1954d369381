//! From the network: handshakes, cookies and data.

use super::endpoint::{Endpoint, Path, PeerId};
use super::handshake::{self, Initiation, RESPONSE_NOISE, SessionKeys, Timestamp};
use super::routes::addresses;
use super::session::{REJECT_AFTER_TIME, Refused, Session};
use super::share::HandedOver;
use super::timers::{KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, Timers};
use super::wire::{COOKIE_REPLY, DATA_HEADER, INITIATION, MAC, Message, OVERHEAD, RESPONSE, index_at, kind};
use super::{MILLISECOND, Nanos};

/// Least time between two initiations of one peer that are looked at.
const INITIATION_INTERVAL: Nanos = 20 * MILLISECOND;

/// Handshake messages that one call takes on: an honest sender has one or two in a datagram, and each costs a key exchange while
/// the caller waits.
const MAX_EXCHANGES: u32 = 4;

/// Initiations for other endpoints that wait to be fetched.
pub(super) const MAX_HANDED_OVER: usize = 64;

/// A packet that a peer sent, where it lies in the datagram's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Who sent it.
    pub peer: PeerId,
    /// First byte of the IP packet.
    pub start: usize,
    /// Its length by its own header.
    pub len: usize,
}

impl Endpoint {
    /// Takes a datagram of one or more segments of `segment` bytes (the last perhaps shorter), as it came along `path`.
    /// Data is decrypted in place; what is accepted is appended to `accepted`. Everything else is answered through
    /// [`Endpoint::poll_output`] or counted.
    ///
    /// # Panics
    /// When `segment` is zero.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        segment: usize,
        path: Path,
        now: Nanos,
        accepted: &mut Vec<Accepted>,
    ) {
        let mut start = 0;
        self.exchanges_left = MAX_EXCHANGES;
        while start < bytes.len() {
            let end = (start + segment).min(bytes.len());
            match Message::classify(&mut bytes[start..end]) {
                Some(Message::Data { receiver, .. }) => {
                    start = self.data(bytes, start, segment, receiver, path, now, accepted);
                    continue;
                }
                Some(Message::Initiation(message)) => self.initiation(message, path, now),
                Some(Message::Response(message)) => self.response(message, path, now),
                Some(Message::CookieReply(message)) => self.cookie_reply(message, now),
                None => self.counters.dropped_garbage += 1,
            }
            start = end;
        }
    }

    /// Takes the run of data messages for one session that begins at `start`; returns where it ends.
    #[expect(clippy::too_many_arguments, reason = "the state of a walk over one buffer")]
    fn data(
        &mut self,
        bytes: &mut [u8],
        mut start: usize,
        segment: usize,
        receiver: u32,
        path: Path,
        now: Nanos,
        accepted: &mut Vec<Accepted>,
    ) -> usize {
        let first_end = (start + segment).min(bytes.len());
        let Some(id) = self.indices.peer_of(receiver) else {
            self.counters.dropped_no_session += 1;
            return first_end;
        };
        let peer = self.peers[id.0 as usize].as_mut().expect("indices are of peers");
        let Some(session) = peer.session(receiver) else {
            self.counters.dropped_no_session += 1; // the index of a pending exchange
            return first_end;
        };
        if !session.is_alive(now) {
            self.counters.dropped_expired += 1;
            return first_end;
        }
        let key = session.receiving_key();
        let before = accepted.len();
        let (mut opened, mut keepalives, mut packet_bytes) = (0u64, 0, 0);
        // Most packets of a run come from one address: the route is looked up when it changes.
        let mut known_source = None;
        while start < bytes.len() {
            let end = (start + segment).min(bytes.len());
            let message = &mut bytes[start..end];
            let Some(Message::Data { receiver: of, counter }) = Message::classify(message) else { break };
            if of != receiver {
                break;
            }
            match session.open(&key, counter, message) {
                Err(Refused::Replay) => self.counters.dropped_replay += 1,
                Err(Refused::Forged) => self.counters.dropped_forged += 1,
                Ok(()) if message.len() == OVERHEAD => {
                    opened += 1;
                    keepalives += 1;
                }
                Ok(()) => {
                    opened += 1;
                    let packet = &message[DATA_HEADER..message.len() - OVERHEAD + DATA_HEADER];
                    match addresses(packet) {
                        None => self.counters.dropped_not_ip += 1,
                        Some((len, source, _)) => {
                            if known_source != Some(source) && self.routes.peer_of(source) != Some(id) {
                                self.counters.dropped_source += 1;
                            } else {
                                known_source = Some(source);
                                packet_bytes += len as u64;
                                accepted.push(Accepted { peer: id, start: start + DATA_HEADER, len });
                            }
                        }
                    }
                }
            }
            start = end;
        }
        let worn = session.is_initiator
            && now.saturating_sub(session.born) >= REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        self.counters.keepalives_in += keepalives;
        self.counters.packets_in += (accepted.len() - before) as u64;
        self.counters.bytes_in += packet_bytes;
        if opened > 0 {
            peer.bytes_in += packet_bytes;
            self.authenticated(id, path, now);
            self.data_came(id, receiver, opened > keepalives, worn, now);
        }
        start
    }

    /// Something authentic came: the peer is where it came from (roaming, section 2.1), and alive.
    fn authenticated(&mut self, id: PeerId, path: Path, now: Nanos) {
        let peer = self.peer(id);
        peer.path = Some(path);
        peer.timers.anything_received(now, peer.keepalive_interval);
    }

    fn data_came(&mut self, id: PeerId, index: u32, not_only_keepalives: bool, worn: bool, now: Nanos) {
        let peer = self.peer(id);
        if not_only_keepalives {
            peer.timers.data_received(now);
        }
        let confirmed = peer.next.as_ref().is_some_and(|session| session.local_index == index);
        if confirmed {
            Timers::stop(&mut peer.timers.retry);
            if let Some(replaced) = peer.confirm(index) {
                self.indices.give_back(replaced.local_index);
            }
            self.ready.push_back(id);
        } else if worn {
            self.begin_handshake(id, now);
        }
        self.register(id);
    }

    /// Whether a handshake message may cost us a key exchange; otherwise it has been counted, and answered by a cookie.
    fn admits(&mut self, message: &[u8], sender: [u8; 4], path: Path, now: Nanos) -> bool {
        if !self.mac_keys.mac1_is_right(message) {
            self.counters.dropped_mac += 1;
            return false;
        }
        let Some(left) = self.exchanges_left.checked_sub(1) else {
            self.counters.dropped_load += 1;
            return false;
        };
        self.exchanges_left = left;
        if self.limit.admits_unproved(now) {
            return true;
        }
        if self.jar.mac2_is_right(message, path.peer, now) {
            let admitted = self.limit.admits_proved(path.peer.ip(), now);
            self.counters.dropped_load += u64::from(!admitted);
            return admitted;
        }
        self.counters.dropped_load += 1;
        let reply = self.jar.reply(&self.mac_keys, message, sender, path.peer, &mut self.secrets, now);
        self.counters.cookies_sent += 1;
        self.output(path, &reply);
        false
    }

    fn initiation(&mut self, message: &[u8; INITIATION], path: Path, now: Nanos) {
        if !self.admits(message, index_at(message, 4).to_le_bytes(), path, now) {
            return;
        }
        let Some(read) = self.read_initiation(message) else { return };
        if let Some(id) = self.by_key.get(&read.peer).copied() {
            return self.respond(id, *read, index_at(message, 4), path, now);
        }
        let Some(peer) = self.elsewhere.get_mut(&read.peer) else {
            self.counters.dropped_handshake += 1;
            return;
        };
        if is_replay(&read, (&peer.last_timestamp, peer.last_initiation), now) {
            self.counters.dropped_initiation_replay += 1;
        } else if self.handed_over.len() == MAX_HANDED_OVER {
            self.counters.dropped_load += 1;
        } else {
            peer.last_timestamp = read.timestamp;
            peer.last_initiation = Some(now);
            self.counters.handed_over += 1;
            self.handed_over.push_back(HandedOver { to: peer.home, path, message: *message });
        }
    }

    /// Takes an initiation that came to another endpoint, which has found it authentic, new there, and within its limits.
    pub fn take_handed_over(&mut self, initiation: &HandedOver, now: Nanos) {
        let HandedOver { path, message, .. } = initiation;
        let Some(read) = self.read_initiation(message) else { return };
        match self.by_key.get(&read.peer).copied() {
            Some(id) => self.respond(id, *read, index_at(message, 4), *path, now),
            // It has been forgotten meanwhile.
            None => self.counters.dropped_handshake += 1,
        }
    }

    fn read_initiation(&mut self, message: &[u8; INITIATION]) -> Option<Box<Initiation>> {
        let noise = message[8..].first_chunk().expect("it is longer");
        let read = handshake::read_initiation(&self.private, noise, &mut self.secrets);
        self.counters.dropped_handshake += u64::from(read.is_none());
        read
    }

    fn respond(&mut self, id: PeerId, read: Initiation, sender: u32, path: Path, now: Nanos) {
        let peer = self.peers[id.0 as usize].as_mut().expect("ids are of peers");
        if is_replay(&read, (&peer.last_timestamp, peer.last_initiation_received), now) {
            self.counters.dropped_initiation_replay += 1;
            return;
        }
        let Some(local_index) = self.indices.take(id, &mut self.secrets) else { return };
        let mut response = [0; RESPONSE];
        response[0] = kind::RESPONSE;
        response[4..8].copy_from_slice(&local_index.to_le_bytes());
        response[8..12].copy_from_slice(&sender.to_le_bytes());
        let place = response[12..].first_chunk_mut::<RESPONSE_NOISE>().expect("it is longer");
        let (timestamp, exchange) = (read.timestamp, read.exchange);
        let Some(keys) = exchange.respond(&peer.psk, place) else {
            self.indices.give_back(local_index);
            self.counters.dropped_handshake += 1;
            return;
        };
        peer.last_timestamp = timestamp;
        peer.last_initiation_received = Some(now);
        let cookie = peer.cookie.as_ref().map(|(cookie, _)| cookie);
        peer.mac_keys.seal(&mut response, cookie);
        let interval = peer.keepalive_interval;
        peer.timers.anything_sent(now, interval);
        self.authenticated(id, path, now);
        self.install(id, Session::new(keys, local_index, sender, false, now), now);
        self.output(path, &response);
    }

    fn response(&mut self, message: &[u8; RESPONSE], path: Path, now: Nanos) {
        let (sender, receiver) = (index_at(message, 4), index_at(message, 8));
        if !self.admits(message, sender.to_le_bytes(), path, now) {
            return;
        }
        let Some((id, keys)) = self.finish_exchange(message, receiver) else { return };
        let peer = self.peer(id);
        peer.pending = None;
        Timers::stop(&mut peer.timers.retry);
        self.authenticated(id, path, now);
        self.install(id, Session::new(keys, receiver, sender, true, now), now);
        if self.peer(id).staged.is_empty() {
            // Only with a message from us does the responder begin to send.
            self.send_keepalive(id, now);
        } else {
            self.ready.push_back(id);
        }
    }

    fn finish_exchange(&mut self, message: &[u8; RESPONSE], receiver: u32) -> Option<(PeerId, SessionKeys)> {
        let id = self.indices.peer_of(receiver);
        let pending = id
            .and_then(|id| self.peer(id).pending.as_mut().filter(|pending| pending.local_index == receiver));
        let (Some(id), Some(pending)) = (id, pending) else {
            self.counters.dropped_no_session += 1;
            return None;
        };
        let noise = message[12..].first_chunk().expect("it is longer");
        let keys = pending.exchange.read_response(noise);
        if keys.is_none() {
            self.counters.dropped_handshake += 1;
        }
        Some((id, keys?))
    }

    fn cookie_reply(&mut self, message: &[u8; COOKIE_REPLY], now: Nanos) {
        let id = self.indices.peer_of(index_at(message, 4));
        let Some((id, mac1)) =
            id.and_then(|id| self.peer(id).pending.as_ref().map(|pending| (id, pending.mac1)))
        else {
            self.counters.dropped_no_session += 1;
            return;
        };
        let mac1: [u8; MAC] = mac1;
        let peer = self.peer(id);
        match peer.mac_keys.open_reply(message, &mac1) {
            // The next attempt carries it.
            Some(cookie) => peer.cookie = Some((cookie, now)),
            None => self.counters.dropped_handshake += 1,
        }
    }
}

/// Whether an initiation is one that came before, or too soon after it.
fn is_replay(read: &Initiation, (timestamp, at): (&Timestamp, Option<Nanos>), now: Nanos) -> bool {
    read.timestamp <= *timestamp || at.is_some_and(|last| now < last + INITIATION_INTERVAL)
}
