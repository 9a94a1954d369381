//! The connection for loops: nothing here waits.

use std::{
    io::{self, IoSlice, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use dag::{client::Response, wire::WireError};
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with},
};

use super::FrameBuffer;

/// A non-blocking connection to a node's submission port.
///
/// Poll it for [`interest`](Self::interest). When it is ready: until it [is up](Self::is_up), call
/// [`finish_connect`](Self::finish_connect); from then on [`flush`](Self::flush), [`fill`](Self::fill), and
/// [`take`](Self::take) until that gives nothing. After any error it is of no further use.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
    up: bool,
    inbound: FrameBuffer,
    /// What the socket did not take of the last frame, from `leftover_start` on.
    leftover: Vec<u8>,
    leftover_start: usize,
}

impl Link {
    /// Begins to connect.
    ///
    /// # Errors
    /// The system's, where it fails at once.
    pub fn start(address: SocketAddr) -> io::Result<Link> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        Ok(Link { socket, up: false, inbound: FrameBuffer::new(), leftover: Vec::new(), leftover_start: 0 })
    }

    /// What to poll for.
    pub fn interest(&self) -> PollFlags {
        match (self.up, self.is_clear()) {
            (false, _) => PollFlags::OUT,
            (true, true) => PollFlags::IN,
            (true, false) => PollFlags::IN | PollFlags::OUT,
        }
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Looks whether the connection stands now.
    ///
    /// # Errors
    /// Why it does not and never will.
    pub fn finish_connect(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        self.up = match self.socket.peer_addr() {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => false,
            Err(error) => return Err(error),
        };
        Ok(self.up)
    }

    /// Whether the last frame has left, so that the next may be sent.
    pub fn is_clear(&self) -> bool {
        self.leftover_start == self.leftover.len()
    }

    /// Sends a frame that lies in two parts. What the socket does not take is kept for [`flush`](Self::flush).
    ///
    /// # Errors
    /// The connection is lost.
    ///
    /// # Panics
    /// Where the link is not [clear](Self::is_clear).
    pub fn send(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        assert!(self.is_clear(), "a frame is sent after the one before it has left");
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        let sent = retry(|| self.socket.write_vectored(&parts))?;
        self.leftover.clear();
        self.leftover_start = 0;
        self.leftover.extend_from_slice(head.get(sent..).unwrap_or_default());
        self.leftover.extend_from_slice(&body[sent.saturating_sub(head.len())..]);
        Ok(())
    }

    /// Goes on with a frame that is partly sent.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.is_clear() {
            self.leftover_start += retry(|| self.socket.write(&self.leftover[self.leftover_start..]))?;
        }
        Ok(())
    }

    /// Reads once what has arrived, if anything.
    ///
    /// # Errors
    /// The connection is lost or at its end.
    pub fn fill(&mut self) -> io::Result<()> {
        match self.inbound.fill(&mut self.socket) {
            Err(error) if is_transient(&error) => Ok(()),
            other => other,
        }
    }

    /// Takes out the next response.
    ///
    /// # Errors
    /// The node does not keep to the protocol: the connection has to be given up.
    pub fn take(&mut self) -> Result<Option<Response>, WireError> {
        self.inbound.take()?.map(Response::parse).transpose()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A full socket takes zero bytes.
fn retry(write: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    match write() {
        Err(error) if is_transient(&error) => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener};

    use dag::{
        Address,
        client::{Code, Reply, encode_account},
    };
    use rustix::event::{PollFd, Timespec, poll};

    use super::*;

    fn wait(link: &Link) {
        let mut fds = [PollFd::from_borrowed_fd(link.as_fd(), link.interest())];
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1);
    }

    fn connected() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut link = Link::start(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        wait(&link);
        assert!(link.finish_connect().unwrap() && link.is_up());
        (link, peer)
    }

    #[test]
    fn a_full_socket_keeps_frames_whole_and_in_order() {
        let (mut link, mut peer) = connected();
        let body = vec![7; 200_000];
        let mut frames = 0;
        while link.is_clear() {
            link.send(&[1, 2, 3], &body).unwrap();
            frames += 1;
        }
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        while !link.is_clear() {
            wait(&link);
            link.flush().unwrap();
        }
        drop(link);
        let received = reader.join().unwrap();
        assert_eq!(received.len(), frames * (3 + body.len()));
        assert!(received.chunks(3 + body.len()).all(|frame| frame[..3] == [1, 2, 3] && frame[3..] == body));
    }

    #[test]
    fn responses_arrive_and_the_end_is_seen() {
        let (mut link, mut peer) = connected();
        let mut question = Vec::new();
        encode_account(1, &Address([2; 32]), &mut question);
        link.send(&question, &[]).unwrap();
        let mut received = vec![0; question.len()];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received, question);

        assert_eq!(link.take(), Ok(None));
        let response = Response::Replies(vec![Reply::refused(5, Code::Overdraft)]);
        let mut frame = Vec::new();
        response.encode_frame(&mut frame);
        peer.write_all(&frame).unwrap();
        wait(&link);
        link.fill().unwrap();
        assert_eq!(link.take(), Ok(Some(response)));
        drop(peer);
        wait(&link);
        assert!(link.fill().is_err());
    }

    #[test]
    fn a_refused_connection_is_an_error() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = Link::start(address).and_then(|mut link| {
            wait(&link);
            link.finish_connect()
        });
        assert!(refused.is_err());
    }
}
