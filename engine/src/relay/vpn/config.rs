//! The VPN's configuration: a file of its own for `topio vpn`, or `[relay.vpn]` in a node's.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use relay_dp::vpn::Network;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::VpnError;
use crate::config::{
    NodeConfig,
    toml_file::{self, text, within},
};

/// What the VPN is told. Every key has a default.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VpnConfig {
    /// The TUN device's name.
    #[serde(deserialize_with = "device")]
    pub interface: String,
    /// Where clients' datagrams come in. An IPv6 wildcard serves IPv4 too.
    #[serde(deserialize_with = "text")]
    pub listen: SocketAddr,
    /// The address and port that clients are told to connect to. Needed to add clients.
    #[serde(deserialize_with = "some_text")]
    pub public_address: Option<SocketAddr>,
    /// The server's addresses in the tunnel; their networks are the pools that clients' addresses come from.
    #[serde(deserialize_with = "networks")]
    pub addresses: Vec<Network>,
    /// Name servers that clients are told to use.
    pub dns: Vec<IpAddr>,
    /// The tunnel's MTU in bytes. 1,420 fits Ethernet over IPv6 and IPv4.
    #[serde(deserialize_with = "within::<_, _, 1280, 9000>")]
    pub mtu: u16,
    /// Whether clients reach the internet through this host: forwarding and masquerade are set up, and taken down at the end.
    pub internet: bool,
    /// The server's key and the clients' files. Relative to the configuration's folder.
    pub state_dir: PathBuf,
}

impl Default for VpnConfig {
    fn default() -> Self {
        VpnConfig {
            interface: "topio0".into(),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 51820)),
            public_address: None,
            addresses: ["10.77.0.1/16", "fd77:746f:70::1/64"]
                .map(|net| Network::parse(net).expect("a network"))
                .into(),
            dns: Vec::new(),
            mtu: 1420,
            internet: true,
            state_dir: "vpn".into(),
        }
    }
}

impl VpnConfig {
    /// Reads a configuration file: the VPN's own, or a node's, whose `[relay.vpn]` it is then.
    ///
    /// # Errors
    /// Unreadable, not TOML, an unknown key, a value out of range, or a node without a VPN.
    pub fn load(path: &Path) -> Result<VpnConfig, VpnError> {
        let table: toml::Table = toml_file::read("VPN configuration", path)?;
        if table.contains_key("genesis") {
            return NodeConfig::load(path)?
                .relay
                .vpn
                .ok_or_else(|| VpnError::file(path, "there is no [relay.vpn] in it"));
        }
        let config: VpnConfig = toml_file::read("VPN configuration", path)?;
        Ok(config.in_folder(path.parent().unwrap_or(Path::new(""))))
    }

    /// With paths relative to `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> VpnConfig {
        self.state_dir = folder.join(&self.state_dir);
        self
    }
}

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    text(deserializer).map(Some)
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        Network::parse(text)
            .ok_or_else(|| D::Error::custom(format!("«{text}» is no network: write 10.77.0.1/16")))
    };
    let networks: Vec<Network> = texts.iter().map(parse).collect::<Result<_, _>>()?;
    // Room for the server and a client, beside the network's own address and IPv4's broadcast.
    let small = |net: &&Network| net.length() > if net.address().is_ipv4() { 30 } else { 126 };
    if let Some(small) = networks.iter().find(small) {
        return Err(D::Error::custom(format!("«{small}» has no room for clients: use a larger network")));
    }
    if let Some(network) = networks.iter().find(|net| net.address() == net.truncated().address()) {
        return Err(D::Error::custom(format!(
            "«{network}» names the network: write the server's address in it, such as its first"
        )));
    }
    if !(1..=8).contains(&networks.len()) {
        return Err(D::Error::custom("give 1 to 8 addresses"));
    }
    Ok(networks)
}

fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let fits = (1..=15).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with(['-', '.']);
    fits.then_some(name)
        .ok_or_else(|| D::Error::custom("a device has a name of 1 to 15 letters, digits, «-», «_» and «.»"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<VpnConfig, String> {
        toml_file::parse(Path::new("vpn.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_errors() {
        assert_eq!(parse("").unwrap(), VpnConfig::default());
        let config =
            parse("public_address = '203.0.113.5:51820'\naddresses = ['10.9.0.1/24']\nmtu = 1280").unwrap();
        assert_eq!((config.mtu, config.addresses.len()), (1280, 1));
        for bad in ["mtu = 10", "listen = 'x'", "addresses = ['10.0.0.0/99']", "typo = 1"] {
            assert!(parse(bad).unwrap_err().starts_with("vpn.toml:1:"), "{bad}");
        }
        for (bad, cause) in [
            ("interface = ''", "a name of 1 to 15 letters"),
            ("interface = 'a/b'", "a name of 1 to 15 letters"),
            ("addresses = []", "give 1 to 8 addresses"),
            ("addresses = ['10.0.0.1/31']", "no room for clients"),
            ("addresses = ['10.0.0.0/24']", "names the network"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.starts_with("vpn.toml:1:") && error.contains(cause), "{error}");
        }
    }

    #[test]
    fn a_nodes_file_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let node = include_str!("../../../examples/node.toml");
        std::fs::write(&path, node).unwrap();
        let error = VpnConfig::load(&path).unwrap_err().to_string();
        assert!(error.ends_with("node.toml: there is no [relay.vpn] in it"), "{error}");
        std::fs::write(&path, format!("{node}\n[relay.vpn]\nmtu = 1300\n")).unwrap();
        let config = VpnConfig::load(&path).unwrap();
        assert_eq!((config.mtu, config.state_dir), (1300, folder.path().join("vpn")));
    }

    #[test]
    fn the_example_is_the_default() {
        let example = include_str!("../../../examples/vpn.toml");
        let config = parse(example).unwrap();
        let public_address = config.public_address;
        assert!(public_address.is_some());
        assert_eq!(config, VpnConfig { public_address, ..VpnConfig::default() });
    }
}
