//! Receiving: `recvmmsg` into the pool's buffers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use super::address::RawAddress;
use super::control::Control;
use super::{BURST, Datagram, UdpSocket};
use crate::packet::{PACKET_CAPACITY, Packet, PacketPool};

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
        let mut packets = [const { None::<Packet> }; BURST];
        let mut addresses = [RawAddress::zeroed(); BURST];
        let mut controls = [const { Control::new() }; BURST];
        let mut iovecs = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BURST];
        // SAFETY: a message header is made of integers and pointers, for which zero is a value.
        let mut headers: [libc::mmsghdr; BURST] = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut armed = 0;
        while armed < max.min(BURST) {
            let Some(mut packet) = pool.take() else { break };
            packet.resize(PACKET_CAPACITY);
            iovecs[armed] = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
            packets[armed] = Some(packet);
            let header = &mut headers[armed].msg_hdr;
            header.msg_name = (&raw mut addresses[armed]).cast();
            header.msg_namelen = RawAddress::SPACE;
            header.msg_iov = &raw mut iovecs[armed];
            header.msg_iovlen = 1;
            header.msg_control = controls[armed].as_mut_ptr();
            header.msg_controllen = Control::SPACE;
            armed += 1;
        }
        if armed == 0 {
            return Ok(0);
        }
        let count = u32::try_from(armed).expect("a burst is small");
        // SAFETY: `armed` headers point to address, control and packet memory that we hold exclusively and that
        // outlives the call, with their true lengths.
        let received = unsafe {
            let no_timeout = std::ptr::null_mut();
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
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
            let packet = packets[index].take().expect("a buffer per message");
            let header = &headers[index];
            out.extend(self.received(packet, header, addresses[index], &controls[index]));
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
        if let Some(dropped) = seen.dropped {
            self.counters.dropped_full += u64::from(dropped.wrapping_sub(self.dropped));
            self.dropped = dropped;
        }
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let Some(peer) = address.get().filter(|_| !truncated) else {
            self.counters.dropped_malformed += 1;
            return None;
        };
        packet.resize(header.msg_len as usize);
        let segment = seen.segment.unwrap_or(packet.len()).max(1);
        let datagram = Datagram { packet, segment, peer, local: seen.local };
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
