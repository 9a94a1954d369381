//! An echo server and its load on two threads of one process, one reactor each, over loopback.
//!
//! `cargo run --release -p netio --example echo -- [frame bytes] [frames in flight] [seconds] [plain|tls]`
//!
//! The load keeps a fixed number of frames in flight on one connection and counts those that come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netio::channel::{Channel, ChannelConfig, ChannelLimits, Identity};
use netio::{ConnId, Event, FrameReader, Reactor, ReactorConfig, Wait, encode_frame};

type Error = Box<dyn std::error::Error + Send + Sync>;

const MAX_FRAME: usize = 1 << 20;

/// A stream of frames, in the clear or sealed.
enum Link {
    Plain { reader: FrameReader, out: Vec<u8> },
    Tls(Box<Channel>),
}

impl Link {
    fn plain() -> Self {
        Self::Plain { reader: FrameReader::new(MAX_FRAME), out: Vec::new() }
    }

    fn read(&mut self, bytes: &[u8], mut sink: impl FnMut(Bytes)) -> Result<(), Error> {
        match self {
            Self::Plain { reader, .. } => reader.push(bytes, &mut sink)?,
            Self::Tls(channel) => channel.read_tls(bytes, &mut sink)?,
        }
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), Error> {
        match self {
            Self::Plain { out, .. } => encode_frame(out, &[frame], MAX_FRAME)?,
            Self::Tls(channel) => channel.write_frame(&[frame])?,
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Bytes> {
        match self {
            Self::Plain { out, .. } if out.is_empty() => None,
            Self::Plain { out, .. } => Some(std::mem::take(out).into()),
            Self::Tls(channel) => channel.take_tls(),
        }
    }
}

fn keys() -> (Identity, Identity) {
    (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]))
}

fn server(tls: bool, address: &mpsc::Sender<SocketAddr>) -> Result<(), Error> {
    let (client, server) = keys();
    let config = ChannelConfig::new(server, [client.public_key()], ChannelLimits::default());
    let mut link = if tls { Link::Tls(Box::new(Channel::server(&config))) } else { Link::plain() };
    let mut reactor = Reactor::new(ReactorConfig::default())?;
    address.send(reactor.listen((Ipv4Addr::LOCALHOST, 0).into(), false, 0)?)?;
    println!("features: {}", reactor.features());
    let mut events = Vec::new();
    let mut frames = Vec::new();
    loop {
        reactor.poll(Wait::Forever, &mut events)?;
        let mut talking: Option<ConnId> = None;
        for event in events.drain(..) {
            match event {
                Event::Data { conn, data } => {
                    talking = Some(conn);
                    link.read(&data, |frame| frames.push(frame))?;
                }
                Event::Closed { .. } => return Ok(()),
                _ => {}
            }
        }
        for frame in frames.drain(..) {
            link.write(&frame)?;
        }
        if let (Some(conn), Some(bytes)) = (talking, link.take()) {
            reactor.send(conn, bytes)?;
        }
    }
}

fn load(tls: bool, server: SocketAddr, frame: &[u8], window: u64, length: Duration) -> Result<u64, Error> {
    let (own, peer) = keys();
    let peer = peer.public_key();
    let config = ChannelConfig::new(own, [peer], ChannelLimits::default());
    let mut link = if tls { Link::Tls(Box::new(Channel::client(&config, peer))) } else { Link::plain() };
    let mut reactor = Reactor::new(ReactorConfig::default())?;
    let conn = reactor.connect(server, 0)?;
    let mut events = Vec::new();
    let (mut sent, mut received) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < length {
        reactor.poll(Wait::For(Duration::from_millis(10)), &mut events)?;
        let mut open = false;
        for event in events.drain(..) {
            match event {
                Event::Connected { .. } => open = true,
                Event::Data { data, .. } => {
                    open = true;
                    link.read(&data, |_| received += 1)?;
                }
                Event::ConnectFailed { error, .. } => return Err(error.into()),
                Event::Closed { reason, .. } => return Err(format!("closed: {reason:?}").into()),
                _ => {}
            }
        }
        if !open {
            continue;
        }
        while sent - received < window {
            link.write(frame)?;
            sent += 1;
        }
        if let Some(bytes) = link.take() {
            reactor.send(conn, bytes)?;
        }
    }
    let counters = reactor.counters();
    println!("{} sends, {} receives, {} turns", counters.sends, counters.receives, counters.polls);
    Ok(received)
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (size, window, seconds) = (number(256)?, number(64)?, number(3)?);
    let tls = arguments.next().is_some_and(|mode| mode == "tls");
    let frame = vec![0x5a; usize::try_from(size)?];
    let (address, listening) = mpsc::channel();
    let serving = std::thread::spawn(move || server(tls, &address));
    let received = load(tls, listening.recv()?, &frame, window, Duration::from_secs(seconds))?;
    serving.join().map_err(|_| "the server panicked")??;
    let rate = received / seconds;
    println!("{rate} frames/s there and back, {} MB/s each way", rate * size / 1_000_000);
    Ok(())
}
