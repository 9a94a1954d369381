//! Which of many sockets can be read: one epoll descriptor.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

/// Sockets that one call reports at most; the others stay ready.
const MAX: usize = 256;

/// Which socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// A UDP socket that clients send to.
    Listener(usize),
    /// A relayed address, by slot.
    Relay(u32),
    /// A TCP socket that clients connect to.
    Accept(usize),
    /// A client's connection, by slot.
    Stream(u32),
    /// The sockets past the kernel.
    Bypass,
}

impl Token {
    fn data(self) -> EventData {
        let (kind, index) = match self {
            Token::Listener(index) => (0, index as u64),
            Token::Relay(slot) => (1, slot.into()),
            Token::Accept(index) => (2, index as u64),
            Token::Stream(slot) => (3, slot.into()),
            Token::Bypass => (4, 0),
        };
        EventData::new_u64(kind << 32 | index)
    }

    fn from_data(data: EventData) -> Token {
        let word = data.u64();
        let slot = u32::try_from(word & u64::from(u32::MAX)).expect("32 bits");
        match word >> 32 {
            0 => Token::Listener(slot as usize),
            1 => Token::Relay(slot),
            2 => Token::Accept(slot as usize),
            3 => Token::Stream(slot),
            _ => Token::Bypass,
        }
    }
}

/// The descriptor. A socket leaves it by being closed.
pub struct Ready(OwnedFd);

impl Ready {
    pub fn new() -> io::Result<Ready> {
        Ok(Ready(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Reports a socket while it can be read.
    pub fn add(&mut self, socket: &impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, token.data(), EventFlags::IN)?)
    }

    /// Whether to report a listening socket at all.
    pub fn set_accepting(&mut self, socket: &impl AsFd, token: Token, accepting: bool) -> io::Result<()> {
        let events = if accepting { EventFlags::IN } else { EventFlags::empty() };
        Ok(epoll::modify(&self.0, socket, token.data(), events)?)
    }

    /// Whether to report a socket when it can be written, too.
    pub fn set_writable(&mut self, socket: &impl AsFd, token: Token, writable: bool) -> io::Result<()> {
        let writable = if writable { EventFlags::OUT } else { EventFlags::empty() };
        Ok(epoll::modify(&self.0, socket, token.data(), EventFlags::IN | writable)?)
    }

    /// Appends the sockets that are ready.
    pub fn poll(&mut self, tokens: &mut Vec<Token>) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = match epoll::wait(&self.0, &mut events, Some(&now)) {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        tokens.extend(events.iter().map(|event| Token::from_data(event.data)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for token in
            [Token::Listener(3), Token::Relay(u32::MAX), Token::Accept(0), Token::Stream(7), Token::Bypass]
        {
            assert_eq!(Token::from_data(token.data()), token);
        }
    }

    #[test]
    fn what_can_be_read_is_reported() {
        let mut ready = Ready::new().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        ready.add(&socket, Token::Relay(5)).unwrap();
        let mut tokens = Vec::new();
        ready.poll(&mut tokens).unwrap();
        assert_eq!(tokens, []);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        ready.poll(&mut tokens).unwrap();
        assert_eq!(tokens, [Token::Relay(5)]);
    }
}
