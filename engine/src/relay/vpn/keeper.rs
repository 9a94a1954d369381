//! The VPN's files, kept by a thread of its own: a core never waits for a disk, however many clients there are.
//!
//! ```text
//!  core ── Link ──► peers, a few a turn, and totals ──► Keeper ──► status.json
//!            ▲                                            │
//!            └── clients added and removed ◄──────────────┴── clients/*.toml
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use relay_dp::vpn::{Endpoint, Nanos, Network, PeerStatus, PrivateKey, PublicKey};
use rtrb::{Consumer, Producer, RingBuffer};

use super::{
    VpnConfig, VpnError,
    clients::{Client, Registry},
    meters::Totals,
    status::{self, Rates, Status},
};
use crate::core_loop::Clock;

const MILLISECOND: Nanos = 1_000_000;
/// How often the core looks for changes.
const LOOK: Nanos = 250 * MILLISECOND;
/// How often it tells of all peers.
const TELL: Nanos = status::INTERVAL * 1_000 * MILLISECOND;
/// Changes that a turn carries out.
const CHANGES_A_TURN: usize = 8;
/// Peers that a turn tells of.
const PEERS_A_TURN: usize = 64;
const RING: usize = 1024;
/// How often the keeper looks at its rings and, every tenth time, at the files.
const PAUSE: Duration = Duration::from_millis(50);
const FILES_EVERY: u32 = 10;

/// What the keeper tells the core.
enum Change {
    Set { key: PublicKey, psk: PrivateKey, networks: Vec<Network> },
    Remove(PublicKey),
}

/// What the core tells the keeper.
enum Told {
    Peer(PeerStatus),
    /// Those were all.
    All(Nanos, Box<Totals>),
}

/// The core's end. When it is dropped, the keeper ends and takes the status away.
pub struct Link {
    changes: Option<Consumer<Change>>,
    told: Option<Producer<Told>>,
    thread: Option<JoinHandle<()>>,
    next_look: Nanos,
    next_tell: Nanos,
    /// The place for a peer that is told of next, in a round that has begun.
    place: Option<usize>,
}

impl Link {
    /// When [`turn`](Self::turn) has something to do.
    pub fn poll_timeout(&self) -> Nanos {
        self.next_look
    }

    /// Carries out a few changes and tells of a few peers.
    pub fn turn(&mut self, endpoint: &mut Endpoint, totals: Totals, now: Nanos) {
        self.next_look = now + LOOK;
        let changes = self.changes.as_mut().expect("it is there until the end");
        for _ in 0..CHANGES_A_TURN {
            match changes.pop() {
                Ok(Change::Set { key, psk, networks }) => {
                    endpoint.set_peer(key, Some(psk), &networks, None, None, now);
                }
                Ok(Change::Remove(key)) => endpoint.remove_peer(&key),
                Err(_) => break,
            }
        }
        if !changes.is_empty() {
            self.next_look = now + MILLISECOND;
        }
        if self.place.is_none() && now >= self.next_tell {
            (self.place, self.next_tell) = (Some(0), now + TELL);
        }
        self.tell(endpoint, totals, now);
    }

    fn tell(&mut self, endpoint: &Endpoint, totals: Totals, now: Nanos) {
        let Some(first) = self.place else { return };
        self.next_look = now + MILLISECOND;
        let told = self.told.as_mut().expect("it is there until the end");
        // One stays for the end of the round. A full ring is tried again.
        let room = told.slots().saturating_sub(1).min(PEERS_A_TURN);
        let places = endpoint.places(first, room);
        let seen = places.len();
        for peer in places.flatten() {
            told.push(Told::Peer(peer)).unwrap_or_else(|_| unreachable!("there is room"));
        }
        self.place = Some(first + seen);
        if room == PEERS_A_TURN && seen < room {
            let all = Told::All(now, Box::new(totals));
            told.push(all).unwrap_or_else(|_| unreachable!("there is room"));
            self.place = None;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        (self.changes, self.told) = (None, None);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has said why, should it have panicked.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
pub struct Keeper {
    config: VpnConfig,
    registry: Registry,
    known: BTreeMap<String, Client>,
    by_key: BTreeMap<PublicKey, String>,
    changed: Option<SystemTime>,
    /// Changes that the ring had no room for.
    waiting: VecDeque<Change>,
    peers: Vec<PeerStatus>,
    rates: Rates,
    public_key: PublicKey,
}

impl Keeper {
    /// Reads the clients' files and has the endpoint know what they say.
    pub fn new(
        config: &VpnConfig,
        registry: Registry,
        endpoint: &mut Endpoint,
        now: Nanos,
    ) -> Result<Keeper, VpnError> {
        // One that was killed has left its own behind.
        Status::remove(&config.state_dir);
        let mut keeper = Keeper {
            config: config.clone(),
            changed: registry.changed().ok(),
            registry,
            known: BTreeMap::new(),
            by_key: BTreeMap::new(),
            waiting: VecDeque::new(),
            peers: Vec::new(),
            rates: Rates::default(),
            public_key: endpoint.public_key(),
        };
        keeper.reload()?;
        for change in keeper.waiting.drain(..) {
            if let Change::Set { key, psk, networks } = change {
                endpoint.set_peer(key, Some(psk), &networks, None, None, now);
            }
        }
        keeper.write_status(now, &Totals::default())?;
        Ok(keeper)
    }

    /// Starts the thread.
    pub fn start(mut self) -> io::Result<Link> {
        let (mut to_core, changes) = RingBuffer::new(RING);
        let (told, mut from_core) = RingBuffer::new(RING);
        let thread = thread::Builder::new().name("vpn-files".into()).spawn(move || {
            let mut rounds = 0u32;
            while !from_core.is_abandoned() {
                thread::park_timeout(PAUSE);
                rounds = rounds.wrapping_add(1);
                self.turn(&mut to_core, &mut from_core, rounds.is_multiple_of(FILES_EVERY));
            }
            Status::remove(&self.config.state_dir);
        })?;
        let (changes, told, thread) = (Some(changes), Some(told), Some(thread));
        Ok(Link { changes, told, thread, next_look: 0, next_tell: 0, place: None })
    }

    /// What goes wrong here is said and tried again: it must not end people's tunnels.
    fn turn(&mut self, to_core: &mut Producer<Change>, from_core: &mut Consumer<Told>, files: bool) {
        let changed = files.then(|| self.registry.changed().ok());
        if let Some(changed) = changed.filter(|changed| *changed != self.changed || changed.is_none()) {
            match self.reload() {
                Ok(()) => self.changed = changed,
                Err(error) => eprintln!("clients are not looked up: {error}"),
            }
        }
        while let Some(change) = self.waiting.pop_front() {
            if let Err(rtrb::PushError::Full(change)) = to_core.push(change) {
                self.waiting.push_front(change);
                break;
            }
        }
        while let Ok(told) = from_core.pop() {
            match told {
                Told::Peer(peer) => self.peers.push(peer),
                Told::All(now, totals) => {
                    if let Err(error) = self.write_status(now, &totals) {
                        eprintln!("no status: {error}");
                    }
                }
            }
        }
    }

    /// Notes what the files say otherwise than before.
    fn reload(&mut self) -> Result<(), VpnError> {
        let clients = self.registry.clients()?;
        let keys: BTreeSet<PublicKey> = clients.values().map(|client| client.key).collect();
        let gone = self.known.values().filter(|client| !keys.contains(&client.key));
        self.waiting.extend(gone.map(|client| Change::Remove(client.key)));
        let new = clients.iter().filter(|(name, client)| self.known.get(*name) != Some(client));
        self.waiting.extend(new.map(|(_, client)| Change::Set {
            key: client.key,
            psk: client.preshared_key.clone(),
            networks: client.networks.clone(),
        }));
        self.by_key = clients.iter().map(|(name, client)| (client.key, name.clone())).collect();
        self.known = clients;
        Ok(())
    }

    fn write_status(&mut self, now: Nanos, totals: &Totals) -> Result<(), VpnError> {
        let peers = std::mem::take(&mut self.peers);
        let known = |key: &PublicKey| {
            let name = self.by_key.get(key)?;
            Some((name.as_str(), &self.known.get(name)?.networks[..]))
        };
        let status = Status {
            time: Clock::wall() / 1_000_000,
            interface: self.config.interface.clone(),
            listen: self.config.listen.to_string(),
            public_key: self.public_key.to_string(),
            peers: self.rates.view(peers, known, now),
            counters: status::counters(totals),
        };
        status.write(&self.config.state_dir)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use relay_dp::vpn::EndpointConfig;

    use super::*;

    fn endpoint() -> Endpoint {
        let (private_key, seed) = (PrivateKey([7; 32]), [7; 32]);
        Endpoint::new(EndpointConfig { private_key, mtu: 1420, unix_time_at_zero: 0, seed }, 0)
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(20), "in vain: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn files_and_endpoint_follow_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let public_address = Some("192.0.2.1:51820".parse().unwrap());
        let config =
            VpnConfig { public_address, state_dir: folder.path().join("vpn"), ..VpnConfig::default() };
        let registry = || Registry::open(&config).unwrap();
        for number in 0..200 {
            registry().add(&format!("early{number}"), &config).unwrap();
        }
        let mut endpoint = endpoint();
        let keeper = Keeper::new(&config, registry(), &mut endpoint, 0).unwrap();
        let mut link = keeper.start().unwrap();
        assert_eq!(endpoint.peers().count(), 200);
        registry().add("late", &config).unwrap();
        registry().remove("early5").unwrap();
        let mut now = 0;
        let mut turn = |endpoint: &mut Endpoint| {
            now += 10 * MILLISECOND;
            link.turn(endpoint, Totals::default(), now);
        };
        let status = || Status::read(&config, Clock::wall() / 1_000_000).unwrap();
        let names =
            |status: &Status| -> Vec<String> { status.peers.iter().map(|peer| peer.name.clone()).collect() };
        until("the status tells of the change", || {
            turn(&mut endpoint);
            let names = names(&status());
            names.contains(&"late".into()) && !names.contains(&"early5".into())
        });
        assert_eq!((endpoint.peers().count(), status().peers.len()), (200, 200));
        assert!(status().peers.iter().all(|peer| peer.networks.len() == 2));
        drop(link);
        assert!(Status::read(&config, 0).unwrap_err().to_string().contains("no VPN runs"));
    }
}
