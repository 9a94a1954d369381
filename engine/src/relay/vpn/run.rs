//! The VPN on a loop of its own: `topio vpn serve` and `topio vpn connect`.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use netio::{
    Tun,
    udp::{UdpConfig, UdpSocket},
};
use relay_dp::vpn::{ClientConfig, Endpoint, EndpointConfig, Nanos, PrivateKey, PublicKey};

use super::{
    VpnConfig, VpnError,
    clients::{Client, Registry},
    host::Host,
    service::VpnService,
    status::{self, Rates, Status},
};
use crate::{core_loop::Clock, process::Stop};

/// Bytes in each direction per turn: enough to join, little enough for timers.
const TURN_BYTES: usize = 1 << 20;
/// Longest sleep: a stop request is seen by then.
const MAX_SLEEP: Nanos = 200_000_000;
const SECOND: Nanos = 1_000_000_000;
const DEFAULT_MTU: u16 = 1420;

/// Secret bytes from the system.
pub(super) fn seed() -> Result<[u8; 32], VpnError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| VpnError::Refused(format!("the system gives no random numbers: {error}")))?;
    Ok(seed)
}

/// The clients' files and an endpoint that knows what they say.
pub struct Served {
    registry: Registry,
    known: BTreeMap<String, Client>,
    names: BTreeMap<PublicKey, String>,
    changed: Option<SystemTime>,
    rates: Rates,
    next_look: Nanos,
    next_status: Nanos,
    config: VpnConfig,
    // After the service has closed the device, the rest of the host is undone.
    _host: Host,
}

/// Opens everything that a server needs. The second part looks after clients and status; call
/// [`Served::housekeeping`] at least once a second.
pub fn open_server(config: &VpnConfig, clock: &Clock) -> Result<(VpnService, Served), VpnError> {
    let registry = Registry::open(config)?;
    // One that was killed has left its own behind.
    Status::remove(&config.state_dir);
    let endpoint = endpoint(registry.server_key()?, config.mtu, clock)?;
    let tun = open_tun(&config.interface)?;
    let host = Host::serve(tun.name(), config)?;
    let socket = open_socket(config.listen)?;
    let mut service =
        VpnService::new(endpoint, socket, tun).map_err(|error| VpnError::Io("packet pool", error))?;
    let mut served = Served {
        registry,
        known: BTreeMap::new(),
        names: BTreeMap::new(),
        changed: None,
        rates: Rates::default(),
        next_look: 0,
        next_status: 0,
        config: config.clone(),
        _host: host,
    };
    served.reload(service.endpoint(), clock.now())?;
    served.housekeeping(&mut service, clock.now());
    Ok((service, served))
}

impl Served {
    /// Looks for clients that were added or removed, once a second, and rewrites the status, every two.
    ///
    /// What goes wrong here is said and tried again: it must not end people's tunnels.
    pub fn housekeeping(&mut self, service: &mut VpnService, now: Nanos) {
        if now >= self.next_look {
            self.next_look = now + SECOND;
            let changed = self.registry.changed().ok();
            if changed != self.changed || changed.is_none() {
                match self.reload(service.endpoint(), now) {
                    Ok(()) => self.changed = changed,
                    Err(error) => eprintln!("clients are not looked up: {error}"),
                }
            }
        }
        if now >= self.next_status {
            self.next_status = now + status::INTERVAL * SECOND;
            if let Err(error) = self.status(service, now).write(&self.config.state_dir) {
                eprintln!("no status: {error}");
            }
        }
    }

    fn reload(&mut self, endpoint: &mut Endpoint, now: Nanos) -> Result<(), VpnError> {
        let clients = self.registry.clients()?;
        for client in
            self.known.values().filter(|known| !clients.values().any(|client| client.key == known.key))
        {
            endpoint.remove_peer(&client.key);
        }
        for (name, client) in &clients {
            if self.known.get(name) != Some(client) {
                let psk = Some(client.preshared_key.clone());
                endpoint.set_peer(client.key, psk, &client.networks, None, None, now);
            }
        }
        self.names = clients.iter().map(|(name, client)| (client.key, name.clone())).collect();
        self.known = clients;
        Ok(())
    }

    fn status(&mut self, service: &mut VpnService, now: Nanos) -> Status {
        let (udp, tun) = service.counters();
        let endpoint = service.endpoint();
        Status {
            time: Clock::wall() / 1_000_000,
            interface: self.config.interface.clone(),
            listen: self.config.listen.to_string(),
            public_key: endpoint.public_key().to_string(),
            peers: self.rates.view(endpoint.peers(), &self.names, now),
            counters: status::counters(endpoint.counters(), udp, tun),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        Status::remove(&self.config.state_dir);
    }
}

/// Serves until `stop` is requested. `ready` is told when clients can connect.
pub fn serve(config: &VpnConfig, stop: &Stop, ready: impl FnOnce(&PublicKey)) -> Result<(), VpnError> {
    let clock = Clock::start();
    let (mut service, mut served) = open_server(config, &clock)?;
    ready(&service.endpoint().public_key());
    while !stop.is_requested() {
        turn(&mut service, &clock)?;
        served.housekeeping(&mut service, clock.now());
    }
    Ok(())
}

/// Is a client until `stop` is requested, with datagrams from and to `local`. `ready` is told when the device is up.
pub fn connect(
    config: &ClientConfig,
    interface: &str,
    local: SocketAddr,
    stop: &Stop,
    ready: impl FnOnce(&str),
) -> Result<(), VpnError> {
    let clock = Clock::start();
    let mtu = config.mtu.unwrap_or(DEFAULT_MTU);
    let mut endpoint = endpoint(config.private_key.clone(), mtu, &clock)?;
    for peer in &config.peers {
        let psk = peer.preshared_key.clone();
        let (address, keepalive) = (peer.endpoint, peer.persistent_keepalive);
        let networks = &peer.allowed_ips;
        endpoint.set_peer(peer.public_key, psk, networks, address, keepalive, clock.now());
    }
    let tun = open_tun(interface)?;
    let _host = Host::connect(tun.name(), config, mtu)?;
    let socket = open_socket(local)?;
    ready(tun.name());
    let mut service =
        VpnService::new(endpoint, socket, tun).map_err(|error| VpnError::Io("packet pool", error))?;
    while !stop.is_requested() {
        turn(&mut service, &clock)?;
    }
    Ok(())
}

fn turn(service: &mut VpnService, clock: &Clock) -> Result<(), VpnError> {
    if !service.turn(clock.now(), TURN_BYTES)? {
        let now = clock.now();
        let next = service.poll_timeout().unwrap_or(Nanos::MAX).min(now + MAX_SLEEP);
        service.wait(Duration::from_nanos(next.saturating_sub(now)))?;
    }
    Ok(())
}

fn endpoint(private_key: PrivateKey, mtu: u16, clock: &Clock) -> Result<Endpoint, VpnError> {
    let now = clock.now();
    let config = EndpointConfig {
        private_key,
        mtu: mtu.into(),
        unix_time_at_zero: Clock::wall() * 1_000 - now,
        seed: seed()?,
    };
    Ok(Endpoint::new(config, now))
}

fn open_tun(name: &str) -> Result<Tun, VpnError> {
    Tun::open(name).map_err(|error| VpnError::Tun { name: name.into(), error })
}

/// Without IPv6 on the host, its wildcard becomes IPv4's.
fn open_socket(address: SocketAddr) -> Result<UdpSocket, VpnError> {
    let config = UdpConfig::default();
    let opened = UdpSocket::bind(address, &config).or_else(|error| {
        let v4 = SocketAddr::from(([0, 0, 0, 0], address.port()));
        if address.ip() == Ipv6Addr::UNSPECIFIED { UdpSocket::bind(v4, &config) } else { Err(error) }
    });
    opened.map_err(|error| VpnError::Listen { address, error })
}
