//! The server against a model that is too simple to be wrong: lists, scanned from end to end.

use proptest::prelude::*;

use super::*;

/// Lives of everything in this test, s.
const ALLOCATION: u64 = 600;
const PERMISSION: u64 = 300;
const CHANNEL: u64 = 600;
const PER_USER: usize = 2;
const CLIENTS: u16 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Pass { seconds: u64 },
    Allocate { client: u16, user: usize },
    Refresh { client: u16, user: usize, end: bool },
    Permit { client: u16, user: usize, peer: u8 },
    Bind { client: u16, user: usize, number: u16, peer: u8, port: u16 },
    ChannelData { client: u16, number: u16 },
    Send { client: u16, peer: u8, port: u16 },
    FromPeer { client: u16, peer: u8, port: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, user, peer, port) = (0..CLIENTS, 0usize..2, 1u8..4, 1u16..3);
    let number = 0x4000u16..0x4003;
    prop_oneof![
        (1u64..400).prop_map(|seconds| Step::Pass { seconds }),
        (client.clone(), user.clone()).prop_map(|(client, user)| Step::Allocate { client, user }),
        (client.clone(), user.clone(), prop::bool::weighted(0.2))
            .prop_map(|(client, user, end)| Step::Refresh { client, user, end }),
        (client.clone(), user.clone(), peer.clone()).prop_map(|(client, user, peer)| Step::Permit {
            client,
            user,
            peer
        }),
        (client.clone(), user, number.clone(), peer.clone(), port.clone())
            .prop_map(|(client, user, number, peer, port)| Step::Bind { client, user, number, peer, port }),
        (client.clone(), number).prop_map(|(client, number)| Step::ChannelData { client, number }),
        (client.clone(), peer.clone(), port.clone()).prop_map(|(client, peer, port)| Step::Send {
            client,
            peer,
            port
        }),
        (client, peer, port).prop_map(|(client, peer, port)| Step::FromPeer { client, peer, port }),
    ]
}

/// Times are ends, in s.
#[derive(Default)]
struct Model {
    now: u64,
    /// Client, user, end, relayed address.
    allocations: Vec<(u16, usize, u64, SocketAddr)>,
    /// Client, peer, end.
    permissions: Vec<(u16, u8, u64)>,
    /// Client, number, peer, port, end.
    channels: Vec<(u16, u16, u8, u16, u64)>,
}

impl Model {
    fn forget(&mut self) {
        let now = self.now;
        self.allocations.retain(|allocation| allocation.2 > now);
        let lives: Vec<u16> = self.allocations.iter().map(|allocation| allocation.0).collect();
        self.permissions.retain(|permission| permission.2 > now && lives.contains(&permission.0));
        self.channels.retain(|channel| channel.4 > now && lives.contains(&channel.0));
    }

    fn owner(&self, client: u16) -> Option<usize> {
        self.allocations.iter().find(|allocation| allocation.0 == client).map(|allocation| allocation.1)
    }

    fn permits(&self, client: u16, peer: u8) -> bool {
        self.permissions.iter().any(|permission| permission.0 == client && permission.1 == peer)
    }

    fn permit(&mut self, client: u16, peer: u8) {
        self.permissions.retain(|permission| (permission.0, permission.1) != (client, peer));
        self.permissions.push((client, peer, self.now + PERMISSION));
    }

    /// What a request of an existing allocation answers, before it does anything.
    fn gate(&self, client: u16, user: usize) -> u16 {
        match self.owner(client) {
            None => 437,
            Some(owner) if owner != user => 441,
            Some(_) => 0,
        }
    }
}

fn peer_at(peer: u8, port: u16) -> SocketAddr {
    SocketAddr::new([203, 0, 113, peer].into(), port)
}

struct Both {
    world: World,
    model: Model,
    users: Vec<Requester>,
}

impl Both {
    fn ask(
        &mut self,
        client_number: u16,
        user: usize,
        method: u16,
        fill: impl Fn(&mut Writer<'_>),
    ) -> (u16, Vec<u8>) {
        // Nonces belong to an address, so each pair of user and client is a requester.
        let requester = &mut self.users[user * usize::from(CLIENTS) + usize::from(client_number)];
        self.world.ask_as(requester, client(client_number), method, fill)
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = self.model.now;
        match step {
            Step::Pass { seconds } => {
                self.world.pass(seconds);
                self.model.now += seconds;
                self.model.forget();
            }
            Step::Allocate { client, user } => {
                let own = self.model.allocations.iter().filter(|allocation| allocation.1 == user).count();
                let expected = match self.model.owner(client) {
                    Some(_) => 437,
                    None if own >= PER_USER => 486,
                    None => 0,
                };
                let (code, answer) = self.ask(client, user, method::ALLOCATE, udp);
                prop_assert_eq!(code, expected);
                if code == 0 {
                    let message = Message::parse(&answer).unwrap();
                    let relayed = address(&message, attribute::XOR_RELAYED_ADDRESS).unwrap();
                    self.model.allocations.push((client, user, now + ALLOCATION, relayed));
                }
            }
            Step::Refresh { client, user, end } => {
                let expected = self.model.gate(client, user);
                let seconds = if end { 0u32 } else { 600 };
                let (code, _) = self.ask(client, user, method::REFRESH, |w| {
                    w.attribute(attribute::LIFETIME, &seconds.to_be_bytes());
                });
                prop_assert_eq!(code, expected);
                if code == 0 {
                    let found = self.model.allocations.iter_mut().find(|allocation| allocation.0 == client);
                    found.unwrap().2 = if end { 0 } else { now + ALLOCATION };
                    self.model.forget();
                }
            }
            Step::Permit { client, user, peer } => {
                let expected = self.model.gate(client, user);
                let address = peer_at(peer, 9);
                let (code, _) = self.ask(client, user, method::CREATE_PERMISSION, |w| {
                    w.xor_address(attribute::XOR_PEER_ADDRESS, &address);
                });
                prop_assert_eq!(code, expected);
                if code == 0 {
                    self.model.permit(client, peer);
                }
            }
            Step::Bind { client, user, number, peer, port } => {
                let clash = self.model.channels.iter().any(|channel| {
                    channel.0 == client && (channel.1 == number) != ((channel.2, channel.3) == (peer, port))
                });
                let gate = self.model.gate(client, user);
                let expected = if gate == 0 && clash { 400 } else { gate };
                let (code, _) =
                    self.ask(client, user, method::CHANNEL_BIND, channel(number, peer_at(peer, port)));
                prop_assert_eq!(code, expected);
                if code == 0 {
                    self.model.channels.retain(|channel| (channel.0, channel.1) != (client, number));
                    self.model.channels.push((client, number, peer, port, now + CHANNEL));
                    self.model.permit(client, peer);
                }
            }
            Step::ChannelData { client: number_of_client, number } => {
                let bound =
                    self.model.channels.iter().find(|c| (c.0, c.1) == (number_of_client, number)).copied();
                let passes = bound.filter(|bound| self.model.permits(number_of_client, bound.2));
                let sent = self.world.client_sends(client(number_of_client), &channel_data(number, b"x"), 5);
                let to: Vec<SocketAddr> = sent.iter().map(|(to, ..)| peer_of(*to)).collect();
                prop_assert_eq!(
                    to,
                    passes.map(|bound| peer_at(bound.2, bound.3)).into_iter().collect::<Vec<_>>()
                );
            }
            Step::Send { client: number_of_client, peer, port } => {
                let passes = self.model.permits(number_of_client, peer);
                let bytes = send_indication(peer_at(peer, port), b"x");
                let sent = self.world.client_sends(client(number_of_client), &bytes, bytes.len());
                prop_assert_eq!(sent.len(), usize::from(passes));
            }
            Step::FromPeer { client: number_of_client, peer, port } => {
                let Some(allocation) = self.model.allocations.iter().find(|a| a.0 == number_of_client) else {
                    return Ok(());
                };
                let relay = self.world.relay(allocation.3);
                let named =
                    self.model.channels.iter().find(|c| (c.0, c.2, c.3) == (number_of_client, peer, port));
                let named = named.map(|channel| channel.1);
                let sent = self.world.peer_sends(relay, peer_at(peer, port), b"x", 1);
                if !self.model.permits(number_of_client, peer) {
                    prop_assert_eq!(sent.len(), 0);
                } else if let Some(number) = named {
                    prop_assert_eq!(
                        sent,
                        [(To::Client(client(number_of_client)), channel_data(number, b"x"), 5)]
                    );
                } else {
                    prop_assert_eq!(sent.len(), 1);
                    prop_assert!(Message::parse(&sent[0].1).is_ok());
                }
            }
        }
        prop_assert_eq!(self.world.server.allocations(), self.model.allocations.len());
        prop_assert_eq!(self.world.sockets.len(), self.model.allocations.len());
        Ok(())
    }
}

fn peer_of(to: To) -> SocketAddr {
    match to {
        To::Peer { address, .. } => address,
        To::Client(_) => panic!("to a peer"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_server_does_what_the_model_does(steps in prop::collection::vec(step(), 0..80)) {
        let world = World::new(Config { max_allocations_per_user: 2, ..config() });
        let users = [("ann", "pw"), ("bob", "wp")].into_iter().enumerate().flat_map(|(user, (name, password))| {
            (0..u64::from(CLIENTS)).map(move |client| {
                let first = (user as u64 * 10 + client) * 1_000_000;
                Requester::new(name, password, if client % 2 == 0 { Integrity::Sha1 } else { Integrity::Sha256 }, first)
            })
        });
        let mut both = Both { world, model: Model::default(), users: users.collect() };
        for step in steps {
            both.step(step)?;
        }
    }
}
