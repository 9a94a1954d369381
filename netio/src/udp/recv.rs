//! Receiving: `recvmmsg` into the pool's buffers.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;

use super::address::RawAddress;
use super::control::Control;
use super::{BURST, Datagram, EMPTY, UdpSocket, empty_headers};
use crate::packet::{Packet, PacketPool};

/// What the kernel reads and writes beside the packets. Of one thread and used by all its sockets, because clearing 7 KB for each
/// call costs as much as a datagram.
struct Scratch {
    packets: [Option<Packet>; BURST],
    addresses: [RawAddress; BURST],
    controls: [Control; BURST],
    iovecs: [libc::iovec; BURST],
    headers: [libc::mmsghdr; BURST],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Scratch::new());
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            packets: [const { None }; BURST],
            addresses: [RawAddress::zeroed(); BURST],
            controls: [const { Control::new() }; BURST],
            iovecs: [EMPTY; BURST],
            headers: empty_headers(),
        })
    }

    /// Takes buffers from the pool for up to `max` datagrams; returns for how many.
    fn arm(&mut self, pool: &PacketPool, max: usize) -> usize {
        let mut armed = 0;
        while armed < max.min(BURST) {
            let Some(mut packet) = pool.take() else { break };
            packet.resize(packet.tailroom());
            self.iovecs[armed] = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
            self.packets[armed] = Some(packet);
            let header = &mut self.headers[armed].msg_hdr;
            header.msg_name = (&raw mut self.addresses[armed]).cast();
            header.msg_namelen = RawAddress::SPACE;
            header.msg_iov = &raw mut self.iovecs[armed];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[armed].as_mut_ptr();
            header.msg_controllen = Control::SPACE;
            header.msg_flags = 0;
            armed += 1;
        }
        armed
    }
}

impl UdpSocket {
    /// Appends up to `max` (at most [`BURST`]) waiting datagrams to `out`, and returns how many came; 0 when none
    /// wait or the pool is empty. Never blocks. What `max` exceeds what comes is taken from the pool only for the call.
    ///
    /// Errors are those of the socket itself. What a peer can cause (an ICMP error for something we sent) is no error.
    pub fn recv_burst(
        &mut self,
        pool: &PacketPool,
        out: &mut Vec<Datagram>,
        max: usize,
    ) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            let armed = scratch.arm(pool, max);
            let result = if armed == 0 { Ok(0) } else { self.recv_armed(scratch, armed, out) };
            // What nothing came into goes back.
            scratch.packets[..armed].iter_mut().for_each(|packet| *packet = None);
            result
        })
    }

    /// One `recvmmsg` into the first `armed` buffers.
    fn recv_armed(
        &mut self,
        scratch: &mut Scratch,
        armed: usize,
        out: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let count = u32::try_from(armed).expect("a burst is small");
        // SAFETY: `armed` headers point to address, control and packet memory that we hold exclusively and that
        // outlives the call, with their true lengths.
        let received = unsafe {
            let no_timeout = std::ptr::null_mut();
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                scratch.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                no_timeout,
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return nothing_or(io::Error::last_os_error());
        };
        self.counters.recv_calls += 1;
        let before = out.len();
        for index in 0..received {
            let packet = scratch.packets[index].take().expect("a buffer per message");
            let (header, address) = (&scratch.headers[index], scratch.addresses[index]);
            out.extend(self.received(packet, header, address, &scratch.controls[index]));
        }
        Ok(out.len() - before)
    }

    fn received(
        &mut self,
        mut packet: Packet,
        header: &libc::mmsghdr,
        address: RawAddress,
        control: &Control,
    ) -> Option<Datagram> {
        let seen = control.read(header.msg_hdr.msg_controllen);
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let Some(peer) = address.get().filter(|_| !truncated) else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        packet.resize(header.msg_len as usize);
        let segment = seen.segment.unwrap_or(packet.len()).max(1);
        let datagram = Datagram { packet, segment, peer, local: seen.local, dont_fragment: false };
        self.counters.received += 1;
        self.counters.segments_in += datagram.segments().len() as u64;
        self.counters.bytes_in += u64::from(header.msg_len);
        Some(datagram)
    }
}

/// Nothing received, unless the error is the socket's own. A pending ICMP error of an earlier send says something about
/// a peer; the next call receives.
fn nothing_or(error: io::Error) -> io::Result<usize> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(0),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO | libc::EMSGSIZE) => {
            Ok(0)
        }
        _ => Err(error),
    }
}
