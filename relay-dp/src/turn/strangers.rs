//! What may be sent to those who have not proved who they are: replies to requests whose sender may be forged.

use std::net::IpAddr;

use super::{
    bucket::{Bucket, Rate},
    limits,
};

/// Buckets by network of senders. Networks that fall on one bucket share it.
pub struct Strangers {
    buckets: Box<[Bucket]>,
    hasher: ahash::RandomState,
}

const RATE: Rate = Rate { per_second: limits::STRANGER_BYTES, burst: 4 * limits::STRANGER_BYTES };

impl Strangers {
    /// Full buckets.
    pub fn new(hasher: ahash::RandomState) -> Strangers {
        Strangers { buckets: vec![Bucket::full(RATE, 0); limits::STRANGER_BUCKETS].into(), hasher }
    }

    /// Whether a reply of so many bytes may go there.
    pub fn may_send(&mut self, to: IpAddr, bytes: usize, now: u64) -> bool {
        let hash = self.hasher.hash_one(network(to));
        let slots = self.buckets.len() as u64;
        let slot = usize::try_from(hash % slots).expect("less than a slice's length");
        self.buckets[slot].take(RATE, bytes, now)
    }
}

/// An IPv4 address, or the half of an IPv6 address that names its network.
fn network(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_what_is_stated_and_others_are_not_held_back() {
        let mut strangers = Strangers::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let victim: IpAddr = "192.0.2.7".parse().unwrap();
        let sent = (0..100_000).filter(|_| strangers.may_send(victim, 100, 0)).count() as u64 * 100;
        assert!(sent <= RATE.burst && sent + 100 > RATE.burst, "{sent}");
        assert!(strangers.may_send("192.0.2.8".parse().unwrap(), 100, 0));
        let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::2:2:2:2".parse::<IpAddr>().unwrap());
        assert_eq!(network(one), network(two), "of one /64");
        assert_eq!(network("::ffff:192.0.2.7".parse().unwrap()), network(victim));
    }
}
