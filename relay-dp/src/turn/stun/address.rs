//! Addresses on the wire, hidden from middleboxes that rewrite what looks like one (RFC 8489 section 14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{MAGIC_COOKIE, TransactionId};

const IPV4: u8 = 1;
const IPV6: u8 = 2;

fn mask(transaction: &TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}

const PORT_MASK: u16 = (MAGIC_COOKIE >> 16) as u16;

/// Bytes of the attribute's value for an address of this family.
pub fn xor_address_len(address: &SocketAddr) -> usize {
    if address.is_ipv4() { 8 } else { 20 }
}

/// Reads an XOR-…-ADDRESS. `None` where it has no such form.
pub fn decode_xor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2], head[3]]) ^ PORT_MASK;
    let ip: IpAddr = match head[1] {
        IPV4 => Ipv4Addr::from(u32::from_be_bytes(ip.try_into().ok()?) ^ MAGIC_COOKIE).into(),
        IPV6 => Ipv6Addr::from(u128::from_be_bytes(ip.try_into().ok()?) ^ mask(transaction)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes an XOR-…-ADDRESS into the first [`xor_address_len`] bytes.
pub(crate) fn encode_xor_address(out: &mut [u8], address: &SocketAddr, transaction: &TransactionId) {
    out[0] = 0;
    out[2..4].copy_from_slice(&(address.port() ^ PORT_MASK).to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[1] = IPV4;
            out[4..8].copy_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes());
        }
        IpAddr::V6(ip) => {
            out[1] = IPV6;
            out[4..20].copy_from_slice(&(u128::from(ip) ^ mask(transaction)).to_be_bytes());
        }
    }
}
