//! One TCP connection's state, and the socket calls around it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use crate::reactor::CloseReason;
use crate::send_queue::SendQueue;

/// Connections that the kernel may hold between handshake and accept.
const LISTEN_BACKLOG: i32 = 1024;

/// Where a connection is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Our connect is in flight.
    Connecting,
    /// Bytes flow.
    Open,
    /// No new bytes are taken; what is queued still leaves.
    Flushing,
    /// All has left and our direction is shut; incoming bytes are dropped until the peer has read ours and closes,
    /// or the linger time is over. Closing earlier with unread bytes would reset the connection, and a reset
    /// destroys what the peer has not read yet.
    Lingering,
    /// Operations are being cancelled; the slot is freed when the last has ended.
    Closing(CloseReason),
}

/// The one receive of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvState {
    /// Not armed.
    Idle,
    /// Not armed for want of a buffer; queued to be.
    Starved,
    /// Armed.
    Armed,
    /// Armed, and a cancellation is on its way.
    Cancelling,
}

/// A connection's slot. It owns whatever the kernel reads or writes for it, until `in_flight` is zero.
pub(crate) struct Conn {
    pub(crate) socket: Socket,
    pub(crate) tag: u64,
    pub(crate) phase: Phase,
    pub(crate) recv: RecvState,
    /// The caller asked not to receive.
    pub(crate) paused: bool,
    /// The peer has shut its direction.
    pub(crate) peer_finished: bool,
    /// The buffer that the armed receive holds, on kernels without buffer rings.
    pub(crate) recv_buffer: Option<u32>,
    pub(crate) out: SendQueue,
    /// Queued for the flush at the start of the next turn.
    pub(crate) dirty: bool,
    /// Where to connect to, while connecting. Boxed: the kernel holds its address.
    pub(crate) address: Option<Box<SockAddr>>,
    /// The linger timer is running.
    pub(crate) lingering: bool,
    /// Operations of this connection that have not ended.
    pub(crate) in_flight: u32,
}

impl Conn {
    pub(crate) fn new(socket: Socket, tag: u64, phase: Phase, send_queue_bytes: usize) -> Self {
        Self {
            socket,
            tag,
            phase,
            recv: RecvState::Idle,
            paused: false,
            peer_finished: false,
            recv_buffer: None,
            out: SendQueue::new(send_queue_bytes),
            dirty: false,
            address: None,
            lingering: false,
            in_flight: 0,
        }
    }

    /// Whether a receive should be armed.
    pub(crate) fn wants_recv(&self) -> bool {
        let reading = match self.phase {
            Phase::Open | Phase::Flushing => !self.paused,
            Phase::Lingering => true,
            Phase::Connecting | Phase::Closing(_) => false,
        };
        reading && !self.peer_finished
    }

    /// Whether received bytes are the caller's business.
    pub(crate) fn delivers(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether queued bytes should leave.
    pub(crate) fn sends(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing)
    }
}

/// Whether nobody listens on an address: opens what [`Reactor::listen`](crate::Reactor::listen) would, unshared, and closes it again.
///
/// # Errors
/// The port is taken, or not to be had.
pub fn check_port(addr: SocketAddr) -> io::Result<()> {
    listening_socket(addr, false).map(drop)
}

/// A bound and listening socket.
pub(crate) fn listening_socket(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = stream_socket(addr)?;
    // A restarted node must get its port back while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// A socket ready to connect to `addr`.
pub(crate) fn connecting_socket(addr: SocketAddr, user_timeout: Duration) -> io::Result<Socket> {
    let socket = stream_socket(addr)?;
    tune(&socket, user_timeout)?;
    Ok(socket)
}

/// Sends at once, and gives up on a peer that has not acknowledged anything for so long (RFC 5482), whether there is something
/// to send or not.
pub(crate) fn tune(socket: &Socket, user_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    let probes = TcpKeepalive::new().with_time(user_timeout).with_interval(user_timeout / 4);
    socket.set_tcp_keepalive(&probes)
}

/// Blocking mode on purpose: io_uring tries without blocking by itself, and fails operations on non-blocking sockets
/// instead of waiting for them.
fn stream_socket(addr: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM.cloexec(), Some(Protocol::TCP))
}

/// Who is at the other end.
pub(crate) fn peer_address(socket: &Socket) -> io::Result<SocketAddr> {
    internet_address(socket.peer_addr()?)
}

/// Our end of a socket.
pub(crate) fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    internet_address(socket.local_addr()?)
}

fn internet_address(addr: SockAddr) -> io::Result<SocketAddr> {
    addr.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an internet address"))
}

/// Whether a connection ended up at its own source port. On loopback, a connect to a port of the ephemeral range on
/// which no one listens can meet itself (a simultaneous open of one socket) and succeed.
pub(crate) fn connected_to_itself(socket: &Socket) -> bool {
    let ends = SockRef::from(socket).local_addr().ok().zip(SockRef::from(socket).peer_addr().ok());
    ends.is_some_and(|(local, peer)| local.as_socket() == peer.as_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_socket_that_met_itself_is_recognised() {
        let listener = listening_socket((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        let addr = local_address(&listener).unwrap();
        let honest = connecting_socket(addr, Duration::from_secs(9)).unwrap();
        assert_eq!(honest.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));
        assert!(honest.keepalive().unwrap() && honest.tcp_nodelay().unwrap());
        honest.connect(&addr.into()).unwrap();
        assert!(!connected_to_itself(&honest));

        let narcissus = connecting_socket(addr, Duration::from_secs(9)).unwrap();
        narcissus.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        narcissus.connect(&narcissus.local_addr().unwrap()).unwrap();
        assert!(connected_to_itself(&narcissus));
    }
}
