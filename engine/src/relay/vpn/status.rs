//! What people see of a running VPN: a file that the VPN rewrites every two seconds.

use std::{collections::BTreeMap, fs, path::Path};

use relay_dp::vpn::{Nanos, Network, PeerStatus, PublicKey};
use serde::{Deserialize, Serialize};

use super::{VpnConfig, VpnError, meters::Totals};

/// Name of the file in the state folder.
const FILE: &str = "status.json";
/// How often it is rewritten, s. Twice as old means that the VPN does not run.
pub const INTERVAL: u64 = 2;

/// One client or peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// The client's name; its key for a peer without one.
    pub name: String,
    /// Its static key.
    pub key: String,
    /// Its addresses in the tunnel.
    pub networks: Vec<String>,
    /// Where it was last heard from.
    pub address: Option<String>,
    /// Seconds since the last handshake.
    pub handshake_age: Option<u64>,
    /// Bytes received from it.
    pub bytes_in: u64,
    /// Bytes sent to it.
    pub bytes_out: u64,
    /// Bits a second received from it, over the last interval.
    pub bits_in: u64,
    /// Bits a second sent to it, over the last interval.
    pub bits_out: u64,
}

/// The whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Seconds since 1970.
    pub time: u64,
    /// The TUN device.
    pub interface: String,
    /// Where datagrams come in.
    pub listen: String,
    /// Our static key.
    pub public_key: String,
    /// Everyone.
    pub peers: Vec<PeerView>,
    /// Totals that are not zero, by name.
    pub counters: BTreeMap<String, u64>,
}

/// Turns totals into rates.
#[derive(Debug, Default)]
pub struct Rates {
    last: BTreeMap<PublicKey, (u64, u64)>,
    at: Nanos,
}

impl Rates {
    /// How peers are now; `known` gives a client's name and networks.
    pub fn view<'a>(
        &mut self,
        peers: Vec<PeerStatus>,
        known: impl Fn(&PublicKey) -> Option<(&'a str, &'a [Network])>,
        now: Nanos,
    ) -> Vec<PeerView> {
        let elapsed = now.saturating_sub(self.at).max(1);
        let rate = |bytes: u64| {
            u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(elapsed)).unwrap_or(u64::MAX)
        };
        let mut seen = BTreeMap::new();
        let views = peers.into_iter().map(|peer| {
            let (bytes_in, bytes_out) =
                self.last.get(&peer.key).copied().unwrap_or((peer.bytes_in, peer.bytes_out));
            seen.insert(peer.key, (peer.bytes_in, peer.bytes_out));
            let key = peer.key.to_string();
            let (name, networks) = known(&peer.key).unwrap_or((&key, &[]));
            PeerView {
                name: name.to_owned(),
                networks: networks.iter().map(ToString::to_string).collect(),
                address: peer.address.map(|address| address.to_string()),
                handshake_age: peer.last_handshake.map(|at| now.saturating_sub(at) / 1_000_000_000),
                bytes_in: peer.bytes_in,
                bytes_out: peer.bytes_out,
                bits_in: rate(peer.bytes_in.saturating_sub(bytes_in)),
                bits_out: rate(peer.bytes_out.saturating_sub(bytes_out)),
                key,
            }
        });
        let mut views: Vec<PeerView> = views.collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        (self.last, self.at) = (seen, now);
        views
    }
}

/// Totals by name, the zeros left out.
#[must_use]
pub fn counters(totals: &Totals) -> BTreeMap<String, u64> {
    let work = totals.work().map(|(name, value)| (name.to_owned(), value));
    let drops = totals.drops().map(|(cause, value)| (format!("dropped_{cause}"), value));
    work.into_iter().chain(drops).filter(|(_, value)| *value > 0).collect()
}

impl Status {
    /// Rewrites the file; readers see the old one or the new one.
    pub fn write(&self, folder: &Path) -> Result<(), VpnError> {
        let (path, draft) = (folder.join(FILE), folder.join("status.new"));
        let text = serde_json::to_string_pretty(self).expect("plain data");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|error| VpnError::file(&path, error))
    }

    /// Reads the file of a VPN that runs.
    ///
    /// # Errors
    /// When none does.
    pub fn read(config: &VpnConfig, unix_time: u64) -> Result<Status, VpnError> {
        let path = config.state_dir.join(FILE);
        let stopped = || {
            VpnError::Refused("no VPN runs with this configuration: start it with «topio vpn serve», or the node that has it".into())
        };
        let text = fs::read_to_string(&path).map_err(|_| stopped())?;
        let status: Status = serde_json::from_str(&text).map_err(|error| VpnError::file(&path, error))?;
        if unix_time.saturating_sub(status.time) > 3 * INTERVAL { Err(stopped()) } else { Ok(status) }
    }

    /// Takes the file away when the VPN ends.
    pub fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(FILE));
    }
}
