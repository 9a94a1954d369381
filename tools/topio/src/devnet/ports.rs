//! The validators' addresses: free ports for a network on loopback, or the same ports on hosts of their own.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use serde::{Deserialize, Serialize};

/// The first port that is tried. So the first validator's RPC is where commands look for it by default.
const FIRST: u16 = 9100;
/// Distance between two tries.
const STEP: u16 = 100;
/// Where Linux begins to take ports for outgoing connections, if not told otherwise.
const EPHEMERAL: u16 = 32_768;

/// Ports of a validator that has a host for itself; those of `engine/examples/node.toml`.
const OWN_HOST: (u16, u16, u16) = (7901, 7900, 7000);

/// One validator's address and ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// Its address.
    #[serde(default = "localhost")]
    pub host: IpAddr,
    /// JSON-RPC, metrics and health.
    pub rpc: u16,
    /// Clients of high rate.
    pub submission: u16,
    /// Lane 0 of the other validators; lane L has this port plus L.
    pub peers: u16,
}

impl Ports {
    /// Where JSON-RPC is.
    pub fn rpc_address(&self) -> SocketAddr {
        (self.host, self.rpc).into()
    }

    /// Where clients of high rate go.
    pub fn submission_address(&self) -> SocketAddr {
        (self.host, self.submission).into()
    }

    /// Where the other validators' lane 0 goes.
    pub fn peers_address(&self) -> SocketAddr {
        (self.host, self.peers).into()
    }

    /// Those of a validator that has a host for itself.
    pub fn alone_on(host: IpAddr) -> Ports {
        let (rpc, submission, peers) = OWN_HOST;
        Ports { host, rpc, submission, peers }
    }
}

/// The address of this machine that no other machine reaches.
fn localhost() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// How many ports such a network needs.
pub fn needed(validators: u16, lanes: u16) -> u32 {
    u32::from(validators) * (2 + u32::from(lanes))
}

/// Ports in one row, none of which is in use now: first all RPC ports, then all submission ports, then the lanes of each
/// validator. `None` where there is no such row below the ports of outgoing connections.
pub fn find(validators: u16, lanes: u16) -> Option<Vec<Ports>> {
    let needed = u16::try_from(needed(validators, lanes)).ok()?;
    let last = first_ephemeral().checked_sub(needed)?;
    let first = (FIRST..=last).step_by(usize::from(STEP)).find(|&first| are_free(first, needed))?;
    let place = |index: u16| Ports {
        host: localhost(),
        rpc: first + index,
        submission: first + validators + index,
        peers: first + 2 * validators + index * lanes,
    };
    Some((0..validators).map(place).collect())
}

fn first_ephemeral() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(EPHEMERAL)
}

fn are_free(first: u16, count: u16) -> bool {
    (first..first + count).all(|port| TcpListener::bind((localhost(), port)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_overlap_and_avoid_ports_in_use() {
        let first = find(4, 3).unwrap();
        let _taken = TcpListener::bind(first[2].rpc_address());
        let ports = find(4, 3).unwrap();
        assert_ne!(ports[0], first[0]);
        let mut all: Vec<u16> =
            ports.iter().flat_map(|p| [p.rpc, p.submission, p.peers, p.peers + 1, p.peers + 2]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4 * 5);
        assert_eq!(find(128, 1024), None);
    }
}
