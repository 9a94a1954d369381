//! What a reactor tells its caller.

use std::io;
use std::net::SocketAddr;

use super::watches::WatchId;
use crate::aligned::AlignedBuf;
use crate::pool::RecvBuf;
use crate::slots::Key;

/// Names a connection. A later connection in the same slot has another id, so a stale one finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId(pub(super) Key);

impl ConnId {
    /// The connection's slot, below [`ReactorConfig::max_connections`](crate::ReactorConfig::max_connections): an
    /// index for the caller's own table. Slots are reused, so keep the id beside what is found there.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.0.index as usize
    }
}

/// Names a registered file. As with [`ConnId`], a stale one is never confused with a later file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileId(pub(super) Key);

/// Why a connection ended.
#[derive(Debug)]
pub enum CloseReason {
    /// [`Reactor::close`](crate::Reactor::close).
    Local,
    /// [`Reactor::close_after_flush`](crate::Reactor::close_after_flush), and everything queued has left.
    Flushed,
    /// The peer closed. Half-closed connections are not kept: what was still queued for it is dropped.
    Peer,
    /// The connection failed.
    Error(io::Error),
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A peer connected to a listener.
    Accepted {
        /// The tag that [`Reactor::listen`](crate::Reactor::listen) was given.
        listener_tag: u64,
        /// The new connection.
        conn: ConnId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// Our connection stands.
    Connected {
        /// The id that [`Reactor::connect`](crate::Reactor::connect) returned.
        conn: ConnId,
        /// The tag it was given.
        tag: u64,
    },
    /// Our connection did not come about. Its id is stale; no `Closed` follows.
    ConnectFailed {
        /// The id that [`Reactor::connect`](crate::Reactor::connect) returned.
        conn: ConnId,
        /// The tag it was given.
        tag: u64,
        /// What the kernel said.
        error: io::Error,
    },
    /// Bytes arrived. Dropping `data` gives its buffer back to the reactor.
    Data {
        /// From where.
        conn: ConnId,
        /// At least one byte.
        data: RecvBuf,
    },
    /// The kernel has taken the last byte queued on a connection.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// A connection ended: its descriptor is closed and its id is stale.
    Closed {
        /// The connection that was.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A [`Reactor::write_durable`](crate::Reactor::write_durable) is over.
    FileDone {
        /// The tag it was given.
        tag: u64,
        /// Its buffer, unchanged.
        buf: AlignedBuf,
        /// `Ok` when every byte is durable. After an error nothing is known about the range on disk, and after a failed
        /// sync it stays unknown: the kernel may have dropped the dirty state, so syncing again proves nothing.
        result: io::Result<()>,
    },
    /// A descriptor under [`Reactor::watch`](crate::Reactor::watch) can be read. It is not watched any more until
    /// [`Reactor::watch_again`](crate::Reactor::watch_again).
    Readable {
        /// Which.
        watch: WatchId,
    },
    /// A [`Waker`](crate::Waker) called.
    Woken,
}
