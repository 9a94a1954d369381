//! Bytes of connections: receives and sends.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::Flags;
use io_uring::{opcode, types};

use super::{CloseReason, ConnId, Event, RECV_GROUP, Reactor};
use crate::pool::RecvBuf;
use crate::probe::Features;
use crate::ring::{Completion, Op, OpKind};
use crate::slots::Key;
use crate::tcp::{Phase, RecvState};

impl Reactor {
    /// Arms the receive of a connection that wants one and has none.
    pub(super) fn arm_recv_if_wanted(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        if conn.recv == RecvState::Idle && conn.wants_recv() {
            self.arm_recv(key);
        }
    }

    pub(super) fn arm_recv(&mut self, key: Key) {
        let conn = self.conns.get_mut(key).expect("the caller has looked it up");
        assert_eq!(conn.recv, RecvState::Idle, "one receive at a time keeps the bytes in order");
        let fd = types::Fd(conn.socket.as_raw_fd());
        let size = self.pool.buffer_size();
        let receive = if self.features.contains(Features::BUFFER_RING | Features::MULTISHOT_RECV) {
            opcode::RecvMulti::new(fd, RECV_GROUP).build()
        } else if self.features.contains(Features::BUFFER_RING) {
            let picked_by_kernel = std::ptr::null_mut();
            let receive = opcode::Recv::new(fd, picked_by_kernel, size).buf_group(RECV_GROUP).build();
            receive.flags(Flags::BUFFER_SELECT)
        } else {
            let Some(index) = self.pool.take() else { return self.starve(key) };
            conn.recv_buffer = Some(index);
            opcode::Recv::new(fd, self.pool.address(index), size).build()
        };
        conn.recv = RecvState::Armed;
        conn.in_flight += 1;
        self.counters.recv_arms += 1;
        // SAFETY: the slot keeps the socket, and the pool the buffers, until the receive has ended: a buffer is
        // with the kernel, or in `recv_buffer`, until a completion hands it to us.
        unsafe { self.ring.push(Op { kind: OpKind::Recv, key }, receive) };
    }

    /// Every buffer is out: the connection queues for the next that comes back.
    fn starve(&mut self, key: Key) {
        let conn = self.conns.get_mut(key).expect("the caller has looked it up");
        conn.recv = RecvState::Starved;
        self.counters.recv_starved += 1;
        self.starved.push_back(key);
    }

    /// Arms as many starved connections as there are buffers, longest waiting first.
    pub(super) fn rearm_starved(&mut self) {
        let chances = self.starved.len().min(self.pool.free() as usize);
        for _ in 0..chances {
            let key = self.starved.pop_front().expect("no more chances than entries");
            let conn = self.conns.get_mut(key).expect("an ended connection leaves the queue");
            assert_eq!(conn.recv, RecvState::Starved);
            conn.recv = RecvState::Idle;
            self.arm_recv_if_wanted(key);
        }
    }

    pub(super) fn on_recv(&mut self, key: Key, completion: Completion) {
        let data = self.claim_buffer(key, completion);
        let conn = self.conn_of_completion(key);
        if !completion.more() {
            conn.in_flight -= 1;
            conn.recv = RecvState::Idle;
        }
        match completion.outcome() {
            Ok(0) => self.on_peer_finished(key),
            Ok(len) => {
                let deliver = conn.delivers();
                self.counters.receives += 1;
                self.counters.bytes_in += len as u64;
                let data = data.expect("received bytes lie in a buffer");
                if deliver {
                    self.ready.push(Event::Data { conn: ConnId(key), data });
                }
            }
            Err(libc::ENOBUFS) if conn.wants_recv() => self.starve(key),
            Err(libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            Err(errno) => self.begin_close(key, CloseReason::Error(io::Error::from_raw_os_error(errno))),
        }
        if !completion.more() {
            self.arm_recv_if_wanted(key);
            self.finish_if_idle(key);
        }
    }

    /// The buffer that a receive used, whether it put bytes in or not: dropped, it goes back to the pool.
    fn claim_buffer(&mut self, key: Key, completion: Completion) -> Option<RecvBuf> {
        let len = completion.outcome().unwrap_or(0);
        if let Some(index) = completion.buffer() {
            return Some(self.pool.claim_from_ring(index, len));
        }
        let index = self.conn_of_completion(key).recv_buffer.take()?;
        Some(self.pool.claim_taken(index, len))
    }

    fn on_peer_finished(&mut self, key: Key) {
        let conn = self.conn_of_completion(key);
        conn.peer_finished = true;
        match conn.phase {
            Phase::Open => self.begin_close(key, CloseReason::Peer),
            Phase::Lingering => self.begin_close(key, CloseReason::Flushed),
            Phase::Flushing | Phase::Closing(_) => {}
            Phase::Connecting => unreachable!("no receive before the connection stands"),
        }
    }

    /// Has the connection's queue sent at the start of the next turn, together with what is queued until then.
    pub(super) fn mark_dirty(&mut self, key: Key) {
        let conn = self.conns.get_mut(key).expect("the caller has looked it up");
        if !conn.dirty && conn.out.bytes() > 0 {
            conn.dirty = true;
            self.dirty.push(key);
        }
    }

    pub(super) fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.dirty = false;
            if conn.sends() && !conn.out.in_flight() {
                self.submit_send(key);
            }
        }
        self.dirty = dirty;
    }

    fn submit_send(&mut self, key: Key) {
        let conn = self.conns.get_mut(key).expect("the caller has looked it up");
        let fd = types::Fd(conn.socket.as_raw_fd());
        // A closed peer is an error code for us, not a signal for the process.
        let flags = u32::try_from(libc::MSG_NOSIGNAL).expect("a positive flag");
        let send = opcode::SendMsg::new(fd, conn.out.prepare()).flags(flags).build();
        conn.in_flight += 1;
        // SAFETY: the slot keeps the socket and the send queue, and the queue what it prepared, until this ends.
        unsafe { self.ring.push(Op { kind: OpKind::Send, key }, send) };
    }

    pub(super) fn on_send(&mut self, key: Key, completion: Completion) {
        let outcome = completion.outcome();
        let conn = self.conn_of_completion(key);
        conn.in_flight -= 1;
        let sent = outcome.unwrap_or(0);
        let partial = conn.out.complete(sent);
        let all_left = conn.out.bytes() == 0;
        self.counters.bytes_out += sent as u64;
        match outcome {
            Ok(1..) => {
                self.counters.sends += 1;
                self.counters.partial_sends += u64::from(partial);
                if all_left { self.on_drained(key) } else { self.mark_dirty(key) }
            }
            Err(libc::EINTR | libc::EAGAIN) => self.mark_dirty(key),
            Ok(0) => self.begin_close(key, CloseReason::Error(io::ErrorKind::WriteZero.into())),
            Err(errno) => self.begin_close(key, CloseReason::Error(io::Error::from_raw_os_error(errno))),
        }
        self.finish_if_idle(key);
    }

    fn on_drained(&mut self, key: Key) {
        match self.conn_of_completion(key).phase {
            Phase::Open => self.ready.push(Event::Drained { conn: ConnId(key) }),
            Phase::Flushing => self.start_linger(key),
            Phase::Connecting | Phase::Lingering | Phase::Closing(_) => {}
        }
    }
}
