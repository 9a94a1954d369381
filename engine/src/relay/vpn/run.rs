//! The VPN on loops of its own: `topio vpn serve` and `topio vpn connect`.

use std::{net::SocketAddr, os::fd::BorrowedFd, thread, time::Duration};

use relay_dp::vpn::{ClientConfig, Nanos, PublicKey, Share};

use super::{
    VpnConfig, VpnError,
    host::Host,
    server::{self, VpnPart},
    service::VpnService,
};
use crate::{core_loop::Clock, process::Stop, topology::pin_to};

/// Bytes in each direction per turn: enough to join, little enough for timers.
const TURN_BYTES: usize = 1 << 20;
/// Longest sleep: a stop request is seen by then.
const MAX_SLEEP: Nanos = 200_000_000;
const DEFAULT_MTU: u16 = 1420;

/// Serves on `cores` threads until `stop` is requested, each kept on its processor if `pin` says so. `ready` is told when clients
/// can connect.
///
/// # Errors
/// See [`VpnError`]; one core's error ends all.
pub fn serve(
    config: &VpnConfig,
    cores: u8,
    pin: bool,
    stop: &Stop,
    ready: impl FnOnce(&PublicKey),
) -> Result<(), VpnError> {
    let clock = Clock::start();
    let parts = server::open(config, cores, clock)?;
    ready(&parts[0].public_key());
    thread::scope(|scope| {
        let run = |(core, part)| {
            let stop = stop.clone();
            scope.spawn(move || {
                if pin {
                    pin_to(core);
                }
                let result = serve_one(part, clock, &stop);
                // One that failed ends the others.
                stop.request();
                result
            })
        };
        let threads: Vec<_> = (0..).zip(parts).map(run).collect();
        let results: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        let panicked = |_| VpnError::Refused("a core has died of a panic; what it said stands above".into());
        results.into_iter().try_for_each(|result| result.map_err(panicked)?)
    })
}

fn serve_one(part: VpnPart, clock: Clock, stop: &Stop) -> Result<(), VpnError> {
    let mut server = part.start()?;
    while !stop.is_requested() {
        if !server.turn(clock.now(), TURN_BYTES)? {
            wait(server.descriptor(), server.poll_timeout(), clock)?;
        }
    }
    Ok(())
}

/// Is a client until `stop` is requested, with datagrams from and to `local`. `ready` is told when the device is up.
///
/// # Errors
/// See [`VpnError`].
pub fn connect(
    config: &ClientConfig,
    interface: &str,
    local: SocketAddr,
    stop: &Stop,
    ready: impl FnOnce(&str),
) -> Result<(), VpnError> {
    let clock = Clock::start();
    let mtu = config.mtu.unwrap_or(DEFAULT_MTU);
    let mut endpoint = server::endpoint(config.private_key.clone(), mtu, Share::WHOLE, clock)?;
    for peer in &config.peers {
        let psk = peer.preshared_key.clone();
        let (address, keepalive) = (peer.endpoint, peer.persistent_keepalive);
        let networks = &peer.allowed_ips;
        endpoint.set_peer(peer.public_key, psk, networks, address, keepalive, clock.now());
    }
    let tun = server::open_tun(interface)?;
    let _host = Host::connect(tun.name(), config, mtu)?;
    let socket = server::open_socket(local)?;
    ready(tun.name());
    let mut service = VpnService::new(endpoint, socket, tun, None, clock)
        .map_err(|error| VpnError::Io("packet pool", error))?;
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
