//! From packets of one flow to a super-packet: receive offload of our own.
//!
//! The rules are those of the kernel's GRO (`tcp_gro_receive`, `udp_gro_receive_segment`): headers equal but for lengths,
//! sequence numbers and checksums; sequence numbers without a gap; equal payloads, the last perhaps shorter; each
//! packet's checksum verified, because the kernel believes a super-packet's.

use std::ops::Range;

use super::{
    Gso, IPV4_HEADER, IPV6_HEADER, PROTOCOL_TCP, PROTOCOL_UDP, TCP_CHECKSUM, TCP_HEADER, UDP_CHECKSUM,
    UDP_HEADER, VnetHeader, be16, be32, put16,
};
use netio::checksum::Sum;

/// Most headers that are joined: IPv6 and TCP with all its options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;
/// Most packets in one super-packet.
const MAX_PIECES: usize = 64;
/// Groups that may still grow, looked through for each packet.
const MAX_OPEN: usize = 8;
const MAX_IP_LEN: usize = 65_535;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_FLAGS: usize = 13;

/// A part of a packet of the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The caller's name for the buffer.
    pub buffer: usize,
    /// First byte in it.
    pub start: usize,
    /// Number of bytes.
    pub len: usize,
}

/// What the joiner needs to know of a packet.
#[derive(Clone, Copy)]
struct Parsed {
    protocol: u8,
    is_v6: bool,
    transport: usize,
    headers: usize,
    payload: usize,
    /// It may stand in a super-packet: a plain data packet with an intact checksum.
    joinable: bool,
}

/// One packet or super-packet for the kernel: the vnet header, headers of our own, then pieces of the caller's buffers.
#[derive(Debug)]
pub struct Joined {
    vnet: VnetHeader,
    /// Headers of the first packet, adjusted in [`Joined::finish`]. Empty for a packet that stays as it is.
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
    pieces: Vec<Piece>,
    payload: usize,
    transport: usize,
    segment: usize,
    next_sequence: u32,
    is_v6: bool,
    protocol: u8,
    open: bool,
}

impl Joined {
    fn empty() -> Self {
        Self {
            vnet: VnetHeader::default(),
            headers: [0; MAX_HEADERS],
            headers_len: 0,
            pieces: Vec::with_capacity(MAX_PIECES),
            payload: 0,
            transport: 0,
            segment: 0,
            next_sequence: 0,
            is_v6: false,
            protocol: 0,
            open: false,
        }
    }

    /// The vnet header to put in front.
    #[must_use]
    pub fn vnet(&self) -> VnetHeader {
        self.vnet
    }

    /// Headers to put between vnet header and pieces; empty when the piece is a whole packet.
    #[must_use]
    pub fn headers(&self) -> &[u8] {
        if self.pieces.len() > 1 { &self.headers[..self.headers_len] } else { &[] }
    }

    /// The rest of the packet, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn start(&mut self, bytes: &[u8], parsed: Option<Parsed>, piece: Piece) {
        self.pieces.clear();
        self.pieces.push(piece);
        self.vnet = VnetHeader::default();
        self.headers_len = 0;
        self.open = false;
        let Some(parsed) = parsed else { return };
        (self.is_v6, self.protocol, self.transport) = (parsed.is_v6, parsed.protocol, parsed.transport);
        self.headers_len = parsed.headers;
        self.headers[..parsed.headers].copy_from_slice(&bytes[..parsed.headers]);
        self.payload = parsed.payload;
        self.segment = parsed.payload;
        let ends_group =
            parsed.protocol == PROTOCOL_TCP && bytes[parsed.transport + TCP_FLAGS] & TCP_PSH != 0;
        self.open = parsed.joinable && !ends_group;
        if parsed.protocol == PROTOCOL_TCP {
            let len = u32::try_from(parsed.payload).expect("an IP packet is at most 64 KiB");
            self.next_sequence = be32(bytes, parsed.transport + 4).wrapping_add(len);
        }
    }

    /// Whether the packet belongs to the same flow.
    fn same_flow(&self, bytes: &[u8], parsed: &Parsed) -> bool {
        let addresses = if self.is_v6 { 8..40 } else { 12..20 };
        self.is_v6 == parsed.is_v6
            && self.protocol == parsed.protocol
            && self.transport == parsed.transport
            && self.headers[addresses.clone()] == bytes[addresses]
            && self.headers[self.transport..self.transport + 4] == bytes[self.transport..self.transport + 4]
    }

    /// Whether the packet, of the same flow, goes on where the group ends.
    fn continues(&self, bytes: &[u8], parsed: &Parsed) -> bool {
        let first = &self.headers[..self.headers_len];
        let fits = parsed.joinable
            && parsed.headers == self.headers_len
            && parsed.payload <= self.segment
            && self.pieces.len() < MAX_PIECES
            && self.headers_len + self.payload + parsed.payload <= MAX_IP_LEN;
        let same_ip = if self.is_v6 {
            fits && first[..4] == bytes[..4] && first[6..8] == bytes[6..8]
        } else {
            // Version, type of service; flags, lifetime and protocol. The id counts on unless nobody may fragment.
            let count = u16::try_from(self.pieces.len()).expect("few");
            let unfragmentable = bytes[6] & 0x40 != 0;
            fits && first[..2] == bytes[..2]
                && first[6..10] == bytes[6..10]
                && (unfragmentable || be16(bytes, 4) == be16(first, 4).wrapping_add(count))
        };
        let t = self.transport;
        same_ip
            && (self.protocol == PROTOCOL_UDP
                || (be32(bytes, t + 4) == self.next_sequence
                    && first[t + 8..t + 13] == bytes[t + 8..t + 13]
                    && first[t + TCP_FLAGS] | TCP_PSH == bytes[t + TCP_FLAGS] | TCP_PSH
                    && first[t + 14..t + 16] == bytes[t + 14..t + 16]
                    && first[t + 18..] == bytes[t + 18..parsed.headers]))
    }

    fn append(&mut self, bytes: &[u8], parsed: &Parsed, piece: Piece) {
        if self.pieces.len() == 1 {
            // From here on the headers are ours.
            let first = &mut self.pieces[0];
            first.start += self.headers_len;
            first.len -= self.headers_len;
        }
        let (start, len) = (piece.start + parsed.headers, parsed.payload);
        self.pieces.push(Piece { start, len, ..piece });
        self.payload += parsed.payload;
        if self.protocol == PROTOCOL_TCP {
            let len = u32::try_from(parsed.payload).expect("an IP packet is at most 64 KiB");
            self.next_sequence = self.next_sequence.wrapping_add(len);
            let flags = bytes[parsed.transport + TCP_FLAGS];
            self.headers[self.transport + TCP_FLAGS] |= flags & TCP_PSH;
            self.open = flags & TCP_PSH == 0;
        }
        self.open &= parsed.payload == self.segment;
    }

    /// Makes headers and vnet header say what the group became.
    fn finish(&mut self) {
        if self.pieces.len() < 2 {
            return;
        }
        let headers = &mut self.headers[..self.headers_len];
        let transport_len = self.headers_len - self.transport + self.payload;
        let ip_len = u16::try_from(self.headers_len + self.payload).expect("kept below the limit");
        let addresses = if self.is_v6 {
            put16(headers, 4, ip_len - 40);
            8..40
        } else {
            put16(headers, 2, ip_len);
            put16(headers, 10, 0);
            let checksum = Sum::default().with(&headers[..IPV4_HEADER]).checksum();
            headers[10..12].copy_from_slice(&checksum);
            12..20
        };
        let (gso, checksum_offset) = match (self.protocol, self.is_v6) {
            (PROTOCOL_UDP, _) => (Gso::Udp, UDP_CHECKSUM),
            (_, false) => (Gso::Tcp4, TCP_CHECKSUM),
            (_, true) => (Gso::Tcp6, TCP_CHECKSUM),
        };
        if gso == Gso::Udp {
            put16(headers, self.transport + 4, u16::try_from(transport_len).expect("kept below the limit"));
        }
        let partial =
            Sum::default().with_pseudo_header(&headers[addresses], self.protocol, transport_len).folded();
        let at = self.transport + checksum_offset;
        headers[at..at + 2].copy_from_slice(&partial);
        let small = |value: usize| u16::try_from(value).expect("within an IP packet");
        self.vnet = VnetHeader {
            needs_checksum: true,
            gso,
            header_len: small(self.headers_len),
            segment: small(self.segment),
            checksum_start: small(self.transport),
            checksum_offset: small(checksum_offset),
        };
    }
}

/// Collects the packets of one burst and joins what can be joined. The order within a flow stays.
#[derive(Debug)]
pub struct Joiner {
    groups: Vec<Joined>,
    /// Groups in use; those behind keep their memory for later.
    used: usize,
    join_udp: bool,
}

impl Joiner {
    /// A joiner that joins TCP, and UDP if the device takes UDP super-packets.
    #[must_use]
    pub fn new(join_udp: bool) -> Self {
        Self { groups: Vec::new(), used: 0, join_udp }
    }

    /// Adds the IP packet at `range` of the caller's buffer `buffer`. Lengths of IP must have been checked.
    pub fn add(&mut self, bytes: &[u8], buffer: usize, range: Range<usize>) {
        let packet = &bytes[range.clone()];
        let piece = Piece { buffer, start: range.start, len: range.len() };
        let parsed = parse(packet, self.join_udp);
        if let Some(parsed) = parsed {
            let recent = self.groups[..self.used].iter_mut().rev().take(MAX_OPEN);
            if let Some(group) =
                recent.filter(|group| group.open).find(|group| group.same_flow(packet, &parsed))
            {
                if group.continues(packet, &parsed) {
                    group.append(packet, &parsed, piece);
                    return;
                }
                group.open = false; // nothing of this flow may overtake what comes now
            }
        }
        if self.used == self.groups.len() {
            self.groups.push(Joined::empty());
        }
        self.groups[self.used].start(packet, parsed, piece);
        self.used += 1;
    }

    /// Ends the burst: the packets to write, in order. Call [`Joiner::clear`] afterwards.
    pub fn finish(&mut self) -> &[Joined] {
        self.groups[..self.used].iter_mut().for_each(Joined::finish);
        &self.groups[..self.used]
    }

    /// Forgets the burst, and keeps the memory.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

/// Reads as much of a packet as joining needs; `None` when it belongs to no flow that is ever joined.
fn parse(packet: &[u8], join_udp: bool) -> Option<Parsed> {
    let is_v6 = match packet.first()? {
        0x45 => false,
        byte if byte >> 4 == 6 => true,
        _ => return None, // options in IPv4
    };
    let transport = if is_v6 { IPV6_HEADER } else { IPV4_HEADER };
    let protocol = *packet.get(if is_v6 { 6 } else { 9 })?;
    let header = packet.get(transport..)?;
    let (headers, plain) = match protocol {
        PROTOCOL_TCP if header.len() >= TCP_HEADER => {
            let len = usize::from(header[12] >> 4) * 4;
            (transport + len, len >= TCP_HEADER && header[TCP_FLAGS] & !TCP_PSH == TCP_ACK)
        }
        PROTOCOL_UDP if join_udp && header.len() > UDP_HEADER => {
            let whole = usize::from(be16(header, 4)) == header.len() && be16(header, UDP_CHECKSUM) != 0;
            (transport + UDP_HEADER, whole)
        }
        _ => return None,
    };
    let fragment = !is_v6 && (packet[6] & 0x3f != 0 || packet[7] != 0);
    if fragment || headers > packet.len() {
        return None;
    }
    let payload = packet.len() - headers;
    let joinable = plain && payload > 0 && is_intact(packet, protocol, transport, is_v6);
    Some(Parsed { protocol, is_v6, transport, headers, payload, joinable })
}

fn is_intact(packet: &[u8], protocol: u8, transport: usize, is_v6: bool) -> bool {
    let addresses = if is_v6 { 8..40 } else { 12..20 };
    let sum = Sum::default().with(&packet[transport..]).with_pseudo_header(
        &packet[addresses],
        protocol,
        packet.len() - transport,
    );
    let header_intact = is_v6 || Sum::default().with(&packet[..IPV4_HEADER]).is_intact();
    header_intact && sum.is_intact()
}
