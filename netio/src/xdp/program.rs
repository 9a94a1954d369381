//! The XDP program: the relay's flows to the sockets, everything else to the kernel.
//!
//! It is made for its flows: addresses and ports stand in the code, so a frame that is none of ours costs some twenty instructions.
//! Which ports of a range are in use changes, and is looked up in a map.
//! Frames for another MAC, with VLAN tags, IPv4 options, IPv6 extension headers, and fragments pass to the kernel.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use super::frame::Mac;
use crate::bpf::{self, Assembler, Label, R0, R1, R2, R3, R4, R5, R6, R7, R10, Size, Test};

/// Datagrams that are steered past the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination address.
    pub address: IpAddr,
    /// Destination ports.
    pub ports: RangeInclusive<u16>,
    /// The core that serves them; `None` when any does. What comes in on another core's queue passes to the kernel.
    pub core: Option<u16>,
    /// Steers only ports that are opened, by [`XdpSocket::set_open`](super::XdpSocket::set_open): other programs may have ports
    /// of the range too.
    pub opened_only: bool,
}

/// Entries of the map of open ports: every port over IPv4, then every port over IPv6.
pub(super) const PORTS: u32 = 2 * PORTS_V6;
const PORTS_V6: u32 = 1 << 16;

/// The entry of a port.
pub(super) fn port_key(address: SocketAddr) -> u32 {
    u32::from(address.port()) + if address.is_ipv6() { PORTS_V6 } else { 0 }
}

const XDP_PASS: u32 = 2;
const REDIRECT_MAP: u32 = 51;
/// Offsets in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const QUEUE: i16 = 16;

/// Assembles the program of the interface `mac`. Queue `q` belongs to core `q % cores`.
pub(super) fn assemble(
    flows: &[Flow],
    cores: u16,
    mac: Mac,
    (sockets, open): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> Vec<u64> {
    let mut code = Assembler::default();
    let (pass, v6, redirect) = (code.label(), code.label(), code.label());
    code.copy(R6, R1);
    code.load(Size::Word, R7, R6, QUEUE);
    code.modulo(R7, cores.into());
    code.load(Size::Word, R2, R6, DATA);
    code.load(Size::Word, R3, R6, DATA_END);
    reach(&mut code, 14 + 20 + 8, pass);
    let [a, b, c, d, e, f] = mac;
    code.load(Size::Word, R5, R2, 0);
    code.jump_if(R5, Test::NotEqual, u32::from_ne_bytes([a, b, c, d]), pass);
    code.load(Size::Half, R5, R2, 4);
    code.jump_if(R5, Test::NotEqual, u16::from_ne_bytes([e, f]).into(), pass);
    code.load(Size::Half, R5, R2, 12);
    code.jump_if(R5, Test::Equal, network(0x86dd), v6);
    code.jump_if(R5, Test::NotEqual, network(0x0800), pass);

    require(&mut code, 14, 0x45, pass); // version 4, no options
    require(&mut code, 23, 17, pass);
    code.load(Size::Half, R5, R2, 20);
    code.and(R5, network(0x3fff)); // more fragments, or an offset
    code.jump_if(R5, Test::NotEqual, 0, pass);
    port(&mut code, 36);
    for flow in flows {
        if let IpAddr::V4(address) = flow.address {
            select(&mut code, flow, (&address.octets(), 30), open, (pass, redirect));
        }
    }
    code.place(pass);
    code.set(R0, XDP_PASS);
    code.exit();

    code.place(v6);
    let pass = code.label();
    reach(&mut code, 14 + 40 + 8, pass);
    require(&mut code, 20, 17, pass);
    port(&mut code, 56);
    for flow in flows {
        if let IpAddr::V6(address) = flow.address {
            select(&mut code, flow, (&address.octets(), 38), open, (pass, redirect));
        }
    }
    code.place(pass);
    code.set(R0, XDP_PASS);
    code.exit();

    code.place(redirect);
    code.load_map(R1, sockets);
    code.load(Size::Word, R2, R6, QUEUE);
    code.set(R3, XDP_PASS); // a queue without a socket is the kernel's
    code.call(REDIRECT_MAP);
    code.exit();
    code.finish()
}

/// Goes on only with frames of at least `bytes`.
fn reach(code: &mut Assembler, bytes: u32, pass: Label) {
    code.copy(R4, R2);
    code.add(R4, bytes);
    code.jump_if_greater(R4, R3, pass);
}

/// Goes on only if the byte at `offset` has the value.
fn require(code: &mut Assembler, offset: i16, value: u32, pass: Label) {
    code.load(Size::Byte, R5, R2, offset);
    code.jump_if(R5, Test::NotEqual, value, pass);
}

/// Reads the destination port into R5.
fn port(code: &mut Assembler, offset: i16) {
    code.load(Size::Half, R5, R2, offset);
    code.swap_to_host_16(R5);
}

/// Redirects what belongs to a flow; leaves what does not as it was, for the next.
fn select(
    code: &mut Assembler,
    flow: &Flow,
    (address, offset): (&[u8], i16),
    open: BorrowedFd<'_>,
    (pass, redirect): (Label, Label),
) {
    let next = code.label();
    code.jump_if(R5, Test::Less, (*flow.ports.start()).into(), next);
    code.jump_if(R5, Test::Greater, (*flow.ports.end()).into(), next);
    for (offset, word) in (offset..).step_by(4).zip(address.as_chunks::<4>().0) {
        code.load(Size::Word, R0, R2, offset);
        code.jump_if(R0, Test::NotEqual, u32::from_ne_bytes(*word), next);
    }
    if let Some(core) = flow.core {
        code.jump_if(R7, Test::NotEqual, core.into(), pass);
    }
    if flow.opened_only {
        if flow.address.is_ipv6() {
            code.add(R5, PORTS_V6);
        }
        code.store(R10, -4, R5);
        code.copy(R2, R10);
        code.add(R2, (-4i32).cast_unsigned());
        code.load_map(R1, open);
        code.call(bpf::MAP_LOOKUP_ELEM);
        code.jump_if_null(R0, pass);
        code.load(Size::Word, R0, R0, 0);
        code.jump_if(R0, Test::Equal, 0, pass);
    }
    code.jump(redirect);
    code.place(next);
}

/// A number as 16 bits loaded from a frame show it.
fn network(value: u16) -> u32 {
    u16::from_ne_bytes(value.to_be_bytes()).into()
}
