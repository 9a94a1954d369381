//! What comes out of the server: datagrams to send, sockets to open and close.

use std::net::SocketAddr;

/// Where a client is: its side of the 5-tuple, and which of our sockets it talks to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Client {
    /// Over UDP.
    Udp {
        /// Which of the caller's sockets.
        socket: u16,
        /// The client.
        address: SocketAddr,
    },
    /// Over a TCP connection.
    Tcp {
        /// Which of the caller's connections; never used twice.
        connection: u64,
        /// The client.
        address: SocketAddr,
    },
}

impl Client {
    /// The client's address as the server sees it.
    pub fn address(&self) -> SocketAddr {
        let (Client::Udp { address, .. } | Client::Tcp { address, .. }) = *self;
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Whether frames stand in a stream, and so are padded.
    pub fn is_stream(&self) -> bool {
        matches!(self, Client::Tcp { .. })
    }
}

/// A relayed address' socket. Its slot is used again, with another generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RelayId {
    /// Slot: small, so that the caller can keep its sockets in a table.
    pub slot: u32,
    /// How often the slot had been used before.
    pub generation: u32,
}

/// Who gets a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// A client.
    Client(Client),
    /// A peer, from a relayed address.
    Peer {
        /// From where.
        relay: RelayId,
        /// To whom.
        address: SocketAddr,
    },
}

/// Which way what is relayed goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From a client.
    ToPeer,
    /// From a peer.
    ToClient,
}

/// Where the bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// In the buffer that the server was called with.
    Room,
    /// In [`Outbox::replies`].
    Replies,
}

/// Datagrams of one receiver, back to back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Send {
    /// Who gets them.
    pub to: To,
    /// Where they lie.
    pub place: Where,
    /// First byte.
    pub start: usize,
    /// Bytes of all.
    pub len: usize,
    /// Bytes of each but the last, which may be shorter.
    pub segment: usize,
    /// With the DF bit set.
    pub dont_fragment: bool,
}

/// What the caller is to do about a relayed address' socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Open one, and tell [`Server::on_opened`](super::Server::on_opened).
    Open {
        /// Its name from now on.
        relay: RelayId,
        /// Where to bind it.
        bind: SocketAddr,
    },
    /// Close it. Nothing is sent from it any more.
    Close {
        /// Which.
        relay: RelayId,
    },
}

/// Effects of one call, reused from call to call. What is to be sent from [`Where::Room`] must be sent, or copied, before
/// the buffer is used for anything else.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Datagrams, in their order.
    pub sends: Vec<Send>,
    /// Sockets to open and close.
    pub effects: Vec<Effect>,
    /// Messages of the server's own.
    pub replies: Vec<u8>,
}

impl Outbox {
    /// Forgets what has been done.
    pub fn clear(&mut self) {
        self.sends.clear();
        self.effects.clear();
        self.replies.clear();
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.effects.is_empty()
    }

    /// Sends the reply that begins at `start`.
    pub(crate) fn reply(&mut self, to: Client, start: usize) {
        let len = self.replies.len() - start;
        self.sends.push(Send {
            to: To::Client(to),
            place: Where::Replies,
            start,
            len,
            segment: len,
            dont_fragment: false,
        });
    }
}
