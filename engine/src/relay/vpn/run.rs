//! The VPN on loops of its own: `topio vpn serve` and `topio vpn connect`.

use std::{net::SocketAddr, os::fd::BorrowedFd, time::Duration};

use relay_dp::vpn::{ClientConfig, Nanos, PublicKey, Share};

use super::{
    VpnConfig, VpnError,
    host::Host,
    server::{self, VpnPart, VpnServer},
    service::VpnService,
};
use crate::{core_loop::Clock, process::Stop, relay::threads::serve_all};

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
    let key = parts[0].public_key();
    let serve_part = |part: VpnPart, open: &dyn Fn()| {
        let server = part.start()?;
        open();
        serve_one(server, clock, stop)
    };
    let served = serve_all("vpn", parts, pin, stop, serve_part, || ready(&key), || ());
    served.map_err(|errors| {
        // The cause before what came of it.
        let (others, causes): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(|error| matches!(error, VpnError::OtherCore));
        causes.into_iter().chain(others).next().expect("one core's at least")
    })
}

fn serve_one(mut server: VpnServer, clock: Clock, stop: &Stop) -> Result<(), VpnError> {
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
