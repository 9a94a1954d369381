//! The VPN's files, kept by a thread of its own: a core never waits for a disk, however many clients there are.
//!
//! ```text
//!  cores ── Link ──► peers, a few a turn, and totals ──► Keeper ──► status.json
//!             ▲                                            │
//!             └── clients added and removed ◄──────────────┴── clients/*.toml
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use netio::TunSteering;
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

/// What the keeper tells a core.
enum Change {
    Set {
        key: PublicKey,
        psk: PrivateKey,
        networks: Vec<Network>,
    },
    /// It is at home on another core.
    Elsewhere {
        key: PublicKey,
        home: u8,
    },
    Remove(PublicKey),
}

impl Change {
    fn carry_out(self, endpoint: &mut Endpoint, now: Nanos) {
        match self {
            Change::Set { key, psk, networks } => {
                endpoint.set_peer(key, Some(psk), &networks, None, None, now);
            }
            Change::Elsewhere { key, home } => endpoint.set_elsewhere(key, home),
            Change::Remove(key) => endpoint.remove_peer(&key),
        }
    }
}

/// What a core tells the keeper.
enum Told {
    Peer(PeerStatus),
    /// Those were all.
    All(Nanos, Box<Totals>),
}

/// The keeper's thread, which ends with the last of the links.
struct Thread(Option<JoinHandle<()>>);

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            thread.thread().unpark();
            // It has said why, should it have panicked.
            let _ = thread.join();
        }
    }
}

/// A core's end. When the last is dropped, the keeper ends and takes the status away.
pub struct Link {
    changes: Option<Consumer<Change>>,
    told: Option<Producer<Told>>,
    _thread: Arc<Thread>,
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
            let Ok(change) = changes.pop() else { break };
            change.carry_out(endpoint, now);
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
        // Before the thread is waited for.
        (self.changes, self.told) = (None, None);
    }
}

/// What the keeper knows of a core.
#[derive(Default)]
struct Core {
    /// Clients that are at home there.
    clients: usize,
    /// Changes that its ring had no room for.
    waiting: VecDeque<Change>,
    /// Its peers, as far as it has told of them in this round.
    peers: Vec<PeerStatus>,
    /// All of them, when the last round ended, and its totals.
    told: Option<(Nanos, Vec<PeerStatus>, Box<Totals>)>,
}

/// A client and the core that it is at home on.
struct Known {
    client: Client,
    home: u8,
}

/// The thread's side.
pub struct Keeper {
    config: VpnConfig,
    registry: Registry,
    known: BTreeMap<String, Known>,
    by_key: BTreeMap<PublicKey, String>,
    changed: Option<SystemTime>,
    cores: Vec<Core>,
    /// Brings packets to the core that has the client; none with one core.
    steering: Option<TunSteering>,
    rates: Rates,
    public_key: PublicKey,
}

impl Keeper {
    /// Reads the clients' files and has the cores' endpoints know what they say.
    ///
    /// # Errors
    /// The files can't be read, or the status not written.
    pub fn new(
        config: &VpnConfig,
        registry: Registry,
        steering: Option<TunSteering>,
        endpoints: &mut [Endpoint],
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
            cores: endpoints.iter().map(|_| Core::default()).collect(),
            steering,
            rates: Rates::default(),
            public_key: endpoints[0].public_key(),
        };
        keeper.reload()?;
        for (core, endpoint) in keeper.cores.iter_mut().zip(endpoints) {
            core.waiting.drain(..).for_each(|change| change.carry_out(endpoint, now));
            core.told = Some((now, Vec::new(), Box::default()));
        }
        keeper.write_status()?;
        Ok(keeper)
    }

    /// Starts the thread. Returns each core's link to it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut self) -> io::Result<Vec<Link>> {
        type Ends = (Producer<Change>, Consumer<Told>);
        let (ours, theirs): (Vec<Ends>, Vec<_>) = self
            .cores
            .iter()
            .map(|_| {
                let ((to_core, changes), (told, from_core)) = (RingBuffer::new(RING), RingBuffer::new(RING));
                ((to_core, from_core), (changes, told))
            })
            .unzip();
        let mut rings = ours;
        let thread = thread::Builder::new().name("vpn-files".into()).spawn(move || {
            let mut rounds = 0u32;
            while rings.iter().any(|(_, from_core)| !from_core.is_abandoned()) {
                thread::park_timeout(PAUSE);
                rounds = rounds.wrapping_add(1);
                self.turn(&mut rings, rounds.is_multiple_of(FILES_EVERY));
            }
            Status::remove(&self.config.state_dir);
        })?;
        let thread = Arc::new(Thread(Some(thread)));
        let link = |(changes, told)| Link {
            changes: Some(changes),
            told: Some(told),
            _thread: Arc::clone(&thread),
            next_look: 0,
            next_tell: 0,
            place: None,
        };
        Ok(theirs.into_iter().map(link).collect())
    }

    /// What goes wrong here is said and tried again: it must not end people's tunnels.
    fn turn(&mut self, rings: &mut [(Producer<Change>, Consumer<Told>)], files: bool) {
        let changed = files.then(|| self.registry.changed().ok());
        if let Some(changed) = changed.filter(|changed| *changed != self.changed || changed.is_none()) {
            match self.reload() {
                Ok(()) => self.changed = changed,
                Err(error) => eprintln!("clients are not looked up: {error}"),
            }
        }
        for (core, (to_core, from_core)) in self.cores.iter_mut().zip(rings) {
            while let Some(change) = core.waiting.pop_front() {
                if let Err(rtrb::PushError::Full(change)) = to_core.push(change) {
                    core.waiting.push_front(change);
                    break;
                }
            }
            while let Ok(told) = from_core.pop() {
                match told {
                    Told::Peer(peer) => core.peers.push(peer),
                    Told::All(now, totals) => {
                        core.told = Some((now, std::mem::take(&mut core.peers), totals));
                    }
                }
            }
        }
        if self.cores.iter().all(|core| core.told.is_some())
            && let Err(error) = self.write_status()
        {
            eprintln!("no status: {error}");
        }
    }

    /// Notes what the files say otherwise than before.
    fn reload(&mut self) -> Result<(), VpnError> {
        let clients = self.registry.clients()?;
        let keys: BTreeSet<PublicKey> = clients.values().map(|client| client.key).collect();
        let gone = |known: &Known| !keys.contains(&known.client.key);
        let gone: Vec<Known> =
            self.known.extract_if(.., |_, known| gone(known)).map(|(_, known)| known).collect();
        for Known { client, home } in gone {
            self.cores[usize::from(home)].clients -= 1;
            self.steer(&client.networks, None);
            self.cores.iter_mut().for_each(|core| core.waiting.push_back(Change::Remove(client.key)));
        }
        let mut homes: BTreeMap<PublicKey, u8> =
            self.known.values().map(|known| (known.client.key, known.home)).collect();
        let before = std::mem::take(&mut self.known);
        let is_new =
            |name: &String, client: &Client| before.get(name).is_none_or(|known| known.client != *client);
        // Before others may get them.
        for (_, known) in before
            .iter()
            .filter(|(name, known)| clients.get(*name).is_none_or(|client| *client != known.client))
        {
            self.steer(&known.client.networks, None);
        }
        for (name, client) in &clients {
            let at_home = homes.get(&client.key).copied();
            let home = at_home.unwrap_or_else(|| self.new_home());
            homes.insert(client.key, home);
            if is_new(name, client) {
                self.settle(client, home, at_home.is_none());
            }
        }
        self.by_key = clients.iter().map(|(name, client)| (client.key, name.clone())).collect();
        let known = |(name, client): (String, Client)| (name, Known { home: homes[&client.key], client });
        self.known = clients.into_iter().map(known).collect();
        Ok(())
    }

    /// The core with the fewest clients, for one more.
    fn new_home(&mut self) -> u8 {
        let least = (0..).zip(&mut self.cores).min_by_key(|(number, core)| (core.clients, *number));
        let (number, core) = least.expect("there is a core");
        core.clients += 1;
        number
    }

    /// Tells all cores of a client, which may be new to them.
    fn settle(&mut self, client: &Client, home: u8, new: bool) {
        for (number, core) in (0..).zip(&mut self.cores) {
            if number == home {
                let (psk, networks) = (client.preshared_key.clone(), client.networks.clone());
                core.waiting.push_back(Change::Set { key: client.key, psk, networks });
            } else if new {
                core.waiting.push_back(Change::Elsewhere { key: client.key, home });
            }
        }
        self.steer(&client.networks, Some(home));
    }

    /// Has packets to these networks come to a core.
    fn steer(&self, networks: &[Network], home: Option<u8>) {
        let Some(steering) = &self.steering else { return };
        for network in networks {
            let network = network.truncated();
            let (address, length) = (network.address(), network.length());
            let result = match home {
                Some(home) => steering.set(address, length, home.into()),
                None => steering.remove(address, length),
            };
            if let Err(error) = result {
                eprintln!("packets to {network} are not steered to the core of the client: {error}");
            }
        }
    }

    /// Writes what all cores have told of.
    fn write_status(&mut self) -> Result<(), VpnError> {
        let (mut newest, mut peers, mut counters) = (0, Vec::new(), BTreeMap::new());
        for (now, told, totals) in self.cores.iter_mut().filter_map(|core| core.told.take()) {
            newest = now.max(newest);
            peers.extend(told);
            for (name, count) in status::counters(&totals) {
                *counters.entry(name).or_default() += count;
            }
        }
        let known = |key: &PublicKey| {
            let name = self.by_key.get(key)?;
            Some((name.as_str(), &self.known.get(name)?.client.networks[..]))
        };
        let status = Status {
            time: Clock::wall() / 1_000_000,
            interface: self.config.interface.clone(),
            listen: self.config.listen.to_string(),
            public_key: self.public_key.to_string(),
            peers: self.rates.view(peers, known, newest),
            counters,
        };
        status.write(&self.config.state_dir)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use relay_dp::vpn::{EndpointConfig, Share};

    use super::*;

    fn endpoint(share: Share) -> Endpoint {
        let (private_key, seed) = (PrivateKey([7; 32]), [7; 32]);
        Endpoint::new(EndpointConfig { private_key, mtu: 1420, unix_time_at_zero: 0, seed, share }, 0)
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
        let mut endpoints: Vec<Endpoint> = (0..3).map(|number| endpoint(Share { number, of: 3 })).collect();
        let keeper = Keeper::new(&config, registry(), None, &mut endpoints, 0).unwrap();
        let mut links = keeper.start().unwrap();
        let peers = |endpoints: &[Endpoint]| -> Vec<usize> {
            endpoints.iter().map(|endpoint| endpoint.peers().count()).collect()
        };
        assert_eq!(peers(&endpoints), [67, 67, 66]);
        registry().add("late", &config).unwrap();
        registry().remove("early5").unwrap();
        let mut now = 0;
        let mut turn = |endpoints: &mut [Endpoint]| {
            now += 10 * MILLISECOND;
            for (link, endpoint) in links.iter_mut().zip(endpoints) {
                link.turn(endpoint, Totals { hand_over_full: 1, ..Totals::default() }, now);
            }
        };
        let status = || Status::read(&config, Clock::wall() / 1_000_000).unwrap();
        let names =
            |status: &Status| -> Vec<String> { status.peers.iter().map(|peer| peer.name.clone()).collect() };
        until("the status tells of the change", || {
            turn(&mut endpoints);
            let names = names(&status());
            names.contains(&"late".into()) && !names.contains(&"early5".into())
        });
        let at = peers(&endpoints);
        assert_eq!((at.iter().sum::<usize>(), status().peers.len()), (200, 200));
        assert!(at.iter().all(|&clients| clients >= 66), "the one that left made room: {at:?}");
        assert!(status().peers.iter().all(|peer| peer.networks.len() == 2));
        assert_eq!(status().counters["dropped_hand_over_full"], 3, "of all cores");
        // A key that stands in two files is one client.
        let clients = config.state_dir.join("clients");
        std::fs::copy(clients.join("late.toml"), clients.join("twice.toml")).unwrap();
        registry().add("later", &config).unwrap();
        until("another comes", || {
            turn(&mut endpoints);
            peers(&endpoints).iter().sum::<usize>() == 201
        });
        drop(links);
        assert!(Status::read(&config, 0).unwrap_err().to_string().contains("no VPN runs"));
    }
}
