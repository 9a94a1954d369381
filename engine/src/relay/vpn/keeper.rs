//! The VPN's files, kept by a thread of its own: a core never waits for a disk, however many clients there are.
//!
//! ```text
//!  cores ── Link ──► peers, a few a turn, and totals ──► Keeper ──► status.json
//!             ▲                                            │
//!             └── clients added and removed ◄──────────────┴── clients/*.toml
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
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
    homes::{self, Homes},
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
    /// Changes that its ring had no room for.
    waiting: VecDeque<Change>,
    /// Its peers, as far as it has told of them in this round.
    peers: Vec<PeerStatus>,
    /// All of them, when the last round ended, and its totals.
    told: Option<(Nanos, Vec<PeerStatus>, Box<Totals>)>,
}

/// The thread's side.
pub struct Keeper {
    config: VpnConfig,
    registry: Registry,
    homes: Homes,
    /// As the kernel has them.
    routes: BTreeMap<Network, u8>,
    names: BTreeMap<PublicKey, String>,
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
            homes: Homes::new(),
            routes: BTreeMap::new(),
            names: BTreeMap::new(),
            cores: endpoints.iter().map(|_| Core::default()).collect(),
            steering,
            rates: Rates::default(),
            public_key: endpoints[0].public_key(),
        };
        keeper.reload()?;
        keeper.settle(endpoints, now);
        keeper.cores.iter_mut().for_each(|core| core.told = Some((now, Vec::new(), Box::default())));
        keeper.write_status()?;
        Ok(keeper)
    }

    /// Carries out what waits, where the cores' loops have not begun.
    fn settle(&mut self, endpoints: &mut [Endpoint], now: Nanos) {
        for (core, endpoint) in self.cores.iter_mut().zip(endpoints) {
            core.waiting.drain(..).for_each(|change| change.carry_out(endpoint, now));
        }
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
        let files = self.registry.clients()?;
        self.names = files.iter().map(|(name, client)| (client.key, name.clone())).collect();
        // A key that stands in two files is one client, as the last of them says.
        let clients = files.into_values().map(|client| (client.key, client)).collect();
        let cores = u8::try_from(self.cores.len()).expect("shares are numbered by bytes");
        let homes = homes::assign(&clients, &self.homes, cores);
        let before = std::mem::take(&mut self.homes);
        for (key, (_, home)) in &before {
            if homes.get(key).is_none_or(|(_, now)| now != home) {
                self.cores.iter_mut().for_each(|core| core.waiting.push_back(Change::Remove(*key)));
            }
        }
        for (key, (client, home)) in &homes {
            match before.get(key) {
                Some((as_before, at)) if at == home && as_before == client => {}
                known => self.tell(client, *home, known.is_none_or(|(_, at)| at != home)),
            }
        }
        self.homes = homes;
        self.steer();
        Ok(())
    }

    /// Tells the cores of a client that has changed, or come to its home.
    fn tell(&mut self, client: &Client, home: u8, has_come: bool) {
        for (number, core) in (0..).zip(&mut self.cores) {
            if number == home {
                let (psk, networks) = (client.preshared_key.clone(), client.networks.clone());
                core.waiting.push_back(Change::Set { key: client.key, psk, networks });
            } else if has_come {
                core.waiting.push_back(Change::Elsewhere { key: client.key, home });
            }
        }
    }

    /// Has packets come to the cores of the clients that they are for.
    fn steer(&mut self) {
        let Some(steering) = &self.steering else { return };
        let wanted = homes::routes(&self.homes);
        let gone = self.routes.keys().filter(|network| !wanted.contains_key(network));
        let gone = gone.map(|network| (*network, steering.remove(network.address(), network.length())));
        let new = wanted.iter().filter(|(network, home)| self.routes.get(network) != Some(home));
        let new = new.map(|(network, home)| {
            (*network, steering.set(network.address(), network.length(), u16::from(*home)))
        });
        for (network, result) in gone.chain(new) {
            if let Err(error) = result {
                eprintln!("packets to {network} are not steered to the core of the client: {error}");
            }
        }
        self.routes = wanted;
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
            let (client, _) = self.homes.get(key)?;
            Some((self.names.get(key)?.as_str(), &client.networks[..]))
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
        assert!(status().peers.iter().all(|peer| peer.networks.len() == 2));
        assert_eq!(status().counters["dropped_hand_over_full"], 3, "of all cores");
        drop(links);
        assert!(Status::read(&config, 0).unwrap_err().to_string().contains("no VPN runs"));
    }

    #[test]
    fn files_may_be_copied_renamed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let public_address = Some("192.0.2.1:51820".parse().unwrap());
        let state_dir = folder.path().join("vpn");
        let config = VpnConfig { public_address, state_dir: state_dir.clone(), ..VpnConfig::default() };
        let registry = Registry::open(&config).unwrap();
        let mut endpoints: Vec<Endpoint> = (0..2).map(|number| endpoint(Share { number, of: 2 })).collect();
        for name in ["a", "b"] {
            registry.add(name, &config).unwrap();
        }
        let mut keeper = Keeper::new(&config, registry, None, &mut endpoints, 0).unwrap();
        let at = |name: &str| state_dir.join("clients").join(name).with_extension("toml");
        let mut look = || {
            keeper.reload().unwrap();
            keeper.settle(&mut endpoints, 0);
            let counts: Vec<usize> = endpoints.iter().map(|endpoint| endpoint.peers().count()).collect();
            (counts, homes::routes(&keeper.homes).len(), keeper.names.values().cloned().collect::<Vec<_>>())
        };
        assert_eq!(look().0, [1, 1]);
        let copied = |from: &str, to: &str| std::fs::copy(at(from), at(to)).map(drop);
        copied("b", "c").unwrap();
        let (counts, routes, names) = look();
        assert_eq!((counts, routes), (vec![1, 1], 4), "a key that stands in two files is one client");
        assert!(names.contains(&"c".into()));
        std::fs::remove_file(at("b")).unwrap();
        assert_eq!(look().1, 4, "it is still there");
        copied("c", "b").unwrap();
        look();
        for name in ["b", "c"] {
            std::fs::remove_file(at(name)).unwrap();
        }
        let (counts, routes, _) = look();
        assert_eq!((counts.iter().sum::<usize>(), routes), (1, 2));
        std::fs::rename(at("a"), at("z")).unwrap();
        assert_eq!(look().2, ["z"]);
    }
}
