//! To the network: a super-packet becomes a train of sealed packets of equal size, ready for one send.

use crate::offload::SuperPacket;

use super::endpoint::{Endpoint, Path, PeerId};
use super::peer::MAX_STAGED;
use super::routes::addresses;
use super::timers::JITTER;
use super::wire::{DATA_HEADER, TAG};
use super::{Nanos, OVERHEAD};

/// Most packets in one train: what the kernel takes in one send.
const MAX_TRAIN: usize = 64;
/// Most bytes in one train: what fits an IPv4 datagram.
const MAX_TRAIN_BYTES: usize = 65_535 - 20 - 8;
/// Bytes of packets that wait for sessions, over all peers.
const MAX_STAGED_BYTES: usize = 4 << 20;

/// Sealed packets, back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Bytes in all.
    pub len: usize,
    /// Bytes of each sealed packet but the last, which may be shorter.
    pub segment: usize,
    /// Where to.
    pub path: Path,
    /// The first packet of the super-packet that did not fit; `None` when all are sealed.
    pub rest: Option<usize>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A train to send; its rest is to be sealed into another buffer.
    Train(Train),
    /// It waits for a session: see [`Endpoint::next_staged`].
    Staged,
    /// It is lost, and counted.
    Dropped,
}

impl Endpoint {
    /// Seals the packets of `packet` (vnet header, then IP) from number `first` on into `out`, as many as fit one send.
    ///
    /// # Panics
    /// When `out` is shorter than 65,507 bytes, or the packet has no number `first`.
    pub fn send(&mut self, packet: &[u8], first: usize, out: &mut [u8], now: Nanos) -> Outcome {
        let Ok(parsed) = SuperPacket::parse(packet) else {
            self.counters.dropped_not_ip += 1;
            return Outcome::Dropped;
        };
        let Some((_, _, destination)) = addresses(parsed.ip()) else {
            self.counters.dropped_not_ip += 1;
            return Outcome::Dropped;
        };
        let Some(id) = self.routes.peer_of(destination) else {
            self.counters.dropped_no_peer += 1;
            return Outcome::Dropped;
        };
        let peer = self.peers[id.0 as usize].as_mut().expect("routes are of peers");
        let Some(path) = peer.path else {
            self.counters.dropped_no_path += 1;
            return Outcome::Dropped;
        };
        let Some(session) =
            peer.current.as_deref_mut().filter(|session| session.can_send(MAX_TRAIN as u64, now))
        else {
            return self.stage(id, packet, now);
        };
        let key = session.sending_key();
        let padded = |len: usize| len.next_multiple_of(16).min(self.mtu.max(len));
        let segment = padded(parsed.packet_len(first)) + OVERHEAD;
        let (mut len, mut next, mut bytes) = (0, first, 0u64);
        while next < parsed.count()
            && next - first < MAX_TRAIN
            && (next == first || len + segment <= MAX_TRAIN_BYTES)
        {
            let packet_len = parsed.packet_len(next);
            let message = &mut out[len..len + padded(packet_len) + OVERHEAD];
            parsed.write(next, &mut message[DATA_HEADER..]);
            let padding = DATA_HEADER + packet_len..message.len() - TAG;
            message[padding].fill(0);
            session.seal(&key, message);
            len += message.len();
            bytes += packet_len as u64;
            next += 1;
        }
        let due = session.is_due(now);
        peer.bytes_out += bytes;
        peer.timers.anything_sent(now, peer.keepalive_interval);
        let jitter = now % JITTER; // as good as any: it only has to differ between two peers
        peer.timers.data_sent(now, jitter);
        self.counters.packets_out += (next - first) as u64;
        self.counters.bytes_out += bytes;
        if due {
            self.begin_handshake(id, now);
        }
        self.register(id);
        let rest = (next < parsed.count()).then_some(next);
        Outcome::Train(Train { len, segment, path, rest })
    }

    /// Keeps a packet until there is a session; the oldest gives way.
    fn stage(&mut self, id: PeerId, packet: &[u8], now: Nanos) -> Outcome {
        self.begin_handshake(id, now);
        let peer = self.peers[id.0 as usize].as_mut().expect("ids are of peers");
        if peer.staged.len() == MAX_STAGED
            && let Some(oldest) = peer.staged.pop_front()
        {
            self.staged_bytes -= oldest.len();
            self.counters.dropped_staged += 1;
        }
        if self.staged_bytes + packet.len() > MAX_STAGED_BYTES {
            self.counters.dropped_staged += 1;
            return Outcome::Dropped;
        }
        self.staged_bytes += packet.len();
        peer.staged.push_back(packet.to_vec());
        Outcome::Staged
    }
}
