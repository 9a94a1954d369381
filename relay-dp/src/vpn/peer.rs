//! What an endpoint knows of one peer.

use std::collections::VecDeque;

use super::cookie::{Cookie, MacKeys};
use super::endpoint::{Path, PeerStatus};
use super::handshake::{Exchange, Timestamp};
use super::session::Session;
use super::timers::Timers;
use super::wire::MAC;
use super::{Nanos, Network, PrivateKey, PublicKey};

/// Packets (super-packets count as one) that wait for a session, per peer.
pub(super) const MAX_STAGED: usize = 32;

/// An initiation of ours that waits for its answer.
pub(super) struct Pending {
    pub(super) exchange: Box<Exchange>,
    pub(super) local_index: u32,
    /// The initiation's mac1, which a cookie reply is bound to.
    pub(super) mac1: [u8; MAC],
}

/// One peer. Nothing here is allocated for a peer that is silent, but for its sessions.
pub(super) struct Peer {
    pub(super) key: PublicKey,
    pub(super) psk: PrivateKey,
    pub(super) mac_keys: MacKeys,
    pub(super) networks: Vec<Network>,
    pub(super) keepalive_interval: Option<Nanos>,
    /// Where it was last heard from.
    pub(super) path: Option<Path>,
    /// The session that we send on.
    pub(super) current: Option<Box<Session>>,
    /// The one before: what is under way on it is still accepted.
    pub(super) previous: Option<Box<Session>>,
    /// One that the peer began and has not used yet; nothing is sent on it before.
    pub(super) next: Option<Box<Session>>,
    pub(super) pending: Option<Pending>,
    pub(super) attempts: u32,
    pub(super) last_initiation_sent: Option<Nanos>,
    pub(super) last_initiation_received: Option<Nanos>,
    pub(super) last_timestamp: Timestamp,
    pub(super) cookie: Option<(Cookie, Nanos)>,
    pub(super) timers: Timers,
    /// Packets with their vnet headers that wait for a session.
    pub(super) staged: VecDeque<Vec<u8>>,
    pub(super) last_handshake: Option<Nanos>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Peer {
    /// As people want to see it.
    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            key: self.key,
            address: self.path.map(|path| path.peer),
            last_handshake: self.last_handshake,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// The session that has `index`.
    pub(super) fn session(&mut self, index: u32) -> Option<&mut Session> {
        [&mut self.current, &mut self.next, &mut self.previous]
            .into_iter()
            .filter_map(|place| place.as_deref_mut())
            .find(|session| session.local_index == index)
    }

    /// Data came on `index`: if that is the session that the peer began, it is confirmed now and becomes the current one. Returns
    /// the session that falls out.
    pub(super) fn confirm(&mut self, index: u32) -> Option<Box<Session>> {
        self.next.take_if(|session| session.local_index == index).and_then(|confirmed| {
            let replaced = self.previous.take();
            self.previous = self.current.replace(confirmed);
            replaced
        })
    }
}
