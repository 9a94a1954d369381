//! The kinds of value that a configuration holds.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use dag::LaneId;
use netio::Features;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use shard_core::sigbatch::Backend;

/// How many cores the lanes are spread over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreCount {
    /// As many as the process may run on, and not more than there are lanes.
    Auto,
    /// This many.
    Exactly(u16),
}

impl<'de> Deserialize<'de> for CoreCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = CoreCount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number from 1 to 1024")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<CoreCount, E> {
                let other = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                (text == "auto").then_some(CoreCount::Auto).ok_or_else(other)
            }

            fn visit_i64<E: Error>(self, count: i64) -> Result<CoreCount, E> {
                let other = || E::invalid_value(serde::de::Unexpected::Signed(count), &self);
                let count = u16::try_from(count).ok().filter(|count| (1..=1024).contains(count));
                count.map(CoreCount::Exactly).ok_or_else(other)
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

/// What a loop does while nothing happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// Spins for a moment, then sleeps in the kernel until something happens.
    Adaptive,
    /// Never sleeps: lowest latency, one core burnt.
    Poll,
}

/// A host, by name or address, and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no host and port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write host:port, such as 10.0.0.7:7000 or [2001:db8::7]:7000")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(HostPort { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let port = port.parse().map_err(|_| HostPortError)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(HostPortError);
        }
        Ok(HostPort { host: host.into(), port })
    }
}

impl HostPort {
    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that lane `lane` listens on. Asks the name service where the host is a name, and blocks meanwhile.
    ///
    /// # Errors
    /// The name has no address, or the port would be above 65535.
    pub fn resolve(&self, lane: LaneId) -> io::Result<SocketAddr> {
        let port = self.port.checked_add(lane).ok_or_else(|| io::Error::other("the port is above 65535"))?;
        let mut addresses = (self.host.as_str(), port).to_socket_addrs()?;
        addresses.next().ok_or_else(|| io::Error::other("the name has no address"))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// For `deserialize_with`: a duration with its unit, from `MIN` to `MAX` milliseconds.
pub(super) fn duration_within<'de, D, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Duration, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let range = (Duration::from_millis(MIN), Duration::from_millis(MAX));
    let duration = humantime::parse_duration(&text)
        .map_err(|_| D::Error::custom(format!("«{text}» is no duration: write it as 500ms or 5s")))?;
    if duration < range.0 || duration > range.1 {
        let (min, max) = (humantime::format_duration(range.0), humantime::format_duration(range.1));
        return Err(D::Error::custom(format!("«{text}» is out of range: use {min} to {max}")));
    }
    Ok(duration)
}

/// For `deserialize_with`: a list of the kernel features' names in lower case.
pub(super) fn features<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Features, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let mut features = Features::empty();
    for name in names {
        let known = Features::all().iter_names().find(|(known, _)| known.eq_ignore_ascii_case(&name));
        let (_, feature) = known.ok_or_else(|| {
            D::Error::custom(format!("unknown feature «{name}»: use some of {}", Features::all()))
        })?;
        features |= feature;
    }
    Ok(features)
}

/// Reads the name of vector instructions that this machine has.
pub(super) fn backend<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Backend, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name == "auto" {
        return Ok(Backend::best());
    }
    Backend::named(&name).ok_or_else(|| {
        D::Error::custom(format!("no instructions «{name}» here: use auto, {}", Backend::names()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for text in ["10.0.0.7:7000", "[2001:db8::7]:7000", "v1.example.org:7000", "localhost:1"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["", "host", ":7000", "host:", "host:70000", "a b:1", "2001:db8::7:7000", "host:1x"] {
            assert_eq!(text.parse::<HostPort>(), Err(HostPortError), "{text}");
        }
    }

    #[test]
    fn lanes_have_ports_of_their_own() {
        let peer: HostPort = "127.0.0.1:65000".parse().unwrap();
        assert_eq!(peer.resolve(3).unwrap(), SocketAddr::from(([127, 0, 0, 1], 65003)));
        assert!(peer.resolve(600).is_err());
    }
}
