//! Channels whose datagrams need nothing but other headers: whoever moves packets may do that without asking for each one.

use std::net::SocketAddr;

use super::Server;
use crate::turn::{
    Now, RelayId,
    allocation::family,
    outbox::{Client, Direction},
};

/// A channel's way between a client over UDP and a peer, both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelPath {
    /// Which of the caller's sockets the client talks to.
    pub socket: u16,
    /// The client.
    pub client: SocketAddr,
    /// The channel's number.
    pub number: u16,
    /// Until when datagrams may pass, unless the relayed address is closed before, ns.
    pub until: u64,
}

impl Server {
    /// The way between a peer and the client of a relayed address. `None` without a channel that may be used now; and where users'
    /// bytes are limited, so that each datagram has to be asked for.
    pub fn channel_path(&self, relay: RelayId, peer: &SocketAddr, now: Now) -> Option<ChannelPath> {
        if self.config.user_rate.is_some() {
            return None;
        }
        let allocation = &self.allocations[self.owner(relay)? as usize];
        let own = allocation.relays[family(peer.ip())].filter(|own| own.id == relay);
        let (Client::Udp { socket, address: client }, Some(_)) = (allocation.client, own) else {
            return None;
        };
        let channel = allocation.channel_to(peer, now.ns)?;
        let until = allocation.until.min(channel.until).min(channel.permitted_until);
        (now.ns < until).then_some(ChannelPath { socket, client, number: channel.number, until })
    }

    /// Counts datagrams that went such a way.
    pub fn count_carried(&mut self, direction: Direction, datagrams: u64, bytes: u64) {
        let (count, sum) = match direction {
            Direction::ToPeer => (&mut self.counters.to_peers, &mut self.counters.to_peers_bytes),
            Direction::ToClient => (&mut self.counters.to_clients, &mut self.counters.to_clients_bytes),
        };
        *count += datagrams;
        *sum += bytes;
    }
}
