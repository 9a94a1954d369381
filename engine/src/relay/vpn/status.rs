//! What people see of a running VPN: a file that the VPN rewrites every two seconds.

use std::{collections::BTreeMap, fs, path::Path};

use netio::{TunCounters, udp::UdpCounters};
use relay_dp::vpn::{Counters, Nanos, PeerStatus, PublicKey};
use serde::{Deserialize, Serialize};

use super::{VpnConfig, VpnError};

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
    /// How peers are now; `names` gives their names.
    pub fn view(
        &mut self,
        peers: impl Iterator<Item = PeerStatus>,
        names: &BTreeMap<PublicKey, String>,
        now: Nanos,
    ) -> Vec<PeerView> {
        let elapsed = now.saturating_sub(self.at).max(1);
        let rate = |bytes: u64| {
            u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(elapsed)).unwrap_or(u64::MAX)
        };
        let mut seen = BTreeMap::new();
        let views = peers.map(|peer| {
            let (bytes_in, bytes_out) =
                self.last.get(&peer.key).copied().unwrap_or((peer.bytes_in, peer.bytes_out));
            seen.insert(peer.key, (peer.bytes_in, peer.bytes_out));
            PeerView {
                name: names.get(&peer.key).cloned().unwrap_or_else(|| peer.key.to_string()),
                key: peer.key.to_string(),
                networks: peer.networks.iter().map(ToString::to_string).collect(),
                address: peer.address.map(|address| address.to_string()),
                handshake_age: peer.last_handshake.map(|at| now.saturating_sub(at) / 1_000_000_000),
                bytes_in: peer.bytes_in,
                bytes_out: peer.bytes_out,
                bits_in: rate(peer.bytes_in.saturating_sub(bytes_in)),
                bits_out: rate(peer.bytes_out.saturating_sub(bytes_out)),
            }
        });
        let mut views: Vec<PeerView> = views.collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        (self.last, self.at) = (seen, now);
        views
    }
}

/// Totals of all parts by name, the zeros left out.
#[must_use]
pub fn counters(endpoint: Counters, udp: UdpCounters, tun: TunCounters) -> BTreeMap<String, u64> {
    let e = endpoint;
    let all = [
        ("packets_in", e.packets_in),
        ("bytes_in", e.bytes_in),
        ("packets_out", e.packets_out),
        ("bytes_out", e.bytes_out),
        ("keepalives_in", e.keepalives_in),
        ("handshakes", e.handshakes),
        ("cookies_sent", e.cookies_sent),
        ("dropped_garbage", e.dropped_garbage),
        ("dropped_mac", e.dropped_mac),
        ("dropped_load", e.dropped_load),
        ("dropped_handshake", e.dropped_handshake),
        ("dropped_initiation_replay", e.dropped_initiation_replay),
        ("dropped_no_session", e.dropped_no_session),
        ("dropped_forged", e.dropped_forged),
        ("dropped_replay", e.dropped_replay),
        ("dropped_expired", e.dropped_expired),
        ("dropped_not_ip", e.dropped_not_ip),
        ("dropped_source", e.dropped_source),
        ("dropped_no_peer", e.dropped_no_peer),
        ("dropped_no_path", e.dropped_no_path),
        ("dropped_staged", e.dropped_staged),
        ("dropped_output", e.dropped_output),
        ("udp_received", udp.received),
        ("udp_segments_in", udp.segments_in),
        ("udp_segments_out", udp.segments_out),
        ("udp_send_calls", udp.send_calls),
        ("udp_dropped_full", udp.dropped_full),
        ("udp_dropped_malformed", udp.dropped_malformed),
        ("udp_refused", udp.refused),
        ("udp_send_full", udp.send_full),
        ("udp_unsegmented", udp.unsegmented),
        ("tun_read", tun.read),
        ("tun_written", tun.written),
        ("tun_refused", tun.refused),
        ("tun_full", tun.full),
    ];
    all.into_iter().filter(|(_, value)| *value > 0).map(|(name, value)| (name.to_owned(), value)).collect()
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
            VpnError::Refused("no VPN runs with this configuration: start it with «topio vpn serve»".into())
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
