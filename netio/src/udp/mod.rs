//! UDP in bursts: many datagrams a system call, and many segments a datagram.
//!
//! What makes datagrams cheap is not the number of system calls but the number of trips through the network stack:
//! with UDP GRO the kernel hands over a run of equal datagrams of one sender as one super-segment, with UDP GSO it
//! takes such a run back and cuts it as late as possible (measured: 14 times the packets per core).
//! So the unit here is a [`Datagram`]: one packet buffer with one or more segments of equal size, the last perhaps
//! shorter. Work on the segments in place and send the buffer on.
//!
//! `recvmmsg` and `sendmmsg` carry them; io_uring measured no better for datagrams, and tells the loop when to come
//! (its poll operation).

mod address;
mod control;
mod recv;
mod send;
mod steer;
#[cfg(test)]
mod tests;

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::Packet;
use address::Family;
use send::Sender;

/// Most datagrams that one call of [`UdpSocket::recv_burst`] or one system call of [`UdpSocket::send_burst`] moves.
pub const BURST: usize = 32;

/// A piece of memory that is none yet.
const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Message headers that say nothing yet.
fn empty_headers() -> [libc::mmsghdr; BURST] {
    // SAFETY: a message header is made of integers and pointers, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Most segments that the kernel takes in one send (`UDP_MAX_SEGMENTS` of the oldest kernels with GSO).
const MAX_SEGMENTS: usize = 64;

/// Most bytes in one send: an IPv4 datagram with its headers.
const MAX_SEND: usize = 65_535 - 20 - 8;

/// How a socket is opened.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Lets several sockets (one per core) share the address.
    pub reuse_port: bool,
    /// Receive and send buffer in bytes, as far as the system allows. 64 KiB of super-segment take about 90 KiB.
    pub socket_buffer: usize,
    /// Asks for super-segments (GRO) and sends them (GSO), where the kernel can. Off only to compare.
    pub offload: bool,
    /// Asks for each datagram's local address, so that answers leave from the address that was asked. Needed on
    /// wildcard addresses of hosts with several addresses.
    pub local_address: bool,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { reuse_port: false, socket_buffer: 8 << 20, offload: true, local_address: true }
    }
}

/// One or more segments from or to one peer.
#[derive(Debug)]
pub struct Datagram {
    /// The segments, back to back.
    pub packet: Packet,
    /// Size of each segment but the last, which may be shorter; at least 1. A single segment has `packet.len()` or more.
    pub segment: usize,
    /// Who sent it, or who it goes to. Never an IPv4-mapped IPv6 address.
    pub peer: SocketAddr,
    /// The address at this end: where it was sent to, or where it shall come from. `None`: the kernel chooses.
    pub local: Option<IpAddr>,
    /// Shall be sent whole or not at all: IPv4's DF bit is set, no IPv6 fragments are made, and what is longer than the interface's MTU
    /// is refused. Always false for what was received.
    pub dont_fragment: bool,
}

impl Datagram {
    /// A datagram of one segment.
    #[must_use]
    pub fn single(packet: Packet, peer: SocketAddr, local: Option<IpAddr>) -> Self {
        let segment = packet.len().max(1);
        Self { packet, segment, peer, local, dont_fragment: false }
    }

    /// The segments.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.packet.chunks(self.segment)
    }

    /// The segments, to work on in place.
    pub fn segments_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.packet.chunks_mut(self.segment)
    }
}

/// Running totals of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Receive calls that brought something.
    pub recv_calls: u64,
    /// Datagrams (super-segments) received.
    pub received: u64,
    /// Segments in them.
    pub segments_in: u64,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Segments that the kernel dropped because the socket's receive buffer was full.
    pub dropped_full: u64,
    /// Datagrams dropped because they were longer than a packet buffer, or came without an internet address.
    pub dropped_malformed: u64,
    /// Send calls.
    pub send_calls: u64,
    /// Segments that the kernel took.
    pub segments_out: u64,
    /// Bytes in them.
    pub bytes_out: u64,
    /// Sends that the kernel refused (no route, not permitted, too long), in segments. They are lost.
    pub refused: u64,
    /// Times that the socket's send buffer was full.
    pub send_full: u64,
    /// Super-segments that the path did not take and that went out one segment at a time.
    pub unsegmented: u64,
}

/// A UDP socket of one core.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    sender: Sender,
    counters: UdpCounters,
}

impl UdpSocket {
    /// Opens a socket on `address`. An IPv6 wildcard address serves IPv4 too.
    pub fn bind(address: SocketAddr, config: &UdpConfig) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM.cloexec().nonblocking(),
            Some(Protocol::UDP),
        )?;
        let family = if address.is_ipv6() { Family::V6 } else { Family::V4 };
        if family == Family::V6 {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_port(config.reuse_port)?;
        grow_buffers(&socket, config.socket_buffer)?;
        if config.local_address {
            match family {
                Family::V4 => set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?,
                Family::V6 => set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?,
            }
        }
        // Linux before 5.0 knows no GRO for UDP: then every datagram comes alone.
        let offload = config.offload && set_option(&socket, libc::SOL_UDP, libc::UDP_GRO).is_ok();
        socket.bind(&address.into())?;
        Ok(Self { socket, sender: Sender::new(family, offload), counters: UdpCounters::default() })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        crate::tcp::local_address(&self.socket)
    }

    /// Running totals. Asks the kernel for its drops: a count beside each datagram would cost more than a tenth of receiving it.
    #[must_use]
    pub fn counters(&self) -> UdpCounters {
        UdpCounters { dropped_full: kernel_drops(&self.socket), ..self.counters }
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl std::os::fd::AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets both buffers to `bytes`: beyond the system's limit with the privilege, up to it without.
fn grow_buffers(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_value(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value).is_err() {
        socket.set_recv_buffer_size(bytes)?;
    }
    if set_value(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value).is_err() {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

fn set_option(socket: &Socket, level: i32, name: i32) -> io::Result<()> {
    set_value(socket, level, name, 1)
}

fn set_value(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    const LEN: libc::socklen_t = 4;
    // SAFETY: the kernel reads one int of 4 bytes behind the pointer, which is there.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), LEN) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that the socket has dropped since it was opened; 0 when the kernel does not say (before Linux 4.12).
fn kernel_drops(socket: &Socket) -> u64 {
    /// `SK_MEMINFO_VARS` and the place of drops in it (linux/sock_diag.h).
    const VARS: usize = 9;
    const DROPS: usize = 8;
    let mut info = [0u32; VARS];
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).expect("36");
    // SAFETY: the kernel writes at most `len` bytes into `info`, and says in `len` how many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 { info[DROPS].into() } else { 0 }
}
