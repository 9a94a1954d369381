//! The life of a connection: begin, pause, end.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;

use bytes::Bytes;
use io_uring::{opcode, types};
use socket2::SockAddr;

use super::{CloseReason, ConnId, Event, Reactor};
use crate::ring::{Completion, Op, OpKind};
use crate::send_queue::SendError;
use crate::slots::Key;
use crate::tcp::{self, Conn, Phase, RecvState};

impl Reactor {
    /// Begins to connect to `addr`. [`Event::Connected`] or [`Event::ConnectFailed`] says how it went; the kernel
    /// gives up after minutes, so keep a deadline and [`close`](Self::close) when it passes.
    ///
    /// # Errors
    /// What `socket` says, and `QuotaExceeded` when the connection table is full.
    pub fn connect(&mut self, addr: SocketAddr, tag: u64) -> io::Result<ConnId> {
        if self.conns.is_full() {
            self.counters.refused += 1;
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections"));
        }
        let socket = tcp::connecting_socket(addr, self.config.user_timeout)?;
        let fd = types::Fd(socket.as_raw_fd());
        let address = Box::new(SockAddr::from(addr));
        let connect = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        let mut conn = Conn::new(socket, tag, Phase::Connecting, self.config.send_queue_bytes);
        conn.address = Some(address);
        conn.in_flight = 1;
        let Ok(key) = self.conns.insert(conn) else { unreachable!("the table was not full") };
        // SAFETY: the slot keeps the socket and the boxed address until the connect has completed.
        unsafe { self.ring.push(Op { kind: OpKind::Connect, key }, connect) };
        Ok(ConnId(key))
    }

    /// Queues `bytes` for sending. Everything queued on a connection before the next [`poll`](Self::poll), or while
    /// an earlier send is in flight, leaves in one gathered send.
    ///
    /// # Errors
    /// [`SendError::Full`] when [`ReactorConfig::send_queue_bytes`](super::ReactorConfig::send_queue_bytes) would be
    /// exceeded (nothing is queued then), [`SendError::Closed`] when the connection is not open.
    pub fn send(&mut self, conn: ConnId, bytes: Bytes) -> Result<(), SendError> {
        let key = conn.0;
        let conn = self.conns.get_mut(key).ok_or(SendError::Closed)?;
        if !matches!(conn.phase, Phase::Open) {
            return Err(SendError::Closed);
        }
        conn.out.push(bytes).inspect_err(|_| self.counters.send_queue_full += 1)?;
        self.mark_dirty(key);
        Ok(())
    }

    /// Bytes queued on a connection that the kernel has not taken; zero for a stale id.
    #[must_use]
    pub fn queued(&self, conn: ConnId) -> usize {
        self.conns.get(conn.0).map_or(0, |conn| conn.out.bytes())
    }

    /// Stops receiving, so that the peer is slowed by its full window. What was received before the kernel heard of
    /// it is still delivered. That the peer has closed is not noticed while paused.
    pub fn pause(&mut self, conn: ConnId) {
        let key = conn.0;
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.paused = true;
        if conn.recv == RecvState::Armed && !conn.wants_recv() {
            conn.recv = RecvState::Cancelling;
            self.cancel_for(key, OpKind::Recv);
        }
    }

    /// Receives again after [`pause`](Self::pause).
    pub fn resume(&mut self, conn: ConnId) {
        let key = conn.0;
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.paused = false;
        self.arm_recv_if_wanted(key);
    }

    /// Ends a connection, or an attempt to connect, at once; what is queued is dropped. [`Event::Closed`] follows
    /// when the slot is free. A stale id is ignored.
    pub fn close(&mut self, conn: ConnId) {
        self.begin_close(conn.0, CloseReason::Local);
    }

    /// Ends a connection when everything queued has left: no more can be queued, and nothing received is delivered.
    /// After the last byte our direction is shut, and the peer has
    /// [`ReactorConfig::linger`](super::ReactorConfig::linger) to read and close. A peer that never reads keeps the
    /// connection, so keep a deadline and [`close`](Self::close) when it passes.
    pub fn close_after_flush(&mut self, conn: ConnId) {
        let key = conn.0;
        let Some(conn) = self.conns.get_mut(key) else { return };
        match conn.phase {
            Phase::Open if conn.out.bytes() == 0 => self.start_linger(key),
            Phase::Open => conn.phase = Phase::Flushing,
            Phase::Connecting => self.begin_close(key, CloseReason::Local),
            Phase::Flushing | Phase::Lingering | Phase::Closing(_) => {}
        }
    }

    pub(super) fn on_connect(&mut self, key: Key, completion: Completion) {
        let conn = self.conn_of_completion(key);
        conn.in_flight -= 1;
        conn.address = None;
        if let Phase::Closing(_) = conn.phase {
            return self.finish_if_idle(key);
        }
        let tag = conn.tag;
        let outcome = match completion.outcome() {
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
            Ok(_) if tcp::connected_to_itself(&conn.socket) => Err(io::ErrorKind::ConnectionRefused.into()),
            Ok(_) => Ok(()),
        };
        match outcome {
            Ok(()) => {
                conn.phase = Phase::Open;
                self.counters.connected += 1;
                self.ready.push(Event::Connected { conn: ConnId(key), tag });
                self.arm_recv_if_wanted(key);
            }
            Err(error) => {
                assert_eq!(conn.in_flight, 0, "a connecting socket has no other operation");
                self.conns.remove(key);
                self.counters.connect_failed += 1;
                self.ready.push(Event::ConnectFailed { conn: ConnId(key), tag, error });
            }
        }
    }

    /// The connection that a completion belongs to.
    pub(super) fn conn_of_completion(&mut self, key: Key) -> &mut Conn {
        self.conns.get_mut(key).expect("a slot is kept until its last operation has ended")
    }

    /// Sends our end of stream and gives the peer time to read up to it. See [`Phase::Lingering`].
    pub(super) fn start_linger(&mut self, key: Key) {
        let conn = self.conns.get_mut(key).expect("the caller has looked it up");
        if conn.peer_finished || conn.socket.shutdown(Shutdown::Write).is_err() {
            return self.begin_close(key, CloseReason::Flushed);
        }
        conn.phase = Phase::Lingering;
        conn.lingering = true;
        conn.in_flight += 1;
        self.set_timer(OpKind::Linger, key);
        self.arm_recv_if_wanted(key);
    }

    pub(super) fn on_linger_over(&mut self, key: Key) {
        let conn = self.conn_of_completion(key);
        conn.in_flight -= 1;
        conn.lingering = false;
        self.begin_close(key, CloseReason::Flushed);
        self.finish_if_idle(key);
    }

    /// Starts to end a connection, unless it is ending already: the first reason stands.
    pub(super) fn begin_close(&mut self, key: Key, reason: CloseReason) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let targets = match conn.phase {
            Phase::Closing(_) => return,
            Phase::Connecting => [true, false, false, false],
            _ => {
                // Ends receive and send even where a cancellation would come too late. It fails only on a socket that
                // is no longer connected.
                let _unconnected = conn.socket.shutdown(Shutdown::Both);
                [false, conn.recv == RecvState::Armed, conn.out.in_flight(), conn.lingering]
            }
        };
        conn.phase = Phase::Closing(reason);
        let kinds = [OpKind::Connect, OpKind::Recv, OpKind::Send, OpKind::Linger];
        for (kind, _) in kinds.into_iter().zip(targets).filter(|(_, in_flight)| *in_flight) {
            self.cancel_for(key, kind);
        }
        self.finish_if_idle(key);
    }

    fn cancel_for(&mut self, key: Key, kind: OpKind) {
        self.conns.get_mut(key).expect("the caller has looked it up").in_flight += 1;
        self.cancel(OpKind::ConnCancel, Op { kind, key });
    }

    pub(super) fn on_conn_cancel(&mut self, key: Key) {
        self.conn_of_completion(key).in_flight -= 1;
        self.finish_if_idle(key);
    }

    /// Frees the slot of a closing connection whose last operation has ended.
    pub(super) fn finish_if_idle(&mut self, key: Key) {
        let Some(Conn { phase: Phase::Closing(_), in_flight: 0, .. }) = self.conns.get(key) else { return };
        let conn = self.conns.remove(key).expect("just seen");
        let Phase::Closing(reason) = conn.phase else { unreachable!("just seen") };
        assert!(conn.recv_buffer.is_none(), "an ended receive has given its buffer back");
        if conn.recv == RecvState::Starved {
            self.starved.retain(|starved| *starved != key);
        }
        self.counters.closed += 1;
        self.ready.push(Event::Closed { conn: ConnId(key), reason });
    }
}
