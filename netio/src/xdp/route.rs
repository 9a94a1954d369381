//! Which way a destination is reached: the kernel's routing and neighbour tables, asked through rtnetlink and remembered for a while.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::frame::Mac;
use super::netlink::{Answer, Message, Netlink, attribute, word};

/// How long an answer is good.
const GOOD_FOR: Duration = Duration::from_secs(2);
/// How long a destination goes through the kernel before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Destinations remembered; then all are forgotten.
const REMEMBERED: usize = 1 << 16;
/// Questions of one burst: each takes some µs.
const QUESTIONS: usize = 16;

const RTM_GETROUTE: u16 = 26;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNEIGH: u16 = 28;
const RTN_UNICAST: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_STALE: u16 = 0x04;
/// Reachable, stale, delay, probe, noarp, permanent: the address is known.
const NUD_KNOWN: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80;

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The next hop.
    pub(super) to: Mac,
    /// The longest IP packet, if the kernel has learnt of a shorter one than the interface's.
    pub(super) mtu: Option<usize>,
}

struct Known {
    way: Option<Way>,
    until: Instant,
}

/// The ways out of one interface.
pub(super) struct Routes {
    netlink: Netlink,
    interface: u32,
    known: HashMap<IpAddr, Known>,
    questions: usize,
}

impl Routes {
    pub(super) fn new(interface: u32) -> io::Result<Routes> {
        let netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        Ok(Routes { netlink, interface, known: HashMap::new(), questions: 0 })
    }

    /// A new burst begins: it may ask anew.
    pub(super) fn begin(&mut self) {
        self.questions = 0;
    }

    /// The way to `address`; `None` sends through the kernel: another interface, a neighbour that it has yet to find, or one that
    /// it has not heard of for long and will ask when a packet goes there.
    pub(super) fn to(&mut self, address: IpAddr, now: Instant) -> Option<Way> {
        if let Some(known) = self.known.get(&address)
            && now < known.until
        {
            return known.way;
        }
        if self.questions == QUESTIONS {
            return None;
        }
        self.questions += 1;
        // Whatever goes wrong in asking, the kernel knows the way itself.
        let found = self.ask(address).ok().flatten();
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let until = now + if found.is_some() { GOOD_FOR } else { ASK_AGAIN };
        self.known.insert(address, Known { way: found.map(|(way, _)| way), until });
        // A stale neighbour stays stale unless the kernel itself sends to it now and then.
        found.filter(|(_, stale)| !stale).map(|(way, _)| way)
    }

    /// The way to `address` as far as it is known, and until when: never asks, so it says nothing of neighbours that are due to be asked.
    pub(super) fn known(&self, address: IpAddr, now: Instant) -> Option<(Way, Instant)> {
        let known = self.known.get(&address).filter(|known| now < known.until)?;
        Some((known.way?, known.until))
    }

    fn ask(&self, address: IpAddr) -> io::Result<Option<(Way, bool)>> {
        let mut question = Message::new(RTM_GETROUTE, &route_request(address));
        question.put(RTA_DST, &octets(address));
        let answer = self.netlink.call(question)?;
        let Some(route) = Answer::new(&answer, RTM_NEWROUTE, 12) else { return Ok(None) };
        // Local addresses and broadcasts are no neighbours; a gateway of the other family is left to the kernel.
        if route.fixed[7] != RTN_UNICAST
            || route.word(RTA_OIF) != Some(self.interface)
            || route.find(RTA_VIA).is_some()
        {
            return Ok(None);
        }
        let mtu = route.find(RTA_METRICS).and_then(|metrics| word(attribute(metrics, RTAX_MTU)?));
        let hop = match route.find(RTA_GATEWAY) {
            Some(gateway) => ip(gateway),
            None => Some(address),
        };
        let Some(hop) = hop else { return Ok(None) };

        let mut question = Message::new(RTM_GETNEIGH, &neighbour_request(hop, self.interface));
        question.put(NDA_DST, &octets(hop));
        let answer = self.netlink.call(question)?;
        let Some(neighbour) = Answer::new(&answer, RTM_NEWNEIGH, 12) else { return Ok(None) };
        let state = u16::from_ne_bytes([neighbour.fixed[8], neighbour.fixed[9]]);
        let to = neighbour.find(NDA_LLADDR).and_then(|mac| <Mac>::try_from(mac).ok());
        let way =
            to.filter(|_| state & NUD_KNOWN != 0).map(|to| Way { to, mtu: mtu.map(|mtu| mtu as usize) });
        Ok(way.map(|way| (way, state & NUD_STALE != 0)))
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("2 or 10")
}

/// `struct rtmsg`.
fn route_request(address: IpAddr) -> [u8; 12] {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    [family(address), bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// `struct ndmsg`.
fn neighbour_request(address: IpAddr, interface: u32) -> [u8; 12] {
    let [a, b, c, d] = interface.to_ne_bytes();
    [family(address), 0, 0, 0, a, b, c, d, 0, 0, 0, 0]
}

/// An address as it goes over the wire.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_local_is_no_neighbour() {
        let mut routes = Routes::new(1).unwrap();
        let now = Instant::now();
        assert_eq!(routes.to("127.0.0.1".parse().unwrap(), now), None);
        assert_eq!(routes.to("::1".parse().unwrap(), now), None);
    }
}
