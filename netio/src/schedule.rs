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
/// and ignore it). The kernel bounds a slice to 0.1 to 100 ms. The thread's «nice» is only ever lowered, which takes
/// `CAP_SYS_NICE`; that of its children stays.
///
/// # Errors
/// The kernel refuses; then nothing has changed.
pub fn schedule_soon(slice: Duration, nice: i32) -> io::Result<()> {
    // The priority of threads made by this one goes back to the usual.
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
    let bytes = u32::try_from(size_of::<Attributes>()).expect("a small structure");
    let mut attributes = Attributes::default();
    let (this_thread, no_flags) = (0, 0);
    // SAFETY: the kernel writes at most `bytes` bytes, and the structure has as many.
    let read =
        unsafe { libc::syscall(libc::SYS_sched_getattr, this_thread, &raw mut attributes, bytes, no_flags) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = bytes;
    attributes.flags |= SCHED_FLAG_RESET_ON_FORK;
    attributes.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    attributes.nice = attributes.nice.min(nice);
    // SAFETY: the kernel reads as many bytes as the structure says that it has.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, no_flags) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_wish() {
        let soon = |nice| schedule_soon(Duration::from_micros(100), nice);
        let wished = std::thread::spawn(move || (soon(19), soon(-10))).join().unwrap();
        wished.0.unwrap();
        // The priority takes a privilege.
        assert!(wished.1.is_ok() || wished.1.unwrap_err().kind() == io::ErrorKind::PermissionDenied);
    }
}
