//! A TUN device with vnet headers: whole super-packets in and out.
//!
//! With `IFF_VNET_HDR` and `TUNSETOFFLOAD` the kernel hands over up to 64 KiB of one TCP or UDP flow as one packet, with
//! the work left to do (cutting, checksums) written in a 10-byte header in front, and takes such packets back. This file
//! moves them; what the header means is the business of whoever cuts and joins.

mod steering;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::packet::{PACKET_CAPACITY, Packet};
pub use steering::TunSteering;

/// Kinds of offload in `TUNSETOFFLOAD` (linux/if_tun.h).
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// Running totals of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunCounters {
    /// Packets and super-packets read.
    pub read: u64,
    /// Bytes in them, vnet headers included.
    pub bytes_read: u64,
    /// Packets and super-packets written.
    pub written: u64,
    /// Bytes in them, vnet headers included.
    pub bytes_written: u64,
    /// Packets that the kernel did not take (malformed, or no memory). They are lost.
    pub refused: u64,
    /// Packets lost because the device's queue was full.
    pub full: u64,
}

/// A layer-3 device that exists as long as this handle, or one of several queues of one, which exists as long as any of them.
#[derive(Debug)]
pub struct Tun {
    device: File,
    name: String,
    udp_segments: bool,
    counters: TunCounters,
}

impl Tun {
    /// Makes the device `name` (at most 15 bytes; a `%d` in it becomes the next free number) or, if it exists and no one
    /// has it open, takes it over. It has no address and is down.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, without the kernel's tun driver, or when the name is taken or too long.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::open_with(name, 0)
    }

    /// Makes the device as [`Tun::open`] does, with `queues` queues, one for each core. The kernel chooses a queue by flow, the one
    /// that the flow's packets in the other direction were written to if there were any lately, unless it is told otherwise by a
    /// [`TunSteering`].
    ///
    /// # Errors
    /// As [`Tun::open`]; when the device exists with one queue; beyond 256 queues.
    pub fn open_queues(name: &str, queues: usize) -> io::Result<Vec<Self>> {
        let first = Self::open_with(name, libc::IFF_MULTI_QUEUE)?;
        // The name may have had a number filled in.
        let name = first.name.clone();
        let others = (1..queues).map(|_| Self::open_with(&name, libc::IFF_MULTI_QUEUE));
        std::iter::once(Ok(first)).chain(others).collect()
    }

    fn open_with(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            let longest = libc::IFNAMSIZ - 1;
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a device name has 1 to {longest} bytes"),
            ));
        }
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags)
                    .expect("flags of 15 bits"),
            },
        };
        for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *place = libc::c_char::from_ne_bytes([byte]);
        }
        // SAFETY: the request is a whole ifreq that lives through the call; the kernel reads and writes no more.
        if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let given =
            request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
        let name = String::from_utf8(given).map_err(io::Error::other)?;
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        // Linux before 6.2 has no USO.
        let udp_segments = set_offload(&device, tcp | TUN_F_USO4 | TUN_F_USO6).is_ok();
        if !udp_segments {
            set_offload(&device, tcp)?;
        }
        Ok(Self { device, name, udp_segments, counters: TunCounters::default() })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether UDP super-packets go in and out too (Linux 6.2), not only TCP's.
    #[must_use]
    pub fn takes_udp_segments(&self) -> bool {
        self.udp_segments
    }

    /// Reads one packet with its vnet header into `packet`; false when none waits. Never blocks.
    ///
    /// # Errors
    /// When the device is down or gone.
    pub fn read(&mut self, packet: &mut Packet) -> io::Result<bool> {
        packet.reset();
        packet.resize(PACKET_CAPACITY);
        match self.device.read(packet) {
            Ok(len) => {
                packet.resize(len);
                self.counters.read += 1;
                self.counters.bytes_read += len as u64;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                packet.reset();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes one packet, gathered from `parts`, the vnet header first. What the device does not take is lost and
    /// counted, as on any link: it depends on what peers send.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) {
        match self.device.write_vectored(parts) {
            Ok(len) => {
                self.counters.written += 1;
                self.counters.bytes_written += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.counters.full += 1,
            Err(_) => self.counters.refused += 1,
        }
    }

    /// Running totals.
    #[must_use]
    pub fn counters(&self) -> TunCounters {
        self.counters
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn set_offload(device: &File, kinds: libc::c_ulong) -> io::Result<()> {
    // SAFETY: this request takes its argument by value.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, kinds) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused() {
        for name in ["", "a-name-of-16-byt"] {
            let error = Tun::open(name).unwrap_err();
            // Without the driver or the privilege the device can't even be opened.
            let kinds =
                [io::ErrorKind::InvalidInput, io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
    }
}
