//! The configuration text of WireGuard's tools (`wg-quick(8)`), as much of it as a client needs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Network, PrivateKey, PublicKey};

/// A client's configuration: one interface and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Our static key.
    pub private_key: PrivateKey,
    /// The tunnel's addresses at this end.
    pub addresses: Vec<Network>,
    /// Name servers to use.
    pub dns: Vec<IpAddr>,
    /// The tunnel's MTU, if it is not to be the default.
    pub mtu: Option<u16>,
    /// The other ends.
    pub peers: Vec<PeerConfig>,
}

/// One peer of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its static key.
    pub public_key: PublicKey,
    /// A further secret shared with it.
    pub preshared_key: Option<PrivateKey>,
    /// What goes to it and may come from it.
    pub allowed_ips: Vec<Network>,
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives that hold a way through NAT open.
    pub persistent_keepalive: Option<u16>,
}

/// Why a configuration could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A line that is neither a section, a comment nor `Key = Value`, or stands in no section.
    #[error("line {0}: expected [Interface], [Peer] or Key = Value")]
    Syntax(usize),
    /// A value that its key can't have. The value is not shown: it may be secret.
    #[error("line {0}: {1} has no value of the right form")]
    Value(usize, &'static str),
    /// A key that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
}

#[derive(Default)]
struct Interface {
    private_key: Option<PrivateKey>,
    addresses: Vec<Network>,
    dns: Vec<IpAddr>,
    mtu: Option<u16>,
}

#[derive(Default)]
struct Peer {
    public_key: Option<PublicKey>,
    preshared_key: Option<PrivateKey>,
    allowed_ips: Vec<Network>,
    endpoint: Option<SocketAddr>,
    persistent_keepalive: Option<u16>,
}

enum Section {
    None,
    Interface,
    Peer,
}

impl ClientConfig {
    /// Reads a configuration. Keys that only `wg-quick` acts on (`PostUp`, `Table`, …) are passed over.
    ///
    /// # Errors
    /// Names the first line that can't be read, or the key that is missing.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (mut interface, mut peers, mut section) =
            (Interface::default(), Vec::<Peer>::new(), Section::None);
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.split('#').next().unwrap_or_default().trim());
            if line.is_empty() {
                continue;
            }
            if line.eq_ignore_ascii_case("[interface]") {
                section = Section::Interface;
            } else if line.eq_ignore_ascii_case("[peer]") {
                section = Section::Peer;
                peers.push(Peer::default());
            } else {
                let (key, value) = line.split_once('=').ok_or(ConfigError::Syntax(number))?;
                let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
                let wrong = |key| ConfigError::Value(number, key);
                match (&section, peers.last_mut()) {
                    (Section::Interface, _) => interface.set(&key, value).map_err(wrong)?,
                    (Section::Peer, Some(peer)) => peer.set(&key, value).map_err(wrong)?,
                    _ => return Err(ConfigError::Syntax(number)),
                }
            }
        }
        Ok(Self {
            private_key: interface.private_key.ok_or(ConfigError::Missing("PrivateKey"))?,
            addresses: interface.addresses,
            dns: interface.dns,
            mtu: interface.mtu,
            peers: peers.into_iter().map(Peer::finish).collect::<Result<_, _>>()?,
        })
    }
}

impl Interface {
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "privatekey" => self.private_key = Some(PrivateKey::parse(value).ok_or("PrivateKey")?),
            "address" => self.addresses.extend(networks(value).ok_or("Address")?),
            // Names in the list are search domains, which are not ours to set.
            "dns" => self.dns.extend(value.split(',').filter_map(|part| part.trim().parse::<IpAddr>().ok())),
            "mtu" => self.mtu = Some(value.parse().map_err(|_| "MTU")?),
            _ => {}
        }
        Ok(())
    }
}

impl Peer {
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "publickey" => self.public_key = Some(PublicKey::parse(value).ok_or("PublicKey")?),
            "presharedkey" => self.preshared_key = Some(PrivateKey::parse(value).ok_or("PresharedKey")?),
            "allowedips" => self.allowed_ips.extend(networks(value).ok_or("AllowedIPs")?),
            "endpoint" => self.endpoint = Some(value.parse().map_err(|_| "Endpoint (address:port)")?),
            "persistentkeepalive" if value == "off" => self.persistent_keepalive = None,
            "persistentkeepalive" => {
                self.persistent_keepalive = Some(value.parse().map_err(|_| "PersistentKeepalive")?);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<PeerConfig, ConfigError> {
        Ok(PeerConfig {
            public_key: self.public_key.ok_or(ConfigError::Missing("a peer's PublicKey"))?,
            preshared_key: self.preshared_key,
            allowed_ips: self.allowed_ips,
            endpoint: self.endpoint,
            persistent_keepalive: self.persistent_keepalive,
        })
    }
}

fn networks(text: &str) -> Option<Vec<Network>> {
    text.split(',').filter(|part| !part.trim().is_empty()).map(Network::parse).collect()
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[Interface]\nPrivateKey = {}", self.private_key.to_base64())?;
        if !self.addresses.is_empty() {
            writeln!(f, "Address = {}", list(&self.addresses))?;
        }
        if !self.dns.is_empty() {
            writeln!(f, "DNS = {}", list(&self.dns))?;
        }
        if let Some(mtu) = self.mtu {
            writeln!(f, "MTU = {mtu}")?;
        }
        for peer in &self.peers {
            writeln!(f, "\n[Peer]\nPublicKey = {}", peer.public_key)?;
            if let Some(key) = &peer.preshared_key {
                writeln!(f, "PresharedKey = {}", key.to_base64())?;
            }
            if !peer.allowed_ips.is_empty() {
                writeln!(f, "AllowedIPs = {}", list(&peer.allowed_ips))?;
            }
            if let Some(endpoint) = peer.endpoint {
                writeln!(f, "Endpoint = {endpoint}")?;
            }
            if let Some(seconds) = peer.persistent_keepalive {
                writeln!(f, "PersistentKeepalive = {seconds}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
[Interface]
PrivateKey = YAnz5TF+lXXJte14tji3zlMNftqL1kCHJG2iO6RTtm8= # mine
Address = 10.200.100.8/24, fd00::8/64
DNS = 10.200.100.1, example.org
PostUp = true

[peer]
publickey=HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
AllowedIPs = 0.0.0.0/0
AllowedIPs = ::/0
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
";

    #[test]
    fn a_usual_file_is_read_and_written() {
        let config = ClientConfig::parse(TEXT).unwrap();
        assert_eq!((config.addresses.len(), config.dns.len(), config.peers.len()), (2, 1, 1));
        assert_eq!(config.peers[0].allowed_ips.len(), 2);
        assert_eq!(ClientConfig::parse(&config.to_string()).unwrap(), config);
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(ClientConfig::parse("[Interface]\nnonsense"), Err(ConfigError::Syntax(2)));
        assert_eq!(ClientConfig::parse("MTU = 1400"), Err(ConfigError::Syntax(1)));
        assert_eq!(ClientConfig::parse("[Interface]\nMTU = x"), Err(ConfigError::Value(2, "MTU")));
        assert_eq!(ClientConfig::parse(""), Err(ConfigError::Missing("PrivateKey")));
        let no_key = TEXT.replace("publickey", "other");
        assert_eq!(ClientConfig::parse(&no_key), Err(ConfigError::Missing("a peer's PublicKey")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(\\[Peer\\]|\\[Interface\\]|[A-Za-z]{0,12}|=|,|#|/|[0-9.:]{0,9}|\\n| ){0,40}") {
            let _ = ClientConfig::parse(&text);
        }
    }
}
