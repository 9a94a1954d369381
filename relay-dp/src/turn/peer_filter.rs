//! Which peers' addresses may be reached through the relay.
//!
//! Without this a client could use the server as a way into the networks that the server can see: its own loopback, cloud
//! metadata addresses, private ranges (RFC 8656 section 21.2.2 and 21.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Never reached, unless allowed by name: what is not a unicast address of the public internet (IANA's special-purpose
/// registries), and the ways to write an IPv4 address as IPv6 that [`embedded_ipv4`] does not look into.
const DENIED: [&str; 30] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The rule: allowed networks, then denied ones, then all others are reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerFilter {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
}

impl PeerFilter {
    /// The standard denials and `denied`, except what is in `allowed`.
    pub fn new(allowed: Vec<IpNet>, denied: Vec<IpNet>) -> PeerFilter {
        let standard = DENIED.iter().map(|text| text.parse().expect("a constant of ours"));
        PeerFilter { allowed, denied: standard.chain(denied).collect() }
    }

    /// Whether a peer at this address may be reached.
    pub fn permits(&self, ip: IpAddr) -> bool {
        let inside = |nets: &[IpNet], ip: IpAddr| nets.iter().any(|net| net.contains(&ip));
        if inside(&self.allowed, ip) {
            return true;
        }
        let embedded = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => embedded_ipv4(ip),
        };
        !inside(&self.denied, ip) && embedded.is_none_or(|ip| self.permits(ip.into()))
    }
}

/// The IPv4 address that a packet to this IPv6 address ends up at: mapped, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_ipv4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, _, a, b, c, d, .., w, x, y, z] = ip.octets();
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(Ipv4Addr::new(w, x, y, z)),
        [0x2002, ..] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(filter: &PeerFilter, ip: &str) -> bool {
        filter.permits(ip.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_denied() {
        let filter = PeerFilter::new(Vec::new(), vec!["93.184.0.0/16".parse().unwrap()]);
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "93.184.216.34",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001:0:1::",
            "::ffff:93.184.1.1",
        ] {
            assert!(!permits(&filter, ip), "{ip}");
        }
        for ip in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::101:101", "2002:101:101::"]
        {
            assert!(permits(&filter, ip), "{ip}");
        }
    }

    #[test]
    fn what_is_allowed_comes_first_and_opens_nothing_else() {
        let filter =
            PeerFilter::new(vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], Vec::new());
        assert!(permits(&filter, "127.0.0.1") && permits(&filter, "fd00::1"));
        assert!(!permits(&filter, "10.0.0.1") && !permits(&filter, "::1") && !permits(&filter, "fc00::1"));
        assert!(permits(&filter, "::ffff:127.0.0.1"), "the same host, written otherwise");
    }
}
