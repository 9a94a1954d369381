//! The part of the XDP program that passes datagrams on along a [shortcut](super::shortcut): other headers, a channel's header off or
//! on, and out again through the interface that they came by.
//!
//! Whatever is not plain leaves by the slower way, untouched: no shortcut, or one whose lease is over; lengths that don't agree, bytes
//! behind the datagram, a wrong IPv4 checksum, a datagram that is too long, a checksum that a sender on this host left
//! unfinished. The UDP checksum is carried over by what changes (RFC 1624), so that what was damaged on its way here is still
//! seen as damaged by the receiver, even where the damage is in bytes that are taken off.

use std::os::fd::BorrowedFd;

use super::program::{CHANNELS, Family, Own, ShortcutMaps, load_frame, network, reach};
use super::shortcut::{CHANNEL_HEADER, layout};
use crate::bpf::{self, Assembler, Label, R0, R1, R2, R5, R6, R7, R8, R9, R10, Size, Test};

const XDP_ABORTED: u32 = 0;
const XDP_TX: u32 = 3;
const REDIRECT: u32 = 23;
const PROTOCOL_UDP: u16 = 17;
const UDP: u32 = 8;

/// Places on the stack, 8 bytes each but the key: without CAP_PERFMON the verifier lets no part of a place be written anew.
const SUM: i16 = -8;
const LEN: i16 = -16;
const INDEX: i16 = -24;
pub(super) const PORT: i16 = -32;
const KEY: i16 = -72;

/// What happens to the channel's header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Off,
    On,
}

impl Header {
    /// By how much a datagram's first byte moves.
    fn shift(self) -> i32 {
        let bytes = i32::from(CHANNEL_HEADER);
        if self == Header::Off { bytes } else { -bytes }
    }

    /// Bytes of it in the frame that came.
    fn before(self) -> i16 {
        if self == Header::Off { CHANNEL_HEADER } else { 0 }
    }

    /// Bytes of it in the frame that goes.
    fn after(self) -> i16 {
        CHANNEL_HEADER - self.before()
    }
}

/// Passes a frame of the flow R8 on where a shortcut says so; goes to `slow` otherwise. R6 is the context; R2 and R3 are the frame,
/// with all headers in reach. Only R6 and R8 are as they were at `slow`.
pub(super) fn pass_on(
    code: &mut Assembler,
    family: Family,
    (own, maps): (Own, &ShortcutMaps<'_>),
    slow: Label,
) {
    let off = code.label();
    code.copy(R0, R8);
    code.and(R0, CHANNELS);
    code.jump_if(R0, Test::NotEqual, 0, off);
    for header in [Header::On, Header::Off] {
        if header == Header::Off {
            code.place(off);
        }
        find(code, family, header, maps, slow);
        check(code, family, header, slow);
        carry_checksum(code, family, header, slow);
        write(code, family, header, slow);
        send(code, own);
    }
}

/// R9 = the frame's slot, if it has one with a lease that is not over.
fn find(code: &mut Assembler, family: Family, header: Header, maps: &ShortcutMaps<'_>, slow: Label) {
    code.set(R5, 0);
    if header == Header::Off {
        reach(code, family.payload() + CHANNEL_HEADER, slow);
        code.load(Size::Byte, R0, R2, family.payload());
        code.and(R0, 0xc0);
        code.jump_if(R0, Test::NotEqual, 0x40, slow); // RFC 8656 section 12
        code.load(Size::Half, R5, R2, family.payload());
    }
    let doubles = family.words / 2;
    for double in 0..doubles {
        code.load(Size::Double, R0, R2, family.addresses + 8 * double);
        code.store(Size::Double, R10, KEY + 8 * double, R0);
    }
    code.load(Size::Word, R0, R2, family.udp);
    code.shift_left(R5, 32);
    code.or_register(R0, R5);
    code.store(Size::Double, R10, KEY + 8 * doubles, R0);
    look_up(code, KEY, maps.keys[usize::from(family.v6)], slow);
    code.load(Size::Word, R0, R0, 0);
    code.store(Size::Word, R10, INDEX, R0);
    look_up(code, INDEX, maps.slots, slow);
    code.copy(R9, R0);
    for double in 0..=doubles {
        code.load(Size::Double, R0, R10, KEY + 8 * double);
        code.load(Size::Double, R1, R9, layout::KEY + 8 * double);
        code.jump_if_other(R0, R1, slow);
    }
    code.call(bpf::KTIME_GET_NS);
    code.load(Size::Double, R1, R9, layout::UNTIL);
    code.jump_if_greater(R0, R1, slow);
}

/// R0 = what a map has for the key at a place on the stack.
pub(super) fn look_up(code: &mut Assembler, key: i16, map: BorrowedFd<'_>, none: Label) {
    code.copy(R2, R10);
    code.add(R2, i32::from(key).cast_unsigned());
    code.load_map(R1, map);
    code.call(bpf::MAP_LOOKUP_ELEM);
    code.jump_if_null(R0, none);
}

/// Checks lengths, and the checksum of IPv4. R7 = length of the UDP datagram; that of its payload proper is on the stack.
fn check(code: &mut Assembler, family: Family, header: Header, slow: Label) {
    code.copy(R1, R6);
    code.call(bpf::XDP_GET_BUFF_LEN);
    load_frame(code);
    reach(code, family.payload() + header.before(), slow);
    code.load(Size::Half, R7, R2, family.udp + 4);
    code.swap_16(R7);
    // The frame ends with the datagram.
    code.add(R0, (-i32::from(family.udp)).cast_unsigned());
    code.jump_if_other(R0, R7, slow);
    code.load(Size::Half, R1, R2, if family.v6 { 18 } else { 16 });
    code.swap_16(R1);
    if family.v6 {
        code.load(Size::Byte, R0, R2, 14);
        code.and(R0, 0xf0);
        code.jump_if(R0, Test::NotEqual, 0x60, slow);
    } else {
        code.add(R1, (-20i32).cast_unsigned());
    }
    code.jump_if_other(R1, R7, slow);

    let headers = UDP + i32::from(header.before()).cast_unsigned();
    code.jump_if(R7, Test::Less, headers, slow);
    code.copy(R5, R7);
    code.add(R5, headers.wrapping_neg());
    if header == Header::Off {
        // Padding behind the payload is allowed, and rare.
        code.load(Size::Half, R0, R2, family.payload() + 2);
        code.swap_16(R0);
        code.jump_if_other(R0, R5, slow);
    }
    code.load(Size::Word, R1, R9, layout::LONGEST);
    code.jump_if_greater(R5, R1, slow);
    code.store(Size::Double, R10, LEN, R5);

    if !family.v6 {
        code.set(R1, 0);
        add_words(code, 14, 5);
        fold(code);
        code.jump_if(R1, Test::NotEqual, 0xffff, slow);
    }
}

/// Puts the UDP checksum of what goes on the stack.
fn carry_checksum(code: &mut Assembler, family: Family, header: Header, slow: Label) {
    let (some, done) = (code.label(), code.label());
    code.load(Size::Half, R5, R2, family.udp + 6);
    code.set(R1, 0);
    // None at all, which IPv6 does not allow (RFC 8200 section 8.1).
    code.jump_if(R5, Test::Equal, 0, if family.v6 { slow } else { done });

    add_words(code, family.addresses, family.words);
    code.load(Size::Half, R0, R2, family.udp + 4);
    code.add_register(R1, R0);
    code.add(R1, network(PROTOCOL_UDP));
    fold(code);
    code.jump_if_same(R1, R5, slow); // unfinished

    code.copy(R1, R5);
    code.xor(R1, 0xffff);
    code.load(Size::Word, R0, R9, layout::DELTA);
    code.add_register(R1, R0);
    // The length counts twice, in the header and in the pseudo header.
    code.load(Size::Half, R0, R2, family.udp + 4);
    code.xor(R0, 0xffff);
    code.add_register(R1, R0);
    code.add_register(R1, R0);
    new_len(code, header, 0);
    code.add_register(R1, R0);
    code.add_register(R1, R0);
    match header {
        Header::Off => {
            code.load(Size::Half, R0, R2, family.payload() + 2);
            code.xor(R0, 0xffff);
        }
        Header::On => {
            code.load(Size::Double, R0, R10, LEN);
            code.swap_16(R0);
        }
    }
    code.add_register(R1, R0);
    fold(code);
    code.xor(R1, 0xffff);
    code.jump_if(R1, Test::NotEqual, 0, some);
    code.set(R1, 0xffff); // zero says that there is none
    code.place(some);
    code.place(done);
    code.store(Size::Double, R10, SUM, R1);
}

/// Writes the new headers, and counts.
fn write(code: &mut Assembler, family: Family, header: Header, slow: Label) {
    let aborted = code.label();
    code.copy(R1, R6);
    code.set(R2, header.shift().cast_unsigned());
    code.call(bpf::XDP_ADJUST_HEAD);
    code.jump_if(R0, Test::NotEqual, 0, slow);
    load_frame(code);
    reach(code, family.payload() + header.after(), aborted);
    let words = family.payload() / 4;
    for word in 0..words {
        code.load(Size::Word, R0, R9, layout::HEADERS + 4 * word);
        code.store(Size::Word, R2, 4 * word, R0);
    }
    code.load(Size::Half, R0, R9, layout::HEADERS + 4 * words);
    code.store(Size::Half, R2, 4 * words, R0);
    if family.v6 {
        new_len(code, header, 0);
        code.store(Size::Half, R2, 18, R0);
    } else {
        new_len(code, header, 20);
        code.store(Size::Half, R2, 16, R0);
        code.load(Size::Word, R1, R9, layout::HEADER_SUM);
        code.add_register(R1, R0);
        fold(code);
        code.xor(R1, 0xffff);
        code.store(Size::Half, R2, 24, R1);
    }
    new_len(code, header, 0);
    code.store(Size::Half, R2, family.udp + 4, R0);
    code.load(Size::Double, R0, R10, SUM);
    code.store(Size::Half, R2, family.udp + 6, R0);
    code.load(Size::Double, R5, R10, LEN);
    if header == Header::On {
        code.load(Size::Half, R0, R9, layout::CHANNEL);
        code.store(Size::Half, R2, family.payload(), R0);
        code.copy(R0, R5);
        code.swap_16(R0);
        code.store(Size::Half, R2, family.payload() + 2, R0);
    }
    code.set(R0, 1);
    code.add_atomic(R9, layout::PACKETS, R0);
    code.add_atomic(R9, layout::BYTES, R5);
    let done = code.label();
    code.jump(done);
    code.place(aborted); // for the verifier: the frame was long enough before
    code.set(R0, XDP_ABORTED);
    code.exit();
    code.place(done);
}

/// Sends the frame out of the interface that it came by. `XDP_TX` is what cards do best, whatever core this is. But a veth device leaves
/// such frames lying when the other end has GRO and no program.
fn send(code: &mut Assembler, own: Own) {
    if own.is_veth {
        code.set(R1, own.index);
        code.set(R2, 0);
        code.call(REDIRECT);
    } else {
        code.set(R0, XDP_TX);
    }
    code.exit();
}

/// R0 = the new length of the UDP datagram and so many bytes, in network order.
fn new_len(code: &mut Assembler, header: Header, more: i32) {
    code.copy(R0, R7);
    code.add(R0, (more - header.shift()).cast_unsigned());
    code.swap_16(R0);
}

/// R1 += words of the frame.
fn add_words(code: &mut Assembler, offset: i16, words: i16) {
    for word in 0..words {
        code.load(Size::Word, R0, R2, offset + 4 * word);
        code.add_register(R1, R0);
    }
}

/// R1 = the one's complement sum of its 16-bit parts (RFC 1071), by way of R0.
fn fold(code: &mut Assembler) {
    for _ in 0..3 {
        code.copy(R0, R1);
        code.shift_right(R0, 16);
        code.and(R1, 0xffff);
        code.add_register(R1, R0);
    }
}
