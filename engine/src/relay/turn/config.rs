//! `[relay.turn]`: what an operator says about the TURN server.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

use netio::xdp::{Flow, can_steer};
use relay_dp::turn::{self, Config, PeerFilter, RelayIp};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::config::toml_file::{self, TomlFileError, within};

pub use relay_dp::turn::Rate;

/// The section as its TOML says it; see `engine/examples/turn.toml`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnConfig {
    /// Where clients come, by UDP and TCP.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<SocketAddr>,
    /// Whether clients may come by TCP.
    #[serde(default = "yes")]
    pub tcp: bool,
    /// This machine's addresses that peers see: one of IPv4, one of IPv6, or both.
    pub relay: Vec<IpAddr>,
    /// Where relay sockets are bound instead, behind a one-to-one NAT: of the same families as in `relay`.
    #[serde(default)]
    pub bind: Vec<IpAddr>,
    /// How datagrams come in and go out.
    #[serde(default)]
    pub io: Io,
    /// The interface whose driver steers, for [`Io::AfXdp`].
    #[serde(default)]
    pub interface: Option<String>,
    /// Ports of relayed addresses; cores split them.
    #[serde(default = "ports", deserialize_with = "port_range")]
    pub ports: RangeInclusive<u16>,
    /// Whom credentials are for.
    #[serde(default = "realm")]
    pub realm: String,
    /// Passwords by user.
    #[serde(default)]
    pub users: BTreeMap<String, String>,
    /// Secrets of time-limited credentials.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Peers that are reached though they are in special ranges.
    #[serde(default, deserialize_with = "networks")]
    pub allow_peers: Vec<ipnet::IpNet>,
    /// Peers that are not reached.
    #[serde(default, deserialize_with = "networks")]
    pub deny_peers: Vec<ipnet::IpNet>,
    /// Most allocations, over all cores.
    #[serde(default = "allocations", deserialize_with = "within::<_, _, 1, 1_000_000>")]
    pub max_allocations: u32,
    /// Most allocations of one user on one core.
    #[serde(default = "per_user", deserialize_with = "within::<_, _, 1, 1_000_000>")]
    pub max_allocations_per_user: u32,
    /// Bytes a second that a user may relay on one core, both ways together; 0 for no bound.
    #[serde(default, deserialize_with = "within::<_, _, 0, 1_000_000_000_000>")]
    pub user_bytes_per_second: u64,
    /// Longest life of an allocation that is granted, s.
    #[serde(default = "lifetime", deserialize_with = "within::<_, _, 600, 86_400>")]
    pub max_lifetime: u32,
    /// Life of a nonce, s.
    #[serde(default = "lifetime", deserialize_with = "within::<_, _, 1, 86_400>")]
    pub nonce_lifetime: u32,
}

/// How datagrams come in and go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    /// Through sockets of the kernel's.
    #[default]
    Sockets,
    /// Past the kernel, by AF_XDP on one interface; through sockets on others, and where AF_XDP can't be had.
    AfXdp,
}

fn yes() -> bool {
    true
}

fn ports() -> RangeInclusive<u16> {
    49_152..=65_535
}

fn realm() -> String {
    "top".into()
}

fn allocations() -> u32 {
    10_000
}

fn per_user() -> u32 {
    64
}

fn lifetime() -> u32 {
    3600
}

fn list<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: std::fmt::Display>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: String| text.parse().map_err(|error| D::Error::custom(format!("«{text}»: {error}")));
    texts.into_iter().map(parse).collect()
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let addresses = list(deserializer)?;
    if (1..=16).contains(&addresses.len()) {
        Ok(addresses)
    } else {
        Err(D::Error::custom("give 1 to 16 addresses"))
    }
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ipnet::IpNet>, D::Error> {
    list(deserializer)
}

fn port_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RangeInclusive<u16>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_ports(&text)
        .ok_or_else(|| D::Error::custom(format!("«{text}» is no range of ports: write 49152-65535")))
}

/// A range of ports as «first-last».
pub fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first >= 1 && first <= last).then_some(first..=last)
}

/// Why the section can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TurnConfigError {
    /// Its file.
    #[error(transparent)]
    File(#[from] TomlFileError),
    /// What it says.
    #[error("[relay.turn]: {0}")]
    Server(#[from] turn::ConfigError),
    /// Two relayed addresses of one family, or a bind address without its relayed one.
    #[error("[relay.turn]: {0}")]
    Addresses(&'static str),
    /// What AF_XDP lacks.
    #[error("[relay.turn]: {0}")]
    Io(&'static str),
    /// Too few ports for the cores.
    #[error("[relay.turn]: {cores} cores need at least {cores} times 2 ports")]
    Ports {
        /// Number of cores.
        cores: u16,
    },
}

impl TurnConfig {
    /// Reads a file that holds the keys of the section.
    ///
    /// # Errors
    /// Unreadable, not TOML, an unknown or missing key, or a value out of range.
    pub fn load(path: &Path) -> Result<TurnConfig, TurnConfigError> {
        let config: TurnConfig = toml_file::read("TURN configuration", path)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a text that holds the keys of the section; `name` stands for a file in errors.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(name: &str, text: &str) -> Result<TurnConfig, TurnConfigError> {
        let config: TurnConfig = toml_file::parse(Path::new(name), text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), TurnConfigError> {
        self.server(0, 1)?.check()?;
        self.flows(1).map(drop)
    }

    /// What is to be steered past the kernel, on [`interface`](Self::interface), for `cores` cores. Empty without AF_XDP.
    ///
    /// # Errors
    /// AF_XDP lacks something, or as [`server`](Self::server).
    pub(super) fn flows(&self, cores: u16) -> Result<Vec<Flow>, TurnConfigError> {
        match (self.io, &self.interface) {
            (Io::Sockets, None) => return Ok(Vec::new()),
            (Io::Sockets, Some(_)) => {
                return Err(TurnConfigError::Io("`interface` is for `io = \"af_xdp\"`"));
            }
            (Io::AfXdp, None) => return Err(TurnConfigError::Io("`io = \"af_xdp\"` needs an `interface`")),
            (Io::AfXdp, Some(_)) => {}
        }
        let listen = self.listen.iter().map(|address| Flow {
            address: address.ip(),
            ports: address.port()..=address.port(),
            core: None,
            opened_only: false,
            channels: true,
        });
        let mut flows: Vec<Flow> = listen.collect();
        for core in 0..cores {
            let server = self.server(core, cores)?;
            for ip in [server.ipv4, server.ipv6].into_iter().flatten() {
                let core = (cores > 1).then_some(core);
                // Closed ports of the range may be other programs': it overlaps what the system gives out itself.
                let (address, ports) = (ip.bind, server.ports.clone());
                flows.push(Flow { address, ports, core, opened_only: true, channels: false });
            }
        }
        if flows.iter().all(|flow| can_steer(flow.address)) {
            Ok(flows)
        } else {
            let what = "`io = \"af_xdp\"` takes specific addresses under `listen` and `relay`: neither wildcards nor loopback";
            Err(TurnConfigError::Io(what))
        }
    }

    /// Connections of one core.
    pub(super) fn max_connections(&self, cores: u16) -> usize {
        // Twice the allocations: those of strangers come and go.
        2 * (self.max_allocations / u32::from(cores)).max(64) as usize
    }

    /// What the server of core `core` out of `cores` is told.
    ///
    /// # Errors
    /// Addresses or ports that do not fit together.
    pub fn server(&self, core: u16, cores: u16) -> Result<Config, TurnConfigError> {
        let rate = Rate { per_second: self.user_bytes_per_second, burst: self.user_bytes_per_second };
        Ok(Config {
            realm: self.realm.clone(),
            users: self.users.clone().into_iter().collect(),
            secrets: self.secrets.clone(),
            ipv4: self.relay_ip(IpAddr::is_ipv4)?,
            ipv6: self.relay_ip(IpAddr::is_ipv6)?,
            ports: self.core_ports(core, cores)?,
            peers: PeerFilter::new(self.allow_peers.clone(), self.deny_peers.clone()),
            max_allocations: self.max_allocations.div_ceil(cores.into()),
            max_allocations_per_user: self.max_allocations_per_user,
            user_rate: (rate.per_second > 0).then_some(rate),
            max_lifetime: self.max_lifetime,
            nonce_lifetime: self.nonce_lifetime,
            dont_fragment: true,
            ..Config::default()
        })
    }

    fn relay_ip(&self, family: fn(&IpAddr) -> bool) -> Result<Option<RelayIp>, TurnConfigError> {
        let of = |addresses: &[IpAddr]| -> Vec<IpAddr> { addresses.iter().copied().filter(family).collect() };
        match (&of(&self.relay)[..], &of(&self.bind)[..]) {
            ([], []) => Ok(None),
            ([public], []) => Ok(Some(RelayIp { bind: *public, public: *public })),
            ([public], [bind]) => Ok(Some(RelayIp { bind: *bind, public: *public })),
            ([], _) => {
                Err(TurnConfigError::Addresses("`bind` has an address of a family that `relay` has not"))
            }
            _ => Err(TurnConfigError::Addresses("give at most one address of each family")),
        }
    }

    /// A core's share of the ports, beginning with an even one so that pairs are not cut.
    fn core_ports(&self, core: u16, cores: u16) -> Result<RangeInclusive<u16>, TurnConfigError> {
        let (first, last) = (u32::from(*self.ports.start()), u32::from(*self.ports.end()));
        let each = (last + 1 - first) / u32::from(cores);
        if cores == 1 {
            return Ok(self.ports.clone());
        }
        let begin = |core: u32| (first + core * each).next_multiple_of(2);
        let end = if core + 1 == cores { last } else { begin(u32::from(core) + 1) - 1 };
        let begin = begin(core.into());
        if each < 2 || begin > end {
            return Err(TurnConfigError::Ports { cores });
        }
        let port = |port: u32| u16::try_from(port).expect("inside of the range");
        Ok(port(begin)..=port(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<TurnConfig, TomlFileError> {
        toml_file::parse(Path::new("turn.toml"), text)
    }

    #[test]
    fn the_example_is_what_it_says() {
        let example = include_str!("../../../examples/turn.toml");
        let config = config(example).unwrap();
        config.server(0, 1).unwrap().check().unwrap();
        // Every key that is commented out shows its default.
        let all: String =
            example.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
        assert_eq!(toml_file::parse::<TurnConfig>(Path::new("a"), &all).unwrap(), config);
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, cause) in [
            ("listen = []\nrelay = []", "turn.toml:1:10: give 1 to 16 addresses"),
            (
                "listen = ['0.0.0.0:3478']\nrelay = []\nports = '9-8'",
                "turn.toml:3:9: «9-8» is no range of ports",
            ),
            ("listen = ['0.0.0.0:3478']\nrelay = []\nallow_peers = ['10.0.0.0/33']", "10.0.0.0/33"),
            ("listen = ['0.0.0.0:3478']\nrelay = []\nuser = 1", "unknown field `user`"),
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
        let base = "listen = ['0.0.0.0:3478']\nsecrets = ['s']\n";
        for (text, cause) in [
            ("relay = ['192.0.2.1', '192.0.2.2']", "at most one address of each family"),
            ("relay = ['192.0.2.1']\nbind = ['::1']", "`bind` has an address of a family"),
            ("relay = []", "no relayed address"),
        ] {
            let config = config(&format!("{base}{text}")).unwrap();
            let error = config.server(0, 1).and_then(|server| Ok(server.check()?)).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn af_xdp_takes_an_interface_and_specific_addresses() {
        let base = "relay = ['192.0.2.1']\nsecrets = ['s']\nports = '50000-50003'\n";
        for (text, cause) in [
            ("listen = ['192.0.2.1:3478']\nio = 'af_xdp'", "needs an `interface`"),
            ("listen = ['192.0.2.1:3478']\ninterface = 'eth0'", "`interface` is for"),
            ("listen = ['0.0.0.0:3478']\nio = 'af_xdp'\ninterface = 'eth0'", "specific addresses"),
        ] {
            let error = TurnConfig::parse("turn.toml", &format!("{base}{text}")).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
        let text = format!("{base}listen = ['192.0.2.1:3478']\nio = 'af_xdp'\ninterface = 'eth0'");
        let config = TurnConfig::parse("turn.toml", &text).unwrap();
        let flow = |ports, core, opened_only| Flow {
            address: "192.0.2.1".parse().unwrap(),
            ports,
            core,
            opened_only,
            channels: !opened_only,
        };
        let listen = flow(3478..=3478, None, false);
        assert_eq!(config.flows(1).unwrap(), [listen.clone(), flow(50_000..=50_003, None, true)]);
        assert_eq!(
            config.flows(2).unwrap(),
            [listen, flow(50_000..=50_001, Some(0), true), flow(50_002..=50_003, Some(1), true)]
        );
    }

    #[test]
    fn cores_split_the_ports() {
        let mut config =
            config("listen = ['0.0.0.0:1']\nrelay = ['192.0.2.1']\nports = '50001-50010'").unwrap();
        let ports = |config: &TurnConfig, cores| -> Vec<RangeInclusive<u16>> {
            (0..cores).map(|core| config.core_ports(core, cores).unwrap()).collect()
        };
        assert_eq!(ports(&config, 1), [50_001..=50_010]);
        assert_eq!(ports(&config, 2), [50_002..=50_005, 50_006..=50_010]);
        config.ports = 49_152..=65_535;
        for cores in 1..200 {
            let split = ports(&config, cores);
            assert!(split.windows(2).all(|pair| *pair[0].end() + 1 == *pair[1].start()));
            assert!(
                split.iter().all(|range| range.start() % 2 == 0) && *split.last().unwrap().end() == 65_535
            );
        }
        config.ports = 50_000..=50_003;
        assert!(config.core_ports(0, 3).is_err());
    }
}
