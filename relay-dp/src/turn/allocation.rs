//! One client's allocation: relayed addresses, permissions, channels.

use std::net::{IpAddr, SocketAddr};

use super::{
    limits,
    outbox::{Client, RelayId},
    stun::TransactionId,
};

/// A relayed address of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    pub id: RelayId,
    /// What clients are told.
    pub public: SocketAddr,
}

/// A peer's address that may send, whatever its port (RFC 8656 section 9).
#[derive(Clone, Copy, Debug)]
struct Permission {
    ip: IpAddr,
    /// ns.
    until: u64,
}

/// A short name for a peer (RFC 8656 section 12).
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub number: u16,
    pub peer: SocketAddr,
    /// ns.
    pub until: u64,
    /// When the permission of the peer's address ends: kept here so that a packet needs one look-up, not two.
    pub permitted_until: u64,
}

/// Why something can't be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The channel has another peer, or the peer another channel.
    Conflict,
    /// There are as many as allowed.
    Full,
}

/// What one client has reserved.
#[derive(Debug)]
pub struct Allocation {
    pub client: Client,
    /// Which user it counts for.
    pub user: u32,
    /// The request that made it: repeated, it is answered again (RFC 8656 section 7.2).
    pub transaction: TransactionId,
    /// Relayed addresses of IPv4 and IPv6.
    pub relays: [Option<Relay>; 2],
    /// ns.
    pub until: u64,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

/// Which of an allocation's relayed addresses.
pub fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

impl Allocation {
    pub fn new(client: Client, user: u32, transaction: TransactionId, until: u64) -> Allocation {
        Allocation {
            client,
            user,
            transaction,
            relays: [None; 2],
            until,
            permissions: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// The channel of a number, if it is bound and its peer permitted.
    pub fn channel(&self, number: u16, now: u64) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.number == number && now < channel.until)
    }

    /// The bound channel of a peer.
    pub fn channel_to(&self, peer: &SocketAddr, now: u64) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.peer == *peer && now < channel.until)
    }

    /// Whether a peer's address has a permission.
    pub fn permits(&self, ip: IpAddr, now: u64) -> bool {
        self.permissions.iter().any(|permission| permission.ip == ip && now < permission.until)
    }

    /// Whether so many new addresses find room, once what has expired is gone.
    pub fn has_room_for(&mut self, ips: impl Iterator<Item = IpAddr>, now: u64) -> bool {
        self.permissions.retain(|permission| now < permission.until);
        let mut new: Vec<IpAddr> = ips.filter(|ip| !self.permits(*ip, now)).collect();
        new.sort_unstable();
        new.dedup();
        self.permissions.len() + new.len() <= limits::PERMISSIONS
    }

    /// Permits a peer's address, or renews its permission.
    pub fn permit(&mut self, ip: IpAddr, until: u64, now: u64) -> Result<(), Refused> {
        if !self.has_room_for(std::iter::once(ip), now) {
            return Err(Refused::Full);
        }
        match self.permissions.iter_mut().find(|permission| permission.ip == ip) {
            Some(permission) => permission.until = until,
            None => self.permissions.push(Permission { ip, until }),
        }
        let of_peer = self.channels.iter_mut().filter(|channel| channel.peer.ip() == ip);
        of_peer.for_each(|channel| channel.permitted_until = until);
        Ok(())
    }

    /// Binds a channel, or renews it, and permits the peer's address.
    pub fn bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
        until: u64,
        permitted_until: u64,
        now: u64,
    ) -> Result<(), Refused> {
        self.channels.retain(|channel| now < channel.until);
        let clashes = |channel: &Channel| (channel.number == number) != (channel.peer == peer);
        if self.channels.iter().any(clashes) {
            return Err(Refused::Conflict);
        }
        let known = self.channels.iter().position(|channel| channel.number == number);
        if known.is_none() && self.channels.len() >= limits::CHANNELS {
            return Err(Refused::Full);
        }
        self.permit(peer.ip(), permitted_until, now)?;
        match known {
            Some(place) => self.channels[place].until = until,
            None => self.channels.push(Channel { number, peer, until, permitted_until }),
        }
        Ok(())
    }
}
