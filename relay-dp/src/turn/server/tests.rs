//! A server between made-up clients and peers.
#![allow(clippy::cast_possible_truncation, reason = "the numbers of these tests are small")]

mod data;
mod model;
mod requests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::turn::{
    Effect, PeerFilter, RelayIp, Send, To, Where,
    client::{Requester, address, error_code},
    stun::{Class, Integrity, Message, Writer, attribute, method},
};

const REALM: &str = "test";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(port: u16) -> Client {
    Client::Udp { socket: 0, address: SocketAddr::new("198.51.100.7".parse().unwrap(), port) }
}

fn config() -> Config {
    let ip = |text: &str| {
        let ip = text.parse().unwrap();
        Some(RelayIp { bind: ip, public: ip })
    };
    Config {
        realm: REALM.into(),
        users: vec![("ann".into(), "pw".into()), ("bob".into(), "wp".into())],
        secrets: vec!["old".into(), "new".into()],
        ipv4: ip("192.0.2.1"),
        ipv6: ip("2001:db8::1"),
        ports: 50_000..=50_063,
        peers: PeerFilter::new(
            vec!["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            vec![],
        ),
        ..Config::default()
    }
}

/// A server, its clock, its sockets, and what it has sent.
struct World {
    server: Server,
    now: Now,
    sockets: BTreeMap<u32, (RelayId, SocketAddr)>,
    /// What opening the next sockets gives; then all open.
    fail_next: Vec<bool>,
    room: Vec<u8>,
}

const START: usize = 128;

impl World {
    fn new(config: Config) -> World {
        World {
            server: Server::new(config, &[7; 32]).unwrap(),
            now: Now { ns: 5 * 1_000_000_000, unix: 1_000_000 },
            sockets: BTreeMap::new(),
            fail_next: Vec::new(),
            room: vec![0; 70_000],
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.ns += seconds * 1_000_000_000;
        self.now.unix += seconds;
        let mut out = Outbox::default();
        self.server.handle_timeout(self.now, &mut out);
        self.carry_out(&mut out);
    }

    /// Datagrams of equal size from a client; returns what is sent.
    fn client_sends(&mut self, client: Client, bytes: &[u8], segment: usize) -> Vec<(To, Vec<u8>, usize)> {
        self.room[START..START + bytes.len()].copy_from_slice(bytes);
        let mut out = Outbox::default();
        let train = Train { room: &mut self.room, start: START, len: bytes.len(), segment };
        self.server.handle_client(client, train, self.now, &mut out);
        self.carry_out(&mut out)
    }

    fn peer_sends(
        &mut self,
        relay: RelayId,
        from: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> Vec<(To, Vec<u8>, usize)> {
        self.room[START..START + bytes.len()].copy_from_slice(bytes);
        let mut out = Outbox::default();
        let train = Train { room: &mut self.room, start: START, len: bytes.len(), segment };
        self.server.handle_peer(relay, from, train, self.now, &mut out);
        self.carry_out(&mut out)
    }

    fn carry_out(&mut self, out: &mut Outbox) -> Vec<(To, Vec<u8>, usize)> {
        let mut done = 0;
        while done < out.effects.len() {
            match out.effects[done] {
                Effect::Open { relay, bind } => {
                    let fails = !self.fail_next.is_empty() && self.fail_next.remove(0);
                    if !fails {
                        assert!(
                            self.sockets.values().all(|(_, other)| *other != bind),
                            "{bind} is bound twice"
                        );
                    }
                    assert!(self.sockets.insert(relay.slot, (relay, bind)).is_none(), "a slot is used once");
                    self.server.on_opened(relay, !fails, self.now, out);
                }
                Effect::Close { relay } => {
                    let (known, _) = self.sockets.remove(&relay.slot).expect("closed once");
                    assert_eq!(known, relay);
                }
            }
            done += 1;
        }
        let bytes = |send: &Send| {
            let from = if send.place == Where::Room { &self.room } else { &out.replies };
            from[send.start..send.start + send.len].to_vec()
        };
        out.sends.iter().map(|send| (send.to, bytes(send), send.segment)).collect()
    }

    /// A request and the single answer to it.
    fn ask(&mut self, client: Client, request: &[u8]) -> Vec<u8> {
        let mut sent = self.client_sends(client, request, request.len());
        assert_eq!(sent.len(), 1, "one answer");
        let (to, bytes, _) = sent.remove(0);
        assert_eq!(to, To::Client(client));
        bytes
    }

    /// Like [`ask`](Self::ask), answering the challenge. The error code, or 0.
    fn ask_as(
        &mut self,
        user: &mut Requester,
        client: Client,
        method: u16,
        fill: impl Fn(&mut Writer<'_>),
    ) -> (u16, Vec<u8>) {
        for _ in 0..2 {
            let request = user.request(method, &fill);
            let answer = self.ask(client, &request);
            let message = Message::parse(&answer).unwrap();
            assert_eq!(&request[8..20], message.transaction(), "of the same transaction");
            if !user.learn(&message) {
                let code = error_code(&message).unwrap_or(0);
                if code != 401 {
                    assert!(message.is_intact(user.key().unwrap()), "answers are protected");
                    assert_eq!(code == 0, message.class() == Class::Success);
                }
                return (code, answer);
            }
        }
        panic!("asked for credentials again");
    }

    fn allocate(&mut self, user: &mut Requester, client: Client) -> SocketAddr {
        let (code, answer) = self.ask_as(user, client, method::ALLOCATE, udp);
        assert_eq!(code, 0);
        address(&Message::parse(&answer).unwrap(), attribute::XOR_RELAYED_ADDRESS).unwrap()
    }

    fn relay(&self, address: SocketAddr) -> RelayId {
        self.sockets.values().find(|(_, bind)| *bind == address).expect("an open socket").0
    }
}

fn udp(writer: &mut Writer<'_>) {
    writer.attribute(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
}

fn peer(address: &str) -> impl Fn(&mut Writer<'_>) {
    let address = at(address);
    move |writer| {
        writer.xor_address(attribute::XOR_PEER_ADDRESS, &address);
    }
}

fn channel(number: u16, address: SocketAddr) -> impl Fn(&mut Writer<'_>) {
    move |writer| {
        let [a, b] = number.to_be_bytes();
        writer
            .attribute(attribute::CHANNEL_NUMBER, &[a, b, 0, 0])
            .xor_address(attribute::XOR_PEER_ADDRESS, &address);
    }
}

fn ann() -> Requester {
    Requester::new("ann", "pw", Integrity::Sha1, 1)
}

fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    [&number.to_be_bytes(), &len.to_be_bytes(), payload].concat()
}

fn send_indication(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes, Class::Indication, method::SEND, &[3; 12])
        .xor_address(attribute::XOR_PEER_ADDRESS, &to)
        .attribute(attribute::DATA, payload);
    bytes
}
