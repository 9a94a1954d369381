//! Two or more endpoints on a table, with a network between them that the test is.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::timers::MAX_ATTEMPTS;
use super::*;
use crate::offload::VNET_HEADER;

mod shares;

const OUT: usize = 65_536 + 64;

struct Side {
    endpoint: Endpoint,
    address: SocketAddr,
    received: Vec<Vec<u8>>,
}

/// A client 10.9.0.2 and a server 10.9.0.1.
struct Table {
    now: Nanos,
    client: Side,
    server: Side,
}

fn key(byte: u8) -> PrivateKey {
    generate_private_key(&mut Secrets::new([byte; 32]))
}

fn side(byte: u8, address: &str) -> Side {
    let config = EndpointConfig {
        private_key: key(byte),
        mtu: 1420,
        unix_time_at_zero: 1_700_000_000 * SECOND,
        seed: [byte + 100; 32],
        share: Share::WHOLE,
    };
    Side { endpoint: Endpoint::new(config, 0), address: address.parse().unwrap(), received: Vec::new() }
}

fn nets(text: &str) -> Vec<Network> {
    text.split(',').map(|part| Network::parse(part).unwrap()).collect()
}

/// An IPv4 packet between the two, with its vnet header.
fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER + 20];
    let len = u16::try_from(20 + payload.len()).unwrap();
    bytes[VNET_HEADER] = 0x45;
    bytes[VNET_HEADER + 2..VNET_HEADER + 4].copy_from_slice(&len.to_be_bytes());
    bytes[VNET_HEADER + 12..VNET_HEADER + 20].copy_from_slice(&[10, 9, 0, from, 10, 9, 0, to]);
    bytes.extend_from_slice(payload);
    bytes
}

impl Side {
    /// Everything that this side has to say: (bytes, segment).
    fn drain(&mut self, now: Nanos) -> Vec<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        while let Some(transmit) = self.endpoint.poll_output() {
            out.push((transmit.bytes().to_vec(), transmit.bytes().len()));
        }
        while let Some(packet) = self.endpoint.next_staged() {
            out.extend(self.seal(&packet, now));
        }
        out
    }

    fn seal(&mut self, packet: &[u8], now: Nanos) -> Option<(Vec<u8>, usize)> {
        let mut out = vec![0; OUT];
        match self.endpoint.send(packet, 0, &mut out, now) {
            Outcome::Train(train) => {
                out.truncate(train.len);
                Some((out, train.segment))
            }
            Outcome::Staged | Outcome::Dropped => None,
        }
    }

    fn hear(&mut self, mut bytes: Vec<u8>, segment: usize, from: SocketAddr, now: Nanos) {
        let mut accepted = Vec::new();
        let path = Path { peer: from, local: None };
        self.endpoint.receive(&mut bytes, segment, path, now, &mut accepted);
        self.received.extend(accepted.iter().map(|a| bytes[a.start..a.start + a.len].to_vec()));
    }
}

impl Table {
    fn new() -> Self {
        let (mut client, mut server) = (side(1, "192.0.2.2:1000"), side(2, "192.0.2.1:51820"));
        let psk = Some(PrivateKey([9; 32]));
        let server_key = server.endpoint.public_key();
        client.endpoint.set_peer(server_key, psk.clone(), &nets("0.0.0.0/0"), Some(server.address), None, 0);
        server.endpoint.set_peer(client.endpoint.public_key(), psk, &nets("10.9.0.2/32"), None, None, 0);
        Self { now: SECOND, client, server }
    }

    /// Delivers what both have to say until neither says anything; returns how many datagrams that were.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        loop {
            let (from_client, from_server) = (self.client.drain(self.now), self.server.drain(self.now));
            if from_client.is_empty() && from_server.is_empty() {
                return count;
            }
            count += from_client.len() + from_server.len();
            for (bytes, segment) in from_client {
                self.server.hear(bytes, segment, self.client.address, self.now);
            }
            for (bytes, segment) in from_server {
                self.client.hear(bytes, segment, self.server.address, self.now);
            }
        }
    }

    /// Lets time pass, deadline by deadline, until `until`.
    fn run_until(&mut self, until: Nanos) {
        loop {
            let timeouts = [self.client.endpoint.poll_timeout(), self.server.endpoint.poll_timeout()];
            let next = timeouts.into_iter().flatten().min().filter(|at| *at <= until);
            self.now = next.unwrap_or(until).max(self.now);
            self.client.endpoint.handle_timeout(self.now);
            self.server.endpoint.handle_timeout(self.now);
            self.settle();
            if next.is_none() {
                return;
            }
        }
    }

    fn client_sends(&mut self, payload: &[u8]) {
        if let Some((bytes, segment)) = self.client.seal(&packet(2, 1, payload), self.now) {
            self.server.hear(bytes, segment, self.client.address, self.now);
        }
        self.settle();
    }

    fn server_sends(&mut self, payload: &[u8]) {
        if let Some((bytes, segment)) = self.server.seal(&packet(1, 2, payload), self.now) {
            self.client.hear(bytes, segment, self.server.address, self.now);
        }
        self.settle();
    }
}

#[test]
fn a_packet_that_waits_brings_up_the_tunnel_and_arrives() {
    let mut table = Table::new();
    table.client_sends(b"hello");
    assert_eq!(table.server.received, [packet(2, 1, b"hello")[VNET_HEADER..].to_vec()]);
    table.server_sends(b"welcome");
    assert_eq!(table.client.received, [packet(1, 2, b"welcome")[VNET_HEADER..].to_vec()]);
    for side in [&table.client, &table.server] {
        let counters = side.endpoint.counters();
        assert_eq!((counters.handshakes, counters.packets_in, counters.packets_out), (1, 1, 1));
    }
}

#[test]
fn the_server_says_nothing_before_it_is_spoken_to() {
    let mut table = Table::new();
    table.server_sends(b"anyone?");
    assert_eq!(table.server.endpoint.counters().dropped_no_path, 1);
    assert_eq!(table.server.endpoint.poll_output().map(|t| t.path), None);
}

#[test]
fn sessions_are_renewed_by_their_initiator_and_nothing_is_lost() {
    let mut table = Table::new();
    let mut sent = 0;
    for _ in 0..600 {
        table.client_sends(b"tick");
        table.server_sends(b"tock");
        sent += 1;
        table.run_until(table.now + SECOND);
    }
    assert_eq!((table.server.received.len(), table.client.received.len()), (sent, sent));
    let handshakes = table.client.endpoint.counters().handshakes;
    assert!((5..=6).contains(&handshakes), "{handshakes} in 600 s");
    assert_eq!(table.server.endpoint.counters().handshakes, handshakes);
}

#[test]
fn a_silent_tunnel_is_silent_and_its_keys_are_forgotten() {
    let mut table = Table::new();
    table.client_sends(b"once");
    table.run_until(table.now + 20 * SECOND);
    let said = [table.client.endpoint.counters(), table.server.endpoint.counters()];
    assert_eq!(said[0].keepalives_in, 1, "the answer to data without answer");
    table.run_until(table.now + 100 * SECOND);
    assert_eq!(said, [table.client.endpoint.counters(), table.server.endpoint.counters()]);
    table.run_until(table.now + 600 * SECOND);
    for side in [&mut table.client, &mut table.server] {
        let peer = side.endpoint.peer(PeerId(0));
        assert!(peer.current.is_none() && peer.previous.is_none() && peer.next.is_none());
        assert_eq!(side.endpoint.poll_timeout(), None);
    }
}

#[test]
fn a_peer_that_never_answers_is_tried_for_a_while() {
    let mut table = Table::new();
    assert_eq!(table.client.seal(&packet(2, 1, b"lost"), table.now), None);
    let mut initiations = 0;
    while let Some(at) = table.client.endpoint.poll_timeout().filter(|at| *at < 400 * SECOND) {
        initiations += table.client.drain(table.now).len();
        table.now = at.max(table.now);
        table.client.endpoint.handle_timeout(table.now);
    }
    initiations += table.client.drain(table.now).len();
    assert_eq!(initiations, 1 + MAX_ATTEMPTS as usize);
    assert_eq!(table.client.endpoint.counters().dropped_staged, 1);
    assert!(table.now < 110 * SECOND, "{}", table.now);
}

#[test]
fn a_persistent_keepalive_holds_the_way_open() {
    let mut table = Table::new();
    let key = table.server.endpoint.public_key();
    let psk = Some(PrivateKey([9; 32]));
    table.client.endpoint.set_peer(
        key,
        psk,
        &nets("0.0.0.0/0"),
        Some(table.server.address),
        Some(25),
        table.now,
    );
    table.run_until(table.now + 101 * SECOND);
    let keepalives = table.server.endpoint.counters().keepalives_in;
    assert_eq!(keepalives, 5, "one to confirm the session, then one each 25 s");
}

#[test]
fn a_roaming_client_is_followed_but_only_by_authentic_data() {
    let mut table = Table::new();
    table.client_sends(b"here");
    let (bytes, segment) = table.client.seal(&packet(2, 1, b"there"), table.now).unwrap();
    let thief: SocketAddr = "198.51.100.6:6".parse().unwrap();
    let mut forged = bytes.clone();
    forged[40] ^= 1;
    table.server.hear(forged, segment, thief, table.now);
    let address = |table: &Table| table.server.endpoint.peers().next().unwrap().address.unwrap();
    assert_eq!(address(&table), table.client.address);
    let new: SocketAddr = "203.0.113.7:7".parse().unwrap();
    table.server.hear(bytes.clone(), segment, new, table.now);
    assert_eq!(address(&table), new);
    table.server.hear(bytes, segment, thief, table.now);
    assert_eq!(address(&table), new, "a replay moves nothing");
    let counters = table.server.endpoint.counters();
    assert_eq!((counters.dropped_forged, counters.dropped_replay), (1, 1));
}

#[test]
fn a_peer_can_use_only_its_own_addresses() {
    let mut table = Table::new();
    table.client_sends(b"up");
    for from in [3, 1] {
        let (bytes, segment) = table.client.seal(&packet(from, 1, b"spoofed"), table.now).unwrap();
        table.server.hear(bytes, segment, table.client.address, table.now);
    }
    assert_eq!(table.server.endpoint.counters().dropped_source, 2);
    assert_eq!(table.server.received.len(), 1);
    table.server_sends(b"ok");
    table.server.seal(&packet(1, 77, b"whose?"), table.now);
    assert_eq!(table.server.endpoint.counters().dropped_no_peer, 1);
}

#[test]
fn a_replayed_initiation_gets_no_answer() {
    let mut table = Table::new();
    table.client.seal(&packet(2, 1, b"x"), table.now);
    let (initiation, len) = table.client.drain(table.now).pop().unwrap();
    table.server.hear(initiation.clone(), len, table.client.address, table.now);
    assert_eq!(table.server.drain(table.now).len(), 1);
    table.server.hear(initiation, len, table.client.address, table.now + SECOND);
    assert_eq!(table.server.drain(table.now).len(), 0);
    assert_eq!(table.server.endpoint.counters().dropped_initiation_replay, 1);
}

#[test]
fn under_a_flood_addresses_have_to_be_proved_and_honest_peers_get_in() {
    let mut table = Table::new();
    // Anyone who knows the public key can make initiations that pass the first MAC.
    for round in 0..300u16 {
        let mut flooder = side(3, "198.51.100.1:1");
        let server_key = table.server.endpoint.public_key();
        flooder.endpoint.set_peer(server_key, None, &nets("0.0.0.0/0"), Some(table.server.address), None, 0);
        flooder.seal(&packet(2, 1, b"x"), table.now);
        let (initiation, len) = flooder.drain(table.now).pop().unwrap();
        let from = SocketAddr::from(([198, 51, 100, 1], round + 1));
        table.server.hear(initiation, len, from, table.now);
        for (answer, _) in table.server.drain(table.now) {
            assert!(answer.len() < len, "no amplification");
        }
    }
    let counters = table.server.endpoint.counters();
    assert_eq!(counters.dropped_handshake, 100, "looked at, and from no peer of ours");
    assert_eq!(counters.cookies_sent, 200);

    table.client.seal(&packet(2, 1, b"honest"), table.now);
    table.settle();
    assert!(table.server.received.is_empty(), "the first attempt earns a cookie");
    let wait = 6 * SECOND;
    // The flood goes on.
    table.now += wait;
    while table.server.endpoint.limit.admits_unproved(table.now) {}
    table.client.endpoint.handle_timeout(table.now);
    table.settle();
    assert_eq!(table.server.received.len(), 1, "the second brings it back");
}

#[test]
fn a_removed_peer_is_gone() {
    let mut table = Table::new();
    table.client_sends(b"in");
    let key = table.client.endpoint.public_key();
    table.server.endpoint.remove_peer(&key);
    table.client_sends(b"out");
    assert_eq!(table.server.received.len(), 1);
    assert_eq!(table.server.endpoint.counters().dropped_no_session, 1);
    table.run_until(table.now + 700 * SECOND);
    assert_eq!(table.server.endpoint.counters().handshakes, 1);
    assert!(table.server.endpoint.counters().dropped_handshake > 0);
}

#[test]
fn both_sides_may_begin_at_once() {
    let mut table = Table::new();
    table.client_sends(b"warm up");
    table.now += 200 * SECOND; // the session is too old for both
    table.client.seal(&packet(2, 1, b"to the server"), table.now);
    table.server.seal(&packet(1, 2, b"to the client"), table.now);
    table.run_until(table.now + 20 * SECOND);
    assert_eq!((table.server.received.len(), table.client.received.len()), (2, 1));
}

#[test]
fn an_idle_peer_is_small() {
    let sessions = 2 * size_of::<session::Session>();
    assert!(size_of::<peer::Peer>() + sessions < 2000, "{} + {sessions}", size_of::<peer::Peer>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What arrives is exactly what was sent, each at most once, whatever the network loses, repeats, reorders or damages.
    #[test]
    fn a_bad_network_only_loses(
        steps in proptest::collection::vec((any::<bool>(), 0u8..5, 0usize..1400, 0u64..3_000), 1..120),
        seed: u64,
    ) {
        let mut table = Table::new();
        let mut held: Vec<(bool, Vec<u8>, usize)> = Vec::new();
        let mut sent: [Vec<Vec<u8>>; 2] = Default::default();
        for (number, (to_server, fate, size, milliseconds)) in steps.into_iter().enumerate() {
            table.now += milliseconds * MILLISECOND;
            table.client.endpoint.handle_timeout(table.now);
            table.server.endpoint.handle_timeout(table.now);
            let mut payload = vec![u8::try_from(number).unwrap(); size + 1];
            payload[0] = u8::try_from(number).unwrap();
            let bytes = if to_server { packet(2, 1, &payload) } else { packet(1, 2, &payload) };
            sent[usize::from(to_server)].push(bytes[VNET_HEADER..].to_vec());
            let side = if to_server { &mut table.client } else { &mut table.server };
            let sealed = side.seal(&bytes, table.now);
            held.extend(sealed.map(|(bytes, segment)| (to_server, bytes, segment)));
            for (bytes, segment) in table.client.drain(table.now) {
                held.push((true, bytes, segment));
            }
            for (bytes, segment) in table.server.drain(table.now) {
                held.push((false, bytes, segment));
            }
            if held.is_empty() {
                continue;
            }
            let chosen = usize::try_from(seed.wrapping_mul(number as u64 + 1) >> 33).unwrap() % held.len();
            let (forward, mut bytes, segment) = held[chosen].clone();
            match fate {
                0 => drop(held.remove(chosen)),
                1 => {} // stays, and will come again
                2 => {
                    let at = bytes.len() / 2;
                    bytes[at] ^= 0x10;
                }
                _ => drop(held.remove(chosen)),
            }
            if fate != 0 {
                let from = if forward { table.client.address } else { table.server.address };
                let side = if forward { &mut table.server } else { &mut table.client };
                side.hear(bytes, segment, from, table.now);
            }
        }
        for (side, sent) in [(&table.client, &sent[0]), (&table.server, &sent[1])] {
            let mut left = sent.clone();
            for received in &side.received {
                let place = left.iter().position(|packet| packet == received);
                prop_assert!(place.is_some(), "received what was not sent, or twice");
                left.remove(place.unwrap());
            }
        }
    }

    #[test]
    fn garbage_is_counted_and_nothing_else(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0u8..6,
        segment in 1usize..400,
    ) {
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        let mut table = Table::new();
        table.client_sends(b"up");
        let before = table.server.endpoint.counters();
        let segments = bytes.len().div_ceil(segment) as u64;
        table.server.hear(bytes, segment, "198.51.100.1:1".parse().unwrap(), table.now);
        let after = table.server.endpoint.counters();
        let drops = |c: Counters| c.dropped_garbage + c.dropped_mac + c.dropped_no_session + c.dropped_forged + c.dropped_replay;
        prop_assert_eq!(drops(after) - drops(before), segments);
        prop_assert_eq!((table.server.received.len(), after.handshakes), (1, 1));
        prop_assert!(table.server.drain(table.now).is_empty());
    }
}
