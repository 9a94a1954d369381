//! Sending: runs of equal segments to one destination leave as one GSO send, many of those in one `sendmmsg`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use super::address::{Family, RawAddress};
use super::control::Control;
use super::{BURST, Datagram, EMPTY, MAX_SEGMENTS, MAX_SEND, UdpSocket, empty_headers, set_value};

/// Pieces of memory that one `sendmmsg` gathers.
const PIECES: usize = 256;

/// Destinations remembered as not taking super-segments.
const PLAIN_PATHS: usize = 16;

/// How this socket sends.
#[derive(Debug)]
pub(super) struct Sender {
    family: Family,
    /// Whether the kernel knows GSO for UDP, as far as known.
    offload: bool,
    /// Destinations that refused super-segments (path MTU below the segment, a device without checksums), by hash;
    /// a collision costs the older its place, and it will be found out again.
    plain_paths: [Option<SocketAddr>; PLAIN_PATHS],
    /// How the socket is set: what it sends is not fragmented.
    dont_fragment: bool,
}

/// What one message of a `sendmmsg` covers.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Datagrams of the queue that end in this run.
    finished: usize,
    segments: usize,
    bytes: usize,
    segment: usize,
}

/// Where in the queue the next run begins.
#[derive(Clone, Copy, Default)]
struct Cursor {
    datagram: usize,
    /// Bytes of that datagram that are covered already.
    offset: usize,
}

impl Sender {
    pub(super) fn new(family: Family, offload: bool) -> Self {
        Self { family, offload, plain_paths: [None; PLAIN_PATHS], dont_fragment: false }
    }

    fn place(peer: SocketAddr) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(peer);
        usize::try_from(hash % PLAIN_PATHS as u64).expect("smaller than the table")
    }

    fn segments_to(&self, peer: SocketAddr) -> bool {
        self.offload && self.plain_paths[Self::place(peer)] != Some(peer)
    }

    /// Collects the next run from `cursor` on: pieces of equal segments to one destination, within the kernel's limits.
    fn next_run(&self, queue: &VecDeque<Datagram>, cursor: &mut Cursor, pieces: &mut Pieces) -> Run {
        let first = &queue[cursor.datagram];
        let max_segments = if self.segments_to(first.peer) { MAX_SEGMENTS } else { 1 };
        let mut run = Run { segment: first.segment, ..Run::default() };
        while let Some(datagram) = queue.get(cursor.datagram) {
            let left = datagram.packet.len() - cursor.offset;
            let joins = datagram.peer == first.peer
                && datagram.local == first.local
                && datagram.dont_fragment == first.dont_fragment;
            // A shorter single segment may end the run; otherwise sizes are equal.
            let fits = datagram.segment == run.segment
                || (datagram.segment < run.segment && left <= datagram.segment);
            let started = run.segments > 0;
            if started && (!joins || !fits || left == 0 || !pieces.has_room()) {
                break;
            }
            let room =
                (max_segments - run.segments).min((MAX_SEND.max(run.segment) - run.bytes) / run.segment);
            let taken = left.min(room * run.segment);
            if room == 0 {
                break;
            }
            pieces.push(&datagram.packet[cursor.offset..cursor.offset + taken]);
            run.bytes += taken;
            run.segments += taken.div_ceil(run.segment).max(1);
            cursor.offset += taken;
            if cursor.offset < datagram.packet.len() {
                break; // the rest begins the next run
            }
            *cursor = Cursor { datagram: cursor.datagram + 1, offset: 0 };
            run.finished += 1;
            if !taken.is_multiple_of(run.segment) || taken == 0 {
                break; // a short segment is the last
            }
        }
        run
    }
}

/// The memory that one `sendmmsg` gathers.
struct Pieces {
    iovecs: [libc::iovec; PIECES],
    used: usize,
}

impl Pieces {
    fn has_room(&self) -> bool {
        self.used < PIECES
    }

    fn push(&mut self, bytes: &[u8]) {
        self.iovecs[self.used] =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.used += 1;
    }
}

/// What the kernel reads beside the packets. Of one thread and used by all its sockets, because clearing 11 KB for each call
/// costs as much as a datagram.
struct Scratch {
    addresses: [RawAddress; BURST],
    controls: [Control; BURST],
    runs: [Run; BURST],
    pieces: Pieces,
    headers: [libc::mmsghdr; BURST],
}

thread_local! {
    static SCRATCH: RefCell<Box<Scratch>> = RefCell::new(Scratch::new());
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            addresses: [RawAddress::zeroed(); BURST],
            controls: [const { Control::new() }; BURST],
            runs: [Run::default(); BURST],
            pieces: Pieces { iovecs: [EMPTY; PIECES], used: 0 },
            headers: empty_headers(),
        })
    }
}

impl UdpSocket {
    /// Sends from the front of `queue` and takes off what has left, until it is empty or the socket's send buffer is
    /// full; returns how many datagrams were taken off. Never blocks: call again when the socket can be written,
    /// or drop what is too old.
    ///
    /// Neighbours in the queue with one destination and segment size leave together. What the kernel refuses is
    /// dropped and counted: the destination is a peer's choice. Errors are those of the socket itself.
    ///
    /// # Panics
    /// When a datagram has a segment size of zero.
    pub fn send_burst(&mut self, queue: &mut VecDeque<Datagram>) -> io::Result<usize> {
        let before = queue.len();
        SCRATCH.with_borrow_mut(|scratch| {
            while !queue.is_empty() && self.send_once(scratch, queue)? {}
            Ok(before - queue.len())
        })
    }

    /// One `sendmmsg` from the front of `queue`. False when the send buffer is full.
    fn send_once(&mut self, scratch: &mut Scratch, queue: &mut VecDeque<Datagram>) -> io::Result<bool> {
        let Scratch { addresses, controls, runs, pieces, headers } = scratch;
        pieces.used = 0;
        let mut cursor = Cursor::default();
        let mut count = 0;
        while count < BURST && cursor.datagram < queue.len() && pieces.has_room() {
            let first = &queue[cursor.datagram];
            assert!(first.segment > 0, "a segment has a size");
            if first.dont_fragment != self.sender.dont_fragment {
                if count > 0 {
                    break; // first send what is before it
                }
                self.set_dont_fragment(first.dont_fragment)?;
            }
            let Ok(address_len) = addresses[count].set(first.peer, self.sender.family) else {
                if count > 0 {
                    break; // first send what is before it
                }
                self.counters.refused += first.segments().len() as u64;
                queue.pop_front();
                continue;
            };
            let (local, first_piece) = (first.local, pieces.used);
            let run = self.sender.next_run(queue, &mut cursor, pieces);
            let gso =
                (run.segments > 1).then(|| u16::try_from(run.segment).expect("segments of a run are short"));
            let header = &mut headers[count].msg_hdr;
            header.msg_name = (&raw mut addresses[count]).cast();
            header.msg_namelen = address_len;
            header.msg_iov = pieces.iovecs[first_piece..].as_mut_ptr();
            header.msg_iovlen = pieces.used - first_piece;
            header.msg_controllen = controls[count].write(gso, local, self.sender.family);
            header.msg_control = controls[count].as_mut_ptr();
            runs[count] = run;
            count += 1;
        }
        if count == 0 {
            return Ok(true);
        }
        self.counters.send_calls += 1;
        let wanted = u32::try_from(count).expect("a burst is small");
        // SAFETY: `count` headers point to addresses, control messages and packets that live until after the call, with
        // their true lengths; the kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), wanted, libc::MSG_DONTWAIT)
        };
        match usize::try_from(sent) {
            Ok(sent) => {
                self.take_off(queue, &runs[..sent]);
                Ok(true)
            }
            Err(_) => self.first_failed(queue, runs[0], io::Error::last_os_error()),
        }
    }

    /// Sets the socket for what is sent next.
    fn set_dont_fragment(&mut self, wanted: bool) -> io::Result<()> {
        // What the network says of its MTU is the sender's to believe: it asks for this to find out.
        let (v4, v6) = match wanted {
            true => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
            false => (libc::IP_PMTUDISC_WANT, libc::IPV6_PMTUDISC_WANT),
        };
        if self.sender.family == Family::V6 {
            set_value(&self.socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6)?;
        }
        // A socket for IPv6 may send to IPv4, too.
        set_value(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)?;
        self.sender.dont_fragment = wanted;
        Ok(())
    }

    /// Takes what `runs` cover off the front of the queue.
    fn take_off(&mut self, queue: &mut VecDeque<Datagram>, runs: &[Run]) {
        for run in runs {
            self.counters.segments_out += run.segments as u64;
            self.counters.bytes_out += run.bytes as u64;
            skip(queue, *run);
        }
    }

    /// The first run of a `sendmmsg` failed.
    fn first_failed(
        &mut self,
        queue: &mut VecDeque<Datagram>,
        run: Run,
        error: io::Error,
    ) -> io::Result<bool> {
        match error.raw_os_error() {
            Some(libc::EINTR) => Ok(true),
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                self.counters.send_full += 1;
                Ok(false)
            }
            // Not taken as a super-segment: segments above the path's MTU, or a device that can't. One by one from now on.
            Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP) if run.segments > 1 => {
                let peer = queue[0].peer;
                self.sender.plain_paths[Sender::place(peer)] = Some(peer);
                self.counters.unsegmented += 1;
                Ok(true)
            }
            Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::ENOMEM) => Err(error),
            _ => {
                self.counters.refused += run.segments as u64;
                skip(queue, run);
                Ok(true)
            }
        }
    }
}

/// Takes a run off the front of the queue.
fn skip(queue: &mut VecDeque<Datagram>, run: Run) {
    let mut bytes = run.bytes;
    for _ in 0..run.finished {
        let datagram = queue.pop_front().expect("a run lies in the queue");
        bytes -= datagram.packet.len();
    }
    if bytes > 0 {
        queue[0].packet.trim_front(bytes);
    }
}
