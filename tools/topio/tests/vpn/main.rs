//! `topio vpn` with real WireGuard peers in network namespaces: wireguard-go of Debian always, others where they are
//! installed. `tools/vpn-peers` runs it; it takes root, `ip`, `nft`, `wg`, `ping` and `iperf3`.
//!
//! ```text
//! client ─── outer ─── server ──── net ──── internet
//! 192.0.2.2   192.0.2.1        198.51.100.1  198.51.100.2
//! ```

mod client;
mod cores;
mod node;
mod place;
mod server;
