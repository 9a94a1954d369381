//! STUN messages (RFC 8489 section 5, 14): read in place, written into a reused buffer.

mod address;
mod integrity;
mod message;
#[cfg(test)]
mod tests;
mod writer;

pub use address::{decode_xor_address, xor_address_len};
pub use integrity::{Integrity, Key, Keys};
pub use message::{Attribute, Class, Message, ParseError};
pub use writer::Writer;

pub(crate) use address::encode_xor_address;

/// Bytes of a message's header (RFC 8489 section 5).
pub const HEADER: usize = 20;
/// Bytes of an attribute's header (RFC 8489 section 14).
pub const ATTRIBUTE_HEADER: usize = 4;
/// What every message has behind its length.
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

/// A transaction's identity.
pub type TransactionId = [u8; 12];

/// Methods (RFC 8489 section 18.2, RFC 8656 section 17).
pub mod method {
    /// Binding: which address the server sees.
    pub const BINDING: u16 = 0x001;
    /// A new relayed address.
    pub const ALLOCATE: u16 = 0x003;
    /// An allocation goes on, or ends.
    pub const REFRESH: u16 = 0x004;
    /// Indication: bytes for a peer.
    pub const SEND: u16 = 0x006;
    /// Indication: bytes from a peer.
    pub const DATA: u16 = 0x007;
    /// Peers' addresses that may send.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// A short name for a peer.
    pub const CHANNEL_BIND: u16 = 0x009;
}

/// Attribute types (RFC 8489 section 18.3, RFC 8656 section 18).
pub mod attribute {
    /// Who asks.
    pub const USERNAME: u16 = 0x0006;
    /// HMAC-SHA1 over what stands before it.
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// Why a request was refused.
    pub const ERROR_CODE: u16 = 0x0009;
    /// Attributes that were not understood.
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    /// A channel's number.
    pub const CHANNEL_NUMBER: u16 = 0x000c;
    /// Seconds.
    pub const LIFETIME: u16 = 0x000d;
    /// A peer.
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    /// Bytes for or from a peer.
    pub const DATA: u16 = 0x0013;
    /// Whom the credentials are for.
    pub const REALM: u16 = 0x0014;
    /// Against replay.
    pub const NONCE: u16 = 0x0015;
    /// The relayed address.
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    /// IPv4 or IPv6.
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    /// The relayed port is to be even.
    pub const EVEN_PORT: u16 = 0x0018;
    /// UDP, always.
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    /// The packet must not be split on its way to the peer.
    pub const DONT_FRAGMENT: u16 = 0x001a;
    /// HMAC-SHA256 over what stands before it.
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    /// How the key follows from the password.
    pub const PASSWORD_ALGORITHM: u16 = 0x001d;
    /// The client, as the server sees it.
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// A port that was kept aside.
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    /// A second relayed address, of the other family.
    pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    /// Why there is no relayed address of a family.
    pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
    /// How keys may follow from passwords.
    pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
    /// What the sender runs.
    pub const SOFTWARE: u16 = 0x8022;
    /// CRC over what stands before it.
    pub const FINGERPRINT: u16 = 0x8028;
}

/// Error codes (RFC 8489 section 14.8, RFC 8656 section 19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum ErrorCode {
    /// The request makes no sense.
    BadRequest = 400,
    /// There are no credentials, or wrong ones.
    Unauthorized = 401,
    /// The peer may not be reached from here.
    Forbidden = 403,
    /// An attribute must be understood and is not.
    UnknownAttribute = 420,
    /// The client has no allocation, or already has one.
    AllocationMismatch = 437,
    /// The nonce has expired.
    StaleNonce = 438,
    /// There are no relayed addresses of this family.
    AddressFamilyNotSupported = 440,
    /// The allocation is someone else's.
    WrongCredentials = 441,
    /// Relays are UDP only.
    UnsupportedTransport = 442,
    /// The peer's address is of another family than the relayed one.
    PeerAddressFamilyMismatch = 443,
    /// The user has as many allocations as allowed.
    AllocationQuotaReached = 486,
    /// No room, or no port.
    InsufficientCapacity = 508,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [ErrorCode; 12] = [
        ErrorCode::BadRequest,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::UnknownAttribute,
        ErrorCode::AllocationMismatch,
        ErrorCode::StaleNonce,
        ErrorCode::AddressFamilyNotSupported,
        ErrorCode::WrongCredentials,
        ErrorCode::UnsupportedTransport,
        ErrorCode::PeerAddressFamilyMismatch,
        ErrorCode::AllocationQuotaReached,
        ErrorCode::InsufficientCapacity,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The words on the wire and in metrics. Short: what goes to strangers must not be much longer than what they sent.
    pub const fn reason(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "Bad Request",
            ErrorCode::Unauthorized => "Unauthorized",
            ErrorCode::Forbidden => "Forbidden",
            ErrorCode::UnknownAttribute => "Unknown Attribute",
            ErrorCode::AllocationMismatch => "Allocation Mismatch",
            ErrorCode::StaleNonce => "Stale Nonce",
            ErrorCode::AddressFamilyNotSupported => "Address Family not Supported",
            ErrorCode::WrongCredentials => "Wrong Credentials",
            ErrorCode::UnsupportedTransport => "Unsupported Transport Protocol",
            ErrorCode::PeerAddressFamilyMismatch => "Peer Address Family Mismatch",
            ErrorCode::AllocationQuotaReached => "Allocation Quota Reached",
            ErrorCode::InsufficientCapacity => "Insufficient Capacity",
        }
    }
}

/// The length with the padding to a multiple of four that follows an attribute's value.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}
