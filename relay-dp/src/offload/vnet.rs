//! The vnet header in front of a packet on a TUN device (`struct virtio_net_hdr`, virtio 1.2 section 5.1.6).

use super::OffloadError;

/// Bytes of a vnet header.
pub const VNET_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

/// How a super-packet is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP: each segment becomes a datagram.
    Udp,
}

/// What the kernel left to do, or may leave.
///
/// ```text
/// 0      1      2         4          6           8           10
/// | flags | gso | hdr len | gso size | csum start | csum offset |   native byte order
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Whether the transport checksum holds only the pseudo-header's sum and is to be completed.
    pub needs_checksum: bool,
    /// How to cut it.
    pub gso: Gso,
    /// Bytes of all headers; a hint.
    pub header_len: u16,
    /// Payload bytes of each packet but the last.
    pub segment: u16,
    /// Where the transport header begins.
    pub checksum_start: u16,
    /// Where the checksum stands in it.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Reads the header in front of `bytes`.
    ///
    /// # Errors
    /// When it is cut off or asks for a kind of segmentation that we did not offer to do.
    pub fn parse(bytes: &[u8]) -> Result<Self, OffloadError> {
        let header = bytes.first_chunk::<VNET_HEADER>().ok_or(OffloadError::Short)?;
        let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let gso = match header[1] {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            _ => return Err(OffloadError::UnknownGso),
        };
        Ok(Self {
            needs_checksum: header[0] & NEEDS_CHECKSUM != 0,
            gso,
            header_len: field(2),
            segment: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        })
    }

    /// The header as the kernel reads it.
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let fields = [self.header_len, self.segment, self.checksum_start, self.checksum_offset];
        for (place, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}
