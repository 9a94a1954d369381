//! Indices of sessions, and how several endpoints share one key.

use super::endpoint::{Path, PeerId};
use super::handshake::Timestamp;
use super::wire::{INITIATION, kind};
use super::{Nanos, Secrets};

/// Slots for indices: a peer has up to three sessions and a pending exchange.
const INDEX_BITS: u32 = 20;

/// Which of several endpoints with one key and one port an endpoint is, one for each core. Each peer is at home at one of them, which
/// alone has its sessions: so no replay gets through by way of another. The indices that an endpoint hands out say whose they
/// are ([`Share::BY_INDEX`]), so data finds its endpoint wherever the peer roams; initiations, which say nothing of their peer to
/// strangers, are handed over ([`next_handed_over`](super::Endpoint::next_handed_over)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This one's number, from 0.
    pub number: u8,
    /// How many there are.
    pub of: u8,
}

impl Share {
    /// One for all peers.
    pub const WHOLE: Share = Share { number: 0, of: 1 };

    /// For each kind of message that names its receiver, its first byte and the place of the byte that is, modulo
    /// [`Share::of`], the number of the receiver's endpoint.
    pub const BY_INDEX: [(u8, usize); 3] = [(kind::RESPONSE, 11), (kind::COOKIE_REPLY, 7), (kind::DATA, 7)];

    /// The value nearest to `random` that stands for this share.
    fn mark(self, random: u8) -> u8 {
        let nearest = u16::from(random - random % self.of) + u16::from(self.number);
        u8::try_from(nearest).unwrap_or_else(|_| random - random % self.of - self.of + self.number)
    }
}

/// An initiation that came to one endpoint and is for a peer at home at another.
#[derive(Clone, Debug)]
pub struct HandedOver {
    /// The endpoint.
    pub to: u8,
    /// Where the initiation came along.
    pub(super) path: Path,
    pub(super) message: [u8; INITIATION],
}

/// A peer that is at home at another endpoint, and what came here of it.
pub(super) struct Elsewhere {
    pub(super) home: u8,
    /// Of the last initiation that was handed over: a copy of that costs its home nothing more.
    pub(super) last_timestamp: Timestamp,
    /// When that was.
    pub(super) last_initiation: Option<Nanos>,
}

impl Elsewhere {
    pub(super) fn new(home: u8) -> Self {
        Self { home, last_timestamp: [0; 12], last_initiation: None }
    }
}

/// From the index in a message to the peer it belongs to: one array access.
pub(super) struct Indices {
    /// The full index and its peer, by the index's low bits.
    slots: Vec<Option<(u32, PeerId)>>,
    free: Vec<u32>,
    pub(super) share: Share,
}

impl Indices {
    pub(super) fn new(share: Share) -> Self {
        assert!(share.number < share.of, "shares are numbered from 0");
        Self { slots: Vec::new(), free: Vec::new(), share }
    }

    /// A new index, its upper bits random as far as they don't tell the share; `None` when all slots are taken.
    pub(super) fn take(&mut self, peer: PeerId, secrets: &mut Secrets) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < 1 << INDEX_BITS)?;
                self.slots.push(None);
                slot
            }
        };
        let [low, high] = secrets.bytes();
        let index = u32::from_be_bytes([self.share.mark(high), low << 4, 0, 0]) | slot;
        self.slots[slot as usize] = Some((index, peer));
        Some(index)
    }

    pub(super) fn peer_of(&self, index: u32) -> Option<PeerId> {
        let slot = (index & ((1 << INDEX_BITS) - 1)) as usize;
        self.slots.get(slot).copied().flatten().filter(|(full, _)| *full == index).map(|(_, peer)| peer)
    }

    pub(super) fn give_back(&mut self, index: u32) {
        let slot = index & ((1 << INDEX_BITS) - 1);
        let had = self.slots[slot as usize].take();
        assert!(had.is_some_and(|(full, _)| full == index), "an index is given back once");
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_tells_whose_it_is() {
        let mut secrets = Secrets::new([1; 32]);
        for of in 1..=u8::MAX {
            for number in [0, of / 2, of - 1] {
                let share = Share { number, of };
                for random in 0..=u8::MAX {
                    assert_eq!(share.mark(random) % of, number);
                }
                let mut indices = Indices::new(share);
                for peer in [PeerId(7), PeerId(8)] {
                    let index = indices.take(peer, &mut secrets).unwrap();
                    assert_eq!(index.to_le_bytes()[3] % of, number);
                    assert_eq!(indices.peer_of(index), Some(peer));
                }
            }
        }
    }
}
