//! A thread's wish to run soon rather than long.

use std::io;
use std::mem::size_of;
use std::time::Duration;

/// `struct sched_attr` as of its first version (sched_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks the scheduler for short time slices for this thread, and for a priority: it gets its share of a busy processor in more and
/// smaller parts, and is let in before threads with longer ones (EEVDF's custom slices, Linux 6.12; older kernels take the wish
/// and ignore it). The kernel bounds a slice to 0.1 to 100 ms. `nice` is the thread's from then on; to lower it takes `CAP_SYS_NICE`.
/// Threads made by this one have what is usual.
///
/// # Errors
/// The kernel refuses; then nothing has changed.
pub fn schedule_soon(slice: Duration, nice: i32) -> io::Result<()> {
    let runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    set(Attributes { nice, runtime, ..Attributes::default() })
}

/// Lets this thread run before all ordinary ones, for as long as it wants to (`SCHED_RR`): whoever waits for it does not wait for
/// another's slice to end. It starves others of its processor if it never sleeps, so the caller watches how much it uses. Takes
/// `CAP_SYS_NICE` or a limit of real-time priority (`RLIMIT_RTPRIO`). [`schedule_soon`] takes it back; threads made by this one
/// have what is usual.
///
/// # Errors
/// The kernel refuses; then nothing has changed.
pub fn schedule_first() -> io::Result<()> {
    const LOWEST: u32 = 1;
    set(Attributes { policy: libc::SCHED_RR.cast_unsigned(), priority: LOWEST, ..Attributes::default() })
}

fn set(attributes: Attributes) -> io::Result<()> {
    // What this thread has is not for those that it makes.
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
    let size = u32::try_from(size_of::<Attributes>()).expect("a small structure");
    let attributes = Attributes { size, flags: SCHED_FLAG_RESET_ON_FORK, ..attributes };
    let (this_thread, no_flags) = (0, 0);
    // SAFETY: the kernel reads as many bytes as the structure says that it has.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, no_flags) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(result: &io::Result<()>) -> bool {
        result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |()| true)
    }

    #[test]
    fn the_kernel_takes_the_wish() {
        let soon = |nice| schedule_soon(Duration::from_micros(100), nice);
        let wished = std::thread::spawn(move || (soon(19), soon(-10))).join().unwrap();
        wished.0.unwrap();
        // The priority takes a privilege.
        assert!(allowed(&wished.1));
    }

    #[test]
    fn first_is_a_policy_that_children_do_not_have_and_that_can_be_taken_back() {
        // SAFETY: asks about this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
        let seen = std::thread::spawn(move || {
            let first = schedule_first();
            let own = policy();
            let child = std::thread::spawn(policy).join().unwrap();
            schedule_soon(Duration::from_micros(100), 0).unwrap();
            (first, own, child, policy())
        });
        let (first, own, child, after) = seen.join().unwrap();
        assert!(allowed(&first));
        assert_eq!(own == libc::SCHED_RR, first.is_ok());
        assert_eq!((child, after), (libc::SCHED_OTHER, libc::SCHED_OTHER));
    }
}
