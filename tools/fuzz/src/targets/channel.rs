//! Bytes between nodes: framing, and the encrypted channel under it.

use std::cell::OnceCell;

use netio::{
    FrameReader, assert_chunking_is_invisible,
    channel::{Channel, ChannelConfig, ChannelLimits, Identity, PublicKey},
};

use super::{Verdict, words};

/// Small, so that frames that are too long are met often.
const MAX_FRAME: usize = 300;

/// Frames in a stream: the first 8 bytes say how it is cut into pieces, which must not be seen.
pub fn frame_stream(bytes: &[u8]) -> Verdict {
    let (cuts, stream) = bytes.split_at(bytes.len().min(8));
    assert_chunking_is_invisible(stream, cuts, MAX_FRAME);
    let mut reader = FrameReader::new(MAX_FRAME);
    reader.push(stream, &mut |_| ()).map_err(words)
}

struct Peers {
    client: ChannelConfig,
    server: ChannelConfig,
    server_key: PublicKey,
}

fn with_peers<T>(then: impl FnOnce(&Peers) -> T) -> T {
    thread_local!(static PEERS: OnceCell<Peers> = const { OnceCell::new() });
    PEERS.with(|peers| then(peers.get_or_init(make_peers)))
}

fn make_peers() -> Peers {
    let (client, server) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
    let (client_key, server_key) = (client.public_key(), server.public_key());
    let limits = ChannelLimits { max_frame: MAX_FRAME, max_unsealed: 4096 };
    Peers {
        client: ChannelConfig::new(client, [server_key], limits),
        server: ChannelConfig::new(server, [client_key], limits),
        server_key,
    }
}

/// Bytes of someone without a key, at both ends of a channel: no peer, no frame, whatever comes.
pub fn garbage(bytes: &[u8]) -> Verdict {
    with_peers(|peers| {
        let called = unauthenticated(&mut Channel::server(&peers.server), bytes);
        let calling = unauthenticated(&mut Channel::client(&peers.client, peers.server_key), bytes);
        called.and(calling)
    })
}

fn unauthenticated(channel: &mut Channel, bytes: &[u8]) -> Verdict {
    let result = channel.read_tls(bytes, &mut |_| panic!("a frame of nobody"));
    assert_eq!(channel.peer(), None);
    channel.take_tls();
    result.map_err(words)
}

/// A real connection through someone in the middle, who flips a byte of the stream for each three of `bytes` (direction and
/// distance from the last one; what to flip). Frames arrive as they were sent, or not at all.
pub fn tampered(bytes: &[u8]) -> Verdict {
    const SENT: [&[u8]; 3] = [b"first", &[7; MAX_FRAME], b"last"];
    with_peers(|peers| {
        let mut client = Channel::client(&peers.client, peers.server_key);
        let mut server = Channel::server(&peers.server);
        for frame in SENT {
            client.write_frame(&[frame]).map_err(words)?;
        }
        let mut received = Vec::new();
        let (mut up, mut down) = (Flips::new(bytes, 0), Flips::new(bytes, 0x80));
        let mut result = Ok(());
        while result.is_ok() {
            let to_server = client.take_tls().map(|bytes| up.apply(&bytes));
            let to_client = server.take_tls().map(|bytes| down.apply(&bytes));
            if to_server.is_none() && to_client.is_none() {
                break;
            }
            result =
                server.read_tls(&to_server.unwrap_or_default(), &mut |frame| received.push(frame)).and_then(
                    |()| client.read_tls(&to_client.unwrap_or_default(), &mut |_| panic!("none was sent")),
                );
        }
        assert!(
            received.iter().zip(SENT).all(|(received, sent)| received == sent)
                && received.len() <= SENT.len()
        );
        assert!(
            up.touched || down.touched || received.len() == SENT.len(),
            "an undisturbed channel delivers"
        );
        result.map_err(words)?;
        if received.len() == SENT.len() { Ok(()) } else { Err("it waits for the rest".into()) }
    })
}

/// The flips of one direction.
struct Flips<'a> {
    rest: std::slice::ChunksExact<'a, u8>,
    direction: u8,
    /// Bytes until the next one.
    next: Option<(usize, u8)>,
    touched: bool,
}

impl<'a> Flips<'a> {
    fn new(bytes: &'a [u8], direction: u8) -> Flips<'a> {
        let mut flips = Flips { rest: bytes.chunks_exact(3), direction, next: None, touched: false };
        flips.advance();
        flips
    }

    fn advance(&mut self) {
        let direction = self.direction;
        let next = self.rest.find(|flip| flip[0] & 0x80 == direction);
        self.next = next.map(|flip| (usize::from(u16::from_be_bytes([flip[0] & 0x7f, flip[1]])), flip[2]));
    }

    fn apply(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut start = 0;
        while let Some((distance, flip)) = &mut self.next {
            let Some(byte) = bytes[start..].get_mut(*distance) else {
                *distance -= bytes.len() - start;
                break;
            };
            *byte ^= *flip;
            self.touched |= *flip != 0;
            start += *distance + 1;
            self.advance();
        }
        bytes
    }
}
