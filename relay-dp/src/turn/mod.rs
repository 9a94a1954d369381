//! STUN and TURN: a relay for those whose packets find no direct way (RFC 8489, RFC 8656).
//!
//! A client reserves a relayed address on this server (an *allocation*), permits peers to send to it, and exchanges datagrams
//! with them, each behind a header of 4 bytes (a *channel*) or 36 to 48 bytes (an *indication*). [`Server`] is the whole of it
//! without IO: datagrams go in with their sender, and what is to be sent comes out of an [`Outbox`].
//!
//! # The data path
//!
//! A [`Train`] is one or more datagrams of one sender, back to back in one buffer, as UDP GRO delivers them. Headers are
//! taken off and put on inside of that buffer: a single datagram never moves, those of a train close up or spread by the header's
//! size. Nothing is allocated, and a train that comes in as one leaves as one.
//!
//! # Fault model
//!
//! Clients and peers are hostile, and anyone can write any sender's address on a datagram. Before a client has proved that it knows
//! a password, nothing of it is kept, and what is sent back is bounded by [`limits::STRANGER_BYTES`] for each network of
//! senders. A peer reaches a client only where the client has permitted the peer's address; a client reaches only addresses that
//! [`PeerFilter`] lets through, so that the relay is no way into the operator's own networks. Everything that a client can make
//! the server hold has a maximum in [`limits`]; passwords are compared in constant time.

mod allocation;
mod auth;
mod bucket;
mod channel;
pub mod client;
mod config;
mod counters;
mod framing;
mod outbox;
mod peer_filter;
mod ports;
mod server;
mod strangers;
pub mod stun;

pub use auth::rest_password;
pub use bucket::Rate;
pub use channel::{CHANNEL_HEADER, CHANNELS};
pub use config::{Config, ConfigError, RelayIp, limits};
pub use counters::{Counters, Drop};
pub use framing::{FrameError, frame_len};
pub use outbox::{Client, Direction, Effect, Outbox, RelayId, Send, To, Where};
pub use peer_filter::PeerFilter;
pub use server::{ChannelPath, Server, Train};

/// The time: both clocks, as the caller has read them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic, in ns.
    pub ns: u64,
    /// Since 1970, in s: for credentials that expire.
    pub unix: u64,
}

impl Now {
    /// Whole seconds of the monotonic clock; they last for 136 years.
    fn seconds(self) -> u32 {
        u32::try_from(self.ns / SECOND).unwrap_or(u32::MAX)
    }
}

/// ns of a second.
const SECOND: u64 = 1_000_000_000;
