//! One server of several endpoints, and clients whose datagrams come to any of them.

use super::receive::MAX_HANDED_OVER;
use super::*;

struct Shared {
    now: Nanos,
    endpoints: Vec<Side>,
    clients: Vec<Side>,
    /// Every initiation that was ever sent.
    initiations: Vec<Vec<u8>>,
}

fn last_byte(client: usize) -> u8 {
    u8::try_from(client + 2).unwrap()
}

/// Where a client's initiations come to, by its port: as a kernel's hash of the flow would have it.
fn by_flow(from: SocketAddr, of: usize) -> usize {
    usize::from(from.port()) % of
}

impl Shared {
    /// Client `n` is at home at endpoint `n` modulo their number.
    fn new(of: u8, clients: usize) -> Self {
        let share = |number| {
            let mut side = side(155, "192.0.2.1:51820");
            let config = EndpointConfig {
                private_key: key(250),
                mtu: 1420,
                unix_time_at_zero: 0,
                seed: [number; 32],
                share: Share { number, of },
            };
            side.endpoint = Endpoint::new(config, 0);
            side
        };
        let mut endpoints: Vec<Side> = (0..of).map(share).collect();
        let client = |number: usize| {
            let mut client = side(last_byte(number), &format!("192.0.2.{}:1000", last_byte(number)));
            let network = nets(&format!("10.9.0.{}/32", last_byte(number)));
            let key = client.endpoint.public_key();
            for (at, server) in endpoints.iter_mut().enumerate() {
                let home = number % usize::from(of);
                match at == home {
                    true => drop(server.endpoint.set_peer(key, None, &network, None, None, 0)),
                    false => server.endpoint.set_elsewhere(key, u8::try_from(home).unwrap()),
                }
            }
            let (key, address) = (endpoints[0].endpoint.public_key(), endpoints[0].address);
            client.endpoint.set_peer(key, None, &nets("0.0.0.0/0"), Some(address), None, 0);
            client
        };
        let clients = (0..clients).map(client).collect();
        Self { now: SECOND, endpoints, clients, initiations: Vec::new() }
    }

    /// As the kernel steers it.
    fn deliver(&mut self, bytes: Vec<u8>, segment: usize, from: SocketAddr) {
        let of = self.endpoints.len();
        let by_index = Share::BY_INDEX.iter().find(|(kind, _)| bytes[0] == *kind);
        let at = by_index.map_or(by_flow(from, of), |(_, place)| usize::from(bytes[*place]) % of);
        self.deliver_at(at, bytes, segment, from);
    }

    fn deliver_at(&mut self, at: usize, bytes: Vec<u8>, segment: usize, from: SocketAddr) {
        self.endpoints[at].hear(bytes, segment, from, self.now);
        while let Some(handed_over) = self.endpoints[at].endpoint.next_handed_over() {
            let home = &mut self.endpoints[usize::from(handed_over.to)].endpoint;
            home.take_handed_over(&handed_over, self.now);
        }
    }

    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for client in 0..self.clients.len() {
                let from = self.clients[client].address;
                for (bytes, segment) in self.clients[client].drain(self.now) {
                    quiet = false;
                    if bytes[0] == 1 {
                        self.initiations.push(bytes.clone());
                    }
                    self.deliver(bytes, segment, from);
                }
            }
            for at in 0..self.endpoints.len() {
                for (bytes, segment) in self.endpoints[at].drain(self.now) {
                    quiet = false;
                    // To whichever client can read it.
                    for client in &mut self.clients {
                        client.hear(bytes.clone(), segment, self.endpoints[at].address, self.now);
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// A packet each way. Returns whether both came.
    fn talk(&mut self, client: usize) -> bool {
        let (home, byte) = (client % self.endpoints.len(), last_byte(client));
        let before = (self.endpoints[home].received.len(), self.clients[client].received.len());
        let from = self.clients[client].address;
        if let Some((bytes, segment)) = self.clients[client].seal(&packet(byte, 1, b"there"), self.now) {
            self.deliver(bytes, segment, from);
        }
        self.settle();
        if let Some((bytes, segment)) = self.endpoints[home].seal(&packet(1, byte, b"back"), self.now) {
            self.clients[client].hear(bytes, segment, self.endpoints[home].address, self.now);
        }
        self.settle();
        let after = (self.endpoints[home].received.len(), self.clients[client].received.len());
        after == (before.0 + 1, before.1 + 1)
    }

    fn total(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.endpoints.iter().map(|side| of(&side.endpoint.counters())).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Wherever clients come from, their packets reach the one endpoint that has their sessions, and no initiation works twice,
    /// wherever it is said again.
    #[test]
    fn roaming_clients_stay_at_home(
        of in 1u8..6,
        steps in proptest::collection::vec((0usize..5, 1000u16..1020, 0u64..200, any::<u16>()), 1..60),
    ) {
        let mut shared = Shared::new(of, 5);
        for (client, port, seconds, replay) in steps {
            shared.now += seconds * SECOND;
            for side in shared.endpoints.iter_mut().chain(&mut shared.clients) {
                side.endpoint.handle_timeout(shared.now);
            }
            shared.settle();
            shared.clients[client].address.set_port(port);
            prop_assert!(shared.talk(client), "client {client} from {port}");
            let handshakes = shared.total(|counters| counters.handshakes);
            let again = shared.initiations[usize::from(replay) % shared.initiations.len()].clone();
            shared.deliver_at(usize::from(replay) % usize::from(of), again, 148, "203.0.113.9:9".parse().unwrap());
            shared.settle();
            prop_assert_eq!(shared.total(|counters| counters.handshakes), handshakes);
            prop_assert!(shared.talk(client), "client {client} after a replay");
        }
        let lost = |counters: &Counters| counters.dropped_no_session + counters.dropped_no_peer + counters.dropped_handshake;
        prop_assert_eq!(shared.total(lost), 0);
    }
}

fn initiation_of(client: &mut Side, byte: u8, now: Nanos) -> Vec<u8> {
    client.seal(&packet(byte, 1, b"let me in"), now);
    client.drain(now).remove(0).0
}

#[test]
fn what_is_handed_over_is_bounded_new_and_of_known_peers() {
    let mut shared = Shared::new(2, 150);
    let now = shared.now;
    let mut stranger = side(154, "192.0.2.254:1");
    let server = &shared.endpoints[1];
    let (key, address) = (server.endpoint.public_key(), server.address);
    stranger.endpoint.set_peer(key, None, &nets("0.0.0.0/0"), Some(address), None, 0);
    let initiation = initiation_of(&mut stranger, 254, now);
    let wrong = &mut shared.endpoints[1];
    wrong.hear(initiation, 148, stranger.address, now);
    assert!(wrong.endpoint.next_handed_over().is_none());
    assert_eq!(wrong.endpoint.counters().dropped_handshake, 1);

    // Those at home at the first endpoint, all to the second, each twice.
    for client in (0..150).step_by(2).take(MAX_HANDED_OVER + 3) {
        let initiation = initiation_of(&mut shared.clients[client], last_byte(client), now);
        let wrong = &mut shared.endpoints[1];
        wrong.hear(initiation.clone(), 148, shared.clients[client].address, now + client as u64 * SECOND);
        wrong.hear(initiation, 148, stranger.address, now + (client as u64 + 1) * SECOND);
    }
    let counters = shared.endpoints[1].endpoint.counters();
    // Where there was no room, the second time is as the first.
    let (replays, load) = (counters.dropped_initiation_replay, counters.dropped_load);
    assert_eq!((counters.handed_over, replays, load), (64, 64, 6));

    // A peer that has been forgotten is nobody's.
    let handed_over = shared.endpoints[1].endpoint.next_handed_over().unwrap();
    let key = shared.clients[0].endpoint.public_key();
    shared.endpoints[0].endpoint.remove_peer(&key);
    shared.endpoints[0].endpoint.take_handed_over(&handed_over, now);
    assert_eq!(shared.endpoints[0].endpoint.counters().dropped_handshake, 1);
    assert!(shared.endpoints[0].drain(now).is_empty());
}
