//! Shortcuts: flows that the XDP program passes on by itself, in the driver, without a copy and without waking anybody.
//!
//! A shortcut says where datagrams of one sender to one port leave for, and that a channel's header (four bytes: a name and a length, RFC
//! 8656 section 12.4) goes off or on. It lives in a slot of an array that the program and we share as memory: the program reads where to
//! send and counts, we read the counts and write how long it may go on. It stops by itself when that lease is over, so a process that
//! is stopped, or stuck, carries nothing on. Next hops are known for two seconds: then a datagram or two take the slower way, which
//! asks anew, and the lease is renewed.

use std::collections::VecDeque;
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::frame::{self, Mac, headers_len};
use super::program::ShortcutMaps;
use super::route::{Way, octets};
use crate::bpf;
use crate::checksum::Sum;
use crate::pool::Mapping;

/// Bytes of a channel's header.
pub(super) const CHANNEL_HEADER: i16 = 4;
/// Shortcuts of a core. A channel takes two.
const SLOTS: u32 = 4096;
/// A slot rests for so long before it is another's: longer than any run of the program, which may still be reading it.
const REST: Duration = Duration::from_secs(1);
/// Bytes of keys: source, destination, their ports, the channel, and two that are zero.
const KEY_V4: usize = 16;
const KEY_V6: usize = 40;

/// What happens to the channel's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    /// Datagrams come with this channel's header and leave without.
    Off(u16),
    /// Datagrams come without and leave with this channel's header.
    On(u16),
}

/// A flow that the program passes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortcut {
    /// Sender of what comes.
    pub from: SocketAddr,
    /// Where it comes to: a port of a steered [`Flow`](super::Flow), one with [`channels`](super::Flow::channels) for [`Channel::Off`].
    pub at: SocketAddr,
    /// Where it leaves from: an address of this host.
    pub out: SocketAddr,
    /// Who gets it. All four are of one family.
    pub to: SocketAddr,
    /// What happens to its channel header.
    pub channel: Channel,
}

impl Shortcut {
    /// Whether it takes the same datagrams as another: the one that was opened last gets them.
    #[must_use]
    pub fn takes_same(&self, other: &Shortcut) -> bool {
        (self.from, self.at, self.taken_off()) == (other.from, other.at, other.taken_off())
    }

    /// The number of the channel that datagrams come with.
    fn taken_off(&self) -> Option<u16> {
        match self.channel {
            Channel::Off(number) => Some(number),
            Channel::On(_) => None,
        }
    }
}

/// A shortcut that is open.
#[derive(PartialEq, Eq, Debug)]
pub struct ShortcutId(u32);

/// What came of renewing a shortcut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewed {
    /// It goes on for so long.
    For(Duration),
    /// The next hop is not known just now.
    NotNow,
    /// The next hop is another than before: this shortcut is of no more use.
    Never,
}

/// What a shortcut has passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their payloads, without channel headers.
    pub bytes: u64,
}

/// A slot, as the program reads it.
#[repr(C)]
struct Slot {
    /// End of the lease, ns on `CLOCK_MONOTONIC`.
    until: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
    fixed: Fixed,
}

/// What does not change while a slot is used.
#[repr(C)]
#[derive(Clone, Copy)]
struct Fixed {
    /// What the other addresses, ports and channel add to the UDP checksum's sum.
    delta: u32,
    /// Sum of the IPv4 header without its length.
    header_sum: u32,
    /// Longest payload.
    longest: u32,
    /// As it goes over the wire.
    channel: [u8; 2],
    unused: [u8; 2],
    /// Ethernet, IP and UDP header, without lengths and checksums.
    headers: [u8; 64],
    /// Whose slot it is. The program compares: an entry of the map of keys may become another's while it looks, or be left over.
    key: [u8; KEY_V6],
    reserved: [u8; 48],
}

const _: () = assert!(size_of::<Slot>() == 192 && (SLOTS as usize * size_of::<Slot>()).is_multiple_of(4096));

/// Where the program finds what in a slot.
pub(super) mod layout {
    use super::{Fixed, Slot, offset_of};

    pub(in super::super) const UNTIL: i16 = at(offset_of!(Slot, until));
    pub(in super::super) const PACKETS: i16 = at(offset_of!(Slot, packets));
    pub(in super::super) const BYTES: i16 = at(offset_of!(Slot, bytes));
    pub(in super::super) const DELTA: i16 = fixed(offset_of!(Fixed, delta));
    pub(in super::super) const HEADER_SUM: i16 = fixed(offset_of!(Fixed, header_sum));
    pub(in super::super) const LONGEST: i16 = fixed(offset_of!(Fixed, longest));
    pub(in super::super) const CHANNEL: i16 = fixed(offset_of!(Fixed, channel));
    pub(in super::super) const HEADERS: i16 = fixed(offset_of!(Fixed, headers));
    pub(in super::super) const KEY: i16 = fixed(offset_of!(Fixed, key));

    const fn fixed(offset: usize) -> i16 {
        at(offset_of!(Slot, fixed) + offset)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    const fn at(offset: usize) -> i16 {
        assert!(offset < size_of::<Slot>());
        offset as i16
    }
}

/// The maps of all cores' shortcuts.
#[derive(Debug)]
pub(super) struct Table {
    /// Slots by key, of IPv4 and IPv6.
    keys: [OwnedFd; 2],
    slots: OwnedFd,
}

impl Table {
    pub(super) fn new(cores: u16) -> io::Result<Table> {
        let count = u32::from(cores) * SLOTS;
        let bytes = u32::try_from(size_of::<Slot>()).expect("192");
        let [v4, v6] = [KEY_V4, KEY_V6].map(|bytes| u32::try_from(bytes).expect("short"));
        let keys = [bpf::hash(v4, count)?, bpf::hash(v6, count)?];
        Ok(Table { keys, slots: bpf::shared_array(bytes, count)? })
    }

    pub(super) fn maps(&self) -> ShortcutMaps<'_> {
        ShortcutMaps { keys: self.keys.each_ref().map(AsFd::as_fd), slots: self.slots.as_fd() }
    }
}

struct Open {
    shortcut: Shortcut,
    way: Way,
    taken: Carried,
}

/// One core's shortcuts.
pub(super) struct Shortcuts {
    table: Arc<Table>,
    /// This core's part of the slots.
    memory: Mapping,
    /// Number of its first slot.
    first: u32,
    open: Vec<Option<Open>>,
    free: Vec<u32>,
    /// Closed not long ago.
    resting: VecDeque<(Instant, u32)>,
}

impl Shortcuts {
    pub(super) fn new(table: Arc<Table>, core: u16) -> io::Result<Shortcuts> {
        let bytes = SLOTS as usize * size_of::<Slot>();
        let offset = libc::off_t::try_from(usize::from(core) * bytes).expect("small");
        let memory = Mapping::of_file(table.slots.as_raw_fd(), bytes, offset)?;
        let open = (0..SLOTS).map(|_| None).collect();
        let free = (0..SLOTS).rev().collect();
        let first = u32::from(core) * SLOTS;
        Ok(Shortcuts { table, memory, first, open, free, resting: VecDeque::new() })
    }

    fn slot(&self, index: u32) -> *mut Slot {
        assert!(index < SLOTS, "a slot of this core's");
        // SAFETY: the mapping has `SLOTS` slots, and starts at a page.
        unsafe { self.memory.start().cast::<Slot>().add(index as usize) }
    }

    fn until(&self, index: u32) -> &AtomicU64 {
        // SAFETY: the slot lies in the mapping, and both sides access the word atomically.
        unsafe { &(*self.slot(index)).until }
    }

    fn counts(&self, index: u32) -> Carried {
        // SAFETY: the slot lies in the mapping, and both sides access these words atomically.
        let (packets, bytes) = unsafe { (&(*self.slot(index)).packets, &(*self.slot(index)).bytes) };
        Carried { packets: packets.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    /// Opens a shortcut, without a lease yet. `None` without a slot, or when the kernel refuses.
    pub(super) fn open(
        &mut self,
        shortcut: &Shortcut,
        own: Mac,
        (way, mtu): (Way, usize),
        now: Instant,
    ) -> Option<ShortcutId> {
        while self.resting.front().is_some_and(|(since, _)| now - *since >= REST) {
            self.free.extend(self.resting.pop_front().map(|(_, index)| index));
        }
        let index = *self.free.last()?;
        let fixed = fixed(shortcut, (own, way.to), mtu)?;
        self.until(index).store(0, Ordering::Relaxed);
        // SAFETY: the slot lies in the mapping; nobody else writes this part of it, and the program reads it only through a key,
        // of which there has been none for `REST`.
        unsafe { (&raw mut (*self.slot(index)).fixed).write(fixed) };
        let taken = self.counts(index);
        self.put(shortcut, self.first + index).ok()?;
        self.free.pop();
        self.open[index as usize] = Some(Open { shortcut: *shortcut, way, taken });
        Some(ShortcutId(index))
    }

    /// Which way a shortcut goes.
    pub(super) fn way(&self, id: &ShortcutId) -> Way {
        self.entry(id).way
    }

    /// The program may pass datagrams on until then, ns on its own clock.
    pub(super) fn lease(&self, id: &ShortcutId, until: u64) {
        self.until(id.0).store(until, Ordering::Release);
    }

    /// Has the flow lead here again: on another core, one that took the same datagrams may have been opened and closed since.
    pub(super) fn reclaim(&self, id: &ShortcutId) -> io::Result<()> {
        self.put(&self.entry(id).shortcut, self.first + id.0)
    }

    /// The program may pass nothing on any more.
    pub(super) fn suspend(&self, id: &ShortcutId) {
        self.until(id.0).store(0, Ordering::Release);
    }

    /// Where a shortcut leads.
    pub(super) fn destination(&self, id: &ShortcutId) -> IpAddr {
        self.entry(id).shortcut.to.ip()
    }

    /// What it has passed on since the last call.
    pub(super) fn take_carried(&mut self, id: &ShortcutId) -> Carried {
        let counts = self.counts(id.0);
        let open = self.open[id.0 as usize].as_mut().expect("an id is of an open shortcut");
        let before = std::mem::replace(&mut open.taken, counts);
        Carried { packets: counts.packets - before.packets, bytes: counts.bytes - before.bytes }
    }

    /// Closes it. What the program was just then passing on is counted for nobody.
    pub(super) fn close(&mut self, id: ShortcutId, now: Instant) {
        self.suspend(&id);
        let open = self.open[id.0 as usize].take().expect("an id is of an open shortcut");
        // A key that can't be taken out leads to nothing: it is not its slot's. Another shortcut of the same flow replaces it.
        let (key, family) = key(&open.shortcut);
        // SAFETY: the key is one of that map's.
        let _ = unsafe { bpf::remove_at(self.table.keys[family].as_fd(), &key) };
        self.resting.push_back((now, id.0));
    }

    /// Has another flow's key lead to a slot, as a key that was left over would.
    #[cfg(test)]
    pub(super) fn move_key(&self, id: &ShortcutId, other: &Shortcut) {
        self.put(other, self.first + id.0).expect("there is room");
    }

    fn entry(&self, id: &ShortcutId) -> &Open {
        self.open[id.0 as usize].as_ref().expect("an id is of an open shortcut")
    }

    fn put(&self, shortcut: &Shortcut, slot: u32) -> io::Result<()> {
        let (key, family) = key(shortcut);
        // SAFETY: the key is one of that map's.
        unsafe { bpf::put_at(self.table.keys[family].as_fd(), &key, slot) }
    }
}

impl Drop for Shortcuts {
    fn drop(&mut self) {
        for index in 0..SLOTS {
            if self.open[index as usize].is_some() {
                self.close(ShortcutId(index), Instant::now());
            }
        }
    }
}

/// The key of what comes, and which family's it is.
fn key(shortcut: &Shortcut) -> (Vec<u8>, usize) {
    let channel = shortcut.taken_off().unwrap_or(0);
    let ports = [shortcut.from.port(), shortcut.at.port(), channel, 0].map(u16::to_be_bytes);
    let key = [octets(shortcut.from.ip()), octets(shortcut.at.ip()), ports.concat()].concat();
    (key, usize::from(shortcut.from.is_ipv6()))
}

/// What the program needs to know. `None` between families, and where nothing fits the path.
fn fixed(shortcut: &Shortcut, macs: (Mac, Mac), mtu: usize) -> Option<Fixed> {
    let Shortcut { from, at, out, to, channel } = *shortcut;
    if [at, out, to].iter().any(|address| address.is_ipv4() != from.is_ipv4()) {
        return None;
    }
    let mut whose = [0; KEY_V6];
    let (key, _) = key(shortcut);
    whose[..key.len()].copy_from_slice(&key);
    let mut headers = [0; 64];
    frame::write(&mut headers[..headers_len(&to.ip())], macs, out, to);
    // Lengths and checksums are each datagram's own.
    let own = if to.is_ipv4() { [16..18, 24..26, 38..42] } else { [18..20, 58..62, 0..0] };
    own.into_iter().for_each(|field| headers[field].fill(0));
    let (number, put_on) = match channel {
        Channel::Off(number) => (number.to_be_bytes(), false),
        Channel::On(number) => (number.to_be_bytes(), true),
    };
    let mut before = Sum::default().with(&octets(from.ip())).with(&octets(at.ip()));
    before = before.with_u16(from.port()).with_u16(at.port());
    let mut after = Sum::default().with(&octets(out.ip())).with(&octets(to.ip()));
    after = after.with_u16(out.port()).with_u16(to.port());
    if put_on {
        after = after.with(&number);
    } else {
        before = before.with(&number);
    }
    let delta = after.with(&before.checksum()).folded();
    // IP and UDP headers count for the MTU, Ethernet's does not.
    let overhead = headers_len(&to.ip()) - 14 + if put_on { CHANNEL_HEADER as usize } else { 0 };
    Some(Fixed {
        delta: u16::from_ne_bytes(delta).into(),
        header_sum: u16::from_ne_bytes(Sum::default().with(&headers[14..34]).folded()).into(),
        longest: u32::try_from(mtu.checked_sub(overhead)?).ok()?,
        channel: number,
        unused: [0; 2],
        headers,
        key: whose,
        reserved: [0; 48],
    })
}

/// The program's clock, ns.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a time that lives through the call. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let [seconds, nanos] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds * 1_000_000_000 + nanos
}
