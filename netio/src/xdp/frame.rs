//! Ethernet, IP and UDP headers of a frame: read and checked once, written in place.
//!
//! ```text
//! | Ethernet 14 | IPv4 20 or IPv6 40 | UDP 8 | payload | padding of short frames |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::checksum::Sum;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Hops that what we send may take (RFC 1340 and since).
const HOP_LIMIT: u8 = 64;

/// Bytes of all headers of a datagram over IPv4.
pub const HEADERS_V4: usize = ETHERNET + IPV4 + UDP;
/// Bytes of all headers of a datagram over IPv6.
pub const HEADERS_V6: usize = ETHERNET + IPV6 + UDP;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A datagram in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Who sent it.
    pub source: SocketAddr,
    /// Where it was sent to.
    pub destination: SocketAddr,
    /// Where its bytes lie in the frame.
    pub payload: Range<usize>,
}

/// Why a frame is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends in its headers, or before its length says.
    #[error("cut off")]
    CutOff,
    /// Neither IPv4 nor IPv6, options or extension headers, a fragment, or not UDP. The program steers none of these.
    #[error("not a plain UDP datagram")]
    NotPlain,
    /// IP leaves no room for a UDP header, or for as much as that says.
    #[error("lengths that don't fit")]
    Length,
    /// A checksum of IPv4 or UDP is wrong, or missing over IPv6.
    #[error("wrong checksum")]
    Checksum,
    /// No one can have sent it: source port 0, or a source that is unspecified, loopback, multicast or broadcast.
    #[error("impossible source")]
    Source,
}

/// Reads a frame. Its MAC addresses are not looked at.
///
/// A UDP checksum that holds only the sum of the pseudo-header is taken as well: senders on this host leave it unfinished for hardware
/// that a virtual link does not have.
///
/// # Errors
/// See [`FrameError`].
pub fn parse(frame: &[u8]) -> Result<Parsed, FrameError> {
    let ethernet = frame.first_chunk::<ETHERNET>().ok_or(FrameError::CutOff)?;
    match [ethernet[12], ethernet[13]] {
        TYPE_IPV4 => ipv4(frame),
        TYPE_IPV6 => ipv6(frame),
        _ => Err(FrameError::NotPlain),
    }
}

fn ipv4(frame: &[u8]) -> Result<Parsed, FrameError> {
    let packet = &frame[ETHERNET..];
    let header = packet.first_chunk::<IPV4>().ok_or(FrameError::CutOff)?;
    let fragment = be16(&header[6..]) & 0x3fff;
    if header[0] != 0x45 || fragment != 0 || header[9] != PROTOCOL_UDP {
        return Err(FrameError::NotPlain);
    }
    if !Sum::default().with(header).is_intact() {
        return Err(FrameError::Checksum);
    }
    let total = usize::from(be16(&header[2..]));
    if total < IPV4 + UDP {
        return Err(FrameError::Length);
    }
    let segment = packet.get(IPV4..total).ok_or(FrameError::CutOff)?;
    let (source, destination) = (Ipv4Addr::from(first::<4>(&header[12..])), first::<4>(&header[16..]));
    if source.is_unspecified() || source.is_loopback() || source.is_multicast() || source.is_broadcast() {
        return Err(FrameError::Source);
    }
    udp(segment, &header[12..20], ETHERNET + IPV4, (source.into(), Ipv4Addr::from(destination).into()))
}

fn ipv6(frame: &[u8]) -> Result<Parsed, FrameError> {
    let packet = &frame[ETHERNET..];
    let header = packet.first_chunk::<IPV6>().ok_or(FrameError::CutOff)?;
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
        return Err(FrameError::NotPlain);
    }
    let len = usize::from(be16(&header[4..]));
    let segment = packet[IPV6..].get(..len).ok_or(FrameError::CutOff)?;
    let (source, destination) = (Ipv6Addr::from(first::<16>(&header[8..])), first::<16>(&header[24..]));
    let mapped = source.to_ipv4_mapped().is_some();
    if source.is_unspecified() || source.is_loopback() || source.is_multicast() || mapped {
        return Err(FrameError::Source);
    }
    udp(segment, &header[8..40], ETHERNET + IPV6, (source.into(), Ipv6Addr::from(destination).into()))
}

/// `segment` is what the IP header says is its payload, and begins at `offset` of the frame. A datagram may be shorter: the rest is cut
/// off, as the kernel does it.
fn udp(
    segment: &[u8],
    addresses: &[u8],
    offset: usize,
    (source, destination): (IpAddr, IpAddr),
) -> Result<Parsed, FrameError> {
    let header = segment.first_chunk::<UDP>().ok_or(FrameError::Length)?;
    let len = usize::from(be16(&header[4..]));
    if len < UDP {
        return Err(FrameError::Length);
    }
    let segment = segment.get(..len).ok_or(FrameError::Length)?;
    let (source_port, destination_port) = (be16(&header[0..]), be16(&header[2..]));
    if source_port == 0 {
        return Err(FrameError::Source);
    }
    let checksum = first::<2>(&header[6..]);
    let pseudo = Sum::default().with_pseudo_header(addresses, PROTOCOL_UDP, len);
    let good = match checksum {
        [0, 0] => source.is_ipv4(), // none; not allowed over IPv6 (RFC 8200 section 8.1)
        unfinished if unfinished == pseudo.folded() => true,
        _ => pseudo.with(segment).is_intact(),
    };
    if !good {
        return Err(FrameError::Checksum);
    }
    Ok(Parsed {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        payload: offset + UDP..offset + len,
    })
}

/// Bytes of headers of a datagram to `address`.
#[must_use]
pub fn headers_len(address: &IpAddr) -> usize {
    if address.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 }
}

/// Writes the headers into the first [`headers_len`] bytes of `frame`, whose rest is the payload.
///
/// # Panics
/// With addresses of two families, or a frame shorter than its headers or longer than an IP packet.
pub fn write(frame: &mut [u8], (from, to): (Mac, Mac), source: SocketAddr, destination: SocketAddr) {
    let headers = headers_len(&destination.ip());
    let segment = u16::try_from(frame.len() - (headers - UDP)).expect("a datagram is at most 64 KiB");
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    let pseudo = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame[12..14].copy_from_slice(&TYPE_IPV4);
            write_ipv4(&mut frame[ETHERNET..], segment, source, destination);
            Sum::default().with_pseudo_header(
                &frame[ETHERNET + 12..ETHERNET + 20],
                PROTOCOL_UDP,
                segment.into(),
            )
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame[12..14].copy_from_slice(&TYPE_IPV6);
            write_ipv6(&mut frame[ETHERNET..], segment, source, destination);
            Sum::default().with_pseudo_header(
                &frame[ETHERNET + 8..ETHERNET + 40],
                PROTOCOL_UDP,
                segment.into(),
            )
        }
        (source, destination) => panic!("from {source} to {destination}"),
    };
    let udp = &mut frame[headers - UDP..];
    udp[0..2].copy_from_slice(&source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&destination.port().to_be_bytes());
    udp[4..6].copy_from_slice(&segment.to_be_bytes());
    udp[6..8].fill(0);
    let checksum = pseudo.with(udp).udp_checksum();
    udp[6..8].copy_from_slice(&checksum);
}

fn write_ipv4(packet: &mut [u8], segment: u16, source: Ipv4Addr, destination: Ipv4Addr) {
    let total = segment.checked_add(20).expect("an IPv4 packet is at most 64 KiB");
    let header = packet.first_chunk_mut::<IPV4>().expect("room for the header");
    *header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[6] = 0x40; // never fragmented, so it needs no identification (RFC 6864)
    header[8] = HOP_LIMIT;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let checksum = Sum::default().with(header).checksum();
    header[10..12].copy_from_slice(&checksum);
}

fn write_ipv6(packet: &mut [u8], segment: u16, source: Ipv6Addr, destination: Ipv6Addr) {
    let header = packet.first_chunk_mut::<IPV6>().expect("room for the header");
    *header = [0; IPV6];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&segment.to_be_bytes());
    header[6] = PROTOCOL_UDP;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(first(bytes))
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("callers have the bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACS: (Mac, Mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn frame(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&vec![0xee; headers_len(&destination.ip())][..], payload].concat();
        write(&mut frame, MACS, source, destination);
        frame
    }

    fn pair(v6: bool, octets: [u8; 16], ports: (u16, u16)) -> (SocketAddr, SocketAddr) {
        if v6 {
            let source = Ipv6Addr::from(
                [[0x20, 1], [octets[0], octets[1]], [7; 2], [0; 2], [0; 2], [0; 2], [0; 2], [9, 9]]
                    .concat()
                    .first_chunk()
                    .copied()
                    .unwrap(),
            );
            ((source, ports.0).into(), (Ipv6Addr::from(octets), ports.1).into())
        } else {
            let source = Ipv4Addr::new(10, octets[0], octets[1], octets[2]);
            ((source, ports.0).into(), (Ipv4Addr::new(octets[3], octets[4], octets[5], 1), ports.1).into())
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v6 in any::<bool>(), octets in any::<[u8; 16]>(), ports in (1u16.., any::<u16>()),
            payload in proptest::collection::vec(any::<u8>(), 0..1500), padding in 0usize..20) {
            let (source, destination) = pair(v6, octets, ports);
            let mut bytes = frame(source, destination, &payload);
            bytes.resize(bytes.len() + padding, 0xaa);
            let parsed = parse(&bytes).unwrap();
            prop_assert_eq!((parsed.source, parsed.destination), (source, destination));
            prop_assert_eq!(&bytes[parsed.payload], &payload[..]);
        }

        #[test]
        fn what_ip_has_behind_the_datagram_is_cut_off(v6 in any::<bool>(), octets in any::<[u8; 16]>(),
            payload in proptest::collection::vec(any::<u8>(), 0..100), extra in proptest::collection::vec(any::<u8>(), 1..20)) {
            let (source, destination) = pair(v6, octets, (7, 9));
            let mut bytes = [frame(source, destination, &payload), extra].concat();
            let (packet, len) = (ETHERNET.., bytes.len() - (headers_len(&destination.ip()) - UDP));
            let len = u16::try_from(len).unwrap();
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => write_ipv4(&mut bytes[packet], len, source, destination),
                (IpAddr::V6(source), IpAddr::V6(destination)) => write_ipv6(&mut bytes[packet], len, source, destination),
                _ => unreachable!("two of one family"),
            }
            let parsed = parse(&bytes).unwrap();
            prop_assert_eq!(&bytes[parsed.payload], &payload[..]);
            // More than there is, or less than a header, is no length.
            let udp = headers_len(&destination.ip()) - UDP;
            for wrong in [len + 1, 7, 0] {
                bytes[udp + 4..udp + 6].copy_from_slice(&wrong.to_be_bytes());
                prop_assert_eq!(parse(&bytes), Err(FrameError::Length));
            }
        }

        #[test]
        fn one_wrong_byte_is_never_another_datagram(v6 in any::<bool>(), octets in any::<[u8; 16]>(), at in any::<prop::sample::Index>(),
            change in 1u8..) {
            let (source, destination) = pair(v6, octets, (7, 9));
            let bytes = frame(source, destination, &octets);
            let mut wrong = bytes.clone();
            let at = at.index(wrong.len());
            wrong[at] ^= change;
            if let Ok(parsed) = parse(&wrong) {
                // MAC addresses, and what IPv6 leaves to chance: traffic class, flow label, hop limit.
                let unprotected = at < 12 || (v6 && (14..18).contains(&at)) || (v6 && at == 21);
                // One in 65,536 addresses has the sum that a sender on this host would leave unfinished.
                let (udp, addresses) = (headers_len(&destination.ip()) - UDP, if v6 { 22..54 } else { 26..34 });
                let len = be16(&wrong[udp + 4..]).into();
                let pseudo = Sum::default().with_pseudo_header(&wrong[addresses], PROTOCOL_UDP, len);
                let unfinished = wrong[udp + 6..udp + 8] == pseudo.folded();
                prop_assert!(unprotected || unfinished, "byte {} of {:?}", at, parsed);
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), v6 in any::<bool>()) {
            let mut bytes = bytes;
            if let Some(kind) = bytes.get_mut(12..14) {
                kind.copy_from_slice(if v6 { &TYPE_IPV6 } else { &TYPE_IPV4 });
            }
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn cut_off_anywhere_is_refused() {
        for v6 in [false, true] {
            let (source, destination) = pair(v6, [1; 16], (1, 2));
            let bytes = frame(source, destination, b"payload");
            for len in 0..bytes.len() {
                assert!(parse(&bytes[..len]).is_err(), "{len} bytes");
            }
        }
    }

    #[test]
    fn unfinished_checksums_of_local_senders_are_taken() {
        let (source, destination) = pair(true, [1; 16], (1, 2));
        let mut bytes = frame(source, destination, b"payload");
        let len = bytes.len() - (HEADERS_V6 - UDP);
        let pseudo = Sum::default().with_pseudo_header(&bytes[22..54], PROTOCOL_UDP, len);
        bytes[60..62].copy_from_slice(&pseudo.folded());
        assert!(parse(&bytes).is_ok());
        bytes[60..62].fill(0);
        assert_eq!(parse(&bytes), Err(FrameError::Checksum));
    }

    #[test]
    fn nobody_answers_impossible_senders() {
        let to: SocketAddr = "192.0.2.1:9".parse().unwrap();
        for source in ["127.0.0.1:5", "224.0.0.1:5", "255.255.255.255:5", "0.0.0.0:5", "192.0.2.7:0"] {
            let bytes = frame(source.parse().unwrap(), to, b"x");
            assert_eq!(parse(&bytes), Err(FrameError::Source), "{source}");
        }
    }
}
