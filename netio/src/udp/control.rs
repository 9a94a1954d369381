//! Control messages: what travels beside a datagram's bytes (segment size, local address).

use std::net::{IpAddr, Ipv4Addr};

use super::address::{Family, mapped, plain};

/// Control messages of one datagram, as the kernel reads or writes them.
#[repr(C, align(8))]
#[derive(Clone)]
pub(super) struct Control([u8; Self::SPACE]);

/// What the control messages of a received datagram said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Size of each segment but the last, when several were joined.
    pub(super) segment: Option<usize>,
    /// The address that the datagram was sent to.
    pub(super) local: Option<IpAddr>,
}

impl Control {
    /// Bytes of space: more than the messages that we ask for.
    pub(super) const SPACE: usize = 128;

    pub(super) const fn new() -> Self {
        Self([0; Self::SPACE])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Writes the control messages of a datagram to be sent; returns their length in bytes.
    pub(super) fn write(&mut self, segment: Option<u16>, local: Option<IpAddr>, family: Family) -> usize {
        let mut used = 0;
        if let Some(segment) = segment {
            used += self.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match (local, family) {
            (None, _) => {}
            (Some(IpAddr::V4(ip)), Family::V4) => {
                // struct in_pktinfo: interface, local address (what routing goes by), header address.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                used += self.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (Some(ip), Family::V6) => {
                // struct in6_pktinfo: address, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&mapped(ip).octets());
                used += self.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            (Some(IpAddr::V6(_)), Family::V4) => {} // the destination can't be right either: the send will say so
        }
        used
    }

    /// Appends one message at `at`; returns the space it takes.
    fn put(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let header = libc::cmsghdr { cmsg_len: HEADER + data.len(), cmsg_level: level, cmsg_type: kind };
        let space = (HEADER + data.len()).next_multiple_of(align_of::<libc::cmsghdr>());
        assert!(at + space <= Self::SPACE, "control messages fit their space");
        assert!(at.is_multiple_of(align_of::<libc::cmsghdr>()), "control messages are aligned");
        // SAFETY: `at` is aligned, as is the array, and header and data lie inside of it.
        unsafe { self.0.as_mut_ptr().add(at).cast::<libc::cmsghdr>().write(header) };
        self.0[at + HEADER..at + HEADER + data.len()].copy_from_slice(data);
        space
    }

    /// Reads what the kernel wrote into the first `len` bytes. Unknown messages are passed over.
    pub(super) fn read(&self, len: usize) -> Received {
        const HEADER: usize = size_of::<libc::cmsghdr>();
        let mut seen = Received::default();
        let mut at = 0;
        while at + HEADER <= len.min(Self::SPACE) {
            // SAFETY: `at` is a multiple of the alignment (it starts at 0 and grows by aligned steps), and a whole
            // header lies behind it.
            let header = unsafe { self.0.as_ptr().add(at).cast::<libc::cmsghdr>().read() };
            let end = at.saturating_add(header.cmsg_len);
            if header.cmsg_len < HEADER || end > len.min(Self::SPACE) {
                break;
            }
            let data = &self.0[at + HEADER..end];
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    seen.segment =
                        first::<4>(data).and_then(|size| usize::try_from(i32::from_ne_bytes(size)).ok());
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // The header's address, not the routing address in front of it.
                    seen.local = data.get(8..).and_then(first::<4>).map(|ip| Ipv4Addr::from(ip).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => seen.local = first::<16>(data).map(plain),
                _ => {}
            }
            at = end.next_multiple_of(align_of::<libc::cmsghdr>());
        }
        seen
    }
}

fn first<const N: usize>(data: &[u8]) -> Option<[u8; N]> {
    data.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_laid_out_as_the_kernel_reads_it() {
        let mut control = Control::new();
        let local: IpAddr = "2001:db8::1".parse().unwrap();
        let used = control.write(Some(1452), Some(local), Family::V6);
        assert_eq!(used, 24 + 40);
        assert_eq!(control.read(used), Received { local: Some(local), ..Received::default() });
        let used = control.write(None, Some("10.0.0.1".parse().unwrap()), Family::V6);
        assert_eq!(control.read(used).local, Some("10.0.0.1".parse().unwrap()), "mapped and back");
        assert_eq!(control.write(None, None, Family::V4), 0);
    }

    #[test]
    fn damaged_messages_end_the_reading() {
        let mut control = Control::new();
        let used = control.put(0, libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
        assert_eq!(control.read(used).segment, Some(1200));
        assert_eq!(control.read(used - 8).segment, None, "cut off");
        control.0[0] = 3;
        assert_eq!(control.read(used), Received::default(), "shorter than its own header");
        control.0[..8].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(control.read(used), Received::default(), "longer than all");
    }
}
