//! The XDP program: the relay's flows to the sockets, or on to where a [shortcut](super::shortcut) leads; everything else to the
//! kernel.
//!
//! It is made for its flows: addresses and ports stand in the code, so a frame that is none of ours costs some twenty instructions.
//! Which ports of a range are in use changes, and is looked up in a map.
//! Frames for another MAC, with VLAN tags, IPv4 options, IPv6 extension headers, and fragments pass to the kernel.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use super::frame::Mac;
use super::rewrite;
use super::route::octets;
use crate::bpf::{Assembler, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R10, Size, Test};

/// Datagrams that are steered past the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination address.
    pub address: IpAddr,
    /// Destination ports.
    pub ports: RangeInclusive<u16>,
    /// The core that serves them; `None` when any does. What comes in on another core's queue passes to the kernel, unless a
    /// shortcut leads on.
    pub core: Option<u16>,
    /// Steers only ports that are opened, by [`XdpSocket::set_open`](super::XdpSocket::set_open): other programs may have ports
    /// of the range too.
    pub opened_only: bool,
    /// Datagrams may begin with a channel's header, which shortcuts take off. Of a flow without, they put one on.
    pub channels: bool,
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

/// What R8 says of the flow that a frame belongs to: its core in the lower 16 bits, and these.
const ANY_CORE: u32 = 0xffff;
const OPENED_ONLY: u32 = 1 << 16;
pub(super) const CHANNELS: u32 = 1 << 17;

/// Where a family's frames have what.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) v6: bool,
    /// Source address, with the destination behind it.
    pub(super) addresses: i16,
    /// Words of both addresses.
    pub(super) words: i16,
    /// UDP header.
    pub(super) udp: i16,
}

pub(super) const V4: Family = Family { v6: false, addresses: 26, words: 2, udp: 34 };
pub(super) const V6: Family = Family { v6: true, addresses: 22, words: 8, udp: 54 };

impl Family {
    /// First byte of the payload.
    pub(super) fn payload(self) -> i16 {
        self.udp + 8
    }
}

/// Maps that the program asks.
#[derive(Clone, Copy)]
pub(super) struct Maps<'a> {
    pub(super) sockets: BorrowedFd<'a>,
    /// Open ports.
    pub(super) open: BorrowedFd<'a>,
    /// Where there are shortcuts.
    pub(super) shortcuts: Option<ShortcutMaps<'a>>,
}

/// Those of shortcuts.
#[derive(Clone, Copy)]
pub(super) struct ShortcutMaps<'a> {
    /// Slots by key, of IPv4 and IPv6.
    pub(super) keys: [BorrowedFd<'a>; 2],
    pub(super) slots: BorrowedFd<'a>,
}

/// The interface that a program is for.
#[derive(Clone, Copy)]
pub(super) struct Own {
    pub(super) index: u32,
    pub(super) mac: Mac,
    pub(super) is_veth: bool,
}

/// Assembles the program of an interface. Queue `q` belongs to core `q % cores`.
pub(super) fn assemble(flows: &[Flow], cores: u16, own: Own, maps: Maps<'_>) -> Vec<u64> {
    let mut code = Assembler::default();
    let (pass, v6, redirect) = (code.label(), code.label(), code.label());
    code.copy(R6, R1);
    load_frame(&mut code);
    reach(&mut code, V4.payload(), pass);
    let [a, b, c, d, e, f] = own.mac;
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
    steer(&mut code, V4, flows, cores, (own, maps), (pass, redirect));

    code.place(v6);
    let end = code.label();
    reach(&mut code, V6.payload(), end);
    require(&mut code, 20, 17, end);
    steer(&mut code, V6, flows, cores, (own, maps), (end, redirect));

    code.place(redirect);
    code.load_map(R1, maps.sockets);
    code.load(Size::Word, R2, R6, QUEUE);
    code.set(R3, XDP_PASS); // a queue without a socket is the kernel's
    code.call(REDIRECT_MAP);
    code.exit();
    code.finish()
}

/// Finds the flow that a frame belongs to, and what is to be done with it. Places `pass`.
fn steer(
    code: &mut Assembler,
    family: Family,
    flows: &[Flow],
    cores: u16,
    (own, maps): (Own, Maps<'_>),
    (pass, redirect): (Label, Label),
) {
    let (found, slow, any_core) = (code.label(), code.label(), code.label());
    let mut flows = flows.iter().filter(|flow| flow.address.is_ipv6() == family.v6).peekable();
    let is_served = flows.peek().is_some();
    port(code, family);
    flows.for_each(|flow| select(code, family, flow, found));
    code.place(pass);
    code.set(R0, XDP_PASS);
    code.exit();
    if !is_served {
        return; // the kernel takes no code that is never reached
    }

    code.place(found);
    let end = code.label();
    if let Some(maps) = &maps.shortcuts {
        rewrite::pass_on(code, family, (own, maps), slow);
        code.place(slow);
        load_frame(code);
        reach(code, family.payload(), end);
        port(code, family);
    }
    code.copy(R0, R8);
    code.and(R0, 0xffff);
    code.jump_if(R0, Test::Equal, ANY_CORE, any_core);
    code.load(Size::Word, R7, R6, QUEUE);
    code.modulo(R7, cores.into());
    code.jump_if_other(R0, R7, end);
    code.place(any_core);
    code.copy(R0, R8);
    code.and(R0, OPENED_ONLY);
    code.jump_if(R0, Test::Equal, 0, redirect);
    if family.v6 {
        code.add(R5, PORTS_V6);
    }
    code.store(Size::Word, R10, rewrite::PORT, R5);
    rewrite::look_up(code, rewrite::PORT, maps.open, end);
    code.load(Size::Word, R0, R0, 0);
    code.jump_if(R0, Test::NotEqual, 0, redirect);
    code.place(end);
    code.set(R0, XDP_PASS);
    code.exit();
}

/// Sets R2 and R3 to the frame's begin and end.
pub(super) fn load_frame(code: &mut Assembler) {
    code.load(Size::Word, R2, R6, DATA);
    code.load(Size::Word, R3, R6, DATA_END);
}

/// Goes on only with frames of at least `bytes`.
pub(super) fn reach(code: &mut Assembler, bytes: i16, pass: Label) {
    code.copy(R4, R2);
    code.add(R4, i32::from(bytes).cast_unsigned());
    code.jump_if_greater(R4, R3, pass);
}

/// Goes on only if the byte at `offset` has the value.
fn require(code: &mut Assembler, offset: i16, value: u32, pass: Label) {
    code.load(Size::Byte, R5, R2, offset);
    code.jump_if(R5, Test::NotEqual, value, pass);
}

/// Reads the destination port into R5.
fn port(code: &mut Assembler, family: Family) {
    code.load(Size::Half, R5, R2, family.udp + 2);
    code.swap_16(R5);
}

/// Sets R8 and goes to `found` with what belongs to a flow; leaves what does not as it was, for the next.
fn select(code: &mut Assembler, family: Family, flow: &Flow, found: Label) {
    let next = code.label();
    code.jump_if(R5, Test::Less, (*flow.ports.start()).into(), next);
    code.jump_if(R5, Test::Greater, (*flow.ports.end()).into(), next);
    let destination = family.addresses + 2 * family.words;
    for (offset, word) in (destination..).step_by(4).zip(octets(flow.address).as_chunks::<4>().0) {
        code.load(Size::Word, R0, R2, offset);
        code.jump_if(R0, Test::NotEqual, u32::from_ne_bytes(*word), next);
    }
    let core = flow.core.map_or(ANY_CORE, u32::from);
    let opened_only = if flow.opened_only { OPENED_ONLY } else { 0 };
    let channels = if flow.channels { CHANNELS } else { 0 };
    code.set(R8, core | opened_only | channels);
    code.jump(found);
    code.place(next);
}

/// A number as 16 bits loaded from a frame show it.
pub(super) fn network(value: u16) -> u32 {
    u16::from_ne_bytes(value.to_be_bytes()).into()
}
