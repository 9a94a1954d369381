//! What an operator says about the relay, and the bounds that nobody can move.

use std::{net::IpAddr, ops::RangeInclusive};

use super::{bucket::Rate, peer_filter::PeerFilter};

/// Bounds of what strangers and clients can make a server hold or send.
pub mod limits {
    /// Bytes a second that may go to one network of unauthenticated senders, in steady state; four times as many at once.
    pub const STRANGER_BYTES: u64 = 16 * 1024;
    /// Buckets of such networks.
    pub const STRANGER_BUCKETS: usize = 4096;
    /// Permissions of an allocation.
    pub const PERMISSIONS: usize = 64;
    /// Channels of an allocation.
    pub const CHANNELS: usize = 64;
    /// Bytes of a user name (RFC 8489 section 14.3).
    pub const USERNAME: usize = 508;
    /// Bytes of the realm: short, because it goes to strangers.
    pub const REALM: usize = 64;
    /// Ports that are tried for one allocation before it fails.
    pub const PORT_TRIES: u8 = 8;
    /// Attributes that are named as unknown in one reply.
    pub const UNKNOWN_ATTRIBUTES: usize = 8;
}

/// A relayed address, as it is bound here and as peers see it. They differ behind a one-to-one NAT, as clouds have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayIp {
    /// Where relay sockets are bound.
    pub bind: IpAddr,
    /// What clients are told.
    pub public: IpAddr,
}

/// Everything a server is told. See [`Config::check`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Whom the credentials are for; clients show it to nobody.
    pub realm: String,
    /// Users and passwords (RFC 8489 section 9.2).
    pub users: Vec<(String, String)>,
    /// Secrets for time-limited credentials: the user name is `EXPIRY:NAME` with seconds since 1970, the password the base64
    /// of HMAC-SHA1 over it (draft-uberti-behave-turn-rest). Several, so that they can be replaced one by one.
    pub secrets: Vec<String>,
    /// Relayed addresses of IPv4.
    pub ipv4: Option<RelayIp>,
    /// Relayed addresses of IPv6.
    pub ipv6: Option<RelayIp>,
    /// Their ports.
    pub ports: RangeInclusive<u16>,
    /// Which peers are reached.
    pub peers: PeerFilter,
    /// Most allocations.
    pub max_allocations: u32,
    /// Most allocations of one user.
    pub max_allocations_per_user: u32,
    /// Bytes that a user's relayed packets may have, both ways together.
    pub user_rate: Option<Rate>,
    /// Life of an allocation that asks for nothing or less, s (RFC 8656 section 3.2: 600).
    pub default_lifetime: u32,
    /// Longest life that is granted, s.
    pub max_lifetime: u32,
    /// Life of a permission, s (RFC 8656 section 9: 300).
    pub permission_lifetime: u32,
    /// Life of a channel, s (RFC 8656 section 12: 600).
    pub channel_lifetime: u32,
    /// Life of a nonce, s.
    pub nonce_lifetime: u32,
    /// Life of a reserved port, s (RFC 8656 section 7.2: at least 30).
    pub reservation_lifetime: u32,
    /// Whether the caller can send with the DF bit set.
    pub dont_fragment: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            realm: "top".into(),
            users: Vec::new(),
            secrets: Vec::new(),
            ipv4: None,
            ipv6: None,
            ports: 49_152..=65_535,
            peers: PeerFilter::new(Vec::new(), Vec::new()),
            max_allocations: 10_000,
            max_allocations_per_user: 64,
            user_rate: None,
            default_lifetime: 600,
            max_lifetime: 3600,
            permission_lifetime: 300,
            channel_lifetime: 600,
            nonce_lifetime: 3600,
            reservation_lifetime: 30,
            dont_fragment: false,
        }
    }
}

/// Why a configuration can't work.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody could ever use it.
    #[error("there are no credentials: give users with passwords, or a secret for time-limited ones")]
    NoCredentials,
    /// There is nothing to relay from.
    #[error("there is no relayed address: give an IPv4 or an IPv6 address of this machine")]
    NoRelayAddress,
    /// A relayed address is of the other family, or says nothing.
    #[error("{0} can't be the {1} address of relays: give one that peers can send to")]
    RelayAddress(IpAddr, &'static str),
    /// The range is empty or begins at zero.
    #[error(
        "no ports from {0} to {1}: the range needs a first port of at least 1 and a last one that is not below"
    )]
    Ports(u16, u16),
    /// The realm is empty, too long, or has quotes.
    #[error("the realm needs 1 to {max} bytes without quotes and control characters", max = limits::REALM)]
    Realm,
    /// A user name is empty, too long, or twice there.
    #[error("the user name «{0}» is empty, too long, or there twice")]
    User(String),
    /// An empty secret is none.
    #[error("a secret is empty")]
    EmptySecret,
    /// A number is zero that must not be.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The longest life is shorter than the usual one.
    #[error("the longest lifetime is shorter than the default one")]
    Lifetimes,
}

impl Config {
    /// Whether it can work.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.users.is_empty() && self.secrets.is_empty() {
            return Err(ConfigError::NoCredentials);
        }
        if self.secrets.iter().any(String::is_empty) {
            return Err(ConfigError::EmptySecret);
        }
        if self.ipv4.is_none() && self.ipv6.is_none() {
            return Err(ConfigError::NoRelayAddress);
        }
        for (relay, family, is_it) in [
            (self.ipv4, "IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            (self.ipv6, "IPv6", IpAddr::is_ipv6 as fn(&IpAddr) -> bool),
        ] {
            let Some(RelayIp { bind, public }) = relay else { continue };
            if !is_it(&bind) || !is_it(&public) || public.is_unspecified() || public.is_multicast() {
                return Err(ConfigError::RelayAddress(public, family));
            }
        }
        let (first, last) = (*self.ports.start(), *self.ports.end());
        if first == 0 || first > last {
            return Err(ConfigError::Ports(first, last));
        }
        let bad = |c: char| c.is_control() || c == '"' || c == '\\';
        if self.realm.is_empty() || self.realm.len() > limits::REALM || self.realm.contains(bad) {
            return Err(ConfigError::Realm);
        }
        self.check_users()?;
        self.check_numbers()
    }

    fn check_users(&self) -> Result<(), ConfigError> {
        let mut names: Vec<&str> = self.users.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let bad = names.iter().copied().find(|name| name.is_empty() || name.len() > limits::USERNAME);
        twice.or(bad).map_or(Ok(()), |name| Err(ConfigError::User(name.into())))
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let rate = self.user_rate.unwrap_or(Rate { per_second: 1, burst: 1 });
        for (what, value) in [
            ("the number of allocations", u64::from(self.max_allocations)),
            ("the number of allocations of a user", self.max_allocations_per_user.into()),
            ("the rate of a user", rate.per_second),
            ("the burst of a user", rate.burst),
            ("the default lifetime", self.default_lifetime.into()),
            ("the lifetime of permissions", self.permission_lifetime.into()),
            ("the lifetime of channels", self.channel_lifetime.into()),
            ("the lifetime of nonces", self.nonce_lifetime.into()),
            ("the lifetime of reservations", self.reservation_lifetime.into()),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(what));
            }
        }
        if self.max_lifetime < self.default_lifetime { Err(ConfigError::Lifetimes) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_work_is_said() {
        let ip = |text: &str| {
            let ip = text.parse().unwrap();
            Some(RelayIp { bind: ip, public: ip })
        };
        let good = Config { secrets: vec!["s".into()], ipv4: ip("192.0.2.1"), ..Config::default() };
        assert_eq!(good.check(), Ok(()));
        type Spoil = fn(&mut Config);
        let cases: [(Spoil, &str); 9] = [
            (|c| c.secrets.clear(), "no credentials"),
            (|c| c.secrets.push(String::new()), "a secret is empty"),
            (|c| c.ipv4 = None, "no relayed address"),
            (|c| c.ipv6 = c.ipv4, "can't be the IPv6 address"),
            (|c| c.ports = RangeInclusive::new(9, 8), "no ports from 9 to 8"),
            (|c| c.realm = "a\"b".into(), "realm"),
            (|c| c.users = vec![("a".into(), "1".into()), ("a".into(), "2".into())], "«a»"),
            (|c| c.nonce_lifetime = 0, "the lifetime of nonces must be at least 1"),
            (|c| c.max_lifetime = 599, "shorter"),
        ];
        for (spoil, cause) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }
}
