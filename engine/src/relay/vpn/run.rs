//! A server with all that belongs to it, and the VPN on a loop of its own: `topio vpn serve` and `topio vpn connect`.

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
    time::Duration,
};

use netio::{
    Tun,
    udp::{UdpConfig, UdpSocket},
};
use relay_dp::vpn::{ClientConfig, Endpoint, EndpointConfig, Nanos, PrivateKey, PublicKey};

use super::{
    VpnConfig, VpnError,
    clients::Registry,
    host::Host,
    keeper::{Keeper, Link},
    service::VpnService,
};
use crate::{core_loop::Clock, metrics::CoreMetrics, process::Stop};

/// Bytes in each direction per turn: enough to join, little enough for timers.
const TURN_BYTES: usize = 1 << 20;
/// Longest sleep: a stop request is seen by then.
const MAX_SLEEP: Nanos = 200_000_000;
const DEFAULT_MTU: u16 = 1420;

/// Secret bytes from the system.
pub(super) fn seed() -> Result<[u8; 32], VpnError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| VpnError::Refused(format!("the system gives no random numbers: {error}")))?;
    Ok(seed)
}

/// A server on a core: its packets' loop, its link to its files, and the host around it.
pub struct VpnServer {
    service: VpnService,
    link: Link,
    // After the service has closed the device, the rest of the host is undone.
    _host: Host,
}

impl VpnServer {
    /// Opens everything that a server needs: its files, the device, the host's addresses and rules, and the port.
    ///
    /// # Errors
    /// See [`VpnError`]. What has been set up by then is undone.
    pub fn open(config: &VpnConfig, clock: Clock) -> Result<VpnServer, VpnError> {
        let registry = Registry::open(config)?;
        let mut endpoint = endpoint(registry.server_key()?, config.mtu, clock)?;
        let tun = open_tun(&config.interface)?;
        let host = Host::serve(tun.name(), config)?;
        let socket = open_socket(config.listen)?;
        let keeper = Keeper::new(config, registry, &mut endpoint, clock.now())?;
        let service = VpnService::new(endpoint, socket, tun, clock)
            .map_err(|error| VpnError::Io("packet pool", error))?;
        let link = keeper.start().map_err(|error| VpnError::Io("thread", error))?;
        Ok(VpnServer { service, link, _host: host })
    }

    /// Readable when there is something to do.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.service.descriptor()
    }

    /// When [`turn`](Self::turn) has something to do though nothing comes.
    pub fn poll_timeout(&self) -> Nanos {
        self.service.poll_timeout().unwrap_or(Nanos::MAX).min(self.link.poll_timeout())
    }

    /// Moves up to about `budget` bytes in each direction. Returns whether more may be waiting.
    ///
    /// # Errors
    /// When socket or device fail for good.
    pub fn turn(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        let more = self.service.turn(budget)?;
        if now >= self.link.poll_timeout() {
            let totals = self.service.totals();
            self.link.turn(self.service.endpoint(), totals, now);
        }
        Ok(more)
    }

    /// The key that clients know the server by.
    pub fn public_key(&self) -> PublicKey {
        self.service.public_key()
    }

    /// Adds its numbers to a core's metrics.
    pub fn report(&self, metrics: &mut CoreMetrics) {
        self.service.totals().report(self.service.times(), metrics);
    }
}

/// Serves until `stop` is requested. `ready` is told when clients can connect.
pub fn serve(config: &VpnConfig, stop: &Stop, ready: impl FnOnce(&PublicKey)) -> Result<(), VpnError> {
    let clock = Clock::start();
    let mut server = VpnServer::open(config, clock)?;
    ready(&server.public_key());
    while !stop.is_requested() {
        if !server.turn(clock.now(), TURN_BYTES)? {
            wait(server.descriptor(), server.poll_timeout(), clock)?;
        }
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
    let mut endpoint = endpoint(config.private_key.clone(), mtu, clock)?;
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
        VpnService::new(endpoint, socket, tun, clock).map_err(|error| VpnError::Io("packet pool", error))?;
    while !stop.is_requested() {
        if !service.turn(TURN_BYTES)? {
            wait(service.descriptor(), service.poll_timeout().unwrap_or(Nanos::MAX), clock)?;
        }
    }
    Ok(())
}

fn wait(descriptor: BorrowedFd<'_>, until: Nanos, clock: Clock) -> Result<(), VpnError> {
    let now = clock.now();
    let timeout = Duration::from_nanos(until.min(now + MAX_SLEEP).saturating_sub(now));
    netio::wait(&[descriptor], &[], timeout).map_err(|error| VpnError::Io("waiting", error))
}

fn endpoint(private_key: PrivateKey, mtu: u16, clock: Clock) -> Result<Endpoint, VpnError> {
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
