//! STUN messages, and a whole TURN server under a script of datagrams.

use std::net::SocketAddr;

use relay_dp::turn::{
    Client, Config, Drop, Effect, Now, Outbox, PeerFilter, RelayId, RelayIp, Server, To, Train, Where,
    client::Requester,
    frame_len,
    stun::{Integrity, Key, Keys, Message, Writer, attribute, decode_xor_address, method},
};

use super::{Verdict, words};
use crate::samples::Sample;

/// Room in front of and behind what comes in.
const ROOM: usize = 512;

/// A message, read and written again.
pub fn stun(bytes: &[u8]) -> Verdict {
    let framed = frame_len(bytes);
    let message = Message::parse(bytes).map_err(words)?;
    assert_eq!(framed, Ok(Some(bytes.len())), "a message is a frame of a stream");
    let mut again = Vec::new();
    let mut writer = Writer::new(&mut again, message.class(), message.method(), message.transaction());
    for found in message.attributes() {
        assert_eq!(&bytes[found.offset..found.offset + found.value.len()], found.value);
        decode_xor_address(found.value, message.transaction());
        writer.attribute(found.kind, found.value);
    }
    let key = Key(b"key");
    if let Some(integrity) = message.integrity() {
        message.is_intact(key);
        writer.integrity(integrity, key);
    }
    writer.fingerprint();
    let again = Message::parse(&again).expect("what is written can be read");
    assert!(
        again.attributes().map(|a| (a.kind, a.value)).eq(message.attributes().map(|a| (a.kind, a.value)))
    );
    assert_eq!(message.integrity().is_some(), again.is_intact(key));
    Ok(())
}

fn server_under_test() -> Server {
    let ip = |text: &str| {
        let ip = text.parse().expect("an address");
        Some(RelayIp { bind: ip, public: ip })
    };
    let config = Config {
        realm: REALM.into(),
        users: vec![(USER.into(), PASSWORD.into())],
        ipv4: ip("192.0.2.1"),
        ipv6: ip("2001:db8::1"),
        ports: 50_000..=50_015,
        peers: PeerFilter::new(vec!["203.0.113.0/24".parse().expect("a network")], Vec::new()),
        max_allocations: 4,
        max_allocations_per_user: 3,
        dont_fragment: true,
        ..Config::default()
    };
    Server::new(config, &[1; 32]).expect("a good configuration")
}

const REALM: &str = "r";
const USER: &str = "u";
const PASSWORD: &str = "p";

/// A script: for each step one byte of kind, one of detail, two of length, then what comes in. Requests get a right nonce and
/// integrity where the kind says so: no mutation guesses them, and a hostile user has them.
pub fn server(bytes: &[u8]) -> Verdict {
    let mut world = World::new();
    let mut rest = bytes;
    while let Some(([kind, detail, l0, l1], tail)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([*l0, *l1])).min(tail.len());
        let (input, tail) = tail.split_at(len);
        rest = tail;
        world.step(*kind, *detail, input);
    }
    let World { server, sockets, .. } = &world;
    assert!(server.allocations() <= 4 && sockets.len() <= 16);
    assert!(server.allocations() > 0 || sockets.iter().flatten().count() <= 8, "reserved ports at most");
    let refused = server.counters().refused().find(|(error, count)| *count > 0 && error.code() != 401);
    let dropped = Drop::ALL.into_iter().find(|cause| server.counters().dropped(*cause) > 0);
    match (world.relayed, refused, dropped) {
        (true, None, None) => Ok(()),
        (relayed, refused, dropped) => {
            let refused = refused.map_or("nothing", |(error, _)| error.reason());
            let dropped = dropped.map_or("nothing", |cause| cause.name());
            Err(format!("relayed: {relayed}, refused: {refused}, dropped: {dropped}"))
        }
    }
}

struct World {
    server: Server,
    now: Now,
    sockets: Vec<Option<RelayId>>,
    keys: Keys,
    nonce: Vec<Option<Vec<u8>>>,
    relayed: bool,
}

fn client(detail: u8) -> Client {
    let address = SocketAddr::new([198, 51, 100, 7].into(), 1 + u16::from(detail & 3));
    if detail & 4 == 0 { Client::Udp { socket: 0, address } } else { Client::Tcp { connection: 1, address } }
}

impl World {
    fn new() -> World {
        World {
            server: server_under_test(),
            now: Now { ns: 0, unix: 0 },
            sockets: Vec::new(),
            keys: Keys::new(USER.as_bytes(), REALM.as_bytes(), PASSWORD.as_bytes()),
            nonce: vec![None; 8],
            relayed: false,
        }
    }

    fn step(&mut self, kind: u8, detail: u8, input: &[u8]) {
        let mut out = Outbox::default();
        let mut room = vec![0; 2 * ROOM + input.len() * 16];
        match kind % 4 {
            0 | 1 => {
                let signed = if kind % 4 == 1 { self.signed(detail, input) } else { None };
                let bytes = signed.as_deref().unwrap_or(input);
                room.resize(2 * ROOM + bytes.len() * 16, 0);
                room[ROOM..ROOM + bytes.len()].copy_from_slice(bytes);
                // Channel data comes in trains; a signed request alone.
                let segment =
                    if signed.is_some() { bytes.len() } else { usize::from(detail >> 3).max(1) * 12 };
                let segment =
                    if bytes.first().is_some_and(|first| first & 0xc0 == 0) { bytes.len() } else { segment };
                let train = Train { room: &mut room, start: ROOM, len: bytes.len(), segment: segment.max(1) };
                self.server.handle_client(client(detail), train, self.now, &mut out);
            }
            2 => {
                room[ROOM..ROOM + input.len()].copy_from_slice(input);
                let slot = usize::from(detail & 7);
                let Some(Some(relay)) = self.sockets.get(slot) else { return };
                let from = SocketAddr::new(
                    [203, 0, 113, 1 + (detail >> 3 & 1)].into(),
                    1 + u16::from(detail >> 4 & 1),
                );
                let segment = usize::from(detail >> 5).max(1) * 7;
                let train = Train { room: &mut room, start: ROOM, len: input.len(), segment };
                self.server.handle_peer(*relay, from, train, self.now, &mut out);
            }
            _ => {
                self.now.ns += u64::from(detail) * 10_000_000_000;
                self.now.unix += u64::from(detail) * 10;
                self.server.handle_timeout(self.now, &mut out);
                assert!(self.server.poll_timeout().is_none_or(|at| at > self.now.ns));
            }
        }
        self.carry_out(detail, &room, &mut out);
    }

    /// The request with our user's credentials at its end.
    fn signed(&self, detail: u8, input: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(input).ok()?;
        let nonce = self.nonce[usize::from(detail & 7)].as_ref()?;
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, message.class(), message.method(), message.transaction());
        for found in message
            .attributes()
            .filter(|found| !matches!(found.kind, attribute::USERNAME | attribute::REALM | attribute::NONCE))
        {
            writer.attribute(found.kind, found.value);
        }
        writer
            .attribute(attribute::USERNAME, USER.as_bytes())
            .attribute(attribute::REALM, REALM.as_bytes())
            .attribute(attribute::NONCE, nonce)
            .integrity(Integrity::Sha1, self.keys.md5());
        Some(bytes)
    }

    fn carry_out(&mut self, detail: u8, room: &[u8], out: &mut Outbox) {
        let mut done = 0;
        while done < out.effects.len() {
            match out.effects[done] {
                Effect::Open { relay, .. } => {
                    let slot = relay.slot as usize;
                    self.sockets.resize(self.sockets.len().max(slot + 1), None);
                    assert!(self.sockets[slot].replace(relay).is_none(), "a slot is used once");
                    self.server.on_opened(relay, detail != 0xff, self.now, out);
                }
                Effect::Close { relay } => {
                    assert_eq!(self.sockets[relay.slot as usize].take(), Some(relay), "closed once");
                }
            }
            done += 1;
        }
        for send in &out.sends {
            let from = if send.place == Where::Room { room } else { &out.replies };
            let bytes = &from[send.start..send.start + send.len];
            match send.to {
                To::Peer { relay, .. } => {
                    assert_eq!(self.sockets[relay.slot as usize], Some(relay), "from an open socket");
                    self.relayed = true;
                }
                To::Client(_) if send.place == Where::Room => self.relayed = true,
                To::Client(client) => {
                    let message = Message::parse(bytes).expect("answers can be read");
                    let place =
                        usize::from(client.address().port() - 1) + 4 * usize::from(client.is_stream());
                    if let Some(nonce) = message.find(attribute::NONCE) {
                        self.nonce[place] = Some(nonce.into());
                    }
                }
            }
        }
    }
}

fn request(method: u16, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    Requester::new(USER, PASSWORD, Integrity::Sha1, 1).request(method, fill)
}

fn peer() -> SocketAddr {
    SocketAddr::new([203, 0, 113, 1].into(), 1)
}

fn allocate(writer: &mut Writer<'_>) {
    writer.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
}

fn bind(writer: &mut Writer<'_>) {
    writer
        .attribute(attribute::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
        .xor_address(attribute::XOR_PEER_ADDRESS, &peer());
}

/// Valid messages.
pub fn requests() -> Vec<Sample> {
    vec![
        ("binding", request(method::BINDING, |_| {})),
        ("allocate", request(method::ALLOCATE, allocate)),
        ("bind", request(method::CHANNEL_BIND, bind)),
        (
            "protected",
            request(method::REFRESH, |writer| {
                writer.attribute(attribute::LIFETIME, &[0; 4]).integrity(Integrity::Sha1, Key(b"key"));
            }),
        ),
        (
            "protected_twice",
            request(method::SEND, |writer| {
                writer.integrity(Integrity::Sha1, Key(b"key")).integrity(Integrity::Sha256, Key(b"key"));
            }),
        ),
    ]
}

/// Scripts that relay something.
pub fn scripts() -> Vec<Sample> {
    let step = |kind: u8, detail: u8, input: &[u8]| {
        let len = u16::try_from(input.len()).expect("short").to_be_bytes();
        [&[kind, detail], &len[..], input].concat()
    };
    let ask = |method, fill: fn(&mut Writer<'_>), detail| step(1, detail, &request(method, fill));
    let start = |client: u8, fill: fn(&mut Writer<'_>)| {
        [ask(method::ALLOCATE, fill, client), ask(method::ALLOCATE, fill, client)].concat()
    };
    let data = [&[0x40, 0, 0, 8][..], &[7; 8]].concat().repeat(3);
    let mut send = Vec::new();
    Writer::new(&mut send, relay_dp::turn::stun::Class::Indication, method::SEND, &[2; 12])
        .xor_address(attribute::XOR_PEER_ADDRESS, &peer())
        .attribute(attribute::DONT_FRAGMENT, &[])
        .attribute(attribute::DATA, b"hello");
    let permit: fn(&mut Writer<'_>) = |writer| {
        writer.xor_address(attribute::XOR_PEER_ADDRESS, &peer());
    };
    vec![
        ("channel", [start(0, allocate), ask(method::CHANNEL_BIND, bind, 0), step(0, 8, &data)].concat()),
        ("stream", [start(4, allocate), ask(method::CHANNEL_BIND, bind, 4), step(2, 0x20, &data)].concat()),
        (
            "indication",
            [
                start(1, allocate),
                ask(method::CREATE_PERMISSION, permit, 1),
                step(0, 1, &send),
                step(2, 0, b"hello there"),
            ]
            .concat(),
        ),
        (
            "families",
            [
                start(2, |writer| {
                    allocate(writer);
                    writer.attribute(attribute::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
                }),
                ask(method::CREATE_PERMISSION, permit, 2),
                step(0, 2, &send),
                step(3, 61, b""),
            ]
            .concat(),
        ),
        (
            "pair",
            [
                start(3, |writer| {
                    allocate(writer);
                    writer.attribute(attribute::EVEN_PORT, &[0x80]);
                }),
                step(3, 4, b""),
                ask(method::CHANNEL_BIND, bind, 3),
                step(0, 8 | 3, &data),
            ]
            .concat(),
        ),
    ]
}
