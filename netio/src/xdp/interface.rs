//! What an interface is: index, address, longest packet, receive queues.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::frame::Mac;
use super::netlink::{Answer, Message, Netlink};

/// `ETHTOOL_GDRVINFO` of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 3;
/// `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Generic netlink (linux/genetlink.h): asking for a family's number.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Bytes of `struct genlmsghdr`: command, version, nothing.
const GENL_HEADER: usize = 4;
/// The family of interfaces (linux/netdev.h, Linux 6.3).
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

/// An Ethernet interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// Longest IP packet.
    pub(super) mtu: usize,
    pub(super) queues: u32,
    pub(super) is_veth: bool,
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
            is_veth: driver(&socket, &mut request).is_ok_and(|driver| driver.starts_with(b"veth\0")),
        })
    }
}

/// Whether a veth device sends frames that come from XDP programs: only if its other end has XDP or GRO on.
pub(super) fn sends_frames(interface: u32) -> io::Result<bool> {
    let unknown = || io::Error::from(io::ErrorKind::Unsupported);
    let netlink = Netlink::open(libc::NETLINK_GENERIC)?;
    let mut question = Message::new(GENL_ID_CTRL, &[CTRL_CMD_GETFAMILY, 1, 0, 0]);
    question.put(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = netlink.call(question)?;
    let family = Answer::new(&answer, GENL_ID_CTRL, GENL_HEADER)
        .and_then(|answer| answer.find(CTRL_ATTR_FAMILY_ID)?.first_chunk().copied())
        .map(u16::from_ne_bytes)
        .ok_or_else(unknown)?;
    let mut question = Message::new(family, &[NETDEV_CMD_DEV_GET, 1, 0, 0]);
    question.put(NETDEV_A_DEV_IFINDEX, &interface.to_ne_bytes());
    let answer = netlink.call(question)?;
    let features = Answer::new(&answer, family, GENL_HEADER)
        .and_then(|answer| u64::from_ne_bytes(*answer.find(NETDEV_A_DEV_XDP_FEATURES)?.first_chunk()?).into())
        .ok_or_else(unknown)?;
    Ok(features & NETDEV_XDP_ACT_NDO_XMIT != 0)
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

/// The driver's name: `struct ethtool_drvinfo`, of which it is the second field.
fn driver(socket: &OwnedFd, request: &mut libc::ifreq) -> io::Result<[u8; 32]> {
    let mut info = [0u32; 49];
    info[0] = ETHTOOL_GDRVINFO;
    request.ifr_ifru.ifru_data = info.as_mut_ptr().cast();
    call(socket, libc::SIOCETHTOOL, request)?;
    let mut name = [0; 32];
    name.chunks_mut(4).zip(&info[1..]).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
    Ok(name)
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
