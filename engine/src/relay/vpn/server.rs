//! A server with all that belongs to it, on one core or several.
//!
//! Each core has an endpoint, a socket on the common port and a queue of the common device. A client is at home on one core from the
//! time its file is seen, the one with the fewest clients. The kernel brings it what is the client's, however it roams: datagrams by
//! the index in them, which tells whose it is (`SO_ATTACH_REUSEPORT_CBPF`), packets by their destination (`TUNSETSTEERINGEBPF`).
//! Only initiations come to any core; the right one gets them through a ring (`handover`).

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use netio::{
    Tun, TunSteering,
    udp::{UdpConfig, UdpSocket},
};
use relay_dp::vpn::{Endpoint, EndpointConfig, Nanos, PrivateKey, PublicKey, Share};

use super::{
    VpnConfig, VpnError,
    clients::Registry,
    handover::HandOver,
    host::Host,
    keeper::{Keeper, Link},
    service::VpnService,
};
use crate::{core_loop::Clock, metrics::CoreMetrics};

/// A server on a core: its packets' loop, its link to the clients' files, and the host around it.
pub struct VpnServer {
    // First, so that others know of a panic before sockets close.
    works: Works,
    service: VpnService,
    link: Link,
    // After the last service has closed the device, the rest of the host is undone.
    _host: Arc<Host>,
}

/// Whether all cores' parts work. The first that fails clears it: a client's packets are steered to a core, so the server is whole or
/// closed.
#[derive(Clone)]
struct Works(Arc<AtomicBool>);

impl Drop for Works {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(false, Ordering::Relaxed);
        }
    }
}

/// A core's server before that core's thread has begun.
pub struct VpnPart {
    endpoint: Endpoint,
    socket: UdpSocket,
    tun: Tun,
    others: Option<HandOver>,
    link: Link,
    works: Works,
    host: Arc<Host>,
    clock: Clock,
}

/// Opens everything that a server on `cores` cores needs: its files, the device, the host's addresses and rules, and the port.
/// Returns a part for each core; for the first only, and says why, where the kernel can't steer.
///
/// # Errors
/// See [`VpnError`]. What has been set up by then is undone.
pub fn open(config: &VpnConfig, cores: u8, clock: Clock) -> Result<Vec<VpnPart>, VpnError> {
    let registry = Registry::open(config)?;
    let (tuns, steering) = open_device(config, cores)?;
    let cores = u8::try_from(tuns.len()).expect("no more than were asked for");
    let host = Arc::new(Host::serve(tuns[0].name(), config)?);
    let sockets = open_sockets(config.listen, cores)?;
    let key = registry.server_key()?;
    let share = |number| Share { number, of: cores };
    let endpoints = (0..cores).map(|core| endpoint(key.clone(), config.mtu, share(core), clock));
    let mut endpoints = endpoints.collect::<Result<Vec<Endpoint>, VpnError>>()?;
    let keeper = Keeper::new(config, registry, steering, &mut endpoints, clock.now())?;
    let links = keeper.start().map_err(|error| VpnError::Io("thread", error))?;
    let mut others: Vec<Option<HandOver>> = match cores {
        1 => vec![None],
        _ => {
            let ends = HandOver::between(cores.into()).map_err(|error| VpnError::Io("rings", error))?;
            ends.into_iter().map(Some).collect()
        }
    };
    let works = Works(Arc::new(AtomicBool::new(true)));
    let parts = endpoints.into_iter().zip(sockets).zip(tuns).zip(links).zip(others.drain(..));
    let part = |((((endpoint, socket), tun), link), others)| {
        let (works, host) = (works.clone(), Arc::clone(&host));
        VpnPart { endpoint, socket, tun, others, link, works, host, clock }
    };
    Ok(parts.map(part).collect())
}

impl VpnPart {
    /// The key that clients know the server by.
    pub fn public_key(&self) -> PublicKey {
        self.endpoint.public_key()
    }

    /// The core's server, on the thread that it runs on.
    ///
    /// # Errors
    /// There is no memory for packets, or no descriptor left.
    pub fn start(self) -> Result<VpnServer, VpnError> {
        let VpnPart { endpoint, socket, tun, others, link, works, host, clock } = self;
        let service = VpnService::new(endpoint, socket, tun, others, clock)
            .map_err(|error| VpnError::Io("packet pool", error))?;
        Ok(VpnServer { works, service, link, _host: host })
    }
}

impl VpnServer {
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
    /// When socket or device fail for good, here or on another core.
    pub fn turn(&mut self, now: Nanos, budget: usize) -> Result<bool, VpnError> {
        if !self.works.0.load(Ordering::Relaxed) {
            return Err(VpnError::OtherCore);
        }
        let more = self.service.turn(budget).inspect_err(|_| self.works.0.store(false, Ordering::Relaxed))?;
        if now >= self.link.poll_timeout() {
            let totals = self.service.totals();
            self.link.turn(self.service.endpoint(), totals, now);
        }
        Ok(more)
    }

    /// Adds its numbers to a core's metrics.
    pub fn report(&self, metrics: &mut CoreMetrics) {
        self.service.totals().report(self.service.times(), metrics);
    }
}

/// An endpoint with random secrets of its own.
pub(super) fn endpoint(
    private_key: PrivateKey,
    mtu: u16,
    share: Share,
    clock: Clock,
) -> Result<Endpoint, VpnError> {
    let now = clock.now();
    let unix_time_at_zero = Clock::wall() * 1_000 - now;
    let config = EndpointConfig { private_key, mtu: mtu.into(), unix_time_at_zero, seed: seed()?, share };
    Ok(Endpoint::new(config, now))
}

/// Secret bytes from the system.
pub(super) fn seed() -> Result<[u8; 32], VpnError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| VpnError::Refused(format!("the system gives no random numbers: {error}")))?;
    Ok(seed)
}

/// A device of one queue.
pub(super) fn open_tun(name: &str) -> Result<Tun, VpnError> {
    Tun::open(name).map_err(|error| VpnError::Tun { name: name.into(), error })
}

/// The device's queues, one for each core, and what steers packets to them; one queue where nothing can.
fn open_device(config: &VpnConfig, cores: u8) -> Result<(Vec<Tun>, Option<TunSteering>), VpnError> {
    let name = &config.interface;
    if cores > 1 {
        let steered = Tun::open_queues(name, cores.into()).and_then(|tuns| {
            let steering = TunSteering::attach(&tuns[0])?;
            Ok((tuns, Some(steering)))
        });
        match steered {
            Ok(steered) => return Ok(steered),
            Err(error) => eprintln!(
                "the VPN runs on one core: packets can't be steered to several ({error}); it takes root (or CAP_BPF besides CAP_NET_ADMIN) and a device that is not there yet"
            ),
        }
    }
    Ok((vec![open_tun(name)?], None))
}

/// A socket for each core, in their order, on one port.
fn open_sockets(address: SocketAddr, cores: u8) -> Result<Vec<UdpSocket>, VpnError> {
    let alone = open_socket(address)?;
    if cores == 1 {
        return Ok(vec![alone]);
    }
    // The port is free: sockets that share one would also share it with another VPN's.
    let local = alone.local_addr().map_err(|error| VpnError::Listen { address, error })?;
    drop(alone);
    let config = UdpConfig { reuse_port: true, ..UdpConfig::default() };
    let sockets: std::io::Result<Vec<UdpSocket>> =
        (0..cores).map(|_| UdpSocket::bind(local, &config)).collect();
    let steered = sockets.and_then(|sockets| {
        sockets[0].steer(&Share::BY_INDEX, cores)?;
        Ok(sockets)
    });
    steered.map_err(|error| VpnError::Listen { address, error })
}

/// Without IPv6 on the host, its wildcard becomes IPv4's.
pub(super) fn open_socket(address: SocketAddr) -> Result<UdpSocket, VpnError> {
    let config = UdpConfig::default();
    let opened = UdpSocket::bind(address, &config).or_else(|error| {
        let v4 = SocketAddr::from(([0, 0, 0, 0], address.port()));
        if address.ip() == Ipv6Addr::UNSPECIFIED { UdpSocket::bind(v4, &config) } else { Err(error) }
    });
    opened.map_err(|error| VpnError::Listen { address, error })
}
