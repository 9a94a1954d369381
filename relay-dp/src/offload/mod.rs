//! Segmentation offload in our own code, for packets that a kernel hands over or takes with a vnet header.
//!
//! The kernel gives a TUN device's reader up to 64 KiB of one TCP or UDP flow as one super-packet with the work left to do
//! written in front (`struct virtio_net_hdr`): [`SuperPacket`] writes out the packets that it stands for. In the
//! other direction [`Joiner`] finds runs of packets that the kernel may take as one super-packet.
//! Both directions cost one trip through the network stack per 64 KiB instead of one per packet.

mod join;
mod split;
#[cfg(test)]
mod tests;
mod vnet;

pub use join::{Joined, Joiner, Piece};
pub use split::SuperPacket;
pub use vnet::{Gso, VNET_HEADER, VnetHeader};

/// Why a packet with its vnet header makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// Shorter than its headers say.
    #[error("the packet is shorter than its headers")]
    Short,
    /// Neither IPv4 nor IPv6, or its length fields contradict each other.
    #[error("the packet is no well-formed IP packet")]
    NotIp,
    /// A kind of offload that was not asked for.
    #[error("the vnet header asks for an unknown kind of segmentation")]
    UnknownGso,
    /// Positions or sizes in the vnet header that the packet can't have.
    #[error("the vnet header does not fit the packet")]
    BadHeader,
}

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;
/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// Length of an IPv4 header without options.
const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header.
const IPV6_HEADER: usize = 40;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Reads any bytes as a packet with a vnet header, and as a packet to be joined. Panics only on a mistake of ours; for
/// the fuzzer and the tests.
#[doc(hidden)]
pub fn assert_any_bytes_are_read(bytes: &[u8]) {
    if let Ok(packet) = SuperPacket::parse(bytes) {
        let mut out = vec![0; packet.packet_len(0)];
        for index in 0..packet.count() {
            assert_eq!(packet.write(index, &mut out), packet.packet_len(index), "each packet has its length");
        }
    }
    let mut joiner = Joiner::new(true);
    let third = bytes.len() / 3;
    for range in [0..third, third..2 * third, 0..third, 0..bytes.len()] {
        joiner.add(bytes, 0, range);
    }
    let joined: usize = joiner.finish().iter().map(|joined| joined.pieces().len()).sum();
    assert_eq!(joined, 4, "no packet is lost");
}
