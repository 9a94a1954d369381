//! Bytes on their way out of one connection.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Most pieces gathered into one send. The kernel takes 1,024; at a typical frame of some hundred bytes this many
/// already spread the cost of the call thin, and each connection holds an array of this length.
const GATHER: usize = 64;

/// Why bytes were not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection's queue has no room for them. Wait for [`Event::Drained`](crate::Event::Drained).
    #[error("the send queue is full")]
    Full,
    /// The connection is not open (yet, or any more).
    #[error("the connection is closed")]
    Closed,
}

/// What the kernel reads to know what to send.
struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; GATHER],
}

/// A bounded queue of byte strings of which at most one gathered send is in flight.
///
/// While a send is in flight, the strings it names are at the front and untouched: only [`complete`](Self::complete)
/// removes from the front. A `VecDeque` may move its elements when it grows, but a `Bytes` that moves keeps its data
/// where it is, and the data is what the kernel reads.
pub(crate) struct SendQueue {
    strings: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    in_flight: bool,
    /// Boxed: the kernel holds its address while the connection may move.
    message: Box<Message>,
}

impl SendQueue {
    pub(crate) fn new(limit: usize) -> Self {
        let piece = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: msghdr is plain data for which all zeros (no name, no pieces, no control) is a value.
        let header = unsafe { std::mem::zeroed() };
        let message = Box::new(Message { header, pieces: [piece; GATHER] });
        Self { strings: VecDeque::new(), bytes: 0, limit, in_flight: false, message }
    }

    /// Bytes that the kernel has not taken yet.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Queues `bytes` behind the others, if the total stays within the limit.
    pub(crate) fn push(&mut self, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > self.limit - self.bytes {
            return Err(SendError::Full);
        }
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.strings.push_back(bytes);
        }
        Ok(())
    }

    /// Gathers the front of the queue into a message for `sendmsg`. The address stays valid, and with it the
    /// bytes it names, until [`complete`](Self::complete) is called or the queue is dropped.
    pub(crate) fn prepare(&mut self) -> *const libc::msghdr {
        assert!(!self.in_flight && !self.strings.is_empty(), "one send at a time, and not of nothing");
        let count = self.strings.len().min(GATHER);
        for (piece, string) in self.message.pieces.iter_mut().zip(&self.strings) {
            piece.iov_base = string.as_ptr().cast_mut().cast();
            piece.iov_len = string.len();
        }
        self.message.header.msg_iov = self.message.pieces.as_mut_ptr();
        self.message.header.msg_iovlen = count;
        self.in_flight = true;
        &raw const self.message.header
    }

    /// The send in flight ended and the kernel took `sent` bytes (zero on failure). Says whether that was only a
    /// part of what it was offered.
    pub(crate) fn complete(&mut self, sent: usize) -> bool {
        assert!(self.in_flight && sent <= self.bytes, "the kernel takes what it was offered, once");
        self.in_flight = false;
        let offered: usize =
            self.message.pieces[..self.message.header.msg_iovlen].iter().map(|p| p.iov_len).sum();
        self.bytes -= sent;
        let mut left = sent;
        while left > 0 {
            let front = self.strings.front_mut().expect("`bytes` is the sum of the lengths");
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            self.strings.pop_front();
        }
        sent < offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel would see.
    fn offered(header: *const libc::msghdr) -> Vec<u8> {
        // SAFETY: `prepare` returned the pointer and the queue has not been touched since.
        let header = unsafe { &*header };
        // SAFETY: as above; `msg_iov` has `msg_iovlen` pieces.
        let pieces = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
        // SAFETY: as above; each piece is a live byte string.
        pieces
            .iter()
            .flat_map(|p| unsafe { std::slice::from_raw_parts(p.iov_base.cast::<u8>(), p.iov_len) })
            .copied()
            .collect()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..200),
            takes in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
        ) {
            let mut queue = SendQueue::new(usize::MAX);
            let expected: Vec<u8> = strings.concat();
            let mut arriving = strings.into_iter();
            let mut sent = Vec::new();
            for step in 0.. {
                // Arrivals while a send is in flight must not disturb it.
                if queue.bytes() > 0 {
                    let header = queue.prepare();
                    arriving.by_ref().take(3).for_each(|s| queue.push(s.into()).unwrap());
                    let offer = offered(header);
                    let take = takes[step % takes.len()].index(offer.len() + 1);
                    sent.extend_from_slice(&offer[..take]);
                    prop_assert_eq!(queue.complete(take), take < offer.len());
                    if take == 0 && arriving.len() == 0 {
                        let rest = offered(queue.prepare());
                        queue.complete(rest.len());
                        sent.extend_from_slice(&rest);
                    }
                } else if let Some(string) = arriving.next() {
                    queue.push(string.into()).unwrap();
                } else {
                    break;
                }
                prop_assert_eq!(queue.bytes(), queue.strings.iter().map(Bytes::len).sum::<usize>());
            }
            prop_assert_eq!(sent, expected);
        }
    }

    #[test]
    fn the_limit_counts_bytes_in_flight() {
        let mut queue = SendQueue::new(10);
        queue.push(Bytes::from_static(b"12345678")).unwrap();
        queue.prepare();
        assert_eq!(queue.push(Bytes::from_static(b"123")), Err(SendError::Full));
        assert_eq!(queue.push(Bytes::from_static(b"12")), Ok(()));
        assert!(queue.complete(3));
        assert_eq!(queue.push(Bytes::from_static(b"123")), Ok(()));
        assert_eq!(queue.bytes(), 10);
    }
}
