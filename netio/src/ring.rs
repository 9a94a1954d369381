//! The io_uring itself: setup, submission, reaping.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue};

use crate::probe::Features;
use crate::slots::Key;

/// How long [`Reactor::poll`](crate::Reactor::poll) may sleep when nothing has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Spin,
    /// At most this long.
    For(Duration),
    /// Until something completes or a [`Waker`](crate::Waker) calls.
    Forever,
}

/// What an operation was, so that its completion finds its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpKind {
    Accept,
    AcceptRetry,
    Connect,
    Recv,
    Send,
    Linger,
    /// Of a connection's operation; the connection waits for it.
    ConnCancel,
    /// Of anything else.
    Cancel,
    FileWrite,
    Wake,
    Watch,
}

impl OpKind {
    const ALL: [Self; 11] = [
        Self::Accept,
        Self::AcceptRetry,
        Self::Connect,
        Self::Recv,
        Self::Send,
        Self::Linger,
        Self::ConnCancel,
        Self::Cancel,
        Self::FileWrite,
        Self::Wake,
        Self::Watch,
    ];
}

/// An operation's identity: its kind and the slot that owns its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) kind: OpKind,
    pub(crate) key: Key,
}

impl Op {
    /// The word that the kernel carries for us: kind (8 bits), slot index (24 bits), generation (32 bits).
    pub(crate) fn user_data(self) -> u64 {
        (self.kind as u64) << 56 | u64::from(self.key.index) << 32 | u64::from(self.key.generation)
    }

    fn from_user_data(word: u64) -> Self {
        let [kind, index @ .., _, _, _, _] = word.to_be_bytes();
        let [_, _, _, _, generation @ ..] = word.to_be_bytes();
        let index = u32::from_be_bytes([0, index[0], index[1], index[2]]);
        let kind = OpKind::ALL[usize::from(kind)];
        Self { kind, key: Key { index, generation: u32::from_be_bytes(generation) } }
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) op: Op,
    /// Zero or more on success, else the negated errno.
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the operation goes on and will complete again.
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that the kernel picked for it.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The result as a count, or the errno.
    pub(crate) fn outcome(&self) -> Result<usize, i32> {
        usize::try_from(self.result).map_err(|_| -self.result)
    }
}

/// One io_uring and the count of operations it holds.
pub(crate) struct Ring {
    uring: IoUring,
    /// Entries that found the submission queue full, in order. Each connection and file has a handful of
    /// operations at most, so their number bounds it.
    backlog: VecDeque<Entry>,
    in_flight: usize,
}

impl Ring {
    /// Sets up a ring with those of `features` that concern setup.
    ///
    /// # Errors
    /// What `io_uring_setup` says, and `Unsupported` for a kernel before 5.11, which lacks the bounded wait.
    pub(crate) fn new(entries: u32, completions: u32, features: Features) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(completions);
        if features.contains(Features::SUBMIT_ALL) {
            builder.setup_submit_all();
        }
        if features.contains(Features::SINGLE_ISSUER) {
            builder.setup_single_issuer();
        }
        if features.contains(Features::SINGLE_ISSUER | Features::DEFER_TASKRUN) {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        } else if features.contains(Features::COOP_TASKRUN) {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
        let uring = builder.build(entries)?;
        let kernel = uring.params();
        if !(kernel.is_feature_nodrop() && kernel.is_feature_submit_stable() && kernel.is_feature_ext_arg()) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring of Linux 5.11 or newer is needed",
            ));
        }
        let backlog = VecDeque::with_capacity(uring.params().sq_entries() as usize);
        Ok(Self { uring, backlog, in_flight: 0 })
    }

    /// For registrations.
    pub(crate) fn uring(&self) -> &IoUring {
        &self.uring
    }

    /// Operations whose last completion has not been reaped.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues one operation; the next [`enter`](Self::enter) submits it.
    ///
    /// # Safety
    /// Whatever memory and descriptor `entry` names must stay valid until the operation's last completion.
    pub(crate) unsafe fn push(&mut self, op: Op, entry: Entry) {
        let entry = entry.user_data(op.user_data());
        self.in_flight += 1;
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        self.drain_backlog();
    }

    fn try_push(&mut self, entry: &Entry) -> bool {
        // SAFETY: the callers of `push` answer for the memory that the entry names.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Moves as much of the backlog as possible into the submission queue, submitting when it is full. What the
    /// kernel won't take now stays for the next call.
    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            // A refusal (EBUSY, EAGAIN: reap first) shows as a queue that is still full.
            let _refused = self.uring.submit();
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits what is queued and waits for a completion as `wait` says: one system call, and none when there is
    /// nothing to submit, to reap or to wait for.
    ///
    /// # Errors
    /// Only what leaves the ring unusable. A timeout, a signal and a momentary refusal are not errors.
    pub(crate) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.drain_backlog();
        let wait = if self.backlog.is_empty() { wait } else { Wait::Spin };
        let entered = match wait {
            Wait::Spin => {
                let queue = self.uring.submission();
                let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
                drop(queue);
                if idle {
                    return Ok(());
                }
                self.uring.submit()
            }
            Wait::For(limit) => {
                let limit = Timespec::from(limit);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
            Wait::Forever => self.uring.submit_and_wait(1),
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether completions wait in the kernel behind a full completion queue. The next `enter` fetches them.
    pub(crate) fn overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    /// Appends what has completed to `completions`, at most one completion queue full.
    pub(crate) fn reap(&mut self, completions: &mut Vec<Completion>) {
        let before = completions.len();
        completions.extend(self.uring.completion().map(|entry| Completion {
            op: Op::from_user_data(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }));
        let ended = completions[before..].iter().filter(|completion| !completion.more()).count();
        self.in_flight = self.in_flight.checked_sub(ended).expect("an operation ends once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode;

    #[test]
    fn user_data_round_trips() {
        for kind in OpKind::ALL {
            for key in [Key { index: 0, generation: 0 }, Key { index: 0x00fe_dcba, generation: 0x9876_5432 }]
            {
                let op = Op { kind, key };
                assert_eq!(Op::from_user_data(op.user_data()), op);
            }
        }
    }

    #[test]
    fn more_operations_than_the_queue_holds_all_complete() {
        const OPERATIONS: u32 = 100;
        let mut ring =
            Ring::new(2, 4, Features::all()).or_else(|_| Ring::new(2, 4, Features::empty())).unwrap();
        for index in 0..OPERATIONS {
            let op = Op { kind: OpKind::Wake, key: Key { index, generation: 0 } };
            // SAFETY: a nop names no memory.
            unsafe { ring.push(op, opcode::Nop::new().build()) };
        }
        let mut completions = Vec::new();
        while ring.in_flight() > 0 {
            ring.enter(Wait::For(Duration::from_secs(1))).unwrap();
            ring.reap(&mut completions);
        }
        assert_eq!(completions.len(), OPERATIONS as usize);
        assert!(completions.iter().all(|completion| completion.result == 0));
    }
}
