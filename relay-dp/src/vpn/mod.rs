//! A WireGuard endpoint without IO: the whole protocol, and its transport path made for super-segments.
//!
//! [`Endpoint`] is fed with datagrams ([`Endpoint::receive`]), packets ([`Endpoint::send`]) and time
//! ([`Endpoint::handle_timeout`]), and drained of what it has to say by itself ([`Endpoint::poll_output`],
//! [`Endpoint::next_staged`], [`Endpoint::poll_timeout`]). It never blocks, reads no clock and draws no randomness but from its seed.
//!
//! Sources: J. Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel" (section numbers are of that paper); the
//! Noise Protocol Framework, pattern IKpsk2; RFC 6479 for the replay window.
//!
//! # Fault model
//!
//! The network is hostile: any bytes from any address. Before a peer has proved its static key it gets at most one answer per
//! packet, never longer than the packet; under a flood of handshakes it first has to prove its address. A peer that holds a configured
//! key may send any packets, but only from its own addresses. The local caller is trusted.

mod config;
mod cookie;
mod counters;
mod endpoint;
mod handshake;
mod peer;
mod rate;
mod receive;
mod replay;
mod routes;
mod secrets;
mod send;
mod session;
mod share;
#[cfg(test)]
mod tests;
mod timers;
mod wire;

pub use config::{ClientConfig, ConfigError, PeerConfig};
pub use counters::Counters;
pub use endpoint::{Endpoint, EndpointConfig, Path, PeerId, PeerStatus, Transmit};
pub use handshake::{PrivateKey, PublicKey, generate_private_key};
pub use receive::Accepted;
pub use routes::Network;
pub use secrets::Secrets;
pub use send::{Outcome, Train};
pub use share::{HandedOver, Share};
pub use wire::{OVERHEAD, assert_any_datagram_is_classified};

/// Nanoseconds on the caller's monotonic clock.
pub type Nanos = u64;

const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MILLISECOND;
