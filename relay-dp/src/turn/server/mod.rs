//! The server: its state, and what moves it.

mod data;
mod path;
mod requests;
mod sockets;
#[cfg(test)]
mod tests;
mod wish;

use std::collections::{BTreeSet, HashMap};

use slab::Slab;

pub use data::Train;
pub use path::ChannelPath;

use self::sockets::{Pending, RelaySlot};
use super::{
    Config, ConfigError, Counters, Now, Outbox, RelayId,
    allocation::Allocation,
    auth::Auth,
    bucket::Bucket,
    outbox::{Client, Effect},
    ports::Ports,
    strangers::Strangers,
};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Someone with credentials, as long as they have allocations.
struct User {
    name: Box<str>,
    allocations: u32,
    bucket: Option<Bucket>,
}

/// What a timer is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Allocation(u32),
    Reservation(u64),
}

/// A STUN and TURN server without IO: see the [module](super).
///
/// After each call, do what the [`Outbox`] says; call [`Server::handle_timeout`] when [`Server::poll_timeout`] says.
pub struct Server {
    config: Config,
    auth: Auth,
    strangers: Strangers,
    allocations: Slab<Allocation>,
    by_client: Map<Client, u32>,
    /// Allocations whose sockets are being opened.
    pending: Map<u32, Pending>,
    users: Slab<User>,
    by_user: Map<Box<str>, u32>,
    relays: Vec<RelaySlot>,
    free_relays: Vec<u32>,
    /// Of IPv4 and IPv6.
    ports: [Ports; 2],
    /// Ports kept aside, by token, and until when.
    reservations: Map<u64, (RelayId, u64)>,
    timers: BTreeSet<(u64, Timer)>,
    random_key: [u8; 32],
    randoms: u64,
    counters: Counters,
}

impl Server {
    /// A server without allocations. `seed` is secret and differs from start to start: nonces, tokens and the choice of
    /// ports follow from it.
    ///
    /// # Errors
    /// The configuration can't work.
    pub fn new(config: Config, seed: &[u8; 32]) -> Result<Server, ConfigError> {
        config.check()?;
        let key = |purpose: &str| blake3::derive_key(&format!("top relay-dp turn {purpose}"), seed);
        let words = key("hash maps");
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("8 bytes"));
        let hasher = ahash::RandomState::with_seeds(word(0), word(8), word(16), word(24));
        Ok(Server {
            auth: Auth::new(&config, key("nonces"), hasher.clone()),
            strangers: Strangers::new(hasher.clone()),
            allocations: Slab::new(),
            by_client: Map::with_hasher(hasher.clone()),
            pending: Map::with_hasher(hasher.clone()),
            users: Slab::new(),
            by_user: Map::with_hasher(hasher.clone()),
            relays: Vec::new(),
            free_relays: Vec::new(),
            ports: [Ports::new(&config.ports), Ports::new(&config.ports)],
            reservations: Map::with_hasher(hasher),
            timers: BTreeSet::new(),
            random_key: key("random numbers"),
            randoms: 0,
            counters: Counters::default(),
            config,
        })
    }

    /// Numbers since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Allocations that live.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Whether a client has an allocation: a connection without one may be closed.
    pub fn is_allocated(&self, client: &Client) -> bool {
        self.by_client.contains_key(client)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), ns.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Ends what has run out.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Outbox) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now.ns) {
            match self.timers.pop_first().expect("looked at").1 {
                Timer::Allocation(index) => {
                    self.counters.expired += 1;
                    self.delete(index, out);
                }
                Timer::Reservation(token) => {
                    let (relay, _) = self.reservations.remove(&token).expect("a timer has its reservation");
                    self.close(relay, out);
                }
            }
        }
    }

    /// A client's connection has ended, and its allocation with it (RFC 8656 section 7).
    pub fn on_client_closed(&mut self, client: &Client, out: &mut Outbox) {
        if let Some(&index) = self.by_client.get(client) {
            self.delete(index, out);
        }
    }

    /// Deletes an allocation and closes its relayed addresses.
    fn delete(&mut self, index: u32, out: &mut Outbox) {
        if let Some(pending) = self.pending.remove(&index) {
            self.abandon(pending, out);
        }
        let allocation = self.allocations.remove(index as usize);
        self.by_client.remove(&allocation.client);
        self.timers.remove(&(allocation.until, Timer::Allocation(index)));
        allocation.relays.into_iter().flatten().for_each(|relay| self.close(relay.id, out));
        let user = &mut self.users[allocation.user as usize];
        user.allocations -= 1;
        if user.allocations == 0 {
            let user = self.users.remove(allocation.user as usize);
            self.by_user.remove(&user.name);
        }
    }

    /// An unpredictable number.
    fn random(&mut self) -> u64 {
        self.randoms += 1;
        let hash = blake3::keyed_hash(&self.random_key, &self.randoms.to_le_bytes());
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }

    /// The number of a slab's next entry.
    fn index<T>(slab: &Slab<T>) -> u32 {
        u32::try_from(slab.vacant_key()).expect("max_allocations has 32 bits")
    }
}
