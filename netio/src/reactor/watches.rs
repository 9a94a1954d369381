//! Descriptors of others whose readiness the reactor waits for, such as an epoll descriptor with many sockets behind it.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::Reactor;
use super::events::Event;
use crate::ring::{Op, OpKind};
use crate::slots::Key;

/// Most descriptors that a reactor watches.
const MAX_WATCHES: usize = 16;

/// One of a reactor's watched descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WatchId(u32);

pub(super) struct Watch {
    fd: OwnedFd,
    armed: bool,
}

impl Reactor {
    /// Watches a descriptor for as long as the reactor lives: [`Event::Readable`] comes once it can be read, or is
    /// already.
    ///
    /// # Panics
    /// With more than 16 of them.
    pub fn watch(&mut self, fd: OwnedFd) -> WatchId {
        assert!(self.watches.len() < MAX_WATCHES, "at most {MAX_WATCHES} descriptors are watched");
        let watch = WatchId(u32::try_from(self.watches.len()).expect("few watches"));
        self.watches.push(Watch { fd, armed: false });
        self.watch_again(watch);
        watch
    }

    /// Asks for the next [`Event::Readable`]. No effect while it is still to come.
    pub fn watch_again(&mut self, watch: WatchId) {
        let Watch { fd, armed } = &mut self.watches[watch.0 as usize];
        if std::mem::replace(armed, true) || self.stopping {
            return;
        }
        let readable = u32::try_from(libc::POLLIN).expect("a flag");
        let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), readable).build();
        // SAFETY: a poll names no memory, and the descriptor is ours until the reactor is dropped.
        unsafe { self.ring.push(Op { kind: OpKind::Watch, key: key(watch.0) }, poll) };
    }

    pub(super) fn on_readable(&mut self, key: Key) {
        self.watches[key.index as usize].armed = false;
        if !self.stopping {
            self.ready.push(Event::Readable { watch: WatchId(key.index) });
        }
    }

    pub(super) fn cancel_watches(&mut self) {
        for index in 0..u32::try_from(self.watches.len()).expect("few watches") {
            if self.watches[index as usize].armed {
                self.cancel(OpKind::Cancel, Op { kind: OpKind::Watch, key: key(index) });
            }
        }
    }
}

/// Watches are never removed, so they need no generations.
fn key(index: u32) -> Key {
    Key { index, generation: 0 }
}
