//! The little of bpf(2) that steering takes: assembling a program, loading it, its maps, and a link.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
/// Memory as entries come; the only way for a trie.
const BPF_F_NO_PREALLOC: u32 = 1;
/// Memory that a process can map (Linux 5.5).
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Attach type of a link to an interface.
const BPF_XDP: u32 = 37;
/// In the driver, before the kernel makes its own buffers; never the generic mode, which costs more than sockets.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Helper: R0 = the value that map R1 has for the key at R2, or null.
pub(super) const MAP_LOOKUP_ELEM: u32 = 1;
/// Helper: R0 = ns on `CLOCK_MONOTONIC`.
pub(super) const KTIME_GET_NS: u32 = 5;
/// Helper: moves the first byte of frame R1 by R2 bytes; R0 is negative when there is no room. Pointers into the frame are void then.
pub(super) const XDP_ADJUST_HEAD: u32 = 44;
/// Helper: R0 = bytes of frame R1 (Linux 5.18).
pub(super) const XDP_GET_BUFF_LEN: u32 = 188;
/// Helper: copies R4 bytes of packet R1 from offset R2 on to R3; R0 is negative when there are fewer.
pub(super) const SKB_LOAD_BYTES: u32 = 26;

/// What a program is run for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A packet that the kernel has taken in (`struct __sk_buff`).
    SocketFilter = 1,
    /// A frame that has just come (`struct xdp_md`).
    Xdp = 6,
}

/// Registers of the machine (RFC 9669 section 2).
#[derive(Clone, Copy)]
pub(super) struct Reg(u8);

pub(super) const R0: Reg = Reg(0);
pub(super) const R1: Reg = Reg(1);
pub(super) const R2: Reg = Reg(2);
pub(super) const R3: Reg = Reg(3);
pub(super) const R4: Reg = Reg(4);
pub(super) const R5: Reg = Reg(5);
pub(super) const R6: Reg = Reg(6);
pub(super) const R7: Reg = Reg(7);
pub(super) const R8: Reg = Reg(8);
pub(super) const R9: Reg = Reg(9);
/// The end of the stack, which grows down.
pub(super) const R10: Reg = Reg(10);

/// Sizes of memory access.
#[derive(Clone, Copy)]
pub(super) enum Size {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

/// Conditions of jumps.
#[derive(Clone, Copy)]
pub(super) enum Test {
    Equal = 0x10,
    NotEqual = 0x50,
    Greater = 0x20,
    Less = 0xa0,
}

/// A place in the program that jumps name before it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program being written: instructions of 8 bytes (RFC 9669 section 3), with jumps to labels.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<u64>,
    /// Where labels are, once placed.
    labels: Vec<Option<usize>>,
    /// Jumps whose distance is to be filled in.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn emit(&mut self, opcode: u8, to: Reg, from: Reg, offset: i16, value: u32) {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        let registers = to.0 | from.0 << 4;
        self.code.push(u64::from_le_bytes([opcode, registers, low, high, a, b, c, d]));
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(super) fn place(&mut self, label: Label) {
        assert!(self.labels[label.0].replace(self.code.len()).is_none(), "a label is placed once");
    }

    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.emit(0xbf, to, from, 0, 0);
    }

    pub(super) fn set(&mut self, to: Reg, value: u32) {
        self.emit(0xb7, to, R0, 0, value);
    }

    pub(super) fn add(&mut self, to: Reg, value: u32) {
        self.emit(0x07, to, R0, 0, value);
    }

    pub(super) fn add_register(&mut self, to: Reg, from: Reg) {
        self.emit(0x0f, to, from, 0, 0);
    }

    pub(super) fn xor(&mut self, to: Reg, value: u32) {
        self.emit(0xa7, to, R0, 0, value);
    }

    pub(super) fn or_register(&mut self, to: Reg, from: Reg) {
        self.emit(0x4f, to, from, 0, 0);
    }

    pub(super) fn shift_left(&mut self, to: Reg, bits: u32) {
        self.emit(0x67, to, R0, 0, bits);
    }

    pub(super) fn shift_right(&mut self, to: Reg, bits: u32) {
        self.emit(0x77, to, R0, 0, bits);
    }

    /// Adds 64 bits in memory, as one step for all processors.
    pub(super) fn add_atomic(&mut self, to: Reg, offset: i16, from: Reg) {
        self.emit(0xdb, to, from, offset, 0);
    }

    pub(super) fn and(&mut self, to: Reg, value: u32) {
        self.emit(0x57, to, R0, 0, value);
    }

    pub(super) fn modulo(&mut self, to: Reg, value: u32) {
        self.emit(0x97, to, R0, 0, value);
    }

    /// Turns 16 bits in network order into a number, or back.
    pub(super) fn swap_16(&mut self, register: Reg) {
        self.emit(0xdc, register, R0, 0, 16);
        self.and(register, 0xffff); // so that the kernel's verifier knows it as well
    }

    pub(super) fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) {
        self.emit(0x61 | size as u8, to, from, offset, 0);
    }

    /// Stores the lower bits of `from`.
    pub(super) fn store(&mut self, size: Size, to: Reg, offset: i16, from: Reg) {
        self.emit(0x63 | size as u8, to, from, offset, 0);
    }

    /// The map behind a descriptor.
    pub(super) fn load_map(&mut self, to: Reg, map: BorrowedFd<'_>) {
        let descriptor = u32::try_from(map.as_raw_fd()).expect("open descriptors are not negative");
        self.emit(0x18, to, Reg(1), 0, descriptor); // pseudo source register 1: a map's descriptor
        self.code.push(0);
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x05, R0, R0, 0, 0);
    }

    /// Jumps when the lower 32 bits compare so (unsigned) with `value`.
    pub(super) fn jump_if(&mut self, register: Reg, test: Test, value: u32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x06 | test as u8, register, R0, 0, value);
    }

    /// Jumps when a pointer leads nowhere.
    pub(super) fn jump_if_null(&mut self, pointer: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x15, pointer, R0, 0, 0);
    }

    /// Jumps when the first of two registers is greater.
    pub(super) fn jump_if_greater(&mut self, register: Reg, than: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x2d, register, than, 0, 0);
    }

    /// Jumps when two registers are equal.
    pub(super) fn jump_if_same(&mut self, register: Reg, other: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x1d, register, other, 0, 0);
    }

    /// Jumps when two registers differ.
    pub(super) fn jump_if_other(&mut self, register: Reg, other: Reg, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.emit(0x5d, register, other, 0, 0);
    }

    pub(super) fn call(&mut self, helper: u32) {
        self.emit(0x85, R0, R0, 0, helper);
    }

    pub(super) fn exit(&mut self) {
        self.emit(0x95, R0, R0, 0, 0);
    }

    /// The finished code.
    pub(super) fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("a label that is jumped to is placed");
            let distance = i16::try_from(target as isize - at as isize - 1).expect("a short program");
            let [low, high] = distance.to_le_bytes();
            self.code[at] |= u64::from_le_bytes([0, 0, low, high, 0, 0, 0, 0]);
        }
        self.code
    }
}

/// `union bpf_attr`, as far as it is used here. Fields behind these are zero, which is their default.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes([u64; 16]);

impl Attributes {
    fn put_u32(&mut self, offset: usize, value: u32) {
        self.0[offset / 8] |= u64::from(value) << (8 * (offset % 8));
    }

    fn put_u64(&mut self, offset: usize, value: u64) {
        self.0[offset / 8] = value;
    }
}

/// Calls bpf(2).
///
/// # Safety
/// Pointers in `attributes` lead to memory of the size that the command takes.
unsafe fn bpf(command: libc::c_int, attributes: &mut Attributes) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads (and may write) the 128 bytes of attributes; what they point to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes.0, size_of::<Attributes>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::try_from(result).expect("a descriptor or zero"))
}

fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn descriptor(of: BorrowedFd<'_>) -> u32 {
    u32::try_from(of.as_raw_fd()).expect("open descriptors are not negative")
}

/// A map from receive queues to AF_XDP sockets.
pub(super) fn socket_map(queues: u32) -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_XSKMAP, (4, 4), queues, 0)
}

/// A map of `entries` numbers, all zero.
pub(super) fn array(entries: u32) -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_ARRAY, (4, 4), entries, 0)
}

/// A map of `entries` values of `bytes` bytes (a multiple of 8), all zero, which a process can map into its memory.
pub(super) fn shared_array(bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_ARRAY, (4, bytes), entries, BPF_F_MMAPABLE)
}

/// A map from keys of `key_bytes` bytes to numbers.
pub(super) fn hash(key_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_HASH, (key_bytes, 4), entries, 0)
}

/// A map from networks to numbers, which finds the longest that an address is in. Keys: the prefix's length in bits, and an address of
/// `address_bytes` bytes.
pub(super) fn networks(address_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_LPM_TRIE, (4 + address_bytes, 4), entries, BPF_F_NO_PREALLOC)
}

fn map(kind: u32, (key_bytes, value_bytes): (u32, u32), entries: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.put_u32(0, kind);
    attributes.put_u32(4, key_bytes);
    attributes.put_u32(8, value_bytes);
    attributes.put_u32(12, entries);
    attributes.put_u32(16, flags);
    // SAFETY: no pointers.
    unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }.map(owned)
}

/// Puts a socket into the map.
pub(super) fn put_socket(map: BorrowedFd<'_>, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    put(map, queue, descriptor(socket))
}

/// Puts a value into a map of numbers or sockets.
pub(super) fn put(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    // SAFETY: those maps have keys of 4 bytes.
    unsafe { put_at(map, &key.to_ne_bytes(), value) }
}

/// Puts a value into a map that was made here.
///
/// # Safety
/// `key` is as long as the map's keys.
pub(super) unsafe fn put_at(map: BorrowedFd<'_>, key: &[u8], value: u32) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.put_u32(0, descriptor(map));
    attributes.put_u64(8, key.as_ptr() as u64);
    attributes.put_u64(16, (&raw const value) as u64);
    // SAFETY: the key is as long as the kernel reads, by the caller's promise; the value has 4 bytes. Both live through the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Takes an entry out of a map; it need not be there.
///
/// # Safety
/// `key` is as long as the map's keys.
pub(super) unsafe fn remove_at(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes.put_u32(0, descriptor(map));
    attributes.put_u64(8, key.as_ptr() as u64);
    // SAFETY: the key is as long as the kernel reads, by the caller's promise, and lives through the call.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Has the kernel verify and take a program.
pub(super) fn load(kind: Kind, code: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0"; // no helper that is for GPL programs only
    let mut attributes = Attributes::default();
    attributes.put_u32(0, kind as u32);
    attributes.put_u32(4, u32::try_from(code.len()).expect("a short program"));
    attributes.put_u64(8, code.as_ptr() as u64);
    attributes.put_u64(16, license.as_ptr() as u64);
    // SAFETY: `code` has as many instructions as said, the licence ends with zero, and both live through the call.
    unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.map(owned)
}

/// Runs a program on one frame. Returns its verdict, and leaves in `frame` what the frame is then.
#[cfg(test)]
pub(super) fn run_once(program: BorrowedFd<'_>, frame: &mut Vec<u8>) -> io::Result<u32> {
    let mut out = vec![0u8; frame.len() + 256];
    let mut attributes = Attributes::default();
    attributes.put_u32(0, descriptor(program));
    attributes.put_u32(8, u32::try_from(frame.len()).expect("short"));
    attributes.put_u32(12, u32::try_from(out.len()).expect("short"));
    attributes.put_u64(16, frame.as_ptr() as u64);
    attributes.put_u64(24, out.as_mut_ptr() as u64);
    attributes.put_u32(32, 1); // once
    // SAFETY: both buffers are as long as said, and live through the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }?;
    let [verdict, out_len] = [0, 1].map(|word| u32::try_from(attributes.0[word] >> 32).expect("shifted"));
    out.truncate(out_len as usize);
    *frame = out;
    Ok(verdict)
}

/// Runs a program for every frame that an interface receives, for as long as the link is open: when the process ends, however
/// it ends, the kernel detaches the program.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.put_u32(0, descriptor(program));
    attributes.put_u32(4, interface);
    attributes.put_u32(8, BPF_XDP);
    attributes.put_u32(12, XDP_FLAGS_DRV_MODE);
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }.map(owned)
}
