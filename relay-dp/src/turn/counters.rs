//! What passed, and what did not, and why.

use super::stun::ErrorCode;

/// Why a datagram went no further. A datagram of a train counts as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Drop {
    /// Neither STUN nor channel data.
    Unknown,
    /// STUN or channel data with wrong lengths or a wrong fingerprint.
    Malformed,
    /// A STUN message that a server has no use for: an answer, or an indication of another kind.
    Unexpected,
    /// Data of a client without an allocation.
    NoAllocation,
    /// Data on a channel that is not bound, or no longer.
    NoChannel,
    /// The peer has no permission, or no longer.
    NoPermission,
    /// The peer's address is of another family than the relayed one.
    WrongFamily,
    /// The user's rate is used up.
    Rate,
    /// More is sent back to a network of strangers than [`limits::STRANGER_BYTES`](super::limits::STRANGER_BYTES).
    Strangers,
    /// With its header it would be longer than a datagram or the buffer.
    TooLong,
    /// A request that is already being worked on.
    Repeated,
}

impl Drop {
    /// All causes.
    pub const ALL: [Drop; 11] = [
        Drop::Unknown,
        Drop::Malformed,
        Drop::Unexpected,
        Drop::NoAllocation,
        Drop::NoChannel,
        Drop::NoPermission,
        Drop::WrongFamily,
        Drop::Rate,
        Drop::Strangers,
        Drop::TooLong,
        Drop::Repeated,
    ];

    /// The cause in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Drop::Unknown => "unknown protocol",
            Drop::Malformed => "malformed",
            Drop::Unexpected => "unexpected message",
            Drop::NoAllocation => "no allocation",
            Drop::NoChannel => "no channel",
            Drop::NoPermission => "no permission",
            Drop::WrongFamily => "wrong address family",
            Drop::Rate => "user's rate",
            Drop::Strangers => "strangers' rate",
            Drop::TooLong => "too long",
            Drop::Repeated => "repeated request",
        }
    }
}

/// Numbers since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams relayed from clients to peers.
    pub to_peers: u64,
    /// Bytes of their payloads.
    pub to_peers_bytes: u64,
    /// Datagrams relayed from peers to clients.
    pub to_clients: u64,
    /// Bytes of their payloads.
    pub to_clients_bytes: u64,
    /// Requests that were answered, well or not.
    pub requests: u64,
    /// Allocations made.
    pub allocated: u64,
    /// Allocations whose time ran out.
    pub expired: u64,
    drops: [u64; Drop::ALL.len()],
    errors: [u64; ErrorCode::ALL.len()],
}

impl Counters {
    pub(crate) fn drop(&mut self, cause: Drop, count: usize) {
        self.drops[cause as usize] += count as u64;
    }

    pub(crate) fn error(&mut self, error: ErrorCode) {
        let place = ErrorCode::ALL.iter().position(|other| *other == error).expect("all are listed");
        self.errors[place] += 1;
    }

    /// Adds another server's numbers.
    pub fn merge(&mut self, other: &Counters) {
        for (sum, other) in [
            (&mut self.to_peers, other.to_peers),
            (&mut self.to_peers_bytes, other.to_peers_bytes),
            (&mut self.to_clients, other.to_clients),
            (&mut self.to_clients_bytes, other.to_clients_bytes),
            (&mut self.requests, other.requests),
            (&mut self.allocated, other.allocated),
            (&mut self.expired, other.expired),
        ] {
            *sum += other;
        }
        self.drops.iter_mut().zip(other.drops).for_each(|(sum, other)| *sum += other);
        self.errors.iter_mut().zip(other.errors).for_each(|(sum, other)| *sum += other);
    }

    /// Datagrams dropped for one cause.
    pub fn dropped(&self, cause: Drop) -> u64 {
        self.drops[cause as usize]
    }

    /// Requests refused with each code.
    pub fn refused(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        ErrorCode::ALL.into_iter().zip(self.errors)
    }
}
