//! Clients' TCP connections.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
};

use netio::Packet;
use relay_dp::turn::{Client, Now, frame_len};
use slab::Slab;

use super::{
    Ready, Token,
    meters::{Loss, TurnMeters},
};

/// Bytes that wait for a client that reads too slowly; what comes then is lost.
const MAX_WAITING: usize = 256 << 10;
/// How long a connection may be silent without an allocation, ns.
const PATIENCE: u64 = 60_000_000_000;
/// How long no connection is taken in after one could not be for want of descriptors or memory, ns. The listening socket stays
/// readable meanwhile, and the loop would find it so again and again.
const ACCEPT_PAUSE: u64 = 100_000_000;
/// How often that is looked after, ns.
const LOOK: u64 = 5_000_000_000;
/// Slots have 24 bits in a connection's number.
const SLOT_BITS: u32 = 24;

struct Stream {
    socket: TcpStream,
    client: Client,
    /// The beginning of a frame that is not whole.
    partial: Vec<u8>,
    waiting: Vec<u8>,
    /// Asked to be told when it can be written.
    armed: bool,
    dirty: bool,
    closed: bool,
    last: u64,
}

struct Listener {
    socket: TcpListener,
    /// Until when it is not listened to, ns.
    paused: Option<u64>,
}

/// All connections of a core.
pub struct Streams {
    listeners: Vec<Listener>,
    streams: Slab<Stream>,
    max: usize,
    accepted: u64,
    dirty: Vec<u32>,
    next_look: u64,
}

/// Connections taken in, and bytes read of one, before others have their turn.
const ACCEPTS: usize = 16;
const READ: usize = 4096;

/// Frames in bytes that were read.
pub struct Frames {
    at: usize,
    end: usize,
    broken: bool,
}

impl Frames {
    /// The next whole frame of `bytes`.
    pub fn next(&mut self, bytes: &[u8]) -> Option<Range<usize>> {
        match frame_len(&bytes[self.at..self.end]) {
            Ok(Some(len)) if self.at + len <= self.end => {
                let frame = self.at..self.at + len;
                self.at = frame.end;
                Some(frame)
            }
            Ok(_) => None,
            Err(_) => {
                self.broken = true;
                None
            }
        }
    }
}

impl Streams {
    pub fn new(max: usize) -> Streams {
        let (listeners, streams, dirty) = (Vec::new(), Slab::new(), Vec::new());
        Streams { listeners, streams, max: max.min(1 << SLOT_BITS), accepted: 0, dirty, next_look: 0 }
    }

    /// Takes in what comes to a listening socket.
    pub fn listen(&mut self, listener: TcpListener, ready: &mut Ready) -> io::Result<()> {
        ready.add(&listener, Token::Accept(self.listeners.len()))?;
        self.listeners.push(Listener { socket: listener, paused: None });
        Ok(())
    }

    /// Takes in connections; those beyond the maximum are closed at once.
    pub fn accept(&mut self, index: usize, ready: &mut Ready, meters: &mut TurnMeters, now: Now) {
        for _ in 0..ACCEPTS {
            let (socket, address) = match self.listeners[index].socket.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    if is_want(&error) {
                        meters.refuse_connection();
                        self.pause(index, ready, now);
                    }
                    return; // otherwise there is none, or one that has gone again
                }
            };
            if self.streams.len() >= self.max || socket.set_nonblocking(true).is_err() {
                continue;
            }
            let _ = socket.set_nodelay(true);
            let entry = self.streams.vacant_entry();
            let slot = u32::try_from(entry.key()).expect("fewer than 2^24");
            if ready.add(&socket, Token::Stream(slot)).is_err() {
                continue;
            }
            self.accepted += 1;
            let client = Client::Tcp { connection: self.accepted << SLOT_BITS | u64::from(slot), address };
            entry.insert(Stream {
                socket,
                client,
                partial: Vec::new(),
                waiting: Vec::new(),
                armed: false,
                dirty: false,
                closed: false,
                last: now.ns,
            });
        }
    }

    fn pause(&mut self, index: usize, ready: &mut Ready, now: Now) {
        let listener = &mut self.listeners[index];
        if ready.set_accepting(&listener.socket, Token::Accept(index), false).is_ok() {
            listener.paused = Some(now.ns + ACCEPT_PAUSE);
        }
    }

    /// Listens again where a pause is over.
    pub fn resume(&mut self, ready: &mut Ready, now: Now) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.paused.is_some_and(|until| until <= now.ns)
                && ready.set_accepting(&listener.socket, Token::Accept(index), true).is_ok()
            {
                listener.paused = None;
            }
        }
    }

    /// Whose connection it is; `None` once it is gone.
    pub fn client(&self, slot: u32) -> Option<Client> {
        self.streams.get(slot as usize).map(|stream| stream.client)
    }

    /// Reads what has come behind what was left over.
    pub fn read(&mut self, slot: u32, packet: &mut Packet, now: Now) -> Frames {
        let stream = &mut self.streams[slot as usize];
        stream.last = now.ns;
        let left = stream.partial.len();
        packet.resize(packet.tailroom());
        packet[..left].copy_from_slice(&stream.partial);
        stream.partial.clear();
        let end = packet.len().min(left + READ);
        let read = match stream.socket.read(&mut packet[left..end]) {
            Ok(0) => {
                stream.closed = true;
                0
            }
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                stream.closed = true;
                0
            }
        };
        if !stream.waiting.is_empty() && !stream.dirty {
            stream.dirty = true;
            self.dirty.push(slot);
        }
        Frames { at: 0, end: left + read, broken: false }
    }

    /// Keeps what is left over of `bytes`; ends a connection that can't be followed, or leaves over more than `most` bytes.
    pub fn keep(&mut self, slot: u32, frames: Frames, bytes: &[u8], most: usize) {
        let stream = &mut self.streams[slot as usize];
        stream.closed |= frames.broken || frames.end - frames.at > most;
        stream.partial.extend_from_slice(&bytes[frames.at..frames.end]);
    }

    /// Whether the client has gone, or sent what nobody understands.
    pub fn is_closed(&self, slot: u32) -> bool {
        self.streams.get(slot as usize).is_some_and(|stream| stream.closed)
    }

    /// Closes a connection.
    pub fn remove(&mut self, slot: u32) {
        self.streams.remove(slot as usize);
    }

    /// Queues bytes for a client, if its connection lives and reads.
    pub fn send(&mut self, connection: u64, bytes: &[u8], meters: &mut TurnMeters) {
        let slot = u32::try_from(connection & ((1 << SLOT_BITS) - 1)).expect("24 bits");
        let Some(stream) = self.streams.get_mut(slot as usize) else { return };
        if !matches!(stream.client, Client::Tcp { connection: own, .. } if own == connection) {
            return;
        }
        if stream.waiting.len() + bytes.len() > MAX_WAITING {
            meters.lose(Loss::SocketFull, 1);
            return;
        }
        stream.waiting.extend_from_slice(bytes);
        if !stream.dirty {
            stream.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Writes what waits, as far as it goes.
    pub fn flush(&mut self, ready: &mut Ready) {
        for slot in self.dirty.drain(..) {
            let Some(stream) = self.streams.get_mut(slot as usize) else { continue };
            stream.dirty = false;
            let written = match stream.socket.write(&stream.waiting) {
                Ok(written) => written,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
                // The next read finds out, too.
                Err(_) => stream.waiting.len(),
            };
            stream.waiting.drain(..written);
            let arm = !stream.waiting.is_empty();
            if arm != stream.armed && ready.set_writable(&stream.socket, Token::Stream(slot), arm).is_ok() {
                stream.armed = arm;
            }
        }
    }

    /// When [`expire`](Self::expire) or [`resume`](Self::resume) wants to look again, ns.
    pub fn poll_timeout(&self) -> Option<u64> {
        let look = (!self.streams.is_empty()).then_some(self.next_look);
        self.listeners.iter().filter_map(|listener| listener.paused).chain(look).min()
    }

    /// Closes connections that are silent and hold no allocation.
    pub fn expire(&mut self, now: Now, is_allocated: impl Fn(&Client) -> bool) {
        if now.ns < self.next_look {
            return;
        }
        self.next_look = now.ns + LOOK;
        self.streams.retain(|_, stream| now.ns < stream.last + PATIENCE || is_allocated(&stream.client));
    }
}

/// Whether a connection waits, and this process or machine has nothing left to take it in with.
fn is_want(error: &io::Error) -> bool {
    let want = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| want.contains(&errno))
}
