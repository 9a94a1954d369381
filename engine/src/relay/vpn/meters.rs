//! Numbers of a core's VPN, for `/metrics`, reports and `topio vpn status`.

use netio::{TunCounters, udp::UdpCounters};
use relay_dp::vpn::Counters;

use crate::{metrics::CoreMetrics, relay::node_time::NodeTime};

/// Totals of all parts, as plain numbers that can be copied to whoever asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// The protocol's.
    pub endpoint: Counters,
    /// The socket's.
    pub udp: UdpCounters,
    /// The device's.
    pub tun: TunCounters,
    /// Initiations lost on their way to another core.
    pub hand_over_full: u64,
}

impl Totals {
    /// Why packets were lost, and how many.
    #[must_use]
    pub fn drops(&self) -> [(&'static str, u64); 21] {
        let Totals { endpoint: e, udp, tun, hand_over_full } = self;
        [
            ("garbage", e.dropped_garbage),
            ("mac", e.dropped_mac),
            ("load", e.dropped_load),
            ("handshake", e.dropped_handshake),
            ("initiation_replay", e.dropped_initiation_replay),
            ("no_session", e.dropped_no_session),
            ("forged", e.dropped_forged),
            ("replay", e.dropped_replay),
            ("expired", e.dropped_expired),
            ("not_ip", e.dropped_not_ip),
            ("source", e.dropped_source),
            ("no_peer", e.dropped_no_peer),
            ("no_path", e.dropped_no_path),
            ("staged", e.dropped_staged),
            ("output", e.dropped_output),
            ("socket_full", udp.dropped_full),
            ("socket_malformed", udp.dropped_malformed),
            ("socket_refused", udp.refused),
            ("device_full", tun.full),
            ("device_refused", tun.refused),
            ("hand_over_full", *hand_over_full),
        ]
    }

    /// What was done, and how often.
    #[must_use]
    pub fn work(&self) -> [(&'static str, u64); 15] {
        let Totals { endpoint: e, udp, tun, .. } = self;
        [
            ("packets_in", e.packets_in),
            ("bytes_in", e.bytes_in),
            ("packets_out", e.packets_out),
            ("bytes_out", e.bytes_out),
            ("keepalives_in", e.keepalives_in),
            ("handshakes", e.handshakes),
            ("cookies_sent", e.cookies_sent),
            ("handed_over", e.handed_over),
            ("udp_received", udp.received),
            ("udp_segments_in", udp.segments_in),
            ("udp_segments_out", udp.segments_out),
            ("udp_send_calls", udp.send_calls),
            ("udp_unsegmented", udp.unsegmented),
            ("tun_read", tun.read),
            ("tun_written", tun.written),
        ]
    }

    /// Adds the numbers, and how long packets took, to a core's metrics.
    pub fn report(&self, times: &NodeTime, metrics: &mut CoreMetrics) {
        let endpoint = &self.endpoint;
        for (direction, packets, bytes) in [
            ("from clients", endpoint.packets_in, endpoint.bytes_in),
            ("to clients", endpoint.packets_out, endpoint.bytes_out),
        ] {
            let label = ("direction", direction);
            metrics.labelled_counter("relay_vpn_packets_total", label, "Packets through tunnels.", packets);
            metrics.labelled_counter("relay_vpn_bytes_total", label, "Bytes in them.", bytes);
        }
        metrics.counter("relay_vpn_handshakes_total", "Handshakes that gave a session.", endpoint.handshakes);
        metrics.counter("relay_vpn_cookies_total", "Cookies sent because of load.", endpoint.cookies_sent);
        let help = "Initiations handed over to the core that has the client.";
        metrics.counter("relay_vpn_handed_over_total", help, endpoint.handed_over);
        for (cause, count) in self.drops() {
            let help = "Packets and messages dropped.";
            metrics.labelled_counter("relay_vpn_drops_total", ("cause", cause), help, count);
        }
        times.report(metrics, "relay_vpn_node_microseconds_bucket");
    }
}
