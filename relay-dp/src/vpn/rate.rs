//! Limits on handshakes: in all, and under load by source address.

use std::net::{IpAddr, Ipv6Addr};

use super::{Nanos, SECOND};

/// Initiations a second that are looked at without a cookie (about 0.2 ms of a core each).
const FREE_PER_SECOND: u64 = 100;
/// Initiations a second and burst from one address, under load.
const PER_ADDRESS: u64 = 20;
const ADDRESS_BURST: u64 = 5;
/// Addresses are counted in so many buckets; addresses that share one share its allowance.
const BUCKETS: usize = 1024;

/// A token bucket in time: the moment when it would be full again.
#[derive(Clone, Copy, Default)]
struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    fn take(&mut self, per_second: u64, burst: u64, now: Nanos) -> bool {
        let cost = SECOND / per_second;
        let full_at = self.full_at.max(now) + cost;
        let allowed = full_at - now <= cost * burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

/// Says whether a handshake message may cost us a key exchange.
pub(super) struct HandshakeLimit {
    all: Bucket,
    by_address: Box<[Bucket; BUCKETS]>,
    hash_key: [u8; 32],
}

impl HandshakeLimit {
    pub(super) fn new(hash_key: [u8; 32]) -> Self {
        Self { all: Bucket::default(), by_address: Box::new([Bucket::default(); BUCKETS]), hash_key }
    }

    /// Whether there is room for a message from an address that has not been proved.
    pub(super) fn admits_unproved(&mut self, now: Nanos) -> bool {
        self.all.take(FREE_PER_SECOND, FREE_PER_SECOND, now)
    }

    /// Whether there is room for a message from `address`, which has been proved by a cookie.
    pub(super) fn admits_proved(&mut self, address: IpAddr, now: Nanos) -> bool {
        // Whoever has an IPv6 address has 2^64 of them.
        let network = match address {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64),
        };
        let hash = blake3::keyed_hash(&self.hash_key, &network.octets());
        let [low, high, ..] = *hash.as_bytes();
        self.by_address[usize::from(u16::from_le_bytes([low, high])) % BUCKETS].take(
            PER_ADDRESS,
            ADDRESS_BURST,
            now,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_rate() {
        let mut limit = HandshakeLimit::new([0; 32]);
        let admitted = (0..10_000).filter(|step| limit.admits_unproved(step * SECOND / 10_000)).count();
        assert!((100..=200).contains(&admitted), "burst and one second: {admitted}");
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "10.0.0.1".parse().unwrap();
        let admitted =
            (0..20).filter(|_| limit.admits_proved(one, 0) | limit.admits_proved(neighbour, 0)).count();
        assert!(admitted <= 5, "{admitted}");
        assert!(limit.admits_proved(other, 0));
        assert!(limit.admits_proved(one, SECOND));
    }
}
