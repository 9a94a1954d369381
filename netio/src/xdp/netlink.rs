//! The little of netlink(7) that routes and features take: a question, and its answer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;

/// A netlink socket.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one of a protocol, such as `NETLINK_ROUTE`.
    pub(super) fn open(protocol: libc::c_int) -> io::Result<Netlink> {
        // SAFETY: no pointers.
        let socket = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us.
        Ok(Netlink(unsafe { OwnedFd::from_raw_fd(socket) }))
    }

    /// Sends a question and reads the answer, which is there when the send returns.
    pub(super) fn call(&self, message: Message) -> io::Result<Vec<u8>> {
        let bytes = message.finish();
        let socket = self.0.as_raw_fd();
        // SAFETY: the kernel reads as many bytes as there are.
        let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answer = vec![0; 4096];
        // SAFETY: the kernel writes at most as many bytes as there are.
        let received =
            unsafe { libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        answer.truncate(received);
        Ok(answer)
    }
}

/// A question being written: `struct nlmsghdr`, a fixed part, attributes.
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Message(bytes)
    }

    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).expect("short");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).expect("short");
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// An answer: its fixed part and its attributes.
pub(super) struct Answer<'a> {
    pub(super) fixed: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The answer in `bytes`; `None` when it is another, such as an error.
    pub(super) fn new(bytes: &'a [u8], kind: u16, fixed: usize) -> Option<Answer<'a>> {
        let len = word(bytes.get(..4)?)? as usize;
        let found = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..len)?;
        (found == kind && body.len() >= fixed)
            .then(|| Answer { fixed: &body[..fixed], attributes: &body[fixed..] })
    }

    pub(super) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        attribute(self.attributes, kind)
    }

    pub(super) fn word(&self, kind: u16) -> Option<u32> {
        word(self.find(kind)?)
    }
}

/// The first attribute of a kind.
pub(super) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(header) = bytes.first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..len)?;
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
    None
}

pub(super) fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_damaged_ones_end_the_search() {
        let bytes = [5, 0, 9, 0, 7, 0, 0, 0, 8, 0, 4, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 9), Some(&[7][..]));
        assert_eq!(attribute(&bytes, 4).and_then(word), Some(u32::from_ne_bytes([1, 2, 3, 4])));
        assert_eq!(attribute(&bytes, 5), None);
        assert_eq!(attribute(&bytes[..14], 4), None);
        assert_eq!(attribute(&[0; 8], 1), None, "shorter than its own header");
    }
}
