//! What an interface is: index, address, longest packet, receive queues.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::frame::Mac;

/// `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// An Ethernet interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// Longest IP packet.
    pub(super) mtu: usize,
    pub(super) queues: u32,
}

impl Interface {
    pub(super) fn find(name: &str) -> io::Result<Interface> {
        // SAFETY: no pointers.
        let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut request = named(name)?;
        // SAFETY (this and the following reads): which member of the union was written is what the request says.
        call(&socket, libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: see above.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        call(&socket, libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: see above.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        call(&socket, libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: see above.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no Ethernet"));
        }
        let mut mac = Mac::default();
        mac.iter_mut().zip(address.sa_data).for_each(|(to, from)| *to = from.to_ne_bytes()[0]);
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        Ok(Interface {
            index: number(index),
            mac,
            mtu: number(mtu) as usize,
            // A driver that can't tell has one.
            queues: queues(&socket, &mut request).unwrap_or(1).max(1),
        })
    }
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a name and a union of integers and pointers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no interface has such a name"));
    }
    request
        .ifr_name
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = libc::c_char::from_ne_bytes([from]));
    Ok(request)
}

fn call(socket: &OwnedFd, what: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: these requests read the name and write the union of the structure that they are given; a pointer in it leads to
    // memory that lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut *request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receive queues: `struct ethtool_channels`, of which the fields 5 and 8 are receive and combined channels in use.
fn queues(socket: &OwnedFd, request: &mut libc::ifreq) -> io::Result<u32> {
    let mut channels = [0u32; 9];
    channels[0] = ETHTOOL_GCHANNELS;
    request.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
    call(socket, libc::SIOCETHTOOL, request)?;
    Ok(channels[5] + channels[8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ethernet_is_refused() {
        assert_eq!(Interface::find("lo").unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert!(Interface::find("no-such-device").is_err());
        assert!(Interface::find("a name that is much too long").is_err());
    }
}
