//! Waiting for descriptors outside of a reactor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Most descriptors in one wait.
const MAX: usize = 8;

/// Blocks until one of `readable` can be read or one of `writable` written, or `timeout` is over, or a signal came. For loops
/// that have no [`Reactor`](crate::Reactor), such as a stand-alone VPN.
///
/// # Panics
/// With more than 8 descriptors.
pub fn wait(readable: &[BorrowedFd<'_>], writable: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<()> {
    assert!(readable.len() + writable.len() <= MAX, "at most {MAX} descriptors");
    let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; MAX];
    let wanted =
        readable.iter().map(|fd| (fd, libc::POLLIN)).chain(writable.iter().map(|fd| (fd, libc::POLLOUT)));
    for (place, (fd, events)) in polled.iter_mut().zip(wanted) {
        *place = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    }
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: MAX entries of our own, and a timespec, that live through the call. Negative descriptors are passed over.
    let result = unsafe {
        libc::ppoll(polled.as_mut_ptr(), MAX as libc::nfds_t, &raw const timeout, std::ptr::null())
    };
    match result {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn returns_for_data_and_for_time() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let start = Instant::now();
        wait(&[there.as_fd()], &[], Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        here.write_all(b"x").unwrap();
        wait(&[there.as_fd()], &[], Duration::from_secs(60)).unwrap();
        wait(&[], &[there.as_fd()], Duration::from_secs(60)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
