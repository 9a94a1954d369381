//! Channel data (RFC 8656 section 12.4): two bytes of channel number, two of length, then the payload.

use std::ops::RangeInclusive;

/// Bytes in front of the payload.
pub const CHANNEL_HEADER: usize = 4;

/// Numbers that a channel can have. RFC 8656 section 12 ends at 0x4fff; clients of RFC 5766, such as coturn's, use all of these.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7ffe;

/// Number and payload length of a datagram that begins with two bits that say channel data. Over UDP padding may follow the
/// payload, so a datagram may be longer than it says, never shorter.
pub fn parse(datagram: &[u8]) -> Option<(u16, usize)> {
    let &[n0, n1, l0, l1] = datagram.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    (CHANNEL_HEADER + len <= datagram.len()).then_some((u16::from_be_bytes([n0, n1]), len))
}

/// Whether a datagram's first byte says channel data: neither STUN (0 to 3) nor anything else that shares a port with it
/// (RFC 8656 section 12).
pub fn is_channel_data(first: u8) -> bool {
    first & 0xc0 == 0x40
}

/// The header in front of `len` bytes.
pub fn header(channel: u16, len: u16) -> [u8; CHANNEL_HEADER] {
    let ([n0, n1], [l0, l1]) = (channel.to_be_bytes(), len.to_be_bytes());
    [n0, n1, l0, l1]
}
