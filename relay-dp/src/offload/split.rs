//! From a super-packet to the packets that it stands for.

use super::{
    Gso, IPV4_HEADER, IPV6_HEADER, OffloadError, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, TCP_HEADER,
    UDP_CHECKSUM, UDP_HEADER, VNET_HEADER, VnetHeader, be16, be32, put16, put32,
};
use netio::checksum::Sum;

/// Flags of TCP that only the last packet of a cut carries: FIN and PSH.
const TCP_LAST_ONLY: u8 = 0x01 | 0x08;
/// The flag that only the first carries: CWR (RFC 3168).
const TCP_FIRST_ONLY: u8 = 0x80;
const TCP_FLAGS: usize = 13;
const TCP_SEQUENCE: usize = 4;

/// A packet as the kernel hands it over: one IP packet, or up to 64 KiB of one flow to be cut into packets.
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket<'a> {
    /// The IP packet, without the vnet header.
    ip: &'a [u8],
    vnet: VnetHeader,
    /// Bytes of IP and transport headers, repeated in each packet. Zero without segmentation.
    headers: usize,
    is_v6: bool,
}

impl<'a> SuperPacket<'a> {
    /// Reads a packet with its vnet header.
    ///
    /// # Errors
    /// When headers and lengths contradict each other.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OffloadError> {
        let vnet = VnetHeader::parse(bytes)?;
        let ip = &bytes[VNET_HEADER..];
        let is_v6 = match ip.first().ok_or(OffloadError::Short)? >> 4 {
            4 if ip.len() >= IPV4_HEADER => false,
            6 if ip.len() >= IPV6_HEADER => true,
            4 | 6 => return Err(OffloadError::Short),
            _ => return Err(OffloadError::NotIp),
        };
        let mut packet = Self { ip, vnet, headers: 0, is_v6 };
        let (start, offset) = (usize::from(vnet.checksum_start), usize::from(vnet.checksum_offset));
        let ip_header = if is_v6 { IPV6_HEADER } else { IPV4_HEADER };
        let has_place = start >= ip_header && start + offset + 2 <= ip.len();
        if vnet.needs_checksum && !has_place {
            return Err(OffloadError::BadHeader);
        }
        if vnet.gso != Gso::None {
            packet.headers = packet.segmented_headers(start, offset).ok_or(OffloadError::BadHeader)?;
        }
        Ok(packet)
    }

    /// Length of the headers of a super-packet, if they fit what the vnet header says.
    fn segmented_headers(&self, start: usize, offset: usize) -> Option<usize> {
        let expected_v6 = match self.vnet.gso {
            Gso::Tcp4 => false,
            Gso::Tcp6 => true,
            Gso::Udp | Gso::None => self.is_v6,
        };
        let transport = self.ip.get(start..)?;
        let (len, checksum) = match self.vnet.gso {
            Gso::Udp => (UDP_HEADER, UDP_CHECKSUM),
            _ => (usize::from(transport.get(12)? >> 4) * 4, TCP_CHECKSUM),
        };
        let minimum = if self.vnet.gso == Gso::Udp { UDP_HEADER } else { TCP_HEADER };
        let fits = expected_v6 == self.is_v6
            && self.vnet.needs_checksum
            && self.vnet.segment > 0
            && offset == checksum
            && len >= minimum
            && start + len < self.ip.len();
        fits.then_some(start + len)
    }

    /// The IP packet as it came: what it says of source and destination holds for every packet of it.
    #[must_use]
    pub fn ip(&self) -> &'a [u8] {
        self.ip
    }

    /// How many packets it stands for; at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.headers {
            0 => 1,
            headers => (self.ip.len() - headers).div_ceil(usize::from(self.vnet.segment)),
        }
    }

    /// Length of packet `index`. All but the last are of the length of the first.
    #[must_use]
    pub fn packet_len(&self, index: usize) -> usize {
        if self.headers == 0 {
            return self.ip.len();
        }
        let segment = usize::from(self.vnet.segment);
        self.headers + segment.min(self.ip.len() - self.headers - index * segment)
    }

    /// Writes packet `index`, complete with its checksums, to the front of `out`; returns its length.
    ///
    /// # Panics
    /// When there is no such packet, or `out` is shorter than it.
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        assert!(index < self.count(), "packet {index} of {}", self.count());
        let len = self.packet_len(index);
        let out = &mut out[..len];
        if self.headers == 0 {
            out.copy_from_slice(self.ip);
            if self.vnet.needs_checksum {
                self.complete_checksum(out);
            }
            return len;
        }
        let payload = self.headers + index * usize::from(self.vnet.segment);
        out[..self.headers].copy_from_slice(&self.ip[..self.headers]);
        out[self.headers..].copy_from_slice(&self.ip[payload..payload + len - self.headers]);
        self.rewrite_ip(index, out);
        self.rewrite_transport(index, out);
        len
    }

    /// The checksum field holds the pseudo-header's sum: sum the rest over it.
    fn complete_checksum(&self, out: &mut [u8]) {
        let start = usize::from(self.vnet.checksum_start);
        let at = start + usize::from(self.vnet.checksum_offset);
        let sum = Sum::default().with(&out[start..]);
        // UDP's rule is right for TCP too: a sum of zero never occurs there, since the pseudo-header is not zero.
        out[at..at + 2].copy_from_slice(&sum.udp_checksum());
    }

    fn rewrite_ip(&self, index: usize, out: &mut [u8]) {
        let len = u16::try_from(out.len()).expect("a packet of an IP packet is no longer");
        if self.is_v6 {
            put16(out, 4, len - 40);
            return;
        }
        put16(out, 2, len);
        let steps = u16::try_from(index % 65_536).expect("reduced");
        let id = be16(out, 4).wrapping_add(steps);
        put16(out, 4, id);
        put16(out, 10, 0);
        let header = (usize::from(out[0] & 15) * 4).clamp(IPV4_HEADER, self.headers);
        let checksum = Sum::default().with(&out[..header]).checksum();
        out[10..12].copy_from_slice(&checksum);
    }

    fn rewrite_transport(&self, index: usize, out: &mut [u8]) {
        let start = usize::from(self.vnet.checksum_start);
        let last = index + 1 == self.count();
        let transport_len = out.len() - start;
        let transport = &mut out[start..];
        let (protocol, checksum_at) = if self.vnet.gso == Gso::Udp {
            put16(transport, 4, u16::try_from(transport_len).expect("a part of an IP packet"));
            (PROTOCOL_UDP, UDP_CHECKSUM)
        } else {
            let before = u32::try_from(index * usize::from(self.vnet.segment)).expect("within 64 KiB");
            let sequence = be32(transport, TCP_SEQUENCE).wrapping_add(before);
            put32(transport, TCP_SEQUENCE, sequence);
            if !last {
                transport[TCP_FLAGS] &= !TCP_LAST_ONLY;
            }
            if index > 0 {
                transport[TCP_FLAGS] &= !TCP_FIRST_ONLY;
            }
            (PROTOCOL_TCP, TCP_CHECKSUM)
        };
        put16(transport, checksum_at, 0);
        let addresses = if self.is_v6 { 8..40 } else { 12..20 };
        let sum =
            Sum::default().with(&out[start..]).with_pseudo_header(&out[addresses], protocol, transport_len);
        let checksum = if protocol == PROTOCOL_UDP { sum.udp_checksum() } else { sum.checksum() };
        out[start + checksum_at..start + checksum_at + 2].copy_from_slice(&checksum);
    }
}
