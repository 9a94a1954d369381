//! Initiations that came to one core and are for a peer at home on another: bounded rings between the cores of a VPN, one for
//! each ordered pair, and a bell for each core.
//!
//! They are few (a client's handshakes, every two minutes, and only those that came to another core; a copy is handed over once at
//! most), so a push may cost a system call. One that finds a full ring is lost and counted: its sender tries again.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use relay_dp::vpn::HandedOver;
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

/// Initiations that one ring holds.
const RING: usize = 64;

/// Wakes a core out of its sleep.
struct Bell {
    eventfd: OwnedFd,
    /// The eventfd has been written to. Set after that, so whoever clears it first and reads then leaves nothing unread.
    rung: AtomicBool,
}

/// One core's ends of the rings.
pub struct HandOver {
    /// By core; none to itself.
    to: Vec<Option<Producer<HandedOver>>>,
    from: Vec<Consumer<HandedOver>>,
    bells: Arc<[Bell]>,
    core: usize,
    /// The ring that is looked at first, so that none starves.
    first: usize,
    /// Initiations lost to full rings.
    full: u64,
}

impl HandOver {
    /// The ends for each of `cores` cores.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn between(cores: usize) -> io::Result<Vec<HandOver>> {
        let bell = |_| {
            let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Bell { eventfd, rung: AtomicBool::new(false) })
        };
        let bells: Arc<[Bell]> = (0..cores).map(bell).collect::<io::Result<_>>()?;
        let end = |core| {
            let to = (0..cores).map(|_| None).collect();
            HandOver { to, from: Vec::new(), bells: Arc::clone(&bells), core, first: 0, full: 0 }
        };
        let mut ends: Vec<HandOver> = (0..cores).map(end).collect();
        for from in 0..cores {
            for to in (0..cores).filter(|&to| to != from) {
                let (producer, consumer) = RingBuffer::new(RING);
                ends[from].to[to] = Some(producer);
                ends[to].from.push(consumer);
            }
        }
        Ok(ends)
    }

    /// Readable when something has come.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.bells[self.core].eventfd.as_fd()
    }

    /// Hands an initiation over, and wakes the core that it is for.
    ///
    /// # Panics
    /// When it is for this core, or for one that there is none of.
    pub fn send(&mut self, initiation: HandedOver) {
        let to = usize::from(initiation.to);
        let ring = self.to[to].as_mut().expect("what is at home here is not handed over");
        if ring.push(initiation).is_err() {
            self.full += 1;
            return;
        }
        let bell = &self.bells[to];
        // It fails only if 2^64 - 2 calls were unread, and then it is readable.
        let _ = rustix::io::write(&bell.eventfd, &1u64.to_ne_bytes());
        bell.rung.store(true, Ordering::Release);
    }

    /// The next up to `most` that have come. Returns whether more may be there.
    pub fn receive(&mut self, most: usize, mut take: impl FnMut(&HandedOver)) -> bool {
        let bell = &self.bells[self.core];
        if bell.rung.load(Ordering::Relaxed) && bell.rung.swap(false, Ordering::Acquire) {
            // Before the rings are looked at: what is pushed from now on rings again.
            let _ = rustix::io::read(&bell.eventfd, &mut [0; 8]);
        }
        let mut left = most;
        self.first = (self.first + 1) % self.from.len();
        let (later, sooner) = self.from.split_at_mut(self.first);
        for ring in sooner.iter_mut().chain(later) {
            while let Some(rest) = left.checked_sub(1)
                && let Ok(initiation) = ring.pop()
            {
                take(&initiation);
                left = rest;
            }
        }
        left == 0
    }

    /// Initiations lost because the other core did not take them.
    pub fn full(&self) -> u64 {
        self.full
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use relay_dp::vpn::{Endpoint, EndpointConfig, Path, PrivateKey, Share};

    use super::*;

    fn endpoint(key: u8, share: Share) -> Endpoint {
        let (private_key, seed) = (PrivateKey([key; 32]), [key; 32]);
        Endpoint::new(EndpointConfig { private_key, mtu: 1420, unix_time_at_zero: 0, seed, share }, 0)
    }

    /// What the first of three endpoints hands over to the third.
    fn initiation() -> HandedOver {
        let (mut client, mut server) = (endpoint(1, Share::WHOLE), endpoint(2, Share { number: 0, of: 3 }));
        let at = "192.0.2.1:1".parse().unwrap();
        client.set_peer(server.public_key(), None, &[], Some(at), Some(1), 0);
        server.set_elsewhere(client.public_key(), 2);
        client.handle_timeout(0);
        let mut message = client.poll_output().expect("an initiation").bytes().to_vec();
        server.receive(&mut message, 148, Path { peer: at, local: None }, 0, &mut Vec::new());
        server.next_handed_over().expect("it is the third's")
    }

    fn is_readable(end: &HandOver) -> bool {
        let began = Instant::now();
        netio::wait(&[end.descriptor()], &[], Duration::from_millis(30)).unwrap();
        began.elapsed() < Duration::from_millis(30)
    }

    #[test]
    fn what_is_handed_over_wakes_its_core_and_is_bounded() {
        let mut ends = HandOver::between(3).unwrap();
        assert!(!is_readable(&ends[2]));
        for _ in 0..RING + 3 {
            ends[0].send(initiation());
        }
        ends[1].send(initiation());
        assert_eq!((ends[0].full(), ends[1].full()), (3, 0));
        assert!(is_readable(&ends[2]) && !is_readable(&ends[1]));
        let (mut turns, mut taken) = (1, 0);
        while ends[2].receive(2, |_| taken += 1) {
            turns += 1;
        }
        assert_eq!((taken, turns), (RING + 1, RING / 2 + 1));
        assert!(!is_readable(&ends[2]));
        ends[1].send(initiation());
        assert!(is_readable(&ends[2]));
    }
}
