//! Waking a sleeping reactor from another thread.
//!
//! The reactor sleeps in the kernel; an eventfd that it always reads brings it back. Writing to that descriptor
//! costs a system call, so it is done only when the reactor sleeps. Two flags decide, and it is Dekker's pattern:
//!
//! ```text
//! waker                              reactor
//! pending = true                     sleeping = true
//! if sleeping → write the eventfd    if pending → don't sleep
//! ```
//!
//! All four accesses are sequentially consistent, so in their single order one of the two stores comes first and
//! the other side's load sees it: a call is never lost between the reactor's last look and its sleep.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Shared {
    eventfd: OwnedFd,
    /// Someone called since the reactor last looked.
    pending: AtomicBool,
    /// The reactor is in, or about to enter, a blocking system call.
    sleeping: AtomicBool,
}

/// Wakes a reactor out of [`poll`](crate::Reactor::poll), from any thread.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Makes the reactor's current or next `poll` return with [`Event::Woken`](crate::Event::Woken).
    ///
    /// What the caller wrote before (into a queue that the reactor reads, say) is visible to the reactor when it sees
    /// that event. Calls before the reactor looks are one event. Without a sleeping reactor this is two atomic
    /// operations and no system call.
    pub fn wake(&self) {
        // Not skipped when already set: the store also publishes what this thread wrote before it.
        self.0.pending.store(true, Ordering::SeqCst);
        if self.0.sleeping.swap(false, Ordering::SeqCst) {
            self.ring_bell();
        }
    }

    fn ring_bell(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the descriptor is open for as long as `self` lives, and `one` is readable for its length.
        let written = unsafe { libc::write(self.0.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // It fails only if 2^64 - 2 calls were unread, and then the bell is ringing.
        debug_assert_eq!(written, 8, "an eventfd takes eight bytes");
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waker").finish_non_exhaustive()
    }
}

/// The reactor's end.
pub(crate) struct WakeReceiver(Waker);

impl WakeReceiver {
    pub(crate) fn new() -> io::Result<Self> {
        // Blocking mode on purpose: io_uring fails a read of a non-blocking descriptor instead of waiting for it.
        // SAFETY: takes no pointers.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if eventfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that no one else owns.
        let eventfd = unsafe { OwnedFd::from_raw_fd(eventfd) };
        let shared = Shared { eventfd, pending: AtomicBool::new(false), sleeping: AtomicBool::new(false) };
        Ok(Self(Waker(Arc::new(shared))))
    }

    pub(crate) fn waker(&self) -> Waker {
        self.0.clone()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.0.eventfd.as_raw_fd()
    }

    /// Announces sleep. False when someone has called meanwhile: then don't.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.0.0.sleeping.store(true, Ordering::SeqCst);
        if self.0.0.pending.load(Ordering::SeqCst) {
            self.wake_up();
            return false;
        }
        true
    }

    /// Back from sleep: callers need not ring.
    pub(crate) fn wake_up(&self) {
        self.0.0.sleeping.store(false, Ordering::SeqCst);
    }

    /// Whether someone called since the last look. The plain load keeps the line shared while no one does.
    pub(crate) fn take_pending(&self) -> bool {
        let shared = &self.0.0;
        shared.pending.load(Ordering::Relaxed) && shared.pending.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bell_count(receiver: &WakeReceiver) -> u64 {
        let mut count = [0u8; 8];
        let mut poll = libc::pollfd { fd: receiver.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, 0) } == 0 {
            return 0;
        }
        // SAFETY: `count` is writable for its length.
        let read = unsafe { libc::read(receiver.fd(), count.as_mut_ptr().cast(), count.len()) };
        assert_eq!(read, 8);
        u64::from_ne_bytes(count)
    }

    #[test]
    fn no_system_call_while_the_reactor_is_awake() {
        let receiver = WakeReceiver::new().unwrap();
        let waker = receiver.waker();
        waker.wake();
        waker.wake();
        assert_eq!(bell_count(&receiver), 0);
        assert!(!receiver.fall_asleep(), "a pending call forbids sleep");
        assert!(receiver.take_pending());
        assert!(!receiver.take_pending());
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let receiver = WakeReceiver::new().unwrap();
        let waker = receiver.waker();
        assert!(receiver.fall_asleep());
        waker.wake();
        waker.wake();
        receiver.wake_up();
        assert_eq!(bell_count(&receiver), 1);
        assert!(receiver.take_pending());
    }
}
