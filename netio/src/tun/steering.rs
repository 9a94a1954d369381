//! Which queue of a TUN device a packet comes out of.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::Tun;
use crate::bpf::{self, Assembler, Kind, R0, R1, R2, R3, R4, R6, R10, Size, Test};

/// `_IOR('T', 224, int)` (linux/if_tun.h).
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;
/// Networks of each family.
const NETWORKS: u32 = 1 << 20;

/// Chooses a device's queue by a packet's destination: the longest network that it is in. Packets to no network come out of
/// queue 0.
#[derive(Debug)]
pub struct TunSteering {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl TunSteering {
    /// Has the kernel steer all of the device's packets from now on, until the device is gone.
    ///
    /// # Errors
    /// Without `CAP_BPF` (or root), or where the kernel can't (before Linux 5.1; before 5.11 the tables count as locked memory).
    pub fn attach(tun: &Tun) -> io::Result<Self> {
        let steering = Self { v4: bpf::networks(4, NETWORKS)?, v6: bpf::networks(16, NETWORKS)? };
        let program = bpf::load(Kind::SocketFilter, &steering.assemble())?;
        let descriptor: libc::c_int = program.as_raw_fd();
        // SAFETY: the kernel reads an int that lives through the call. It keeps the program by itself.
        let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const descriptor) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(steering) }
    }

    /// Packets to `address/length` and no longer network come out of `queue`.
    ///
    /// # Errors
    /// No memory, or more than 2^20 networks.
    ///
    /// # Panics
    /// When the prefix is longer than the address.
    pub fn set(&self, address: IpAddr, length: u8, queue: u16) -> io::Result<()> {
        let (map, key) = self.key(address, length);
        // SAFETY: the key is of the map's family.
        unsafe { bpf::put_at(map.as_fd(), &key, queue.into()) }
    }

    /// Forgets a network, if it is known.
    ///
    /// # Errors
    /// The kernel's reason.
    ///
    /// # Panics
    /// When the prefix is longer than the address.
    pub fn remove(&self, address: IpAddr, length: u8) -> io::Result<()> {
        let (map, key) = self.key(address, length);
        // SAFETY: the key is of the map's family.
        unsafe { bpf::remove_at(map.as_fd(), &key) }
    }

    fn key(&self, address: IpAddr, length: u8) -> (&OwnedFd, Vec<u8>) {
        let (map, octets) = match address {
            IpAddr::V4(address) => (&self.v4, address.octets().to_vec()),
            IpAddr::V6(address) => (&self.v6, address.octets().to_vec()),
        };
        assert!(usize::from(length) <= 8 * octets.len(), "a prefix of the address");
        (map, [&u32::from(length).to_ne_bytes()[..], &octets].concat())
    }

    fn assemble(&self) -> Vec<u64> {
        let mut code = Assembler::default();
        let (v6, unknown) = (code.label(), code.label());
        code.copy(R6, R1);
        copy_bytes(&mut code, 0, (-4, 1), unknown);
        code.load(Size::Byte, R0, R10, -4);
        code.and(R0, 0xf0);
        code.jump_if(R0, Test::Equal, 0x60, v6);
        code.jump_if(R0, Test::NotEqual, 0x40, unknown);
        look_up(&mut code, &self.v4, (16, 4), unknown);
        code.place(unknown);
        code.set(R0, 0);
        code.exit();
        code.place(v6);
        let unknown = code.label();
        look_up(&mut code, &self.v6, (24, 16), unknown);
        code.place(unknown);
        code.set(R0, 0);
        code.exit();
        code.finish()
    }
}

/// Copies `len` bytes of the packet at R6 to the stack at `place`.
fn copy_bytes(code: &mut Assembler, from: u32, (place, len): (i16, u32), missing: bpf::Label) {
    code.copy(R1, R6);
    code.set(R2, from);
    code.copy(R3, R10);
    code.add(R3, i32::from(place).cast_unsigned());
    code.set(R4, len);
    code.call(bpf::SKB_LOAD_BYTES);
    code.jump_if(R0, Test::NotEqual, 0, missing);
}

/// Ends with the queue of the address of `len` bytes that stands at `offset`.
fn look_up(code: &mut Assembler, map: &OwnedFd, (offset, len): (u32, i16), unknown: bpf::Label) {
    copy_bytes(code, offset, (-len, u32::from(len.cast_unsigned())), unknown);
    code.set(R0, 8 * u32::from(len.cast_unsigned()));
    code.store(Size::Word, R10, -len - 4, R0);
    code.copy(R2, R10);
    code.add(R2, i32::from(-len - 4).cast_unsigned());
    code.load_map(R1, map.as_fd());
    code.call(bpf::MAP_LOOKUP_ELEM);
    code.jump_if_null(R0, unknown);
    code.load(Size::Word, R0, R0, 0);
    code.exit();
}
