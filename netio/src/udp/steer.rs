//! Which of several sockets on one port a datagram comes to.

use std::io;
use std::os::fd::AsRawFd;

use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, sock_filter};

use super::UdpSocket;

/// `BPF_A` of a return: what the accumulator holds.
const RETURN_ACCUMULATOR: u32 = BPF_RET | 0x10;

impl UdpSocket {
    /// Has the kernel choose among the sockets that share this one's address and port
    /// ([`reuse_port`](super::UdpConfig::reuse_port)). Each of `kinds` is the first byte of a datagram and the place of another
    /// of its bytes: that one, modulo `sockets`, is the number of the socket, in the order in which they were bound. Other
    /// datagrams go to one by their flow's hash; those that are empty, or too short for their kind's byte, to the first. What the kernel
    /// joins (GRO) goes where its first datagram does. When a socket closes, the last takes its place: close all of them.
    ///
    /// # Errors
    /// The kernel's reason.
    ///
    /// # Panics
    /// Without sockets, or with more kinds than a program has room for.
    pub fn steer(&self, kinds: &[(u8, usize)], sockets: u8) -> io::Result<()> {
        assert!(sockets > 0, "sockets to choose from");
        let mut program = vec![step(BPF_LD | BPF_B | BPF_ABS, 0, 0)];
        for &(kind, place) in kinds {
            let place = u32::try_from(place).expect("a place in a datagram");
            program.extend([
                step(BPF_JMP | BPF_JEQ | BPF_K, kind.into(), 3),
                step(BPF_LD | BPF_B | BPF_ABS, place, 0),
                step(BPF_ALU | BPF_MOD | BPF_K, sockets.into(), 0),
                step(RETURN_ACCUMULATOR, 0, 0),
            ]);
        }
        // No socket has this number: the kernel takes the flow's hash.
        program.push(step(BPF_RET | BPF_K, u32::MAX, 0));
        attach(self, &mut program)
    }
}

/// An instruction. `skip`: how many to pass over if a comparison fails.
fn step(code: u32, value: u32, skip: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes of 16 bits"), jt: 0, jf: skip, k: value }
}

fn attach(socket: &UdpSocket, program: &mut [sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).expect("a short program");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).expect("16");
    // SAFETY: the kernel reads the structure and the instructions behind it, and writes nothing. Both live through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
