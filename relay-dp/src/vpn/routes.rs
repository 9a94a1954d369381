//! Which addresses belong to which peer: cryptokey routing (section 2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::PeerId;

/// A network, written `address/length`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(IpNet);

impl Network {
    /// The network of `address` with the first `length` bits; `None` when it has no so many.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(Self)
    }

    /// Reads `address/length`, or an address alone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.parse::<IpNet>() {
            Ok(network) => Some(Self(network)),
            Err(_) => text.parse::<IpAddr>().ok().map(|address| Self(address.into())),
        }
    }

    /// The address as it was written, host bits included.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// Number of bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The network without host bits.
    #[must_use]
    pub fn truncated(&self) -> Self {
        Self(self.0.trunc())
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest-prefix match from address to peer.
#[derive(Default)]
pub(super) struct Routes {
    v4: PrefixMap<Ipv4Net, PeerId>,
    v6: PrefixMap<Ipv6Net, PeerId>,
}

impl Routes {
    /// Gives `network` to `peer`; whoever had exactly it before loses it.
    pub(super) fn insert(&mut self, network: Network, peer: PeerId) {
        match network.0.trunc() {
            IpNet::V4(network) => self.v4.insert(network, peer),
            IpNet::V6(network) => self.v6.insert(network, peer),
        };
    }

    pub(super) fn remove(&mut self, network: Network, peer: PeerId) {
        match network.0.trunc() {
            IpNet::V4(network) if self.v4.get(&network) == Some(&peer) => drop(self.v4.remove(&network)),
            IpNet::V6(network) if self.v6.get(&network) == Some(&peer) => drop(self.v6.remove(&network)),
            _ => {}
        }
    }

    pub(super) fn peer_of(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(ip) => self.v4.get_lpm(&Ipv4Net::from(ip)).map(|(_, peer)| *peer),
            IpAddr::V6(ip) => self.v6.get_lpm(&Ipv6Net::from(ip)).map(|(_, peer)| *peer),
        }
    }
}

/// An IP packet's length by its own header, source and destination. `None` when it is no IP packet or shorter than it says.
pub(super) fn addresses(packet: &[u8]) -> Option<(usize, IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let source = Ipv4Addr::from(*header[12..].first_chunk::<4>()?);
            let destination = Ipv4Addr::from(*header[16..].first_chunk::<4>()?);
            (20..=packet.len()).contains(&len).then_some((len, source.into(), destination.into()))
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let len = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
            let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
            (len <= packet.len()).then_some((len, source.into(), destination.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network() -> impl Strategy<Value = Network> {
        let v4 = (any::<u16>(), 0u8..=32)
            .prop_map(|(bits, len)| (Ipv4Addr::from(u32::from(bits) << 16).into(), len));
        let v6 = (any::<u16>(), 0u8..=128)
            .prop_map(|(bits, len)| (Ipv6Addr::from(u128::from(bits) << 112).into(), len));
        prop_oneof![v4, v6].prop_map(|(address, len): (IpAddr, u8)| Network::new(address, len).unwrap())
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(networks in proptest::collection::vec(network(), 0..30), asked in network()) {
            let mut routes = Routes::default();
            for (index, network) in networks.iter().enumerate() {
                routes.insert(*network, PeerId(u32::try_from(index).unwrap()));
            }
            let longest = networks
                .iter()
                .enumerate()
                .filter(|(_, network)| network.contains(asked.address()))
                .max_by_key(|(index, network)| (network.length(), *index));
            let expected = longest.map(|(index, _)| PeerId(u32::try_from(index).unwrap()));
            prop_assert_eq!(routes.peer_of(asked.address()), expected);
        }
    }

    #[test]
    fn networks_are_read_and_written() {
        assert_eq!(Network::parse("10.9.0.1/24").unwrap().to_string(), "10.9.0.1/24");
        assert_eq!(Network::parse("fd00::1").unwrap().length(), 128);
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "x", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
