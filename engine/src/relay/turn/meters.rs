//! Numbers of a core's TURN server, for `/metrics` and reports.

use hdrhistogram::Histogram;
use netio::{udp::UdpCounters, xdp::XdpCounters};
use relay_dp::turn::{Counters, Drop, Server};

use crate::{metrics::CoreMetrics, relay::node_time::NodeTime};

/// Why a datagram was lost outside of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Loss {
    /// All packet buffers were in use.
    NoBuffer,
    /// The kernel had no room, or the client does not read.
    SocketFull,
    /// It came past the kernel for a relayed port that nobody has.
    NoPort,
}

impl Loss {
    const ALL: [(Loss, &'static str); 3] =
        [(Loss::NoBuffer, "no buffer"), (Loss::SocketFull, "socket full"), (Loss::NoPort, "no port")];
}

/// The numbers.
#[derive(Clone, Debug, Default)]
pub struct TurnMeters {
    server: Counters,
    allocations: u64,
    losses: [u64; Loss::ALL.len()],
    /// Connections that were not taken in, for want of descriptors or memory.
    connections_refused: u64,
    /// Datagrams that the kernel dropped or refused, of relayed ports that are closed.
    closed: UdpCounters,
    /// What passed the kernel by.
    bypass: XdpCounters,
    in_node: NodeTime,
}

impl TurnMeters {
    pub(super) fn set_server(&mut self, server: &Server) {
        self.server.clone_from(server.counters());
        self.allocations = server.allocations() as u64;
    }

    pub(super) fn set_bypass(&mut self, counters: XdpCounters) {
        self.bypass = counters;
    }

    pub(super) fn refuse_connection(&mut self) {
        self.connections_refused += 1;
    }

    pub(super) fn record(&mut self, ns: u64, packets: u64) {
        self.in_node.record(ns, packets);
    }

    pub(super) fn lose(&mut self, loss: Loss, datagrams: usize) {
        self.losses[loss as usize] += datagrams as u64;
    }

    pub(super) fn retire(&mut self, counters: UdpCounters) {
        self.closed.dropped_full += counters.dropped_full;
        self.closed.refused += counters.refused;
    }

    /// What the protocol has counted.
    pub fn server(&self) -> &Counters {
        &self.server
    }

    /// Allocations that live.
    pub fn allocations(&self) -> u64 {
        self.allocations
    }

    /// Datagrams that were to leave and did not.
    pub fn lost(&self) -> u64 {
        self.losses.iter().sum()
    }

    /// Datagrams that passed the kernel by.
    pub fn bypass(&self) -> &XdpCounters {
        &self.bypass
    }

    /// Time in the node by packet, ns.
    pub fn in_node(&self) -> &Histogram<u64> {
        self.in_node.as_hdr()
    }

    /// Adds another core's numbers.
    pub fn merge(&mut self, other: &TurnMeters) {
        self.server.merge(&other.server);
        self.allocations += other.allocations;
        self.losses.iter_mut().zip(other.losses).for_each(|(sum, other)| *sum += other);
        self.connections_refused += other.connections_refused;
        self.retire(other.closed);
        self.bypass.merge(&other.bypass);
        self.in_node.merge(&other.in_node);
    }

    /// Adds the numbers to a core's metrics.
    pub fn report(&self, metrics: &mut CoreMetrics) {
        let server = &self.server;
        for (direction, packets, bytes) in [
            ("to peers", server.to_peers, server.to_peers_bytes),
            ("to clients", server.to_clients, server.to_clients_bytes),
        ] {
            let label = ("direction", direction);
            metrics.labelled_counter("relay_turn_packets_total", label, "Datagrams relayed.", packets);
            metrics.labelled_counter("relay_turn_bytes_total", label, "Bytes of their payloads.", bytes);
        }
        metrics.counter("relay_turn_requests_total", "Requests answered.", server.requests);
        metrics.counter("relay_turn_allocated_total", "Allocations made.", server.allocated);
        metrics.counter("relay_turn_expired_total", "Allocations that ran out.", server.expired);
        metrics.gauge("relay_turn_allocations", "Allocations that live.", self.allocations);
        let help = "Connections not taken in, for want of descriptors or memory.";
        metrics.counter("relay_turn_connections_refused_total", help, self.connections_refused);
        self.report_bypass(metrics);
        self.report_drops(metrics);
        for (error, count) in server.refused() {
            let label = ("code", error.reason());
            metrics.labelled_counter("relay_turn_refused_total", label, "Requests refused.", count);
        }
        self.in_node.report(metrics, "relay_turn_node_microseconds_bucket");
    }

    fn report_bypass(&self, metrics: &mut CoreMetrics) {
        let XdpCounters { received, sent, to_kernel, carried, .. } = self.bypass;
        let ways =
            [("in", received), ("out", sent), ("left to the kernel", to_kernel), ("shortcut", carried)];
        for (way, count) in ways {
            let help = "Datagrams past the kernel, those that it had to send, and those that the driver relayed by itself.";
            metrics.labelled_counter("relay_turn_bypass_packets_total", ("way", way), help, count);
        }
    }

    fn report_drops(&self, metrics: &mut CoreMetrics) {
        let help = "Datagrams dropped.";
        let causes = Drop::ALL.map(|cause| (cause.name(), self.server.dropped(cause)));
        let losses = Loss::ALL.map(|(loss, name)| (name, self.losses[loss as usize]));
        let XdpCounters { malformed, dropped_full, send_full, .. } = self.bypass;
        let frames =
            [("frame", malformed), ("receive ring full", dropped_full), ("send ring full", send_full)];
        for (cause, count) in causes.into_iter().chain(losses).chain(frames) {
            metrics.labelled_counter("relay_turn_drops_total", ("cause", cause), help, count);
        }
    }
}
