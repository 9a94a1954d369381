//! Socket addresses between Rust and the kernel's layout.

#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of addresses and numbers of families are small constants"
)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Which addresses a socket speaks. An IPv6 socket that is not restricted to IPv6 carries IPv4 as mapped addresses;
/// the caller never sees those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Space for an address that the kernel reads or writes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// Bytes that the kernel may write.
    pub(super) const SPACE: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    pub(super) fn zeroed() -> Self {
        // SAFETY: all three are plain integers, for which zero is a value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Writes `address` as a socket of `family` wants it; returns its length. An IPv6 address can't leave through an
    /// IPv4 socket.
    pub(super) fn set(&mut self, address: SocketAddr, family: Family) -> io::Result<libc::socklen_t> {
        match (family, address) {
            (Family::V4, SocketAddr::V4(address)) => {
                let mut raw = Self::zeroed();
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                *self = raw;
                Ok(size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            (Family::V4, SocketAddr::V6(_)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an IPv6 address can't be reached from an IPv4 socket",
            )),
            (Family::V6, address) => {
                let scope = if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 };
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: mapped(address.ip()).octets() },
                    sin6_scope_id: scope,
                };
                Ok(size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// What the kernel wrote; `None` when it is neither IPv4 nor IPv6 (an error on a socket of ours).
    pub(super) fn get(&self) -> Option<SocketAddr> {
        // SAFETY: every variant begins with the family, and it says which of the others was written.
        unsafe {
            match i32::from(self.family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddrV4::new(ip, u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 => {
                    let (port, scope) = (u16::from_be(self.v6.sin6_port), self.v6.sin6_scope_id);
                    Some(match plain(self.v6.sin6_addr.s6_addr) {
                        IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
                        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
                    })
                }
                _ => None,
            }
        }
    }
}

/// An address as IPv6 writes it.
pub(super) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// The address without its mapping.
pub(super) fn plain(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        let mut raw = RawAddress::zeroed();
        for (text, family) in [
            ("10.1.2.3:51820", Family::V4),
            ("10.1.2.3:51820", Family::V6),
            ("[2001:db8::7]:1", Family::V6),
            ("[fe80::1%3]:65535", Family::V6),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            raw.set(address, family).unwrap();
            assert_eq!(raw.get(), Some(address), "{text} through {family:?}");
        }
        assert!(raw.set("[::1]:9".parse().unwrap(), Family::V4).is_err());
        assert_eq!(RawAddress::zeroed().get(), None);
    }
}
