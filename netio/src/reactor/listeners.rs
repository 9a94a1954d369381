//! Listening sockets and what comes in through them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::{opcode, types};
use socket2::Socket;

use super::{ConnId, Event, Reactor};
use crate::probe::Features;
use crate::ring::{Completion, Op, OpKind};
use crate::slots::Key;
use crate::tcp::{self, Conn, Phase};

pub(super) struct Listener {
    socket: Socket,
    tag: u64,
}

impl Reactor {
    /// Listens on `addr` and returns the bound address (port 0 picks one). With `reuse_port`, several reactors listen
    /// on one address and the kernel spreads the connections over them. Listeners stay until the reactor is dropped.
    ///
    /// # Errors
    /// What `socket`, `bind` and `listen` say (`AddrInUse`, `PermissionDenied`, …), and `QuotaExceeded` beyond
    /// [`ReactorConfig::max_listeners`](super::ReactorConfig::max_listeners).
    pub fn listen(&mut self, addr: SocketAddr, reuse_port: bool, tag: u64) -> io::Result<SocketAddr> {
        let socket = tcp::listening_socket(addr, reuse_port)?;
        let bound = tcp::local_address(&socket)?;
        let key = self
            .listeners
            .insert(Listener { socket, tag })
            .map_err(|_| io::Error::new(io::ErrorKind::QuotaExceeded, "too many listeners"))?;
        self.arm_accept(key);
        Ok(bound)
    }

    fn arm_accept(&mut self, key: Key) {
        if self.stopping {
            return;
        }
        let listener = self.listeners.get(key).expect("listeners stay until the reactor is dropped");
        let fd = types::Fd(listener.socket.as_raw_fd());
        let accept = if self.features.contains(Features::MULTISHOT_ACCEPT) {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let no_address = std::ptr::null_mut();
            opcode::Accept::new(fd, no_address, std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
        };
        // SAFETY: the socket stays open until the reactor is dropped, which waits for this; no memory is named.
        unsafe { self.ring.push(Op { kind: OpKind::Accept, key }, accept) };
    }

    pub(super) fn on_accept(&mut self, key: Key, completion: Completion) {
        match completion.outcome() {
            Ok(descriptor) => {
                let descriptor = i32::try_from(descriptor).expect("a descriptor came as an i32");
                // SAFETY: the accept opened it for us and no one else knows it.
                self.adopt(key, unsafe { OwnedFd::from_raw_fd(descriptor) });
                if !completion.more() {
                    self.arm_accept(key);
                }
            }
            Err(libc::ECANCELED) => {}
            Err(errno) => {
                self.counters.accept_errors += 1;
                if completion.more() {
                    return;
                }
                // Trying again at once is right when the trouble was one peer's, and a busy loop when it is ours.
                match errno {
                    libc::ECONNABORTED | libc::EINTR | libc::EAGAIN => self.arm_accept(key),
                    _ if !self.stopping => self.set_timer(OpKind::AcceptRetry, key),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn on_accept_retry(&mut self, key: Key) {
        self.arm_accept(key);
    }

    fn adopt(&mut self, listener: Key, descriptor: OwnedFd) {
        if self.conns.is_full() || self.stopping {
            self.counters.refused += 1;
            return;
        }
        let listener_tag = self.listeners.get(listener).expect("listeners stay").tag;
        let socket = Socket::from(descriptor);
        // A multishot accept has no room for each peer's address, so it is asked for. Either fails only when the
        // peer has already reset the connection.
        let (Ok(peer), Ok(())) = (tcp::peer_address(&socket), tcp::tune(&socket, self.config.user_timeout))
        else {
            self.counters.accept_errors += 1;
            return;
        };
        let conn = Conn::new(socket, listener_tag, Phase::Open, self.config.send_queue_bytes);
        let Ok(key) = self.conns.insert(conn) else { unreachable!("the table was not full") };
        self.counters.accepted += 1;
        self.ready.push(Event::Accepted { listener_tag, conn: ConnId(key), peer });
        self.arm_recv(key);
    }

    pub(super) fn cancel_listeners(&mut self) {
        let keys: Vec<Key> = self.listeners.keys().collect();
        for key in keys {
            self.cancel(OpKind::Cancel, Op { kind: OpKind::Accept, key });
            self.cancel(OpKind::Cancel, Op { kind: OpKind::AcceptRetry, key });
        }
    }
}
