//! What the running kernel's io_uring can do.
//!
//! Operations are asked for by `IORING_REGISTER_PROBE`. Flags of operations and of setup can't be asked for, so those
//! are tried out on small rings of their own, once per process.

use std::fmt;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use bitflags::bitflags;
use io_uring::{Probe, opcode, types};

use crate::pool::BufferPool;
use crate::ring::{Completion, Op, OpKind, Ring, Wait};
use crate::slots::Key;

bitflags! {
    /// A set of kernel features. The reactor uses those marked *used*, and does without any of them; the rest is
    /// information.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u32 {
        /// Setup: one thread submits, so the kernel skips a lock (6.0). Used.
        const SINGLE_ISSUER = 1 << 0;
        /// Setup: completions are worked off when the loop asks for them, not whenever (6.1, needs
        /// `SINGLE_ISSUER`). Used; else `COOP_TASKRUN`.
        const DEFER_TASKRUN = 1 << 1;
        /// Setup: completions don't interrupt the loop (5.19). Used when `DEFER_TASKRUN` is missing; else the kernel
        /// interrupts.
        const COOP_TASKRUN = 1 << 2;
        /// Setup: one bad entry doesn't stop a submission (5.18). Used; else the next submission goes on.
        const SUBMIT_ALL = 1 << 3;
        /// The kernel picks receive buffers out of a shared ring when bytes arrive (5.19). Used; else each armed
        /// receive holds a buffer.
        const BUFFER_RING = 1 << 4;
        /// One receive completes again and again (6.0, needs `BUFFER_RING`). Used; else each is armed anew.
        const MULTISHOT_RECV = 1 << 5;
        /// One accept completes again and again (5.19). Used; else each is armed anew.
        const MULTISHOT_ACCEPT = 1 << 6;
        /// Log files are registered, so that a write takes no reference on them (sparse tables: 5.19). Used; else plain
        /// descriptors.
        const REGISTERED_FILES = 1 << 7;
        /// Zero-copy send (6.0). Information: for small messages it costs more than the copy it saves.
        const SEND_ZC = 1 << 8;
        /// Sends and receives of several provided buffers at once (6.10). Information.
        const BUNDLES = 1 << 9;
    }
}

impl Features {
    /// What the running kernel offers. Tried out at the first call, remembered after.
    ///
    /// # Errors
    /// When the kernel has no usable io_uring at all: too old, or forbidden by a sandbox or by
    /// `kernel.io_uring_disabled`.
    pub fn of_running_kernel() -> io::Result<Self> {
        static FEATURES: OnceLock<Features> = OnceLock::new();
        if let Some(features) = FEATURES.get() {
            return Ok(*features);
        }
        let features = try_out()?;
        Ok(*FEATURES.get_or_init(|| features))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (position, (name, _)) in self.iter_names().enumerate() {
            let separator = if position == 0 { "" } else { " " };
            write!(f, "{separator}{}", name.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

fn try_out() -> io::Result<Features> {
    let setup_alone = |flags: Features| Ring::new(4, 8, flags).is_ok();
    let plain = Ring::new(4, 8, Features::empty()).map_err(|error| {
        let hint = "old kernel, a sandbox, or kernel.io_uring_disabled?";
        io::Error::new(error.kind(), format!("io_uring is not available ({hint}): {error}"))
    })?;
    let mut found = Features::empty();
    for flags in [
        Features::SINGLE_ISSUER,
        Features::SINGLE_ISSUER | Features::DEFER_TASKRUN,
        Features::COOP_TASKRUN,
        Features::SUBMIT_ALL,
    ] {
        if setup_alone(flags) {
            found |= flags;
        }
    }

    let mut operations = Probe::new();
    plain.uring().submitter().register_probe(&mut operations)?;
    found.set(Features::SEND_ZC, operations.is_supported(opcode::SendZc::CODE));
    found.set(Features::BUNDLES, plain.uring().params().is_feature_recvsend_bundle());
    found.set(Features::REGISTERED_FILES, plain.uring().submitter().register_files_sparse(1).is_ok());
    found.set(Features::BUFFER_RING, has_buffer_ring(&plain)?);
    drop(plain);

    found.set(Features::MULTISHOT_RECV, found.contains(Features::BUFFER_RING) && has_multishot_recv()?);
    // Where loopback is forbidden there is nothing to try it on, and single accepts do as well.
    found.set(Features::MULTISHOT_ACCEPT, has_multishot_accept().unwrap_or(false));
    Ok(found)
}

const PROBE_GROUP: u16 = 0;

fn has_buffer_ring(ring: &Ring) -> io::Result<bool> {
    let pool = BufferPool::ring(1, 64)?;
    let registered = register(ring, &pool, PROBE_GROUP).is_ok();
    if registered {
        ring.uring().submitter().unregister_buf_ring(PROBE_GROUP)?;
    }
    Ok(registered)
}

/// Registers a pool's descriptor ring under a buffer group. The pool must outlive the registration.
pub(crate) fn register(ring: &Ring, pool: &Rc<BufferPool>, group: u16) -> io::Result<()> {
    let (address, entries) =
        pool.descriptor_ring().expect("only pools with a descriptor ring are registered");
    // SAFETY: the address is that of a mapping with room for `entries` descriptors, and the caller keeps the pool
    // until the group is unregistered or the ring is gone.
    unsafe { ring.uring().submitter().register_buf_ring_with_flags(address, entries, group, 0) }
}

/// Sends one byte through a socket pair to a multishot receive and looks whether the receive goes on.
fn has_multishot_recv() -> io::Result<bool> {
    let mut ring = Ring::new(4, 8, Features::empty())?;
    let pool = BufferPool::ring(2, 64)?;
    register(&ring, &pool, PROBE_GROUP)?;
    let (ours, mut theirs) = UnixStream::pair()?;
    let receive = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), PROBE_GROUP).build();
    // SAFETY: the kernel writes into the pool, which is kept (or leaked, below) until the receive has ended.
    unsafe { ring.push(probe_op(), receive) };
    theirs.write_all(b"?")?;
    let first = next_completion(&mut ring)?;
    let works = first.is_some_and(|completion| completion.result == 1 && completion.more());
    drop(theirs);
    if !run_out(&mut ring)? {
        // A receive that outlives its socket would be a kernel bug; it must not become a write into freed memory.
        std::mem::forget(pool);
    }
    Ok(works)
}

/// Connects to a listener of our own with a multishot accept and looks whether the accept goes on.
fn has_multishot_accept() -> io::Result<bool> {
    let mut ring = Ring::new(4, 8, Features::empty())?;
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
    // SAFETY: a multishot accept names no memory.
    unsafe { ring.push(probe_op(), accept) };
    ring.enter(Wait::Spin)?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let Some(first) = next_completion(&mut ring)? else { return Ok(false) };
    if let Ok(descriptor) = first.outcome() {
        let descriptor = i32::try_from(descriptor).expect("a descriptor came as an i32");
        // SAFETY: the accept just opened it for us.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    }
    Ok(first.result >= 0 && first.more())
}

fn probe_op() -> Op {
    Op { kind: OpKind::Wake, key: Key { index: 0, generation: 0 } }
}

/// How long a try-out may take. The bytes are already there, so only a broken kernel reaches it.
const PATIENCE: Duration = Duration::from_secs(1);

fn next_completion(ring: &mut Ring) -> io::Result<Option<Completion>> {
    let mut completions = Vec::new();
    ring.enter(Wait::For(PATIENCE))?;
    ring.reap(&mut completions);
    Ok(completions.first().copied())
}

/// Waits until no operation is in flight. False when one stays.
fn run_out(ring: &mut Ring) -> io::Result<bool> {
    while ring.in_flight() > 0 {
        if next_completion(ring)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_read_as_a_list() {
        let features = Features::BUFFER_RING | Features::MULTISHOT_RECV;
        assert_eq!(features.to_string(), "buffer_ring multishot_recv");
        assert_eq!(Features::empty().to_string(), "none");
    }

    #[test]
    fn dependent_features_come_with_what_they_need() {
        let features = Features::of_running_kernel().unwrap();
        if features.contains(Features::DEFER_TASKRUN) {
            assert!(features.contains(Features::SINGLE_ISSUER));
        }
        if features.contains(Features::MULTISHOT_RECV) {
            assert!(features.contains(Features::BUFFER_RING));
        }
        assert_eq!(Features::of_running_kernel().unwrap(), features, "asked twice, answered alike");
    }
}
